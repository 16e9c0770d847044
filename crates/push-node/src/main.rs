//! The `push-node` binary.

use std::process::ExitCode;
use std::time::Duration;

use anyhow::Context as _;
use clap::Parser as _;
use interlock_push_node::arguments::{Arguments, Command};
use interlock_push_node::{Config, FAILURE_EXIT_CODE, PushNode};
use interlock_rpc::channel::EndpointConfig;
use interlock_telemetry::TelemetryConfig;
use tokio::signal::unix::{Signal, SignalKind, signal};

/// How long a health check waits.
const HEALTH_TIMEOUT: Duration = Duration::from_secs(5);

#[tokio::main]
async fn main() -> anyhow::Result<ExitCode> {
    let arguments = Arguments::parse();
    interlock_rpc::install_crypto_provider();
    let config = arguments.resolve()?;
    if let Some(Command::Health { address }) = &arguments.command {
        return ask_health(&config, address.as_deref()).await;
    }
    if arguments.print_config {
        print!("{}", config.to_toml());
        return Ok(ExitCode::SUCCESS);
    }
    config.validate()?;

    let telemetry = interlock_telemetry::init(&TelemetryConfig {
        region: Some(config.region.clone()),
        node: Some(config.node.clone()),
        log_format: config.log_format,
        log_filter: config.log_filter.clone(),
        ..TelemetryConfig::new("push-node")
    })?;
    let mut stop = StopSignals::new().context("waiting for signals")?;

    let mut running = tokio::select! {
        started = PushNode::start(config) => started?,
        // Still waiting for a control-plane, for example.
        () = stop.received() => return Ok(ExitCode::SUCCESS),
    };
    if arguments.announce {
        println!("{}", running.announcement());
    }

    let failure = tokio::select! {
        () = stop.received() => None,
        failure = running.wait() => Some(failure),
    };
    let code = match failure {
        None => {
            tokio::select! {
                () = running.shutdown() => {}
                // Whoever asks a second time does not want to wait.
                () = stop.received() => tracing::warn!("ending at once"),
            }
            ExitCode::SUCCESS
        }
        Some(failure) => {
            tracing::error!(%failure, "the node has failed and exits");
            running.abort().await;
            ExitCode::from(FAILURE_EXIT_CODE)
        }
    };
    telemetry.shutdown().await;
    Ok(code)
}

async fn ask_health(config: &Config, address: Option<&str>) -> anyhow::Result<ExitCode> {
    let address = address.map_or_else(|| config.client_listen.to_string(), str::to_owned);
    let endpoint = EndpointConfig::new(address).tls(config.peer_tls.clone());
    let asked = interlock_rpc::health::check(&endpoint);
    tokio::time::timeout(HEALTH_TIMEOUT, asked).await.context("no answer in time")??;
    Ok(ExitCode::SUCCESS)
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
