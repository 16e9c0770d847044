//! Stored key: what a segment of a log has of a channel.
//!
//! | part | bytes |
//! |---|---|
//! | tag, 1 | 1 |
//! | namespace | 4 |
//! | xxh3-64 of the channel's name | 8 |
//! | shard, origin, incarnation | 2 + 4 + 8 |
//! | the bits of the segment's number, inverted | 8 |
//!
//! All big-endian; inverted, so that the newest segment comes first. The value
//! is three bytes: the count less one, the first and the last message's place in
//! the segment.

use bytes::Bytes;

use crate::identity::{LogName, NamespaceNumber};

use super::super::key_parts::{KeyError, KeyReader, KeyWriter};
use super::{ChannelHash, SegmentNumber};

const TAG: u8 = 1;

/// The key of a channel in a segment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct SegmentKey {
    pub(super) channel: ChannelHash,
    pub(super) log: LogName,
    pub(super) segment: SegmentNumber,
}

impl SegmentKey {
    pub(super) fn encode(&self) -> Bytes {
        let mut key = Self::begin(self.channel, &self.log);
        key.u64(!self.segment.0);
        key.finish()
    }

    pub(super) fn decode(bytes: &[u8]) -> Result<Self, KeyError> {
        let mut key = KeyReader::new(bytes, TAG)?;
        let namespace = NamespaceNumber::new(key.u32()?);
        let channel = ChannelHash(key.u64()?);
        let log = key.log_in_namespace(namespace)?;
        let segment = SegmentNumber(!key.u64()?);
        key.finish()?;
        Ok(Self { channel, log, segment })
    }

    /// What the keys of a channel in a log begin with.
    pub(super) fn prefix(channel: ChannelHash, log: &LogName) -> Bytes {
        Self::begin(channel, log).finish()
    }

    fn begin(channel: ChannelHash, log: &LogName) -> KeyWriter {
        let mut key = KeyWriter::new(TAG);
        key.u32(log.namespace.get());
        key.u64(channel.0);
        key.log_in_namespace(log);
        key
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::super::tests::any_log;
    use super::*;

    proptest! {
        #[test]
        fn keys_round_trip_newest_first(
            log in any_log(),
            hash in any::<u64>(),
            (one, other) in any::<(u64, u64)>(),
        ) {
            let channel = ChannelHash(hash);
            let key = |segment| SegmentKey { channel, log, segment: SegmentNumber(segment) };
            prop_assert_eq!(SegmentKey::decode(&key(one).encode()), Ok(key(one)));
            prop_assert_eq!(other.cmp(&one), key(one).encode().cmp(&key(other).encode()));
            prop_assert!(key(one).encode().starts_with(&SegmentKey::prefix(channel, &log)));
        }

        #[test]
        fn hostile_bytes_are_refused(bytes in prop::collection::vec(any::<u8>(), 0..50)) {
            let _ = SegmentKey::decode(&bytes);
        }
    }

    #[test]
    fn golden_bytes() {
        let key = SegmentKey {
            channel: ChannelHash(7),
            log: super::super::tests::log(1, 2, 3, 4),
            segment: SegmentNumber(1),
        };
        let expected = [
            &[1_u8][..],
            &[0, 0, 0, 1],
            &[0, 0, 0, 0, 0, 0, 0, 7],
            &[0, 2, 0, 0, 0, 3, 0, 0, 0, 0, 0, 0, 0, 4],
            &[255, 255, 255, 255, 255, 255, 255, 254],
        ];
        assert_eq!(key.encode()[..], expected.concat());
    }
}
