//! What happened at a node, in the order in which it did: the checkers' main source.

use std::collections::BTreeMap;
use std::sync::Arc;

use bytes::Bytes;
use interlock_core::clock::WallTime;
use interlock_core::identity::{
    ChainHash, Epoch, FencingToken, Incarnation, LogName, Mark, MemberOpening, MessageName,
    MessageNumber, NamespaceNumber, TopologyVersion,
};
use interlock_core::names::ChannelName;
use interlock_core::replication::rows::Row;
use interlock_core::topology::Topology;

use crate::machine::MachineName;
use crate::network::ProcessNumber;

/// Why a disk holds something else from one moment to the next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Replacement {
    /// It was emptied.
    Wiped,
    /// An old copy was put back.
    Restored,
}

/// What happened at a node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Record {
    /// A process opened the disk and found this.
    Opened {
        /// The machine.
        machine: MachineName,
        /// The run.
        process: ProcessNumber,
        /// Its incarnation.
        incarnation: Incarnation,
        /// The token that it registered with, 0 if it did not.
        token: FencingToken,
        /// What the opening walk left, all of it durable.
        logs: Vec<(LogName, Mark)>,
    },
    /// A message was appended.
    Appended {
        /// The machine.
        machine: MachineName,
        /// The message.
        name: MessageName,
        /// The chain hash after it.
        hash: ChainHash,
        /// The log's row, with its first message.
        row: Option<Row>,
    },
    /// Messages came to a disk in one write, by the machine's clock.
    Arrived {
        /// The machine.
        machine: MachineName,
        /// When.
        at: WallTime,
        /// The messages.
        names: Vec<MessageName>,
    },
    /// What a message holds, as its origin accepted it.
    Content {
        /// The message.
        name: MessageName,
        /// Its encoding.
        bytes: Bytes,
    },
    /// A log's mark is moved over messages that a peer has trimmed.
    HoleTaken {
        /// The machine.
        machine: MachineName,
        /// The log.
        log: LogName,
        /// The first that is missing.
        from: MessageNumber,
        /// The last, with the chain hash there.
        through: Mark,
        /// The log's row, if it begins so.
        row: Option<Row>,
    },
    /// The projections went over a hole.
    HoleApplied {
        /// The machine.
        machine: MachineName,
        /// The log.
        log: LogName,
        /// The last that is missing.
        through: MessageNumber,
    },
    /// It is decided to trim a log up to and with a message, or less.
    TrimDecided {
        /// The machine.
        machine: MachineName,
        /// The log.
        log: LogName,
        /// The message.
        through: MessageNumber,
        /// It is declared that members who lack it do without.
        released: bool,
        /// The topology that says who is a member.
        topology: TopologyVersion,
    },
    /// A log is trimmed up to and with a message.
    Trimmed {
        /// The machine.
        machine: MachineName,
        /// The log.
        log: LogName,
        /// The message.
        through: MessageNumber,
        /// It is declared that members who lack it do without.
        released: bool,
    },
    /// A peer has answered a process's greeting: from now on it is known under this
    /// opening.
    Welcomed {
        /// Who greeted.
        machine: MachineName,
        /// Who answered.
        by: MemberOpening,
    },
    /// A log became durable up to a mark, as the node says.
    Durable {
        /// The machine.
        machine: MachineName,
        /// The log.
        log: LogName,
        /// The mark.
        mark: Mark,
    },
    /// The projections took a message in.
    Applied {
        /// The machine.
        machine: MachineName,
        /// The message.
        name: MessageName,
    },
    /// The durable directory shows a channel like this from now on.
    Shown {
        /// The machine.
        machine: MachineName,
        /// The namespace.
        namespace: NamespaceNumber,
        /// The channel.
        channel: ChannelName,
        /// Its epoch.
        epoch: Epoch,
        /// Whether that is deleted.
        deleted: bool,
    },
    /// A publisher was told that so many other members hold a message.
    HeldByPeers {
        /// The origin.
        machine: MachineName,
        /// The message.
        name: MessageName,
        /// How many, beside the origin.
        peers: usize,
    },
    /// A member accepts in a namespace from now on.
    Ready {
        /// The machine.
        machine: MachineName,
        /// The namespace.
        namespace: NamespaceNumber,
    },
    /// A member has taken over the state of a namespace.
    Backfilled {
        /// The machine.
        machine: MachineName,
        /// The namespace.
        namespace: NamespaceNumber,
    },
    /// A disk holds other contents from now on.
    Replaced {
        /// The machine.
        machine: MachineName,
        /// How.
        by: Replacement,
        /// What it holds now.
        logs: BTreeMap<LogName, Mark>,
    },
    /// A process that was started without the control-plane has registered.
    Registered {
        /// The machine.
        machine: MachineName,
        /// What it was given.
        token: FencingToken,
    },
    /// A process has heard that another one registered its name.
    Superseded {
        /// The machine.
        machine: MachineName,
        /// With what token.
        by: FencingToken,
    },
    /// A process that drained was stopped, and its machine is gone for good.
    Retired {
        /// The machine.
        machine: MachineName,
    },
    /// A machine has handed over all that it held of a namespace, and has nothing of it
    /// any more.
    Left {
        /// The machine.
        machine: MachineName,
        /// The namespace.
        namespace: NamespaceNumber,
    },
    /// A machine was resumed from a snapshot of its memory and disk, which goes on
    /// as the opening that it was, from these marks.
    Resumed {
        /// The machine.
        machine: MachineName,
        /// The opening.
        incarnation: Incarnation,
        /// What it held.
        logs: BTreeMap<LogName, Mark>,
    },
    /// A process goes by this topology from now on.
    TopologyAdopted {
        /// The machine.
        machine: MachineName,
        /// The document.
        topology: TopologyVersion,
    },
    /// A node that leaves a namespace has seen that the members have all it holds.
    Drained {
        /// The machine.
        machine: MachineName,
        /// The namespace.
        namespace: NamespaceNumber,
        /// The logs, and how far each goes there.
        logs: Vec<(LogName, MessageNumber)>,
        /// The topology that says who is a member.
        topology: TopologyVersion,
    },
    /// An opening has removed a namespace that was left, or has begun to.
    Purged {
        /// The machine.
        machine: MachineName,
        /// The namespace.
        namespace: NamespaceNumber,
    },
    /// A node is out of the mesh, and its machine is gone with what it has.
    Gone {
        /// The machine.
        machine: MachineName,
        /// It was removed; else it had left.
        by_force: bool,
    },
    /// There is a newer topology.
    TopologyEdited(Arc<Topology>),
}
