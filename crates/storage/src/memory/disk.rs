//! The disk: what is visible, what of it is synced, and the writes between.

use std::collections::BTreeMap;
use std::ops::Bound;
use std::sync::{Arc, Mutex, MutexGuard};

use bytes::Bytes;
use interlock_core::identity::{LogName, Mark, MessageName};

use super::crash::{self, Loss};
use crate::contract::Space;
use crate::engine::{EngineError, Table};
use crate::keys::{message_run, row};

/// A disk in memory. Handles share it; it outlives the storages opened on it.
#[derive(Clone, Debug, Default)]
pub struct MemoryDisk {
    state: Arc<Mutex<DiskState>>,
}

type Entries = BTreeMap<Vec<u8>, Bytes>;

/// The tables of a disk.
#[derive(Clone, Debug, Default)]
pub(super) struct Tables {
    entries: [Entries; Table::ALL.len()],
    /// What all keys and values take.
    bytes: u64,
}

impl Tables {
    pub(super) fn table(&self, table: Table) -> &Entries {
        &self.entries[table as usize]
    }

    pub(super) fn apply(&mut self, operation: &Operation) {
        match operation {
            Operation::Put { table, key, value } => {
                self.remove(*table, key);
                self.bytes += entry_bytes(key, value);
                self.entries[*table as usize].insert(key.clone(), value.clone());
            }
            Operation::Delete { table, key } => self.remove(*table, key),
            Operation::DeleteRange { table, from, to } => {
                if from >= to {
                    return;
                }
                let bounds = (Bound::Included(from), Bound::Excluded(to));
                let found = self.entries[*table as usize].range::<Vec<u8>, _>(bounds);
                let keys: Vec<Vec<u8>> = found.map(|(key, _)| key.clone()).collect();
                for key in keys {
                    self.remove(*table, &key);
                }
            }
        }
    }

    fn remove(&mut self, table: Table, key: &[u8]) {
        if let Some(value) = self.entries[table as usize].remove(key) {
            self.bytes -= entry_bytes(key, &value);
        }
    }
}

fn entry_bytes(key: &[u8], value: &Bytes) -> u64 {
    (key.len() + value.len()) as u64
}

/// One change to one table.
#[derive(Clone, Debug)]
pub enum Operation {
    Put { table: Table, key: Vec<u8>, value: Bytes },
    Delete { table: Table, key: Vec<u8> },
    DeleteRange { table: Table, from: Vec<u8>, to: Vec<u8> },
}

#[derive(Debug, Default)]
pub(super) struct DiskState {
    /// What reads see.
    pub(super) visible: Tables,
    /// What a cut of power leaves for certain.
    pub(super) durable: Tables,
    /// Written and not synced, in order; each is one atomic batch.
    pub(super) unsynced: Vec<Vec<Operation>>,
    /// Written to projections and not flushed.
    pub(super) unflushed: Vec<Vec<Operation>>,
    /// Visible, and never made durable by any sync: an opening's flaw.
    pub(super) lingering: Vec<Vec<Operation>>,
    pub(super) durable_marks: Vec<(LogName, Mark)>,
    /// Rises with each crash and each opening: older handles are dead.
    pub(super) generation: u64,
    pub(super) is_open: bool,
    /// How many writes are taken before one fails; none fails without.
    pub(super) writes_until_failure: Option<usize>,
    /// The same of syncs.
    pub(super) syncs_until_failure: Option<usize>,
}

impl MemoryDisk {
    /// An empty disk.
    pub fn new() -> Self {
        Self::default()
    }

    pub(super) fn state(&self) -> MutexGuard<'_, DiskState> {
        self.state.lock().expect("no holder of this lock panics")
    }

    /// The process dies, and with it what `loss` says; a storage that is still
    /// there fails from now on. `choose(n)` gives a number from 0 to n wherever
    /// something is left to chance.
    pub fn crash(&self, loss: Loss, choose: &mut dyn FnMut(usize) -> usize) {
        let mut state = self.state();
        crash::crash(&mut state, loss, choose);
        state.generation += 1;
        state.is_open = false;
    }

    /// What survived a kill so far is not reached by any sync.
    pub(super) fn leave_survivors_unsynced(&self) {
        let mut state = self.state();
        let survivors = std::mem::take(&mut state.unsynced);
        state.lingering.extend(survivors);
    }

    /// A copy of what is on the disk now, as copying the data folder of a stopped
    /// node makes one. [`restore`](Self::restore) puts it back.
    pub fn copy(&self) -> Self {
        let state = self.state();
        let copy = DiskState {
            visible: state.visible.clone(),
            durable: state.visible.clone(),
            durable_marks: state.durable_marks.clone(),
            ..DiskState::default()
        };
        Self { state: Arc::new(Mutex::new(copy)) }
    }

    /// Replaces everything on this disk by a copy made earlier. A storage that is
    /// still there fails from now on.
    pub fn restore(&self, copy: &Self) {
        let copy = copy.copy();
        let mut restored = std::mem::take(&mut *copy.state());
        let mut state = self.state();
        restored.generation = state.generation + 1;
        *state = restored;
    }

    /// Empties the disk. A storage that is still there fails from now on.
    pub fn wipe(&self) {
        self.restore(&Self::new());
    }

    /// Damages synced data: the messages of one log from one on are gone from the
    /// disk, and the durable marks still name them.
    pub fn lose_synced(&self, from: &MessageName) {
        let mut state = self.state();
        let number = state.visible.table(Table::Meta).iter().find_map(|(key, value)| {
            let number = row::decode_key(key).ok()?;
            (row::decode(value).ok()?.log == from.log).then_some(number)
        });
        let Some(number) = number else { return };
        let is_lost = |key: &&Vec<u8>| {
            let decoded = message_run::decode_key(key);
            decoded.is_ok_and(|(_, log, first)| log == number && first >= from.m_id)
        };
        let lost: Vec<Vec<u8>> =
            state.visible.table(Table::Log).keys().filter(is_lost).cloned().collect();
        for key in lost {
            let operation = Operation::Delete { table: Table::Log, key };
            state.visible.apply(&operation);
            state.durable.apply(&operation);
        }
    }

    /// The next write fails, and may have been stored or not.
    pub fn fail_next_write(&self) {
        self.fail_write_after(0);
    }

    /// The same of the write that comes after so many.
    pub(crate) fn fail_write_after(&self, writes: usize) {
        self.state().writes_until_failure = Some(writes);
    }

    /// The next sync fails.
    pub fn fail_next_sync(&self) {
        self.fail_sync_after(0);
    }

    /// The sync that comes after so many fails.
    pub(crate) fn fail_sync_after(&self, syncs: usize) {
        self.state().syncs_until_failure = Some(syncs);
    }

    /// The marks that are kept beside the database.
    pub fn durable_marks(&self) -> Vec<(LogName, Mark)> {
        self.state().durable_marks.clone()
    }

    /// How many writes a cut of power may take.
    pub fn unsynced_writes(&self) -> usize {
        self.state().unsynced.len()
    }
}

impl DiskState {
    /// Counts a write, which may be the one to fail.
    pub(super) fn count_write(&mut self) -> Result<(), EngineError> {
        count_down(&mut self.writes_until_failure, "the write failed")
    }

    /// Counts a sync, which may be the one to fail.
    pub(super) fn count_sync(&mut self) -> Result<(), EngineError> {
        count_down(&mut self.syncs_until_failure, "the sync failed")
    }

    pub(super) fn space(&self) -> Space {
        Space { free_bytes: u64::MAX, used_bytes: self.visible.bytes }
    }
}

fn count_down(until_failure: &mut Option<usize>, failure: &str) -> Result<(), EngineError> {
    match until_failure.take() {
        Some(0) => Err(EngineError::Failed(failure.to_owned())),
        left => {
            *until_failure = left.map(|left| left - 1);
            Ok(())
        }
    }
}
