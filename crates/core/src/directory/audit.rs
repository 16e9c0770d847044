//! What lost to a concurrent operation: it is in the log and has no effect, so
//! whoever asked for it is told.
//!
//! The trail is no part of the state that converges. Versions and stamps tell
//! certainly that the winner could not have known the loser, not that it did; so
//! an operation that was overridden by an edit that may have known it is not
//! listed, except at the node that made that edit and sees the other only now.

use std::collections::VecDeque;
use std::fmt;

use crate::identity::{
    Epoch, MessageName, NamespaceNumber, PathName, RegisterVersion, ShardNumber,
};
use crate::limits::MAX_AUDIT_ENTRIES_PER_CHANNEL;
use crate::message::ChannelAction;
use crate::wire_format::{Reader, WireError, Writer};

use super::stamp::RegisterStamp;

/// A set of a definition's registers.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct RegisterSet(u8);

impl RegisterSet {
    /// None.
    pub const NONE: Self = Self(0);
    /// Description and labels.
    pub const PRESENTATION: Self = Self(1);
    /// The source and its content.
    pub const SOURCE: Self = Self(2);
    /// The limits.
    pub const LIMITS: Self = Self(4);
    /// All three.
    pub const ALL: Self = Self(7);

    /// Both.
    pub const fn with(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }

    /// Whether all of `other` is in this.
    pub const fn contains(self, other: Self) -> bool {
        self.0 & other.0 == other.0
    }

    /// Whether nothing is.
    pub const fn is_empty(self) -> bool {
        self.0 == 0
    }
}

impl fmt::Display for RegisterSet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let names = [
            (Self::PRESENTATION, "presentation"),
            (Self::SOURCE, "source"),
            (Self::LIMITS, "limits"),
        ];
        let mut separator = "";
        for (register, name) in names {
            if self.contains(register) {
                write!(f, "{separator}{name}")?;
                separator = ", ";
            }
        }
        Ok(())
    }
}

/// An operation, or a part of one, that a concurrent one outweighed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LostOperation {
    /// What it was; `None` where only the register it had written is known,
    /// which a creation or an update did.
    pub action: Option<ChannelAction>,
    /// The registers it lost.
    pub registers: RegisterSet,
    /// The epoch it meant.
    pub epoch: Epoch,
    /// Its version, its stamp, and which message it was.
    pub stamp: RegisterStamp,
}

impl LostOperation {
    /// The message that it was, in the namespace of the directory that tells it.
    pub const fn name(&self, namespace: NamespaceNumber) -> MessageName {
        let path = PathName { namespace, shard: ShardNumber::new(0), origin: self.stamp.origin };
        MessageName { log: path.log(self.stamp.incarnation), m_id: self.stamp.m_id }
    }

    /// The version it wrote.
    pub const fn version(&self) -> RegisterVersion {
        self.stamp.version
    }

    /// For people: the action, and the registers it was about.
    pub fn what(&self) -> String {
        let action = match self.action {
            Some(ChannelAction::Create) => "create",
            Some(ChannelAction::Update) => "update",
            Some(ChannelAction::Delete) => "delete",
            None => "create or update",
        };
        match self.registers {
            RegisterSet::NONE => action.to_owned(),
            registers => format!("{action}: {registers}"),
        }
    }

    fn write_fields(&self, writer: &mut Writer) {
        writer.number(1, self.action.map_or(0, |action| u64::from(action.number())));
        writer.number(2, u64::from(self.registers.0));
        writer.number(3, self.epoch.get());
        writer.message(4, |writer| self.stamp.write_fields(writer));
    }

    fn read_fields(mut reader: Reader<'_>) -> Result<Option<Self>, WireError> {
        let (mut action, mut registers, mut epoch, mut stamp) = (0, 0, 0, None);
        while let Some(field) = reader.next_field()? {
            match field.number {
                1 => action = field.number()?,
                2 => registers = field.number()?,
                3 => epoch = field.number()?,
                4 => stamp = RegisterStamp::read_fields(field.message()?)?,
                _ => {}
            }
        }
        let actions = [ChannelAction::Create, ChannelAction::Update, ChannelAction::Delete];
        Ok(stamp.map(|stamp| Self {
            action: actions.into_iter().find(|known| u64::from(known.number()) == action),
            registers: RegisterSet((registers & u64::from(RegisterSet::ALL.0)) as u8),
            epoch: Epoch::new(epoch),
            stamp,
        }))
    }
}

/// The lost operations of one channel, newest last, and what decided its epoch.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct AuditTrail {
    /// The operation that created the present epoch (above the first) or deleted
    /// it: what late operations are compared with.
    decided_by: Option<RegisterStamp>,
    /// Whether that was a deletion.
    by_deletion: bool,
    lost: VecDeque<LostOperation>,
}

impl AuditTrail {
    pub(super) const fn decided_by(&self) -> Option<RegisterStamp> {
        self.decided_by
    }

    pub(super) const fn decided_by_deletion(&self) -> bool {
        self.by_deletion
    }

    pub(super) fn set_decision(&mut self, action: ChannelAction, stamp: RegisterStamp) {
        self.decided_by = Some(stamp);
        self.by_deletion = action == ChannelAction::Delete;
    }

    pub(super) const fn clear_decision(&mut self) {
        self.decided_by = None;
        self.by_deletion = false;
    }

    /// Takes note of a loss; `false` if it was noted before.
    pub(super) fn note(&mut self, lost: LostOperation) -> bool {
        if let Some(known) = self.lost.iter_mut().find(|known| known.stamp == lost.stamp) {
            let before = *known;
            known.registers = known.registers.with(lost.registers);
            known.action = known.action.or(lost.action);
            return *known != before;
        }
        if self.lost.len() == MAX_AUDIT_ENTRIES_PER_CHANNEL {
            self.lost.pop_front();
        }
        self.lost.push_back(lost);
        true
    }

    /// Newest first.
    pub(super) fn newest_first(&self) -> impl Iterator<Item = &LostOperation> {
        self.lost.iter().rev()
    }

    pub(super) fn is_empty(&self) -> bool {
        self.decided_by.is_none() && self.lost.is_empty()
    }

    /// Writes the trail for the node's own storage: it never travels.
    pub(super) fn write_fields(&self, writer: &mut Writer) {
        if let Some(stamp) = &self.decided_by {
            writer.message(1, |writer| stamp.write_fields(writer));
            writer.boolean(2, self.by_deletion);
        }
        for lost in &self.lost {
            writer.message(3, |writer| lost.write_fields(writer));
        }
    }

    pub(super) fn read_fields(mut reader: Reader<'_>) -> Result<Self, WireError> {
        let mut trail = Self::default();
        while let Some(field) = reader.next_field()? {
            match field.number {
                1 => trail.decided_by = RegisterStamp::read_fields(field.message()?)?,
                3 => {
                    if let Some(lost) = LostOperation::read_fields(field.message()?)? {
                        trail.note(lost);
                    }
                }
                2 => trail.by_deletion = field.boolean()?,
                _ => {}
            }
        }
        Ok(trail)
    }
}
