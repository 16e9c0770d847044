//! `interlock bench mixed`

use std::sync::Arc;
use std::time::Instant;

use anyhow::Result;
use futures_util::future::try_join_all;
use interlock_bench::{Latencies, Report, Unit};
use interlock_client::Start;

use super::load::Load;
use super::publishing::{NoBrake, publish_stream};
use super::subscribing::Counter;
use crate::target::Target;

#[derive(clap::Args)]
pub(crate) struct Arguments {
    #[command(flatten)]
    pub(super) load: Load,
    /// Subscribers in each region, each with a connection of its own.
    #[arg(long, default_value_t = 10)]
    subscribers: usize,
}

/// Publishes in each region what the load says, and reads all of it in each.
pub(super) async fn run(target: &Target, arguments: &Arguments) -> Result<Report> {
    let Arguments { load, subscribers } = arguments;
    load.prepare(target).await?;
    let payloads = load.payloads();
    let regions: Vec<&str> = target.mesh.regions().collect();
    let channels = load.subscribed();
    let mut opened = Vec::new();
    for region in &regions {
        let gateways = target.mesh.gateways(region)?;
        for _ in 0..*subscribers {
            let namespace = &load.channel.namespace;
            opened.push(
                Counter::open(&gateways, namespace, &channels, &Start::Now, &payloads, true)
                    .await?,
            );
        }
    }
    let begun = Instant::now();
    let publishing = regions
        .iter()
        .map(|region| publish_stream(target, region, load, &payloads, Arc::new(NoBrake)));
    let published = try_join_all(publishing).await?;
    let messages: u64 = published.iter().map(|it| it.messages).sum();
    let mut acknowledgements = Latencies::new();
    published.iter().for_each(|it| acknowledgements.merge(&it.latencies));
    let (mut deliveries, mut ended) = (Latencies::new(), begun);
    for subscriber in opened {
        let counted = subscriber.finish(messages).await?;
        ended = ended.max(counted.ended);
        deliveries.merge(&counted.latencies);
    }
    let elapsed = ended.duration_since(begun).as_secs_f64();
    let delivered = deliveries.count() as f64;
    Ok(load
        .report("publishers and subscribers in every region", target)
        .setting("regions", regions.len())
        .setting("subscribers", subscribers * regions.len())
        .figure("messages", messages as f64, Unit::Messages)
        .figure("deliveries", delivered, Unit::Messages)
        .figure("seconds", elapsed, Unit::Seconds)
        .figure("messages_per_second", messages as f64 / elapsed, Unit::PerSecond)
        .figure("deliveries_per_second", delivered / elapsed, Unit::PerSecond)
        .latencies("acknowledgement", acknowledgements)
        .latencies("delivery", deliveries))
}
