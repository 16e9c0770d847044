//! What can happen next in a small world.

use std::fmt;

/// One step. Nodes and channels by their index.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step {
    /// A client publishes at a node.
    Publish {
        /// The node.
        node: u8,
        /// The channel.
        channel: u8,
    },
    /// A node's sync is done.
    Sync(u8),
    /// A node sends what a peer lacks of one of its logs.
    Send {
        /// The sender.
        from: u8,
        /// The receiver.
        to: u8,
        /// The log, by its place among the sender's.
        log: u8,
    },
    /// A node tells a peer what it holds durably.
    Acknowledge {
        /// Who tells.
        from: u8,
        /// Whom.
        to: u8,
    },
    /// Something that is under way arrives.
    Deliver(u8),
    /// A new stream: a node introduces itself to a peer, with what it holds.
    Greet {
        /// Who introduces itself.
        from: u8,
        /// To whom.
        to: u8,
    },
    /// A process is killed, and opens its disk again.
    Kill(u8),
    /// A machine loses its power and some unsynced writes that follow one another.
    PowerCut {
        /// The node.
        node: u8,
        /// The first write that is lost.
        from: u8,
        /// How many are.
        lost: u8,
    },
    /// A node's disk is copied.
    Copy(u8),
    /// The copy is put back, and opened.
    Restore(u8),
    /// A disk is emptied, and opened.
    Wipe(u8),
    /// A node trims a log as far as the others hold it, by what they told.
    Trim(u8),
    /// The subscriber reads what its node has.
    Read,
    /// The subscriber has waited long enough for what is unknown.
    LosePatience,
    /// The subscriber goes to another node with its cursor.
    Move(u8),
}

impl fmt::Display for Step {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let node = |index: u8| index + 1;
        match *self {
            Self::Publish { node: at, channel } => {
                write!(f, "n{} takes a message of channel {channel}", node(at))
            }
            Self::Sync(at) => write!(f, "n{} syncs", node(at)),
            Self::Send { from, to, log } => {
                write!(f, "n{} sends its log {log} to n{}", node(from), node(to))
            }
            Self::Acknowledge { from, to } => {
                write!(f, "n{} acknowledges to n{}", node(from), node(to))
            }
            Self::Deliver(place) => write!(f, "number {place} of what is under way arrives"),
            Self::Greet { from, to } => write!(f, "n{} greets n{}", node(from), node(to)),
            Self::Kill(at) => write!(f, "n{} is killed", node(at)),
            Self::PowerCut { node: at, from, lost } => {
                write!(f, "n{} loses power, and {lost} writes from {from} on", node(at))
            }
            Self::Copy(at) => write!(f, "n{}'s disk is copied", node(at)),
            Self::Restore(at) => write!(f, "n{}'s copy is put back", node(at)),
            Self::Wipe(at) => write!(f, "n{}'s disk is emptied", node(at)),
            Self::Trim(at) => write!(f, "n{} trims", node(at)),
            Self::Read => f.write_str("the subscriber reads"),
            Self::LosePatience => f.write_str("the subscriber waits no longer"),
            Self::Move(to) => write!(f, "the subscriber goes to n{}", node(to)),
        }
    }
}
