//! The topology this node goes by: the newest document it has seen, kept on disk
//! so that a restart needs no control-plane.

use std::sync::Arc;

use arc_swap::ArcSwap;
use bytes::Bytes;
use interlock_core::names::NamespaceName;
use interlock_core::topology::{Namespace, Topology};
use interlock_rpc::convert::{IntoCore as _, IntoWire as _};
use interlock_rpc::v1;
use interlock_storage::{LogStorage, StorageError};
use prost::Message as _;
use thiserror::Error;
use tokio::sync::watch;

use crate::alarms::{AlarmKind, Alarms};
use crate::node_clock::NodeClock;

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
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TopologyOffer {
    /// It is newer, and is gone by from now on.
    Taken,
    /// It is the one gone by already, or an older one.
    Known,
    /// It has the version of the one gone by, and another content: an alarm.
    Conflict,
}

/// The topology gone by, and its changes.
#[derive(Debug)]
pub struct TopologyState {
    current: ArcSwap<Topology>,
    changes: watch::Sender<Arc<Topology>>,
}

impl TopologyState {
    /// Goes by this document.
    pub fn new(topology: Topology) -> Self {
        let topology = Arc::new(topology);
        Self { current: ArcSwap::new(Arc::clone(&topology)), changes: watch::Sender::new(topology) }
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

    /// Judges a document of a peer or the control-plane. `Taken` means that the
    /// caller has to store it and then call [`TopologyState::take`].
    pub fn judge(&self, offered: &Topology) -> TopologyOffer {
        let current = self.current();
        if offered.version > current.version {
            TopologyOffer::Taken
        } else if offered.version == current.version && *offered != *current {
            TopologyOffer::Conflict
        } else {
            TopologyOffer::Known
        }
    }

    /// Goes by a newer document; an older one changes nothing.
    pub fn take(&self, topology: Arc<Topology>) {
        self.changes.send_if_modified(|current| {
            if topology.version <= current.version {
                return false;
            }
            tracing::info!(version = %topology.version, "going by a newer topology");
            self.current.store(Arc::clone(&topology));
            *current = topology;
            true
        });
    }

    /// Says that a document of this version and other content is about.
    pub fn report_conflict(&self, alarms: &Alarms, clock: &NodeClock, from: &str) {
        let detail = format!(
            "{from} has another document of version {}; each node keeps its own",
            self.current().version
        );
        alarms.raise(clock.wall(), AlarmKind::TopologyConflict, from, &detail);
    }
}
