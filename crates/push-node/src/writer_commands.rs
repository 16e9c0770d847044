//! What the log writer is asked for, and how it answers: the queue between the
//! services and links on one side and the one thread that writes on the other.
//! It is bounded by bytes; whoever asks waits for room.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use interlock_core::admission::{
    Admission, ChannelEdit, ClosedReason, EditRefusal, NewPublication, PublishRefusal,
    ResumeSession, SessionOpened, SessionRefusal, Standing, Telling,
};
use interlock_core::directory::Definition;
use interlock_core::identity::{
    LogName, Mark, MessageName, NamespaceNumber, NodeNumber, ParentPoint,
};
use interlock_core::replication::frames::{BaseEntries, Frame, Hole, LogOffer};
use interlock_core::replication::peer_receiver::SubmissionOutcome;
use interlock_core::replication::rows::Row;
use interlock_core::topology::Topology;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc, oneshot};

use crate::work_queue::{QueueClosed, WorkQueue};

/// What a command costs beside the bytes that it carries.
const COMMAND_OVERHEAD_BYTES: usize = 256;
/// What a publication or message costs beside its bytes.
const MESSAGE_OVERHEAD_BYTES: usize = 192;

/// A log's name and mark.
const MARK_BYTES: usize = size_of::<(LogName, Mark)>();
/// An offer of a log, which usually has one parent.
const OFFER_BYTES: usize = size_of::<LogOffer>() + size_of::<ParentPoint>();

/// Publications with names that follow one another.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PublishedRange {
    /// How many.
    pub count: u64,
    /// The first one's name; none for repeats that the session's table no
    /// longer has.
    pub first: Option<MessageName>,
    /// Whether they had been stored before.
    pub repeat: bool,
}

impl PublishedRange {
    /// The last one's name.
    pub fn last(&self) -> Option<MessageName> {
        let first = self.first?;
        let m_id = first.m_id.get() + self.count.saturating_sub(1);
        Some(MessageName { m_id: interlock_core::identity::MessageNumber::new(m_id), ..first })
    }
}

/// The answer to a frame of publications: what is durable, in order, up to the
/// first that was refused.
#[derive(Debug, Default)]
pub struct PublishAnswer {
    /// Durable here.
    pub ranges: Vec<PublishedRange>,
    /// Why the rest is not stored.
    pub refusal: Option<PublishRefusal>,
    /// What the messages are stamped with: its members are those that ALL means.
    pub topology: Arc<Topology>,
}

impl PublishAnswer {
    /// Adds a publication to the last range, or begins a new one.
    pub fn push(&mut self, name: Option<MessageName>, repeat: bool) {
        if let Some(range) = self.ranges.last_mut()
            && range.repeat == repeat
            && follows(range, name)
        {
            range.count += 1;
        } else {
            self.ranges.push(PublishedRange { count: 1, first: name, repeat });
        }
    }
}

fn follows(range: &PublishedRange, name: Option<MessageName>) -> bool {
    match (range.last(), name) {
        (None, None) => true,
        (Some(last), Some(name)) => last.log == name.log && last.m_id.next() == name.m_id,
        _ => false,
    }
}

/// What the frames of one stream share, so that behind a refused one nothing is
/// stored: those behind it are queued already when it is refused.
#[derive(Clone, Debug, Default)]
pub struct FrameOrder {
    /// Only the log writer reads and writes it.
    refused: Arc<AtomicBool>,
}

impl FrameOrder {
    /// A frame was refused: those behind it are dropped, without an answer.
    pub fn refuse_rest(&self) {
        self.refused.store(true, Ordering::Relaxed);
    }

    /// Whether a frame before this one was refused.
    pub fn is_refused(&self) -> bool {
        self.refused.load(Ordering::Relaxed)
    }
}

/// The answer to an edit that was admitted.
#[derive(Debug)]
pub struct EditAnswer {
    /// The operation's name.
    pub name: MessageName,
    /// The definition with it.
    pub definition: Definition,
    /// What the operation is stamped with.
    pub topology: Arc<Topology>,
}

/// What became of a submitted frame or hole.
#[derive(Debug)]
pub struct SubmissionAnswer {
    /// Its log.
    pub log: LogName,
    /// The outcome.
    pub outcome: SubmissionOutcome,
}

/// What is known of how much a member has still to take over.
#[derive(Debug)]
pub enum BackfillNews {
    /// A ready member offers logs.
    Offered(Telling, Vec<LogOffer>),
    /// A ready member has said all.
    OfferedAll(Telling),
}

/// What became of a whole base.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum BaseAnswer {
    /// It is stored durably.
    Stored(NamespaceNumber),
    /// It cannot be merged; for people.
    Refused(String),
}

/// One thing for the log writer to do.
pub enum WriterCommand {
    /// Publish, in order, up to the first that is refused.
    Publish(Standing, Vec<NewPublication>, FrameOrder, oneshot::Sender<PublishAnswer>),
    /// Open or resume a publisher session, with random bits for a new one.
    OpenSession(
        Standing,
        NamespaceNumber,
        [u8; 16],
        Option<ResumeSession>,
        oneshot::Sender<Result<SessionOpened, SessionRefusal>>,
    ),
    /// Edit a channel.
    Edit(Box<ChannelEdit>, oneshot::Sender<Result<EditAnswer, EditRefusal>>),
    /// Take what is new of a peer's frame.
    Receive(NodeNumber, Frame, mpsc::UnboundedSender<SubmissionAnswer>),
    /// Move over what no member has any more.
    ReceiveHole(Hole, Option<Row>, mpsc::UnboundedSender<SubmissionAnswer>),
    /// Merge what is left of trimmed messages; told when a whole base is stored.
    MergeBase(Telling, BaseEntries, mpsc::UnboundedSender<BaseAnswer>),
    /// A member's whole base is stored durably.
    BaseStored(Telling, NamespaceNumber),
    /// A log was trimmed up to its new floor.
    Trimmed(LogName, Mark),
    /// Compare what a member says to hold with what is held.
    Examine(NodeNumber, Vec<(LogName, Mark)>),
    /// Go by another topology.
    SetTopology(Arc<Topology>),
    /// Close or open the whole node for a reason.
    SetNodeClosed(ClosedReason, bool),
    /// Close or open a namespace for a reason.
    SetClosed(NamespaceNumber, ClosedReason, bool),
    /// The namespace may accept: its record is durable.
    SetReady(NamespaceNumber),
    /// The namespace takes another member's state first.
    BeginBackfill(NamespaceNumber),
    /// Something about a backfill, in these namespaces.
    Backfill(Vec<NamespaceNumber>, BackfillNews),
    /// Something became durable that somebody waits for here.
    Wake,
    /// Look at what is decided on; answers travel with the closure.
    Look(Box<dyn FnOnce(&Admission) + Send>),
}

impl WriterCommand {
    fn cost(&self) -> usize {
        let carried = match self {
            Self::Publish(_, publications, ..) => publications
                .iter()
                .map(|it| it.payload.len() + it.key.len() + MESSAGE_OVERHEAD_BYTES)
                .sum(),
            Self::Edit(..) => interlock_core::limits::MAX_CONTENT_BYTES,
            Self::Receive(_, frame, _) => {
                frame.sends.iter().map(|send| send.len() + MESSAGE_OVERHEAD_BYTES).sum()
            }
            Self::MergeBase(_, base, _) => {
                let directory: usize = base.directory.iter().map(bytes::Bytes::len).sum();
                directory + base.trim_points.len() * MARK_BYTES
            }
            Self::Examine(_, marks) => marks.len() * MARK_BYTES,
            Self::Backfill(_, BackfillNews::Offered(_, offers)) => offers.len() * OFFER_BYTES,
            _ => 0,
        };
        COMMAND_OVERHEAD_BYTES + carried
    }
}

/// A command that waits, with the room it takes.
pub struct QueuedCommand {
    /// What to do.
    pub command: WriterCommand,
    /// What it costs.
    pub cost: usize,
    /// The room it takes, given back once what it stored has been projected.
    pub permit: Option<OwnedSemaphorePermit>,
}

/// The handle to the log writer. Cheap to clone.
#[derive(Clone)]
pub struct LogWriter {
    queue: Arc<WorkQueue<QueuedCommand>>,
    room: Arc<Semaphore>,
    capacity: u32,
}

impl LogWriter {
    /// A handle to a queue of a capacity; the thread takes from
    /// [`LogWriter::queue`].
    pub fn new(capacity_bytes: usize) -> Self {
        let capacity = u32::try_from(capacity_bytes).unwrap_or(u32::MAX);
        Self {
            queue: Arc::new(WorkQueue::new()),
            room: Arc::new(Semaphore::new(capacity as usize)),
            capacity,
        }
    }

    /// Where the thread takes its work from.
    pub fn queue(&self) -> Arc<WorkQueue<QueuedCommand>> {
        Arc::clone(&self.queue)
    }

    /// Asks for something that carries messages, or as much as a peer says: waits
    /// for room first.
    pub async fn submit(&self, command: WriterCommand) -> Result<(), QueueClosed> {
        let cost = command.cost();
        let units = u32::try_from(cost).unwrap_or(u32::MAX).min(self.capacity);
        let permit = Arc::clone(&self.room).acquire_many_owned(units).await;
        let permit = Some(permit.map_err(|_| QueueClosed)?);
        self.queue.push(QueuedCommand { command, cost, permit })
    }

    /// Tells something that carries no messages: never waits. Nobody outside the
    /// node decides how often: it is once for a topology, a namespace's change, a
    /// stream's beginning and end, a sync, or a call that waits for the answer.
    pub fn tell(&self, command: WriterCommand) -> Result<(), QueueClosed> {
        let cost = COMMAND_OVERHEAD_BYTES;
        self.queue.push(QueuedCommand { command, cost, permit: None })
    }

    /// Publishes; the answer comes once it is durable. An answer that never comes
    /// means an unknown outcome.
    pub async fn publish(
        &self,
        publications: Vec<NewPublication>,
    ) -> Result<oneshot::Receiver<PublishAnswer>, QueueClosed> {
        self.publish_in_order(publications, &FrameOrder::default()).await
    }

    /// Publishes what a repair took off here, also where this node is leaving.
    pub async fn bring_back(
        &self,
        publications: Vec<NewPublication>,
    ) -> Result<oneshot::Receiver<PublishAnswer>, QueueClosed> {
        self.publish_as(Standing::Holder, publications, &FrameOrder::default()).await
    }

    /// Publishes a frame of a stream, unless one before it is refused.
    pub async fn publish_in_order(
        &self,
        publications: Vec<NewPublication>,
        order: &FrameOrder,
    ) -> Result<oneshot::Receiver<PublishAnswer>, QueueClosed> {
        self.publish_as(Standing::Member, publications, order).await
    }

    async fn publish_as(
        &self,
        standing: Standing,
        publications: Vec<NewPublication>,
        order: &FrameOrder,
    ) -> Result<oneshot::Receiver<PublishAnswer>, QueueClosed> {
        let (sender, receiver) = oneshot::channel();
        self.submit(WriterCommand::Publish(standing, publications, order.clone(), sender)).await?;
        Ok(receiver)
    }

    /// Looks at what is decided on, as of all commands before.
    pub async fn look<T: Send + 'static>(
        &self,
        look: impl FnOnce(&Admission) -> T + Send + 'static,
    ) -> Result<T, QueueClosed> {
        let (sender, receiver) = oneshot::channel();
        self.tell(WriterCommand::Look(Box::new(move |admission| {
            // Whoever asked may have gone.
            let _ = sender.send(look(admission));
        })))?;
        receiver.await.map_err(|_| QueueClosed)
    }
}

#[cfg(test)]
mod tests {
    use interlock_core::identity::{Incarnation, MessageNumber, PathName, ShardNumber};

    use super::*;

    fn name(m_id: u64) -> Option<MessageName> {
        let path = PathName {
            namespace: NamespaceNumber::new(1),
            shard: ShardNumber::new(0),
            origin: NodeNumber::new(1),
        };
        let log = path.log(Incarnation::new(1).expect("not zero"));
        Some(MessageName { log, m_id: MessageNumber::new(m_id) })
    }

    #[test]
    fn names_that_follow_one_another_share_a_range() {
        let mut answer = PublishAnswer::default();
        for (name, repeat) in [
            (None, true),
            (None, true),
            (name(1), true),
            (name(2), true),
            (name(3), false),
            (name(4), false),
            (name(6), false),
        ] {
            answer.push(name, repeat);
        }
        let shape: Vec<_> = answer
            .ranges
            .iter()
            .map(|range| (range.count, range.first.map(|name| name.m_id.get()), range.repeat))
            .collect();
        let expected =
            [(2, None, true), (2, Some(1), true), (2, Some(3), false), (1, Some(6), false)];
        assert_eq!(shape, expected);
    }

    #[tokio::test]
    async fn who_asks_waits_for_room() {
        let writer = LogWriter::new(4 << 20);
        let command = || WriterCommand::Edit(Box::new(edit()), oneshot::channel().0);
        for _ in 0..3 {
            writer.submit(command()).await.expect("there is room");
        }
        let waits = tokio::spawn({
            let writer = writer.clone();
            async move { writer.submit(command()).await }
        });
        tokio::task::yield_now().await;
        assert!(!waits.is_finished());
        let mut taken = Vec::new();
        assert!(writer.queue().take(&mut taken, |_| false));
        drop(taken);
        waits.await.expect("it ends").expect("there is room now");
    }

    fn edit() -> ChannelEdit {
        ChannelEdit {
            namespace: NamespaceNumber::new(1),
            channel: interlock_core::names::ChannelName::parse("a").expect("a name"),
            change: interlock_core::admission::ChannelChange::Delete {
                condition: Default::default(),
            },
            trace: None,
        }
    }
}
