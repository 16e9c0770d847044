//! Members that leave: a namespace is taken off regions, a node leaves the mesh or is
//! removed from it by force, and what becomes of their machines, clients and
//! subscribers.

use std::collections::BTreeSet;
use std::time::Duration;

use interlock_core::identity::NodeNumber;
use interlock_core::names::GroupName;
use interlock_core::topology::edit::{self, EditError};
use interlock_core::topology::{Node, NodeState, Topology};
use interlock_storage::Loss;

use crate::event::{Event, FaultEnd};
use crate::history::{ClientNumber, Record};
use crate::machine::{Machine, MachineName};
use crate::network::Cargo;
use crate::node::Process;
use crate::scenario::{EVERYWHERE, SOMEWHERE};
use crate::world::World;

/// A mesh of one node would meet no fault.
const LEAST_NODES: usize = 2;

/// A group of the scenario.
pub(crate) fn group(name: &str) -> GroupName {
    GroupName::parse(name).expect("a good name")
}

impl World {
    /// Takes a namespace off the regions that are not in the smaller group, for good
    /// or for a while.
    pub(crate) fn shrink_namespace(&mut self) -> bool {
        let namespace = [EVERYWHERE, SOMEWHERE][self.random.index(2)];
        let topology = self.topology();
        let Some(name) = topology.namespace(namespace).map(|it| it.name.clone()) else {
            return false;
        };
        let next = edit::update_namespace(topology, &name, &[group("some")], None)
            .and_then(|next| edit::remove_groups(&next, &name, &[group("all")]));
        if !self.leave(next) {
            return false;
        }
        if self.random.chance(70) {
            let time = self.random.duration(Duration::from_millis(200), Duration::from_secs(9));
            self.after(time, Event::FaultEnds(FaultEnd::NamespaceGrown(namespace)));
        }
        true
    }

    /// Tells a node to leave the mesh.
    pub(crate) fn have_node_leave(&mut self) -> bool {
        let Some(machine) = self.machine_to_go() else { return false };
        let name = self.machines[&machine].node.name.clone();
        let next = edit::leave_mesh(self.topology(), &name);
        self.leave(next)
    }

    /// Removes a node at once: it is dead for good, or goes when it hears of it.
    pub(crate) fn remove_node(&mut self) -> bool {
        let Some(machine) = self.machine_to_go() else { return false };
        let name = self.machines[&machine].node.name.clone();
        let next = edit::remove_node(self.topology(), &name);
        if !self.leave(next) {
            return false;
        }
        self.removed_by_force.insert(machine.node);
        if self.random.chance(50) {
            self.crash(machine, Some(Loss::Unsynced));
            self.take_away(machine);
        }
        true
    }

    /// The machine of an active node, if the mesh can be without it.
    fn machine_to_go(&mut self) -> Option<MachineName> {
        let name = self.any_machine();
        let is_active = |node: &&Node| node.state == NodeState::Active;
        let active: Vec<NodeNumber> =
            self.topology().nodes.iter().filter(is_active).map(|node| node.number).collect();
        let can_go = active.len() > LEAST_NODES && active.contains(&name.node);
        can_go.then_some(name)
    }

    /// Goes on with a document by which members leave, if those who stay can do without
    /// them: of each namespace some member stays that is ready. While a name has two
    /// processes nobody leaves: the one that has to give way could not hand over what it
    /// has, or is the one that is ready.
    fn leave(&mut self, next: Result<Topology, EditError>) -> bool {
        self.machines.values_mut().for_each(Machine::note_readiness);
        let Ok(next) = next else { return false };
        let before = self.topology();
        let mut leave_some = false;
        for namespace in &next.namespaces {
            let number = namespace.number;
            let mut members = before.members(number).into_iter();
            if !members.any(|member| !next.is_member(member.number, number)) {
                continue;
            }
            leave_some = true;
            let is_ready = |node: NodeNumber| {
                self.machines_of(node).any(|machine| machine.recorded.contains(&number))
            };
            if !next.members(number).iter().any(|member| is_ready(member.number)) {
                return false;
            }
        }
        let nodes: BTreeSet<NodeNumber> = self.machines.keys().map(|name| name.node).collect();
        if !leave_some || nodes.len() < self.machines.len() {
            return false;
        }
        self.edit_topology(next);
        true
    }

    /// Whether an old copy of a disk may be put back: not while its node leaves, or of
    /// what it has left, because nothing says then whether the members have it.
    pub(crate) fn may_be_put_back(&self, machine: MachineName, copy: usize) -> bool {
        let topology = self.topology();
        let drains = |process: &Process| process.has_drained_anything();
        let machine = &self.machines[&machine];
        let node = machine.node.number;
        let stays = topology.namespaces.iter().all(|it| !topology.is_leaving(node, it.number));
        let logs = machine.copies[copy].logs.keys();
        let holds = logs.map(|log| log.namespace).all(|it| topology.is_member(node, it));
        stays && holds && !machine.process.as_ref().is_some_and(drains)
    }

    /// A process ends in order, to open its disk anew.
    pub(crate) fn reopen(&mut self, name: MachineName) {
        let endpoint = self.machine(name).endpoint();
        if self.machine(name).process.is_none() {
            return;
        }
        for delivery in self.network.streams_of(endpoint) {
            self.transmit(endpoint, delivery.stream, Cargo::End);
        }
        self.crash(name, Some(Loss::Nothing));
        let after = self.random.duration(Duration::from_millis(10), Duration::from_millis(900));
        self.after(after, Event::Start(name));
    }

    /// A machine is gone for good, with its node.
    pub(crate) fn take_away(&mut self, name: MachineName) {
        self.note(format_args!("n{name} is gone"));
        self.machines.remove(&name);
        self.statistics.machines_gone += 1;
        let by_force = self.removed_by_force.contains(&name.node);
        self.history.records.push(Record::Gone { machine: name, by_force });
        self.turn_clients_away(name.node);
    }

    /// Clients of a node that goes are told another one.
    fn turn_clients_away(&mut self, node: NodeNumber) {
        for client in self.clients.keys().copied().collect::<Vec<_>>() {
            self.keep_client_from(client, node);
        }
    }

    /// Clients that wait for a node to do what it is no member for go to one that is.
    pub(crate) fn turn_clients_to_members(&mut self) {
        for client in self.clients.keys().copied().collect::<Vec<_>>() {
            let place = self.clients[&client].client.place();
            if !self.topology().is_member(place.node, place.namespace) {
                self.keep_client_from(client, place.node);
            }
        }
    }

    fn keep_client_from(&mut self, client: ClientNumber, node: NodeNumber) {
        let namespace = self.clients[&client].client.place().namespace;
        let members: Vec<NodeNumber> =
            self.topology().members(namespace).into_iter().map(|member| member.number).collect();
        let Some(other) = self.random.choose(&members).copied() else { return };
        if let Some(state) = self.clients.get_mut(&client) {
            state.client.keep_away_from(node, other);
        }
    }
}
