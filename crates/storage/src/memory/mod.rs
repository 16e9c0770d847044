//! A disk in memory that can crash and forget what was not synced, and a storage
//! on it: what the simulation and most tests run on.

mod crash;
mod disk;
mod engine;
#[cfg(test)]
mod scrubbing_tests;
#[cfg(test)]
mod tests;

use interlock_core::identity::{LogName, Mark};
use std::collections::BTreeMap;

pub use crash::Loss;
pub use disk::MemoryDisk;

use crate::engine::EngineError;
use crate::log_storage::Storage;
use crate::opening::{WalkError, walk};
use crate::opening_outcome::{DamageFinding, OpenError, OpenOptions, Recovery};
use engine::MemoryEngine;

/// The log storage on a [`MemoryDisk`].
pub type MemoryStorage = Storage<MemoryEngine>;

/// What an opening can be made to do wrong.
#[doc(hidden)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OpeningFlaw {
    /// A log is kept though what it goes on from is not held.
    ParentsUnchecked,
    /// What a kill left in the page cache stays there, whatever is synced later.
    SurvivorsUnsynced,
    /// Projections may be stored ahead of what is durable, and nobody looks for it.
    ProjectionsUnchecked,
}

const FOLDER: &str = "a disk in memory";

impl MemoryStorage {
    /// Opens a disk as after a start of the process.
    pub fn open(disk: &MemoryDisk) -> Result<(Self, Recovery), OpenError> {
        Self::open_with(disk, OpenOptions::default())
    }

    /// Opens a disk, accepting loss or not.
    pub fn open_with(
        disk: &MemoryDisk,
        options: OpenOptions,
    ) -> Result<(Self, Recovery), OpenError> {
        Self::open_flawed(disk, options, None)
    }

    /// The same with a flaw, so that what looks for it can be tested.
    #[doc(hidden)]
    pub fn open_flawed(
        disk: &MemoryDisk,
        options: OpenOptions,
        flaw: Option<OpeningFlaw>,
    ) -> Result<(Self, Recovery), OpenError> {
        let engine = MemoryEngine::attach(disk, flaw)
            .ok_or_else(|| OpenError::Locked { folder: FOLDER.to_owned() })?;
        let durable: BTreeMap<LogName, Mark> = disk.durable_marks().into_iter().collect();
        let mut walked = walk(&engine, &durable).map_err(open_error)?;
        if options.accept_loss {
            walked.add_lost_to_cuts(&durable);
        } else if !walked.findings.is_empty() {
            return Err(damaged(walked.findings));
        }
        if flaw == Some(OpeningFlaw::SurvivorsUnsynced) {
            disk.leave_survivors_unsynced();
        }
        walked.settle(&engine).map_err(|error| open_error(error.into()))?;
        let opened = Self::after_walk(engine, walked);
        let (storage, mut recovery) = opened.map_err(|error| open_error(error.into()))?;
        if flaw == Some(OpeningFlaw::ProjectionsUnchecked) {
            recovery.projections_ahead.clear();
        }
        Ok((storage, recovery))
    }
}

fn damaged(findings: Vec<DamageFinding>) -> OpenError {
    OpenError::Damaged { folder: FOLDER.to_owned(), findings }
}

fn open_error(error: WalkError) -> OpenError {
    let folder = FOLDER.to_owned();
    match error {
        WalkError::NewerLayout(found) => {
            let supported = crate::keys::format_version::CURRENT;
            OpenError::NewerLayout { folder, found, supported }
        }
        WalkError::Engine(EngineError::Damaged(detail)) => {
            damaged(vec![DamageFinding::Unreadable { file: folder, detail }])
        }
        WalkError::Engine(EngineError::Failed(detail)) => OpenError::Engine { folder, detail },
    }
}
