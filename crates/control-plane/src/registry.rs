//! The mesh as the control-plane knows it: the topology document, which is
//! durable, and the leases, which are not (METHOD M2).

use std::cmp::Ordering;
use std::collections::BTreeSet;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use interlock_core::features::{SameVersion, compare_same_version};
use interlock_core::identity::{FencingToken, Incarnation, NodeNumber, TopologyVersion};
use interlock_core::limits::MAX_TOPOLOGY_BYTES;
use interlock_core::names::RegionName;
use interlock_core::topology::edit::{EditError, NodeRegistration, adopt, empty, register_node};
use interlock_core::topology::{Node, NodeState, Topology};
use interlock_rpc::convert::{IntoCore as _, IntoWire as _};
use interlock_rpc::v1;
use prost::Message as _;
use thiserror::Error;
use tokio::sync::watch;
use tokio::time::{Instant, timeout_at};

use crate::failure::Failure;
use crate::heard_nodes::{Evidence, HeardNodes};
use crate::leases::{Leases, Liveness};
use crate::store::document::{Document, DocumentContent, EditDocumentError, OpenDocumentError};
use crate::store::{ControlPlaneStore, DocumentName};

/// How long a change waits for nodes that were not heard yet: those that are up call
/// again within this time after a start. Less than a node waits for its call.
const HEARING_PATIENCE: Duration = Duration::from_secs(3);

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
    /// A node knows more: this control-plane lost a document, and would give out
    /// numbers a second time.
    #[error(
        "this control-plane's topology {held} is behind: {evidence}. Its data was lost or \
         restored from an old copy. Nothing is changed until `interlock topology adopt` has it go \
         on from the newest document of the push-nodes"
    )]
    Behind {
        /// What is held here.
        held: TopologyVersion,
        /// What says so.
        evidence: Evidence,
    },
    /// A document that is offered to go on from is older than one that is known of: the
    /// numbers of that one would be given out a second time.
    #[error(
        "the topology {offered} is not the newest that there is: {evidence}. Nothing is changed: \
         have the context name the push-node that holds it, and adopt again; where it is gone for \
         good, start the control-plane again with --topology-confirmed first"
    )]
    NotNewest {
        /// What is offered.
        offered: TopologyVersion,
        /// What says so.
        evidence: Evidence,
    },
    /// Nodes that may know more were not heard since the start.
    #[error(
        "this control-plane has not heard {nodes} since it started, who may hold a newer topology \
         than {known}. Try again when they are connected, or start it with --topology-confirmed if \
         they cannot: its data is no old copy, or they are gone for good"
    )]
    NotHeard {
        /// The newest that is known here.
        known: TopologyVersion,
        /// Their names.
        nodes: String,
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
        "{evidence}, and this control-plane gave out {held}: its data was lost or restored from \
         an old copy"
    )]
    TokenNeverGiven { evidence: Evidence, held: FencingToken },
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
    /// What says that nodes know more than this control-plane.
    evidence: Mutex<BTreeSet<Evidence>>,
    heard: HeardNodes,
    failure: Failure,
}

impl Registry {
    /// Opens the topology. Unless it is `confirmed` to be the newest, the nodes on
    /// record have to be heard before operators may edit it.
    pub(crate) async fn open(
        store: Arc<dyn ControlPlaneStore>,
        lease: Duration,
        confirmed: bool,
        failure: Failure,
    ) -> Result<Self, OpenDocumentError> {
        let document: Document<Topology> = Document::open(store).await?;
        let heard = match confirmed {
            true => HeardNodes::default(),
            false => HeardNodes::none_of(&document.current()),
        };
        Ok(Self {
            document,
            leases: Mutex::new(Leases::new(lease)),
            evidence: Mutex::default(),
            heard,
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

    /// Whether a node knows more than this control-plane.
    pub(crate) fn is_behind(&self) -> bool {
        self.evidence_against(&self.topology()).is_some()
    }

    /// Edits the topology for an operator: once all nodes on record were heard,
    /// any of which may know more. The edit runs to its end also when the caller
    /// goes away.
    pub(crate) async fn edit(
        self: &Arc<Self>,
        edit: impl Fn(&Topology) -> Result<Topology, EditError> + Send + Sync + 'static,
    ) -> Result<Arc<Topology>, ChangeError> {
        self.edit_if(|_, _| true, edit).await
    }

    /// Edits the topology for a node that is on record: what it says of itself
    /// gives out no number, and waits for nobody.
    pub(crate) async fn edit_for_node(
        self: &Arc<Self>,
        edit: impl Fn(&Topology) -> Result<Topology, EditError> + Send + Sync + 'static,
    ) -> Result<Arc<Topology>, ChangeError> {
        self.edit_if(|before, after| after.nodes.len() > before.nodes.len(), edit).await
    }

    async fn edit_if(
        self: &Arc<Self>,
        waits_for_nodes: impl Fn(&Topology, &Topology) -> bool + Send + Sync + 'static,
        edit: impl Fn(&Topology) -> Result<Topology, EditError> + Send + Sync + 'static,
    ) -> Result<Arc<Topology>, ChangeError> {
        self.change(move |registry, topology| {
            let held = topology.version;
            if let Some(evidence) = registry.evidence_against(topology) {
                return Err(ChangeError::Behind { held, evidence });
            }
            let next = edit(topology)?;
            // What the document says already takes nothing back.
            if next.version == held {
                return Ok(None);
            }
            if let Some(nodes) = registry.heard.missing(topology)
                && waits_for_nodes(topology, &next)
            {
                return Err(ChangeError::NotHeard { known: held, nodes });
            }
            Ok(Some(next))
        })
        .await
    }

    /// Changes the document, to the end also when the caller goes away; what has to wait
    /// for nodes is tried again when one of them is heard.
    async fn change(
        self: &Arc<Self>,
        change: impl Fn(&Self, &Topology) -> Result<Option<Topology>, ChangeError>
        + Send
        + Sync
        + 'static,
    ) -> Result<Arc<Topology>, ChangeError> {
        let registry = Arc::clone(self);
        let changed = tokio::spawn(async move {
            let deadline = Instant::now() + HEARING_PATIENCE;
            let mut news = registry.heard.news();
            loop {
                let changed = registry.document.edit(|topology| change(&registry, topology)).await;
                match registry.outcome(changed) {
                    Err(ChangeError::NotHeard { .. })
                        if timeout_at(deadline, news.changed()).await.is_ok() => {}
                    changed => return changed,
                }
            }
        });
        changed.await.unwrap_or_else(|error| {
            self.failure.report(error.to_string());
            Err(ChangeError::OutcomeUnknown(error.to_string()))
        })
    }

    fn outcome(
        &self,
        edited: Result<Arc<Topology>, EditDocumentError<ChangeError>>,
    ) -> Result<Arc<Topology>, ChangeError> {
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

    /// Goes on from a document that nodes hold, under the next generation: for a
    /// control-plane whose own was lost, or is another one of the same version. What is
    /// not news to it changes nothing.
    ///
    /// The next generation is above all that there was, so nothing tells afterwards that
    /// a document was not the newest: whoever may know more is heard before.
    pub(crate) async fn adopt(
        self: &Arc<Self>,
        newest: Topology,
    ) -> Result<Arc<Topology>, ChangeError> {
        self.change(move |registry, held| {
            if !is_news(held, &newest) {
                return Ok(None);
            }
            let (next, offered) = (adopt(held, &newest), newest.version);
            // With the tokens that both have given out.
            let judged = Topology { version: offered, ..next.clone() };
            if let Some(evidence) = registry.evidence_against(&judged) {
                return Err(ChangeError::NotNewest { offered, evidence });
            }
            if let Some(nodes) = registry.heard.missing(&newest) {
                return Err(ChangeError::NotHeard { known: offered, nodes });
            }
            Ok(Some(next))
        })
        .await
    }

    /// Registers a node: durable when it answers.
    pub(crate) async fn register(
        self: &Arc<Self>,
        registration: NodeRegistration,
        incarnation: Option<Incarnation>,
        known: TopologyVersion,
    ) -> Result<Registered, ChangeError> {
        let name = registration.name.clone();
        self.note_version(known, &format!("the node {name}")).await;
        if let Some(node) = self.topology().node_by_name(&name) {
            self.heard.hear(node.number);
        }
        let topology =
            self.edit_for_node(move |topology| register_node(topology, &registration)).await?;
        let node = topology
            .node_by_name(&name)
            .expect("the edit that succeeded registered this name")
            .clone();
        self.leases().renew(node.number, incarnation, Instant::now());
        Ok(Registered { node, topology })
    }

    /// Renews a lease, unless the token is not the name's last; answers that one.
    pub(crate) async fn renew(
        &self,
        number: NodeNumber,
        presented: FencingToken,
        incarnation: Option<Incarnation>,
        known: TopologyVersion,
    ) -> Result<FencingToken, RenewError> {
        let topology = self.topology();
        let node = topology.node(number).ok_or(RenewError::UnknownNode(number))?;
        let name = node.name.clone();
        self.note_version(known, &format!("the node {name}")).await;
        let mut held = node.fencing_token;
        if presented > held {
            let evidence = Evidence::Token { number, node: name, presented };
            self.note(&evidence).await;
            held = self.topology().node(number).map_or(held, |node| node.fencing_token);
            if presented > held {
                // What it knows is noted, and would not be told otherwise.
                self.heard.hear(number);
                return Err(RenewError::TokenNeverGiven { evidence, held });
            }
        }
        if presented == held {
            self.heard.hear(number);
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

    /// Somebody, whom `holder` says, holds this version.
    pub(crate) async fn note_version(&self, version: TopologyVersion, holder: &str) {
        if version > self.topology().version {
            self.note(&Evidence::Version { version, holder: holder.to_owned() }).await;
        }
    }

    /// Something is known that is not in our document. Another control-plane over
    /// the same store may have written it; if not, this one has lost something.
    async fn note(&self, evidence: &Evidence) {
        match self.document.reload().await {
            Ok(topology) if !evidence.is_against(&topology) => return,
            Ok(_) => {}
            Err(error) => tracing::warn!(%error, "the topology could not be loaded again"),
        }
        let topology = self.topology();
        let mut noted = self.evidence.lock().unwrap_or_else(PoisonError::into_inner);
        noted.retain(|evidence| evidence.is_against(&topology));
        if !noted.iter().any(|held| held.covers(evidence)) {
            tracing::error!(%evidence, held = %topology.version, "this control-plane is behind");
            noted.retain(|held| !evidence.covers(held));
            noted.insert(evidence.clone());
        }
    }

    fn evidence_against(&self, topology: &Topology) -> Option<Evidence> {
        let noted = self.evidence.lock().unwrap_or_else(PoisonError::into_inner);
        noted.iter().find(|evidence| evidence.is_against(topology)).cloned()
    }

    fn leases(&self) -> MutexGuard<'_, Leases> {
        // Nothing between lock and unlock leaves the leases half changed.
        self.leases.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Whether a document says what the held one does not: a newer one, or another one of
/// its version.
fn is_news(held: &Topology, offered: &Topology) -> bool {
    match offered.version.cmp(&held.version) {
        Ordering::Less => false,
        Ordering::Equal => compare_same_version(held, offered) != SameVersion::Known,
        Ordering::Greater => true,
    }
}
