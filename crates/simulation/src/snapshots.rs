//! Machines that are resumed from a snapshot of their memory and disk: such a
//! process repeats numbers, and nothing can prevent that. It is seen at the first
//! contact with anyone who holds more or other bytes, and ends.

use std::collections::BTreeMap;
use std::time::Duration;

use interlock_core::identity::{LogName, Mark, MemberOpening};
use interlock_storage::Loss;

use crate::checks::StandingStill;
use crate::event::{Event, FaultEnd};
use crate::history::{Record, Replacement};
use crate::machine::{Machine, MachineName, MachineSnapshot, SavedCopy};
use crate::network::{Endpoint, ProcessNumber};
use crate::world::World;

/// An opening that was resumed.
#[derive(Debug)]
pub(crate) struct ResumedOpening {
    pub(crate) opening: MemberOpening,
    machine: MachineName,
    process: ProcessNumber,
    logs: BTreeMap<LogName, Mark>,
}

impl World {
    /// Takes a snapshot of a machine, to be resumed a while later.
    pub(crate) fn take_snapshot(&mut self) -> bool {
        let name = self.any_machine();
        if self.machines_of(name.node).nth(1).is_some() || !self.resumed.is_empty() {
            // One at a time, and nobody beside it: their alarms would be one.
            return false;
        }
        if !self.machine(name).take_snapshot() {
            return false;
        }
        let endpoint = self.machine(name).endpoint();
        let after = self.random.duration(Duration::from_millis(100), Duration::from_secs(3));
        self.after(after, Event::SnapshotResumed(endpoint));
        true
    }

    /// The machine goes on from its snapshot, reachable or not.
    pub(crate) fn resume_snapshot(&mut self, endpoint: Endpoint) {
        let name = endpoint.machine;
        let machine = self.machine(name);
        let taken = machine.snapshot.take().filter(|taken| taken.process == endpoint.process);
        let is_alone = self.machines_of(name.node).nth(1).is_none();
        let Some(taken) = taken.filter(|_| is_alone && self.resumed.is_empty()) else { return };
        let MachineSnapshot { copy, opening, token, .. } = taken;
        if !self.can_be_without(name.node, &copy.recorded) {
            return;
        }
        self.crash(name, Some(Loss::Nothing));
        let SavedCopy { disk, logs, recorded } = copy;
        let machine: &mut Machine = self.machine(name);
        machine.disk.restore(&disk);
        machine.durable.clone_from(&logs);
        machine.recorded = recorded;
        machine.disk_may_fail = false;
        let by = Replacement::Restored;
        self.history.records.push(Record::Replaced { machine: name, by, logs: logs.clone() });
        let incarnation = opening.incarnation;
        self.history.records.push(Record::Resumed {
            machine: name,
            incarnation,
            logs: logs.clone(),
        });
        if self.random.chance(60) {
            let peers = self.scenario.topology.nodes.iter().map(|node| node.number);
            let peers = peers.filter(|peer| *peer != name.node);
            let directions: Vec<_> =
                peers.flat_map(|peer| [(name.node, peer), (peer, name.node)]).collect();
            directions.iter().for_each(|(from, to)| self.network.block(*from, *to));
            let time = self.random.duration(Duration::from_millis(200), Duration::from_secs(5));
            self.after(time, Event::FaultEnds(FaultEnd::Unblocked(directions)));
        }
        self.start_as(name, token, Some(opening));
        let process = self.machine(name).process_number;
        self.resumed.push(ResumedOpening { opening, machine: name, process, logs });
        self.statistics.resumed_snapshots += 1;
    }

    /// A process says that it was resumed: it ends, and is started again.
    pub(crate) fn end_resumed(&mut self, name: MachineName, log: LogName) {
        if self.machine(name).process.is_none() {
            return;
        }
        self.note(format_args!("n{name} ALARM: it was resumed from a snapshot: {log}"));
        if !self.machine(name).is_resumed {
            let what = format!("ends because of {log} as if it had been resumed from a snapshot");
            self.history.incident(Some(name.node), what);
        }
        self.statistics.resumed_and_seen += 1;
        self.crash(name, Some(Loss::Nothing));
        let after = self.random.duration(Duration::from_millis(50), Duration::from_secs(1));
        self.after(after, Event::Start(name));
    }

    /// Somebody complains of two contents: rightly, if a resumed process wrote in
    /// the log's path.
    pub(crate) fn conflict_seen(&mut self, name: MachineName, log: LogName, what: &str) {
        self.statistics.conflicts += 1;
        self.note(format_args!("n{name} ALARM: two contents of {log}: {what}"));
        if !self.resumed.iter().any(|resumed| resumed.opening.node == log.origin) {
            self.history.incident(Some(name.node), format!("two contents of {log}: {what}"));
        }
    }

    /// What stands still so far.
    pub(crate) fn standing_still(&self) -> StandingStill {
        if self.resumed.is_empty() {
            return StandingStill::default();
        }
        StandingStill::follow(&self.history.records)
    }

    /// Processes that were resumed behind what others hold have been seen by the
    /// end.
    pub(crate) fn look_for_unseen_resumed(&mut self) {
        let mut unseen = Vec::new();
        for ResumedOpening { opening, machine, process, logs } in &self.resumed {
            let is_there = self.machines.get(machine).is_some_and(|it| {
                it.process.is_some() && it.process_number == *process && it.is_resumed
            });
            let is_behind = |log: &LogName, mark: &Mark| {
                let began = logs.get(log).copied().unwrap_or_default();
                log.incarnation == opening.incarnation && mark.m_id > began.m_id
            };
            let others = self.machines.values().filter(|other| other.name != *machine);
            let held = others.filter_map(|other| other.process.as_ref());
            let is_seen_by = |other: &crate::node::Process| {
                let own = self.machines[machine].process.as_ref();
                other.appended_marks().iter().any(|(log, mark)| {
                    let ours = own.and_then(|own| own.admission().logs().get(log));
                    is_behind(log, mark) && ours.is_none_or(|ours| ours.appended != *mark)
                })
            };
            if is_there && held.into_iter().any(is_seen_by) {
                unseen.push(*machine);
            }
        }
        for machine in unseen {
            let what = format!("{machine} was resumed from a snapshot and never noticed");
            self.history.incident(Some(machine.node), what);
        }
    }
}
