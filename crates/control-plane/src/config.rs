//! The control-plane's configuration: flag over environment over file over
//! default.

use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::time::Duration;

use clap::Args;
use interlock_rpc::configuration::{self, ConfigurationError};
use interlock_rpc::tls::{TlsClientConfig, TlsConfig};
use interlock_telemetry::LogFormat;
use serde::{Deserialize, Serialize};
use thiserror::Error;

/// Where a control-plane listens unless it is told otherwise: only for processes
/// of this machine, until somebody says for whom else.
const DEFAULT_PORT: u16 = 7400;
const DEFAULT_METRICS_PORT: u16 = 7401;

/// Leases outside of this are a slip of the pen: below, every pause of a process
/// looks like a death; above, nobody would notice one.
const LEASE_SECONDS: std::ops::RangeInclusive<u64> = 1..=3600;
const SHUTDOWN_SECONDS: std::ops::RangeInclusive<u64> = 0..=3600;

/// All that can be configured.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Config {
    /// Where gRPC is served.
    pub listen: SocketAddr,
    /// Where metrics and HTTP health are served; absent, nowhere.
    pub metrics_listen: Option<SocketAddr>,
    /// Where the topology and the operations are kept.
    pub data_dir: PathBuf,
    /// How long a node counts as alive after it was heard.
    pub lease_seconds: u64,
    /// How long calls may take to end when the process is told to.
    pub shutdown_seconds: u64,
    /// The operator vouches that `data_dir` was not restored from an old copy, or that
    /// nodes that are not heard are gone for good: the topology may be changed before all
    /// nodes on record were heard.
    pub topology_confirmed: bool,
    /// How log lines look: `text` or `json`.
    pub log_format: LogFormat,
    /// What is logged, as in `info,interlock_control_plane=debug`.
    pub log_filter: String,
    /// The server's certificate; absent, gRPC is in the clear.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tls: Option<TlsConfig>,
    /// What to trust, and to show, when calling push-nodes; absent, those calls
    /// are in the clear.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub push_node_tls: Option<TlsClientConfig>,
}

impl Default for Config {
    fn default() -> Self {
        let local = |port| SocketAddr::from((Ipv4Addr::LOCALHOST, port));
        Self {
            listen: local(DEFAULT_PORT),
            metrics_listen: Some(local(DEFAULT_METRICS_PORT)),
            data_dir: PathBuf::from("control-plane-data"),
            lease_seconds: 10,
            shutdown_seconds: 10,
            topology_confirmed: false,
            log_format: LogFormat::default(),
            log_filter: "info".to_owned(),
            tls: None,
            push_node_tls: None,
        }
    }
}

/// The keys that flags and environment variables may set.
#[derive(Args, Clone, Debug, Default, Serialize)]
pub struct Flags {
    /// Where gRPC is served, as in 0.0.0.0:7400.
    #[arg(long, env = "INTERLOCK_LISTEN", value_name = "ADDRESS")]
    pub listen: Option<SocketAddr>,
    /// Where metrics and HTTP health are served.
    #[arg(long, env = "INTERLOCK_METRICS_LISTEN", value_name = "ADDRESS")]
    pub metrics_listen: Option<SocketAddr>,
    /// Where the topology and the operations are kept.
    #[arg(long, env = "INTERLOCK_DATA_DIR", value_name = "FOLDER")]
    pub data_dir: Option<PathBuf>,
    /// How long a node counts as alive after it was heard.
    #[arg(long, env = "INTERLOCK_LEASE_SECONDS", value_name = "SECONDS")]
    pub lease_seconds: Option<u64>,
    /// How long calls may take to end when the process is told to.
    #[arg(long, env = "INTERLOCK_SHUTDOWN_SECONDS", value_name = "SECONDS")]
    pub shutdown_seconds: Option<u64>,
    /// Vouch that the data was not restored from an old copy, or that nodes that are not
    /// heard are gone for good: the topology may be changed before all nodes on record
    /// were heard.
    #[arg(
        long,
        env = "INTERLOCK_TOPOLOGY_CONFIRMED",
        value_name = "BOOL",
        num_args = 0..=1,
        require_equals = true,
        default_missing_value = "true"
    )]
    pub topology_confirmed: Option<bool>,
    /// How log lines look: text or json.
    #[arg(long, env = "INTERLOCK_LOG_FORMAT", value_name = "FORMAT")]
    pub log_format: Option<LogFormat>,
    /// What is logged, as in info,interlock_control_plane=debug.
    #[arg(long, env = "INTERLOCK_LOG_FILTER", value_name = "FILTER")]
    pub log_filter: Option<String>,
}

/// Why there is no configuration.
#[derive(Debug, Error)]
pub enum ConfigError {
    /// The file, the environment or a flag.
    #[error(transparent)]
    Configuration(#[from] ConfigurationError),
    /// A value outside of what is possible.
    #[error("{key} is {value}; {allowed} is possible")]
    Range {
        /// The key.
        key: &'static str,
        /// What was given.
        value: u64,
        /// What is possible.
        allowed: String,
    },
}

impl Config {
    /// From an optional file and what outweighs it.
    pub fn load(file: Option<&Path>, flags: &Flags) -> Result<Self, ConfigError> {
        let config: Self = configuration::load(file, flags)?;
        config.validate()?;
        Ok(config)
    }

    /// As a file that would say the same.
    pub fn to_toml(&self) -> String {
        toml::to_string(self).expect("all keys are text and all values are TOML's own")
    }

    pub(crate) fn lease(&self) -> Duration {
        Duration::from_secs(self.lease_seconds)
    }

    pub(crate) fn shutdown_grace(&self) -> Duration {
        Duration::from_secs(self.shutdown_seconds)
    }

    pub(crate) fn validate(&self) -> Result<(), ConfigError> {
        for (key, value, allowed) in [
            ("lease_seconds", self.lease_seconds, LEASE_SECONDS),
            ("shutdown_seconds", self.shutdown_seconds, SHUTDOWN_SECONDS),
        ] {
            if !allowed.contains(&value) {
                let allowed = format!("{} to {}", allowed.start(), allowed.end());
                return Err(ConfigError::Range { key, value, allowed });
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_printed_says_the_same() {
        let config = Config {
            metrics_listen: None,
            tls: Some(TlsConfig {
                certificate: "cert.pem".into(),
                private_key: "key.pem".into(),
                client_ca: None,
            }),
            push_node_tls: Some(TlsClientConfig {
                ca: "ca.pem".into(),
                certificate: None,
                private_key: None,
                domain: None,
            }),
            ..Config::default()
        };
        let printed = toml::from_str::<Config>(&config.to_toml()).expect("parses");
        // The absence of a key means the default, which is to serve metrics.
        assert_eq!(printed, Config { metrics_listen: Config::default().metrics_listen, ..config });
        assert_eq!(toml::from_str::<Config>("").expect("parses"), Config::default());
    }

    #[test]
    fn an_unknown_key_is_named() {
        for text in [
            "listne = \"127.0.0.1:1\"",
            "[tls]\ncertificate = \"a\"\nprivate_key = \"b\"\nlistne = 1",
        ] {
            let error = toml::from_str::<Config>(text).expect_err("not a key").to_string();
            assert!(error.contains("listne"), "{error}");
        }
    }

    #[test]
    fn flags_outweigh_the_file() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("control-plane.toml");
        std::fs::write(&path, "lease_seconds = 20\nshutdown_seconds = 3\n").expect("is written");
        let flags = Flags { lease_seconds: Some(30), ..Flags::default() };
        let config = Config::load(Some(&path), &flags).expect("loads");
        assert_eq!((config.lease_seconds, config.shutdown_seconds), (30, 3));

        let flags = Flags { lease_seconds: Some(0), ..Flags::default() };
        let error = Config::load(Some(&path), &flags).expect_err("no lease");
        assert!(error.to_string().starts_with("lease_seconds is 0; 1 to 3600"), "{error}");

        std::fs::write(&path, "lease = 20\n").expect("is written");
        let error = Config::load(Some(&path), &Flags::default()).expect_err("no such key");
        let text = error.to_string();
        assert!(text.contains("lease"), "{text}");
    }
}
