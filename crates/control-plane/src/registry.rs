//! The mesh as the control-plane knows it: the topology document, which is
//! durable, and the leases, which are not (METHOD M2).

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use interlock_core::identity::{FencingToken, Incarnation, NodeNumber, TopologyVersion};
use interlock_core::limits::MAX_TOPOLOGY_BYTES;
use interlock_core::names::{NodeName, RegionName};
use interlock_core::topology::edit::{EditError, NodeRegistration, empty, register_node};
use interlock_core::topology::{Node, NodeState, Topology};
use interlock_rpc::convert::{IntoCore as _, IntoWire as _};
use interlock_rpc::v1;
use prost::Message as _;
use thiserror::Error;
use tokio::sync::watch;
use tokio::time::Instant;

use crate::failure::Failure;
use crate::leases::{Leases, Liveness};
use crate::store::document::{Document, DocumentContent, EditDocumentError, OpenDocumentError};
use crate::store::{ControlPlaneStore, DocumentName};

/// As the topology is kept. The message leaves room beside the document that
/// nodes hold.
#[derive(Clone, PartialEq, prost::Message)]
struct StoredTopology {
    #[prost(message, optional, tag = "1")]
    topology: Option<v1::Topology>,
}

impl DocumentContent for Topology {
    const NAME: DocumentName = DocumentName::Topology;
    const MAX_BYTES: usize = MAX_TOPOLOGY_BYTES;

    fn initial() -> Self {
        empty()
    }

    fn encode(&self) -> Bytes {
        StoredTopology { topology: Some(self.into_wire()) }.encode_to_vec().into()
    }

    fn decode(bytes: &Bytes) -> Result<Self, String> {
        let stored = StoredTopology::decode(bytes.clone()).map_err(|error| error.to_string())?;
        let topology = stored.topology.ok_or("it holds no topology")?;
        topology.into_core().map_err(|error| error.to_string())
    }
}

/// Why the topology was not changed.
#[derive(Debug, Error)]
pub(crate) enum ChangeError {
    /// The edit breaks a rule.
    #[error(transparent)]
    Refused(#[from] EditError),
    /// A node knows a newer document: this control-plane lost one, and would give
    /// out numbers a second time.
    #[error(
        "this control-plane's topology {held} is older than {newer}, which the node {node} holds: \
         its data was lost or restored from an old copy. Nothing is changed until the newer \
         document is put back into its data_dir"
    )]
    Behind {
        /// What is held here.
        held: TopologyVersion,
        /// What the node holds.
        newer: TopologyVersion,
        /// The node.
        node: NodeName,
    },
    /// The document would be too large.
    #[error("{0}")]
    TooLarge(String),
    /// Not written; trying again may help.
    #[error("{0}")]
    NotWritten(String),
    /// Perhaps written; this process stops.
    #[error("{0}")]
    OutcomeUnknown(String),
}

/// What a registration answers.
#[derive(Debug)]
pub(crate) struct Registered {
    pub(crate) node: Node,
    pub(crate) topology: Arc<Topology>,
}

/// Why a lease was not renewed.
#[derive(Debug, Error)]
pub(crate) enum RenewError {
    #[error("there is no node with the number {0}: register first")]
    UnknownNode(NodeNumber),
    /// A token that was never given out here.
    #[error(
        "the node {node} presents the fencing token {presented}, and this control-plane gave out \
         {held}: its data was lost or restored from an old copy"
    )]
    TokenNeverGiven { node: NodeName, presented: FencingToken, held: FencingToken },
}

/// A node as it is shown.
#[derive(Debug)]
pub(crate) struct NodeView {
    pub(crate) node: Node,
    pub(crate) liveness: Liveness,
    pub(crate) last_heard: Option<Duration>,
    pub(crate) incarnation: Option<Incarnation>,
}

/// The topology document and the leases.
pub(crate) struct Registry {
    document: Document<Topology>,
    leases: Mutex<Leases>,
    /// The highest version above ours that a node told of, and which node.
    newer: Mutex<Option<(TopologyVersion, NodeName)>>,
    failure: Failure,
}

impl Registry {
    pub(crate) async fn open(
        store: Arc<dyn ControlPlaneStore>,
        lease: Duration,
        failure: Failure,
    ) -> Result<Self, OpenDocumentError> {
        Ok(Self {
            document: Document::open(store).await?,
            leases: Mutex::new(Leases::new(lease)),
            newer: Mutex::new(None),
            failure,
        })
    }

    pub(crate) fn topology(&self) -> Arc<Topology> {
        self.document.current()
    }

    pub(crate) fn subscribe(&self) -> watch::Receiver<Arc<Topology>> {
        self.document.subscribe()
    }

    pub(crate) fn lease_duration(&self) -> Duration {
        self.leases().duration()
    }

    /// Whether a node holds a newer document than this control-plane.
    pub(crate) fn is_behind(&self) -> bool {
        self.newer_than_ours().is_some()
    }

    /// Edits the topology. The edit runs to its end also when the caller goes
    /// away.
    pub(crate) async fn edit(
        self: &Arc<Self>,
        edit: impl Fn(&Topology) -> Result<Topology, EditError> + Send + Sync + 'static,
    ) -> Result<Arc<Topology>, ChangeError> {
        let registry = Arc::clone(self);
        tokio::spawn(async move { registry.edit_to_its_end(edit).await }).await.unwrap_or_else(
            |error| {
                self.failure.report(error.to_string());
                Err(ChangeError::OutcomeUnknown(error.to_string()))
            },
        )
    }

    async fn edit_to_its_end(
        &self,
        edit: impl Fn(&Topology) -> Result<Topology, EditError>,
    ) -> Result<Arc<Topology>, ChangeError> {
        let edited = self
            .document
            .edit(|topology| {
                if let Some((newer, node)) = self.newer_than(topology.version) {
                    return Err(ChangeError::Behind { held: topology.version, newer, node });
                }
                let next = edit(topology)?;
                Ok((next.version != topology.version).then_some(next))
            })
            .await;
        match edited {
            Ok(topology) => Ok(topology),
            Err(EditDocumentError::Refused(error)) => Err(error),
            Err(error @ EditDocumentError::TooLarge { .. }) => {
                Err(ChangeError::TooLarge(error.to_string()))
            }
            Err(EditDocumentError::NotWritten(reason)) => Err(ChangeError::NotWritten(reason)),
            Err(EditDocumentError::OutcomeUnknown(reason)) => {
                self.failure.report(reason.clone());
                Err(ChangeError::OutcomeUnknown(reason))
            }
        }
    }

    /// Registers a node: durable when it answers.
    pub(crate) async fn register(
        self: &Arc<Self>,
        registration: NodeRegistration,
        incarnation: Option<Incarnation>,
        known: TopologyVersion,
    ) -> Result<Registered, ChangeError> {
        if known > self.topology().version {
            self.note_newer(known, &registration.name).await;
        }
        let name = registration.name.clone();
        let topology = self.edit(move |topology| register_node(topology, &registration)).await?;
        let node = topology
            .node_by_name(&name)
            .expect("the edit that succeeded registered this name")
            .clone();
        self.leases().renew(node.number, incarnation, Instant::now());
        Ok(Registered { node, topology })
    }

    /// Renews a lease, unless the token is not the name's last; answers that one.
    pub(crate) fn renew(
        &self,
        number: NodeNumber,
        presented: FencingToken,
        incarnation: Option<Incarnation>,
    ) -> Result<FencingToken, RenewError> {
        let topology = self.topology();
        let node = topology.node(number).ok_or(RenewError::UnknownNode(number))?;
        let held = node.fencing_token;
        if presented > held {
            return Err(RenewError::TokenNeverGiven { node: node.name.clone(), presented, held });
        }
        if presented == held {
            self.leases().renew(number, incarnation, Instant::now());
        }
        Ok(held)
    }

    /// All nodes with what is known of them now.
    pub(crate) fn nodes(&self) -> Vec<NodeView> {
        let topology = self.topology();
        let leases = self.leases();
        let now = Instant::now();
        topology
            .nodes
            .iter()
            .map(|node| {
                let lease = leases.get(node.number);
                NodeView {
                    node: node.clone(),
                    liveness: leases.liveness(node.number, now),
                    last_heard: lease.map(|lease| lease.age(now)),
                    incarnation: lease.and_then(|lease| lease.incarnation),
                }
            })
            .collect()
    }

    /// The nodes of a region that an operation may be sent to: those with a lease
    /// first. `None` if there is no such region.
    pub(crate) fn candidates(&self, region: &RegionName) -> Option<Vec<Node>> {
        let topology = self.topology();
        if !topology.regions.contains(region) {
            return None;
        }
        let mut candidates: Vec<NodeView> = self
            .nodes()
            .into_iter()
            .filter(|view| view.node.region == *region && view.node.state == NodeState::Active)
            .collect();
        candidates.sort_by_key(|view| (view.liveness, view.node.number));
        Some(candidates.into_iter().map(|view| view.node).collect())
    }

    /// A node knows a newer version. Another control-plane over the same store may
    /// have written it; if not, this one has lost something.
    async fn note_newer(&self, version: TopologyVersion, node: &NodeName) {
        match self.document.reload().await {
            Ok(topology) if topology.version >= version => return,
            Ok(_) => {}
            Err(error) => tracing::warn!(%error, "the topology could not be loaded again"),
        }
        let mut newer = self.newer.lock().unwrap_or_else(PoisonError::into_inner);
        if newer.as_ref().is_none_or(|(highest, _)| version > *highest) {
            tracing::error!(%version, %node, "a node holds a newer topology than this control-plane");
            *newer = Some((version, node.clone()));
        }
    }

    fn newer_than_ours(&self) -> Option<(TopologyVersion, NodeName)> {
        self.newer_than(self.topology().version)
    }

    fn newer_than(&self, version: TopologyVersion) -> Option<(TopologyVersion, NodeName)> {
        let newer = self.newer.lock().unwrap_or_else(PoisonError::into_inner);
        newer.clone().filter(|(newer, _)| *newer > version)
    }

    fn leases(&self) -> MutexGuard<'_, Leases> {
        // Nothing between lock and unlock leaves the leases half changed.
        self.leases.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
