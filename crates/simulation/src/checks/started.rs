//! I8, of who starts without a cursor: the last so many that were there are still to
//! come and those before are not, and so is it with what arrived at the node from the
//! time asked for on, as exactly as a storage keeps times.

use std::collections::{BTreeMap, BTreeSet};

use interlock_core::clock::WallTime;
use interlock_core::identity::{LogName, MessageName, MessageNumber, PathName};
use interlock_core::replication::rows::Rows;

use crate::history::{Asked, Record, Replacement, SessionRecord};
use crate::machine::MachineName;

use super::{Evidence, Findings};

/// A storage keeps the time of a message when the last one kept is so old: what came
/// meanwhile may be shown for having come with the next one.
const KEPT_EVERY_MILLISECONDS: u64 = 1000;

pub(super) fn check(
    evidence: &Evidence<'_>,
    session: &SessionRecord,
    rows: &Rows,
    findings: &mut Findings,
) {
    let is_covered = |name: &MessageName| session.start.covers(name, rows);
    let mut broken = |name: &MessageName, what: &str| {
        if name.log.namespace == session.namespace && !evidence.still.holds(name) {
            let (who, node) = (session.subscriber, session.node);
            findings.broken(format!("u{who} at node {node}: {name} {what}"));
        }
    };
    match &session.asked {
        None => {}
        Some(Asked::Last(last)) => {
            for name in last.newest.iter().filter(|name| is_covered(name)) {
                broken(name, "is among the last and is passed over");
            }
            for name in last.older.iter().filter(|name| !is_covered(name)) {
                broken(name, "is not among the last and is to come");
            }
        }
        Some(Asked::Since { machine, at, records }) => {
            let arrivals = Arrivals::follow(&evidence.history.records[..*records], *machine);
            for name in arrivals.since(*at).filter(is_covered) {
                broken(&name, "came after the time and is passed over");
            }
            for name in arrivals.far_before(*at, is_covered) {
                broken(&name, "came long before the time and is to come");
            }
        }
    }
}

/// What came to a machine, and when by its clock.
#[derive(Default)]
struct Arrivals {
    /// Of what has come again the last time.
    latest: BTreeMap<MessageName, WallTime>,
    clocks: BTreeMap<PathName, WallTime>,
    /// Where the clock was set back, what came along a path before and after has no order
    /// by time.
    disordered: BTreeSet<PathName>,
    /// What else may have times that nobody tells: of holes, or of another machine.
    inexact: BTreeSet<PathName>,
    is_copy: bool,
    /// How far each log was durable.
    durable: BTreeMap<LogName, MessageNumber>,
    /// How far each log was let go of.
    let_go: BTreeMap<LogName, MessageNumber>,
}

impl Arrivals {
    fn follow(records: &[Record], of: MachineName) -> Self {
        let mut arrivals = Self::default();
        for record in records {
            match record {
                // Another disk has other times.
                Record::Replaced { machine, by, .. } if *machine == of => {
                    arrivals.latest.clear();
                    arrivals.is_copy |= *by == Replacement::Restored;
                }
                Record::Purged { machine, namespace } if *machine == of => {
                    arrivals.latest.retain(|name, _| name.log.namespace != *namespace);
                }
                Record::Opened { machine, logs, .. } if *machine == of => {
                    arrivals.durable = logs.iter().map(|(log, mark)| (*log, mark.m_id)).collect();
                }
                Record::Durable { machine, log, mark } if *machine == of => {
                    arrivals.durable.insert(*log, mark.m_id);
                }
                Record::Trimmed { machine, log, through, .. } if *machine == of => {
                    arrivals.let_go_of(*log, *through);
                }
                Record::HoleTaken { machine, log, through, .. } if *machine == of => {
                    arrivals.let_go_of(*log, through.m_id);
                    arrivals.inexact.insert(log.path());
                }
                Record::Arrived { machine, at, names } if *machine == of => {
                    names.iter().for_each(|name| arrivals.arrive(*name, *at));
                }
                _ => {}
            }
        }
        arrivals
    }

    fn let_go_of(&mut self, log: LogName, through: MessageNumber) {
        let furthest = self.let_go.entry(log).or_default();
        *furthest = through.max(*furthest);
    }

    fn arrive(&mut self, name: MessageName, at: WallTime) {
        self.latest.insert(name, at);
        let clock = self.clocks.entry(name.log.path()).or_default();
        if at < *clock {
            self.disordered.insert(name.log.path());
        }
        *clock = at.max(*clock);
    }

    fn in_order(&self) -> impl Iterator<Item = (MessageName, WallTime)> {
        let all = self.latest.iter().map(|(name, at)| (*name, *at));
        all.filter(|(name, _)| !self.disordered.contains(&name.log.path()))
    }

    /// What came from a time on.
    fn since(&self, since: WallTime) -> impl Iterator<Item = MessageName> {
        self.in_order().filter(move |(_, at)| *at >= since).map(|(name, _)| name)
    }

    /// Of what came before a time and is not passed over, the oldest of each log of which
    /// a time was kept after it: what is left lies between two kept times.
    fn far_before(
        &self,
        before: WallTime,
        is_passed: impl Fn(&MessageName) -> bool,
    ) -> Vec<MessageName> {
        let mut logs: BTreeMap<LogName, Vec<(MessageName, WallTime)>> = BTreeMap::new();
        for (name, at) in self.in_order().filter(|_| !self.is_copy) {
            let is_durable = self.durable.get(&name.log) >= Some(&name.m_id);
            let is_held = self.let_go.get(&name.log) < Some(&name.m_id);
            let is_exact = !self.inexact.contains(&name.log.path());
            if at < before && is_durable && is_held && is_exact && !is_passed(&name) {
                logs.entry(name.log).or_default().push((name, at));
            }
        }
        let ends = logs
            .into_values()
            .filter_map(|to_come| Some((to_come.first().copied()?, to_come.last().copied()?)));
        let far = ends.filter(|((_, first), (_, last))| {
            last.milliseconds_since(*first) >= KEPT_EVERY_MILLISECONDS
        });
        far.map(|((name, _), _)| name).collect()
    }
}

#[cfg(test)]
mod tests {
    use interlock_core::identity::{
        ChainHash, Incarnation, Mark, NamespaceNumber, NodeNumber, ShardNumber,
    };

    use super::*;

    fn name(m_id: u64) -> MessageName {
        let (namespace, shard) = (NamespaceNumber::new(1), ShardNumber::new(0));
        let path = PathName { namespace, shard, origin: NodeNumber::new(1) };
        let log = path.log(Incarnation::new(7).expect("not zero"));
        MessageName { log, m_id: MessageNumber::new(m_id) }
    }

    /// Messages that came at these times, one after another, all durable.
    fn arrivals(times: &[u64], then: &[Record]) -> Arrivals {
        let machine = MachineName::first_of(NodeNumber::new(2));
        let mut records: Vec<Record> = (1..)
            .zip(times)
            .map(|(m_id, at)| Record::Arrived {
                machine,
                at: WallTime::new(*at),
                names: vec![name(m_id)],
            })
            .collect();
        let mark = Mark { m_id: MessageNumber::new(times.len() as u64), hash: ChainHash::EMPTY };
        records.push(Record::Durable { machine, log: name(1).log, mark });
        records.extend_from_slice(then);
        Arrivals::follow(&records, machine)
    }

    #[test]
    fn what_came_from_a_time_on_is_to_come() {
        let since = |times: &[u64], at| {
            let arrivals = arrivals(times, &[]);
            arrivals.since(WallTime::new(at)).collect::<Vec<_>>()
        };
        assert_eq!(since(&[10, 20, 30], 20), [name(2), name(3)]);
        assert_eq!(since(&[10, 30, 20], 20), [], "the clock was set back");
    }

    #[test]
    fn what_came_long_before_is_not_to_come() {
        let far = |times: &[u64], passed: u64, then: &[Record]| {
            let is_passed = |name: &MessageName| name.m_id <= MessageNumber::new(passed);
            arrivals(times, then).far_before(WallTime::new(9_000), is_passed)
        };
        let times = [1_000, 1_900, 2_000, 9_000];
        assert_eq!(far(&times, 0, &[]), [name(1)], "a time was kept with the third");
        assert_eq!(far(&times, 1, &[]), [], "which is what comes with the third");
        assert_eq!(far(&[1_000, 2_000, 1_900], 0, &[]), [], "the clock was set back");
        let machine = MachineName::first_of(NodeNumber::new(2));
        let (log, through) = (name(1).log, name(2).m_id);
        let trimmed = Record::Trimmed { machine, log, through, released: false };
        assert_eq!(far(&times, 0, &[trimmed]), [], "it is not there to be shown");
    }
}
