//! What each disk held durably over the run, and what was lost for good when a
//! disk was replaced.

use std::collections::BTreeMap;

use interlock_core::identity::{LogName, Mark, MessageName, MessageNumber, NodeNumber};

use crate::history::Record;
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
    /// What processes had that were stopped before anybody else had it.
    tails: Vec<String>,
}

impl Disks {
    /// Follows the records from the beginning to the end.
    pub(crate) fn follow(records: &[Record]) -> Self {
        let mut disks = Self::default();
        for record in records {
            match record {
                Record::Opened { machine, logs, .. } => disks.open(*machine, logs),
                Record::Durable { machine, log, mark } => disks.grow(*machine, *log, mark.m_id),
                Record::Replaced { machine, logs, .. } => disks.replace(*machine, logs),
                Record::Retired { machine } => disks.retire(*machine),
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
        self.lost.get(&name.log).is_some_and(|ranges| {
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

    /// What processes had that were stopped before anybody else had it.
    pub(crate) fn tails(&self) -> &[String] {
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
        for log in before.keys() {
            let left = self.held.values().filter_map(|disk| disk.get(log)).max();
            let left = left.copied().unwrap_or_default();
            let required = self.required.entry(*log).or_default();
            if left < *required {
                self.lost.entry(*log).or_default().push((left.next(), *required));
                *required = left;
            }
        }
    }

    /// A machine is gone for good: all that it held has to be elsewhere.
    fn retire(&mut self, machine: MachineName) {
        for (log, m_id) in self.held.remove(&machine).unwrap_or_default() {
            let left = self.held.values().filter_map(|disk| disk.get(&log)).max();
            let left = left.copied().unwrap_or_default();
            if left < m_id {
                self.tails.push(format!(
                    "node {machine} was stopped with {log} up to {m_id}, others have it up to {left}"
                ));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use interlock_core::identity::{
        ChainHash, FencingToken, Incarnation, NamespaceNumber, PathName, ShardNumber,
    };

    use super::*;
    use crate::history::Replacement;

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
        assert_eq!(disks.required().collect::<Vec<_>>(), [(&log(), MessageNumber::new(5))]);
    }
}
