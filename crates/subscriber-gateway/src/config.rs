//! How a gateway is configured: flag over environment over file over default.

use std::net::{Ipv4Addr, SocketAddr};
use std::path::Path;

use clap::Args;
use interlock_core::names::{NameError, NodeName, RegionName};
use interlock_rpc::configuration::{self, ConfigurationError};
use interlock_rpc::tls::{TlsClientConfig, TlsConfig};
use interlock_telemetry::LogFormat;
use serde::{Deserialize, Serialize};
use thiserror::Error;

/// A gateway's configuration. Every key has a default except `gateway`, `region`
/// and one of `push_nodes` and `control_plane`.
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(default, deny_unknown_fields)]
pub struct Config {
    /// The gateway's name, for logs and for its push-node.
    pub gateway: String,
    /// The region it serves.
    pub region: String,
    /// Where subscribers and clients call.
    pub listen: SocketAddr,
    /// Where Prometheus and the kubelet call.
    pub metrics_listen: SocketAddr,
    /// The push-nodes of the region, if they are named here.
    pub push_nodes: Vec<String>,
    /// The control-plane that names them otherwise.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub control_plane: Option<String>,
    /// How log lines look.
    pub log_format: LogFormat,
    /// What is logged, as `info,interlock_subscriber_gateway=debug`.
    pub log_filter: String,
    /// The certificate to serve with.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tls: Option<TlsConfig>,
    /// What to trust, and to show, when calling push-nodes and control-plane.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tls_client: Option<TlsClientConfig>,
}

impl Default for Config {
    /// For processes of this machine only, until somebody says for whom else.
    fn default() -> Self {
        let loopback = |port| SocketAddr::from((Ipv4Addr::LOCALHOST, port));
        Self {
            gateway: String::new(),
            region: String::new(),
            listen: loopback(7100),
            metrics_listen: loopback(7101),
            push_nodes: Vec::new(),
            control_plane: None,
            log_format: LogFormat::default(),
            log_filter: "info".to_owned(),
            tls: None,
            tls_client: None,
        }
    }
}

/// The keys that flags and environment variables may set.
#[derive(Args, Clone, Debug, Default, Serialize)]
pub struct Flags {
    /// The gateway's name.
    #[arg(long, env = "INTERLOCK_GATEWAY")]
    gateway: Option<String>,
    /// The region it serves.
    #[arg(long, env = "INTERLOCK_REGION")]
    region: Option<String>,
    /// Where subscribers and clients call, `host:port`; port 0 takes a free one.
    #[arg(long, env = "INTERLOCK_LISTEN")]
    listen: Option<SocketAddr>,
    /// Where Prometheus and the kubelet call.
    #[arg(long, env = "INTERLOCK_METRICS_LISTEN")]
    metrics_listen: Option<SocketAddr>,
    /// The region's push-nodes, separated by commas.
    #[arg(long, env = "INTERLOCK_PUSH_NODES", value_delimiter = ',')]
    #[serde(skip_serializing_if = "Vec::is_empty")]
    push_nodes: Vec<String>,
    /// The control-plane that names the push-nodes otherwise.
    #[arg(long, env = "INTERLOCK_CONTROL_PLANE")]
    control_plane: Option<String>,
    /// `text` or `json`.
    #[arg(long, env = "INTERLOCK_LOG_FORMAT")]
    log_format: Option<LogFormat>,
    /// What is logged, as `info,interlock_subscriber_gateway=debug`.
    #[arg(long, env = "INTERLOCK_LOG_FILTER")]
    log_filter: Option<String>,
}

/// What is wrong with a configuration. It has to be changed.
#[derive(Debug, Error)]
pub enum ConfigError {
    /// A name is missing or none.
    #[error("{key}: {source}")]
    Name {
        /// The key.
        key: &'static str,
        /// What is wrong.
        source: NameError,
    },
    /// Nobody says where the region's push-nodes are.
    #[error("give push_nodes, or a control_plane that names them")]
    NoPushNodes,
}

impl Config {
    /// The defaults, for a gateway of this name and region. It serves metrics at a
    /// free port of this machine.
    pub fn new(gateway: &str, region: &str) -> Self {
        Self {
            gateway: gateway.to_owned(),
            region: region.to_owned(),
            metrics_listen: SocketAddr::from((Ipv4Addr::LOCALHOST, 0)),
            ..Self::default()
        }
    }

    /// From an optional file and what outweighs it. Not yet validated.
    pub fn load(file: Option<&Path>, flags: &Flags) -> Result<Self, ConfigurationError> {
        configuration::load(file, flags)
    }

    /// Checks what types cannot.
    pub fn validate(&self) -> Result<(), ConfigError> {
        let wrong = |key| move |source| ConfigError::Name { key, source };
        NodeName::parse(&self.gateway).map_err(wrong("gateway"))?;
        RegionName::parse(&self.region).map_err(wrong("region"))?;
        if self.push_nodes.is_empty() && self.control_plane.is_none() {
            return Err(ConfigError::NoPushNodes);
        }
        Ok(())
    }

    /// As a file that would say the same.
    pub fn to_toml(&self) -> String {
        toml::to_string_pretty(self).expect("every key has a TOML form")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_printed_says_the_same() {
        let config = Config {
            control_plane: Some("http://127.0.0.1:7400".to_owned()),
            ..Config::new("seoul-gateway", "seoul")
        };
        let printed = config.to_toml();
        let read: Config = toml::from_str(&printed).expect("it reads back");
        assert_eq!(read.to_toml(), printed);
        read.validate().expect("it is valid");
    }

    #[test]
    fn what_is_missing_is_named() {
        let nameless = Config::new("", "seoul");
        assert!(matches!(nameless.validate(), Err(ConfigError::Name { key: "gateway", .. })));
        let nowhere = Config::new("seoul-gateway", "");
        assert!(matches!(nowhere.validate(), Err(ConfigError::Name { key: "region", .. })));
        let alone = Config::new("seoul-gateway", "seoul");
        assert!(matches!(alone.validate(), Err(ConfigError::NoPushNodes)));
    }
}
