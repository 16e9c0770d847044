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
#[cfg(test)]
mod conformance;
mod contract;
#[cfg(feature = "rocks")]
mod durable_marks;
mod engine;
mod held_logs;
mod keys;
mod log_storage;
mod log_walk;
mod memory;
mod opening;
mod reading;
#[cfg(feature = "rocks")]
mod recovering;
#[cfg(feature = "rocks")]
mod rocks;
#[cfg(test)]
mod test_logs;
mod trimming;

pub use contract::{
    AppendBatch, CutLog, CutReason, DamageFinding, LogStorage, OpenError, OpenOptions,
    ProjectionChanges, ProjectionKind, ProjectionPosition, RecoveredLog, Recovery, Space,
    StorageError, StoredMessage, Ticket,
};
pub use memory::{Loss, MemoryDisk, MemoryStorage};
#[cfg(feature = "rocks")]
pub use rocks::{RocksOptions, RocksStorage};

/// Reads an entry of any table, chosen by a number, as what it may be: for fuzzing
/// what reads a disk.
#[doc(hidden)]
pub fn read_any_stored(table: u8, key: &[u8], value: &[u8]) -> bool {
    let tables = engine::Table::ALL;
    keys::stored_entry::read(tables[usize::from(table) % tables.len()], key, value).is_ok()
}
