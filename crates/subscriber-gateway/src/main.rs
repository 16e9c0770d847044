//! `subscriber-gateway`: telemetry, configuration, build, run, drain.

use std::path::PathBuf;

use anyhow::Context as _;
use clap::{Parser, Subcommand};
use interlock_rpc::channel::EndpointConfig;
use interlock_subscriber_gateway::{Config, Flags, Gateway};
use interlock_telemetry::TelemetryConfig;
use tokio::signal::unix::{SignalKind, signal};

/// Interlock's subscriber-gateway.
#[derive(Parser)]
#[command(name = "subscriber-gateway", version, about)]
struct Arguments {
    /// The configuration file.
    #[arg(long, env = "INTERLOCK_CONFIG", global = true)]
    config: Option<PathBuf>,
    /// Print the configuration as it results from file, environment and flags, and exit.
    #[arg(long)]
    print_config: bool,
    /// Print one JSON line with the addresses once it listens.
    #[arg(long)]
    announce: bool,
    #[command(flatten)]
    flags: Flags,
    #[command(subcommand)]
    command: Option<Command>,
}

#[derive(Subcommand)]
enum Command {
    /// Ask a running gateway whether it serves; exits 0 if it does.
    Health {
        /// Where it listens, `host:port`.
        #[arg(long, default_value = "127.0.0.1:7020")]
        address: String,
    },
}

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let arguments = Arguments::parse();
    if let Some(Command::Health { address }) = &arguments.command {
        return health(address).await;
    }
    let config = Config::load(arguments.config.as_ref(), &arguments.flags)?;
    if arguments.print_config {
        print!("{}", toml::to_string_pretty(&config)?);
        return Ok(());
    }
    interlock_rpc::install_crypto_provider();
    let telemetry = interlock_telemetry::init(&TelemetryConfig {
        region: Some(config.region.clone()),
        node: Some(config.name.clone()),
        log_format: config.log_format,
        log_filter: config.log_filter.clone(),
        ..TelemetryConfig::new("subscriber-gateway")
    })?;

    // Signals count from here on, also while it starts.
    let mut interrupt = signal(SignalKind::interrupt())?;
    let mut terminate = signal(SignalKind::terminate())?;
    let running = Gateway::start(config).await?;
    tracing::info!(listen = %running.listen(), metrics = %running.metrics(), "serving");
    if arguments.announce {
        let line = serde_json::json!({
            "event": "listening",
            "service": "subscriber-gateway",
            "listen": running.listen().to_string(),
            "metrics": running.metrics().to_string(),
        });
        println!("{line}");
    }
    tokio::select! {
        _ = interrupt.recv() => {}
        _ = terminate.recv() => {}
    }
    tracing::info!("draining");
    running.shutdown().await;
    telemetry.shutdown().await;
    Ok(())
}

async fn health(address: &str) -> anyhow::Result<()> {
    interlock_rpc::health::check(&EndpointConfig::new(address))
        .await
        .with_context(|| format!("{address} does not serve"))
}
