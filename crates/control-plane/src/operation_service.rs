//! `OperationService`: the operator's door to a region (METHOD M2). An operation
//! is recorded before it is sent and again when it has ended; it is sent to one
//! push-node that may act on it, and never a second time on suspicion.

use std::sync::Arc;
use std::time::Duration;

use interlock_core::limits::{
    DEFAULT_PAGE_OPERATIONS, MAX_KEPT_OPERATIONS, MAX_RUNNING_OPERATIONS,
};
use interlock_core::names::RegionName;
use interlock_rpc::convert::InvalidField;
use interlock_rpc::convert::identity::{channel_name, namespace_name, region_name};
use interlock_rpc::services::operation::Service;
use interlock_rpc::status::{Reason, Refusal, Stored, code_name, reason_of, refusal};
use interlock_rpc::v1;
use interlock_rpc::v1::execute_channel_operation_request::Operation as Requested;
use tokio::sync::Semaphore;
use tokio::time::Instant;
use tonic::{Request, Response, Status};

use crate::forwarding::{CallError, Forwarded, Forwarder, NobodyToAsk, deadline_for, outgoing};
use crate::metrics::Metrics;
use crate::operation_log::{Operation, OperationLog, OperationNumber, OperationResult};
use crate::refusals::unknown_region;

/// Serves `OperationService`. Clones share everything.
#[derive(Clone)]
pub(crate) struct OperationService {
    forwarder: Arc<Forwarder>,
    log: Arc<OperationLog>,
    metrics: Metrics,
    running: Arc<Semaphore>,
}

impl OperationService {
    pub(crate) fn new(forwarder: Arc<Forwarder>, log: OperationLog, metrics: Metrics) -> Self {
        let running = Arc::new(Semaphore::new(MAX_RUNNING_OPERATIONS));
        Self { forwarder, log: Arc::new(log), metrics, running }
    }

    /// Records, sends and records. It runs to its end also when the caller is gone.
    async fn execute(
        &self,
        region: RegionName,
        requested: Requested,
        operation: Operation,
        deadline: Instant,
    ) -> Result<v1::ExecuteChannelOperationResponse, Status> {
        let begun = self.log.begin(&operation).await.map_err(Refusal::from)?;
        let forwarded = self.send(&region, requested, deadline).await;
        let (result, channel) = result_of(forwarded, &region);
        tracing::info!(
            number = begun.number,
            %region,
            node = %result.node,
            action = operation.action,
            namespace = %operation.namespace,
            channel = %operation.channel,
            outcome = result.outcome.as_str_name(),
            detail = %result.detail,
            "channel operation"
        );
        self.metrics.operation_ended(result.outcome);
        let record = match self.log.finish(begun.clone(), result.clone()).await {
            Ok(record) => record,
            Err(error) => {
                // What was done is done: the answer says so, and the log shows the
                // operation as unknown after a restart.
                tracing::error!(number = begun.number, %error, "an outcome is not recorded");
                v1::OperationRecord {
                    node: result.node,
                    outcome: result.outcome.into(),
                    detail: result.detail,
                    ..begun
                }
            }
        };
        Ok(v1::ExecuteChannelOperationResponse { record: Some(record), channel })
    }

    async fn send(
        &self,
        region: &RegionName,
        requested: Requested,
        deadline: Instant,
    ) -> Result<Forwarded<Effect>, NobodyToAsk> {
        self.forwarder
            .forward(region, |mut client| {
                let requested = requested.clone();
                let deadline = Some(deadline);
                async move {
                    Ok(match requested {
                        Requested::Create(message) => {
                            let response = client.create_channel(outgoing(message, deadline));
                            Effect::of(response.await?.into_inner().channel)
                        }
                        Requested::Update(message) => {
                            let response = client.update_channel(outgoing(message, deadline));
                            Effect::of(response.await?.into_inner().channel)
                        }
                        Requested::Delete(message) => {
                            let response = client.delete_channel(outgoing(message, deadline));
                            let epoch = response.await?.into_inner().epoch;
                            Effect { channel: None, detail: format!("epoch {epoch} is deleted") }
                        }
                        Requested::Refresh(message) => {
                            let response =
                                client.refresh_channel_content(outgoing(message, deadline));
                            let response = response.await?.into_inner();
                            let changed =
                                if response.changed { "changed" } else { "had not changed" };
                            Effect {
                                channel: response.channel,
                                detail: format!("the content {changed}"),
                            }
                        }
                    })
                }
            })
            .await
    }
}

#[tonic::async_trait]
impl Service for OperationService {
    async fn execute_channel_operation(
        &self,
        request: Request<v1::ExecuteChannelOperationRequest>,
    ) -> Result<Response<v1::ExecuteChannelOperationResponse>, Status> {
        let deadline = deadline_for(&request);
        let request = request.into_inner();
        let region = region_name(&request.region, "region")?;
        let requested = request.operation.ok_or_else(|| {
            InvalidField::new("operation", "is missing: create, update, delete or refresh")
        })?;
        let operation = operation_of(&region, &requested)?;
        if !self.forwarder.knows(&region) {
            return Err(unknown_region(&region).into());
        }
        let Ok(permit) = Arc::clone(&self.running).try_acquire_owned() else {
            let message =
                format!("{MAX_RUNNING_OPERATIONS} operations are under way, and no more may be");
            return Err(refusal(Reason::Quota, message).retry_after(Duration::from_secs(1)).into());
        };
        let service = self.clone();
        let execution = tracing::Instrument::in_current_span(async move {
            let _permit = permit;
            service.execute(region, requested, operation, deadline).await
        });
        tokio::spawn(execution)
            .await
            .map_err(|error| Status::internal(error.to_string()))?
            .map(Response::new)
    }

    async fn list_operations(
        &self,
        request: Request<v1::ListOperationsRequest>,
    ) -> Result<Response<v1::ListOperationsResponse>, Status> {
        let request = request.into_inner();
        let region = match request.region.as_str() {
            "" => None,
            region => Some(region_name(region, "region")?),
        };
        let before = match request.page_token.as_str() {
            "" => None,
            token => Some(OperationNumber::new(token.parse().map_err(|_| {
                InvalidField::new("page_token", "is not one that ListOperations answered")
            })?)),
        };
        let limit = match usize::try_from(request.page_size) {
            Ok(0) => DEFAULT_PAGE_OPERATIONS,
            Ok(size) => size.min(MAX_KEPT_OPERATIONS),
            Err(_) => MAX_KEPT_OPERATIONS,
        };
        let (operations, next) =
            self.log.page(region.as_ref().map(RegionName::as_str), before, limit);
        Ok(Response::new(v1::ListOperationsResponse {
            operations,
            next_page_token: next.map_or_else(String::new, |next| next.get().to_string()),
        }))
    }
}

/// What a node did.
struct Effect {
    channel: Option<v1::Channel>,
    detail: String,
}

impl Effect {
    fn of(channel: Option<v1::Channel>) -> Self {
        Self { channel, detail: String::new() }
    }
}

/// What is recorded of a request, whose names are checked here because they are
/// kept.
fn operation_of(region: &RegionName, requested: &Requested) -> Result<Operation, Status> {
    let (action, namespace, channel) = match requested {
        Requested::Create(request) => ("create", &request.namespace, &request.channel),
        Requested::Update(request) => ("update", &request.namespace, &request.channel),
        Requested::Delete(request) => ("delete", &request.namespace, &request.channel),
        Requested::Refresh(request) => ("refresh", &request.namespace, &request.channel),
    };
    let namespace = namespace_name(namespace, &format!("{action}.namespace"))?;
    let channel = channel_name(channel, &format!("{action}.channel"))?;
    Ok(Operation {
        region: region.to_string(),
        action,
        namespace: namespace.to_string(),
        channel: channel.to_string(),
    })
}

fn result_of(
    forwarded: Result<Forwarded<Effect>, NobodyToAsk>,
    region: &RegionName,
) -> (OperationResult, Option<v1::Channel>) {
    let failed = |node: String, detail: String| OperationResult {
        node,
        outcome: v1::OperationOutcome::Failed,
        detail,
    };
    match forwarded {
        Ok(Forwarded { node, answer: Ok(effect) }) => {
            let result = OperationResult {
                node: node.to_string(),
                outcome: v1::OperationOutcome::Done,
                detail: effect.detail,
            };
            (result, effect.channel)
        }
        Ok(Forwarded { node, answer: Err(error) }) => {
            let outcome = match error.stored() {
                Stored::No => v1::OperationOutcome::Failed,
                // It has its effect here, and what was asked for beyond that is late.
                Stored::Yes => v1::OperationOutcome::Done,
                Stored::Unknown => v1::OperationOutcome::Unknown,
            };
            let detail = detail_of(&error);
            (OperationResult { node: node.to_string(), outcome, detail }, None)
        }
        Err(error @ (NobodyToAsk::NoNode(_) | NobodyToAsk::UnknownRegion(_))) => {
            let status = Status::from(error);
            let detail = format!("{region}: {}", status.message());
            (failed(String::new(), detail), None)
        }
    }
}

fn detail_of(error: &CallError) -> String {
    let status = error.status();
    let code = reason_of(status).map_or_else(|| code_name(status.code()), |it| it.as_str());
    match error {
        CallError::NotSent(_) => format!("nothing was sent: {code}: {}", status.message()),
        CallError::Answered(_) => format!("{code}: {}", status.message()),
        CallError::Lost(_) => format!("the answer was lost: {code}: {}", status.message()),
    }
}
