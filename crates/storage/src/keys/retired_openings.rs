//! The openings of a member that are known to be over.
//!
//! ```text
//! table meta
//! key    0x0b | node u32
//! value  version u8 = 1 | too many openings u8, 0 or 1 | count u32 | incarnation u64*
//! ```
//!
//! In the order in which it was learned that they are over. Facts of the others
//! are kept for themselves, see `fact`.

use interlock_core::identity::{Incarnation, NodeNumber};

use super::{FieldReader, Malformed, meta_tag};

const WHAT: &str = "list of retired openings";
const VERSION: u8 = 1;

pub(crate) const PREFIX: [u8; 1] = [meta_tag::RETIRED_OPENINGS];

/// What is kept of a member beside its facts.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct RetiredOpenings {
    pub(crate) node: NodeNumber,
    pub(crate) retired: Vec<Incarnation>,
    pub(crate) too_many_openings: bool,
}

pub(crate) fn key(node: NodeNumber) -> [u8; 5] {
    let mut key = [meta_tag::RETIRED_OPENINGS; 5];
    key[1..].copy_from_slice(&node.get().to_be_bytes());
    key
}

pub(crate) fn encode(retired: &[Incarnation], too_many_openings: bool) -> Vec<u8> {
    let mut value = vec![VERSION, u8::from(too_many_openings)];
    let count = u32::try_from(retired.len()).expect("as many as are remembered");
    value.extend_from_slice(&count.to_be_bytes());
    for incarnation in retired {
        value.extend_from_slice(&incarnation.get().to_be_bytes());
    }
    value
}

pub(crate) fn decode(key: &[u8], value: &[u8]) -> Result<RetiredOpenings, Malformed> {
    let mut reader = FieldReader::new(key, WHAT);
    reader.expect(meta_tag::RETIRED_OPENINGS)?;
    let node = NodeNumber::new(reader.u32()?);
    reader.finish()?;

    let mut reader = FieldReader::new(value, WHAT);
    reader.expect(VERSION)?;
    let too_many_openings = match reader.u8()? {
        0 => false,
        1 => true,
        _ => return Err(reader.malformed()),
    };
    let count = reader.u32()?;
    let mut retired = Vec::new();
    for _ in 0..count {
        retired.push(reader.incarnation()?);
    }
    reader.finish()?;
    Ok(RetiredOpenings { node, retired, too_many_openings })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::keys::strategies;

    #[test]
    fn golden_bytes() {
        assert_eq!(key(NodeNumber::new(4)), [11, 0, 0, 0, 4]);
        let retired = [5, 3].map(|bits| Incarnation::new(bits).expect("not zero"));
        let expected = [1, 1, 0, 0, 0, 2, 0, 0, 0, 0, 0, 0, 0, 5, 0, 0, 0, 0, 0, 0, 0, 3];
        assert_eq!(encode(&retired, true), expected);
    }

    proptest! {
        #[test]
        fn round_trip(
            node: u32,
            retired in prop::collection::vec(strategies::incarnation(), 0..9),
            too_many_openings: bool,
        ) {
            let node = NodeNumber::new(node);
            let value = encode(&retired, too_many_openings);
            let expected = RetiredOpenings { node, retired, too_many_openings };
            prop_assert_eq!(decode(&key(node), &value), Ok(expected));
        }
    }
}
