//! How RocksDB is set up, and why.

use rocksdb::{
    BlockBasedOptions, Cache, ColumnFamilyDescriptor, DBCompressionType, DBRecoveryMode, Options,
    WriteBufferManager,
};

use crate::engine::Table;
use crate::opening_outcome::OpenOptions;

const MEBIBYTE: usize = 1024 * 1024;

/// What of RocksDB can be chosen. The defaults suit a node with a few hundred MiB.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RocksOptions {
    /// How to open.
    pub open: OpenOptions,
    /// Memory for writes that are not yet in files, over all tables.
    pub write_buffer_bytes: usize,
    /// Memory for blocks of files, their indexes included.
    pub block_cache_bytes: usize,
    /// Write-ahead files together: what an opening replays at most. A table that
    /// is seldom written keeps them all until it is flushed at this size.
    pub max_write_ahead_bytes: u64,
    /// File handles.
    pub max_open_files: i32,
}

impl Default for RocksOptions {
    fn default() -> Self {
        Self {
            open: OpenOptions::default(),
            write_buffer_bytes: 96 * MEBIBYTE,
            block_cache_bytes: 64 * MEBIBYTE,
            max_write_ahead_bytes: 192 * MEBIBYTE as u64,
            max_open_files: 1024,
        }
    }
}

/// How the write-ahead files are replayed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Replay {
    /// Up to the first damage: an honest cut of power ends in one.
    PointInTime,
    /// Everything that can be read: for an opening that accepts loss.
    Salvage,
}

impl RocksOptions {
    pub(super) fn database(&self, replay: Replay) -> Options {
        let mut options = Options::default();
        options.set_wal_recovery_mode(match replay {
            Replay::PointInTime => DBRecoveryMode::PointInTime,
            Replay::Salvage => DBRecoveryMode::SkipAnyCorruptedRecord,
        });
        // A recycled file has old records behind the new ones, which point-in-time
        // recovery cannot tell apart from damage.
        options.set_recycle_log_file_num(0);
        // A synced file that is missing or short is found at opening.
        options.set_track_and_verify_wals_in_manifest(replay == Replay::PointInTime);
        options.set_max_total_wal_size(self.max_write_ahead_bytes);
        let buffers = WriteBufferManager::new_write_buffer_manager(self.write_buffer_bytes, false);
        options.set_write_buffer_manager(&buffers);
        options.set_max_open_files(self.max_open_files);
        options.set_max_background_jobs(2);
        // Files reach the disk as they are written, not in one burst at their end.
        options.set_bytes_per_sync(MEBIBYTE as u64);
        options.set_keep_log_file_num(4);
        options.set_max_log_file_size(4 * MEBIBYTE);
        options.set_paranoid_checks(replay == Replay::PointInTime);
        options
    }

    pub(super) fn tables(&self, tables: &[Table]) -> Vec<ColumnFamilyDescriptor> {
        let cache = Cache::new_lru_cache(self.block_cache_bytes);
        tables
            .iter()
            .map(|table| ColumnFamilyDescriptor::new(table.name(), self.table(*table, &cache)))
            .collect()
    }

    /// A little less than a buffer, so that the segment ends before it is full.
    pub(super) const fn segment_bytes(&self) -> usize {
        self.log_buffer_bytes() / 4 * 3
    }

    const fn log_buffer_bytes(&self) -> usize {
        self.write_buffer_bytes / 2
    }

    fn table(&self, table: Table, cache: &Cache) -> Options {
        let mut blocks = BlockBasedOptions::default();
        blocks.set_block_cache(cache);
        blocks.set_cache_index_and_filter_blocks(true);
        blocks.set_pin_l0_filter_and_index_blocks_in_cache(true);
        // Logs are read in long ranges, the other tables by single keys.
        blocks.set_block_size(if table == Table::Log { 32 * 1024 } else { 4 * 1024 });

        let mut options = Options::default();
        options.set_block_based_table_factory(&blocks);
        options.set_write_buffer_size(match table {
            Table::Log => self.log_buffer_bytes(),
            _ => self.write_buffer_bytes / 12,
        });
        options.set_max_write_buffer_number(4);
        options.set_target_file_size_base(64 * MEBIBYTE as u64);
        options.set_max_bytes_for_level_base(512 * MEBIBYTE as u64);
        // What was just written is read and moved soon: compressed below only.
        options.set_compression_per_level(&[
            DBCompressionType::None,
            DBCompressionType::None,
            DBCompressionType::Lz4,
            DBCompressionType::Lz4,
            DBCompressionType::Lz4,
            DBCompressionType::Zstd,
            DBCompressionType::Zstd,
        ]);
        options
    }
}
