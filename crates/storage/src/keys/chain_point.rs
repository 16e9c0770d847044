//! A kept chain hash: every [`CHAIN_HASH_INTERVAL`] messages.
//!
//! ```text
//! table sparse
//! key    0x01 | log number u32 | m_id u64
//! value  chain hash after it 16 bytes | bytes of the log up to it u64
//! ```
//!
//! The bytes count from the log's beginning, trimmed or not, so that the size of
//! any range is a difference.
//!
//! [`CHAIN_HASH_INTERVAL`]: interlock_core::limits::CHAIN_HASH_INTERVAL

use interlock_core::identity::{Mark, MessageNumber};

use super::{FieldReader, LogNumber, Malformed, sparse_tag};

const WHAT: &str = "chain hash";

/// A message of a log, with all that depends on every message before it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct ChainPoint {
    /// The message and the chain hash after it.
    pub(crate) mark: Mark,
    /// The bytes of the log's messages up to and with it.
    pub(crate) bytes: u64,
}

pub(crate) fn key(log: LogNumber, m_id: MessageNumber) -> [u8; 13] {
    let mut key = [sparse_tag::CHAIN_POINT; 13];
    key[1..5].copy_from_slice(&log.get().to_be_bytes());
    key[5..].copy_from_slice(&m_id.get().to_be_bytes());
    key
}

/// The first key after all of a log's.
pub(crate) fn end(log: LogNumber) -> [u8; 13] {
    key(LogNumber::new(log.get().saturating_add(1)), MessageNumber::ZERO)
}

pub(crate) fn encode(point: &ChainPoint) -> [u8; 24] {
    let mut value = [0; 24];
    value[..16].copy_from_slice(&point.mark.hash.to_bytes());
    value[16..].copy_from_slice(&point.bytes.to_be_bytes());
    value
}

pub(crate) fn decode_key(key: &[u8]) -> Result<(LogNumber, MessageNumber), Malformed> {
    let mut reader = FieldReader::new(key, WHAT);
    reader.expect(sparse_tag::CHAIN_POINT)?;
    let decoded = (reader.log_number()?, reader.m_id()?);
    reader.finish()?;
    Ok(decoded)
}

pub(crate) fn decode(key: &[u8], value: &[u8]) -> Result<ChainPoint, Malformed> {
    let (_, m_id) = decode_key(key)?;
    let mut reader = FieldReader::new(value, WHAT);
    let point = ChainPoint { mark: Mark { m_id, hash: reader.hash()? }, bytes: reader.u64()? };
    reader.finish()?;
    Ok(point)
}

#[cfg(test)]
mod tests {
    use interlock_core::identity::ChainHash;
    use proptest::prelude::*;

    use super::*;
    use crate::keys::strategies;

    #[test]
    fn golden_bytes() {
        let key = key(LogNumber::new(9), MessageNumber::new(256));
        assert_eq!(key, [1, 0, 0, 0, 9, 0, 0, 0, 0, 0, 0, 1, 0]);
        let mark = Mark { m_id: MessageNumber::new(256), hash: ChainHash::from_bytes([3; 16]) };
        let mut expected = vec![3; 16];
        expected.extend([0, 0, 0, 0, 0, 0, 0, 4]);
        assert_eq!(encode(&ChainPoint { mark, bytes: 4 }).to_vec(), expected);
    }

    proptest! {
        #[test]
        fn round_trip(
            log in strategies::log_number(),
            m_id in strategies::m_id(),
            hash in strategies::hash(),
            bytes: u64,
        ) {
            let key = key(log, m_id);
            prop_assert_eq!(decode_key(&key), Ok((log, m_id)));
            let point = ChainPoint { mark: Mark { m_id, hash }, bytes };
            prop_assert_eq!(decode(&key, &encode(&point)), Ok(point));
        }
    }
}
