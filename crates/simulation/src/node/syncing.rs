//! The log syncer: one sync at a time; what was appended before it began is
//! durable after it, and only then answers leave.

use std::collections::BTreeMap;

use interlock_core::admission::AppendEntry;
use interlock_core::identity::{LogName, Mark, MessageNumber};
use interlock_core::replication::frames::{Hole, NackReason};
use interlock_core::replication::peer_receiver::SubmissionOutcome;
use interlock_core::replication::rows::Row;
use interlock_storage::{LogStorage, StorageError, Ticket};

use crate::history::Record;
use crate::planted_bug::PlantedBug;
use crate::random::Random;

use super::Process;
use super::messages::Output;
use super::writing::Answer;

pub(super) struct AppendedBatch {
    pub(super) ticket: Ticket,
    pub(super) entries: Vec<AppendEntry>,
    /// A hole that the mark moves over, with the row of a log that is new.
    pub(super) hole: Option<(Option<Row>, Hole)>,
    pub(super) answers: Vec<Answer>,
}

/// A sync that is under way.
pub(super) struct Sync {
    pub(super) batches: Vec<AppendedBatch>,
    /// Set when the disk had it at the beginning.
    pub(super) done: Option<Ticket>,
}

pub(super) struct DurableLog {
    pub(super) row: Row,
    pub(super) mark: Mark,
    /// The last message that is not held: trimmed, or in a hole. From behind it on the
    /// log is offered as whole.
    pub(super) floor: MessageNumber,
}

impl Process {
    pub(super) fn begin_sync(&mut self, random: &mut Random) -> Result<(), StorageError> {
        if self.sync.is_some() || self.appended.is_empty() {
            return Ok(());
        }
        if self.is(PlantedBug::ProjectionAhead) {
            self.project_unsynced()?;
        }
        let batches = std::mem::take(&mut self.appended);
        let needed = batches.last().map_or(Ticket::ZERO, |batch| batch.ticket);
        if needed <= self.synced {
            self.publish_durable(batches);
            return Ok(());
        }
        let is_early = random.chance(self.config.early_sync_percent);
        let done = if is_early { Some(self.storage.sync()?) } else { None };
        self.sync = Some(Sync { batches, done });
        self.outputs.push(Output::SyncBegan);
        Ok(())
    }

    pub(super) fn end_sync(&mut self) -> Result<(), StorageError> {
        let Some(Sync { batches, done }) = self.sync.take() else { return Ok(()) };
        self.synced = match done {
            Some(ticket) => ticket,
            None => self.storage.sync()?,
        };
        self.publish_durable(batches);
        Ok(())
    }

    /// What these batches hold is durable: says so, in this order.
    fn publish_durable(&mut self, batches: Vec<AppendedBatch>) {
        let mut answers = Vec::new();
        let mut marks: BTreeMap<LogName, Mark> = BTreeMap::new();
        for mut batch in batches {
            answers.append(&mut batch.answers);
            if let Some((row, hole)) = batch.hole.take() {
                self.enter(row);
                let log = self.durable.get_mut(&hole.log).expect("a row comes with its log");
                (log.mark, log.floor) = (hole.through, hole.through.m_id);
                marks.insert(hole.log, hole.through);
                self.project_hole(&hole);
            }
            for entry in &mut batch.entries {
                self.enter(entry.row.take());
                let log = self.durable.get_mut(&entry.log);
                log.expect("a row comes with its first message").mark = entry.mark();
                marks.insert(entry.log, entry.mark());
            }
            if self.is(PlantedBug::AppliedInReverse) {
                batch.entries.reverse();
            }
            batch.entries.iter().for_each(|entry| self.project(entry));
        }
        for (log, mark) in &marks {
            let (machine, log, mark) = (self.machine, *log, *mark);
            self.outputs.push(Output::Record(Record::Durable { machine, log, mark }));
            self.sources.mark_appended(self.now, &log, mark.m_id);
        }
        if !marks.is_empty() {
            self.offer_advanced();
            self.acknowledge();
            self.durable_news.extend(marks);
            self.wake_writer();
        }
        self.release(answers);
    }

    fn enter(&mut self, row: Option<Row>) {
        let Some(row) = row else { return };
        let mark = Mark { m_id: row.first_m_id().previous(), hash: row.start_hash() };
        self.journal.enter(&row);
        let floor = MessageNumber::ZERO;
        self.durable.entry(row.log).or_insert(DurableLog { row, mark, floor });
    }

    pub(super) fn release(&mut self, answers: Vec<Answer>) {
        for answer in answers {
            match answer {
                Answer::Client(reply, level) => self.reply(reply, level),
                Answer::Submission(stream, log, outcome) => {
                    let Some(inbound) = self.inbound.get_mut(&stream) else { continue };
                    let failed = matches!(
                        &outcome,
                        SubmissionOutcome::Nack {
                            reason: NackReason::ContentDiffers | NackReason::Invalid,
                            ..
                        }
                    );
                    inbound.receiver.handle_outcome(self.now, &log, outcome);
                    if let (true, Some(peer)) = (failed, inbound.peer) {
                        self.sources.server_failed(self.now, peer, &log);
                    }
                }
            }
        }
        self.check_waiters();
    }
}
