//! A projection's entries and its position.
//!
//! ```text
//! table projections
//! key    kind u8 (1 directory, 2 publishers, 3 channel index) | 0x00            the position
//! value  version u8 = 1 | layout u32 | logs u32 | (log name 18 bytes | m_id u64)*
//! key    kind u8 | 0x01 | the projection's own key                              an entry
//! value  the projection's own
//! ```

use interlock_core::projection::{LayoutVersion, ProjectionKind, ProjectionPosition};

use super::{FieldReader, Malformed, put_log_name, read_log_name};

const WHAT: &str = "projection position";
const VERSION: u8 = 1;
const POSITION: u8 = 0x00;
const ENTRY: u8 = 0x01;

pub(crate) const fn position_key(kind: ProjectionKind) -> [u8; 2] {
    [kind.tag(), POSITION]
}

/// The bounds of all keys of a projection.
pub(crate) const fn bounds(kind: ProjectionKind) -> ([u8; 1], [u8; 1]) {
    ([kind.tag()], [kind.tag() + 1])
}

pub(crate) fn entry_key(kind: ProjectionKind, key: &[u8]) -> Vec<u8> {
    let mut stored = Vec::with_capacity(2 + key.len());
    stored.extend_from_slice(&[kind.tag(), ENTRY]);
    stored.extend_from_slice(key);
    stored
}

/// The projection's own part of an entry's key.
pub(crate) fn own_key(stored: &[u8]) -> Result<&[u8], Malformed> {
    let mut reader = FieldReader::new(stored, "projection entry");
    reader.u8()?;
    reader.expect(ENTRY)?;
    Ok(reader.rest())
}

pub(crate) fn encode_position(position: &ProjectionPosition) -> Vec<u8> {
    let mut value = vec![VERSION];
    value.extend_from_slice(&position.layout.get().to_be_bytes());
    let logs = u32::try_from(position.positions.len()).expect("fewer than 2^32 logs");
    value.extend_from_slice(&logs.to_be_bytes());
    for (log, m_id) in &position.positions {
        put_log_name(&mut value, log);
        value.extend_from_slice(&m_id.get().to_be_bytes());
    }
    value
}

pub(crate) fn decode_position(value: &[u8]) -> Result<ProjectionPosition, Malformed> {
    let mut reader = FieldReader::new(value, WHAT);
    reader.expect(VERSION)?;
    let layout = LayoutVersion::new(reader.u32()?);
    let count = reader.u32()?;
    let mut positions = Vec::new();
    for _ in 0..count {
        positions.push((read_log_name(&mut reader)?, reader.m_id()?));
    }
    reader.finish()?;
    Ok(ProjectionPosition { layout, positions })
}

#[cfg(test)]
mod tests {
    use interlock_core::identity::{
        Incarnation, LogName, MessageNumber, NamespaceNumber, NodeNumber, ShardNumber,
    };
    use proptest::prelude::*;

    use super::*;
    use crate::keys::strategies;

    #[test]
    fn golden_bytes() {
        assert_eq!(position_key(ProjectionKind::Directory), [1, 0]);
        assert_eq!(position_key(ProjectionKind::Publishers), [2, 0]);
        assert_eq!(position_key(ProjectionKind::ChannelIndex), [3, 0]);
        assert_eq!(entry_key(ProjectionKind::Publishers, b"k"), [2, 1, b'k']);
        let log = LogName {
            namespace: NamespaceNumber::new(1),
            shard: ShardNumber::new(2),
            origin: NodeNumber::new(3),
            incarnation: Incarnation::new(5).expect("not zero"),
        };
        let position = ProjectionPosition {
            layout: LayoutVersion::new(7),
            positions: vec![(log, MessageNumber::new(6))],
        };
        let mut expected = vec![1, 0, 0, 0, 7, 0, 0, 0, 1];
        expected.extend([0, 0, 0, 1, 0, 2, 0, 0, 0, 3, 0, 0, 0, 0, 0, 0, 0, 5]);
        expected.extend([0, 0, 0, 0, 0, 0, 0, 6]);
        assert_eq!(encode_position(&position), expected);
    }

    proptest! {
        #[test]
        fn round_trip(
            layout: u32,
            positions in prop::collection::vec((strategies::log_name(), strategies::m_id()), 0..5),
            key: Vec<u8>,
        ) {
            let layout = LayoutVersion::new(layout);
            let position = ProjectionPosition { layout, positions };
            prop_assert_eq!(decode_position(&encode_position(&position)), Ok(position));
            for kind in ProjectionKind::ALL {
                let stored = entry_key(kind, &key);
                let (from, to) = bounds(kind);
                prop_assert!(stored[..] > from[..] && stored[..] < to[..]);
                prop_assert_eq!(own_key(&stored), Ok(&key[..]));
            }
        }
    }
}
