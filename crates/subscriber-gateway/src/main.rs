//! The `subscriber-gateway` binary.

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::Context as _;
use clap::{Parser, Subcommand};
use interlock_rpc::process::{HealthArguments, StopSignals, explained};
use interlock_subscriber_gateway::{Config, Flags, Gateway};
use interlock_telemetry::TelemetryConfig;

/// Serves a region's subscribers from one upstream copy of each message.
#[derive(Parser)]
#[command(name = "subscriber-gateway", version)]
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
    /// Ask a running gateway whether it serves; exits with 0 if it does.
    Health(HealthArguments),
}

#[tokio::main]
async fn main() -> ExitCode {
    let arguments = Arguments::parse();
    interlock_rpc::install_crypto_provider();
    match execute(arguments).await {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("subscriber-gateway: {}", explained(error.as_ref()));
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
    config.validate()?;

    let telemetry = interlock_telemetry::init(&TelemetryConfig {
        region: Some(config.region.clone()),
        node: Some(config.gateway.clone()),
        log_format: config.log_format,
        log_filter: config.log_filter.clone(),
        ..TelemetryConfig::new("subscriber-gateway")
    })?;
    let mut stop = StopSignals::new().context("waiting for signals")?;

    let running = tokio::select! {
        started = Gateway::start(config) => started?,
        () = stop.received() => return Ok(()),
    };
    tracing::info!(listen = %running.listen(), metrics = %running.metrics(), "serving");
    if arguments.announce {
        println!("{}", running.announcement());
    }

    stop.received().await;
    tracing::info!("draining");
    tokio::select! {
        () = running.shutdown() => {}
        // Whoever asks a second time does not want to wait.
        () = stop.received() => tracing::warn!("ending at once"),
    }
    telemetry.shutdown().await;
    Ok(())
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
