//! A subscriber's position: valid in every region, opaque outside.
//!
//! Per origin it holds the tips that were passed, none an ancestor of another; a
//! tip covers its ancestors up to each parent point, and an absent origin is at
//! 0. What a cursor covers is read with the rows known here, so a comparison may
//! be wrongly false and is never wrongly true: at worst something is delivered
//! again. Tips of incarnations whose rows are unknown here stay.
//!
//! Single channels may be positioned apart from the rest, where a stream started
//! them earlier or later.

use std::collections::{BTreeMap, BTreeSet};

use thiserror::Error;

use crate::identity::{
    Incarnation, LogName, MessageName, MessageNumber, NamespaceNumber, NodeNumber, PathName,
    ShardNumber,
};
use crate::limits::{MAX_CURSOR_OVERRIDES, MAX_CURSOR_TIPS, MAX_MESSAGE_NUMBER};
use crate::names::ChannelName;
use crate::replication::rows::Rows;

mod encoding;
#[cfg(test)]
mod tests;

pub use encoding::DecodeError;

/// Positioning one more channel apart would take a cursor beyond its limits: the
/// join is refused. A stream that starts the channel where the rest is needs no
/// override.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum OverrideError {
    /// Too many channels.
    #[error("a cursor positions at most {MAX_CURSOR_OVERRIDES} channels apart from the rest")]
    TooMany,
    /// Too many tips.
    #[error("a cursor has at most {MAX_CURSOR_TIPS} tips")]
    TooManyTips,
    /// The other cursor is of another namespace.
    #[error("the cursors are of different namespaces")]
    OtherNamespace,
}

/// An origin and shard within the cursor's namespace.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
struct PathKey {
    origin: NodeNumber,
    shard: ShardNumber,
}

impl PathKey {
    const fn of(path: PathName) -> Self {
        Self { origin: path.origin, shard: path.shard }
    }

    const fn path(self, namespace: NamespaceNumber) -> PathName {
        PathName { namespace, shard: self.shard, origin: self.origin }
    }
}

/// The tips of one path that none of the others covers, by incarnation.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
struct Tips(Vec<(Incarnation, MessageNumber)>);

static NO_TIPS: Tips = Tips(Vec::new());

impl Tips {
    fn names(&self, path: PathName) -> impl Iterator<Item = MessageName> + '_ {
        self.0
            .iter()
            .map(move |&(incarnation, m_id)| MessageName { log: path.log(incarnation), m_id })
    }

    fn position_of(&self, log: &LogName, rows: &Rows) -> MessageNumber {
        self.names(log.path())
            .filter_map(|tip| rows.covered_through(&tip, log))
            .max()
            .unwrap_or(MessageNumber::ZERO)
    }

    fn covers(&self, name: &MessageName, rows: &Rows) -> bool {
        self.names(name.log.path())
            .any(|tip| rows.covered_through(&tip, &name.log) >= Some(name.m_id))
    }

    fn cover_all(&self, other: &Self, path: PathName, rows: &Rows) -> bool {
        other.names(path).all(|tip| self.covers(&tip, rows))
    }

    fn cover_the_same(&self, other: &Self, path: PathName, rows: &Rows) -> bool {
        // The sets are canonical for the rows they were made with, so mostly they
        // are simply equal.
        self == other || (self.cover_all(other, path, rows) && other.cover_all(self, path, rows))
    }

    fn add(&mut self, name: MessageName, rows: &Rows) {
        let (incarnation, path) = (name.log.incarnation, name.log.path());
        if let [(only, m_id)] = self.0.as_mut_slice()
            && *only == incarnation
        {
            *m_id = name.m_id.max(*m_id);
            return;
        }
        if self.covers(&name, rows) {
            return;
        }
        self.0.retain(|&(incarnation, m_id)| {
            let tip = MessageName { log: path.log(incarnation), m_id };
            rows.covered_through(&name, &tip.log) < Some(m_id)
        });
        let at = self.0.partition_point(|(other, _)| *other < incarnation);
        self.0.insert(at, (incarnation, name.m_id));
    }

    fn add_all(&mut self, other: &Self, path: PathName, rows: &Rows) {
        other.names(path).for_each(|tip| self.add(tip, rows));
    }
}

/// Positions of all paths; a path that is absent is at 0.
type Positions = BTreeMap<PathKey, Tips>;

fn tips_in(positions: &Positions, key: PathKey) -> &Tips {
    positions.get(&key).unwrap_or(&NO_TIPS)
}

/// A position in one namespace. Compare coverage, not bytes: `Eq` is finer than
/// [`Cursor::same_coverage`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Cursor {
    namespace: NamespaceNumber,
    /// No path has an empty set.
    tips: Positions,
    /// Of each channel that stands apart, the paths on which it does; there the
    /// set may be empty. On all other paths it stands where the rest does.
    overrides: BTreeMap<ChannelName, Positions>,
}

impl Cursor {
    /// Before everything.
    pub const fn new(namespace: NamespaceNumber) -> Self {
        Self { namespace, tips: BTreeMap::new(), overrides: BTreeMap::new() }
    }

    /// The namespace it is a position in.
    pub const fn namespace(&self) -> NamespaceNumber {
        self.namespace
    }

    /// The tips, by origin, shard and incarnation.
    pub fn tips(&self) -> impl Iterator<Item = MessageName> + '_ {
        self.tips.iter().flat_map(|(key, tips)| tips.names(key.path(self.namespace)))
    }

    /// The tips of one path.
    pub fn tips_of_path(&self, path: &PathName) -> impl Iterator<Item = MessageName> + '_ {
        let tips = if path.namespace == self.namespace {
            tips_in(&self.tips, PathKey::of(*path))
        } else {
            &NO_TIPS
        };
        tips.names(*path)
    }

    /// The paths that are not at 0, for any channel.
    pub fn paths(&self) -> impl Iterator<Item = PathName> + '_ {
        let apart = self.overrides.values().flat_map(BTreeMap::keys);
        let keys: BTreeSet<PathKey> = self.tips.keys().chain(apart).copied().collect();
        keys.into_iter().map(|key| key.path(self.namespace))
    }

    /// The channels that stand apart from the rest.
    pub fn overridden_channels(&self) -> impl Iterator<Item = &ChannelName> {
        self.overrides.keys()
    }

    /// Whether any channel stands apart from the rest.
    pub fn has_overrides(&self) -> bool {
        !self.overrides.is_empty()
    }

    /// Whether a channel stands apart from the rest.
    pub fn is_overridden(&self, channel: &ChannelName) -> bool {
        self.overrides.contains_key(channel)
    }

    /// The tips whose rows, or an ancestor's, are unknown here: the logs they
    /// belong to have to be asked for, or told as a gap.
    pub fn unknown_tips(&self, rows: &Rows) -> Vec<MessageName> {
        let apart = self.overrides.values().flatten();
        let mut unknown: Vec<MessageName> = self
            .tips
            .iter()
            .chain(apart)
            .flat_map(|(key, tips)| tips.names(key.path(self.namespace)))
            .filter(|tip| !rows.ancestry_is_known(tip))
            .collect();
        unknown.sort_unstable();
        unknown.dedup();
        unknown
    }

    /// How far a log is covered for the channels that do not stand apart; 0 when
    /// nothing of it is.
    pub fn position_of(&self, log: &LogName, rows: &Rows) -> MessageNumber {
        self.rest_of(log).position_of(log, rows)
    }

    /// How far a log is covered for one channel.
    pub fn channel_position_of(
        &self,
        channel: &ChannelName,
        log: &LogName,
        rows: &Rows,
    ) -> MessageNumber {
        self.tips_for(Some(channel), log).position_of(log, rows)
    }

    /// Whether a message is covered, if its channel does not stand apart.
    pub fn covers(&self, name: &MessageName, rows: &Rows) -> bool {
        self.rest_of(&name.log).covers(name, rows)
    }

    /// Whether a message of a channel is covered.
    pub fn channel_covers(&self, channel: &ChannelName, name: &MessageName, rows: &Rows) -> bool {
        self.tips_for(Some(channel), &name.log).covers(name, rows)
    }

    /// Whether `other` covers all that this covers, for every channel.
    pub fn le(&self, other: &Self, rows: &Rows) -> bool {
        self.namespace == other.namespace
            && covered_by(&self.tips, &other.tips, self.namespace, rows)
            && self.overrides.keys().chain(other.overrides.keys()).all(|channel| {
                self.paths_apart(other, channel).all(|key| {
                    let (mine, theirs) = (self.at(channel, key), other.at(channel, key));
                    theirs.cover_all(mine, key.path(self.namespace), rows)
                })
            })
    }

    /// Whether both cover the same, for every channel.
    pub fn same_coverage(&self, other: &Self, rows: &Rows) -> bool {
        self == other || (self.le(other, rows) && other.le(self, rows))
    }

    /// Passes a message: it and what lies before it along its path is covered
    /// now. A channel that stands apart comes along where it was not behind: what
    /// lay between was then passed for it too. A name of another namespace changes
    /// nothing.
    pub fn advance(&mut self, name: MessageName, rows: &Rows) {
        if !self.can_pass(&name) {
            return;
        }
        let (key, path) = (PathKey::of(name.log.path()), name.log.path());
        if self.overrides.is_empty() {
            self.tips.entry(key).or_default().add(name, rows);
            return;
        }
        let before = self.tips.entry(key).or_default();
        let mut after = before.clone();
        after.add(name, rows);
        self.overrides.retain(|_, apart| {
            if let Some(tips) = apart.get_mut(&key) {
                if tips.cover_all(before, path, rows) {
                    tips.add(name, rows);
                }
                if tips.cover_the_same(&after, path, rows) {
                    apart.remove(&key);
                }
            }
            !apart.is_empty()
        });
        *before = after;
    }

    /// Passes a message for one channel that stands apart; one that does not
    /// stays with the rest, and nothing changes.
    pub fn advance_channel(&mut self, channel: &ChannelName, name: MessageName, rows: &Rows) {
        let key = PathKey::of(name.log.path());
        if !self.can_pass(&name) {
            return;
        }
        let Some(apart) = self.overrides.get_mut(channel) else { return };
        apart.entry(key).or_insert_with(|| tips_in(&self.tips, key).clone()).add(name, rows);
        self.drop_needless_overrides(rows);
    }

    /// Passes a message for the rest and for every channel that stands apart: what a
    /// reader does that has come to it from the furthest back of them all.
    pub fn pass(&mut self, name: MessageName, rows: &Rows) {
        self.advance(name, rows);
        let apart: Vec<ChannelName> = self.overrides.keys().cloned().collect();
        for channel in &apart {
            self.advance_channel(channel, name, rows);
        }
    }

    /// Whether a message is covered for the rest and for these channels.
    pub fn covers_for_all<'a>(
        &self,
        channels: impl IntoIterator<Item = &'a ChannelName>,
        name: &MessageName,
        rows: &Rows,
    ) -> bool {
        let mut channels = channels.into_iter();
        self.covers(name, rows) && channels.all(|channel| self.channel_covers(channel, name, rows))
    }

    /// Positions a channel where `at` has it, whatever the rest does. Refused,
    /// and nothing changed, beyond the limits.
    pub fn start_channel(
        &mut self,
        channel: &ChannelName,
        at: &Self,
        rows: &Rows,
    ) -> Result<(), OverrideError> {
        if self.namespace != at.namespace {
            return Err(OverrideError::OtherNamespace);
        }
        let apart: Positions = self
            .paths_apart(at, channel)
            .chain(self.tips.keys().copied())
            .chain(at.tips.keys().copied())
            .map(|key| (key, at.at(channel, key).clone()))
            .collect();
        let mut started = self.clone();
        started.overrides.insert(channel.clone(), apart);
        started.drop_needless_overrides(rows);
        started.check_limits()?;
        *self = started;
        Ok(())
    }

    /// Covers also what `other` covers, channel by channel. Refused, and nothing
    /// changed, when the overrides of both together are beyond the limits.
    pub fn merge(&mut self, other: &Self, rows: &Rows) -> Result<(), OverrideError> {
        if self.namespace != other.namespace {
            return Err(OverrideError::OtherNamespace);
        }
        let mut merged = Self::new(self.namespace);
        merged.tips = self.tips.clone();
        for (&key, tips) in &other.tips {
            let path = key.path(self.namespace);
            merged.tips.entry(key).or_default().add_all(tips, path, rows);
        }
        for channel in self.overrides.keys().chain(other.overrides.keys()) {
            let apart = self
                .paths_apart(other, channel)
                .map(|key| {
                    let mut tips = self.at(channel, key).clone();
                    tips.add_all(other.at(channel, key), key.path(self.namespace), rows);
                    (key, tips)
                })
                .collect();
            merged.overrides.insert(channel.clone(), apart);
        }
        merged.reduce(rows);
        merged.check_limits()?;
        *self = merged;
        Ok(())
    }

    /// Drops what rows that were learned of since have shown to be covered.
    /// Coverage does not change.
    pub fn reduce(&mut self, rows: &Rows) {
        let namespace = self.namespace;
        let apart = self.overrides.values_mut().flatten();
        for (key, tips) in self.tips.iter_mut().chain(apart) {
            if tips.0.len() > 1 {
                let mut reduced = Tips::default();
                reduced.add_all(tips, key.path(namespace), rows);
                *tips = reduced;
            }
        }
        self.drop_needless_overrides(rows);
    }

    /// Whether there can be a message of this name here: a tip of another
    /// namespace or without a number would be no position.
    const fn can_pass(&self, name: &MessageName) -> bool {
        let m_id = name.m_id.get();
        name.log.namespace.get() == self.namespace.get() && m_id != 0 && m_id <= MAX_MESSAGE_NUMBER
    }

    fn check_limits(&self) -> Result<(), OverrideError> {
        if self.overrides.len() > MAX_CURSOR_OVERRIDES {
            return Err(OverrideError::TooMany);
        }
        let positions = self.overrides.values().chain([&self.tips]);
        let tips: usize = positions.flat_map(BTreeMap::values).map(|tips| tips.0.len()).sum();
        if self.has_overrides() && tips > MAX_CURSOR_TIPS {
            return Err(OverrideError::TooManyTips);
        }
        Ok(())
    }

    /// The tips on a log's path of the channels that do not stand apart.
    fn rest_of(&self, log: &LogName) -> &Tips {
        self.tips_for(None, log)
    }

    fn tips_for(&self, channel: Option<&ChannelName>, log: &LogName) -> &Tips {
        let key = PathKey::of(log.path());
        match channel {
            _ if log.namespace != self.namespace => &NO_TIPS,
            Some(channel) => self.at(channel, key),
            None => tips_in(&self.tips, key),
        }
    }

    /// Where a channel stands on a path.
    fn at(&self, channel: &ChannelName, key: PathKey) -> &Tips {
        let apart = self.overrides.get(channel).and_then(|apart| apart.get(&key));
        apart.unwrap_or_else(|| tips_in(&self.tips, key))
    }

    /// The paths on which a channel stands apart in one of two cursors.
    fn paths_apart<'a>(
        &'a self,
        other: &'a Self,
        channel: &'a ChannelName,
    ) -> impl Iterator<Item = PathKey> + 'a {
        let apart = |cursor: &'a Self| cursor.overrides.get(channel).into_iter().flatten();
        apart(self).chain(apart(other)).map(|(key, _)| *key)
    }

    fn drop_needless_overrides(&mut self, rows: &Rows) {
        if self.overrides.is_empty() {
            return;
        }
        let (namespace, rest) = (self.namespace, &self.tips);
        self.overrides.retain(|_, apart| {
            apart.retain(|&key, tips| {
                !tips.cover_the_same(tips_in(rest, key), key.path(namespace), rows)
            });
            !apart.is_empty()
        });
    }
}

fn covered_by(
    lower: &Positions,
    upper: &Positions,
    namespace: NamespaceNumber,
    rows: &Rows,
) -> bool {
    lower.iter().all(|(&key, tips)| tips_in(upper, key).cover_all(tips, key.path(namespace), rows))
}
