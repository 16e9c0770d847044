//! Publishers under load, and what became of what they published.

use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};
use bytes::Bytes;
use interlock_bench::{Latencies, Pace, Payloads, Progress};
use interlock_client::{Outgoing, Publisher, PublisherOptions, Receipt, v1};
use tokio::sync::{Mutex, OwnedSemaphorePermit, Semaphore, mpsc};
use tokio::task::JoinSet;

use super::load::Load;
use crate::target::Target;

/// The payload of what goes ahead: no subscriber counts it.
const OF_NO_RUN: Bytes = Bytes::from_static(&[0; Payloads::LEAST_BYTES]);

/// What was published, and how long acknowledgements took.
pub(super) struct Published {
    pub(super) messages: u64,
    /// From the first to the last acknowledgement.
    pub(super) elapsed: Duration,
    pub(super) latencies: Latencies,
}

impl Published {
    pub(super) fn per_second(&self) -> f64 {
        self.messages as f64 / self.elapsed.as_secs_f64().max(f64::EPSILON)
    }
}

/// What lets publishers go on, beside their acknowledgements: called before a batch,
/// with how many were published so far.
pub(super) trait Brake: Send + Sync + 'static {
    /// Waits until so many more may be published.
    fn wait(&self, published: u64, more: u64) -> impl Future<Output = ()> + Send;
}

/// Nothing but acknowledgements.
pub(super) struct NoBrake;

impl Brake for NoBrake {
    async fn wait(&self, _: u64, _: u64) {}
}

/// Publishes through `PublishStream` from one region, as the load says.
pub(super) async fn publish_stream(
    target: &Target,
    region: &str,
    load: &Load,
    payloads: &Payloads,
    brake: Arc<impl Brake>,
) -> Result<Published> {
    let addresses = target.mesh.push_nodes(region)?;
    let options = PublisherOptions {
        durability: load.durability.level(),
        max_in_flight: load.in_flight as u64,
        ..Default::default()
    };
    let mut publishers = Vec::new();
    for _ in 0..load.connections.max(1) {
        let addresses = addresses.separate()?;
        publishers.push(Publisher::new(addresses, &load.channel.namespace, options.clone()));
    }
    // The first answers say that connections and sessions stand.
    for publisher in &publishers {
        let channel = load.channels().swap_remove(0);
        publisher
            .publish(vec![Outgoing { channel, payload: OF_NO_RUN, ..Default::default() }])
            .await?
            .await?;
    }
    let begun = Instant::now();
    let progress = Progress::timed("publishing", load.time());
    let mut tasks = JoinSet::new();
    let count = publishers.len() as u64;
    for (index, publisher) in (0..).zip(publishers) {
        let connection = Connection {
            publisher,
            channels: load.channels(),
            payloads: payloads.clone(),
            batch: load.batch(),
            window: Arc::new(Semaphore::new(load.in_flight.max(1))),
            begun,
            time: load.time(),
            progress: progress.clone(),
        };
        let pace = load.rate.map(|rate| Pace::new(begun, rate.get()).share(index, count));
        let brake = Arc::clone(&brake);
        tasks.spawn(async move {
            match pace {
                Some(pace) => connection.by_pace(pace).await,
                None => connection.within_window(brake.as_ref()).await,
            }
        });
    }
    let all = collect(tasks, begun).await;
    progress.finish();
    all
}

/// Publishes by single calls without a session, as many at a time as may be in flight.
pub(super) async fn publish_unary(
    target: &Target,
    load: &Load,
    payloads: &Payloads,
) -> Result<Published> {
    let addresses = target.mesh.push_nodes(&target.region)?;
    let progress = Progress::timed("publishing", load.time());
    let channels = load.channels();
    let mut clients = Vec::new();
    for _ in 0..load.connections.max(1) {
        let channel = addresses.separate()?.current().context("the region has no push-node")?;
        let mut client = interlock_rpc::services::publish::client(channel);
        client.publish(request(load, &channels[0])).await?;
        clients.push(client);
    }
    let begun = Instant::now();
    let mut tasks = JoinSet::new();
    let count = clients.len() as u64;
    for (index, client) in (0..).zip(clients) {
        let pace = load.rate.map(|rate| Pace::new(begun, rate.get()).share(index, count));
        let numbers = pace.map(|pace| Arc::new(Mutex::new(numbers(pace, load.time()))));
        for caller in 0..load.in_flight {
            let mut client = client.clone();
            let mut payloads = payloads.clone();
            let numbers = numbers.clone();
            let template = request(load, &channels[caller % channels.len()]);
            let (time, progress) = (load.time(), progress.clone());
            tasks.spawn(async move {
                let mut latencies = Latencies::new();
                while begun.elapsed() < time || numbers.is_some() {
                    let intended = match &numbers {
                        None => Instant::now(),
                        Some(numbers) => match numbers.lock().await.recv().await {
                            Some(moment) => moment,
                            None => break,
                        },
                    };
                    let mut request = template.clone();
                    if let Some(publication) = &mut request.publication {
                        publication.payload = payloads.make(intended);
                    }
                    client.publish(request).await?;
                    latencies.record(intended.elapsed());
                    progress.tick(begun);
                }
                Ok((latencies.count(), latencies, Instant::now()))
            });
        }
    }
    let all = collect(tasks, begun).await;
    progress.finish();
    all
}

fn request(load: &Load, channel: &str) -> v1::PublishRequest {
    let publication =
        v1::Publication { channel: channel.to_owned(), payload: OF_NO_RUN, ..Default::default() };
    v1::PublishRequest {
        namespace: load.channel.namespace.clone(),
        publication: Some(publication),
        durability: Some(load.durability.to_wire()),
        ..Default::default()
    }
}

type Outcome = Result<(u64, Latencies, Instant)>;

async fn collect(mut tasks: JoinSet<Outcome>, begun: Instant) -> Result<Published> {
    let mut all = Published { messages: 0, elapsed: Duration::ZERO, latencies: Latencies::new() };
    while let Some(done) = tasks.join_next().await {
        let (messages, latencies, ended) = done??;
        all.messages += messages;
        all.latencies.merge(&latencies);
        all.elapsed = all.elapsed.max(ended.duration_since(begun));
    }
    Ok(all)
}

/// One publisher.
struct Connection {
    publisher: Publisher,
    channels: Vec<String>,
    payloads: Payloads,
    batch: usize,
    window: Arc<Semaphore>,
    begun: Instant,
    time: Duration,
    progress: Progress,
}

/// A batch that waits for its acknowledgement.
struct Sent {
    receipt: Receipt,
    /// When its messages were meant to be sent.
    intended: Vec<Instant>,
    _room: OwnedSemaphorePermit,
}

impl Connection {
    /// Publishes for its time, as much as the window lets it.
    async fn within_window(mut self, brake: &impl Brake) -> Outcome {
        let (sent, counting) = self.count_receipts();
        let mut published = 0;
        while self.begun.elapsed() < self.time {
            brake.wait(published, self.batch as u64).await;
            let room = Arc::clone(&self.window).acquire_many_owned(self.batch as u32).await?;
            let now = Instant::now();
            let batch = self.make(published, self.batch, |_| now);
            published += self.batch as u64;
            let receipt = self.publisher.publish(batch).await?;
            let intended = vec![now; self.batch];
            // The one who counts ends first only with an error, which tells more.
            if sent.send(Sent { receipt, intended, _room: room }).is_err() {
                break;
            }
            self.progress.tick(self.begun);
        }
        drop(sent);
        let counted = counting.await?;
        self.publisher.finish().await;
        counted
    }

    /// Publishes each message when its moment has come.
    async fn by_pace(mut self, pace: Pace) -> Outcome {
        let (sent, counting) = self.count_receipts();
        let mut moments = numbers(pace, self.time);
        let mut due = Vec::new();
        let mut published = 0;
        while moments.recv_many(&mut due, self.batch).await > 0 {
            let count = due.len();
            let batch = self.make(published, count, |index| due[index]);
            published += count as u64;
            let room = Arc::clone(&self.window).acquire_many_owned(count as u32).await?;
            let receipt = self.publisher.publish(batch).await?;
            let intended = std::mem::take(&mut due);
            if sent.send(Sent { receipt, intended, _room: room }).is_err() {
                break;
            }
            self.progress.tick(self.begun);
        }
        drop(sent);
        let counted = counting.await?;
        self.publisher.finish().await;
        counted
    }

    fn make(
        &mut self,
        first: u64,
        count: usize,
        intended: impl Fn(usize) -> Instant,
    ) -> Vec<Outgoing> {
        (0..count)
            .map(|index| {
                let channel = (first as usize + index) % self.channels.len();
                outgoing(&self.channels[channel], &mut self.payloads, intended(index))
            })
            .collect()
    }

    fn count_receipts(&self) -> (mpsc::UnboundedSender<Sent>, tokio::task::JoinHandle<Outcome>) {
        let (sender, mut waiting) = mpsc::unbounded_channel::<Sent>();
        let counting = tokio::spawn(async move {
            let mut latencies = Latencies::new();
            let mut ended = Instant::now();
            while let Some(Sent { receipt, intended, _room }) = waiting.recv().await {
                receipt.await?;
                ended = Instant::now();
                for moments in intended.chunk_by(|first, second| first == second) {
                    latencies.record_many(ended - moments[0], moments.len() as u64);
                }
            }
            Ok((latencies.count(), latencies, ended))
        });
        (sender, counting)
    }
}

fn outgoing(channel: &str, payloads: &mut Payloads, intended: Instant) -> Outgoing {
    let payload = payloads.make(intended);
    Outgoing { channel: channel.to_owned(), payload, ..Default::default() }
}

/// The moments of a pace as they come, from a thread of its own: the runtime's timer
/// knows milliseconds only.
fn numbers(pace: Pace, time: Duration) -> mpsc::UnboundedReceiver<Instant> {
    let (sender, receiver) = mpsc::unbounded_channel();
    std::thread::spawn(move || {
        let end = pace.moment_of(0) + time;
        for number in 0.. {
            let moment = pace.moment_of(number);
            if moment >= end {
                return;
            }
            std::thread::sleep(moment.saturating_duration_since(Instant::now()));
            if sender.send(moment).is_err() {
                return;
            }
        }
    });
    receiver
}
