//! Random names and numbers for the round-trip tests.

use interlock_core::identity::{
    ChainHash, Incarnation, LogName, MessageNumber, NamespaceNumber, NodeNumber, ParentPoint,
    ShardNumber,
};
use proptest::prelude::*;

use super::{LogNumber, SegmentNumber};

pub(crate) fn incarnation() -> impl Strategy<Value = Incarnation> {
    (1_u64..).prop_map(|bits| Incarnation::new(bits).expect("above zero"))
}

pub(crate) fn log_number() -> impl Strategy<Value = LogNumber> {
    (0..u32::MAX).prop_map(LogNumber::new)
}

pub(crate) fn segment() -> impl Strategy<Value = SegmentNumber> {
    (0..u32::MAX).prop_map(SegmentNumber::new)
}

pub(crate) fn m_id() -> impl Strategy<Value = MessageNumber> {
    any::<u64>().prop_map(MessageNumber::new)
}

pub(crate) fn hash() -> impl Strategy<Value = ChainHash> {
    any::<[u8; 16]>().prop_map(ChainHash::from_bytes)
}

pub(crate) fn log_name() -> impl Strategy<Value = LogName> {
    (any::<u32>(), any::<u16>(), any::<u32>(), incarnation()).prop_map(
        |(namespace, shard, origin, incarnation)| LogName {
            namespace: NamespaceNumber::new(namespace),
            shard: ShardNumber::new(shard),
            origin: NodeNumber::new(origin),
            incarnation,
        },
    )
}

pub(crate) fn parent_point() -> impl Strategy<Value = ParentPoint> {
    (incarnation(), m_id(), hash()).prop_map(|(incarnation, m_id, hash)| ParentPoint {
        incarnation,
        m_id,
        hash,
    })
}
