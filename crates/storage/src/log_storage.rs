//! The storage over any engine: one writer, one syncer, readers from anywhere.

use std::collections::BTreeMap;
use std::ops::ControlFlow;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, RwLock};

use bytes::Bytes;
use interlock_core::clock::WallTime;
use interlock_core::identity::{
    ChainHash, LogName, Mark, MemberOpening, MessageNumber, NamespaceNumber,
};
use interlock_core::replication::acknowledgements::MemberRecord;
use interlock_core::replication::frames::Hole;
use interlock_core::replication::rows::Row;

use crate::appending::Writer;
use crate::checkpoint::Checkpoint;
use crate::contract::{
    AppendBatch, LogStorage, ProjectionChanges, ProjectionKind, ProjectionPosition, Space,
    StorageError, StoredMessage, TakenOff, Ticket,
};
use crate::cutting::Cut;
use crate::engine::{Engine, EngineError, ScanFrom, Table};
use crate::held_logs::{HeldLog, HeldLogs, LogShape, Tail};
use crate::keys::chain_point::ChainPoint;
use crate::keys::removal::Removal;
use crate::keys::{document, opening, prefix_end, projection};
use crate::memory::OpeningFlaw;
use crate::opening::Walked;
use crate::opening_outcome::Recovery;
use crate::reading::{self, ReadFailure};
use crate::scrubbing::{self, ScrubPosition, ScrubStep};
use crate::{removing, trimming};

const LOCK_IS_SOUND: &str = "no holder of this lock panics";

/// A log storage over an engine. The aliases `MemoryStorage` and `RocksStorage`
/// are what callers name.
pub struct Storage<E: Engine> {
    engine: E,
    held: RwLock<HeldLogs>,
    writer: Mutex<Writer>,
    /// Held by whoever syncs, so that syncs finish in the order they begin.
    syncing: Mutex<()>,
    /// Held by whoever moves a floor. Appends go on meanwhile. Whoever takes several of
    /// these locks takes this one first, then the writer, then the others as they stand.
    trimming: Mutex<()>,
    checkpoint: Mutex<Checkpoint>,
    /// Openings recorded in this database.
    openings: Mutex<u64>,
    has_failed: AtomicBool,
}

impl<E: Engine> std::fmt::Debug for Storage<E> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Storage").finish_non_exhaustive()
    }
}

impl<E: Engine> Storage<E> {
    /// Takes over a database after its walk was settled.
    pub(crate) fn after_walk(engine: E, walked: Walked) -> Result<(Self, Recovery), EngineError> {
        let openings = walked.openings.last().map_or(0, |(before, _)| before + 1);
        let writer = Writer::new(walked.next_number, walked.next_segment);
        let (held, recovery) = walked.finish(&engine)?;
        let checkpoint = Checkpoint::of_opening(&recovery.members);
        let storage = Self {
            engine,
            held: RwLock::new(held),
            writer: Mutex::new(writer),
            syncing: Mutex::new(()),
            trimming: Mutex::new(()),
            checkpoint: Mutex::new(checkpoint),
            openings: Mutex::new(openings),
            has_failed: AtomicBool::new(false),
        };
        Ok((storage, recovery))
    }

    fn check(&self) -> Result<(), StorageError> {
        if self.has_failed.load(Ordering::Acquire) { Err(StorageError::Failed) } else { Ok(()) }
    }

    /// A write or a sync has failed: nobody knows what the disk has.
    fn fail(&self, action: &'static str, error: EngineError) -> StorageError {
        self.has_failed.store(true, Ordering::Release);
        StorageError::UnknownOutcome { action, detail: error.into_detail() }
    }

    fn held(&self, log: &LogName) -> Result<HeldLog, StorageError> {
        self.held.read().expect(LOCK_IS_SOUND).known(log).cloned()
    }

    /// Reads of a log, and once more if it was trimmed meanwhile.
    fn read_log<T>(
        &self,
        log: &LogName,
        what: &'static str,
        read: impl Fn(&LogShape, &Tail) -> Result<T, ReadFailure>,
    ) -> Result<T, StorageError> {
        self.check()?;
        let mut held = self.held(log)?;
        loop {
            match read(&held.shape, &held.appended) {
                Ok(found) => return Ok(found),
                Err(failure @ ReadFailure::Engine(_)) => {
                    return Err(read_error(log, what, failure));
                }
                Err(failure @ ReadFailure::Missing(_)) => {
                    self.await_trim();
                    let now = self.held(log)?;
                    if Arc::ptr_eq(&now.shape, &held.shape) {
                        return Err(read_error(log, what, failure));
                    }
                    held = now;
                }
            }
        }
    }

    /// Waits until the floor that somebody is moving has moved: what it trims is gone
    /// a moment before.
    fn await_trim(&self) {
        drop(self.trimming.lock().expect(LOCK_IS_SOUND));
    }

    fn get(
        &self,
        what: &'static str,
        table: Table,
        key: &[u8],
    ) -> Result<Option<Bytes>, StorageError> {
        self.check()?;
        self.engine
            .get(table, key)
            .map_err(|error| StorageError::Read { what, detail: error.into_detail() })
    }

    fn check_durable(&self, log: &LogName, claimed: MessageNumber) -> Result<Mark, StorageError> {
        let durable = self.held(log)?.durable.point.mark;
        if claimed > durable.m_id {
            let (log, durable) = (*log, durable.m_id);
            return Err(StorageError::NotDurable { log, claimed, durable });
        }
        Ok(durable)
    }

    /// What a cut takes, without a lock while the disk is read. `end_of` reads the point at
    /// a message.
    fn plan_cut(
        &self,
        keep: &[(LogName, MessageNumber)],
        end_of: impl Fn(&LogName, MessageNumber) -> Result<Option<ChainPoint>, StorageError>,
    ) -> Result<Cut, StorageError> {
        let mut ends = BTreeMap::new();
        for (log, keep) in keep {
            let named = self.held.read().expect(LOCK_IS_SOUND).get(log).cloned();
            let reaches = named.filter(|named| named.appended.point.mark.m_id > *keep);
            let Some(named) = reaches else { continue };
            let end = if *keep < named.shape.row.first_m_id() {
                None
            } else {
                let detail = || format!("{log} is trimmed beyond {keep}");
                let trimmed = || StorageError::Read { what: CUT_END, detail: detail() };
                Some(end_of(log, *keep)?.ok_or_else(trimmed)?)
            };
            ends.insert(*log, end);
        }
        Ok(Cut::of(&self.held.read().expect(LOCK_IS_SOUND), ends))
    }

    /// The first part of a removal: all keys are gone, and what files have of them is noted.
    pub(crate) fn delete_namespace(
        &self,
        namespace: NamespaceNumber,
    ) -> Result<Removal, StorageError> {
        self.check()?;
        let _trimming = self.trimming.lock().expect(LOCK_IS_SOUND);
        let _writer = self.writer.lock().expect(LOCK_IS_SOUND);
        let _syncing = self.syncing.lock().expect(LOCK_IS_SOUND);
        let mut checkpoint = self.checkpoint.lock().expect(LOCK_IS_SOUND);
        let fail = |error| self.fail("removing a namespace", error);
        let (logs, kept) = {
            let held = self.held.read().expect(LOCK_IS_SOUND);
            let others = held.durable_marks().filter(|(log, _)| log.namespace != namespace);
            (held.numbers_of(namespace), others.collect::<Vec<_>>())
        };
        let removal = removing::begin(&self.engine, namespace, &logs).map_err(fail)?;
        // What is not marked as durable is not missed by an opening in between.
        self.engine.store_durable_marks(&kept).map_err(fail)?;
        let projections = removing::delete_projections(&self.engine, namespace).map_err(fail)?;
        self.engine.write_without_log(projections).map_err(fail)?;
        self.engine.flush_projections().map_err(fail)?;
        let mut batch = E::Batch::default();
        for log in &logs {
            removing::delete_log(&self.engine, &mut batch, *log).map_err(fail)?;
        }
        self.engine.write_durably(batch).map_err(fail)?;
        self.held.write().expect(LOCK_IS_SOUND).remove(namespace);
        checkpoint.forget(namespace);
        Ok(removal)
    }
}

const CUT_END: &str = "the end of a log";

fn read_error(log: &LogName, what: &'static str, failure: ReadFailure) -> StorageError {
    let detail = match failure {
        ReadFailure::Engine(error) => error.into_detail(),
        ReadFailure::Missing(m_id) => format!("message {m_id} of log {log} is missing"),
    };
    StorageError::Read { what, detail }
}

impl<E: Engine> LogStorage for Storage<E> {
    fn append(&self, append: &AppendBatch) -> Result<Ticket, StorageError> {
        self.check()?;
        let mut writer = self.writer.lock().expect(LOCK_IS_SOUND);
        if append.entries.is_empty() {
            return Ok(self.held.read().expect(LOCK_IS_SOUND).written());
        }
        if writer.segment_is_full(&self.engine) {
            let ended = self.engine.end_segment();
            ended.map_err(|error| self.fail("ending a segment", error))?;
            writer.begin_segment();
        }
        let batch = writer.stage(&self.engine, &self.held, append)?;
        self.engine.write(batch).map_err(|error| self.fail("appending", error))?;
        Ok(writer.commit(&self.held))
    }

    fn cross_hole(
        &self,
        arrived_at: WallTime,
        row: Option<&Row>,
        hole: &Hole,
    ) -> Result<Ticket, StorageError> {
        self.check()?;
        let _trimming = self.trimming.lock().expect(LOCK_IS_SOUND);
        let mut writer = self.writer.lock().expect(LOCK_IS_SOUND);
        let batch = writer.stage_hole(&self.engine, &self.held, arrived_at, row, hole)?;
        self.engine.write(batch).map_err(|error| self.fail("crossing a hole", error))?;
        Ok(writer.commit(&self.held))
    }

    fn sync(&self) -> Result<Ticket, StorageError> {
        let _syncing = self.syncing.lock().expect(LOCK_IS_SOUND);
        self.check()?;
        // Every write that is entered here has returned from the engine.
        let begun = self.held.write().expect(LOCK_IS_SOUND).begin_sync();
        self.engine.sync().map_err(|error| self.fail("syncing", error))?;
        self.held.write().expect(LOCK_IS_SOUND).finish_sync(&begun);
        Ok(begun.ticket)
    }

    fn read(
        &self,
        log: &LogName,
        from: MessageNumber,
        through: MessageNumber,
        max_bytes: usize,
    ) -> Result<Vec<StoredMessage>, StorageError> {
        self.read_log(log, "messages", |shape, appended| {
            let through = through.min(appended.point.mark.m_id);
            reading::read(&self.engine, shape, from, through, max_bytes)
        })
    }

    fn chain_hash_at(
        &self,
        log: &LogName,
        m_id: MessageNumber,
    ) -> Result<Option<ChainHash>, StorageError> {
        if self.held.read().expect(LOCK_IS_SOUND).get(log).is_none() {
            return self.check().map(|()| None);
        }
        let point = self.read_log(log, "a chain hash", |shape, appended| {
            reading::chain_point_at(&self.engine, shape, &appended.point, m_id)
        })?;
        Ok(point.map(|point| point.mark.hash))
    }

    fn arrived_before(&self, log: &LogName, at: WallTime) -> Result<MessageNumber, StorageError> {
        self.read_log(log, "times of arrival", |shape, appended| {
            reading::arrived_before(&self.engine, shape, appended.point.mark.m_id, at)
        })
    }

    fn accepted_before(&self, log: &LogName, at: WallTime) -> Result<MessageNumber, StorageError> {
        self.read_log(log, "times of acceptance", |shape, appended| {
            reading::accepted_before(&self.engine, shape, appended.point.mark.m_id, at)
        })
    }

    fn accepted_by(
        &self,
        log: &LogName,
        m_id: MessageNumber,
    ) -> Result<Option<WallTime>, StorageError> {
        self.read_log(log, "times of acceptance", |shape, _| {
            reading::accepted_by(&self.engine, shape.number, m_id)
        })
    }

    fn bytes_through(&self, log: &LogName, m_id: MessageNumber) -> Result<u64, StorageError> {
        self.read_log(log, "the size of messages", |shape, appended| {
            let floor = shape.floor.point;
            // A hole takes nothing: what is before it counts.
            let at = shape.hole_around(m_id).map_or(m_id, |end| end.point.mark.m_id);
            let at = at.min(appended.point.mark.m_id);
            if at <= floor.mark.m_id {
                return Ok(0);
            }
            let point = reading::chain_point_at(&self.engine, shape, &appended.point, at)?;
            Ok(point.map_or(0, |point| point.bytes.saturating_sub(floor.bytes)))
        })
    }

    fn missing_from(
        &self,
        log: &LogName,
        from: MessageNumber,
    ) -> Result<Option<Hole>, StorageError> {
        self.read_log(log, "what is missing", |shape, _| Ok(reading::missing_from(shape, from)))
    }

    fn trim(&self, log: &LogName, through: MessageNumber) -> Result<Mark, StorageError> {
        self.check()?;
        let _trimming = self.trimming.lock().expect(LOCK_IS_SOUND);
        self.check_durable(log, through)?;
        let written = self.held.read().expect(LOCK_IS_SOUND).segment();
        // Nobody else moves the floor meanwhile: nothing is read twice.
        let HeldLog { shape, appended, .. } = self.held(log)?;
        let planned = trimming::plan(&self.engine, &shape, &appended, written, through);
        let planned = planned.map_err(|it| read_error(log, "the messages to trim", it))?;
        let Some(trim) = planned else { return Ok(shape.floor.point.mark) };
        drop(shape);
        // What is left of the trimmed messages is in the projections.
        let flushed = self.engine.flush_projections();
        flushed.map_err(|error| self.fail("flushing the projections", error))?;
        let batch = trim.batch(&self.engine);
        self.engine.write_durably(batch).map_err(|error| self.fail("trimming", error))?;
        let needed = {
            let mut held = self.held.write().expect(LOCK_IS_SOUND);
            held.reshape(log, |shape| trim.apply(shape));
            held.note_trimmed(log, trim.oldest_segment())
        };
        let released = trimming::release(&self.engine, needed);
        released.map_err(|error| self.fail("releasing trimmed files", error))?;
        Ok(trim.floor_mark())
    }

    fn record_opening(&self, opening: MemberOpening) -> Result<(), StorageError> {
        self.check()?;
        let mut openings = self.openings.lock().expect(LOCK_IS_SOUND);
        let mut batch = E::Batch::default();
        let (key, value) = (opening::key(*openings), opening::encode(&opening));
        self.engine.put(&mut batch, Table::Meta, &key, &value);
        let written = self.engine.write_durably(batch);
        written.map_err(|error| self.fail("recording the opening", error))?;
        *openings += 1;
        Ok(())
    }

    fn store_checkpoint(
        &self,
        marks: &[(LogName, Mark)],
        members: &[MemberRecord],
    ) -> Result<(), StorageError> {
        self.check()?;
        let mut last = self.checkpoint.lock().expect(LOCK_IS_SOUND);
        for (log, mark) in marks {
            let durable = self.check_durable(log, mark.m_id)?;
            if durable.m_id == mark.m_id && durable.hash != mark.hash {
                return Err(StorageError::MarkDiffers { log: *log, m_id: mark.m_id });
            }
        }
        let held = self.held.read().expect(LOCK_IS_SOUND);
        let (batch, durable_marks) = last.stage(&self.engine, &held, members);
        drop(held);
        self.engine.write(batch).map_err(|error| self.fail("storing a checkpoint", error))?;
        let stored = self.engine.store_durable_marks(&durable_marks);
        stored.map_err(|error| self.fail("storing the durable marks", error))
    }

    fn load_document(&self, name: &str) -> Result<Option<Bytes>, StorageError> {
        self.get("a document", Table::Meta, &document::key(name))
    }

    fn store_document(&self, name: &str, bytes: &[u8]) -> Result<(), StorageError> {
        self.check()?;
        let mut batch = E::Batch::default();
        self.engine.put(&mut batch, Table::Meta, &document::key(name), bytes);
        let written = self.engine.write_durably(batch);
        written.map_err(|error| self.fail("storing a document", error))
    }

    fn remove_document(&self, name: &str) -> Result<(), StorageError> {
        self.check()?;
        let mut batch = E::Batch::default();
        self.engine.delete(&mut batch, Table::Meta, &document::key(name));
        let written = self.engine.write_durably(batch);
        written.map_err(|error| self.fail("removing a document", error))
    }

    fn projection(&self, kind: ProjectionKind) -> Result<Option<ProjectionPosition>, StorageError> {
        const WHAT: &str = "a projection's position";
        let value = self.get(WHAT, Table::Projections, &projection::position_key(kind))?;
        let position = value.map(|value| projection::decode_position(&value)).transpose();
        position.map_err(|error| StorageError::Read { what: WHAT, detail: error.to_string() })
    }

    fn scan_projection(
        &self,
        kind: ProjectionKind,
        prefix: &[u8],
        after: Option<&[u8]>,
        limit: usize,
    ) -> Result<Vec<(Bytes, Bytes)>, StorageError> {
        self.check()?;
        let prefix = projection::entry_key(kind, prefix);
        let upper = prefix_end(&prefix).expect("a prefix begins with its kind, which is not 255");
        let mut lower = prefix;
        if let Some(after) = after {
            let mut next = projection::entry_key(kind, after);
            next.push(0);
            lower = lower.max(next);
        }
        let mut entries = Vec::new();
        if limit == 0 || lower >= upper {
            return Ok(entries);
        }
        let mut outcome = Ok(());
        let from = ScanFrom::LowerBound;
        let scanned =
            self.engine.scan(Table::Projections, from, &lower, &upper, &mut |key, value| {
                match projection::own_key(key) {
                    Ok(key) => {
                        entries.push((Bytes::copy_from_slice(key), Bytes::copy_from_slice(value)));
                    }
                    Err(malformed) => outcome = Err(EngineError::from(malformed)),
                }
                if outcome.is_err() || entries.len() == limit {
                    ControlFlow::Break(())
                } else {
                    ControlFlow::Continue(())
                }
            });
        match scanned.and(outcome) {
            Ok(()) => Ok(entries),
            Err(error) => {
                let what = "a projection's entries";
                Err(StorageError::Read { what, detail: error.into_detail() })
            }
        }
    }

    fn store_projection(
        &self,
        kind: ProjectionKind,
        position: &ProjectionPosition,
        changes: &ProjectionChanges,
    ) -> Result<(), StorageError> {
        self.check()?;
        if self.engine.flaw() != Some(OpeningFlaw::ProjectionsUnchecked) {
            for (log, m_id) in &position.positions {
                self.check_durable(log, *m_id)?;
            }
        }
        let mut batch = E::Batch::default();
        for key in &changes.deletes {
            let key = projection::entry_key(kind, key);
            self.engine.delete(&mut batch, Table::Projections, &key);
        }
        for (key, value) in &changes.puts {
            let key = projection::entry_key(kind, key);
            self.engine.put(&mut batch, Table::Projections, &key, value);
        }
        let (key, value) = (projection::position_key(kind), projection::encode_position(position));
        self.engine.put(&mut batch, Table::Projections, &key, &value);
        let written = self.engine.write_without_log(batch);
        written.map_err(|error| self.fail("storing a projection", error))
    }

    fn sync_projections(&self) -> Result<(), StorageError> {
        self.check()?;
        let flushed = self.engine.flush_projections();
        flushed.map_err(|error| self.fail("flushing the projections", error))
    }

    fn reset_projection(&self, kind: ProjectionKind) -> Result<(), StorageError> {
        self.check()?;
        let mut batch = E::Batch::default();
        let (from, to) = projection::bounds(kind);
        self.engine.delete_range(&mut batch, Table::Projections, &from, &to);
        let written = self.engine.write_without_log(batch);
        written.map_err(|error| self.fail("resetting a projection", error))
    }

    fn remove_namespace(&self, namespace: NamespaceNumber) -> Result<(), StorageError> {
        let removal = self.delete_namespace(namespace)?;
        let fail = |error| self.fail("erasing a namespace", error);
        removing::erase(&self.engine, namespace, &removal).map_err(fail)?;
        if let Some(left) =
            removing::what_is_left(&self.engine, namespace, &removal).map_err(fail)?
        {
            return Err(StorageError::NotRemoved { namespace, left });
        }
        removing::end(&self.engine, namespace).map_err(fail)
    }

    fn taken_by_cut(
        &self,
        keep: &[(LogName, MessageNumber)],
    ) -> Result<Vec<TakenOff>, StorageError> {
        self.check()?;
        let end_of = |log: &LogName, m_id| {
            self.read_log(log, CUT_END, |shape, appended| {
                reading::chain_point_at(&self.engine, shape, &appended.point, m_id)
            })
        };
        Ok(self.plan_cut(keep, end_of)?.taken())
    }

    fn cut_ends(&self, keep: &[(LogName, MessageNumber)]) -> Result<(), StorageError> {
        self.check()?;
        let _trimming = self.trimming.lock().expect(LOCK_IS_SOUND);
        let _writer = self.writer.lock().expect(LOCK_IS_SOUND);
        let _syncing = self.syncing.lock().expect(LOCK_IS_SOUND);
        let _checkpoint = self.checkpoint.lock().expect(LOCK_IS_SOUND);
        // Nobody trims meanwhile: what is missing is damaged.
        let end_of = |log: &LogName, m_id| {
            let HeldLog { shape, appended, .. } = self.held(log)?;
            let point = reading::chain_point_at(&self.engine, &shape, &appended.point, m_id);
            point.map_err(|failure| read_error(log, CUT_END, failure))
        };
        let cut = self.plan_cut(keep, end_of)?;
        self.has_failed.store(true, Ordering::Release);
        if cut.is_nothing() {
            return Ok(());
        }
        let fail = |error| self.fail("cutting a log", error);
        // What is not marked as durable is not missed by an opening in between.
        let marks = cut.marks_after(&self.held.read().expect(LOCK_IS_SOUND));
        self.engine.store_durable_marks(&marks).map_err(fail)?;
        let directory = cut.lower_directory(&self.engine).map_err(fail)?;
        self.engine.write_without_log(directory).map_err(fail)?;
        self.engine.flush_projections().map_err(fail)?;
        let batch = cut.batch(&self.engine).map_err(fail)?;
        self.engine.write_durably(batch).map_err(fail)
    }

    fn scrub(&self, from: &ScrubPosition, max_bytes: u64) -> Result<ScrubStep, StorageError> {
        self.check()?;
        let settle = || self.await_trim();
        Ok(scrubbing::scrub(&self.engine, &self.held, &settle, from, max_bytes))
    }

    fn space(&self) -> Result<Space, StorageError> {
        self.check()?;
        self.engine.space().map_err(|error| StorageError::Read {
            what: "the space on the disk",
            detail: error.into_detail(),
        })
    }

    fn log_bytes(&self, namespace: NamespaceNumber) -> u64 {
        self.held.read().expect(LOCK_IS_SOUND).log_bytes(namespace)
    }
}
