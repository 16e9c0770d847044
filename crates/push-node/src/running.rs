//! A push-node that runs: where it is reached, and how it ends.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use interlock_rpc::server::RunningServer;
use interlock_telemetry::{MetricsServer, Readiness};
use tokio::sync::oneshot;
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

/// A push-node that runs, until it is shut down or aborted.
pub struct Running {
    pub(crate) context: Arc<NodeContext>,
    pub(crate) addresses: Addresses,
    pub(crate) client_server: RunningServer,
    pub(crate) replication_server: RunningServer,
    pub(crate) metrics_server: Option<MetricsServer>,
    pub(crate) readiness: Readiness,
    pub(crate) threads: Threads,
    pub(crate) released: oneshot::Receiver<()>,
}

impl std::fmt::Debug for Running {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Running").field("addresses", &self.addresses).finish_non_exhaustive()
    }
}

impl Running {
    /// Where gateways and clients are served.
    pub fn client_address(&self) -> SocketAddr {
        self.addresses.client
    }

    /// Where peers are served.
    pub fn replication_address(&self) -> SocketAddr {
        self.addresses.replication
    }

    /// Where metrics are served, if anywhere.
    pub fn metrics_address(&self) -> Option<SocketAddr> {
        self.metrics_server.as_ref().map(MetricsServer::local_addr)
    }

    /// The line that `--announce` writes.
    pub fn announcement(&self) -> String {
        serde_json::json!({
            "event": "listening",
            "client": self.client_address(),
            "replication": self.replication_address(),
            "metrics": self.metrics_address(),
        })
        .to_string()
    }

    /// Waits until the node cannot go on by itself. It still has to be shut down
    /// or aborted.
    pub async fn wait(&mut self) -> NodeFailure {
        let server = |ended: Result<(), tonic::transport::Error>| {
            NodeFailure::Server(match ended {
                Ok(()) => "it ended without an error".to_owned(),
                Err(error) => error.to_string(),
            })
        };
        tokio::select! {
            failure = self.context.failure.wait() => failure,
            ended = self.client_server.wait() => server(ended),
            ended = self.replication_server.wait() => server(ended),
        }
    }

    /// Ends: takes nothing more, gives peers that are reached the time to get
    /// what they lack, lets calls end, and closes the database.
    pub async fn shutdown(self) {
        let drain = self.context.config.limits.drain();
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
        release(self.context, self.released).await;
    }

    /// Ends at once, as a crash would: nothing is drained, answers under way are
    /// lost, no last checkpoint is stored.
    pub async fn abort(self) {
        self.context.writer.queue().abort();
        drop((self.client_server, self.replication_server, self.metrics_server));
        self.context.tasks.end(Duration::ZERO).await;
        self.threads.join().await;
        release(self.context, self.released).await;
    }
}

/// Waits until nothing holds the database any more.
async fn release(context: Arc<NodeContext>, released: oneshot::Receiver<()>) {
    drop(context);
    if tokio::time::timeout(RELEASE_GRACE, released).await.is_err() {
        tracing::warn!("something still holds the database open");
    }
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
