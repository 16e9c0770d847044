//! Which topology the node goes by, and what a newer one changes.

use std::sync::Arc;
use std::time::Duration;

use interlock_core::identity::{LogName, NamespaceNumber, NodeNumber};
use interlock_core::topology::Topology;
use interlock_storage::{LogStorage, StorageError};

use crate::history::Record;
use crate::planted_bug::PlantedBug;

use super::Process;
use super::links::{OutboundState, open_of};
use super::messages::Output;
use super::planted::widened;

/// How long it takes the streams to hear of what the writer goes by already.
const LINK_DELAY: Duration = Duration::from_millis(20);
/// How long after a change a peer is greeted again.
const GREETING_DELAY: Duration = Duration::from_millis(100);

/// The document that says which topology the node had.
pub const TOPOLOGY_DOCUMENT: &str = "topology";

impl Process {
    pub(super) fn adopt(&mut self, topology: Arc<Topology>) -> Result<(), StorageError> {
        if topology.version <= self.topology.version {
            if topology.version == self.topology.version && topology != self.topology {
                self.incident(format!("two topologies of version {}", topology.version));
            }
            return Ok(());
        }
        self.storage.store_document(TOPOLOGY_DOCUMENT, &version_bytes(&topology))?;
        self.topology = topology;
        self.tell_adopted();
        self.check_fencing();
        self.admission.set_topology(widened(&self.topology, self.config.planted));
        self.consider_readiness()?;
        // The streams' tasks hear of it when they come to it.
        self.tell_links_at.get_or_insert(self.now + LINK_DELAY);
        self.look_at_departures()
    }

    /// The streams go by the newer topology too.
    pub(super) fn tell_links(&mut self) {
        let peers: Vec<NodeNumber> = self.outbound.keys().copied().collect();
        for peer in peers {
            let has_changed = self.has_changed_since_greeting(peer);
            let Some(open) = open_of(&mut self.outbound, peer) else { continue };
            if has_changed {
                // The peer may have something to take over: it is told anew, a while
                // later, because what is under way on the stream is not for nothing.
                open.greet_again_at.get_or_insert(self.now + GREETING_DELAY);
            }
            let withdrawn: Vec<LogName> = open
                .offered
                .keys()
                .filter(|log| !self.topology.is_member(peer, log.namespace))
                .copied()
                .collect();
            for log in withdrawn {
                open.offered.remove(&log);
                open.sender.handle_log_withdrawn(self.now, &log);
            }
            open.sender.handle_topology(self.now, Arc::clone(&self.topology));
        }
        self.offer_advanced();
        for inbound in self.inbound.values_mut() {
            inbound.receiver.handle_topology(self.now, Arc::clone(&self.topology));
        }
        self.acknowledge();
        self.call_peers();
    }

    /// From now on this process goes by this document.
    pub(super) fn tell_adopted(&mut self) {
        let (machine, topology) = (self.machine, self.topology.version);
        self.outputs.push(Output::Record(Record::TopologyAdopted { machine, topology }));
    }

    /// Whether a node serves what it holds of a namespace: a member, or one that leaves.
    pub(super) fn is_holder(&self, node: NodeNumber, namespace: NamespaceNumber) -> bool {
        self.is(PlantedBug::ResidencyIgnored) || self.topology.is_holder(node, namespace)
    }

    /// Whether this node shares other namespaces with a peer, and is ready there, than
    /// that was told.
    fn has_changed_since_greeting(&self, peer: NodeNumber) -> bool {
        let shared = self.shared_and_ready(peer);
        let outbound = self.outbound.get(&peer).map(|outbound| &outbound.state);
        let Some(OutboundState::Open(open)) = outbound else { return false };
        !shared.iter().eq(open.greeted.iter().map(|greeted| &greeted.namespace))
    }

    /// Greets peers again that were told something else.
    pub(super) fn greet_again(&mut self) {
        let now = self.now;
        for peer in self.outbound.keys().copied().collect::<Vec<_>>() {
            let Some(open) = open_of(&mut self.outbound, peer) else { continue };
            if open.greet_again_at.take_if(|at| *at <= now).is_some()
                && self.has_changed_since_greeting(peer)
            {
                self.hang_up(peer, Duration::ZERO);
            }
        }
    }

    pub(super) fn is_member(&self, node: NodeNumber, namespace: NamespaceNumber) -> bool {
        self.is(PlantedBug::ResidencyIgnored) || self.topology.is_member(node, namespace)
    }
}

pub(super) fn version_bytes(topology: &Topology) -> Vec<u8> {
    let version = topology.version;
    [version.generation.to_be_bytes(), version.number.to_be_bytes()].concat()
}
