//! The values that the representatives are made of.

use bytes::Bytes;
use interlock_wire::v1;
use prost::Message as _;

pub const INCARNATION: u64 = 0x0123_4567_89ab_cdef;

pub fn hash(seed: u8) -> Bytes {
    Bytes::from(vec![seed; 16])
}

pub fn version() -> v1::TopologyVersion {
    v1::TopologyVersion { generation: 2, number: 300 }
}

pub fn log() -> v1::LogName {
    v1::LogName { origin: 7, incarnation: INCARNATION, namespace: 3, shard: 1 }
}

pub fn mark() -> v1::LogMark {
    v1::LogMark { log: Some(log()), m_id: 70_000, hash: hash(0xa1) }
}

pub fn parent() -> v1::ParentPoint {
    v1::ParentPoint { incarnation: INCARNATION >> 4, m_id: 69_999, hash: hash(0xa2) }
}

pub fn trace() -> v1::TraceContext {
    v1::TraceContext { trace_id: hash(0xb1), span_id: vec![0xb2; 8].into(), flags: 1 }
}

pub fn presentation() -> v1::ChannelPresentation {
    v1::ChannelPresentation {
        description: "Prices of the day".into(),
        labels: [("team".into(), "markets".into()), ("tier".into(), "1".into())].into(),
    }
}

pub fn source() -> v1::ChannelSource {
    v1::ChannelSource {
        path: "/prices.html".into(),
        content: Bytes::from_static(b"<p>1</p>"),
        digest: vec![0xd1; 32].into(),
        etag: "\"v1\"".into(),
        media_type: "text/html".into(),
        fetched_at: 1_700_000_000_123,
    }
}

pub fn limits() -> v1::ChannelLimits {
    v1::ChannelLimits { max_payload_bytes: 4096, max_publications_per_second: 50 }
}

pub fn stamp(version: u64) -> v1::RegisterStamp {
    v1::RegisterStamp {
        version,
        stamp: 1_700_000_000_000 << 16 | 3,
        origin: 7,
        incarnation: INCARNATION,
        m_id: 41,
    }
}

pub fn send() -> v1::Send {
    v1::Send {
        m_id: 70_001,
        groups: vec![1, 200],
        kind: v1::MessageKind::Publication.into(),
        stamp: 1_700_000_000_000 << 16 | 3,
        parents: vec![parent()],
        topology_version: Some(version()),
        channel: "prices/EUR.USD".into(),
        epoch: 2,
        version: 5,
        key: Bytes::from_static(b"key"),
        publisher_session: hash(0xc1),
        publisher_sequence: 129,
        possibly_repeated: true,
        trace: Some(trace()),
        payload: Bytes::from_static(b"1.0842"),
    }
}

pub fn member() -> v1::MemberIdentity {
    v1::MemberIdentity {
        node: 7,
        name: "north-0".into(),
        region: "north".into(),
        incarnation: INCARNATION,
        opened_from: INCARNATION >> 8,
        fencing_token: 12,
    }
}

pub fn digest() -> v1::NamespaceDigest {
    v1::NamespaceDigest { namespace: 3, tips: hash(0xe1), state: hash(0xe2) }
}

pub fn offer() -> v1::LogOffer {
    v1::LogOffer {
        log: Some(log()),
        parents: vec![parent()],
        tip: 70_001,
        tip_hash: hash(0xa3),
        floor: 10,
    }
}

pub fn reference() -> v1::MessageReference {
    v1::MessageReference {
        origin: 7,
        incarnation: INCARNATION,
        namespace: 3,
        shard: 1,
        m_id: 70_001,
    }
}

pub fn durability() -> v1::Durability {
    v1::Durability { level: v1::DurabilityLevel::Peers.into(), peers: 2 }
}

pub fn publication() -> v1::Publication {
    v1::Publication {
        channel: "prices/EUR.USD".into(),
        payload: Bytes::from_static(b"1.0842"),
        key: Bytes::from_static(b"key"),
        traceparent: "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01".into(),
    }
}

pub fn topology() -> v1::Topology {
    v1::Topology {
        version: Some(version()),
        regions: vec![v1::Region { name: "north".into() }],
        groups: vec![v1::Group { number: 1, name: "all".into(), regions: vec!["north".into()] }],
        nodes: vec![v1::Node {
            number: 7,
            name: "north-0".into(),
            region: "north".into(),
            replication_address: "north-0:7401".into(),
            client_address: "north-0:7400".into(),
            state: v1::NodeState::Leaving.into(),
            fencing_token: 12,
            feature_level: 0,
        }],
        namespaces: vec![v1::Namespace {
            number: 3,
            name: "markets".into(),
            groups: vec!["all".into()],
            disk_cap_bytes: 1 << 40,
            retention: None,
            founders: vec![v1::Founder { node: 7, opened: true }],
            leaving: Vec::new(),
        }],
    }
}

pub fn topology_with_retention() -> v1::Topology {
    let mut topology = topology();
    topology.namespaces[0].retention = Some(v1::Retention {
        age_seconds: 604_800,
        bytes: 1 << 34,
        when_full: v1::WhenFull::Release.into(),
    });
    topology
}

pub fn topology_with_a_leaving_node() -> v1::Topology {
    let mut topology = topology_with_retention();
    topology.namespaces[0].leaving = vec![7];
    topology
}

pub fn topology_with_feature_levels() -> v1::Topology {
    let mut topology = topology_with_a_leaving_node();
    topology.nodes[0].feature_level = 2;
    topology
}

pub fn delivered() -> v1::DeliveredMessage {
    v1::DeliveredMessage {
        channel: "prices/EUR.USD".into(),
        epoch: 2,
        message: Some(reference()),
        stamp: 1_700_000_000_000 << 16 | 3,
        key: Bytes::from_static(b"key"),
        possibly_repeated: true,
        payload: Bytes::from_static(b"1.0842"),
        traceparent: "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01".into(),
    }
}

pub fn gap() -> v1::DeliveryGap {
    v1::DeliveryGap {
        reason: v1::GapReason::UnknownBranch.into(),
        log: Some(log()),
        from: 4,
        through: 9,
    }
}

pub fn freshness() -> v1::OriginFreshness {
    v1::OriginFreshness {
        origin: 7,
        name: "north-0".into(),
        last_heard_milliseconds: 1500,
        incarnation: INCARNATION,
        introduced_milliseconds: 90_000,
    }
}

pub fn row() -> v1::LogRow {
    v1::LogRow { log: Some(log()), parents: vec![parent()] }
}

pub fn acknowledged_range() -> v1::AcknowledgedRange {
    v1::AcknowledgedRange {
        first_sequence: 129,
        last_sequence: 131,
        first: Some(reference()),
        already_stored: true,
    }
}

pub fn channel_event() -> v1::ChannelEvent {
    v1::ChannelEvent {
        channel: "prices/EUR.USD".into(),
        epoch: 2,
        kind: v1::ChannelEventKind::Deleted.into(),
        message: None,
    }
}

pub fn follow_run() -> v1::FollowRun {
    v1::FollowRun {
        log: Some(log()),
        row: Some(row()),
        through: 70_001,
        sends: vec![send().encode_to_vec().into()],
    }
}
