//! What cuts of power and rot do to RocksDB's files, and what an opening makes of
//! them (METHOD M12).
//!
//! A cut of power is made from a copy of the data folder: everything that was
//! written after the last sync may be missing, torn or zero. Rot changes what had
//! been synced.

#[path = "../src/test_logs.rs"]
#[allow(dead_code)]
mod test_logs;

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use interlock_core::clock::WallTime;
use interlock_core::identity::{Mark, MessageNumber};
use interlock_storage::{
    AppendBatch, DamageFinding, LogStorage, OpenError, OpenOptions, Recovery, RocksOptions,
    RocksStorage, StorageError,
};
use tempfile::TempDir;
use test_logs::{TestLog, log_name};

const PAGE: usize = 4096;
const ACCEPT_LOSS: RocksOptions = RocksOptions {
    open: OpenOptions { accept_loss: true },
    write_buffer_bytes: 4 * 1024 * 1024,
    block_cache_bytes: 1024 * 1024,
    max_write_ahead_bytes: 64 * 1024 * 1024,
    max_open_files: 64,
};
const OPTIONS: RocksOptions =
    RocksOptions { open: OpenOptions { accept_loss: false }, ..ACCEPT_LOSS };

/// In memory where the system has a folder there: hundreds of openings sync.
fn new_folder() -> TempDir {
    let in_memory = Path::new("/dev/shm");
    let folder =
        if in_memory.is_dir() { tempfile::tempdir_in(in_memory) } else { tempfile::tempdir() };
    folder.expect("a folder")
}

/// The files of a data folder, held in memory, so that any number of damaged
/// folders can be made of them.
#[derive(Clone)]
struct Image(BTreeMap<PathBuf, Vec<u8>>);

impl Image {
    fn of(folder: &Path) -> Self {
        let mut files = BTreeMap::new();
        let mut folders = vec![folder.to_owned()];
        while let Some(next) = folders.pop() {
            for entry in fs::read_dir(next).expect("readable") {
                let path = entry.expect("readable").path();
                if path.is_dir() {
                    folders.push(path);
                } else {
                    let name = path.strip_prefix(folder).expect("below the folder").to_owned();
                    files.insert(name, fs::read(&path).expect("readable"));
                }
            }
        }
        Self(files)
    }

    fn write(&self) -> TempDir {
        let folder = new_folder();
        for (name, bytes) in &self.0 {
            let path = folder.path().join(name);
            fs::create_dir_all(path.parent().expect("below the folder")).expect("a folder");
            fs::write(path, bytes).expect("written");
        }
        folder
    }

    fn named(&self, extension: &str) -> Vec<PathBuf> {
        let names = self.0.keys();
        let has_extension = |name: &&PathBuf| name.extension().is_some_and(|end| end == extension);
        names.filter(has_extension).cloned().collect()
    }

    /// The write-ahead file that is written now.
    fn last_write_ahead_file(&self) -> PathBuf {
        self.named("log").pop().expect("there is one")
    }

    fn bytes(&mut self, name: &Path) -> &mut Vec<u8> {
        self.0.get_mut(name).expect("a file of the image")
    }

    /// What tells whether a folder was touched. The lock file has no content.
    fn content(&self) -> Vec<(&PathBuf, &Vec<u8>)> {
        self.0.iter().collect()
    }
}

fn append(storage: &RocksStorage, log: &mut TestLog, messages: usize, payload_bytes: usize) {
    let entries = log.push_many(messages, payload_bytes);
    let arrived_at = WallTime::new(1_000);
    storage.append(&AppendBatch::new(arrived_at, entries)).expect("appended");
}

fn mark_of(recovery: &Recovery, log: &TestLog) -> Mark {
    let found = recovery.logs.iter().find(|found| found.row.log == log.name());
    found.map_or(log.start(), |found| found.mark)
}

/// What is held of a log is a prefix of what was written, byte for byte.
fn check_prefix(storage: &RocksStorage, recovery: &Recovery, log: &TestLog) {
    let mark = mark_of(recovery, log);
    assert_eq!(mark, log.mark_at(mark.m_id));
    if mark.m_id > log.start().m_id {
        let from = MessageNumber::new(1);
        let read = storage.read(&log.name(), from, mark.m_id, usize::MAX).expect("readable");
        assert_eq!(read.len() as u64, mark.m_id.get());
        assert!(read.iter().all(|message| message.bytes == log.entry(message.m_id).bytes));
    }
}

/// A folder with synced and unsynced messages, as it was while it was open.
struct Scene {
    image: Image,
    logs: Vec<TestLog>,
    synced: Vec<Mark>,
    /// How long the write-ahead file was when it was synced.
    synced_bytes: usize,
}

/// Two logs, a sync with a checkpoint, messages synced after the checkpoint, and
/// then messages that are not synced.
fn scene(unsynced_messages: usize, payload_bytes: usize) -> Scene {
    let folder = new_folder();
    let (storage, _) = RocksStorage::open(folder.path(), OPTIONS).expect("a new folder");
    let mut logs = [1, 2].map(|origin| TestLog::new(log_name(1, origin, 7))).to_vec();
    for log in &mut logs {
        append(&storage, log, 300, 40);
    }
    storage.sync().expect("synced");
    storage.store_checkpoint(&[], &[]).expect("stored");
    for log in &mut logs {
        append(&storage, log, 20, 40);
    }
    storage.sync().expect("synced");
    storage.store_checkpoint(&[], &[]).expect("stored");
    let synced: Vec<Mark> = logs.iter().map(TestLog::mark).collect();
    let mut image = Image::of(folder.path());
    let file = image.last_write_ahead_file();
    // The checkpoint itself is written after the sync: it may be lost too.
    let synced_bytes = image.bytes(&file).len() - checkpoint_bytes(&mut image, &file);
    for _ in 0..unsynced_messages {
        for log in &mut logs {
            append(&storage, log, 1, payload_bytes);
        }
    }
    let image = Image::of(folder.path());
    Scene { image, logs, synced, synced_bytes }
}

/// The last record of a write-ahead file: the checkpoint's. Records begin with a
/// header of seven bytes, the length at bytes 4 and 5, and do not cross blocks.
fn checkpoint_bytes(image: &mut Image, file: &Path) -> usize {
    const HEADER: usize = 7;
    const BLOCK: usize = 32 * 1024;
    let bytes = image.bytes(file);
    let (mut at, mut last) = (0, 0);
    while at + HEADER <= bytes.len() {
        let left_of_block = BLOCK - at % BLOCK;
        if left_of_block < HEADER {
            at += left_of_block;
            continue;
        }
        last = HEADER + usize::from(u16::from_le_bytes([bytes[at + 4], bytes[at + 5]]));
        at += last;
    }
    last
}

impl Scene {
    /// Opens a damaged copy: everything that was synced must be there, and what
    /// is there must stay.
    fn check_honest_cut(&self, image: &Image, what: &str) {
        let folder = image.write();
        let (storage, recovery) = RocksStorage::open(folder.path(), OPTIONS)
            .unwrap_or_else(|error| panic!("{what}: an honest cut is refused: {error}"));
        for (log, synced) in self.logs.iter().zip(&self.synced) {
            let mark = mark_of(&recovery, log);
            assert!(mark.m_id >= synced.m_id, "{what}: acknowledged messages are gone");
            check_prefix(&storage, &recovery, log);
        }
        drop(storage);
        let (_storage, again) = RocksStorage::open(folder.path(), OPTIONS).expect("it was settled");
        assert_eq!(again.logs, recovery.logs, "{what}");
        assert_eq!(again.cut, [], "{what}");
    }
}

/// METHOD M12: the tail of the write-ahead file is lost or zero from any page on,
/// or one page in it is.
#[test]
fn a_cut_at_any_page_keeps_what_was_acknowledged() {
    let scene = scene(60, 700);
    let file = scene.image.last_write_ahead_file();
    let length = scene.image.clone().bytes(&file).len();
    assert!(length - scene.synced_bytes > 16 * PAGE, "a tail of many pages");
    let first_page = scene.synced_bytes.next_multiple_of(PAGE);
    let cuts = std::iter::once(scene.synced_bytes).chain((first_page..length).step_by(PAGE));
    for cut in cuts {
        let mut truncated = scene.image.clone();
        truncated.bytes(&file).truncate(cut);
        scene.check_honest_cut(&truncated, &format!("cut at {cut}"));

        let mut zeroed = scene.image.clone();
        zeroed.bytes(&file)[cut..].fill(0);
        scene.check_honest_cut(&zeroed, &format!("zero from {cut}"));

        let mut one_page = scene.image.clone();
        let end = (cut + 1).next_multiple_of(PAGE).min(length);
        one_page.bytes(&file)[cut..end].fill(0);
        scene.check_honest_cut(&one_page, &format!("zero from {cut} to {end}"));
    }
}

/// METHOD M12: the same at every byte of a short tail.
#[test]
fn a_cut_at_any_byte_keeps_what_was_acknowledged() {
    let scene = scene(1, 5);
    let file = scene.image.last_write_ahead_file();
    let length = scene.image.clone().bytes(&file).len();
    for cut in scene.synced_bytes..length {
        let mut torn = scene.image.clone();
        if cut % 2 == 0 {
            torn.bytes(&file).truncate(cut);
        } else {
            torn.bytes(&file)[cut..].fill(0);
        }
        scene.check_honest_cut(&torn, &format!("torn at {cut} of {length}"));
    }
}

/// METHOD M12: a flipped bit in what was synced is never taken for a cut of power:
/// the folder is refused, left as it is, and opened on request.
#[test]
fn a_flipped_bit_in_synced_data_is_refused() {
    let scene = scene(3, 40);
    let file = scene.image.last_write_ahead_file();
    let mut refused = 0;
    let flips: Vec<usize> = (0..scene.synced_bytes).step_by(997).collect();
    for at in &flips {
        let mut rotten = scene.image.clone();
        rotten.bytes(&file)[*at] ^= 0x04;
        let folder = rotten.write();
        let error = match RocksStorage::open(folder.path(), OPTIONS) {
            Ok((storage, recovery)) => {
                // A bit that changes nothing, such as in what a flush had taken over.
                for (log, synced) in scene.logs.iter().zip(&scene.synced) {
                    assert!(mark_of(&recovery, log).m_id >= synced.m_id, "flip at {at}");
                    check_prefix(&storage, &recovery, log);
                }
                continue;
            }
            Err(error) => error,
        };
        refused += 1;
        let text = error.to_string();
        let OpenError::Damaged { findings, .. } = error else { panic!("flip at {at}: {text}") };
        assert!(!findings.is_empty());
        assert!(text.contains("Move the folder aside"), "{text}");
        assert!(text.contains(&folder.path().display().to_string()), "{text}");
        let name = file.file_name().expect("a file").to_string_lossy().into_owned();
        let names_file = findings.iter().any(|finding| {
            matches!(finding, DamageFinding::Unreadable { file, .. } if file.ends_with(&name))
        });
        assert!(names_file, "flip at {at}: {text}");
        let names_log =
            findings.iter().any(|finding| matches!(finding, DamageFinding::LogTooShort { .. }));
        assert!(names_log, "flip at {at}: {text}");
        assert_eq!(Image::of(folder.path()).content(), rotten.content(), "the folder was touched");
    }
    assert!(refused * 10 >= flips.len() * 9, "{refused} of {} flips were refused", flips.len());
}

/// METHOD M12: also where no checkpoint was stored since. Each append says how many
/// before it had been synced, and what follows the damage is looked at for that.
#[test]
fn a_flipped_bit_in_what_was_synced_since_the_checkpoint_is_refused() {
    let folder = new_folder();
    let (storage, _) = RocksStorage::open(folder.path(), OPTIONS).expect("a new folder");
    let mut log = TestLog::new(log_name(1, 1, 7));
    append(&storage, &mut log, 10, 40);
    storage.sync().expect("synced");
    storage.store_checkpoint(&[], &[]).expect("stored");
    let file = Image::of(folder.path()).last_write_ahead_file();
    let length = || Image::of(folder.path()).bytes(&file).len();
    let first = length();
    // A block's end may cut through what an append says: the one behind it is whole.
    for _ in 0..40 {
        append(&storage, &mut log, 20, 400);
        storage.sync().expect("synced");
    }
    let synced = length();
    append(&storage, &mut log, 150, 400);
    append(&storage, &mut log, 1, 40);
    append(&storage, &mut log, 1, 40);
    let image = Image::of(folder.path());
    drop(storage);
    for at in (first..synced).step_by(1999) {
        let mut rotten = image.clone();
        rotten.bytes(&file)[at] ^= 0x10;
        let folder = rotten.write();
        let refused = RocksStorage::open(folder.path(), OPTIONS);
        let Err(OpenError::Damaged { findings, .. }) = refused else {
            panic!("flip at {at} of {first} to {synced}: {refused:?}");
        };
        let says = findings.iter().any(|it| it.to_string().contains("appends had been synced"));
        assert!(says, "flip at {at}: {findings:?}");
        let (storage, recovery) =
            RocksStorage::open(folder.path(), ACCEPT_LOSS).expect("loss is accepted");
        check_prefix(&storage, &recovery, &log);
    }
    // What was never synced may go at any byte, and what was said with it.
    for at in (synced..image.clone().bytes(&file).len()).step_by(997) {
        let mut torn = image.clone();
        torn.bytes(&file)[at] ^= 0x10;
        let folder = torn.write();
        let (storage, recovery) = RocksStorage::open(folder.path(), OPTIONS)
            .unwrap_or_else(|error| panic!("torn at {at} behind {synced}: {error}"));
        check_prefix(&storage, &recovery, &log);
    }
}

#[test]
fn a_damaged_folder_is_recovered_on_request() {
    let scene = scene(0, 0);
    let file = scene.image.last_write_ahead_file();
    for part in [3, 10, 30, 60, 95] {
        let mut rotten = scene.image.clone();
        rotten.bytes(&file)[scene.synced_bytes * part / 100] ^= 0x80;
        let folder = rotten.write();
        let refused = RocksStorage::open(folder.path(), OPTIONS);
        assert!(matches!(refused, Err(OpenError::Damaged { .. })), "{part} %: {refused:?}");

        let (storage, recovery) =
            RocksStorage::open(folder.path(), ACCEPT_LOSS).expect("loss is accepted");
        assert!(!recovery.cut.is_empty(), "{part} %");
        for (log, synced) in scene.logs.iter().zip(&scene.synced) {
            check_prefix(&storage, &recovery, log);
            let held = mark_of(&recovery, log).m_id;
            let lost = recovery.cut.iter().find(|cut| cut.log == log.name());
            assert_eq!(lost.is_some(), held < synced.m_id, "{part} %");
            assert!(lost.is_none_or(|cut| cut.found >= synced.m_id), "{part} %");
        }
        let aside = folder.path().join("database.damaged-1");
        assert!(aside.join("CURRENT").exists(), "the damaged database is put aside");
        let mut next = TestLog::new(log_name(1, 3, 8));
        append(&storage, &mut next, 10, 10);
        storage.sync().expect("synced");
        drop(storage);
        let (_storage, recovery) = RocksStorage::open(folder.path(), OPTIONS).expect("it is sound");
        assert_eq!(recovery.cut, []);
        assert_eq!(mark_of(&recovery, &next), next.mark());
    }
}

/// Rot in files that were flushed long ago is found when it is read: never other
/// bytes, never silently less.
#[test]
fn a_flipped_bit_in_a_flushed_file_is_never_served() {
    let scene = scene(0, 0);
    let folder = scene.image.write();
    // Opening flushes what was recovered.
    drop(RocksStorage::open(folder.path(), OPTIONS).expect("sound"));
    let image = Image::of(folder.path());
    let files = image.named("sst");
    assert!(!files.is_empty());
    let mut noticed = 0;
    for file in files {
        let length = image.clone().bytes(&file).len();
        for at in (0..length).step_by(1499) {
            let mut rotten = image.clone();
            rotten.bytes(&file)[at] ^= 0x10;
            let folder = rotten.write();
            let (storage, recovery) = match RocksStorage::open(folder.path(), OPTIONS) {
                Ok(opened) => opened,
                Err(OpenError::Damaged { .. }) => {
                    assert_eq!(Image::of(folder.path()).content(), rotten.content());
                    noticed += 1;
                    continue;
                }
                Err(error) => panic!("flip at {at} of {}: {error}", file.display()),
            };
            for (log, synced) in scene.logs.iter().zip(&scene.synced) {
                assert!(mark_of(&recovery, log).m_id >= synced.m_id);
                match storage.read(&log.name(), MessageNumber::new(1), synced.m_id, usize::MAX) {
                    Ok(read) => {
                        assert_eq!(read.len() as u64, synced.m_id.get());
                        for message in read {
                            assert_eq!(message.bytes, log.entry(message.m_id).bytes);
                        }
                    }
                    Err(StorageError::Read { .. }) => noticed += 1,
                    Err(error) => panic!("flip at {at} of {}: {error}", file.display()),
                }
            }
        }
    }
    assert!(noticed > 10, "{noticed} flips were noticed");
}

#[test]
fn a_missing_file_is_refused() {
    let scene = scene(0, 0);
    let marks = PathBuf::from("durable-marks");
    let write_ahead = scene.image.last_write_ahead_file();
    let current = PathBuf::from("database/CURRENT");
    for missing in [&marks, &write_ahead, &current] {
        let mut image = scene.image.clone();
        image.0.remove(missing);
        let folder = image.write();
        let refused = RocksStorage::open(folder.path(), OPTIONS);
        let Err(OpenError::Damaged { findings, .. }) = refused else {
            panic!("without {}: {refused:?}", missing.display());
        };
        assert!(!findings.is_empty());
        assert_eq!(Image::of(folder.path()).content(), image.content(), "the folder was touched");
        let (_storage, recovery) =
            RocksStorage::open(folder.path(), ACCEPT_LOSS).expect("loss is accepted");
        let is_complete = recovery.logs.len() == 2 && recovery.cut.is_empty();
        assert_eq!(is_complete, *missing == marks);
    }
}

/// A first start that is killed at any time is repeated by the next: its database
/// gets its name when it is complete.
#[test]
fn an_interrupted_creation_is_no_damage() {
    let folder = new_folder();
    let empty = RocksStorage::open(folder.path(), OPTIONS).expect("a new folder");
    drop(empty);
    let image = Image::of(folder.path());
    assert!(!image.0.keys().any(|name| name.starts_with("database.new")), "it was renamed");
    let marks = PathBuf::from("durable-marks");
    let created: Vec<_> = image.0.iter().filter(|(name, _)| name.starts_with("database")).collect();
    for kept in 0..=created.len() {
        for has_marks in [false, true] {
            let mut partial = Image(BTreeMap::new());
            for (name, bytes) in &created[..kept] {
                let name = name.strip_prefix("database").expect("filtered");
                partial.0.insert(Path::new("database.new").join(name), (*bytes).clone());
            }
            if has_marks {
                partial.0.insert(marks.clone(), image.0[&marks].clone());
            }
            let folder = partial.write();
            let opened = RocksStorage::open(folder.path(), OPTIONS);
            assert_eq!(opened.expect("created again").1, Recovery::default());
        }
    }
}

/// What an older build's first start left when it was killed between its tables:
/// those that are there are opened, the others are created.
#[test]
fn a_table_that_is_missing_is_created() {
    let folder = new_folder();
    let (storage, _) = RocksStorage::open(folder.path(), OPTIONS).expect("a new folder");
    drop(storage);
    let database = folder.path().join("database");
    let options = rocksdb::Options::default();
    let tables = rocksdb::DB::list_cf(&options, &database).expect("readable");
    assert_eq!(tables.len(), 5, "RocksDB's own and ours: {tables:?}");
    for missing in ["projections", "sparse", "log"] {
        let tables = rocksdb::DB::list_cf(&options, &database).expect("readable");
        let open = rocksdb::DB::open_cf(&options, &database, tables).expect("openable");
        open.drop_cf(missing).expect("dropped");
        drop(open);
        let (storage, recovery) = RocksStorage::open(folder.path(), OPTIONS).expect("completed");
        assert_eq!(recovery, Recovery::default());
        drop(storage);
    }
    let (storage, _) = RocksStorage::open(folder.path(), OPTIONS).expect("complete");
    let mut log = TestLog::new(log_name(1, 1, 7));
    append(&storage, &mut log, 300, 40);
    drop(storage);
    let (storage, recovery) = RocksStorage::open(folder.path(), OPTIONS).expect("sound");
    assert_eq!(mark_of(&recovery, &log), log.mark());
    check_prefix(&storage, &recovery, &log);
}

/// Files that may hold data are never deleted: without their first file they are
/// damage, and what accepts loss puts them aside.
#[test]
fn files_without_their_beginning_are_put_aside() {
    let scene = scene(0, 0);
    let (current, marks) = (PathBuf::from("database/CURRENT"), PathBuf::from("durable-marks"));
    for has_marks in [true, false] {
        let mut image = scene.image.clone();
        image.0.remove(&current);
        if !has_marks {
            image.0.remove(&marks);
        }
        let folder = image.write();
        let refused = RocksStorage::open(folder.path(), OPTIONS);
        assert!(matches!(refused, Err(OpenError::Damaged { .. })), "{refused:?}");
        assert_eq!(Image::of(folder.path()).content(), image.content(), "the folder was touched");

        let (storage, recovery) =
            RocksStorage::open(folder.path(), ACCEPT_LOSS).expect("loss is accepted");
        assert!(recovery.logs.is_empty());
        assert_eq!(recovery.cut.len(), if has_marks { 2 } else { 0 });
        drop(storage);
        let now = Image::of(folder.path());
        for (name, bytes) in &image.0 {
            if let Ok(name) = name.strip_prefix("database") {
                let aside = Path::new("database.damaged-1").join(name);
                assert_eq!(now.0.get(&aside), Some(bytes), "{} is gone", aside.display());
            }
        }
        let again = RocksStorage::open(folder.path(), OPTIONS).expect("a new database");
        assert_eq!(again.1, Recovery::default());
    }
}

#[test]
fn a_second_process_is_refused_clearly() {
    let folder = new_folder();
    let (storage, _) = RocksStorage::open(folder.path(), OPTIONS).expect("a new folder");
    let second = RocksStorage::open(folder.path(), OPTIONS).expect_err("in use");
    assert!(matches!(second, OpenError::Locked { .. }), "{second}");
    assert!(second.to_string().contains("in use by another process"));
    drop(storage);
    RocksStorage::open(folder.path(), OPTIONS).expect("free again");
}
