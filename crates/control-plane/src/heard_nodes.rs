//! What tells a control-plane whose data was lost, or restored from an old copy,
//! that it knows less than the nodes do: a number given out a second time would
//! mix the data of two namespaces.

use std::collections::BTreeSet;
use std::fmt;

use interlock_core::identity::{FencingToken, NodeNumber, TopologyVersion};
use interlock_core::names::NodeName;
use interlock_core::topology::{NodeState, Topology};
use tokio::sync::watch;

/// Something that only a newer document can have said.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Evidence {
    /// Somebody holds a newer version.
    Version {
        /// Which.
        version: TopologyVersion,
        /// Who, for people.
        holder: String,
    },
    /// A node holds a higher fencing token.
    Token {
        /// Its number.
        number: NodeNumber,
        /// Its name.
        node: NodeName,
        /// The token.
        presented: FencingToken,
    },
}

impl Evidence {
    /// Whether this document is older than the one that said it.
    pub(crate) fn is_against(&self, topology: &Topology) -> bool {
        match self {
            Self::Version { version, .. } => *version > topology.version,
            Self::Token { number, presented, .. } => {
                topology.node(*number).is_none_or(|node| *presented > node.fencing_token)
            }
        }
    }

    /// Whether this says all that the other does.
    pub(crate) fn covers(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::Version { version, .. }, Self::Version { version: other, .. }) => {
                version >= other
            }
            (
                Self::Token { number, presented, .. },
                Self::Token { number: other, presented: token, .. },
            ) => number == other && presented >= token,
            _ => false,
        }
    }
}

impl fmt::Display for Evidence {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Version { version, holder } => write!(f, "{holder} holds {version}"),
            Self::Token { node, presented, .. } => {
                write!(f, "the node {node} holds the fencing token {presented}")
            }
        }
    }
}

/// The nodes on record that were not heard since the start. Those heard have said
/// what they know.
#[derive(Debug, Default)]
pub(crate) struct HeardNodes {
    missing: watch::Sender<BTreeSet<NodeNumber>>,
}

impl HeardNodes {
    /// Of this document nobody was heard yet.
    pub(crate) fn none_of(topology: &Topology) -> Self {
        let on_record = topology.nodes.iter().filter(|node| node.state != NodeState::Removed);
        Self { missing: watch::Sender::new(on_record.map(|node| node.number).collect()) }
    }

    /// A node was heard.
    pub(crate) fn hear(&self, node: NodeNumber) {
        self.missing.send_if_modified(|missing| missing.remove(&node));
    }

    /// The names of those that were not, if there are any. Whom a document has removed
    /// knows nothing beyond it.
    pub(crate) fn missing(&self, topology: &Topology) -> Option<String> {
        let missing = self.missing.borrow();
        let names = missing.iter().filter_map(|number| match topology.node(*number) {
            Some(node) if node.state == NodeState::Removed => None,
            Some(node) => Some(node.name.to_string()),
            None => Some(format!("node {number}")),
        });
        let names: Vec<String> = names.collect();
        (!names.is_empty()).then(|| names.join(", "))
    }

    /// Changes whenever one of them is heard.
    pub(crate) fn news(&self) -> watch::Receiver<BTreeSet<NodeNumber>> {
        self.missing.subscribe()
    }
}
