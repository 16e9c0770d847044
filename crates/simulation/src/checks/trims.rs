//! What was let go of over the run, trimmed or left, and whether it might be: every other
//! member had it, by what the process could know, or it is declared that they do without.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use interlock_core::identity::{Incarnation, LogName, MessageNumber, NodeNumber, TopologyVersion};
use interlock_core::topology::Topology;

use crate::history::Record;
use crate::machine::MachineName;

/// A range of numbers, both ends included.
type Range = (MessageNumber, MessageNumber);

/// The trims as the history tells them.
#[derive(Debug, Default)]
pub(crate) struct Trims {
    /// What each node let go of, trimmed by itself or taken as a hole, on whichever disk.
    let_go: BTreeMap<(NodeNumber, LogName), Vec<Range>>,
    undeclared: Vec<String>,
}

/// What each opening of each node held, at most.
#[derive(Default)]
struct Story {
    topologies: BTreeMap<TopologyVersion, Arc<Topology>>,
    /// The openings of each node, in order of time.
    openings: BTreeMap<NodeNumber, Vec<Incarnation>>,
    running: BTreeMap<MachineName, Incarnation>,
    held: BTreeMap<(NodeNumber, Incarnation), BTreeMap<LogName, MessageNumber>>,
    /// Under which opening each process knows each peer.
    known: BTreeMap<MachineName, BTreeMap<NodeNumber, Incarnation>>,
    /// How far each process has decided to trim, declared or not.
    decided: BTreeMap<(MachineName, LogName, bool), MessageNumber>,
}

impl Trims {
    /// Follows the records from the beginning to the end.
    pub(crate) fn follow(records: &[Record]) -> Self {
        let (mut trims, mut story) = (Self::default(), Story::default());
        for record in records {
            story.take(record);
            match record {
                Record::Trimmed { machine, log, through, released } => {
                    let decided = story.decided.get(&(*machine, *log, *released)).copied();
                    if decided < Some(*through) {
                        trims.undeclared.push(format!(
                            "node {machine} trims {log} to {through}, decided was {decided:?}"
                        ));
                    }
                    trims.let_go(machine.node, *log, (MessageNumber::ZERO, *through));
                }
                Record::HoleTaken { machine, log, from, through, .. } => {
                    trims.let_go(machine.node, *log, (*from, through.m_id));
                }
                Record::TrimDecided { machine, log, through, released: false, topology } => {
                    for member in story.members_without(*machine, log, *through, *topology) {
                        trims.undeclared.push(format!(
                            "node {machine} is to trim {log} to {through}, and node {member} \
                             never held that"
                        ));
                    }
                }
                Record::Drained { machine, logs, topology, .. } => {
                    for (log, last) in logs {
                        for member in story.members_without(*machine, log, *last, *topology) {
                            trims.undeclared.push(format!(
                                "node {machine} is to leave {log} at {last}, and node {member} \
                                 never held that"
                            ));
                        }
                    }
                }
                _ => {}
            }
        }
        trims
    }

    /// Letting go of what some member lacked, without a word.
    pub(crate) fn undeclared(&self) -> &[String] {
        &self.undeclared
    }

    /// Whether a node let go of all messages of a range of a log.
    pub(crate) fn covers(&self, node: NodeNumber, log: &LogName, range: Range) -> bool {
        let (mut from, through) = range;
        let let_go = self.let_go.get(&(node, *log)).map_or(&[][..], Vec::as_slice);
        while from <= through {
            let around = let_go.iter().filter(|(first, last)| *first <= from && from <= *last);
            let Some(last) = around.map(|(_, last)| *last).max() else { return false };
            from = last.next();
        }
        true
    }

    fn let_go(&mut self, node: NodeNumber, log: LogName, range: Range) {
        self.let_go.entry((node, log)).or_default().push(range);
    }
}

impl Story {
    fn take(&mut self, record: &Record) {
        match record {
            Record::TopologyEdited(topology) => {
                self.topologies.insert(topology.version, Arc::clone(topology));
            }
            Record::Opened { machine, incarnation, logs, .. } => {
                self.openings.entry(machine.node).or_default().push(*incarnation);
                self.running.insert(*machine, *incarnation);
                self.known.remove(machine);
                self.decided.retain(|(decider, ..), _| decider != machine);
                for (log, mark) in logs {
                    self.hold(*machine, log, mark.m_id);
                }
            }
            Record::Durable { machine, log, mark } => self.hold(*machine, log, mark.m_id),
            Record::TrimDecided { machine, log, through, released, .. } => {
                let decided = self.decided.entry((*machine, *log, *released)).or_default();
                *decided = *through.max(decided);
            }
            Record::Welcomed { machine, by } => {
                self.known.entry(*machine).or_default().insert(by.node, by.incarnation);
            }
            _ => {}
        }
    }

    fn hold(&mut self, machine: MachineName, log: &LogName, m_id: MessageNumber) {
        let Some(incarnation) = self.running.get(&machine) else { return };
        let held = self.held.entry((machine.node, *incarnation)).or_default();
        let highest = held.entry(*log).or_default();
        *highest = m_id.max(*highest);
    }

    /// The members of which no opening held a log so far: none since the one that the
    /// process knows the member under. What it learns between a decision and the trim
    /// comes too late, as what it learns after the trim does.
    fn members_without(
        &self,
        machine: MachineName,
        log: &LogName,
        through: MessageNumber,
        topology: TopologyVersion,
    ) -> BTreeSet<NodeNumber> {
        let Some(topology) = self.topologies.get(&topology) else { return BTreeSet::new() };
        let members = topology.members(log.namespace).into_iter().map(|member| member.number);
        let others = members.filter(|member| *member != machine.node);
        others.filter(|member| !self.held_by(machine, *member, log, through)).collect()
    }

    fn held_by(
        &self,
        machine: MachineName,
        member: NodeNumber,
        log: &LogName,
        through: MessageNumber,
    ) -> bool {
        let openings = self.openings.get(&member).map_or(&[][..], Vec::as_slice);
        let known = self.known.get(&machine).and_then(|known| known.get(&member));
        let since = known.and_then(|known| openings.iter().position(|it| it == known));
        openings[since.unwrap_or_default()..].iter().any(|opening| {
            let held = self.held.get(&(member, *opening));
            held.and_then(|held| held.get(log)).is_some_and(|held| *held >= through)
        })
    }
}

#[cfg(test)]
mod tests {
    use interlock_core::identity::{
        ChainHash, FencingToken, Mark, MemberOpening, NamespaceNumber, PathName, ShardNumber,
    };

    use super::*;
    use crate::network::ProcessNumber;
    use crate::scenario::small_topology;

    fn log() -> LogName {
        let namespace = NamespaceNumber::new(1);
        PathName { namespace, shard: ShardNumber::new(0), origin: NodeNumber::new(1) }
            .log(Incarnation::new(7).expect("not zero"))
    }

    fn machine(node: u32) -> MachineName {
        MachineName::first_of(NodeNumber::new(node))
    }

    fn opening(bits: u64) -> Incarnation {
        Incarnation::new(bits).expect("not zero")
    }

    fn opened(node: u32, bits: u64, m_id: u64) -> Record {
        let mark = Mark { m_id: MessageNumber::new(m_id), hash: ChainHash::EMPTY };
        Record::Opened {
            machine: machine(node),
            process: ProcessNumber::new(bits),
            incarnation: opening(bits),
            token: FencingToken::new(0),
            logs: vec![(log(), mark)],
        }
    }

    fn welcomed(bits: u64) -> Record {
        let by = MemberOpening {
            node: NodeNumber::new(2),
            incarnation: opening(bits),
            opened_from: None,
        };
        Record::Welcomed { machine: machine(1), by }
    }

    /// How many members lack what node 1 of two trims up to 5.
    fn undeclared(story: &[Record], released: bool) -> usize {
        let topology = small_topology(2);
        let (log, through, version) = (log(), MessageNumber::new(5), topology.version);
        let machine = machine(1);
        let decided = Record::TrimDecided { machine, log, through, released, topology: version };
        let mut records = vec![Record::TopologyEdited(Arc::new(topology)), opened(1, 1, 9)];
        records.extend_from_slice(story);
        records.push(decided);
        Trims::follow(&records).undeclared().len()
    }

    #[test]
    fn what_a_member_never_held_may_not_be_trimmed_unsaid() {
        assert_eq!(undeclared(&[opened(2, 2, 4)], false), 1);
        assert_eq!(undeclared(&[opened(2, 2, 4)], true), 0);
        assert_eq!(undeclared(&[opened(2, 2, 5)], false), 0);
        assert_eq!(undeclared(&[], false), 1, "who was never there held nothing");
    }

    #[test]
    fn no_more_is_trimmed_than_was_decided() {
        let topology = small_topology(2);
        let (machine, log, version) = (machine(1), log(), topology.version);
        let through = MessageNumber::new(5);
        let edited = Record::TopologyEdited(Arc::new(topology));
        let decided =
            Record::TrimDecided { machine, log, through, released: false, topology: version };
        let before = [edited, opened(1, 1, 9), opened(2, 2, 9), decided];
        let undeclared =
            |records: &[Record]| Trims::follow(&[&before, records].concat()).undeclared().len();
        let trimmed = |m_id, released| Record::Trimmed {
            machine,
            log,
            through: MessageNumber::new(m_id),
            released,
        };
        assert_eq!(undeclared(&[trimmed(5, false)]), 0);
        assert_eq!(undeclared(&[trimmed(6, false)]), 1);
        assert_eq!(undeclared(&[trimmed(5, true)]), 1, "that was not declared");
        assert_eq!(undeclared(&[opened(1, 3, 9), trimmed(5, false)]), 1, "another process did");
    }

    #[test]
    fn each_node_lets_go_for_itself() {
        let number = MessageNumber::new;
        let hole = |from, through| Record::HoleTaken {
            machine: machine(2),
            log: log(),
            from: number(from),
            through: Mark { m_id: number(through), hash: ChainHash::EMPTY },
            row: None,
        };
        let trimmed = Record::Trimmed {
            machine: machine(1),
            log: log(),
            through: number(10),
            released: false,
        };
        let trims = Trims::follow(&[trimmed, hole(2, 3), hole(4, 6)]);
        let covers = |node, from, through| {
            trims.covers(NodeNumber::new(node), &log(), (number(from), number(through)))
        };
        assert!(covers(1, 1, 10) && covers(2, 2, 6) && covers(2, 3, 5));
        assert!(!covers(1, 1, 11) && !covers(2, 1, 3) && !covers(2, 6, 7) && !covers(3, 1, 1));
    }

    #[test]
    fn what_a_member_never_held_may_not_be_left() {
        let topology = small_topology(2);
        let left = |held| {
            let drained = Record::Drained {
                machine: machine(1),
                namespace: NamespaceNumber::new(1),
                logs: vec![(log(), MessageNumber::new(9))],
                topology: topology.version,
            };
            let edited = Record::TopologyEdited(Arc::new(topology.clone()));
            Trims::follow(&[edited, opened(1, 1, 9), opened(2, 2, held), drained])
        };
        assert_eq!(left(9).undeclared().len(), 0);
        assert_eq!(left(8).undeclared().len(), 1);
    }

    #[test]
    fn what_an_opening_held_that_is_known_to_be_over_does_not_count() {
        let wiped = [opened(2, 2, 5), opened(2, 3, 0)];
        assert_eq!(undeclared(&wiped, false), 0, "nobody could know yet");
        let [held, empty] = wiped;
        assert_eq!(undeclared(&[held.clone(), welcomed(2), empty.clone()], false), 0);
        assert_eq!(undeclared(&[held, empty, welcomed(3)], false), 1);
    }
}
