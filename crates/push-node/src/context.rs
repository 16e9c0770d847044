//! What the services, links and tasks of one node share: handles to its parts,
//! each of which has a page of its own.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};

use interlock_core::admission::ClosedReason;
use interlock_core::clock::WallTime;
use interlock_core::identity::{
    FeatureLevel, FencingToken, MemberOpening, MessageName, NamespaceNumber,
};
use interlock_core::limits::MAX_CLOCK_LEAD_MILLISECONDS;
use interlock_core::names::{NodeName, RegionName};
use interlock_core::replication::frames::Member;
use interlock_core::topology::{Namespace, Topology};
use interlock_rpc::convert::identity::namespace_name;
use interlock_rpc::status::{Reason, refusal};
use tokio::sync::{broadcast, oneshot, watch};
use tonic::Status;

use crate::alarms::{AlarmKind, Alarms};
use crate::config::Config;
use crate::directories::Directories;
use crate::durable_state::DurableState;
use crate::failure::{FailureWatch, NodeFailure};
use crate::metrics::NodeMetrics;
use crate::node_clock::NodeClock;
use crate::origin_news::OriginNewsBoard;
use crate::outbound_links::OutboundLinks;
use crate::peer_lag::LagBoard;
use crate::projector::{ChannelNews, ProjectorWork};
use crate::readiness::ReadinessBoard;
use crate::replication_hub::ReplicationHub;
use crate::source_fetcher::SourceFetcher;
use crate::space_watch::SpaceBoard;
use crate::stored_messages::{Storage, on_disk};
use crate::tasks::TaskSet;
use crate::topology_state::{TopologyOffer, TopologyState, store_topology};
use crate::work_queue::WorkQueue;
use crate::writer_commands::{LogWriter, WriterCommand};

/// Which messages and frames this build understands.
pub const FEATURE_LEVEL: FeatureLevel = FeatureLevel::new(1);

/// See the module's page.
pub struct NodeContext {
    /// What the node was told.
    pub config: Config,
    /// Who it is.
    pub identity: Identity,
    /// The clocks.
    pub clock: NodeClock,
    /// The way to the log writer.
    pub writer: LogWriter,
    /// What is durable.
    pub durable: Arc<DurableState>,
    /// The channels as far as they are durable.
    pub directories: Directories,
    /// Who holds what namespace.
    pub topology: Arc<TopologyState>,
    /// What the links share.
    pub hub: Arc<ReplicationHub>,
    /// The links to peers.
    pub links: OutboundLinks,
    /// How far peers are behind, as of the last second.
    pub lag: LagBoard,
    /// Who was heard when.
    pub news: Arc<OriginNewsBoard>,
    /// Where it may accept.
    pub readiness: ReadinessBoard,
    /// The disk's space.
    pub space: SpaceBoard,
    /// Sources of channels.
    pub sources: SourceFetcher,
    /// Who watches channels.
    pub channel_news: broadcast::Sender<ChannelNews>,
    /// The way to the projector.
    pub projector: Arc<WorkQueue<ProjectorWork>>,
    /// The gateways that follow.
    pub gateways: GatewayCount,
    /// What is wrong.
    pub alarms: Arc<Alarms>,
    /// What is counted.
    pub metrics: NodeMetrics,
    /// The end that nobody asked for.
    pub failure: FailureWatch,
    /// The tasks.
    pub tasks: TaskSet,
    /// Set when the node takes nothing any more.
    pub draining: watch::Sender<bool>,
    /// Whether the control-plane was reached.
    pub control_plane_connected: AtomicBool,
    /// Publications accepted since the start.
    pub publications: AtomicU64,
    /// The disk; let go of before the guard below.
    pub storage: Storage,
    /// Tells that nothing holds the disk any more.
    pub _released: ReleaseGuard,
}

/// Who a node is.
#[derive(Debug)]
pub struct Identity {
    /// Its number and the opening of its database.
    pub opening: MemberOpening,
    /// Its name.
    pub name: NodeName,
    /// Its region.
    pub region: RegionName,
    /// The token of its last registration.
    pub fencing_token: AtomicU64,
}

/// Tells, when it is dropped, that what was declared before it is gone.
#[derive(Debug)]
pub struct ReleaseGuard(pub Option<oneshot::Sender<()>>);

impl Drop for ReleaseGuard {
    fn drop(&mut self) {
        if let Some(sender) = self.0.take() {
            // Whoever waited may have given up.
            let _ = sender.send(());
        }
    }
}

impl NodeContext {
    /// The node's number and the opening of its database.
    pub fn me(&self) -> MemberOpening {
        self.identity.opening
    }

    /// The node's name.
    pub fn name(&self) -> &NodeName {
        &self.identity.name
    }

    /// How the node introduces itself.
    pub fn member(&self) -> Member {
        let token = self.identity.fencing_token.load(Ordering::Relaxed);
        Member {
            opening: self.identity.opening,
            name: self.identity.name.clone(),
            region: self.identity.region.clone(),
            fencing_token: FencingToken::new(token),
        }
    }

    /// A namespace that this node holds, by its name.
    pub fn member_namespace(&self, name: &str) -> Result<Namespace, Status> {
        let name = namespace_name(name, "namespace")?;
        let Some((topology, namespace)) = self.topology.namespace(&name) else {
            return Err(refusal(Reason::UnknownNamespace, format!("no namespace {name}")).into());
        };
        if !topology.is_member(self.me().node, namespace.number) {
            let text = format!("node {} is no member of namespace {name}", self.name());
            return Err(refusal(Reason::NotMember, text).into());
        }
        Ok(namespace)
    }

    /// A namespace's name, or its number if nobody knows it.
    pub fn namespace_name(&self, number: NamespaceNumber) -> String {
        let topology = self.topology.current();
        topology
            .namespace(number)
            .map_or_else(|| number.to_string(), |namespace| namespace.name.to_string())
    }

    /// Refuses new followers while the node drains.
    pub fn check_serving(&self) -> Result<(), Status> {
        if *self.draining.borrow() {
            return Err(refusal(Reason::Draining, "this node is draining").into());
        }
        Ok(())
    }

    /// Takes nothing any more; serves, and drives out what it has.
    pub fn begin_drain(&self) {
        if !self.draining.send_replace(true) {
            tracing::info!("draining: nothing is accepted any more");
            // A writer that is ending accepts nothing anyway.
            let _ = self.writer.tell(WriterCommand::SetNodeClosed(ClosedReason::Draining, true));
        }
    }

    /// Another process holds this node's name with a higher token.
    pub fn fence(&self, token: FencingToken) {
        let detail = format!("another process registered this name with token {token}");
        self.alarms.raise(self.clock.wall(), AlarmKind::Fenced, self.name().as_str(), &detail);
        self.begin_drain();
    }

    /// Goes by a topology document if it is newer, and keeps it on disk first.
    pub async fn offer_topology(&self, offered: Arc<Topology>, from: &str) {
        match self.topology.judge(&offered) {
            TopologyOffer::Known => return,
            TopologyOffer::Conflict => {
                return self.topology.report_conflict(&self.alarms, &self.clock, from);
            }
            TopologyOffer::Taken => {}
        }
        if let Err(error) = offered.validate() {
            return tracing::warn!(from, %error, "a topology that contradicts itself was not taken");
        }
        let document = Arc::clone(&offered);
        let stored = on_disk(&self.storage, move |storage| store_topology(storage, &document));
        if let Err(error) = stored.await {
            return self.failure.report(NodeFailure::Storage(error.to_string()));
        }
        // Admission first: nobody is told of a namespace before it is one here.
        let _ = self.writer.tell(WriterCommand::SetTopology(Arc::clone(&offered)));
        self.check_fencing(&offered);
        self.topology.take(offered);
    }

    fn check_fencing(&self, topology: &Topology) {
        let held = self.identity.fencing_token.load(Ordering::Relaxed);
        let Some(node) = topology.node(self.me().node) else { return };
        if held > 0 && node.fencing_token.get() > held {
            self.fence(node.fencing_token);
        }
    }

    /// Raises an alarm while a peer's clock and this node's are far apart.
    pub fn check_peer_clock(&self, peer: &NodeName, theirs: WallTime) {
        self.check_peer_clock_by_name(peer.as_str(), theirs);
    }

    /// The same by the peer's name as text.
    pub fn check_peer_clock_by_name(&self, peer: &str, theirs: WallTime) {
        let ours = self.clock.wall();
        let apart = ours.milliseconds_since(theirs).max(theirs.milliseconds_since(ours));
        let detail = format!("its clock and this node's are {} s apart", apart / 1000);
        let far = (apart > MAX_CLOCK_LEAD_MILLISECONDS).then_some(detail.as_str());
        self.alarms.set(ours, AlarmKind::ClockFarOff, peer, far);
    }

    /// Waits until the projections have seen a durable message, so that reads
    /// show it.
    pub async fn until_applied(&self, name: &MessageName) {
        let mut changes = self.durable.watch_applied();
        loop {
            changes.mark_unchanged();
            let applied = self.durable.log(&name.log).map(|log| log.applied);
            if applied >= Some(name.m_id) || changes.changed().await.is_err() {
                return;
            }
        }
    }

    /// Counts publications for status.
    pub fn count_publications(&self, count: u64) {
        self.publications.fetch_add(count, Ordering::Relaxed);
    }

    /// Random bits for a session's name.
    pub fn random_bits(&self) -> [u8; 16] {
        rand::random()
    }

    /// Random bits to scatter timers with.
    pub fn random_seed(&self) -> u64 {
        rand::random()
    }
}

/// The gateways that follow, by how many streams each has.
#[derive(Clone, Debug, Default)]
pub struct GatewayCount {
    streams: Arc<Mutex<BTreeMap<String, usize>>>,
}

const LOCK: &str = "no holder of the gateway count's lock panics";

impl GatewayCount {
    /// A gateway has one stream more, until the guard is dropped.
    pub fn enter(&self, gateway: &str) -> GatewayGuard {
        let gateway = gateway.to_owned();
        *self.streams.lock().expect(LOCK).entry(gateway.clone()).or_default() += 1;
        GatewayGuard { count: self.clone(), gateway }
    }

    /// How many gateways follow.
    pub fn get(&self) -> u64 {
        self.streams.lock().expect(LOCK).len() as u64
    }
}

/// One stream of a gateway.
#[derive(Debug)]
pub struct GatewayGuard {
    count: GatewayCount,
    gateway: String,
}

impl Drop for GatewayGuard {
    fn drop(&mut self) {
        let mut streams = self.count.streams.lock().expect(LOCK);
        if let Some(left) = streams.get_mut(&self.gateway) {
            *left -= 1;
            if *left == 0 {
                streams.remove(&self.gateway);
            }
        }
    }
}
