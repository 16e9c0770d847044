//! One namespace at one gateway: the order in which it is delivered, the
//! position that all who keep up share, and the readers who are there.
//!
//! A batch is made once, kept for a while in one queue for all, and handed to
//! every reader as one shared piece of memory. A reader that is further behind
//! than the queue reaches is let go of: it goes on alone from where it stands and
//! comes back, so it never holds up another nor makes the gateway remember more
//! than the one queue.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use interlock_core::clock::Moment;
use interlock_core::cursor::Cursor;
use interlock_core::delivery::OriginNews;
use interlock_core::identity::{LogName, MessageName, MessageNumber, NamespaceNumber};
use interlock_core::message::TraceContext;
use interlock_core::names::ChannelName;
use interlock_core::replication::rows::{Row, RowConflict, Rows};
use interlock_rpc::status::{Reason, refusal};
use interlock_rpc::v1;
use interlock_telemetry::metrics::Gauge;
use tokio::sync::watch;
use tonic::Status;

use crate::live_queue::{LiveQueue, Place, Taken};

/// What a message takes in memory besides its content, about.
const MESSAGE_BYTES: usize = 512;
/// What a batch takes besides its messages, about.
const BATCH_BYTES: usize = 1024;
/// How long a subscriber waits for a namespace to be followed at all.
const OPENING_PATIENCE: Duration = Duration::from_secs(10);

/// One message as every subscriber of this gateway gets it.
#[derive(Debug)]
pub struct LiveMessage {
    /// Its name.
    pub name: MessageName,
    /// Its channel, for filters.
    pub channel: ChannelName,
    /// The trace of its publish call, if that was sampled.
    pub trace: Option<TraceContext>,
    /// What is sent.
    pub delivered: v1::DeliveredMessage,
}

/// What a batch consists of, in order.
#[derive(Debug)]
pub enum Item {
    /// Messages of one log; the position moves to `through`.
    Run {
        /// The log.
        log: LogName,
        /// The first number that it goes over; `None` in what a reader reads for
        /// itself, which goes on from where it stands.
        from: Option<MessageNumber>,
        /// Where the position stands after it.
        through: MessageNumber,
        /// The deliverable ones, of all channels.
        messages: Vec<LiveMessage>,
    },
    /// A channel was created, changed or deleted. The position moves over it with
    /// the run that follows.
    Event {
        /// The message that did it; `None` where an older push-node does not say.
        name: Option<MessageName>,
        /// Its number in the shared order, see `Run`.
        from: Option<MessageNumber>,
        /// The channel.
        channel: ChannelName,
        /// What is told.
        event: v1::ChannelEvent,
    },
    /// Messages that may be missing, told before what comes after them.
    Gap(LogName, v1::DeliveryGap),
}

impl Item {
    /// What it takes in memory, about.
    fn bytes(&self) -> usize {
        match self {
            Self::Run { messages, .. } => messages
                .iter()
                .map(|LiveMessage { delivered, .. }| {
                    MESSAGE_BYTES + delivered.payload.len() + delivered.key.len()
                })
                .sum(),
            Self::Event { .. } | Self::Gap(..) => MESSAGE_BYTES,
        }
    }

    fn in_shared_order(self) -> Self {
        match self {
            Self::Event { name, channel, event, .. } => {
                Self::Event { name, from: name.map(|name| name.m_id), channel, event }
            }
            other => other,
        }
    }

    /// Moves the position over this, and leaves out what it covers already: a
    /// push-node that does not know a row of it, having lost its disk, says again
    /// what came before.
    fn go_over(self, cursor: &mut Cursor, rows: &Rows) -> Option<Self> {
        let (log, through) = match &self {
            Self::Run { log, through, .. } => (*log, *through),
            Self::Gap(log, gap) => (*log, MessageNumber::new(gap.through)),
            Self::Event { name: Some(name), .. } if cursor.covers(name, rows) => return None,
            Self::Event { .. } => return Some(self.in_shared_order()),
        };
        let covered = cursor.position_of(&log, rows);
        if through <= covered {
            return None;
        }
        cursor.advance(MessageName { log, m_id: through }, rows);
        Some(match self {
            Self::Run { mut messages, .. } => {
                messages.retain(|message| message.name.m_id > covered);
                let first = rows.first_m_id(&log).unwrap_or_default();
                Self::Run { log, from: Some(covered.next().max(first)), through, messages }
            }
            other => other,
        })
    }
}

/// A piece of the namespace's one order, and the position after it.
#[derive(Debug)]
pub struct SharedBatch {
    /// What it brings.
    pub items: Vec<Item>,
    /// The shared position after it.
    pub position: Position,
    /// What it takes in memory, about.
    pub bytes: usize,
}

/// The shared position with what is needed to compare others with it.
#[derive(Clone, Debug)]
pub struct Position {
    /// Where it stands.
    pub cursor: Arc<Cursor>,
    /// The same as subscribers carry it, made once for all of them.
    pub encoded: Bytes,
    /// The rows known at this gateway.
    pub rows: Arc<Rows>,
}

/// A reader that follows the shared position.
#[derive(Debug)]
pub struct Attachment {
    /// Where the shared position stood when it came.
    pub position: Position,
    place: Arc<Place>,
    published: watch::Receiver<()>,
}

/// One namespace's order at this gateway.
#[derive(Debug)]
pub struct FanOut {
    namespace: String,
    state: Mutex<State>,
    standing: watch::Sender<Standing>,
    /// Wakes readers who have taken all there was.
    published: watch::Sender<()>,
    /// Whether all that the push-node had when it was last asked is here.
    current: watch::Sender<bool>,
    queued_bytes: Gauge,
}

/// Whether the namespace is followed.
#[derive(Clone, Debug)]
enum Standing {
    /// Not yet, and what has been in the way.
    Opening(Option<Box<Status>>),
    Open,
    /// No longer, and why; it is tried again.
    Lost(Box<Status>),
    /// It cannot be followed: why.
    Closed(Box<Status>),
}

#[derive(Debug, Default)]
struct State {
    position: Option<Position>,
    queue: LiveQueue,
    news: BTreeMap<u32, OriginNews>,
    /// How fresh each origin was when the push-node said so, and when that was.
    freshness: Option<(Vec<v1::OriginFreshness>, Moment)>,
}

impl FanOut {
    /// Not yet open. `queued_bytes` tells what is kept for readers, here and in
    /// other namespaces.
    pub fn new(namespace: &str, queued_bytes: &Gauge) -> Self {
        Self {
            namespace: namespace.to_owned(),
            state: Mutex::default(),
            standing: watch::Sender::new(Standing::Opening(None)),
            published: watch::Sender::new(()),
            current: watch::Sender::new(false),
            queued_bytes: queued_bytes.clone(),
        }
    }

    /// The namespace's name.
    pub fn namespace(&self) -> &str {
        &self.namespace
    }

    /// Waits until the namespace is followed, and joins at the shared position.
    pub async fn attach(&self) -> Result<Attachment, Status> {
        self.opened(OPENING_PATIENCE).await?;
        self.attach_again()
    }

    /// Joins at the shared position, also while the namespace is not followed:
    /// who has been there before waits for it with the others.
    pub fn attach_again(&self) -> Result<Attachment, Status> {
        let mut state = self.lock();
        // Under the lock: one that closes meanwhile lets go of those who are there.
        if let Standing::Closed(status) = &*self.standing.borrow() {
            return Err((**status).clone());
        }
        let position =
            state.position.clone().ok_or_else(|| Status::internal("open without a position"))?;
        let published = self.published.subscribe();
        Ok(Attachment { position, place: state.queue.join(), published })
    }

    /// What comes next in the shared order; `None` when the reader has fallen
    /// behind or the namespace has ended. Cancel safe.
    pub async fn next(&self, attachment: &mut Attachment) -> Option<Arc<SharedBatch>> {
        loop {
            attachment.published.mark_unchanged();
            match self.try_next(attachment)? {
                Taken::Batch(batch) => return Some(batch),
                Taken::Nothing => attachment.published.changed().await.ok()?,
                Taken::Behind => return None,
            }
        }
    }

    /// The same, without waiting; `None` when the namespace has ended.
    pub(crate) fn try_next(&self, attachment: &Attachment) -> Option<Taken> {
        let state = self.lock();
        let is_closed = matches!(*self.standing.borrow(), Standing::Closed(_));
        (!is_closed).then(|| state.queue.take(&attachment.place))
    }

    /// Waits until the namespace is followed, or turns out not to be; after a
    /// while it says why it is not, so that the subscriber can go elsewhere.
    async fn opened(&self, patience: Duration) -> Result<(), Status> {
        let mut standing = self.standing.subscribe();
        let opened =
            standing.wait_for(|standing| matches!(standing, Standing::Open | Standing::Closed(_)));
        if tokio::time::timeout(patience, opened).await.is_ok() {
            return Ok(());
        }
        let why = match &*self.standing.borrow() {
            Standing::Opening(Some(status)) | Standing::Lost(status) => {
                format!(": {}", status.message())
            }
            _ => String::new(),
        };
        let text = format!("no push-node of this region serves {}{why}", self.namespace);
        Err(refusal(Reason::NoNodeReachable, text).into_status())
    }

    /// The shared position now, if the namespace is open.
    pub fn position(&self) -> Option<Position> {
        self.lock().position.clone()
    }

    /// What origins were heard to say of themselves first-hand.
    pub fn news(&self) -> Vec<OriginNews> {
        self.lock().news.values().copied().collect()
    }

    /// How fresh each origin is now: what the push-node said, and as much older
    /// as that was said ago.
    pub fn freshness(&self, now: Moment) -> Vec<v1::OriginFreshness> {
        let Some((mut origins, heard_at)) = self.lock().freshness.clone() else {
            return Vec::new();
        };
        let since = u64::try_from(now.since(heard_at).as_millis()).unwrap_or(u64::MAX);
        for origin in &mut origins {
            let age = &mut origin.last_heard_milliseconds;
            *age = age.saturating_add(since);
            if origin.incarnation != 0 {
                let age = &mut origin.introduced_milliseconds;
                *age = age.saturating_add(since);
            }
        }
        origins
    }

    /// Waits until the namespace is followed and all that the push-node had is
    /// here: only then somebody can be told to have caught up.
    pub async fn until_current(&self) {
        let mut current = self.current.subscribe();
        if current.wait_for(|current| *current).await.is_err() {
            // The sender lives as long as this.
            std::future::pending::<()>().await;
        }
    }

    /// Opens, or goes on after the upstream was lost: rows merge, the position
    /// stays where it was.
    pub(crate) fn open(
        &self,
        namespace: NamespaceNumber,
        cursor: Cursor,
        rows: Vec<Row>,
    ) -> Result<(), RowConflict> {
        {
            let mut state = self.lock();
            let mut known = state
                .position
                .as_ref()
                .map(|position| (*position.rows).clone())
                .unwrap_or_default();
            for row in rows {
                known.insert(row)?;
            }
            let cursor = match &state.position {
                Some(position) if position.cursor.namespace() == namespace => {
                    Arc::clone(&position.cursor)
                }
                _ => Arc::new(cursor),
            };
            let encoded = cursor.encode();
            state.position = Some(Position { cursor, encoded, rows: Arc::new(known) });
        }
        self.standing.send_replace(Standing::Open);
        Ok(())
    }

    /// Remembers what is in the way of following.
    pub(crate) fn delayed(&self, why: &Status) {
        self.current.send_replace(false);
        let why = Box::new(why.clone());
        self.standing.send_modify(|standing| match standing {
            Standing::Opening(_) => *standing = Standing::Opening(Some(why)),
            Standing::Open | Standing::Lost(_) => *standing = Standing::Lost(why),
            Standing::Closed(_) => {}
        });
    }

    /// Refuses all who come from now on, and lets go of all who are there.
    pub(crate) fn close(&self, why: Status) {
        self.current.send_replace(false);
        {
            let _state = self.lock();
            self.standing.send_replace(Standing::Closed(Box::new(why)));
        }
        self.published.send_replace(());
    }

    /// Takes the rows that a batch brings.
    pub(crate) fn learn(&self, row: Row) -> Result<(), RowConflict> {
        let mut state = self.lock();
        let Some(position) = &mut state.position else { return Ok(()) };
        if position.rows.contains(&row.log) {
            return Ok(());
        }
        Arc::make_mut(&mut position.rows).insert(row).map(|_| ())
    }

    /// Moves the shared position over `items` and hands them to every reader.
    /// How many readers were let go of because they were too slow.
    pub(crate) fn publish(&self, items: Vec<Item>) -> usize {
        let mut state = self.lock();
        let Some(position) = &mut state.position else { return 0 };
        let rows = Arc::clone(&position.rows);
        let cursor = Arc::make_mut(&mut position.cursor);
        let items: Vec<Item> =
            items.into_iter().filter_map(|item| item.go_over(cursor, &rows)).collect();
        if items.is_empty() {
            return 0;
        }
        position.encoded = position.cursor.encode();
        let bytes = BATCH_BYTES + items.iter().map(Item::bytes).sum::<usize>();
        let batch = Arc::new(SharedBatch { items, position: position.clone(), bytes });
        let before = state.queue.bytes();
        let let_go = state.queue.push(batch);
        self.queued_bytes.add(state.queue.bytes() as f64 - before as f64);
        drop(state);
        self.published.send_replace(());
        let_go
    }

    /// Takes how fresh each origin is, as the push-node says it now, having said
    /// all else that it has.
    pub(crate) fn hear(
        &self,
        freshness: Vec<v1::OriginFreshness>,
        news: Vec<OriginNews>,
        now: Moment,
    ) {
        {
            let mut state = self.lock();
            for item in news {
                state.news.insert(item.origin.get(), item);
            }
            state.freshness = Some((freshness, now));
        }
        self.current.send_if_modified(|current| !std::mem::replace(current, true));
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        // Nothing between lock and unlock can leave the state half changed.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for FanOut {
    fn drop(&mut self) {
        self.queued_bytes.add(-(self.lock().queue.bytes() as f64));
    }
}

/// The gateway's monotonic clock as the core takes it.
#[derive(Clone, Copy, Debug)]
pub struct Timer(tokio::time::Instant);

impl Timer {
    /// Starts counting.
    pub fn start() -> Self {
        Self(tokio::time::Instant::now())
    }

    /// Now.
    pub fn now(&self) -> Moment {
        Moment::new(self.0.elapsed())
    }
}

#[cfg(test)]
mod tests {
    use interlock_core::limits::LIVE_QUEUE_BYTES;

    use super::*;
    use crate::samples::{NAMESPACE, fan_out, log, run, run_of_bytes};

    fn open() -> FanOut {
        let fan_out = fan_out("demo");
        let rows = vec![Row { log: log(1, 11), parents: Vec::new() }];
        fan_out.open(NAMESPACE, Cursor::new(NAMESPACE), rows).expect("a consistent row");
        fan_out
    }

    fn covered(position: &Position) -> u64 {
        position.cursor.position_of(&log(1, 11), &position.rows).get()
    }

    #[tokio::test]
    async fn readers_share_one_batch_and_its_position() {
        let fan_out = open();
        let mut first = fan_out.attach().await.expect("open");
        let mut second = fan_out.attach().await.expect("open");
        assert_eq!(fan_out.publish(vec![run(log(1, 11), 1..=3)]), 0);
        let at_first = fan_out.next(&mut first).await.expect("a batch");
        let at_second = fan_out.next(&mut second).await.expect("a batch");
        assert!(Arc::ptr_eq(&at_first, &at_second), "the batch is made once");
        assert_eq!(covered(&at_first.position), 3);
        assert_eq!(at_first.position.encoded, fan_out.position().expect("open").encoded);
    }

    /// A thousand readers that take nothing: the gateway remembers one queue for
    /// all of them, whatever they missed.
    #[tokio::test]
    async fn slow_readers_are_let_go_of_and_keep_nothing_alive() {
        const BATCH: usize = 256 * 1024;
        let fan_out = open();
        let mut slow = Vec::new();
        for _ in 0..1000 {
            slow.push(fan_out.attach().await.expect("open"));
        }
        let mut quick = fan_out.attach().await.expect("open");
        let mut let_go = 0;
        let mut made = Vec::new();
        let batches = 3 * LIVE_QUEUE_BYTES / BATCH;
        for through in 1..=batches as u64 {
            let_go += fan_out.publish(vec![run_of_bytes(log(1, 11), through..=through, BATCH)]);
            let batch = fan_out.next(&mut quick).await.expect("the quick reader gets all");
            assert_eq!(covered(&batch.position), through);
            made.push(Arc::downgrade(&batch));
        }
        assert_eq!(let_go, slow.len());
        let alive = made.iter().filter(|batch| batch.strong_count() > 0).count();
        assert!(alive * BATCH <= LIVE_QUEUE_BYTES, "{alive} batches are kept");
        let told = fan_out.queued_bytes.get();
        assert!(told >= (alive * BATCH) as f64 && told <= LIVE_QUEUE_BYTES as f64, "{told}");
        // They learn that they have to read on alone.
        assert!(fan_out.next(&mut slow[0]).await.is_none());
        let gauge = fan_out.queued_bytes.clone();
        drop(fan_out);
        assert!(gauge.get().abs() < 0.5, "{}", gauge.get());
    }

    #[tokio::test]
    async fn what_was_heard_of_origins_ages() {
        let fan_out = open();
        let at = |seconds| Moment::new(Duration::from_secs(seconds));
        let origin = |heard, incarnation, introduced| v1::OriginFreshness {
            origin: 1,
            last_heard_milliseconds: heard,
            incarnation,
            introduced_milliseconds: introduced,
            ..Default::default()
        };
        assert!(fan_out.freshness(at(9)).is_empty());
        fan_out.hear(vec![origin(200, 11, 700), origin(u64::MAX, 0, 0)], Vec::new(), at(10));
        assert_eq!(fan_out.freshness(at(10))[0], origin(200, 11, 700));
        let hours_later = fan_out.freshness(at(10 + 7200));
        assert_eq!(hours_later, [origin(7_200_200, 11, 7_200_700), origin(u64::MAX, 0, 0)]);
    }

    #[tokio::test]
    async fn nobody_has_caught_up_while_nothing_is_followed() {
        let fan_out = open();
        let is_current =
            async || tokio::time::timeout(Duration::ZERO, fan_out.until_current()).await.is_ok();
        assert!(!is_current().await, "the push-node has not said yet that this is all");
        fan_out.hear(Vec::new(), Vec::new(), Moment::START);
        assert!(is_current().await);
        fan_out.delayed(&Status::unavailable("connection reset"));
        assert!(!is_current().await);
        // Who comes now is sent elsewhere, who was there stays.
        let status = fan_out.opened(Duration::ZERO).await.expect_err("not followed");
        assert!(status.message().contains("connection reset"), "{status}");
        fan_out.attach_again().expect("the position is known");
        fan_out.open(NAMESPACE, Cursor::new(NAMESPACE), Vec::new()).expect("no rows");
        fan_out.opened(Duration::ZERO).await.expect("followed again");
        assert!(!is_current().await);
        fan_out.hear(Vec::new(), Vec::new(), Moment::START);
        assert!(is_current().await);
    }

    #[tokio::test]
    async fn opening_again_keeps_the_position() {
        let fan_out = open();
        fan_out.publish(vec![run(log(1, 11), 1..=5)]);
        let behind = Cursor::new(NAMESPACE);
        fan_out.open(NAMESPACE, behind, Vec::new()).expect("no rows");
        assert_eq!(covered(&fan_out.position().expect("open")), 5);
    }

    #[tokio::test]
    async fn a_namespace_that_is_not_here_refuses_with_the_reason() {
        let fan_out = fan_out("elsewhere");
        fan_out.close(Status::not_found("no such namespace"));
        let status = fan_out.attach().await.expect_err("closed");
        assert_eq!(status.code(), tonic::Code::NotFound);
    }

    #[tokio::test]
    async fn what_a_push_node_says_again_reaches_nobody_twice() {
        let fan_out = open();
        fan_out.publish(vec![run(log(1, 11), 1..=5)]);
        let mut reader = fan_out.attach().await.expect("open");
        fan_out.publish(vec![run(log(1, 11), 1..=3)]);
        fan_out.publish(vec![run(log(1, 11), 4..=7)]);
        let batch = fan_out.next(&mut reader).await.expect("a batch");
        let [Item::Run { from, through, messages, .. }] = batch.items.as_slice() else {
            panic!("one run, not {:?}", batch.items)
        };
        assert_eq!((*from, *through), (Some(MessageNumber::new(6)), MessageNumber::new(7)));
        let m_ids: Vec<u64> = messages.iter().map(|message| message.name.m_id.get()).collect();
        assert_eq!(m_ids, [6, 7]);
        assert!(matches!(fan_out.try_next(&reader), Some(Taken::Nothing)));
    }

    #[tokio::test]
    async fn a_reader_that_comes_while_the_namespace_closes_is_not_forgotten() {
        let fan_out = open();
        let mut there = fan_out.attach().await.expect("open");
        fan_out.close(Status::not_found("no longer"));
        assert!(fan_out.next(&mut there).await.is_none());
        let status = fan_out.attach().await.expect_err("closed");
        assert_eq!(status.code(), tonic::Code::NotFound);
    }

    #[tokio::test]
    async fn a_namespace_that_nobody_serves_says_why() {
        let fan_out = fan_out("demo");
        fan_out.delayed(&Status::unavailable("connection refused"));
        let status = fan_out.opened(Duration::ZERO).await.expect_err("not open");
        assert_eq!(status.code(), tonic::Code::Unavailable);
        assert!(status.message().contains("connection refused"), "{status}");
    }
}
