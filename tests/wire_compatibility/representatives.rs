//! One representative of each message that is stored or travels, by its stream, with
//! every field set.

use std::fmt;

use bytes::Bytes;
use interlock_wire::v1;
use prost::Message;

use crate::values::{
    INCARNATION, acknowledged_range, channel_event, delivered, digest, durability, follow_run,
    freshness, gap, hash, limits, log, mark, member, offer, parent, presentation, publication,
    reference, row, send, source, stamp, topology, topology_with_a_leaving_node,
    topology_with_feature_levels, topology_with_retention, trace, version,
};

/// Fails where bytes do not decode to the value they stand for.
type Check = Box<dyn Fn(&[u8])>;

/// A message and its bytes.
pub struct Representative {
    /// The message, and after `#` the case where it has several.
    pub name: String,
    /// Its encoding.
    pub bytes: Vec<u8>,
    /// Fails where the bytes do not decode to the value.
    pub check_decode: Check,
}

fn of<M>(name: &str, value: M) -> Representative
where
    M: Message + Default + PartialEq + fmt::Debug + 'static,
{
    let bytes = value.encode_to_vec();
    let name = name.to_owned();
    let called = name.clone();
    let check_decode = Box::new(move |bytes: &[u8]| {
        assert_eq!(M::decode(bytes).as_ref(), Ok(&value), "{called}");
    });
    Representative { name, bytes, check_decode }
}

/// All of them.
pub fn representatives() -> Vec<Representative> {
    let mut all = stored();
    all.extend(replicated());
    all.extend(published());
    all.extend(delivered_to_readers());
    all.extend(followed_by_gateways());
    all.extend(registered());
    all
}

fn stored() -> Vec<Representative> {
    vec![
        of("TopologyVersion", version()),
        of("LogName", log()),
        of("LogMark", mark()),
        of("ParentPoint", parent()),
        of("TraceContext", trace()),
        of("Send", send()),
        of("ChannelPresentation", presentation()),
        of("ChannelSource", source()),
        of("ChannelLimits", limits()),
        of(
            "ChannelOperation",
            v1::ChannelOperation {
                action: v1::ChannelAction::Update.into(),
                presentation: Some(presentation()),
                source: Some(source()),
                limits: Some(limits()),
            },
        ),
        of("RegisterStamp", stamp(5)),
        of(
            "DirectoryEntry",
            v1::DirectoryEntry {
                channel: "prices/EUR.USD".into(),
                epoch: 2,
                deleted: true,
                version: 9,
                defined: true,
                presentation_stamp: Some(stamp(5)),
                presentation: Some(presentation()),
                source_stamp: Some(stamp(6)),
                source: Some(source()),
                limits_stamp: Some(stamp(9)),
                limits: Some(limits()),
            },
        ),
        of(
            "DirectoryEntry#live",
            v1::DirectoryEntry {
                channel: "prices/EUR.USD".into(),
                epoch: 2,
                version: 9,
                defined: true,
                presentation_stamp: Some(stamp(5)),
                presentation: Some(presentation()),
                source_stamp: Some(stamp(6)),
                source: Some(source()),
                limits_stamp: Some(stamp(9)),
                limits: Some(limits()),
                ..Default::default()
            },
        ),
        of("Topology", topology()),
        of("Topology#with-retention", topology_with_retention()),
        of("Topology#with-leaving", topology_with_a_leaving_node()),
        of("Topology#with-feature-levels", topology_with_feature_levels()),
    ]
}

fn replicated() -> Vec<Representative> {
    let request = |case: &str, body| {
        of(&format!("ReplicateRequest#{case}"), v1::ReplicateRequest { body: Some(body) })
    };
    let response = |case: &str, body| {
        of(&format!("ReplicateResponse#{case}"), v1::ReplicateResponse { body: Some(body) })
    };
    let refused = v1::Refused { log: Some(log()), through: 70_001, version: Some(version()) };
    let ack = v1::Ack {
        node: 7,
        incarnation: INCARNATION,
        opened_from: INCARNATION >> 8,
        marks: vec![mark()],
    };
    let beat = v1::Heartbeat { wall_clock: 1_700_000_000_456, namespaces: Vec::new() };
    let trim_point = v1::TrimPoint { log: Some(log()), channel_hash: 0xfeed_f00d, m_id: 41 };
    let frame = v1::Frame {
        log: Some(log()),
        first_m_id: 70_001,
        previous_hash: hash(0xa4),
        age: 250,
        last_age: 0,
        sends: vec![send().encode_to_vec().into(), Bytes::from_static(b"two")],
    };
    vec![
        of("MemberIdentity", member()),
        of("NamespaceDigest", digest()),
        of(
            "Hello",
            v1::Hello {
                protocol_version: 1,
                member: Some(member()),
                topology_version: Some(version()),
                namespaces: vec![digest()],
                feature_level: 2,
                wall_clock: 1_700_000_000_456,
            },
        ),
        of(
            "Welcome",
            v1::Welcome {
                protocol_version: 1,
                member: Some(member()),
                topology_version: Some(version()),
                marks: vec![mark()],
                window_bytes: 8 << 20,
                feature_level: 2,
                wall_clock: 1_700_000_000_456,
                namespaces: Vec::new(),
            },
        ),
        of("LogOffer", offer()),
        of("Offer", v1::Offer { logs: vec![offer()] }),
        of("Want", v1::Want { log: Some(log()), from: 70_001 }),
        of("Unwant", v1::Unwant { log: Some(log()) }),
        of("Frame", frame.clone()),
        of(
            "Hole",
            v1::Hole {
                log: Some(log()),
                from: 4,
                through: 9,
                hash: hash(0xa5),
                stamp: 1_700_000_000_000 << 16,
            },
        ),
        of(
            "BaseEntries",
            v1::BaseEntries {
                namespace: 3,
                directory: vec![Bytes::from_static(b"entry")],
                last: true,
                trim_points: Vec::new(),
            },
        ),
        of("TrimPoint", trim_point),
        of("Frame#with-last-age", v1::Frame { last_age: 120, ..frame.clone() }),
        of(
            "BaseEntries#with-trim-points",
            v1::BaseEntries {
                namespace: 3,
                directory: Vec::new(),
                last: true,
                trim_points: vec![trim_point],
            },
        ),
        of("Heartbeat#with-digests", v1::Heartbeat { namespaces: vec![digest()], ..beat.clone() }),
        of(
            "Welcome#with-digests",
            v1::Welcome {
                protocol_version: 1,
                member: Some(member()),
                topology_version: Some(version()),
                marks: vec![mark()],
                window_bytes: 8 << 20,
                feature_level: 2,
                wall_clock: 1_700_000_000_456,
                namespaces: vec![digest()],
            },
        ),
        of("Ack", ack.clone()),
        of(
            "Nack",
            v1::Nack {
                log: Some(log()),
                expected: 70_001,
                reason: v1::NackReason::ParentMissing.into(),
                detail: "parent".into(),
            },
        ),
        of("Refused", refused),
        of("Heartbeat", beat.clone()),
        request("frame", v1::replicate_request::Body::Frame(frame)),
        request("heartbeat", v1::replicate_request::Body::Heartbeat(beat)),
        request("relayed_ack", v1::replicate_request::Body::RelayedAck(ack.clone())),
        response("ack", v1::replicate_response::Body::Ack(ack)),
        response("refused", v1::replicate_response::Body::Refused(refused)),
    ]
}

fn published() -> Vec<Representative> {
    vec![
        of("MessageReference", reference()),
        of("Publication", publication()),
        of(
            "PublishRequest",
            v1::PublishRequest {
                namespace: "markets".into(),
                publication: Some(publication()),
                session: hash(0xc1),
                sequence: 129,
                durability: Some(durability()),
                possibly_repeated: true,
            },
        ),
        of(
            "PublishResponse",
            v1::PublishResponse {
                message: Some(reference()),
                durable_at: vec!["north-0".into(), "south-0".into()],
                already_stored: true,
            },
        ),
        of(
            "PublishStreamRequest",
            v1::PublishStreamRequest {
                namespace: "markets".into(),
                session: hash(0xc1),
                durability: Some(durability()),
                first_sequence: 129,
                publications: vec![publication()],
                possibly_repeated: true,
            },
        ),
        of("AcknowledgedRange", acknowledged_range()),
        of(
            "PublishStreamResponse",
            v1::PublishStreamResponse {
                acknowledged: vec![acknowledged_range()],
                durable_at: vec!["north-0".into()],
            },
        ),
    ]
}

fn delivered_to_readers() -> Vec<Representative> {
    use v1::delivery::Event;
    use v1::start_position::Position;

    let start = |case: &str, position| {
        of(&format!("StartPosition#{case}"), v1::StartPosition { position: Some(position) })
    };
    let delivery =
        |case: &str, event| of(&format!("Delivery#{case}"), v1::Delivery { event: Some(event) });
    vec![
        start("now", Position::Now(true)),
        start("oldest", Position::Oldest(true)),
        start("last", Position::Last(10)),
        start("time", Position::TimeUnixMilliseconds(1_700_000_000_000)),
        start("cursor", Position::Cursor(Bytes::from_static(b"cursor"))),
        of("LogRow", row()),
        of("DeliveredMessage", delivered()),
        of("DeliveryGap", gap()),
        delivery("message", Event::Message(delivered())),
        delivery("gap", Event::Gap(gap())),
        delivery(
            "channel_event",
            Event::ChannelEvent(v1::DeliveredChannelEvent { event: Some(channel_event()) }),
        ),
        delivery(
            "caught_up",
            Event::CaughtUp(v1::DeliveredCaughtUp { origins: vec![freshness()] }),
        ),
        delivery("moved", Event::Moved(v1::DeliveredMoved { reason: "drain".into() })),
        of(
            "SubscribeResponse",
            v1::SubscribeResponse {
                deliveries: vec![v1::Delivery { event: Some(Event::Gap(gap())) }],
                cursor: Bytes::from_static(b"cursor"),
            },
        ),
    ]
}

/// What a push-node and its gateways say to each other.
fn followed_by_gateways() -> Vec<Representative> {
    use v1::follow_response::Body;

    let response = |case: &str, body| {
        of(&format!("FollowResponse#{case}"), v1::FollowResponse { body: Some(body) })
    };
    let opened = v1::FollowOpened {
        namespace: 3,
        cursor: Bytes::from_static(b"cursor"),
        rows: vec![row()],
        node: "north-0".into(),
    };
    let batch = v1::FollowBatch { runs: vec![follow_run()] };
    let heartbeat = v1::FollowHeartbeat { origins: vec![freshness()], caught_up: true };
    let finished = v1::FollowFinished { cursor: Bytes::from_static(b"cursor") };
    vec![
        of(
            "FollowRequest",
            v1::FollowRequest {
                namespace: "markets".into(),
                start: Some(v1::StartPosition {
                    position: Some(v1::start_position::Position::Oldest(true)),
                }),
                channels: vec!["prices/*".into()],
                until_cursor: Bytes::from_static(b"cursor"),
                until_now: true,
                gateway: "north-gateway-0".into(),
                excluded_origins: vec![7, 300],
            },
        ),
        of("FollowRun", follow_run()),
        of("FollowOpened", opened.clone()),
        of("FollowBatch", batch.clone()),
        of("ChannelEvent", v1::ChannelEvent { message: Some(reference()), ..channel_event() }),
        of("ChannelEvent#unnamed", channel_event()),
        of("OriginFreshness", freshness()),
        of("FollowHeartbeat", heartbeat.clone()),
        of("FollowFinished", finished.clone()),
        of("FollowDraining", v1::FollowDraining {}),
        response("opened", Body::Opened(opened)),
        response("batch", Body::Batch(batch)),
        response("channel_event", Body::ChannelEvent(channel_event())),
        response("gap", Body::Gap(gap())),
        response("heartbeat", Body::Heartbeat(heartbeat)),
        response("finished", Body::Finished(finished)),
        response("draining", Body::Draining(v1::FollowDraining {})),
    ]
}

/// What a push-node and the control-plane say to each other.
fn registered() -> Vec<Representative> {
    vec![
        of(
            "RegisterNodeRequest",
            v1::RegisterNodeRequest {
                name: "north-0".into(),
                region: "north".into(),
                replication_address: "north-0:7001".into(),
                client_address: "north-0:7002".into(),
                incarnation: INCARNATION,
                topology_version: Some(version()),
                feature_level: 1,
            },
        ),
        of(
            "RegisterNodeResponse",
            v1::RegisterNodeResponse {
                number: 7,
                fencing_token: 12,
                lease_milliseconds: 10_000,
                topology: Some(topology()),
            },
        ),
        of(
            "RenewLeaseRequest",
            v1::RenewLeaseRequest {
                number: 7,
                fencing_token: 12,
                incarnation: INCARNATION,
                topology_version: Some(v1::TopologyVersion { generation: 1, number: 300 }),
            },
        ),
        of(
            "RenewLeaseResponse",
            v1::RenewLeaseResponse {
                lease_milliseconds: 10_000,
                fencing_token: 13,
                topology_version: Some(version()),
            },
        ),
        of("WatchTopologyRequest", v1::WatchTopologyRequest { known: Some(version()) }),
        of("WatchTopologyResponse", v1::WatchTopologyResponse { topology: Some(topology()) }),
        of(
            "RecordNamespaceOpenedRequest",
            v1::RecordNamespaceOpenedRequest {
                node: 7,
                fencing_token: 12,
                namespaces: vec![3, 300],
            },
        ),
        of(
            "RecordNamespaceOpenedResponse",
            v1::RecordNamespaceOpenedResponse { topology_version: Some(version()) },
        ),
        of(
            "RecordNamespaceLeftRequest",
            v1::RecordNamespaceLeftRequest {
                node: 7,
                fencing_token: 12,
                namespaces: vec![3, 300],
                topology_version: Some(version()),
            },
        ),
        of(
            "RecordNamespaceLeftResponse",
            v1::RecordNamespaceLeftResponse { topology_version: Some(version()) },
        ),
    ]
}
