//! What a node knows when its database is open: the logs that the storage's walk
//! left, and what they mean.

use std::collections::BTreeMap;

use crate::clock::HybridTime;
use crate::directory::Directory;
use crate::identity::{Mark, MessageName, NamespaceNumber, NodeNumber};
use crate::message::Message;
use crate::projection::publishers::Publishers;
use crate::replication::log_table::LogTable;
use crate::replication::rows::{Row, RowConflict};

/// What [`Admission::new`](super::Admission::new) takes up. The driver enters
/// the logs as recovered, the projections as stored, and replays the messages
/// that lie between a projection's positions and the marks.
#[derive(Clone, Debug, Default)]
pub struct RecoveredState {
    /// All logs; what is recovered is durable.
    pub logs: LogTable,
    /// The channels of each namespace.
    pub directories: BTreeMap<NamespaceNumber, Directory>,
    /// The sessions of publishers at this node in each namespace.
    pub publishers: BTreeMap<NamespaceNumber, Publishers>,
}

impl RecoveredState {
    /// An empty disk.
    pub fn new() -> Self {
        Self::default()
    }

    /// Enters a log as the storage's walk left it.
    pub fn insert_log(
        &mut self,
        row: Row,
        mark: Mark,
        floor: Mark,
        last_stamp: HybridTime,
    ) -> Result<(), RowConflict> {
        self.logs.insert_recovered(row, mark, floor, last_stamp)
    }

    /// Replays one message that a stored projection had not taken in, in the
    /// order of its log, and parents' logs before the logs that go on from them.
    /// Once more than needed changes nothing.
    pub fn replay(&mut self, node: NodeNumber, name: &MessageName, message: &Message) {
        let namespace = name.log.namespace;
        self.directories.entry(namespace).or_default().apply(name, message);
        if name.log.origin == node {
            self.publishers.entry(namespace).or_default().apply(name, &message.head());
        }
    }
}
