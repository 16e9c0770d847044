//! Which topology the node goes by, and what a newer one changes.

use std::sync::Arc;
use std::time::Duration;

use interlock_core::identity::{LogName, NamespaceNumber, NodeNumber};
use interlock_core::topology::Topology;
use interlock_storage::{LogStorage, StorageError};

use crate::planted_bug::PlantedBug;

use super::Process;
use super::links::open_of;
use super::planted::widened;

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
        self.check_fencing();
        self.admission.set_topology(widened(&self.topology, self.config.planted));
        self.consider_readiness()?;
        let peers: Vec<NodeNumber> = self.outbound.keys().copied().collect();
        for peer in peers {
            let shared = self.shared_and_ready(peer);
            let Some(open) = open_of(&mut self.outbound, peer) else { continue };
            if open.greeted != shared {
                // The peer may have something to take over: it is told anew.
                self.hang_up(peer, Duration::ZERO);
                continue;
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
        Ok(())
    }

    pub(super) fn is_member(&self, node: NodeNumber, namespace: NamespaceNumber) -> bool {
        self.is(PlantedBug::ResidencyIgnored) || self.topology.is_member(node, namespace)
    }
}

pub(super) fn version_bytes(topology: &Topology) -> Vec<u8> {
    let version = topology.version;
    [version.generation.to_be_bytes(), version.number.to_be_bytes()].concat()
}
