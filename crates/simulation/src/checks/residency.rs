//! I12: a process appends nothing of a namespace that its node is no member of, by the
//! topology that it goes by, and at the end no disk has a byte of what its node neither
//! is a member of nor still hands over.

use std::collections::BTreeMap;
use std::sync::Arc;

use interlock_core::identity::TopologyVersion;
use interlock_core::topology::Topology;

use crate::history::Record;
use crate::machine::MachineName;

use super::{Evidence, Findings};

pub(super) fn check(evidence: &Evidence<'_>, findings: &mut Findings) {
    let mut topologies: BTreeMap<TopologyVersion, &Arc<Topology>> = BTreeMap::new();
    let mut adopted: BTreeMap<MachineName, TopologyVersion> = BTreeMap::new();
    for record in &evidence.history.records {
        match record {
            Record::TopologyEdited(newest) => _ = topologies.insert(newest.version, newest),
            Record::TopologyAdopted { machine, topology } => {
                adopted.insert(*machine, *topology);
            }
            Record::Appended { machine, name, .. } => {
                let namespace = name.log.namespace;
                let adopted = adopted.get(machine).and_then(|version| topologies.get(version));
                // Where nobody tells what a process goes by, it is the newest.
                let topology = adopted.or(topologies.values().next_back());
                if topology.is_none_or(|topology| !topology.is_member(machine.node, namespace)) {
                    findings.broken(format!("node {machine} is no member and has {name}"));
                }
            }
            _ => {}
        }
    }
    let Some(newest) = topologies.values().next_back() else { return };
    for (node, state) in &evidence.end.nodes {
        for log in state.logs.keys().filter(|log| !newest.is_holder(*node, log.namespace)) {
            findings.broken(format!("node {node} has left {log} and still has it"));
        }
    }
}
