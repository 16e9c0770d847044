//! One opening of this database: the incarnation it got, and the one before.
//!
//! ```text
//! table meta
//! key    0x04 | count of openings before u64
//! value  version u8 = 1 | node u32 | incarnation u64 | opened from u64, 0 for none
//! ```

use interlock_core::identity::{Incarnation, MemberOpening, NodeNumber};

use super::{FieldReader, Malformed, meta_tag};

const WHAT: &str = "opening";
const VERSION: u8 = 1;

pub(crate) const PREFIX: [u8; 1] = [meta_tag::OPENING];

pub(crate) fn key(openings_before: u64) -> [u8; 9] {
    let mut key = [meta_tag::OPENING; 9];
    key[1..].copy_from_slice(&openings_before.to_be_bytes());
    key
}

pub(crate) fn decode_key(key: &[u8]) -> Result<u64, Malformed> {
    let mut reader = FieldReader::new(key, WHAT);
    reader.expect(meta_tag::OPENING)?;
    let openings_before = reader.u64()?;
    reader.finish()?;
    Ok(openings_before)
}

pub(crate) fn encode(opening: &MemberOpening) -> Vec<u8> {
    let mut value = vec![VERSION];
    value.extend_from_slice(&opening.node.get().to_be_bytes());
    value.extend_from_slice(&opening.incarnation.get().to_be_bytes());
    let opened_from = opening.opened_from.map_or(0, Incarnation::get);
    value.extend_from_slice(&opened_from.to_be_bytes());
    value
}

pub(crate) fn decode(value: &[u8]) -> Result<MemberOpening, Malformed> {
    let mut reader = FieldReader::new(value, WHAT);
    reader.expect(VERSION)?;
    let opening = MemberOpening {
        node: NodeNumber::new(reader.u32()?),
        incarnation: reader.incarnation()?,
        opened_from: Incarnation::new(reader.u64()?),
    };
    reader.finish()?;
    Ok(opening)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::keys::strategies;

    #[test]
    fn golden_bytes() {
        assert_eq!(key(2), [4, 0, 0, 0, 0, 0, 0, 0, 2]);
        let opening = MemberOpening {
            node: NodeNumber::new(3),
            incarnation: Incarnation::new(5).expect("not zero"),
            opened_from: None,
        };
        let expected = [1, 0, 0, 0, 3, 0, 0, 0, 0, 0, 0, 0, 5, 0, 0, 0, 0, 0, 0, 0, 0];
        assert_eq!(encode(&opening), expected);
    }

    proptest! {
        #[test]
        fn round_trip(
            count: u64,
            node: u32,
            incarnation in strategies::incarnation(),
            opened_from in prop::option::of(strategies::incarnation()),
        ) {
            prop_assert_eq!(decode_key(&key(count)), Ok(count));
            let node = NodeNumber::new(node);
            let opening = MemberOpening { node, incarnation, opened_from };
            prop_assert_eq!(decode(&encode(&opening)), Ok(opening));
        }
    }
}
