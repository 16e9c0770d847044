//! The engine over RocksDB.

use std::path::Path;
use std::sync::Mutex;

use bytes::Bytes;
use interlock_core::identity::{LogName, Mark};
use rocksdb::{
    BottommostLevelCompaction, ColumnFamily, CompactOptions, DBWithThreadMode, ErrorKind,
    FlushOptions, ReadOptions, SingleThreaded, WriteBatch, WriteOptions,
};

use super::data_folder::DataFolder;
use super::options::{Replay, RocksOptions};
use crate::contract::Space;
use crate::durable_marks::DurableMarksFile;
use crate::engine::{Engine, EngineError, ScanFrom, Table, Visit};

type Database = DBWithThreadMode<SingleThreaded>;

/// A RocksDB database, open for reading and writing or for reading only.
pub struct RocksEngine {
    database: Database,
    writing: Option<Writing>,
    unsynced: WriteOptions,
    synced: WriteOptions,
    without_log: WriteOptions,
    segment_bytes: usize,
}

/// What only an engine that writes has.
struct Writing {
    folder: DataFolder,
    durable_marks: Mutex<DurableMarksFile>,
}

impl std::fmt::Debug for RocksEngine {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("RocksEngine").field("path", &self.database.path()).finish_non_exhaustive()
    }
}

impl RocksEngine {
    /// Opens a database to look at it. Nothing in its folder is changed.
    pub(super) fn open_to_read(
        path: &Path,
        options: &RocksOptions,
        replay: Replay,
    ) -> Result<Self, rocksdb::Error> {
        let database_options = options.database(replay);
        let present = Database::list_cf(&database_options, path)?;
        let mut tables = Table::ALL.to_vec();
        // An older build had fewer tables: opening to write creates the others.
        tables.retain(|table| present.iter().any(|name| name == table.name()));
        let database = Database::open_cf_descriptors_read_only(
            &database_options,
            path,
            options.tables(&tables),
            false,
        )?;
        Ok(Self::new(database, None, options))
    }

    /// Creates a database beside the one that is to be replaced.
    pub(super) fn create_beside(
        path: &Path,
        options: &RocksOptions,
    ) -> Result<Self, rocksdb::Error> {
        Ok(Self::new(Self::open_to_write(path, options)?, None, options))
    }

    fn open_to_write(path: &Path, options: &RocksOptions) -> Result<Database, rocksdb::Error> {
        let mut database_options = options.database(Replay::PointInTime);
        database_options.create_if_missing(true);
        database_options.create_missing_column_families(true);
        Database::open_cf_descriptors(&database_options, path, options.tables(&Table::ALL))
    }

    /// Opens a database, or creates one.
    pub(super) fn open(
        folder: DataFolder,
        path: &Path,
        durable_marks: DurableMarksFile,
        options: &RocksOptions,
    ) -> Result<Self, rocksdb::Error> {
        let database = Self::open_to_write(path, options)?;
        let durable_marks = Mutex::new(durable_marks);
        Ok(Self::new(database, Some(Writing { folder, durable_marks }), options))
    }

    fn new(database: Database, writing: Option<Writing>, options: &RocksOptions) -> Self {
        let mut synced = WriteOptions::default();
        synced.set_sync(true);
        let mut without_log = WriteOptions::default();
        without_log.disable_wal(true);
        let unsynced = WriteOptions::default();
        let segment_bytes = options.segment_bytes();
        Self { database, writing, unsynced, synced, without_log, segment_bytes }
    }

    /// A table; `None` for one that a database opened for reading does not have.
    fn family_if_there(&self, table: Table) -> Option<&ColumnFamily> {
        self.database.cf_handle(table.name())
    }

    fn family(&self, table: Table) -> &ColumnFamily {
        self.family_if_there(table).expect("what is opened to write has every table")
    }

    /// Shows the entries of a table between two keys, read in the way that the
    /// options say.
    fn scan_with(
        &self,
        mut options: ReadOptions,
        table: Table,
        from: ScanFrom<'_>,
        lower: &[u8],
        upper: &[u8],
        visit: Visit<'_>,
    ) -> Result<(), EngineError> {
        let Some(family) = self.family_if_there(table).filter(|_| lower < upper) else {
            return Ok(());
        };
        options.set_iterate_lower_bound(lower);
        options.set_iterate_upper_bound(upper);
        let mut iterator = self.database.raw_iterator_cf_opt(family, options);
        match from {
            ScanFrom::LowerBound => iterator.seek(lower),
            ScanFrom::AtOrBefore(at) => {
                iterator.seek_for_prev(at);
                if !iterator.valid() {
                    iterator.status().map_err(engine_error)?;
                    iterator.seek(lower);
                }
            }
        }
        while let Some((key, value)) = iterator.item() {
            if visit(key, value).is_break() {
                return Ok(());
            }
            iterator.next();
        }
        iterator.status().map_err(engine_error)
    }

    fn writing(&self) -> Result<&Writing, EngineError> {
        let read_only = || EngineError::Failed("the database is open for reading only".to_owned());
        self.writing.as_ref().ok_or_else(read_only)
    }
}

/// A RocksDB error, told apart by whether the bytes or the attempt are at fault.
pub(super) fn engine_error(error: rocksdb::Error) -> EngineError {
    match error.kind() {
        ErrorKind::Corruption => EngineError::Damaged(error.into_string()),
        _ => EngineError::Failed(error.into_string()),
    }
}

impl Engine for RocksEngine {
    type Batch = WriteBatch;

    fn put(&self, batch: &mut Self::Batch, table: Table, key: &[u8], value: &[u8]) {
        batch.put_cf(self.family(table), key, value);
    }

    fn delete(&self, batch: &mut Self::Batch, table: Table, key: &[u8]) {
        batch.delete_cf(self.family(table), key);
    }

    fn delete_range(&self, batch: &mut Self::Batch, table: Table, from: &[u8], to: &[u8]) {
        if from < to {
            batch.delete_range_cf(self.family(table), from, to);
        }
    }

    fn write(&self, batch: Self::Batch) -> Result<(), EngineError> {
        self.database.write_opt(batch, &self.unsynced).map_err(engine_error)
    }

    fn write_durably(&self, batch: Self::Batch) -> Result<(), EngineError> {
        self.database.write_opt(batch, &self.synced).map_err(engine_error)
    }

    fn write_without_log(&self, batch: Self::Batch) -> Result<(), EngineError> {
        self.database.write_opt(batch, &self.without_log).map_err(engine_error)
    }

    fn sync(&self) -> Result<(), EngineError> {
        self.database.flush_wal(true).map_err(engine_error)
    }

    fn flush_projections(&self) -> Result<(), EngineError> {
        self.database.flush_cf(self.family(Table::Projections)).map_err(engine_error)
    }

    fn segment_bytes(&self) -> usize {
        self.segment_bytes
    }

    fn end_segment(&self) -> Result<(), EngineError> {
        // One file a segment: files that do not overlap are never written again.
        // The other tables with it, so that no write-ahead file is kept for them.
        let mut options = FlushOptions::default();
        options.set_wait(false);
        let families = Table::ALL.map(|table| self.family(table));
        self.database.flush_cfs_opt(&families, &options).map_err(engine_error)
    }

    fn get(&self, table: Table, key: &[u8]) -> Result<Option<Bytes>, EngineError> {
        let Some(family) = self.family_if_there(table) else { return Ok(None) };
        let found = self.database.get_pinned_cf(family, key).map_err(engine_error)?;
        Ok(found.map(|value| Bytes::copy_from_slice(&value)))
    }

    fn scan(
        &self,
        table: Table,
        from: ScanFrom<'_>,
        lower: &[u8],
        upper: &[u8],
        visit: Visit<'_>,
    ) -> Result<(), EngineError> {
        self.scan_with(ReadOptions::default(), table, from, lower, upper, visit)
    }

    fn scan_once(
        &self,
        table: Table,
        from: ScanFrom<'_>,
        lower: &[u8],
        upper: &[u8],
        visit: Visit<'_>,
    ) -> Result<(), EngineError> {
        let mut options = ReadOptions::default();
        options.fill_cache(false);
        options.set_verify_checksums(true);
        self.scan_with(options, table, from, lower, upper, visit)
    }

    fn last_at_or_before(
        &self,
        table: Table,
        lower: &[u8],
        at: &[u8],
    ) -> Result<Option<(Vec<u8>, Bytes)>, EngineError> {
        let Some(family) = self.family_if_there(table) else { return Ok(None) };
        let mut options = ReadOptions::default();
        options.set_iterate_lower_bound(lower);
        let mut iterator = self.database.raw_iterator_cf_opt(family, options);
        iterator.seek_for_prev(at);
        if let Some((key, value)) = iterator.item() {
            return Ok(Some((key.to_vec(), Bytes::copy_from_slice(value))));
        }
        iterator.status().map_err(engine_error).map(|()| None)
    }

    fn release(&self, table: Table, from: &[u8], to: &[u8]) -> Result<(), EngineError> {
        self.database.delete_file_in_range_cf(self.family(table), from, to).map_err(engine_error)
    }

    fn erase(&self, table: Table, from: &[u8], to: &[u8]) -> Result<(), EngineError> {
        let family = self.family(table);
        self.database.flush_cf(family).map_err(engine_error)?;
        let mut options = CompactOptions::default();
        // Files of the last level too, but none that this has just written.
        options.set_bottommost_level_compaction(BottommostLevelCompaction::ForceOptimized);
        self.database.compact_range_cf_opt(family, Some(from), Some(to), &options);
        Ok(())
    }

    fn store_durable_marks(&self, marks: &[(LogName, Mark)]) -> Result<(), EngineError> {
        let mut file = self.writing()?.durable_marks.lock().expect("no holder of this lock panics");
        file.store(marks).map_err(|error| EngineError::Failed(error.to_string()))
    }

    fn space(&self) -> Result<Space, EngineError> {
        let space = self.writing()?.folder.space();
        space.map_err(|error| EngineError::Failed(error.to_string()))
    }
}
