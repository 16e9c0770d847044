use proptest::prelude::*;

use super::*;
use crate::message::{ChannelAction, ChannelOperation, MessageChannel, MessageKind};
use crate::replication::frames::{Nack, NackReason, Refused};
use crate::replication::log_table::{MarkComparison, StopReason};

/// An origin with some messages, durable.
fn origin(publications: usize) -> (Member, LogName) {
    let mut origin = Member::new(1, 11);
    origin.create(EVERYWHERE, "news").unwrap();
    for number in 0..publications {
        origin.publish(EVERYWHERE, "news", &format!("message {number}")).unwrap();
    }
    origin.sync();
    let log = origin.log(EVERYWHERE);
    (origin, log)
}

fn reason(outcome: FrameOutcome) -> (NackReason, u64) {
    match outcome {
        FrameOutcome::Nack(Nack { reason, expected, .. }) => (reason, expected.get()),
        other => panic!("not refused: {other:?}"),
    }
}

fn appended(outcome: FrameOutcome) -> usize {
    match outcome {
        FrameOutcome::Appended { entries, .. } => entries.len(),
        other => panic!("not appended: {other:?}"),
    }
}

/// METHOD M4: master of what it accepts and slave for all else, at the same
/// time, in one namespace and over one directory.
#[test]
fn a_member_has_both_roles_at_once() {
    let mut north = Member::new(1, 11);
    let mut south = Member::new(2, 22);
    north.create(EVERYWHERE, "news").unwrap();
    south.create(EVERYWHERE, "prices").unwrap();
    for round in 0..10 {
        north.sync();
        south.sync();
        south.take_all_of(&north);
        north.take_all_of(&south);
        // Each publishes to what the other has created, between what it receives.
        north.publish(EVERYWHERE, "prices", &format!("north {round}")).unwrap();
        south.publish(EVERYWHERE, "news", &format!("south {round}")).unwrap();
    }
    north.sync();
    south.sync();
    south.take_all_of(&north);
    north.take_all_of(&south);
    assert_eq!(north.disk.names(), south.disk.names());
    assert_eq!(north.disk.names().len(), 22);
    let digest = |member: &Member| member.admission.directory(EVERYWHERE).unwrap().digest();
    assert_eq!(digest(&north), digest(&south));
    let tips = |member: &Member| member.admission.logs().tips_digest(EVERYWHERE);
    assert_eq!(tips(&north), tips(&south));
}

/// METHOD M10: what is held already changes nothing and is acknowledged again.
#[test]
fn a_repeat_changes_nothing() {
    let (origin, log) = origin(9);
    let mut member = Member::new(2, 22);
    assert_eq!(appended(member.receive(&origin.whole_log(&log))), 10);
    let before = state_of(&member);
    let mark = origin.held(&log);
    // Before and after it is durable, whole and in parts.
    for synced in [false, true] {
        if synced {
            member.sync();
        }
        for (from, count) in [(1, 10), (1, 3), (4, 2), (10, 1)] {
            let frame = origin.frame(&log, from, count).unwrap();
            assert_eq!(member.receive(&frame), FrameOutcome::AlreadyHeld { mark });
        }
    }
    assert_eq!(state_of(&member), before);
}

/// METHOD M10: of a frame that is partly held the rest is appended.
#[test]
fn overlap_is_cut_at_the_appended_mark() {
    let (origin, log) = origin(9);
    let mut member = Member::new(2, 22);
    assert_eq!(appended(member.receive(&origin.frame(&log, 1, 4).unwrap())), 4);
    assert_eq!(appended(member.receive(&origin.frame(&log, 3, 4).unwrap())), 2);
    assert_eq!(appended(member.receive(&origin.frame(&log, 7, 1).unwrap())), 1);
    assert_eq!(appended(member.receive(&origin.whole_log(&log))), 3);
    assert_eq!(member.held(&log), origin.held(&log));
}

#[test]
fn a_gap_is_refused_with_the_number_expected() {
    let (origin, log) = origin(9);
    let mut member = Member::new(2, 22);
    let early = member.receive(&origin.frame(&log, 3, 4).unwrap());
    assert_eq!(reason(early), (NackReason::OutOfOrder, 1));
    assert_eq!(member.admission.logs().iter().count(), 0);
    member.receive(&origin.frame(&log, 1, 2).unwrap());
    let early = member.receive(&origin.frame(&log, 4, 4).unwrap());
    assert_eq!(reason(early), (NackReason::OutOfOrder, 3));
    assert_eq!(appended(member.receive(&origin.frame(&log, 3, 7).unwrap())), 7);
}

/// METHOD M15: what the topology places elsewhere is not looked at.
#[test]
fn residency_is_enforced() {
    let mut origin = Member::new(1, 11);
    origin.create(NARROW, "secret").unwrap();
    origin.sync();
    let frame = origin.whole_log(&origin.log(NARROW));
    let mut outside = Member::new(3, 33);
    let refused = Refused {
        log: frame.log,
        through: MessageNumber::new(1),
        version: TopologyVersion { generation: 1, number: 1 },
    };
    assert_eq!(outside.receive(&frame), FrameOutcome::Refused(refused));
    assert!(outside.disk.logs.is_empty());
    assert!(outside.admission.directory(NARROW).is_none());

    // A newer topology makes it a member.
    let mut wider = (*topology()).clone();
    wider.version.number = 2;
    wider.namespaces[1].groups.push(GroupName::parse("all").expect("well-formed"));
    outside.admission.set_topology(Arc::new(wider));
    assert_eq!(appended(outside.receive(&frame)), 1);

    let unknown = NamespaceNumber::new(77);
    let log = LogName { namespace: unknown, ..frame.log };
    let nowhere = Frame { log, ..frame };
    assert!(matches!(outside.receive(&nowhere), FrameOutcome::Refused(_)));
}

/// Two contents under one name: only that log stands still, and only between
/// those who disagree.
#[test]
fn other_content_stops_that_log_and_nothing_else() {
    let (mut first, log) = origin(3);
    let copy = first.disk.clone();
    // A process and its copy go on under one incarnation.
    let mut second = Member::open(1, 11, Disk::default(), topology());
    second.create(EVERYWHERE, "news").unwrap();
    for number in 0..6 {
        second.publish(EVERYWHERE, "news", &format!("another {number}")).unwrap();
    }
    second.sync();
    first.publish(EVERYWHERE, "news", "fifth").unwrap();
    first.sync();
    drop(copy);

    let mut member = Member::new(2, 22);
    member.receive(&first.frame(&log, 1, 4).unwrap());
    let before = state_of(&member);
    // Held content under another hash, wholly, partly and behind the mark.
    for (from, count) in [(1, 4), (2, 2), (1, 7), (3, 3), (5, 2)] {
        let frame = second.frame(&log, from, count).unwrap();
        let expected = MessageNumber::new(5).get();
        assert_eq!(reason(member.receive(&frame)), (NackReason::ContentDiffers, expected));
    }
    let held = member.admission.logs().get(&log).unwrap();
    assert!(held.stopped.is_some());
    assert_eq!(state_of(&member), before);

    // What agrees goes on, and so do all others.
    assert_eq!(appended(member.receive(&first.frame(&log, 5, 1).unwrap())), 1);
    let mut third = Member::new(3, 33);
    third.create(EVERYWHERE, "prices").unwrap();
    third.sync();
    member.take_all_of(&third);
    member.publish(EVERYWHERE, "prices", "x").unwrap();
}

/// A log that goes on from the other content waits for a repair; one that goes
/// on from what is held does not.
#[test]
fn what_descends_from_other_content_stands_still() {
    let (mut first, log) = origin(3);
    let mut second = Member::open(1, 11, Disk::default(), topology());
    second.create(EVERYWHERE, "news").unwrap();
    for number in 0..3 {
        second.publish(EVERYWHERE, "news", &format!("another {number}")).unwrap();
    }
    first.sync();
    second.sync();
    let mut first = first.reopen(12);
    let mut second = second.reopen(13);
    first.publish(EVERYWHERE, "news", "goes on").unwrap();
    second.publish(EVERYWHERE, "news", "goes on elsewhere").unwrap();
    first.sync();
    second.sync();

    for durable in [false, true] {
        let mut member = Member::new(2, 22);
        member.receive(&first.whole_log(&log));
        if durable {
            member.sync();
        }
        let descendant = second.whole_log(&second.log(EVERYWHERE));
        assert_eq!(reason(member.receive(&descendant)), (NackReason::ContentDiffers, 1));
        let stopped = member.admission.logs().get(&log).unwrap().stopped.unwrap();
        assert_eq!(stopped.noticed_at, MessageNumber::new(4));
        assert_eq!(stopped.held, first.held(&log).hash);
        assert_eq!(appended(member.receive(&first.whole_log(&first.log(EVERYWHERE)))), 1);
        member.admission.handle_repaired(&log);
        assert_eq!(member.admission.logs().get(&log).unwrap().stopped, None);
    }
}

/// A process resumed from a snapshot of its memory gives numbers twice; it is
/// seen at the first contact.
#[test]
fn a_frame_of_the_own_log_beyond_it_is_an_alarm() {
    let mut process = Member::new(1, 11);
    process.create(EVERYWHERE, "news").unwrap();
    process.sync();
    let snapshot = process.disk.clone();
    process.publish(EVERYWHERE, "news", "first life").unwrap();
    process.sync();
    let log = process.log(EVERYWHERE);
    let theirs = process.held(&log);

    let mut resumed = Member::open(1, 11, snapshot.clone(), topology());
    let ours = resumed.held(&log);
    let ahead = FrameOutcome::OwnLogAhead { theirs, ours };
    assert_eq!(resumed.receive(&process.whole_log(&log)), ahead);
    let finding = resumed.admission.examine_mark(&log, theirs, &resumed.disk);
    assert_eq!(finding, MarkFinding::ResumedFromSnapshot);

    // It has written other content by then.
    let snapshot_frame = Member::open(1, 99, snapshot, topology()).frame(&log, 1, 1).unwrap();
    resumed.publish(EVERYWHERE, "news", "second life").unwrap();
    assert_eq!(
        resumed.receive(&process.whole_log(&log)),
        FrameOutcome::OwnLogAhead { theirs, ours: resumed.held(&log) }
    );
    let finding = resumed.admission.examine_mark(&log, theirs, &resumed.disk);
    assert_eq!(finding, MarkFinding::ResumedFromSnapshot);

    // What others rightly hold of it is no alarm.
    let mark = resumed.held(&log);
    assert_eq!(resumed.receive(&snapshot_frame), FrameOutcome::AlreadyHeld { mark });
    let finding = resumed.admission.examine_mark(&log, ours, &resumed.disk);
    assert_eq!(finding, MarkFinding::Consistent(MarkComparison::Agrees));

    // A snapshot from before the log's first message.
    let mut early = Member::new(1, 11);
    assert!(matches!(early.receive(&process.whole_log(&log)), FrameOutcome::OwnLogAhead { .. }));
    assert_eq!(appended(Member::new(2, 22).receive(&process.whole_log(&log))), 2);
}

#[test]
fn marks_of_others_are_compared() {
    let (mut origin, log) = origin(5);
    let mut member = Member::new(2, 22);
    let tip = origin.held(&log);
    let examine =
        |member: &mut Member, mark| member.admission.examine_mark(&log, mark, &member.disk);
    let unknown = MarkFinding::Consistent(MarkComparison::UnknownLog);
    assert_eq!(examine(&mut member, tip), unknown);
    member.receive(&origin.frame(&log, 1, 4).unwrap());
    assert_eq!(examine(&mut member, tip), MarkFinding::Consistent(MarkComparison::Ahead));
    let third = origin.disk.logs[&log].mark(3);
    let agrees = MarkFinding::Consistent(MarkComparison::Agrees);
    assert_eq!(examine(&mut member, third), agrees);
    member.sync();
    assert_eq!(examine(&mut member, third), agrees);
    let offered = ChainHash::EMPTY.then(b"other");
    let reason = StopReason { noticed_at: third.m_id, held: third.hash, offered };
    let differs = Mark { hash: offered, ..third };
    assert_eq!(examine(&mut member, differs), MarkFinding::Differs(reason));
    assert_eq!(member.admission.logs().get(&log).unwrap().stopped, Some(reason));
    origin.sync();
}

/// Kinds and actions of later builds are stored and served like any other.
#[test]
fn unknown_kinds_and_actions_are_stored() {
    let (origin, log) = origin(3);
    let entries = &origin.disk.logs[&log].entries;
    let mut later = Message::decode(&entries[1].bytes).unwrap();
    later.kind = MessageKind::Unknown(77);
    later.channel = MessageChannel::Text(String::new());
    later.groups.clear();
    let mut operation = Message::decode(&entries[2].bytes).unwrap();
    operation.kind = MessageKind::ChannelOperation;
    operation.payload = Bytes::from_static(&[8, 99]);
    let mut frame = origin.whole_log(&log);
    frame.sends[1] = later.encode();
    frame.sends[2] = operation.encode();

    let mut member = Member::new(2, 22);
    assert_eq!(appended(member.receive(&frame)), 4);
    let mut served = member;
    served.sync();
    assert_eq!(served.whole_log(&log).sends, frame.sends);
}

#[test]
fn clocks_refuse_nothing_and_are_told() {
    let (mut origin, log) = origin(0);
    origin.now = NOW.plus_milliseconds(3_600_000);
    origin.publish(EVERYWHERE, "news", "from the future").unwrap();
    origin.sync();
    let mut member = Member::new(2, 22);
    let FrameOutcome::Appended { clock_far_off, .. } = member.receive(&origin.whole_log(&log))
    else {
        panic!("not appended");
    };
    assert!(clock_far_off);
    // The own stamps follow by a minute at most.
    let name = member.publish(EVERYWHERE, "news", "present").unwrap();
    let stamp = member.disk.logs[&name.log].entries.last().unwrap().stamp;
    assert!(stamp.wall() <= NOW.plus_milliseconds(60_001));
    assert!(stamp.wall() >= NOW.plus_milliseconds(60_000));

    // A stamp at or below its predecessor's is taken too.
    let mut back = Message::decode(&origin.disk.logs[&log].entries[1].bytes).unwrap();
    back.stamp = HybridTime::new(1);
    let mut frame = origin.whole_log(&log);
    frame.sends[1] = back.encode();
    assert_eq!(appended(Member::new(3, 33).receive(&frame)), 2);
}

/// A frame that breaks a rule: nothing from the broken message on is appended.
#[test]
fn broken_messages_are_refused_and_what_is_before_them_taken() {
    let (origin, log) = origin(4);
    let whole = origin.whole_log(&log);
    let third = Message::decode(&whole.sends[2]).unwrap();
    let parent = crate::identity::ParentPoint {
        incarnation: incarnation(5),
        m_id: MessageNumber::new(1),
        hash: ChainHash::EMPTY,
    };
    let update = ChannelOperation::new(ChannelAction::Update).encode();
    let mut unreadable = update.to_vec();
    unreadable.extend_from_slice(&[0x12, 0x7f]);
    let broken: [(&str, Bytes); 6] = [
        ("no protobuf", Bytes::from_static(&[0xff; 8])),
        ("empty", Bytes::new()),
        ("number", Message { m_id: MessageNumber::new(9), ..third.clone() }.encode()),
        ("parents", Message { parents: vec![parent], ..third.clone() }.encode()),
        ("groups", Message { groups: Vec::new(), ..third.clone() }.encode()),
        (
            "operation",
            Message {
                kind: MessageKind::ChannelOperation,
                payload: Bytes::from(unreadable),
                ..third
            }
            .encode(),
        ),
    ];
    for (what, bytes) in broken {
        let mut member = Member::new(2, 22);
        let mut frame = whole.clone();
        frame.sends[2] = bytes.clone();
        assert_eq!(appended(member.receive(&frame)), 2, "{what}");
        let before = state_of(&member);
        let mut rest = origin.frame(&log, 3, 3).unwrap();
        rest.sends[0] = bytes;
        assert_eq!(reason(member.receive(&rest)), (NackReason::Invalid, 3), "{what}");
        assert_eq!(state_of(&member), before, "{what}");
        assert_eq!(appended(member.receive(&whole)), 3, "{what}");
    }
}

#[test]
fn shapes_that_no_honest_sender_makes_are_refused() {
    let (origin, log) = origin(4);
    let whole = origin.whole_log(&log);
    let other = |change: &dyn Fn(&mut Frame)| {
        let mut frame = whole.clone();
        change(&mut frame);
        frame
    };
    let shapes = [
        other(&|frame| frame.sends.clear()),
        other(&|frame| frame.first_m_id = MessageNumber::ZERO),
        other(&|frame| frame.first_m_id = MessageNumber::new(u64::MAX)),
        other(&|frame| frame.log.origin = NodeNumber::new(0)),
        other(&|frame| frame.previous_hash = ChainHash::EMPTY.then(b"x")),
        other(&|frame| frame.first_m_id = MessageNumber::new(2)),
    ];
    for frame in shapes {
        let mut member = Member::new(2, 22);
        let before = state_of(&member);
        assert_eq!(reason(member.receive(&frame)), (NackReason::Invalid, 1), "{frame:?}");
        assert_eq!(state_of(&member), before);
    }
}

/// Rows that cannot be are invalid: they are no reason to wait for a parent, nor
/// an alarm about content.
#[test]
fn impossible_rows_are_invalid() {
    let (origin, parent) = origin(1);
    let mut origin = origin.reopen(12);
    origin.publish(EVERYWHERE, "news", "child").unwrap();
    origin.publish(EVERYWHERE, "news", "child goes on").unwrap();
    origin.sync();
    let child = origin.log(EVERYWHERE);
    let mut member = Member::new(2, 22);
    member.take_all_of(&origin);

    // Before the first message of a log that is held.
    let early = Frame { first_m_id: MessageNumber::new(1), ..origin.whole_log(&child) };
    assert_eq!(reason(member.receive(&early)), (NackReason::Invalid, 5));

    let with_parent = |incarnation: Incarnation, m_id: u64, bits: u64| {
        let m_id = MessageNumber::new(m_id);
        let hash = origin.held(&child).hash;
        let parents = vec![crate::identity::ParentPoint { incarnation, m_id, hash }];
        let log = child.path().log(self::incarnation(bits));
        let first = Message::decode(&origin.whole_log(&child).sends[0]).unwrap();
        let first = Message { m_id: m_id.next(), parents: parents.clone(), ..first };
        let previous_hash = ChainHash::of_parents(&parents);
        let sends = vec![first.encode()];
        Frame {
            log,
            first_m_id: m_id.next(),
            previous_hash,
            age_milliseconds: 0,
            last_age_milliseconds: 0,
            sends,
        }
    };
    // A parent's message that lies before that parent's first.
    let frame = with_parent(child.incarnation, 2, 55);
    assert_eq!(reason(member.receive(&frame)), (NackReason::Invalid, 1));
    // The log as its own parent.
    let frame = with_parent(incarnation(55), 2, 55);
    assert_eq!(reason(member.receive(&frame)), (NackReason::Invalid, 1));
    for log in [parent, child] {
        assert!(member.admission.logs().get(&log).is_none_or(|held| held.stopped.is_none()));
    }
}

proptest! {
    /// Whatever comes, nothing panics, and what is held stays contiguous and
    /// chained (the disk asserts it) and servable.
    #[test]
    fn hostile_frames_never_panic(
        flips in proptest::collection::vec((0_usize..6, any::<u16>(), any::<u8>()), 0..8),
        first in prop_oneof![0_u64..8, Just(u64::MAX), any::<u64>()],
        random_hash in any::<bool>(),
        held in 0_usize..6,
        random in proptest::collection::vec(any::<u8>(), 0..64),
        origin_number in 0_u32..4,
        bits in prop_oneof![Just(11_u64), Just(22_u64), any::<u64>()],
    ) {
        let (origin, log) = origin(4);
        let mut member = Member::new(2, 22);
        if let Some(frame) = origin.frame(&log, 1, held) {
            member.receive(&frame);
        }
        let mut frame = origin.whole_log(&log);
        for (send, at, value) in flips {
            match frame.sends.get(send) {
                Some(bytes) => {
                    let mut bytes = bytes.to_vec();
                    let length = bytes.len().max(1);
                    if let Some(byte) = bytes.get_mut(usize::from(at) % length) {
                        *byte ^= value;
                    }
                    frame.sends[send] = Bytes::from(bytes);
                }
                None => frame.sends.push(Bytes::from(random.clone())),
            }
        }
        if first != 1 {
            frame.first_m_id = MessageNumber::new(first);
        }
        if random_hash {
            frame.previous_hash = ChainHash::EMPTY.then(&random);
        }
        frame.log.origin = NodeNumber::new(origin_number);
        if let Some(incarnation) = Incarnation::new(bits) {
            frame.log.incarnation = incarnation;
        }
        member.receive(&frame);
        member.receive(&frame);
        member.sync();
        member.create(EVERYWHERE, "still-works").unwrap();
        member.sync();
        let mut logs: Vec<LogName> = member.disk.logs.keys().copied().collect();
        logs.sort_by_key(|log| member.disk.logs[log].row.first_m_id());
        let mut other = Member::new(3, 33);
        for log in logs {
            let served = member.whole_log(&log);
            let taken = matches!(other.receive(&served), FrameOutcome::Appended { .. });
            prop_assert!(taken, "{log} cannot be served");
        }
    }
}
