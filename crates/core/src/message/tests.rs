//! The encoding against prost, against a constant, and against hostile bytes.

use std::collections::BTreeMap;

use bytes::Bytes;
use interlock_wire::v1;
use proptest::collection::{btree_map, vec};
use proptest::option;
use proptest::prelude::*;
use prost::Message as _;

use super::*;
use crate::clock::WallTime;
use crate::limits::{MAX_CONTENT_BYTES, MAX_LABELS};

fn numbers() -> impl Strategy<Value = u64> {
    // All lengths of varints, and the defaults that are omitted.
    prop_oneof![Just(0), 1..200_u64, any::<u32>().prop_map(u64::from), any::<u64>()]
}

fn contents(limit: usize) -> impl Strategy<Value = Bytes> {
    vec(any::<u8>(), 0..limit).prop_map(Bytes::from)
}

fn parents() -> impl Strategy<Value = ParentPoint> {
    (1_u64.., 1..=MAX_MESSAGE_NUMBER, any::<[u8; 16]>()).prop_map(|(incarnation, m_id, hash)| {
        ParentPoint {
            incarnation: Incarnation::new(incarnation).expect("at least 1"),
            m_id: MessageNumber::new(m_id),
            hash: ChainHash::from_bytes(hash),
        }
    })
}

prop_compose! {
    fn publishers()(session in any::<[u8; 16]>(), sequence in 1_u64..) -> PublisherPosition {
        PublisherPosition {
            session: SessionId::new(session),
            sequence: PublisherSequence::new(sequence),
        }
    }
}

prop_compose! {
    fn traces()(trace_id in any::<[u8; 16]>(), span_id in any::<[u8; 8]>(), flags in any::<u8>()) -> TraceContext {
        TraceContext { trace_id, span_id, flags }
    }
}

prop_compose! {
    fn messages()(
        (m_id, kind, epoch) in (1..=MAX_MESSAGE_NUMBER, 1..=i32::MAX as u32, 1_u64..),
        (stamp, generation, number, version) in (numbers(), numbers(), numbers(), numbers()),
        known_kind in option::of(1..=2_u32),
        groups in vec(any::<u32>(), 0..=MAX_GROUPS_PER_MESSAGE),
        parents in vec(parents(), 0..4),
        channel in "[a-zA-Z0-9_][a-zA-Z0-9._-]{0,120}(/[a-z0-9-]{1,20}){0,3}",
        (key, payload) in (contents(MAX_KEY_BYTES), contents(400)),
        publisher in option::of(publishers()),
        possibly_repeated in any::<bool>(),
        trace in option::of(traces()),
    ) -> Message {
        Message {
            m_id: MessageNumber::new(m_id),
            groups: groups.into_iter().map(GroupNumber::new).collect(),
            kind: MessageKind::from_number(known_kind.unwrap_or(kind)).expect("in range"),
            stamp: HybridTime::new(stamp),
            parents,
            topology_version: TopologyVersion { generation, number },
            channel: ChannelName::parse(&channel).expect("the pattern is narrower").into(),
            epoch: Epoch::new(epoch),
            version: RegisterVersion::new(version),
            key,
            publisher,
            possibly_repeated,
            trace,
            payload,
        }
    }
}

/// The same message as the generated code has it.
fn to_prost(message: &Message) -> v1::Send {
    let version = message.topology_version;
    v1::Send {
        m_id: message.m_id.get(),
        groups: message.groups.iter().map(|group| group.get()).collect(),
        kind: i32::try_from(message.kind.number()).expect("kinds are below i32::MAX"),
        stamp: message.stamp.get(),
        parents: message
            .parents
            .iter()
            .map(|parent| v1::ParentPoint {
                incarnation: parent.incarnation.get(),
                m_id: parent.m_id.get(),
                hash: Bytes::copy_from_slice(&parent.hash.to_bytes()),
            })
            .collect(),
        topology_version: (version != TopologyVersion::default()).then_some(v1::TopologyVersion {
            generation: version.generation,
            number: version.number,
        }),
        channel: message.channel.as_str().to_owned(),
        epoch: message.epoch.get(),
        version: message.version.get(),
        key: message.key.clone(),
        publisher_session: message
            .publisher
            .map(|publisher| Bytes::copy_from_slice(publisher.session.as_bytes()))
            .unwrap_or_default(),
        publisher_sequence: message.publisher.map_or(0, |publisher| publisher.sequence.get()),
        possibly_repeated: message.possibly_repeated,
        trace: message.trace.map(|trace| v1::TraceContext {
            trace_id: Bytes::copy_from_slice(&trace.trace_id),
            span_id: Bytes::copy_from_slice(&trace.span_id),
            flags: trace.flags.into(),
        }),
        payload: message.payload.clone(),
    }
}

fn decode(send: &v1::Send) -> Result<Message, DecodeError> {
    Message::decode(&Bytes::from(send.encode_to_vec()))
}

fn example() -> Message {
    Message {
        m_id: MessageNumber::new(300),
        groups: vec![GroupNumber::new(1), GroupNumber::new(200)],
        kind: MessageKind::Publication,
        stamp: HybridTime::new(0x0192_aabb_ccdd_0007),
        parents: vec![ParentPoint {
            incarnation: Incarnation::new(0x1122_3344_5566_7788).expect("not zero"),
            m_id: MessageNumber::new(299),
            hash: ChainHash::from_bytes([0xab; 16]),
        }],
        topology_version: TopologyVersion { generation: 2, number: 17 },
        channel: ChannelName::parse("prices/EUR").expect("a channel name").into(),
        epoch: Epoch::new(3),
        version: RegisterVersion::new(5),
        key: Bytes::from_static(b"key"),
        publisher: Some(PublisherPosition {
            session: SessionId::new(*b"0123456789abcdef"),
            sequence: PublisherSequence::new(41),
        }),
        possibly_repeated: true,
        trace: Some(TraceContext { trace_id: [0x11; 16], span_id: [0x22; 8], flags: 1 }),
        payload: Bytes::from_static(b"1.0842"),
    }
}

fn hexadecimal(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

proptest! {
    /// METHOD M7: what is sent is the `Send` of the wire contract, byte for byte.
    #[test]
    fn messages_are_what_prost_writes_and_reads(message in messages()) {
        let bytes = message.encode();
        let send = to_prost(&message);
        prop_assert_eq!(hexadecimal(&bytes), hexadecimal(&send.encode_to_vec()));
        prop_assert_eq!(&v1::Send::decode(bytes.clone()).expect("prost reads it"), &send);
        prop_assert_eq!(&Message::decode(&bytes), &Ok(message));
    }

    #[test]
    fn a_head_says_what_the_message_says(message in messages()) {
        let bytes = message.encode();
        let head = MessageHead::decode(&bytes).expect("it was just encoded");
        prop_assert_eq!(head.m_id, message.m_id);
        prop_assert_eq!(head.kind, message.kind);
        prop_assert_eq!(head.stamp, message.stamp);
        prop_assert_eq!(head.topology_version, message.topology_version);
        prop_assert_eq!(head.channel, message.channel.as_str());
        prop_assert_eq!(head.epoch, message.epoch);
        prop_assert_eq!(head.version, message.version);
        prop_assert_eq!(head.key, &message.key);
        prop_assert_eq!(head.publisher(), Ok(message.publisher));
        prop_assert_eq!(head.possibly_repeated, message.possibly_repeated);
        prop_assert_eq!(head.payload, &message.payload);
    }

    #[test]
    fn random_bytes_never_panic(bytes in vec(any::<u8>(), 0..200)) {
        let bytes = Bytes::from(bytes);
        let _ = Message::decode(&bytes);
        let _ = MessageHead::decode(&bytes);
        let _ = ChannelOperation::decode(&bytes);
    }

    /// Whatever is taken can be stored again: it holds every rule.
    #[test]
    fn damaged_messages_never_panic(
        message in messages(),
        damage in vec((any::<prop::sample::Index>(), any::<u8>()), 0..4),
        cut in option::of(any::<prop::sample::Index>()),
    ) {
        let mut bytes = message.encode().to_vec();
        for (at, byte) in damage {
            let at = at.index(bytes.len());
            bytes[at] = byte;
        }
        if let Some(cut) = cut {
            bytes.truncate(cut.index(bytes.len()));
        }
        let bytes = Bytes::from(bytes);
        let _ = MessageHead::decode(&bytes);
        if let Ok(taken) = Message::decode(&bytes) {
            prop_assert_eq!(taken.check(), Ok(()));
            prop_assert_eq!(&Message::decode(&taken.encode()), &Ok(taken));
        }
    }

    #[test]
    fn fields_of_later_builds_are_passed_over(
        message in messages(),
        field in 32..(1_u32 << 29),
        number in any::<u64>(),
        text in vec(any::<u8>(), 0..50),
    ) {
        let mut writer = Writer::new();
        writer.number(field, number);
        writer.fixed64(field, number);
        writer.repeated_bytes(field, &text);
        let mut bytes = writer.into_bytes().to_vec();
        bytes.extend_from_slice(&message.encode());
        prop_assert_eq!(Message::decode(&Bytes::from(bytes)), Ok(message));
    }
}

/// A change of these bytes would break every log and every chain hash there is.
#[test]
fn the_encoding_never_changes() {
    let golden = "08ac02120301c8011801210700ddccbbaa92012a1e09887766554433221110ab021a10ababab\
        ababababababababababababab3204080210113a0a7072696365732f4555524003480552036b\
        65795a103031323334353637383961626364656660296801721e0a1011111111111111111111\
        1111111111111208222222222222222218017a06312e30383432";
    assert_eq!(hexadecimal(&example().encode()), golden);
    assert_eq!(Message::decode(&example().encode()), Ok(example()));
}

#[test]
fn payload_and_key_are_not_copied() {
    let bytes = example().encode();
    let message = Message::decode(&bytes).expect("it was just encoded");
    let range = bytes.as_ptr_range();
    assert!(range.contains(&message.payload.as_ptr()));
    assert!(range.contains(&message.key.as_ptr()));
}

#[test]
fn groups_may_come_unpacked() {
    let mut bytes = vec![0x10, 1, 0x10, 0xc8, 1];
    let packed = example();
    bytes.extend_from_slice(&Message { groups: Vec::new(), ..packed.clone() }.encode());
    assert_eq!(Message::decode(&Bytes::from(bytes)), Ok(packed));
}

#[test]
fn a_kind_of_a_later_build_is_kept() {
    let later = Message { kind: MessageKind::Unknown(77), epoch: Epoch::new(0), ..example() };
    assert_eq!(Message::decode(&later.encode()), Ok(later));
}

/// Of a kind that this build does not know it asks nothing but what it stores it
/// by: its number, its stamp and its size.
#[test]
fn a_kind_of_a_later_build_needs_no_channel() {
    for channel in ["", "a//b", &"x".repeat(300)] {
        let mut send = to_prost(&example());
        send.kind = 77;
        send.channel = channel.to_owned();
        send.key = vec![0; 300].into();
        send.publisher_session = Bytes::from_static(&[1; 3]);
        send.groups.clear();
        trace(&mut send).trace_id = Bytes::new();
        let message = decode(&send).expect("stored and forwarded");
        assert_eq!(message.channel, MessageChannel::Text(channel.to_owned()));
        assert_eq!((message.publisher, message.trace), (None, None));
        assert_eq!(Message::decode(&message.encode()), Ok(message.clone()));
        send.m_id = 0;
        assert_eq!(decode(&send), Err(DecodeError::Missing { field: "m_id" }));
        let known = Message { kind: MessageKind::Publication, groups: vec![], ..message };
        assert!(matches!(known.check(), Err(DecodeError::Channel(_))));
    }
}

#[test]
fn what_breaks_a_rule_is_refused() {
    type Break = fn(&mut v1::Send);
    let missing = |field| DecodeError::Missing { field };
    let length = |field, expected, actual| DecodeError::Length { field, expected, actual };
    let over = |field, limit: usize| DecodeError::OverLimit { field, limit: limit as u64 };
    let cases: Vec<(Break, DecodeError)> = vec![
        (|send| send.m_id = 0, missing("m_id")),
        (|send| send.m_id = u64::MAX, over("m_id", MAX_MESSAGE_NUMBER as usize)),
        (|send| send.kind = 0, missing("kind")),
        (|send| send.kind = -1, WireError::NumberTooLarge { field: 3 }.into()),
        (|send| send.epoch = 0, missing("epoch")),
        (|send| send.channel.clear(), missing("channel")),
        (|send| send.channel = "a//b".into(), NameError::Segment.into()),
        (
            |send| send.channel = "x".repeat(257),
            NameError::TooLong { bytes: 257, limit: 256 }.into(),
        ),
        (|send| send.parents[0].incarnation = 0, missing("a parent's incarnation")),
        (|send| send.parents[0].m_id = 0, missing("m_id")),
        (
            |send| send.parents[0].hash = Bytes::from_static(&[0; 15]),
            length("a parent's hash", 16, 15),
        ),
        (|send| send.parents = vec![send.parents[0].clone(); 257], over("parents", MAX_PARENTS)),
        (|send| send.groups = vec![1; 65], over("groups", MAX_GROUPS_PER_MESSAGE)),
        (
            |send| send.publisher_session = Bytes::from_static(&[1; 17]),
            length("publisher_session", 16, 17),
        ),
        (|send| send.publisher_session = Bytes::new(), length("publisher_session", 16, 0)),
        (|send| send.publisher_sequence = 0, missing("publisher_sequence")),
        (|send| trace(send).trace_id = Bytes::from_static(&[1; 8]), length("trace_id", 16, 8)),
        (|send| trace(send).span_id = Bytes::new(), length("span_id", 8, 0)),
        (|send| trace(send).flags = 256, over("trace flags", 255)),
        (|send| send.key = vec![0; 257].into(), over("key", MAX_KEY_BYTES)),
        (
            |send| send.payload = vec![0; MAX_PAYLOAD_BYTES + 1].into(),
            over("payload", MAX_PAYLOAD_BYTES),
        ),
        (|send| send.payload = vec![0; MAX_SEND_BYTES].into(), over("the message", MAX_SEND_BYTES)),
    ];
    assert!(decode(&to_prost(&example())).is_ok());
    for (spoil, expected) in cases {
        let mut send = to_prost(&example());
        spoil(&mut send);
        assert_eq!(decode(&send), Err(expected));
    }
}

fn trace(send: &mut v1::Send) -> &mut v1::TraceContext {
    send.trace.as_mut().expect("the example is traced")
}

/// What `decode` would refuse is not to be stored in the first place.
#[test]
fn what_could_not_be_read_again_is_refused() {
    type Break = fn(&mut Message);
    let cases: [(Break, &str); 9] = [
        (|it| it.m_id = MessageNumber::ZERO, "m_id is missing"),
        (|it| it.kind = MessageKind::Unknown(0), "kind is missing"),
        (|it| it.kind = MessageKind::Unknown(1), "kind is missing"),
        (|it| it.epoch = Epoch::new(0), "epoch is missing"),
        (|it| it.parents[0].m_id = MessageNumber::ZERO, "m_id is missing"),
        (|it| it.groups = vec![GroupNumber::new(1); 65], "groups is beyond its limit of 64"),
        (
            |it| it.publisher.as_mut().unwrap().sequence = PublisherSequence::new(0),
            "publisher_sequence is missing",
        ),
        (|it| it.key = vec![0; 257].into(), "key is beyond its limit of 256"),
        (
            |it| it.payload = vec![0; MAX_PAYLOAD_BYTES + 1].into(),
            "payload is beyond its limit of 1048576",
        ),
    ];
    assert_eq!(example().check(), Ok(()));
    for (spoil, expected) in cases {
        let mut message = example();
        spoil(&mut message);
        assert_eq!(message.check().map_err(|error| error.to_string()), Err(expected.to_owned()));
    }
}

#[test]
fn the_largest_payloads_are_taken() {
    let publication =
        Message { payload: vec![7; MAX_PAYLOAD_BYTES].into(), parents: Vec::new(), ..example() };
    assert_eq!(Message::decode(&publication.encode()), Ok(publication));
    let operation = ChannelOperation {
        source: Some(Source { content: vec![7; MAX_CONTENT_BYTES].into(), ..Source::default() }),
        ..full_operation()
    };
    assert_eq!(operation.check(), Ok(()));
    let message =
        Message { kind: MessageKind::ChannelOperation, payload: operation.encode(), ..example() };
    assert_eq!(message.check(), Ok(()));
    let decoded = Message::decode(&message.encode()).expect("it was just encoded");
    assert_eq!(ChannelOperation::decode(&decoded.payload), Ok(operation));
}

prop_compose! {
    fn presentations()(
        description in ".{0,200}",
        labels in btree_map(".{0,20}", ".{0,60}", 0..6),
    ) -> Presentation {
        Presentation { description, labels }
    }
}

prop_compose! {
    fn sources()(
        path in ".{0,40}",
        content in contents(300),
        digest in option::of(any::<[u8; 32]>()),
        etag in ".{0,20}",
        media_type in "[a-z/]{0,20}",
        fetched_at in numbers(),
    ) -> Source {
        Source { path, content, digest, etag, media_type, fetched_at: WallTime::new(fetched_at) }
    }
}

prop_compose! {
    fn operations()(
        action in prop::sample::select(
            vec![ChannelAction::Create, ChannelAction::Update, ChannelAction::Delete],
        ),
        presentation in option::of(presentations()),
        source in option::of(sources()),
        limits in option::of((any::<u32>(), any::<u32>())),
    ) -> ChannelOperation {
        let limits = limits.map(|(max_payload_bytes, max_publications_per_second)| {
            ChannelLimits { max_payload_bytes, max_publications_per_second }
        });
        ChannelOperation { action, presentation, source, limits }
    }
}

fn operation_to_prost(operation: &ChannelOperation) -> v1::ChannelOperation {
    v1::ChannelOperation {
        action: i32::try_from(operation.action.number()).expect("three actions"),
        presentation: operation
            .presentation
            .clone()
            .map(|it| v1::ChannelPresentation { description: it.description, labels: it.labels }),
        source: operation.source.clone().map(|it| v1::ChannelSource {
            path: it.path,
            content: it.content,
            digest: it.digest.map(|digest| Bytes::copy_from_slice(&digest)).unwrap_or_default(),
            etag: it.etag,
            media_type: it.media_type,
            fetched_at: it.fetched_at.get(),
        }),
        limits: operation.limits.map(|it| v1::ChannelLimits {
            max_payload_bytes: it.max_payload_bytes,
            max_publications_per_second: it.max_publications_per_second,
        }),
    }
}

fn full_operation() -> ChannelOperation {
    ChannelOperation {
        action: ChannelAction::Update,
        presentation: Some(Presentation {
            description: "Prices".into(),
            labels: BTreeMap::from([("team".into(), "fx".into()), ("tier".into(), String::new())]),
        }),
        source: Some(Source {
            path: "/prices.json".into(),
            content: Bytes::from_static(b"{}"),
            digest: Some([0xcd; 32]),
            etag: "\"7\"".into(),
            media_type: "application/json".into(),
            fetched_at: WallTime::new(1_700_000_000_000),
        }),
        limits: Some(ChannelLimits { max_payload_bytes: 1024, max_publications_per_second: 5 }),
    }
}

proptest! {
    #[test]
    fn operations_are_what_prost_writes_and_reads(operation in operations()) {
        let bytes = operation.encode();
        let expected = operation_to_prost(&operation);
        prop_assert_eq!(hexadecimal(&bytes), hexadecimal(&expected.encode_to_vec()));
        let read = v1::ChannelOperation::decode(bytes.clone()).expect("prost reads it");
        prop_assert_eq!(read, expected);
        prop_assert_eq!(ChannelOperation::decode(&bytes), Ok(operation));
    }

    #[test]
    fn damaged_operations_never_panic(
        operation in operations(),
        at in any::<prop::sample::Index>(),
        byte in any::<u8>(),
        cut in any::<prop::sample::Index>(),
    ) {
        let mut bytes = operation.encode().to_vec();
        let at = at.index(bytes.len());
        bytes[at] = byte;
        bytes.truncate(cut.index(bytes.len()) + 1);
        if let Ok(taken) = ChannelOperation::decode(&Bytes::from(bytes)) {
            prop_assert_eq!(taken.check(), Ok(()));
        }
    }
}

#[test]
fn the_encoding_of_operations_never_changes() {
    let golden = "0802121c0a06507269636573120a0a047465616d1202667812060a04746965721a520a0c2f70\
        72696365732e6a736f6e12027b7d1a20cdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcd\
        cdcdcdcdcdcdcdcdcdcd22032237222a106170706c69636174696f6e2f6a736f6e3080d095ff\
        bc3122050880081005";
    assert_eq!(hexadecimal(&full_operation().encode()), golden);
}

#[test]
fn operations_beyond_their_limits_are_refused() {
    type Break = fn(&mut v1::ChannelOperation);
    let over = |field, limit| OperationError::OverLimit { field, limit };
    let cases: Vec<(Break, OperationError)> = vec![
        (|it| it.action = 0, OperationError::UnknownAction { number: 0 }),
        (|it| it.action = 9, OperationError::UnknownAction { number: 9 }),
        (|it| presentation(it).description = "x".repeat(4097), over("description", 4096)),
        (
            |it| presentation(it).labels = (0..65).map(|i| (i.to_string(), "".into())).collect(),
            over("labels", MAX_LABELS),
        ),
        (
            |it| drop(presentation(it).labels.insert("x".repeat(257), "".into())),
            over("a label's key", 256),
        ),
        (
            |it| drop(presentation(it).labels.insert("a".into(), "x".repeat(257))),
            over("a label's value", 256),
        ),
        (|it| source(it).path = "x".repeat(2049), over("source.path", 2048)),
        (
            |it| source(it).content = vec![0; MAX_CONTENT_BYTES + 1].into(),
            over("source.content", MAX_CONTENT_BYTES),
        ),
        (
            |it| source(it).digest = Bytes::from_static(&[1; 31]),
            OperationError::DigestLength { actual: 31 },
        ),
        (|it| source(it).etag = "x".repeat(1025), over("source.etag", 1024)),
        (|it| source(it).media_type = "x".repeat(256), over("source.media_type", 255)),
    ];
    for (spoil, expected) in cases {
        let mut operation = operation_to_prost(&full_operation());
        spoil(&mut operation);
        let bytes = Bytes::from(operation.encode_to_vec());
        assert_eq!(ChannelOperation::decode(&bytes), Err(expected));
    }
}

fn presentation(operation: &mut v1::ChannelOperation) -> &mut v1::ChannelPresentation {
    operation.presentation.as_mut().expect("the operation sets it")
}

fn source(operation: &mut v1::ChannelOperation) -> &mut v1::ChannelSource {
    operation.source.as_mut().expect("the operation sets it")
}
