//! How many publications one thread admits: `cargo run --release -p
//! interlock-core --example admission_rate`.
//!
//! Measures the decision alone: session, channel, stamp, encoding, chain hash
//! and log table, in batches as the log writer takes them, with 128-byte
//! payloads over 1,000 channels and 8 sessions; then what a receiver does with
//! the same messages in frames.

use std::sync::Arc;
use std::time::Instant;

use bytes::Bytes;
use interlock_core::admission::{
    Admission, AppendEntry, ChannelChange, ChannelDraft, ChannelEdit, FrameOutcome, NewPublication,
    Published, RecoveredState,
};
use interlock_core::clock::WallTime;
use interlock_core::identity::{
    ChainHash, FeatureLevel, FencingToken, GroupNumber, Incarnation, Mark, MemberOpening,
    NamespaceNumber, NodeNumber, PublisherSequence, SessionId, TopologyVersion,
};
use interlock_core::message::PublisherPosition;
use interlock_core::names::{ChannelName, GroupName, NamespaceName, NodeName, RegionName};
use interlock_core::replication::frames::Frame;
use interlock_core::replication::log_table::NoHistory;
use interlock_core::topology::{Group, Namespace, Node, NodeState, Retention, Topology};

const CHANNELS: usize = 1_000;
const SESSIONS: usize = 8;
const BATCH: usize = 1_024;
const BATCHES: usize = 2_000;
const PAYLOAD_BYTES: usize = 128;
const NAMESPACE: NamespaceNumber = NamespaceNumber::new(1);

fn main() {
    let topology = Arc::new(topology());
    let mut origin = member(1, &topology);
    let mut receiver = member(2, &topology);
    let now = WallTime::new(1_700_000_000_000);

    let channels: Vec<ChannelName> = (0..CHANNELS)
        .map(|number| ChannelName::parse(&format!("prices/instrument-{number}")))
        .collect::<Result<_, _>>()
        .expect("names are well-formed");
    let mut created = Vec::new();
    for channel in &channels {
        let change = ChannelChange::Create(ChannelDraft::default());
        let edit =
            ChannelEdit { namespace: NAMESPACE, channel: channel.clone(), change, trace: None };
        created.push(origin.edit_channel(now, edit).expect("the name is free").entry);
    }
    receive(&mut receiver, now, &created, ChainHash::EMPTY);
    let sessions: Vec<SessionId> = (0..SESSIONS as u8)
        .map(|number| {
            let opened = origin.open_session(now, NAMESPACE, [number + 1; 16], None);
            opened.expect("there is room").session
        })
        .collect();

    let payload = Bytes::from(vec![7; PAYLOAD_BYTES]);
    let mut sequences = [0_u64; SESSIONS];
    let mut batch = Vec::with_capacity(BATCH);
    let (mut admitting, mut receiving) = (0.0, 0.0);
    for number in 0..BATCHES {
        let now = now.plus_milliseconds(number as u64);
        let publications: Vec<NewPublication> = (0..BATCH)
            .map(|place| {
                let session = place % SESSIONS;
                sequences[session] += 1;
                NewPublication {
                    namespace: NAMESPACE,
                    channel: channels[(place * 7 + number) % CHANNELS].clone(),
                    key: Bytes::new(),
                    payload: payload.clone(),
                    publisher: Some(PublisherPosition {
                        session: sessions[session],
                        sequence: PublisherSequence::new(sequences[session]),
                    }),
                    possibly_repeated: false,
                    trace: None,
                }
            })
            .collect();
        let log = origin.own_log(NAMESPACE);
        let before = origin.logs().get(&log).expect("channels were created").appended;

        let started = Instant::now();
        for publication in publications {
            match origin.publish(now, publication) {
                Ok(Published::Stored { entry, .. }) => batch.push(entry),
                other => panic!("not stored: {other:?}"),
            }
        }
        let through: Mark = batch.last().expect("a batch has entries").mark();
        origin.handle_durable(&[(log, through)]);
        admitting += started.elapsed().as_secs_f64();

        let started = Instant::now();
        receive(&mut receiver, now, &batch, before.hash);
        receiver.handle_durable(&[(log, through)]);
        receiving += started.elapsed().as_secs_f64();
        batch.clear();
    }
    let messages = (BATCH * BATCHES) as f64;
    println!(
        "admitted {:.2} M/s, {:.0} ns each",
        messages / admitting / 1e6,
        admitting / messages * 1e9
    );
    println!(
        "received {:.2} M/s, {:.0} ns each",
        messages / receiving / 1e6,
        receiving / messages * 1e9
    );
}

fn receive(
    receiver: &mut Admission,
    now: WallTime,
    entries: &[AppendEntry],
    previous_hash: ChainHash,
) {
    let frame = Frame {
        log: entries[0].log,
        first_m_id: entries[0].m_id,
        previous_hash,
        age_milliseconds: 0,
        last_age_milliseconds: 0,
        sends: entries.iter().map(|entry| entry.bytes.clone()).collect(),
    };
    match receiver.receive(now, &frame, &NoHistory) {
        FrameOutcome::Appended { entries: taken, .. } => assert_eq!(taken.len(), entries.len()),
        other => panic!("not appended: {other:?}"),
    }
}

fn member(number: u32, topology: &Arc<Topology>) -> Admission {
    let opening = MemberOpening {
        node: NodeNumber::new(number),
        incarnation: Incarnation::new(u64::from(number)).expect("not zero"),
        opened_from: None,
    };
    Admission::new(opening, RecoveredState::new(), Arc::clone(topology))
}

fn topology() -> Topology {
    let region = RegionName::parse("north").expect("well-formed");
    let group = GroupName::parse("all").expect("well-formed");
    let node = |number: u32| Node {
        number: NodeNumber::new(number),
        name: NodeName::parse(&format!("node-{number}")).expect("well-formed"),
        region: region.clone(),
        replication_address: String::new(),
        client_address: String::new(),
        state: NodeState::Active,
        fencing_token: FencingToken::new(0),
        feature_level: FeatureLevel::new(1),
    };
    Topology {
        version: TopologyVersion { generation: 1, number: 1 },
        regions: vec![region.clone()],
        groups: vec![Group {
            number: GroupNumber::new(1),
            name: group.clone(),
            regions: vec![region.clone()],
        }],
        nodes: vec![node(1), node(2)],
        namespaces: vec![Namespace {
            number: NAMESPACE,
            name: NamespaceName::parse("prices").expect("well-formed"),
            groups: vec![group],
            disk_cap_bytes: 0,
            retention: Retention::default(),
            founders: Vec::new(),
            leaving: Vec::new(),
        }],
    }
}
