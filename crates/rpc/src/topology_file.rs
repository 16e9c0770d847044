//! A topology written by hand: who holds what, without a control-plane.
//!
//! ```toml
//! version = 1                # raise it with every edit
//! regions = ["eu", "us"]
//!
//! [[groups]]
//! number = 1                 # numbers are given once, and never reused
//! name = "all"
//! regions = ["eu", "us"]
//!
//! [[nodes]]
//! number = 1
//! name = "eu-1"
//! region = "eu"
//! replication_address = "eu-1.example:7300"
//! client_address = "eu-1.example:7200"
//! # state = "active"         # or "leaving", with the list below; "removed"
//!
//! [[namespaces]]
//! number = 1
//! name = "news"
//! groups = ["all"]
//! # disk_cap_bytes = 0       # 0 is the node's default
//! # retention_age_seconds = 0  # how long messages are kept; 0 is for ever
//! # retention_bytes = 0      # trim the oldest beyond this; 0 is never
//! # when_full = "refuse"     # or "release": the slowest member gets a declared hole
//! # founders = ["eu-1"]      # by default all active nodes in the groups' regions
//! # leaving = ["us-1"]       # were members, and stay here until the others have all of theirs
//! ```
//!
//! All nodes must be given the same file. A founder takes up its namespaces with
//! an empty disk only when it is started with `--bootstrap`; what it has opened
//! it remembers itself, since nobody writes to this file but its owner.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::ops::Range;
use std::path::{Path, PathBuf};

use interlock_core::features::FIRST_FEATURE_LEVEL;
use interlock_core::identity::{
    FencingToken, GroupNumber, NamespaceNumber, NodeNumber, TopologyVersion,
};
use interlock_core::limits::{
    MAX_GROUPS, MAX_GROUPS_PER_MESSAGE, MAX_NAMESPACES, MAX_NODES, MAX_REGIONS,
};
use interlock_core::names::{GroupName, NameError, NamespaceName, NodeName, RegionName};
use interlock_core::topology::edit::check_address;
use interlock_core::topology::{
    Founder, Group, Namespace, Node, NodeState, Retention, Topology, WhenFull,
};
use serde::Deserialize;
use toml::Spanned;

#[cfg(test)]
mod tests;

/// Why a topology file cannot be used. It has to be edited.
#[derive(Debug, thiserror::Error)]
pub enum TopologyFileError {
    /// It cannot be read.
    #[error("reading the topology {}: {source}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// It is not what such a file looks like; the message shows the place.
    #[error("the topology {} is not well formed: {source}", file.display())]
    Syntax {
        /// The file.
        file: PathBuf,
        /// Where, and what.
        source: Box<toml::de::Error>,
    },
    /// It contradicts itself or a limit.
    #[error("{}:{line}: {message}", file.display())]
    Rule {
        /// The file.
        file: PathBuf,
        /// The line, from 1 on.
        line: usize,
        /// What is wrong there.
        message: String,
    },
}

/// Reads a file.
pub fn load(path: &Path) -> Result<Topology, TopologyFileError> {
    let text = fs::read_to_string(path)
        .map_err(|source| TopologyFileError::Read { path: path.to_owned(), source })?;
    parse(&text, path)
}

/// Reads a file's text; `file` is what errors call it.
pub fn parse(text: &str, file: &Path) -> Result<Topology, TopologyFileError> {
    let written: Written = toml::from_str(text).map_err(|source| TopologyFileError::Syntax {
        file: file.to_owned(),
        source: Box::new(source),
    })?;
    topology(written).map_err(|fault| TopologyFileError::Rule {
        file: file.to_owned(),
        line: line_of(text, fault.at),
        message: fault.message,
    })
}

/// The file as it is written.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Written {
    version: u64,
    #[serde(default = "first_generation")]
    generation: u64,
    regions: Spanned<Vec<Spanned<String>>>,
    #[serde(default)]
    groups: Vec<WrittenGroup>,
    #[serde(default)]
    nodes: Vec<WrittenNode>,
    #[serde(default)]
    namespaces: Vec<WrittenNamespace>,
}

const fn first_generation() -> u64 {
    1
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct WrittenGroup {
    number: Spanned<u32>,
    name: Spanned<String>,
    regions: Spanned<Vec<Spanned<String>>>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct WrittenNode {
    number: Spanned<u32>,
    name: Spanned<String>,
    region: Spanned<String>,
    replication_address: Spanned<String>,
    client_address: Spanned<String>,
    state: Option<Spanned<WrittenState>>,
}

#[derive(Clone, Copy, Deserialize)]
#[serde(rename_all = "lowercase")]
enum WrittenState {
    Active,
    Leaving,
    Removed,
}

#[derive(Clone, Copy, Default, Deserialize)]
#[serde(rename_all = "lowercase")]
enum WrittenWhenFull {
    #[default]
    Refuse,
    Release,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct WrittenNamespace {
    number: Spanned<u32>,
    name: Spanned<String>,
    groups: Spanned<Vec<Spanned<String>>>,
    #[serde(default)]
    disk_cap_bytes: u64,
    #[serde(default)]
    retention_age_seconds: u64,
    #[serde(default)]
    retention_bytes: u64,
    #[serde(default)]
    when_full: WrittenWhenFull,
    founders: Option<Vec<Spanned<String>>>,
    #[serde(default)]
    leaving: Vec<Spanned<String>>,
}

/// What is wrong, and at which byte.
struct Fault {
    at: usize,
    message: String,
}

impl Fault {
    fn at<T>(place: &Spanned<T>, message: impl Into<String>) -> Self {
        Self { at: place.span().start, message: message.into() }
    }
}

fn topology(written: Written) -> Result<Topology, Fault> {
    let mut topology = Topology {
        version: TopologyVersion { generation: written.generation, number: written.version },
        ..Topology::default()
    };
    // Names and numbers that were seen, for one kind of thing at a time.
    let mut regions = Seen::new("region");
    for name in bounded(&written.regions, MAX_REGIONS, "regions")? {
        topology.regions.push(parsed(name, RegionName::parse)?);
        regions.name(name)?;
    }
    add_groups(&mut topology, &written.groups)?;
    add_nodes(&mut topology, &written.nodes)?;
    add_namespaces(&mut topology, &written.namespaces)?;
    check_leaving(&topology, &written.nodes)?;
    // All of this is checked above, with its line; this is the rule itself.
    topology.validate().map_err(|error| Fault { at: 0, message: error.to_string() })?;
    Ok(topology)
}

fn add_groups(topology: &mut Topology, groups: &[WrittenGroup]) -> Result<(), Fault> {
    let mut seen = Seen::new("group");
    for group in groups {
        seen.both(&group.number, &group.name, MAX_GROUPS)?;
        let regions = bounded(&group.regions, MAX_REGIONS, "regions")?
            .iter()
            .map(|region| known_region(topology, region))
            .collect::<Result<_, _>>()?;
        topology.groups.push(Group {
            number: GroupNumber::new(*group.number.get_ref()),
            name: parsed(&group.name, GroupName::parse)?,
            regions,
        });
    }
    Ok(())
}

fn add_nodes(topology: &mut Topology, nodes: &[WrittenNode]) -> Result<(), Fault> {
    let mut seen = Seen::new("node");
    for node in nodes {
        seen.both(&node.number, &node.name, MAX_NODES)?;
        topology.nodes.push(Node {
            number: NodeNumber::new(*node.number.get_ref()),
            name: parsed(&node.name, NodeName::parse)?,
            region: known_region(topology, &node.region)?,
            replication_address: address("replication_address", &node.replication_address)?,
            client_address: address("client_address", &node.client_address)?,
            state: match node.state.as_ref().map(Spanned::get_ref) {
                None | Some(WrittenState::Active) => NodeState::Active,
                Some(WrittenState::Leaving) => NodeState::Leaving,
                Some(WrittenState::Removed) => NodeState::Removed,
            },
            fencing_token: FencingToken::default(),
            // Whoever wrote the file decides what is used; nothing is asked of builds.
            feature_level: FIRST_FEATURE_LEVEL,
        });
    }
    Ok(())
}

fn add_namespaces(topology: &mut Topology, namespaces: &[WrittenNamespace]) -> Result<(), Fault> {
    let mut seen = Seen::new("namespace");
    for namespace in namespaces {
        seen.both(&namespace.number, &namespace.name, MAX_NAMESPACES)?;
        let groups = bounded(&namespace.groups, MAX_GROUPS_PER_MESSAGE, "groups")?;
        if groups.is_empty() {
            return Err(Fault::at(
                &namespace.groups,
                "a namespace is placed on one group at least",
            ));
        }
        let mut once = Seen::new("group");
        let mut placed = Vec::with_capacity(groups.len());
        for group in groups {
            once.name(group)?;
            let name = parsed(group, GroupName::parse)?;
            if topology.group_by_name(&name).is_none() {
                return Err(Fault::at(group, format!("there is no group {name}")));
            }
            placed.push(name);
        }
        let number = NamespaceNumber::new(*namespace.number.get_ref());
        topology.namespaces.push(Namespace {
            number,
            name: parsed(&namespace.name, NamespaceName::parse)?,
            groups: placed,
            disk_cap_bytes: namespace.disk_cap_bytes,
            retention: Retention {
                age_seconds: namespace.retention_age_seconds,
                bytes: namespace.retention_bytes,
                when_full: match namespace.when_full {
                    WrittenWhenFull::Refuse => WhenFull::Refuse,
                    WrittenWhenFull::Release => WhenFull::Release,
                },
            },
            founders: Vec::new(),
            leaving: Vec::new(),
        });
        let founders = founders(topology, number, namespace)?;
        let leaving = leaving(topology, number, &namespace.leaving)?;
        let added = topology.namespaces.last_mut().expect("was pushed above");
        added.leaving = leaving;
        added.founders = founders.into_iter().map(|node| Founder { node, opened: false }).collect();
    }
    Ok(())
}

fn leaving(
    topology: &Topology,
    number: NamespaceNumber,
    names: &[Spanned<String>],
) -> Result<Vec<NodeNumber>, Fault> {
    let mut once = Seen::new("leaving node");
    let numbered = names.iter().map(|name| {
        once.name(name)?;
        let node = parsed(name, NodeName::parse)?;
        let unknown = || Fault::at(name, format!("there is no node {node}"));
        let known = topology.node_by_name(&node).ok_or_else(unknown)?;
        if topology.is_member(known.number, number) {
            let message = format!(
                "the node {node} is a member of this namespace: it leaves with the state \
                 \"leaving\", or when no group of the namespace has its region"
            );
            return Err(Fault::at(name, message));
        }
        Ok(known.number)
    });
    numbered.collect()
}

/// A node that leaves the mesh and is on no list would be no holder of anything: what it
/// alone has would stay with it.
fn check_leaving(topology: &Topology, nodes: &[WrittenNode]) -> Result<(), Fault> {
    let listed: BTreeSet<NodeNumber> =
        topology.namespaces.iter().flat_map(|namespace| namespace.leaving.clone()).collect();
    for (written, node) in nodes.iter().zip(&topology.nodes) {
        let Some(state) = &written.state else { continue };
        if node.state == NodeState::Leaving && !listed.contains(&node.number) {
            let message = format!(
                "the node {} leaves and no namespace lists it: add it to `leaving` of its \
                 namespaces, or write \"removed\" if it has left them all",
                node.name
            );
            return Err(Fault::at(state, message));
        }
    }
    Ok(())
}

fn founders(
    topology: &Topology,
    number: NamespaceNumber,
    namespace: &WrittenNamespace,
) -> Result<Vec<NodeNumber>, Fault> {
    let Some(names) = &namespace.founders else {
        return Ok(topology.members(number).iter().map(|member| member.number).collect());
    };
    let mut once = Seen::new("founder");
    let mut founders = Vec::with_capacity(names.len());
    for name in names {
        once.name(name)?;
        let node = parsed(name, NodeName::parse)?;
        let node = topology
            .node_by_name(&node)
            .ok_or_else(|| Fault::at(name, format!("there is no node {node}")))?;
        if !topology.is_placed_in(number, &node.region) {
            let message = format!(
                "the node {} is in region {}, which is in no group of this namespace",
                node.name, node.region
            );
            return Err(Fault::at(name, message));
        }
        founders.push(node.number);
    }
    Ok(founders)
}

/// Names and numbers of one kind, each of which may come once.
struct Seen {
    kind: &'static str,
    names: BTreeMap<String, Range<usize>>,
    numbers: BTreeMap<u32, Range<usize>>,
}

impl Seen {
    fn new(kind: &'static str) -> Self {
        Self { kind, names: BTreeMap::new(), numbers: BTreeMap::new() }
    }

    fn name(&mut self, name: &Spanned<String>) -> Result<(), Fault> {
        match self.names.insert(name.get_ref().clone(), name.span()) {
            Some(_) => {
                let message = format!("the {} {} is there already", self.kind, name.get_ref());
                Err(Fault::at(name, message))
            }
            None => Ok(()),
        }
    }

    fn both(
        &mut self,
        number: &Spanned<u32>,
        name: &Spanned<String>,
        limit: usize,
    ) -> Result<(), Fault> {
        self.name(name)?;
        if *number.get_ref() == 0 {
            return Err(Fault::at(number, "numbers begin with 1"));
        }
        if self.numbers.insert(*number.get_ref(), number.span()).is_some() {
            let message =
                format!("the {} number {number} is taken", self.kind, number = number.get_ref());
            return Err(Fault::at(number, message));
        }
        if self.names.len() > limit {
            let message = format!("there may be {limit} {}s at most", self.kind);
            return Err(Fault::at(name, message));
        }
        Ok(())
    }
}

fn parsed<T>(
    text: &Spanned<String>,
    parse: impl FnOnce(&str) -> Result<T, NameError>,
) -> Result<T, Fault> {
    parse(text.get_ref()).map_err(|error| Fault::at(text, format!("{:?}: {error}", text.get_ref())))
}

fn known_region(topology: &Topology, text: &Spanned<String>) -> Result<RegionName, Fault> {
    let name = parsed(text, RegionName::parse)?;
    if topology.regions.contains(&name) {
        Ok(name)
    } else {
        Err(Fault::at(text, format!("the region {name} is not in `regions`")))
    }
}

fn address(field: &'static str, text: &Spanned<String>) -> Result<String, Fault> {
    check_address(field, text.get_ref()).map_err(|error| Fault::at(text, error.to_string()))?;
    Ok(text.get_ref().clone())
}

fn bounded<'a>(
    list: &'a Spanned<Vec<Spanned<String>>>,
    limit: usize,
    kind: &str,
) -> Result<&'a [Spanned<String>], Fault> {
    if list.get_ref().len() > limit {
        return Err(Fault::at(list, format!("there may be {limit} {kind} at most")));
    }
    Ok(list.get_ref())
}

fn line_of(text: &str, byte: usize) -> usize {
    let before = text.as_bytes().get(..byte).unwrap_or(text.as_bytes());
    1 + before.iter().filter(|byte| **byte == b'\n').count()
}
