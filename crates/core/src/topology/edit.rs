//! Edits of the topology document: pure functions from one version to the next.
//!
//! Every edit raises the version's number by one, or answers the document
//! unchanged when it already says what was asked for, so that any edit may be
//! repeated; except [`remove_region`], which does not know the region any more. No
//! number is ever taken out of the document: one that was given once stays with its
//! name, and the next number is one above the highest.

use std::collections::BTreeSet;

use thiserror::Error;

use super::{Founder, Group, Namespace, Node, NodeState, Retention, Topology};
use crate::features::{Feature, not_understood};
use crate::identity::{
    FeatureLevel, FencingToken, GroupNumber, NamespaceNumber, NodeNumber, TopologyVersion,
};
use crate::limits::{
    MAX_ADDRESS_BYTES, MAX_GROUPS, MAX_GROUPS_PER_MESSAGE, MAX_NAMESPACES, MAX_NODES, MAX_REGIONS,
};
use crate::names::{GroupName, NamespaceName, NodeName, RegionName};

mod leaving;
#[cfg(test)]
mod tests;

pub use leaving::{
    adopt, apply_group_and_leave, leave_mesh, record_left, record_left_by, remove_groups,
    remove_node, remove_region,
};

/// The document before its first edit: generation 1, nothing in it.
pub fn empty() -> Topology {
    Topology { version: TopologyVersion { generation: 1, number: 0 }, ..Topology::default() }
}

/// What a push-node says of itself when it starts.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NodeRegistration {
    /// Its name: what its number belongs to.
    pub name: NodeName,
    /// Where it stands, for good.
    pub region: RegionName,
    /// Where peers replicate to, `host:port`.
    pub replication_address: String,
    /// Where gateways and clients call, `host:port`.
    pub client_address: String,
    /// What its build understands.
    pub feature_level: FeatureLevel,
}

/// Why an edit was refused; nothing has changed. None of these goes away by
/// repeating the same edit alone.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum EditError {
    /// A region that is not there.
    #[error("there is no region {0}")]
    UnknownRegion(RegionName),
    /// A group that is not there.
    #[error("there is no group {0}")]
    UnknownGroup(GroupName),
    /// A node that is not there.
    #[error("there is no node with the number {0}")]
    UnknownNode(NodeNumber),
    /// A node name that is not there.
    #[error("there is no node {0}")]
    UnknownNodeName(NodeName),
    /// A namespace that is not there.
    #[error("there is no namespace {0}")]
    UnknownNamespace(NamespaceName),
    /// A namespace number that was never given.
    #[error("there is no namespace with the number {0}")]
    UnknownNamespaceNumber(NamespaceNumber),
    /// A list that must name something.
    #[error("{0} must name at least one")]
    Empty(
        /// The list.
        &'static str,
    ),
    /// An address that nobody could call.
    #[error("{field} {address:?} is not host:port: {reason}")]
    Address {
        /// Which address.
        field: &'static str,
        /// What was given.
        address: String,
        /// What is wrong with it.
        reason: &'static str,
    },
    /// More of one kind than a document may have.
    #[error("there may be {limit} {kind} at most")]
    TooMany {
        /// In the plural.
        kind: &'static str,
        /// How many there may be.
        limit: usize,
    },
    /// A namespace of this name was made with another placement or disk cap.
    #[error("the namespace {0} exists already, with other groups or another disk cap")]
    NamespaceExists(NamespaceName),
    /// Nobody could found the namespace, and so nobody could ever be ready in it.
    #[error(
        "the namespace {0} would have no founder: no active node is registered in a region of its groups"
    )]
    NoFounder(NamespaceName),
    /// A node's data does not move with its name.
    #[error("the node {node} is registered in region {registered}, not {requested}")]
    RegionChange {
        /// The node.
        node: NodeName,
        /// Where it is registered.
        registered: RegionName,
        /// Where it says it is.
        requested: RegionName,
    },
    /// The name belongs to a node that was removed for good.
    #[error("the node {0} was removed; its name and number do not come back")]
    NodeRemoved(NodeName),
    /// A namespace would lose a region whose members were not told to leave.
    #[error(
        "the group {group} cannot lose the region {region} while the namespace {namespace} is placed there, unless its members are to leave"
    )]
    RegionInUse {
        /// The group.
        group: GroupName,
        /// What it would lose.
        region: RegionName,
        /// Who is placed there.
        namespace: NamespaceName,
    },
    /// A node's build does not understand what the document says.
    #[error(
        "the build of node {node} (feature level {level}) does not understand {feature}, which is under way: let that end, or start a newer build"
    )]
    NotUnderstood {
        /// The node.
        node: NodeName,
        /// What it understands.
        level: FeatureLevel,
        /// What it would have to.
        feature: Feature,
    },
    /// Not all nodes' builds understand what is asked for.
    #[error(
        "the build of node {node} does not understand {feature}, which needs feature level {}: upgrade it first",
        feature.level()
    )]
    TooEarly {
        /// One of them.
        node: NodeName,
        /// What it would have to understand.
        feature: Feature,
    },
    /// Nobody would hold what the others hand over.
    #[error("the namespace {0} would have no member left")]
    LastMember(NamespaceName),
    /// A region is given up when its nodes are gone.
    #[error("the region {region} has the node {node}: remove it first")]
    RegionHasNodes {
        /// The region.
        region: RegionName,
        /// One of its nodes.
        node: NodeName,
    },
    /// A namespace has no other region.
    #[error("the namespace {namespace} is placed nowhere but in the region {region}")]
    PlacedNowhere {
        /// The region.
        region: RegionName,
        /// The namespace.
        namespace: NamespaceName,
    },
    /// The caller's token is not that of its name's last registration.
    #[error("the node {node} holds the fencing token {held}, not {presented}")]
    TokenMismatch {
        /// The node.
        node: NodeName,
        /// Of its last registration.
        held: FencingToken,
        /// The caller's.
        presented: FencingToken,
    },
    /// A node has left by a document that is not the newest.
    #[error("the topology is {newest} by now: what was left by {by} may be held again")]
    LeftByOlder {
        /// What the node went by.
        by: TopologyVersion,
        /// What there is.
        newest: TopologyVersion,
    },
    /// Only founders start without taking the state from a member.
    #[error("the node {node} is not a founder of the namespace {namespace}")]
    NotFounder {
        /// The node.
        node: NodeName,
        /// The namespace.
        namespace: NamespaceName,
    },
}

/// Registers a node: a new name gets the next number, a known one keeps its own.
/// The fencing token rises each time. A region that is not there is made, so
/// that a first start needs no step before it.
pub fn register_node(
    topology: &Topology,
    registration: &NodeRegistration,
) -> Result<Topology, EditError> {
    check_address("replication_address", &registration.replication_address)?;
    check_address("client_address", &registration.client_address)?;
    if let Some(feature) = not_understood(topology, registration.feature_level) {
        let node = registration.name.clone();
        return Err(EditError::NotUnderstood { node, level: registration.feature_level, feature });
    }
    let mut next = topology.clone();

    match next.nodes.iter_mut().find(|node| node.name == registration.name) {
        Some(node) if node.state == NodeState::Removed => {
            return Err(EditError::NodeRemoved(node.name.clone()));
        }
        Some(node) if node.region != registration.region => {
            return Err(EditError::RegionChange {
                node: node.name.clone(),
                registered: node.region.clone(),
                requested: registration.region.clone(),
            });
        }
        Some(node) => {
            node.replication_address.clone_from(&registration.replication_address);
            node.client_address.clone_from(&registration.client_address);
            node.fencing_token = FencingToken::new(node.fencing_token.get() + 1);
            node.feature_level = registration.feature_level;
        }
        None => {
            add_region(&mut next, &registration.region)?;
            let numbers = next.nodes.iter().map(|node| node.number.get());
            let number = next_number(numbers, "nodes", MAX_NODES)?;
            next.nodes.push(Node {
                number: NodeNumber::new(number),
                name: registration.name.clone(),
                region: registration.region.clone(),
                replication_address: registration.replication_address.clone(),
                client_address: registration.client_address.clone(),
                state: NodeState::Active,
                fencing_token: FencingToken::new(1),
                feature_level: registration.feature_level,
            });
        }
    }
    Ok(raised(next))
}

/// Makes a region, if it is not there.
pub fn apply_region(topology: &Topology, name: &RegionName) -> Result<Topology, EditError> {
    let mut next = topology.clone();
    add_region(&mut next, name)?;
    Ok(raised_if_changed(topology, next))
}

/// Makes a group, or gives it these regions. A region in which a namespace is
/// placed by this group alone cannot be taken away this way: see
/// [`apply_group_and_leave`].
pub fn apply_group(
    topology: &Topology,
    name: &GroupName,
    regions: &[RegionName],
) -> Result<Topology, EditError> {
    let next = apply_group_unchecked(topology, name, regions)?;
    refuse_lost_regions(topology, &next, name)?;
    Ok(raised_if_changed(topology, next))
}

/// The document with the group's regions, at the same version.
fn apply_group_unchecked(
    topology: &Topology,
    name: &GroupName,
    regions: &[RegionName],
) -> Result<Topology, EditError> {
    let regions: BTreeSet<RegionName> = regions.iter().cloned().collect();
    if regions.is_empty() {
        return Err(EditError::Empty("regions"));
    }
    if let Some(region) = regions.iter().find(|region| !topology.regions.contains(region)) {
        return Err(EditError::UnknownRegion(region.clone()));
    }

    let mut next = topology.clone();
    let regions: Vec<RegionName> = regions.into_iter().collect();
    match next.groups.iter_mut().find(|group| group.name == *name) {
        Some(group) => group.regions = regions,
        None => {
            let numbers = next.groups.iter().map(|group| group.number.get());
            let number = next_number(numbers, "groups", MAX_GROUPS)?;
            next.groups.push(Group {
                number: GroupNumber::new(number),
                name: name.clone(),
                regions,
            });
        }
    }
    Ok(next)
}

/// Makes a namespace on groups. Its founders are the active nodes in the groups'
/// regions at this moment; whoever comes later is a member like any other, and
/// takes the state from one that is ready.
pub fn create_namespace(
    topology: &Topology,
    name: &NamespaceName,
    groups: &[GroupName],
    disk_cap_bytes: u64,
) -> Result<Topology, EditError> {
    let groups = known_groups(topology, groups)?;
    if groups.is_empty() {
        return Err(EditError::Empty("groups"));
    }
    if let Some(namespace) = topology.namespace_by_name(name) {
        let placed: BTreeSet<&GroupName> = namespace.groups.iter().collect();
        let same = placed.iter().copied().eq(&groups) && namespace.disk_cap_bytes == disk_cap_bytes;
        return if same {
            Ok(topology.clone())
        } else {
            Err(EditError::NamespaceExists(name.clone()))
        };
    }

    let mut next = topology.clone();
    let numbers = next.namespaces.iter().map(|namespace| namespace.number.get());
    let number = NamespaceNumber::new(next_number(numbers, "namespaces", MAX_NAMESPACES)?);
    next.namespaces.push(Namespace {
        number,
        name: name.clone(),
        groups: groups.into_iter().collect(),
        disk_cap_bytes,
        retention: Retention::default(),
        founders: Vec::new(),
        leaving: Vec::new(),
    });
    let founders: Vec<Founder> = next
        .members(number)
        .into_iter()
        .map(|member| Founder { node: member.number, opened: false })
        .collect();
    if founders.is_empty() {
        return Err(EditError::NoFounder(name.clone()));
    }
    check_placement(&next, number)?;
    namespace_mut(&mut next, name)?.founders = founders;
    Ok(raised(next))
}

/// Places a namespace on more groups, and sets its disk cap where one is given.
/// Nodes that become members this way are no founders.
pub fn update_namespace(
    topology: &Topology,
    name: &NamespaceName,
    add_groups: &[GroupName],
    disk_cap_bytes: Option<u64>,
) -> Result<Topology, EditError> {
    let mut next = topology.clone();
    let added = known_groups(topology, add_groups)?;
    let namespace = namespace_mut(&mut next, name)?;
    for group in added {
        if !namespace.groups.contains(&group) {
            namespace.groups.push(group);
        }
    }
    if let Some(disk_cap_bytes) = disk_cap_bytes {
        namespace.disk_cap_bytes = disk_cap_bytes;
    }
    let number = namespace.number;
    check_placement(&next, number)?;
    Ok(raised_if_changed(topology, next))
}

/// Sets how long a namespace keeps its messages. Members trim by it from the next
/// look on.
pub fn set_retention(
    topology: &Topology,
    name: &NamespaceName,
    retention: Retention,
) -> Result<Topology, EditError> {
    let mut next = topology.clone();
    namespace_mut(&mut next, name)?.retention = retention;
    Ok(raised_if_changed(topology, next))
}

/// Records that a founder has opened namespaces: an empty disk of its name does
/// not found them again.
pub fn record_opened(
    topology: &Topology,
    node: NodeNumber,
    token: FencingToken,
    namespaces: &[NamespaceNumber],
) -> Result<Topology, EditError> {
    let registered = topology.node(node).ok_or(EditError::UnknownNode(node))?;
    check_token(registered, token)?;
    let mut next = topology.clone();
    for number in namespaces {
        let namespace = next
            .namespaces
            .iter_mut()
            .find(|namespace| namespace.number == *number)
            .ok_or(EditError::UnknownNamespaceNumber(*number))?;
        let founder = namespace.founders.iter_mut().find(|founder| founder.node == node);
        match founder {
            Some(founder) => founder.opened = true,
            None => {
                return Err(EditError::NotFounder {
                    node: registered.name.clone(),
                    namespace: namespace.name.clone(),
                });
            }
        }
    }
    Ok(raised_if_changed(topology, next))
}

/// Only the last process that registered a name speaks for it.
fn check_token(registered: &Node, presented: FencingToken) -> Result<(), EditError> {
    if registered.fencing_token == presented {
        return Ok(());
    }
    let (node, held) = (registered.name.clone(), registered.fencing_token);
    Err(EditError::TokenMismatch { node, held, presented })
}

/// Checks that an address is `host:port`: a name, an IPv4 address, or an IPv6
/// address in brackets, and a port that can be called.
pub fn check_address(field: &'static str, address: &str) -> Result<(), EditError> {
    let refused = |reason| {
        // What is echoed is bounded too.
        let address = address.chars().take(64).collect();
        Err(EditError::Address { field, address, reason })
    };
    if address.len() > MAX_ADDRESS_BYTES {
        return refused("it is too long");
    }
    let Some((host, port)) = address.rsplit_once(':') else {
        return refused("it has no port");
    };
    if !port.parse::<u16>().is_ok_and(|port| port != 0) {
        return refused("the port must be 1 to 65535");
    }
    let bracketed = host.strip_prefix('[').and_then(|host| host.strip_suffix(']'));
    let host_fits = match bracketed {
        Some(inner) => inner.parse::<std::net::Ipv6Addr>().is_ok(),
        None => {
            !host.is_empty()
                && host
                    .bytes()
                    .all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'-' | b'_'))
        }
    };
    if host_fits {
        Ok(())
    } else {
        refused("the host must be a name, an IPv4 address, or an IPv6 address in brackets")
    }
}

fn add_region(topology: &mut Topology, name: &RegionName) -> Result<(), EditError> {
    if topology.regions.contains(name) {
        return Ok(());
    }
    if topology.regions.len() >= MAX_REGIONS {
        return Err(EditError::TooMany { kind: "regions", limit: MAX_REGIONS });
    }
    topology.regions.push(name.clone());
    Ok(())
}

fn known_groups(
    topology: &Topology,
    groups: &[GroupName],
) -> Result<BTreeSet<GroupName>, EditError> {
    match groups.iter().find(|group| topology.group_by_name(group).is_none()) {
        Some(group) => Err(EditError::UnknownGroup(group.clone())),
        None => Ok(groups.iter().cloned().collect()),
    }
}

/// A region that a group loses must not be the last one that places a namespace
/// there.
fn refuse_lost_regions(
    before: &Topology,
    after: &Topology,
    group: &GroupName,
) -> Result<(), EditError> {
    let regions = |topology: &Topology| -> BTreeSet<RegionName> {
        let group = topology.group_by_name(group);
        group.into_iter().flat_map(|group| group.regions.iter().cloned()).collect()
    };
    let (held, kept) = (regions(before), regions(after));
    for region in held.difference(&kept) {
        let lost = after.namespaces.iter().find(|namespace| {
            namespace.groups.contains(group) && !after.is_placed_in(namespace.number, region)
        });
        if let Some(namespace) = lost {
            return Err(EditError::RegionInUse {
                group: group.clone(),
                region: region.clone(),
                namespace: namespace.name.clone(),
            });
        }
    }
    Ok(())
}

fn namespace_mut<'a>(
    topology: &'a mut Topology,
    name: &NamespaceName,
) -> Result<&'a mut Namespace, EditError> {
    topology
        .namespaces
        .iter_mut()
        .find(|namespace| namespace.name == *name)
        .ok_or_else(|| EditError::UnknownNamespace(name.clone()))
}

/// Every message of a namespace names its groups, so there is a most.
fn check_placement(topology: &Topology, namespace: NamespaceNumber) -> Result<(), EditError> {
    if topology.groups_of(namespace).len() > MAX_GROUPS_PER_MESSAGE {
        return Err(EditError::TooMany {
            kind: "groups of one namespace",
            limit: MAX_GROUPS_PER_MESSAGE,
        });
    }
    Ok(())
}

/// One above the highest number that was ever given. No number leaves the document,
/// so the highest in it is the highest there was.
fn next_number(
    given: impl Iterator<Item = u32>,
    kind: &'static str,
    limit: usize,
) -> Result<u32, EditError> {
    let (count, highest) = given
        .fold((0, 0), |(count, highest): (usize, u32), number| (count + 1, highest.max(number)));
    match highest.checked_add(1) {
        Some(number) if count < limit => Ok(number),
        _ => Err(EditError::TooMany { kind, limit }),
    }
}

fn raised_if_changed(before: &Topology, mut after: Topology) -> Topology {
    stay_where_placed(&mut after);
    if after == *before { after } else { raised(after) }
}

/// Whoever is a member again does not leave any more.
fn stay_where_placed(topology: &mut Topology) {
    let members = |topology: &Topology, number| -> BTreeSet<NodeNumber> {
        topology.members(number).into_iter().map(|member| member.number).collect()
    };
    for index in 0..topology.namespaces.len() {
        let members = members(topology, topology.namespaces[index].number);
        topology.namespaces[index].leaving.retain(|leaving| !members.contains(leaving));
    }
}

fn raised(mut topology: Topology) -> Topology {
    topology.version = TopologyVersion {
        generation: topology.version.generation.max(1),
        number: topology.version.number + 1,
    };
    debug_assert_eq!(topology.validate(), Ok(()), "edits keep the document's rules");
    topology
}
