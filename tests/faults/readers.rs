//! Subscribers that record what they got, and what is stored.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex};

use interlock_client::{Mesh, Start, Subscriber, SubscriberOptions, v1};
use tokio::sync::watch;
use tokio::task::JoinHandle;

use crate::load::{PATIENCE, Record, Told, read_payload};

/// All that publishers publish to.
const CHANNELS: &str = "from-*";

/// What one reader got.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Got {
    /// By publisher, the numbers in the order they came.
    pub(crate) numbers: BTreeMap<String, Vec<u64>>,
    /// Payloads that no publisher made.
    pub(crate) invented: Vec<String>,
    /// Gaps that were told.
    pub(crate) gaps: u64,
}

/// How often promises are broken in what a reader got.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Broken {
    pub(crate) lost: u64,
    pub(crate) doubled: u64,
    pub(crate) out_of_order: u64,
    pub(crate) invented: u64,
    pub(crate) gaps: u64,
}

impl Got {
    /// How many messages.
    pub(crate) fn present(&self) -> usize {
        self.numbers.values().map(Vec::len).sum()
    }

    /// Against what the publishers were told: acknowledged is there, refused is
    /// not, nothing twice, in order, and nothing else.
    pub(crate) fn check(&self, records: &BTreeMap<String, Record>) -> Broken {
        let mut broken =
            Broken { invented: self.invented.len() as u64, gaps: self.gaps, ..Broken::default() };
        for (publisher, record) in records {
            let numbers = self.numbers.get(publisher).map(Vec::as_slice).unwrap_or_default();
            let there: BTreeSet<u64> = numbers.iter().copied().collect();
            let present = |told| record.numbers(told).filter(|one| there.contains(one)).count();
            broken.lost += record.count(Told::Acknowledged) - present(Told::Acknowledged) as u64;
            broken.doubled += (numbers.len() - there.len()) as u64;
            broken.out_of_order +=
                numbers.windows(2).filter(|pair| pair[0] > pair[1]).count() as u64;
            let attempted = record.attempted();
            let never_attempted = there.iter().filter(|one| **one >= attempted).count();
            broken.invented += (present(Told::Refused) + never_attempted) as u64;
        }
        let unknown = self.numbers.keys().filter(|name| !records.contains_key(*name));
        broken.invented += unknown.count() as u64;
        broken
    }

    fn take(&mut self, message: &v1::DeliveredMessage) {
        match read_payload(message) {
            Some((publisher, number)) => self.numbers.entry(publisher).or_default().push(number),
            None => self.invented.push(String::from_utf8_lossy(&message.payload).into_owned()),
        }
    }

    fn has(&self, publisher: &str, number: u64) -> bool {
        self.numbers.get(publisher).is_some_and(|numbers| numbers.contains(&number))
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
        let mut subscriber = Subscriber::new(gateways, "demo", &[CHANNELS.to_owned()], &options);
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
                progress.send_modify(|count| *count += received.deliveries.len() as u64);
            }
        });
        Self { task, got, changed }
    }

    /// Waits until it has these numbers, the last of every publisher.
    pub(crate) async fn until_last(&mut self, last: &BTreeMap<String, u64>) {
        let got = Arc::clone(&self.got);
        let all = || {
            let got = got.lock().expect("nobody panics with it");
            last.iter().all(|(publisher, number)| got.has(publisher, *number))
        };
        self.changed.wait_for(|_| all()).await.expect("the subscriber runs");
    }

    /// Ends it: what it got.
    pub(crate) fn finish(self) -> Got {
        assert!(!self.task.is_finished(), "the subscriber ended by itself");
        self.task.abort();
        std::mem::take(&mut *self.got.lock().expect("nobody panics with it"))
    }
}

/// All that a region has stored up to now.
pub(crate) async fn history(mesh: &Mesh, region: &str) -> Got {
    let request = v1::ReadHistoryRequest {
        namespace: "demo".to_owned(),
        channels: vec![CHANNELS.to_owned()],
        start: Some(Start::Oldest.to_wire()),
        limit: u32::MAX,
    };
    let mut gateway = mesh.subscribing(region).expect("the region has a gateway");
    let mut stream = gateway.read_history(request).await.expect("it answers").into_inner();
    let mut got = Got::default();
    while let Some(response) = stream.message().await.expect("the stream holds") {
        response.messages.iter().for_each(|message| got.take(message));
        got.gaps += response.gaps.len() as u64;
        assert!(!response.more, "history ends before its end");
    }
    got
}

/// The checks are themselves checked.
#[test]
fn what_is_broken_is_counted() {
    let mut record = Record::default();
    for _ in 0..4 {
        record.note_acknowledged();
    }
    let records = BTreeMap::from([("europe-local".to_owned(), record)]);
    let broken = |numbers: &[u64]| {
        let numbers = BTreeMap::from([("europe-local".to_owned(), numbers.to_vec())]);
        Got { numbers, ..Got::default() }.check(&records)
    };
    let none = Broken::default();
    assert_eq!(broken(&[0, 1, 2, 3]), none);
    assert_eq!(broken(&[0, 1, 3]), Broken { lost: 1, ..none });
    assert_eq!(broken(&[0, 1, 2, 3, 3]), Broken { doubled: 1, ..none });
    assert_eq!(broken(&[0, 2, 1, 3]), Broken { out_of_order: 1, ..none });
    assert_eq!(broken(&[0, 1, 2, 3, 4]), Broken { invented: 1, ..none });
}
