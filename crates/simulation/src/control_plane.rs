//! The control-plane: the topology, what nodes have it record, and who hears of it when.

use std::sync::Arc;
use std::time::Duration;

use interlock_core::features::FEATURE_LEVEL;
use interlock_core::identity::{FencingToken, NamespaceNumber, NodeNumber, TopologyVersion};
use interlock_core::topology::Topology;
use interlock_core::topology::edit::{self, EditError, NodeRegistration};

use crate::departures::group;
use crate::event::Event;
use crate::history::Record;
use crate::machine::MachineName;
use crate::network::Endpoint;
use crate::node::{Input, Process};
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
            feature_level: FEATURE_LEVEL,
        };
        match edit::register_node(self.topology(), &registration) {
            Ok(topology) => {
                self.edit_topology(topology);
                self.topology().node(name.node).expect("it has registered").fencing_token
            }
            // It finds out by the same document, and goes.
            Err(EditError::NodeRemoved(_)) => FencingToken::new(0),
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
        let recorded = edit::record_opened(self.topology(), node, token, namespaces);
        self.take_recorded(node, recorded, "an opening");
    }

    pub(crate) fn record_left_later(
        &mut self,
        name: MachineName,
        left: Vec<NamespaceNumber>,
        by: TopologyVersion,
    ) {
        if self.machine(name).hears_control_plane {
            let longest = if self.random.chance(20) { 3_000 } else { 50 };
            let span = (Duration::from_millis(1), Duration::from_millis(longest));
            let delay = self.within(span);
            let token = self.machines[&name].process.as_ref().map(Process::token);
            self.after(delay, Event::RecordLeft(name, token.unwrap_or_default(), left, by));
        }
    }

    pub(crate) fn record_left(
        &mut self,
        node: NodeNumber,
        token: FencingToken,
        namespaces: &[NamespaceNumber],
        by: TopologyVersion,
    ) {
        let recorded = edit::record_left_by(self.topology(), node, token, namespaces, by);
        self.take_recorded(node, recorded, "what it left");
    }

    /// Goes on with what a node has said, unless it is over.
    fn take_recorded(
        &mut self,
        node: NodeNumber,
        recorded: Result<Topology, EditError>,
        what: &str,
    ) {
        match recorded {
            Ok(topology) => self.edit_topology(topology),
            // Another process has the name by now, or this one has not registered.
            Err(EditError::TokenMismatch { held, presented, .. }) if presented < held => {}
            // By the newer document it says so again, if that is still true.
            Err(EditError::LeftByOlder { .. }) => {}
            Err(error) => {
                self.history.incident(Some(node), format!("cannot record {what}: {error}"));
            }
        }
    }

    /// Places a namespace in all regions.
    pub(crate) fn place_everywhere(&mut self, namespace: NamespaceNumber) -> bool {
        let topology = self.topology();
        let Some(name) = topology.namespace(namespace).map(|it| it.name.clone()) else {
            return false;
        };
        match edit::update_namespace(topology, &name, &[group("all")], None) {
            Ok(next) if next.version > topology.version => {
                self.edit_topology(next);
                true
            }
            Ok(_) => false,
            Err(error) => {
                self.history.incident(None, format!("cannot place a namespace: {error}"));
                false
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
