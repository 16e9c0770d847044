//! I12: nothing of a namespace is appended at a node that no topology so far
//! made a member.

use std::sync::Arc;

use interlock_core::topology::Topology;

use crate::history::Record;

use super::{Evidence, Findings};

pub(super) fn check(evidence: &Evidence<'_>, findings: &mut Findings) {
    let mut topology: Option<&Arc<Topology>> = None;
    for record in &evidence.history.records {
        match record {
            Record::TopologyEdited(newest) => topology = Some(newest),
            Record::Appended { machine, name, .. } => {
                let namespace = name.log.namespace;
                if topology.is_none_or(|topology| !topology.is_member(machine.node, namespace)) {
                    findings.broken(format!("node {machine} is no member and has {name}"));
                }
            }
            _ => {}
        }
    }
}
