//! A publisher that numbers what it publishes and records what it is told, one by
//! one, many under way at a time.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use bytes::Bytes;
use interlock_client::{
    Addresses, ClientError, Durability, Outgoing, Published, Publisher, PublisherOptions, Receipt,
};
use interlock_core::names::ChannelName;
use interlock_rpc::status::Stored;
use interlock_simulation::history::OperationNumber;
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio::time::MissedTickBehavior;

use super::recorder::{Place, Recorder};
use crate::load::PATIENCE;

/// Between two publications.
const PACE: Duration = Duration::from_millis(12);
/// Publications without an answer: what comes in while a node is away.
const MOST_OPEN: usize = 400;
/// Payloads differ in length, so that messages lie differently on pages.
const LONGEST_FILL: u64 = 600;

/// What a publisher is to do.
#[derive(Clone)]
pub(crate) struct Task {
    pub(crate) name: String,
    pub(crate) push_nodes: Addresses,
    pub(crate) place: Place,
    pub(crate) namespace: &'static str,
    pub(crate) durability: Durability,
    /// How many other members hold what is acknowledged.
    pub(crate) peers: usize,
    pub(crate) recorder: Recorder,
}

/// A publisher at work.
pub(crate) struct RecordedPublisher {
    task: JoinHandle<()>,
    acknowledged: watch::Receiver<u64>,
}

impl RecordedPublisher {
    /// Publishes until `stop`.
    pub(crate) fn start(task: Task, stop: Arc<AtomicBool>) -> Self {
        let (progress, acknowledged) = watch::channel(0);
        let work =
            Work { publisher: publisher(&task), task, progress, open: VecDeque::new(), next: 0 };
        Self { task: tokio::spawn(work.run(stop)), acknowledged }
    }

    /// How many were acknowledged.
    pub(crate) fn acknowledged(&self) -> watch::Receiver<u64> {
        self.acknowledged.clone()
    }

    /// Waits for its end.
    pub(crate) async fn finish(self) {
        self.task.await.expect("the publisher does not fail");
    }
}

/// The channel of a publisher.
pub(crate) fn channel(publisher: &str) -> ChannelName {
    ChannelName::parse(&format!("from-{publisher}")).expect("a name")
}

fn publisher(task: &Task) -> Publisher {
    let durability = task.durability;
    let options = PublisherOptions { durability, give_up_after: PATIENCE, ..Default::default() };
    Publisher::new(task.push_nodes.clone(), task.namespace, options)
}

type Answer = (OperationNumber, Result<Published, ClientError>);

struct Work {
    task: Task,
    publisher: Publisher,
    progress: watch::Sender<u64>,
    open: VecDeque<(OperationNumber, Receipt)>,
    next: u64,
}

impl Work {
    async fn run(mut self, stop: Arc<AtomicBool>) {
        let mut pace = tokio::time::interval(PACE);
        pace.set_missed_tick_behavior(MissedTickBehavior::Skip);
        while !stop.load(Ordering::Relaxed) {
            let has_room = self.open.len() < MOST_OPEN;
            tokio::select! {
                answer = first(&mut self.open) => self.note(answer),
                _ = pace.tick(), if has_room => self.publish().await,
            }
        }
        while !self.open.is_empty() {
            let answer = first(&mut self.open).await;
            self.note(answer);
        }
        self.publisher.finish().await;
    }

    async fn publish(&mut self) {
        let channel = channel(&self.task.name);
        let fill = usize::try_from(self.next * 37 % LONGEST_FILL).expect("small");
        let payload = Bytes::from(format!("{}:{}:{:fill$}", self.task.name, self.next, ""));
        self.next += 1;
        let operation = self.task.recorder.begin_publication(self.task.place, &channel, &payload);
        let outgoing =
            Outgoing { channel: channel.as_str().to_owned(), payload, ..Default::default() };
        match self.publisher.publish(vec![outgoing]).await {
            Ok(receipt) => self.open.push_back((operation, receipt)),
            // It has ended over something before: this one it never sent, but
            // nobody says so. Another one goes on.
            Err(_) => self.publisher = publisher(&self.task),
        }
    }

    fn note(&mut self, (operation, answer): Answer) {
        let Task { recorder, peers, .. } = &self.task;
        match answer {
            Ok(published) => {
                recorder.acknowledged(operation, published.first, *peers);
                self.progress.send_modify(|count| *count += 1);
            }
            Err(ClientError::Batch(batch)) if batch.outcome.stored == Stored::No => {
                recorder.refused(operation);
            }
            // Its outcome stays unknown.
            Err(_) => {}
        }
    }
}

/// Waits for the first open receipt, for ever if there is none.
async fn first(open: &mut VecDeque<(OperationNumber, Receipt)>) -> Answer {
    let Some((_, receipt)) = open.front_mut() else { return std::future::pending().await };
    let published = receipt.await;
    let (operation, _) = open.pop_front().expect("it was looked at");
    (operation, published)
}
