//! Why a push-node does not start.

use std::net::SocketAddr;

use interlock_rpc::server::ServeError;
use interlock_rpc::topology_file;
use interlock_storage::{OpenError, StorageError};
use thiserror::Error;

use crate::config::ConfigError;
use crate::control_plane_link::RegistrationError;
use crate::opening::OpeningError;
use crate::source_fetcher::FetchError;
use crate::tasks::NodeEnding;
use crate::topology_state::TopologyDocumentError;

/// Why a push-node does not start.
#[derive(Debug, Error)]
pub enum StartError {
    /// The configuration contradicts itself.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// An address cannot be listened at.
    #[error("listening at {address}: {source}")]
    Listen {
        /// The address.
        address: SocketAddr,
        /// What the system says.
        source: std::io::Error,
    },
    /// The database cannot be opened.
    #[error(transparent)]
    Open(#[from] OpenError),
    /// The database fails.
    #[error(transparent)]
    Storage(#[from] StorageError),
    /// What the log means cannot be rebuilt.
    #[error(transparent)]
    Projections(#[from] OpeningError),
    /// The stored topology cannot be used.
    #[error(transparent)]
    TopologyDocument(#[from] TopologyDocumentError),
    /// The topology file cannot be used.
    #[error(transparent)]
    TopologyFile(#[from] topology_file::TopologyFileError),
    /// The topology does not have this node, or has it elsewhere.
    #[error("the topology has no node {node} in region {region}")]
    NotInTopology {
        /// The node's name.
        node: String,
        /// Its region.
        region: String,
    },
    /// The database is another node's.
    #[error(
        "the database in {folder} is of node {owner}, and this process is node {node}: give it a \
         data folder of its own, or the name that its database has"
    )]
    OtherNode {
        /// The data folder.
        folder: String,
        /// Whose it is.
        owner: String,
        /// Who was started on it.
        node: String,
    },
    /// The node was removed, after the others had all it held.
    #[error(
        "node {node} has left the mesh, and what it held is removed from {folder}: the folder can \
         be deleted. The name does not come back: a new node takes another one"
    )]
    Left {
        /// The node's name.
        node: String,
        /// The data folder.
        folder: String,
    },
    /// The node was removed while it still held something.
    #[error(
        "node {node} was removed from the mesh by force. What it had accepted and the others did \
         not get is in {folder} and may be nowhere else: keep the folder until nobody needs that. \
         The name does not come back: a new node takes another one, with an empty folder"
    )]
    RemovedByForce {
        /// The node's name.
        node: String,
        /// The data folder.
        folder: String,
    },
    /// The control-plane refuses this node.
    #[error(transparent)]
    Registration(#[from] RegistrationError),
    /// The web origin cannot be used.
    #[error(transparent)]
    Source(#[from] FetchError),
    /// A server cannot begin.
    #[error(transparent)]
    Serve(#[from] ServeError),
    /// A thread cannot be started.
    #[error("starting a thread: {0}")]
    Thread(std::io::Error),
    /// It was told to end while it was starting.
    #[error(transparent)]
    Ending(#[from] NodeEnding),
    /// A thread has panicked while the node was starting.
    #[error("opening the database has panicked")]
    Panicked,
}
