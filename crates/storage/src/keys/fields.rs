//! Fixed-width fields, which all keys and most values are made of.

use std::fmt;

use interlock_core::identity::{
    ChainHash, Incarnation, LogName, MessageNumber, NamespaceNumber, NodeNumber, ShardNumber,
};
use thiserror::Error;

/// A log's number in this database: short, because it is in every key. Given
/// with the log's row, never reused, meaningless elsewhere.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct LogNumber(u32);

impl LogNumber {
    pub(crate) const FIRST: Self = Self(1);

    pub(crate) const fn new(raw: u32) -> Self {
        Self(raw)
    }

    pub(crate) const fn get(self) -> u32 {
        self.0
    }

    pub(crate) fn next(self) -> Self {
        Self(self.0.checked_add(1).expect("fewer than 2^32 logs in the life of a database"))
    }
}

impl fmt::Display for LogNumber {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "log number {}", self.0)
    }
}

/// A segment: what is appended, over all logs, until a buffer is full or the
/// database is opened again. Rises, never reused. First in the keys of messages,
/// so that what came together lies together and goes together.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct SegmentNumber(u32);

impl SegmentNumber {
    /// Before the first segment.
    pub(crate) const ZERO: Self = Self(0);

    pub(crate) const fn new(raw: u32) -> Self {
        Self(raw)
    }

    pub(crate) const fn get(self) -> u32 {
        self.0
    }

    pub(crate) fn next(self) -> Self {
        Self(self.0.checked_add(1).expect("fewer than 2^32 segments in the life of a database"))
    }
}

/// A stored key or value that is not what this build writes: damage, or a defect.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
#[error("a stored {what} is malformed")]
pub(crate) struct Malformed {
    /// Which key type.
    pub(crate) what: &'static str,
}

/// Takes fields off the front of stored bytes.
pub(crate) struct FieldReader<'a> {
    bytes: &'a [u8],
    what: &'static str,
}

impl<'a> FieldReader<'a> {
    pub(crate) const fn new(bytes: &'a [u8], what: &'static str) -> Self {
        Self { bytes, what }
    }

    pub(crate) const fn malformed(&self) -> Malformed {
        Malformed { what: self.what }
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N], Malformed> {
        let (taken, rest) = self.bytes.split_first_chunk().ok_or(self.malformed())?;
        self.bytes = rest;
        Ok(*taken)
    }

    pub(crate) const fn is_empty(&self) -> bool {
        self.bytes.is_empty()
    }

    pub(crate) fn u8(&mut self) -> Result<u8, Malformed> {
        Ok(u8::from_be_bytes(self.array()?))
    }

    pub(crate) fn u16(&mut self) -> Result<u16, Malformed> {
        Ok(u16::from_be_bytes(self.array()?))
    }

    pub(crate) fn u32(&mut self) -> Result<u32, Malformed> {
        Ok(u32::from_be_bytes(self.array()?))
    }

    pub(crate) fn u64(&mut self) -> Result<u64, Malformed> {
        Ok(u64::from_be_bytes(self.array()?))
    }

    pub(crate) fn m_id(&mut self) -> Result<MessageNumber, Malformed> {
        Ok(MessageNumber::new(self.u64()?))
    }

    pub(crate) fn hash(&mut self) -> Result<ChainHash, Malformed> {
        Ok(ChainHash::from_bytes(self.array()?))
    }

    pub(crate) fn log_number(&mut self) -> Result<LogNumber, Malformed> {
        let number = self.u32()?;
        // Never given, so that every number has a next one.
        if number == u32::MAX { Err(self.malformed()) } else { Ok(LogNumber::new(number)) }
    }

    pub(crate) fn segment(&mut self) -> Result<SegmentNumber, Malformed> {
        let number = self.u32()?;
        // Never given, so that every number has a next one.
        if number == u32::MAX { Err(self.malformed()) } else { Ok(SegmentNumber::new(number)) }
    }

    pub(crate) fn incarnation(&mut self) -> Result<Incarnation, Malformed> {
        Incarnation::new(self.u64()?).ok_or(self.malformed())
    }

    /// A fixed first byte: a key's tag or a value's layout version.
    pub(crate) fn expect(&mut self, byte: u8) -> Result<(), Malformed> {
        if self.u8()? == byte { Ok(()) } else { Err(self.malformed()) }
    }

    /// All that is left.
    pub(crate) fn rest(self) -> &'a [u8] {
        self.bytes
    }

    /// Nothing may be left.
    pub(crate) fn finish(self) -> Result<(), Malformed> {
        if self.bytes.is_empty() { Ok(()) } else { Err(self.malformed()) }
    }
}

/// The log number of any key of the `sparse` table.
pub(crate) fn sparse_log_number(key: &[u8]) -> Result<LogNumber, Malformed> {
    let mut reader = FieldReader::new(key, "key of the sparse table");
    reader.u8()?;
    reader.log_number()
}

/// Writes a log's name: namespace, shard, origin, incarnation; 18 bytes.
pub(crate) fn put_log_name(buffer: &mut Vec<u8>, log: &LogName) {
    buffer.extend_from_slice(&log.namespace.get().to_be_bytes());
    buffer.extend_from_slice(&log.shard.get().to_be_bytes());
    buffer.extend_from_slice(&log.origin.get().to_be_bytes());
    buffer.extend_from_slice(&log.incarnation.get().to_be_bytes());
}

/// Reads a log's name.
pub(crate) fn read_log_name(reader: &mut FieldReader<'_>) -> Result<LogName, Malformed> {
    Ok(LogName {
        namespace: NamespaceNumber::new(reader.u32()?),
        shard: ShardNumber::new(reader.u16()?),
        origin: NodeNumber::new(reader.u32()?),
        incarnation: reader.incarnation()?,
    })
}

/// The first key after all keys that begin with `prefix`; `None` when there is no
/// such key.
pub(crate) fn prefix_end(prefix: &[u8]) -> Option<Vec<u8>> {
    let last = prefix.iter().rposition(|byte| *byte != u8::MAX)?;
    let mut end = prefix[..=last].to_vec();
    end[last] += 1;
    Some(end)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::keys::strategies;

    proptest! {
        #[test]
        fn log_names_round_trip(log in strategies::log_name()) {
            let mut buffer = Vec::new();
            put_log_name(&mut buffer, &log);
            prop_assert_eq!(buffer.len(), 18);
            let mut reader = FieldReader::new(&buffer, "log name");
            prop_assert_eq!(read_log_name(&mut reader), Ok(log));
            prop_assert_eq!(reader.finish(), Ok(()));
        }

        #[test]
        fn a_prefix_ends_after_all_its_keys(prefix: Vec<u8>, rest: Vec<u8>) {
            if let Some(end) = prefix_end(&prefix) {
                let key = [prefix.clone(), rest].concat();
                prop_assert!(key < end && prefix < end);
            } else {
                prop_assert!(prefix.iter().all(|byte| *byte == u8::MAX));
            }
        }
    }

    #[test]
    fn short_bytes_are_malformed() {
        let malformed = Malformed { what: "number" };
        assert_eq!(FieldReader::new(&[1, 2, 3], "number").u32(), Err(malformed));
        assert_eq!(FieldReader::new(&[1], "number").finish(), Err(malformed));
        assert_eq!(FieldReader::new(&[0; 8], "number").incarnation(), Err(malformed));
    }
}
