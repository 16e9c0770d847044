//! A hole inside a log: messages that are no longer anywhere.
//!
//! ```text
//! table meta
//! key    0x08 | log number u32 | first missing m_id u64
//! value  version u8 = 1 | last missing m_id u64 | chain hash there 16 bytes |
//!        bytes of the log up to there u64 | stamp there u64
//! ```
//!
//! A hole that begins at the floor is no hole but a higher floor.

use interlock_core::clock::HybridTime;
use interlock_core::identity::{Mark, MessageNumber};

use super::chain_point::ChainPoint;
use super::{FieldReader, LogNumber, Malformed, meta_tag};

const WHAT: &str = "hole";
const VERSION: u8 = 1;

/// Where a hole ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct HoleEnd {
    /// The last missing message, with the chain hash after it. The bytes are
    /// those held before the hole.
    pub(crate) point: ChainPoint,
    /// Its stamp.
    pub(crate) stamp: HybridTime,
}

pub(crate) const PREFIX: [u8; 1] = [meta_tag::HOLE];

pub(crate) fn key(log: LogNumber, from: MessageNumber) -> [u8; 13] {
    let mut key = [meta_tag::HOLE; 13];
    key[1..5].copy_from_slice(&log.get().to_be_bytes());
    key[5..].copy_from_slice(&from.get().to_be_bytes());
    key
}

pub(crate) fn decode_key(key: &[u8]) -> Result<(LogNumber, MessageNumber), Malformed> {
    let mut reader = FieldReader::new(key, WHAT);
    reader.expect(meta_tag::HOLE)?;
    let decoded = (reader.log_number()?, reader.m_id()?);
    reader.finish()?;
    Ok(decoded)
}

pub(crate) fn encode(end: &HoleEnd) -> Vec<u8> {
    let mut value = vec![VERSION];
    value.extend_from_slice(&end.point.mark.m_id.get().to_be_bytes());
    value.extend_from_slice(&end.point.mark.hash.to_bytes());
    value.extend_from_slice(&end.point.bytes.to_be_bytes());
    value.extend_from_slice(&end.stamp.get().to_be_bytes());
    value
}

pub(crate) fn decode(value: &[u8]) -> Result<HoleEnd, Malformed> {
    let mut reader = FieldReader::new(value, WHAT);
    reader.expect(VERSION)?;
    let mark = Mark { m_id: reader.m_id()?, hash: reader.hash()? };
    let point = ChainPoint { mark, bytes: reader.u64()? };
    let stamp = HybridTime::new(reader.u64()?);
    reader.finish()?;
    Ok(HoleEnd { point, stamp })
}

#[cfg(test)]
mod tests {
    use interlock_core::identity::ChainHash;
    use proptest::prelude::*;

    use super::*;
    use crate::keys::strategies;

    #[test]
    fn golden_bytes() {
        let key = key(LogNumber::new(9), MessageNumber::new(4));
        assert_eq!(key, [8, 0, 0, 0, 9, 0, 0, 0, 0, 0, 0, 0, 4]);
        let mark = Mark { m_id: MessageNumber::new(2), hash: ChainHash::from_bytes([3; 16]) };
        let mut expected = vec![1, 0, 0, 0, 0, 0, 0, 0, 2];
        expected.extend([3; 16]);
        expected.extend([0, 0, 0, 0, 0, 0, 0, 4]);
        expected.extend([0, 0, 0, 0, 0, 0, 0, 5]);
        let point = ChainPoint { mark, bytes: 4 };
        assert_eq!(encode(&HoleEnd { point, stamp: HybridTime::new(5) }), expected);
    }

    proptest! {
        #[test]
        fn round_trip(
            log in strategies::log_number(),
            from in strategies::m_id(),
            m_id in strategies::m_id(),
            hash in strategies::hash(),
            bytes: u64,
            stamp: u64,
        ) {
            prop_assert_eq!(decode_key(&key(log, from)), Ok((log, from)));
            let point = ChainPoint { mark: Mark { m_id, hash }, bytes };
            let end = HoleEnd { point, stamp: HybridTime::new(stamp) };
            prop_assert_eq!(decode(&encode(&end)), Ok(end));
        }
    }
}
