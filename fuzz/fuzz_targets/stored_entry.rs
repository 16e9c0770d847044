//! Any bytes as an entry of a database: of the tables themselves, and of the
//! projections that are taken back at an opening. The first byte chooses the
//! table, the second says how long the key is.
#![no_main]

use bytes::Bytes;
use interlock_core::identity::{MessageNumber, NamespaceNumber, NodeNumber, PathName, ShardNumber};
use interlock_core::projection::channel_index::{
    decode_segment, decode_trim_point, is_within_floor,
};
use interlock_core::projection::{
    DirectoryProjection, Projection as _, ProjectionPosition, Publishers, PublishersProjection,
};
use interlock_storage::read_any_stored;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    let [table, length, entry @ ..] = data else { return };
    let (key, value) = entry.split_at(usize::from(*length).min(entry.len()));
    read_any_stored(*table, key, value);

    let _ = decode_segment(key, value);
    let _ = decode_trim_point(key, value);
    let _ = is_within_floor(key, MessageNumber::new(300));
    let stored = || [(Bytes::copy_from_slice(key), Bytes::copy_from_slice(value))];
    let position = ProjectionPosition::default();
    let _ = DirectoryProjection::load(&position, stored(), &[]);
    let _ = PublishersProjection::load(&position, stored(), &[]);
    let path = PathName {
        namespace: NamespaceNumber::new(1),
        shard: ShardNumber::new(0),
        origin: NodeNumber::new(1),
    };
    let _ = Publishers::load(path, stored());
});
