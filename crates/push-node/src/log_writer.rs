//! The only writer of the log: one plain thread that decides and appends.
//!
//! It takes all commands that wait, has admission decide each, appends what came
//! of them in one write, and hands the batch with its answers to the log syncer.
//! Nothing leaves here: an answer, also a refusal or a repeat, rests on all that
//! was appended before it and waits for the sync that covers that.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::{self, JoinHandle};
use std::time::Instant;

use interlock_core::admission::{
    Admission, AppendEntry, BaseRefusal, ClosedReason, FrameOutcome, HoleOutcome, MarkFinding,
    Published, Standing, Telling,
};
use interlock_core::clock::WallTime;
use interlock_core::identity::{
    ChainHash, LogName, Mark, MessageNumber, NamespaceNumber, NodeNumber,
};
use interlock_core::replication::frames::{BaseEntries, Frame, Hole};
use interlock_core::replication::log_table::ChainHistory;
use interlock_core::replication::peer_receiver::SubmissionOutcome;
use interlock_core::replication::rows::Row;
use interlock_core::topology::Topology;
use interlock_storage::{AppendBatch, LogStorage, StorageError, Ticket};
use tokio::sync::{OwnedSemaphorePermit, mpsc, oneshot};

use crate::alarms::{AlarmKind, Alarms};
use crate::answer::Answer;
use crate::backfills::Backfills;
use crate::failure::{FailureWatch, NodeFailure};
use crate::metrics::NodeMetrics;
use crate::node_clock::NodeClock;
use crate::projector::ProjectorWork;
use crate::stored_messages::Storage;
use crate::tail_cache::Accepted;
use crate::work_queue::{AbortOnDrop, CloseOnDrop, WorkQueue};
use crate::writer_commands::{
    BaseAnswer, EditAnswer, FrameOrder, LogWriter, PublishAnswer, QueuedCommand, SubmissionAnswer,
    WriterCommand,
};

/// One append takes commands up to this size: larger ones would make the first
/// of them wait for the last.
const MAX_BATCH_BYTES: usize = 2 << 20;

/// What one append stored, on its way to being durable.
pub struct AppendedBatch {
    /// Durable once a sync returns this ticket or a later one.
    pub ticket: Ticket,
    /// The messages, in order.
    pub entries: Vec<AppendEntry>,
    /// When this node made the batch.
    pub arrived_at: WallTime,
    /// When the batch's received messages were accepted by their origins, and who
    /// sent them, by log.
    pub accepted: BTreeMap<LogName, Accepted>,
    /// Moves over what no member has any more, before the messages.
    pub holes: Vec<(Option<Row>, LogName, Mark)>,
    /// What may be said once it is durable.
    pub answers: Vec<Answer>,
    /// Room in the queue.
    pub permits: Vec<OwnedSemaphorePermit>,
}

/// Where the syncer leaves the marks that have become durable, until the writer
/// takes them.
#[derive(Debug, Default)]
pub struct NewlyDurable {
    marks: Mutex<Vec<(LogName, Mark)>>,
    /// Whether the writer wants to be woken for them.
    awaited: AtomicBool,
}

const LOCK: &str = "no holder of the lock of what is newly durable panics";

impl NewlyDurable {
    /// Adds marks; true when the writer has to be woken.
    pub fn add(&self, marks: impl IntoIterator<Item = (LogName, Mark)>) -> bool {
        self.marks.lock().expect(LOCK).extend(marks);
        self.awaited.load(Ordering::Acquire)
    }

    fn take(&self) -> Vec<(LogName, Mark)> {
        std::mem::take(&mut *self.marks.lock().expect(LOCK))
    }
}

/// What the writer is made of.
pub struct LogWriterParts {
    /// The handle that others hold.
    pub writer: LogWriter,
    /// What decides.
    pub admission: Admission,
    /// Where to append.
    pub storage: Storage,
    /// Where batches go.
    pub syncer: Arc<WorkQueue<AppendedBatch>>,
    /// What has become durable.
    pub newly_durable: Arc<NewlyDurable>,
    /// Where base entries go.
    pub projector: Arc<WorkQueue<ProjectorWork>>,
    /// Where completed backfills are told.
    pub backfilled: mpsc::UnboundedSender<NamespaceNumber>,
    /// The clocks.
    pub clock: NodeClock,
    /// Raised for conflicts and clocks.
    pub alarms: Arc<Alarms>,
    /// What is counted.
    pub metrics: NodeMetrics,
    /// Where a failed append is reported.
    pub failure: FailureWatch,
}

/// The thread's state.
struct LogWriterThread {
    parts: LogWriterParts,
    ticket: Ticket,
    backfills: Backfills,
    batch: PendingBatch,
}

/// What the commands of one round have come to so far.
#[derive(Default)]
struct PendingBatch {
    entries: Vec<AppendEntry>,
    accepted: BTreeMap<LogName, Accepted>,
    holes: Vec<(Option<Row>, LogName, Mark)>,
    answers: Vec<Answer>,
    permits: Vec<OwnedSemaphorePermit>,
}

/// Starts the writer's thread. It runs until its queue is closed, and then closes
/// the syncer's.
pub fn spawn_log_writer(parts: LogWriterParts) -> std::io::Result<JoinHandle<()>> {
    thread::Builder::new().name("log-writer".to_owned()).spawn(move || {
        let _closes = CloseOnDrop(Arc::clone(&parts.syncer));
        let _aborts = AbortOnDrop(parts.writer.queue());
        let _reports = parts.failure.guard("the log writer");
        let mut thread = LogWriterThread {
            ticket: Ticket::ZERO,
            backfills: Backfills::new(),
            batch: PendingBatch::default(),
            parts,
        };
        thread.close_until_ready();
        if let Err(error) = thread.run() {
            thread.parts.failure.report(NodeFailure::Storage(error.to_string()));
        }
    })
}

impl LogWriterThread {
    fn run(&mut self) -> Result<(), StorageError> {
        let queue = self.parts.writer.queue();
        let mut commands: Vec<QueuedCommand> = Vec::new();
        loop {
            let mut bytes = 0;
            let more = |next: &QueuedCommand| {
                bytes += next.cost;
                bytes <= MAX_BATCH_BYTES
            };
            if !queue.take(&mut commands, more) {
                return Ok(());
            }
            self.take_newly_durable();
            let now = self.parts.clock.wall();
            for QueuedCommand { command, permit, .. } in commands.drain(..) {
                self.batch.permits.extend(permit);
                self.carry_out(now, command)?;
            }
            self.append(now)?;
        }
    }

    /// Appends what the round has come to, in one write, and hands it on.
    fn append(&mut self, now: WallTime) -> Result<(), StorageError> {
        let PendingBatch { entries, accepted, holes, answers, permits } =
            std::mem::take(&mut self.batch);
        let mut batch = AppendBatch::new(now, entries);
        batch.accepted_by = accepted.iter().map(|(log, accepted)| (*log, accepted.by)).collect();
        if !batch.entries.is_empty() {
            let started = Instant::now();
            self.ticket = self.parts.storage.append(&batch)?;
            self.parts.metrics.append_seconds.observe_duration(started.elapsed());
            self.parts.metrics.append_batch_messages.observe(batch.entries.len() as f64);
        }
        let is_empty = batch.entries.is_empty() && holes.is_empty() && answers.is_empty();
        if is_empty && permits.is_empty() {
            return Ok(());
        }
        let appended = AppendedBatch {
            ticket: self.ticket,
            entries: std::mem::take(&mut batch.entries),
            arrived_at: now,
            accepted,
            holes,
            answers,
            permits,
        };
        // The syncer outlives this thread; only a failure closes its queue before.
        self.parts.syncer.push(appended).map_err(|_| StorageError::Failed)
    }

    fn take_newly_durable(&mut self) {
        let marks = self.parts.newly_durable.take();
        if marks.is_empty() {
            return;
        }
        self.parts.admission.handle_durable(&marks);
        self.advance_backfills();
    }

    fn carry_out(&mut self, now: WallTime, command: WriterCommand) -> Result<(), StorageError> {
        match command {
            WriterCommand::Publish(standing, publications, order, answer) => {
                if !order.is_refused() {
                    self.publish(standing, now, publications, &order, answer);
                }
            }
            WriterCommand::OpenSession(standing, namespace, bits, resume, answer) => {
                let admission = &mut self.parts.admission;
                let opened = admission.open_session_as(standing, now, namespace, bits, resume);
                self.batch.answers.push(Answer::Session(answer, opened));
            }
            WriterCommand::Edit(edit, answer) => {
                let topology = Arc::clone(self.parts.admission.topology());
                let edited = self.parts.admission.edit_channel(now, *edit).map(|edited| {
                    self.batch.entries.push(edited.entry);
                    EditAnswer { name: edited.name, definition: edited.definition, topology }
                });
                self.batch.answers.push(Answer::Edit(answer, Box::new(edited)));
            }
            WriterCommand::Receive(peer, frame, answer) => {
                self.receive(now, peer, &frame, answer)?;
            }
            WriterCommand::ReceiveHole(hole, row, answer) => {
                self.receive_hole(now, &hole, row.as_ref(), answer)?;
            }
            WriterCommand::MergeBase(from, base, answer) => self.merge_base(from, base, answer),
            WriterCommand::BaseStored(from, namespace) => {
                self.backfills.handle_base(namespace, from);
                self.advance_backfills();
            }
            WriterCommand::Trimmed(log, floor) => {
                self.parts.admission.handle_trimmed(&log, floor);
            }
            WriterCommand::Examine(peer, marks) => self.examine(now, peer, &marks),
            WriterCommand::SetTopology(topology) => self.set_topology(topology),
            WriterCommand::SetNodeClosed(reason, holds) => {
                self.parts.admission.set_node_closed(reason, holds);
            }
            WriterCommand::SetClosed(namespace, reason, holds) => {
                self.parts.admission.set_closed(namespace, reason, holds);
            }
            WriterCommand::SetReady(namespace) => self.set_ready(namespace),
            WriterCommand::BeginBackfill(namespace) => {
                self.backfills.begin(namespace);
                self.advance_backfills();
            }
            WriterCommand::Backfill(namespaces, news) => {
                self.backfills.handle_news(&namespaces, &news);
                self.advance_backfills();
            }
            WriterCommand::Wake => {}
            WriterCommand::Look(look) => look(&self.parts.admission),
        }
        Ok(())
    }

    fn publish(
        &mut self,
        standing: Standing,
        now: WallTime,
        publications: Vec<interlock_core::admission::NewPublication>,
        order: &FrameOrder,
        sender: oneshot::Sender<PublishAnswer>,
    ) {
        let topology = Arc::clone(self.parts.admission.topology());
        let mut answer = PublishAnswer { ranges: Vec::new(), refusal: None, topology };
        self.batch.entries.reserve(publications.len());
        for publication in publications {
            match self.parts.admission.publish_as(standing, now, publication) {
                Ok(Published::Stored { name, entry }) => {
                    self.batch.entries.push(entry);
                    answer.push(Some(name), false);
                }
                Ok(Published::Repeat { name }) => answer.push(name, true),
                // What follows would be out of sequence, or out of order.
                Err(refusal) => {
                    order.refuse_rest();
                    answer.refusal = Some(refusal);
                    break;
                }
            }
        }
        self.batch.answers.push(Answer::Publish(sender, answer));
    }

    fn receive(
        &mut self,
        now: WallTime,
        peer: NodeNumber,
        frame: &Frame,
        sender: mpsc::UnboundedSender<SubmissionAnswer>,
    ) -> Result<(), StorageError> {
        // A batch says of each log who sent it: what another one sends is the next batch.
        let before = self.batch.accepted.get(&frame.log);
        if before.is_some_and(|before| before.server != Some(peer)) {
            self.append(now)?;
        }
        let history = StoredHistory(self.parts.storage.as_ref());
        let outcome = match self.parts.admission.receive(now, frame, &history) {
            FrameOutcome::Appended { entries, clock_far_off, .. } => {
                let first_at = now.minus_milliseconds(frame.age_milliseconds);
                let by = now.minus_milliseconds(frame.last_age_milliseconds);
                let server = Some(peer);
                let accepted = Accepted { first_at, by, server };
                let accepted = self.batch.accepted.entry(frame.log).or_insert(accepted);
                accepted.by = accepted.by.max(by);
                self.batch.entries.extend(entries);
                if clock_far_off {
                    self.raise_clock(now, frame.log.origin);
                }
                SubmissionOutcome::Appended
            }
            FrameOutcome::AlreadyHeld { .. } => SubmissionOutcome::AlreadyHeld,
            FrameOutcome::Nack(nack) => SubmissionOutcome::Nack {
                expected: nack.expected,
                reason: nack.reason,
                detail: nack.detail,
            },
            FrameOutcome::Refused(refused) => {
                SubmissionOutcome::Refused { version: refused.version }
            }
            FrameOutcome::OwnLogAhead { theirs, ours } => {
                self.report_snapshot(&frame.log, theirs, ours);
                SubmissionOutcome::Dropped
            }
        };
        let answer = SubmissionAnswer { log: frame.log, outcome };
        self.batch.answers.push(Answer::Submission(sender, answer));
        Ok(())
    }

    fn receive_hole(
        &mut self,
        now: WallTime,
        hole: &Hole,
        row: Option<&Row>,
        sender: mpsc::UnboundedSender<SubmissionAnswer>,
    ) -> Result<(), StorageError> {
        let history = StoredHistory(self.parts.storage.as_ref());
        let outcome = match self.parts.admission.receive_hole(now, hole, row, &history) {
            HoleOutcome::Moved { row, hole } => {
                // The storage takes what precedes the hole first.
                self.append(now)?;
                self.ticket = self.parts.storage.cross_hole(now, row.as_ref(), &hole)?;
                self.batch.holes.push((row, hole.log, hole.through));
                SubmissionOutcome::Appended
            }
            HoleOutcome::AlreadyHeld { .. } => SubmissionOutcome::AlreadyHeld,
            HoleOutcome::Nack(nack) => SubmissionOutcome::Nack {
                expected: nack.expected,
                reason: nack.reason,
                detail: nack.detail,
            },
            HoleOutcome::Refused(refused) => {
                SubmissionOutcome::Refused { version: refused.version }
            }
        };
        let answer = SubmissionAnswer { log: hole.log, outcome };
        self.batch.answers.push(Answer::Submission(sender, answer));
        if self.batch.holes.is_empty() { Ok(()) } else { self.append(now) }
    }

    /// Names are known at once; what was merged is stored by the projector, which
    /// answers.
    fn merge_base(
        &mut self,
        from: Telling,
        base: BaseEntries,
        answer: mpsc::UnboundedSender<BaseAnswer>,
    ) {
        match self.parts.admission.merge_base(&base) {
            Ok(_) => {
                // The projector ends after this thread.
                let _ = self.parts.projector.push(ProjectorWork::Base { from, base, answer });
            }
            // What follows of a namespace that is none of ours is refused by itself.
            Err(BaseRefusal::NotMember(namespace)) if base.last => {
                let _ = answer.send(BaseAnswer::Stored(namespace));
            }
            Err(BaseRefusal::NotMember(_)) => {}
            Err(refusal) => {
                tracing::warn!(peer = %from.member, %refusal, "a base was not merged");
                // A link that has ended asks for it again on its next stream.
                let _ = answer.send(BaseAnswer::Refused(refusal.to_string()));
            }
        }
    }

    fn examine(&mut self, now: WallTime, peer: NodeNumber, marks: &[(LogName, Mark)]) {
        for (log, mark) in marks {
            let history = StoredHistory(self.parts.storage.as_ref());
            match self.parts.admission.examine_mark(log, *mark, &history) {
                MarkFinding::Consistent(_) => {}
                MarkFinding::Differs(reason) => {
                    self.parts.alarms.raise_conflict(now, log, peer, &reason.to_string());
                }
                MarkFinding::ResumedFromSnapshot => {
                    let ours = self.parts.admission.logs().get(log).map(|held| held.appended);
                    self.report_snapshot(log, *mark, ours.unwrap_or_default());
                }
            }
        }
    }

    fn set_topology(&mut self, topology: Arc<Topology>) {
        // What a newer document has placed is not taken back by an older one.
        if topology.version < self.parts.admission.topology().version {
            return tracing::warn!(version = %topology.version, "an older topology was not taken");
        }
        self.parts.admission.set_topology(topology);
        self.close_until_ready();
    }

    /// Nothing is accepted in a namespace before it is said to be ready.
    fn close_until_ready(&mut self) {
        let me = self.parts.admission.opening().node;
        let members = self.parts.admission.topology().namespaces_of(me).into_iter().collect();
        for (namespace, closed) in self.backfills.set_members(&members) {
            self.parts.admission.set_closed(namespace, ClosedReason::Backfilling, closed);
        }
        self.await_durable_marks();
    }

    fn set_ready(&mut self, namespace: NamespaceNumber) {
        self.backfills.set_ready(namespace);
        self.await_durable_marks();
        self.parts.admission.set_closed(namespace, ClosedReason::Backfilling, false);
    }

    fn advance_backfills(&mut self) {
        for namespace in self.backfills.take_complete(self.parts.admission.logs()) {
            // Where nobody hears it, the node is ending.
            let _ = self.parts.backfilled.send(namespace);
        }
        self.await_durable_marks();
    }

    fn await_durable_marks(&self) {
        let awaited = self.backfills.await_durable_marks();
        self.parts.newly_durable.awaited.store(awaited, Ordering::Release);
    }

    fn raise_clock(&self, now: WallTime, origin: NodeNumber) {
        let detail = "its stamps are more than a minute ahead of this node's clock";
        self.parts.alarms.raise(now, AlarmKind::ClockFarOff, &format!("node {origin}"), detail);
    }

    fn report_snapshot(&self, log: &LogName, theirs: Mark, ours: Mark) {
        let detail = format!(
            "log {log} is held elsewhere up to {}, here it was written up to {}",
            theirs.m_id, ours.m_id
        );
        self.parts.failure.report(NodeFailure::ResumedFromSnapshot(detail));
    }
}

/// The chain hashes that the storage keeps. One that cannot be read counts as
/// not kept: then reaching the number is what is compared.
struct StoredHistory<'a>(&'a dyn LogStorage);

impl ChainHistory for StoredHistory<'_> {
    fn chain_hash_at(&self, log: &LogName, m_id: MessageNumber) -> Option<ChainHash> {
        self.0.chain_hash_at(log, m_id).unwrap_or_else(|error| {
            tracing::warn!(%log, %m_id, %error, "a chain hash cannot be read");
            None
        })
    }
}
