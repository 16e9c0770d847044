//! The `control-plane` binary.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::Context as _;
use clap::{Args, Parser, Subcommand};
use interlock_control_plane::config::Overrides;
use interlock_control_plane::{Config, ControlPlane, health};
use interlock_rpc::tls::TlsClientConfig;
use interlock_telemetry::TelemetryConfig;
use tokio::signal::unix::{Signal, SignalKind, signal};

/// Registers push-nodes, keeps the topology, and delivers operations to regions.
#[derive(Parser)]
#[command(name = "control-plane", version, args_conflicts_with_subcommands = true)]
struct Arguments {
    #[command(subcommand)]
    command: Option<Command>,
    /// The configuration, a TOML file.
    #[arg(long, env = "INTERLOCK_CONFIG", value_name = "FILE")]
    config: Option<PathBuf>,
    /// Print the configuration that results from file, environment and flags.
    #[arg(long)]
    print_config: bool,
    #[command(flatten)]
    overrides: Overrides,
}

#[derive(Subcommand)]
enum Command {
    /// Ask a running control-plane whether it serves; exits with 0 if it does.
    Health(HealthArguments),
}

#[derive(Args)]
struct HealthArguments {
    /// Where it listens.
    #[arg(long, env = "INTERLOCK_LISTEN", default_value = "127.0.0.1:7400")]
    address: SocketAddr,
    /// Who signed its certificate; without it the connection is in the clear.
    #[arg(long, value_name = "FILE")]
    ca: Option<PathBuf>,
    /// The certificate to show.
    #[arg(long, value_name = "FILE", requires = "ca")]
    certificate: Option<PathBuf>,
    /// Its private key.
    #[arg(long, value_name = "FILE", requires = "ca")]
    private_key: Option<PathBuf>,
    /// The name in the server's certificate.
    #[arg(long, requires = "ca")]
    domain: Option<String>,
    /// How long to wait.
    #[arg(long, default_value_t = 5, value_name = "SECONDS")]
    timeout_seconds: u64,
}

#[tokio::main]
async fn main() -> ExitCode {
    let arguments = Arguments::parse();
    interlock_rpc::install_crypto_provider();
    match execute(arguments).await {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("control-plane: {}", explained(&error));
            ExitCode::FAILURE
        }
    }
}

async fn execute(arguments: Arguments) -> anyhow::Result<()> {
    if let Some(Command::Health(arguments)) = arguments.command {
        return ask_health(arguments).await;
    }
    let config = Config::load(arguments.config.as_deref(), arguments.overrides)?;
    if arguments.print_config {
        print!("{}", config.to_toml());
        return Ok(());
    }

    let telemetry = interlock_telemetry::init(&TelemetryConfig {
        log_format: config.log_format,
        log_filter: config.log_filter.clone(),
        ..TelemetryConfig::new("control-plane")
    })?;
    let mut stop = StopSignals::new().context("waiting for signals")?;

    let announce = config.announce;
    let mut running = ControlPlane::start(config).await?;
    if announce {
        println!("{}", running.announcement());
    }

    let outcome = tokio::select! {
        () = stop.received() => Ok(()),
        error = running.wait() => Err(error),
    };

    tokio::select! {
        () = running.shutdown() => {}
        // Whoever asks a second time does not want to wait.
        () = stop.received() => tracing::warn!("ending at once"),
    }
    telemetry.shutdown().await;
    Ok(outcome?)
}

async fn ask_health(arguments: HealthArguments) -> anyhow::Result<()> {
    let HealthArguments { address, ca, certificate, private_key, domain, timeout_seconds } =
        arguments;
    let tls = ca.map(|ca| TlsClientConfig { ca, certificate, private_key, domain });
    health::check(address, tls, Duration::from_secs(timeout_seconds)).await
}

/// What asks a process to end: Ctrl-C, and what init systems send.
struct StopSignals {
    interrupt: Signal,
    terminate: Signal,
}

impl StopSignals {
    fn new() -> std::io::Result<Self> {
        Ok(Self {
            interrupt: signal(SignalKind::interrupt())?,
            terminate: signal(SignalKind::terminate())?,
        })
    }

    async fn received(&mut self) {
        tokio::select! {
            _ = self.interrupt.recv() => {}
            _ = self.terminate.recv() => {}
        }
    }
}

/// An error with its causes, each said once: many repeat the one below.
fn explained(error: &anyhow::Error) -> String {
    let mut text = String::new();
    for cause in error.chain().map(ToString::to_string) {
        if text.is_empty() {
            text = cause;
        } else if !text.contains(cause.trim_end()) {
            text = format!("{text}: {cause}");
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_cause_is_said_once() {
        let error = anyhow::anyhow!("connection refused")
            .context("transport error: connection refused")
            .context("asking 127.0.0.1:1");
        assert_eq!(explained(&error), "asking 127.0.0.1:1: transport error: connection refused");
    }

    #[test]
    fn the_arguments_are_consistent() {
        use clap::CommandFactory as _;
        Arguments::command().debug_assert();
    }
}
