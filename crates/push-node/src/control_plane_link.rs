//! The node's link to the control-plane (METHOD M2): registers, renews its lease,
//! follows the topology, and reports namespaces that it has opened. The node runs
//! on without it; an expired lease changes what is shown, never what is accepted.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use interlock_core::identity::{
    FeatureLevel, FencingToken, Incarnation, NamespaceNumber, NodeNumber, TopologyVersion,
};
use interlock_core::topology::Topology;
use interlock_rpc::channel::{Backoff, ChannelError, EndpointConfig};
use interlock_rpc::convert::{IntoCore as _, IntoWire as _, InvalidField};
use interlock_rpc::status::{Reason, reason_of};
use interlock_rpc::{services, v1};
use thiserror::Error;
use tokio::sync::{mpsc, watch};
use tonic::transport::Channel;
use tonic::{Request, Status};

use crate::config::Config;
use crate::context::NodeContext;
use crate::departures::Left;
use crate::failure::NodeFailure;
use crate::fencing::fence;
use crate::tasks::until_set;
use crate::topology_state::offer_topology;

/// A call that takes longer is given up and tried again.
const CALL_TIMEOUT: Duration = Duration::from_secs(5);
/// A lease is renewed when this part of it has passed.
const RENEWALS_PER_LEASE: u32 = 3;
/// Never more often than this, whatever lease is given.
const LEAST_RENEWAL: Duration = Duration::from_millis(200);
/// What is left is recorded again after this time, if it still has to be.
const LEFT_AGAIN: Duration = Duration::from_secs(2);

type Client = services::topology::Client<Channel>;

/// What a registration gave.
#[derive(Debug)]
pub struct Registration {
    /// The number of this node's name.
    pub number: NodeNumber,
    /// Above all tokens given to this name before.
    pub token: FencingToken,
    /// The topology with this node in it.
    pub topology: Topology,
}

/// Why a registration failed.
#[derive(Debug, Error)]
pub enum RegistrationError {
    /// The address is none.
    #[error(transparent)]
    Address(#[from] ChannelError),
    /// The control-plane refuses, or is not reached.
    #[error("the control-plane: {0}")]
    Call(Box<Status>),
    /// The answer makes no sense.
    #[error("the control-plane's answer: {0}")]
    Answer(#[from] InvalidField),
}

impl RegistrationError {
    /// Whether trying again can help.
    pub fn may_pass(&self) -> bool {
        match self {
            Self::Call(status) => !matches!(
                status.code(),
                tonic::Code::InvalidArgument
                    | tonic::Code::FailedPrecondition
                    | tonic::Code::PermissionDenied
                    | tonic::Code::Unimplemented
            ),
            Self::Address(_) | Self::Answer(_) => false,
        }
    }
}

/// What a node registers with.
#[derive(Clone, Debug)]
pub struct RegistrationRequest {
    /// Its name.
    pub name: String,
    /// Its region.
    pub region: String,
    /// Where peers replicate to.
    pub replication_address: String,
    /// Where gateways and clients call.
    pub client_address: String,
    /// This opening.
    pub incarnation: Incarnation,
    /// The newest topology it has.
    pub topology_version: TopologyVersion,
    /// What it says that it understands.
    pub feature_level: FeatureLevel,
}

/// A client of the configured control-plane.
pub fn control_plane_client(config: &Config, address: &str) -> Result<Client, ChannelError> {
    let endpoint =
        EndpointConfig::new(address).tls(config.control_plane_tls.clone()).user("push-node");
    Ok(services::topology::client(endpoint.connect_lazy()?))
}

/// Registers once.
pub async fn register(
    client: &mut Client,
    request: &RegistrationRequest,
) -> Result<Registration, RegistrationError> {
    let request = v1::RegisterNodeRequest {
        name: request.name.clone(),
        region: request.region.clone(),
        replication_address: request.replication_address.clone(),
        client_address: request.client_address.clone(),
        incarnation: request.incarnation.get(),
        topology_version: Some(request.topology_version.into_wire()),
        feature_level: request.feature_level.get(),
    };
    let answer = client
        .register_node(bounded(request))
        .await
        .map_err(|status| RegistrationError::Call(Box::new(status)))?
        .into_inner();
    let topology = answer.topology.ok_or_else(|| InvalidField::missing("topology"))?;
    Ok(Registration {
        number: NodeNumber::new(answer.number),
        token: FencingToken::new(answer.fencing_token),
        topology: topology.into_core()?,
    })
}

fn bounded<T>(message: T) -> Request<T> {
    let mut request = Request::new(message);
    request.set_timeout(CALL_TIMEOUT);
    request
}

/// The link's task.
pub struct ControlPlaneLink {
    /// The node.
    pub context: Arc<NodeContext>,
    /// The way to the control-plane.
    pub client: Client,
    /// What to register with.
    pub request: RegistrationRequest,
    /// A registration that was made before the node started, if one was needed.
    pub registration: Option<Registration>,
    /// Namespaces that were opened and have to be recorded.
    pub opened: mpsc::UnboundedReceiver<NamespaceNumber>,
    /// Where those that are recorded are told.
    pub recorded: mpsc::UnboundedSender<NamespaceNumber>,
    /// Those that could not be recorded yet.
    pub unrecorded: BTreeSet<NamespaceNumber>,
    /// Namespaces that are drained and have to be recorded as left.
    pub left: watch::Receiver<Left>,
}

/// Why one round of the link ended.
enum RoundEnd {
    /// The control-plane was lost: register is not needed again.
    Lost(Status),
    /// It does not know this node (any more): register again.
    Unknown,
    /// Another process has this name.
    Fenced(FencingToken),
}

impl ControlPlaneLink {
    /// Keeps the link until the node ends.
    pub async fn run(mut self) {
        let mut ending = self.context.tasks.ending();
        tokio::select! {
            () = self.keep() => {}
            () = until_set(&mut ending) => {}
        }
        self.context.control_plane_connected.store(false, Ordering::Relaxed);
    }

    async fn keep(&mut self) {
        let mut backoff = Backoff::reconnect(self.context.random_seed());
        let mut registration = self.registration.take();
        loop {
            let Some(held) = &registration else {
                registration = self.try_register().await;
                if registration.is_none() {
                    tokio::time::sleep(backoff.next_delay()).await;
                }
                continue;
            };
            let (number, token) = (held.number, held.token);
            match self.serve(token, &mut backoff).await {
                RoundEnd::Lost(status) => {
                    tracing::debug!(%status, "the control-plane is lost; the node runs on without it");
                }
                RoundEnd::Unknown => registration = None,
                RoundEnd::Fenced(higher) => {
                    tracing::error!(%number, %token, %higher, "this process is fenced off");
                    let detail =
                        format!("another process registered this name with token {higher}");
                    fence(&self.context, &detail);
                    return;
                }
            }
            self.context.control_plane_connected.store(false, Ordering::Relaxed);
            tokio::time::sleep(backoff.next_delay()).await;
        }
    }

    async fn try_register(&mut self) -> Option<Registration> {
        self.request.topology_version = self.context.topology.current().version;
        match register(&mut self.client, &self.request).await {
            Ok(registration) => {
                if registration.number != self.context.me().node {
                    let detail = format!(
                        "the control-plane gives this name the number {}, its database is of {}",
                        registration.number,
                        self.context.me().node
                    );
                    self.context.failure.report(NodeFailure::Identity(detail));
                    return None;
                }
                self.take(&registration).await;
                Some(registration)
            }
            Err(error) => {
                if !error.may_pass() {
                    tracing::error!(%error, "this node cannot register");
                }
                None
            }
        }
    }

    async fn take(&self, registration: &Registration) {
        let token = registration.token.get();
        self.context.identity.fencing_token.fetch_max(token, Ordering::Relaxed);
        let topology = Arc::new(registration.topology.clone());
        offer_topology(&self.context, topology, "the control-plane").await;
        self.context.control_plane_connected.store(true, Ordering::Relaxed);
        tracing::info!(fencing_token = token, "registered with the control-plane");
    }

    /// Renews, watches and reports, until one of them fails.
    async fn serve(&mut self, token: FencingToken, backoff: &mut Backoff) -> RoundEnd {
        let context = Arc::clone(&self.context);
        let renewing = renew(Arc::clone(&context), self.client.clone(), token, backoff);
        let watching = watch_topology(Arc::clone(&context), self.client.clone());
        let reporting = report_opened(
            &context,
            self.client.clone(),
            token,
            &mut self.opened,
            &mut self.unrecorded,
            &self.recorded,
        );
        let leaving = report_left(&context, self.client.clone(), token, &mut self.left);
        tokio::select! {
            end = renewing => end,
            status = watching => RoundEnd::Lost(status),
            status = reporting => RoundEnd::Lost(status),
            status = leaving => RoundEnd::Lost(status),
        }
    }
}

async fn renew(
    context: Arc<NodeContext>,
    mut client: Client,
    token: FencingToken,
    backoff: &mut Backoff,
) -> RoundEnd {
    loop {
        let request = v1::RenewLeaseRequest {
            number: context.me().node.get(),
            fencing_token: token.get(),
            incarnation: context.me().incarnation.get(),
            topology_version: Some(context.topology.current().version.into_wire()),
        };
        let lease = match client.renew_lease(bounded(request)).await {
            Ok(answer) => {
                let answer = answer.into_inner();
                if answer.fencing_token > token.get() {
                    return RoundEnd::Fenced(FencingToken::new(answer.fencing_token));
                }
                backoff.reset();
                context.control_plane_connected.store(true, Ordering::Relaxed);
                Duration::from_millis(answer.lease_milliseconds)
            }
            Err(status) => {
                return match reason_of(&status) {
                    Some(Reason::UnknownNode) => RoundEnd::Unknown,
                    Some(Reason::Fenced) => RoundEnd::Fenced(token),
                    _ => RoundEnd::Lost(status),
                };
            }
        };
        tokio::time::sleep((lease / RENEWALS_PER_LEASE).max(LEAST_RENEWAL)).await;
    }
}

async fn watch_topology(context: Arc<NodeContext>, mut client: Client) -> Status {
    let known = Some(context.topology.current().version.into_wire());
    let watched = client.watch_topology(v1::WatchTopologyRequest { known }).await;
    let mut documents = match watched {
        Ok(documents) => documents.into_inner(),
        Err(status) => return status,
    };
    loop {
        let document = match documents.message().await {
            Ok(Some(message)) => message.topology,
            Ok(None) => return Status::unavailable("the control-plane ended the watch"),
            Err(status) => return status,
        };
        match document.map(|document| document.into_core()) {
            Some(Ok(topology)) => {
                offer_topology(&context, Arc::new(topology), "the control-plane").await;
            }
            Some(Err(error)) => tracing::warn!(%error, "a topology that cannot be read"),
            None => {}
        }
    }
}

/// Records namespaces that this founder has opened, each until it has succeeded.
async fn report_opened(
    context: &NodeContext,
    mut client: Client,
    token: FencingToken,
    opened: &mut mpsc::UnboundedReceiver<NamespaceNumber>,
    unrecorded: &mut BTreeSet<NamespaceNumber>,
    recorded: &mpsc::UnboundedSender<NamespaceNumber>,
) -> Status {
    loop {
        let namespace = next_unrecorded(opened, unrecorded).await;
        let request = v1::RecordNamespaceOpenedRequest {
            node: context.me().node.get(),
            fencing_token: token.get(),
            namespaces: vec![namespace.get()],
        };
        if let Err(status) = client.record_namespace_opened(bounded(request)).await {
            return status;
        }
        unrecorded.remove(&namespace);
        // The readiness task lives as long as the node.
        let _ = recorded.send(namespace);
    }
}

/// Records namespaces as left for as long as the topology lists them as being left: a
/// control-plane that was restored may have forgotten it again.
async fn report_left(
    context: &NodeContext,
    mut client: Client,
    token: FencingToken,
    left: &mut watch::Receiver<Left>,
) -> Status {
    loop {
        let Left { namespaces, topology } = left.borrow_and_update().clone();
        if namespaces.is_empty() {
            match left.changed().await {
                Ok(()) => continue,
                // The task that tells has ended: nothing more comes.
                Err(_) => std::future::pending().await,
            }
        }
        let request = v1::RecordNamespaceLeftRequest {
            node: context.me().node.get(),
            fencing_token: token.get(),
            namespaces: namespaces.iter().map(|namespace| namespace.get()).collect(),
            topology_version: Some(topology.into_wire()),
        };
        // What it answers comes as a newer topology.
        match client.record_namespace_left(bounded(request)).await {
            Ok(_) => {}
            // By the newer document it may be a member again.
            Err(status) if reason_of(&status) == Some(Reason::TopologyBehind) => {}
            Err(status) => return status,
        }
        // Nobody tells when the newest document still lists it.
        let _ = tokio::time::timeout(LEFT_AGAIN, left.changed()).await;
    }
}

/// The next namespace to record: one that is left from before, or one that is told.
async fn next_unrecorded(
    told: &mut mpsc::UnboundedReceiver<NamespaceNumber>,
    unrecorded: &mut BTreeSet<NamespaceNumber>,
) -> NamespaceNumber {
    if let Some(namespace) = unrecorded.first() {
        return *namespace;
    }
    match told.recv().await {
        Some(namespace) => {
            unrecorded.insert(namespace);
            namespace
        }
        // The task that tells has ended: nothing more comes.
        None => std::future::pending().await,
    }
}
