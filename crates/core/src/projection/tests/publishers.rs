//! Publisher sessions: the table, and what is stored of it.

use std::collections::BTreeSet;

use crate::clock::WallTime;
use crate::limits::{
    MAX_IN_FLIGHT_PUBLICATIONS, MAX_SESSIONS_PER_NAMESPACE, SESSION_IDLE_MILLISECONDS,
};
use crate::projection::publishers::{
    OpenRefusal, PublicationDigest, PublisherDecision, ResumeRefusal, Resumed,
};
use crate::projection::{Publishers, PublishersProjection};

use super::*;

const NOW: WallTime = WallTime::new(1_000_000_000);
const ORIGIN: u32 = 7;

fn own(incarnation: u64) -> LogName {
    log(1, 0, ORIGIN, incarnation)
}

fn digest(payload: &[u8]) -> PublicationDigest {
    PublicationDigest::of("a", b"", payload)
}

fn session(number: u64) -> SessionId {
    let mut bytes = [0; 16];
    bytes[..8].copy_from_slice(&number.to_be_bytes());
    SessionId::new(bytes)
}

/// A stored publication of a session; the payload is the sequence's last byte.
fn stored(name: MessageName, publisher: PublisherPosition, stamp: u64) -> Message {
    const PAYLOADS: [u8; 256] = {
        let mut payloads = [0; 256];
        let mut value = 0;
        while value < 256 {
            payloads[value] = value as u8;
            value += 1;
        }
        payloads
    };
    let at = (publisher.sequence.get() % 256) as usize;
    Message {
        publisher: Some(publisher),
        stamp: HybridTime::new(stamp),
        ..publication(name, "a", &PAYLOADS[at..=at])
    }
}

fn payload(sequence: u64) -> [u8; 1] {
    [(sequence % 256) as u8]
}

/// A table in which session 1 has stored sequences up to `last`, as m_ids from
/// 101 on.
fn with_stored(last: u64) -> Publishers {
    let mut publishers = Publishers::new();
    publishers.open(position(1, 1).session, NOW).expect("there is room");
    for sequence in 1..=last {
        assert_eq!(
            publishers.decide(&position(1, sequence), digest(&payload(sequence))),
            PublisherDecision::Next
        );
        publishers.record(
            &position(1, sequence),
            &at(own(3), 100 + sequence),
            digest(&payload(sequence)),
            HybridTime::new(100 + sequence),
            NOW,
        );
    }
    publishers
}

/// The logs may hold many more sessions than are kept: a rebuild of the table
/// evicts, as a table that was there all the time has.
#[test]
fn a_table_taken_from_the_logs_keeps_what_was_used_last() {
    let first_of = |number| PublisherPosition {
        session: session(number),
        sequence: PublisherSequence::new(1),
    };
    let mut publishers = Publishers::new();
    let sessions = 2 * MAX_SESSIONS_PER_NAMESPACE as u64;
    for number in 1..=sessions {
        let name = at(own(3), number);
        let message = stored(name, first_of(number), number << 16);
        publishers.apply(&name, &message.head());
        assert!(publishers.len() <= MAX_SESSIONS_PER_NAMESPACE);
    }
    let decide = |number| publishers.decide(&first_of(number), digest(&payload(1)));
    assert_eq!(decide(sessions), PublisherDecision::Repeat(at(own(3), sessions)));
    assert_eq!(decide(1), PublisherDecision::Unknown);
    assert!(publishers.len() > MAX_SESSIONS_PER_NAMESPACE / 2);
}

#[test]
fn a_repeat_gets_the_first_answer() {
    let publishers = with_stored(10);
    let decide =
        |sequence, content: &[u8]| publishers.decide(&position(1, sequence), digest(content));
    assert_eq!(decide(4, &payload(4)), PublisherDecision::Repeat(at(own(3), 104)));
    assert_eq!(decide(4, &payload(5)), PublisherDecision::ContentDiffers);
    assert_eq!(decide(11, &payload(4)), PublisherDecision::Next);
    let expected = PublisherSequence::new(11);
    assert_eq!(decide(12, b""), PublisherDecision::OutOfSequence { expected });
    assert_eq!(decide(0, b""), PublisherDecision::OutOfSequence { expected });
    assert_eq!(publishers.decide(&position(2, 1), digest(b"")), PublisherDecision::Unknown);
}

#[test]
fn the_table_keeps_as_many_answers_as_may_be_in_flight() {
    let last = MAX_IN_FLIGHT_PUBLICATIONS as u64 + 3;
    let publishers = with_stored(last);
    let decide = |sequence| publishers.decide(&position(1, sequence), digest(&payload(sequence)));
    assert_eq!(decide(3), PublisherDecision::RepeatForgotten);
    assert_eq!(decide(4), PublisherDecision::Repeat(at(own(3), 104)));
    assert_eq!(decide(last), PublisherDecision::Repeat(at(own(3), 100 + last)));
}

#[test]
fn the_digest_tells_the_parts_apart() {
    let contents = [
        PublicationDigest::of("ab", b"c", b"d"),
        PublicationDigest::of("a", b"bc", b"d"),
        PublicationDigest::of("a", b"b", b"cd"),
        PublicationDigest::of("abcd", b"", b""),
    ];
    for (place, one) in contents.iter().enumerate() {
        assert!(contents[place + 1..].iter().all(|other| one != other));
    }
}

#[test]
fn resuming_presents_what_was_acknowledged_last() {
    let mut publishers = with_stored(10);
    let id = position(1, 1).session;
    let resumed = Ok(Resumed {
        next_sequence: PublisherSequence::new(11),
        last_stored: Some(at(own(3), 110)),
    });
    let last = |sequence, name| Some((PublisherSequence::new(sequence), name));
    assert_eq!(publishers.resume(id, last(8, at(own(3), 108)), NOW), resumed);
    assert_eq!(publishers.resume(id, None, NOW), resumed);
    // Acknowledged by a branch that this node does not have.
    let forked = Err(ResumeRefusal::Forked);
    assert_eq!(publishers.resume(id, last(11, at(own(3), 111)), NOW), forked);
    assert_eq!(publishers.resume(id, last(8, at(own(4), 108)), NOW), forked);
    assert_eq!(publishers.resume(id, last(8, at(own(3), 107)), NOW), forked);
    // Another node, or evicted here.
    let stranger = position(2, 1).session;
    assert_eq!(publishers.resume(stranger, last(1, at(own(3), 1)), NOW), forked);
    assert_eq!(publishers.resume(stranger, None, NOW), Err(ResumeRefusal::Unknown));
    // Nothing stored yet.
    publishers.open(stranger, NOW).expect("there is room");
    let resumed = Resumed { next_sequence: PublisherSequence::new(1), last_stored: None };
    assert_eq!(publishers.resume(stranger, None, NOW), Ok(resumed));
}

#[test]
fn only_idle_sessions_are_evicted_and_only_by_quota() {
    let mut publishers = Publishers::new();
    let count = MAX_SESSIONS_PER_NAMESPACE as u64;
    for number in 0..count {
        publishers.open(session(number), NOW.plus_milliseconds(number)).expect("there is room");
    }
    let refused = OpenRefusal::TooManySessions { sessions: MAX_SESSIONS_PER_NAMESPACE };
    let all_in_use = NOW.plus_milliseconds(SESSION_IDLE_MILLISECONDS - 1);
    assert_eq!(publishers.open(session(count), all_in_use), Err(refused));
    // The first is used again; the one after it is idle first.
    publishers.resume(session(0), None, all_in_use).expect("it is there");
    let idle = NOW.plus_milliseconds(SESSION_IDLE_MILLISECONDS + 1);
    publishers.open(session(count), idle).expect("one is idle");
    assert!(publishers.resume(session(0), None, idle).is_ok());
    assert!(publishers.resume(session(2), None, idle).is_ok());
    assert_eq!(publishers.resume(session(1), None, idle), Err(ResumeRefusal::Unknown));
    assert!(publishers.resume(session(3), None, idle).is_ok());
    assert!(publishers.resume(session(count), None, idle).is_ok());
    // Long after, with none in need of room, all others are still there.
    let left = publishers.len();
    assert!(publishers.resume(session(9), None, idle.plus_milliseconds(1 << 40)).is_ok());
    assert_eq!(publishers.len(), left);
}

/// What a storage has of the projection after the messages, stored at some
/// places; and the projection as loaded from it.
struct Node {
    storage: Stored,
    projection: PublishersProjection,
}

impl Node {
    fn new() -> Self {
        let mut projection = PublishersProjection::default();
        projection.set_origin(NodeNumber::new(ORIGIN));
        Self { storage: Stored::default(), projection }
    }

    fn apply(&mut self, name: MessageName, message: &Message) {
        self.projection.apply(&name, &message.head());
    }

    fn store(&mut self) {
        self.storage.store(&mut self.projection);
    }

    fn reopen(&mut self) {
        self.projection = self.storage.load(&[]).expect("stored by this layout");
        self.projection.set_origin(NodeNumber::new(ORIGIN));
    }

    fn table(&self) -> Publishers {
        let prefix = PublishersProjection::prefix(NamespaceNumber::new(1));
        Publishers::load(own(1).path(), self.storage.scan(&prefix, None))
            .expect("stored by this layout")
    }
}

fn answers(publishers: &Publishers, sessions: u8, last: u64) -> Vec<PublisherDecision> {
    (0..sessions)
        .flat_map(|session| (1..=last).map(move |sequence| position(session, sequence)))
        .map(|position| publishers.decide(&position, digest(&payload(position.sequence.get()))))
        .collect()
}

proptest! {
    /// METHOD M12: sessions interleave, chunks fill, storing and restarts happen
    /// anywhere; what is stored gives the same answers as the table in memory.
    #[test]
    fn what_is_stored_answers_like_the_table(
        runs in prop::collection::vec((0..3_u8, 1..300_u64, 0..4_u8), 1..12),
    ) {
        let mut node = Node::new();
        let mut table = Publishers::new();
        let (mut m_id, mut next) = (0, [1_u64; 3]);
        let mut incarnation = 1;
        for (which, length, then) in runs {
            for _ in 0..length {
                m_id += 1;
                let sequence = &mut next[usize::from(which)];
                let name = at(own(incarnation), m_id);
                let message = stored(name, position(which, *sequence), m_id);
                *sequence += 1;
                node.apply(name, &message);
                table.apply(&name, &message.head());
            }
            match then {
                0 => node.store(),
                1 => {
                    node.store();
                    node.reopen();
                    incarnation += 1;
                }
                _ => {}
            }
        }
        node.store();
        let loaded = node.table();
        let last = next.iter().max().copied().unwrap_or(1) + 1;
        prop_assert_eq!(answers(&loaded, 3, last), answers(&table, 3, last));
        prop_assert_eq!(loaded.len(), table.len());
    }

    /// An origin forked (its disk was put back), and both branches come together
    /// again: table and storage agree, whatever is applied first, and sessions
    /// go on with the branch that was written later.
    #[test]
    fn branches_of_a_fork_come_to_one_answer(
        common in 1..300_u64,
        lost in 1..300_u64,
        later in 0..600_u64,
        lost_tail_comes_at in 0..600_u64,
        store_every in 1..200_u64,
    ) {
        let publish = |incarnation, sequence, stamp| {
            let name = at(own(incarnation), sequence);
            (name, stored(name, position(0, sequence), stamp))
        };
        let first: Vec<_> =
            (1..=common).map(|sequence| publish(1, sequence, sequence)).collect();
        let tail: Vec<_> = (common + 1..=common + lost)
            .map(|sequence| publish(1, sequence, sequence))
            .collect();
        let branch: Vec<_> = (common + 1..=common + later)
            .map(|sequence| publish(2, sequence, 10_000 + sequence))
            .collect();
        let split = (lost_tail_comes_at as usize).min(branch.len());
        let arrivals =
            [&first[..], &branch[..split], &tail[..], &branch[split..]].concat();
        let in_order = [first, tail, branch.clone()].concat();

        let mut node = Node::new();
        for (place, (name, message)) in (1..).zip(&arrivals) {
            node.apply(*name, message);
            if place % store_every == 0 {
                node.store();
            }
            if place % (3 * store_every) == 0 {
                node.reopen();
            }
        }
        node.store();
        let mut table = Publishers::new();
        in_order.iter().for_each(|(name, message)| table.apply(name, &message.head()));
        let last = common + lost.max(later) + 1;
        prop_assert_eq!(answers(&node.table(), 1, last), answers(&table, 1, last));
        if let Some((name, message)) = branch.last() {
            let position = message.publisher.expect("in a session");
            let content = digest(&message.payload);
            prop_assert_eq!(table.decide(&position, content), PublisherDecision::Repeat(*name));
        }
    }
}

#[test]
fn what_the_front_of_a_log_lost_does_not_hold_up_a_session() {
    // The messages up to 500 were trimmed before the table was built again.
    let mut table = Publishers::new();
    for sequence in 501..=510 {
        let name = at(own(1), sequence);
        table.apply(&name, &stored(name, position(0, sequence), sequence).head());
    }
    assert_eq!(
        table.decide(&position(0, 500), digest(&payload(500))),
        PublisherDecision::RepeatForgotten
    );
    assert_eq!(
        table.decide(&position(0, 501), digest(&payload(501))),
        PublisherDecision::Repeat(at(own(1), 501))
    );
    assert_eq!(table.decide(&position(0, 511), digest(b"")), PublisherDecision::Next);
}

#[test]
fn logs_of_others_have_no_part() {
    let mut node = Node::new();
    let name = at(log(1, 0, ORIGIN + 1, 1), 1);
    node.apply(name, &stored(name, position(0, 1), 1));
    node.projection.skip(&name.log, MessageNumber::new(9));
    node.store();
    assert_eq!(node.storage.pairs.len(), 0);
    assert_eq!(node.projection.position().positions, []);
    // Nor has a floor of theirs.
    let (floor, held) = (MessageNumber::new(9), MessageNumber::new(9));
    node.projection = node
        .storage
        .load(&[ProjectedLog { log: name.log, floor, last_missing: floor, held }])
        .expect("stored by this layout");
    node.projection.set_origin(NodeNumber::new(ORIGIN));
    assert_eq!(node.projection.position().positions, []);
}

#[test]
fn storage_is_bounded_per_session() {
    let mut node = Node::new();
    let last = 4 * MAX_IN_FLIGHT_PUBLICATIONS as u64;
    for sequence in 1..=last {
        let name = at(own(1), sequence);
        node.apply(name, &stored(name, position(0, sequence), sequence));
        if sequence % 1_000 == 0 {
            node.store();
        }
    }
    node.store();
    let chunks = node.storage.pairs.len();
    assert!((32..=34).contains(&chunks), "{chunks} chunks");
    let oldest = last - MAX_IN_FLIGHT_PUBLICATIONS as u64 + 1;
    assert_eq!(
        node.table().decide(&position(0, oldest), digest(&payload(oldest))),
        PublisherDecision::Repeat(at(own(1), oldest))
    );
}

#[test]
fn stored_sessions_are_bounded_and_the_latest_are_kept() {
    let mut node = Node::new();
    let sessions = 2 * MAX_SESSIONS_PER_NAMESPACE as u64 + 10;
    for number in 1..=sessions {
        let name = at(own(1), number);
        let first =
            PublisherPosition { session: session(number), sequence: PublisherSequence::new(1) };
        node.apply(name, &stored(name, first, number));
        if number % 7_000 == 0 {
            node.store();
        }
    }
    node.store();
    let kept: BTreeSet<_> = node.storage.pairs.keys().cloned().collect();
    assert!(kept.len() <= 2 * MAX_SESSIONS_PER_NAMESPACE);
    let mut table = node.table();
    for number in sessions - MAX_SESSIONS_PER_NAMESPACE as u64..=sessions {
        assert!(table.resume(session(number), None, NOW).is_ok());
    }
    assert!(table.resume(session(1), None, NOW).is_err());
}
