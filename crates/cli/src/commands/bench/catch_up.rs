//! `interlock bench catch-up`

use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};
use interlock_bench::{Latencies, Payloads, Progress, Report, Unit};
use interlock_client::{Start, Subscriber, SubscriberOptions};

use super::load::Load;
use super::publishing::{NoBrake, publish_stream};
use super::subscribing::Counter;
use crate::target::Target;

#[derive(clap::Args)]
pub(crate) struct Arguments {
    #[command(flatten)]
    pub(super) load: Load,
    /// Messages that the subscriber has missed.
    #[arg(long, default_value_t = 1_000_000)]
    missed: u64,
    /// Messages a second that others publish and read meanwhile.
    #[arg(long, default_value_t = 5000)]
    live: u64,
    /// The subscriber's region; the publisher's unless given.
    #[arg(long)]
    to: Option<String>,
}

/// A subscriber leaves, so many messages are published, and it comes back with its
/// cursor while others publish and read on; they do the same before, without it.
pub(super) async fn run(target: &Target, arguments: &Arguments) -> Result<Report> {
    let Arguments { load, missed, live, to } = arguments;
    load.prepare(target).await?;
    let to = to.as_ref().unwrap_or(&target.region);
    let left_at = Start::Cursor(cursor_now(target, to, load).await?);
    let backlog = load.payloads();
    let progress = Progress::counting("publishing what is missed", *missed);
    let mut published = 0;
    while published < *missed {
        let second = load.for_seconds(1);
        let part = publish_stream(target, &target.region, &second, &backlog, Arc::new(NoBrake));
        published += part.await?.messages;
        progress.set(published);
    }
    progress.finish();

    let paced = load.at_rate(*live);
    let undisturbed = read_along(target, to, &paced).await?;
    let gateways = target.mesh.gateways(to)?;
    let catching_up = async {
        let namespace = &load.channel.namespace;
        let channels = load.subscribed();
        let begun = Instant::now();
        let subscriber =
            Counter::open(&gateways, namespace, &channels, &left_at, &backlog, false).await?;
        let counted = subscriber.finish(published).await?;
        anyhow::Ok(counted.ended.duration_since(begun))
    };
    let (took, disturbed) =
        futures_util::future::try_join(catching_up, read_along(target, to, &paced)).await?;
    let rate = published as f64 / took.as_secs_f64();
    let slower = ratio(disturbed.quantile(0.99), undisturbed.quantile(0.99));
    Ok(load
        .report("catch-up of a subscriber", target)
        .setting("to", to.clone())
        .setting("live", *live)
        .figure("missed", published as f64, Unit::Messages)
        .figure("seconds", took.as_secs_f64(), Unit::Seconds)
        .figure("messages_per_second", rate, Unit::PerSecond)
        .figure("times_the_live_rate", rate / *live as f64, Unit::Times)
        .figure("live_p99_times_the_undisturbed", slower, Unit::Times)
        .latencies("live_delivery_before", undisturbed)
        .latencies("live_delivery_meanwhile", disturbed))
}

/// Where a subscriber stands that has read everything.
async fn cursor_now(target: &Target, region: &str, load: &Load) -> Result<bytes::Bytes> {
    let options = SubscriberOptions { start: Start::Now, ..Default::default() };
    let gateways = target.mesh.gateways(region)?;
    let channels = [load.subscribed()];
    let mut subscriber = Subscriber::new(gateways, &load.channel.namespace, &channels, &options);
    let first = subscriber.next().await?.context("the subscription ended")?;
    Ok(first.cursor)
}

/// How long deliveries take at the load's rate.
async fn read_along(target: &Target, to: &str, load: &Load) -> Result<Latencies> {
    let payloads: Payloads = load.payloads();
    let gateways = target.mesh.gateways(to)?;
    let namespace = &load.channel.namespace;
    let channels = load.subscribed();
    let reader =
        Counter::open(&gateways, namespace, &channels, &Start::Now, &payloads, true).await?;
    let published =
        publish_stream(target, &target.region, load, &payloads, Arc::new(NoBrake)).await?;
    Ok(reader.finish(published.messages).await?.latencies)
}

fn ratio(one: Duration, other: Duration) -> f64 {
    one.as_secs_f64() / other.as_secs_f64().max(f64::EPSILON)
}
