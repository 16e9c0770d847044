//! What a cursor covers, and its order.

use proptest::prelude::*;
use proptest::sample::Index;

use super::world::{NAMESPACE, assert_reduced, channel, incarnation, name, passed, path, worlds};
use crate::cursor::{Cursor, OverrideError};
use crate::identity::{ChainHash, MessageName, MessageNumber, NamespaceNumber, ParentPoint};
use crate::replication::rows::{Row, Rows};

proptest! {
    #[test]
    fn rows_say_what_is_covered(world in worlds(), tip in any::<Index>()) {
        let tip = world.message(&tip);
        let covered = world.through(&tip);
        for (row, length) in &world.logs {
            let first = row.first_m_id().get();
            let through = (first..first + length)
                .map(|m_id| MessageName { log: row.log, m_id: MessageNumber::new(m_id) })
                .filter(|name| covered & world.bit(name) != 0)
                .map(|name| name.m_id)
                .max();
            prop_assert_eq!(world.rows.covered_through(&tip, &row.log), through);
        }
    }

    #[test]
    fn with_all_rows_coverage_is_exact(world in worlds(), a in passed(), b in passed()) {
        let rows = &world.rows;
        let (a, b) = (world.cursor(&a, rows), world.cursor(&b, rows));
        let (in_a, in_b) = (world.covered_by(&a), world.covered_by(&b));
        prop_assert_eq!(world.said_by(|name| a.covers(name, rows)), in_a);
        prop_assert_eq!(a.le(&b, rows), in_a & !in_b == 0);
        prop_assert_eq!(a.same_coverage(&b, rows), in_a == in_b);
        // With all rows known the tips are canonical.
        prop_assert_eq!(a == b, in_a == in_b);
        assert_reduced(&a, rows);
        for (row, _) in &world.logs {
            let position = a.position_of(&row.log, rows);
            for message in world.messages.iter().filter(|name| name.log == row.log) {
                prop_assert_eq!(message.m_id <= position, a.covers(message, rows));
            }
        }
        prop_assert!(a.unknown_tips(rows).is_empty());
    }

    /// `≤` may be wrongly false, never wrongly true.
    #[test]
    fn with_some_rows_nothing_is_wrongly_covered(
        world in worlds(),
        (a, b) in (passed(), passed()),
        (known, later) in (any::<u16>(), any::<u16>()),
    ) {
        let rows = &world.some_rows(known);
        let (a, b) = (world.cursor(&a, rows), world.cursor(&b, rows));
        let (in_a, in_b) = (world.covered_by(&a), world.covered_by(&b));
        prop_assert_eq!(world.said_by(|name| a.covers(name, rows)) & !in_a, 0);
        prop_assert!(!a.le(&b, rows) || in_a & !in_b == 0);
        prop_assert!(a.le(&a, rows));
        assert_reduced(&a, rows);
        if a.unknown_tips(rows).is_empty() {
            prop_assert_eq!(world.said_by(|name| a.covers(name, rows)), in_a);
        }

        // Merging and learning of rows lose nothing and gain nothing, whatever is
        // known.
        let mut merged = a.clone();
        merged.merge(&b, rows).expect("no overrides");
        prop_assert_eq!(world.covered_by(&merged), in_a | in_b);
        let rows = &world.some_rows(known | later);
        merged.reduce(rows);
        prop_assert_eq!(world.covered_by(&merged), in_a | in_b);
        assert_reduced(&merged, rows);
        prop_assert!(a.le(&merged, rows) && b.le(&merged, rows));
    }

    #[test]
    fn merging_is_commutative_associative_and_idempotent(
        world in worlds(),
        (a, b, c) in (passed(), passed(), passed()),
        known in any::<u16>(),
    ) {
        let rows = &world.some_rows(known);
        let merge = |left: &Cursor, right: &Cursor| {
            let mut merged = left.clone();
            merged.merge(right, rows).expect("no overrides");
            merged
        };
        let [a, b, c] = [a, b, c].map(|passed| world.cursor(&passed, rows));
        prop_assert_eq!(merge(&a, &b), merge(&b, &a));
        prop_assert_eq!(merge(&merge(&a, &b), &c), merge(&a, &merge(&b, &c)));
        prop_assert_eq!(merge(&a, &a), a.clone());
        prop_assert!(a.le(&merge(&a, &b), rows));
        prop_assert_eq!(a.le(&b, rows), merge(&a, &b).same_coverage(&b, rows));
    }

    #[test]
    fn advancing_only_adds(
        world in worlds(),
        passed in passed(),
        next in any::<Index>(),
        known in any::<u16>(),
    ) {
        let rows = &world.some_rows(known);
        let before = world.cursor(&passed, rows);
        let next = world.message(&next);
        let mut after = before.clone();
        after.advance(next, rows);
        prop_assert!(after.covers(&next, rows));
        prop_assert!(before.le(&after, rows));
        prop_assert_eq!(world.covered_by(&after), world.covered_by(&before) | world.through(&next));
        assert_reduced(&after, rows);
    }
}

#[test]
fn an_absent_origin_is_at_zero() {
    let (rows, cursor) = (Rows::new(), Cursor::new(NAMESPACE));
    assert_eq!(cursor.position_of(&name(1, 1, 1).log, &rows), MessageNumber::ZERO);
    assert!(!cursor.covers(&name(1, 1, 1), &rows));
    assert_eq!(cursor.paths().count(), 0);
}

#[test]
fn a_message_of_another_namespace_changes_nothing() {
    let rows = Rows::new();
    let mut cursor = Cursor::new(NamespaceNumber::new(8));
    cursor.advance(name(1, 1, 1), &rows);
    assert_eq!(cursor, Cursor::new(NamespaceNumber::new(8)));
    let other = Cursor::new(NAMESPACE);
    assert_eq!(cursor.merge(&other, &rows), Err(OverrideError::OtherNamespace));
    assert_eq!(
        cursor.start_channel(&channel("a"), &other, &rows),
        Err(OverrideError::OtherNamespace)
    );
    assert!(!cursor.le(&other, &rows));
}

/// An origin was restored from an old copy: two branches, then one opening that
/// joins them.
#[test]
fn a_fork_needs_two_tips_until_it_is_joined() {
    let parent = |bits, m_id| ParentPoint {
        incarnation: incarnation(bits),
        m_id: MessageNumber::new(m_id),
        hash: ChainHash::EMPTY,
    };
    let mut rows = Rows::new();
    for (bits, parents) in [
        (1, vec![]),
        (2, vec![parent(1, 5)]),
        (3, vec![parent(1, 3)]),
        (4, vec![parent(2, 6), parent(3, 9)]),
    ] {
        let row = Row { log: path(1).log(incarnation(bits)), parents };
        assert_eq!(rows.insert(row), Ok(true));
    }
    let mut cursor = Cursor::new(NAMESPACE);
    cursor.advance(name(1, 1, 5), &rows);
    cursor.advance(name(1, 2, 6), &rows);
    assert_eq!(cursor.tips().collect::<Vec<_>>(), [name(1, 2, 6)]);
    cursor.advance(name(1, 3, 4), &rows);
    assert_eq!(cursor.tips().collect::<Vec<_>>(), [name(1, 2, 6), name(1, 3, 4)]);
    assert!(cursor.covers(&name(1, 1, 5), &rows));
    assert!(!cursor.covers(&name(1, 3, 5), &rows));
    cursor.advance(name(1, 4, 10), &rows);
    assert_eq!(cursor.tips().collect::<Vec<_>>(), [name(1, 4, 10)]);
    assert_eq!(cursor.position_of(&name(1, 2, 1).log, &rows), MessageNumber::new(6));
    assert_eq!(cursor.position_of(&name(1, 1, 1).log, &rows), MessageNumber::new(5));
}

#[test]
fn tips_of_unknown_incarnations_stay() {
    let rows = Rows::new();
    let mut cursor = Cursor::new(NAMESPACE);
    cursor.advance(name(1, 1, 5), &rows);
    cursor.advance(name(1, 2, 6), &rows);
    cursor.advance(name(1, 2, 7), &rows);
    assert_eq!(cursor.tips().collect::<Vec<_>>(), [name(1, 1, 5), name(1, 2, 7)]);
    assert_eq!(cursor.unknown_tips(&rows), [name(1, 1, 5), name(1, 2, 7)]);
    let mut carried = Cursor::decode(&cursor.encode()).expect("it was just encoded");
    carried.merge(&Cursor::new(NAMESPACE), &rows).expect("no overrides");
    assert_eq!(carried, cursor);
}
