//! The topology this node goes by: the newest document it has seen, kept on disk
//! so that a restart needs no control-plane.

use std::future::Future;
use std::sync::Arc;

use arc_swap::ArcSwap;
use bytes::Bytes;
use interlock_core::features::{SameVersion, compare_same_version};
use interlock_core::names::NamespaceName;
use interlock_core::topology::{Namespace, Topology};
use interlock_rpc::convert::{IntoCore as _, IntoWire as _};
use interlock_rpc::v1;
use interlock_storage::{LogStorage, StorageError};
use prost::Message as _;
use thiserror::Error;
use tokio::sync::{Mutex, OwnedMutexGuard, watch};

use crate::alarms::AlarmKind;
use crate::context::NodeContext;
use crate::failure::NodeFailure;
use crate::fencing;
use crate::stored_messages::on_disk;
use crate::writer_commands::WriterCommand;

/// The document's name in the storage.
const DOCUMENT: &str = "topology";

/// Why a document could not be kept.
#[derive(Debug, Error)]
pub enum TopologyDocumentError {
    /// The disk refuses.
    #[error(transparent)]
    Storage(#[from] StorageError),
    /// What is stored is no topology.
    #[error("the stored topology cannot be read: {0}")]
    Unreadable(String),
}

/// Reads the document that the last opening stored.
pub fn load_topology(storage: &dyn LogStorage) -> Result<Option<Topology>, TopologyDocumentError> {
    let Some(bytes) = storage.load_document(DOCUMENT)? else { return Ok(None) };
    decode(bytes).map(Some)
}

/// Stores a document for the next opening.
pub fn store_topology(storage: &dyn LogStorage, topology: &Topology) -> Result<(), StorageError> {
    storage.store_document(DOCUMENT, &topology.into_wire().encode_to_vec())
}

fn decode(bytes: Bytes) -> Result<Topology, TopologyDocumentError> {
    let unreadable =
        |error: &dyn std::fmt::Display| TopologyDocumentError::Unreadable(error.to_string());
    let wire = v1::Topology::decode(bytes).map_err(|error| unreadable(&error))?;
    wire.into_core().map_err(|error| unreadable(&error))
}

/// What became of a document that was offered.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum TopologyOffer {
    /// It is newer, or says more than a copy of it that an older build had passed on, and
    /// is gone by from now on.
    Taken,
    /// It is the one gone by already, or an older one.
    Known,
    /// It has the version of the one gone by, and another content: an alarm.
    Conflict,
    /// It is newer, and contradicts itself.
    Invalid(String),
}

/// The right to store a document, until it is dropped.
pub type AdoptionTurn = OwnedMutexGuard<()>;

/// The topology gone by, and its changes.
#[derive(Debug)]
pub struct TopologyState {
    current: ArcSwap<Topology>,
    changes: watch::Sender<Arc<Topology>>,
    /// Documents come from the control-plane and from every peer at once, and are
    /// taken one after the other.
    adopting: Arc<Mutex<()>>,
}

impl TopologyState {
    /// Goes by this document.
    pub fn new(topology: Topology) -> Self {
        let topology = Arc::new(topology);
        Self {
            current: ArcSwap::new(Arc::clone(&topology)),
            changes: watch::Sender::new(topology),
            adopting: Arc::default(),
        }
    }

    /// The document gone by.
    pub fn current(&self) -> Arc<Topology> {
        self.current.load_full()
    }

    /// A namespace by its name, with the document it is in.
    pub fn namespace(&self, name: &NamespaceName) -> Option<(Arc<Topology>, Namespace)> {
        let topology = self.current();
        let namespace = topology.namespace_by_name(name)?.clone();
        Some((topology, namespace))
    }

    /// Changes, beginning with the present document.
    pub fn watch(&self) -> watch::Receiver<Arc<Topology>> {
        self.changes.subscribe()
    }

    /// Goes by a document of a peer or the control-plane if it is newer: first it
    /// is stored, then those are told who must know before all others, then all.
    /// No other document is judged meanwhile, so that an older one is never stored
    /// or told after a newer. `store` gives its turn back when nothing of it is
    /// under way any more, also when nobody waits for it.
    pub async fn adopt<E, Storing>(
        &self,
        offered: &Arc<Topology>,
        store: impl FnOnce(AdoptionTurn) -> Storing,
        tell_first: impl FnOnce(),
    ) -> Result<TopologyOffer, E>
    where
        Storing: Future<Output = Result<AdoptionTurn, E>>,
    {
        let turn = Arc::clone(&self.adopting).lock_owned().await;
        let current = self.current();
        if offered.version < current.version {
            return Ok(TopologyOffer::Known);
        }
        if offered.version == current.version {
            match compare_same_version(&current, offered) {
                SameVersion::Known => return Ok(TopologyOffer::Known),
                SameVersion::Conflict => return Ok(TopologyOffer::Conflict),
                SameVersion::Fuller => {}
            }
        }
        if let Err(error) = offered.validate() {
            return Ok(TopologyOffer::Invalid(error.to_string()));
        }
        let turn = store(turn).await?;
        tell_first();
        tracing::info!(version = %offered.version, "going by a newer topology");
        self.current.store(Arc::clone(offered));
        self.changes.send_replace(Arc::clone(offered));
        drop(turn);
        Ok(TopologyOffer::Taken)
    }
}

/// Has the node go by a document if it is newer, and keeps it on disk first.
pub async fn offer_topology(context: &NodeContext, offered: Arc<Topology>, from: &str) {
    let document = Arc::clone(&offered);
    let store = |turn| {
        on_disk(&context.storage, move |storage| {
            store_topology(storage, &document)?;
            Ok(turn)
        })
    };
    // Admission first: nobody is told of a namespace before it is one here.
    let tell_first = || {
        let _ = context.writer.tell(WriterCommand::SetTopology(Arc::clone(&offered)));
        fencing::check_topology(context, &offered);
        context.alarms.holders_changed(|node, namespace| offered.is_holder(node, namespace));
    };
    match context.topology.adopt(&offered, store, tell_first).await {
        Ok(TopologyOffer::Taken | TopologyOffer::Known) => {}
        Ok(TopologyOffer::Conflict) => {
            let version = offered.version;
            let detail = format!(
                "{from} has another document of version {version}; each node keeps its own"
            );
            let now = context.clock.wall();
            context.alarms.raise(now, AlarmKind::TopologyConflict, from, &detail);
        }
        Ok(TopologyOffer::Invalid(error)) => {
            tracing::warn!(from, error, "a topology that contradicts itself was not taken");
        }
        Err(error) => {
            let error: StorageError = error;
            context.failure.report(NodeFailure::Storage(error.to_string()));
        }
    }
}

#[cfg(test)]
mod tests {
    use std::cell::RefCell;
    use std::convert::Infallible;
    use std::pin::pin;

    use futures_util::poll;
    use interlock_core::identity::TopologyVersion;
    use tokio::sync::oneshot;

    use super::*;

    fn document(number: u64) -> Arc<Topology> {
        let version = TopologyVersion { generation: 0, number };
        Arc::new(Topology { version, ..Topology::default() })
    }

    #[tokio::test]
    async fn an_older_document_is_never_stored_or_told_after_a_newer() {
        let state = TopologyState::new(Topology::default());
        let (stored, told) = (RefCell::new(Vec::new()), RefCell::new(Vec::new()));
        let offer = |number, disk: oneshot::Receiver<()>| {
            let (state, stored, told, document) = (&state, &stored, &told, document(number));
            async move {
                let store = |turn| async move {
                    disk.await.expect("the disk answers");
                    stored.borrow_mut().push(number);
                    Ok::<_, Infallible>(turn)
                };
                let Ok(offer) =
                    state.adopt(&document, store, || told.borrow_mut().push(number)).await;
                offer
            }
        };
        let (disk_of_fifth, fifth) = oneshot::channel();
        let (disk_of_sixth, sixth) = oneshot::channel();
        let (mut fifth, mut sixth) = (pin!(offer(5, fifth)), pin!(offer(6, sixth)));
        assert!(poll!(&mut fifth).is_pending());
        disk_of_sixth.send(()).expect("it is waited for");
        assert!(poll!(&mut sixth).is_pending(), "one after the other");
        disk_of_fifth.send(()).expect("it is waited for");
        assert_eq!(fifth.await, TopologyOffer::Taken);
        assert_eq!(sixth.await, TopologyOffer::Taken);
        assert_eq!((stored.take(), told.take()), (vec![5, 6], vec![5, 6]));
        assert_eq!(state.current().version.number, 6);

        let (_, never) = oneshot::channel();
        assert_eq!(offer(5, never).await, TopologyOffer::Known);
        assert!(stored.take().is_empty());
    }
}
