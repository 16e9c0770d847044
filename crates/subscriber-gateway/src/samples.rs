//! What the tests of this crate speak of.

use std::ops::RangeInclusive;

use interlock_core::identity::{
    Incarnation, LogName, MessageName, MessageNumber, NamespaceNumber, NodeNumber, PathName,
    ShardNumber,
};
use interlock_core::names::ChannelName;
use interlock_rpc::v1;
use interlock_telemetry::metrics::Registry;

use crate::fan_out::{FanOut, Item, LiveMessage};

pub(crate) const NAMESPACE: NamespaceNumber = NamespaceNumber::new(1);

pub(crate) fn log(origin: u32, incarnation: u64) -> LogName {
    PathName { namespace: NAMESPACE, shard: ShardNumber::new(0), origin: NodeNumber::new(origin) }
        .log(Incarnation::new(incarnation).expect("not zero"))
}

pub(crate) fn fan_out(namespace: &str) -> FanOut {
    FanOut::new(namespace, &Registry::new().gauge("queued", "Bytes"))
}

/// A run of messages, whose epochs say their numbers.
pub(crate) fn run(log: LogName, m_ids: RangeInclusive<u64>) -> Item {
    run_of_bytes(log, m_ids, 0)
}

/// The same with payloads of this size.
pub(crate) fn run_of_bytes(log: LogName, m_ids: RangeInclusive<u64>, payload: usize) -> Item {
    let through = MessageNumber::new(*m_ids.end());
    let messages = m_ids
        .map(|m_id| LiveMessage {
            name: MessageName { log, m_id: MessageNumber::new(m_id) },
            channel: ChannelName::parse("news").expect("a name"),
            trace: None,
            delivered: v1::DeliveredMessage {
                epoch: m_id,
                payload: vec![0; payload].into(),
                ..Default::default()
            },
        })
        .collect();
    Item::Run { log, from: None, through, messages }
}
