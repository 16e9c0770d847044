//! Stored key: the newest message of a channel that a log no longer has.
//!
//! | part | bytes |
//! |---|---|
//! | tag, 3 | 1 |
//! | namespace | 4 |
//! | xxh3-64 of the channel's name | 8 |
//! | shard, origin, incarnation | 2 + 4 + 8 |
//!
//! All big-endian. The value is the message's number, 8 bytes, big-endian.

use bytes::Bytes;

use crate::identity::{LogName, NamespaceNumber};

use super::ChannelHash;
use crate::projection::key_parts::{KeyError, KeyReader, KeyWriter};

pub(super) const TAG: u8 = 3;

/// The key of a trim point.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct TrimPointKey {
    pub(super) channel: ChannelHash,
    pub(super) log: LogName,
}

impl TrimPointKey {
    pub(super) fn encode(&self) -> Bytes {
        let mut key = Self::begin(self.log.namespace, self.channel);
        key.log_in_namespace(&self.log);
        key.finish()
    }

    pub(super) fn decode(bytes: &[u8]) -> Result<Self, KeyError> {
        let mut key = KeyReader::new(bytes, TAG)?;
        let namespace = NamespaceNumber::new(key.u32()?);
        let channel = ChannelHash(key.u64()?);
        let log = key.log_in_namespace(namespace)?;
        key.finish()?;
        Ok(Self { channel, log })
    }

    /// What the keys of a channel begin with.
    pub(super) fn prefix(namespace: NamespaceNumber, channel: ChannelHash) -> Bytes {
        Self::begin(namespace, channel).finish()
    }

    /// What the keys of a namespace begin with.
    pub(super) fn of_namespace(namespace: NamespaceNumber) -> Bytes {
        let mut key = KeyWriter::new(TAG);
        key.u32(namespace.get());
        key.finish()
    }

    /// What all keys begin with.
    pub(super) fn all() -> Bytes {
        KeyWriter::new(TAG).finish()
    }

    fn begin(namespace: NamespaceNumber, channel: ChannelHash) -> KeyWriter {
        let mut key = KeyWriter::new(TAG);
        key.u32(namespace.get());
        key.u64(channel.0);
        key
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::projection::tests::{any_log, log};

    proptest! {
        #[test]
        fn keys_round_trip(log in any_log(), hash in any::<u64>()) {
            let key = TrimPointKey { channel: ChannelHash(hash), log };
            prop_assert_eq!(TrimPointKey::decode(&key.encode()), Ok(key));
            let prefix = TrimPointKey::prefix(log.namespace, key.channel);
            prop_assert!(key.encode().starts_with(&prefix));
            prop_assert!(prefix.starts_with(&TrimPointKey::all()));
        }

        #[test]
        fn hostile_bytes_are_refused(bytes in prop::collection::vec(any::<u8>(), 0..50)) {
            let _ = TrimPointKey::decode(&bytes);
        }
    }

    #[test]
    fn golden_bytes() {
        let key = TrimPointKey { channel: ChannelHash(7), log: log(1, 2, 3, 4) };
        let expected = [
            &[3_u8][..],
            &[0, 0, 0, 1],
            &[0, 0, 0, 0, 0, 0, 0, 7],
            &[0, 2, 0, 0, 0, 3, 0, 0, 0, 0, 0, 0, 0, 4],
        ];
        assert_eq!(key.encode()[..], expected.concat());
    }
}
