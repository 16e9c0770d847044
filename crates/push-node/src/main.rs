//! The `push-node` binary.

use std::process::ExitCode;

use anyhow::Context as _;
use clap::Parser as _;
use interlock_push_node::arguments::{Arguments, Command};
use interlock_push_node::{FAILURE_EXIT_CODE, NodeFailure, PushNode, StartError};
use interlock_rpc::process::{StopSignals, explained};
use interlock_telemetry::TelemetryConfig;

#[tokio::main]
async fn main() -> ExitCode {
    let arguments = Arguments::parse();
    interlock_rpc::install_crypto_provider();
    match execute(arguments).await {
        Ok(code) => code,
        Err(error) => {
            eprintln!("push-node: {}", explained(error.as_ref()));
            ExitCode::FAILURE
        }
    }
}

async fn execute(arguments: Arguments) -> anyhow::Result<ExitCode> {
    let config = arguments.resolve()?;
    if let Some(Command::Health(arguments)) = arguments.command {
        arguments.ask(config.client_listen).await?;
        return Ok(ExitCode::SUCCESS);
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
        started = PushNode::start(config) => match started {
            // Nothing is left to do, and starting again would change nothing.
            Err(left @ StartError::Left { .. }) => {
                tracing::info!("{left}");
                return Ok(ExitCode::SUCCESS);
            }
            started => started?,
        },
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
        Some(NodeFailure::Left(left)) => {
            tracing::info!("{left}");
            running.abort().await;
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
