//! `/metrics`, `/healthz` and `/readyz` over plain HTTP, for Prometheus and the
//! kubelet.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::extract::State;
use axum::http::{StatusCode, header};
use axum::response::IntoResponse;
use axum::routing::get;
use tokio::net::TcpListener;
use tokio::sync::{oneshot, watch};
use tokio::task::JoinHandle;

use crate::metrics::{OPENMETRICS_CONTENT_TYPE, Registry};

/// How long the end of a process waits for a scrape that is under way.
const SHUTDOWN_GRACE: Duration = Duration::from_secs(1);

/// Whether a process takes work, and if not, why. Clones are handles to the same.
#[derive(Clone, Debug)]
pub struct Readiness {
    reason: Arc<watch::Sender<Option<String>>>,
}

impl Readiness {
    /// Not ready: starting.
    pub fn starting() -> Self {
        Self { reason: Arc::new(watch::Sender::new(Some("starting".to_owned()))) }
    }

    /// Work is welcome from now on.
    pub fn set_ready(&self) {
        self.reason.send_replace(None);
    }

    /// Work should go elsewhere, for this reason.
    pub fn set_not_ready(&self, reason: impl Into<String>) {
        self.reason.send_replace(Some(reason.into()));
    }

    /// Whether work is welcome.
    pub fn is_ready(&self) -> bool {
        self.reason.borrow().is_none()
    }

    /// Why work is not welcome; `None` when it is.
    pub fn reason(&self) -> Option<String> {
        self.reason.borrow().clone()
    }
}

/// The metrics' listener, until it is shut down or dropped.
#[derive(Debug)]
pub struct MetricsServer {
    local_addr: SocketAddr,
    stop: Option<oneshot::Sender<()>>,
    task: JoinHandle<io::Result<()>>,
}

impl MetricsServer {
    /// The address it listens at, with the port that was free where 0 was asked for.
    pub fn local_addr(&self) -> SocketAddr {
        self.local_addr
    }

    /// Stops listening; an answer under way gets a second.
    pub async fn shutdown(mut self) {
        if let Some(stop) = self.stop.take() {
            // The task may have ended by itself.
            let _ = stop.send(());
        }
        // An idle connection keeps the server up; dropping `self` ends it.
        let _ = tokio::time::timeout(SHUTDOWN_GRACE, &mut self.task).await;
    }
}

impl Drop for MetricsServer {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// Serves metrics and health at `address`. `/healthz` says only that the process
/// answers, and looks at nothing else; `/readyz` follows `readiness`.
pub async fn serve(
    address: SocketAddr,
    registry: Registry,
    readiness: Readiness,
) -> io::Result<MetricsServer> {
    let listener = TcpListener::bind(address).await?;
    let local_addr = listener.local_addr()?;
    let router = Router::new()
        .route("/metrics", get(metrics))
        .with_state(registry)
        .route("/healthz", get(async || "ok\n"))
        .route("/readyz", get(ready).with_state(readiness));
    let (stop, stopped) = oneshot::channel::<()>();
    let task = tokio::spawn(async move {
        axum::serve(listener, router)
            .with_graceful_shutdown(async move {
                // A dropped sender means the same as a sent word.
                let _ = stopped.await;
            })
            .await
    });
    Ok(MetricsServer { local_addr, stop: Some(stop), task })
}

async fn metrics(State(registry): State<Registry>) -> impl IntoResponse {
    ([(header::CONTENT_TYPE, OPENMETRICS_CONTENT_TYPE)], registry.encode())
}

async fn ready(State(readiness): State<Readiness>) -> (StatusCode, String) {
    match readiness.reason() {
        None => (StatusCode::OK, "ready\n".to_owned()),
        Some(reason) => (StatusCode::SERVICE_UNAVAILABLE, format!("{reason}\n")),
    }
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    use tokio::net::TcpStream;

    use super::*;

    async fn fetch(address: SocketAddr, path: &str) -> String {
        let mut stream = TcpStream::connect(address).await.expect("listens");
        let request = format!("GET {path} HTTP/1.1\r\nHost: test\r\nConnection: close\r\n\r\n");
        stream.write_all(request.as_bytes()).await.expect("open");
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await.expect("text");
        answer
    }

    #[tokio::test]
    async fn serves_metrics_health_and_readiness() {
        let registry = Registry::new();
        registry.counter("publications", "Publications").increment();
        let readiness = Readiness::starting();
        let server = serve((Ipv4Addr::LOCALHOST, 0).into(), registry, readiness.clone())
            .await
            .expect("a free port");
        let address = server.local_addr();

        let metrics = fetch(address, "/metrics").await;
        assert!(metrics.starts_with("HTTP/1.1 200"), "{metrics}");
        assert!(metrics.contains("content-type: application/openmetrics-text"), "{metrics}");
        assert!(metrics.contains("interlock_publications_total 1"), "{metrics}");
        assert!(fetch(address, "/healthz").await.starts_with("HTTP/1.1 200"));

        let starting = fetch(address, "/readyz").await;
        assert!(starting.starts_with("HTTP/1.1 503"), "{starting}");
        assert!(starting.ends_with("starting\n"), "{starting}");
        readiness.set_ready();
        assert!(fetch(address, "/readyz").await.starts_with("HTTP/1.1 200"));
        readiness.set_not_ready("draining");
        assert!(fetch(address, "/readyz").await.ends_with("draining\n"));

        server.shutdown().await;
        assert!(TcpStream::connect(address).await.is_err(), "still listening");
    }
}
