//! `nats-bench fan-out`

use std::num::NonZeroU64;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};
use async_nats::{Client, Subject};
use futures_util::{StreamExt as _, TryStreamExt as _, stream};
use interlock_bench::{Latencies, Payloads, Progress, Report, Unit};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

use crate::moments::Moments;
use crate::server::{Configuration, Leafnodes, Server};
use crate::settings::{Installation, Messages, rate_setting};
use crate::streams::{self, SUBJECT};
use crate::subscriber::Counter;

/// Subscriptions that are opened at a time.
const OPENED_AT_A_TIME: usize = 32;
/// Of so many subscribers one measures latencies.
const MEASURED_OF: usize = 16;
/// Between two looks at how far the slowest subscriber is.
const LOOK: Duration = Duration::from_millis(1);
/// Published between two looks.
const PIECE: u64 = 256;
/// Files beside a connection for each subscriber.
const OTHER_FILES: u64 = 64;

#[derive(clap::Args)]
pub(crate) struct Arguments {
    #[command(flatten)]
    messages: Messages,
    /// Messages a second; as the window lets it unless given.
    #[arg(long)]
    rate: Option<NonZeroU64>,
    /// Subscribers, each with a connection of its own.
    #[arg(long, default_value_t = 1000)]
    subscribers: usize,
    /// Without a rate: publish no more than so many ahead of the slowest subscriber.
    #[arg(long, default_value_t = 2048)]
    window: u64,
}

pub(crate) async fn run(installation: &Installation, arguments: &Arguments) -> Result<Report> {
    let Arguments { messages, rate, subscribers, window } = arguments;
    let report = messages.report("core NATS to many subscribers", installation)?;
    allow_files(*subscribers as u64 + OTHER_FILES)?;
    let folder = installation.folder()?;
    let configuration = Configuration { name: "A", jetstream: None, leafnodes: Leafnodes::None };
    let server = Server::start(installation, folder.path(), &configuration).await?;
    let payloads = messages.payloads();
    let open = |index: usize| {
        let measured = index.is_multiple_of(MEASURED_OF);
        Counter::open(&server.clients, SUBJECT, &payloads, measured)
    };
    let opened: Vec<Counter> =
        stream::iter(0..*subscribers).map(open).buffered(OPENED_AT_A_TIME).try_collect().await?;
    // With a rate the loop is open: nothing holds it up.
    let slowest = rate.is_none().then_some(Slowest { subscribers: &opened, window: *window });

    let client = streams::connect(&server).await?;
    let begun = Instant::now();
    let moments = Moments::new(*rate, begun, messages.time(), 0, 1);
    let progress = Progress::timed("publishing", messages.time());
    let published = publish(&client, payloads, moments, slowest, begun, &progress).await?;
    progress.finish();
    let mut ended = begun;
    let mut latencies = Latencies::new();
    for subscriber in opened {
        let counted = subscriber.finish(published).await?;
        ended = ended.max(counted.ended);
        counted.latencies.iter().for_each(|it| latencies.merge(it));
    }
    let elapsed = ended.duration_since(begun).as_secs_f64();
    let deliveries = published as f64 * *subscribers as f64;
    Ok(report
        .setting("mode", "core, not stored")
        .setting("rate", rate_setting(*rate, "as the window lets it"))
        .setting("subscribers", *subscribers)
        .setting("window", *window)
        .figure("messages", published as f64, Unit::Messages)
        .figure("deliveries", deliveries, Unit::Messages)
        .figure("seconds", elapsed, Unit::Seconds)
        .figure("deliveries_per_second", deliveries / elapsed, Unit::PerSecond)
        .latencies("delivery", latencies))
}

async fn publish(
    client: &Client,
    mut payloads: Payloads,
    mut moments: Moments,
    slowest: Option<Slowest<'_>>,
    begun: Instant,
    progress: &Progress,
) -> Result<u64> {
    let subject = Subject::from_static(SUBJECT);
    let mut due = Vec::new();
    let mut published = 0;
    loop {
        if let Some(slowest) = &slowest
            && !slowest.lets(published, PIECE).await
        {
            break;
        }
        if moments.next(PIECE as usize, &mut due).await == 0 {
            break;
        }
        published += due.len() as u64;
        for moment in due.drain(..) {
            let sent = client.publish(subject.clone(), payloads.make(moment));
            sent.await.context("cannot publish")?;
        }
        progress.tick(begun);
    }
    // Where the connection is lost, the subscribers say so.
    let _ = client.flush().await;
    Ok(published)
}

/// Keeps the publisher near the slowest subscriber: else what is measured is how the
/// server drops those that fell behind.
struct Slowest<'a> {
    subscribers: &'a [Counter],
    window: u64,
}

impl Slowest<'_> {
    /// Waits until so many more may be published; none may once a subscriber gave up.
    async fn lets(&self, published: u64, more: u64) -> bool {
        let needed = (published + more).saturating_sub(self.window.max(more));
        while self.subscribers.iter().any(|subscriber| subscriber.messages() < needed) {
            if self.subscribers.iter().any(Counter::failed) {
                return false;
            }
            tokio::time::sleep(LOOK).await;
        }
        true
    }
}

/// Lets this process, and the server that it starts, have so many files open.
fn allow_files(count: u64) -> Result<()> {
    let Rlimit { current, maximum } = getrlimit(Resource::Nofile);
    if current.is_none_or(|current| current >= count) {
        return Ok(());
    }
    setrlimit(Resource::Nofile, Rlimit { current: Some(count), maximum }).with_context(|| {
        format!("{count} files have to be open at a time: raise the limit (ulimit -n {count})")
    })
}
