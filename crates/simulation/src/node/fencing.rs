//! Two processes of one name: the one that learns of a higher token accepts
//! nothing more, and drives out what it has.

use interlock_core::admission::ClosedReason;
use interlock_core::identity::FencingToken;

use crate::checks::StandingStill;
use crate::planted_bug::PlantedBug;

use super::Process;

impl Process {
    /// What this process registered with; 0 if it has not.
    pub const fn token(&self) -> FencingToken {
        self.me.fencing_token
    }

    /// The higher token that another process of this name has, as far as this one
    /// has heard. One that never registered cannot tell.
    pub fn superseded_by(&self) -> Option<FencingToken> {
        let registered = self.topology.node(self.me.opening.node)?.fencing_token;
        (self.token().get() > 0 && registered > self.token()).then_some(registered)
    }

    /// What keeps it from being drained: accepting nothing more, and having told
    /// every peer what it has.
    pub(crate) fn what_is_to_drain(&self, still: &StandingStill) -> Option<String> {
        if !self.is_fenced {
            return Some("accepts".to_owned());
        }
        if self.is(PlantedBug::TailAbandoned) {
            return None;
        }
        if !self.is_idle() {
            return Some("has something to write".to_owned());
        }
        self.topology.peers_of(self.me.opening.node).iter().find_map(|peer| {
            // What stands still is somebody's to repair, and here for nothing.
            let mut queue = self.queue_of(peer.number).into_iter();
            let queued = queue.find(|queued| !still.touches(&queued.log))?;
            let (log, number) = (queued.log, peer.number);
            Some(format!("waits for node {number} to acknowledge {log} up to {}", queued.tip))
        })
    }

    pub(super) fn check_fencing(&mut self) {
        if self.superseded_by().is_some() && !self.is(PlantedBug::FencingIgnored) {
            self.is_fenced = true;
            self.admission.set_node_closed(ClosedReason::Draining, true);
        }
    }
}
