//! What a message changed in the directory, for watchers and subscribers.

use crate::identity::{Epoch, RegisterVersion};
use crate::names::ChannelName;

use super::audit::{LostOperation, RegisterSet};

/// One change of one channel. The directory says the present state; a change says
/// that it is worth a look, and what was lost on the way.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum DirectoryChange {
    /// An epoch's creation came: of a new name, or of a channel that was
    /// provisional.
    Created {
        /// The channel.
        channel: ChannelName,
        /// Its epoch.
        epoch: Epoch,
    },
    /// A higher epoch's creation came.
    Recreated {
        /// The channel.
        channel: ChannelName,
        /// Its epoch now.
        epoch: Epoch,
        /// Its epoch before: what was published to it is no longer delivered.
        previous: Epoch,
    },
    /// Registers were set.
    Updated {
        /// The channel.
        channel: ChannelName,
        /// Its epoch.
        epoch: Epoch,
        /// The registers.
        registers: RegisterSet,
    },
    /// The epoch was deleted: what was published to it is no longer delivered.
    Deleted {
        /// The channel.
        channel: ChannelName,
        /// The deleted epoch.
        epoch: Epoch,
    },
    /// Something named an epoch whose creation has not come.
    Provisional {
        /// The channel.
        channel: ChannelName,
        /// Its epoch now.
        epoch: Epoch,
        /// Its epoch before, if it was known.
        previous: Option<Epoch>,
    },
    /// Something named a version whose edit has not come: a later edit here must
    /// be above it.
    VersionNamed {
        /// The channel.
        channel: ChannelName,
        /// Its epoch.
        epoch: Epoch,
        /// The version.
        version: RegisterVersion,
    },
    /// An operation lost to a concurrent one.
    Lost {
        /// The channel.
        channel: ChannelName,
        /// The operation.
        operation: LostOperation,
    },
}

impl DirectoryChange {
    /// The channel it is about.
    pub const fn channel(&self) -> &ChannelName {
        match self {
            Self::Created { channel, .. }
            | Self::Recreated { channel, .. }
            | Self::Updated { channel, .. }
            | Self::Deleted { channel, .. }
            | Self::Provisional { channel, .. }
            | Self::VersionNamed { channel, .. }
            | Self::Lost { channel, .. } => channel,
        }
    }
}
