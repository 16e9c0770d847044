//! Who was heard lately. In memory: a lease decides what is shown and whom an
//! operation is sent to first, never what a node may do.

use std::collections::BTreeMap;
use std::time::Duration;

use interlock_core::identity::{Incarnation, NodeNumber};
use tokio::time::Instant;

/// Whether a node renews its lease.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Liveness {
    /// Its lease runs.
    Alive,
    /// It has not renewed its lease in time.
    LeaseExpired,
    /// Not heard since this control-plane started.
    NeverSeen,
}

impl Liveness {
    pub(crate) const ALL: [Self; 3] = [Self::Alive, Self::LeaseExpired, Self::NeverSeen];

    /// As metrics name it.
    pub(crate) const fn as_str(self) -> &'static str {
        match self {
            Self::Alive => "alive",
            Self::LeaseExpired => "lease_expired",
            Self::NeverSeen => "never_seen",
        }
    }
}

#[derive(Clone, Copy, Debug)]
pub(crate) struct Lease {
    renewed_at: Instant,
    /// The opening of its database that the node spoke of.
    pub(crate) incarnation: Option<Incarnation>,
}

impl Lease {
    /// How long ago the node was heard.
    pub(crate) fn age(&self, now: Instant) -> Duration {
        now.saturating_duration_since(self.renewed_at)
    }
}

/// The leases of all nodes heard so far.
#[derive(Debug)]
pub(crate) struct Leases {
    duration: Duration,
    held: BTreeMap<NodeNumber, Lease>,
}

impl Leases {
    pub(crate) fn new(duration: Duration) -> Self {
        Self { duration, held: BTreeMap::new() }
    }

    pub(crate) fn duration(&self) -> Duration {
        self.duration
    }

    pub(crate) fn renew(
        &mut self,
        node: NodeNumber,
        incarnation: Option<Incarnation>,
        now: Instant,
    ) {
        self.held.insert(node, Lease { renewed_at: now, incarnation });
    }

    pub(crate) fn get(&self, node: NodeNumber) -> Option<&Lease> {
        self.held.get(&node)
    }

    pub(crate) fn liveness(&self, node: NodeNumber, now: Instant) -> Liveness {
        match self.held.get(&node) {
            Some(lease) if lease.age(now) <= self.duration => Liveness::Alive,
            Some(_) => Liveness::LeaseExpired,
            None => Liveness::NeverSeen,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_lease_runs_out_and_is_renewed() {
        let mut leases = Leases::new(Duration::from_secs(10));
        let node = NodeNumber::new(1);
        let start = Instant::now();
        let at = |seconds| start + Duration::from_secs(seconds);
        assert_eq!(leases.liveness(node, start), Liveness::NeverSeen);
        leases.renew(node, Incarnation::new(7), at(0));
        assert_eq!(leases.liveness(node, at(10)), Liveness::Alive);
        assert_eq!(leases.liveness(node, at(11)), Liveness::LeaseExpired);
        leases.renew(node, Incarnation::new(8), at(12));
        assert_eq!(leases.liveness(node, at(20)), Liveness::Alive);
        let lease = leases.get(node).expect("was heard");
        assert_eq!(lease.age(at(20)), Duration::from_secs(8));
        assert_eq!(lease.incarnation, Incarnation::new(8));
        assert_eq!(leases.liveness(NodeNumber::new(2), at(20)), Liveness::NeverSeen);
    }
}
