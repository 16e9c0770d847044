//! The end of a node that must not go on: a disk that failed, memory that is a
//! copy, a thread that panicked. The process exits; nothing is retried.

use std::sync::Arc;

use thiserror::Error;
use tokio::sync::watch;

/// The exit code after a failure, for supervisors.
pub const FAILURE_EXIT_CODE: u8 = 70;

/// Why a node had to end.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum NodeFailure {
    /// An append or a sync failed. What was under way is unknown; the next
    /// opening finds out.
    #[error("the storage failed: {0}")]
    Storage(String),
    /// The log of this opening is held elsewhere further than it was written
    /// here: this process was resumed from a copy of its memory.
    #[error("this process was resumed from a snapshot of its memory: {0}")]
    ResumedFromSnapshot(String),
    /// The node's database belongs to another number than its name.
    #[error("{0}")]
    Identity(String),
    /// A thread or task that the node cannot do without has panicked.
    #[error("{0} has ended unexpectedly")]
    Panicked(&'static str),
    /// The database was closed to be opened anew, and was not.
    #[error("the database cannot be opened anew: {0}")]
    NotReopened(String),
    /// The node has left the mesh: all is handed over and nothing is left to do.
    #[error("{0}")]
    Left(String),
    /// A listener cannot go on.
    #[error("the server failed: {0}")]
    Server(String),
}

/// Where a failure is reported, and where it is waited for. Clones are handles
/// to the same.
#[derive(Clone, Debug)]
pub struct FailureWatch {
    failure: Arc<watch::Sender<Option<NodeFailure>>>,
}

impl FailureWatch {
    /// No failure yet.
    pub fn new() -> Self {
        Self { failure: Arc::new(watch::Sender::new(None)) }
    }

    /// Reports a failure; the first one stays.
    pub fn report(&self, failure: NodeFailure) {
        self.failure.send_if_modified(|held| {
            if held.is_some() {
                return false;
            }
            tracing::error!(%failure, "the node has to end");
            *held = Some(failure);
            true
        });
    }

    /// The failure, if there was one.
    pub fn get(&self) -> Option<NodeFailure> {
        self.failure.borrow().clone()
    }

    /// Waits for a failure.
    pub async fn wait(&self) -> NodeFailure {
        let mut receiver = self.failure.subscribe();
        let failure = receiver.wait_for(Option::is_some).await;
        match failure.as_deref() {
            Ok(Some(failure)) => failure.clone(),
            // This handle keeps the sender, so the wait ends only by a failure.
            _ => NodeFailure::Panicked("the failure watch"),
        }
    }

    /// A guard for a thread: reports if it is dropped by a panic.
    pub fn guard(&self, thread: &'static str) -> PanicGuard {
        PanicGuard { watch: self.clone(), thread }
    }
}

impl Default for FailureWatch {
    fn default() -> Self {
        Self::new()
    }
}

/// Reports a failure when its thread panics.
#[derive(Debug)]
pub struct PanicGuard {
    watch: FailureWatch,
    thread: &'static str,
}

impl Drop for PanicGuard {
    fn drop(&mut self) {
        if std::thread::panicking() {
            self.watch.report(NodeFailure::Panicked(self.thread));
        }
    }
}
