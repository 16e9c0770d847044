//! The log writer: decides about what clients ask and peers bring, in the order
//! in which it came, and appends what came of it.

use std::collections::BTreeMap;
use std::sync::Arc;

use bytes::Bytes;
use interlock_core::admission::{
    AppendEntry, FrameOutcome, HoleOutcome, MarkFinding, PublishRefusal, Published, Telling,
};
use interlock_core::clock::WallTime;
use interlock_core::identity::{
    ChainHash, LogName, Mark, MessageNumber, NamespaceNumber, NodeNumber,
};
use interlock_core::replication::frames::{BaseEntries, Frame, Hole, LogOffer, Nack, NackReason};
use interlock_core::replication::log_table::ChainHistory;
use interlock_core::replication::peer_receiver::SubmissionOutcome;
use interlock_core::replication::rows::Row;
use interlock_storage::{AppendBatch, LogStorage, MemoryStorage, StorageError};

use crate::history::Record;
use crate::network::StreamNumber;
use crate::planted_bug::PlantedBug;
use crate::random::Random;
use crate::requests::{
    Level, Reply, ReplyBody, Request, RequestBody, RequestName, StoredPublication,
};

use super::Process;
use super::messages::Output;
use super::planted::everywhere;
use super::syncing::AppendedBatch;

pub(super) enum Command {
    Request(Request),
    Receive(StreamNumber, Frame),
    ReceiveHole(StreamNumber, Hole, Option<Row>),
    MergeBase(StreamNumber, NodeNumber, BaseEntries),
    BaseStored(Telling, NamespaceNumber),
    Trimmed(LogName, Mark),
    Examine(NodeNumber, Vec<(LogName, Mark)>),
    Backfill(Vec<NamespaceNumber>, BackfillNews),
}

/// What comes together before it is appended.
#[derive(Default)]
struct PendingBatch {
    entries: Vec<AppendEntry>,
    /// By when the received messages had been accepted by their origins.
    accepted_by: BTreeMap<LogName, WallTime>,
    answers: Vec<Answer>,
}

pub(super) enum BackfillNews {
    Offered(Telling, Vec<LogOffer>),
    OfferedAll(Telling),
}

pub(super) enum Answer {
    Client(Reply, Option<Level>),
    Submission(StreamNumber, LogName, SubmissionOutcome),
}

impl Process {
    pub(super) fn requested(&mut self, request: Request) {
        if let RequestBody::Publish { publications, level: Level::Peers(peers) } = &request.body {
            let namespace = publications.first().map(|publication| publication.namespace);
            let others = namespace.map_or(0, |namespace| self.other_members(namespace).len());
            if *peers > others {
                let body = ReplyBody::TooFewMembers;
                return self.outputs.push(Output::Reply(Reply { to: request.name, body }));
            }
        }
        self.command(Command::Request(request));
    }

    pub(super) fn command(&mut self, command: Command) {
        self.commands.push_back(command);
        self.wake_writer();
    }

    pub(super) fn wake_writer(&mut self) {
        if !std::mem::replace(&mut self.writer_is_awake, true) {
            self.outputs.push(Output::WakeWriter);
        }
    }

    pub(super) fn run_writer(&mut self, random: &mut Random) -> Result<(), StorageError> {
        self.writer_is_awake = false;
        let marks = std::mem::take(&mut self.durable_news);
        self.admission.handle_durable(&marks);
        self.advance_backfills()?;

        let mut pending = PendingBatch::default();
        for command in std::mem::take(&mut self.commands) {
            self.carry_out(command, random, &mut pending)?;
        }
        self.append(pending)
    }

    /// Appends what has come together, in one write, and hands it to the syncer.
    fn append(&mut self, pending: PendingBatch) -> Result<(), StorageError> {
        let PendingBatch { entries, accepted_by, mut answers } = pending;
        if entries.is_empty() && answers.is_empty() {
            return Ok(());
        }
        let batch = AppendBatch { accepted_by, ..AppendBatch::new(self.wall, entries) };
        // Recorded before: a write that fails may be on the disk all the same.
        for entry in &batch.entries {
            let (machine, name, hash) = (self.machine, entry.name(), entry.hash);
            if entry.log.origin == self.me.opening.node {
                let content = Record::Content { name, bytes: entry.bytes.clone() };
                self.outputs.push(Output::Record(content));
            }
            let row = entry.row.clone();
            self.outputs.push(Output::Record(Record::Appended { machine, name, hash, row }));
        }
        if !batch.entries.is_empty() {
            let (machine, at) = (self.machine, self.wall);
            let names = batch.entries.iter().map(|entry| entry.name()).collect();
            self.outputs.push(Output::Record(Record::Arrived { machine, at, names }));
            self.ticket = self.storage.append(&batch)?;
        }
        if self.is(PlantedBug::AcknowledgedBeforeSync) {
            self.release(std::mem::take(&mut answers));
        }
        if self.is(PlantedBug::AppendedToldAsHeld) {
            let marks: Vec<_> =
                batch.entries.iter().map(|entry| (entry.log, entry.mark())).collect();
            for inbound in self.inbound.values_mut().filter(|inbound| inbound.peer.is_some()) {
                inbound.receiver.handle_durable(self.now, &marks);
            }
        }
        let (ticket, entries) = (self.ticket, batch.entries);
        self.appended.push(AppendedBatch { ticket, entries, hole: None, answers });
        Ok(())
    }

    fn carry_out(
        &mut self,
        command: Command,
        random: &mut Random,
        pending: &mut PendingBatch,
    ) -> Result<(), StorageError> {
        match command {
            Command::Request(Request { name, body }) => {
                let answer = self.decide(name, body, random, &mut pending.entries);
                pending.answers.extend(answer);
            }
            Command::Receive(stream, frame) => {
                let outcome = self.receive(&frame, pending);
                pending.answers.push(Answer::Submission(stream, frame.log, outcome));
            }
            Command::ReceiveHole(stream, hole, row) => {
                return self.receive_hole(stream, &hole, row.as_ref(), pending);
            }
            Command::MergeBase(stream, peer, base) => self.merge_base(stream, peer, base),
            Command::BaseStored(from, namespace) => self.note_base_stored(from, namespace),
            Command::Trimmed(log, floor) => self.admission.handle_trimmed(&log, floor),
            Command::Examine(peer, marks) => {
                for (log, mark) in marks {
                    let history = StoredHistory(&self.storage);
                    let finding = self.admission.examine_mark(&log, mark, &history);
                    match finding {
                        MarkFinding::Consistent(_) => {}
                        MarkFinding::Differs(_) => {
                            self.conflict(log, format!("mark of node {peer}: {finding:?}"));
                        }
                        MarkFinding::ResumedFromSnapshot => self.end_as_resumed(log),
                    }
                }
            }
            Command::Backfill(namespaces, news) => self.take_backfill_news(&namespaces, &news),
        }
        Ok(())
    }

    /// Moves a log's mark over a hole. The storage takes what precedes it first.
    fn receive_hole(
        &mut self,
        stream: StreamNumber,
        hole: &Hole,
        row: Option<&Row>,
        pending: &mut PendingBatch,
    ) -> Result<(), StorageError> {
        let history = StoredHistory(&self.storage);
        let outcome = match self.admission.receive_hole(self.wall, hole, row, &history) {
            HoleOutcome::Moved { row, hole } => {
                self.append(std::mem::take(pending))?;
                let Hole { log, from, through, .. } = hole;
                let machine = self.machine;
                let taken = Record::HoleTaken { machine, log, from, through, row: row.clone() };
                self.outputs.push(Output::Record(taken));
                self.ticket = self.storage.cross_hole(self.wall, row.as_ref(), &hole)?;
                let appended = SubmissionOutcome::Appended;
                self.appended.push(AppendedBatch {
                    ticket: self.ticket,
                    entries: Vec::new(),
                    hole: Some((row, hole)),
                    answers: vec![Answer::Submission(stream, log, appended)],
                });
                return Ok(());
            }
            HoleOutcome::AlreadyHeld { .. } => SubmissionOutcome::AlreadyHeld,
            HoleOutcome::Nack(nack) => self.refuse(nack),
            HoleOutcome::Refused(refused) => {
                SubmissionOutcome::Refused { version: refused.version }
            }
        };
        pending.answers.push(Answer::Submission(stream, hole.log, outcome));
        Ok(())
    }

    fn decide(
        &mut self,
        to: RequestName,
        body: RequestBody,
        random: &mut Random,
        entries: &mut Vec<AppendEntry>,
    ) -> Option<Answer> {
        let mut level = None;
        let body = match body {
            RequestBody::OpenSession { namespace, resume } => {
                let (high, low) = (random.bits(), random.bits());
                let bits = (u128::from(high) << 64 | u128::from(low)).to_be_bytes();
                let opened = self.admission.open_session(self.wall, namespace, bits, resume);
                ReplyBody::Session(opened)
            }
            RequestBody::Publish { publications, level: wanted } => {
                level = Some(wanted);
                let (stored, refusal) = self.publish(publications, entries);
                let is_repeat = stored.first().is_some_and(|stored| stored.repeat);
                let body = ReplyBody::Published { stored, refusal, reached: true };
                if is_repeat && self.is(PlantedBug::RepeatAnsweredBeforeSync) {
                    self.outputs.push(Output::Reply(Reply { to, body }));
                    return None;
                }
                body
            }
            RequestBody::Edit(edit) => {
                let edited = self.admission.edit_channel(self.wall, *edit).map(|edited| {
                    entries.push(edited.entry);
                    (edited.name, Box::new(edited.definition))
                });
                ReplyBody::Edited(edited)
            }
        };
        Some(Answer::Client(Reply { to, body }, level))
    }

    fn publish(
        &mut self,
        publications: Vec<interlock_core::admission::NewPublication>,
        entries: &mut Vec<AppendEntry>,
    ) -> (Vec<StoredPublication>, Option<PublishRefusal>) {
        let mut stored = Vec::new();
        for mut publication in publications {
            if self.is(PlantedBug::PayloadAltered) && self.wall.get().is_multiple_of(64) {
                let mut payload = publication.payload.to_vec();
                payload[0] ^= 1;
                publication.payload = Bytes::from(payload);
            }
            match self.admission.publish(self.wall, publication) {
                Ok(Published::Stored { name, entry }) => {
                    entries.push(entry);
                    stored.push(StoredPublication { name: Some(name), repeat: false });
                }
                Ok(Published::Repeat { name }) => {
                    stored.push(StoredPublication { name, repeat: true });
                }
                // What follows would be out of sequence, or out of order.
                Err(refusal) => return (stored, Some(refusal)),
            }
        }
        (stored, None)
    }

    fn receive(&mut self, frame: &Frame, pending: &mut PendingBatch) -> SubmissionOutcome {
        let history = StoredHistory(&self.storage);
        if self.is(PlantedBug::FilteredBySenderOnly) {
            self.admission.set_topology(everywhere(&self.topology));
        }
        let outcome = self.admission.receive(self.wall, frame, &history);
        if self.is(PlantedBug::FilteredBySenderOnly) {
            self.admission.set_topology(Arc::clone(&self.topology));
        }
        match outcome {
            FrameOutcome::Appended { entries: new, .. } => {
                let by = self.wall.minus_milliseconds(frame.last_age_milliseconds);
                let accepted_by = pending.accepted_by.entry(frame.log).or_insert(by);
                *accepted_by = by.max(*accepted_by);
                pending.entries.extend(new);
                SubmissionOutcome::Appended
            }
            FrameOutcome::AlreadyHeld { .. } => SubmissionOutcome::AlreadyHeld,
            FrameOutcome::Nack(nack) => self.refuse(nack),
            FrameOutcome::Refused(refused) => {
                SubmissionOutcome::Refused { version: refused.version }
            }
            FrameOutcome::OwnLogAhead { .. } => {
                self.end_as_resumed(frame.log);
                SubmissionOutcome::Dropped
            }
        }
    }

    fn refuse(&mut self, nack: Nack) -> SubmissionOutcome {
        let Nack { log, expected, reason, detail } = nack;
        if reason == NackReason::Invalid {
            self.incident(format!("invalid frame of {log}: {detail}"));
        } else if reason == NackReason::ContentDiffers {
            self.conflict(log, detail.clone());
        }
        SubmissionOutcome::Nack { expected, reason, detail }
    }
}

/// The chain hashes that the storage keeps.
struct StoredHistory<'a>(&'a MemoryStorage);

impl ChainHistory for StoredHistory<'_> {
    fn chain_hash_at(&self, log: &LogName, m_id: MessageNumber) -> Option<ChainHash> {
        self.0.chain_hash_at(log, m_id).ok().flatten()
    }
}
