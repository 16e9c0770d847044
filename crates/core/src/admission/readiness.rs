//! When a member may accept publications and edits in a namespace.
//!
//! Founding members start ready once. Any other member whose database knows
//! nothing of the namespace, a wiped founder too, first takes the whole state of
//! one ready member: otherwise it would create channels that exist, with
//! versions that lose to what it has not seen.

use super::Backfill;
use crate::identity::{NamespaceNumber, NodeNumber};
use crate::topology::Topology;

/// Whether a member may accept in a namespace.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum NamespaceReadiness {
    /// It may.
    Ready,
    /// It takes another member's state first; until then clients are told
    /// `BACKFILLING`.
    Backfilling(Backfill),
}

impl NamespaceReadiness {
    /// How a member begins at the opening of its database.
    ///
    /// `recorded` says that this very database holds the record of having been
    /// ready. `may_found` is whether a founder may begin by itself: always under
    /// a control-plane, only with `--bootstrap` with a static topology.
    ///
    /// A founder that becomes ready here makes its record durable first, then has
    /// the topology record that it has opened the namespace, and accepts after
    /// both. So a crash in between leaves the record on the disk, and a disk that
    /// is lost later does not start ready a second time.
    pub fn at_opening(
        topology: &Topology,
        node: NodeNumber,
        namespace: NamespaceNumber,
        recorded: bool,
        may_found: bool,
    ) -> Self {
        if recorded || (may_found && may_begin(topology, node, namespace)) {
            Self::Ready
        } else {
            Self::Backfilling(Backfill::new())
        }
    }

    /// Whether the member may accept.
    pub const fn is_ready(&self) -> bool {
        matches!(self, Self::Ready)
    }
}

/// Whether the topology names the node as a founder that has not opened the
/// namespace yet.
fn may_begin(topology: &Topology, node: NodeNumber, namespace: NamespaceNumber) -> bool {
    topology.namespace(namespace).is_some_and(|namespace| {
        namespace.founders.iter().any(|founder| founder.node == node && !founder.opened)
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::names::NamespaceName;
    use crate::topology::{Founder, Namespace, Retention};

    const NAMESPACE: NamespaceNumber = NamespaceNumber::new(4);

    fn topology(founders: &[(u32, bool)]) -> Topology {
        let founder = |&(node, opened)| Founder { node: NodeNumber::new(node), opened };
        let namespace = Namespace {
            number: NAMESPACE,
            name: NamespaceName::parse("prices").expect("well-formed"),
            groups: Vec::new(),
            disk_cap_bytes: 0,
            retention: Retention::default(),
            founders: founders.iter().map(founder).collect(),
            leaving: Vec::new(),
        };
        Topology { namespaces: vec![namespace], ..Topology::default() }
    }

    #[test]
    fn founders_start_ready_once_and_others_do_not() {
        let new = topology(&[(1, false), (2, true)]);
        let ready = |node, recorded, may_found| {
            let node = NodeNumber::new(node);
            NamespaceReadiness::at_opening(&new, node, NAMESPACE, recorded, may_found).is_ready()
        };
        assert!(ready(1, false, true));
        assert!(!ready(1, false, false), "a static topology needs --bootstrap");
        assert!(!ready(2, false, true), "a wiped founder that had opened it");
        assert!(ready(2, true, false), "its disk knows");
        assert!(!ready(3, false, true), "who came later");
        assert!(ready(3, true, true), "who came later, and has backfilled");
    }
}
