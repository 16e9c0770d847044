//! Finding where a write-ahead file is damaged: RocksDB stops there and does not say
//! so. What it does not read may say that synced data is missing before it.
//!
//! A file is a row of blocks of 32 KiB, filled with records: checksum u32 |
//! length u16 | kind u8 | that many bytes, all little-endian. The checksum is a
//! masked CRC-32C of kind and bytes. A block's last few bytes may be unused. A batch is
//! one whole record (kind 1) or its first (2), middle (3) and last (4) part: sequence
//! u64 | count u32 | operations, of which a put is 5 | table | key | value, the last
//! three of variable length.

use std::io;
use std::path::{Path, PathBuf};

use crate::keys::sync_witness::{self, SyncWitness};

const BLOCK_BYTES: usize = 32 * 1024;
const HEADER_BYTES: usize = 7;
const MASK_DELTA: u32 = 0xa282_ead8;

const WHOLE: u8 = 1;
const FIRST: u8 = 2;
/// Of a batch, before its first operation.
const BATCH_HEADER_BYTES: usize = 12;
const PUT: u8 = 5;

/// The first place in any write-ahead file of a database that is no whole record.
pub(super) fn first_damage(database: &Path) -> io::Result<Option<(PathBuf, usize)>> {
    for path in files(database)? {
        if let Some(offset) = damage_in(&std::fs::read(&path)?) {
            return Ok(Some((path, offset)));
        }
    }
    Ok(None)
}

/// What the last append that can be found said of those before it, and the file that
/// it is in. Looked for from the end on: as a rule in the last few blocks.
pub(super) fn newest_witness(database: &Path) -> io::Result<Option<(PathBuf, SyncWitness)>> {
    for path in files(database)?.into_iter().rev() {
        let file = std::fs::read(&path)?;
        if let Some(witness) = file.chunks(BLOCK_BYTES).rev().find_map(witness_in) {
            return Ok(Some((path, witness)));
        }
    }
    Ok(None)
}

/// The write-ahead files, oldest first.
fn files(database: &Path) -> io::Result<Vec<PathBuf>> {
    let mut files = Vec::new();
    for entry in std::fs::read_dir(database)? {
        let path = entry?.path();
        if path.extension().is_some_and(|extension| extension == "log") {
            files.push(path);
        }
    }
    // The names are numbers of a fixed width.
    files.sort();
    Ok(files)
}

/// The last one of a block. A record that is not whole is passed over by the length that
/// it has; where that is wrong too, the next block goes on. Nothing is looked for inside
/// a record: what publishers send is there.
fn witness_in(mut block: &[u8]) -> Option<SyncWitness> {
    let mut last = None;
    while let Some(record) = record(block) {
        if record.is_whole() && matches!(record.kind, WHOLE | FIRST) {
            last = first_operation(record.content).or(last);
        }
        block = &block[HEADER_BYTES + record.content.len()..];
    }
    last
}

/// The witness that a batch begins with, if it does: the table and both lengths are a
/// byte each.
fn first_operation(batch: &[u8]) -> Option<SyncWitness> {
    let [PUT, _table, key_bytes, rest @ ..] = batch.get(BATCH_HEADER_BYTES..)? else {
        return None;
    };
    let (key, rest) = rest.split_at_checked(usize::from(*key_bytes))?;
    let (value_bytes, rest) = rest.split_first()?;
    let value = rest.get(..usize::from(*value_bytes))?;
    sync_witness::decode(value).ok().filter(|_| key == sync_witness::KEY)
}

/// The offset of the first record that is not whole.
fn damage_in(file: &[u8]) -> Option<usize> {
    for (index, block) in file.chunks(BLOCK_BYTES).enumerate() {
        let mut at = 0;
        while block.len() - at >= HEADER_BYTES {
            let Some(record) = record(&block[at..]).filter(Record::is_whole) else {
                return Some(index * BLOCK_BYTES + at);
            };
            at += HEADER_BYTES + record.content.len();
        }
    }
    None
}

struct Record<'a> {
    checksum: u32,
    kind: u8,
    content: &'a [u8],
}

impl Record<'_> {
    fn is_whole(&self) -> bool {
        let begun = step(u32::MAX, self.kind);
        let crc = self.content.iter().fold(begun, |crc, byte| step(crc, *byte)) ^ u32::MAX;
        crc.rotate_right(15).wrapping_add(MASK_DELTA) == self.checksum
    }
}

/// The record that these bytes begin with; `None` if it is longer than they are.
fn record(bytes: &[u8]) -> Option<Record<'_>> {
    let (header, rest) = bytes.split_first_chunk::<HEADER_BYTES>()?;
    let [c0, c1, c2, c3, l0, l1, kind] = *header;
    let content = rest.get(..usize::from(u16::from_le_bytes([l0, l1])))?;
    Some(Record { checksum: u32::from_le_bytes([c0, c1, c2, c3]), kind, content })
}

fn step(crc: u32, byte: u8) -> u32 {
    TABLE[usize::from(crc as u8 ^ byte)] ^ (crc >> 8)
}

const TABLE: [u32; 256] = table();

const fn table() -> [u32; 256] {
    // CRC-32C, bits reversed.
    const POLYNOMIAL: u32 = 0x82f6_3b78;
    let mut table = [0; 256];
    let mut index = 0;
    while index < table.len() {
        let mut crc = index as u32;
        let mut bit = 0;
        while bit < 8 {
            crc = if crc & 1 == 1 { (crc >> 1) ^ POLYNOMIAL } else { crc >> 1 };
            bit += 1;
        }
        table[index] = crc;
        index += 1;
    }
    table
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_checksum_is_the_known_one() {
        let crc = b"123456789".iter().fold(u32::MAX, |crc, byte| step(crc, *byte)) ^ u32::MAX;
        assert_eq!(crc, 0xe306_9283);
    }

    #[test]
    fn a_real_file_is_whole_until_a_bit_flips() {
        let folder = tempfile::tempdir().expect("a folder");
        let database = rocksdb::DB::open_default(folder.path()).expect("created");
        for index in 0..3_000_u32 {
            let value = vec![7; index as usize % 300];
            database.put(index.to_be_bytes(), value).expect("written");
        }
        assert_eq!(first_damage(folder.path()).expect("readable"), None);
        let name = std::fs::read_dir(folder.path()).expect("readable").flatten();
        let log = name
            .map(|entry| entry.path())
            .find(|path| path.extension().is_some_and(|e| e == "log"));
        let log = log.expect("there is one");
        let whole = std::fs::read(&log).expect("readable");
        assert!(whole.len() > 4 * BLOCK_BYTES);
        for at in (0..whole.len()).step_by(70_001) {
            let mut rotten = whole.clone();
            rotten[at] ^= 2;
            let found = damage_in(&rotten).expect("a flipped bit");
            assert!(found <= at && at - found < 400, "{found} for {at}");
        }
    }
}
