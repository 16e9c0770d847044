//! Whether what is stored can be used, and positions.

use crate::projection::{
    ChannelIndex, DirectoryProjection, LayoutVersion, ProjectionOpening, PublishersProjection,
    opening_of, trimmable_through,
};

use super::*;

const LAYOUT: LayoutVersion = LayoutVersion::new(3);

fn found(log: LogName, floor: u64, held: u64) -> ProjectedLog {
    let (floor, held) = (MessageNumber::new(floor), MessageNumber::new(held));
    ProjectedLog { log, floor, last_missing: floor, held }
}

#[test]
fn what_is_stored_is_used_unless_it_is_ahead_or_other() {
    let (one, other) = (log(1, 0, 1, 1), log(1, 0, 2, 1));
    let stored = |layout, m_id| ProjectionPosition {
        layout,
        positions: vec![(one, MessageNumber::new(m_id))],
    };
    let logs = [found(one, 2, 7), found(other, 0, 4)];
    assert_eq!(opening_of(None, LAYOUT, &logs), ProjectionOpening::New);
    assert_eq!(opening_of(Some(&stored(LAYOUT, 7)), LAYOUT, &logs), ProjectionOpening::Load);
    assert_eq!(
        opening_of(Some(&stored(LAYOUT, 8)), LAYOUT, &logs),
        ProjectionOpening::AheadOfLog {
            log: one,
            applied: MessageNumber::new(8),
            held: MessageNumber::new(7)
        }
    );
    // The log itself is gone.
    assert!(matches!(
        opening_of(Some(&stored(LAYOUT, 1)), LAYOUT, &logs[1..]),
        ProjectionOpening::AheadOfLog { .. }
    ));
    let old = LayoutVersion::new(2);
    assert_eq!(
        opening_of(Some(&stored(old, 7)), LAYOUT, &logs),
        ProjectionOpening::OtherLayout { stored: old }
    );
}

#[test]
fn positions_move_without_holes_except_over_those_told() {
    let (one, other) = (log(1, 0, 1, 1), log(1, 0, 1, 2));
    let mut projection = DirectoryProjection::default();
    let apply = |projection: &mut DirectoryProjection, name: MessageName| {
        let message = publication(name, "a", b"");
        projection.apply(&name, &message.head());
    };
    apply(&mut projection, at(one, 1));
    apply(&mut projection, at(one, 2));
    // A log goes on from its parent's number.
    apply(&mut projection, at(other, 3));
    projection.skip(&one, MessageNumber::new(6));
    projection.skip(&one, MessageNumber::new(4));
    apply(&mut projection, at(one, 7));
    assert_eq!(projection.position_of(&one), MessageNumber::new(7));
    assert_eq!(projection.position_of(&other), MessageNumber::new(3));
    assert_eq!(projection.position_of(&log(2, 0, 1, 1)), MessageNumber::ZERO);
}

#[test]
#[should_panic(expected = "messages were left out")]
fn a_message_left_out_is_a_broken_invariant() {
    let mut projection = DirectoryProjection::default();
    for m_id in [1, 3] {
        let name = at(log(1, 0, 1, 1), m_id);
        projection.apply(&name, &publication(name, "a", b"").head());
    }
}

#[test]
fn a_position_behind_a_floor_goes_on_from_the_floor() {
    let one = log(1, 0, 1, 1);
    let mut stored = Stored::default();
    let mut projection = DirectoryProjection::default();
    let name = at(one, 1);
    projection.apply(&name, &publication(name, "a", b"").head());
    stored.store(&mut projection);
    let loaded: DirectoryProjection = stored.load(&[found(one, 5, 9)]).expect("stored just now");
    assert_eq!(loaded.position_of(&one), MessageNumber::new(5));
}

/// A hole in the middle of a log: what was stored of the base that came with it is
/// all that is left of its messages.
#[test]
fn what_a_hole_left_is_kept_when_all_is_built_again() {
    let one = log(1, 0, 1, 1);
    let (mut stored, mut projection) = (Stored::default(), DirectoryProjection::default());
    for (m_id, channel) in [(1, "early"), (2, "lost")] {
        let name = at(one, m_id);
        projection.apply(&name, &publication(name, channel, b"").head());
    }
    stored.store(&mut projection);
    let whole = found(one, 0, 3);
    let with_hole = ProjectedLog { last_missing: MessageNumber::new(2), ..whole };
    for (log, kept) in [(whole, false), (with_hole, true)] {
        let built: DirectoryProjection = stored.clone().rebuild(&[log]).expect("it is readable");
        let directory = built.directory(one.namespace);
        let holds = directory.is_some_and(|directory| directory.get("lost").is_some());
        assert_eq!(holds, kept);
        assert_eq!(built.position_of(&one), MessageNumber::ZERO, "what is held is applied");
    }
}

#[test]
fn nothing_is_trimmed_that_a_projection_has_not_seen() {
    let me = NodeNumber::new(1);
    let (own, other) = (log(1, 0, 1, 1), log(1, 0, 2, 1));
    let mut directories = DirectoryProjection::default();
    let mut publishers = PublishersProjection::default();
    publishers.set_origin(me);
    let mut index = ChannelIndex::default();
    let through = |directories: &DirectoryProjection,
                   publishers: &PublishersProjection,
                   index: &ChannelIndex| {
        let through = |log| {
            let wished = MessageNumber::new(9);
            trimmable_through(me, log, wished, directories, publishers, index).get()
        };
        (through(&own), through(&other))
    };
    for log in [own, other] {
        directories.skip(&log, MessageNumber::new(7));
        publishers.skip(&log, MessageNumber::new(5));
    }
    assert_eq!(through(&directories, &publishers, &index), (0, 0), "the index has seen nothing");
    index.skip(&own, MessageNumber::new(20));
    index.skip(&other, MessageNumber::new(20));
    // Others' sessions are none of this node's.
    assert_eq!(through(&directories, &publishers, &index), (5, 7));
    let beyond = at(other, 8);
    let mut message = publication(beyond, "a", b"");
    message.kind = MessageKind::Unknown(77);
    directories.apply(&beyond, &message.head());
    assert_eq!(through(&directories, &publishers, &index), (5, 7), "it may be understood later");
}
