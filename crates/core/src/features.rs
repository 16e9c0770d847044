//! What came after the first build, so that builds of different age work side by side:
//! nothing is used before every node understands it, and nothing is lost by going back to
//! a build that understands all that is in use.

use std::fmt;

use crate::identity::FeatureLevel;
use crate::names::NodeName;
use crate::topology::{Node, NodeState, Topology};

/// What this build understands.
pub const FEATURE_LEVEL: FeatureLevel = FeatureLevel::new(2);

/// The first build's. A node whose registration says nothing has it.
pub const FIRST_FEATURE_LEVEL: FeatureLevel = FeatureLevel::new(1);

/// Something that not every build understands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Feature {
    /// Members that leave a namespace or the mesh: a node that does not know them takes
    /// them for no holders, and would not take from them what they hand over.
    Leaving,
}

impl Feature {
    /// All of them.
    pub const ALL: [Self; 1] = [Self::Leaving];

    /// The level from which on builds understand it.
    pub const fn level(self) -> FeatureLevel {
        match self {
            Self::Leaving => FeatureLevel::new(2),
        }
    }

    /// Whether a document makes use of it.
    fn is_used_in(self, topology: &Topology) -> bool {
        match self {
            Self::Leaving => {
                topology.nodes.iter().any(|node| node.state == NodeState::Leaving)
                    || topology.namespaces.iter().any(|namespace| !namespace.leaving.is_empty())
            }
        }
    }
}

impl fmt::Display for Feature {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Leaving => "leaving a namespace or the mesh",
        })
    }
}

/// A node that does not understand something.
pub fn who_lacks(topology: &Topology, feature: Feature) -> Option<&NodeName> {
    let lacks = |node: &&Node| node.feature_level < feature.level();
    let mut present = topology.nodes.iter().filter(|node| node.state != NodeState::Removed);
    present.find(lacks).map(|node| &node.name)
}

/// What a document makes use of and a build of a level does not understand: such a build
/// cannot take part until that is over.
pub fn not_understood(topology: &Topology, level: FeatureLevel) -> Option<Feature> {
    Feature::ALL.into_iter().find(|it| it.level() > level && it.is_used_in(topology))
}

/// How two documents of one version stand to each other. A build that does not know a
/// field leaves it out of what it stores and passes on: such a copy is no other document.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SameVersion {
    /// They say the same, or the offered one is a copy that an older build has passed on.
    Known,
    /// The held one is such a copy, the offered one says all.
    Fuller,
    /// They contradict each other.
    Conflict,
}

/// Compares a document with another one of its version.
pub fn compare_same_version(held: &Topology, offered: &Topology) -> SameVersion {
    let older = || (FIRST_FEATURE_LEVEL.get()..FEATURE_LEVEL.get()).map(FeatureLevel::new);
    if held == offered || older().any(|level| as_passed_on(held, level) == *offered) {
        SameVersion::Known
    } else if older().any(|level| as_passed_on(offered, level) == *held) {
        SameVersion::Fuller
    } else {
        SameVersion::Conflict
    }
}

/// What a build of a level leaves of a document.
fn as_passed_on(topology: &Topology, level: FeatureLevel) -> Topology {
    let mut passed_on = topology.clone();
    if level < Feature::Leaving.level() {
        // Levels themselves came with it.
        for node in &mut passed_on.nodes {
            node.feature_level = FIRST_FEATURE_LEVEL;
        }
        for namespace in &mut passed_on.namespaces {
            namespace.leaving.clear();
        }
    }
    passed_on
}
