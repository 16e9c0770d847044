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

use bytes::Bytes;

use crate::identity::{LogName, NamespaceNumber};

use super::{ChannelHash, Presence, SegmentNumber};
use crate::projection::key_parts::{KeyError, KeyReader, KeyWriter};

pub(super) const TAG: u8 = 2;

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

/// The value: what a segment has of each of its channels, by their hashes.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Contents(Vec<(ChannelHash, Presence)>);

impl Contents {
    const HASH_BYTES: usize = 8;
    const ENTRY_BYTES: usize = Self::HASH_BYTES + Presence::BYTES;

    /// Puts together what comes in the order of the segment.
    pub(super) fn collect(presences: impl Iterator<Item = (ChannelHash, Presence)>) -> Self {
        let mut entries: Vec<_> = presences.collect();
        entries.sort_unstable_by_key(|(channel, presence)| (*channel, presence.first));
        entries.dedup_by(|(later_channel, later), (channel, held)| {
            let is_same = later_channel == channel;
            if is_same {
                *held = held.and_later(*later);
            }
            is_same
        });
        Self(entries)
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = (ChannelHash, Presence)> + '_ {
        self.0.iter().copied()
    }

    pub(super) fn encode(&self) -> Bytes {
        let mut value = Vec::with_capacity(self.0.len() * Self::ENTRY_BYTES);
        for (channel, presence) in &self.0 {
            value.extend_from_slice(&channel.0.to_be_bytes());
            value.extend_from_slice(&presence.encode());
        }
        Bytes::from(value)
    }

    /// The part of an encoded value that is the presence at a place, shared.
    pub(super) fn presence_in(value: &Bytes, place: usize) -> Bytes {
        let start = place * Self::ENTRY_BYTES + Self::HASH_BYTES;
        value.slice(start..start + Presence::BYTES)
    }

    pub(super) fn decode(bytes: &[u8]) -> Option<Self> {
        let (entries, []) = bytes.as_chunks::<{ Self::ENTRY_BYTES }>() else { return None };
        let entries: Option<Vec<_>> = entries
            .iter()
            .map(|entry| {
                let (hash, presence) = entry.split_first_chunk::<{ Self::HASH_BYTES }>()?;
                Some((ChannelHash(u64::from_be_bytes(*hash)), Presence::decode(presence)?))
            })
            .collect();
        let entries = entries?;
        entries.is_sorted_by(|(one, _), (next, _)| one < next).then_some(Self(entries))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::projection::tests::{any_log, log};

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
            let entries = entries.into_iter().map(|(hash, (more, one, other))| {
                let (first, last) = (one.min(other), one.max(other));
                (ChannelHash(hash), Presence { more, first, last })
            });
            let contents = Contents(entries.collect());
            let value = contents.encode();
            prop_assert_eq!(Contents::decode(&value), Some(contents.clone()));
            for (place, (_, presence)) in contents.iter().enumerate() {
                let part = Contents::presence_in(&value, place);
                prop_assert_eq!(Presence::decode(&part), Some(presence));
            }
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
        let contents = Contents(vec![(ChannelHash(7), Presence { more: 1, first: 2, last: 9 })]);
        assert_eq!(contents.encode()[..], [0, 0, 0, 0, 0, 0, 0, 7, 1, 2, 9]);
        assert_eq!(Contents::decode(&[contents.encode(), contents.encode()].concat()), None);
    }
}
