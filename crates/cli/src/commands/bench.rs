//! `interlock bench`: first measurements of a running mesh.

use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};
use bytes::Bytes;
use hdrhistogram::Histogram;
use interlock_client::{
    Outgoing, Publisher, PublisherOptions, Start, Subscriber, SubscriberOptions, v1,
};
use serde_json::json;

use crate::commands::messages::DurabilityArgument;
use crate::output::print;
use crate::target::{ChannelPath, Target};

/// Bytes of a payload that carry the intended send time.
const STAMP_BYTES: usize = 8;
/// Bytes before them that tell the run.
const RUN_BYTES: usize = 8;

#[derive(clap::Subcommand)]
pub(crate) enum Command {
    /// Durable publishes per second through one `PublishStream`.
    Publish {
        /// namespace/channel
        channel: ChannelPath,
        /// How long.
        #[arg(long, default_value_t = 10)]
        seconds: u64,
        /// Payload bytes.
        #[arg(long, default_value_t = 128)]
        size: usize,
        /// Publications handed over at a time.
        #[arg(long, default_value_t = 1024)]
        batch: usize,
        #[command(flatten)]
        durability: DurabilityArgument,
    },
    /// From publishing here to a subscriber of another region, at a fixed rate.
    Latency {
        /// namespace/channel
        channel: ChannelPath,
        /// The subscriber's region.
        #[arg(long)]
        to: String,
        /// How long.
        #[arg(long, default_value_t = 10)]
        seconds: u64,
        /// Messages per second.
        #[arg(long, default_value_t = 1000)]
        rate: u64,
        /// Payload bytes.
        #[arg(long, default_value_t = 128)]
        size: usize,
    },
}

pub(crate) async fn run(target: &Target, command: Command) -> Result<()> {
    match command {
        Command::Publish { channel, seconds, size, batch, durability } => {
            publish(target, &channel, seconds, size, batch.max(1), &durability).await
        }
        Command::Latency { channel, to, seconds, rate, size } => {
            latency(target, &channel, &to, seconds, rate.max(1), size.max(RUN_BYTES + STAMP_BYTES))
                .await
        }
    }
}

async fn publish(
    target: &Target,
    channel: &ChannelPath,
    seconds: u64,
    size: usize,
    batch: usize,
    durability: &DurabilityArgument,
) -> Result<()> {
    let options = PublisherOptions { durability: durability.level(), ..Default::default() };
    let publisher =
        Publisher::new(target.mesh.push_nodes(&target.region)?, &channel.namespace, options);
    let outgoing = Outgoing {
        channel: channel.channel.clone(),
        payload: Bytes::from(vec![b'x'; size]),
        ..Default::default()
    };
    // The first answer says that session and connection stand.
    publisher.publish(vec![outgoing.clone()]).await?.await?;
    let (receipts, mut waiting) =
        tokio::sync::mpsc::unbounded_channel::<(Instant, interlock_client::Receipt)>();
    let counting = tokio::spawn(async move {
        let mut histogram = Histogram::<u64>::new(3)?;
        let mut messages = 0;
        while let Some((sent, receipt)) = waiting.recv().await {
            messages += receipt.await?.count;
            histogram.record(micros(sent.elapsed()))?;
        }
        anyhow::Ok((messages, histogram))
    });
    let started = Instant::now();
    while started.elapsed() < Duration::from_secs(seconds) {
        let receipt = publisher.publish(vec![outgoing.clone(); batch]).await?;
        receipts.send((Instant::now(), receipt))?;
    }
    drop(receipts);
    let (messages, histogram) = counting.await??;
    let elapsed = started.elapsed().as_secs_f64();
    publisher.finish().await;
    let rate = messages as f64 / elapsed;
    let value = json!({
        "work": "durable publish, PublishStream, one node",
        "region": target.region,
        "payload_bytes": size,
        "batch": batch,
        "messages": messages,
        "seconds": elapsed,
        "messages_per_second": rate,
        "batch_latency_microseconds": percentiles(&histogram),
    });
    print(target.format, &value, || {
        format!(
            "durable publish, PublishStream, {size} B: {rate:.0} messages/s ({messages} in {elapsed:.1} s); batch of {batch}: {}",
            percentiles_text(&histogram)
        )
    })
}

async fn latency(
    target: &Target,
    channel: &ChannelPath,
    to: &str,
    seconds: u64,
    rate: u64,
    size: usize,
) -> Result<()> {
    let options = SubscriberOptions { start: Start::Now, ..Default::default() };
    let gateways = target.mesh.gateways(to)?;
    let mut subscriber = Subscriber::new(
        gateways,
        &channel.namespace,
        std::slice::from_ref(&channel.channel),
        &options,
    );
    // The first response says that the subscription stands.
    subscriber.next().await?.context("the subscription ended")?;
    let publisher = Publisher::new(
        target.mesh.push_nodes(&target.region)?,
        &channel.namespace,
        PublisherOptions::default(),
    );
    // Messages of this run are told from others', such as those of a run before that
    // are still on their way. One goes ahead: when it has come, the way is free.
    let run: [u8; RUN_BYTES] = rand::random();
    let outgoing = |stamp: u64| {
        let mut payload = vec![b'x'; size];
        payload[..RUN_BYTES].copy_from_slice(&run);
        payload[RUN_BYTES..RUN_BYTES + STAMP_BYTES].copy_from_slice(&stamp.to_be_bytes());
        Outgoing { channel: channel.channel.clone(), payload: payload.into(), ..Default::default() }
    };
    drop(publisher.publish(vec![outgoing(0)]).await?);
    while !subscriber
        .next()
        .await?
        .context("the subscription ended")?
        .deliveries
        .into_iter()
        .any(|delivery| stamp_of(delivery, run).is_some())
    {}
    let total = seconds * rate;
    let origin = Instant::now();
    let receiving = tokio::spawn(async move {
        let mut histogram = Histogram::<u64>::new(3)?;
        while histogram.len() < total {
            let Some(received) = subscriber.next().await? else { bail!("the subscription ended") };
            let now = micros(origin.elapsed());
            for stamp in received.deliveries.into_iter().filter_map(|it| stamp_of(it, run)) {
                histogram.record(now.saturating_sub(stamp).max(1))?;
            }
        }
        Ok(histogram)
    });
    // Open loop: latency counts from when a message was meant to be sent, so that
    // a stall is not left out.
    for number in 0..total {
        let intended = Duration::from_nanos(number * 1_000_000_000 / rate);
        tokio::time::sleep_until((origin + intended).into()).await;
        drop(publisher.publish(vec![outgoing(micros(intended))]).await?);
    }
    let histogram = receiving.await??;
    publisher.finish().await;
    let value = json!({
        "work": "publish to remote subscriber, durable before acknowledged at both",
        "from": target.region,
        "to": to,
        "payload_bytes": size,
        "rate": rate,
        "messages": total,
        "latency_microseconds": percentiles(&histogram),
    });
    print(target.format, &value, || {
        format!(
            "publish in {} to subscriber in {to}, {size} B, {rate}/s: {}",
            target.region,
            percentiles_text(&histogram)
        )
    })
}

/// When a message of this run was meant to be sent.
fn stamp_of(delivery: v1::Delivery, run: [u8; RUN_BYTES]) -> Option<u64> {
    let Some(v1::delivery::Event::Message(message)) = delivery.event else { return None };
    let (found, rest) = message.payload.split_first_chunk::<RUN_BYTES>()?;
    let stamp = rest.first_chunk::<STAMP_BYTES>()?;
    (*found == run).then(|| u64::from_be_bytes(*stamp))
}

fn micros(duration: Duration) -> u64 {
    u64::try_from(duration.as_micros()).unwrap_or(u64::MAX)
}

fn percentiles(histogram: &Histogram<u64>) -> serde_json::Value {
    json!({
        "p50": histogram.value_at_quantile(0.5),
        "p90": histogram.value_at_quantile(0.9),
        "p99": histogram.value_at_quantile(0.99),
        "max": histogram.max(),
    })
}

fn percentiles_text(histogram: &Histogram<u64>) -> String {
    let milliseconds = |quantile: f64| histogram.value_at_quantile(quantile) as f64 / 1_000.0;
    format!(
        "p50 {:.2} ms, p90 {:.2} ms, p99 {:.2} ms, max {:.2} ms",
        milliseconds(0.5),
        milliseconds(0.9),
        milliseconds(0.99),
        histogram.max() as f64 / 1_000.0
    )
}
