//! What stands between a node and its subscribers, in virtual time: the feed that
//! a push-node gives each follower, the one order that a gateway shares among its
//! readers, and the readers themselves.
//!
//! Cursors, coverage, filters and a reader's position are the core's. What is
//! here does with them what `push-node/delivery_feed` and the gateway's `fan_out`,
//! `reader` and `subscriber_session` do on their tasks.

mod feed;
mod gateway;
mod history_order;
mod reader;
mod session;
mod start;

pub use feed::{Feed, FeedNews, Until};
pub use gateway::Gateway;
pub(crate) use history_order::{History, LogRange, in_order_of_history};
pub use reader::Told;
pub(crate) use reader::UNKNOWN_BRANCH_PATIENCE;
pub use session::Session;
pub use start::{LastAsked, Start, last_asked, resolve};

use bytes::Bytes;
use interlock_core::identity::{LogName, MessageName, MessageNumber};
use interlock_core::names::ChannelName;
use interlock_core::replication::rows::Row;

/// A piece of a namespace's order, as it travels to readers.
#[derive(Clone, Debug)]
pub enum Item {
    /// Messages of one log; the position moves to `through`.
    Run {
        /// The log.
        log: LogName,
        /// The first number that it goes over; none in what a reader reads for
        /// itself, which goes on from where it stands.
        from: Option<MessageNumber>,
        /// Where the position stands after it.
        through: MessageNumber,
        /// The publications to deliver.
        messages: Vec<(MessageName, ChannelName)>,
    },
    /// Numbers that a log no longer has.
    Gap {
        /// The log.
        log: LogName,
        /// The first.
        from: MessageNumber,
        /// The last.
        through: MessageNumber,
    },
}

/// A message as it is read back.
type Found = (MessageName, Bytes);

/// Rows that may be new to the reader, and what follows them.
#[derive(Clone, Debug, Default)]
pub struct Batch {
    /// Rows.
    pub rows: Vec<Row>,
    /// What is delivered, in order.
    pub items: Vec<Item>,
}
