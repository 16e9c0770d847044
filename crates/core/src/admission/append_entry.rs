//! What the log writer stores: one message of one log, ready to be appended.

use bytes::Bytes;

use crate::clock::HybridTime;
use crate::identity::{ChainHash, LogName, Mark, MessageName, MessageNumber};
use crate::replication::rows::Row;

/// One message to append, decided by [`Admission`](super::Admission). The
/// storage appends entries in the order in which they were decided and decides
/// nothing itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AppendEntry {
    /// The log it belongs to.
    pub log: LogName,
    /// The log's row, with its first message only: stored before the message.
    pub row: Option<Row>,
    /// Its number: one more than the log's last.
    pub m_id: MessageNumber,
    /// The encoded `Send`, as its origin made it. A slice of a larger buffer:
    /// whoever keeps it for long copies it.
    pub bytes: Bytes,
    /// The log's chain hash after this message.
    pub hash: ChainHash,
    /// Its stamp, which the log's next message must be above.
    pub stamp: HybridTime,
}

impl AppendEntry {
    /// The message's name.
    pub const fn name(&self) -> MessageName {
        MessageName { log: self.log, m_id: self.m_id }
    }

    /// The log's mark once this entry is appended.
    pub const fn mark(&self) -> Mark {
        Mark { m_id: self.m_id, hash: self.hash }
    }
}
