//! Publications that a repair took off this node's logs, published again as this node's
//! own: under its new incarnation, marked as possibly repeated, each once
//! whatever is interrupted.
//!
//! Before the cut they are copied into documents, a frame each, with a page that says
//! which of them is next. They are published in a session of their own: a frame that a
//! crash has published again gets the first answers. What the channels' operations did is
//! not repeated: the directory has it, and the members take it as a base.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use interlock_core::admission::{
    NewPublication, PublishRefusal, ResumeSession, SessionRefusal, Standing,
};
use interlock_core::identity::{NamespaceNumber, PublisherSequence, SessionId};
use interlock_core::message::{MessageHead, MessageKind, PublisherPosition};
use interlock_core::names::ChannelName;
use interlock_rpc::convert::IntoWire as _;
use interlock_rpc::v1;
use interlock_storage::{LogStorage, StorageError, TakenOff};
use prost::Message as _;
use serde::{Deserialize, Serialize};
use tokio::sync::oneshot;

use crate::context::NodeContext;
use crate::failure::NodeFailure;
use crate::repairing::RepairId;
use crate::stored_messages::on_disk;
use crate::tasks::until_set;
use crate::work_queue::QueueClosed;
use crate::writer_commands::WriterCommand;

/// The page that says what is next.
const PROGRESS: &str = "bringing-back";
/// Bytes of messages in a frame. A session answers repeats of all messages of a frame
/// (they are fewer than it may have in flight).
const FRAME_BYTES: usize = 1 << 20;
/// Messages in a frame.
const FRAME_MESSAGES: usize = 1000;
/// Until what is refused for the moment is tried again.
const RETRY: Duration = Duration::from_millis(250);

const LOCK: &str = "no holder of the lock of what is brought back panics";

fn frame_document(number: u64) -> String {
    format!("bringing-back/{number}")
}

/// What is next.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
struct Progress {
    /// The repair.
    repair: u128,
    /// The next frame.
    next: u64,
    /// One past the last frame.
    end: u64,
    /// Messages in the frames from the next one on, by namespace.
    messages: BTreeMap<u32, u64>,
    /// Of each namespace: the sequence that the next publication takes.
    sequences: BTreeMap<u32, u64>,
}

impl Progress {
    fn load(storage: &dyn LogStorage) -> Result<Option<Self>, StorageError> {
        let Some(bytes) = storage.load_document(PROGRESS)? else { return Ok(None) };
        let read = serde_json::from_slice(&bytes).map(Some);
        read.map_err(|error| unreadable(&error.to_string()))
    }

    fn store(&self, storage: &dyn LogStorage) -> Result<(), StorageError> {
        let bytes = serde_json::to_vec(self).expect("numbers and text are JSON");
        storage.store_document(PROGRESS, &bytes)
    }
}

fn unreadable(detail: &str) -> StorageError {
    StorageError::Read { what: "what a repair took off", detail: detail.to_owned() }
}

/// Copies what a repair takes off, so that it can be published again. What an
/// interrupted attempt has copied is copied over.
pub fn copy(
    storage: &dyn LogStorage,
    repair: RepairId,
    taken: &[TakenOff],
) -> Result<(), StorageError> {
    let mut progress = Progress { repair: u128::from_be_bytes(repair), ..Progress::default() };
    for taken in taken {
        let mut from = taken.first;
        while from <= taken.last.m_id {
            let messages = storage.read(&taken.log, from, taken.last.m_id, FRAME_BYTES)?;
            let Some(last) = messages.iter().take(FRAME_MESSAGES).last() else { break };
            let first = messages[0].m_id;
            from = last.m_id.next();
            let sends: Vec<Bytes> =
                messages.into_iter().take(FRAME_MESSAGES).map(|message| message.bytes).collect();
            *progress.messages.entry(taken.log.namespace.get()).or_default() += sends.len() as u64;
            let frame = v1::Frame {
                log: Some(taken.log.into_wire()),
                first_m_id: first.get(),
                sends,
                ..v1::Frame::default()
            };
            storage.store_document(&frame_document(progress.end), &frame.encode_to_vec())?;
            progress.end += 1;
        }
    }
    if progress.end == 0 { Ok(()) } else { progress.store(storage) }
}

/// Lets go of what was copied: nothing is taken off after all.
pub fn forget(storage: &dyn LogStorage) -> Result<(), StorageError> {
    let Some(progress) = Progress::load(storage)? else { return Ok(()) };
    for number in progress.next..progress.end {
        storage.remove_document(&frame_document(number))?;
    }
    storage.remove_document(PROGRESS)
}

/// How many messages are not published again yet, as the disk says.
pub fn messages_left(storage: &dyn LogStorage) -> Result<u64, StorageError> {
    let left = |progress: Progress| progress.messages.values().sum::<u64>().max(1);
    Ok(Progress::load(storage)?.map_or(0, left))
}

/// How many messages are not published again yet.
#[derive(Debug, Default)]
pub struct BringingBackBoard {
    messages: Mutex<BTreeMap<u32, u64>>,
}

impl BringingBackBoard {
    /// As an opening finds it: known before anyone can ask.
    pub fn of(storage: &dyn LogStorage) -> Result<Self, StorageError> {
        let messages = Progress::load(storage)?.map(|progress| progress.messages);
        Ok(Self { messages: Mutex::new(messages.unwrap_or_default()) })
    }

    /// How many there are, in all namespaces.
    pub fn messages(&self) -> u64 {
        self.messages.lock().expect(LOCK).values().sum()
    }

    /// How many there are in one namespace.
    pub fn messages_of(&self, namespace: NamespaceNumber) -> u64 {
        self.messages.lock().expect(LOCK).get(&namespace.get()).copied().unwrap_or_default()
    }

    fn set(&self, messages: BTreeMap<u32, u64>) {
        *self.messages.lock().expect(LOCK) = messages;
    }
}

/// Publishes what a repair took off, until all is published or the node ends.
pub async fn bring_back(context: Arc<NodeContext>) {
    let mut ending = context.tasks.ending();
    let all = async {
        match bring_back_all(&context).await {
            Ok(()) | Err(BringBackError::Ending(_)) => {}
            Err(BringBackError::Storage(error)) => {
                context.failure.report(NodeFailure::Storage(error.to_string()));
            }
        }
    };
    tokio::select! {
        () = all => {}
        () = until_set(&mut ending) => {}
    }
}

#[derive(Debug)]
enum BringBackError {
    Ending(QueueClosed),
    Storage(StorageError),
}

impl From<QueueClosed> for BringBackError {
    fn from(closed: QueueClosed) -> Self {
        Self::Ending(closed)
    }
}

impl From<oneshot::error::RecvError> for BringBackError {
    fn from(_: oneshot::error::RecvError) -> Self {
        Self::Ending(QueueClosed)
    }
}

impl From<StorageError> for BringBackError {
    fn from(error: StorageError) -> Self {
        Self::Storage(error)
    }
}

async fn bring_back_all(context: &NodeContext) -> Result<(), BringBackError> {
    let progress = on_disk(&context.storage, |storage| Progress::load(storage));
    let Some(mut progress) = progress.await? else { return Ok(()) };
    let mut counts = Counts::default();
    // What the frame before left behind when the process ended.
    if let Some(before) = progress.next.checked_sub(1) {
        remove_frame(context, before).await?;
    }
    while progress.next < progress.end {
        context.bringing_back.set(progress.messages.clone());
        let number = progress.next;
        let frame = on_disk(&context.storage, move |storage| {
            let bytes = storage.load_document(&frame_document(number))?;
            let bytes = bytes.ok_or_else(|| unreadable(&format!("frame {number} is missing")))?;
            v1::Frame::decode(bytes).map_err(|error| unreadable(&error.to_string()))
        });
        let frame = frame.await?;
        let log = frame.log.ok_or_else(|| unreadable("a frame without a log"))?;
        let namespace = NamespaceNumber::new(log.namespace);
        let session = session_of(progress.repair, namespace);
        let next = progress.sequences.get(&log.namespace).copied().unwrap_or(1);
        let mut publisher = Publisher { context, namespace, session, next, counts: &mut counts };
        publisher.publish(&frame.sends).await?;
        let next = publisher.next;
        progress.sequences.insert(log.namespace, next);
        progress.next += 1;
        let left = progress.messages.entry(log.namespace).or_default();
        *left = left.saturating_sub(frame.sends.len() as u64);
        let stored = progress.clone();
        on_disk(&context.storage, move |storage| stored.store(storage)).await?;
        remove_frame(context, number).await?;
    }
    on_disk(&context.storage, |storage| storage.remove_document(PROGRESS)).await?;
    context.bringing_back.set(BTreeMap::new());
    let Counts { published, passed_over } = counts;
    tracing::info!(published, passed_over, "what the repair took off is published again");
    Ok(())
}

async fn remove_frame(context: &NodeContext, number: u64) -> Result<(), StorageError> {
    let document = frame_document(number);
    on_disk(&context.storage, move |storage| storage.remove_document(&document)).await
}

/// The session that a repair publishes in: the same after a crash.
fn session_of(repair: u128, namespace: NamespaceNumber) -> SessionId {
    SessionId::new((repair ^ u128::from(namespace.get())).to_be_bytes())
}

/// What became of them.
#[derive(Debug, Default)]
struct Counts {
    published: u64,
    /// Operations, and publications whose channel is deleted, or another one of the name.
    passed_over: u64,
}

/// Publishes in one session, waiting out whatever refuses for a time.
struct Publisher<'a> {
    context: &'a NodeContext,
    namespace: NamespaceNumber,
    session: SessionId,
    next: u64,
    counts: &'a mut Counts,
}

impl Publisher<'_> {
    async fn publish(&mut self, sends: &[Bytes]) -> Result<(), BringBackError> {
        if !self.open().await? {
            self.counts.passed_over += sends.len() as u64;
            return Ok(());
        }
        let mut waiting: Vec<NewPublication> = self.publications(sends);
        self.counts.passed_over += (sends.len() - waiting.len()) as u64;
        while !waiting.is_empty() {
            for (publication, sequence) in waiting.iter_mut().zip(self.next..) {
                let (session, sequence) = (self.session, PublisherSequence::new(sequence));
                publication.publisher = Some(PublisherPosition { session, sequence });
            }
            let answer = self.context.writer.bring_back(waiting.clone()).await?.await?;
            let stored: u64 = answer.ranges.iter().map(|range| range.count).sum();
            self.next += stored;
            self.counts.published += stored;
            waiting.drain(..stored as usize);
            match answer.refusal {
                None => {}
                // Nobody is shown it any more.
                Some(
                    PublishRefusal::UnknownChannel { .. }
                    | PublishRefusal::ChannelDeleted { .. }
                    | PublishRefusal::TooLarge { .. },
                ) => {
                    waiting.remove(0);
                    self.counts.passed_over += 1;
                }
                // Before a crash another one took this sequence, because it was passed
                // over, or is now. It is further on, or comes next.
                Some(PublishRefusal::ContentDiffers { .. }) => self.next += 1,
                // What is not held here any more may not stay here either.
                Some(PublishRefusal::NotMember(_)) if !self.is_holder() => {
                    self.counts.passed_over += waiting.len() as u64;
                    waiting.clear();
                }
                Some(PublishRefusal::OutOfSequence { expected }) => self.next = expected.get(),
                Some(PublishRefusal::SessionUnknown) => _ = self.open().await?,
                Some(refused) => {
                    tracing::debug!(%refused, "what a repair took off waits to be published");
                    tokio::time::sleep(RETRY).await;
                }
            }
        }
        Ok(())
    }

    /// The publications of a frame whose channel is still the one they were made to.
    fn publications(&self, sends: &[Bytes]) -> Vec<NewPublication> {
        let directory = self.context.directories.namespace(self.namespace);
        let publications = sends.iter().filter_map(|send| {
            let head = MessageHead::decode(send).ok()?;
            let channel = ChannelName::parse(head.channel).ok()?;
            let is_there = directory.read(|directory| {
                directory.get(&channel).is_some_and(|held| held.epoch() == head.epoch)
            });
            (head.kind == MessageKind::Publication && is_there).then(|| NewPublication {
                namespace: self.namespace,
                channel,
                key: send.slice_ref(head.key),
                payload: send.slice_ref(head.payload),
                publisher: None,
                possibly_repeated: true,
                trace: None,
            })
        });
        publications.collect()
    }

    fn is_holder(&self) -> bool {
        self.context.topology.current().is_holder(self.context.me().node, self.namespace)
    }

    /// Opens the session, or goes on with it; `false` where the namespace is not held
    /// here any more.
    async fn open(&mut self) -> Result<bool, BringBackError> {
        let session = self.session;
        let resume = Some(ResumeSession { session, last_acknowledged: None });
        loop {
            let mut answer = self.ask_for_session(resume).await?;
            if let Err(SessionRefusal::NotResumed(_)) = answer {
                answer = self.ask_for_session(None).await?;
                if answer.is_ok() {
                    // Nothing that it stored is known here any more.
                    self.next = 1;
                }
            }
            match answer {
                Ok(()) => return Ok(true),
                Err(SessionRefusal::NotMember(_)) if !self.is_holder() => return Ok(false),
                Err(refused) => tracing::debug!(%refused, "no session to publish in"),
            }
            tokio::time::sleep(RETRY).await;
        }
    }

    async fn ask_for_session(
        &self,
        resume: Option<ResumeSession>,
    ) -> Result<Result<(), SessionRefusal>, BringBackError> {
        let (sender, receiver) = oneshot::channel();
        let bits = *self.session.as_bytes();
        let command =
            WriterCommand::OpenSession(Standing::Holder, self.namespace, bits, resume, sender);
        self.context.writer.tell(command)?;
        Ok(receiver.await?.map(|_| ()))
    }
}
