//! Whose turn it is among the logs of one stream: what is new first, and round
//! robin within each of the two classes.

use std::collections::{BTreeSet, VecDeque};

use super::window::Urgency;
use crate::identity::LogName;

/// So many turns of live logs in a row, then one for a backlog that waits: live
/// logs are delayed by at most one frame, and no backlog stands still.
const LIVE_TURNS_IN_A_ROW: u32 = 8;

/// Logs that have something to send, in the order of their turns.
#[derive(Clone, Debug, Default)]
pub(super) struct Turns {
    live: VecDeque<LogName>,
    backlog: VecDeque<LogName>,
    queued: BTreeSet<LogName>,
    live_in_a_row: u32,
}

impl Turns {
    /// Gives a log a turn, behind the others of its class. One that has a turn
    /// already keeps it.
    pub(super) fn enqueue(&mut self, log: LogName, urgency: Urgency) {
        if self.queued.insert(log) {
            match urgency {
                Urgency::Live => self.live.push_back(log),
                Urgency::Backlog => self.backlog.push_back(log),
            }
        }
    }

    /// The class that is next, if the window has room for it.
    pub(super) fn next_class(&self, room_for: impl Fn(Urgency) -> bool) -> Option<Urgency> {
        let backlog = !self.backlog.is_empty() && room_for(Urgency::Backlog);
        let live = !self.live.is_empty() && room_for(Urgency::Live);
        match (live, backlog) {
            (true, true) if self.live_in_a_row >= LIVE_TURNS_IN_A_ROW => Some(Urgency::Backlog),
            (true, _) => Some(Urgency::Live),
            (false, true) => Some(Urgency::Backlog),
            (false, false) => None,
        }
    }

    /// Takes the next log of a class.
    pub(super) fn take(&mut self, class: Urgency) -> Option<LogName> {
        let log = match class {
            Urgency::Live => self.live.pop_front(),
            Urgency::Backlog => self.backlog.pop_front(),
        }?;
        self.queued.remove(&log);
        Some(log)
    }

    /// Counts a turn that was used: one that came to nothing does not count.
    pub(super) fn used(&mut self, class: Urgency) {
        self.live_in_a_row = match class {
            Urgency::Live => self.live_in_a_row.saturating_add(1),
            Urgency::Backlog => 0,
        };
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::identity::{Incarnation, NamespaceNumber, NodeNumber, PathName, ShardNumber};

    fn log(origin: u32) -> LogName {
        PathName {
            namespace: NamespaceNumber::new(1),
            shard: ShardNumber::new(0),
            origin: NodeNumber::new(origin),
        }
        .log(Incarnation::new(1).expect("not zero"))
    }

    fn next(turns: &mut Turns) -> Option<LogName> {
        let class = turns.next_class(|_| true)?;
        turns.used(class);
        turns.take(class)
    }

    #[test]
    fn live_logs_go_first_and_a_backlog_gets_a_share() {
        let mut turns = Turns::default();
        turns.enqueue(log(9), Urgency::Backlog);
        let mut order = Vec::new();
        for _ in 0..=LIVE_TURNS_IN_A_ROW {
            turns.enqueue(log(1), Urgency::Live);
            order.push(next(&mut turns).expect("has a turn").origin.get());
        }
        let mut expected = vec![1; LIVE_TURNS_IN_A_ROW as usize];
        expected.push(9);
        assert_eq!(order, expected);
    }

    #[test]
    fn round_robin_within_a_class_and_one_turn_each() {
        let mut turns = Turns::default();
        for origin in [1, 2, 1, 3, 2] {
            turns.enqueue(log(origin), Urgency::Backlog);
        }
        let order: Vec<_> = std::iter::from_fn(|| next(&mut turns)).collect();
        assert_eq!(order, [log(1), log(2), log(3)]);
    }

    #[test]
    fn a_full_window_for_backlogs_lets_live_logs_pass() {
        let mut turns = Turns::default();
        turns.enqueue(log(1), Urgency::Backlog);
        assert_eq!(turns.next_class(|class| class == Urgency::Live), None);
        turns.enqueue(log(2), Urgency::Live);
        assert_eq!(turns.next_class(|class| class == Urgency::Live), Some(Urgency::Live));
    }
}
