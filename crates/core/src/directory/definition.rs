//! What a channel is, and how two opinions about it become one.
//!
//! A definition is a join-semilattice: the higher epoch wins; in one epoch
//! deleted wins; else each register by its stamp. A message means a small
//! definition of its own, and applying it is merging that one, so that the order
//! and the number of times in which messages come cannot matter.

use bytes::Bytes;

use crate::clock::HybridTime;
use crate::identity::{Epoch, MessageName, RegisterVersion};
use crate::message::{ChannelAction, ChannelLimits, ChannelOperation, Presentation, Source};

use super::audit::RegisterSet;
use super::stamp::RegisterStamp;

/// One value of a definition, with the message that wrote it. Without a stamp
/// nobody has yet, and the value is the default.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Register<T> {
    /// Who wrote it.
    pub stamp: Option<RegisterStamp>,
    /// What was written.
    pub value: T,
}

impl<T: Default> Register<T> {
    fn drop_unwritten(&mut self) {
        if self.stamp.is_none() {
            self.value = T::default();
        }
    }

    const fn written(stamp: RegisterStamp, value: T) -> Self {
        Self { stamp: Some(stamp), value }
    }

    /// Takes over what a later writer wrote; true if it was later.
    fn merge(&mut self, other: Self) -> bool {
        let later = other.stamp > self.stamp;
        if later {
            *self = other;
        }
        later
    }
}

/// The registers of a definition: what is edited together is one.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Registers {
    /// Description and labels.
    pub presentation: Register<Presentation>,
    /// Where content comes from, and the content.
    pub source: Register<Source>,
    /// Limits of its publications.
    pub limits: Register<ChannelLimits>,
}

impl Registers {
    /// The stamps of those that were written.
    pub(super) fn stamps(&self) -> [(RegisterSet, Option<RegisterStamp>); 3] {
        [
            (RegisterSet::PRESENTATION, self.presentation.stamp),
            (RegisterSet::SOURCE, self.source.stamp),
            (RegisterSet::LIMITS, self.limits.stamp),
        ]
    }

    /// Resets the values without a stamp.
    pub(super) fn drop_unwritten(&mut self) {
        self.presentation.drop_unwritten();
        self.source.drop_unwritten();
        self.limits.drop_unwritten();
    }

    fn are_unset(&self) -> bool {
        self.stamps().iter().all(|(_, stamp)| stamp.is_none())
    }

    fn highest_version(&self) -> RegisterVersion {
        let versions = self.stamps().into_iter().filter_map(|(_, stamp)| Some(stamp?.version));
        versions.max().unwrap_or_default()
    }
}

/// What is known of a channel.
///
/// A tombstone is its epoch and nothing else. A definition that only publications
/// have named is *provisional*: it has an epoch and a least version, and its
/// registers are unset.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Definition {
    epoch: Epoch,
    deleted: bool,
    defined: bool,
    version: RegisterVersion,
    /// `None` while none is set, which is most of what provisional definitions
    /// and tombstones would take.
    registers: Option<Box<Registers>>,
}

/// What a merge changed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Merged {
    /// The epoch rose from this one.
    pub(super) rose_from: Option<Epoch>,
    /// The epoch was deleted by it.
    pub(super) was_deleted: bool,
    /// The epoch became defined by it.
    pub(super) became_defined: bool,
    /// The registers that it set.
    pub(super) registers: RegisterSet,
    /// The version rose.
    pub(super) version_rose: bool,
}

impl Merged {
    /// Whether anything is another than before.
    pub(super) fn changed(&self) -> bool {
        *self != Self::default()
    }
}

impl Definition {
    /// What a message that names an epoch and a version is evidence of.
    pub(super) const fn provisional(epoch: Epoch, version: RegisterVersion) -> Self {
        Self { epoch, deleted: false, defined: false, version, registers: None }
    }

    /// A deleted epoch.
    pub(super) const fn tombstone(epoch: Epoch) -> Self {
        Self {
            epoch,
            deleted: true,
            defined: false,
            version: RegisterVersion::new(0),
            registers: None,
        }
    }

    /// What an operation says by itself.
    pub(super) fn of_operation(
        name: &MessageName,
        stamp: HybridTime,
        epoch: Epoch,
        version: RegisterVersion,
        operation: ChannelOperation,
    ) -> Self {
        let stamp = RegisterStamp::new(name, version, stamp);
        let ChannelOperation { action, presentation, source, limits } = operation;
        // Only a creation sets what it does not name, to the default.
        let (presentation, source, limits) = match action {
            ChannelAction::Delete => return Self::tombstone(epoch),
            ChannelAction::Update => (presentation, source, limits),
            ChannelAction::Create => (
                Some(presentation.unwrap_or_default()),
                Some(source.unwrap_or_default()),
                Some(limits.unwrap_or_default()),
            ),
        };
        let defined = action == ChannelAction::Create;
        let registers = Registers {
            presentation: register(stamp, presentation),
            source: register(stamp, source),
            limits: register(stamp, limits),
        };
        Self::from_parts(epoch, false, defined, version, registers)
    }

    /// Puts a definition together from parts that may come from elsewhere, in
    /// the one form that equal definitions have.
    pub(super) fn from_parts(
        epoch: Epoch,
        deleted: bool,
        defined: bool,
        version: RegisterVersion,
        registers: Registers,
    ) -> Self {
        if deleted {
            return Self::tombstone(epoch);
        }
        let version = version.max(registers.highest_version());
        let registers = (!registers.are_unset()).then(|| Box::new(registers));
        Self { epoch, deleted, defined, version, registers }
    }

    /// The epoch.
    pub const fn epoch(&self) -> Epoch {
        self.epoch
    }

    /// Whether the epoch is deleted.
    pub const fn is_deleted(&self) -> bool {
        self.deleted
    }

    /// Whether the epoch's creation was seen. Registers may be set without: an
    /// update came before it.
    pub const fn is_defined(&self) -> bool {
        self.defined
    }

    /// Whether the channel is live, but its creation has not come.
    pub const fn is_provisional(&self) -> bool {
        !self.deleted && !self.defined
    }

    /// The highest register version that any message of this epoch named. A
    /// publication accepted now names it; an edit writes the next.
    pub const fn version(&self) -> RegisterVersion {
        self.version
    }

    /// The registers; `None` while none is set.
    pub fn registers(&self) -> Option<&Registers> {
        self.registers.as_deref()
    }

    /// Description and labels, if they were written.
    pub fn presentation(&self) -> Option<&Presentation> {
        self.registers().map(|registers| &registers.presentation.value)
    }

    /// Where content comes from, and the content, if that was written.
    pub fn source(&self) -> Option<&Source> {
        self.registers().map(|registers| &registers.source.value)
    }

    /// The limits of its publications; the defaults if none were written.
    pub fn limits(&self) -> ChannelLimits {
        self.registers().map_or_else(ChannelLimits::default, |registers| registers.limits.value)
    }

    /// Copies the content out of the buffer it came in, which may be a whole
    /// frame.
    pub(super) fn unshare_content(&mut self) {
        if let Some(registers) = &mut self.registers {
            let content = &mut registers.source.value.content;
            *content = Bytes::copy_from_slice(content);
        }
    }

    /// Merges what else is known. Commutative, associative and idempotent.
    pub fn merge(&mut self, other: Self) -> bool {
        self.merge_in(other).changed()
    }

    pub(super) fn merge_in(&mut self, other: Self) -> Merged {
        if other.epoch < self.epoch {
            return Merged::default();
        }
        if other.epoch > self.epoch {
            let merged = Merged {
                rose_from: Some(self.epoch),
                was_deleted: other.deleted,
                became_defined: other.defined,
                registers: other.set_registers(),
                version_rose: true,
            };
            *self = other;
            return merged;
        }
        if self.deleted {
            return Merged::default();
        }
        if other.deleted {
            *self = other;
            return Merged { was_deleted: true, ..Merged::default() };
        }
        let mut merged = Merged {
            became_defined: other.defined && !self.defined,
            version_rose: other.version > self.version,
            ..Merged::default()
        };
        self.defined |= other.defined;
        self.version = self.version.max(other.version);
        merged.registers = self.merge_registers(other.registers);
        merged
    }

    fn merge_registers(&mut self, other: Option<Box<Registers>>) -> RegisterSet {
        let mut set = RegisterSet::NONE;
        let Some(other) = other else { return set };
        let held = self.registers.get_or_insert_default();
        if held.presentation.merge(other.presentation) {
            set = set.with(RegisterSet::PRESENTATION);
        }
        if held.source.merge(other.source) {
            set = set.with(RegisterSet::SOURCE);
        }
        if held.limits.merge(other.limits) {
            set = set.with(RegisterSet::LIMITS);
        }
        set
    }

    pub(super) fn set_registers(&self) -> RegisterSet {
        self.writers().fold(RegisterSet::NONE, |set, (register, _)| set.with(register))
    }

    /// Who wrote which register.
    pub(super) fn writers(&self) -> impl Iterator<Item = (RegisterSet, RegisterStamp)> + '_ {
        self.registers()
            .into_iter()
            .flat_map(Registers::stamps)
            .filter_map(|(register, stamp)| Some((register, stamp?)))
    }
}

fn register<T: Default>(stamp: RegisterStamp, value: Option<T>) -> Register<T> {
    value.map_or_else(Register::default, |value| Register::written(stamp, value))
}
