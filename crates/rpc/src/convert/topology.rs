//! The topology document. A document from outside is checked as a whole, so
//! that nobody works with one that contradicts itself.

use interlock_core::features::FIRST_FEATURE_LEVEL;
use interlock_core::identity::{
    FeatureLevel, FencingToken, GroupNumber, NamespaceNumber, NodeNumber,
};
use interlock_core::limits::{
    MAX_ADDRESS_BYTES, MAX_GROUPS, MAX_GROUPS_PER_MESSAGE, MAX_NAMESPACES, MAX_NODES, MAX_REGIONS,
};
use interlock_core::topology::{
    Founder, Group, Namespace, Node, NodeState, Retention, Topology, WhenFull,
};

use super::identity::{group_name, namespace_name, node_name, region_name, topology_version};
use super::{IntoCore, IntoWire, InvalidField, at_most, repeated};
use crate::v1;

impl IntoCore for v1::Topology {
    type Core = Topology;

    fn into_core(self) -> Result<Topology, InvalidField> {
        at_most(self.regions.len(), MAX_REGIONS, "regions")?;
        at_most(self.groups.len(), MAX_GROUPS, "groups")?;
        at_most(self.nodes.len(), MAX_NODES, "nodes")?;
        at_most(self.namespaces.len(), MAX_NAMESPACES, "namespaces")?;
        let topology = Topology {
            version: topology_version(self.version),
            regions: self
                .regions
                .iter()
                .enumerate()
                .map(|(index, region)| region_name(&region.name, &format!("regions[{index}].name")))
                .collect::<Result<_, _>>()?,
            groups: repeated(self.groups, "groups")?,
            nodes: repeated(self.nodes, "nodes")?,
            namespaces: repeated(self.namespaces, "namespaces")?,
        };
        topology.validate().map_err(|error| InvalidField::new("", error))?;
        Ok(topology)
    }
}

impl IntoWire for &Topology {
    type Wire = v1::Topology;

    fn into_wire(self) -> v1::Topology {
        v1::Topology {
            version: Some(self.version.into_wire()),
            regions: self
                .regions
                .iter()
                .map(|region| v1::Region { name: region.as_str().to_owned() })
                .collect(),
            groups: self.groups.iter().map(IntoWire::into_wire).collect(),
            nodes: self.nodes.iter().map(IntoWire::into_wire).collect(),
            namespaces: self.namespaces.iter().map(IntoWire::into_wire).collect(),
        }
    }
}

impl IntoCore for v1::Group {
    type Core = Group;

    fn into_core(self) -> Result<Group, InvalidField> {
        at_most(self.regions.len(), MAX_REGIONS, "regions")?;
        Ok(Group {
            number: GroupNumber::new(self.number),
            name: group_name(&self.name, "name")?,
            regions: self
                .regions
                .iter()
                .enumerate()
                .map(|(index, region)| region_name(region, &format!("regions[{index}]")))
                .collect::<Result<_, _>>()?,
        })
    }
}

impl IntoWire for &Group {
    type Wire = v1::Group;

    fn into_wire(self) -> v1::Group {
        v1::Group {
            number: self.number.get(),
            name: self.name.as_str().to_owned(),
            regions: self.regions.iter().map(|region| region.as_str().to_owned()).collect(),
        }
    }
}

impl IntoCore for v1::Node {
    type Core = Node;

    fn into_core(self) -> Result<Node, InvalidField> {
        let state = match self.state() {
            v1::NodeState::Active => NodeState::Active,
            v1::NodeState::Leaving => NodeState::Leaving,
            v1::NodeState::Removed => NodeState::Removed,
            v1::NodeState::Unspecified => return Err(InvalidField::new("state", "is unknown")),
        };
        Ok(Node {
            number: NodeNumber::new(self.number),
            name: node_name(&self.name, "name")?,
            region: region_name(&self.region, "region")?,
            replication_address: address(self.replication_address, "replication_address")?,
            client_address: address(self.client_address, "client_address")?,
            state,
            fencing_token: FencingToken::new(self.fencing_token),
            feature_level: FeatureLevel::new(self.feature_level).max(FIRST_FEATURE_LEVEL),
        })
    }
}

impl IntoWire for &Node {
    type Wire = v1::Node;

    fn into_wire(self) -> v1::Node {
        v1::Node {
            number: self.number.get(),
            name: self.name.as_str().to_owned(),
            region: self.region.as_str().to_owned(),
            replication_address: self.replication_address.clone(),
            client_address: self.client_address.clone(),
            state: self.state.into_wire().into(),
            fencing_token: self.fencing_token.get(),
            feature_level: self.feature_level.get(),
        }
    }
}

impl IntoWire for NodeState {
    type Wire = v1::NodeState;

    fn into_wire(self) -> v1::NodeState {
        match self {
            Self::Active => v1::NodeState::Active,
            Self::Leaving => v1::NodeState::Leaving,
            Self::Removed => v1::NodeState::Removed,
        }
    }
}

/// `host:port`, by its length; whether it can be reached only use can tell.
pub fn address(text: String, field: &str) -> Result<String, InvalidField> {
    if text.len() > MAX_ADDRESS_BYTES {
        return Err(InvalidField::new(field, format!("is longer than {MAX_ADDRESS_BYTES} bytes")));
    }
    Ok(text)
}

impl IntoCore for v1::Retention {
    type Core = Retention;

    fn into_core(self) -> Result<Retention, InvalidField> {
        let when_full = match v1::WhenFull::try_from(self.when_full) {
            Ok(v1::WhenFull::Unspecified | v1::WhenFull::Refuse) => WhenFull::Refuse,
            Ok(v1::WhenFull::Release) => WhenFull::Release,
            Err(_) => return Err(InvalidField::new("when_full", "is not known to this build")),
        };
        Ok(Retention { age_seconds: self.age_seconds, bytes: self.bytes, when_full })
    }
}

impl IntoWire for Retention {
    type Wire = v1::Retention;

    fn into_wire(self) -> v1::Retention {
        let when_full = match self.when_full {
            WhenFull::Refuse => v1::WhenFull::Refuse,
            WhenFull::Release => v1::WhenFull::Release,
        };
        v1::Retention {
            age_seconds: self.age_seconds,
            bytes: self.bytes,
            when_full: when_full.into(),
        }
    }
}

impl IntoCore for v1::Namespace {
    type Core = Namespace;

    fn into_core(self) -> Result<Namespace, InvalidField> {
        at_most(self.groups.len(), MAX_GROUPS_PER_MESSAGE, "groups")?;
        at_most(self.founders.len(), MAX_NODES, "founders")?;
        at_most(self.leaving.len(), MAX_NODES, "leaving")?;
        Ok(Namespace {
            number: NamespaceNumber::new(self.number),
            name: namespace_name(&self.name, "name")?,
            groups: self
                .groups
                .iter()
                .enumerate()
                .map(|(index, group)| group_name(group, &format!("groups[{index}]")))
                .collect::<Result<_, _>>()?,
            disk_cap_bytes: self.disk_cap_bytes,
            retention: self.retention.unwrap_or_default().into_core()?,
            founders: self
                .founders
                .into_iter()
                .map(|founder| Founder {
                    node: NodeNumber::new(founder.node),
                    opened: founder.opened,
                })
                .collect(),
            leaving: self.leaving.into_iter().map(NodeNumber::new).collect(),
        })
    }
}

impl IntoWire for &Namespace {
    type Wire = v1::Namespace;

    fn into_wire(self) -> v1::Namespace {
        v1::Namespace {
            number: self.number.get(),
            name: self.name.as_str().to_owned(),
            groups: self.groups.iter().map(|group| group.as_str().to_owned()).collect(),
            disk_cap_bytes: self.disk_cap_bytes,
            retention: Some(self.retention.into_wire()),
            founders: self
                .founders
                .iter()
                .map(|founder| v1::Founder { node: founder.node.get(), opened: founder.opened })
                .collect(),
            leaving: self.leaving.iter().map(|node| node.get()).collect(),
        }
    }
}
