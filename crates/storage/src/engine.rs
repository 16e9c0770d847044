//! What lies below the log: ordered tables with atomic batches, of which some
//! time later everything before a sync is durable.
//!
//! The logic above is the same for memory and RocksDB, so that the simulation
//! runs what production runs.

use std::ops::ControlFlow;

use bytes::Bytes;
use interlock_core::identity::{LogName, Mark};

use crate::contract::Space;
use crate::keys::Malformed;
use crate::memory::OpeningFlaw;

/// The tables; each is a column family in RocksDB.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Table {
    /// Runs of messages.
    Log,
    /// Rows, floors, holes, openings, documents, checkpoint marks, facts.
    Meta,
    /// Chain hashes and times of arrival.
    Sparse,
    /// Projections with their positions. Written without a write-ahead log.
    Projections,
}

impl Table {
    pub(crate) const ALL: [Self; 4] = [Self::Log, Self::Meta, Self::Sparse, Self::Projections];

    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::Log => "log",
            Self::Meta => "meta",
            Self::Sparse => "sparse",
            Self::Projections => "projections",
        }
    }
}

/// Where a scan begins.
#[derive(Clone, Copy, Debug)]
pub enum ScanFrom<'a> {
    /// At the lower bound.
    LowerBound,
    /// At the last key that is not after this one; at the lower bound if there is
    /// none.
    AtOrBefore(&'a [u8]),
}

/// Why the engine failed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum EngineError {
    /// Stored bytes are not what was written.
    Damaged(String),
    /// Anything else.
    Failed(String),
}

impl EngineError {
    pub(crate) fn into_detail(self) -> String {
        match self {
            Self::Damaged(detail) | Self::Failed(detail) => detail,
        }
    }
}

impl From<Malformed> for EngineError {
    fn from(malformed: Malformed) -> Self {
        Self::Damaged(malformed.to_string())
    }
}

/// Shows a scan's entries to the caller, which answers whether it wants more. It
/// must not call the engine.
pub type Visit<'a> = &'a mut dyn FnMut(&[u8], &[u8]) -> ControlFlow<()>;

/// Ordered tables on one disk.
pub trait Engine: Send + Sync {
    /// Writes collected for one atomic step.
    type Batch: Default + Send;

    fn put(&self, batch: &mut Self::Batch, table: Table, key: &[u8], value: &[u8]);
    fn delete(&self, batch: &mut Self::Batch, table: Table, key: &[u8]);
    fn delete_range(&self, batch: &mut Self::Batch, table: Table, from: &[u8], to: &[u8]);

    /// Applies a batch: visible on return, durable after the next sync.
    fn write(&self, batch: Self::Batch) -> Result<(), EngineError>;

    /// Applies a batch and makes it, and all before it, durable.
    fn write_durably(&self, batch: Self::Batch) -> Result<(), EngineError>;

    /// Applies a batch that becomes durable some time later, in order within its
    /// table. For `Table::Projections` only.
    fn write_without_log(&self, batch: Self::Batch) -> Result<(), EngineError>;

    /// Makes durable what was written before the call, `write_without_log`
    /// excepted.
    fn sync(&self) -> Result<(), EngineError>;

    /// Makes durable what `write_without_log` has written.
    fn flush_projections(&self) -> Result<(), EngineError>;

    /// How much the log table takes before its segment should end.
    fn segment_bytes(&self) -> usize;

    /// A segment of the log table is complete: nothing more is written between its
    /// keys.
    fn end_segment(&self) -> Result<(), EngineError>;

    fn get(&self, table: Table, key: &[u8]) -> Result<Option<Bytes>, EngineError>;

    /// Shows the entries with `lower <= key < upper`, in order.
    fn scan(
        &self,
        table: Table,
        from: ScanFrom<'_>,
        lower: &[u8],
        upper: &[u8],
        visit: Visit<'_>,
    ) -> Result<(), EngineError>;

    /// Like [`scan`](Self::scan), for a reader that comes by once: what it reads takes
    /// no cached block's place.
    fn scan_once(
        &self,
        table: Table,
        from: ScanFrom<'_>,
        lower: &[u8],
        upper: &[u8],
        visit: Visit<'_>,
    ) -> Result<(), EngineError> {
        self.scan(table, from, lower, upper, visit)
    }

    /// The last entry with `lower <= key <= at`.
    fn last_at_or_before(
        &self,
        table: Table,
        lower: &[u8],
        at: &[u8],
    ) -> Result<Option<(Vec<u8>, Bytes)>, EngineError>;

    /// Gives back the disk space of a range whose deletion is durable, as far as
    /// that is cheap.
    fn release(&self, table: Table, from: &[u8], to: &[u8]) -> Result<(), EngineError>;

    /// Has no file keep anything of a range whose deletion is written: for data that
    /// must not be here any more. Takes as long as it takes.
    fn erase(&self, table: Table, from: &[u8], to: &[u8]) -> Result<(), EngineError>;

    /// Replaces the durable marks that are kept beside the tables, durably.
    fn store_durable_marks(&self, marks: &[(LogName, Mark)]) -> Result<(), EngineError>;

    fn space(&self) -> Result<Space, EngineError>;

    /// What is done wrong over this engine, so that what looks for it can be tested:
    /// nothing over any but the one in memory.
    fn flaw(&self) -> Option<OpeningFlaw> {
        None
    }
}

/// The first key of a table at or after a key, and below another.
pub(crate) fn first_key<E: Engine>(
    engine: &E,
    table: Table,
    lower: &[u8],
    upper: &[u8],
) -> Result<Option<Vec<u8>>, EngineError> {
    let mut first = None;
    engine.scan(table, ScanFrom::LowerBound, lower, upper, &mut |key, _| {
        first = Some(key.to_vec());
        ControlFlow::Break(())
    })?;
    Ok(first)
}

/// Shows all entries whose key begins with a prefix; a visitor's error ends it.
pub(crate) fn scan_prefix<E: Engine>(
    engine: &E,
    table: Table,
    prefix: [u8; 1],
    mut visit: impl FnMut(&[u8], &[u8]) -> Result<(), EngineError>,
) -> Result<(), EngineError> {
    let end = [prefix[0] + 1];
    let mut outcome = Ok(());
    engine.scan(table, ScanFrom::LowerBound, &prefix, &end, &mut |key, value| {
        outcome = visit(key, value);
        if outcome.is_ok() { ControlFlow::Continue(()) } else { ControlFlow::Break(()) }
    })?;
    outcome
}
