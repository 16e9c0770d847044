//! A push-node that runs: where it is reached, and how it ends. Its database may be
//! opened anew meanwhile, in the same process and at the same addresses: when the node
//! has left a namespace (docs/decisions/0006), or for a repair.

use std::net::SocketAddr;

use tokio::sync::{mpsc, oneshot, watch};

use crate::config::Config;
use crate::failure::NodeFailure;
use crate::open_node::{OpenNode, OpeningEnd};
use crate::service::start_node;
use crate::start_error::StartError;

/// How the owner ends a node.
#[derive(Debug)]
enum Ending {
    /// As an operator would.
    Shutdown(oneshot::Sender<()>),
    /// As a crash would.
    Abort(oneshot::Sender<()>),
}

/// A push-node that runs, until it is shut down or aborted.
#[derive(Debug)]
pub struct Running {
    client: SocketAddr,
    replication: SocketAddr,
    metrics: Option<SocketAddr>,
    endings: mpsc::Sender<Ending>,
    failure: watch::Receiver<Option<NodeFailure>>,
}

impl Running {
    /// Runs an open node, and opens it anew when that is asked for.
    pub(crate) fn supervise(node: OpenNode, mut config: Config) -> Self {
        let (endings, told_to_end) = mpsc::channel(1);
        let (failed, failure) = watch::channel(None);
        let (client, replication) = (node.addresses.client, node.addresses.replication);
        let metrics = node.metrics_address();
        // Ports that were chosen at the first opening stay.
        config.client_listen = client;
        config.replication_listen = replication;
        config.metrics_listen = metrics;
        tokio::spawn(run(node, config, told_to_end, failed));
        Self { client, replication, metrics, endings, failure }
    }

    /// Where gateways and clients are served.
    pub fn client_address(&self) -> SocketAddr {
        self.client
    }

    /// Where peers are served.
    pub fn replication_address(&self) -> SocketAddr {
        self.replication
    }

    /// Where metrics are served, if anywhere.
    pub fn metrics_address(&self) -> Option<SocketAddr> {
        self.metrics
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
        match self.failure.wait_for(Option::is_some).await.as_deref() {
            Ok(Some(failure)) => failure.clone(),
            _ => NodeFailure::Panicked("the node"),
        }
    }

    /// Ends: takes nothing more, gives peers that are reached the time to get
    /// what they lack, lets calls end, and closes the database.
    pub async fn shutdown(self) {
        self.end(Ending::Shutdown).await;
    }

    /// Ends at once, as a crash would: nothing is drained, answers under way are
    /// lost, no last checkpoint is stored.
    pub async fn abort(self) {
        self.end(Ending::Abort).await;
    }

    async fn end(self, ending: impl FnOnce(oneshot::Sender<()>) -> Ending) {
        let (done, ended) = oneshot::channel();
        // One that has ended already ends no more.
        let _ = self.endings.send(ending(done)).await;
        let _ = ended.await;
    }
}

async fn run(
    node: OpenNode,
    config: Config,
    mut endings: mpsc::Receiver<Ending>,
    failed: watch::Sender<Option<NodeFailure>>,
) {
    let mut node = Some(node);
    loop {
        let Some(open) = &mut node else {
            // It could not be opened anew, and waits to be let go.
            if let Some(Ending::Shutdown(done) | Ending::Abort(done)) = endings.recv().await {
                let _ = done.send(());
            }
            return;
        };
        let is_over = failed.borrow().is_some();
        tokio::select! {
            ending = endings.recv() => {
                let open = node.take().expect("it is open");
                match ending {
                    Some(Ending::Shutdown(done)) => {
                        open.shutdown().await;
                        let _ = done.send(());
                    }
                    Some(Ending::Abort(done)) => {
                        open.abort().await;
                        let _ = done.send(());
                    }
                    None => open.abort().await,
                }
                return;
            }
            end = open.wait(), if !is_over => match end {
                OpeningEnd::Failed(failure) => drop(failed.send_replace(Some(failure))),
                OpeningEnd::Reopen(reopening) => {
                    tracing::info!("the database is opened anew");
                    let open = node.take().expect("it is open");
                    // Asked for by an operator, or for good.
                    let drains = *open.context.draining.borrow();
                    let failure = open.close_for(reopening).await;
                    if let Some(failure) = failure {
                        failed.send_replace(Some(failure));
                        continue;
                    }
                    // Whoever wanted it to end meanwhile does not wait for a new beginning.
                    if let Ok(Ending::Shutdown(done) | Ending::Abort(done)) = endings.try_recv() {
                        let _ = done.send(());
                        return;
                    }
                    match start_node(config.clone()).await {
                        Ok(opened) => {
                            if drains {
                                opened.context.begin_drain();
                            }
                            node = Some(opened);
                        }
                        Err(error) => drop(failed.send_replace(Some(end_of(&error)))),
                    }
                }
            }
        }
    }
}

fn end_of(error: &StartError) -> NodeFailure {
    match error {
        StartError::Left { .. } => NodeFailure::Left(error.to_string()),
        other => NodeFailure::NotReopened(other.to_string()),
    }
}
