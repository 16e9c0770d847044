//! I6, I7: the state follows from the set of messages, however they come.

use std::collections::{BTreeMap, BTreeSet};

use proptest::prelude::*;
use proptest::sample::SizeRange;

use crate::directory::{Definition, Directory, DirectoryEntry, RegisterStamp};
use crate::identity::RegisterVersion;
use crate::message::{ChannelAction, ChannelOperation, MessageKind};
use crate::names::ChannelName;

use super::*;

const CHANNELS: [&str; 3] = ["a", "b", "b/c"];

/// Random messages of three origins, with few values, so that ties and
/// conflicts are frequent. Some are of kinds and actions of later builds.
fn messages(count: impl Into<SizeRange>) -> impl Strategy<Value = Vec<Named>> {
    let one = (0..3_u32, 0..CHANNELS.len(), 1..4_u64, 1..4_u64, 0..4_u64, 0..9_u8);
    prop::collection::vec(one, count).prop_map(|drawn| {
        let mut last = [0; 3];
        let draw = |(origin, on, epoch, version, stamp, what): (u32, usize, u64, u64, u64, u8)| {
            let m_id = &mut last[origin as usize];
            *m_id += 1;
            let text = format!("{origin}:{m_id}");
            let (on, said) = (CHANNELS[on], said(origin, *m_id, epoch, version, stamp));
            match what {
                0 | 1 => said.publication(on),
                2 => said.create(on, &text),
                3 => said.describe(on, &text),
                4 => said.limit(on, stamp as u32 + 10 * origin),
                5 => said.delete(on),
                6 => {
                    let operation = ChannelOperation {
                        source: Some(source(b"content")),
                        limits: Some(limits(*m_id as u32)),
                        ..ChannelOperation::new(ChannelAction::Update)
                    };
                    said.operation(on, &operation)
                }
                7 => said.message(on, MessageKind::ChannelOperation, Bytes::from_static(&[8, 99])),
                _ => said.message(on, MessageKind::Unknown(9), Bytes::new()),
            }
        };
        drawn.into_iter().map(draw).collect()
    })
}

/// The same messages in another order, some of them several times.
fn shuffled(messages: Vec<Named>) -> impl Strategy<Value = (Vec<Named>, Vec<Named>)> {
    let repeats = prop::collection::vec(any::<prop::sample::Index>(), 0..10);
    (Just(messages), repeats).prop_flat_map(|(messages, repeats)| {
        let mut with_repeats = messages.clone();
        if !messages.is_empty() {
            with_repeats.extend(repeats.iter().map(|index| index.get(&messages).clone()));
        }
        (Just(messages), Just(with_repeats).prop_shuffle())
    })
}

fn directory_of(messages: &[Named]) -> Directory {
    let mut directory = Directory::new();
    apply_all(&mut directory, messages);
    directory
}

fn state(directory: &Directory) -> Vec<DirectoryEntry> {
    directory.entries().collect()
}

/// What the state of a set of messages is, said another way than
/// by merging.
fn specified(messages: &[Named]) -> BTreeMap<ChannelName, Specified> {
    let mut specified: BTreeMap<ChannelName, Specified> = BTreeMap::new();
    let channels: BTreeSet<_> =
        messages.iter().filter_map(|(_, message)| message.channel.name()).collect();
    for channel in channels {
        let known: Vec<_> = messages
            .iter()
            .filter(|(_, message)| message.channel == *channel)
            .filter(|(_, message)| !matches!(message.kind, MessageKind::Unknown(_)))
            .collect();
        let Some(epoch) = known.iter().map(|(_, message)| message.epoch).max() else { continue };
        let of_epoch: Vec<_> =
            known.into_iter().filter(|(_, message)| message.epoch == epoch).collect();
        let operations: Vec<_> = of_epoch
            .iter()
            .filter(|(_, message)| message.kind == MessageKind::ChannelOperation)
            .filter_map(|(name, message)| {
                let stamp = RegisterStamp::new(name, message.version, message.stamp);
                Some((stamp, ChannelOperation::decode(&message.payload).ok()?))
            })
            .collect();
        let has = |action| operations.iter().any(|(_, operation)| operation.action == action);
        let deleted = has(ChannelAction::Delete);
        let writer = |writes: fn(&ChannelOperation) -> bool| {
            let writers = operations.iter().filter(|(_, operation)| {
                operation.action == ChannelAction::Create || writes(operation)
            });
            writers.max_by_key(|(stamp, _)| *stamp).filter(|_| !deleted)
        };
        let presentation = writer(|operation| operation.presentation.is_some());
        let source = writer(|operation| operation.source.is_some());
        let limits = writer(|operation| operation.limits.is_some());
        let version = of_epoch.iter().map(|(_, message)| message.version).max();
        let state = Specified {
            epoch: epoch.get(),
            deleted,
            defined: has(ChannelAction::Create) && !deleted,
            version: version.filter(|_| !deleted).unwrap_or_default(),
            writers: [presentation, source, limits].map(|writer| Some(writer?.0)),
            description: presentation
                .and_then(|(_, operation)| Some(operation.presentation.clone()?.description))
                .unwrap_or_default(),
            content: source
                .and_then(|(_, operation)| Some(operation.source.clone()?.content))
                .unwrap_or_default(),
            max_payload_bytes: limits
                .and_then(|(_, operation)| Some(operation.limits?.max_payload_bytes))
                .unwrap_or_default(),
        };
        specified.insert(channel.clone(), state);
    }
    specified
}

#[derive(Debug, PartialEq)]
struct Specified {
    epoch: u64,
    deleted: bool,
    defined: bool,
    version: RegisterVersion,
    writers: [Option<RegisterStamp>; 3],
    description: String,
    content: Bytes,
    max_payload_bytes: u32,
}

impl Specified {
    fn of(definition: &Definition) -> Self {
        let registers = definition.registers();
        Self {
            epoch: definition.epoch().get(),
            deleted: definition.is_deleted(),
            defined: definition.is_defined(),
            version: definition.version(),
            writers: [
                registers.and_then(|registers| registers.presentation.stamp),
                registers.and_then(|registers| registers.source.stamp),
                registers.and_then(|registers| registers.limits.stamp),
            ],
            description: definition
                .presentation()
                .map(|presentation| presentation.description.clone())
                .unwrap_or_default(),
            content: definition.source().map(|source| source.content.clone()).unwrap_or_default(),
            max_payload_bytes: definition.limits().max_payload_bytes,
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(1_000))]

    /// METHOD M3, M10: whoever holds the same messages has the same channels, in
    /// whatever order and however often they came.
    #[test]
    fn order_and_repetition_do_not_matter(
        (messages, others) in messages(0..30).prop_flat_map(shuffled),
    ) {
        let (one, other) = (directory_of(&messages), directory_of(&others));
        prop_assert_eq!(state(&one), state(&other));
        prop_assert_eq!(one.digest(), other.digest());
        prop_assert_eq!(one.tombstones(), other.tombstones());
    }

    #[test]
    fn the_state_is_what_the_messages_specify(messages in messages(0..30)) {
        let directory = directory_of(&messages);
        let held: BTreeMap<_, _> = directory
            .list("", None)
            .map(|(channel, definition)| (channel.clone(), Specified::of(definition)))
            .collect();
        prop_assert_eq!(held, specified(&messages));
    }

    #[test]
    fn merging_two_directories_is_applying_both_sets(
        (mine, theirs, both) in (messages(0..15), messages(15..30)).prop_map(|(mine, theirs)| {
            // Names of the second set follow those of the first.
            let theirs: Vec<Named> = theirs
                .into_iter()
                .map(|(mut name, mut message)| {
                    name.m_id = MessageNumber::new(name.m_id.get() + 100);
                    message.m_id = name.m_id;
                    (name, message)
                })
                .collect();
            let both = [mine.clone(), theirs.clone()].concat();
            (mine, theirs, both)
        }),
    ) {
        let (mut one, mut other) = (directory_of(&mine), directory_of(&theirs));
        let (ours, foreign) = (state(&one), state(&other));
        foreign.into_iter().for_each(|entry| {
            one.merge_entry(entry);
        });
        ours.into_iter().for_each(|entry| {
            other.merge_entry(entry);
        });
        let both = directory_of(&both);
        prop_assert_eq!(state(&one), state(&both));
        prop_assert_eq!(state(&other), state(&both));
        prop_assert_eq!(one.digest(), both.digest());
        prop_assert_eq!(other.digest(), both.digest());
    }

    #[test]
    fn definitions_are_a_semilattice(
        (a, b, c) in (messages(1..8), messages(1..8), messages(1..8)),
    ) {
        // Definitions of one channel, of whatever names: laws of the type.
        let definition = |messages: &[Named]| {
            let messages: Vec<Named> = messages
                .iter()
                .cloned()
                .map(|(name, message)| (name, Message { channel: channel("a").into(), ..message }))
                .collect();
            directory_of(&messages).get("a").cloned()
        };
        // The three sets are of different origins, for a name has one content.
        let rename = |messages: Vec<Named>, by: u32| -> Vec<Named> {
            messages
                .into_iter()
                .map(|(old, message)| (name(old.log.origin.get() + by, old.m_id.get()), message))
                .collect()
        };
        let sets = [a, rename(b, 10), rename(c, 20)].map(|messages| definition(&messages));
        let [Some(a), Some(b), Some(c)] = sets else { return Ok(()) };
        let join = |one: &Definition, other: &Definition| {
            let mut joined = one.clone();
            joined.merge(other.clone());
            joined
        };
        prop_assert_eq!(join(&a, &b), join(&b, &a));
        prop_assert_eq!(join(&join(&a, &b), &c), join(&a, &join(&b, &c)));
        prop_assert_eq!(join(&a, &a), a.clone());
        prop_assert_eq!(join(&join(&a, &b), &b), join(&a, &b));
    }

    #[test]
    fn the_digest_is_that_of_the_entries_alone(messages in messages(0..30)) {
        let directory = directory_of(&messages);
        let mut rebuilt = Directory::new();
        for entry in directory.entries() {
            rebuilt.merge_entry(entry);
        }
        prop_assert_eq!(rebuilt.digest(), directory.digest());
        // Any one entry less is another digest.
        for left_out in 0..directory.len() {
            let mut partial = Directory::new();
            for (place, entry) in directory.entries().enumerate() {
                if place != left_out {
                    partial.merge_entry(entry);
                }
            }
            prop_assert_ne!(partial.digest(), directory.digest());
        }
    }

    /// I7: after a deletion is held, no epoch up to its own is ever live again.
    #[test]
    fn what_is_deleted_stays_deleted(messages in messages(0..40)) {
        let mut directory = Directory::new();
        let mut deleted: BTreeMap<ChannelName, u64> = BTreeMap::new();
        for (name, message) in &messages {
            directory.apply(name, message);
            let deletes = message.kind == MessageKind::ChannelOperation
                && ChannelOperation::decode(&message.payload)
                    .is_ok_and(|operation| operation.action == ChannelAction::Delete);
            if deletes {
                let highest = deleted
                    .entry(message.channel.name().expect("a channel of the test").clone())
                    .or_default();
                *highest = (*highest).max(message.epoch.get());
            }
            for (channel, epoch) in &deleted {
                let held = directory.get(channel).expect("a tombstone is held");
                prop_assert!(held.epoch().get() > *epoch || held.is_deleted());
                for epoch in 1..=*epoch {
                    prop_assert!(!directory.deliverable(channel, Epoch::new(epoch)));
                }
            }
        }
    }

    /// What is stored and taken back is the same directory, trails included.
    #[test]
    fn stored_channels_come_back(messages in messages(0..30)) {
        let directory = directory_of(&messages);
        let mut restored = Directory::new();
        for (channel, _) in directory.list("", None) {
            let bytes = directory.encode_stored(channel.as_str()).expect("it is held");
            restored.restore_stored(&bytes).expect("it was encoded just now");
        }
        prop_assert_eq!(state(&restored), state(&directory));
        prop_assert_eq!(restored.digest(), directory.digest());
        for (channel, _) in directory.list("", None) {
            prop_assert!(directory.lost_operations(channel).eq(restored.lost_operations(channel)));
            prop_assert_eq!(
                restored.encode_stored(channel.as_str()),
                directory.encode_stored(channel.as_str())
            );
        }
    }
}
