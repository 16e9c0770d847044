use std::sync::Arc;

use bytes::Bytes;
use interlock_core::clock::{HybridTime, WallTime};
use interlock_core::identity::{
    ChainHash, Epoch, FeatureLevel, FencingToken, GroupNumber, Incarnation, LogName, Mark,
    MemberOpening, MessageName, MessageNumber, NamespaceNumber, NodeNumber, ParentPoint,
    RegisterVersion, ShardNumber, TopologyVersion,
};
use interlock_core::limits::{MAX_FRAME_MESSAGES, MAX_MESSAGE_NUMBER, MAX_PAYLOAD_BYTES};
use interlock_core::names::{GroupName, NamespaceName, NodeName, RegionName};
use interlock_core::projection::channel_index::ChannelHash;
use interlock_core::replication::frames::{
    BaseEntries, Fact, Frame, Heartbeat, Hello, Hole, LogOffer, Member, Nack, NackReason,
    NamespaceDigest, Offer, ReceiverFrame, Refused, SenderFrame, TrimPoint, Unwant, Want, Welcome,
};
use interlock_core::replication::rows::Row;
use interlock_core::topology::{
    Founder, Group, Namespace, Node, NodeState, Retention, Topology, WhenFull,
};
use proptest::prelude::*;
use prost::Message as _;

use super::publish::Durability;
use super::*;
use crate::v1;

fn incarnation(bits: u64) -> Incarnation {
    Incarnation::new(bits).expect("not zero")
}

fn log() -> LogName {
    LogName {
        namespace: NamespaceNumber::new(3),
        shard: ShardNumber::new(0),
        origin: NodeNumber::new(7),
        incarnation: incarnation(0xfeed_beef),
    }
}

fn mark(m_id: u64) -> Mark {
    Mark { m_id: MessageNumber::new(m_id), hash: ChainHash::EMPTY.then(&m_id.to_be_bytes()) }
}

fn member() -> Member {
    Member {
        opening: MemberOpening {
            node: NodeNumber::new(7),
            incarnation: incarnation(0xfeed_beef),
            opened_from: Incarnation::new(0xfeed),
        },
        name: NodeName::parse("north-0").expect("valid"),
        region: RegionName::parse("north").expect("valid"),
        fencing_token: FencingToken::new(12),
    }
}

fn topology() -> Topology {
    let region = RegionName::parse("north").expect("valid");
    let group = GroupName::parse("all").expect("valid");
    let node = |number, name, state| Node {
        number: NodeNumber::new(number),
        name: NodeName::parse(name).expect("valid"),
        region: region.clone(),
        replication_address: format!("{name}:7400"),
        client_address: format!("{name}:7401"),
        state,
        fencing_token: FencingToken::new(u64::from(number)),
        feature_level: FeatureLevel::new(number),
    };
    Topology {
        version: TopologyVersion { generation: 2, number: 9 },
        regions: vec![region.clone()],
        groups: vec![Group {
            number: GroupNumber::new(1),
            name: group.clone(),
            regions: vec![region.clone()],
        }],
        nodes: vec![
            node(1, "north-0", NodeState::Active),
            node(2, "north-1", NodeState::Leaving),
            node(3, "north-2", NodeState::Removed),
        ],
        namespaces: vec![Namespace {
            number: NamespaceNumber::new(1),
            name: NamespaceName::parse("news").expect("valid"),
            groups: vec![group],
            disk_cap_bytes: 1 << 40,
            retention: Retention {
                age_seconds: 86_400,
                bytes: 1 << 30,
                when_full: WhenFull::Release,
            },
            founders: vec![Founder { node: NodeNumber::new(1), opened: true }],
            leaving: vec![NodeNumber::new(2)],
        }],
    }
}

fn sender_frames() -> Vec<SenderFrame> {
    let version = TopologyVersion { generation: 1, number: 4 };
    let parent = ParentPoint {
        incarnation: incarnation(5),
        m_id: MessageNumber::new(9),
        hash: mark(9).hash,
    };
    vec![
        SenderFrame::Hello(Hello {
            protocol_version: 1,
            member: member(),
            topology_version: version,
            namespaces: vec![NamespaceDigest {
                namespace: NamespaceNumber::new(3),
                tips: [1; 16],
                state: [2; 16],
            }],
            feature_level: FeatureLevel::new(2),
            wall_clock: WallTime::new(1_700_000_000_000),
        }),
        SenderFrame::Offer(Offer {
            logs: vec![LogOffer {
                log: log(),
                parents: vec![parent],
                tip: mark(12),
                floor: MessageNumber::new(4),
            }],
        }),
        SenderFrame::Frame(Frame {
            log: log(),
            first_m_id: MessageNumber::new(10),
            previous_hash: mark(9).hash,
            age_milliseconds: 17,
            last_age_milliseconds: 5,
            sends: vec![Bytes::from_static(b"one"), Bytes::from_static(b"two")],
        }),
        SenderFrame::Hole(Hole {
            log: log(),
            from: MessageNumber::new(3),
            through: mark(5),
            stamp: HybridTime::new(99),
        }),
        SenderFrame::BaseEntries(BaseEntries {
            namespace: NamespaceNumber::new(3),
            directory: vec![Bytes::from_static(b"entry")],
            trim_points: vec![TrimPoint {
                log: log(),
                channel: ChannelHash::of("news"),
                m_id: MessageNumber::new(7),
            }],
            last: true,
        }),
        SenderFrame::Topology(Arc::new(topology())),
        SenderFrame::Heartbeat(Heartbeat::at(WallTime::new(5))),
        SenderFrame::RelayedAck(Fact { opening: member().opening, marks: vec![(log(), mark(3))] }),
        SenderFrame::Refused(Refused { log: log(), through: MessageNumber::new(8), version }),
    ]
}

fn receiver_frames() -> Vec<ReceiverFrame> {
    let version = TopologyVersion { generation: 1, number: 4 };
    let nack = |reason| {
        ReceiverFrame::Nack(Nack {
            log: log(),
            expected: MessageNumber::new(6),
            reason,
            detail: "for people".into(),
        })
    };
    let mut new = member();
    new.opening.opened_from = None;
    vec![
        ReceiverFrame::Welcome(Welcome {
            protocol_version: 1,
            member: new,
            topology_version: version,
            marks: vec![(log(), mark(3))],
            namespaces: Vec::new(),
            window_bytes: 8 << 20,
            feature_level: FeatureLevel::new(1),
            wall_clock: WallTime::new(9),
        }),
        ReceiverFrame::Want(Want { log: log(), from: MessageNumber::new(1) }),
        ReceiverFrame::Unwant(Unwant { log: log() }),
        ReceiverFrame::Ack(Fact { opening: member().opening, marks: vec![(log(), mark(0))] }),
        nack(NackReason::OutOfOrder),
        nack(NackReason::ParentMissing),
        nack(NackReason::ContentDiffers),
        nack(NackReason::Invalid),
        ReceiverFrame::Refused(Refused { log: log(), through: MessageNumber::new(8), version }),
        ReceiverFrame::Heartbeat(Heartbeat::at(WallTime::new(5))),
        ReceiverFrame::Topology(Arc::new(topology())),
    ]
}

#[test]
fn replication_frames_survive_the_wire() {
    for frame in sender_frames() {
        let bytes = frame.clone().into_wire().encode_to_vec();
        let read = v1::ReplicateRequest::decode(bytes.as_slice()).expect("just written");
        assert_eq!(read.into_core(), Ok(frame));
    }
    for frame in receiver_frames() {
        let bytes = frame.clone().into_wire().encode_to_vec();
        let read = v1::ReplicateResponse::decode(bytes.as_slice()).expect("just written");
        assert_eq!(read.into_core(), Ok(frame));
    }
}

#[test]
fn messages_pass_through_a_frame_without_a_copy() {
    let mut frames = sender_frames().into_iter();
    let frame = frames.find(|frame| matches!(frame, SenderFrame::Frame(_))).expect("among them");
    let bytes = Bytes::from(frame.into_wire().encode_to_vec());
    let read = v1::ReplicateRequest::decode(bytes.clone()).expect("just written");
    let Ok(SenderFrame::Frame(frame)) = read.into_core() else { panic!("a frame was written") };
    let buffer = bytes.as_ptr_range();
    for send in &frame.sends {
        assert!(buffer.contains(&send.as_ptr()), "copied out of the receive buffer");
    }
}

fn refused_field<W: IntoCore>(wire: W) -> String
where
    W::Core: std::fmt::Debug,
{
    wire.into_core().expect_err("breaks a rule").field
}

#[test]
fn errors_name_the_field_that_is_wrong() {
    use v1::replicate_request::Body;
    let request = |body| v1::ReplicateRequest { body: Some(body) };
    let frame = |frame: v1::Frame| request(Body::Frame(frame));
    let good = v1::Frame { log: Some(log().into_wire()), first_m_id: 1, ..Default::default() };

    assert_eq!(refused_field(v1::ReplicateRequest { body: None }), "body");
    assert_eq!(refused_field(frame(v1::Frame { log: None, ..good.clone() })), "frame.log");
    let nameless = v1::LogName { incarnation: 0, ..log().into_wire() };
    let nameless = v1::Frame { log: Some(nameless), ..good.clone() };
    assert_eq!(refused_field(frame(nameless)), "frame.log.incarnation");
    let zero = v1::Frame { first_m_id: 0, ..good.clone() };
    assert_eq!(refused_field(frame(zero)), "frame.first_m_id");
    let high = v1::Frame { first_m_id: MAX_MESSAGE_NUMBER + 1, ..good.clone() };
    assert_eq!(refused_field(frame(high)), "frame.first_m_id");
    let short = v1::Frame { previous_hash: Bytes::from_static(b"short"), ..good.clone() };
    assert_eq!(refused_field(frame(short)), "frame.previous_hash");
    let many = v1::Frame { sends: vec![Bytes::new(); MAX_FRAME_MESSAGES + 1], ..good };
    assert_eq!(refused_field(frame(many)), "frame.sends");

    let mut wire = (&topology()).into_wire();
    wire.nodes[1].name = "North".into();
    let field = refused_field(request(Body::Topology(wire)));
    assert_eq!(field, "topology.nodes[1].name");
    let mut contradiction = (&topology()).into_wire();
    contradiction.nodes[1].number = 1;
    assert_eq!(refused_field(request(Body::Topology(contradiction))), "topology");

    let backwards =
        v1::Hole { log: Some(log().into_wire()), from: 5, through: 4, ..Default::default() };
    assert_eq!(refused_field(request(Body::Hole(backwards))), "hole.through");
}

#[test]
fn what_a_later_build_says_is_not_taken_for_something_else() {
    let nack = v1::Nack { log: Some(log().into_wire()), reason: 77, ..Default::default() };
    assert_eq!(refused_field(nack), "reason");
    let durability = v1::Durability { level: 9, peers: 0 };
    assert_eq!(refused_field(durability), "level");
    let mut wire = (&topology()).into_wire();
    wire.nodes[0].state = 9;
    assert_eq!(refused_field(wire), "nodes[0].state");
}

#[test]
fn durability_is_local_unless_asked() {
    assert_eq!(publish::durability(None), Ok(Durability::Local));
    assert_eq!(publish::durability(Some(v1::Durability::default())), Ok(Durability::Local));
    for durability in [Durability::Local, Durability::Peers(2), Durability::All] {
        assert_eq!(durability.into_wire().into_core(), Ok(durability));
    }
    let no_peers = v1::Durability { level: v1::DurabilityLevel::Peers.into(), peers: 0 };
    assert_eq!(refused_field(no_peers), "peers");
    let too_many = v1::Durability { level: v1::DurabilityLevel::All.into(), peers: 2 };
    assert_eq!(refused_field(too_many), "peers");
}

#[test]
fn publications_keep_their_limits() {
    let good = v1::Publication {
        channel: "prices/EUR.USD".into(),
        payload: Bytes::from(vec![0; MAX_PAYLOAD_BYTES]),
        key: Bytes::new(),
        traceparent: "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01".into(),
    };
    let publication = good.clone().into_core().expect("at the limit");
    assert_eq!(publication.payload.as_ptr(), good.payload.as_ptr());
    assert!(publication.trace.is_some());

    let broken = v1::Publication { traceparent: "00-nonsense".into(), ..good.clone() };
    assert_eq!(broken.into_core().expect("a broken context is dropped").trace, None);
    let large = Bytes::from(vec![0; MAX_PAYLOAD_BYTES + 1]);
    let list = vec![good.clone(), v1::Publication { payload: large, ..good.clone() }];
    let error = publish::publications(list).expect_err("too large");
    assert_eq!((error.index, error.field.field.as_str()), (Some(1), "publications[1].payload"));
    let unnamed = v1::Publication { channel: String::new(), ..good };
    assert_eq!(
        publish::publication(Some(unnamed)).expect_err("no channel").field,
        "publication.channel"
    );
    assert_eq!(publish::publication(None).expect_err("nothing").field, "publication");
    assert_eq!(publish::sequence(0, "sequence").expect_err("from 1 on").field, "sequence");
}

#[test]
fn starts_survive_the_wire() {
    use interlock_core::cursor::Cursor;
    use interlock_core::replication::rows::Rows;

    use super::delivery::{StartPosition, start_position};

    let mut rows = Rows::default();
    rows.insert(Row { log: log(), parents: Vec::new() }).expect("the first");
    let mut cursor = Cursor::new(log().namespace);
    cursor.advance(MessageName { log: log(), m_id: MessageNumber::new(4) }, &rows);
    for start in [
        StartPosition::Now,
        StartPosition::Oldest,
        StartPosition::Last(10),
        StartPosition::Time(WallTime::new(77)),
        StartPosition::Cursor(cursor.clone()),
    ] {
        assert_eq!(start_position(Some(start.into_wire())), Ok(start));
    }
    assert_eq!(start_position(None), Ok(StartPosition::Now));

    let damaged = v1::start_position::Position::Cursor(Bytes::from_static(b"damaged"));
    let damaged = v1::StartPosition { position: Some(damaged) };
    assert_eq!(start_position(Some(damaged)).expect_err("no cursor").field, "start.cursor");
    let start = StartPosition::Cursor(cursor);
    assert!(start.check_namespace(NamespaceNumber::new(3)).is_ok());
    assert!(start.check_namespace(NamespaceNumber::new(4)).is_err());
}

#[test]
fn the_etag_that_is_read_with_a_channel_is_the_one_that_edits_are_compared_by() {
    use interlock_core::admission::{EditCondition, Etag};
    use interlock_core::directory::Directory;
    use interlock_core::message::{ChannelAction, ChannelOperation, Message, MessageKind};
    use interlock_core::names::ChannelName;

    let name = ChannelName::parse("news").expect("a name");
    let creation = Message {
        m_id: MessageNumber::new(1),
        groups: Vec::new(),
        kind: MessageKind::ChannelOperation,
        stamp: HybridTime::new(5),
        parents: Vec::new(),
        topology_version: TopologyVersion::default(),
        channel: name.clone().into(),
        epoch: Epoch::new(2),
        version: RegisterVersion::new(15),
        key: Bytes::new(),
        publisher: None,
        possibly_repeated: false,
        trace: None,
        payload: ChannelOperation::new(ChannelAction::Create).encode(),
    };
    let mut directory = Directory::default();
    directory.apply(&MessageName { log: log(), m_id: creation.m_id }, &creation);
    let definition = directory.get(&name).expect("it was created");
    let namespace = NamespaceName::parse("demo").expect("a name");
    let read = channel::channel(&namespace, &name, definition);
    let condition = EditCondition { epoch: Some(Epoch::new(2)), etag: Some(Etag::of(definition)) };
    assert_eq!(channel::condition(read.epoch, &read.etag), Ok(condition));
    assert_eq!(channel::condition(0, ""), Ok(EditCondition::default()));
    for wrong in ["2", "2.15", "2.15-", "02.15-0000000000000000", "2.15-0", "W/\"2.15\""] {
        assert_eq!(channel::condition(0, wrong).expect_err(wrong).field, "etag");
    }
}

#[test]
fn what_peers_say_keeps_its_limits() {
    use interlock_core::limits::{
        MAX_BASE_ENTRIES_PER_FRAME, MAX_NACK_DETAIL_BYTES, MAX_NAMESPACES,
    };

    let namespaces = vec![v1::NamespaceDigest::default(); MAX_NAMESPACES + 1];
    let hello = v1::Hello { namespaces, ..Default::default() };
    assert_eq!(hello.into_core().expect_err("too many").field, "namespaces");

    let entries =
        |count| v1::BaseEntries { directory: vec![Bytes::new(); count], ..Default::default() };
    let most = entries(MAX_BASE_ENTRIES_PER_FRAME).into_core().expect("at the limit");
    assert_eq!(most.directory.len(), MAX_BASE_ENTRIES_PER_FRAME);
    let more = entries(MAX_BASE_ENTRIES_PER_FRAME + 1);
    assert_eq!(more.into_core().expect_err("too many").field, "directory");

    // The text is cut, in front of the character that would not fit.
    let nack = v1::Nack {
        log: Some(log().into_wire()),
        expected: 1,
        reason: v1::NackReason::Invalid.into(),
        detail: format!("{}ü", "x".repeat(MAX_NACK_DETAIL_BYTES - 1)),
    };
    let nack = nack.into_core().expect("only longer than is kept");
    assert_eq!(nack.detail, "x".repeat(MAX_NACK_DETAIL_BYTES - 1));
}

#[test]
fn a_source_cannot_leave_its_web_origin() {
    for good in ["", "/", "/pages/a.html?x=1#y", "/a/..b/..."] {
        assert_eq!(channel::source(good.into()).expect(good).path, good);
    }
    for wrong in [
        "pages/a",
        "//elsewhere.example/",
        "http://elsewhere.example/",
        "/a/../b",
        "/.",
        "/a\\b",
        "/a\nb",
    ] {
        assert_eq!(channel::source(wrong.into()).expect_err(wrong).field, "source");
    }
    assert_eq!(
        channel::source(format!("/{}", "x".repeat(4096))).expect_err("long").field,
        "source"
    );
}

#[test]
fn definitions_are_shown_and_their_limits_named() {
    use interlock_core::directory::Directory;
    use interlock_core::message::{ChannelAction, ChannelOperation, Message, MessageKind, Source};
    use interlock_core::names::ChannelName;

    let name = ChannelName::parse("pages/start").expect("valid");
    let mut operation = ChannelOperation::new(ChannelAction::Create);
    let labels = [("team".to_owned(), "web".to_owned())].into();
    operation.presentation = Some(channel::presentation("Start".into(), labels).expect("small"));
    operation.limits = Some(channel::limits(1024, 10).expect("small"));
    operation.source = Some(Source {
        path: "/start".into(),
        content: Bytes::from_static(b"hello"),
        digest: Some([0xab; 32]),
        etag: "\"7\"".into(),
        media_type: "text/html".into(),
        fetched_at: WallTime::new(9),
    });
    let message = Message {
        m_id: MessageNumber::new(1),
        groups: vec![GroupNumber::new(1)],
        kind: MessageKind::ChannelOperation,
        stamp: HybridTime::new(5),
        parents: Vec::new(),
        topology_version: TopologyVersion::default(),
        channel: name.clone().into(),
        epoch: Epoch::new(1),
        version: RegisterVersion::new(1),
        key: Bytes::new(),
        publisher: None,
        possibly_repeated: false,
        trace: None,
        payload: operation.encode(),
    };
    let mut directory = Directory::new();
    directory.apply(&MessageName { log: log(), m_id: MessageNumber::new(1) }, &message);
    let definition = directory.get(&name).expect("just created");
    let namespace = NamespaceName::parse("news").expect("valid");

    let shown = channel::channel(&namespace, &name, definition);
    assert_eq!((shown.namespace.as_str(), shown.name.as_str()), ("news", "pages/start"));
    assert_eq!(shown.epoch, 1);
    assert_eq!(shown.labels.get("team").map(String::as_str), Some("web"));
    assert_eq!((shown.max_payload_bytes, shown.max_publications_per_second), (1024, 10));
    assert!(!shown.provisional && !shown.deleted);
    let content = shown.content.expect("fetched");
    assert_eq!((content.size_bytes, content.digest), (5, "ab".repeat(32)));

    let labels = [("x".repeat(300), String::new())].into();
    let error = channel::presentation(String::new(), labels).expect_err("a long key");
    assert_eq!(error.field, "labels");
    let error = channel::presentation("x".repeat(5000), BTreeMap::new()).expect_err("long");
    assert_eq!(error.field, "description");
    let error = channel::limits(u32::MAX, 0).expect_err("above the mesh's own limit");
    assert_eq!(error.field, "max_payload_bytes");
}

use std::collections::BTreeMap;

proptest! {
    /// Whatever bytes a peer sends, the edge answers with a frame or an error.
    #[test]
    fn hostile_bytes_never_panic(bytes in proptest::collection::vec(any::<u8>(), 0..512)) {
        if let Ok(request) = v1::ReplicateRequest::decode(bytes.as_slice()) {
            let _ = request.into_core();
        }
        if let Ok(response) = v1::ReplicateResponse::decode(bytes.as_slice()) {
            let _ = response.into_core();
        }
    }

    /// What passes the checks is what was said.
    #[test]
    fn marks_and_names_round_trip(
        origin in any::<u32>(),
        bits in 1_u64..,
        namespace in any::<u32>(),
        shard in any::<u16>(),
        m_id in 0..=MAX_MESSAGE_NUMBER,
        hash in any::<[u8; 16]>(),
    ) {
        let log = LogName {
            namespace: NamespaceNumber::new(namespace),
            shard: ShardNumber::new(shard),
            origin: NodeNumber::new(origin),
            incarnation: incarnation(bits),
        };
        let m_id = MessageNumber::new(m_id);
        let mark = (log, Mark { m_id, hash: ChainHash::from_bytes(hash) });
        prop_assert_eq!(mark.into_wire().into_core(), Ok(mark));
        let name = MessageName { log, m_id };
        prop_assert_eq!(name.into_wire().into_core(), Ok(name));
    }
}
