//! Stored key: which channels a segment of a log has, for trims and for going on
//! with the segment after a restart.
//!
//! | part | bytes |
//! |---|---|
//! | tag, 2 | 1 |
//! | namespace | 4 |
//! | shard, origin, incarnation | 2 + 4 + 8 |
//! | segment | 8 |
//!
//! All big-endian. The value is, for each channel by its hash, the xxh3-64 of its
//! name (8 bytes, big-endian) and the three bytes that [`SegmentKey`] has as its
//! value.
//!
//! [`SegmentKey`]: super::segment_key::SegmentKey

use std::collections::BTreeMap;

use bytes::Bytes;

use crate::identity::{LogName, NamespaceNumber};

use super::super::key_parts::{KeyError, KeyReader, KeyWriter};
use super::{ChannelHash, Presence, SegmentNumber};

const TAG: u8 = 2;

/// The key of a segment's contents.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct ContentsKey {
    pub(super) log: LogName,
    pub(super) segment: SegmentNumber,
}

impl ContentsKey {
    pub(super) fn encode(&self) -> Bytes {
        let mut key = Self::begin(&self.log);
        key.u64(self.segment.0);
        key.finish()
    }

    pub(super) fn decode(bytes: &[u8]) -> Result<Self, KeyError> {
        let mut key = KeyReader::new(bytes, TAG)?;
        let namespace = NamespaceNumber::new(key.u32()?);
        let log = key.log_in_namespace(namespace)?;
        let segment = SegmentNumber(key.u64()?);
        key.finish()?;
        Ok(Self { log, segment })
    }

    /// What the keys of a log begin with.
    pub(super) fn prefix(log: &LogName) -> Bytes {
        Self::begin(log).finish()
    }

    fn begin(log: &LogName) -> KeyWriter {
        let mut key = KeyWriter::new(TAG);
        key.u32(log.namespace.get());
        key.log_in_namespace(log);
        key
    }
}

/// The value.
pub(super) struct Contents;

impl Contents {
    const HASH_BYTES: usize = 8;
    const ENTRY_BYTES: usize = Self::HASH_BYTES + Presence::BYTES;

    pub(super) fn encode(channels: &BTreeMap<ChannelHash, Presence>) -> Bytes {
        let mut value = Vec::with_capacity(channels.len() * Self::ENTRY_BYTES);
        for (channel, presence) in channels {
            value.extend_from_slice(&channel.0.to_be_bytes());
            value.extend_from_slice(&presence.encode());
        }
        Bytes::from(value)
    }

    pub(super) fn decode(bytes: &[u8]) -> Option<BTreeMap<ChannelHash, Presence>> {
        let (entries, []) = bytes.as_chunks::<{ Self::ENTRY_BYTES }>() else { return None };
        entries
            .iter()
            .map(|entry| {
                let (hash, presence) = entry.split_first_chunk::<{ Self::HASH_BYTES }>()?;
                Some((ChannelHash(u64::from_be_bytes(*hash)), Presence::decode(presence)?))
            })
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::super::tests::{any_log, log};
    use super::*;

    proptest! {
        #[test]
        fn keys_round_trip_oldest_first(log in any_log(), (one, other) in any::<(u64, u64)>()) {
            let key = |segment| ContentsKey { log, segment: SegmentNumber(segment) };
            prop_assert_eq!(ContentsKey::decode(&key(one).encode()), Ok(key(one)));
            prop_assert_eq!(one.cmp(&other), key(one).encode().cmp(&key(other).encode()));
            prop_assert!(key(one).encode().starts_with(&ContentsKey::prefix(&log)));
        }

        #[test]
        fn contents_round_trip(
            entries in prop::collection::btree_map(any::<u64>(), any::<(u8, u8, u8)>(), 0..20),
        ) {
            let channels: BTreeMap<_, _> = entries
                .into_iter()
                .map(|(hash, (more, one, other))| {
                    let (first, last) = (one.min(other), one.max(other));
                    (ChannelHash(hash), Presence { more, first, last })
                })
                .collect();
            prop_assert_eq!(Contents::decode(&Contents::encode(&channels)), Some(channels));
        }

        #[test]
        fn hostile_bytes_are_refused(bytes in prop::collection::vec(any::<u8>(), 0..50)) {
            let _ = ContentsKey::decode(&bytes);
            let _ = Contents::decode(&bytes);
        }
    }

    #[test]
    fn golden_bytes() {
        let key = ContentsKey { log: log(1, 2, 3, 4), segment: SegmentNumber(5) };
        let expected = [
            &[2_u8][..],
            &[0, 0, 0, 1],
            &[0, 2, 0, 0, 0, 3, 0, 0, 0, 0, 0, 0, 0, 4],
            &[0, 0, 0, 0, 0, 0, 0, 5],
        ];
        assert_eq!(key.encode()[..], expected.concat());
        let channels = BTreeMap::from([(ChannelHash(7), Presence { more: 1, first: 2, last: 9 })]);
        assert_eq!(Contents::encode(&channels)[..], [0, 0, 0, 0, 0, 0, 0, 7, 1, 2, 9]);
    }
}
