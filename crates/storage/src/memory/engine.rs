//! The engine over a [`MemoryDisk`].

use std::ops::{Bound, ControlFlow};
use std::sync::MutexGuard;

use bytes::Bytes;
use interlock_core::identity::{LogName, Mark};

use super::OpeningFlaw;
use super::disk::{DiskState, MemoryDisk, Operation};
use crate::contract::Space;
use crate::engine::{Engine, EngineError, ScanFrom, Table, Visit};

/// A handle on a [`MemoryDisk`]: one at a time, dead after a crash.
#[derive(Debug)]
pub struct MemoryEngine {
    disk: MemoryDisk,
    generation: u64,
    flaw: Option<OpeningFlaw>,
}

impl MemoryEngine {
    /// Takes the disk; `None` while another handle has it.
    pub(super) fn attach(disk: &MemoryDisk, flaw: Option<OpeningFlaw>) -> Option<Self> {
        let mut state = disk.state();
        if state.is_open {
            return None;
        }
        state.is_open = true;
        state.generation += 1;
        Some(Self { disk: disk.clone(), generation: state.generation, flaw })
    }

    fn state(&self) -> Result<MutexGuard<'_, DiskState>, EngineError> {
        let state = self.disk.state();
        if state.generation == self.generation {
            Ok(state)
        } else {
            Err(EngineError::Failed("the disk was taken away".to_owned()))
        }
    }

    fn write_to(&self, batch: Vec<Operation>, is_logged: bool) -> Result<(), EngineError> {
        let mut state = self.state()?;
        for operation in &batch {
            state.visible.apply(operation);
        }
        if is_logged {
            state.unsynced.push(batch)
        } else {
            state.unflushed.push(batch)
        }
        state.count_write()
    }
}

impl Drop for MemoryEngine {
    fn drop(&mut self) {
        if let Ok(mut state) = self.state() {
            state.is_open = false;
        }
    }
}

impl Engine for MemoryEngine {
    type Batch = Vec<Operation>;

    fn put(&self, batch: &mut Self::Batch, table: Table, key: &[u8], value: &[u8]) {
        let value = Bytes::copy_from_slice(value);
        batch.push(Operation::Put { table, key: key.to_vec(), value });
    }

    fn delete(&self, batch: &mut Self::Batch, table: Table, key: &[u8]) {
        batch.push(Operation::Delete { table, key: key.to_vec() });
    }

    fn delete_range(&self, batch: &mut Self::Batch, table: Table, from: &[u8], to: &[u8]) {
        batch.push(Operation::DeleteRange { table, from: from.to_vec(), to: to.to_vec() });
    }

    fn write(&self, batch: Self::Batch) -> Result<(), EngineError> {
        self.write_to(batch, true)
    }

    fn write_durably(&self, batch: Self::Batch) -> Result<(), EngineError> {
        self.write_to(batch, true)?;
        self.sync()
    }

    fn write_without_log(&self, batch: Self::Batch) -> Result<(), EngineError> {
        self.write_to(batch, false)
    }

    fn sync(&self) -> Result<(), EngineError> {
        let mut state = self.state()?;
        state.count_sync()?;
        for operation in std::mem::take(&mut state.unsynced).iter().flatten() {
            state.durable.apply(operation);
        }
        Ok(())
    }

    fn flush_projections(&self) -> Result<(), EngineError> {
        let mut state = self.state()?;
        for operation in std::mem::take(&mut state.unflushed).iter().flatten() {
            state.durable.apply(operation);
        }
        Ok(())
    }

    fn segment_bytes(&self) -> usize {
        // Small, so that tests and the simulation see many.
        32 * 1024
    }

    fn end_segment(&self) -> Result<(), EngineError> {
        self.state().map(|_| ())
    }

    fn get(&self, table: Table, key: &[u8]) -> Result<Option<Bytes>, EngineError> {
        Ok(self.state()?.visible.table(table).get(key).cloned())
    }

    fn scan(
        &self,
        table: Table,
        from: ScanFrom<'_>,
        lower: &[u8],
        upper: &[u8],
        visit: Visit<'_>,
    ) -> Result<(), EngineError> {
        if lower >= upper {
            return Ok(());
        }
        let state = self.state()?;
        let entries = state.visible.table(table);
        let begin = match from {
            ScanFrom::AtOrBefore(at) if at >= lower => {
                let before = (Bound::Included(lower), Bound::Included(at));
                entries.range::<[u8], _>(before).next_back().map_or(lower, |(key, _)| key)
            }
            _ => lower,
        };
        let bounds = (Bound::Included(begin), Bound::Excluded(upper));
        for (key, value) in entries.range::<[u8], _>(bounds) {
            if visit(key, value) == ControlFlow::Break(()) {
                break;
            }
        }
        Ok(())
    }

    fn last_at_or_before(
        &self,
        table: Table,
        lower: &[u8],
        at: &[u8],
    ) -> Result<Option<(Vec<u8>, Bytes)>, EngineError> {
        if lower > at {
            return Ok(None);
        }
        let state = self.state()?;
        let bounds = (Bound::Included(lower), Bound::Included(at));
        let last = state.visible.table(table).range::<[u8], _>(bounds).next_back();
        Ok(last.map(|(key, value)| (key.clone(), value.clone())))
    }

    fn release(&self, _: Table, _: &[u8], _: &[u8]) -> Result<(), EngineError> {
        self.state().map(|_| ())
    }

    fn erase(&self, _: Table, _: &[u8], _: &[u8]) -> Result<(), EngineError> {
        self.state().map(|_| ())
    }

    fn store_durable_marks(&self, marks: &[(LogName, Mark)]) -> Result<(), EngineError> {
        let mut state = self.state()?;
        state.count_write()?;
        state.durable_marks = marks.to_vec();
        Ok(())
    }

    fn space(&self) -> Result<Space, EngineError> {
        Ok(self.state()?.space())
    }

    fn flaw(&self) -> Option<OpeningFlaw> {
        self.flaw
    }
}
