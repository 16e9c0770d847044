//! What is known of how far one opening of a member holds the logs.
//!
//! ```text
//! table meta
//! key    0x09 | node u32 | incarnation u64
//! value  version u8 = 1 | opened from u64, 0 for none | marks u32 |
//!        (log name 18 bytes | m_id u64 | chain hash 16 bytes)*
//! ```

use interlock_core::identity::{Incarnation, Mark, MemberOpening, NodeNumber};
use interlock_core::replication::frames::Fact;

use super::{FieldReader, Malformed, meta_tag, put_log_name, read_log_name};

const WHAT: &str = "fact";
const VERSION: u8 = 1;

pub(crate) const PREFIX: [u8; 1] = [meta_tag::FACT];

pub(crate) fn key(opening: &MemberOpening) -> [u8; 13] {
    let mut key = [meta_tag::FACT; 13];
    key[1..5].copy_from_slice(&opening.node.get().to_be_bytes());
    key[5..].copy_from_slice(&opening.incarnation.get().to_be_bytes());
    key
}

pub(crate) fn encode(fact: &Fact) -> Vec<u8> {
    let mut value = vec![VERSION];
    let opened_from = fact.opening.opened_from.map_or(0, Incarnation::get);
    value.extend_from_slice(&opened_from.to_be_bytes());
    let marks = u32::try_from(fact.marks.len()).expect("fewer than 2^32 logs");
    value.extend_from_slice(&marks.to_be_bytes());
    for (log, mark) in &fact.marks {
        put_log_name(&mut value, log);
        value.extend_from_slice(&mark.m_id.get().to_be_bytes());
        value.extend_from_slice(&mark.hash.to_bytes());
    }
    value
}

pub(crate) fn decode(key: &[u8], value: &[u8]) -> Result<Fact, Malformed> {
    let mut reader = FieldReader::new(key, WHAT);
    reader.expect(meta_tag::FACT)?;
    let node = NodeNumber::new(reader.u32()?);
    let incarnation = reader.incarnation()?;
    reader.finish()?;

    let mut reader = FieldReader::new(value, WHAT);
    reader.expect(VERSION)?;
    let opened_from = Incarnation::new(reader.u64()?);
    let count = reader.u32()?;
    let mut marks = Vec::new();
    for _ in 0..count {
        let log = read_log_name(&mut reader)?;
        marks.push((log, Mark { m_id: reader.m_id()?, hash: reader.hash()? }));
    }
    reader.finish()?;
    Ok(Fact { opening: MemberOpening { node, incarnation, opened_from }, marks })
}

#[cfg(test)]
mod tests {
    use interlock_core::identity::{
        ChainHash, LogName, MessageNumber, NamespaceNumber, ShardNumber,
    };
    use proptest::prelude::*;

    use super::*;
    use crate::keys::strategies;

    #[test]
    fn golden_bytes() {
        let incarnation = Incarnation::new(5).expect("not zero");
        let log = LogName {
            namespace: NamespaceNumber::new(1),
            shard: ShardNumber::new(2),
            origin: NodeNumber::new(3),
            incarnation,
        };
        let mark = Mark { m_id: MessageNumber::new(6), hash: ChainHash::from_bytes([7; 16]) };
        let opening = MemberOpening { node: NodeNumber::new(4), incarnation, opened_from: None };
        let fact = Fact { opening, marks: vec![(log, mark)] };
        assert_eq!(key(&opening), [9, 0, 0, 0, 4, 0, 0, 0, 0, 0, 0, 0, 5]);
        let mut expected = vec![1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1];
        expected.extend([0, 0, 0, 1, 0, 2, 0, 0, 0, 3, 0, 0, 0, 0, 0, 0, 0, 5]);
        expected.extend([0, 0, 0, 0, 0, 0, 0, 6]);
        expected.extend([7; 16]);
        assert_eq!(encode(&fact), expected);
    }

    proptest! {
        #[test]
        fn round_trip(
            node: u32,
            incarnation in strategies::incarnation(),
            opened_from in prop::option::of(strategies::incarnation()),
            marks in prop::collection::vec(
                (strategies::log_name(), strategies::m_id(), strategies::hash()), 0..5),
        ) {
            let node = NodeNumber::new(node);
            let opening = MemberOpening { node, incarnation, opened_from };
            let marks =
                marks.into_iter().map(|(log, m_id, hash)| (log, Mark { m_id, hash })).collect();
            let fact = Fact { opening, marks };
            prop_assert_eq!(decode(&key(&opening), &encode(&fact)), Ok(fact));
        }
    }
}
