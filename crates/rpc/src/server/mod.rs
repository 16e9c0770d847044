//! A gRPC server as all services run it: limits, keepalive, TLS, health,
//! reflection, a span and a count per call, and an end that is bounded.

mod connection;
mod observe;
#[cfg(test)]
mod tests;

use std::convert::Infallible;
use std::fmt;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use interlock_core::limits::{
    BULK_HTTP2_FRAME_BYTES, BULK_WINDOW_BYTES, CALL_HTTP2_FRAME_BYTES, CALL_WINDOW_BYTES,
    MAX_CALLS_PER_CONNECTION, MAX_CONNECTIONS,
};
use tokio::sync::{oneshot, watch};
use tokio::task::JoinHandle;
use tonic::body::Body;
use tonic::server::NamedService;
use tonic::service::{Routes, RoutesBuilder};
use tonic::transport::Server;
use tonic_health::ServingStatus;
use tonic_health::server::HealthReporter;
use tower::Service;

use crate::tls::{TlsConfig, TlsError};

pub use connection::Listener;
pub use observe::{CallObserver, FinishedCall, deadline_of};

use connection::Incoming;
use observe::ObserveLayer;

const KEEPALIVE_INTERVAL: Duration = Duration::from_secs(30);
const KEEPALIVE_TIMEOUT: Duration = Duration::from_secs(10);

/// The limits of a server and its certificate.
#[derive(Clone, Debug)]
pub struct ServerConfig {
    /// More connections than these are closed at once.
    pub max_connections: usize,
    /// Calls that one connection may have open.
    pub max_concurrent_streams: u32,
    /// Between pings on a silent connection.
    pub keepalive_interval: Duration,
    /// How long a ping may go unanswered.
    pub keepalive_timeout: Duration,
    /// Unread bytes that one stream may have.
    pub stream_window_bytes: u32,
    /// Unread bytes that all streams of a connection together may have.
    pub connection_window_bytes: u32,
    /// The largest HTTP/2 frame that callers may send.
    pub max_http2_frame_bytes: u32,
    /// Without it the server speaks in the clear.
    pub tls: Option<TlsConfig>,
}

impl Default for ServerConfig {
    fn default() -> Self {
        Self {
            max_connections: MAX_CONNECTIONS,
            max_concurrent_streams: MAX_CALLS_PER_CONNECTION,
            keepalive_interval: KEEPALIVE_INTERVAL,
            keepalive_timeout: KEEPALIVE_TIMEOUT,
            stream_window_bytes: CALL_WINDOW_BYTES,
            connection_window_bytes: 2 * CALL_WINDOW_BYTES,
            max_http2_frame_bytes: CALL_HTTP2_FRAME_BYTES,
            tls: None,
        }
    }
}

impl ServerConfig {
    /// For replication: few callers, each with windows that keep a long link full.
    /// Clients are many, and get smaller ones.
    pub fn bulk() -> Self {
        Self {
            stream_window_bytes: BULK_WINDOW_BYTES,
            connection_window_bytes: 2 * BULK_WINDOW_BYTES,
            max_http2_frame_bytes: BULK_HTTP2_FRAME_BYTES,
            ..Self::default()
        }
    }

    /// With this certificate.
    pub fn tls(mut self, tls: Option<TlsConfig>) -> Self {
        self.tls = tls;
        self
    }
}

/// Why a server cannot begin to serve.
#[derive(Debug, thiserror::Error)]
pub enum ServeError {
    /// TLS cannot be set up.
    #[error(transparent)]
    Tls(#[from] TlsError),
    /// The descriptors for reflection are damaged: a broken build.
    #[error("reflection: {0}")]
    Reflection(#[from] tonic_reflection::server::Error),
    /// The listening socket has failed.
    #[error("listener: {0}")]
    Listener(#[from] io::Error),
}

/// A server in the making.
#[must_use = "a server does nothing until it serves"]
pub struct GrpcServer {
    config: ServerConfig,
    routes: RoutesBuilder,
    services: Vec<&'static str>,
    observer: Option<Arc<dyn CallObserver>>,
    serving_at_first: bool,
}

impl GrpcServer {
    /// A server with health and reflection, and nothing else yet.
    pub fn new(config: ServerConfig) -> Self {
        Self {
            config,
            routes: Routes::builder(),
            services: Vec::new(),
            observer: None,
            serving_at_first: true,
        }
    }

    /// Tells `observer` of every call that ends.
    pub fn observe(mut self, observer: impl CallObserver) -> Self {
        self.observer = Some(Arc::new(observer));
        self
    }

    /// Health says NOT_SERVING until [`Health::set_serving`] says otherwise.
    pub fn not_serving_at_first(mut self) -> Self {
        self.serving_at_first = false;
        self
    }

    /// Serves this service too.
    pub fn add_service<S>(mut self, service: S) -> Self
    where
        S: Service<http::Request<Body>, Response = http::Response<Body>, Error = Infallible>
            + NamedService
            + Clone
            + Send
            + Sync
            + 'static,
        S::Future: Send + 'static,
    {
        self.services.push(S::NAME);
        self.routes.add_service(service);
        self
    }

    /// Serves until it is told to stop.
    pub async fn serve(mut self, listener: Listener) -> Result<RunningServer, ServeError> {
        let local_addr = listener.local_addr()?;
        let (reporter, health_service) = tonic_health::server::health_reporter();
        let health = Health { reporter, services: self.services.clone().into() };
        health.set_serving(self.serving_at_first).await;
        self.routes.add_service(health_service);
        self.routes.add_service(reflection(&self.services)?);

        let mut server = Server::builder()
            .tcp_nodelay(true)
            .max_concurrent_streams(self.config.max_concurrent_streams)
            .http2_keepalive_interval(Some(self.config.keepalive_interval))
            .http2_keepalive_timeout(Some(self.config.keepalive_timeout))
            .initial_stream_window_size(self.config.stream_window_bytes)
            .initial_connection_window_size(self.config.connection_window_bytes)
            .max_frame_size(self.config.max_http2_frame_bytes);
        if let Some(tls) = &self.config.tls {
            server = server.tls_config(tls.load()?).map_err(TlsError::Invalid)?;
        }

        let (stop, stopped) = oneshot::channel::<()>();
        let (cut, _) = watch::channel(false);
        let incoming = Incoming::new(listener, self.config.max_connections, cut.subscribe());
        let router = server
            .layer(ObserveLayer::new(self.observer))
            .add_routes(self.routes.routes().prepare());
        let task = tokio::spawn(router.serve_with_incoming_shutdown(incoming, async {
            // A dropped sender means the same as a sent word.
            let _ = stopped.await;
        }));
        Ok(RunningServer { local_addr, health, stop: Some(stop), cut, task })
    }
}

impl fmt::Debug for GrpcServer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("GrpcServer")
            .field("config", &self.config)
            .field("services", &self.services)
            .finish_non_exhaustive()
    }
}

fn reflection(
    services: &[&'static str],
) -> Result<
    tonic_reflection::server::v1::ServerReflectionServer<
        impl tonic_reflection::server::v1::ServerReflection,
    >,
    tonic_reflection::server::Error,
> {
    let mut builder = tonic_reflection::server::Builder::configure()
        .register_encoded_file_descriptor_set(crate::FILE_DESCRIPTOR_SET)
        .register_encoded_file_descriptor_set(tonic_health::pb::FILE_DESCRIPTOR_SET)
        .with_service_name("grpc.health.v1.Health")
        .with_service_name("grpc.reflection.v1.ServerReflection");
    for service in services {
        builder = builder.with_service_name(*service);
    }
    builder.build_v1()
}

/// What `grpc.health.v1` answers. Clones are handles to the same.
#[derive(Clone, Debug)]
pub struct Health {
    reporter: HealthReporter,
    services: Arc<[&'static str]>,
}

impl Health {
    /// Whether the server as a whole, and each of its services, takes calls.
    pub async fn set_serving(&self, serving: bool) {
        self.set_service_serving("", serving).await;
        for service in self.services.iter() {
            self.set_service_serving(service, serving).await;
        }
    }

    /// Whether one service takes calls; `""` is the server as a whole.
    pub async fn set_service_serving(&self, service: &str, serving: bool) {
        let status = if serving { ServingStatus::Serving } else { ServingStatus::NotServing };
        self.reporter.set_service_status(service, status).await;
    }
}

/// A server that serves, until it is shut down or dropped.
#[derive(Debug)]
pub struct RunningServer {
    local_addr: SocketAddr,
    health: Health,
    stop: Option<oneshot::Sender<()>>,
    cut: watch::Sender<bool>,
    task: JoinHandle<Result<(), tonic::transport::Error>>,
}

/// How a server ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Shutdown {
    /// All calls had ended.
    Complete,
    /// The time was up, and connections with calls on them were cut.
    Cut,
}

impl RunningServer {
    /// The address it listens at, with the port that was free where 0 was asked for.
    pub fn local_addr(&self) -> SocketAddr {
        self.local_addr
    }

    /// What `grpc.health.v1` answers.
    pub fn health(&self) -> &Health {
        &self.health
    }

    /// Sends new calls elsewhere; those that come are still served.
    pub async fn drain(&self) {
        self.health.set_serving(false).await;
    }

    /// Ends the server: takes no new connections, lets calls end for `grace`,
    /// and then cuts what is left. Calls without an end of their own, such as
    /// replication, should be told to end before.
    pub async fn shutdown(mut self, grace: Duration) -> Shutdown {
        self.health.set_serving(false).await;
        if let Some(stop) = self.stop.take() {
            // A server that has failed no longer listens for it.
            let _ = stop.send(());
        }
        if tokio::time::timeout(grace, &mut self.task).await.is_ok() {
            return Shutdown::Complete;
        }
        self.cut.send_replace(true);
        // Cut connections end at once; that bounds this wait as well.
        let _ = (&mut self.task).await;
        Shutdown::Cut
    }

    /// Waits until the server has ended by itself, which only an error brings about.
    pub async fn wait(&mut self) -> Result<(), tonic::transport::Error> {
        match (&mut self.task).await {
            Ok(ended) => ended,
            Err(stopped) if stopped.is_panic() => std::panic::resume_unwind(stopped.into_panic()),
            Err(_) => Ok(()),
        }
    }
}

impl Drop for RunningServer {
    fn drop(&mut self) {
        self.task.abort();
        self.cut.send_replace(true);
    }
}
