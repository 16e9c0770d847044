//! What a holder that leaves a namespace has still to hand over: every member has to
//! say that it holds durably whatever the one that leaves holds (docs/decisions/0006).
//! Only then may it be removed there.

use std::collections::BTreeSet;

use crate::identity::{LogName, Mark, MessageNumber, NamespaceNumber, NodeNumber};
use crate::replication::acknowledgements::Acknowledgements;
use crate::replication::log_table::LogTable;

/// A log that is left.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LeftLog {
    /// Its name.
    pub log: LogName,
    /// The number before its first message.
    pub before_first: MessageNumber,
    /// Its last message that is appended: what is not durable yet has to be handed over
    /// too.
    pub end: Mark,
}

/// The logs of a namespace that is left.
pub fn logs_to_leave(logs: &LogTable, namespace: NamespaceNumber) -> Vec<LeftLog> {
    let logs = logs.iter().filter(|(log, _)| log.namespace == namespace);
    let left = logs.map(|(log, held)| LeftLog {
        log: *log,
        before_first: held.row.first_m_id().previous(),
        end: held.appended,
    });
    left.collect()
}

/// See the module's documentation.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Departure {
    /// Messages that some member does not hold durably.
    pub messages: u64,
    /// The members that lack some.
    pub waits_for: BTreeSet<NodeNumber>,
    has_members: bool,
}

impl Departure {
    /// What these members lack of these logs, by what they have acknowledged.
    pub fn of(
        members: impl IntoIterator<Item = NodeNumber>,
        logs: &[LeftLog],
        facts: &Acknowledgements,
    ) -> Self {
        let members: BTreeSet<NodeNumber> = members.into_iter().collect();
        let mut departure = Self { has_members: !members.is_empty(), ..Self::default() };
        for LeftLog { log, before_first, end } in logs {
            let mut furthest_back = end.m_id;
            for member in &members {
                let held = facts.mark_of(*member, log).unwrap_or_default();
                let differs = held.m_id == end.m_id && held.hash != end.hash;
                if held.m_id < end.m_id || differs {
                    departure.waits_for.insert(*member);
                }
                furthest_back = furthest_back.min(held.m_id.max(*before_first));
            }
            departure.messages += end.m_id.since(furthest_back);
        }
        departure
    }

    /// Whether the members have all of it. Where there is none, nobody has.
    pub fn is_drained(&self) -> bool {
        self.has_members && self.waits_for.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::identity::{ChainHash, Incarnation, MemberOpening, PathName, ShardNumber};
    use crate::replication::frames::Fact;

    const NAMESPACE: NamespaceNumber = NamespaceNumber::new(1);

    fn incarnation(bits: u64) -> Incarnation {
        Incarnation::new(bits).expect("not zero")
    }

    fn log(origin: u32) -> LogName {
        let origin = NodeNumber::new(origin);
        PathName { namespace: NAMESPACE, shard: ShardNumber::new(0), origin }.log(incarnation(1))
    }

    fn tell(facts: &mut Acknowledgements, node: u32, opening: u64, marks: &[(LogName, u64)]) {
        let mark = |m_id| Mark { m_id: MessageNumber::new(m_id), hash: ChainHash::EMPTY };
        let marks = marks.iter().map(|(log, m_id)| (*log, mark(*m_id))).collect();
        let opening = MemberOpening {
            node: NodeNumber::new(node),
            incarnation: incarnation(opening),
            opened_from: (opening > 1).then(|| incarnation(opening - 1)),
        };
        facts.record(&Fact { opening, marks }, false);
    }

    fn departure(facts: &Acknowledgements, members: &[u32]) -> Departure {
        let number = MessageNumber::new;
        let left = |origin, before_first, end| LeftLog {
            log: log(origin),
            before_first: number(before_first),
            end: Mark { m_id: number(end), hash: ChainHash::EMPTY },
        };
        let logs = [left(1, 0, 7), left(2, 4, 6)];
        Departure::of(members.iter().map(|it| NodeNumber::new(*it)), &logs, facts)
    }

    #[test]
    fn every_member_has_to_hold_all() {
        let mut facts = Acknowledgements::new();
        tell(&mut facts, 2, 1, &[(log(1), 7), (log(2), 6)]);
        assert!(departure(&facts, &[2]).is_drained());
        let waiting = departure(&facts, &[2, 3]);
        assert!(!waiting.is_drained());
        assert_eq!(waiting.waits_for, BTreeSet::from([NodeNumber::new(3)]));
        assert_eq!(waiting.messages, 7 + 2, "what was never there is not handed over");

        tell(&mut facts, 3, 1, &[(log(1), 7), (log(2), 5)]);
        assert_eq!(departure(&facts, &[2, 3]).messages, 1);
        tell(&mut facts, 3, 1, &[(log(2), 6)]);
        assert!(departure(&facts, &[2, 3]).is_drained());
    }

    /// A member that holds as much, and other content, does not hold what is left.
    #[test]
    fn other_content_under_the_name_is_not_what_is_left() {
        let mut facts = Acknowledgements::new();
        tell(&mut facts, 2, 1, &[(log(1), 7)]);
        let of = |hash| {
            let end = Mark { m_id: MessageNumber::new(7), hash };
            let left = LeftLog { log: log(1), before_first: MessageNumber::ZERO, end };
            Departure::of([NodeNumber::new(2)], &[left], &facts)
        };
        assert!(of(ChainHash::EMPTY).is_drained());
        let other = of(ChainHash::EMPTY.then(b"other"));
        assert_eq!((other.is_drained(), other.messages), (false, 0));
    }

    /// What a member held before its disk was another one counts no more.
    #[test]
    fn an_opening_that_is_over_holds_nothing() {
        let mut facts = Acknowledgements::new();
        tell(&mut facts, 2, 1, &[(log(1), 7), (log(2), 6)]);
        tell(&mut facts, 2, 2, &[]);
        assert!(!departure(&facts, &[2]).is_drained());
    }

    #[test]
    fn without_members_nobody_has_anything() {
        let facts = Acknowledgements::new();
        assert!(!departure(&facts, &[]).is_drained());
        assert!(!Departure::of([], &[], &facts).is_drained());
        assert!(Departure::of([NodeNumber::new(2)], &[], &facts).is_drained());
    }
}
