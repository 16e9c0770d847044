use super::*;
use crate::replication::frames::{Nack, NackReason};

/// METHOD M12: a disk restored from an old copy makes a fork: both branches are
/// valid, both reach everyone, and the next opening closes them.
#[test]
fn both_branches_of_a_fork_reach_everyone() {
    let mut origin = Member::new(1, 11);
    origin.create(EVERYWHERE, "news").unwrap();
    origin.publish(EVERYWHERE, "news", "common").unwrap();
    origin.sync();
    let copy = origin.disk.clone();
    origin.publish(EVERYWHERE, "news", "before the restore").unwrap();
    origin.sync();
    let old_log = origin.log(EVERYWHERE);
    let mut peer = Member::new(2, 22);
    peer.take_all_of(&origin);

    // Nobody waits for peers: it accepts at once.
    let mut restored = Member::open(1, 12, copy, topology());
    let name = restored.publish(EVERYWHERE, "news", "after the restore").unwrap();
    assert_eq!(name.m_id, MessageNumber::new(3), "the number is used again, by another log");
    restored.sync();

    // The old branch comes back as an ordinary received log, the new one goes out.
    restored.take_all_of(&peer);
    peer.take_all_of(&restored);
    assert_eq!(restored.disk.names(), peer.disk.names());
    assert_eq!(restored.held(&old_log).m_id, MessageNumber::new(3));
    let path = name.log.path();
    let tips = restored.admission.logs().tips_of_path(&path);
    assert_eq!(tips.len(), 2, "none is an ancestor of the other");

    // A third member in any order.
    for first in [old_log, name.log] {
        let mut third = Member::new(3, 33);
        let outcome = third.receive(&peer.whole_log(&first));
        let waits =
            matches!(outcome, FrameOutcome::Nack(Nack { reason: NackReason::ParentMissing, .. }));
        assert_eq!(waits, first == name.log);
        third.take_all_of(&peer);
        assert_eq!(third.disk.names(), peer.disk.names());
    }

    let mut reopened = restored.reopen(13);
    let closing = reopened.publish(EVERYWHERE, "news", "both").unwrap();
    assert_eq!(closing.m_id, MessageNumber::new(4));
    let row = &reopened.admission.logs().get(&closing.log).unwrap().row;
    let mut parents: Vec<Incarnation> =
        row.parents.iter().map(|parent| parent.incarnation).collect();
    parents.sort_unstable();
    assert_eq!(parents, [incarnation(11), incarnation(12)]);
    assert_eq!(reopened.admission.logs().tips_of_path(&path).len(), 1);
    reopened.sync();

    // Both parents are needed, whichever is missing.
    for missing in [old_log, name.log] {
        let mut late = Member::new(3, 33);
        for log in [old_log, name.log] {
            if log != missing {
                late.receive(&peer.whole_log(&log));
            }
        }
        let outcome = late.receive(&reopened.whole_log(&closing.log));
        let FrameOutcome::Nack(nack) = outcome else { panic!("not refused: {outcome:?}") };
        assert_eq!((nack.reason, nack.expected.get()), (NackReason::ParentMissing, 1));
        assert!(!late.disk.logs.contains_key(&closing.log));
    }
    peer.take_all_of(&reopened);
    assert_eq!(peer.held(&closing.log), reopened.held(&closing.log));
}

/// The parent's log must have reached the parent's number, not only be there.
#[test]
fn a_parent_that_is_not_reached_is_missing() {
    let mut origin = Member::new(1, 11);
    origin.create(EVERYWHERE, "news").unwrap();
    for number in 0..4 {
        origin.publish(EVERYWHERE, "news", &number.to_string()).unwrap();
    }
    origin.sync();
    let parent = origin.log(EVERYWHERE);
    let mut origin = origin.reopen(12);
    origin.publish(EVERYWHERE, "news", "next").unwrap();
    origin.sync();
    let child = origin.whole_log(&origin.log(EVERYWHERE));

    let mut member = Member::new(2, 22);
    for count in 0..5 {
        if let Some(frame) = origin.frame(&parent, 1, count) {
            member.receive(&frame);
        }
        let outcome = member.receive(&child);
        let FrameOutcome::Nack(nack) = outcome else { panic!("not refused: {outcome:?}") };
        assert_eq!(nack.reason, NackReason::ParentMissing);
    }
    member.receive(&origin.whole_log(&parent));
    assert!(matches!(member.receive(&child), FrameOutcome::Appended { .. }));
    // Decided in one batch: parent and child were appended, neither is durable.
    assert_eq!(member.admission.logs().get(&parent).unwrap().durable.m_id, MessageNumber::ZERO);
}

/// A wiped node gets its number again and starts at 1; what it had comes back
/// beside that.
#[test]
fn a_wiped_origin_begins_again_beside_what_it_had() {
    let mut origin = Member::new(1, 11);
    origin.create(EVERYWHERE, "news").unwrap();
    origin.publish(EVERYWHERE, "news", "before").unwrap();
    origin.sync();
    let mut peer = Member::new(2, 22);
    peer.take_all_of(&origin);

    let mut wiped = Member::new(1, 12);
    let created = wiped.create(EVERYWHERE, "other").unwrap();
    assert_eq!(created.name.m_id, MessageNumber::new(1));
    wiped.sync();
    wiped.take_all_of(&peer);
    peer.take_all_of(&wiped);
    assert_eq!(wiped.disk.names(), peer.disk.names());
    assert_eq!(wiped.disk.names().len(), 3);
    let tips = wiped.admission.logs().tips_of_path(&created.name.log.path());
    assert_eq!(tips.len(), 2);
}

/// A branch that comes before the first message of an opening is a parent of it,
/// also when it is not durable yet: the order of appends keeps both or neither.
#[test]
fn a_branch_that_came_before_the_first_message_is_a_parent() {
    let mut origin = Member::new(1, 11);
    origin.create(EVERYWHERE, "news").unwrap();
    origin.sync();
    let mut peer = Member::new(2, 22);
    peer.take_all_of(&origin);

    let mut wiped = Member::new(1, 12);
    wiped.receive(&peer.whole_log(&origin.log(EVERYWHERE)));
    let name = wiped.publish(EVERYWHERE, "news", "after").unwrap();
    assert_eq!(name.m_id, MessageNumber::new(2));
    assert_eq!(wiped.admission.logs().tips_of_path(&name.log.path()).len(), 1);
}

#[test]
fn more_branches_than_a_row_may_name_are_closed_in_turns() {
    use crate::limits::MAX_PARENTS;
    let mut member = Member::new(1, 1_000_000);
    for bits in 1..=(MAX_PARENTS as u64 + 10) {
        let mut branch = Member::new(1, bits);
        branch.create(EVERYWHERE, "news").unwrap();
        branch.sync();
        member.receive(&branch.whole_log(&branch.log(EVERYWHERE)));
    }
    let first = member.publish(EVERYWHERE, "news", "x").unwrap();
    let parents = |member: &Member, name: MessageName| {
        member.admission.logs().get(&name.log).unwrap().row.parents.len()
    };
    assert_eq!(parents(&member, first), MAX_PARENTS);
    member.sync();
    let mut member = member.reopen(1_000_001);
    let second = member.publish(EVERYWHERE, "news", "y").unwrap();
    assert_eq!(parents(&member, second), 11);
    assert_eq!(member.admission.logs().tips_of_path(&first.log.path()).len(), 1);
}
