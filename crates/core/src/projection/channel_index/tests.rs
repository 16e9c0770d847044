use proptest::prelude::*;

use crate::identity::{Incarnation, LogName, NamespaceNumber, NodeNumber, PathName, ShardNumber};

pub(super) fn log(namespace: u32, shard: u16, origin: u32, incarnation: u64) -> LogName {
    let path = PathName {
        namespace: NamespaceNumber::new(namespace),
        shard: ShardNumber::new(shard),
        origin: NodeNumber::new(origin),
    };
    path.log(Incarnation::new(incarnation).expect("not zero"))
}

pub(super) fn any_log() -> impl Strategy<Value = LogName> {
    (any::<u32>(), any::<u16>(), any::<u32>(), 1..=u64::MAX).prop_map(
        |(namespace, shard, origin, incarnation)| log(namespace, shard, origin, incarnation),
    )
}
