//! What all keys have in common.

use super::super::channel_index::ChannelHash;
use super::super::directory_key::DirectoryKey;
use super::super::session_chunk::SessionChunkKey;
use super::super::unprojected_key::UnprojectedKey;
use super::super::{channel_index, namespace_key_ranges};
use super::*;
use crate::replication::frames::TrimPoint;

/// A namespace is removed by ranges: every key lies in one of its own, and in none of
/// another's.
#[test]
fn every_key_lies_in_a_range_of_its_namespace() {
    for number in [1, 7, u32::MAX] {
        let namespace = NamespaceNumber::new(number);
        let channel = ChannelName::parse("news").expect("a name");
        let log = log(number, 0, u32::MAX, u64::MAX);
        let (hash, m_id) = (ChannelHash::of(channel.as_str()), MessageNumber::new(1));
        let keys = [
            DirectoryKey { namespace, channel: channel.clone() }.encode(),
            UnprojectedKey { log }.encode(),
            SessionChunkKey::prefix(namespace),
            channel_index::segments_before(hash, &log, m_id).after.expect("one segment's key"),
            channel_index::contents_through(&log).prefix,
            channel_index::trim_point_key(&TrimPoint { log, channel: hash, m_id }),
        ];
        let lies_in = |namespace: u32, key: &Bytes| {
            let ranges = namespace_key_ranges(NamespaceNumber::new(namespace));
            ranges.iter().filter(|(from, to)| key >= from && key < to).count()
        };
        for key in &keys {
            assert_eq!(lies_in(number, key), 1, "{key:?}");
            assert_eq!(lies_in(number - 1, key), 0, "{key:?}");
            assert_eq!(lies_in(number.wrapping_add(1), key), 0, "{key:?}");
        }
    }
}
