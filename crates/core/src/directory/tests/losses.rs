//! What goes to the audit trail, and what does not.

use crate::directory::{Directory, DirectoryChange, LostOperation, RegisterSet};
use crate::limits::MAX_AUDIT_ENTRIES_PER_CHANNEL;

use super::*;

fn lost(changes: &[DirectoryChange]) -> Vec<LostOperation> {
    changes
        .iter()
        .filter_map(|change| match change {
            DirectoryChange::Lost { operation, .. } => Some(*operation),
            _ => None,
        })
        .collect()
}

/// Which messages the directory tells as lost, and how.
fn told(messages: &[Named]) -> Vec<(u32, u64, String)> {
    let mut directory = Directory::new();
    told_by(&mut directory, messages)
}

fn told_by(directory: &mut Directory, messages: &[Named]) -> Vec<(u32, u64, String)> {
    lost(&apply_all(directory, messages))
        .iter()
        .map(|lost| (lost.stamp.origin.get(), lost.stamp.m_id.get(), lost.what()))
        .collect()
}

#[test]
fn of_two_concurrent_edits_the_one_that_loses_is_told_in_either_order() {
    let create = said(1, 1, 1, 1, 10).create("a", "created");
    let loser = said(1, 2, 1, 2, 20).describe("a", "loses");
    let winner = said(2, 1, 1, 2, 21).describe("a", "wins");
    assert_eq!(
        told(&[create.clone(), loser.clone(), winner.clone()]),
        [(1, 2, "create or update: presentation".to_owned())]
    );
    assert_eq!(told(&[create, winner, loser]), [(1, 2, "update: presentation".to_owned())]);
}

#[test]
fn an_edit_that_knew_what_it_replaced_loses_nobody_anything() {
    let create = said(1, 1, 1, 1, 10).create("a", "created");
    let update = said(2, 1, 1, 2, 20).describe("a", "updated");
    let delete = said(3, 1, 1, 3, 30).delete("a");
    let recreate = said(1, 2, 2, 1, 40).create("a", "again");
    let all = [create, update, delete, recreate];
    assert_eq!(told(&all), []);
    // Nor when the logs come one after the other, whichever comes first.
    let reversed: Vec<_> = all.iter().rev().cloned().collect();
    assert_eq!(told(&reversed), []);
}

#[test]
fn different_registers_do_not_conflict() {
    let create = said(1, 1, 1, 1, 10).create("a", "created");
    let text = said(1, 2, 1, 2, 20).describe("a", "text");
    let limit = said(2, 1, 1, 2, 21).limit("a", 7);
    assert_eq!(told(&[create, text, limit]), []);
}

#[test]
fn a_later_version_of_an_earlier_clock_is_concurrent() {
    let create = said(1, 1, 1, 1, 10).create("a", "created");
    let alone = said(1, 2, 1, 2, 50).describe("a", "alone");
    let second = said(2, 2, 1, 3, 30).describe("a", "the second there");
    assert_eq!(
        told(&[create, alone, second]),
        [(1, 2, "create or update: presentation".to_owned())]
    );
}

#[test]
fn the_opening_that_wrote_the_winner_tells_what_comes_only_then() {
    let create = said(1, 1, 1, 1, 10).create("a", "created");
    let first = said(2, 1, 1, 2, 30).describe("a", "first here");
    let second = said(2, 2, 1, 3, 31).describe("a", "second here");
    // Concurrent with both, but by its version and stamp the second may have
    // known it; only the node that wrote the second knows better.
    let elsewhere = said(1, 2, 1, 2, 29).describe("a", "elsewhere");
    let messages = [create, first, second, elsewhere];
    assert_eq!(told(&messages), []);
    let mut directory = Directory::new();
    directory.set_opening(name(2, 1).log.incarnation);
    assert_eq!(told_by(&mut directory, &messages), [(1, 2, "update: presentation".to_owned())]);
}

#[test]
fn a_creation_and_an_edit_lose_to_a_concurrent_deletion() {
    let other_create = said(1, 1, 1, 1, 25).create("a", "created too");
    let edit = said(1, 2, 1, 3, 40).limit("a", 3);
    let create = said(2, 1, 1, 1, 10).create("a", "created");
    let delete = said(2, 2, 1, 2, 20).delete("a");
    // Held, then deleted.
    let mut held = told(&[other_create.clone(), edit.clone(), create.clone(), delete.clone()]);
    held.sort();
    assert_eq!(
        held,
        [
            (1, 1, "create or update: presentation, source".to_owned()),
            (1, 2, "create or update: limits".to_owned()),
            (2, 1, "create: presentation, source".to_owned()),
        ]
    );
    // Deleted, then they come.
    assert_eq!(
        told(&[create, delete, other_create, edit]),
        [(1, 1, "create".to_owned()), (1, 2, "update".to_owned())]
    );
}

#[test]
fn an_edit_loses_to_a_concurrent_higher_epoch() {
    let create = said(1, 1, 1, 1, 10).create("a", "created");
    let delete = said(2, 1, 1, 2, 20).delete("a");
    let again = said(2, 2, 2, 1, 30).create("a", "again");
    let late = said(1, 2, 1, 2, 35).describe("a", "late");
    let early = said(3, 1, 1, 2, 15).describe("a", "early");
    assert_eq!(
        told(&[create.clone(), delete.clone(), again.clone(), late.clone(), early.clone()]),
        [(1, 2, "update".to_owned())]
    );
    // The higher epoch comes while the lower one is live here.
    assert_eq!(
        told(&[create, late, again, early]),
        [(1, 2, "create or update: presentation".to_owned())]
    );
}

#[test]
fn a_repeat_is_told_once() {
    let create = said(1, 1, 1, 1, 10).create("a", "created");
    let loser = said(1, 2, 1, 2, 20).describe("a", "loses");
    let winner = said(2, 1, 1, 2, 21).describe("a", "wins");
    let messages = [create, winner.clone(), loser.clone(), loser.clone(), winner.clone(), loser];
    assert_eq!(told(&messages).len(), 1);
}

#[test]
fn the_trail_is_bounded_and_newest_first() {
    let mut directory = Directory::new();
    let mut messages = vec![said(1, 1, 1, 1, 1).create("a", "created")];
    messages.push(said(1, 2, 1, 9, 900).describe("a", "wins"));
    let count = MAX_AUDIT_ENTRIES_PER_CHANNEL as u64 + 5;
    messages.extend((1..=count).map(|m_id| said(2, m_id, 1, 9, m_id).describe("a", "loses")));
    apply_all(&mut directory, &messages);
    let kept: Vec<_> =
        directory.lost_operations("a").map(|lost| lost.name(name(2, 1).log.namespace)).collect();
    assert_eq!(kept.len(), MAX_AUDIT_ENTRIES_PER_CHANNEL);
    assert_eq!(kept.first(), Some(&name(2, count)));
    assert_eq!(kept.last(), Some(&name(2, 6)));
}

#[test]
fn a_concurrent_creation_loses_register_by_register() {
    let here = said(1, 1, 1, 1, 10).create("a", "here");
    let limit = said(1, 2, 1, 2, 20).limit("a", 5);
    let there = said(2, 1, 1, 1, 11).create("a", "there");
    let mut directory = Directory::new();
    let losses = lost(&apply_all(&mut directory, &[here, limit, there]));
    let set = RegisterSet::PRESENTATION.with(RegisterSet::SOURCE);
    let about: Vec<_> =
        losses.iter().map(|lost| (lost.stamp.origin.get(), lost.registers)).collect();
    // The limit was written by an edit that the other creation did not know; it
    // has the higher version, and may have known that creation.
    assert_eq!(about, [(1, set)]);
    assert_eq!(directory.get("a").map(|held| held.limits()), Some(limits(5)));
}
