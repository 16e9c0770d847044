//! Trimming a log from the front: one write with the new floor.

use interlock_core::clock::WallTime;
use interlock_core::identity::{Mark, MessageNumber};
use interlock_core::message::MessageHead;

use crate::engine::{Engine, EngineError, ScanFrom, Table};
use crate::held_logs::{LogShape, Tail};
use crate::keys::floor::{self, Floor};
use crate::keys::segment_start::{self, SegmentStart};
use crate::keys::{LogNumber, SegmentNumber, arrival, chain_point, hole, message_run};
use crate::reading::{ReadFailure, chain_point_at, kept_arrival, starts_from, visit_messages};

/// A trim that is decided and not yet written.
#[derive(Debug)]
pub(crate) struct Trim {
    number: LogNumber,
    floor: Floor,
    /// The old floor's number: nothing is kept beside the messages up to it.
    above: MessageNumber,
    /// Segments whose messages of this log are all trimmed. What is trimmed of
    /// others goes with the rest of them.
    segments: Vec<SegmentStart>,
    /// The first segment with messages of this log that stay.
    oldest: Option<SegmentNumber>,
    /// Holes that lie below the new floor.
    holes: Vec<MessageNumber>,
}

/// Decides a trim; `None` where the floor is there already. `written` is the
/// segment that is written.
pub(crate) fn plan<E: Engine>(
    engine: &E,
    shape: &LogShape,
    appended: &Tail,
    written: SegmentNumber,
    through: MessageNumber,
) -> Result<Option<Trim>, ReadFailure> {
    // A floor inside a hole, or just before one, is at the hole's end.
    let mut through = through;
    while let Some(end) = shape.hole_around(through).filter(|end| end.point.mark.m_id != through) {
        through = end.point.mark.m_id;
    }
    while let Some(end) = shape.holes.get(&through.next()) {
        through = end.point.mark.m_id;
    }
    let above = shape.floor.point.mark.m_id;
    if through <= above {
        return Ok(None);
    }
    let point = chain_point_at(engine, shape, &appended.point, through)?
        .ok_or(ReadFailure::Missing(through))?;
    let floor = Floor {
        point,
        stamp: stamp_at(engine, shape, through)?,
        arrived_by: arrived_by(engine, shape.number, appended, through)?,
    };
    let mut segments = starts_from(engine, shape.number, MessageNumber::ZERO)?;
    // A segment stays that has messages above the floor, or may still get some.
    let last = segments.len().saturating_sub(1);
    let ends_at = |index: usize| match segments.get(index + 1) {
        Some(next) => next.first.previous(),
        None => appended.point.mark.m_id,
    };
    let stays = |index: usize| {
        ends_at(index) > through || (index == last && segments[index].segment == written)
    };
    let kept = (0..segments.len()).find(|index| stays(*index));
    let oldest = kept.map(|index| segments[index].segment);
    segments.truncate(kept.unwrap_or(segments.len()));
    let holes = shape.holes.range(..=through).map(|(from, _)| *from).collect();
    Ok(Some(Trim { number: shape.number, floor, above, segments, oldest, holes }))
}

impl Trim {
    pub(crate) const fn floor_mark(&self) -> Mark {
        self.floor.point.mark
    }

    pub(crate) const fn oldest_segment(&self) -> Option<SegmentNumber> {
        self.oldest
    }

    /// The deletions and the new floor, as one write.
    pub(crate) fn batch<E: Engine>(&self, engine: &E) -> E::Batch {
        let mut batch = E::Batch::default();
        let number = self.number;
        engine.put(&mut batch, Table::Meta, &floor::key(number), &floor::encode(&self.floor));
        for from in &self.holes {
            engine.delete(&mut batch, Table::Meta, &hole::key(number, *from));
        }
        for start in &self.segments {
            let (from, to) = message_run::bounds(start.segment, number);
            engine.delete_range(&mut batch, Table::Log, &from, &to);
        }
        if let Some(last) = self.segments.last() {
            let from = segment_start::key(number, MessageNumber::ZERO);
            let to = segment_start::key(number, last.first.next());
            engine.delete_range(&mut batch, Table::Sparse, &from, &to);
        }
        let (first, last) = (self.above.next(), self.floor_mark().m_id);
        let (from, to) = (chain_point::key(number, first), chain_point::key(number, last));
        engine.delete_range(&mut batch, Table::Sparse, &from, &to);
        let (from, to) = (arrival::key(number, first), arrival::key(number, last.next()));
        engine.delete_range(&mut batch, Table::Sparse, &from, &to);
        batch
    }

    pub(crate) fn apply(&self, shape: &mut LogShape) {
        shape.floor = self.floor;
        for from in &self.holes {
            shape.holes.remove(from);
        }
    }
}

/// Gives back the files of the segments before the first that any log needs. The
/// trims that made them free are durable.
pub(crate) fn release<E: Engine>(engine: &E, needed: SegmentNumber) -> Result<(), EngineError> {
    let from = message_run::segment_begin(SegmentNumber::ZERO);
    engine.release(Table::Log, &from, &message_run::segment_begin(needed))
}

fn stamp_at<E: Engine>(
    engine: &E,
    shape: &LogShape,
    m_id: MessageNumber,
) -> Result<interlock_core::clock::HybridTime, ReadFailure> {
    if let Some(end) = shape.hole_around(m_id) {
        return Ok(end.stamp);
    }
    let mut stamp = Err(ReadFailure::Missing(m_id));
    visit_messages(engine, shape.number, m_id, m_id, |_, bytes| {
        stamp = MessageHead::decode(bytes)
            .map(|head| head.stamp)
            .map_err(|error| EngineError::Damaged(error.to_string()).into());
        std::ops::ControlFlow::Break(())
    })?;
    stamp
}

/// By when a message had surely arrived: the next kept time.
fn arrived_by<E: Engine>(
    engine: &E,
    log: LogNumber,
    appended: &Tail,
    m_id: MessageNumber,
) -> Result<WallTime, ReadFailure> {
    let mut next = None;
    let (lower, upper) = (arrival::key(log, m_id), arrival::end(log));
    engine.scan(Table::Sparse, ScanFrom::LowerBound, &lower, &upper, &mut |key, value| {
        next = Some(arrival::decode(key, value));
        std::ops::ControlFlow::Break(())
    })?;
    if let Some(next) = next.transpose()? {
        return Ok(next.by);
    }
    // After the last kept time: at most one interval younger than it.
    let last = match appended.arrival {
        Some(last) => Some(last),
        None => kept_arrival(engine, log, m_id)?,
    };
    let by = last.map_or(WallTime::new(u64::MAX), |last| last.by);
    Ok(by.plus_milliseconds(arrival::INTERVAL_MILLISECONDS))
}
