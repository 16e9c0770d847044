//! Stored key: the messages of a log that the directory of this build does not
//! understand.
//!
//! | part | bytes |
//! |---|---|
//! | tag, 2 | 1 |
//! | namespace, big-endian | 4 |
//! | shard, origin, incarnation, big-endian | 2 + 4 + 8 |
//!
//! The value is protobuf: 1 which understanding the build had, 2 the first such
//! message, 3 how many there are.

use bytes::Bytes;

use crate::identity::{LogName, MessageNumber, NamespaceNumber};
use crate::wire_format::{Reader, WireError, Writer};

use super::key_parts::{KeyError, KeyReader, KeyWriter};

pub(super) const TAG: u8 = 2;

/// The key of a log's record.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct UnprojectedKey {
    pub(super) log: LogName,
}

impl UnprojectedKey {
    pub(super) fn encode(&self) -> Bytes {
        let mut key = KeyWriter::new(TAG);
        key.u32(self.log.namespace.get());
        key.log_in_namespace(&self.log);
        key.finish()
    }

    pub(super) fn decode(bytes: &[u8]) -> Result<Self, KeyError> {
        let mut key = KeyReader::new(bytes, TAG)?;
        let namespace = NamespaceNumber::new(key.u32()?);
        let log = key.log_in_namespace(namespace)?;
        key.finish()?;
        Ok(Self { log })
    }

    pub(super) fn is_tagged(bytes: &[u8]) -> bool {
        bytes.first() == Some(&TAG)
    }

    pub(super) fn prefix() -> Bytes {
        KeyWriter::new(TAG).finish()
    }
}

/// What a log has that is beyond a build.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Unprojected {
    pub(super) understanding: u32,
    pub(super) first: MessageNumber,
    pub(super) count: u64,
}

impl Unprojected {
    pub(super) fn encode(&self) -> Bytes {
        let mut writer = Writer::with_capacity(24);
        writer.number(1, u64::from(self.understanding));
        writer.number(2, self.first.get());
        writer.number(3, self.count);
        writer.into_bytes()
    }

    pub(super) fn decode(bytes: &[u8]) -> Result<Self, WireError> {
        let mut found = Self { understanding: 0, first: MessageNumber::ZERO, count: 0 };
        let mut reader = Reader::new(bytes);
        while let Some(field) = reader.next_field()? {
            match field.number {
                1 => found.understanding = field.number32()?,
                2 => found.first = MessageNumber::new(field.number()?),
                3 => found.count = field.number()?,
                _ => {}
            }
        }
        Ok(found)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use crate::identity::{Incarnation, NodeNumber, PathName, ShardNumber};

    use super::*;

    fn key(namespace: u32, shard: u16, origin: u32, incarnation: u64) -> UnprojectedKey {
        let path = PathName {
            namespace: NamespaceNumber::new(namespace),
            shard: ShardNumber::new(shard),
            origin: NodeNumber::new(origin),
        };
        UnprojectedKey { log: path.log(Incarnation::new(incarnation.max(1)).expect("not zero")) }
    }

    proptest! {
        #[test]
        fn keys_and_values_round_trip(
            (namespace, shard, origin, incarnation) in any::<(u32, u16, u32, u64)>(),
            other in any::<(u32, u16, u32, u64)>(),
            (understanding, first, count) in any::<(u32, u64, u64)>(),
        ) {
            let one = key(namespace, shard, origin, incarnation);
            let other = key(other.0, other.1, other.2, other.3);
            prop_assert_eq!(UnprojectedKey::decode(&one.encode()), Ok(one));
            prop_assert_eq!(one.cmp(&other), one.encode().cmp(&other.encode()));
            prop_assert!(UnprojectedKey::is_tagged(&one.encode()));
            let value = Unprojected { understanding, first: MessageNumber::new(first), count };
            prop_assert_eq!(Unprojected::decode(&value.encode()), Ok(value));
        }

        #[test]
        fn hostile_bytes_are_refused(bytes in prop::collection::vec(any::<u8>(), 0..40)) {
            let _ = UnprojectedKey::decode(&bytes);
            let _ = Unprojected::decode(&bytes);
        }
    }

    #[test]
    fn golden_bytes() {
        let bytes = key(1, 2, 3, 4).encode();
        assert_eq!(bytes[..], [2, 0, 0, 0, 1, 0, 2, 0, 0, 0, 3, 0, 0, 0, 0, 0, 0, 0, 4]);
    }
}
