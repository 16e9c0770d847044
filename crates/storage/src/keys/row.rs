//! The row of a log: its name and its parents, under its number here.
//!
//! ```text
//! table meta
//! key    0x03 | log number u32
//! value  version u8 = 1 | log name 18 bytes | parents u16 |
//!        (incarnation u64 | m_id u64 | chain hash 16 bytes)*
//! ```
//!
//! Written with the log's first message; survives the messages.

use interlock_core::identity::ParentPoint;
use interlock_core::replication::rows::Row;

use super::{FieldReader, LogNumber, Malformed, meta_tag, put_log_name, read_log_name};

const WHAT: &str = "row";
const VERSION: u8 = 1;

pub(crate) const PREFIX: [u8; 1] = [meta_tag::ROW];

pub(crate) fn key(log: LogNumber) -> [u8; 5] {
    let mut key = [meta_tag::ROW; 5];
    key[1..].copy_from_slice(&log.get().to_be_bytes());
    key
}

pub(crate) fn decode_key(key: &[u8]) -> Result<LogNumber, Malformed> {
    let mut reader = FieldReader::new(key, WHAT);
    reader.expect(meta_tag::ROW)?;
    let log = reader.log_number()?;
    reader.finish()?;
    Ok(log)
}

pub(crate) fn encode(row: &Row) -> Vec<u8> {
    let mut value = vec![VERSION];
    put_log_name(&mut value, &row.log);
    let parents = u16::try_from(row.parents.len()).expect("MAX_PARENTS is below 2^16");
    value.extend_from_slice(&parents.to_be_bytes());
    for parent in &row.parents {
        value.extend_from_slice(&parent.incarnation.get().to_be_bytes());
        value.extend_from_slice(&parent.m_id.get().to_be_bytes());
        value.extend_from_slice(&parent.hash.to_bytes());
    }
    value
}

pub(crate) fn decode(value: &[u8]) -> Result<Row, Malformed> {
    let mut reader = FieldReader::new(value, WHAT);
    reader.expect(VERSION)?;
    let log = read_log_name(&mut reader)?;
    let count = reader.u16()?;
    let mut parents = Vec::new();
    for _ in 0..count {
        parents.push(ParentPoint {
            incarnation: reader.incarnation()?,
            m_id: reader.m_id()?,
            hash: reader.hash()?,
        });
    }
    reader.finish()?;
    Ok(Row { log, parents })
}

#[cfg(test)]
mod tests {
    use interlock_core::identity::{
        ChainHash, Incarnation, LogName, MessageNumber, NamespaceNumber, NodeNumber, ShardNumber,
    };
    use proptest::prelude::*;

    use super::*;
    use crate::keys::strategies;

    #[test]
    fn golden_bytes() {
        let row = Row {
            log: LogName {
                namespace: NamespaceNumber::new(1),
                shard: ShardNumber::new(2),
                origin: NodeNumber::new(3),
                incarnation: Incarnation::new(4).expect("not zero"),
            },
            parents: vec![ParentPoint {
                incarnation: Incarnation::new(5).expect("not zero"),
                m_id: MessageNumber::new(6),
                hash: ChainHash::from_bytes([7; 16]),
            }],
        };
        assert_eq!(key(LogNumber::new(0x0a0b)), [3, 0, 0, 0x0a, 0x0b]);
        let mut expected = vec![1, 0, 0, 0, 1, 0, 2, 0, 0, 0, 3, 0, 0, 0, 0, 0, 0, 0, 4, 0, 1];
        expected.extend([0, 0, 0, 0, 0, 0, 0, 5, 0, 0, 0, 0, 0, 0, 0, 6]);
        expected.extend([7; 16]);
        assert_eq!(encode(&row), expected);
    }

    proptest! {
        #[test]
        fn round_trip(
            number in strategies::log_number(),
            log in strategies::log_name(),
            parents in prop::collection::vec(strategies::parent_point(), 0..5),
        ) {
            prop_assert_eq!(decode_key(&key(number)), Ok(number));
            let row = Row { log, parents };
            let value = encode(&row);
            prop_assert_eq!(decode(&value), Ok(row));
            prop_assert!(decode(&value[..value.len() - 1]).is_err());
        }
    }
}
