//! How far a log was durable at the last checkpoint: where the next opening's
//! walk begins.
//!
//! ```text
//! table meta
//! key    0x06 | log number u32
//! value  version u8 = 1 | m_id u64 | chain hash 16 bytes | bytes up to there u64
//! ```

use interlock_core::identity::Mark;

use super::chain_point::ChainPoint;
use super::{FieldReader, LogNumber, Malformed, meta_tag};

const WHAT: &str = "checkpoint mark";
const VERSION: u8 = 1;

pub(crate) const PREFIX: [u8; 1] = [meta_tag::CHECKPOINT_MARK];

pub(crate) fn key(log: LogNumber) -> [u8; 5] {
    let mut key = [meta_tag::CHECKPOINT_MARK; 5];
    key[1..].copy_from_slice(&log.get().to_be_bytes());
    key
}

pub(crate) fn decode_key(key: &[u8]) -> Result<LogNumber, Malformed> {
    let mut reader = FieldReader::new(key, WHAT);
    reader.expect(meta_tag::CHECKPOINT_MARK)?;
    let log = reader.log_number()?;
    reader.finish()?;
    Ok(log)
}

pub(crate) fn encode(point: &ChainPoint) -> Vec<u8> {
    let mut value = vec![VERSION];
    value.extend_from_slice(&point.mark.m_id.get().to_be_bytes());
    value.extend_from_slice(&point.mark.hash.to_bytes());
    value.extend_from_slice(&point.bytes.to_be_bytes());
    value
}

pub(crate) fn decode(value: &[u8]) -> Result<ChainPoint, Malformed> {
    let mut reader = FieldReader::new(value, WHAT);
    reader.expect(VERSION)?;
    let mark = Mark { m_id: reader.m_id()?, hash: reader.hash()? };
    let bytes = reader.u64()?;
    reader.finish()?;
    Ok(ChainPoint { mark, bytes })
}

#[cfg(test)]
mod tests {
    use interlock_core::identity::{ChainHash, MessageNumber};
    use proptest::prelude::*;

    use super::*;
    use crate::keys::strategies;

    #[test]
    fn golden_bytes() {
        assert_eq!(key(LogNumber::new(9)), [6, 0, 0, 0, 9]);
        let mark = Mark { m_id: MessageNumber::new(2), hash: ChainHash::from_bytes([3; 16]) };
        let mut expected = vec![1, 0, 0, 0, 0, 0, 0, 0, 2];
        expected.extend([3; 16]);
        expected.extend([0, 0, 0, 0, 0, 0, 0, 4]);
        assert_eq!(encode(&ChainPoint { mark, bytes: 4 }), expected);
    }

    proptest! {
        #[test]
        fn round_trip(
            log in strategies::log_number(),
            m_id in strategies::m_id(),
            hash in strategies::hash(),
            bytes: u64,
        ) {
            prop_assert_eq!(decode_key(&key(log)), Ok(log));
            let point = ChainPoint { mark: Mark { m_id, hash }, bytes };
            prop_assert_eq!(decode(&encode(&point)), Ok(point));
        }
    }
}
