//! The gateway as a whole: what is built from what, and how it ends.

use std::net::SocketAddr;
use std::time::Duration;

use interlock_rpc::channel::ChannelError;
use interlock_rpc::server::{
    FinishedCall, GrpcServer, Listener, RunningServer, ServeError, ServerConfig,
};
use interlock_rpc::services;
use interlock_telemetry::metrics::Registry;
use interlock_telemetry::{MetricsServer, Readiness};
use tokio::sync::watch;
use tokio::task::JoinHandle;

use crate::config::{Config, ConfigError};
use crate::fan_out::Timer;
use crate::forwarding::Forwarding;
use crate::metrics::GatewayMetrics;
use crate::namespaces::{IDLE_CHECK_INTERVAL, Namespaces};
use crate::push_nodes::PushNodes;
use crate::region_watch::RegionWatch;
use crate::subscribe_service::{SubscribeService, SubscriptionRoom};
use crate::upstream::Upstream;

/// How long calls may take to end when the gateway stops.
const STOP_GRACE: Duration = Duration::from_secs(5);

/// Why a gateway cannot start. A retry helps after it has been mended.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The configuration contradicts itself.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// An address is taken, or not one of this machine.
    #[error("listening at {address}: {source}")]
    Listen {
        /// Which.
        address: SocketAddr,
        /// Why.
        source: std::io::Error,
    },
    /// An address to call is none.
    #[error(transparent)]
    Address(#[from] ChannelError),
    /// The server cannot be set up.
    #[error(transparent)]
    Serve(#[from] ServeError),
}

/// A gateway that is about to start.
pub struct Gateway;

/// A gateway that runs until it is shut down or dropped.
pub struct Running {
    server: RunningServer,
    metrics: MetricsServer,
    readiness: Readiness,
    namespaces: Namespaces,
    draining: watch::Sender<bool>,
    tasks: Vec<JoinHandle<()>>,
}

impl Gateway {
    /// Binds, connects lazily, serves.
    pub async fn start(config: Config) -> Result<Running, StartError> {
        config.validate()?;
        let listen_error = |address| move |source| StartError::Listen { address, source };
        let listener = Listener::bind(config.listen).await.map_err(listen_error(config.listen))?;
        let registry = Registry::new();
        let readiness = Readiness::starting();
        let metrics_server =
            interlock_telemetry::serve(config.metrics_listen, registry.clone(), readiness.clone())
                .await
                .map_err(listen_error(config.metrics_listen))?;
        let metrics = GatewayMetrics::register(&registry);

        let push_nodes = PushNodes::new(config.tls_client.clone(), metrics.clone());
        push_nodes.replace(&config.push_nodes)?;
        let mut tasks = Vec::new();
        if let (true, Some(control_plane)) = (config.push_nodes.is_empty(), &config.control_plane) {
            let watch = RegionWatch::new(
                control_plane,
                &config.region,
                push_nodes.clone(),
                config.tls_client.clone(),
                rand::random(),
            )?;
            tasks.push(tokio::spawn(watch.run()));
        }

        let timer = Timer::start();
        let namespaces = Namespaces::new(Upstream {
            gateway: config.gateway.clone(),
            push_nodes: push_nodes.clone(),
            metrics: metrics.clone(),
            timer,
            seed: rand::random(),
        });
        tasks.push(tokio::spawn(end_idle_namespaces(namespaces.clone())));

        let (draining, is_draining) = watch::channel(false);
        let subscribe = SubscribeService {
            gateway: config.gateway.clone(),
            namespaces: namespaces.clone(),
            push_nodes: push_nodes.clone(),
            metrics: metrics.clone(),
            timer,
            draining: is_draining,
            subscriptions: SubscriptionRoom::new(),
        };
        let forwarding = Forwarding { push_nodes };
        let rpc = metrics.rpc.clone();
        let server = GrpcServer::new(ServerConfig::default().tls(config.tls.clone()))
            .observe(move |call: &FinishedCall<'_>| {
                rpc.observe(call.method, call.code_name(), call.duration, call.trace_id.clone());
            })
            .add_service(services::subscribe::server(subscribe))
            .add_service(services::channel::server(forwarding.clone()))
            .add_service(services::publish::server(forwarding))
            .serve(listener)
            .await?;
        readiness.set_ready();
        Ok(Running { server, metrics: metrics_server, readiness, namespaces, draining, tasks })
    }
}

impl Running {
    /// Where subscribers and clients call.
    pub fn listen(&self) -> SocketAddr {
        self.server.local_addr()
    }

    /// Where Prometheus reads.
    pub fn metrics(&self) -> SocketAddr {
        self.metrics.local_addr()
    }

    /// The line that `--announce` writes.
    pub fn announcement(&self) -> String {
        serde_json::json!({
            "event": "listening",
            "service": "subscriber-gateway",
            "listen": self.listen(),
            "metrics": self.metrics(),
        })
        .to_string()
    }

    /// Sends subscribers elsewhere, ends calls, stops.
    pub async fn shutdown(mut self) {
        self.readiness.set_not_ready("draining");
        self.server.drain().await;
        self.draining.send_replace(true);
        for task in self.tasks.drain(..) {
            task.abort();
        }
        self.server.shutdown(STOP_GRACE).await;
        self.namespaces.end_all();
        self.metrics.shutdown().await;
    }
}

async fn end_idle_namespaces(namespaces: Namespaces) {
    let mut check = tokio::time::interval(IDLE_CHECK_INTERVAL);
    loop {
        check.tick().await;
        namespaces.end_idle();
    }
}
