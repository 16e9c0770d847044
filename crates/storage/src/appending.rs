//! Collecting the messages of one append into one batch: one key for each run of
//! a log, and the little that is kept beside.

use std::collections::HashMap;
use std::sync::RwLock;

use interlock_core::admission::AppendEntry;
use interlock_core::clock::WallTime;
use interlock_core::identity::{LogName, MessageNumber};
use interlock_core::limits::{CHAIN_HASH_INTERVAL, MAX_RUN_BYTES};
use interlock_core::replication::frames::Hole;
use interlock_core::replication::rows::Row;

use crate::contract::{AppendBatch, StorageError, Ticket};
use crate::engine::{Engine, Table};
use crate::held_logs::{HeldLogs, LogShape, Tail};
use crate::keys::arrival::{self, Arrival};
use crate::keys::chain_point::{self, ChainPoint};
use crate::keys::hole::{self, HoleEnd};
use crate::keys::message_run::{self, MESSAGE_OVERHEAD_BYTES, RUN_OVERHEAD_BYTES};
use crate::keys::{
    LogNumber, SegmentNumber, floor, next_log_number, row, segment_start, sync_witness,
};

/// What the appending thread keeps between batches: the next log's number, the
/// segment it writes, and buffers that are used again.
#[derive(Debug)]
pub(crate) struct Writer {
    next_number: LogNumber,
    segment: OpenSegment,
    staged: Vec<StagedLog>,
    /// How many of `staged` belong to the current batch.
    used: usize,
    slots: HashMap<LogName, usize>,
}

/// The segment that is written, and what it has so far.
#[derive(Debug)]
struct OpenSegment {
    number: SegmentNumber,
    bytes: usize,
}

/// One log's part of the current batch.
#[derive(Debug)]
struct StagedLog {
    log: LogName,
    number: LogNumber,
    /// Where the log is new: it is entered when the batch is written.
    new_shape: Option<LogShape>,
    /// A hole or a higher floor that the batch brings.
    new_hole: Option<(MessageNumber, HoleEnd, WallTime)>,
    tail: Tail,
    run_first: MessageNumber,
    run: Vec<u8>,
}

impl StagedLog {
    /// Closes the current run.
    fn put_run<E: Engine>(&mut self, engine: &E, batch: &mut E::Batch, segment: &mut OpenSegment) {
        if self.run.is_empty() {
            return;
        }
        if self.tail.segment != Some(segment.number) {
            let key = segment_start::key(self.number, self.run_first);
            engine.put(batch, Table::Sparse, &key, &segment_start::encode(segment.number));
            self.tail.segment = Some(segment.number);
        }
        let key = message_run::key(segment.number, self.number, self.run_first);
        engine.put(batch, Table::Log, &key, &self.run);
        segment.bytes += self.run.len() + RUN_OVERHEAD_BYTES;
        self.run.clear();
    }

    fn push<E: Engine>(
        &mut self,
        engine: &E,
        batch: &mut E::Batch,
        segment: &mut OpenSegment,
        entry: &AppendEntry,
    ) -> Result<(), StorageError> {
        let expected = self.tail.point.mark.m_id.next();
        if entry.m_id != expected {
            let (log, found) = (self.log, entry.m_id);
            return Err(StorageError::NotContiguous { log, expected, found });
        }
        if self.run.is_empty() {
            self.run_first = entry.m_id;
        }
        message_run::push(&mut self.run, &entry.bytes);
        self.tail.point = ChainPoint {
            mark: entry.mark(),
            bytes: self.tail.point.bytes + entry.bytes.len() as u64 + MESSAGE_OVERHEAD_BYTES,
        };
        self.tail.stamp = entry.stamp;
        if entry.m_id.get().is_multiple_of(CHAIN_HASH_INTERVAL) {
            let key = chain_point::key(self.number, entry.m_id);
            engine.put(batch, Table::Sparse, &key, &chain_point::encode(&self.tail.point));
            self.put_run(engine, batch, segment);
        } else if self.run.len() >= MAX_RUN_BYTES {
            self.put_run(engine, batch, segment);
        }
        Ok(())
    }

    /// Keeps the time of arrival where the last one kept is old or far back.
    fn put_arrival<E: Engine>(
        &mut self,
        engine: &E,
        batch: &mut E::Batch,
        now: WallTime,
        accepted_by: WallTime,
    ) {
        let m_id = self.tail.point.mark.m_id;
        let by = self.tail.arrival.map_or(now, |last| last.by.max(now));
        let accepted_by =
            self.tail.arrival.map_or(accepted_by, |last| last.accepted_by.max(accepted_by));
        let is_due = self.tail.arrival.is_none_or(|last| {
            m_id.since(last.m_id) >= arrival::INTERVAL_MESSAGES
                || by.milliseconds_since(last.by) >= arrival::INTERVAL_MILLISECONDS
        });
        if is_due {
            engine.put(
                batch,
                Table::Sparse,
                &arrival::key(self.number, m_id),
                &arrival::encode(by, accepted_by),
            );
            self.tail.arrival = Some(Arrival { m_id, by, accepted_by });
        }
    }
}

impl Writer {
    pub(crate) fn new(next_number: LogNumber, segment: SegmentNumber) -> Self {
        let segment = OpenSegment { number: segment, bytes: 0 };
        Self { next_number, segment, staged: Vec::new(), used: 0, slots: HashMap::new() }
    }

    /// Whether the next batch should begin another segment.
    pub(crate) fn segment_is_full<E: Engine>(&self, engine: &E) -> bool {
        self.segment.bytes >= engine.segment_bytes()
    }

    pub(crate) fn begin_segment(&mut self) {
        self.segment = OpenSegment { number: self.segment.number.next(), bytes: 0 };
    }

    /// Collects a batch of messages. On an error nothing is kept of it.
    pub(crate) fn stage<E: Engine>(
        &mut self,
        engine: &E,
        held: &RwLock<HeldLogs>,
        append: &AppendBatch,
    ) -> Result<E::Batch, StorageError> {
        self.discard();
        let mut batch = begin_batch(engine, held);
        let mut last: Option<(LogName, usize)> = None;
        for entry in &append.entries {
            let slot = match last {
                Some((log, slot)) if log == entry.log => slot,
                _ => self.slot(engine, &mut batch, held, &entry.log, entry.row.as_ref())?,
            };
            last = Some((entry.log, slot));
            self.staged[slot].push(engine, &mut batch, &mut self.segment, entry)?;
        }
        for staged in &mut self.staged[..self.used] {
            let arrived_at = append.arrived_at;
            let accepted_by = append.accepted_by.get(&staged.log).copied().unwrap_or(arrived_at);
            // Before the messages: those that a crash leaves have their time.
            staged.put_arrival(engine, &mut batch, arrived_at, accepted_by);
            staged.put_run(engine, &mut batch, &mut self.segment);
        }
        Ok(batch)
    }

    /// Collects the crossing of a hole. On an error nothing is kept of it.
    pub(crate) fn stage_hole<E: Engine>(
        &mut self,
        engine: &E,
        held: &RwLock<HeldLogs>,
        arrived_at: WallTime,
        row: Option<&Row>,
        hole: &Hole,
    ) -> Result<E::Batch, StorageError> {
        self.discard();
        let mut batch = begin_batch(engine, held);
        let slot = self.slot(engine, &mut batch, held, &hole.log, row)?;
        let staged = &mut self.staged[slot];
        let before = staged.tail.point;
        let expected = before.mark.m_id.next();
        if hole.from != expected || hole.through.m_id < hole.from {
            let (log, found) = (hole.log, hole.from);
            return Err(StorageError::NotContiguous { log, expected, found });
        }
        let point = ChainPoint { mark: hole.through, bytes: before.bytes };
        let end = HoleEnd { point, stamp: hole.stamp };
        staged.tail.point = point;
        staged.tail.stamp = hole.stamp;
        // How old the last missing one is nobody knows any more.
        staged.put_arrival(engine, &mut batch, arrived_at, arrived_at);
        let by = staged.tail.arrival.map_or(arrived_at, |last| last.by);
        staged.new_hole = Some((hole.from, end, by));

        let is_at_floor = before.mark.m_id == staged.floor_before(held).point.mark.m_id;
        if is_at_floor {
            let floor = floor::Floor { point, stamp: hole.stamp, arrived_by: by };
            engine.put(&mut batch, Table::Meta, &floor::key(staged.number), &floor::encode(&floor));
        } else {
            let key = hole::key(staged.number, hole.from);
            engine.put(&mut batch, Table::Meta, &key, &hole::encode(&end));
        }
        Ok(batch)
    }

    /// Enters a written batch into what readers see.
    pub(crate) fn commit(&mut self, held: &RwLock<HeldLogs>) -> Ticket {
        let mut held = held.write().expect("no holder of this lock panics");
        for staged in &mut self.staged[..self.used] {
            if let Some(shape) = staged.new_shape.take() {
                self.next_number = self.next_number.max(shape.number.next());
                held.insert_new(shape);
            }
            held.note_appended(&staged.log, staged.tail);
            if let Some((from, end, arrived_by)) = staged.new_hole.take() {
                held.reshape(&staged.log, |shape| {
                    if from == shape.floor.point.mark.m_id.next() {
                        let HoleEnd { point, stamp } = end;
                        shape.floor = floor::Floor { point, stamp, arrived_by };
                    } else {
                        shape.holes.insert(from, end);
                    }
                });
            }
        }
        held.note_written(self.segment.number)
    }

    /// The place of a log in the current batch; a new log's row goes first.
    fn slot<E: Engine>(
        &mut self,
        engine: &E,
        batch: &mut E::Batch,
        held: &RwLock<HeldLogs>,
        log: &LogName,
        new_row: Option<&Row>,
    ) -> Result<usize, StorageError> {
        if let Some(slot) = self.slots.get(log) {
            return Ok(*slot);
        }
        let known = {
            let held = held.read().expect("no holder of this lock panics");
            held.get(log).map(|known| (known.shape.number, known.appended))
        };
        let (number, tail, new_shape) = match (known, new_row) {
            (Some((number, tail)), _) => (number, tail, None),
            (None, Some(new_row)) if new_row.log == *log => {
                let number = self.unused_number();
                let shape = LogShape::new(number, new_row.clone());
                engine.put(batch, Table::Meta, &row::key(number), &row::encode(new_row));
                let next = next_log_number::encode(number.next());
                engine.put(batch, Table::Meta, &next_log_number::KEY, &next);
                (number, shape.tail_at_floor(), Some(shape))
            }
            (None, _) => return Err(StorageError::UnknownLog { log: *log }),
        };

        let slot = self.used;
        if slot == self.staged.len() {
            let (run_first, run) = (MessageNumber::ZERO, Vec::new());
            let new_hole = None;
            let staged = StagedLog { log: *log, number, new_shape, new_hole, tail, run_first, run };
            self.staged.push(staged);
        } else {
            let staged = &mut self.staged[slot];
            (staged.log, staged.number, staged.tail) = (*log, number, tail);
            staged.new_shape = new_shape;
        }
        self.used += 1;
        self.slots.insert(*log, slot);
        Ok(slot)
    }

    /// A number above all that are given, in this batch too.
    fn unused_number(&self) -> LogNumber {
        let staged = self.staged[..self.used].iter();
        let highest = staged.filter_map(|staged| staged.new_shape.as_ref()).map(|new| new.number);
        highest.max().map_or(self.next_number, |highest| highest.next().max(self.next_number))
    }

    fn discard(&mut self) {
        for staged in &mut self.staged[..self.used] {
            staged.run.clear();
            staged.new_shape = None;
            staged.new_hole = None;
        }
        self.used = 0;
        self.slots.clear();
    }
}

/// A batch that begins with what it says of those before it: at that place it is
/// found also where the file before it is damaged.
fn begin_batch<E: Engine>(engine: &E, held: &RwLock<HeldLogs>) -> E::Batch {
    let witness = held.read().expect("no holder of this lock panics").next_witness();
    let mut batch = E::Batch::default();
    engine.put(&mut batch, Table::Meta, &sync_witness::KEY, &sync_witness::encode(&witness));
    batch
}

impl StagedLog {
    /// The floor of the log before this batch.
    fn floor_before(&self, held: &RwLock<HeldLogs>) -> floor::Floor {
        if let Some(shape) = &self.new_shape {
            return shape.floor;
        }
        let held = held.read().expect("no holder of this lock panics");
        held.get(&self.log).expect("a staged log is new or held").shape.floor
    }
}
