//! Publishers that record what they were told.
//!
//! Every publisher numbers its payloads `name:number` from 0 on and publishes to
//! a channel of its own, many at a time. It records each number as acknowledged,
//! refused or unknown.

use std::collections::VecDeque;
use std::ops::Range;
use std::time::Duration;

use bytes::Bytes;
use interlock_client::{
    ClientError, Durability, Mesh, Outgoing, Publisher, PublisherOptions, Receipt, v1,
};
use interlock_rpc::status::Stored;
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio::time::MissedTickBehavior;

/// How long clients look for a node before they give up: longer than any restart.
pub(crate) const PATIENCE: Duration = Duration::from_secs(120);
/// Publications a batch.
const BATCH: u64 = 16;
/// Batches whose receipts are open at a time.
const OPEN_BATCHES: usize = 64;
/// Between two batches: what the machine makes durable at three nodes beside the
/// kills.
const PACE: Duration = Duration::from_millis(4);
/// Each so many batches comes one that is refused in its middle.
const BATCHES_PER_REFUSAL: u64 = 64;
/// Where in such a batch.
const REFUSED_AT: u64 = 5;
/// The largest payload that the channels take.
pub(crate) const MAX_PAYLOAD_BYTES: u32 = 64;

/// The levels of acknowledgement, each with a publisher in each region.
pub(crate) const LEVELS: [(&str, Durability); 3] =
    [("local", Durability::Local), ("peers", Durability::Peers(1)), ("all", Durability::All)];

/// What a publisher was told of one publication.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Told {
    /// It is durable as asked for.
    Acknowledged,
    /// It is not stored, and never will be.
    Refused,
    /// Nobody knows.
    Unknown,
}

/// What one publisher was told, by number.
#[derive(Clone, Debug, Default)]
pub(crate) struct Record(Vec<Told>);

impl Record {
    /// How many there were.
    pub(crate) fn attempted(&self) -> u64 {
        self.0.len() as u64
    }

    /// How often this was told.
    pub(crate) fn count(&self, told: Told) -> u64 {
        self.0.iter().filter(|one| **one == told).count() as u64
    }

    /// The numbers of which this was told.
    pub(crate) fn numbers(&self, told: Told) -> impl Iterator<Item = u64> {
        (0..).zip(&self.0).filter(move |(_, one)| **one == told).map(|(number, _)| number)
    }

    fn note(&mut self, numbers: &Range<u64>, told: Told) {
        assert_eq!(numbers.start, self.attempted(), "batches are answered in order");
        self.0.extend(numbers.clone().map(|_| told));
    }

    /// What was acknowledged may be lost by right: nobody knows what became of it.
    pub(crate) fn doubt_acknowledged(&mut self) {
        let acknowledged = self.0.iter_mut().filter(|one| **one == Told::Acknowledged);
        acknowledged.for_each(|one| *one = Told::Unknown);
    }

    /// Of what was published last, under the next number.
    pub(crate) fn note_acknowledged(&mut self) {
        self.0.push(Told::Acknowledged);
    }
}

/// One publisher of one region.
pub(crate) struct LoadPublisher {
    /// Its name: region and level.
    pub(crate) name: String,
    task: JoinHandle<Record>,
    order: watch::Sender<Order>,
    acknowledged: watch::Receiver<u64>,
}

/// What a publisher is to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Order {
    /// To publish.
    Publish,
    /// To wait for what is open, and end.
    Finish,
    /// To end at once: of what is open nobody knows.
    Abandon,
}

impl LoadPublisher {
    /// Publishes until it is told to end.
    pub(crate) fn start(
        mesh: &Mesh,
        region: &str,
        (level, durability): (&str, Durability),
    ) -> Self {
        let options =
            PublisherOptions { durability, give_up_after: PATIENCE, ..Default::default() };
        let push_nodes = mesh.push_nodes(region).expect("the region has a push-node");
        let publisher = Publisher::new(push_nodes, "demo", options);
        let name = format!("{region}-{level}");
        let (progress, acknowledged) = watch::channel(0);
        let load = Load {
            name: name.clone(),
            publisher,
            progress: Some(progress),
            open: VecDeque::new(),
            record: Record::default(),
            next: 0,
            batches: 0,
        };
        let (order, orders) = watch::channel(Order::Publish);
        Self { name, task: tokio::spawn(load.run(orders)), order, acknowledged }
    }

    /// Waits until `more` have been acknowledged from now on.
    pub(crate) async fn advance(&mut self, more: u64) {
        let goal = *self.acknowledged.borrow() + more;
        self.acknowledged.wait_for(|count| *count >= goal).await.expect("the publisher runs");
    }

    /// Publishes nothing more.
    pub(crate) fn stop(&self) {
        self.order.send_replace(Order::Finish);
    }

    /// Waits until it knows of all that it published: what it was told.
    pub(crate) async fn finish(self) -> Record {
        self.stop();
        self.task.await.expect("the publisher does not fail")
    }

    /// Ends at once, as its node is not coming back: what it was told.
    pub(crate) async fn abandon(self) -> Record {
        self.order.send_replace(Order::Abandon);
        self.task.await.expect("the publisher does not fail")
    }
}

/// What a publisher's task works with.
struct Load {
    name: String,
    publisher: Publisher,
    /// While it goes on.
    progress: Option<watch::Sender<u64>>,
    open: VecDeque<(Range<u64>, Receipt)>,
    record: Record,
    next: u64,
    batches: u64,
}

impl Load {
    async fn run(mut self, mut orders: watch::Receiver<Order>) -> Record {
        let mut pace = tokio::time::interval(PACE);
        pace.set_missed_tick_behavior(MissedTickBehavior::Skip);
        loop {
            let order = *orders.borrow_and_update();
            match order {
                Order::Finish if self.progress.is_none() => panic!("{} has ended", self.name),
                Order::Finish if self.open.is_empty() => break,
                Order::Abandon => return self.abandon(),
                Order::Publish | Order::Finish => {}
            }
            let goes_on = order == Order::Publish && self.progress.is_some();
            let has_room = goes_on && self.open.len() < OPEN_BATCHES;
            tokio::select! {
                answer = first(&mut self.open) => self.note(answer),
                _ = pace.tick(), if has_room => self.publish().await,
                changed = orders.changed() => changed.expect("who gives orders waits for the end"),
            }
        }
        self.publisher.finish().await;
        self.record
    }

    fn abandon(mut self) -> Record {
        for (numbers, _) in self.open.drain(..) {
            self.record.note(&numbers, Told::Unknown);
        }
        self.record
    }

    async fn publish(&mut self) {
        self.batches += 1;
        let is_refused = self.batches.is_multiple_of(BATCHES_PER_REFUSAL);
        let numbers = self.next..self.next + BATCH;
        let too_long = is_refused.then_some(self.next + REFUSED_AT);
        let batch =
            numbers.clone().map(|number| outgoing(&self.name, number, too_long == Some(number)));
        let Ok(receipt) = self.publisher.publish(batch.collect()).await else {
            // It was told for good that it cannot go on, and only one that is abandoned may
            // be: nobody sees progress any more.
            self.progress = None;
            return;
        };
        self.next = numbers.end;
        self.open.push_back((numbers, receipt));
    }

    fn note(&mut self, (numbers, published): Answer) {
        let (stored, rest) = match published {
            Ok(published) => (published.count, None),
            Err(ClientError::Batch(batch)) if batch.outcome.stored == Stored::No => {
                (batch.stored, Some(Told::Refused))
            }
            Err(error) => {
                println!("{}: {numbers:?}: {error}", self.name);
                (error.batch().map_or(0, |batch| batch.stored), Some(Told::Unknown))
            }
        };
        let acknowledged = numbers.start..numbers.start + stored;
        assert!(rest.is_some() || acknowledged.end == numbers.end, "{}: {numbers:?}", self.name);
        self.record.note(&acknowledged, Told::Acknowledged);
        if let Some(rest) = rest {
            self.record.note(&(acknowledged.end..numbers.end), rest);
        }
        if let Some(progress) = &self.progress {
            progress.send_modify(|sum| *sum += stored);
        }
    }
}

type Answer = (Range<u64>, Result<interlock_client::Published, ClientError>);

/// Waits for the first open receipt, for ever if there is none.
async fn first(open: &mut VecDeque<(Range<u64>, Receipt)>) -> Answer {
    let Some((_, receipt)) = open.front_mut() else { return std::future::pending().await };
    let published = receipt.await;
    let (numbers, _) = open.pop_front().expect("it was looked at");
    (numbers, published)
}

/// The channel of a publisher.
pub(crate) fn channel(publisher: &str) -> String {
    format!("from-{publisher}")
}

fn payload(publisher: &str, number: u64) -> String {
    format!("{publisher}:{number}")
}

/// The publisher and the number in a payload, if they fit its channel.
pub(crate) fn read_payload(message: &v1::DeliveredMessage) -> Option<(String, u64)> {
    let text = std::str::from_utf8(&message.payload).ok()?;
    let (publisher, number) = text.trim_end().split_once(':')?;
    let number = number.parse().ok()?;
    (message.channel == channel(publisher)).then(|| (publisher.to_owned(), number))
}

fn outgoing(publisher: &str, number: u64, is_too_long: bool) -> Outgoing {
    let mut text = payload(publisher, number);
    if is_too_long {
        let width = MAX_PAYLOAD_BYTES as usize + 1;
        text = format!("{text:width$}");
    }
    Outgoing { channel: channel(publisher), payload: Bytes::from(text), ..Default::default() }
}

/// One publication by itself, to the end of a publisher's.
pub(crate) fn closing(publisher: &str, number: u64) -> v1::PublishRequest {
    v1::PublishRequest {
        namespace: "demo".to_owned(),
        publication: Some(v1::Publication {
            channel: channel(publisher),
            payload: payload(publisher, number).into(),
            ..Default::default()
        }),
        durability: Some(Durability::All.to_wire()),
        ..Default::default()
    }
}
