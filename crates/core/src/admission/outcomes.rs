//! What became of frames and holes, for the driver and for their senders.

use super::AppendEntry;
use crate::identity::Mark;
use crate::replication::frames::{Hole, Nack, Refused};
use crate::replication::rows::Row;

/// What became of a frame.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum FrameOutcome {
    /// New messages, to be appended in this order. If a message of the frame
    /// broke a rule, these are the ones before it: the sender finds out when it
    /// sends the rest again.
    Appended {
        /// What is new.
        entries: Vec<AppendEntry>,
        /// The log's appended mark with them.
        mark: Mark,
        /// A stamp is more than a minute ahead of the wall clock: one of the two
        /// clocks is wrong.
        clock_far_off: bool,
    },
    /// All of it was held already: acknowledged again once that is durable.
    AlreadyHeld {
        /// The log's appended mark.
        mark: Mark,
    },
    /// Nothing of it was appended. For `NackReason::OutOfOrder` of a log that
    /// is not held, the number expected is 1: whatever its first message is.
    Nack(Nack),
    /// This node is no member of the namespace: nothing of it was looked at.
    Refused(Refused),
    /// The log of this very opening, further or with other content than this
    /// process ever wrote: it was resumed from a snapshot of its memory, must
    /// exit and open anew.
    OwnLogAhead {
        /// The last message that somebody holds of it.
        theirs: Mark,
        /// How far this process wrote it.
        ours: Mark,
    },
}

/// What became of a hole.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum HoleOutcome {
    /// The mark moved over it. The storage records row and hole before anything
    /// after the hole is appended.
    Moved {
        /// The log's row, if the log was not held before.
        row: Option<Row>,
        /// What was filled: it begins with the first number that was missing, and
        /// ends with the log's new mark and floor.
        hole: Hole,
    },
    /// All of it is held, or was.
    AlreadyHeld {
        /// The log's appended mark.
        mark: Mark,
    },
    /// It does not follow what is held.
    Nack(Nack),
    /// This node is no member of the namespace.
    Refused(Refused),
}
