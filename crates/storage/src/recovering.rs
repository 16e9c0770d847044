//! Copying what an opening that accepts loss kept of a damaged database into a
//! new one. The damaged one is left as it is.

use std::ops::ControlFlow;

use interlock_core::identity::MessageNumber;

use crate::engine::{Engine, EngineError, ScanFrom, Table};
use crate::keys::message_run::{self, Messages};
use crate::keys::{
    arrival, chain_point, checkpoint_mark, floor, format_version, hole, meta_tag, next_log_number,
    row, segment_start,
};
use crate::log_walk::WalkedLog;
use crate::opening::Walked;
use crate::reading::starts_from;

/// What is collected before it is written.
const BATCH_BYTES: usize = 1024 * 1024;

/// Copies everything that the walk kept. Durable on return.
pub(crate) fn copy_kept<S: Engine, T: Engine>(
    source: &S,
    walked: &Walked,
    target: &T,
) -> Result<(), EngineError> {
    let mut copy = Copy { target, batch: T::Batch::default(), bytes: 0 };
    let version = format_version::encode(format_version::CURRENT);
    copy.put(Table::Meta, &format_version::KEY, &version)?;
    let next = next_log_number::encode(walked.next_number);
    copy.put(Table::Meta, &next_log_number::KEY, &next)?;
    let kept = [meta_tag::OPENING, meta_tag::DOCUMENT, meta_tag::FACT, meta_tag::RETIRED_OPENINGS];
    for tag in kept {
        copy.range(source, Table::Meta, &[tag], &[tag + 1])?;
    }
    for log in walked.logs.values() {
        copy.log(source, log)?;
    }
    match copy.range(source, Table::Projections, &[], &[u8::MAX]) {
        // They are built again.
        Err(EngineError::Damaged(_)) => copy.clear_projections(),
        copied => copied,
    }?;
    copy.write()?;
    target.flush_projections()?;
    target.sync()
}

struct Copy<'a, T: Engine> {
    target: &'a T,
    batch: T::Batch,
    bytes: usize,
}

impl<T: Engine> Copy<'_, T> {
    fn put(&mut self, table: Table, key: &[u8], value: &[u8]) -> Result<(), EngineError> {
        self.target.put(&mut self.batch, table, key, value);
        self.bytes += key.len() + value.len();
        if self.bytes < BATCH_BYTES { Ok(()) } else { self.write() }
    }

    fn write(&mut self) -> Result<(), EngineError> {
        self.bytes = 0;
        self.target.write(std::mem::take(&mut self.batch))
    }

    fn range<S: Engine>(
        &mut self,
        source: &S,
        table: Table,
        from: &[u8],
        to: &[u8],
    ) -> Result<(), EngineError> {
        let mut outcome = Ok(());
        source.scan(table, ScanFrom::LowerBound, from, to, &mut |key, value| {
            outcome = self.put(table, key, value);
            if outcome.is_ok() { ControlFlow::Continue(()) } else { ControlFlow::Break(()) }
        })?;
        outcome
    }

    fn log<S: Engine>(&mut self, source: &S, log: &WalkedLog) -> Result<(), EngineError> {
        let shape = &log.shape;
        let (number, last) = (shape.number, log.point.mark.m_id);
        let first = shape.floor.point.mark.m_id.next();
        self.put(Table::Meta, &row::key(number), &row::encode(&shape.row))?;
        let mark = checkpoint_mark::encode(&log.point);
        self.put(Table::Meta, &checkpoint_mark::key(number), &mark)?;
        if first > shape.row.first_m_id() {
            self.put(Table::Meta, &floor::key(number), &floor::encode(&shape.floor))?;
        }
        for (from, end) in shape.holes.range(..=last) {
            self.put(Table::Meta, &hole::key(number, *from), &hole::encode(end))?;
        }
        let (from, to) = (chain_point::key(number, first), chain_point::key(number, last.next()));
        self.range(source, Table::Sparse, &from, &to)?;
        for point in log.missing_points.iter().filter(|point| point.mark.m_id <= last) {
            let key = chain_point::key(number, point.mark.m_id);
            self.put(Table::Sparse, &key, &chain_point::encode(point))?;
        }
        let (from, to) = (arrival::key(number, first), arrival::key(number, last.next()));
        self.range(source, Table::Sparse, &from, &to)?;

        let starts = starts_from(source, number, MessageNumber::ZERO)?;
        for start in starts.into_iter().filter(|start| start.first <= last) {
            let key = segment_start::key(number, start.first);
            self.put(Table::Sparse, &key, &segment_start::encode(start.segment))?;
            let (lower, _) = message_run::bounds(start.segment, number);
            let upper = message_run::key(start.segment, number, last.next());
            let mut outcome = Ok(());
            source.scan(Table::Log, ScanFrom::LowerBound, &lower, &upper, &mut |key, value| {
                outcome = self.run(key, value, log);
                if outcome.is_ok() { ControlFlow::Continue(()) } else { ControlFlow::Break(()) }
            })?;
            outcome?;
        }
        Ok(())
    }

    /// One run, without the messages that the walk did not keep.
    fn run(&mut self, key: &[u8], value: &[u8], log: &WalkedLog) -> Result<(), EngineError> {
        let mut kept = Vec::with_capacity(value.len());
        for message in Messages::of(key, value)? {
            let (m_id, bytes) = message?;
            if m_id <= log.point.mark.m_id {
                message_run::push(&mut kept, bytes);
            }
        }
        self.put(Table::Log, key, &kept)
    }

    fn clear_projections(&mut self) -> Result<(), EngineError> {
        self.target.delete_range(&mut self.batch, Table::Projections, &[], &[u8::MAX]);
        self.write()
    }
}
