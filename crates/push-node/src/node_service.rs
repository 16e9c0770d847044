//! `NodeService`: the node for its operator.

use std::sync::Arc;
use std::time::Duration;

use interlock_core::identity::{LogName, MessageNumber};
use interlock_core::limits::MAX_VERIFIED_LOGS;
use interlock_rpc::convert::identity::namespace_name;
use interlock_rpc::convert::{IntoCore as _, IntoWire as _, InvalidField};
use interlock_rpc::services::node::Service;
use interlock_rpc::status::{Reason, refusal};
use interlock_rpc::v1;
use tokio::time::Instant;
use tonic::{Request, Response, Status};

use crate::context::NodeContext;
use crate::drain::until_drained;
use crate::refusals::{ending_status, storage_status};
use crate::repairing::{Repair, RepairError, repair, taken_into_wire};
use crate::status::node_status;
use crate::verification::{VerifyError, hashes_at, verify};

/// Serves operators.
#[derive(Clone)]
pub struct NodeServer {
    context: Arc<NodeContext>,
}

impl NodeServer {
    /// Serves this node's operator.
    pub fn new(context: Arc<NodeContext>) -> Self {
        Self { context }
    }
}

#[tonic::async_trait]
impl Service for NodeServer {
    async fn get_status(
        &self,
        request: Request<v1::GetStatusRequest>,
    ) -> Result<Response<v1::GetStatusResponse>, Status> {
        let brief = request.into_inner().brief;
        let status = node_status(&self.context, brief).await.map_err(|_| ending_status())?;
        Ok(Response::new(status))
    }

    async fn drain(
        &self,
        request: Request<v1::DrainRequest>,
    ) -> Result<Response<v1::DrainResponse>, Status> {
        let wait = match request.into_inner().deadline_milliseconds {
            0 => self.context.config.limits.drain(),
            milliseconds => Duration::from_millis(milliseconds),
        };
        self.context.begin_drain();
        let queue_messages = until_drained(&self.context, Instant::now() + wait).await;
        Ok(Response::new(v1::DrainResponse { queue_messages }))
    }

    async fn verify(
        &self,
        request: Request<v1::VerifyRequest>,
    ) -> Result<Response<v1::VerifyResponse>, Status> {
        let v1::VerifyRequest { namespace: name, points } = request.into_inner();
        if !points.is_empty() {
            let points = log_points(points)?;
            let hashes = hashes_at(&self.context, points).await;
            return Ok(Response::new(hashes.map_err(|error| storage_status(&error))?));
        }
        let namespace = match name.as_str() {
            "" => None,
            name => {
                let name = namespace_name(name, "namespace")?;
                let found = self.context.topology.namespace(&name);
                let text = format!("no namespace {name}");
                let (_, namespace) =
                    found.ok_or_else(|| refusal(Reason::UnknownNamespace, text))?;
                Some(namespace.number)
            }
        };
        let verified = verify(&self.context, namespace).await.map_err(|error| match error {
            VerifyError::Ending(_) => ending_status(),
            VerifyError::TooMany(_) => refusal(Reason::TooLarge, error.to_string()).into(),
        })?;
        Ok(Response::new(verified))
    }

    async fn get_node_topology(
        &self,
        _: Request<v1::GetNodeTopologyRequest>,
    ) -> Result<Response<v1::GetNodeTopologyResponse>, Status> {
        let topology = self.context.topology.current();
        let topology = Some(topology.as_ref().into_wire());
        Ok(Response::new(v1::GetNodeTopologyResponse { topology }))
    }

    async fn repair(
        &self,
        request: Request<v1::RepairRequest>,
    ) -> Result<Response<v1::RepairResponse>, Status> {
        let request = request.into_inner();
        let dry_run = request.dry_run;
        let repaired = repair(&self.context, Repair::of(request)?, dry_run).await;
        let taken = repaired.map_err(|error| repair_status(&error))?;
        let taken = taken.iter().map(taken_into_wire).collect();
        Ok(Response::new(v1::RepairResponse { taken }))
    }
}

fn repair_status(error: &RepairError) -> Status {
    let reason = match error {
        RepairError::Own(_) | RepairError::NotHeld { .. } | RepairError::Leaving(_) => {
            Reason::NotRepairable
        }
        RepairError::Fenced => Reason::Fenced,
        RepairError::Noted | RepairError::UnderWay { .. } => Reason::RepairUnderWay,
        RepairError::Storage(error) => return storage_status(error),
    };
    refusal(reason, error.to_string()).into()
}

/// The messages whose chain hashes are asked for.
fn log_points(points: Vec<v1::LogMark>) -> Result<Vec<(LogName, MessageNumber)>, Status> {
    if points.len() > MAX_VERIFIED_LOGS {
        let text = format!("has {} entries, more than {MAX_VERIFIED_LOGS}", points.len());
        return Err(InvalidField::new("points", text).into());
    }
    points
        .into_iter()
        .enumerate()
        .map(|(index, point)| {
            let at = |error: InvalidField| error.within(&format!("points[{index}]"));
            let log = point.log.ok_or_else(|| at(InvalidField::missing("log")))?;
            let log = log.into_core().map_err(at)?;
            Ok((log, MessageNumber::new(point.m_id)))
        })
        .collect()
}
