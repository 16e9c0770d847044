//! Reading messages and what is kept about them.

use std::ops::{ControlFlow, Range};

use bytes::Bytes;
use interlock_core::clock::WallTime;
use interlock_core::identity::{Mark, MessageNumber};
use interlock_core::replication::frames::Hole;

use crate::contract::StoredMessage;
use crate::engine::{Engine, EngineError, ScanFrom, Table, Visit};
use crate::held_logs::LogShape;
use crate::keys::chain_point::{self, ChainPoint};
use crate::keys::message_run::{self, MESSAGE_OVERHEAD_BYTES, Messages};
use crate::keys::segment_start::{self, SegmentStart};
use crate::keys::{LogNumber, Malformed, arrival};

/// What a reading buffer begins with; it doubles up to what was asked for.
const FIRST_BUFFER_BYTES: usize = 16 * 1024;

/// Why a range could not be read.
#[derive(Debug)]
pub(crate) enum ReadFailure {
    /// The engine fails.
    Engine(EngineError),
    /// A message that should be there is not. Where the log was trimmed at the
    /// same time, that is the reason.
    Missing(MessageNumber),
}

impl From<EngineError> for ReadFailure {
    fn from(error: EngineError) -> Self {
        Self::Engine(error)
    }
}

impl From<Malformed> for ReadFailure {
    fn from(malformed: Malformed) -> Self {
        Self::Engine(malformed.into())
    }
}

/// Shows the stored messages of a log from `from` up to and with `through`, in
/// order, whatever is missing between them.
pub(crate) fn visit_messages<E: Engine>(
    engine: &E,
    log: LogNumber,
    from: MessageNumber,
    through: MessageNumber,
    visit: impl FnMut(MessageNumber, &[u8]) -> ControlFlow<()>,
) -> Result<(), EngineError> {
    visit_messages_by(engine, E::scan, log, from, through, visit)
}

/// A way to scan a table: [`Engine::scan`] or [`Engine::scan_once`].
pub(crate) type Scan<E> =
    fn(&E, Table, ScanFrom<'_>, &[u8], &[u8], Visit<'_>) -> Result<(), EngineError>;

/// The same by a way to scan.
pub(crate) fn visit_messages_by<E: Engine>(
    engine: &E,
    scan: Scan<E>,
    log: LogNumber,
    from: MessageNumber,
    through: MessageNumber,
    mut visit: impl FnMut(MessageNumber, &[u8]) -> ControlFlow<()>,
) -> Result<(), EngineError> {
    let after_last = MessageNumber::new(through.get().saturating_add(1));
    let mut next = match start_at_or_before(engine, log, from)? {
        Some(start) => Some(start),
        None => first_start(engine, log, from)?,
    };
    while let Some(start) = next.filter(|start| start.first <= through) {
        let at = message_run::key(start.segment, log, from);
        let (lower, end) = message_run::bounds(start.segment, log);
        let upper = end.min(message_run::key(start.segment, log, after_last));
        let mut outcome = Ok(ControlFlow::Continue(()));
        let shown: Visit<'_> = &mut |key, value| {
            outcome = show_run(key, value, from, through, &mut visit);
            *outcome.as_ref().unwrap_or(&ControlFlow::Break(()))
        };
        scan(engine, Table::Log, ScanFrom::AtOrBefore(&at), &lower, &upper, shown)?;
        if outcome?.is_break() {
            return Ok(());
        }
        next = first_start(engine, log, start.first.next())?;
    }
    Ok(())
}

/// The segment that has a message, if it is held.
pub(crate) fn start_at_or_before<E: Engine>(
    engine: &E,
    log: LogNumber,
    m_id: MessageNumber,
) -> Result<Option<SegmentStart>, EngineError> {
    let lower = segment_start::key(log, MessageNumber::ZERO);
    let at = segment_start::key(log, m_id);
    let found = engine.last_at_or_before(Table::Sparse, &lower, &at)?;
    Ok(found.map(|(key, value)| segment_start::decode(&key, &value)).transpose()?)
}

/// The first segment that begins with a message at or after one.
pub(crate) fn first_start<E: Engine>(
    engine: &E,
    log: LogNumber,
    from: MessageNumber,
) -> Result<Option<SegmentStart>, EngineError> {
    let (lower, upper) = (segment_start::key(log, from), segment_start::end(log));
    let mut found = None;
    engine.scan(Table::Sparse, ScanFrom::LowerBound, &lower, &upper, &mut |key, value| {
        found = Some(segment_start::decode(key, value));
        ControlFlow::Break(())
    })?;
    Ok(found.transpose()?)
}

/// The segments that begin with messages at or after one, in order.
pub(crate) fn starts_from<E: Engine>(
    engine: &E,
    log: LogNumber,
    from: MessageNumber,
) -> Result<Vec<SegmentStart>, EngineError> {
    let mut starts = Vec::new();
    let mut next = first_start(engine, log, from)?;
    while let Some(start) = next {
        starts.push(start);
        next = first_start(engine, log, start.first.next())?;
    }
    Ok(starts)
}

fn show_run(
    key: &[u8],
    value: &[u8],
    from: MessageNumber,
    through: MessageNumber,
    visit: &mut impl FnMut(MessageNumber, &[u8]) -> ControlFlow<()>,
) -> Result<ControlFlow<()>, Malformed> {
    for message in Messages::of(key, value)? {
        let (m_id, bytes) = message?;
        if m_id < from {
            continue;
        }
        if m_id > through || visit(m_id, bytes).is_break() {
            return Ok(ControlFlow::Break(()));
        }
    }
    Ok(ControlFlow::Continue(()))
}

/// See [`LogStorage::read`](crate::LogStorage::read).
pub(crate) fn read<E: Engine>(
    engine: &E,
    shape: &LogShape,
    from: MessageNumber,
    through: MessageNumber,
    max_bytes: usize,
) -> Result<Vec<StoredMessage>, ReadFailure> {
    let mut first = from.max(shape.floor.point.mark.m_id.next());
    while let Some(end) = shape.hole_around(first) {
        first = end.point.mark.m_id.next();
    }
    let last = shape.next_hole(first).map_or(through, |hole| through.min(hole.previous()));
    if first > last {
        return Ok(Vec::new());
    }

    let mut buffer = Vec::with_capacity(max_bytes.min(FIRST_BUFFER_BYTES));
    let mut spans: Vec<Range<usize>> = Vec::new();
    let mut expected = first;
    let mut missing = false;
    visit_messages(engine, shape.number, first, last, |m_id, bytes| {
        missing = m_id != expected;
        let is_full = !spans.is_empty() && buffer.len() + bytes.len() > max_bytes;
        if missing || is_full {
            return ControlFlow::Break(());
        }
        let begin = buffer.len();
        buffer.extend_from_slice(bytes);
        spans.push(begin..buffer.len());
        expected = m_id.next();
        ControlFlow::Continue(())
    })?;
    if missing || spans.is_empty() {
        return Err(ReadFailure::Missing(expected));
    }

    let buffer = Bytes::from(buffer);
    let messages = spans.into_iter().enumerate().map(|(index, span)| StoredMessage {
        m_id: MessageNumber::new(first.get() + index as u64),
        bytes: buffer.slice(span),
    });
    Ok(messages.collect())
}

/// The chain point at a message: hashed again from the nearest one that is kept.
pub(crate) fn chain_point_at<E: Engine>(
    engine: &E,
    shape: &LogShape,
    tail: &ChainPoint,
    m_id: MessageNumber,
) -> Result<Option<ChainPoint>, ReadFailure> {
    if m_id == tail.mark.m_id {
        return Ok(Some(*tail));
    }
    let floor = shape.floor.point;
    if m_id > tail.mark.m_id || m_id < floor.mark.m_id {
        return Ok(None);
    }
    if shape.hole_around(m_id).is_some_and(|end| end.point.mark.m_id != m_id) {
        return Ok(None);
    }
    let hole = shape.holes.range(..=m_id).next_back().map(|(_, end)| end.point);
    let kept = kept_point(engine, shape.number, m_id)?;
    let nearest =
        [Some(floor), hole, kept].into_iter().flatten().max_by_key(|point| point.mark.m_id);
    let mut point = nearest.expect("the floor is always there");

    visit_messages(engine, shape.number, point.mark.m_id.next(), m_id, |number, bytes| {
        if number != point.mark.m_id.next() {
            return ControlFlow::Break(());
        }
        point = after(&point, number, bytes);
        ControlFlow::Continue(())
    })?;
    if point.mark.m_id == m_id {
        Ok(Some(point))
    } else {
        Err(ReadFailure::Missing(point.mark.m_id.next()))
    }
}

/// The chain point after one more message.
pub(crate) fn after(point: &ChainPoint, m_id: MessageNumber, bytes: &[u8]) -> ChainPoint {
    ChainPoint {
        mark: Mark { m_id, hash: point.mark.hash.then(bytes) },
        bytes: point.bytes + bytes.len() as u64 + MESSAGE_OVERHEAD_BYTES,
    }
}

/// The last kept chain hash at or before a message.
pub(crate) fn kept_point<E: Engine>(
    engine: &E,
    log: LogNumber,
    m_id: MessageNumber,
) -> Result<Option<ChainPoint>, ReadFailure> {
    let lower = chain_point::key(log, MessageNumber::ZERO);
    let at = chain_point::key(log, m_id);
    let kept = engine.last_at_or_before(Table::Sparse, &lower, &at)?;
    Ok(kept.map(|(key, value)| chain_point::decode(&key, &value)).transpose()?)
}

/// The last kept time of arrival at or before a message.
pub(crate) fn kept_arrival<E: Engine>(
    engine: &E,
    log: LogNumber,
    m_id: MessageNumber,
) -> Result<Option<arrival::Arrival>, ReadFailure> {
    let lower = arrival::key(log, MessageNumber::ZERO);
    let at = arrival::key(log, m_id);
    let kept = engine.last_at_or_before(Table::Sparse, &lower, &at)?;
    Ok(kept.map(|(key, value)| arrival::decode(&key, &value)).transpose()?)
}

/// See [`LogStorage::arrived_before`](crate::LogStorage::arrived_before).
pub(crate) fn arrived_before<E: Engine>(
    engine: &E,
    shape: &LogShape,
    appended: MessageNumber,
    at: WallTime,
) -> Result<MessageNumber, ReadFailure> {
    let start = shape.row.first_m_id().previous();
    let found = if shape.floor.arrived_by < at { shape.floor.point.mark.m_id } else { start };
    last_before(engine, shape, appended, at, found, |kept| kept.by)
}

/// See [`LogStorage::accepted_before`](crate::LogStorage::accepted_before).
pub(crate) fn accepted_before<E: Engine>(
    engine: &E,
    shape: &LogShape,
    appended: MessageNumber,
    at: WallTime,
) -> Result<MessageNumber, ReadFailure> {
    let floor = shape.floor.point.mark.m_id;
    last_before(engine, shape, appended, at, floor, |kept| kept.accepted_by)
}

/// See [`LogStorage::accepted_by`](crate::LogStorage::accepted_by).
pub(crate) fn accepted_by<E: Engine>(
    engine: &E,
    log: LogNumber,
    m_id: MessageNumber,
) -> Result<Option<WallTime>, ReadFailure> {
    let mut next = None;
    let (lower, upper) = (arrival::key(log, m_id), arrival::end(log));
    engine.scan(Table::Sparse, ScanFrom::LowerBound, &lower, &upper, &mut |key, value| {
        next = Some(arrival::decode(key, value));
        ControlFlow::Break(())
    })?;
    Ok(next.transpose()?.map(|kept| kept.accepted_by))
}

/// See [`LogStorage::missing_from`](crate::LogStorage::missing_from).
pub(crate) fn missing_from(shape: &LogShape, from: MessageNumber) -> Option<Hole> {
    let log = shape.row.log;
    let floor = &shape.floor;
    let from = from.max(shape.row.first_m_id());
    if from <= floor.point.mark.m_id {
        let (mut through, mut stamp) = (floor.point.mark, floor.stamp);
        // A hole that begins right behind the floor is missing with it.
        while let Some(end) = shape.holes.get(&through.m_id.next()) {
            (through, stamp) = (end.point.mark, end.stamp);
        }
        return Some(Hole { log, from, through, stamp });
    }
    let end = shape.hole_around(from)?;
    Some(Hole { log, from, through: end.point.mark, stamp: end.stamp })
}

/// The last message whose kept time is before `at`. Times do not fall along a log,
/// so halving finds it. `found` is the answer when there is none.
///
/// Behind the last kept time there may be more, of which the end is the answer once
/// it has surely arrived: a message is accepted before it arrives.
fn last_before<E: Engine>(
    engine: &E,
    shape: &LogShape,
    appended: MessageNumber,
    at: WallTime,
    mut found: MessageNumber,
    time_of: fn(&arrival::Arrival) -> WallTime,
) -> Result<MessageNumber, ReadFailure> {
    let floor = shape.floor.point.mark.m_id;
    if all_arrived_by(engine, shape, appended)?.is_some_and(|by| by <= at) {
        return Ok(appended);
    }
    // Every kept time up to `low` is early enough, every one above `high` is not.
    let (mut low, mut high) = (floor, appended);
    while low < high {
        let middle = MessageNumber::new(low.get() + (high.since(low)).div_ceil(2));
        match kept_arrival(engine, shape.number, middle)? {
            Some(kept) if kept.m_id > low && time_of(&kept) < at => {
                found = kept.m_id;
                low = middle;
            }
            Some(kept) if kept.m_id > low => high = kept.m_id.previous(),
            _ => low = middle,
        }
    }
    Ok(found)
}

/// By when all of a log up to its end had surely arrived, and longer: one interval after
/// the last kept time another one is kept. `None` where no time is known.
fn all_arrived_by<E: Engine>(
    engine: &E,
    shape: &LogShape,
    appended: MessageNumber,
) -> Result<Option<WallTime>, ReadFailure> {
    // A trim takes the times up to the floor, and leaves its own.
    let kept = kept_arrival(engine, shape.number, appended)?.map(|kept| kept.by);
    let last = kept.unwrap_or_default().max(shape.floor.arrived_by);
    let is_known = last > WallTime::default();
    Ok(is_known.then(|| last.plus_milliseconds(arrival::INTERVAL_MILLISECONDS)))
}
