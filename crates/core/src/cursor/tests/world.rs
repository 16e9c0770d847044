//! A world of rows and messages, small enough that what a cursor covers is a set
//! of bits, made from the definition in the simplest way.

use std::collections::BTreeMap;

use proptest::collection::vec;
use proptest::prelude::*;
use proptest::sample::Index;

use crate::cursor::Cursor;
use crate::identity::{
    ChainHash, Incarnation, MessageName, MessageNumber, NamespaceNumber, NodeNumber, ParentPoint,
    PathName, ShardNumber,
};
use crate::names::ChannelName;
use crate::replication::rows::{Row, Rows};

pub(super) const NAMESPACE: NamespaceNumber = NamespaceNumber::new(7);

pub(super) fn path(origin: u32) -> PathName {
    PathName { namespace: NAMESPACE, shard: ShardNumber::new(0), origin: NodeNumber::new(origin) }
}

pub(super) fn incarnation(bits: u64) -> Incarnation {
    Incarnation::new(bits).expect("not zero")
}

pub(super) fn name(origin: u32, incarnation_bits: u64, m_id: u64) -> MessageName {
    let log = path(origin).log(incarnation(incarnation_bits));
    MessageName { log, m_id: MessageNumber::new(m_id) }
}

pub(super) fn channel(text: &str) -> ChannelName {
    ChannelName::parse(text).expect("a channel name")
}

/// A set of a world's messages.
pub(super) type Coverage = u128;

/// All rows and messages there are, known here or not.
#[derive(Clone, Debug)]
pub(super) struct World {
    pub(super) logs: Vec<(Row, u64)>,
    pub(super) rows: Rows,
    pub(super) messages: Vec<MessageName>,
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

    pub(super) fn bit(&self, name: &MessageName) -> Coverage {
        let index = self.messages.iter().position(|other| other == name);
        1 << index.expect("the world has this message")
    }

    /// A message and all before it, by the definition.
    pub(super) fn through(&self, name: &MessageName) -> Coverage {
        let (row, _) =
            self.logs.iter().find(|(row, _)| row.log == name.log).expect("the world has this log");
        let own = (row.first_m_id().get()..=name.m_id.get())
            .map(|m_id| self.bit(&MessageName { log: name.log, m_id: MessageNumber::new(m_id) }))
            .fold(0, |all, bit| all | bit);
        row.parent_names().map(|parent| self.through(&parent)).fold(own, |all, more| all | more)
    }

    pub(super) fn on_path(&self, path: &PathName) -> Coverage {
        self.messages
            .iter()
            .filter(|name| name.log.path() == *path)
            .fold(0, |all, name| all | self.bit(name))
    }

    /// What the tips of a cursor cover in truth, whatever rows are known here.
    pub(super) fn covered_by(&self, cursor: &Cursor) -> Coverage {
        cursor.tips().fold(0, |all, tip| all | self.through(&tip))
    }

    /// What a cursor says it covers.
    pub(super) fn said_by(&self, says: impl Fn(&MessageName) -> bool) -> Coverage {
        self.messages.iter().filter(|name| says(name)).fold(0, |all, name| all | self.bit(name))
    }

    pub(super) fn message(&self, index: &Index) -> MessageName {
        *index.get(&self.messages)
    }

    pub(super) fn cursor(&self, passed: &[Index], rows: &Rows) -> Cursor {
        let mut cursor = Cursor::new(NAMESPACE);
        passed.iter().for_each(|index| cursor.advance(self.message(index), rows));
        cursor
    }

    /// Only some of the rows, as a member knows them that others are ahead of.
    pub(super) fn some_rows(&self, known: u16) -> Rows {
        let mut rows = Rows::new();
        for (index, (row, _)) in self.logs.iter().enumerate() {
            if known >> index & 1 == 1 {
                rows.insert(row.clone()).expect("the world's rows agree");
            }
        }
        rows
    }
}

pub(super) fn worlds() -> impl Strategy<Value = World> {
    let points = vec((any::<Index>(), any::<Index>()), 0..3);
    vec((1..=2_u32, points, 1..=5_u64), 1..10).prop_map(World::new)
}

pub(super) fn passed() -> impl Strategy<Value = Vec<Index>> {
    vec(any::<Index>(), 0..6)
}

/// No tip is an ancestor of another, as far as is known here.
pub(super) fn assert_reduced(cursor: &Cursor, rows: &Rows) {
    let tips: Vec<_> = cursor.tips().collect();
    for (index, tip) in tips.iter().enumerate() {
        for (other_index, other) in tips.iter().enumerate() {
            assert!(index == other_index || rows.covered_through(other, &tip.log) < Some(tip.m_id));
        }
    }
}
