//! Flags and environment variables, which outweigh the file.

use std::net::SocketAddr;
use std::path::PathBuf;

use clap::{ArgAction, Parser, Subcommand};
use interlock_telemetry::LogFormat;

use crate::config::{Config, ConfigError};

/// Interlock's push-node: accepts messages in its region, makes them durable, and
/// drives them to every other member.
#[derive(Debug, Parser)]
#[command(name = "push-node", version)]
pub struct Arguments {
    /// What to do instead of serving.
    #[command(subcommand)]
    pub command: Option<Command>,
    /// The configuration file, TOML.
    #[arg(long, env = "INTERLOCK_CONFIG", global = true)]
    pub config: Option<PathBuf>,
    /// Print the configuration that results from file, environment and flags, and
    /// exit.
    #[arg(long)]
    pub print_config: bool,
    /// Write one JSON line with the addresses to stdout once they listen.
    #[arg(long)]
    pub announce: bool,
    #[command(flatten)]
    overrides: Overrides,
}

/// What the binary can do beside serving.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Ask a running push-node for its health; exits 0 if it serves.
    Health {
        /// Its client address; the configured one if absent.
        #[arg(long)]
        address: Option<String>,
    },
}

#[derive(Debug, clap::Args)]
struct Overrides {
    /// The node's name.
    #[arg(long, env = "INTERLOCK_NODE")]
    node: Option<String>,
    /// The region it stands in.
    #[arg(long, env = "INTERLOCK_REGION")]
    region: Option<String>,
    /// Where its database lives.
    #[arg(long, env = "INTERLOCK_DATA_DIR")]
    data_dir: Option<PathBuf>,
    /// Where gateways and clients call.
    #[arg(long, env = "INTERLOCK_CLIENT_LISTEN")]
    client_listen: Option<SocketAddr>,
    /// Where peers replicate to.
    #[arg(long, env = "INTERLOCK_REPLICATION_LISTEN")]
    replication_listen: Option<SocketAddr>,
    /// Where Prometheus and the kubelet call.
    #[arg(long, env = "INTERLOCK_METRICS_LISTEN")]
    metrics_listen: Option<SocketAddr>,
    /// The client address as others reach it.
    #[arg(long, env = "INTERLOCK_CLIENT_ADVERTISE")]
    client_advertise: Option<String>,
    /// The replication address as peers reach it.
    #[arg(long, env = "INTERLOCK_REPLICATION_ADVERTISE")]
    replication_advertise: Option<String>,
    /// The control-plane's address.
    #[arg(long, env = "INTERLOCK_CONTROL_PLANE", conflicts_with = "topology_file")]
    control_plane: Option<String>,
    /// A topology file, instead of a control-plane.
    #[arg(long, env = "INTERLOCK_TOPOLOGY_FILE")]
    topology_file: Option<PathBuf>,
    /// With a topology file: this empty database founds its namespaces.
    #[arg(long, env = "INTERLOCK_BOOTSTRAP", action = ArgAction::SetTrue)]
    bootstrap: bool,
    /// The base URL of the region's web server.
    #[arg(long, env = "INTERLOCK_WEB_ORIGIN")]
    web_origin: Option<String>,
    /// Let sources come from private and loopback addresses.
    #[arg(long, env = "INTERLOCK_ALLOW_PRIVATE_SOURCES", action = ArgAction::SetTrue)]
    allow_private_sources: bool,
    /// How many redirects a fetch of a source follows.
    #[arg(long, env = "INTERLOCK_SOURCE_REDIRECTS")]
    source_redirects: Option<u8>,
    /// Certificate authorities (PEM) that sources may be signed by, besides the
    /// system's.
    #[arg(long, env = "INTERLOCK_SOURCE_CA")]
    source_ca: Option<PathBuf>,
    /// Log lines: text or json.
    #[arg(long, env = "INTERLOCK_LOG_FORMAT")]
    log_format: Option<LogFormat>,
    /// What is logged, as in RUST_LOG.
    #[arg(long, env = "INTERLOCK_LOG_FILTER")]
    log_filter: Option<String>,
}

impl Arguments {
    /// The configuration that results: flag over environment over file over
    /// default. Not yet validated.
    pub fn resolve(&self) -> Result<Config, ConfigError> {
        let mut config = match &self.config {
            Some(path) => Config::from_file(path)?,
            None => Config::default(),
        };
        self.overrides.apply(&mut config);
        Ok(config)
    }
}

impl Overrides {
    fn apply(&self, config: &mut Config) {
        fn set<T: Clone>(target: &mut T, value: &Option<T>) {
            if let Some(value) = value {
                target.clone_from(value);
            }
        }
        fn set_optional<T: Clone>(target: &mut Option<T>, value: &Option<T>) {
            if value.is_some() {
                target.clone_from(value);
            }
        }
        set(&mut config.node, &self.node);
        set(&mut config.region, &self.region);
        set(&mut config.data_dir, &self.data_dir);
        set(&mut config.client_listen, &self.client_listen);
        set(&mut config.replication_listen, &self.replication_listen);
        set_optional(&mut config.metrics_listen, &self.metrics_listen);
        set_optional(&mut config.client_advertise, &self.client_advertise);
        set_optional(&mut config.replication_advertise, &self.replication_advertise);
        // One source of the topology takes the place of the other.
        if self.control_plane.is_some() {
            config.control_plane.clone_from(&self.control_plane);
            config.topology_file = None;
        }
        if self.topology_file.is_some() {
            config.topology_file.clone_from(&self.topology_file);
            config.control_plane = None;
        }
        config.bootstrap |= self.bootstrap;
        set_optional(&mut config.web_origin, &self.web_origin);
        config.allow_private_sources |= self.allow_private_sources;
        set(&mut config.source_redirects, &self.source_redirects);
        set_optional(&mut config.source_ca, &self.source_ca);
        set(&mut config.log_format, &self.log_format);
        set(&mut config.log_filter, &self.log_filter);
    }
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory as _;

    use super::*;

    #[test]
    fn the_flags_are_consistent() {
        Arguments::command().debug_assert();
    }

    #[test]
    fn flags_outweigh_the_file() {
        let directory = tempfile::tempdir().expect("a temporary folder");
        let path = directory.path().join("node.toml");
        std::fs::write(&path, "node = \"a\"\nregion = \"r\"\ncontrol_plane = \"http://c\"\n")
            .expect("it can be written");
        let arguments = Arguments::parse_from([
            "push-node",
            "--config",
            path.to_str().expect("a plain path"),
            "--node",
            "b",
            "--topology-file",
            "t.toml",
        ]);
        let config = arguments.resolve().expect("it reads");
        assert_eq!((config.node.as_str(), config.region.as_str()), ("b", "r"));
        assert!(config.control_plane.is_none());
        config.validate().expect("it is valid");
    }
}
