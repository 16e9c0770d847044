//! Walking one log from its last checkpoint to its end.

use std::ops::ControlFlow;

use interlock_core::clock::HybridTime;
use interlock_core::identity::{ChainHash, LogName, Mark, MessageNumber};
use interlock_core::limits::CHAIN_HASH_INTERVAL;
use interlock_core::message::MessageHead;

use crate::engine::{Engine, EngineError, ScanFrom, Table};
use crate::held_logs::{LogShape, Tail};
use crate::keys::chain_point::{self, ChainPoint};
use crate::keys::message_run::{self, Messages};
use crate::keys::segment_start::{self, SegmentStart};
use crate::keys::{LogNumber, SegmentNumber, arrival, checkpoint_mark};
use crate::opening_outcome::{CutReason, DamageFinding};
use crate::reading::{
    ReadFailure, after, first_start, kept_arrival, kept_point, start_at_or_before, starts_from,
    visit_messages,
};

const NO_END: MessageNumber = MessageNumber::new(u64::MAX);

/// One log as far as it is contiguous and gives the hashes that are kept.
#[derive(Debug)]
pub(crate) struct WalkedLog {
    pub(crate) shape: LogShape,
    /// The end of what is held.
    pub(crate) point: ChainPoint,
    /// Where the walk began: what is before was verified by an earlier opening,
    /// or appended under one that ended well.
    pub(crate) begun_at: MessageNumber,
    /// The highest number found of the log, in any table.
    pub(crate) found: MessageNumber,
    /// Why it ends where it ends, if something lies beyond.
    pub(crate) reason: Option<CutReason>,
    /// Chain hashes that should be kept and are not.
    pub(crate) missing_points: Vec<ChainPoint>,
    /// What contradicts the durable marks.
    pub(crate) finding: Option<DamageFinding>,
}

impl WalkedLog {
    /// Whether the log has anything at all, trimmed or not.
    pub(crate) fn has_messages(&self) -> bool {
        self.point.mark.m_id >= self.shape.row.first_m_id()
    }

    /// The end of the log with what is kept about it.
    pub(crate) fn tail<E: Engine>(&self, engine: &E) -> Result<Tail, EngineError> {
        let last = self.point.mark.m_id;
        let arrival = kept_arrival(engine, self.shape.number, last).map_err(engine_error)?;
        Ok(Tail { point: self.point, stamp: self.last_stamp(engine)?, arrival, segment: None })
    }

    /// The first segment that has messages above the floor.
    pub(crate) fn oldest_segment<E: Engine>(
        &self,
        engine: &E,
    ) -> Result<Option<SegmentNumber>, EngineError> {
        let (number, first) = (self.shape.number, self.shape.floor.point.mark.m_id.next());
        let start = match start_at_or_before(engine, number, first)? {
            Some(start) => Some(start),
            None => first_start(engine, number, first)?,
        };
        Ok(start.map(|start| start.segment))
    }

    fn last_stamp<E: Engine>(&self, engine: &E) -> Result<HybridTime, EngineError> {
        let last = self.point.mark.m_id;
        if last == self.shape.floor.point.mark.m_id {
            return Ok(self.shape.floor.stamp);
        }
        if let Some(end) = self.shape.hole_around(last) {
            return Ok(end.stamp);
        }
        let mut stamp = None;
        visit_messages(engine, self.shape.number, last, last, |_, bytes| {
            stamp = Some(MessageHead::decode(bytes).map(|head| head.stamp));
            ControlFlow::Break(())
        })?;
        let log = self.shape.row.log;
        match stamp {
            Some(Ok(stamp)) => Ok(stamp),
            Some(Err(error)) => {
                Err(EngineError::Damaged(format!("message {last} of log {log}: {error}")))
            }
            None => Err(EngineError::Damaged(format!("message {last} of log {log} is missing"))),
        }
    }
}

/// Walks a log from its checkpoint, or from its floor. `durable` is how far the
/// durable marks say that it goes.
pub(crate) fn walk_log<E: Engine>(
    engine: &E,
    shape: LogShape,
    checkpoint: Option<ChainPoint>,
    durable: Option<Mark>,
) -> Result<WalkedLog, EngineError> {
    let begin = match checkpoint {
        Some(point)
            if point.mark.m_id > shape.floor.point.mark.m_id
                && is_held(engine, &shape, point.mark.m_id)? =>
        {
            point
        }
        _ => shape.floor.point,
    };
    let kept = kept_points_after(engine, &shape, begin.mark.m_id)?;
    let mut walk = Walk {
        shape: &shape,
        kept: kept.into_iter().peekable(),
        durable,
        point: begin,
        verified: begin,
        reason: None,
        differs: None,
        missing_points: Vec::new(),
    };
    walk.compare_durable();
    walk.cross_holes();
    let from = walk.point.mark.m_id.next();
    let walked =
        visit_messages(engine, shape.number, from, NO_END, |m_id, bytes| walk.step(m_id, bytes));
    match walked {
        Ok(()) => {}
        Err(EngineError::Damaged(detail)) => walk.stop_unreadable(detail),
        Err(error) => return Err(error),
    }
    let Walk { point, reason, differs, missing_points, .. } = walk;

    let found = highest_found(engine, &shape, checkpoint)?.max(point.mark.m_id);
    let mut log = WalkedLog {
        point,
        begun_at: begin.mark.m_id,
        found,
        reason: reason.or((found > point.mark.m_id).then_some(CutReason::MissingMessage)),
        missing_points,
        finding: None,
        shape,
    };
    log.finding = differs.or_else(|| too_short(&log, durable));
    Ok(log)
}

/// What the durable marks say against how far a log goes.
pub(crate) fn too_short(log: &WalkedLog, durable: Option<Mark>) -> Option<DamageFinding> {
    let durable = durable?.m_id;
    let held = log.point.mark.m_id;
    (held < durable).then(|| DamageFinding::LogTooShort {
        log: log.shape.row.log,
        durable,
        held: log.has_messages().then_some(held),
        reason: log.reason.unwrap_or(CutReason::SyncedDataLost),
    })
}

struct Walk<'a, I: Iterator<Item = ChainPoint>> {
    shape: &'a LogShape,
    kept: std::iter::Peekable<I>,
    durable: Option<Mark>,
    point: ChainPoint,
    /// The last point whose hash is known from elsewhere.
    verified: ChainPoint,
    reason: Option<CutReason>,
    differs: Option<DamageFinding>,
    missing_points: Vec<ChainPoint>,
}

impl<I: Iterator<Item = ChainPoint>> Walk<'_, I> {
    fn step(&mut self, m_id: MessageNumber, bytes: &[u8]) -> ControlFlow<()> {
        if m_id != self.point.mark.m_id.next() {
            self.reason = Some(CutReason::MissingMessage);
            return ControlFlow::Break(());
        }
        self.point = after(&self.point, m_id, bytes);
        self.compare_kept();
        self.compare_durable();
        if self.reason.is_some() {
            self.point = self.verified;
            return ControlFlow::Break(());
        }
        self.cross_holes();
        ControlFlow::Continue(())
    }

    /// Goes on behind a hole that begins here.
    fn cross_holes(&mut self) {
        while let Some(end) = self.shape.holes.get(&self.point.mark.m_id.next()) {
            self.point = end.point;
            self.verified = end.point;
            self.compare_durable();
        }
    }

    fn compare_kept(&mut self) {
        let m_id = self.point.mark.m_id;
        while self.kept.next_if(|kept| kept.mark.m_id < m_id).is_some() {}
        match self.kept.next_if(|kept| kept.mark.m_id == m_id) {
            Some(kept) if kept == self.point => self.verified = self.point,
            Some(_) => self.reason = Some(CutReason::HashDiffers),
            None if m_id.get().is_multiple_of(CHAIN_HASH_INTERVAL) => {
                self.missing_points.push(self.point)
            }
            None => {}
        }
    }

    fn compare_durable(&mut self) {
        let Mark { m_id, hash } = self.point.mark;
        let Some(durable) = self.durable.filter(|durable| durable.m_id == m_id) else { return };
        if durable.hash == hash {
            self.verified = self.point;
        } else {
            let log: LogName = self.shape.row.log;
            let synced: ChainHash = durable.hash;
            self.differs = Some(DamageFinding::LogDiffers { log, m_id, synced, found: hash });
            self.reason = Some(CutReason::HashDiffers);
        }
    }

    fn stop_unreadable(&mut self, detail: String) {
        self.reason = Some(CutReason::Unreadable);
        let file = format!("table {}, log {}", Table::Log.name(), self.shape.row.log);
        self.differs = Some(DamageFinding::Unreadable { file, detail });
    }
}

fn is_held<E: Engine>(
    engine: &E,
    shape: &LogShape,
    m_id: MessageNumber,
) -> Result<bool, EngineError> {
    if shape.hole_around(m_id).is_some_and(|end| end.point.mark.m_id == m_id) {
        return Ok(true);
    }
    let mut held = false;
    let visited = visit_messages(engine, shape.number, m_id, m_id, |_, _| {
        held = true;
        ControlFlow::Break(())
    });
    match visited {
        // The walk from the floor finds out how much can be read.
        Err(EngineError::Damaged(_)) => Ok(false),
        visited => visited.map(|()| held),
    }
}

fn kept_points_after<E: Engine>(
    engine: &E,
    shape: &LogShape,
    m_id: MessageNumber,
) -> Result<Vec<ChainPoint>, EngineError> {
    let lower = chain_point::key(shape.number, m_id.next());
    let upper = chain_point::end(shape.number);
    let mut points = Vec::new();
    let mut outcome = Ok(());
    engine.scan(Table::Sparse, ScanFrom::LowerBound, &lower, &upper, &mut |key, value| {
        match chain_point::decode(key, value) {
            Ok(point) => points.push(point),
            Err(malformed) => outcome = Err(EngineError::from(malformed)),
        }
        ControlFlow::Continue(())
    })?;
    outcome.map(|()| points)
}

/// The highest number that any table has of a log.
fn highest_found<E: Engine>(
    engine: &E,
    shape: &LogShape,
    checkpoint: Option<ChainPoint>,
) -> Result<MessageNumber, EngineError> {
    let last_start = start_at_or_before(engine, shape.number, NO_END)?;
    let in_log = match last_start.map(|start| last_in_segment(engine, shape.number, start)) {
        Some(Ok(m_id)) => Some(m_id),
        // What cannot be read is found by the walk.
        None | Some(Err(EngineError::Damaged(_))) => last_start.map(|start| start.first),
        Some(Err(error)) => return Err(error),
    };
    let kept = kept_point(engine, shape.number, NO_END).map_err(engine_error)?;
    let arrived = kept_arrival(engine, shape.number, NO_END).map_err(engine_error)?;
    let hole = shape.holes.last_key_value().map(|(_, end)| end.point.mark.m_id);
    let found = [
        in_log,
        kept.map(|point| point.mark.m_id),
        arrived.map(|arrival| arrival.m_id),
        checkpoint.map(|point| point.mark.m_id),
        hole,
    ];
    Ok(found.into_iter().flatten().max().unwrap_or(MessageNumber::ZERO))
}

/// The last message of a log in a segment; what should be its first one there if
/// there is none.
fn last_in_segment<E: Engine>(
    engine: &E,
    log: LogNumber,
    start: SegmentStart,
) -> Result<MessageNumber, EngineError> {
    let (lower, _) = message_run::bounds(start.segment, log);
    let at = message_run::key(start.segment, log, NO_END);
    let Some((key, value)) = engine.last_at_or_before(Table::Log, &lower, &at)? else {
        return Ok(start.first);
    };
    let (_, _, first) = message_run::decode_key(&key)?;
    let last = Messages::of(&key, &value)?.map_while(Result::ok).last();
    Ok(last.map_or(first, |(m_id, _)| m_id))
}

/// Removes everything of a log past a point; with `point` before the first
/// message, everything but the row.
pub(crate) fn delete_after<E: Engine>(
    engine: &E,
    batch: &mut E::Batch,
    shape: &LogShape,
    point: &ChainPoint,
) -> Result<(), EngineError> {
    let (number, next) = (shape.number, point.mark.m_id.next());
    if let Some(start) = start_at_or_before(engine, number, point.mark.m_id)? {
        shorten_segment(engine, batch, number, start.segment, next)?;
    }
    for start in starts_from(engine, number, next)? {
        let (from, to) = message_run::bounds(start.segment, number);
        engine.delete_range(batch, Table::Log, &from, &to);
    }
    let (from, to) = (segment_start::key(number, next), segment_start::end(number));
    engine.delete_range(batch, Table::Sparse, &from, &to);
    let (from, to) = (chain_point::key(number, next), chain_point::end(number));
    engine.delete_range(batch, Table::Sparse, &from, &to);
    let (from, to) = (arrival::key(number, next), arrival::end(number));
    engine.delete_range(batch, Table::Sparse, &from, &to);
    for from in shape.holes.range(next..).map(|(from, _)| *from) {
        engine.delete(batch, Table::Meta, &crate::keys::hole::key(number, from));
    }
    engine.put(batch, Table::Meta, &checkpoint_mark::key(number), &checkpoint_mark::encode(point));
    Ok(())
}

/// Removes a log's messages of one segment from `next` on, within a run too.
fn shorten_segment<E: Engine>(
    engine: &E,
    batch: &mut E::Batch,
    log: LogNumber,
    segment: SegmentNumber,
    next: MessageNumber,
) -> Result<(), EngineError> {
    let (lower, to) = message_run::bounds(segment, log);
    let from = message_run::key(segment, log, next);
    engine.delete_range(batch, Table::Log, &from, &to);
    let before = message_run::key(segment, log, next.previous());
    let Some((key, value)) = engine.last_at_or_before(Table::Log, &lower, &before)? else {
        return Ok(());
    };
    let mut shortened = Vec::new();
    let mut is_shortened = false;
    for message in Messages::of(&key, &value)? {
        let (m_id, bytes) = message?;
        is_shortened |= m_id >= next;
        if m_id < next {
            message_run::push(&mut shortened, bytes);
        }
    }
    if is_shortened {
        engine.put(batch, Table::Log, &key, &shortened);
    }
    Ok(())
}

pub(crate) fn engine_error(failure: ReadFailure) -> EngineError {
    match failure {
        ReadFailure::Engine(error) => error,
        ReadFailure::Missing(m_id) => EngineError::Damaged(format!("message {m_id} is missing")),
    }
}
