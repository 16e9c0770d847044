//! Opening a database after a crash (METHOD M12).
//!
//! A cut of power can lose the tail of one write-ahead file and keep the next, so
//! "the last key" says nothing. Each log is walked from its last checkpoint:
//! numbers without holes, the chain hashes that are kept, then parents across
//! logs until nothing changes. What lies past the first missing message, logs
//! whose parent point is not held, and keys that belong to no row are deleted.
//!
//! Before anything is deleted, the result is compared with the durable marks that
//! are kept beside the database. If the logs reach them, what was cut had never
//! been synced; if not, synced data is damaged, and nothing is touched.

use std::collections::{BTreeMap, BTreeSet};

use interlock_core::identity::{LogName, Mark, MemberOpening, MessageNumber, NodeNumber};
use interlock_core::replication::acknowledgements::MemberRecord;

use crate::contract::ProjectionKind;
use crate::engine::{Engine, EngineError, Table, first_key, scan_prefix};
use crate::held_logs::{HeldLogs, LogShape};
use crate::keys::chain_point::ChainPoint;
use crate::keys::{
    LogNumber, SegmentNumber, arrival, chain_point, checkpoint_mark, fact, floor, format_version,
    hole, message_run, next_log_number, opening, projection, retired_openings, row,
    segment_checkpoint, segment_start, sparse_log_number, sync_witness,
};
use crate::log_walk::{self, WalkedLog, walk_log};
use crate::memory::OpeningFlaw;
use crate::opening_outcome::{CutLog, CutReason, DamageFinding, RecoveredLog, Recovery};
use crate::reading::{chain_point_at, start_at_or_before};
use crate::removing::delete_log;

/// Why a database cannot be walked at all.
#[derive(Debug)]
pub(crate) enum WalkError {
    /// A newer build wrote it.
    NewerLayout(u32),
    /// The engine fails, or what is kept beside the logs is damaged.
    Engine(EngineError),
}

impl From<EngineError> for WalkError {
    fn from(error: EngineError) -> Self {
        Self::Engine(error)
    }
}

/// What a database holds, before anything is changed.
#[derive(Debug)]
pub(crate) struct Walked {
    pub(crate) logs: BTreeMap<LogName, WalkedLog>,
    /// Logs that are removed with their rows.
    removed: Vec<LogShape>,
    /// Numbers that keys have and no row.
    orphans: BTreeSet<LogNumber>,
    pub(crate) cut: Vec<CutLog>,
    /// Synced data that is missing or changed. Empty after an honest crash.
    pub(crate) findings: Vec<DamageFinding>,
    pub(crate) openings: Vec<(u64, MemberOpening)>,
    pub(crate) members: Vec<MemberRecord>,
    pub(crate) next_number: LogNumber,
    /// The segment that the opening begins: what it recovers stays in those
    /// before.
    pub(crate) next_segment: SegmentNumber,
    /// How many appends it has.
    pub(crate) appends: u64,
    /// Runs that no start leads to.
    stray: Vec<(SegmentNumber, LogNumber)>,
}

/// The rows and what belongs to them, as stored.
#[derive(Debug, Default)]
struct Stored {
    shapes: BTreeMap<LogNumber, LogShape>,
    checkpoints: BTreeMap<LogNumber, ChainPoint>,
    orphans: BTreeSet<LogNumber>,
}

/// Walks every log of a database and compares the result with the durable marks.
/// Changes nothing.
pub(crate) fn walk<E: Engine>(
    engine: &E,
    durable: &BTreeMap<LogName, Mark>,
) -> Result<Walked, WalkError> {
    let version = engine.get(Table::Meta, &format_version::KEY)?;
    let version = version.map(|value| format_version::decode(&value)).transpose();
    let version = version.map_err(EngineError::from)?;
    if let Some(newer) = version.filter(|version| *version > format_version::CURRENT) {
        return Err(WalkError::NewerLayout(newer));
    }

    let Stored { shapes, mut checkpoints, mut orphans } = load_rows(engine)?;
    let mut next_number = match engine.get(Table::Meta, &next_log_number::KEY)? {
        Some(value) => next_log_number::decode(&value).map_err(EngineError::from)?,
        None => LogNumber::FIRST,
    };
    let checkpoint = match engine.get(Table::Meta, &segment_checkpoint::KEY)? {
        Some(value) => segment_checkpoint::decode(&value).map_err(EngineError::from)?,
        None => SegmentNumber::ZERO,
    };
    let appends = match engine.get(Table::Meta, &sync_witness::KEY)? {
        Some(value) => sync_witness::decode(&value).map_err(EngineError::from)?.number,
        None => 0,
    };
    let Recent { numbers, stray, last_segment } = look_at_recent(engine, checkpoint)?;
    for number in numbers_in_sparse(engine)?.into_iter().chain(numbers) {
        next_number = next_number.max(number.next());
        if !shapes.contains_key(&number) {
            orphans.insert(number);
        }
    }

    let mut walked = Walked {
        logs: BTreeMap::new(),
        removed: Vec::new(),
        orphans,
        cut: Vec::new(),
        findings: Vec::new(),
        openings: load_openings(engine)?,
        members: load_members(engine)?,
        next_number,
        next_segment: last_segment.next(),
        appends,
        stray,
    };
    for (number, shape) in shapes {
        walked.next_number = walked.next_number.max(number.next());
        let log = shape.row.log;
        let durable = durable.get(&log).copied();
        let log_walked = walk_log(engine, shape, checkpoints.remove(&number), durable)?;
        walked.logs.insert(log, log_walked);
    }
    walked.remove_empty();
    if engine.flaw() != Some(OpeningFlaw::ParentsUnchecked) {
        walked.remove_without_parents(engine)?;
    }
    walked.collect_cuts();
    walked.collect_findings(durable);
    Ok(walked)
}

impl Walked {
    fn remove_empty(&mut self) {
        let empty = self.logs.iter().filter(|(_, log)| !log.has_messages());
        let empty: Vec<LogName> = empty.map(|(log, _)| *log).collect();
        for log in empty {
            self.remove(&log, CutReason::NoMessages);
        }
    }

    /// Removes logs whose parents are not held up to their points, until nothing
    /// changes: each removal may take the parent of another.
    fn remove_without_parents<E: Engine>(&mut self, engine: &E) -> Result<(), EngineError> {
        loop {
            let mut parentless = Vec::new();
            for (name, log) in &self.logs {
                for parent in &log.shape.row.parents {
                    let parent_log = self.logs.get(&name.path().log(parent.incarnation));
                    let mark = Mark { m_id: parent.m_id, hash: parent.hash };
                    if !parent_is_held(engine, log, parent_log, &mark)? {
                        parentless.push(*name);
                        break;
                    }
                }
            }
            if parentless.is_empty() {
                return Ok(());
            }
            for log in parentless {
                self.remove(&log, CutReason::ParentNotHeld);
            }
        }
    }

    fn remove(&mut self, log: &LogName, reason: CutReason) {
        let removed = self.logs.remove(log).expect("only logs that were walked are removed");
        let reason = removed.reason.unwrap_or(reason);
        let found = removed.found.max(removed.point.mark.m_id);
        self.cut.push(CutLog { log: *log, kept: None, found, reason });
        self.removed.push(removed.shape);
    }

    fn collect_cuts(&mut self) {
        for (log, walked) in &self.logs {
            let kept = walked.point.mark.m_id;
            if walked.found > kept {
                let reason = walked.reason.unwrap_or(CutReason::MissingMessage);
                let found = walked.found;
                self.cut.push(CutLog { log: *log, kept: Some(kept), found, reason });
            }
        }
    }

    fn collect_findings(&mut self, durable: &BTreeMap<LogName, Mark>) {
        for log in self.logs.values_mut() {
            self.findings.extend(log.finding.take());
        }
        for (log, mark) in durable {
            if self.logs.contains_key(log) {
                continue;
            }
            let cut = self.cut.iter().find(|cut| cut.log == *log);
            let reason = cut.map_or(CutReason::SyncedDataLost, |cut| cut.reason);
            let (log, durable, held) = (*log, mark.m_id, None);
            self.findings.push(DamageFinding::LogTooShort { log, durable, held, reason });
        }
    }

    /// Adds to the cuts what the durable marks say is lost beyond what was found:
    /// for an opening that accepts loss.
    pub(crate) fn add_lost_to_cuts(&mut self, durable: &BTreeMap<LogName, Mark>) {
        for (log, mark) in durable {
            let kept = self.logs.get(log).map(|walked| walked.point.mark.m_id);
            if kept.is_some_and(|kept| kept >= mark.m_id) {
                continue;
            }
            match self.cut.iter_mut().find(|cut| cut.log == *log) {
                Some(cut) => cut.found = cut.found.max(mark.m_id),
                None => {
                    let (log, found, reason) = (*log, mark.m_id, CutReason::SyncedDataLost);
                    self.cut.push(CutLog { log, kept, found, reason });
                }
            }
        }
    }

    /// Deletes what the walk did not keep, and makes what remains durable: after
    /// a kill it may be in the page cache only, which the next cut of power takes.
    pub(crate) fn settle<E: Engine>(&self, engine: &E) -> Result<(), EngineError> {
        let mut batch = E::Batch::default();
        for (segment, number) in &self.stray {
            let (from, to) = message_run::bounds(*segment, *number);
            engine.delete_range(&mut batch, Table::Log, &from, &to);
        }
        let version = format_version::encode(format_version::CURRENT);
        engine.put(&mut batch, Table::Meta, &format_version::KEY, &version);
        let next = next_log_number::encode(self.next_number);
        engine.put(&mut batch, Table::Meta, &next_log_number::KEY, &next);
        for log in self.logs.values() {
            if log.found > log.point.mark.m_id {
                log_walk::delete_after(engine, &mut batch, &log.shape, &log.point)?;
            }
            let held =
                log.missing_points.iter().filter(|kept| kept.mark.m_id <= log.point.mark.m_id);
            for point in held {
                let key = chain_point::key(log.shape.number, point.mark.m_id);
                engine.put(&mut batch, Table::Sparse, &key, &chain_point::encode(point));
            }
        }
        for shape in &self.removed {
            delete_log(engine, &mut batch, shape.number)?;
        }
        for number in &self.orphans {
            delete_log(engine, &mut batch, *number)?;
        }
        engine.write_durably(batch)?;
        engine.store_durable_marks(&self.durable_marks())
    }

    /// How far what is kept goes: all of it is durable once it is settled.
    pub(crate) fn durable_marks(&self) -> Vec<(LogName, Mark)> {
        self.logs.iter().map(|(log, walked)| (*log, walked.point.mark)).collect()
    }

    /// What the opening tells its caller, and what the open database begins with.
    pub(crate) fn finish<E: Engine>(self, engine: &E) -> Result<(HeldLogs, Recovery), EngineError> {
        let mut held = HeldLogs::new(self.next_segment, self.appends);
        let mut recovery = Recovery {
            opened_from: self.openings.last().map(|(_, opening)| opening.incarnation),
            opened_as: self.openings.last().map(|(_, opening)| opening.node),
            members: self.members,
            cut: self.cut,
            ..Recovery::default()
        };
        for walked in self.logs.into_values() {
            let tail = walked.tail(engine)?;
            recovery.last_stamp = recovery.last_stamp.max(tail.stamp);
            recovery.logs.push(RecoveredLog {
                row: walked.shape.row.clone(),
                mark: tail.point.mark,
                last_stamp: tail.stamp,
                floor: walked.shape.floor.point.mark,
                last_missing: walked.shape.last_missing(),
            });
            let oldest = walked.oldest_segment(engine)?;
            held.insert_recovered(walked.shape, tail, oldest);
        }
        for kind in ProjectionKind::ALL {
            if is_ahead(engine, kind, &held)? {
                recovery.projections_ahead.push(kind);
            }
        }
        Ok((held, recovery))
    }
}

/// Whether a log's parent reaches the point where the log goes on, with the same
/// chain hash. Inside a hole or below a floor, where no hash is kept, reaching it
/// is enough.
fn parent_is_held<E: Engine>(
    engine: &E,
    log: &WalkedLog,
    parent: Option<&WalkedLog>,
    point: &Mark,
) -> Result<bool, EngineError> {
    let Some(parent) = parent else { return Ok(false) };
    if parent.point.mark.m_id < point.m_id {
        return Ok(false);
    }
    // Both were there at the checkpoint, when the hashes had been compared.
    let both_were_checked =
        parent.begun_at >= point.m_id && log.begun_at >= log.shape.row.first_m_id();
    if both_were_checked {
        return Ok(true);
    }
    match chain_point_at(engine, &parent.shape, &parent.point, point.m_id) {
        Ok(known) => Ok(known.is_none_or(|known| known.mark.hash == point.hash)),
        Err(failure) => match log_walk::engine_error(failure) {
            EngineError::Damaged(_) => Ok(false),
            error => Err(error),
        },
    }
}

fn load_rows<E: Engine>(engine: &E) -> Result<Stored, EngineError> {
    let mut stored = Stored::default();
    let Stored { shapes, checkpoints, orphans } = &mut stored;
    scan_prefix(engine, Table::Meta, row::PREFIX, |key, value| {
        let number = row::decode_key(key)?;
        shapes.insert(number, LogShape::new(number, row::decode(value)?));
        Ok(())
    })?;
    scan_prefix(engine, Table::Meta, checkpoint_mark::PREFIX, |key, value| {
        checkpoints.insert(checkpoint_mark::decode_key(key)?, checkpoint_mark::decode(value)?);
        Ok(())
    })?;
    scan_prefix(engine, Table::Meta, floor::PREFIX, |key, value| {
        let number = floor::decode_key(key)?;
        match shapes.get_mut(&number) {
            Some(shape) => shape.floor = floor::decode(value)?,
            None => _ = orphans.insert(number),
        }
        Ok(())
    })?;
    scan_prefix(engine, Table::Meta, hole::PREFIX, |key, value| {
        let (number, from) = hole::decode_key(key)?;
        match shapes.get_mut(&number) {
            Some(shape) => _ = shape.holes.insert(from, hole::decode(value)?),
            None => _ = orphans.insert(number),
        }
        Ok(())
    })?;
    orphans.extend(checkpoints.keys().filter(|number| !shapes.contains_key(number)));
    Ok(stored)
}

fn load_openings<E: Engine>(engine: &E) -> Result<Vec<(u64, MemberOpening)>, EngineError> {
    let mut openings = Vec::new();
    scan_prefix(engine, Table::Meta, opening::PREFIX, |key, value| {
        openings.push((opening::decode_key(key)?, opening::decode(value)?));
        Ok(())
    })?;
    Ok(openings)
}

/// What was last known of the members. A database of an older build has facts
/// only.
fn load_members<E: Engine>(engine: &E) -> Result<Vec<MemberRecord>, EngineError> {
    let mut members: BTreeMap<NodeNumber, MemberRecord> = BTreeMap::new();
    let unknown =
        |node| MemberRecord { node, facts: vec![], retired: vec![], too_many_openings: false };
    scan_prefix(engine, Table::Meta, fact::PREFIX, |key, value| {
        let fact = fact::decode(key, value)?;
        let node = fact.opening.node;
        members.entry(node).or_insert_with(|| unknown(node)).facts.push(fact);
        Ok(())
    })?;
    scan_prefix(engine, Table::Meta, retired_openings::PREFIX, |key, value| {
        let found = retired_openings::decode(key, value)?;
        let member = members.entry(found.node).or_insert_with(|| unknown(found.node));
        member.retired = found.retired;
        member.too_many_openings = found.too_many_openings;
        Ok(())
    })?;
    Ok(members.into_values().collect())
}

/// What is found in the segments that may not have been synced whole.
struct Recent {
    numbers: BTreeSet<LogNumber>,
    /// Runs that no start leads to: their starts are lost.
    stray: Vec<(SegmentNumber, LogNumber)>,
    /// The highest segment in use.
    last_segment: SegmentNumber,
}

/// Looks at which logs have messages in the segments from a checkpoint on: one
/// seek for each of both.
fn look_at_recent<E: Engine>(engine: &E, checkpoint: SegmentNumber) -> Result<Recent, EngineError> {
    let (numbers, stray) = (BTreeSet::new(), Vec::new());
    let mut recent = Recent { numbers, stray, last_segment: checkpoint };
    let mut lower = message_run::segment_begin(checkpoint);
    while let Some(key) = first_key(engine, Table::Log, &lower, &[u8::MAX; 17])? {
        let (segment, number, first) = message_run::decode_key(&key)?;
        recent.numbers.insert(number);
        recent.last_segment = recent.last_segment.max(segment);
        let start = start_at_or_before(engine, number, first)?;
        if start.is_none_or(|start| start.segment != segment) {
            recent.stray.push((segment, number));
        }
        (_, lower) = message_run::bounds(segment, number);
    }
    Ok(recent)
}

/// The log numbers that keys of what is kept beside the messages have: one seek
/// for each.
fn numbers_in_sparse<E: Engine>(engine: &E) -> Result<BTreeSet<LogNumber>, EngineError> {
    let mut numbers = BTreeSet::new();
    let zero = LogNumber::new(0);
    let tables = [
        (chain_point::key(zero, MessageNumber::ZERO), chain_point::end as fn(_) -> _),
        (arrival::key(zero, MessageNumber::ZERO), arrival::end),
        (segment_start::key(zero, MessageNumber::ZERO), segment_start::end),
    ];
    for (begin, end) in tables {
        let (mut lower, upper) = (begin, [begin[0] + 1]);
        while let Some(key) = first_key(engine, Table::Sparse, &lower, &upper)? {
            let number = sparse_log_number(&key)?;
            numbers.insert(number);
            lower = end(number);
        }
    }
    Ok(numbers)
}

fn is_ahead<E: Engine>(
    engine: &E,
    kind: ProjectionKind,
    held: &HeldLogs,
) -> Result<bool, EngineError> {
    let value = engine.get(Table::Projections, &projection::position_key(kind))?;
    let Some(value) = value else { return Ok(false) };
    let position = projection::decode_position(&value)?;
    let is_held = |(log, m_id): &(LogName, MessageNumber)| {
        held.get(log).is_some_and(|held| held.durable.point.mark.m_id >= *m_id)
    };
    Ok(!position.positions.iter().all(is_held))
}
