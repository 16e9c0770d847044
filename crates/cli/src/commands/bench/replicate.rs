//! `interlock bench replicate`

use std::sync::Arc;
use std::time::Instant;

use anyhow::Result;
use interlock_bench::{Report, Unit};
use interlock_client::Start;

use super::load::Load;
use super::publishing::{NoBrake, publish_stream};
use super::subscribing::Counter;
use crate::target::Target;

#[derive(clap::Args)]
pub(crate) struct Arguments {
    #[command(flatten)]
    pub(super) load: Load,
    /// The subscriber's region.
    #[arg(long)]
    to: String,
}

pub(super) async fn run(target: &Target, arguments: &Arguments) -> Result<Report> {
    let Arguments { load, to } = arguments;
    load.prepare(target).await?;
    let payloads = load.payloads();
    let gateways = target.mesh.gateways(to)?;
    let namespace = &load.channel.namespace;
    let channels = load.subscribed();
    let subscriber =
        Counter::open(&gateways, namespace, &channels, &Start::Now, &payloads, true).await?;
    let begun = Instant::now();
    let published =
        publish_stream(target, &target.region, load, &payloads, Arc::new(NoBrake)).await?;
    let counted = subscriber.finish(published.messages).await?;
    let elapsed = counted.ended.duration_since(begun).as_secs_f64();
    Ok(load
        .report("publish to a subscriber of another region", target)
        .setting("to", to.clone())
        .figure("messages", published.messages as f64, Unit::Messages)
        .figure("seconds", elapsed, Unit::Seconds)
        .figure("messages_per_second", published.messages as f64 / elapsed, Unit::PerSecond)
        .latencies("acknowledgement", published.latencies)
        .latencies("delivery", counted.latencies))
}
