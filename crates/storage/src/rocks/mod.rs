//! The log storage on RocksDB.
//!
//! ```text
//! data folder
//!   lock            held as long as the storage is open
//!   durable-marks   how far the logs were synced, see `durable_marks`
//!   database/       RocksDB, complete from the moment it has this name
//!   database.new/        a first start that is not complete yet
//!   database.recovered/  what is built of a damaged database
//!   database.damaged-N/  the damaged one, put aside
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
