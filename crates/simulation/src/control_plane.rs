//! The control-plane: the topology, and who hears of it when.

use std::sync::Arc;
use std::time::Duration;

use interlock_core::identity::{FencingToken, NamespaceNumber, NodeNumber};
use interlock_core::topology::Topology;
use interlock_core::topology::edit::{self, EditError, NodeRegistration};

use crate::event::Event;
use crate::history::Record;
use crate::machine::MachineName;
use crate::network::Endpoint;
use crate::node::Input;
use crate::world::World;

impl World {
    /// A process registers before it opens its disk, if the control-plane can be
    /// reached: the name's token rises.
    pub(crate) fn register(&mut self, name: MachineName) -> FencingToken {
        let machine = self.machine(name);
        if !machine.hears_control_plane {
            return FencingToken::new(0);
        }
        let registration = NodeRegistration {
            name: machine.node.name.clone(),
            region: machine.node.region.clone(),
            replication_address: machine.node.replication_address.clone(),
            client_address: machine.node.client_address.clone(),
        };
        match edit::register_node(self.topology(), &registration) {
            Ok(topology) => {
                self.edit_topology(topology);
                self.topology().node(name.node).expect("it has registered").fencing_token
            }
            Err(error) => {
                self.history.incident(Some(name.node), format!("cannot register: {error}"));
                FencingToken::new(0)
            }
        }
    }

    /// A machine hears from the control-plane again.
    pub(crate) fn control_plane_back(&mut self, name: MachineName) {
        let Some(machine) = self.machines.get_mut(&name) else { return };
        machine.hears_control_plane = true;
        let endpoint = machine.endpoint();
        let is_unregistered =
            machine.process.as_ref().is_some_and(|process| process.token().get() == 0);
        let topology = Arc::clone(self.topology());
        self.after(Duration::from_millis(5), Event::TopologyTold(name, topology));
        if is_unregistered {
            self.after(Duration::from_millis(5), Event::Registers(endpoint));
        }
    }

    /// A process that was started without the control-plane registers.
    pub(crate) fn register_late(&mut self, endpoint: Endpoint) {
        let process = &self.machines[&endpoint.machine].process;
        if process.as_ref().is_some_and(|process| process.token().get() > 0) {
            return;
        }
        let token = self.register(endpoint.machine);
        if token.get() > 0 {
            self.history.records.push(Record::Registered { machine: endpoint.machine, token });
            self.dispatch(endpoint, Input::Registered(token));
        }
    }

    pub(crate) fn record_opened(
        &mut self,
        node: NodeNumber,
        token: FencingToken,
        namespaces: &[NamespaceNumber],
    ) {
        match edit::record_opened(self.topology(), node, token, namespaces) {
            Ok(topology) => self.edit_topology(topology),
            // Another process has the name by now, or this one has not registered.
            Err(EditError::TokenMismatch { held, presented, .. }) if presented < held => {}
            Err(error) => {
                self.history.incident(Some(node), format!("cannot record an opening: {error}"));
            }
        }
    }

    /// A newer document, which nodes hear of sooner or later. The same again is
    /// told to whoever asked.
    pub(crate) fn edit_topology(&mut self, topology: Topology) {
        let topology = Arc::new(topology);
        if topology.version > self.topology().version {
            self.history.records.push(Record::TopologyEdited(Arc::clone(&topology)));
            self.topologies.insert(topology.version, topology);
        }
        self.tell_topology();
    }

    pub(crate) fn tell_topology(&mut self) {
        let topology = Arc::clone(self.topology());
        for node in self.machine_names() {
            if self.machine(node).hears_control_plane {
                let late = self.random.chance(20);
                let longest = Duration::from_millis(if late { 4_000 } else { 50 });
                let delay = self.within((Duration::from_millis(1), longest));
                self.after(delay, Event::TopologyTold(node, Arc::clone(&topology)));
            }
        }
    }
}
