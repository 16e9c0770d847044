//! What planted bugs make of what a process reads.

use std::sync::Arc;

use interlock_core::identity::{LogName, Mark};
use interlock_core::topology::Topology;
use interlock_storage::Recovery;

use crate::planted_bug::PlantedBug;

use super::Process;

impl Process {
    pub(crate) fn is(&self, bug: PlantedBug) -> bool {
        self.config.planted == Some(bug)
    }
}

/// The topology, or what a planted bug makes of it: everything everywhere.
pub(super) fn widened(topology: &Arc<Topology>, planted: Option<PlantedBug>) -> Arc<Topology> {
    if planted == Some(PlantedBug::ResidencyIgnored) {
        everywhere(topology)
    } else {
        Arc::clone(topology)
    }
}

/// The topology with everything everywhere.
pub(super) fn everywhere(topology: &Topology) -> Arc<Topology> {
    let mut widened = topology.clone();
    for group in &mut widened.groups {
        group.regions.clone_from(&widened.regions);
    }
    Arc::new(widened)
}

/// What planted bugs make of the opening walk's result.
pub(super) fn misread(
    recovery: &mut Recovery,
    planted: Option<PlantedBug>,
    remembered: &[(LogName, Mark)],
) {
    match planted {
        Some(PlantedBug::MarkFromLastKey) => {
            for log in &mut recovery.logs {
                let cut = recovery.cut.iter().find(|cut| cut.log == log.row.log);
                if let Some(cut) = cut {
                    log.mark.m_id = log.mark.m_id.max(cut.found);
                }
            }
        }
        Some(PlantedBug::WalkResultIgnored) => {
            for log in &mut recovery.logs {
                let known = remembered.iter().find(|(name, _)| *name == log.row.log);
                if let Some((_, mark)) = known {
                    log.mark = *mark;
                }
            }
        }
        _ => {}
    }
}
