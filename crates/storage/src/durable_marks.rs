//! How far each log was durable, in a small file of its own beside the database
//! (METHOD M12).
//!
//! Recovery of the database to the point before the first damage cannot tell a
//! cut of power, which takes what was never synced, from rot, which takes what
//! was. This file can: what it names had been synced before it was written.
//!
//! ```text
//! file   slot 0 | slot 1, each half of the file
//! slot   "ILDM" | version u8 = 1 | 0 0 0 | generation u64 | body bytes u32 |
//!        xxh3-128 of all before and of the body 16 bytes | body | anything
//! body   logs u32 | (log name 18 bytes | m_id u64 | chain hash 16 bytes)*
//! ```
//!
//! Generation g is in slot g mod 2, so writing one never touches the last one. A
//! torn slot is passed over; two damaged slots are damage, unless a newer build
//! wrote one of them. When the marks outgrow a slot the file is replaced by one
//! twice as large.

use std::fs::{File, OpenOptions};
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};

use interlock_core::identity::{LogName, Mark};
use xxhash_rust::xxh3::xxh3_128;

use crate::keys::{FieldReader, Malformed, put_log_name, read_log_name};

pub(crate) const FILE_NAME: &str = "durable-marks";
const NEW_FILE_NAME: &str = "durable-marks.new";

const WHAT: &str = "slot of durable marks";
const MAGIC: &[u8; 4] = b"ILDM";
pub(crate) const VERSION: u8 = 1;
const HEADER_BYTES: usize = 36;
/// Room for 1,500 logs before the file grows.
const FIRST_SLOT_BYTES: usize = 64 * 1024;

/// How far each log was durable.
pub(crate) type Marks = Vec<(LogName, Mark)>;

/// Why the file cannot be read.
#[derive(Debug)]
pub(crate) enum DurableMarksError {
    Io(io::Error),
    /// No slot is whole.
    Damaged(String),
    /// No slot can be read, and one is of this layout.
    NewerLayout(u8),
}

/// Why a slot cannot be read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum SlotError {
    Damaged,
    NewerLayout(u8),
}

impl From<Malformed> for SlotError {
    fn from(_: Malformed) -> Self {
        Self::Damaged
    }
}

impl From<io::Error> for DurableMarksError {
    fn from(error: io::Error) -> Self {
        Self::Io(error)
    }
}

/// The open file.
#[derive(Debug)]
pub(crate) struct DurableMarksFile {
    folder: PathBuf,
    file: File,
    slot_bytes: usize,
    generation: u64,
}

impl DurableMarksFile {
    /// Writes a new file, in place of another if there is one. It is on disk on
    /// return, its name too.
    pub(crate) fn create(folder: &Path, marks: &[(LogName, Mark)]) -> io::Result<Self> {
        Self::replace(folder, 0, FIRST_SLOT_BYTES, marks)
    }

    /// Reads the file; `None` if there is none.
    pub(crate) fn open(folder: &Path) -> Result<Option<(Self, Marks)>, DurableMarksError> {
        let mut file = match OpenOptions::new().read(true).write(true).open(path(folder)) {
            Ok(file) => file,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(error.into()),
        };
        let mut bytes = Vec::new();
        file.read_to_end(&mut bytes)?;
        let slot_bytes = bytes.len() / 2;
        let slots = bytes.chunks(slot_bytes.max(1)).take(2).map(decode);
        let slots: Vec<Result<_, SlotError>> = slots.collect();
        let newest = slots.iter().flatten().max_by_key(|(generation, _)| *generation);
        let Some((generation, marks)) = newest else {
            let newer = slots.iter().find_map(|slot| match slot {
                Err(SlotError::NewerLayout(version)) => Some(*version),
                _ => None,
            });
            return Err(newer.map_or_else(
                || DurableMarksError::Damaged("no slot is whole".to_owned()),
                DurableMarksError::NewerLayout,
            ));
        };
        let opened = Self { folder: folder.to_owned(), file, slot_bytes, generation: *generation };
        Ok(Some((opened, marks.clone())))
    }

    /// Replaces the marks. They are on disk on return.
    pub(crate) fn store(&mut self, marks: &[(LogName, Mark)]) -> io::Result<()> {
        let generation = self.generation + 1;
        let slot = encode(generation, marks);
        if slot.len() > self.slot_bytes {
            *self = Self::replace(&self.folder, self.generation, slot.len() * 2, marks)?;
            return Ok(());
        }
        let offset = generation % 2 * self.slot_bytes as u64;
        self.file.seek(SeekFrom::Start(offset))?;
        self.file.write_all(&slot)?;
        self.file.sync_data()?;
        self.generation = generation;
        Ok(())
    }

    fn replace(
        folder: &Path,
        last_generation: u64,
        least_slot_bytes: usize,
        marks: &[(LogName, Mark)],
    ) -> io::Result<Self> {
        let generation = last_generation + 1;
        let slot = encode(generation, marks);
        let slot_bytes = slot.len().max(least_slot_bytes).next_power_of_two();
        let new_path = folder.join(NEW_FILE_NAME);
        let mut options = OpenOptions::new();
        let mut file =
            options.read(true).write(true).create(true).truncate(true).open(&new_path)?;
        let mut bytes = vec![0; 2 * slot_bytes];
        let offset = if generation.is_multiple_of(2) { 0 } else { slot_bytes };
        bytes[offset..offset + slot.len()].copy_from_slice(&slot);
        file.write_all(&bytes)?;
        file.sync_all()?;
        std::fs::rename(&new_path, path(folder))?;
        sync_folder(folder)?;
        Ok(Self { folder: folder.to_owned(), file, slot_bytes, generation })
    }
}

fn path(folder: &Path) -> PathBuf {
    folder.join(FILE_NAME)
}

/// Makes the names in a folder durable.
pub(crate) fn sync_folder(folder: &Path) -> io::Result<()> {
    File::open(folder)?.sync_all()
}

fn encode(generation: u64, marks: &[(LogName, Mark)]) -> Vec<u8> {
    let mut body = Vec::with_capacity(4 + marks.len() * 42);
    let count = u32::try_from(marks.len()).expect("fewer than 2^32 logs");
    body.extend_from_slice(&count.to_be_bytes());
    for (log, mark) in marks {
        put_log_name(&mut body, log);
        body.extend_from_slice(&mark.m_id.get().to_be_bytes());
        body.extend_from_slice(&mark.hash.to_bytes());
    }
    let mut slot = Vec::with_capacity(HEADER_BYTES + body.len());
    slot.extend_from_slice(MAGIC);
    slot.extend_from_slice(&[VERSION, 0, 0, 0]);
    slot.extend_from_slice(&generation.to_be_bytes());
    let length = u32::try_from(body.len()).expect("marks of fewer than 2^26 logs");
    slot.extend_from_slice(&length.to_be_bytes());
    let checksum = checksum(&slot, &body);
    slot.extend_from_slice(&checksum);
    slot.extend_from_slice(&body);
    slot
}

fn checksum(header: &[u8], body: &[u8]) -> [u8; 16] {
    xxh3_128(&[header, body].concat()).to_be_bytes()
}

fn decode(slot: &[u8]) -> Result<(u64, Marks), SlotError> {
    let (header, rest) = slot.split_at_checked(HEADER_BYTES).ok_or(SlotError::Damaged)?;
    let (checked, expected) = header.split_at(HEADER_BYTES - 16);
    let mut reader = FieldReader::new(checked, WHAT);
    for byte in MAGIC {
        reader.expect(*byte)?;
    }
    match reader.u8()? {
        VERSION => {}
        newer if newer > VERSION => return Err(SlotError::NewerLayout(newer)),
        _ => return Err(SlotError::Damaged),
    }
    for _ in 0..3 {
        reader.expect(0)?;
    }
    let generation = reader.u64()?;
    let length = reader.u32()?;
    reader.finish()?;
    let body = usize::try_from(length).ok().and_then(|length| rest.get(..length));
    let body = body.ok_or(SlotError::Damaged)?;
    if checksum(checked, body) != expected {
        return Err(SlotError::Damaged);
    }
    let mut reader = FieldReader::new(body, WHAT);
    let count = reader.u32()?;
    let mut marks = Vec::new();
    for _ in 0..count {
        let log = read_log_name(&mut reader)?;
        marks.push((log, Mark { m_id: reader.m_id()?, hash: reader.hash()? }));
    }
    reader.finish()?;
    Ok((generation, marks))
}

#[cfg(test)]
mod tests {
    use interlock_core::identity::{
        ChainHash, Incarnation, MessageNumber, NamespaceNumber, NodeNumber, ShardNumber,
    };
    use proptest::prelude::*;

    use super::*;
    use crate::keys::strategies;

    fn mark(log: u32, m_id: u64) -> (LogName, Mark) {
        let log = LogName {
            namespace: NamespaceNumber::new(1),
            shard: ShardNumber::new(2),
            origin: NodeNumber::new(log),
            incarnation: Incarnation::new(4).expect("not zero"),
        };
        (log, Mark { m_id: MessageNumber::new(m_id), hash: ChainHash::from_bytes([7; 16]) })
    }

    fn read(folder: &Path) -> Result<Marks, DurableMarksError> {
        DurableMarksFile::open(folder).map(|opened| opened.expect("the file is there").1)
    }

    #[test]
    fn golden_bytes() {
        let mut expected = b"ILDM".to_vec();
        expected.extend([1, 0, 0, 0]);
        expected.extend([0, 0, 0, 0, 0, 0, 0, 9]);
        expected.extend([0, 0, 0, 46]);
        expected.extend(0x12c3_a923_2380_a6a9_4563_e3ba_e198_7419_u128.to_be_bytes());
        expected.extend([0, 0, 0, 1]);
        expected.extend([0, 0, 0, 1, 0, 2, 0, 0, 0, 3, 0, 0, 0, 0, 0, 0, 0, 4]);
        expected.extend([0, 0, 0, 0, 0, 0, 0, 6]);
        expected.extend([7; 16]);
        assert_eq!(encode(9, &[mark(3, 6)]), expected);
    }

    /// METHOD M12: what is read is the last that was stored whole.
    #[test]
    fn a_torn_slot_leaves_the_one_before() {
        let folder = tempfile::tempdir().expect("a folder");
        let mut file = DurableMarksFile::create(folder.path(), &[]).expect("created");
        file.store(&[mark(1, 5)]).expect("stored");
        file.store(&[mark(1, 6)]).expect("stored");
        assert_eq!(read(folder.path()).expect("whole"), [mark(1, 6)]);

        let path = folder.path().join(FILE_NAME);
        let whole = std::fs::read(&path).expect("readable");
        let newest = usize::from(file.generation % 2 == 1) * file.slot_bytes;
        for torn in 0..HEADER_BYTES + 46 {
            let mut bytes = whole.clone();
            bytes[newest + torn] ^= 0x10;
            std::fs::write(&path, &bytes).expect("writable");
            assert_eq!(read(folder.path()).expect("one slot is whole"), [mark(1, 5)]);
        }
        let mut bytes = whole.clone();
        bytes[10] ^= 1;
        bytes[file.slot_bytes + 10] ^= 1;
        std::fs::write(&path, &bytes).expect("writable");
        assert!(matches!(read(folder.path()), Err(DurableMarksError::Damaged(_))));
        std::fs::write(&path, []).expect("writable");
        assert!(matches!(read(folder.path()), Err(DurableMarksError::Damaged(_))));
    }

    /// A build that was taken back says so, instead of crying damage.
    #[test]
    fn a_newer_layout_is_told_apart_from_damage() {
        let folder = tempfile::tempdir().expect("a folder");
        let mut file = DurableMarksFile::create(folder.path(), &[]).expect("created");
        file.store(&[mark(1, 5)]).expect("stored");
        let path = folder.path().join(FILE_NAME);
        let mut bytes = std::fs::read(&path).expect("readable");
        bytes[4] = VERSION + 1;
        std::fs::write(&path, &bytes).expect("writable");
        assert_eq!(read(folder.path()).expect("one slot is whole"), []);
        bytes[file.slot_bytes + 4] = VERSION + 2;
        std::fs::write(&path, &bytes).expect("writable");
        let refused = read(folder.path());
        assert!(matches!(refused, Err(DurableMarksError::NewerLayout(2))), "{refused:?}");
        bytes[0] = 0;
        bytes[file.slot_bytes + 4] = VERSION;
        bytes[file.slot_bytes + 30] ^= 1;
        std::fs::write(&path, &bytes).expect("writable");
        assert!(matches!(read(folder.path()), Err(DurableMarksError::Damaged(_))));
    }

    #[test]
    fn the_file_grows_and_goes_on() {
        let folder = tempfile::tempdir().expect("a folder");
        assert!(DurableMarksFile::open(folder.path()).expect("no file").is_none());
        let mut file = DurableMarksFile::create(folder.path(), &[mark(1, 1)]).expect("created");
        let many: Vec<_> = (0..5000).map(|log| mark(log, 7)).collect();
        for marks in [&many[..10], &many, &many[..20], &many[..1]] {
            file.store(marks).expect("stored");
            assert_eq!(read(folder.path()).expect("whole"), marks);
            let opened = DurableMarksFile::open(folder.path()).expect("whole");
            file = opened.expect("the file is there").0;
        }
        assert!(file.slot_bytes > FIRST_SLOT_BYTES);
    }

    proptest! {
        #[test]
        fn round_trip(
            generation: u64,
            marks in prop::collection::vec(
                (strategies::log_name(), strategies::m_id(), strategies::hash()), 0..5),
        ) {
            let marks: Vec<_> =
                marks.into_iter().map(|(log, m_id, hash)| (log, Mark { m_id, hash })).collect();
            let mut slot = encode(generation, &marks);
            slot.extend_from_slice(b"of an older generation");
            prop_assert_eq!(decode(&slot), Ok((generation, marks)));
        }

        #[test]
        fn any_bytes_are_read_without_panic(slot: Vec<u8>) {
            let _ = decode(&slot);
        }
    }
}
