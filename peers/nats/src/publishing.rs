//! Publishers under load, and how long their acknowledgements took.

mod atomic;
mod fast;
mod single;

use std::num::NonZeroU64;
use std::time::{Duration, Instant};

use anyhow::{Result, bail};
use async_nats::Client;
use interlock_bench::{Latencies, Payloads, Progress, Report};
use tokio::task::JoinSet;

use crate::moments::Moments;
use crate::server::Server;
use crate::settings::{name_of, rate_setting};
use crate::streams;

/// How long no acknowledgement may come before what is missing counts as lost.
const PATIENCE: Duration = Duration::from_secs(60);

/// How messages are published to a stream.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum Mode {
    /// Each by itself, with an acknowledgement of its own.
    Single,
    /// In batches that are stored as a whole (ADR-50, since 2.12).
    Atomic,
    /// In one long batch that is stored as it comes (ADR-50, since 2.14).
    Fast,
}

/// How much of it.
#[derive(clap::Args, Clone, Debug)]
pub(crate) struct Publishing {
    /// How messages are published.
    #[arg(long, value_enum, default_value_t = Mode::Single)]
    pub(crate) mode: Mode,
    /// Messages a second, of all publishers together; as many as are acknowledged unless
    /// given. Not for fast batches, which are acknowledged by the hundred.
    #[arg(long)]
    pub(crate) rate: Option<NonZeroU64>,
    /// The most messages without an acknowledgement, single or in fast batches, of all
    /// publishers together.
    #[arg(long, default_value_t = 4000)]
    in_flight: usize,
    /// Messages of an atomic batch; the server takes no more than 1,000.
    #[arg(long, default_value_t = 1000, value_parser = clap::value_parser!(u64).range(1..=1000))]
    batch: u64,
    /// Publishers, each with a connection of its own and one batch under way; unless
    /// given, what was found to be the fastest for the mode.
    #[arg(long)]
    publishers: Option<usize>,
}

impl Publishing {
    /// The same one by one at a rate.
    pub(crate) fn single_at(&self, per_second: u64) -> Self {
        let rate = NonZeroU64::new(per_second);
        Self { mode: Mode::Single, rate, publishers: Some(1), ..self.clone() }
    }

    fn publishers(&self) -> usize {
        let fastest = match self.mode {
            Mode::Single => single::PUBLISHERS,
            Mode::Atomic => atomic::PUBLISHERS,
            Mode::Fast => fast::PUBLISHERS,
        };
        self.publishers.unwrap_or(fastest).max(1)
    }

    /// A report that says all of this.
    pub(crate) fn describe(&self, report: Report) -> Report {
        let report = report
            .setting("mode", name_of(&self.mode))
            .setting("rate", rate_setting(self.rate, "as acknowledged"))
            .setting("publishers", self.publishers());
        match self.mode {
            Mode::Single | Mode::Fast => report.setting("in_flight", self.in_flight),
            Mode::Atomic => report.setting("batch", self.batch),
        }
    }

    /// Publishes for a time, and makes sure that all of it is stored.
    pub(crate) async fn run(
        &self,
        server: &Server,
        payloads: &Payloads,
        time: Duration,
    ) -> Result<Published> {
        if self.mode == Mode::Fast && self.rate.is_some() {
            bail!(
                "--rate does not go with --mode fast: publish by single messages or atomic batches"
            );
        }
        let context = streams::jetstream(server).await?;
        let before = streams::last(&context, streams::STREAM).await?;
        let count = self.publishers();
        let mut clients = Vec::new();
        for _ in 0..count {
            clients.push(streams::connect(server).await?);
        }
        let begun = Instant::now();
        let progress = Progress::timed("publishing", time);
        let mut tasks = JoinSet::new();
        for (index, client) in clients.into_iter().enumerate() {
            let publisher = Publisher {
                client,
                payloads: payloads.clone(),
                moments: Moments::new(self.rate, begun, time, index, count),
                in_flight: (self.in_flight / count).max(1),
                batch: self.batch as usize,
                begun,
                progress: progress.clone(),
            };
            match self.mode {
                Mode::Single => tasks.spawn(single::run(publisher)),
                Mode::Atomic => tasks.spawn(atomic::run(publisher)),
                Mode::Fast => tasks.spawn(fast::run(publisher)),
            };
        }
        let mut latencies = Latencies::new();
        let mut ended = begun;
        while let Some(done) = tasks.join_next().await {
            let acknowledged = done??;
            latencies.merge(&acknowledged.latencies);
            ended = ended.max(acknowledged.ended);
        }
        progress.finish();
        let published = Published { messages: latencies.count(), begun, ended, latencies };
        let stored = streams::last(&context, streams::STREAM).await? - before;
        if stored != published.messages {
            bail!("{} messages were acknowledged, and {stored} are stored", published.messages);
        }
        Ok(published)
    }
}

/// What was published, and how long acknowledgements took.
pub(crate) struct Published {
    pub(crate) messages: u64,
    pub(crate) begun: Instant,
    /// When the last acknowledgement came.
    pub(crate) ended: Instant,
    pub(crate) latencies: Latencies,
}

/// One publisher, whatever its mode.
struct Publisher {
    client: Client,
    payloads: Payloads,
    moments: Moments,
    in_flight: usize,
    batch: usize,
    begun: Instant,
    progress: Progress,
}

/// What came of one publisher.
struct Acknowledged {
    latencies: Latencies,
    ended: Instant,
}

impl Acknowledged {
    fn nothing_yet() -> Self {
        Self { latencies: Latencies::new(), ended: Instant::now() }
    }

    /// What was meant to be sent at these moments is acknowledged now.
    fn take(&mut self, moments: &[Instant]) {
        self.ended = Instant::now();
        for same in moments.chunk_by(|first, second| first == second) {
            let latency = self.ended.saturating_duration_since(same[0]);
            self.latencies.record_many(latency, same.len() as u64);
        }
    }
}
