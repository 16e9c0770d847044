//! What a peer has still to be told beside messages: which logs have moved, and
//! who holds what.

use std::collections::{BTreeMap, BTreeSet};

use crate::clock::Moment;
use crate::identity::{Incarnation, LogName, Mark, MemberOpening, NodeNumber};
use crate::limits::MAX_MARKS_PER_FRAME;
use crate::replication::frames::Fact;
use crate::replication::timing::{FACT_INTERVAL, OFFER_INTERVAL};

/// Logs that are new or have moved since they were last offered.
#[derive(Clone, Debug, Default)]
pub(super) struct OfferQueue {
    moved: BTreeSet<LogName>,
    urgent: bool,
    next_at: Moment,
}

impl OfferQueue {
    /// A log is new, which is told at once, or has moved, which can wait for the
    /// interval.
    pub(super) fn push(&mut self, log: LogName, is_new: bool) {
        self.moved.insert(log);
        self.urgent |= is_new;
    }

    pub(super) fn remove(&mut self, log: &LogName) {
        self.moved.remove(log);
    }

    /// Everything is told before the next "nothing else".
    pub(super) fn hasten(&mut self) {
        self.urgent = !self.moved.is_empty();
    }

    pub(super) fn due_at(&self, now: Moment) -> Option<Moment> {
        (!self.moved.is_empty()).then_some(if self.urgent { now } else { self.next_at })
    }

    /// Takes up to `limit` logs if it is time.
    pub(super) fn take(&mut self, now: Moment, limit: usize) -> Vec<LogName> {
        if self.due_at(now).is_none_or(|due| due > now) {
            return Vec::new();
        }
        let mut taken = Vec::new();
        while taken.len() < limit
            && let Some(log) = self.moved.pop_first()
        {
            taken.push(log);
        }
        if self.moved.is_empty() {
            self.urgent = false;
            self.next_at = now + OFFER_INTERVAL;
        }
        taken
    }
}

/// Facts to pass on: per opening the newest mark of each log, so that the queue
/// is no longer than the logs there are.
#[derive(Clone, Debug, Default)]
pub(super) struct FactQueue {
    pending: BTreeMap<(NodeNumber, Incarnation), PendingFact>,
    urgent: bool,
    next_at: Moment,
}

#[derive(Clone, Debug)]
struct PendingFact {
    opening: MemberOpening,
    marks: BTreeMap<LogName, Mark>,
}

impl FactQueue {
    /// Adds a fact; `urgent` when someone waits for it.
    pub(super) fn push(&mut self, fact: Fact, urgent: bool) {
        let opening = fact.opening;
        let pending = self
            .pending
            .entry((opening.node, opening.incarnation))
            .or_insert_with(|| PendingFact { opening, marks: BTreeMap::new() });
        for (log, mark) in fact.marks {
            let held = pending.marks.entry(log).or_insert(mark);
            if held.m_id < mark.m_id {
                *held = mark;
            }
        }
        self.urgent |= urgent;
    }

    pub(super) fn due_at(&self, now: Moment) -> Option<Moment> {
        (!self.pending.is_empty()).then_some(if self.urgent { now } else { self.next_at })
    }

    /// Takes one fact if it is time.
    pub(super) fn take(&mut self, now: Moment) -> Option<Fact> {
        if self.due_at(now)? > now {
            return None;
        }
        let mut entry = self.pending.first_entry()?;
        let pending = entry.get_mut();
        let mut marks = Vec::new();
        while marks.len() < MAX_MARKS_PER_FRAME
            && let Some(mark) = pending.marks.pop_first()
        {
            marks.push(mark);
        }
        let fact = Fact { opening: pending.opening, marks };
        if pending.marks.is_empty() {
            entry.remove();
        }
        if self.pending.is_empty() {
            self.urgent = false;
            self.next_at = now + FACT_INTERVAL;
        }
        Some(fact)
    }
}
