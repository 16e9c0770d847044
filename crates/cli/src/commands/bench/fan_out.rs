//! `interlock bench fan-out`

use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::Result;
use futures_util::{StreamExt as _, TryStreamExt as _, stream};
use interlock_bench::{Latencies, Report, Unit};
use interlock_client::Start;

use super::load::Load;
use super::publishing::{Brake, publish_stream};
use super::subscribing::{Count, Counter};
use crate::target::Target;

/// Subscriptions that are opened at a time.
const OPENED_AT_A_TIME: usize = 32;
/// Of so many subscribers one measures latencies.
const MEASURED_OF: usize = 16;
/// Between two looks at how far the slowest subscriber is.
const LOOK: Duration = Duration::from_millis(1);

#[derive(clap::Args)]
pub(crate) struct Arguments {
    #[command(flatten)]
    pub(super) load: Load,
    /// Subscribers, each with a connection of its own.
    #[arg(long, default_value_t = 1000)]
    subscribers: usize,
    /// Their region; the publisher's unless given.
    #[arg(long)]
    to: Option<String>,
    /// Without a rate: publish no more than so many ahead of the slowest subscriber.
    #[arg(long, default_value_t = 2048)]
    window: u64,
}

pub(super) async fn run(target: &Target, arguments: &Arguments) -> Result<Report> {
    let Arguments { load, subscribers, to, window } = arguments;
    load.prepare(target).await?;
    let payloads = load.payloads();
    let to = to.as_ref().unwrap_or(&target.region);
    let gateways = target.mesh.gateways(to)?;
    let namespace = &load.channel.namespace;
    let channels = load.subscribed();
    let open = |index: usize| {
        let measured = index.is_multiple_of(MEASURED_OF);
        Counter::open(&gateways, namespace, &channels, &Start::Now, &payloads, measured)
    };
    let opened: Vec<Counter> =
        stream::iter(0..*subscribers).map(open).buffered(OPENED_AT_A_TIME).try_collect().await?;
    let counts = opened.iter().map(|subscriber| Arc::clone(&subscriber.count)).collect();
    let slowest = Slowest { counts, window: *window };

    let begun = Instant::now();
    let published =
        publish_stream(target, &target.region, load, &payloads, Arc::new(slowest)).await?;
    let mut ended = begun;
    let mut latencies = Latencies::new();
    for subscriber in opened {
        let counted = subscriber.finish(published.messages).await?;
        ended = ended.max(counted.ended);
        latencies.merge(&counted.latencies);
    }
    let elapsed = ended.duration_since(begun).as_secs_f64();
    let deliveries = published.messages as f64 * *subscribers as f64;
    Ok(load
        .report("one gateway to many subscribers", target)
        .setting("to", to.clone())
        .setting("subscribers", *subscribers)
        .setting("window", *window)
        .figure("messages", published.messages as f64, Unit::Messages)
        .figure("deliveries", deliveries, Unit::Messages)
        .figure("seconds", elapsed, Unit::Seconds)
        .figure("deliveries_per_second", deliveries / elapsed, Unit::PerSecond)
        .latencies("acknowledgement", published.latencies)
        .latencies("delivery", latencies))
}

/// Keeps a publisher near the slowest subscriber: else what is measured is how one that
/// fell behind reads from the disk.
struct Slowest {
    counts: Vec<Arc<Count>>,
    window: u64,
}

impl Brake for Slowest {
    async fn wait(&self, published: u64, more: u64) {
        let needed = (published + more).saturating_sub(self.window.max(more));
        while self.counts.iter().any(|count| count.messages() < needed) {
            tokio::time::sleep(LOOK).await;
        }
    }
}
