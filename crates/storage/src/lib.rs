//! Interlock's append log and projections on one node's disk.
//!
//! [`LogStorage`] is the contract. Two implementations share all of its logic
//! and differ in the engine below: [`MemoryStorage`] on a [`MemoryDisk`] that can
//! crash and forget what was not synced, and `RocksStorage` on RocksDB (feature
//! `rocks`).
//!
//! What is stored, one file per key type, is in `keys`; how a database is opened
//! after a crash is in `opening`.

mod appending;
mod checkpoint;
#[cfg(test)]
mod conformance;
mod contract;
mod cutting;
pub mod departing;
#[cfg(feature = "rocks")]
mod durable_marks;
mod engine;
mod held_logs;
mod keys;
mod log_storage;
mod log_walk;
mod memory;
mod opening;
mod opening_outcome;
mod reading;
#[cfg(feature = "rocks")]
mod recovering;
mod removing;
pub mod retention;
#[cfg(feature = "rocks")]
mod rocks;
mod scrubbing;
pub mod stored_index;
#[cfg(test)]
mod test_logs;
mod trimming;

pub use contract::{
    AppendBatch, LogStorage, ProjectionChanges, ProjectionKind, ProjectionPosition, Space,
    StorageError, StoredMessage, TakenOff, Ticket,
};
#[doc(hidden)]
pub use memory::OpeningFlaw;
pub use memory::{Loss, MemoryDisk, MemoryStorage};
pub use opening_outcome::{
    CutLog, CutReason, DamageFinding, OpenError, OpenOptions, RecoveredLog, Recovery,
};
#[cfg(feature = "rocks")]
pub use rocks::{RocksOptions, RocksStorage};
pub use scrubbing::{ScrubFinding, ScrubPosition, ScrubStep, ScrubbedPlace};

/// Reads an entry of any table, chosen by a number, as what it may be: for fuzzing
/// what reads a disk.
#[doc(hidden)]
pub fn read_any_stored(table: u8, key: &[u8], value: &[u8]) -> bool {
    let tables = engine::Table::ALL;
    keys::stored_entry::read(tables[usize::from(table) % tables.len()], key, value).is_ok()
}
