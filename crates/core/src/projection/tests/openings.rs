//! Whether what is stored can be used, and positions.

use crate::projection::{DirectoryProjection, LayoutVersion, ProjectionOpening, opening_of};

use super::*;

const LAYOUT: LayoutVersion = LayoutVersion::new(3);

fn found(log: LogName, floor: u64, held: u64) -> ProjectedLog {
    ProjectedLog { log, floor: MessageNumber::new(floor), held: MessageNumber::new(held) }
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
