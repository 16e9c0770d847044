//! What a crash takes.

use std::collections::BTreeMap;

use super::disk::{DiskState, Operation};
use crate::engine::Table;
use crate::keys::{LogNumber, message_run, row, sparse_log_number};

/// What a crash takes of the writes that were not synced.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Loss {
    /// Nothing: the process was killed, the machine lives.
    Nothing,
    /// All of them: the power was cut, and the page cache was all there was.
    Unsynced,
    /// Everything after some write.
    Suffix,
    /// Of each log its own suffix, rows and what is kept beside included: files
    /// that reached the disk to different lengths.
    SuffixPerLog,
    /// A run of writes in the middle: the tail of one write-ahead file is lost,
    /// and the next file kept.
    MiddleRun,
}

/// Takes from a disk what is lost. What survives a cut of power is on the disk for
/// good; what survives a kill is in the page cache still, and the next cut takes
/// it unless the opening has made it durable.
pub(super) fn crash(state: &mut DiskState, loss: Loss, choose: &mut dyn FnMut(usize) -> usize) {
    let mut unsynced = std::mem::take(&mut state.lingering);
    unsynced.append(&mut state.unsynced);
    let count = unsynced.len();
    let mut in_page_cache = Vec::new();
    let kept: Vec<Vec<Operation>> = match loss {
        Loss::Nothing => {
            in_page_cache = unsynced;
            Vec::new()
        }
        Loss::Unsynced => Vec::new(),
        Loss::Suffix => {
            let kept = choose(count).min(count);
            unsynced.into_iter().take(kept).collect()
        }
        Loss::SuffixPerLog => vec![suffix_per_log(unsynced, choose)],
        Loss::MiddleRun => {
            let from = choose(count).min(count);
            let lost = choose(count - from).min(count - from);
            let kept = unsynced.into_iter().enumerate();
            let kept = kept.filter(|(index, _)| *index < from || *index >= from + lost);
            kept.map(|(_, write)| write).collect()
        }
    };
    // Projections have no write-ahead log: even a kill takes what is in memory.
    let unflushed = std::mem::take(&mut state.unflushed);
    let flushed = match loss {
        Loss::Unsynced => 0,
        _ => choose(unflushed.len()).min(unflushed.len()),
    };
    for operation in kept.iter().chain(&unflushed[..flushed]).flatten() {
        state.durable.apply(operation);
    }
    state.visible = state.durable.clone();
    for operation in in_page_cache.iter().flatten() {
        state.visible.apply(operation);
    }
    state.unsynced = in_page_cache;
}

/// Splits writes into those of each log and keeps a prefix of each.
fn suffix_per_log(
    writes: Vec<Vec<Operation>>,
    choose: &mut dyn FnMut(usize) -> usize,
) -> Vec<Operation> {
    let mut counts: BTreeMap<Option<LogNumber>, usize> = BTreeMap::new();
    for operation in writes.iter().flatten() {
        *counts.entry(log_of(operation)).or_default() += 1;
    }
    let mut left: BTreeMap<Option<LogNumber>, usize> =
        counts.into_iter().map(|(log, count)| (log, choose(count).min(count))).collect();
    let mut kept = Vec::new();
    for operation in writes.into_iter().flatten() {
        let left = left.get_mut(&log_of(&operation)).expect("every operation was counted");
        if *left > 0 {
            *left -= 1;
            kept.push(operation);
        }
    }
    kept
}

fn log_of(operation: &Operation) -> Option<LogNumber> {
    let Operation::Put { table, key, .. } = operation else { return None };
    match table {
        Table::Log => message_run::decode_key(key).ok().map(|(_, number, _)| number),
        Table::Meta => row::decode_key(key).ok(),
        Table::Sparse => sparse_log_number(key).ok(),
        Table::Projections => None,
    }
}
