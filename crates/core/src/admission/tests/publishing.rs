use super::*;
use crate::limits::{MAX_KEY_BYTES, MAX_PAYLOAD_BYTES};
use crate::message::{ChannelLimits, MessageKind};

/// METHOD M4, M7: a publication gets the next number of the node's own log, and
/// says what was known when it was accepted.
#[test]
fn publications_are_numbered_from_one_and_name_what_was_known() {
    let mut member = Member::new(1, 11);
    member.create(EVERYWHERE, "news").unwrap();
    member.describe(EVERYWHERE, "news", "what is new").unwrap();
    let name = member.publish(EVERYWHERE, "news", "hello").unwrap();
    assert_eq!(name.log, member.log(EVERYWHERE));
    assert_eq!(name.m_id, MessageNumber::new(3));

    let entry = member.disk.logs[&name.log].entries.last().unwrap().clone();
    let message = Message::decode(&entry.bytes).unwrap();
    assert_eq!(message.kind, MessageKind::Publication);
    assert_eq!(message.groups, [GroupNumber::new(7)]);
    assert_eq!((message.epoch.get(), message.version.get()), (1, 2));
    assert_eq!(message.topology_version, TopologyVersion { generation: 1, number: 1 });
    assert_eq!(&message.payload[..], b"hello");
    assert!(message.parents.is_empty());
    assert_eq!(message.stamp, entry.stamp);
}

#[test]
fn namespaces_are_numbered_apart() {
    let mut member = Member::new(1, 11);
    for namespace in [EVERYWHERE, NARROW] {
        let created = member.create(namespace, "news").unwrap();
        assert_eq!(created.name.m_id, MessageNumber::new(1));
    }
    assert_ne!(member.log(EVERYWHERE), member.log(NARROW));
}

#[test]
fn stamps_rise_whatever_the_wall_clock_does() {
    let mut member = Member::new(1, 11);
    member.create(EVERYWHERE, "news").unwrap();
    for now in [5_000, 1, 5_000, 4_000] {
        member.now = WallTime::new(now);
        member.publish(EVERYWHERE, "news", "x").unwrap();
    }
    let log = &member.disk.logs[&member.log(EVERYWHERE)];
    assert!(log.entries.is_sorted_by(|a, b| a.stamp < b.stamp));
}

#[test]
fn a_restart_goes_on_above_the_last_number_and_stamp_of_the_log_before() {
    let mut member = Member::new(1, 11);
    member.create(EVERYWHERE, "news").unwrap();
    member.publish(EVERYWHERE, "news", "durable").unwrap();
    member.sync();
    member.publish(EVERYWHERE, "news", "lost").unwrap();
    let before = member.log(EVERYWHERE);

    let mut member = member.reopen(12);
    member.now = WallTime::new(1);
    assert!(member.admission.logs().get(&member.log(EVERYWHERE)).is_none(), "no message yet");
    let name = member.publish(EVERYWHERE, "news", "after").unwrap();
    assert_eq!(name.m_id, MessageNumber::new(3), "the lost number is given again, by another log");
    let row = &member.admission.logs().get(&name.log).unwrap().row;
    let parent = member.admission.logs().get(&before).unwrap();
    assert_eq!(row.parents.len(), 1);
    assert_eq!(row.parents[0].m_id, parent.appended.m_id);
    assert_eq!(row.parents[0].hash, parent.appended.hash);
    let stamp = member.disk.logs[&name.log].entries[0].stamp;
    assert!(stamp > parent.last_stamp);
}

#[test]
fn a_refusal_leaves_nothing_behind() {
    let mut member = Member::new(3, 33);
    member.create(EVERYWHERE, "news").unwrap();
    member.create(EVERYWHERE, "gone").unwrap();
    member.delete(EVERYWHERE, "gone").unwrap();
    let limits = ChannelLimits { max_payload_bytes: 4, ..Default::default() };
    let small = ChannelDraft { limits, ..Default::default() };
    member.edit(EVERYWHERE, "small", ChannelChange::Create(small)).unwrap();
    let before = state_of(&member);
    member.now = NOW.plus_milliseconds(10_000);

    let refusals = [
        (publication(NARROW, "news", "x"), PublishRefusal::NotMember(NARROW)),
        (
            publication(EVERYWHERE, "other", "x"),
            PublishRefusal::UnknownChannel { channel: channel("other") },
        ),
        (
            publication(EVERYWHERE, "gone", "x"),
            PublishRefusal::ChannelDeleted {
                channel: channel("gone"),
                epoch: crate::identity::Epoch::new(1),
            },
        ),
        (
            publication(EVERYWHERE, "small", "12345"),
            PublishRefusal::TooLarge { field: "payload", bytes: 5, limit: 4 },
        ),
        (
            publication(EVERYWHERE, "news", &"x".repeat(MAX_PAYLOAD_BYTES + 1)),
            PublishRefusal::TooLarge {
                field: "payload",
                bytes: MAX_PAYLOAD_BYTES + 1,
                limit: MAX_PAYLOAD_BYTES,
            },
        ),
        (
            NewPublication {
                key: Bytes::from(vec![1; MAX_KEY_BYTES + 1]),
                ..publication(EVERYWHERE, "news", "x")
            },
            PublishRefusal::TooLarge {
                field: "key",
                bytes: MAX_KEY_BYTES + 1,
                limit: MAX_KEY_BYTES,
            },
        ),
        (
            in_session(SessionId::new([9; 16]), 1, publication(EVERYWHERE, "news", "x")),
            PublishRefusal::SessionUnknown,
        ),
    ];
    for (publication, refusal) in refusals {
        assert_eq!(member.publish_in(publication), Err(refusal));
        assert_eq!(state_of(&member), before);
    }
    // At the limits they are taken.
    member.publish(EVERYWHERE, "small", "1234").unwrap();
    member.publish(EVERYWHERE, "news", &"x".repeat(MAX_PAYLOAD_BYTES)).unwrap();
    let key = Bytes::from(vec![1; MAX_KEY_BYTES]);
    member.publish_in(NewPublication { key, ..publication(EVERYWHERE, "news", "") }).unwrap();
}

/// What is refused takes nothing of the rate and no sequence; a repeat is
/// answered whatever the rate.
#[test]
fn a_channel_with_a_rate_takes_no_more() {
    let mut member = Member::new(1, 11);
    let limits = ChannelLimits { max_publications_per_second: 2, ..Default::default() };
    let slow = ChannelDraft { limits, ..Default::default() };
    member.edit(EVERYWHERE, "slow", ChannelChange::Create(slow)).unwrap();
    let opened = member.admission.open_session(NOW, EVERYWHERE, [1; 16], None).unwrap();
    let session = opened.session;
    let at = |sequence| in_session(session, sequence, publication(EVERYWHERE, "slow", "x"));
    for sequence in [1, 2] {
        member.publish_in(at(sequence)).unwrap();
    }
    let too_fast = |retry_after_milliseconds| PublishRefusal::TooFast {
        channel: channel("slow"),
        per_second: 2,
        retry_after_milliseconds,
    };
    let before = state_of(&member);
    assert_eq!(member.publish_in(at(3)), Err(too_fast(500)));
    assert!(matches!(member.publish_in(at(4)), Err(PublishRefusal::OutOfSequence { .. })));
    assert_eq!(state_of(&member), before);
    assert!(matches!(member.publish_in(at(2)), Ok(Published::Repeat { name: Some(_) })));
    member.now = member.now.plus_milliseconds(499);
    assert_eq!(member.publish_in(at(3)), Err(too_fast(1)));
    member.now = member.now.plus_milliseconds(1);
    member.publish_in(at(3)).unwrap();
    assert_eq!(member.publish_in(at(4)), Err(too_fast(500)));
}

#[test]
fn a_closed_namespace_says_why() {
    let mut member = Member::new(1, 11);
    member.create(EVERYWHERE, "news").unwrap();
    member.create(NARROW, "news").unwrap();
    member.admission.set_closed(EVERYWHERE, ClosedReason::DiskCap, true);
    let refused = member.publish(EVERYWHERE, "news", "x");
    assert_eq!(refused, Err(PublishRefusal::Closed(ClosedReason::DiskCap)));
    member.publish(NARROW, "news", "x").unwrap();

    member.admission.set_node_closed(ClosedReason::Draining, true);
    assert_eq!(member.admission.closed(EVERYWHERE), Some(ClosedReason::Draining));
    let refused = member.publish(NARROW, "news", "x");
    assert_eq!(refused, Err(PublishRefusal::Closed(ClosedReason::Draining)));

    member.admission.set_node_closed(ClosedReason::Draining, false);
    member.admission.set_closed(EVERYWHERE, ClosedReason::DiskCap, false);
    member.publish(EVERYWHERE, "news", "x").unwrap();
}

#[test]
fn a_newer_topology_takes_effect_at_once() {
    let mut member = Member::new(1, 11);
    member.create(NARROW, "news").unwrap();
    let mut without = (*topology()).clone();
    without.version.number = 2;
    without.groups[1].regions.remove(0);
    member.admission.set_topology(Arc::new(without));
    assert_eq!(member.publish(NARROW, "news", "x"), Err(PublishRefusal::NotMember(NARROW)));

    let mut wider = (*topology()).clone();
    wider.version.number = 3;
    wider.namespaces[1].groups.push(GroupName::parse("all").expect("well-formed"));
    member.admission.set_topology(Arc::new(wider));
    let name = member.publish(NARROW, "news", "x").unwrap();
    let entry = member.disk.logs[&name.log].entries.last().unwrap();
    let message = Message::decode(&entry.bytes).unwrap();
    assert_eq!(message.groups, [GroupNumber::new(7), GroupNumber::new(8)]);
    assert_eq!(message.topology_version.number, 3);
}

/// What a repair took off is published again also where the node is leaving: nobody else
/// has it. Nothing else is, and nothing where it holds nothing any more.
#[test]
fn what_is_brought_back_is_published_by_a_holder() {
    let mut member = Member::new(1, 11);
    member.create(NARROW, "news").unwrap();
    let mut leaving = (*topology()).clone();
    leaving.version.number = 2;
    leaving.groups[1].regions.remove(0);
    let mut left = leaving.clone();
    left.version.number = 3;
    leaving.namespaces[1].leaving = vec![NodeNumber::new(1)];
    member.admission.set_topology(Arc::new(leaving));
    assert_eq!(member.publish(NARROW, "news", "x"), Err(PublishRefusal::NotMember(NARROW)));
    let now = member.now;
    let mut bring_back = |standing| {
        let session = member.admission.open_session_as(standing, now, NARROW, [9; 16], None);
        let publication = publication(NARROW, "news", "x");
        (session.is_ok(), member.admission.publish_as(standing, now, publication).is_ok())
    };
    assert_eq!(bring_back(Standing::Member), (false, false));
    assert_eq!(bring_back(Standing::Holder), (true, true));
    member.admission.set_topology(Arc::new(left));
    let publication = publication(NARROW, "news", "x");
    let refused = member.admission.publish_as(Standing::Holder, now, publication);
    assert_eq!(refused.map(drop), Err(PublishRefusal::NotMember(NARROW)));
}

/// A channel that only evidence names takes publications, with that epoch and
/// version.
#[test]
fn a_provisional_channel_takes_publications() {
    let mut origin = Member::new(1, 11);
    origin.create(EVERYWHERE, "news").unwrap();
    origin.publish(EVERYWHERE, "news", "first").unwrap();
    origin.sync();
    let lost = origin.log(EVERYWHERE);
    let mut second = Member::new(2, 22);
    second.receive(&origin.whole_log(&lost));
    second.publish(EVERYWHERE, "news", "second").unwrap();
    second.sync();

    // The third has only what the second said.
    let mut third = Member::new(3, 33);
    third.receive(&second.whole_log(&second.log(EVERYWHERE)));
    let held = third.admission.directory(EVERYWHERE).unwrap().get("news").unwrap();
    assert!(held.is_provisional());
    let refused = third.create(EVERYWHERE, "news");
    let epoch = crate::identity::Epoch::new(1);
    assert_eq!(refused, Err(EditRefusal::AlreadyExists { channel: channel("news"), epoch }));
    third.publish(EVERYWHERE, "news", "third").unwrap();
    let described = third.describe(EVERYWHERE, "news", "mine").unwrap();
    let message = Message::decode(&described.entry.bytes).unwrap();
    assert_eq!(message.version.get(), 2, "above what was named");
}

/// The clock resumes above the last stored stamp, whatever the namespace.
#[test]
fn the_clock_resumes_above_all_that_was_stored_here() {
    let mut member = Member::new(1, 11);
    member.now = NOW.plus_milliseconds(500_000);
    member.create(EVERYWHERE, "news").unwrap();
    member.sync();
    let stored = member.disk.logs[&member.log(EVERYWHERE)].entries[0].stamp;
    let mut member = member.reopen(12);
    member.now = NOW;
    let created = member.create(NARROW, "news").unwrap();
    assert!(created.entry.stamp > stored);
}

/// What was received before a restart was seen: what is said after it has a later
/// stamp, as long as the other's clock is not far off.
#[test]
fn what_was_received_before_a_restart_was_seen() {
    let mut origin = Member::new(1, 11);
    origin.now = NOW.plus_milliseconds(30_000);
    origin.create(EVERYWHERE, "news").unwrap();
    origin.sync();
    let mut member = Member::new(2, 22);
    member.take_all_of(&origin);
    let mut member = member.reopen(23);
    let name = member.publish(EVERYWHERE, "news", "answer").unwrap();
    let answer = member.disk.logs[&name.log].entries[0].stamp;
    let question = origin.disk.logs[&origin.log(EVERYWHERE)].entries[0].stamp;
    assert!(answer > question);
}

/// A row's parents are below the log's first stamp, however far ahead they are.
#[test]
fn the_first_stamp_is_above_the_parents_whatever_the_limit() {
    let mut origin = Member::new(1, 11);
    origin.now = NOW.plus_milliseconds(3_600_000);
    origin.create(EVERYWHERE, "news").unwrap();
    origin.sync();
    let mut peer = Member::new(2, 22);
    peer.take_all_of(&origin);
    let mut wiped = Member::new(1, 12);
    wiped.take_all_of(&peer);
    let name = wiped.publish(EVERYWHERE, "news", "after").unwrap();
    let after = wiped.disk.logs[&name.log].entries[0].stamp;
    assert!(after > origin.disk.logs[&origin.log(EVERYWHERE)].entries[0].stamp);
}
