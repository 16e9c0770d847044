//! How a gateway is configured: flag over environment over file over default.

use std::net::SocketAddr;
use std::path::PathBuf;

use clap::Args;
use interlock_rpc::tls::{TlsClientConfig, TlsConfig};
use interlock_telemetry::LogFormat;
use serde::{Deserialize, Serialize};

/// A gateway's configuration.
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct Config {
    /// The gateway's name, for logs and for its push-node.
    pub name: String,
    /// The region it serves.
    pub region: String,
    /// Where subscribers and clients call.
    #[serde(default = "listen")]
    pub listen: SocketAddr,
    /// Where Prometheus reads.
    #[serde(default = "metrics_listen")]
    pub metrics_listen: SocketAddr,
    /// The push-nodes of the region, if they are named here.
    #[serde(default)]
    pub push_nodes: Vec<String>,
    /// The control-plane that names them otherwise.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub control_plane: Option<String>,
    /// How log lines look.
    #[serde(default)]
    pub log_format: LogFormat,
    /// What is logged, as `info,interlock_subscriber_gateway=debug`.
    #[serde(default = "log_filter")]
    pub log_filter: String,
    /// The certificate to serve with.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tls: Option<TlsConfig>,
    /// What to trust, and to show, when calling push-nodes and control-plane.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tls_client: Option<TlsClientConfig>,
}

/// The same as flags and environment variables.
#[derive(Args, Clone, Debug, Default, Serialize)]
pub struct Flags {
    /// The gateway's name.
    #[arg(long, env = "INTERLOCK_NAME")]
    #[serde(skip_serializing_if = "Option::is_none")]
    name: Option<String>,
    /// The region it serves.
    #[arg(long, env = "INTERLOCK_REGION")]
    #[serde(skip_serializing_if = "Option::is_none")]
    region: Option<String>,
    /// Where subscribers and clients call, `host:port`; port 0 takes a free one.
    #[arg(long, env = "INTERLOCK_LISTEN")]
    #[serde(skip_serializing_if = "Option::is_none")]
    listen: Option<SocketAddr>,
    /// Where Prometheus reads.
    #[arg(long, env = "INTERLOCK_METRICS_LISTEN")]
    #[serde(skip_serializing_if = "Option::is_none")]
    metrics_listen: Option<SocketAddr>,
    /// The region's push-nodes, separated by commas.
    #[arg(long, env = "INTERLOCK_PUSH_NODES", value_delimiter = ',')]
    #[serde(skip_serializing_if = "Vec::is_empty")]
    push_nodes: Vec<String>,
    /// The control-plane that names the push-nodes otherwise.
    #[arg(long, env = "INTERLOCK_CONTROL_PLANE")]
    #[serde(skip_serializing_if = "Option::is_none")]
    control_plane: Option<String>,
    /// `text` or `json`.
    #[arg(long, env = "INTERLOCK_LOG_FORMAT")]
    #[serde(skip_serializing_if = "Option::is_none")]
    log_format: Option<LogFormat>,
    /// What is logged, as `info,interlock_subscriber_gateway=debug`.
    #[arg(long, env = "INTERLOCK_LOG_FILTER")]
    #[serde(skip_serializing_if = "Option::is_none")]
    log_filter: Option<String>,
}

impl Config {
    /// The defaults, for a gateway of this name and region. It serves metrics at a
    /// free port of this machine.
    pub fn new(name: &str, region: &str) -> Self {
        Self {
            name: name.to_owned(),
            region: region.to_owned(),
            listen: listen(),
            metrics_listen: SocketAddr::from(([127, 0, 0, 1], 0)),
            push_nodes: Vec::new(),
            control_plane: None,
            log_format: LogFormat::default(),
            log_filter: log_filter(),
            tls: None,
            tls_client: None,
        }
    }

    /// Reads the configuration and checks what the types cannot.
    pub fn load(file: Option<&PathBuf>, flags: &Flags) -> anyhow::Result<Self> {
        let config: Self = interlock_rpc::configuration::load(file.map(PathBuf::as_path), flags)?;
        if config.push_nodes.is_empty() && config.control_plane.is_none() {
            anyhow::bail!("the configuration: give push_nodes, or a control_plane that names them");
        }
        Ok(config)
    }
}

fn listen() -> SocketAddr {
    SocketAddr::from(([0, 0, 0, 0], 7020))
}

fn metrics_listen() -> SocketAddr {
    SocketAddr::from(([0, 0, 0, 0], 7021))
}

fn log_filter() -> String {
    "info".to_owned()
}
