//! Flags and environment variables, which outweigh the file.

use std::net::SocketAddr;
use std::path::PathBuf;

use clap::{Args, Parser, Subcommand};
use interlock_rpc::configuration::{self, ConfigurationError};
use interlock_rpc::process::HealthArguments;
use interlock_telemetry::LogFormat;
use serde::Serialize;

use crate::config::Config;

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
    flags: Flags,
}

/// What the binary can do beside serving.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Ask a running push-node for its health; exits 0 if it serves.
    Health(HealthArguments),
}

/// The keys of the configuration that flags and environment may set.
#[derive(Debug, Args, Serialize)]
struct Flags {
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
    #[arg(
        long,
        env = "INTERLOCK_BOOTSTRAP",
        value_name = "BOOL",
        num_args = 0..=1,
        require_equals = true,
        default_missing_value = "true"
    )]
    bootstrap: Option<bool>,
    /// The base URL of the region's web server.
    #[arg(long, env = "INTERLOCK_WEB_ORIGIN")]
    web_origin: Option<String>,
    /// Let sources come from private and loopback addresses.
    #[arg(
        long,
        env = "INTERLOCK_ALLOW_PRIVATE_SOURCES",
        value_name = "BOOL",
        num_args = 0..=1,
        require_equals = true,
        default_missing_value = "true"
    )]
    allow_private_sources: Option<bool>,
    /// How many redirects a fetch of a source follows.
    #[arg(long, env = "INTERLOCK_SOURCE_REDIRECTS")]
    source_redirects: Option<u8>,
    /// Certificate authorities (PEM) that sources may be signed by, besides the
    /// system's.
    #[arg(long, env = "INTERLOCK_SOURCE_CA")]
    source_ca: Option<PathBuf>,
    /// Say that this node understands no more than an older build, so that it can be
    /// put back.
    #[arg(long, env = "INTERLOCK_FEATURE_LEVEL")]
    feature_level: Option<u32>,
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
    pub fn resolve(&self) -> Result<Config, ConfigurationError> {
        let mut config: Config = configuration::load(self.config.as_deref(), &self.flags)?;
        // One source of the topology takes the place of the other.
        if self.flags.control_plane.is_some() {
            config.topology_file = None;
        }
        if self.flags.topology_file.is_some() {
            config.control_plane = None;
        }
        Ok(config)
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

    /// What the file switches on, a flag switches off, and the other way round.
    #[test]
    fn switches_outweigh_the_file_both_ways() {
        let directory = tempfile::tempdir().expect("a temporary folder");
        let path = directory.path().join("node.toml");
        let resolved = |file: &str, flags: &[&str]| {
            std::fs::write(&path, file).expect("it can be written");
            let plain = ["push-node", "--config", path.to_str().expect("a plain path")];
            let arguments = Arguments::parse_from(plain.iter().chain(flags));
            let config = arguments.resolve().expect("it reads");
            (config.bootstrap, config.allow_private_sources)
        };
        let on = "bootstrap = true\nallow_private_sources = true\n";
        assert_eq!(resolved(on, &[]), (true, true));
        assert_eq!(resolved(on, &["--bootstrap=false"]), (false, true));
        assert_eq!(resolved(on, &["--allow-private-sources=false"]), (true, false));
        assert_eq!(resolved("", &[]), (false, false));
        assert_eq!(resolved("", &["--bootstrap", "--allow-private-sources=true"]), (true, true));
    }
}
