//! When messages arrived here: about every second or 256 messages.
//!
//! ```text
//! table sparse
//! key    0x02 | log number u32 | m_id u64
//! value  it and all before it had arrived by, ms since the Unix epoch u64
//!        | and had been accepted by their origin by, on this node's clock u64
//! ```
//!
//! Times never fall along a log: where the clock was set back, the highest time
//! so far is written again. So an answer from this table is never too late. A value
//! that ends after its first time has the same for both.

use interlock_core::clock::WallTime;
use interlock_core::identity::MessageNumber;

use super::{FieldReader, LogNumber, Malformed, sparse_tag};

const WHAT: &str = "time of arrival";

/// A new entry is written when the last one lies so far back.
pub(crate) const INTERVAL_MESSAGES: u64 = 256;
/// A new entry is written when the last one is so old.
pub(crate) const INTERVAL_MILLISECONDS: u64 = 1000;

/// A message and the time by which it had arrived.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Arrival {
    pub(crate) m_id: MessageNumber,
    pub(crate) by: WallTime,
    pub(crate) accepted_by: WallTime,
}

pub(crate) fn key(log: LogNumber, m_id: MessageNumber) -> [u8; 13] {
    let mut key = [sparse_tag::ARRIVAL; 13];
    key[1..5].copy_from_slice(&log.get().to_be_bytes());
    key[5..].copy_from_slice(&m_id.get().to_be_bytes());
    key
}

/// The first key after all of a log's.
pub(crate) fn end(log: LogNumber) -> [u8; 13] {
    key(LogNumber::new(log.get().saturating_add(1)), MessageNumber::ZERO)
}

pub(crate) fn encode(by: WallTime, accepted_by: WallTime) -> [u8; 16] {
    let mut value = [0; 16];
    value[..8].copy_from_slice(&by.get().to_be_bytes());
    value[8..].copy_from_slice(&accepted_by.get().to_be_bytes());
    value
}

pub(crate) fn decode_key(key: &[u8]) -> Result<(LogNumber, MessageNumber), Malformed> {
    let mut reader = FieldReader::new(key, WHAT);
    reader.expect(sparse_tag::ARRIVAL)?;
    let decoded = (reader.log_number()?, reader.m_id()?);
    reader.finish()?;
    Ok(decoded)
}

pub(crate) fn decode(key: &[u8], value: &[u8]) -> Result<Arrival, Malformed> {
    let (_, m_id) = decode_key(key)?;
    let mut reader = FieldReader::new(value, WHAT);
    let by = WallTime::new(reader.u64()?);
    let accepted_by = if reader.is_empty() { by } else { WallTime::new(reader.u64()?) };
    reader.finish()?;
    Ok(Arrival { m_id, by, accepted_by })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::keys::strategies;

    #[test]
    fn golden_bytes() {
        let key = key(LogNumber::new(9), MessageNumber::new(3));
        assert_eq!(key, [2, 0, 0, 0, 9, 0, 0, 0, 0, 0, 0, 0, 3]);
        let value = encode(WallTime::new(0x0102), WallTime::new(0x03));
        assert_eq!(value, [0, 0, 0, 0, 0, 0, 1, 2, 0, 0, 0, 0, 0, 0, 0, 3]);
        let (m_id, by) = (MessageNumber::new(3), WallTime::new(0x0102));
        assert_eq!(decode(&key, &value[..8]), Ok(Arrival { m_id, by, accepted_by: by }));
    }

    proptest! {
        #[test]
        fn round_trip(
            log in strategies::log_number(),
            m_id in strategies::m_id(),
            times: (u64, u64),
        ) {
            let (by, accepted_by) = (WallTime::new(times.0), WallTime::new(times.1));
            let key = key(log, m_id);
            prop_assert_eq!(decode_key(&key), Ok((log, m_id)));
            let value = encode(by, accepted_by);
            prop_assert_eq!(decode(&key, &value), Ok(Arrival { m_id, by, accepted_by }));
        }
    }
}
