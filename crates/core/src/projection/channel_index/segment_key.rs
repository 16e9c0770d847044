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

use super::{ChannelHash, SegmentNumber};
use crate::projection::key_parts::{KeyError, KeyReader, KeyWriter};

pub(super) const TAG: u8 = 1;
/// Behind the tag and the namespace.
const HASH_AT: usize = 1 + 4;
const HASH_BYTES: usize = 8;

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

    /// The keys of many channels in one segment, in one allocation.
    pub(super) fn encode_all(
        log: &LogName,
        segment: SegmentNumber,
        channels: impl Iterator<Item = ChannelHash>,
    ) -> Vec<Bytes> {
        let pattern = Self { channel: ChannelHash(0), log: *log, segment }.encode();
        let mut buffer = Vec::with_capacity(pattern.len() * channels.size_hint().0);
        for channel in channels {
            let hash_at = buffer.len() + HASH_AT;
            buffer.extend_from_slice(&pattern);
            buffer[hash_at..hash_at + HASH_BYTES].copy_from_slice(&channel.0.to_be_bytes());
        }
        let (length, buffer) = (pattern.len(), Bytes::from(buffer));
        let starts = (0..buffer.len()).step_by(length);
        starts.map(|start| buffer.slice(start..start + length)).collect()
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

    use super::*;
    use crate::projection::tests::any_log;

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
        fn many_keys_are_like_each_alone(
            log in any_log(),
            hashes in prop::collection::vec(any::<u64>(), 0..5),
            segment in any::<u64>(),
        ) {
            let segment = SegmentNumber(segment);
            let channels = hashes.into_iter().map(ChannelHash);
            let alone: Vec<_> = channels
                .clone()
                .map(|channel| SegmentKey { channel, log, segment }.encode())
                .collect();
            prop_assert_eq!(SegmentKey::encode_all(&log, segment, channels), alone);
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
            log: crate::projection::tests::log(1, 2, 3, 4),
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
