//! Readers: a subscription in each region that lasts through all faults behind
//! one cursor, and at the end the history that the region tells.

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use interlock_client::{ClientError, Mesh, Start, Subscriber, SubscriberOptions, v1};
use interlock_core::identity::{LogName, MessageNumber, NamespaceNumber};
use interlock_core::names::ChannelName;
use interlock_rpc::convert::IntoCore as _;
use interlock_rpc::status::{Reason, reason_of};
use interlock_simulation::history::{Reading, ReadingKind, Shown};
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio::time::MissedTickBehavior;

use crate::load::PATIENCE;

/// All that publishers publish to, and no channel that is ever deleted.
const CHANNELS: &str = "from-*";
/// Messages in one answer of history.
const PAGE: u32 = 50_000;
/// How often a reader asks again in a region that has left the namespace.
const RESUME_PACE: Duration = Duration::from_millis(200);

type Gap = (LogName, MessageNumber, MessageNumber);

/// What a reader has so far.
#[derive(Default)]
struct Got {
    messages: Vec<Shown>,
    gaps: Vec<Gap>,
}

impl Got {
    fn take(&mut self, message: v1::DeliveredMessage) {
        let name = message.message.expect("each message has a name");
        self.messages.push(Shown {
            name: name.into_core().expect("a name"),
            channel: ChannelName::parse(&message.channel).expect("a name"),
            payload: message.payload,
        });
    }

    fn take_gap(&mut self, gap: &v1::DeliveryGap) {
        let log = gap.log.expect("each gap has a log").into_core().expect("a log");
        self.gaps.push((log, MessageNumber::new(gap.from), MessageNumber::new(gap.through)));
    }
}

/// What all readers of a namespace read.
#[derive(Clone)]
pub(crate) struct Subject {
    pub(crate) namespace: NamespaceNumber,
    pub(crate) name: &'static str,
    pub(crate) channels: BTreeSet<ChannelName>,
}

impl Subject {
    fn reading(&self, reader: String, kind: ReadingKind, got: Got) -> Reading {
        let Got { messages, gaps } = got;
        let (namespace, channels) = (self.namespace, self.channels.clone());
        Reading { reader, kind, namespace, channels, messages, gaps }
    }
}

/// One region's subscriber.
pub(crate) struct RecordedReader {
    region: &'static str,
    subject: Subject,
    task: JoinHandle<String>,
    got: Arc<Mutex<Got>>,
    changed: watch::Receiver<()>,
}

impl RecordedReader {
    /// Reads from the oldest message on.
    pub(crate) fn start(mesh: &Mesh, region: &'static str, subject: &Subject) -> Self {
        let options = SubscriberOptions {
            start: Start::Oldest,
            give_up_after: PATIENCE,
            ..Default::default()
        };
        let gateways = mesh.gateways(region).expect("the region has a gateway");
        let mut subscriber =
            Subscriber::new(gateways, subject.name, &[CHANNELS.to_owned()], &options);
        let got = Arc::new(Mutex::new(Got::default()));
        let shared = Arc::clone(&got);
        let (progress, changed) = watch::channel(());
        let task = tokio::spawn(async move {
            let mut pace = tokio::time::interval(RESUME_PACE);
            pace.set_missed_tick_behavior(MissedTickBehavior::Delay);
            loop {
                let received = match subscriber.next().await {
                    Ok(Some(received)) => received,
                    Ok(None) => return "it ended".to_owned(),
                    // The region has left the namespace, and may come back to it.
                    Err(error) if is_of_a_region_that_left(&error) => {
                        pace.tick().await;
                        continue;
                    }
                    Err(error) => return error.to_string(),
                };
                let mut got = shared.lock().expect("nobody panics with it");
                for delivery in received.deliveries {
                    match delivery.event {
                        Some(v1::delivery::Event::Message(message)) => got.take(message),
                        Some(v1::delivery::Event::Gap(gap)) => got.take_gap(&gap),
                        _ => {}
                    }
                }
                drop(got);
                progress.send_replace(());
            }
        });
        Self { region, subject: subject.clone(), task, got, changed }
    }

    pub(crate) fn is_of(&self, namespace: NamespaceNumber) -> bool {
        self.subject.namespace == namespace
    }

    /// Waits until it has messages with these contents, or ended.
    pub(crate) async fn until(&mut self, payloads: &BTreeSet<Bytes>) {
        let got = Arc::clone(&self.got);
        let has_all = || {
            let got = got.lock().expect("nobody panics with it");
            let shown: BTreeSet<&Bytes> =
                got.messages.iter().map(|message| &message.payload).collect();
            payloads.iter().all(|payload| shown.contains(payload))
        };
        // A reader that has ended says so in the end.
        let _ = self.changed.wait_for(|()| has_all()).await;
    }

    /// Ends it: what it got, and why it ended by itself, if it did.
    pub(crate) async fn finish(self) -> (Reading, Option<String>) {
        let ended = if self.task.is_finished() {
            Some(self.task.await.unwrap_or_else(|error| error.to_string()))
        } else {
            self.task.abort();
            None
        };
        let got = std::mem::take(&mut *self.got.lock().expect("nobody panics with it"));
        let reader = format!("the subscriber in {} of {}", self.region, self.subject.name);
        (self.subject.reading(reader, ReadingKind::Subscription, got), ended)
    }
}

fn is_of_a_region_that_left(error: &ClientError) -> bool {
    error.status().and_then(reason_of) == Some(Reason::NotMember)
}

/// All that a region tells of a namespace.
pub(crate) async fn history(
    mesh: &Mesh,
    region: &str,
    subject: &Subject,
) -> Result<Reading, tonic::Status> {
    let mut gateway = mesh.subscribing(region).expect("the region has a gateway");
    let mut got = Got::default();
    let mut start = Start::Oldest;
    loop {
        let request = v1::ReadHistoryRequest {
            namespace: subject.name.to_owned(),
            channels: vec![CHANNELS.to_owned()],
            start: Some(start.to_wire()),
            limit: PAGE,
        };
        let mut stream = gateway.read_history(request).await?.into_inner();
        let mut next = None;
        while let Some(response) = stream.message().await? {
            response.messages.into_iter().for_each(|message| got.take(message));
            response.gaps.iter().for_each(|gap| got.take_gap(gap));
            next = response.more.then_some(response.cursor);
        }
        let Some(cursor) = next else { break };
        start = Start::Cursor(cursor);
    }
    let reader = format!("the history in {region} of {}", subject.name);
    Ok(subject.reading(reader, ReadingKind::History, got))
}
