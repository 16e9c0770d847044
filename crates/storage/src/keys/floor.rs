//! The floor of a log: its last trimmed message. Written in one write with the
//! trim.
//!
//! ```text
//! table meta
//! key    0x07 | log number u32
//! value  version u8 = 1 | m_id u64 | chain hash 16 bytes | bytes up to there u64 |
//!        stamp u64 | arrived at or before, ms since the Unix epoch u64
//! ```

use interlock_core::clock::{HybridTime, WallTime};
use interlock_core::identity::Mark;

use super::chain_point::ChainPoint;
use super::{FieldReader, LogNumber, Malformed, meta_tag};

const WHAT: &str = "floor";
const VERSION: u8 = 1;

/// The last trimmed message of a log.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Floor {
    /// Which message, with the chain hash and the bytes of the log up to it.
    pub(crate) point: ChainPoint,
    /// Its stamp.
    pub(crate) stamp: HybridTime,
    /// It, and all before it, had arrived by then.
    pub(crate) arrived_by: WallTime,
}

pub(crate) const PREFIX: [u8; 1] = [meta_tag::FLOOR];

pub(crate) fn key(log: LogNumber) -> [u8; 5] {
    let mut key = [meta_tag::FLOOR; 5];
    key[1..].copy_from_slice(&log.get().to_be_bytes());
    key
}

pub(crate) fn decode_key(key: &[u8]) -> Result<LogNumber, Malformed> {
    let mut reader = FieldReader::new(key, WHAT);
    reader.expect(meta_tag::FLOOR)?;
    let log = reader.log_number()?;
    reader.finish()?;
    Ok(log)
}

pub(crate) fn encode(floor: &Floor) -> Vec<u8> {
    let mut value = vec![VERSION];
    value.extend_from_slice(&floor.point.mark.m_id.get().to_be_bytes());
    value.extend_from_slice(&floor.point.mark.hash.to_bytes());
    value.extend_from_slice(&floor.point.bytes.to_be_bytes());
    value.extend_from_slice(&floor.stamp.get().to_be_bytes());
    value.extend_from_slice(&floor.arrived_by.get().to_be_bytes());
    value
}

pub(crate) fn decode(value: &[u8]) -> Result<Floor, Malformed> {
    let mut reader = FieldReader::new(value, WHAT);
    reader.expect(VERSION)?;
    let mark = Mark { m_id: reader.m_id()?, hash: reader.hash()? };
    let floor = Floor {
        point: ChainPoint { mark, bytes: reader.u64()? },
        stamp: HybridTime::new(reader.u64()?),
        arrived_by: WallTime::new(reader.u64()?),
    };
    reader.finish()?;
    Ok(floor)
}

#[cfg(test)]
mod tests {
    use interlock_core::identity::{ChainHash, MessageNumber};
    use proptest::prelude::*;

    use super::*;
    use crate::keys::strategies;

    #[test]
    fn golden_bytes() {
        assert_eq!(key(LogNumber::new(9)), [7, 0, 0, 0, 9]);
        let mark = Mark { m_id: MessageNumber::new(2), hash: ChainHash::from_bytes([3; 16]) };
        let floor = Floor {
            point: ChainPoint { mark, bytes: 4 },
            stamp: HybridTime::new(5),
            arrived_by: WallTime::new(6),
        };
        let mut expected = vec![1, 0, 0, 0, 0, 0, 0, 0, 2];
        expected.extend([3; 16]);
        expected.extend([0, 0, 0, 0, 0, 0, 0, 4]);
        expected.extend([0, 0, 0, 0, 0, 0, 0, 5]);
        expected.extend([0, 0, 0, 0, 0, 0, 0, 6]);
        assert_eq!(encode(&floor), expected);
    }

    proptest! {
        #[test]
        fn round_trip(
            log in strategies::log_number(),
            m_id in strategies::m_id(),
            hash in strategies::hash(),
            bytes: u64,
            stamp: u64,
            arrived_by: u64,
        ) {
            prop_assert_eq!(decode_key(&key(log)), Ok(log));
            let floor = Floor {
                point: ChainPoint { mark: Mark { m_id, hash }, bytes },
                stamp: HybridTime::new(stamp),
                arrived_by: WallTime::new(arrived_by),
            };
            prop_assert_eq!(decode(&encode(&floor)), Ok(floor));
        }
    }
}
