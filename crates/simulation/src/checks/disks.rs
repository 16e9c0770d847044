//! What each disk held durably over the run, and what was lost for good when a
//! disk was replaced or went with its node by force. Whoever leaves in order loses
//! nothing: all that it had is noted as drained, or is elsewhere.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use interlock_core::identity::{
    LogName, Mark, MessageName, MessageNumber, NamespaceNumber, NodeNumber, TopologyVersion,
};
use interlock_core::topology::Topology;

use crate::history::{Record, Replacement};
use crate::machine::MachineName;

/// A range of numbers, both ends included.
type Range = (MessageNumber, MessageNumber);

/// The disks as the history tells them.
#[derive(Debug, Default)]
pub(crate) struct Disks {
    held: BTreeMap<MachineName, BTreeMap<LogName, MessageNumber>>,
    /// How far each log has to be everywhere at the end.
    required: BTreeMap<LogName, MessageNumber>,
    /// What no disk had any more when a disk was replaced.
    lost: BTreeMap<LogName, Vec<Range>>,
    /// Openings that found less than had been synced.
    shortened: Vec<String>,
    /// What went in order before it was handed over: with a process that was stopped,
    /// with a node that left, or with a namespace that was removed.
    tails: Vec<(LogName, String)>,
    notes: Notes,
}

/// What disks say to be drained.
#[derive(Debug, Default)]
struct Notes {
    topologies: BTreeMap<TopologyVersion, Arc<Topology>>,
    /// How far each log went when a node noted it last.
    marks: BTreeMap<(NodeNumber, NamespaceNumber), BTreeMap<LogName, MessageNumber>>,
    /// Where the note may be still.
    standing: BTreeSet<(MachineName, NamespaceNumber)>,
}

impl Notes {
    fn take(&mut self, record: &Record) {
        match record {
            Record::TopologyEdited(topology) => {
                self.topologies.insert(topology.version, Arc::clone(topology));
            }
            Record::Drained { machine, namespace, logs, .. } => {
                let marks = logs.iter().copied().collect();
                self.marks.insert((machine.node, *namespace), marks);
                self.standing.insert((*machine, *namespace));
            }
            // Who is a member again takes the note back.
            Record::TopologyAdopted { machine, topology } => {
                let Some(topology) = self.topologies.get(topology) else { return };
                self.standing.retain(|(noted, namespace)| {
                    noted != machine || !topology.is_member(machine.node, *namespace)
                });
            }
            // An old copy of a disk has the old note.
            Record::Replaced { machine, by: Replacement::Restored, .. } => {
                let noted = self.marks.keys().filter(|(node, _)| *node == machine.node);
                self.standing.extend(noted.map(|(_, namespace)| (*machine, *namespace)));
            }
            Record::Replaced { machine, by: Replacement::Wiped, .. } => {
                self.standing.retain(|(noted, _)| noted != machine);
            }
            _ => {}
        }
    }

    /// How far a disk says the members to have a log.
    fn mark_of(&self, machine: MachineName, log: &LogName) -> MessageNumber {
        let is_noted = self.standing.contains(&(machine, log.namespace));
        let marks = self.marks.get(&(machine.node, log.namespace)).filter(|_| is_noted);
        marks.and_then(|marks| marks.get(log)).copied().unwrap_or_default()
    }
}

impl Disks {
    /// Follows the records from the beginning to the end.
    pub(crate) fn follow(records: &[Record]) -> Self {
        let mut disks = Self::default();
        for record in records {
            disks.notes.take(record);
            match record {
                Record::Opened { machine, logs, .. } => disks.open(*machine, logs),
                Record::Durable { machine, log, mark } => disks.grow(*machine, *log, mark.m_id),
                Record::Replaced { machine, logs, .. } => disks.replace(*machine, logs),
                Record::Retired { machine } | Record::Gone { machine, by_force: false } => {
                    let all = disks.held.remove(machine).unwrap_or_default();
                    disks.retire(*machine, all);
                }
                Record::Left { machine, namespace } => {
                    let left = disks.take_namespace(*machine, *namespace);
                    disks.retire(*machine, left);
                }
                Record::Purged { machine, namespace } => disks.purge(*machine, *namespace),
                Record::Gone { machine, by_force: true } => {
                    disks.replace(*machine, &BTreeMap::new());
                    disks.held.remove(machine);
                }
                _ => {}
            }
        }
        disks
    }

    /// How far each log has to be everywhere at the end.
    pub(crate) fn required(&self) -> impl Iterator<Item = (&LogName, MessageNumber)> {
        self.required.iter().map(|(log, m_id)| (log, *m_id))
    }

    /// Whether a message was lost with the last disk that had it.
    pub(crate) fn was_lost(&self, name: &MessageName) -> bool {
        // What was on its way has come since, or is on a disk that was put back.
        let is_back = self.required.get(&name.log) >= Some(&name.m_id);
        let ranges = self.lost.get(&name.log).filter(|_| !is_back);
        ranges.is_some_and(|ranges| {
            ranges.iter().any(|(from, through)| (*from..=*through).contains(&name.m_id))
        })
    }

    /// Whether anything of an origin was lost with disks.
    pub(crate) fn lost_any_of(&self, origin: NodeNumber) -> bool {
        self.lost.keys().any(|log| log.origin == origin)
    }

    /// Openings that found less than had been synced.
    pub(crate) fn shortened(&self) -> &[String] {
        &self.shortened
    }

    /// What went in order before it was handed over.
    pub(crate) fn tails(&self) -> &[(LogName, String)] {
        &self.tails
    }

    fn open(&mut self, machine: MachineName, logs: &[(LogName, Mark)]) {
        let found: BTreeMap<LogName, MessageNumber> =
            logs.iter().map(|(log, mark)| (*log, mark.m_id)).collect();
        for (log, m_id) in self.held.get(&machine).into_iter().flatten() {
            let now = found.get(log).copied().unwrap_or_default();
            if now < *m_id {
                self.shortened.push(format!(
                    "node {machine} had synced {log} up to {m_id} and opened it up to {now}"
                ));
            }
        }
        found.into_iter().for_each(|(log, m_id)| self.grow(machine, log, m_id));
    }

    fn grow(&mut self, machine: MachineName, log: LogName, m_id: MessageNumber) {
        let held = self.held.entry(machine).or_default().entry(log).or_default();
        *held = m_id.max(*held);
        let required = self.required.entry(log).or_default();
        *required = m_id.max(*required);
    }

    fn replace(&mut self, machine: MachineName, logs: &BTreeMap<LogName, Mark>) {
        let now = logs.iter().map(|(log, mark)| (*log, mark.m_id)).collect();
        let before = self.held.insert(machine, now).unwrap_or_default();
        logs.iter().for_each(|(log, mark)| self.grow(machine, *log, mark.m_id));
        self.lower(before.keys());
    }

    /// A namespace that a node has left is removed from its disk, as far as it was
    /// noted to be drained. What the members had then, some may have lost since.
    fn purge(&mut self, machine: MachineName, namespace: NamespaceNumber) {
        let left = self.take_namespace(machine, namespace);
        for (log, m_id) in &left {
            let noted = self.notes.mark_of(machine, log);
            if noted < *m_id {
                let what =
                    format!("node {machine} removes {log} up to {m_id}, drained up to {noted}");
                self.tails.push((*log, what));
            }
        }
        self.lower(left.keys());
    }

    fn take_namespace(
        &mut self,
        machine: MachineName,
        namespace: NamespaceNumber,
    ) -> BTreeMap<LogName, MessageNumber> {
        let held = self.held.get_mut(&machine).into_iter();
        held.flat_map(|held| held.extract_if(.., |log, _| log.namespace == namespace)).collect()
    }

    /// One disk less has these logs: what no other has of them is lost.
    fn lower<'a>(&mut self, logs: impl Iterator<Item = &'a LogName>) {
        for log in logs {
            let left = self.held.values().filter_map(|disk| disk.get(log)).max();
            let left = left.copied().unwrap_or_default();
            let required = self.required.entry(*log).or_default();
            if left < *required {
                self.lost.entry(*log).or_default().push((left.next(), *required));
                *required = left;
            }
        }
    }

    /// A machine has no more of these, in order: all of them have to be elsewhere.
    fn retire(&mut self, machine: MachineName, held: BTreeMap<LogName, MessageNumber>) {
        for (log, m_id) in held {
            let left = self.held.values().filter_map(|disk| disk.get(&log)).max();
            let left = left.copied().unwrap_or_default();
            if left < m_id {
                let what = format!(
                    "node {machine} went with {log} up to {m_id}, others have it up to {left}"
                );
                self.tails.push((log, what));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use interlock_core::identity::{ChainHash, FencingToken, Incarnation, PathName, ShardNumber};

    use super::*;
    use crate::scenario::small_topology;

    fn log() -> LogName {
        PathName {
            namespace: NamespaceNumber::new(1),
            shard: ShardNumber::new(0),
            origin: NodeNumber::new(1),
        }
        .log(Incarnation::new(7).expect("not zero"))
    }

    fn mark(m_id: u64) -> Mark {
        Mark { m_id: MessageNumber::new(m_id), hash: ChainHash::EMPTY }
    }

    fn machine(node: u32) -> MachineName {
        MachineName::first_of(NodeNumber::new(node))
    }

    fn durable(node: u32, m_id: u64) -> Record {
        Record::Durable { machine: machine(node), log: log(), mark: mark(m_id) }
    }

    #[test]
    fn only_the_last_copy_is_a_loss() {
        let wiped =
            Record::Replaced { machine: machine(1), by: Replacement::Wiped, logs: BTreeMap::new() };
        let disks = Disks::follow(&[durable(1, 9), durable(2, 6), wiped]);
        let name = |m_id| MessageName { log: log(), m_id: MessageNumber::new(m_id) };
        assert_eq!(disks.required().collect::<Vec<_>>(), [(&log(), MessageNumber::new(6))]);
        assert!(!disks.was_lost(&name(6)) && disks.was_lost(&name(7)) && disks.was_lost(&name(9)));
    }

    /// What a node takes with it is lost, and no more; what it left is not missed.
    #[test]
    fn what_goes_with_a_node_is_lost_exactly() {
        let name = |m_id| MessageName { log: log(), m_id: MessageNumber::new(m_id) };
        let gone = Record::Gone { machine: machine(1), by_force: true };
        let disks = Disks::follow(&[durable(1, 9), durable(2, 6), gone.clone()]);
        assert!(!disks.was_lost(&name(6)) && disks.was_lost(&name(7)));
        // A frame of it was still on its way.
        let disks = Disks::follow(&[durable(1, 9), durable(2, 6), gone, durable(2, 7)]);
        assert!(!disks.was_lost(&name(7)) && disks.was_lost(&name(8)));
        assert_eq!(disks.required().collect::<Vec<_>>(), [(&log(), MessageNumber::new(7))]);

        let opened = Record::Opened {
            machine: machine(1),
            process: crate::network::ProcessNumber::new(1),
            incarnation: Incarnation::new(8).expect("not zero"),
            token: FencingToken::new(0),
            logs: Vec::new(),
        };
        let disks = Disks::follow(&[durable(1, 9), durable(2, 9), drained(9), purged(), opened]);
        assert!(disks.shortened().is_empty() && !disks.was_lost(&name(9)));
        assert_eq!(disks.required().collect::<Vec<_>>(), [(&log(), MessageNumber::new(9))]);
    }

    fn drained(m_id: u64) -> Record {
        Record::Drained {
            machine: machine(1),
            namespace: NamespaceNumber::new(1),
            logs: vec![(log(), MessageNumber::new(m_id))],
            topology: small_topology(2).version,
        }
    }

    fn purged() -> Record {
        Record::Purged { machine: machine(1), namespace: NamespaceNumber::new(1) }
    }

    /// Only what a note that stands says to be drained may be removed.
    #[test]
    fn what_is_removed_was_drained() {
        let topology = small_topology(2);
        let adopted = Record::TopologyAdopted { machine: machine(1), topology: topology.version };
        let edited = Record::TopologyEdited(Arc::new(topology));
        let tails = |records: &[Record]| {
            let held = [edited.clone(), durable(1, 9), durable(2, 9)];
            Disks::follow(&[&held, records, &[purged()]].concat()).tails().len()
        };
        assert_eq!(tails(&[drained(9)]), 0);
        assert_eq!(tails(&[drained(8)]), 1);
        assert_eq!(tails(&[]), 1, "nothing says it is drained");
        assert_eq!(tails(&[drained(9), adopted.clone()]), 1, "it is a member again");
        let (by, logs) = (Replacement::Restored, BTreeMap::from([(log(), mark(9))]));
        let restored = Record::Replaced { machine: machine(1), by, logs };
        assert_eq!(tails(&[drained(9), adopted, restored]), 0, "the copy may have the note");
    }

    #[test]
    fn an_opening_that_finds_less_is_seen() {
        let opened = |m_id| Record::Opened {
            machine: machine(1),
            process: crate::network::ProcessNumber::new(1),
            incarnation: Incarnation::new(8).expect("not zero"),
            token: FencingToken::new(0),
            logs: vec![(log(), mark(m_id))],
        };
        assert!(Disks::follow(&[durable(1, 5), opened(6)]).shortened().is_empty());
        assert_eq!(Disks::follow(&[durable(1, 5), opened(4)]).shortened().len(), 1);
    }

    #[test]
    fn a_tail_that_goes_with_its_machine_is_seen() {
        let retired = Record::Retired { machine: machine(1) };
        let disks = Disks::follow(&[durable(1, 5), durable(2, 5), retired.clone()]);
        assert_eq!(disks.tails().len(), 0);
        let disks = Disks::follow(&[durable(1, 5), durable(2, 4), retired]);
        assert_eq!(disks.tails().len(), 1);
        let of = |namespace| Record::Left { machine: machine(1), namespace };
        let short = [durable(1, 5), durable(2, 4)];
        let follow = |left| Disks::follow(&[&short[..], &[left]].concat()).tails().len();
        assert_eq!(follow(of(log().namespace)), 1);
        assert_eq!(follow(of(NamespaceNumber::new(99))), 0, "what it stays a member of");
        let left = Record::Gone { machine: machine(1), by_force: false };
        assert_eq!(Disks::follow(&[durable(1, 5), durable(2, 4), left]).tails().len(), 1);
        assert_eq!(disks.required().collect::<Vec<_>>(), [(&log(), MessageNumber::new(5))]);
    }
}
