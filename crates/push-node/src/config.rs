//! What a push-node is told: from a TOML file, the environment and flags, in
//! rising order of weight (`arguments.rs` has the latter two).

use std::net::{Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::time::Duration;

use interlock_core::features::{FEATURE_LEVEL, FIRST_FEATURE_LEVEL};
use interlock_core::identity::FeatureLevel;
use interlock_core::names::{NameError, NodeName, RegionName};
use interlock_rpc::tls::{TlsClientConfig, TlsConfig};
use interlock_telemetry::LogFormat;
use serde::{Deserialize, Serialize};
use thiserror::Error;

/// A push-node's configuration. Every key has a default except `node`, `region`
/// and one of `control_plane` and `topology_file`.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Config {
    /// The node's name, unique in the mesh and stable over restarts.
    pub node: String,
    /// The region it stands in.
    pub region: String,
    /// Where its database lives.
    pub data_dir: PathBuf,
    /// Where gateways and clients call.
    pub client_listen: SocketAddr,
    /// Where peers replicate to.
    pub replication_listen: SocketAddr,
    /// Where Prometheus and the kubelet call; nowhere if absent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub metrics_listen: Option<SocketAddr>,
    /// The client address as others reach it; what it listens at if absent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub client_advertise: Option<String>,
    /// The replication address as peers reach it; what it listens at if absent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub replication_advertise: Option<String>,
    /// The control-plane's address.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub control_plane: Option<String>,
    /// A topology file, instead of a control-plane.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub topology_file: Option<PathBuf>,
    /// With a topology file: this empty database founds its namespaces. Without
    /// it, an empty database takes the state of another member first.
    pub bootstrap: bool,
    /// The base URL of the region's web server, for channels with a source.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub web_origin: Option<String>,
    /// Whether sources may come from private and loopback addresses.
    pub allow_private_sources: bool,
    /// How many redirects a fetch follows; 0 follows none.
    pub source_redirects: u8,
    /// A PEM file of certificate authorities that sources may be signed by,
    /// besides the system's.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub source_ca: Option<PathBuf>,
    /// The bound on fetching one source.
    pub source_timeout_milliseconds: u64,
    /// What the node says that it understands, if that is to be less than its build
    /// does: so that nothing new is used, and a build of that level can still take its
    /// place (docs/runbook/upgrade.md).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub feature_level: Option<u32>,
    /// Text or JSON log lines.
    pub log_format: LogFormat,
    /// What is logged, in the syntax of `RUST_LOG`.
    pub log_filter: String,
    /// The certificate of this node's servers; they speak in the clear without.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tls: Option<TlsConfig>,
    /// What to trust, and to show, when calling peers.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub peer_tls: Option<TlsClientConfig>,
    /// What to trust, and to show, when calling the control-plane.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub control_plane_tls: Option<TlsClientConfig>,
    /// What bounds memory, disk and time.
    pub limits: Limits,
}

/// What bounds a push-node's memory, disk and time.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Limits {
    /// Commands that wait for the log writer.
    pub writer_queue_bytes: usize,
    /// Newest durable messages in memory.
    pub tail_cache_bytes: usize,
    /// Below this much free space publications are refused.
    pub publication_free_bytes: u64,
    /// Below this much free space nothing is received from peers either.
    pub replication_free_bytes: u64,
    /// Log bytes of one namespace, where the topology names no cap of its own; 0
    /// is no cap.
    pub namespace_disk_cap_bytes: u64,
    /// How long a call without a deadline waits for peers.
    pub default_deadline_milliseconds: u64,
    /// How long an end of the process waits for what is under way.
    pub drain_milliseconds: u64,
    /// Followers of all gateways together.
    pub max_followers: usize,
    /// Publish streams of all clients together.
    pub max_publish_streams: usize,
    /// How fast stored data is read again in the background, to find damage; 0 is not
    /// at all.
    pub scrub_bytes_per_second: u64,
    /// Between the beginnings of two passes over all stored data, unless the first
    /// takes longer.
    pub scrub_interval_seconds: u64,
}

impl Default for Config {
    fn default() -> Self {
        let loopback = |port| SocketAddr::from((Ipv4Addr::LOCALHOST, port));
        Self {
            node: String::new(),
            region: String::new(),
            data_dir: PathBuf::from("/var/lib/interlock/push-node"),
            client_listen: loopback(7200),
            replication_listen: loopback(7300),
            metrics_listen: None,
            client_advertise: None,
            replication_advertise: None,
            control_plane: None,
            topology_file: None,
            bootstrap: false,
            web_origin: None,
            allow_private_sources: false,
            source_redirects: 0,
            source_ca: None,
            feature_level: None,
            source_timeout_milliseconds: 10_000,
            log_format: LogFormat::default(),
            log_filter: "info".to_owned(),
            tls: None,
            peer_tls: None,
            control_plane_tls: None,
            limits: Limits::default(),
        }
    }
}

impl Default for Limits {
    fn default() -> Self {
        const MEBIBYTE: u64 = 1024 * 1024;
        Self {
            writer_queue_bytes: 64 << 20,
            tail_cache_bytes: 64 << 20,
            publication_free_bytes: 512 * MEBIBYTE,
            replication_free_bytes: 128 * MEBIBYTE,
            namespace_disk_cap_bytes: 0,
            default_deadline_milliseconds: 30_000,
            drain_milliseconds: 10_000,
            max_followers: 10_000,
            max_publish_streams: 10_000,
            scrub_bytes_per_second: 8 * MEBIBYTE,
            scrub_interval_seconds: 24 * 60 * 60,
        }
    }
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
    /// A level that this build does not have.
    #[error("feature_level: this build understands 1 to {newest}, not {level}")]
    FeatureLevel {
        /// What was given.
        level: u32,
        /// What this build understands.
        newest: u32,
    },
    /// Neither a control-plane nor a topology file, or both.
    #[error("exactly one of control_plane and topology_file must be given")]
    TopologySource,
    /// `bootstrap` belongs to a topology file.
    #[error(
        "bootstrap: a control-plane names the founders itself; it goes with topology_file only"
    )]
    Bootstrap,
    /// A node that listens everywhere has to say where it is reached.
    #[error(
        "{advertise}: {listen} is {address}, which nobody else can call; give the address that \
         others reach this node by"
    )]
    Advertise {
        /// The key that is missing.
        advertise: &'static str,
        /// The key that listens everywhere.
        listen: &'static str,
        /// What it says.
        address: SocketAddr,
    },
    /// The limits contradict one another.
    #[error("limits.{key}: {reason}")]
    Limit {
        /// The key.
        key: &'static str,
        /// What is wrong.
        reason: &'static str,
    },
}

impl Config {
    /// What the node says that it understands.
    pub fn feature_level(&self) -> FeatureLevel {
        self.feature_level.map_or(FEATURE_LEVEL, FeatureLevel::new)
    }

    /// Checks what types cannot.
    pub fn validate(&self) -> Result<(), ConfigError> {
        self.node_name()?;
        self.region_name()?;
        if self.control_plane.is_some() == self.topology_file.is_some() {
            return Err(ConfigError::TopologySource);
        }
        if self.bootstrap && self.topology_file.is_none() {
            return Err(ConfigError::Bootstrap);
        }
        if let Some(level) = self.feature_level {
            let range = FIRST_FEATURE_LEVEL.get()..=FEATURE_LEVEL.get();
            if !range.contains(&level) {
                return Err(ConfigError::FeatureLevel { level, newest: FEATURE_LEVEL.get() });
            }
        }
        self.check_advertised()?;
        let limit = |key, reason| Err(ConfigError::Limit { key, reason });
        if self.limits.writer_queue_bytes < 4 << 20 {
            return limit("writer_queue_bytes", "less than the largest frame, 4 MiB");
        }
        if self.limits.scrub_interval_seconds == 0 {
            return limit("scrub_interval_seconds", "0: passes would follow without a pause");
        }
        if self.limits.replication_free_bytes > self.limits.publication_free_bytes {
            return limit(
                "replication_free_bytes",
                "more than publication_free_bytes: peers would be cut off before publishers",
            );
        }
        Ok(())
    }

    /// A node registers the addresses that it listens at, unless others are given.
    /// With a topology file those in the file count.
    fn check_advertised(&self) -> Result<(), ConfigError> {
        if self.control_plane.is_none() {
            return Ok(());
        }
        let client = ("client_advertise", &self.client_advertise);
        let replication = ("replication_advertise", &self.replication_advertise);
        for ((advertise, given), listen, address) in [
            (client, "client_listen", self.client_listen),
            (replication, "replication_listen", self.replication_listen),
        ] {
            if given.is_none() && address.ip().is_unspecified() {
                return Err(ConfigError::Advertise { advertise, listen, address });
            }
        }
        Ok(())
    }

    /// The node's name, checked.
    pub fn node_name(&self) -> Result<NodeName, ConfigError> {
        NodeName::parse(&self.node).map_err(|source| ConfigError::Name { key: "node", source })
    }

    /// The region's name, checked.
    pub fn region_name(&self) -> Result<RegionName, ConfigError> {
        RegionName::parse(&self.region)
            .map_err(|source| ConfigError::Name { key: "region", source })
    }

    /// The bound on fetching one source.
    pub fn source_timeout(&self) -> Duration {
        Duration::from_millis(self.source_timeout_milliseconds)
    }

    /// The configuration as TOML, for `--print-config`.
    pub fn to_toml(&self) -> String {
        toml::to_string_pretty(self).expect("every key has a TOML form")
    }
}

impl Limits {
    /// How long a call without a deadline waits for peers.
    pub fn default_deadline(&self) -> Duration {
        Duration::from_millis(self.default_deadline_milliseconds)
    }

    /// Between the beginnings of two passes over all stored data.
    pub fn scrub_interval(&self) -> Duration {
        Duration::from_secs(self.scrub_interval_seconds)
    }

    /// How long an end of the process waits for what is under way.
    pub fn drain(&self) -> Duration {
        Duration::from_millis(self.drain_milliseconds)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn good() -> Config {
        Config {
            node: "seoul-1".to_owned(),
            region: "seoul".to_owned(),
            control_plane: Some("http://127.0.0.1:7300".to_owned()),
            ..Config::default()
        }
    }

    #[test]
    fn the_printed_configuration_reads_back() {
        let config = good();
        let printed = config.to_toml();
        let read: Config = toml::from_str(&printed).expect("it reads back");
        assert_eq!(read.to_toml(), printed);
        read.validate().expect("it is valid");
    }

    #[test]
    fn an_unknown_key_is_named() {
        for (text, key) in
            [("nodes = \"a\"", "nodes"), ("[limits]\nwriter_bytes = 1", "writer_bytes")]
        {
            let error = toml::from_str::<Config>(text).expect_err("it is unknown").to_string();
            assert!(error.contains(key), "{error}");
        }
    }

    /// Nobody else could call 0.0.0.0, which would be registered.
    #[test]
    fn listening_everywhere_needs_an_address_for_others() {
        let everywhere = |port| SocketAddr::from(([0, 0, 0, 0], port));
        let client = Config { client_listen: everywhere(7200), ..good() };
        let replication =
            Config { replication_listen: "[::]:7300".parse().expect("one"), ..good() };
        for (config, key) in
            [(&client, "client_advertise"), (&replication, "replication_advertise")]
        {
            let error = config.validate().expect_err("nobody could call it").to_string();
            assert!(error.starts_with(key), "{error}");
        }
        let given = Some("seoul-1.example:7200".to_owned());
        Config { client_advertise: given, ..client.clone() }.validate().expect("it is reachable");
        // The file says where the nodes are.
        let topology_file = Some("t".into());
        Config { topology_file, control_plane: None, ..client }.validate().expect("it is known");
    }

    #[test]
    fn contradictions_are_refused() {
        let neither = Config { control_plane: None, ..good() };
        assert!(matches!(neither.validate(), Err(ConfigError::TopologySource)));
        let both = Config { topology_file: Some("t".into()), ..good() };
        assert!(matches!(both.validate(), Err(ConfigError::TopologySource)));
        let founder = Config { bootstrap: true, ..good() };
        assert!(matches!(founder.validate(), Err(ConfigError::Bootstrap)));
        let mut restless = good();
        restless.limits.scrub_interval_seconds = 0;
        let refused = restless.validate().expect_err("it would never pause").to_string();
        assert!(refused.starts_with("limits.scrub_interval_seconds"), "{refused}");
        let nameless = Config { node: String::new(), ..good() };
        assert!(matches!(nameless.validate(), Err(ConfigError::Name { key: "node", .. })));
    }
}
