//! What the services, links and tasks of one node share: handles to its parts,
//! each of which has a page of its own.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use interlock_core::admission::ClosedReason;
use interlock_core::identity::{FencingToken, MemberOpening, MessageName, NamespaceNumber};
use interlock_core::names::{NodeName, RegionName};
use interlock_core::replication::frames::Member;
use interlock_core::topology::Namespace;
use interlock_rpc::convert::identity::namespace_name;
use interlock_rpc::status::{Reason, refusal};
use tokio::sync::{broadcast, watch};
use tonic::Status;

use crate::alarms::Alarms;
use crate::bringing_back::BringingBackBoard;
use crate::channel_segments::ChannelSegments;
use crate::config::Config;
use crate::delivery_service::GatewayCount;
use crate::departures::DepartureBoard;
use crate::directories::Directories;
use crate::divergence::DivergenceBoard;
use crate::durable_state::DurableState;
use crate::failure::FailureWatch;
use crate::metrics::NodeMetrics;
use crate::node_clock::NodeClock;
use crate::open_node::Reopening;
use crate::origin_news::OriginNewsBoard;
use crate::outbound_links::OutboundLinks;
use crate::peer_lag::LagBoard;
use crate::projector::{ChannelNews, ProjectorWork};
use crate::readiness::ReadinessBoard;
use crate::replication_hub::ReplicationHub;
use crate::scrub_progress::ScrubBoard;
use crate::source_fetcher::SourceFetcher;
use crate::space_watch::SpaceBoard;
use crate::stored_messages::Storage;
use crate::tasks::TaskSet;
use crate::topology_state::TopologyState;
use crate::work_queue::WorkQueue;
use crate::writer_commands::{LogWriter, WriterCommand};

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
    /// Where in the logs they are.
    pub channel_segments: ChannelSegments,
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
    /// What peers' digests say against this node's.
    pub divergence: DivergenceBoard,
    /// The disk's space.
    pub space: SpaceBoard,
    /// How the reading of all stored data goes.
    pub scrub: ScrubBoard,
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
    /// Whether the database is to be closed and opened anew.
    pub reopen: watch::Sender<Option<Reopening>>,
    /// The turn of the one repair that is being noted.
    pub repairing: Arc<tokio::sync::Mutex<()>>,
    /// What a repair took off and is still to be published again.
    pub bringing_back: BringingBackBoard,
    /// How far the node has got in leaving namespaces.
    pub departures: DepartureBoard,
    /// Whether the control-plane was reached.
    pub control_plane_connected: AtomicBool,
    /// Publications accepted since the start.
    pub publications: AtomicU64,
    /// The disk.
    pub storage: Storage,
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
