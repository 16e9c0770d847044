//! The versioned document of who holds what: regions, groups, nodes, namespaces
//! and their placement.
//!
//! Only the control-plane writes it, or the owner of a static file. Nodes read
//! it through the queries here.

use std::collections::BTreeSet;

use thiserror::Error;

use crate::identity::{
    FeatureLevel, FencingToken, GroupNumber, NamespaceNumber, NodeNumber, TopologyVersion,
};
use crate::limits::MAX_GROUPS_PER_MESSAGE;
use crate::names::{GroupName, NamespaceName, NodeName, RegionName};

pub mod edit;

/// A named set of regions (METHOD M15).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Group {
    /// Given once, never reused; messages carry it.
    pub number: GroupNumber,
    /// Its name.
    pub name: GroupName,
    /// The regions in it.
    pub regions: Vec<RegionName>,
}

/// How a node stands to the mesh.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum NodeState {
    /// It holds the namespaces of its region.
    Active,
    /// It accepts nothing, serves and drains.
    Leaving,
    /// It is gone for good; its number stays taken.
    Removed,
}

/// A push-node as the topology knows it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Node {
    /// Given once to the name, never reused.
    pub number: NodeNumber,
    /// Its name.
    pub name: NodeName,
    /// Where it stands.
    pub region: RegionName,
    /// Where peers replicate to, `host:port`.
    pub replication_address: String,
    /// Where gateways and clients call, `host:port`.
    pub client_address: String,
    /// How it stands to the mesh.
    pub state: NodeState,
    /// Of its last registration.
    pub fencing_token: FencingToken,
    /// What its build understood at its last registration.
    pub feature_level: FeatureLevel,
}

/// A member a namespace was founded with: it starts ready once.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Founder {
    /// The member.
    pub node: NodeNumber,
    /// Set once it has opened the namespace; an empty database that comes later
    /// takes its state from another member first.
    pub opened: bool,
}

/// How long the messages of a namespace are kept. Channels, and what was deleted,
/// stay whatever this says.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Retention {
    /// Messages older than this may be trimmed; 0 is never.
    pub age_seconds: u64,
    /// The oldest are trimmed while the logs take more than this; 0 is never.
    pub bytes: u64,
    /// What gives way when the logs reach the namespace's cap all the same.
    pub when_full: WhenFull,
}

/// What gives way at a namespace's cap, because a member that is behind keeps
/// messages from being trimmed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum WhenFull {
    /// Publications are refused: nothing is lost.
    #[default]
    Refuse,
    /// The oldest messages are trimmed, also those that a member has not got: it gets
    /// the channels, and a declared hole in place of them.
    Release,
}

/// A family of channels and where it is placed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Namespace {
    /// Given once, never reused.
    pub number: NamespaceNumber,
    /// Its name.
    pub name: NamespaceName,
    /// The groups it is placed on.
    pub groups: Vec<GroupName>,
    /// Bytes of log a member may hold before publications are refused; 0 is the
    /// node's default.
    pub disk_cap_bytes: u64,
    /// How long messages are kept, and what gives way at the cap.
    pub retention: Retention,
    /// Whom it was founded with.
    pub founders: Vec<Founder>,
    /// Nodes that were members and hand over what they hold: they accept and get
    /// nothing, and serve until the members have everything.
    pub leaving: Vec<NodeNumber>,
}

/// The versioned document of who holds what.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Topology {
    /// Orders documents.
    pub version: TopologyVersion,
    /// All regions.
    pub regions: Vec<RegionName>,
    /// All groups.
    pub groups: Vec<Group>,
    /// All nodes, removed ones too.
    pub nodes: Vec<Node>,
    /// All namespaces.
    pub namespaces: Vec<Namespace>,
}

/// What is wrong with a topology document. It has to be written anew.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum TopologyError {
    /// Two things of one kind have one number or one name.
    #[error("{kind} {name:?} appears twice, by its name or its number")]
    Duplicate {
        /// "region", "group", "node" or "namespace".
        kind: &'static str,
        /// The second one's name.
        name: String,
    },
    /// A number is 0, which the wire uses for "none".
    #[error("{kind} {name:?} has the number 0")]
    NumberZero {
        /// "group", "node" or "namespace".
        kind: &'static str,
        /// Its name.
        name: String,
    },
    /// Something names a region that is not there.
    #[error("{kind} {name:?} names the unknown region {region}")]
    UnknownRegion {
        /// "group" or "node".
        kind: &'static str,
        /// Its name.
        name: String,
        /// What it names.
        region: RegionName,
    },
    /// A namespace names a group that is not there.
    #[error("namespace {namespace} names the unknown group {group}")]
    UnknownGroup {
        /// The namespace.
        namespace: NamespaceName,
        /// What it names.
        group: GroupName,
    },
    /// A namespace has a founder that is not there.
    #[error("namespace {namespace} has the unknown founder {founder}")]
    UnknownFounder {
        /// The namespace.
        namespace: NamespaceName,
        /// What it names.
        founder: NodeNumber,
    },
    /// A node leaves a namespace that is not there, or that it is a member of.
    #[error("namespace {namespace} is left by {node}, which is unknown or a member")]
    Leaving {
        /// The namespace.
        namespace: NamespaceName,
        /// What it names.
        node: NodeNumber,
    },
    /// A namespace without groups would be nowhere; with too many, its messages
    /// could not name them all.
    #[error(
        "namespace {namespace} is placed on {groups} groups; 1 to {MAX_GROUPS_PER_MESSAGE} are possible"
    )]
    Placement {
        /// The namespace.
        namespace: NamespaceName,
        /// How many it names.
        groups: usize,
    },
}

impl Topology {
    /// The node of a number, removed ones too.
    pub fn node(&self, number: NodeNumber) -> Option<&Node> {
        self.nodes.iter().find(|node| node.number == number)
    }

    /// The node of a name, removed ones too.
    pub fn node_by_name(&self, name: &NodeName) -> Option<&Node> {
        self.nodes.iter().find(|node| node.name == *name)
    }

    /// The namespace of a number.
    pub fn namespace(&self, number: NamespaceNumber) -> Option<&Namespace> {
        self.namespaces.iter().find(|namespace| namespace.number == number)
    }

    /// The namespace of a name.
    pub fn namespace_by_name(&self, name: &NamespaceName) -> Option<&Namespace> {
        self.namespaces.iter().find(|namespace| namespace.name == *name)
    }

    /// The group of a name.
    pub fn group_by_name(&self, name: &GroupName) -> Option<&Group> {
        self.groups.iter().find(|group| group.name == *name)
    }

    /// The group of a number.
    pub fn group(&self, number: GroupNumber) -> Option<&Group> {
        self.groups.iter().find(|group| group.number == number)
    }

    /// The numbers of the groups a namespace is placed on, ascending: what a
    /// message names (METHOD M15).
    pub fn groups_of(&self, namespace: NamespaceNumber) -> Vec<GroupNumber> {
        let mut numbers: Vec<GroupNumber> =
            self.placement(namespace).map(|group| group.number).collect();
        numbers.sort_unstable();
        numbers.dedup();
        numbers
    }

    /// Whether a namespace's data may be in a region (METHOD M15).
    pub fn is_placed_in(&self, namespace: NamespaceNumber, region: &RegionName) -> bool {
        self.placement(namespace).any(|group| group.regions.contains(region))
    }

    /// The members of a namespace: the active nodes in the regions of its groups,
    /// by ascending number.
    pub fn members(&self, namespace: NamespaceNumber) -> Vec<&Node> {
        let regions: BTreeSet<&RegionName> =
            self.placement(namespace).flat_map(|group| &group.regions).collect();
        let mut members: Vec<&Node> = self
            .nodes
            .iter()
            .filter(|node| node.state == NodeState::Active && regions.contains(&node.region))
            .collect();
        members.sort_unstable_by_key(|node| node.number);
        members
    }

    /// Whether a node is a member of a namespace.
    pub fn is_member(&self, node: NodeNumber, namespace: NamespaceNumber) -> bool {
        self.node(node).is_some_and(|node| {
            node.state == NodeState::Active && self.is_placed_in(namespace, &node.region)
        })
    }

    /// Whether a node hands over what it holds of a namespace, and is no member any
    /// more.
    pub fn is_leaving(&self, node: NodeNumber, namespace: NamespaceNumber) -> bool {
        self.namespace(namespace).is_some_and(|namespace| namespace.leaving.contains(&node))
            && self.node(node).is_some_and(|node| node.state != NodeState::Removed)
    }

    /// Whether a node may have a namespace's messages on its disk: a member, or one
    /// that is leaving.
    pub fn is_holder(&self, node: NodeNumber, namespace: NamespaceNumber) -> bool {
        self.is_member(node, namespace) || self.is_leaving(node, namespace)
    }

    /// The namespaces a node is a member of, by ascending number.
    pub fn namespaces_of(&self, node: NodeNumber) -> Vec<NamespaceNumber> {
        self.namespaces_where(|namespace| self.is_member(node, namespace))
    }

    /// The namespaces that a node may have messages of, by ascending number.
    pub fn namespaces_held_by(&self, node: NodeNumber) -> Vec<NamespaceNumber> {
        self.namespaces_where(|namespace| self.is_holder(node, namespace))
    }

    fn namespaces_where(
        &self,
        is_asked_for: impl Fn(NamespaceNumber) -> bool,
    ) -> Vec<NamespaceNumber> {
        let numbers = self.namespaces.iter().map(|namespace| namespace.number);
        let mut numbers: Vec<NamespaceNumber> = numbers.filter(|it| is_asked_for(*it)).collect();
        numbers.sort_unstable();
        numbers
    }

    /// The nodes that share at least one namespace with a node, without itself,
    /// by ascending number: whom it replicates with. Two that both leave have
    /// nothing to give each other.
    pub fn peers_of(&self, node: NodeNumber) -> Vec<&Node> {
        let held = self.namespaces_held_by(node);
        let share = |peer: NodeNumber, namespace: NamespaceNumber| {
            self.is_holder(peer, namespace)
                && (self.is_member(peer, namespace) || self.is_member(node, namespace))
        };
        let mut peers: Vec<&Node> = self
            .nodes
            .iter()
            .filter(|peer| peer.number != node)
            .filter(|peer| held.iter().any(|namespace| share(peer.number, *namespace)))
            .collect();
        peers.sort_unstable_by_key(|peer| peer.number);
        peers
    }

    /// Checks that numbers and names are unique and that what is named is there.
    pub fn validate(&self) -> Result<(), TopologyError> {
        self.validate_uniqueness()?;
        let regions: BTreeSet<&RegionName> = self.regions.iter().collect();
        let unknown = |kind, name: &str, region: &RegionName| TopologyError::UnknownRegion {
            kind,
            name: name.to_owned(),
            region: region.clone(),
        };
        for group in &self.groups {
            if let Some(region) = group.regions.iter().find(|region| !regions.contains(region)) {
                return Err(unknown("group", group.name.as_str(), region));
            }
        }
        for node in &self.nodes {
            // A region may be given up once all its nodes are removed.
            if node.state != NodeState::Removed && !regions.contains(&node.region) {
                return Err(unknown("node", node.name.as_str(), &node.region));
            }
        }
        self.namespaces.iter().try_for_each(|namespace| self.validate_namespace(namespace))
    }

    fn validate_uniqueness(&self) -> Result<(), TopologyError> {
        let regions = self.regions.iter().map(|name| (None, name.as_str()));
        unique("region", regions)?;
        let groups = self.groups.iter();
        unique("group", groups.map(|it| (Some(it.number.get()), it.name.as_str())))?;
        let nodes = self.nodes.iter();
        unique("node", nodes.map(|it| (Some(it.number.get()), it.name.as_str())))?;
        let namespaces = self.namespaces.iter();
        unique("namespace", namespaces.map(|it| (Some(it.number.get()), it.name.as_str())))
    }

    fn validate_namespace(&self, namespace: &Namespace) -> Result<(), TopologyError> {
        if !(1..=MAX_GROUPS_PER_MESSAGE).contains(&namespace.groups.len()) {
            return Err(TopologyError::Placement {
                namespace: namespace.name.clone(),
                groups: namespace.groups.len(),
            });
        }
        if let Some(group) =
            namespace.groups.iter().find(|group| self.group_by_name(group).is_none())
        {
            return Err(TopologyError::UnknownGroup {
                namespace: namespace.name.clone(),
                group: group.clone(),
            });
        }
        let name = || namespace.name.clone();
        if let Some(unknown) =
            namespace.founders.iter().find(|founder| self.node(founder.node).is_none())
        {
            return Err(TopologyError::UnknownFounder { namespace: name(), founder: unknown.node });
        }
        let is_wrong = |node: &&NodeNumber| {
            self.node(**node).is_none() || self.is_member(**node, namespace.number)
        };
        match namespace.leaving.iter().find(is_wrong) {
            Some(node) => Err(TopologyError::Leaving { namespace: name(), node: *node }),
            None => Ok(()),
        }
    }

    /// The groups a namespace is placed on; none for an unknown namespace.
    fn placement(&self, namespace: NamespaceNumber) -> impl Iterator<Item = &Group> {
        self.namespace(namespace)
            .into_iter()
            .flat_map(|namespace| &namespace.groups)
            .filter_map(|name| self.group_by_name(name))
    }
}

fn unique<'a>(
    kind: &'static str,
    things: impl Iterator<Item = (Option<u32>, &'a str)>,
) -> Result<(), TopologyError> {
    let mut numbers = BTreeSet::new();
    let mut names = BTreeSet::new();
    for (number, name) in things {
        if number == Some(0) {
            return Err(TopologyError::NumberZero { kind, name: name.to_owned() });
        }
        let number_is_new = number.is_none_or(|number| numbers.insert(number));
        if !names.insert(name) || !number_is_new {
            return Err(TopologyError::Duplicate { kind, name: name.to_owned() });
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn region(name: &str) -> RegionName {
        RegionName::parse(name).expect("a region's name")
    }

    fn group(number: u32, name: &str, regions: &[&str]) -> Group {
        Group {
            number: GroupNumber::new(number),
            name: GroupName::parse(name).expect("a group's name"),
            regions: regions.iter().map(|name| region(name)).collect(),
        }
    }

    fn node(number: u32, name: &str, in_region: &str, state: NodeState) -> Node {
        Node {
            number: NodeNumber::new(number),
            name: NodeName::parse(name).expect("a node's name"),
            region: region(in_region),
            replication_address: format!("{name}:7001"),
            client_address: format!("{name}:7000"),
            state,
            fencing_token: FencingToken::new(1),
            feature_level: FeatureLevel::new(1),
        }
    }

    fn namespace(number: u32, name: &str, groups: &[&str]) -> Namespace {
        Namespace {
            number: NamespaceNumber::new(number),
            name: NamespaceName::parse(name).expect("a namespace's name"),
            groups: groups
                .iter()
                .map(|name| GroupName::parse(name).expect("a group's name"))
                .collect(),
            disk_cap_bytes: 0,
            retention: Retention::default(),
            founders: Vec::new(),
            leaving: Vec::new(),
        }
    }

    fn example() -> Topology {
        Topology {
            version: TopologyVersion { generation: 1, number: 4 },
            regions: ["eu", "us", "asia"].map(region).to_vec(),
            groups: vec![group(2, "west", &["eu", "us"]), group(1, "europe", &["eu"])],
            nodes: vec![
                node(3, "us-1", "us", NodeState::Active),
                node(1, "eu-1", "eu", NodeState::Active),
                node(2, "eu-2", "eu", NodeState::Leaving),
                node(4, "asia-1", "asia", NodeState::Active),
            ],
            namespaces: vec![
                namespace(1, "prices", &["west", "europe"]),
                namespace(2, "private", &["europe"]),
            ],
        }
    }

    fn numbers(nodes: Vec<&Node>) -> Vec<u32> {
        nodes.into_iter().map(|node| node.number.get()).collect()
    }

    /// METHOD M15: a namespace's data goes to the regions of its groups and to
    /// nobody else.
    #[test]
    fn members_are_the_active_nodes_of_the_groups() {
        let topology = example();
        let [prices, private, unknown] = [1, 2, 9].map(NamespaceNumber::new);
        assert_eq!(numbers(topology.members(prices)), [1, 3]);
        assert_eq!(numbers(topology.members(private)), [1]);
        assert_eq!(numbers(topology.members(unknown)), [0_u32; 0]);
        assert_eq!(topology.groups_of(prices), [1, 2].map(GroupNumber::new));
        assert_eq!(topology.groups_of(unknown), []);
        for number in 0..6 {
            let number = NodeNumber::new(number);
            for namespace in [prices, private, unknown] {
                let is_listed =
                    topology.members(namespace).iter().any(|node| node.number == number);
                assert_eq!(topology.is_member(number, namespace), is_listed);
                assert_eq!(topology.namespaces_of(number).contains(&namespace), is_listed);
            }
        }
        assert!(topology.is_placed_in(private, &region("eu")));
        assert!(!topology.is_placed_in(private, &region("us")));
    }

    #[test]
    fn peers_share_a_namespace() {
        let topology = example();
        assert_eq!(numbers(topology.peers_of(NodeNumber::new(1))), [3]);
        assert_eq!(numbers(topology.peers_of(NodeNumber::new(4))), [0_u32; 0]);
    }

    #[test]
    fn documents_that_contradict_themselves_are_refused() {
        type Break = fn(&mut Topology);
        let cases: [(Break, &str); 12] = [
            (|it| it.regions.push(it.regions[0].clone()), "region \"eu\" appears twice"),
            (|it| it.groups[0].number = GroupNumber::new(1), "group \"europe\" appears twice"),
            (|it| it.nodes[1].name = it.nodes[0].name.clone(), "node \"us-1\" appears twice"),
            (
                |it| it.namespaces[1].number = it.namespaces[0].number,
                "namespace \"private\" appears twice",
            ),
            (|it| it.nodes[0].number = NodeNumber::new(0), "node \"us-1\" has the number 0"),
            (|it| it.regions.truncate(2), "node \"asia-1\" names the unknown region asia"),
            (
                |it| it.groups[1].regions.push(it.regions.remove(2)),
                "group \"europe\" names the unknown region asia",
            ),
            (|it| it.groups.truncate(1), "namespace prices names the unknown group europe"),
            (|it| it.namespaces[0].groups.clear(), "namespace prices is placed on 0 groups"),
            (
                |it| {
                    let founder = Founder { node: NodeNumber::new(9), opened: false };
                    it.namespaces[0].founders.push(founder);
                },
                "namespace prices has the unknown founder 9",
            ),
            (
                |it| it.namespaces[0].leaving.push(NodeNumber::new(9)),
                "namespace prices is left by 9, which is unknown or a member",
            ),
            (
                |it| it.namespaces[0].leaving.extend([2, 3].map(NodeNumber::new)),
                "namespace prices is left by 3, which is unknown or a member",
            ),
        ];
        assert_eq!(example().validate(), Ok(()));
        assert_eq!(Topology::default().validate(), Ok(()));
        for (spoil, expected) in cases {
            let mut topology = example();
            spoil(&mut topology);
            let refusal = topology.validate().expect_err(expected).to_string();
            assert!(refusal.starts_with(expected), "{refusal}");
        }
    }
}
