//! The projection of the directories.

use crate::message::{ChannelAction, ChannelOperation, Presentation};
use crate::projection::{DirectoryProjection, LayoutVersion};

use super::*;

fn operation(name: MessageName, channel: &str, action: ChannelAction) -> Message {
    let presentation = Presentation { description: name.to_string(), ..Presentation::default() };
    let operation =
        ChannelOperation { presentation: Some(presentation), ..ChannelOperation::new(action) };
    Message {
        kind: MessageKind::ChannelOperation,
        version: RegisterVersion::new(name.m_id.get()),
        payload: operation.encode(),
        ..publication(name, channel, b"")
    }
}

/// Messages of three logs in two namespaces, each log in its order.
fn messages() -> impl Strategy<Value = Vec<(MessageName, Message)>> {
    let logs = [log(1, 0, 1, 1), log(1, 0, 2, 1), log(2, 0, 1, 1)];
    prop::collection::vec((0..3_usize, 0..4_u8, 0..3_usize), 0..40).prop_map(move |drawn| {
        let mut last = [0; 3];
        let draw = |(which, what, channel): (usize, u8, usize)| {
            last[which] += 1;
            let name = at(logs[which], last[which]);
            let channel = ["a", "b", "c/d"][channel];
            let message = match what {
                0 => publication(name, channel, b""),
                1 => operation(name, channel, ChannelAction::Create),
                2 => operation(name, channel, ChannelAction::Update),
                _ => operation(name, channel, ChannelAction::Delete),
            };
            (name, message)
        };
        drawn.into_iter().map(draw).collect()
    })
}

fn digests(projection: &DirectoryProjection) -> Vec<(NamespaceNumber, [u8; 16])> {
    projection.directories().map(|(namespace, directory)| (namespace, directory.digest())).collect()
}

fn found(messages: &[(MessageName, Message)], floor: u64) -> Vec<ProjectedLog> {
    let mut logs = BTreeMap::new();
    for (name, _) in messages {
        logs.insert(name.log, name.m_id);
    }
    let floor = MessageNumber::new(floor);
    let found = |(log, held): (LogName, MessageNumber)| {
        let floor = floor.min(held);
        ProjectedLog { log, floor, last_missing: floor, held }
    };
    logs.into_iter().map(found).collect()
}

proptest! {
    /// METHOD M10, M12: wherever storing was interrupted, applying the logs from
    /// the stored position leads to the same state.
    #[test]
    fn a_restart_loses_and_repeats_nothing(
        messages in messages(),
        stores in prop::collection::btree_set(0..40_usize, 0..5),
        crash in 0..40_usize,
    ) {
        let mut stored = Stored::default();
        let mut projection = DirectoryProjection::default();
        for (place, (name, message)) in messages.iter().enumerate().take(crash) {
            projection.apply(name, &message.head());
            if stores.contains(&place) {
                stored.store(&mut projection);
            }
        }
        let logs = found(&messages, 0);
        let mut reopened: DirectoryProjection = stored.load(&logs).expect("stored by this layout");
        let mut whole = DirectoryProjection::default();
        for (name, message) in &messages {
            reopened.apply(name, &message.head());
            whole.apply(name, &message.head());
        }
        prop_assert_eq!(digests(&reopened), digests(&whole));
        prop_assert_eq!(reopened.position(), whole.position());
        // And what is stored then is all of it.
        stored.store(&mut reopened);
        let mut elsewhere = Stored::default();
        elsewhere.store(&mut whole);
        let again: DirectoryProjection = stored.load(&logs).expect("stored by this layout");
        prop_assert_eq!(digests(&again), digests(&whole));
        prop_assert_eq!(stored.position, elsewhere.position);
        prop_assert!(stored.pairs.keys().eq(elsewhere.pairs.keys()));
    }

    /// What was trimmed is in the projection alone; building it again from the
    /// rest of the logs keeps it.
    #[test]
    fn rebuilding_keeps_what_was_trimmed(messages in messages(), floor in 1..20_u64) {
        let mut stored = Stored::default();
        let mut projection = DirectoryProjection::default();
        for (name, message) in &messages {
            projection.apply(name, &message.head());
        }
        stored.store(&mut projection);
        let mut rebuilt: DirectoryProjection =
            stored.rebuild(&found(&messages, floor)).expect("stored by this layout");
        for (name, message) in messages.iter().filter(|(name, _)| name.m_id.get() > floor) {
            rebuilt.apply(name, &message.head());
        }
        prop_assert_eq!(digests(&rebuilt), digests(&projection));
        stored.store(&mut rebuilt);
        let again: DirectoryProjection = stored.load(&[]).expect("stored by this layout");
        prop_assert_eq!(digests(&again), digests(&projection));
    }

    /// What a log lost is lost to the projection too, if nothing was trimmed.
    #[test]
    fn rebuilding_forgets_what_the_log_lost(messages in messages(), kept in 0..40_usize) {
        let mut stored = Stored::default();
        let mut projection = DirectoryProjection::default();
        for (name, message) in &messages {
            projection.apply(name, &message.head());
        }
        stored.store(&mut projection);
        let left = &messages[..kept.min(messages.len())];
        let mut rebuilt: DirectoryProjection =
            stored.rebuild(&found(left, 0)).expect("stored by this layout");
        let mut expected = DirectoryProjection::default();
        for (name, message) in left {
            rebuilt.apply(name, &message.head());
            expected.apply(name, &message.head());
        }
        prop_assert_eq!(digests(&rebuilt), digests(&expected));
    }
}

#[test]
fn what_changes_nothing_is_not_stored() {
    let one = log(1, 0, 1, 1);
    let mut projection = DirectoryProjection::default();
    for m_id in 1..=3 {
        projection.apply(&at(one, m_id), &publication(at(one, m_id), "a", b"").head());
    }
    assert_eq!(projection.take_changes().puts.len(), 1);
    projection.apply(&at(one, 4), &publication(at(one, 4), "a", b"").head());
    assert!(projection.take_changes().is_empty());
    assert_eq!(projection.position().of(&one), MessageNumber::new(4));
    assert_eq!(projection.position().layout, LayoutVersion::new(1));
}

#[test]
fn base_entries_are_merged_and_stored() {
    let one = log(1, 0, 1, 1);
    let mut elsewhere = DirectoryProjection::default();
    elsewhere.apply(&at(one, 1), &operation(at(one, 1), "a", ChannelAction::Create).head());
    let mut projection = DirectoryProjection::default();
    let theirs = elsewhere.directory(one.namespace).expect("it has a channel");
    for entry in theirs.entries() {
        projection.merge_entry(one.namespace, entry);
    }
    let mut stored = Stored::default();
    stored.store(&mut projection);
    let loaded: DirectoryProjection = stored.load(&[]).expect("stored by this layout");
    assert_eq!(digests(&loaded), digests(&elsewhere));
}

#[test]
fn what_is_beyond_this_build_waits_for_the_next() {
    let one = log(1, 0, 1, 1);
    let mut projection = DirectoryProjection::default();
    let unknown =
        |m_id| Message { kind: MessageKind::Unknown(9), ..publication(at(one, m_id), "a", b"") };
    let later_action = Message {
        kind: MessageKind::ChannelOperation,
        payload: Bytes::from_static(&[8, 99]),
        ..publication(at(one, 3), "b", b"")
    };
    projection.apply(&at(one, 1), &publication(at(one, 1), "a", b"").head());
    projection.apply(&at(one, 2), &unknown(2).head());
    projection.apply(&at(one, 3), &later_action.head());
    // An operation of a later build is evidence all the same.
    assert!(projection.directory(one.namespace).is_some_and(|held| held.get("b").is_some()));
    let mut stored = Stored::default();
    stored.store(&mut projection);

    let mut loaded: DirectoryProjection = stored.load(&[]).expect("stored by this layout");
    let waiting: Vec<_> =
        loaded.unprojected().map(|(log, first, count)| (*log, first, count)).collect();
    assert_eq!(waiting, [(one, MessageNumber::new(2), 2)]);
    // This build does not understand more than the one that stored it.
    assert_eq!(loaded.take_understood_since(), []);

    // One that understood less stored it: it is looked at again.
    let key = stored.pairs.keys().find(|key| key[0] == 2).expect("the record").clone();
    stored.pairs.insert(key.clone(), Bytes::from_static(&[16, 2, 24, 2]));
    let mut upgraded: DirectoryProjection = stored.load(&[]).expect("stored by this layout");
    assert_eq!(upgraded.take_understood_since(), [at(one, 2)]);
    assert_eq!(upgraded.take_understood_since(), []);
    upgraded.apply_again(&at(one, 2), &unknown(2).head());
    let waiting: Vec<_> = upgraded.unprojected().map(|(_, first, count)| (first, count)).collect();
    assert_eq!(waiting, [(MessageNumber::new(2), 1)]);
    upgraded.take_understood_since();
    stored.store(&mut upgraded);
    assert_eq!(stored.pairs[&key][..], [8, 1, 16, 2, 24, 1]);
}

#[test]
fn damaged_pairs_are_refused() {
    let load = |key: &'static [u8], value: &'static [u8]| {
        let pair = (Bytes::from_static(key), Bytes::from_static(value));
        DirectoryProjection::load(&ProjectionPosition::default(), [pair], &[])
    };
    assert!(load(b"\x01\0\0\0\x01a", b"\x0a\x05\x0a\x01a\x10\x01").is_ok());
    assert!(load(b"\x01\0\0\0\x01b", b"\x0a\x05\x0a\x01a\x10\x01").is_err(), "another channel");
    assert!(load(b"\x01\0\0\0\x01a", b"").is_err());
    assert!(load(b"\x07", b"").is_err());
}
