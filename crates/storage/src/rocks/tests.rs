//! The conformance suite on RocksDB, and what only real files can suffer.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use bytes::Bytes;
use interlock_core::clock::WallTime;
use interlock_core::identity::MessageNumber;
use interlock_core::limits::CHAIN_HASH_INTERVAL;
use tempfile::TempDir;

use super::{RocksOptions, RocksStorage};
use crate::conformance::removing::{GONE, key};
use crate::conformance::scrubbing::scrub_all;
use crate::conformance::{TestDisk, check_log, conformance_suite};
use crate::contract::{
    AppendBatch, LogStorage as _, ProjectionChanges, ProjectionKind, ProjectionPosition,
};
use crate::opening_outcome::{OpenError, OpenOptions, Recovery};
use crate::scrubbing::ScrubbedPlace;
use crate::test_logs::{TestLog, log_name};

/// A data folder that is replaced by a copy of itself at each kill: the copy is
/// what the page cache would have, and its process is gone.
struct Folder {
    folder: TempDir,
    generation: u32,
}

impl Folder {
    fn path(&self) -> PathBuf {
        self.folder.path().join(self.generation.to_string())
    }
}

impl TestDisk for Folder {
    type Storage = RocksStorage;

    fn new() -> Self {
        Self { folder: tempfile::tempdir().expect("a folder"), generation: 0 }
    }

    fn open_with(&self, open: OpenOptions) -> Result<(Self::Storage, Recovery), OpenError> {
        RocksStorage::open(self.path(), RocksOptions { open, ..small() })
    }

    fn kill(&mut self, storage: Self::Storage) {
        let old = self.path();
        self.generation += 1;
        copy_folder(&old, &self.path());
        drop(storage);
        std::fs::remove_dir_all(old).expect("removable");
    }
}

/// Little memory, so that tests meet flushes and several write-ahead files.
fn small() -> RocksOptions {
    RocksOptions { write_buffer_bytes: 1024 * 1024, ..RocksOptions::default() }
}

/// Copies a folder as it is at one moment: again, if RocksDB changed it meanwhile.
fn copy_folder(from: &Path, to: &Path) {
    loop {
        let before = files(from);
        let copied = before.keys().try_for_each(|file| {
            let target = to.join(file);
            std::fs::create_dir_all(target.parent().expect("below the folder"))?;
            std::fs::copy(from.join(file), target).map(|_| ())
        });
        if copied.is_ok() && files(from) == before {
            return;
        }
        std::fs::remove_dir_all(to).expect("removable");
    }
}

/// The files below a folder with their sizes.
fn files(folder: &Path) -> BTreeMap<PathBuf, u64> {
    let mut files = BTreeMap::new();
    let mut folders = vec![folder.to_owned()];
    while let Some(next) = folders.pop() {
        for entry in std::fs::read_dir(next).expect("readable").flatten() {
            match entry.metadata() {
                Ok(metadata) if metadata.is_dir() => folders.push(entry.path()),
                Ok(metadata) => {
                    let path = entry.path();
                    let path = path.strip_prefix(folder).expect("below the folder");
                    files.insert(path.to_owned(), metadata.len());
                }
                Err(_) => {}
            }
        }
    }
    files
}

mod conformance {
    super::conformance_suite!(super::Folder);
}

/// What an operator only looks at stays as it is: a tail that was never synced, what is
/// damaged, and a path that leads nowhere.
#[test]
fn examining_changes_nothing() {
    let mut folder = Folder::new();
    let (storage, _) = folder.open();
    let mut log = TestLog::new(log_name(1, 1, 9));
    let synced = AppendBatch::new(WallTime::new(1), log.push_many(20, 100));
    storage.append(&synced).expect("appended");
    storage.sync().expect("synced");
    storage.store_checkpoint(&[], &[]).expect("stored");
    let unsynced = AppendBatch::new(WallTime::new(2), log.push_many(20, 100));
    storage.append(&unsynced).expect("appended");
    assert!(matches!(RocksStorage::examine(folder.path()), Err(OpenError::Locked { .. })));
    folder.kill(storage);
    // It died in the middle of its last write.
    let write_ahead = files(&folder.path()).into_iter();
    let is_write_ahead = |file: &Path| file.extension() == Some("log".as_ref());
    let last = write_ahead.filter(|(file, _)| is_write_ahead(file)).max().expect("it has one");
    let file = std::fs::File::options().write(true).open(folder.path().join(last.0));
    file.and_then(|file| file.set_len(last.1 - 10)).expect("writable");

    let before = contents(&folder.path());
    assert_eq!(RocksStorage::examine(folder.path()).expect("it can be read"), []);
    assert!(contents(&folder.path()) == before, "the folder was touched");

    std::fs::remove_dir_all(folder.path().join("database")).expect("it is a folder");
    let before = contents(&folder.path());
    let findings = RocksStorage::examine(folder.path()).expect("it can be read");
    assert!(findings[0].to_string().contains("the database is missing"), "{findings:?}");
    assert!(contents(&folder.path()) == before, "the folder was touched");

    let empty = tempfile::tempdir().expect("a folder");
    for path in [empty.path().to_owned(), empty.path().join("misspelt")] {
        let refused = RocksStorage::examine(&path).expect_err("it has no database");
        assert!(matches!(refused, OpenError::NoDatabase { .. }), "{refused}");
    }
    let mut made = std::fs::read_dir(empty.path()).expect("readable");
    assert!(made.next().is_none(), "something was created");
}

/// The files below a folder with what is in them.
fn contents(folder: &Path) -> BTreeMap<PathBuf, Vec<u8>> {
    let read = |file: PathBuf| {
        let bytes = std::fs::read(folder.join(&file)).expect("readable");
        (file, bytes)
    };
    files(folder).into_keys().map(read).collect()
}

/// A bit of a file turns over under a database that is open: the scrub names the log
/// and a message before it, the storage goes on, and so does a scrub of the rest.
#[test]
fn a_flipped_bit_is_found_while_the_database_is_open() {
    let folder = Folder::new();
    let (storage, _) = folder.open();
    let mut damaged = TestLog::new(log_name(1, 1, 9));
    let mut other = TestLog::new(log_name(1, 2, 9));
    // More than a segment: the first ones are flushed to files of their own.
    let appended = |log: &mut TestLog| {
        let entries = log.push_many(100, 2_000);
        storage.append(&AppendBatch::new(WallTime::new(1), entries)).expect("appended");
    };
    for _ in 0..5 {
        appended(&mut damaged);
    }
    appended(&mut other);
    storage.sync().expect("synced");
    let marker = format!("{} 20 ", damaged.name()).into_bytes();
    let begun = Instant::now();
    let (file, offset) = loop {
        // The flush of an ended segment goes on in the background.
        if let Some(found) = find_in_tables(&folder.path(), &marker) {
            break found;
        }
        assert!(begun.elapsed() < Duration::from_secs(60), "no file has the first messages");
        std::thread::yield_now();
    };
    assert_eq!(scrub_all(&storage, 100_000).2, []);

    let mut bytes = std::fs::read(&file).expect("readable");
    bytes[offset] ^= 4;
    std::fs::write(&file, bytes).expect("writable");
    let (_, read, findings) = scrub_all(&storage, 100_000);
    assert_eq!(findings.len(), 1, "{findings:?}");
    let ScrubbedPlace::Log { log, first } = findings[0].place else { panic!("{}", findings[0]) };
    assert_eq!(log, damaged.name());
    assert!(first.get() <= 20, "{}", findings[0]);
    assert!(findings[0].detail.contains("checksum"), "{}", findings[0]);
    assert!(read > storage.log_bytes(other.name().namespace) / 10, "the other log: {read}");
    appended(&mut other);
    storage.sync().expect("the storage goes on");
}

/// A namespace that is removed leaves nothing in any file; also where the process died
/// when its keys were deleted and the files were not yet written anew.
#[test]
fn no_file_has_anything_of_what_was_removed() {
    for is_killed in [false, true] {
        let mut folder = Folder::new();
        let (storage, _) = folder.open();
        let mut gone = TestLog::new(log_name(GONE.get(), 1, 9));
        let mut stays = TestLog::new(log_name(GONE.get() + 1, 1, 9));
        // Both are in two segments, which are fewer files than are written anew by themselves.
        for _ in 0..12 {
            for log in [&mut gone, &mut stays] {
                let entries = log.push_many(25, 1_000);
                storage.append(&AppendBatch::new(WallTime::new(1), entries)).expect("appended");
            }
        }
        storage.sync().expect("synced");
        let projected = b"what the projections have of it";
        let puts = vec![(key(1, GONE.get()), Bytes::from_static(projected))];
        let changes = ProjectionChanges { puts, deletes: Vec::new() };
        let position = ProjectionPosition::default();
        storage.store_projection(ProjectionKind::Directory, &position, &changes).expect("stored");
        storage.sync_projections().expect("flushed");
        storage.store_checkpoint(&[], &[]).expect("stored");
        folder.kill(storage);

        let (mut storage, _) = folder.open();
        let message = format!("{} 20 ", gone.name()).into_bytes();
        let kept_beside = gone.hash_at(MessageNumber::new(CHAIN_HASH_INTERVAL)).to_bytes();
        let traces = [&message[..], &kept_beside, projected];
        let has = |folder: &Folder, trace| find_in_files(&folder.path(), trace).is_some();
        assert!(traces.iter().all(|trace| has(&folder, trace)), "all of it is in files");
        if is_killed {
            storage.delete_namespace(GONE).expect("deleted");
            folder.kill(storage);
            let (again, recovery) = folder.open();
            assert_eq!(recovery.logs.len(), 1);
            assert!(has(&folder, &message), "deleted, and still in a file");
            storage = again;
        }
        storage.remove_namespace(GONE).expect("removed");
        check_log(&storage, &stays, stays.start());
        let begun = Instant::now();
        // Files that nobody needs any more are removed in the background.
        while let Some(left) = traces.iter().find(|trace| has(&folder, trace)) {
            let waited = begun.elapsed();
            assert!(waited < Duration::from_secs(60), "{} is left", left.escape_ascii());
            std::thread::yield_now();
        }
    }
}

/// The first file of tables that has these bytes, and where.
fn find_in_tables(folder: &Path, wanted: &[u8]) -> Option<(PathBuf, usize)> {
    find_in_files(folder, wanted).filter(|(file, _)| file.extension() == Some("sst".as_ref()))
}

/// The first file that has these bytes, and where; tables before others.
fn find_in_files(folder: &Path, wanted: &[u8]) -> Option<(PathBuf, usize)> {
    let mut files: Vec<PathBuf> = files(folder).into_keys().collect();
    files.sort_by_key(|file| file.extension() != Some("sst".as_ref()));
    files.into_iter().map(|file| folder.join(file)).find_map(|file| {
        let bytes = std::fs::read(&file).ok()?;
        let offset = bytes.windows(wanted.len()).position(|window| window == wanted)?;
        Some((file, offset))
    })
}
