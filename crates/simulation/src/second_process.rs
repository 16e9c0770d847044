//! Two processes of one name: how the second one comes, and how the one that has
//! to give way goes.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use interlock_core::identity::{NamespaceNumber, NodeNumber};
use interlock_storage::Loss;

use crate::event::{Event, FaultEnd};
use crate::history::{Record, Replacement};
use crate::machine::{Machine, MachineName, SavedCopy};
use crate::network::Endpoint;
use crate::node::Process;
use crate::world::World;

/// How often somebody looks whether a process may go.
const LOOK_INTERVAL: Duration = Duration::from_millis(200);

impl World {
    /// Starts a second process under a node's name, on a copy of its disk, as it
    /// is or as it was, or on an empty one.
    pub(crate) fn start_second_process(&mut self) -> bool {
        let first = self.any_machine();
        let is_alone = self.machines.len() == self.scenario.topology.nodes.len();
        // Of two that leave, the one with nothing would say that all is handed over.
        let topology = self.topology();
        let leaves = topology.namespaces.iter().any(|it| it.leaving.contains(&first.node));
        if !is_alone || leaves || !self.resumed.is_empty() {
            // One at a time: with two, those who have to give way may wait for
            // one another, and for ever for what stands still.
            return false;
        }
        let has_copy = self.random.chance(60);
        if has_copy && self.random.chance(50) {
            self.machine(first).save_copy();
        }
        let copies = self.machine(first).copies.len();
        let index = if has_copy && copies > 0 { Some(self.random.index(copies)) } else { None };
        let copy = index.map(|index| &self.machines[&first].copies[index]);
        let copy = copy.map(|SavedCopy { disk, logs, recorded }| {
            (disk.copy(), logs.clone(), recorded.clone())
        });
        // The two do not replicate to each other: what one of them says reaches
        // the other through a third.
        if !self.can_be_without(first.node, &BTreeSet::new()) {
            return false;
        }

        self.second_processes += 1;
        let name = MachineName { node: first.node, number: self.second_processes };
        let mut machine = Machine::new(name.number, self.machines[&first].node.clone());
        let (by, logs) = match copy {
            Some((disk, logs, recorded)) => {
                machine.disk = disk;
                machine.durable.clone_from(&logs);
                machine.recorded = recorded;
                (Replacement::Restored, logs)
            }
            None => (Replacement::Wiped, BTreeMap::new()),
        };
        self.note(format_args!("n{name} is another machine, {by:?}"));
        self.machines.insert(name, machine);
        self.history.records.push(Record::Replaced { machine: name, by, logs });
        // Without the control-plane nobody tells them apart for a while.
        for name in [first, name] {
            if self.random.chance(40) {
                self.machine(name).hears_control_plane = false;
                let time = self.random.duration(LOOK_INTERVAL, Duration::from_secs(8));
                self.after(time, Event::FaultEnds(FaultEnd::ControlPlaneBack(name)));
            }
        }
        let after = self.random.duration(Duration::ZERO, Duration::from_secs(1));
        self.after(after, Event::Start(name));
        true
    }

    /// Records that a process has heard of another one's registration under its
    /// name.
    pub(crate) fn notice_superseded(&mut self, endpoint: Endpoint) {
        let Some(machine) = self.machines.get_mut(&endpoint.machine) else { return };
        let by = machine.process.as_ref().and_then(Process::superseded_by);
        if let Some(by) = by.filter(|_| !std::mem::replace(&mut machine.is_superseded, true)) {
            let machine = endpoint.machine;
            self.note(format_args!("n{machine} hears of token {by}"));
            self.history.records.push(Record::Superseded { machine, by });
            self.after(LOOK_INTERVAL, Event::SupersededLooked(endpoint));
        }
    }

    /// Stops a process that has driven out what it had, and takes its machine
    /// away.
    pub(crate) fn look_at_superseded(&mut self, endpoint: Endpoint) {
        let name = endpoint.machine;
        self.machines.values_mut().for_each(Machine::note_readiness);
        if self.what_keeps(name).is_some() {
            return self.after(LOOK_INTERVAL, Event::SupersededLooked(endpoint));
        }
        self.crash(name, Some(Loss::Nothing));
        self.machines.remove(&name);
        self.note(format_args!("n{name} goes"));
        self.history.records.push(Record::Retired { machine: name });
    }

    /// Which peer a process has not been welcomed by in its present run: what it
    /// heard of one that is over says nothing of the disk that is there.
    pub(crate) fn unheard_peer(&self, name: MachineName) -> Option<NodeNumber> {
        let process = self.machines[&name].process.as_ref()?;
        let is_heard = |peer: NodeNumber| {
            let opening = process.welcomed_by(peer);
            self.machines_of(peer)
                .filter_map(|machine| machine.process.as_ref())
                .any(|other| opening.is_some_and(|opening| opening == other.admission().opening()))
        };
        let peers = process.topology().peers_of(name.node);
        peers.iter().map(|peer| peer.number).find(|peer| !is_heard(*peer))
    }

    /// Why a process that another took the name of cannot go yet.
    pub(crate) fn what_keeps(&self, name: MachineName) -> Option<String> {
        let machine = &self.machines[&name];
        let Some(process) = &machine.process else { return Some("is down".to_owned()) };
        if let Some(trouble) = process.what_is_to_drain(&self.standing_still()) {
            return Some(trouble);
        }
        if self.machines_of(name.node).nth(1).is_none() {
            return Some("is the only one of its name".to_owned());
        }
        if let Some(peer) = self.unheard_peer(name) {
            return Some(format!("has not heard from node {peer}"));
        }
        // Somebody else can give the state of each namespace to those who lack it.
        let is_ready_elsewhere = |namespace: &NamespaceNumber| {
            self.machines
                .values()
                .any(|other| other.name != name && other.recorded.contains(namespace))
        };
        let alone = machine.recorded.iter().find(|namespace| !is_ready_elsewhere(namespace));
        alone.map(|namespace| format!("alone is ready in namespace {namespace}"))
    }
}
