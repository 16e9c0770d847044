//! The control-plane as a service: built from its configuration, run until told.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use interlock_rpc::server::{GrpcServer, Listener, RunningServer, ServeError, ServerConfig};
use interlock_rpc::services;
use interlock_telemetry::metrics::Registry as MetricsRegistry;
use interlock_telemetry::{MetricsServer, Readiness};
use thiserror::Error;
use tokio::sync::watch;

use crate::channel_service::ChannelService;
use crate::config::{Config, ConfigError};
use crate::failure::Failure;
use crate::forwarding::Forwarder;
use crate::metrics::Metrics;
use crate::operation_log::{OpenLogError, OperationLog};
use crate::operation_service::OperationService;
use crate::registry::Registry;
use crate::store::ControlPlaneStore;
use crate::store::document::OpenDocumentError;
use crate::store::file::{FileStore, OpenError};
use crate::topology_service::TopologyService;

/// The control-plane: [`start`](Self::start) it.
#[derive(Debug)]
pub struct ControlPlane;

/// Why a control-plane does not start. Nothing was changed.
#[derive(Debug, Error)]
pub enum StartError {
    /// The configuration asks for something impossible.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// The data folder cannot be opened.
    #[error(transparent)]
    Store(#[from] OpenError),
    /// The topology cannot be read.
    #[error(transparent)]
    Topology(#[from] OpenDocumentError),
    /// The operations cannot be read.
    #[error(transparent)]
    Operations(#[from] OpenLogError),
    /// An address cannot be listened at.
    #[error("listening at {address}: {source}")]
    Listen {
        /// The address.
        address: SocketAddr,
        /// What the system said.
        source: std::io::Error,
    },
    /// The server cannot begin.
    #[error(transparent)]
    Serve(#[from] ServeError),
}

/// Why a control-plane ended by itself.
#[derive(Debug, Error)]
pub enum RunError {
    /// What was written to the store is not known: a restart finds out.
    #[error("{0}")]
    Store(String),
    /// The server failed.
    #[error("the gRPC server ended: {0}")]
    Server(String),
}

/// A control-plane that runs, until it is shut down or dropped.
#[derive(Debug)]
pub struct Running {
    listen: SocketAddr,
    server: RunningServer,
    metrics_server: Option<MetricsServer>,
    readiness: Readiness,
    draining: watch::Sender<bool>,
    failure: Failure,
    shutdown_grace: Duration,
}

impl ControlPlane {
    /// Starts with the store in the configured data folder.
    pub async fn start(config: Config) -> Result<Running, StartError> {
        config.validate()?;
        let data_dir = config.data_dir.clone();
        let store = tokio::task::spawn_blocking(move || FileStore::open(data_dir)).await;
        let store = store.unwrap_or_else(|error| std::panic::resume_unwind(error.into_panic()))?;
        Self::start_with_store(config, Arc::new(store)).await
    }

    /// Starts with another store.
    pub async fn start_with_store(
        config: Config,
        store: Arc<dyn ControlPlaneStore>,
    ) -> Result<Running, StartError> {
        config.validate()?;
        let failure = Failure::new();
        let opened = Registry::open(
            Arc::clone(&store),
            config.lease(),
            config.topology_confirmed,
            failure.clone(),
        );
        let registry = Arc::new(opened.await?);
        let log = OperationLog::open(store, failure.clone()).await?;

        let shutdown_grace = config.shutdown_grace();
        let metrics_registry = MetricsRegistry::new();
        let metrics = Metrics::register(&metrics_registry, &registry);
        let forwarder = Arc::new(Forwarder::new(Arc::clone(&registry), config.push_node_tls));
        let (draining, drained) = watch::channel(false);

        let at = |address| move |source| StartError::Listen { address, source };
        let listener = Listener::bind(config.listen).await.map_err(at(config.listen))?;
        let calls = metrics.calls.clone();
        let server = GrpcServer::new(ServerConfig::default().tls(config.tls))
            .observe(move |call: &interlock_rpc::server::FinishedCall<'_>| {
                calls.observe(call.method, call.code_name(), call.duration, call.trace_id.clone());
            })
            .add_service(services::topology::server(TopologyService {
                registry: Arc::clone(&registry),
                metrics: metrics.clone(),
                draining: drained.clone(),
            }))
            .add_service(services::operation::server(OperationService::new(
                Arc::clone(&forwarder),
                log,
                metrics,
            )))
            .add_service(services::channel::server(ChannelService { forwarder, draining: drained }))
            .serve(listener)
            .await?;

        let readiness = Readiness::starting();
        let metrics_server = match config.metrics_listen {
            Some(address) => Some(
                interlock_telemetry::serve(address, metrics_registry, readiness.clone())
                    .await
                    .map_err(at(address))?,
            ),
            None => None,
        };
        readiness.set_ready();

        let topology = registry.topology();
        tracing::info!(
            listen = %server.local_addr(),
            topology = %topology.version,
            nodes = topology.nodes.len(),
            namespaces = topology.namespaces.len(),
            "control-plane serves"
        );
        Ok(Running {
            listen: server.local_addr(),
            server,
            metrics_server,
            readiness,
            draining,
            failure,
            shutdown_grace,
        })
    }
}

impl Running {
    /// Where gRPC is served.
    pub fn listen_address(&self) -> SocketAddr {
        self.listen
    }

    /// Where metrics are served, if anywhere.
    pub fn metrics_address(&self) -> Option<SocketAddr> {
        self.metrics_server.as_ref().map(MetricsServer::local_addr)
    }

    /// The line that `--announce` writes.
    pub fn announcement(&self) -> String {
        serde_json::json!({
            "event": "listening",
            "listen": self.listen_address(),
            "metrics": self.metrics_address(),
        })
        .to_string()
    }

    /// Waits until the control-plane cannot go on by itself. It still has to be
    /// shut down.
    pub async fn wait(&mut self) -> RunError {
        tokio::select! {
            reason = self.failure.reported() => RunError::Store(reason),
            ended = self.server.wait() => RunError::Server(match ended {
                Ok(()) => "without an error".to_owned(),
                Err(error) => error.to_string(),
            }),
        }
    }

    /// Ends: says so first, lets calls end, and cuts what does not.
    pub async fn shutdown(self) {
        self.readiness.set_not_ready("draining");
        self.server.drain().await;
        // Watchers would never end by themselves.
        self.draining.send_replace(true);
        let ended = self.server.shutdown(self.shutdown_grace).await;
        if let Some(metrics_server) = self.metrics_server {
            metrics_server.shutdown().await;
        }
        tracing::info!(?ended, "control-plane ended");
    }
}
