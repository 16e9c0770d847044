//! The `control-plane` binary.

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::Context as _;
use clap::{Parser, Subcommand};
use interlock_control_plane::config::Flags;
use interlock_control_plane::{Config, ControlPlane};
use interlock_rpc::process::{HealthArguments, StopSignals, explained};
use interlock_telemetry::TelemetryConfig;

/// Registers push-nodes, keeps the topology, and delivers operations to regions.
#[derive(Parser)]
#[command(name = "control-plane", version)]
struct Arguments {
    #[command(subcommand)]
    command: Option<Command>,
    /// The configuration, a TOML file.
    #[arg(long, env = "INTERLOCK_CONFIG", value_name = "FILE", global = true)]
    config: Option<PathBuf>,
    /// Print the configuration that results from file, environment and flags.
    #[arg(long)]
    print_config: bool,
    /// Write one JSON line with the addresses to stdout once it listens.
    #[arg(long)]
    announce: bool,
    #[command(flatten)]
    flags: Flags,
}

#[derive(Subcommand)]
enum Command {
    /// Ask a running control-plane whether it serves; exits with 0 if it does.
    Health(HealthArguments),
}

#[tokio::main]
async fn main() -> ExitCode {
    let arguments = Arguments::parse();
    interlock_rpc::install_crypto_provider();
    match execute(arguments).await {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("control-plane: {}", explained(error.as_ref()));
            ExitCode::FAILURE
        }
    }
}

async fn execute(arguments: Arguments) -> anyhow::Result<()> {
    let config = Config::load(arguments.config.as_deref(), &arguments.flags)?;
    if let Some(Command::Health(arguments)) = arguments.command {
        return Ok(arguments.ask(config.listen).await?);
    }
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

    let mut running = ControlPlane::start(config).await?;
    if arguments.announce {
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_arguments_are_consistent() {
        use clap::CommandFactory as _;
        Arguments::command().debug_assert();
    }
}
