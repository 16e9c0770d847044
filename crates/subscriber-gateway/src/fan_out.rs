//! One namespace at one gateway: the order in which it is delivered, the
//! position that all who keep up share, and the readers who are there.
//!
//! A batch is made once and handed to every reader as one shared piece of
//! memory. A reader whose queue is full is let go of: it goes on alone from
//! where it stands and comes back, so it never holds up another nor makes the
//! gateway remember more than one queue's worth of batches.

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
use tokio::sync::{mpsc, watch};
use tonic::Status;

/// How many batches a reader may be behind before it goes on alone. A batch
/// holds at most about 1 MiB, and all readers share the same ones.
const LIVE_QUEUE_BATCHES: usize = 64;
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
    /// A channel was created, changed or deleted.
    Event(v1::ChannelEvent),
    /// Messages that may be missing, told before what comes after them.
    Gap(LogName, v1::DeliveryGap),
}

impl Item {
    /// Moves the position over this, and leaves out what it covers already: a
    /// push-node that does not know a row of it, having lost its disk, says again
    /// what came before.
    fn go_over(self, cursor: &mut Cursor, rows: &Rows) -> Option<Self> {
        let (log, through) = match &self {
            Self::Run { log, through, .. } => (*log, *through),
            Self::Gap(log, gap) => (*log, MessageNumber::new(gap.through)),
            Self::Event(_) => return Some(self),
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
    /// What follows. It ends when the reader falls behind or the namespace ends.
    pub batches: mpsc::Receiver<Arc<SharedBatch>>,
}

/// One namespace's order at this gateway.
#[derive(Debug)]
pub struct FanOut {
    namespace: String,
    state: Mutex<State>,
    standing: watch::Sender<Standing>,
}

/// Whether the namespace is followed.
#[derive(Clone, Debug)]
enum Standing {
    /// Not yet, and what has been in the way.
    Opening(Option<Box<Status>>),
    Open,
    /// It cannot be followed: why.
    Closed(Box<Status>),
}

#[derive(Debug, Default)]
struct State {
    position: Option<Position>,
    readers: BTreeMap<u64, mpsc::Sender<Arc<SharedBatch>>>,
    next_reader: u64,
    news: BTreeMap<u32, OriginNews>,
    freshness: Vec<v1::OriginFreshness>,
}

impl FanOut {
    /// Not yet open.
    pub fn new(namespace: &str) -> Self {
        Self {
            namespace: namespace.to_owned(),
            state: Mutex::default(),
            standing: watch::Sender::new(Standing::Opening(None)),
        }
    }

    /// The namespace's name.
    pub fn namespace(&self) -> &str {
        &self.namespace
    }

    /// Waits until the namespace is followed, and joins at the shared position.
    pub async fn attach(&self) -> Result<Attachment, Status> {
        self.opened(OPENING_PATIENCE).await?;
        let (sender, batches) = mpsc::channel(LIVE_QUEUE_BATCHES);
        let mut state = self.lock();
        // Under the lock: one that closes meanwhile lets go of those who are there.
        if let Standing::Closed(status) = &*self.standing.borrow() {
            return Err((**status).clone());
        }
        let position =
            state.position.clone().ok_or_else(|| Status::internal("open without a position"))?;
        let reader = state.next_reader;
        state.next_reader += 1;
        state.readers.insert(reader, sender);
        Ok(Attachment { position, batches })
    }

    /// Waits until the namespace is followed, or turns out not to be; after a
    /// while it says why it is not, so that the subscriber can go elsewhere.
    async fn opened(&self, patience: Duration) -> Result<(), Status> {
        let mut standing = self.standing.subscribe();
        let opened = standing.wait_for(|standing| !matches!(standing, Standing::Opening(_)));
        if tokio::time::timeout(patience, opened).await.is_ok() {
            return Ok(());
        }
        let why = match &*self.standing.borrow() {
            Standing::Opening(Some(status)) => format!(": {}", status.message()),
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

    /// How fresh each origin is.
    pub fn freshness(&self) -> Vec<v1::OriginFreshness> {
        self.lock().freshness.clone()
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

    /// Remembers what is in the way of opening.
    pub(crate) fn delayed(&self, why: &Status) {
        self.standing.send_if_modified(|standing| {
            let opening = matches!(standing, Standing::Opening(_));
            if opening {
                *standing = Standing::Opening(Some(Box::new(why.clone())));
            }
            opening
        });
    }

    /// Refuses all who come from now on, and lets go of all who are there.
    pub(crate) fn close(&self, why: Status) {
        self.standing.send_replace(Standing::Closed(Box::new(why)));
        self.lock().readers.clear();
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
        let batch = Arc::new(SharedBatch { items, position: position.clone() });
        let mut slow = 0;
        state.readers.retain(|_, reader| match reader.try_send(Arc::clone(&batch)) {
            Ok(()) => true,
            Err(mpsc::error::TrySendError::Full(_)) => {
                slow += 1;
                false
            }
            Err(mpsc::error::TrySendError::Closed(_)) => false,
        });
        slow
    }

    /// Takes how fresh each origin is, as the push-node says it.
    pub(crate) fn hear(&self, freshness: Vec<v1::OriginFreshness>, news: Vec<OriginNews>) {
        let mut state = self.lock();
        for item in news {
            state.news.insert(item.origin.get(), item);
        }
        state.freshness = freshness;
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        // Nothing between lock and unlock can leave the state half changed.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
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
    use super::*;
    use crate::samples::{NAMESPACE, log, run};

    fn open() -> FanOut {
        let fan_out = FanOut::new("demo");
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
        let at_first = first.batches.recv().await.expect("a batch");
        let at_second = second.batches.recv().await.expect("a batch");
        assert!(Arc::ptr_eq(&at_first, &at_second), "the batch is made once");
        assert_eq!(covered(&at_first.position), 3);
        assert_eq!(at_first.position.encoded, fan_out.position().expect("open").encoded);
    }

    #[tokio::test]
    async fn a_slow_reader_is_let_go_of_and_the_others_go_on() {
        let fan_out = open();
        let mut slow = fan_out.attach().await.expect("open");
        let mut quick = fan_out.attach().await.expect("open");
        let batches = LIVE_QUEUE_BATCHES as u64 + 1;
        let mut let_go = 0;
        for through in 1..=batches {
            let_go += fan_out.publish(vec![run(log(1, 11), through..=through)]);
            let batch = quick.batches.recv().await.expect("the quick reader gets all");
            assert_eq!(covered(&batch.position), through);
        }
        assert_eq!(let_go, 1);
        // It still gets what its queue holds, knows where it stands, and then
        // learns that it has to read on alone.
        let mut stands_at = 0;
        while let Some(batch) = slow.batches.recv().await {
            stands_at = covered(&batch.position);
        }
        assert_eq!(stands_at, LIVE_QUEUE_BATCHES as u64);
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
        let fan_out = FanOut::new("elsewhere");
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
        let batch = reader.batches.recv().await.expect("a batch");
        let [Item::Run { from, through, messages, .. }] = batch.items.as_slice() else {
            panic!("one run, not {:?}", batch.items)
        };
        assert_eq!((*from, *through), (Some(MessageNumber::new(6)), MessageNumber::new(7)));
        let m_ids: Vec<u64> = messages.iter().map(|message| message.name.m_id.get()).collect();
        assert_eq!(m_ids, [6, 7]);
        assert!(reader.batches.try_recv().is_err());
    }

    #[tokio::test]
    async fn a_reader_that_comes_while_the_namespace_closes_is_not_forgotten() {
        let fan_out = open();
        let mut there = fan_out.attach().await.expect("open");
        fan_out.close(Status::not_found("no longer"));
        assert!(there.batches.recv().await.is_none());
        let status = fan_out.attach().await.expect_err("closed");
        assert_eq!(status.code(), tonic::Code::NotFound);
    }

    #[tokio::test]
    async fn a_namespace_that_nobody_serves_says_why() {
        let fan_out = FanOut::new("demo");
        fan_out.delayed(&Status::unavailable("connection refused"));
        let status = fan_out.opened(Duration::ZERO).await.expect_err("not open");
        assert_eq!(status.code(), tonic::Code::Unavailable);
        assert!(status.message().contains("connection refused"), "{status}");
    }
}
