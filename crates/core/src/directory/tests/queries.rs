//! What the directory answers, and what it tells.

use crate::directory::{Directory, DirectoryChange, RegisterSet};
use crate::message::{ChannelAction, ChannelOperation};

use super::*;

#[test]
fn a_publication_before_its_definition_makes_a_provisional_one() {
    let mut directory = Directory::new();
    let changes = apply_all(&mut directory, &[said(2, 1, 1, 3, 10).publication("a")]);
    assert_eq!(
        changes,
        [DirectoryChange::Provisional {
            channel: channel("a"),
            epoch: Epoch::new(1),
            previous: None
        }]
    );
    let held = directory.get("a").expect("named");
    assert!(held.is_provisional());
    assert_eq!(held.registers(), None);
    assert!(directory.deliverable("a", Epoch::new(1)));
    // It exists, and a later edit is above what was named.
    assert!(!held.is_deleted());
    assert_eq!(held.version(), RegisterVersion::new(3));

    let changes = apply_all(&mut directory, &[said(1, 1, 1, 1, 5).create("a", "text")]);
    assert_eq!(changes, [DirectoryChange::Created { channel: channel("a"), epoch: Epoch::new(1) }]);
    let held = directory.get("a").expect("created");
    assert!(held.is_defined());
    assert_eq!(held.presentation(), Some(&presentation("text")));
    assert_eq!(held.version(), RegisterVersion::new(3));
}

/// The counterexample to publications without a version: an edit after a creation that was lost must
/// not lose to that creation when it comes back.
#[test]
fn an_edit_after_a_lost_creation_wins_over_it() {
    let mut directory = Directory::new();
    apply_all(&mut directory, &[said(2, 1, 1, 1, 10).publication("a")]);
    let version = directory.get("a").expect("named").version().get() + 1;
    let edit = said(3, 1, 1, version, 1).describe("a", "edited");
    apply_all(&mut directory, &[edit, said(1, 1, 1, 1, 99).create("a", "created")]);
    assert_eq!(
        directory.get("a").and_then(|held| held.presentation()),
        Some(&presentation("edited"))
    );
}

#[test]
fn epochs_and_versions_for_admission() {
    let mut directory = Directory::new();
    let held = |directory: &Directory| {
        directory.get("a").map(|held| (held.is_deleted(), held.epoch().get(), held.version().get()))
    };
    assert_eq!(held(&directory), None);
    assert!(directory.deliverable("a", Epoch::new(1)));

    apply_all(&mut directory, &[said(1, 1, 1, 1, 10).create("a", "text")]);
    assert_eq!(held(&directory), Some((false, 1, 1)));

    apply_all(&mut directory, &[said(1, 2, 1, 2, 11).delete("a")]);
    assert_eq!(held(&directory), Some((true, 1, 0)));
    assert!(!directory.deliverable("a", Epoch::new(1)));
    assert!(directory.deliverable("a", Epoch::new(2)));
    assert_eq!((directory.live_channels(), directory.tombstones(), directory.len()), (0, 1, 1));

    apply_all(&mut directory, &[said(1, 3, 2, 1, 12).create("a", "again")]);
    assert_eq!((directory.live_channels(), directory.tombstones(), directory.len()), (1, 0, 1));
    assert!(!directory.deliverable("a", Epoch::new(1)));
}

#[test]
fn publications_to_what_is_gone_change_nothing_and_are_counted() {
    let mut directory = Directory::new();
    apply_all(
        &mut directory,
        &[said(1, 1, 2, 1, 10).create("a", "text"), said(1, 2, 3, 1, 10).delete("b")],
    );
    let digest = directory.digest();
    let passed_over = [
        said(2, 1, 1, 9, 11).publication("a"),
        said(2, 2, 3, 9, 11).publication("b"),
        said(2, 3, 2, 9, 11).publication("b"),
    ];
    assert_eq!(apply_all(&mut directory, &passed_over), []);
    assert_eq!(directory.digest(), digest);
    assert_eq!(directory.passed_over_publications(), 3);
}

#[test]
fn changes_say_what_became_of_a_channel() {
    let mut directory = Directory::new();
    let (a, epoch) = (channel("a"), Epoch::new);
    let mut after = |named: Named| {
        let (name, message) = named;
        directory.apply(&name, &message)
    };
    let channel = || a.clone();
    assert_eq!(
        after(said(1, 1, 1, 1, 1).create("a", "x")),
        [DirectoryChange::Created { channel: channel(), epoch: epoch(1) }]
    );
    assert_eq!(after(said(1, 1, 1, 1, 1).create("a", "x")), []);
    assert_eq!(
        after(said(1, 2, 1, 2, 2).limit("a", 5)),
        [DirectoryChange::Updated {
            channel: channel(),
            epoch: epoch(1),
            registers: RegisterSet::LIMITS
        }]
    );
    assert_eq!(
        after(said(2, 1, 1, 7, 3).publication("a")),
        [DirectoryChange::VersionNamed {
            channel: channel(),
            epoch: epoch(1),
            version: RegisterVersion::new(7)
        }]
    );
    assert_eq!(after(said(2, 2, 1, 7, 4).publication("a")), []);
    assert_eq!(
        after(said(1, 3, 1, 8, 5).delete("a")),
        [DirectoryChange::Deleted { channel: channel(), epoch: epoch(1) }]
    );
    assert_eq!(
        after(said(1, 4, 2, 1, 6).create("a", "x")),
        [DirectoryChange::Recreated { channel: channel(), epoch: epoch(2), previous: epoch(1) }]
    );
    assert_eq!(
        after(said(2, 3, 4, 1, 7).publication("a")),
        [DirectoryChange::Provisional {
            channel: channel(),
            epoch: epoch(4),
            previous: Some(epoch(2))
        }]
    );
    assert_eq!(
        after(said(2, 4, 5, 1, 8).delete("a")),
        [DirectoryChange::Deleted { channel: channel(), epoch: epoch(5) }]
    );
}

#[test]
fn listings_are_by_prefix_and_page() {
    let mut directory = Directory::new();
    let names = ["b/2", "a", "b/1", "c", "b", "b/3", "b0"];
    for (m_id, name) in (1..).zip(names) {
        apply_all(&mut directory, &[said(1, m_id, 1, 1, m_id).create(name, "text")]);
    }
    apply_all(&mut directory, &[said(1, 90, 1, 2, 90).delete("b/2")]);
    let page = |prefix, after, deleted, limit| {
        let page = directory.page(prefix, after, deleted, limit);
        let names: Vec<_> =
            page.channels.iter().map(|(name, _)| name.as_str().to_owned()).collect();
        (names.join(" "), page.next_after.map(|name| name.as_str().to_owned()))
    };
    assert_eq!(page("", None, true, 9), ("a b b/1 b/2 b/3 b0 c".to_owned(), None));
    assert_eq!(page("b/", None, false, 9), ("b/1 b/3".to_owned(), None));
    assert_eq!(page("b", None, false, 2), ("b b/1".to_owned(), Some("b/1".to_owned())));
    assert_eq!(page("b", Some("b/1"), false, 2), ("b/3 b0".to_owned(), None));
    assert_eq!(page("b/", Some("a"), false, 9), ("b/1 b/3".to_owned(), None));
    assert_eq!(page("b/", Some("b0"), true, 9), (String::new(), None));
    assert_eq!(page("x", None, true, 9), (String::new(), None));
}

#[test]
fn extreme_numbers_do_not_overflow() {
    let mut directory = Directory::new();
    let max = u64::MAX;
    apply_all(&mut directory, &[said(1, 1, max, max, max).create("a", "text")]);
    assert_eq!(directory.get("a").expect("held").version(), RegisterVersion::new(max));
    apply_all(&mut directory, &[said(1, 2, max, max, max).delete("a")]);
    assert_eq!(directory.get("a").expect("held").epoch(), Epoch::new(max));
}

#[test]
fn content_does_not_hold_on_to_the_frame_it_came_in() {
    let operation = ChannelOperation {
        source: Some(source(b"content")),
        ..ChannelOperation::new(ChannelAction::Create)
    };
    let (name, mut message) = said(1, 1, 1, 1, 1).operation("a", &operation);
    let frame = Bytes::from([message.payload.as_ref(), &[0; 4096]].concat());
    message.payload = frame.slice(..message.payload.len());
    let mut directory = Directory::new();
    directory.apply(&name, &message);
    drop(message);
    // The only owner again: nothing in the directory shares it.
    assert!(frame.is_unique());
}
