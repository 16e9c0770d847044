//! Trimming a log from the front: one write with the new floor.

use interlock_core::clock::WallTime;
use interlock_core::identity::{Mark, MessageNumber};
use interlock_core::message::MessageHead;

use crate::engine::{Engine, EngineError, ScanFrom, Table};
use crate::held_logs::{LogShape, Tail};
use crate::keys::floor::{self, Floor};
use crate::keys::{LogNumber, arrival, chain_point, hole, message_run};
use crate::reading::{ReadFailure, chain_point_at, kept_arrival, visit_messages};

/// A trim that is decided and not yet written.
#[derive(Debug)]
pub(crate) struct Trim {
    number: LogNumber,
    floor: Floor,
    /// The old floor's number: nothing is stored up to it.
    above: MessageNumber,
    /// The first message of the run that the first kept message is in, or the
    /// first after the floor: runs before it are deleted.
    keep_runs_from: MessageNumber,
    /// Holes that lie below the new floor.
    holes: Vec<MessageNumber>,
}

/// Decides a trim; `None` where the floor is there already.
pub(crate) fn plan<E: Engine>(
    engine: &E,
    shape: &LogShape,
    appended: &Tail,
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
    let keep_runs_from = first_kept_run(engine, shape.number, through.next())?;
    let holes = shape.holes.range(..=through).map(|(from, _)| *from).collect();
    Ok(Some(Trim { number: shape.number, floor, above, keep_runs_from, holes }))
}

impl Trim {
    pub(crate) const fn floor_mark(&self) -> Mark {
        self.floor.point.mark
    }

    /// The deletions and the new floor, as one write.
    pub(crate) fn batch<E: Engine>(&self, engine: &E) -> E::Batch {
        let mut batch = E::Batch::default();
        let key = floor::key(self.number);
        engine.put(&mut batch, Table::Meta, &key, &floor::encode(&self.floor));
        for from in &self.holes {
            engine.delete(&mut batch, Table::Meta, &hole::key(self.number, *from));
        }
        let (from, to) = self.runs();
        engine.delete_range(&mut batch, Table::Log, &from, &to);
        let (first, last) = (self.above.next(), self.floor_mark().m_id);
        let (from, to) =
            (chain_point::key(self.number, first), chain_point::key(self.number, last));
        engine.delete_range(&mut batch, Table::Sparse, &from, &to);
        let (from, to) = (arrival::key(self.number, first), arrival::key(self.number, last.next()));
        engine.delete_range(&mut batch, Table::Sparse, &from, &to);
        batch
    }

    pub(crate) fn apply(&self, shape: &mut LogShape) {
        shape.floor = self.floor;
        for from in &self.holes {
            shape.holes.remove(from);
        }
    }

    pub(crate) fn release<E: Engine>(&self, engine: &E) -> Result<(), EngineError> {
        let (from, to) = self.runs();
        engine.release(Table::Log, &from, &to)
    }

    /// From the log's beginning: what an earlier trim left of a run goes now.
    fn runs(&self) -> ([u8; 12], [u8; 12]) {
        let from = message_run::key(self.number, MessageNumber::ZERO);
        (from, message_run::key(self.number, self.keep_runs_from))
    }
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

/// Where the run begins that holds a message; the message itself if none does.
fn first_kept_run<E: Engine>(
    engine: &E,
    log: LogNumber,
    first_kept: MessageNumber,
) -> Result<MessageNumber, ReadFailure> {
    let lower = message_run::key(log, MessageNumber::ZERO);
    let at = message_run::key(log, first_kept);
    let Some((key, value)) = engine.last_at_or_before(Table::Log, &lower, &at)? else {
        return Ok(first_kept);
    };
    let (_, first) = message_run::decode_key(&key)?;
    let messages = message_run::Messages::of(&key, &value)?.count() as u64;
    let reaches = first.get() + messages > first_kept.get();
    Ok(if reaches { first } else { first_kept })
}
