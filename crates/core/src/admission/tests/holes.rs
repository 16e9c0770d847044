use super::*;
use crate::directory::Directory;
use crate::replication::frames::{BaseEntries, Hole, NackReason};

/// An origin whose first messages were trimmed, and the hole that says so.
fn trimmed(through: usize) -> (Member, LogName, Hole, Row) {
    let mut origin = Member::new(1, 11);
    origin.create(EVERYWHERE, "news").unwrap();
    for number in 0..9 {
        origin.publish(EVERYWHERE, "news", &number.to_string()).unwrap();
    }
    origin.sync();
    let log = origin.log(EVERYWHERE);
    let stored = &origin.disk.logs[&log];
    let hole = Hole {
        log,
        from: stored.row.first_m_id(),
        through: stored.mark(through),
        stamp: stored.entries[through - 1].stamp,
    };
    let row = stored.row.clone();
    (origin, log, hole, row)
}

fn take_hole(member: &mut Member, hole: &Hole, row: Option<&Row>) -> HoleOutcome {
    member.admission.receive_hole(member.now, hole, row, &NoHistory)
}

use crate::replication::log_table::NoHistory;

#[test]
fn a_hole_moves_the_mark_and_the_rest_follows() {
    let (origin, log, hole, row) = trimmed(6);
    let mut member = Member::new(2, 22);
    let early = take_hole(&mut member, &hole, None);
    assert!(matches!(early, HoleOutcome::Nack(nack) if nack.reason == NackReason::OutOfOrder));
    let moved = take_hole(&mut member, &hole, Some(&row));
    assert_eq!(moved, HoleOutcome::Moved { row: Some(row), hole });
    let held = member.admission.logs().get(&log).unwrap();
    assert_eq!((held.appended, held.floor), (hole.through, hole.through));
    assert_ne!(held.durable, hole.through, "visible is not durable");
    let again = take_hole(&mut member, &hole, None);
    assert_eq!(again, HoleOutcome::AlreadyHeld { mark: hole.through });

    // Messages inside it are neither compared nor appended; those behind are.
    let mut admission = member.admission;
    let frame = origin.frame(&log, 3, 100).unwrap();
    let outcome = admission.receive(NOW, &frame, &NoHistory);
    let FrameOutcome::Appended { entries, mark, .. } = outcome else {
        panic!("not appended: {outcome:?}");
    };
    assert_eq!((entries.len(), mark), (4, origin.held(&log)));
    assert!(entries.iter().all(|entry| entry.row.is_none()), "the hole brought the row");
    admission.handle_durable(&[(log, mark)]);
    assert_eq!(admission.logs().get(&log).unwrap().durable, mark);
}

#[test]
fn a_hole_fills_only_what_is_lacking() {
    let (origin, log, hole, row) = trimmed(6);
    let mut member = Member::new(2, 22);
    member.receive(&origin.frame(&log, 1, 3).unwrap());
    let moved = take_hole(&mut member, &hole, Some(&row));
    // What is stored begins where what is held ends.
    let hole_left = Hole { from: MessageNumber::new(4), ..hole };
    assert_eq!(moved, HoleOutcome::Moved { row: None, hole: hole_left });

    let mut complete = Member::new(3, 33);
    complete.receive(&origin.whole_log(&log));
    let mark = origin.held(&log);
    let held = take_hole(&mut complete, &hole, Some(&row));
    assert_eq!(held, HoleOutcome::AlreadyHeld { mark });
    let other = Hole { through: Mark { hash: ChainHash::EMPTY, ..hole.through }, ..hole };
    let differs = take_hole(&mut complete, &other, Some(&row));
    assert!(
        matches!(differs, HoleOutcome::Nack(nack) if nack.reason == NackReason::ContentDiffers)
    );
}

#[test]
fn holes_that_cannot_be_are_refused() {
    let (_, log, hole, row) = trimmed(6);
    let mut member = Member::new(2, 22);
    let number = MessageNumber::new;
    let mark = |m_id| Mark { m_id: number(m_id), hash: ChainHash::EMPTY };
    let own = member.admission.own_log(EVERYWHERE);
    let impossible = [
        Hole { from: MessageNumber::ZERO, ..hole },
        Hole { from: number(7), ..hole },
        Hole { through: mark(u64::MAX), ..hole },
        Hole { log: own, ..hole },
    ];
    for hole in impossible {
        let refused = take_hole(&mut member, &hole, Some(&row));
        let HoleOutcome::Nack(nack) = refused else { panic!("not refused: {refused:?}") };
        assert_eq!(nack.reason, NackReason::Invalid);
    }
    let gap = Hole { from: number(2), ..hole };
    let refused = take_hole(&mut member, &gap, Some(&row));
    assert!(matches!(refused, HoleOutcome::Nack(nack) if nack.reason == NackReason::OutOfOrder));
    let narrow = Hole { log: LogName { namespace: NARROW, ..log }, ..hole };
    let mut outside = Member::new(3, 33);
    assert!(matches!(take_hole(&mut outside, &narrow, None), HoleOutcome::Refused(_)));
    assert_eq!(member.admission.logs().iter().count(), 0);
}

/// In a hole no hash is kept: a parent there is held once the mark is beyond it.
#[test]
fn a_parent_inside_a_hole_is_reached() {
    let (origin, log, _, row) = trimmed(6);
    let copy = {
        let mut disk = origin.disk.clone();
        disk.logs.get_mut(&log).unwrap().entries.truncate(4);
        disk
    };
    let mut restored = Member::open(1, 12, copy, topology());
    restored.publish(EVERYWHERE, "news", "branch").unwrap();
    restored.sync();
    let stored = &origin.disk.logs[&log];
    let hole = Hole {
        log,
        from: stored.row.first_m_id(),
        through: stored.mark(6),
        stamp: stored.entries[5].stamp,
    };
    let mut member = Member::new(2, 22);
    take_hole(&mut member, &hole, Some(&row));
    let branch = restored.whole_log(&restored.log(EVERYWHERE));
    let outcome = member.admission.receive(NOW, &branch, &NoHistory);
    assert!(matches!(outcome, FrameOutcome::Appended { .. }));
}

/// The walk at opening removes a log whose parents are not held: it must not have
/// been taken before them.
#[test]
fn a_hole_waits_for_what_its_log_goes_on_from() {
    let (origin, log, parent_hole, parent_row) = trimmed(10);
    let mut restarted = Member::open(1, 12, origin.disk.clone(), topology());
    restarted.publish(EVERYWHERE, "news", "after").unwrap();
    restarted.sync();
    let child = restarted.log(EVERYWHERE);
    let stored = &restarted.disk.logs[&child];
    let (row, through) = (stored.row.clone(), restarted.held(&child));
    let hole = Hole { log: child, from: row.first_m_id(), through, stamp: stored.entries[0].stamp };

    let mut member = Member::new(2, 22);
    let early = take_hole(&mut member, &hole, Some(&row));
    assert!(matches!(early, HoleOutcome::Nack(nack) if nack.reason == NackReason::ParentMissing));
    assert!(member.admission.logs().get(&child).is_none());
    take_hole(&mut member, &parent_hole, Some(&parent_row));
    assert_eq!(member.admission.logs().get(&log).unwrap().appended, parent_hole.through);
    let taken = take_hole(&mut member, &hole, Some(&row));
    assert_eq!(taken, HoleOutcome::Moved { row: Some(row), hole });
}

#[test]
fn a_base_is_merged_whole_or_not_at_all() {
    let mut origin = Member::new(1, 11);
    origin.create(EVERYWHERE, "news").unwrap();
    origin.create(EVERYWHERE, "gone").unwrap();
    origin.delete(EVERYWHERE, "gone").unwrap();
    let held: &Directory = origin.admission.directory(EVERYWHERE).unwrap();
    let entries: Vec<Bytes> = held.entries().map(|entry| entry.encode()).collect();
    let base = |namespace, directory| BaseEntries {
        namespace,
        directory,
        trim_points: Vec::new(),
        last: true,
    };

    let mut member = Member::new(3, 33);
    let mut broken = entries.clone();
    broken.push(Bytes::from_static(&[0xff]));
    let refused = member.admission.merge_base(&base(EVERYWHERE, broken));
    assert!(matches!(refused, Err(BaseRefusal::Invalid { index: 2, .. })));
    assert!(member.admission.directory(EVERYWHERE).unwrap().is_empty());

    let changes = member.admission.merge_base(&base(EVERYWHERE, entries.clone())).unwrap();
    assert_eq!(changes.len(), 2);
    assert_eq!(member.admission.directory(EVERYWHERE).unwrap().digest(), held.digest());
    let again = member.admission.merge_base(&base(EVERYWHERE, entries.clone())).unwrap();
    assert!(again.is_empty());
    let elsewhere = member.admission.merge_base(&base(NARROW, entries));
    assert_eq!(elsewhere, Err(BaseRefusal::NotMember(NARROW)));
}
