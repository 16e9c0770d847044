//! Channels that stand apart from the rest.

use proptest::collection::vec;
use proptest::prelude::*;
use proptest::sample::Index;

use super::world::{Coverage, NAMESPACE, World, channel, name, worlds};
use crate::cursor::{Cursor, OverrideError};
use crate::limits::{MAX_CURSOR_OVERRIDES, MAX_CURSOR_TIPS, MAX_MESSAGE_NUMBER};
use crate::names::ChannelName;
use crate::replication::rows::Rows;

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

/// A cursor at 50, and two channels that stand at 10 and at 90.
fn with_channels_apart(rows: &Rows) -> (Cursor, ChannelName, ChannelName) {
    let at = |m_id| {
        let mut cursor = Cursor::new(NAMESPACE);
        cursor.advance(name(1, 1, m_id), rows);
        cursor
    };
    let (behind, ahead) = (channel("behind"), channel("ahead"));
    let mut cursor = at(50);
    cursor.start_channel(&behind, &at(10), rows).expect("one");
    cursor.start_channel(&ahead, &at(90), rows).expect("two");
    (cursor, behind, ahead)
}

/// A channel that starts earlier is behind until its own reader has caught up; one
/// that starts later is ahead until the rest has.
#[test]
fn channels_meet_the_rest() {
    let rows = Rows::new();
    let (mut cursor, behind, ahead) = with_channels_apart(&rows);
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

/// Whoever has read from the furthest back of all channels passes a message for each.
#[test]
fn passing_takes_channels_that_stand_apart_along() {
    let rows = Rows::new();
    let (mut cursor, behind, ahead) = with_channels_apart(&rows);
    let covered = |cursor: &Cursor, m_id| {
        [vec![], vec![&behind], vec![&ahead], vec![&behind, &ahead]]
            .map(|channels| cursor.covers_for_all(channels, &name(1, 1, m_id), &rows))
    };
    assert_eq!(covered(&cursor, 10), [true; 4]);
    assert_eq!(covered(&cursor, 11), [true, false, true, false]);
    cursor.pass(name(1, 1, 30), &rows);
    assert_eq!(covered(&cursor, 30), [true; 4]);
    assert_eq!(covered(&cursor, 50), [true, false, true, false]);
    assert_eq!(covered(&cursor, 51), [false; 4], "what is behind does not move the rest");
    cursor.pass(name(1, 1, 95), &rows);
    assert!(!cursor.has_overrides());
}
