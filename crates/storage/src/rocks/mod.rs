//! The log storage on RocksDB.
//!
//! ```text
//! data folder
//!   lock            held as long as the storage is open
//!   durable-marks   how far the logs were synced, see `durable_marks`
//!   database/       RocksDB
//!   database.damaged-N   what `interlock node recover` put aside
//! ```

mod data_folder;
mod engine;
mod open;
mod options;
#[cfg(test)]
mod tests;
mod write_ahead_check;

pub use options::RocksOptions;

use crate::log_storage::Storage;
use engine::RocksEngine;

/// The log storage on RocksDB, in a data folder of its own.
pub type RocksStorage = Storage<RocksEngine>;
