//! Publishers and subscribers that record what they were told.
//!
//! Every publisher numbers its payloads `region:number` from 0 on and publishes
//! to a channel of its own; it records what was acknowledged. Every subscriber
//! reads all channels from the oldest message on and records what it got.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use interlock_client::{
    Mesh, Outgoing, Publisher, PublisherOptions, Start, Subscriber, SubscriberOptions, v1,
};
use tokio::sync::watch;
use tokio::task::JoinHandle;

/// How long clients look for a node before they give up: longer than any restart.
const PATIENCE: Duration = Duration::from_secs(120);
/// Publications a batch.
const BATCH: u64 = 16;

/// One region's publisher.
pub(crate) struct LoadPublisher {
    task: JoinHandle<u64>,
    acknowledged: watch::Receiver<u64>,
}

impl LoadPublisher {
    /// Publishes until `stop`.
    pub(crate) fn start(mesh: &Mesh, region: &str, stop: Arc<AtomicBool>) -> Self {
        let options = PublisherOptions { give_up_after: PATIENCE, ..Default::default() };
        let push_nodes = mesh.push_nodes(region).expect("the region has a push-node");
        let publisher = Publisher::new(push_nodes, "demo", options);
        let region = region.to_owned();
        let (progress, acknowledged) = watch::channel(0);
        let task = tokio::spawn(async move {
            let mut next = 0;
            while !stop.load(Ordering::Relaxed) {
                let batch = (next..next + BATCH).map(|number| outgoing(&region, number)).collect();
                let receipt = publisher.publish(batch).await.expect("the publisher runs");
                let published = receipt.await.unwrap_or_else(|error| panic!("{region}: {error}"));
                assert_eq!(published.count, BATCH, "{region}");
                next += BATCH;
                progress.send_replace(next);
            }
            publisher.finish().await;
            next
        });
        Self { task, acknowledged }
    }

    /// How many are acknowledged so far.
    pub(crate) fn acknowledged(&self) -> u64 {
        *self.acknowledged.borrow()
    }

    /// Waits until `more` have been acknowledged from now on.
    pub(crate) async fn advance(&mut self, more: u64) {
        let goal = self.acknowledged() + more;
        self.acknowledged.wait_for(|count| *count >= goal).await.expect("the publisher runs");
    }

    /// Waits for its end: how many were acknowledged.
    pub(crate) async fn finish(self) -> u64 {
        self.task.await.expect("the publisher does not fail")
    }
}

fn outgoing(region: &str, number: u64) -> Outgoing {
    Outgoing {
        channel: format!("from-{region}"),
        payload: Bytes::from(format!("{region}:{number}")),
        ..Default::default()
    }
}

/// What one subscriber got.
#[derive(Debug, Default)]
pub(crate) struct Got {
    /// By publisher, the numbers in the order they came.
    pub(crate) numbers: BTreeMap<String, Vec<u64>>,
    /// Payloads that no publisher made.
    pub(crate) invented: Vec<String>,
    /// Gaps that were told.
    pub(crate) gaps: u64,
    /// How often the subscription had to be opened again.
    pub(crate) resumed: u64,
}

impl Got {
    /// How many of the first `count` of a publisher are missing.
    pub(crate) fn lost(&self, publisher: &str, count: u64) -> u64 {
        let there: BTreeSet<u64> =
            self.numbers.get(publisher).into_iter().flatten().copied().collect();
        (0..count).filter(|number| !there.contains(number)).count() as u64
    }

    /// How many came more than once.
    pub(crate) fn doubled(&self) -> u64 {
        let doubled =
            |numbers: &Vec<u64>| numbers.len() - numbers.iter().collect::<BTreeSet<_>>().len();
        self.numbers.values().map(doubled).sum::<usize>() as u64
    }

    /// How often a number came before a lower one.
    pub(crate) fn out_of_order(&self) -> u64 {
        let breaks =
            |numbers: &Vec<u64>| numbers.windows(2).filter(|pair| pair[0] > pair[1]).count();
        self.numbers.values().map(breaks).sum::<usize>() as u64
    }

    fn take(&mut self, message: &v1::DeliveredMessage) {
        let payload = String::from_utf8_lossy(&message.payload).into_owned();
        let known = payload
            .split_once(':')
            .and_then(|(publisher, number)| {
                Some((publisher.to_owned(), number.parse::<u64>().ok()?))
            })
            .filter(|(publisher, _)| message.channel == format!("from-{publisher}"));
        match known {
            Some((publisher, number)) => self.numbers.entry(publisher).or_default().push(number),
            None => self.invented.push(payload),
        }
    }
}

/// One region's subscriber of all channels.
pub(crate) struct LoadSubscriber {
    task: JoinHandle<()>,
    got: Arc<Mutex<Got>>,
    changed: watch::Receiver<u64>,
}

impl LoadSubscriber {
    /// Reads from the oldest message on.
    pub(crate) fn start(mesh: &Mesh, region: &str) -> Self {
        let options = SubscriberOptions {
            start: Start::Oldest,
            give_up_after: PATIENCE,
            ..Default::default()
        };
        let gateways = mesh.gateways(region).expect("the region has a gateway");
        let mut subscriber = Subscriber::new(gateways, "demo", &["from-*".to_owned()], &options);
        let got = Arc::new(Mutex::new(Got::default()));
        let shared = Arc::clone(&got);
        let (progress, changed) = watch::channel(0);
        let region = region.to_owned();
        let task = tokio::spawn(async move {
            loop {
                let received = match subscriber.next().await {
                    Ok(Some(received)) => received,
                    Ok(None) => return,
                    Err(error) => panic!("the subscriber in {region}: {error}"),
                };
                let mut got = shared.lock().expect("nobody panics with it");
                for delivery in &received.deliveries {
                    match &delivery.event {
                        Some(v1::delivery::Event::Message(message)) => got.take(message),
                        Some(v1::delivery::Event::Gap(_)) => got.gaps += 1,
                        _ => {}
                    }
                }
                got.resumed = subscriber.resumed();
                progress.send_modify(|count| *count += received.deliveries.len() as u64);
            }
        });
        Self { task, got, changed }
    }

    /// Waits until it has the last acknowledged message of every publisher, or
    /// until `limit` is over: then the checks say what is missing.
    pub(crate) async fn catch_up(&mut self, published: &BTreeMap<String, u64>, limit: Duration) {
        let got = Arc::clone(&self.got);
        let all = || {
            let got = got.lock().expect("nobody panics with it");
            published.iter().all(|(publisher, count)| {
                got.numbers
                    .get(publisher)
                    .is_some_and(|numbers| numbers.iter().any(|number| number + 1 >= *count))
            })
        };
        // Over time the checks tell more than a panic here would.
        let _ = tokio::time::timeout(limit, self.changed.wait_for(|_| all())).await;
    }

    /// Ends it: what it got.
    pub(crate) fn finish(self) -> Got {
        assert!(!self.task.is_finished(), "the subscriber ended by itself");
        self.task.abort();
        std::mem::take(&mut *self.got.lock().expect("nobody panics with it"))
    }
}
