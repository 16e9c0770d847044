//! Where a log's messages of one segment begin: the index that finds a message.
//!
//! ```text
//! table sparse
//! key    0x03 | log number u32 | m_id of the log's first message in the segment u64
//! value  segment u32
//! ```
//!
//! Written with that message.

use interlock_core::identity::MessageNumber;

use super::{FieldReader, LogNumber, Malformed, SegmentNumber, sparse_tag};

const WHAT: &str = "start in a segment";

/// A log's messages from `first` on are in `segment`, up to the next such start.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct SegmentStart {
    pub(crate) first: MessageNumber,
    pub(crate) segment: SegmentNumber,
}

pub(crate) fn key(log: LogNumber, first: MessageNumber) -> [u8; 13] {
    let mut key = [sparse_tag::SEGMENT_START; 13];
    key[1..5].copy_from_slice(&log.get().to_be_bytes());
    key[5..].copy_from_slice(&first.get().to_be_bytes());
    key
}

/// The first key after all of a log's.
pub(crate) fn end(log: LogNumber) -> [u8; 13] {
    key(LogNumber::new(log.get().saturating_add(1)), MessageNumber::ZERO)
}

pub(crate) const fn encode(segment: SegmentNumber) -> [u8; 4] {
    segment.get().to_be_bytes()
}

pub(crate) fn decode_key(key: &[u8]) -> Result<(LogNumber, MessageNumber), Malformed> {
    let mut reader = FieldReader::new(key, WHAT);
    reader.expect(sparse_tag::SEGMENT_START)?;
    let decoded = (reader.log_number()?, reader.m_id()?);
    reader.finish()?;
    Ok(decoded)
}

pub(crate) fn decode(key: &[u8], value: &[u8]) -> Result<SegmentStart, Malformed> {
    let (_, first) = decode_key(key)?;
    let mut reader = FieldReader::new(value, WHAT);
    let segment = reader.segment()?;
    reader.finish()?;
    Ok(SegmentStart { first, segment })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::keys::strategies;

    #[test]
    fn golden_bytes() {
        let key = key(LogNumber::new(9), MessageNumber::new(3));
        assert_eq!(key, [3, 0, 0, 0, 9, 0, 0, 0, 0, 0, 0, 0, 3]);
        assert_eq!(encode(SegmentNumber::new(0x0102)), [0, 0, 1, 2]);
    }

    proptest! {
        #[test]
        fn round_trip(
            log in strategies::log_number(),
            first in strategies::m_id(),
            segment in strategies::segment(),
        ) {
            let key = key(log, first);
            prop_assert_eq!(decode_key(&key), Ok((log, first)));
            prop_assert_eq!(decode(&key, &encode(segment)), Ok(SegmentStart { first, segment }));
        }
    }
}
