//! The channels of a namespace and their definitions, which converge.
//!
//! Every message is evidence of its channel: it names the channel, an epoch and
//! a register version. Applying a message merges what it says by itself into
//! what is held, so that members that hold the same logs hold the same
//! directory, in whatever order the logs came (METHOD M3). Nothing waits for a
//! definition: a publication that comes first makes a provisional one.

use std::collections::BTreeMap;
use std::ops::Bound;

use bytes::Bytes;

use crate::identity::{Epoch, Incarnation, MessageName};
use crate::message::{ChannelAction, ChannelOperation, Message, MessageHead, MessageKind};
use crate::names::ChannelName;

mod audit;
mod change;
mod definition;
mod entry;
mod losses;
mod name_index;
mod stamp;
mod stored_channel;
#[cfg(test)]
mod tests;

pub use audit::{LostOperation, RegisterSet};
pub use change::DirectoryChange;
pub use definition::{Definition, Register, Registers};
pub use entry::{DirectoryEntry, EntryError};
pub use stamp::RegisterStamp;

use audit::AuditTrail;
use definition::Merged;
use losses::{Held, Operation};
use name_index::{NameIndex, Slot};

/// The channels of one namespace.
#[derive(Clone, Debug, Default)]
pub struct Directory {
    channels: Vec<Channel>,
    by_name: BTreeMap<ChannelName, Slot>,
    index: NameIndex,
    digest: u128,
    tombstones: usize,
    passed_over: u64,
    opening: Option<Incarnation>,
}

/// One channel as it is held. Never removed: tombstones stay.
#[derive(Clone, Debug)]
struct Channel {
    name: ChannelName,
    definition: Definition,
    /// Its part of the digest.
    hash: u128,
    trail: Option<Box<AuditTrail>>,
}

/// What a message did.
#[derive(Debug, Default)]
pub(crate) struct Applied {
    pub(crate) changes: Vec<DirectoryChange>,
    /// This build does not know the kind or the operation: what is more in it
    /// than evidence waits for an upgrade.
    pub(crate) beyond_this_build: bool,
}

/// Some channels of a listing.
#[derive(Debug)]
pub struct DirectoryPage<'a> {
    /// In the order of their names.
    pub channels: Vec<(&'a ChannelName, &'a Definition)>,
    /// Where the next page begins, if there is more: after this channel.
    pub next_after: Option<&'a ChannelName>,
}

impl Directory {
    /// No channels.
    pub fn new() -> Self {
        Self::default()
    }

    /// Names the opening of the database that applies from now on, where
    /// messages come in the order in which this process appended them. It makes
    /// the audit trail sharper: what this opening wrote itself cannot have known
    /// what arrives after.
    pub const fn set_opening(&mut self, opening: Incarnation) {
        self.opening = Some(opening);
    }

    /// Takes in a message. The resulting state does not depend on the order of
    /// messages, nor on how often one comes. A publication that says nothing new,
    /// as nearly all do, changes nothing and allocates nothing.
    pub fn apply(&mut self, name: &MessageName, message: &Message) -> Vec<DirectoryChange> {
        self.apply_head(name, &message.head())
    }

    /// As [`apply`](Self::apply), of a message that was not read in full.
    pub fn apply_head(
        &mut self,
        name: &MessageName,
        message: &MessageHead<'_>,
    ) -> Vec<DirectoryChange> {
        self.apply_telling(name, message).changes
    }

    /// As [`apply_head`](Self::apply_head), telling what a later build must look
    /// at again.
    pub(crate) fn apply_telling(
        &mut self,
        name: &MessageName,
        message: &MessageHead<'_>,
    ) -> Applied {
        match message.kind {
            MessageKind::Publication => self.apply_publication(message),
            MessageKind::ChannelOperation => self.apply_operation(name, message),
            MessageKind::Unknown(_) => Applied { beyond_this_build: true, ..Applied::default() },
        }
    }

    fn apply_publication(&mut self, message: &MessageHead<'_>) -> Applied {
        let slot = self.find(message.channel);
        if let Some(slot) = slot {
            let held = &self.channels[slot.place()].definition;
            if message.epoch < held.epoch() || message.epoch == held.epoch() && held.is_deleted() {
                self.passed_over += 1;
                return Applied::default();
            }
            if message.epoch == held.epoch() && message.version <= held.version() {
                return Applied::default();
            }
        }
        let evidence = Definition::provisional(message.epoch, message.version);
        self.take_in(slot, message.channel, evidence, None)
    }

    fn apply_operation(&mut self, name: &MessageName, message: &MessageHead<'_>) -> Applied {
        let slot = self.find(message.channel);
        // A copy: what is kept of it must not keep the whole frame in memory.
        let payload = Bytes::copy_from_slice(message.payload);
        let Ok(operation) = ChannelOperation::decode(&payload) else {
            let evidence = Definition::provisional(message.epoch, message.version);
            let applied = self.take_in(slot, message.channel, evidence, None);
            return Applied { beyond_this_build: true, ..applied };
        };
        let stamp = RegisterStamp::new(name, message.version, message.stamp);
        let about = Operation { action: operation.action, stamp };
        let says = Definition::of_operation(
            name,
            message.stamp,
            message.epoch,
            message.version,
            operation,
        );
        self.take_in(slot, message.channel, says, Some(about))
    }

    /// Merges an entry of another directory of the same namespace.
    pub fn merge_entry(&mut self, mut entry: DirectoryEntry) -> Vec<DirectoryChange> {
        entry.definition.unshare_content();
        let slot = self.find(entry.channel.as_str());
        self.take_in(slot, entry.channel.as_str(), entry.definition, None).changes
    }

    fn take_in(
        &mut self,
        slot: Option<Slot>,
        channel: &str,
        says: Definition,
        operation: Option<Operation>,
    ) -> Applied {
        let changes = match slot {
            Some(slot) => self.merge(slot, says, operation),
            None => self.add(channel, says, operation),
        };
        Applied { changes, beyond_this_build: false }
    }

    fn add(
        &mut self,
        channel: &str,
        definition: Definition,
        operation: Option<Operation>,
    ) -> Vec<DirectoryChange> {
        // What is in a log was checked when it came; a name that is none is
        // nobody's channel.
        let Ok(name) = ChannelName::parse(channel) else { return Vec::new() };
        let epoch = definition.epoch();
        let change = if definition.is_deleted() {
            DirectoryChange::Deleted { channel: name.clone(), epoch }
        } else if definition.is_defined() {
            DirectoryChange::Created { channel: name.clone(), epoch }
        } else {
            DirectoryChange::Provisional { channel: name.clone(), epoch, previous: None }
        };
        let mut held = Channel { name, definition, hash: 0, trail: None };
        held.note_decision(operation);
        self.insert(held);
        vec![change]
    }

    fn insert(&mut self, mut channel: Channel) {
        channel.hash = entry::entry_hash(&channel.name, &channel.definition);
        self.digest = self.digest.wrapping_add(channel.hash);
        self.tombstones += usize::from(channel.definition.is_deleted());
        let slot = Slot::new(self.channels.len());
        self.index.insert(channel.name.as_str(), slot);
        self.by_name.insert(channel.name.clone(), slot);
        self.channels.push(channel);
    }

    fn merge(
        &mut self,
        slot: Slot,
        says: Definition,
        operation: Option<Operation>,
    ) -> Vec<DirectoryChange> {
        let channel = &mut self.channels[slot.place()];
        let held = Held {
            definition: &channel.definition,
            decided_by: channel.trail.as_ref().and_then(|trail| trail.decided_by()),
            opening: self.opening,
        };
        let losses = held.losses(&says, operation);
        let was_deleted = channel.definition.is_deleted();
        let epoch_said = says.epoch();
        let merged = channel.definition.merge_in(says);
        if merged.changed() {
            let hash = entry::entry_hash(&channel.name, &channel.definition);
            self.digest = self.digest.wrapping_sub(channel.hash).wrapping_add(hash);
            channel.hash = hash;
            self.tombstones -= usize::from(was_deleted);
            self.tombstones += usize::from(channel.definition.is_deleted());
        }
        if merged.rose_from.is_some() {
            channel.forget_decision();
        }
        if epoch_said == channel.definition.epoch() {
            channel.note_decision(operation);
        }
        let mut changes = channel.changes_of(merged);
        for lost in losses {
            if channel.trail.get_or_insert_default().note(lost) {
                let channel = channel.name.clone();
                changes.push(DirectoryChange::Lost { channel, operation: lost });
            }
        }
        changes
    }

    fn find(&self, channel: &str) -> Option<Slot> {
        self.index.find(channel, |slot| self.channels[slot.place()].name.as_str() == channel)
    }

    /// What is known of a channel; tombstones are known.
    pub fn get(&self, channel: impl AsRef<str>) -> Option<&Definition> {
        self.find(channel.as_ref()).map(|slot| &self.channels[slot.place()].definition)
    }

    /// Whether what was published to an epoch of a channel is delivered. Not once
    /// the epoch is deleted or a higher one is known; what nobody has named yet
    /// is not refused.
    pub fn deliverable(&self, channel: impl AsRef<str>, epoch: Epoch) -> bool {
        self.get(channel)
            .is_none_or(|held| epoch > held.epoch() || epoch == held.epoch() && !held.is_deleted())
    }

    /// The digest of all definitions, equal at all members that hold the same
    /// logs.
    pub const fn digest(&self) -> [u8; 16] {
        self.digest.to_be_bytes()
    }

    /// Channels that are not deleted.
    pub const fn live_channels(&self) -> usize {
        self.channels.len() - self.tombstones
    }

    /// Deleted channels, which count in the quota too.
    pub const fn tombstones(&self) -> usize {
        self.tombstones
    }

    /// Channels, live and deleted.
    pub const fn len(&self) -> usize {
        self.channels.len()
    }

    /// Whether no channel is known.
    pub const fn is_empty(&self) -> bool {
        self.channels.is_empty()
    }

    /// Publications that came for an epoch already deleted or replaced, since
    /// this directory was made: they are in the log and not delivered.
    pub const fn passed_over_publications(&self) -> u64 {
        self.passed_over
    }

    /// The channels whose names begin with a prefix, after one of them, in the
    /// order of names; tombstones included.
    pub fn list(
        &self,
        prefix: &str,
        after: Option<&str>,
    ) -> impl Iterator<Item = (&ChannelName, &Definition)> {
        let start = match after {
            Some(after) if after >= prefix => Bound::Excluded(after),
            _ => Bound::Included(prefix),
        };
        self.by_name
            .range::<str, _>((start, Bound::Unbounded))
            .take_while(move |(name, _)| name.as_str().starts_with(prefix))
            .map(|(name, slot)| (name, &self.channels[slot.place()].definition))
    }

    /// One page of a listing.
    pub fn page(
        &self,
        prefix: &str,
        after: Option<&str>,
        show_deleted: bool,
        limit: usize,
    ) -> DirectoryPage<'_> {
        let shown = |definition: &Definition| show_deleted || !definition.is_deleted();
        let mut listing =
            self.list(prefix, after).filter(|(_, definition)| shown(definition)).peekable();
        let channels: Vec<_> = listing.by_ref().take(limit).collect();
        let has_more = listing.peek().is_some();
        let next_after = channels.last().filter(|_| has_more).map(|(name, _)| *name);
        DirectoryPage { channels, next_after }
    }

    /// All entries, in the order of names: a whole base.
    pub fn entries(&self) -> impl Iterator<Item = DirectoryEntry> + '_ {
        self.list("", None).map(|(channel, definition)| DirectoryEntry {
            channel: channel.clone(),
            definition: definition.clone(),
        })
    }

    /// The operations on a channel that lost, newest first.
    pub fn lost_operations(
        &self,
        channel: impl AsRef<str>,
    ) -> impl Iterator<Item = &LostOperation> {
        let trail = self
            .find(channel.as_ref())
            .and_then(|slot| self.channels[slot.place()].trail.as_deref());
        trail.into_iter().flat_map(AuditTrail::newest_first)
    }
}

impl Channel {
    /// Keeps what later losers are compared with. First epochs that live have
    /// nothing below them, so that most channels keep nothing.
    fn note_decision(&mut self, operation: Option<Operation>) {
        let Some(operation) = operation else { return };
        let decides = match operation.action {
            ChannelAction::Create => {
                !self.definition.is_deleted() && self.definition.epoch() > Epoch::new(1)
            }
            ChannelAction::Update => false,
            ChannelAction::Delete => true,
        };
        if !decides {
            return;
        }
        let trail = self.trail.get_or_insert_default();
        // A deletion ends what the creation decided.
        let replaces = operation.action == ChannelAction::Delete && !trail.decided_by_deletion();
        if replaces || trail.decided_by() < Some(operation.stamp) {
            trail.set_decision(operation.action, operation.stamp);
        }
    }

    fn forget_decision(&mut self) {
        if let Some(trail) = &mut self.trail {
            trail.clear_decision();
        }
    }

    fn changes_of(&self, merged: Merged) -> Vec<DirectoryChange> {
        let epoch = self.definition.epoch();
        let channel = || self.name.clone();
        if !merged.changed() {
            return Vec::new();
        }
        let change = if merged.was_deleted {
            DirectoryChange::Deleted { channel: channel(), epoch }
        } else if let Some(previous) = merged.rose_from {
            if merged.became_defined {
                DirectoryChange::Recreated { channel: channel(), epoch, previous }
            } else {
                let previous = Some(previous);
                DirectoryChange::Provisional { channel: channel(), epoch, previous }
            }
        } else if merged.became_defined {
            DirectoryChange::Created { channel: channel(), epoch }
        } else if !merged.registers.is_empty() {
            let registers = merged.registers;
            DirectoryChange::Updated { channel: channel(), epoch, registers }
        } else {
            let version = self.definition.version();
            DirectoryChange::VersionNamed { channel: channel(), epoch, version }
        };
        vec![change]
    }
}
