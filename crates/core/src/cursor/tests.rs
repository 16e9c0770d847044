//! Cursors over random rows with forks and joins, against sets of messages.
//!
//! The world is small enough that what a cursor covers is a set of bits, made
//! from the definition in the simplest way.

use std::collections::BTreeMap;

use proptest::collection::vec;
use proptest::prelude::*;
use proptest::sample::Index;

use super::*;
use crate::identity::{ChainHash, ParentPoint};
use crate::limits::{MAX_CURSOR_BYTES, MAX_CURSOR_TIPS_PER_PATH};
use crate::replication::rows::Row;
use crate::wire_format::put_varint;

const NAMESPACE: NamespaceNumber = NamespaceNumber::new(7);

fn path(origin: u32) -> PathName {
    PathName { namespace: NAMESPACE, shard: ShardNumber::new(0), origin: NodeNumber::new(origin) }
}

fn incarnation(bits: u64) -> Incarnation {
    Incarnation::new(bits).expect("not zero")
}

fn name(origin: u32, incarnation_bits: u64, m_id: u64) -> MessageName {
    let log = path(origin).log(incarnation(incarnation_bits));
    MessageName { log, m_id: MessageNumber::new(m_id) }
}

fn channel(text: &str) -> ChannelName {
    ChannelName::parse(text).expect("a channel name")
}

/// A set of a world's messages.
type Coverage = u128;

/// All rows and messages there are, known here or not.
#[derive(Clone, Debug)]
struct World {
    logs: Vec<(Row, u64)>,
    rows: Rows,
    messages: Vec<MessageName>,
}

/// How one more log is made: its origin, which points of earlier logs it goes on
/// from, and its length.
type LogPlan = (u32, Vec<(Index, Index)>, u64);

impl World {
    fn new(plans: Vec<LogPlan>) -> Self {
        let mut world = Self { logs: Vec::new(), rows: Rows::new(), messages: Vec::new() };
        for (number, (origin, points, length)) in plans.into_iter().enumerate() {
            // Spread, so that the order of incarnations is not that of time.
            let bits = (number as u64 + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15);
            let parents = world.parents_of(origin, points);
            let row = Row { log: path(origin).log(incarnation(bits)), parents };
            let first = row.first_m_id().get();
            world.rows.insert(row.clone()).expect("parents lie in their logs");
            let numbers = first..first + length;
            world.messages.extend(numbers.map(|m_id| name(origin, bits, m_id)));
            world.logs.push((row, length));
        }
        assert!(world.messages.len() <= 128, "coverage is a set of 128 bits");
        world
    }

    fn parents_of(&self, origin: u32, points: Vec<(Index, Index)>) -> Vec<ParentPoint> {
        let own: Vec<_> =
            self.logs.iter().filter(|(row, _)| row.log.origin.get() == origin).collect();
        if own.is_empty() {
            return Vec::new();
        }
        let chosen: BTreeMap<Incarnation, MessageNumber> = points
            .into_iter()
            .map(|(which, how_far)| {
                let (row, length) = own[which.index(own.len())];
                let offset = how_far.index(*length as usize) as u64;
                (row.log.incarnation, MessageNumber::new(row.first_m_id().get() + offset))
            })
            .collect();
        chosen
            .into_iter()
            .map(|(incarnation, m_id)| ParentPoint { incarnation, m_id, hash: ChainHash::EMPTY })
            .collect()
    }

    fn bit(&self, name: &MessageName) -> Coverage {
        let index = self.messages.iter().position(|other| other == name);
        1 << index.expect("the world has this message")
    }

    /// A message and all before it, by the definition.
    fn through(&self, name: &MessageName) -> Coverage {
        let (row, _) =
            self.logs.iter().find(|(row, _)| row.log == name.log).expect("the world has this log");
        let own = (row.first_m_id().get()..=name.m_id.get())
            .map(|m_id| self.bit(&MessageName { log: name.log, m_id: MessageNumber::new(m_id) }))
            .fold(0, |all, bit| all | bit);
        row.parent_names().map(|parent| self.through(&parent)).fold(own, |all, more| all | more)
    }

    fn on_path(&self, path: &PathName) -> Coverage {
        self.messages
            .iter()
            .filter(|name| name.log.path() == *path)
            .fold(0, |all, name| all | self.bit(name))
    }

    /// What the tips of a cursor cover in truth, whatever rows are known here.
    fn covered_by(&self, cursor: &Cursor) -> Coverage {
        cursor.tips().fold(0, |all, tip| all | self.through(&tip))
    }

    /// What a cursor says it covers.
    fn said_by(&self, says: impl Fn(&MessageName) -> bool) -> Coverage {
        self.messages.iter().filter(|name| says(name)).fold(0, |all, name| all | self.bit(name))
    }

    fn message(&self, index: &Index) -> MessageName {
        *index.get(&self.messages)
    }

    fn cursor(&self, passed: &[Index], rows: &Rows) -> Cursor {
        let mut cursor = Cursor::new(NAMESPACE);
        passed.iter().for_each(|index| cursor.advance(self.message(index), rows));
        cursor
    }

    /// Only some of the rows, as a member knows them that others are ahead of.
    fn some_rows(&self, known: u16) -> Rows {
        let mut rows = Rows::new();
        for (index, (row, _)) in self.logs.iter().enumerate() {
            if known >> index & 1 == 1 {
                rows.insert(row.clone()).expect("the world's rows agree");
            }
        }
        rows
    }
}

fn worlds() -> impl Strategy<Value = World> {
    let points = vec((any::<Index>(), any::<Index>()), 0..3);
    vec((1..=2_u32, points, 1..=5_u64), 1..10).prop_map(World::new)
}

fn passed() -> impl Strategy<Value = Vec<Index>> {
    vec(any::<Index>(), 0..6)
}

/// No tip is an ancestor of another, as far as is known here.
fn assert_reduced(cursor: &Cursor, rows: &Rows) {
    let tips: Vec<_> = cursor.tips().collect();
    for (index, tip) in tips.iter().enumerate() {
        for (other_index, other) in tips.iter().enumerate() {
            assert!(index == other_index || rows.covered_through(other, &tip.log) < Some(tip.m_id));
        }
    }
}

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

/// What happens to a cursor with channels that stand apart.
#[derive(Clone, Debug)]
enum Step {
    Advance(Index),
    AdvanceChannel(usize, Index),
    StartChannel(usize, usize),
    Merge(usize),
}

fn steps() -> impl Strategy<Value = Step> {
    prop_oneof![
        4 => any::<Index>().prop_map(Step::Advance),
        2 => (0..2_usize, any::<Index>()).prop_map(|(which, at)| Step::AdvanceChannel(which, at)),
        2 => (0..2_usize, 0..2_usize).prop_map(|(which, from)| Step::StartChannel(which, from)),
        1 => (0..2_usize).prop_map(Step::Merge),
    ]
}

/// A cursor, and what it should cover: for the rest and for each channel.
#[derive(Clone)]
struct Checked {
    cursor: Cursor,
    rest: Coverage,
    channels: [Coverage; 2],
}

impl Checked {
    fn take(&mut self, step: &Step, others: &[Self], world: &World, names: &[ChannelName; 2]) {
        let rows = &world.rows;
        match step {
            Step::Advance(at) => {
                let at = world.message(at);
                let (more, path) = (world.through(&at), world.on_path(&at.log.path()));
                for channel in &mut self.channels {
                    if self.rest & path & !*channel == 0 {
                        *channel |= more;
                    }
                }
                self.rest |= more;
                self.cursor.advance(at, rows);
            }
            Step::AdvanceChannel(which, at) => {
                let at = world.message(at);
                if self.channels[*which] != self.rest {
                    self.channels[*which] |= world.through(&at);
                }
                self.cursor.advance_channel(&names[*which], at, rows);
            }
            Step::StartChannel(which, from) => {
                self.channels[*which] = others[*from].channels[*which];
                let from = &others[*from].cursor;
                self.cursor.start_channel(&names[*which], from, rows).expect("two channels");
            }
            Step::Merge(with) => {
                let with = &others[*with];
                self.rest |= with.rest;
                for (mine, theirs) in self.channels.iter_mut().zip(with.channels) {
                    *mine |= theirs;
                }
                self.cursor.merge(&with.cursor, rows).expect("two channels");
            }
        }
    }

    fn check(&self, world: &World, names: &[ChannelName; 2]) {
        let (cursor, rows) = (&self.cursor, &world.rows);
        assert_eq!(world.said_by(|name| cursor.covers(name, rows)), self.rest);
        for (channel, expected) in names.iter().zip(self.channels) {
            let said = world.said_by(|name| cursor.channel_covers(channel, name, rows));
            assert_eq!(said, expected);
            assert_eq!(cursor.is_overridden(channel), expected != self.rest);
            for (row, _) in &world.logs {
                let position = cursor.channel_position_of(channel, &row.log, rows);
                for message in world.messages.iter().filter(|name| name.log == row.log) {
                    assert_eq!(message.m_id <= position, said & world.bit(message) != 0);
                }
            }
        }
        let decoded = Cursor::decode(&cursor.encode());
        assert_eq!(decoded.as_ref(), Ok(cursor));
    }

    fn is_below(&self, other: &Self) -> bool {
        let below = |mine: Coverage, theirs: Coverage| mine & !theirs == 0;
        below(self.rest, other.rest)
            && self.channels.iter().zip(other.channels).all(|(mine, theirs)| below(*mine, theirs))
    }
}

proptest! {
    #[test]
    fn channels_that_stand_apart_keep_their_own_position(
        world in worlds(),
        steps in vec((0..2_usize, steps()), 0..16),
    ) {
        let names = [channel("a"), channel("b/c")];
        let empty = Checked { cursor: Cursor::new(NAMESPACE), rest: 0, channels: [0; 2] };
        let mut all = vec![empty.clone(), empty];
        for (which, step) in steps {
            let others = all.clone();
            all[which].take(&step, &others, &world, &names);
            all[which].check(&world, &names);
            let (a, b) = (&all[0], &all[1]);
            prop_assert_eq!(a.cursor.le(&b.cursor, &world.rows), a.is_below(b));
            prop_assert_eq!(b.cursor.le(&a.cursor, &world.rows), b.is_below(a));
        }
        let [a, b] = [&all[0].cursor, &all[1].cursor];
        let (mut ab, mut ba) = (a.clone(), b.clone());
        ab.merge(b, &world.rows).expect("two channels");
        ba.merge(a, &world.rows).expect("two channels");
        prop_assert_eq!(ab, ba);
    }

    #[test]
    fn cursors_round_trip_also_with_unknown_rows(
        world in worlds(),
        passed in passed(),
        known in any::<u16>(),
    ) {
        let cursor = world.cursor(&passed, &world.some_rows(known));
        prop_assert_eq!(Cursor::decode(&cursor.encode()), Ok(cursor.clone()));
        prop_assert_eq!(Cursor::from_text(&cursor.to_text()), Ok(cursor));
    }

    #[test]
    fn random_bytes_never_panic(bytes in vec(any::<u8>(), 0..100), text in ".{0,60}") {
        let _ = Cursor::decode(&bytes);
        let _ = Cursor::from_text(&text);
        // Past the checksum: what is taken is what would have been written.
        let mut whole = vec![1, 0];
        whole.extend_from_slice(&bytes);
        let whole = with_checksum(whole);
        if let Ok(cursor) = Cursor::decode(&whole) {
            prop_assert_eq!(&cursor.encode()[..], &whole[..]);
        }
    }

    #[test]
    fn a_damaged_cursor_is_refused(
        world in worlds(),
        passed in passed(),
        at in any::<Index>(),
        damage in 1..=255_u8,
        cut in any::<Index>(),
    ) {
        let bytes = world.cursor(&passed, &world.rows).encode();
        let mut damaged = bytes.to_vec();
        damaged[at.index(bytes.len())] ^= damage;
        prop_assert!(Cursor::decode(&damaged).is_err());
        prop_assert!(Cursor::decode(&bytes[..cut.index(bytes.len())]).is_err());
    }

    #[test]
    fn damage_behind_a_right_checksum_never_panics(
        world in worlds(),
        passed in passed(),
        at in any::<Index>(),
        byte in any::<u8>(),
    ) {
        let mut cursor = world.cursor(&passed, &world.rows);
        cursor.start_channel(&channel("a"), &Cursor::new(NAMESPACE), &world.rows).expect("one");
        let mut bytes = cursor.encode().to_vec();
        bytes.truncate(bytes.len() - 4);
        let at = at.index(bytes.len());
        bytes[at] = byte;
        let bytes = with_checksum(bytes);
        if let Ok(cursor) = Cursor::decode(&bytes) {
            prop_assert_eq!(&cursor.encode()[..], &bytes[..]);
        }
    }
}

fn with_checksum(mut content: Vec<u8>) -> Vec<u8> {
    let checksum = xxhash_rust::xxh3::xxh3_64(&content) as u32;
    content.extend_from_slice(&checksum.to_be_bytes());
    content
}

fn example() -> Cursor {
    let rows = Rows::new();
    let mut cursor = Cursor::new(NAMESPACE);
    cursor.advance(name(3, 0x1122_3344_5566_7788, 300), &rows);
    cursor.advance(name(3, 0x0102_0304_0506_0708, 5), &rows);
    cursor.advance(name(9, 0xff00_0000_0000_0001, 1), &rows);
    let mut earlier = Cursor::new(NAMESPACE);
    earlier.advance(name(3, 0x1122_3344_5566_7788, 20), &rows);
    cursor.start_channel(&channel("prices"), &earlier, &rows).expect("one channel");
    cursor
}

/// Cursors are with subscribers: a change of these bytes would break them all.
#[test]
fn the_encoding_never_changes() {
    let golden = "010007020301020102030405060708051122334455667788ac020600ff000000000000010101\
        06707269636573020300112233445566778814060100dffe8b9c";
    let bytes: String = example().encode().iter().map(|byte| format!("{byte:02x}")).collect();
    assert_eq!(bytes, golden);
    assert_eq!(Cursor::decode(&example().encode()), Ok(example()));
    assert_eq!(Cursor::from_text(&example().to_text()), Ok(example()));
}

#[test]
fn thirty_origins_take_four_to_five_hundred_bytes() {
    let mut cursor = Cursor::new(NAMESPACE);
    for origin in 1..=30_u32 {
        let bits = u64::from(origin).wrapping_mul(0x9e37_79b9_7f4a_7c15);
        cursor.advance(name(origin, bits, 1_000_000_u64 << (origin % 12)), &Rows::new());
    }
    let bytes = cursor.encode().len();
    assert!((400..=500).contains(&bytes), "{bytes} bytes");
    assert!(cursor.to_text().len() < 700);
}

#[test]
fn a_cursor_of_a_later_build_is_told_apart_from_a_damaged_one() {
    let mut bytes = example().encode().to_vec();
    bytes[0] = 2;
    let later = DecodeError::UnknownVersion { version: 2, flags: 0 };
    assert_eq!(Cursor::decode(&bytes), Err(later));
    bytes[..2].copy_from_slice(&[1, 1]);
    let signed = DecodeError::UnknownVersion { version: 1, flags: 1 };
    assert_eq!(Cursor::decode(&bytes), Err(signed));
    assert_eq!(Cursor::decode(&[]), Err(DecodeError::Damaged));
    assert_eq!(Cursor::decode(&[1, 0, 0, 0, 0]), Err(DecodeError::Damaged));
    let long = vec![1; MAX_CURSOR_BYTES + 1];
    assert_eq!(Cursor::decode(&long), Err(DecodeError::TooLong { bytes: long.len() }));
}

#[test]
fn what_is_not_written_canonically_is_refused() {
    let body = |write: &dyn Fn(&mut Vec<u8>)| {
        let mut bytes = vec![1, 0];
        write(&mut bytes);
        Cursor::decode(&with_checksum(bytes))
    };
    let tip = |bytes: &mut Vec<u8>, bits: u64, m_id: u64| {
        bytes.extend_from_slice(&bits.to_be_bytes());
        put_varint(bytes, m_id);
    };
    assert!(body(&|bytes| bytes.extend_from_slice(&[7, 0, 0])).is_ok());
    let one_tip = |shape: &'static [u8], bits, m_id| {
        body(&move |bytes| {
            bytes.extend_from_slice(&[7, 1, 3]);
            bytes.extend_from_slice(shape);
            tip(bytes, bits, m_id);
            bytes.push(0);
        })
    };
    assert!(one_tip(&[0], 5, 9).is_ok());
    let invalid = Err(DecodeError::Invalid);
    assert_eq!(one_tip(&[1, 1], 5, 9), invalid, "a count where there is one tip");
    assert_eq!(one_tip(&[0x80, 0], 5, 9), invalid, "a varint that is longer than it needs to be");
    assert_eq!(one_tip(&[0], 0, 9), invalid, "no incarnation");
    assert_eq!(one_tip(&[0], 5, 0), invalid, "no number");
    assert_eq!(one_tip(&[0], 5, MAX_MESSAGE_NUMBER + 1), invalid, "an impossible number");
    let empty = body(&|bytes| bytes.extend_from_slice(&[7, 1, 3, 1, 0, 0]));
    assert_eq!(empty, invalid, "a path without tips");
    let twice = |second| {
        body(&move |bytes| {
            bytes.extend_from_slice(&[7, 1, 3, 1, 2]);
            tip(bytes, 5, 9);
            tip(bytes, second, 9);
            bytes.push(0);
        })
    };
    assert!(twice(6).is_ok());
    assert_eq!(twice(5), invalid, "an incarnation twice");
    let trailing = body(&|bytes| bytes.extend_from_slice(&[7, 0, 0, 0]));
    assert_eq!(trailing, invalid);
    let endless = body(&|bytes| bytes.extend_from_slice(&[7, 255, 255, 255, 255, 15]));
    assert_eq!(endless, invalid, "more paths than bytes");
}

#[test]
fn text_has_one_form() {
    let text = example().to_text();
    assert!(text.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-_".contains(&byte)));
    for bad in [format!("{text}="), format!("{text}A"), format!(" {text}"), "A".into()] {
        assert!(Cursor::from_text(&bad).is_err(), "{bad}");
    }
    assert_eq!(Cursor::from_text("!"), Err(DecodeError::NotBase64));
    // "AR" has bits beyond its one byte.
    assert_eq!(Cursor::from_text("AR"), Err(DecodeError::NotBase64));
    let long = "A".repeat(MAX_CURSOR_BYTES * 2);
    assert!(matches!(Cursor::from_text(&long), Err(DecodeError::TooLong { .. })));
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

#[test]
fn overrides_past_their_number_are_refused() {
    let rows = Rows::new();
    let earlier = Cursor::new(NAMESPACE);
    let mut cursor = Cursor::new(NAMESPACE);
    cursor.advance(name(1, 1, 5), &rows);
    for index in 0..MAX_CURSOR_OVERRIDES {
        cursor.start_channel(&channel(&format!("c{index}")), &earlier, &rows).expect("within");
    }
    let full = cursor.clone();
    let one_more = channel("one-more");
    assert_eq!(cursor.start_channel(&one_more, &earlier, &rows), Err(OverrideError::TooMany));
    assert_eq!(cursor, full);
    let mut other = Cursor::new(NAMESPACE);
    other.advance(name(1, 1, 6), &rows);
    other.start_channel(&one_more, &earlier, &rows).expect("one");
    // Merged, each channel stands where the other cursor's rest is, so none of
    // them stands apart from the rest that is as far as any.
    let mut merged = cursor.clone();
    merged.merge(&other, &rows).expect("fewer, not more");
    assert_eq!(merged.overridden_channels().collect::<Vec<_>>(), [&one_more]);
    // A channel that starts where the rest is needs none.
    let here = full.clone();
    cursor.start_channel(&one_more, &here, &rows).expect("it stands with the rest");
    assert_eq!(cursor, full);
    assert_eq!(Cursor::decode(&cursor.encode()), Ok(cursor));
}

#[test]
fn overrides_past_all_tips_are_refused() {
    let rows = Rows::new();
    let earlier = Cursor::new(NAMESPACE);
    let mut far = Cursor::new(NAMESPACE);
    for origin in 1..=400 {
        far.advance(name(origin, u64::MAX, MAX_MESSAGE_NUMBER), &rows);
    }
    let mut cursor = earlier.clone();
    let refused = (0..MAX_CURSOR_OVERRIDES)
        .find_map(|index| cursor.start_channel(&channel(&index.to_string()), &far, &rows).err());
    assert_eq!(refused, Some(OverrideError::TooManyTips));
    assert_eq!(cursor.overridden_channels().count(), MAX_CURSOR_TIPS / 400);
    assert_eq!(Cursor::decode(&cursor.encode()), Ok(cursor));
}

/// Anybody may send a cursor: what its tips cost is bounded before it is taken.
#[test]
fn tips_past_their_number_are_refused() {
    let cursor = |origins: u32, tips_each: usize| {
        let paths = (1..=origins).map(|origin| {
            let tips =
                (1..=tips_each as u64).map(|bits| (incarnation(bits), MessageNumber::new(1)));
            let key = PathKey { origin: NodeNumber::new(origin), shard: ShardNumber::new(0) };
            (key, Tips(tips.collect()))
        });
        Cursor { tips: paths.collect(), ..Cursor::new(NAMESPACE) }
    };
    let decoded = |cursor: &Cursor| Cursor::decode(&cursor.encode());
    let origins = (MAX_CURSOR_TIPS / MAX_CURSOR_TIPS_PER_PATH) as u32;
    let full = cursor(origins, MAX_CURSOR_TIPS_PER_PATH);
    assert_eq!(decoded(&full).as_ref(), Ok(&full));
    let one_origin = cursor(1, MAX_CURSOR_TIPS_PER_PATH + 1);
    assert_eq!(decoded(&one_origin), Err(DecodeError::TooManyTips));
    let one_more = cursor(origins + 1, MAX_CURSOR_TIPS_PER_PATH);
    assert_eq!(decoded(&one_more), Err(DecodeError::TooManyTips));
    let mut apart = cursor(origins, MAX_CURSOR_TIPS_PER_PATH);
    apart.overrides.insert(channel("news"), cursor(1, 1).tips);
    assert_eq!(decoded(&apart), Err(DecodeError::TooManyTips));
}

/// A channel that starts earlier is behind until its own reader has caught up; one
/// that starts later is ahead until the rest has.
#[test]
fn channels_meet_the_rest() {
    let rows = Rows::new();
    let at = |m_id| {
        let mut cursor = Cursor::new(NAMESPACE);
        cursor.advance(name(1, 1, m_id), &rows);
        cursor
    };
    let (behind, ahead) = (channel("behind"), channel("ahead"));
    let mut cursor = at(50);
    cursor.start_channel(&behind, &at(10), &rows).expect("one");
    cursor.start_channel(&ahead, &at(90), &rows).expect("two");
    cursor.advance(name(1, 1, 60), &rows);
    let position = |cursor: &Cursor, channel| {
        cursor.channel_position_of(channel, &name(1, 1, 1).log, &rows).get()
    };
    assert_eq!((position(&cursor, &behind), position(&cursor, &ahead)), (10, 90));
    cursor.advance_channel(&behind, name(1, 1, 60), &rows);
    cursor.advance(name(1, 1, 95), &rows);
    assert!(!cursor.has_overrides());
    assert_eq!((position(&cursor, &behind), position(&cursor, &ahead)), (95, 95));
}
