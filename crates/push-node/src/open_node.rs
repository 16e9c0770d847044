//! A push-node between one opening of its database and its end.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use interlock_rpc::server::RunningServer;
use interlock_telemetry::{MetricsServer, Readiness};
use tokio::sync::{oneshot, watch};
use tokio::time::Instant;

use crate::checkpoint::store_checkpoint;
use crate::context::NodeContext;
use crate::drain::until_drained;
use crate::failure::NodeFailure;
use crate::threads::Threads;

/// How long tasks and calls that were told to end may take.
const TASK_GRACE: Duration = Duration::from_secs(1);
/// How long the last reads of the disk may take before the end is reported.
const RELEASE_GRACE: Duration = Duration::from_secs(5);

/// Where a node listens.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Addresses {
    pub(crate) client: SocketAddr,
    pub(crate) replication: SocketAddr,
}

/// How an opening of the database comes to its end by itself.
#[derive(Debug)]
pub(crate) enum OpeningEnd {
    /// The node cannot go on.
    Failed(NodeFailure),
    /// The node goes on with another opening.
    Reopen(Reopening),
}

/// Why the database is closed to be opened anew.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reopening {
    /// Something is left: the others get what they lack first.
    Drained,
    /// What stands still is not going to move: nobody is waited for.
    AtOnce,
}

/// A node with its database open, its threads and its servers.
pub(crate) struct OpenNode {
    pub(crate) context: Arc<NodeContext>,
    pub(crate) addresses: Addresses,
    pub(crate) client_server: RunningServer,
    pub(crate) replication_server: RunningServer,
    pub(crate) metrics_server: Option<MetricsServer>,
    pub(crate) readiness: Readiness,
    pub(crate) threads: Threads,
    pub(crate) closed: oneshot::Receiver<()>,
}

impl OpenNode {
    /// Where metrics are served, if anywhere.
    pub(crate) fn metrics_address(&self) -> Option<SocketAddr> {
        self.metrics_server.as_ref().map(MetricsServer::local_addr)
    }

    /// Waits until this opening cannot go on by itself. It still has to be shut down
    /// or aborted.
    pub(crate) async fn wait(&mut self) -> OpeningEnd {
        let server = |ended: Result<(), tonic::transport::Error>| {
            OpeningEnd::Failed(NodeFailure::Server(match ended {
                Ok(()) => "it ended without an error".to_owned(),
                Err(error) => error.to_string(),
            }))
        };
        let mut reopen = self.context.reopen.subscribe();
        tokio::select! {
            biased;
            failure = self.context.failure.wait() => OpeningEnd::Failed(failure),
            reopening = until_some(&mut reopen) => OpeningEnd::Reopen(reopening),
            ended = self.client_server.wait() => server(ended),
            ended = self.replication_server.wait() => server(ended),
        }
    }

    /// Ends: takes nothing more, gives peers that are reached the time to get
    /// what they lack, lets calls end, and closes the database.
    pub(crate) async fn shutdown(self) {
        let drain = self.context.config.limits.drain();
        self.end_within(drain).await;
    }

    /// Ends so that the database can be opened anew. After a failure on the way it must
    /// not be: what is on the disk is for the next process to find out.
    pub(crate) async fn close_for(self, reopening: Reopening) -> Option<NodeFailure> {
        let failure = self.context.failure.clone();
        match reopening {
            Reopening::Drained => self.shutdown().await,
            Reopening::AtOnce => self.end_within(Duration::ZERO).await,
        }
        failure.get()
    }

    async fn end_within(self, drain: Duration) {
        self.readiness.set_not_ready("draining");
        self.client_server.drain().await;
        self.context.begin_drain();
        let left = until_drained(&self.context, Instant::now() + drain).await;
        if left > 0 {
            tracing::info!(messages = left, "ending with messages that others still lack");
        }
        self.context.tasks.end(TASK_GRACE).await;
        self.client_server.shutdown(TASK_GRACE).await;
        self.replication_server.shutdown(TASK_GRACE).await;
        self.context.writer.queue().close();
        self.threads.join().await;
        if self.context.failure.get().is_none()
            && let Err(error) = store_checkpoint(&self.context).await
        {
            tracing::warn!(%error, "the last checkpoint was not stored");
        }
        if let Some(server) = self.metrics_server {
            server.shutdown().await;
        }
        release(self.context, self.closed).await;
    }

    /// Ends at once, as a crash would: nothing is drained, answers under way are
    /// lost, no last checkpoint is stored.
    pub(crate) async fn abort(self) {
        self.context.writer.queue().abort();
        drop((self.client_server, self.replication_server, self.metrics_server));
        self.context.tasks.end(Duration::ZERO).await;
        self.threads.join().await;
        release(self.context, self.closed).await;
    }
}

async fn until_some(reopen: &mut watch::Receiver<Option<Reopening>>) -> Reopening {
    let asked = reopen.wait_for(Option::is_some).await.ok().and_then(|asked| *asked);
    match asked {
        Some(reopening) => reopening,
        // The context keeps the sender.
        None => std::future::pending().await,
    }
}

/// Waits until nothing holds the database any more.
async fn release(context: Arc<NodeContext>, closed: oneshot::Receiver<()>) {
    // The last one closes the database, and waits for the disk: not on a thread that
    // others need.
    drop(tokio::task::spawn_blocking(move || drop(context)));
    if tokio::time::timeout(RELEASE_GRACE, closed).await.is_err() {
        tracing::warn!("something still holds the database open");
    }
}
