//! `interlock bench publish`

use std::sync::Arc;

use anyhow::Result;
use interlock_bench::{Report, Unit};

use super::load::Load;
use super::publishing::{NoBrake, publish_stream, publish_unary};
use crate::target::Target;

#[derive(clap::Args)]
pub(crate) struct Arguments {
    #[command(flatten)]
    pub(super) load: Load,
    /// One call for each publication, without a session, as many at a time as may be in
    /// flight, instead of one stream for all.
    #[arg(long)]
    unary: bool,
}

pub(super) async fn run(target: &Target, arguments: &Arguments) -> Result<Report> {
    let Arguments { load, unary } = arguments;
    load.prepare(target).await?;
    let payloads = load.payloads();
    let published = if *unary {
        publish_unary(target, load, &payloads).await?
    } else {
        publish_stream(target, &target.region, load, &payloads, Arc::new(NoBrake)).await?
    };
    let work = if *unary { "durable publish, single calls" } else { "durable publish, streams" };
    Ok(load
        .report(work, target)
        .figure("messages", published.messages as f64, Unit::Messages)
        .figure("seconds", published.elapsed.as_secs_f64(), Unit::Seconds)
        .figure("messages_per_second", published.per_second(), Unit::PerSecond)
        .latencies("acknowledgement", published.latencies))
}
