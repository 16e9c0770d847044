//! What peers say of the logs that this very process writes: told to the log
//! writer, which finds out whether the process was resumed from a copy of its
//! memory.

use std::sync::Arc;

use interlock_core::identity::{LogName, Mark, MessageNumber, NodeNumber};
use interlock_core::replication::own_log_watch::OwnLogWatch;

use crate::context::NodeContext;
use crate::work_queue::QueueClosed;
use crate::writer_commands::WriterCommand;

/// The marks of our own logs that are named on one stream.
pub struct OwnMarks {
    context: Arc<NodeContext>,
    watch: OwnLogWatch,
}

impl OwnMarks {
    /// For a new stream.
    pub fn new(context: &Arc<NodeContext>) -> Self {
        Self { context: Arc::clone(context), watch: OwnLogWatch::new(context.me()) }
    }

    /// Takes marks that a peer names. False when they may not be counted: they
    /// are beyond what this process ever made durable, and it is about to end.
    pub fn hear<'a>(
        &mut self,
        peer: NodeNumber,
        marks: impl IntoIterator<Item = &'a (LogName, Mark)>,
    ) -> Result<bool, QueueClosed> {
        let durable = |log: &LogName| {
            self.context.durable.mark_of(log).map_or(MessageNumber::ZERO, |mark| mark.m_id)
        };
        let named = self.watch.named(self.context.clock.moment(), marks, durable);
        if !named.to_examine.is_empty() {
            self.context.writer.tell(WriterCommand::Examine(peer, named.to_examine))?;
        }
        Ok(!named.is_beyond)
    }
}
