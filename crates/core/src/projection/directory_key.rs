//! Stored key: a channel's definition.
//!
//! | part | bytes |
//! |---|---|
//! | tag, 1 | 1 |
//! | namespace, big-endian | 4 |
//! | the channel's name | the rest |
//!
//! The value is protobuf: 1 the `DirectoryEntry`, 2 the audit trail.

use bytes::Bytes;

use crate::identity::NamespaceNumber;
use crate::names::ChannelName;

use super::key_parts::{KeyError, KeyReader, KeyWriter};

pub(super) const TAG: u8 = 1;

/// The key of a channel.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct DirectoryKey {
    pub(super) namespace: NamespaceNumber,
    pub(super) channel: ChannelName,
}

impl DirectoryKey {
    pub(super) fn encode(&self) -> Bytes {
        let mut key = KeyWriter::new(TAG);
        key.u32(self.namespace.get());
        key.bytes(self.channel.as_str().as_bytes());
        key.finish()
    }

    pub(super) fn decode(bytes: &[u8]) -> Result<Self, KeyError> {
        let mut key = KeyReader::new(bytes, TAG)?;
        let namespace = NamespaceNumber::new(key.u32()?);
        let channel = std::str::from_utf8(key.rest()).map_err(|_| KeyError::Name)?;
        let channel = ChannelName::parse(channel).map_err(|_| KeyError::Name)?;
        Ok(Self { namespace, channel })
    }

    pub(super) fn prefix() -> Bytes {
        KeyWriter::new(TAG).finish()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn keys_round_trip_and_keep_the_order(
            numbers in any::<(u32, u32)>(),
            names in ("[a-z/.]{1,20}", "[a-z]{1,20}"),
        ) {
            let key = |namespace, name: &str| DirectoryKey {
                namespace: NamespaceNumber::new(namespace),
                channel: ChannelName::parse(name)
                    .unwrap_or_else(|_| ChannelName::parse("x").expect("a name")),
            };
            let (one, other) = (key(numbers.0, &names.0), key(numbers.1, &names.1));
            prop_assert_eq!(DirectoryKey::decode(&one.encode()), Ok(one.clone()));
            prop_assert_eq!(one.cmp(&other), one.encode().cmp(&other.encode()));
            prop_assert!(one.encode().starts_with(&DirectoryKey::prefix()));
        }

        #[test]
        fn hostile_bytes_are_refused(bytes in prop::collection::vec(any::<u8>(), 0..40)) {
            let _ = DirectoryKey::decode(&bytes);
        }
    }

    #[test]
    fn golden_bytes() {
        let key = DirectoryKey {
            namespace: NamespaceNumber::new(0x0102_0304),
            channel: ChannelName::parse("a/b").expect("a name"),
        };
        assert_eq!(key.encode()[..], [1, 1, 2, 3, 4, b'a', b'/', b'b']);
        assert_eq!(
            DirectoryKey::decode(&[2, 0]),
            Err(KeyError::Tag { expected: 1, found: Some(2) })
        );
        assert_eq!(DirectoryKey::decode(&[1, 0]), Err(KeyError::Length));
        assert_eq!(DirectoryKey::decode(&[1, 0, 0, 0, 1, 0xff]), Err(KeyError::Name));
    }
}
