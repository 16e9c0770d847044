//! `nats-bench`: what nats-server can do on the machine on which a mesh was measured,
//! by the same pace, payloads and report as `interlock bench`.
//!
//! It starts the servers itself, drives them by the fastest client code that was found
//! for each work, and prints one report.

mod catch_up;
mod fan_out;
mod moments;
mod parser;
mod publish;
mod publishing;
mod replicate;
mod server;
mod settings;
mod streams;
mod subscriber;

use anyhow::{Context as _, Result, bail};
use clap::Parser as _;
use interlock_bench::Report;
use tokio::signal::unix::{SignalKind, signal};

use settings::{Format, Installation};

/// Measures nats-server: starts it, runs one work, prints one report.
#[derive(clap::Parser)]
#[command(name = "nats-bench", version)]
struct Arguments {
    #[command(flatten)]
    installation: Installation,
    /// How the report is printed.
    #[arg(short, long, global = true, value_enum, default_value_t = Format::Text)]
    output: Format,
    #[command(subcommand)]
    work: Work,
}

#[derive(clap::Subcommand)]
enum Work {
    /// Publications a second, stored before they are acknowledged.
    Publish(publish::Arguments),
    /// From publishing at one server to a mirror, or its consumer, at another.
    Replicate(replicate::Arguments),
    /// Core NATS to many subscribers, each with a connection of its own.
    FanOut(fan_out::Arguments),
    /// A mirror that was away fetches what it missed while others read along.
    CatchUp(catch_up::Arguments),
}

#[tokio::main]
async fn main() -> Result<()> {
    let Arguments { installation, output, work } = Arguments::parse();
    // Whatever ends it, the servers are ended and the folder is removed where the work
    // is dropped.
    let report = tokio::select! {
        report = run(&installation, work) => report?,
        ended = told_to_end() => {
            ended?;
            bail!("told to end before the work was done");
        }
    };
    match output {
        Format::Json => println!("{}", report.to_json()),
        Format::Text => println!("{}", report.to_text()),
    }
    Ok(())
}

async fn run(installation: &Installation, work: Work) -> Result<Report> {
    match work {
        Work::Publish(arguments) => publish::run(installation, &arguments).await,
        Work::Replicate(arguments) => replicate::run(installation, &arguments).await,
        Work::FanOut(arguments) => fan_out::run(installation, &arguments).await,
        Work::CatchUp(arguments) => catch_up::run(installation, &arguments).await,
    }
}

async fn told_to_end() -> Result<()> {
    let listening = || "cannot listen for signals";
    let mut interrupt = signal(SignalKind::interrupt()).with_context(listening)?;
    let mut terminate = signal(SignalKind::terminate()).with_context(listening)?;
    tokio::select! {
        _ = interrupt.recv() => {}
        _ = terminate.recv() => {}
    }
    Ok(())
}
