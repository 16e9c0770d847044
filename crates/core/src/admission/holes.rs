//! What members that have trimmed send in place of messages: the base of what
//! they did, and the hole that they leave.

use super::{Admission, HoleOutcome};
use crate::clock::WallTime;
use crate::directory::{DirectoryChange, DirectoryEntry};
use crate::identity::{MessageNumber, NamespaceNumber};
use crate::limits::MAX_MESSAGE_NUMBER;
use crate::replication::frames::{BaseEntries, Hole, Nack, NackReason};
use crate::replication::log_table::ChainHistory;
use crate::replication::rows::Row;

/// Why base entries were not merged. Nothing of them was.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BaseRefusal {
    /// This node is no member of the namespace.
    #[error("this node is no member of namespace {0}")]
    NotMember(NamespaceNumber),
    /// An entry cannot be read.
    #[error("entry {index}: {detail}")]
    Invalid {
        /// Which one, from 0 on.
        index: usize,
        /// For people.
        detail: String,
    },
}

impl Admission {
    /// Moves a log's mark over messages that no member has any more. The base of
    /// what they did comes before, by [`Admission::merge_base`]. A log that is
    /// not held needs its row, as offered.
    ///
    /// It fills only numbers that this node lacks. What a log goes on from has to
    /// be held before it, as for a frame: where that is trimmed as well, its own
    /// hole comes first, and having reached it is enough.
    pub fn receive_hole(
        &mut self,
        now: WallTime,
        hole: &Hole,
        offered_row: Option<&Row>,
        history: &dyn ChainHistory,
    ) -> HoleOutcome {
        if let Err(refused) = self.check_residency(&hole.log, hole.through.m_id) {
            return HoleOutcome::Refused(refused);
        }
        match self.receive_member_hole(now, hole, offered_row, history) {
            Ok(outcome) => outcome,
            Err(nack) => HoleOutcome::Nack(nack),
        }
    }

    fn receive_member_hole(
        &mut self,
        now: WallTime,
        hole: &Hole,
        offered_row: Option<&Row>,
        history: &dyn ChainHistory,
    ) -> Result<HoleOutcome, Nack> {
        let log = hole.log;
        let invalid = |admission: &Self, detail: &str| {
            admission.nack(&log, NackReason::Invalid, detail.to_owned())
        };
        if hole.from == MessageNumber::ZERO
            || hole.from > hole.through.m_id
            || hole.through.m_id.get() > MAX_MESSAGE_NUMBER
        {
            return Err(invalid(self, "a hole without a first or a last number"));
        }
        if self.is_own_log(&log) {
            return Err(invalid(self, "a hole in the log of this very opening"));
        }
        let mut new_row = None;
        let first_missing = match (self.logs.get(&log), offered_row) {
            (Some(held), _) => held.appended.m_id.next(),
            (None, Some(row)) if row.log == log => {
                new_row = Some(row.clone());
                row.first_m_id()
            }
            (None, _) => {
                let detail = "the log is not held and was not offered".to_owned();
                return Err(self.nack(&log, NackReason::OutOfOrder, detail));
            }
        };
        if hole.from > first_missing {
            let detail = format!("the hole begins at {}", hole.from);
            return Err(self.nack(&log, NackReason::OutOfOrder, detail));
        }
        if hole.through.m_id < first_missing {
            if new_row.is_some() {
                return Err(invalid(self, "a hole before the log's first message"));
            }
            self.check_hash(&log, &log, hole.through, history)?;
            return Ok(HoleOutcome::AlreadyHeld { mark: self.appended_mark(&log) });
        }
        if let Some(row) = &new_row {
            self.check_parents(row, history)?;
            self.logs.open(row.clone()).map_err(|conflict| invalid(self, &conflict.to_string()))?;
        }
        self.observe(now, hole.stamp);
        self.logs.note_hole(&log, hole.through, hole.stamp);
        let hole = Hole { from: first_missing, ..*hole };
        Ok(HoleOutcome::Moved { row: new_row, hole })
    }

    /// Merges what is left of trimmed messages into the directory. All of it or,
    /// when an entry cannot be read, nothing.
    pub fn merge_base(&mut self, base: &BaseEntries) -> Result<Vec<DirectoryChange>, BaseRefusal> {
        if !self.is_member(base.namespace) {
            return Err(BaseRefusal::NotMember(base.namespace));
        }
        let entries: Vec<DirectoryEntry> = base
            .directory
            .iter()
            .enumerate()
            .map(|(index, bytes)| {
                DirectoryEntry::decode(bytes)
                    .map_err(|error| BaseRefusal::Invalid { index, detail: error.to_string() })
            })
            .collect::<Result<_, _>>()?;
        let directory = &mut self.state_mut(base.namespace).directory;
        Ok(entries.into_iter().flat_map(|entry| directory.merge_entry(entry)).collect())
    }
}
