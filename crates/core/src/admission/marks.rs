//! Marks that other members state, in welcomes, acknowledgements and offers,
//! against the logs held here.

use super::Admission;
use crate::identity::{LogName, Mark, MessageNumber};
use crate::replication::log_table::{ChainHistory, MarkComparison, StopReason};

/// What another member's mark says about this node's logs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MarkFinding {
    /// Nothing is wrong: the other holds the same, less, or more.
    Consistent(MarkComparison),
    /// Both hold other content under the same names: an alarm. The log is
    /// marked as stopped.
    Differs(StopReason),
    /// The log of this very opening, further or with other content than this
    /// process ever wrote: the process was resumed from a snapshot of its
    /// memory. It must exit and open anew.
    ResumedFromSnapshot,
}

impl Admission {
    /// Judges a mark that another member states of a log, in a welcome, an
    /// acknowledgement or an offer: other content is seen at the first contact.
    pub fn examine_mark(
        &mut self,
        log: &LogName,
        mark: Mark,
        history: &dyn ChainHistory,
    ) -> MarkFinding {
        if mark.m_id == MessageNumber::ZERO {
            return MarkFinding::Consistent(MarkComparison::Agrees);
        }
        let comparison = self.logs.compare(log, mark, history);
        if self.is_own_log(log) && comparison != MarkComparison::Agrees {
            return MarkFinding::ResumedFromSnapshot;
        }
        match comparison {
            MarkComparison::Differs(reason) => {
                self.logs.note_stopped(log, reason);
                MarkFinding::Differs(reason)
            }
            consistent => MarkFinding::Consistent(consistent),
        }
    }
}
