//! Removing logs whole: those that an opening does not keep, and a namespace that
//! this node has left.

use std::ops::RangeInclusive;

use interlock_core::identity::{MessageNumber, NamespaceNumber};
use interlock_core::projection::namespace_key_ranges;

use crate::contract::ProjectionKind;
use crate::engine::{Engine, EngineError, Table, first_key};
use crate::keys::removal::{self, Removal};
use crate::keys::{
    LogNumber, arrival, chain_point, checkpoint_mark, floor, hole, message_run, projection, row,
    segment_start,
};
use crate::reading::starts_from;

/// Removes everything that has a log's number.
pub(crate) fn delete_log<E: Engine>(
    engine: &E,
    batch: &mut E::Batch,
    number: LogNumber,
) -> Result<(), EngineError> {
    let zero = MessageNumber::ZERO;
    for start in starts_from(engine, number, zero)? {
        let (from, to) = message_run::bounds(start.segment, number);
        engine.delete_range(batch, Table::Log, &from, &to);
    }
    for (from, to) in sparse_ranges(number..=number) {
        engine.delete_range(batch, Table::Sparse, &from, &to);
    }
    engine.delete(batch, Table::Meta, &row::key(number));
    engine.delete(batch, Table::Meta, &floor::key(number));
    engine.delete(batch, Table::Meta, &checkpoint_mark::key(number));
    let (from, to) = (hole::key(number, zero), hole::key(number.next(), zero));
    engine.delete_range(batch, Table::Meta, &from, &to);
    Ok(())
}

/// What is kept beside the messages of logs.
fn sparse_ranges(logs: RangeInclusive<LogNumber>) -> [([u8; 13], [u8; 13]); 3] {
    let (first, last, zero) = (*logs.start(), *logs.end(), MessageNumber::ZERO);
    [
        (segment_start::key(first, zero), segment_start::end(last)),
        (chain_point::key(first, zero), chain_point::end(last)),
        (arrival::key(first, zero), arrival::end(last)),
    ]
}

/// Notes durably what is about to be deleted: these logs, and what an earlier removal of
/// the namespace has not ended.
pub(crate) fn begin<E: Engine>(
    engine: &E,
    namespace: NamespaceNumber,
    logs: &[LogNumber],
) -> Result<Removal, EngineError> {
    let mut segments = Vec::new();
    for log in logs {
        let starts = starts_from(engine, *log, MessageNumber::ZERO)?;
        segments.extend(starts.into_iter().map(|start| start.segment));
    }
    let mut removal = Removal::new(logs.iter().copied(), segments);
    let key = removal::key(namespace);
    if let Some(value) = engine.get(Table::Meta, &key)? {
        removal.add(removal::decode(&value)?);
    }
    if !removal.is_nothing() {
        let mut batch = E::Batch::default();
        engine.put(&mut batch, Table::Meta, &key, &removal::encode(&removal));
        engine.write_durably(batch)?;
    }
    Ok(removal)
}

/// Nothing of it is left in any file.
pub(crate) fn end<E: Engine>(engine: &E, namespace: NamespaceNumber) -> Result<(), EngineError> {
    let mut batch = E::Batch::default();
    engine.delete(&mut batch, Table::Meta, &removal::key(namespace));
    engine.write_durably(batch)
}

/// What the projections have of a namespace, and their positions without its logs.
pub(crate) fn delete_projections<E: Engine>(
    engine: &E,
    namespace: NamespaceNumber,
) -> Result<E::Batch, EngineError> {
    let mut batch = E::Batch::default();
    for (from, to) in projection_ranges(namespace) {
        engine.delete_range(&mut batch, Table::Projections, &from, &to);
    }
    for kind in ProjectionKind::ALL {
        let key = projection::position_key(kind);
        let Some(value) = engine.get(Table::Projections, &key)? else { continue };
        let mut position = projection::decode_position(&value)?;
        position.positions.retain(|(log, _)| log.namespace != namespace);
        let value = projection::encode_position(&position);
        engine.put(&mut batch, Table::Projections, &key, &value);
    }
    Ok(batch)
}

fn projection_ranges(namespace: NamespaceNumber) -> Vec<(Vec<u8>, Vec<u8>)> {
    let ranges = namespace_key_ranges(namespace);
    let of_kind = |kind| {
        ranges.iter().map(move |(from, to)| {
            (projection::entry_key(kind, from), projection::entry_key(kind, to))
        })
    };
    ProjectionKind::ALL.into_iter().flat_map(of_kind).collect()
}

/// Writes the files anew that have any of the messages, of what is kept beside them or of
/// the projections. A segment's file has the messages of all namespaces.
pub(crate) fn erase<E: Engine>(
    engine: &E,
    namespace: NamespaceNumber,
    removal: &Removal,
) -> Result<(), EngineError> {
    if let Some((first, last)) = removal.logs.first().zip(removal.logs.last()) {
        for run in &removal.runs {
            let (from, _) = message_run::bounds(*run.start(), *first);
            let (_, to) = message_run::bounds(*run.end(), *last);
            engine.erase(Table::Log, &from, &to)?;
        }
        for (from, to) in sparse_ranges(*first..=*last) {
            engine.erase(Table::Sparse, &from, &to)?;
        }
    }
    for (from, to) in projection_ranges(namespace) {
        engine.erase(Table::Projections, &from, &to)?;
    }
    Ok(())
}

/// A key of the removed that is still there, which none may be.
pub(crate) fn what_is_left<E: Engine>(
    engine: &E,
    namespace: NamespaceNumber,
    removal: &Removal,
) -> Result<Option<String>, EngineError> {
    let first_in = |table: Table, from: &[u8], to: &[u8]| {
        let key = first_key(engine, table, from, to)?;
        let told = key.map(|key| format!("a key of {} bytes in {}", key.len(), table.name()));
        Ok::<_, EngineError>(told)
    };
    for log in &removal.logs {
        if engine.get(Table::Meta, &row::key(*log))?.is_some() {
            return Ok(Some(format!("the row with number {}", log.get())));
        }
        for segment in removal.segments() {
            let (from, to) = message_run::bounds(segment, *log);
            if first_key(engine, Table::Log, &from, &to)?.is_some() {
                return Ok(Some(format!("messages of the log with number {}", log.get())));
            }
        }
        for (from, to) in sparse_ranges(*log..=*log) {
            if let Some(left) = first_in(Table::Sparse, &from, &to)? {
                return Ok(Some(left));
            }
        }
    }
    for (from, to) in projection_ranges(namespace) {
        if let Some(left) = first_in(Table::Projections, &from, &to)? {
            return Ok(Some(left));
        }
    }
    Ok(None)
}
