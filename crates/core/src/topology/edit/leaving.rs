//! Edits by which nodes leave: namespaces, the mesh, regions (docs/decisions/0006).
//!
//! Who is no member any more is listed as leaving until it says that the members
//! have all it holds. Removal by force does not wait for that.

use std::collections::BTreeSet;

use super::{EditError, apply_group_unchecked, namespace_mut, raised_if_changed};
use crate::features::{Feature, who_lacks};
use crate::identity::{FencingToken, NamespaceNumber, NodeNumber, TopologyVersion};
use crate::names::{GroupName, NamespaceName, NodeName, RegionName};
use crate::topology::{NodeState, Topology};

/// Has a node leave all its namespaces, and then the mesh. One that holds none is
/// removed at once.
pub fn leave_mesh(topology: &Topology, name: &NodeName) -> Result<Topology, EditError> {
    let mut next = topology.clone();
    let node = node_mut(&mut next, name)?;
    if node.state != NodeState::Active {
        return Ok(next);
    }
    node.state = NodeState::Leaving;
    list_as_leaving(topology, &mut next)?;
    remove_who_has_left(&mut next);
    Ok(raised_if_changed(topology, next))
}

/// Removes a node at once, whatever it holds.
pub fn remove_node(topology: &Topology, name: &NodeName) -> Result<Topology, EditError> {
    let mut next = topology.clone();
    let node = node_mut(&mut next, name)?;
    let number = node.number;
    node.state = NodeState::Removed;
    for namespace in &mut next.namespaces {
        namespace.leaving.retain(|leaving| *leaving != number);
    }
    refuse_without_members(topology, &next)?;
    Ok(raised_if_changed(topology, next))
}

/// Takes groups from a namespace. Its members in regions that no other group of it
/// has leave it.
pub fn remove_groups(
    topology: &Topology,
    name: &NamespaceName,
    groups: &[GroupName],
) -> Result<Topology, EditError> {
    if let Some(unknown) = groups.iter().find(|group| topology.group_by_name(group).is_none()) {
        return Err(EditError::UnknownGroup(unknown.clone()));
    }
    let mut next = topology.clone();
    let namespace = namespace_mut(&mut next, name)?;
    namespace.groups.retain(|group| !groups.contains(group));
    if namespace.groups.is_empty() {
        return Err(EditError::Empty("groups"));
    }
    list_as_leaving(topology, &mut next)?;
    Ok(raised_if_changed(topology, next))
}

/// Gives a group these regions. Members of namespaces in regions that it loses
/// leave them.
pub fn apply_group_and_leave(
    topology: &Topology,
    name: &GroupName,
    regions: &[RegionName],
) -> Result<Topology, EditError> {
    let mut next = apply_group_unchecked(topology, name, regions)?;
    list_as_leaving(topology, &mut next)?;
    Ok(raised_if_changed(topology, next))
}

/// Gives up a region in which no node is left.
pub fn remove_region(topology: &Topology, name: &RegionName) -> Result<Topology, EditError> {
    if !topology.regions.contains(name) {
        return Err(EditError::UnknownRegion(name.clone()));
    }
    let mut registered = topology.nodes.iter().filter(|node| node.region == *name);
    if let Some(node) = registered.find(|node| node.state != NodeState::Removed) {
        let (region, node) = (name.clone(), node.name.clone());
        return Err(EditError::RegionHasNodes { region, node });
    }
    let mut next = topology.clone();
    next.regions.retain(|region| region != name);
    for group in &mut next.groups {
        group.regions.retain(|region| region != name);
    }
    let is_nowhere = |topology: &Topology, number| {
        !topology.regions.iter().any(|region| topology.is_placed_in(number, region))
    };
    let lost = next
        .namespaces
        .iter()
        .find(|it| is_nowhere(&next, it.number) && !is_nowhere(topology, it.number));
    if let Some(namespace) = lost {
        return Err(EditError::PlacedNowhere {
            region: name.clone(),
            namespace: namespace.name.clone(),
        });
    }
    Ok(raised_if_changed(topology, next))
}

/// [`record_left`], by the topology that listed the namespaces as being left when the
/// node said so: by a newer one it may be a member again and have accepted, and a word
/// that was long under way would strand that.
pub fn record_left_by(
    topology: &Topology,
    node: NodeNumber,
    token: FencingToken,
    namespaces: &[NamespaceNumber],
    by: TopologyVersion,
) -> Result<Topology, EditError> {
    let next = record_left(topology, node, token, namespaces)?;
    if by < topology.version && next.version > topology.version {
        return Err(EditError::LeftByOlder { by, newest: topology.version });
    }
    Ok(next)
}

/// Records that the members have all that a node holds of namespaces that it
/// leaves. A leaving node that has left all of them is removed.
pub fn record_left(
    topology: &Topology,
    node: NodeNumber,
    token: FencingToken,
    namespaces: &[NamespaceNumber],
) -> Result<Topology, EditError> {
    let registered = topology.node(node).ok_or(EditError::UnknownNode(node))?;
    super::check_token(registered, token)?;
    let mut next = topology.clone();
    for number in namespaces {
        let namespace = next.namespaces.iter_mut().find(|namespace| namespace.number == *number);
        let namespace = namespace.ok_or(EditError::UnknownNamespaceNumber(*number))?;
        namespace.leaving.retain(|leaving| *leaving != node);
    }
    remove_who_has_left(&mut next);
    Ok(raised_if_changed(topology, next))
}

/// The document that a control-plane with an old one goes on from: what the nodes
/// have, under a generation of its own, so that no version of the time that was lost
/// is given again.
pub fn adopt(held: &Topology, newest: &Topology) -> Topology {
    let mut next = newest.clone();
    next.version.generation = held.version.generation.max(newest.version.generation) + 1;
    for node in &mut next.nodes {
        // Both have given out tokens.
        let known = held.node_by_name(&node.name).map(|held| held.fencing_token);
        node.fencing_token = node.fencing_token.max(known.unwrap_or_default());
    }
    next
}

/// Whoever was a member and is none any more leaves: of that all have to understand.
fn list_as_leaving(before: &Topology, after: &mut Topology) -> Result<(), EditError> {
    refuse_without_members(before, after)?;
    let mut lists = Vec::with_capacity(after.namespaces.len());
    for namespace in &after.namespaces {
        let number = namespace.number;
        let members = before.members(number).into_iter().map(|member| member.number);
        let lost = members.filter(|member| !after.is_member(*member, number));
        let leaving: BTreeSet<NodeNumber> = lost.chain(namespace.leaving.clone()).collect();
        lists.push(leaving.into_iter().collect());
    }
    let grows = after.namespaces.iter().zip(&lists).any(|(it, list)| it.leaving != *list);
    if grows && let Some(node) = who_lacks(before, Feature::Leaving) {
        return Err(EditError::TooEarly { node: node.clone(), feature: Feature::Leaving });
    }
    for (namespace, leaving) in after.namespaces.iter_mut().zip(lists) {
        namespace.leaving = leaving;
    }
    Ok(())
}

/// Somebody has to hold what the others hand over.
fn refuse_without_members(before: &Topology, after: &Topology) -> Result<(), EditError> {
    let lost = after.namespaces.iter().find(|namespace| {
        after.members(namespace.number).is_empty() && !before.members(namespace.number).is_empty()
    });
    match lost {
        Some(namespace) => Err(EditError::LastMember(namespace.name.clone())),
        None => Ok(()),
    }
}

fn remove_who_has_left(topology: &mut Topology) {
    let leaving: BTreeSet<NodeNumber> =
        topology.namespaces.iter().flat_map(|namespace| namespace.leaving.clone()).collect();
    for node in &mut topology.nodes {
        if node.state == NodeState::Leaving && !leaving.contains(&node.number) {
            node.state = NodeState::Removed;
        }
    }
}

fn node_mut<'a>(
    topology: &'a mut Topology,
    name: &NodeName,
) -> Result<&'a mut crate::topology::Node, EditError> {
    let node = topology.nodes.iter_mut().find(|node| node.name == *name);
    node.ok_or_else(|| EditError::UnknownNodeName(name.clone()))
}
