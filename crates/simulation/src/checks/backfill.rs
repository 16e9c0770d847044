//! A member that takes over a state accepts only once it holds all that some
//! ready member had when it began to: when this run of its process began, or
//! when it became a member.

use std::collections::{BTreeMap, BTreeSet};

use interlock_core::identity::{LogName, Mark, MessageNumber, NamespaceNumber, NodeNumber};
use interlock_core::topology::Topology;

use crate::history::Record;

use super::{Evidence, Findings};

type Marks = BTreeMap<LogName, MessageNumber>;

/// What others had when a node began to take over a namespace.
#[derive(Clone, Default)]
struct Beginning {
    others: BTreeMap<NodeNumber, Marks>,
    /// Members whose disk was replaced since: what they had counts no more.
    replaced: BTreeSet<NodeNumber>,
}

#[derive(Default)]
struct Story<'a> {
    topology: Option<&'a Topology>,
    held: BTreeMap<NodeNumber, Marks>,
    ready: BTreeSet<(NodeNumber, NamespaceNumber)>,
    beginnings: BTreeMap<(NodeNumber, NamespaceNumber), Beginning>,
}

pub(super) fn check(evidence: &Evidence<'_>, findings: &mut Findings) {
    let mut story = Story::default();
    for record in &evidence.history.records {
        match record {
            Record::Opened { node, logs, .. } => {
                story.hold(*node, logs.iter().map(|(log, mark)| (log, mark)));
                for namespace in story.namespaces_of(*node) {
                    story.begin(*node, namespace);
                }
            }
            Record::Durable { node, log, mark } => {
                story.held.entry(*node).or_default().insert(*log, mark.m_id);
            }
            Record::Replaced { node, logs, .. } => {
                story.hold(*node, logs.iter());
                story.ready.retain(|(ready, _)| ready != node);
                story.beginnings.values_mut().for_each(|it| _ = it.replaced.insert(*node));
            }
            Record::TopologyEdited(topology) => {
                let before = story.topology.replace(topology);
                let is_new = |node, namespace| {
                    before.is_some_and(|before| !before.is_member(node, namespace))
                };
                for node in topology.nodes.iter().map(|node| node.number) {
                    for namespace in topology.namespaces_of(node) {
                        if is_new(node, namespace) {
                            story.begin(node, namespace);
                        }
                    }
                }
            }
            Record::Ready { node, namespace } => _ = story.ready.insert((*node, *namespace)),
            Record::Backfilled { node, namespace } if !story.is_whole(*node, *namespace) => {
                findings.broken(format!(
                    "node {node} is ready in {namespace} without the state of any member"
                ));
            }
            _ => {}
        }
    }
}

impl Story<'_> {
    fn namespaces_of(&self, node: NodeNumber) -> Vec<NamespaceNumber> {
        self.topology.map_or_else(Vec::new, |topology| topology.namespaces_of(node))
    }

    fn hold<'a>(&mut self, node: NodeNumber, logs: impl Iterator<Item = (&'a LogName, &'a Mark)>) {
        self.held.insert(node, logs.map(|(log, mark)| (*log, mark.m_id)).collect());
    }

    fn begin(&mut self, node: NodeNumber, namespace: NamespaceNumber) {
        let others = self.held.iter().filter(|(other, _)| **other != node);
        let others = others.map(|(other, marks)| (*other, marks.clone())).collect();
        let beginning = Beginning { others, replaced: BTreeSet::new() };
        self.beginnings.insert((node, namespace), beginning);
    }

    /// Whether a node holds what some member that is ready held at the
    /// beginning.
    fn is_whole(&self, node: NodeNumber, namespace: NamespaceNumber) -> bool {
        let Some(beginning) = self.beginnings.get(&(node, namespace)) else { return false };
        let held = self.held.get(&node);
        let holds = |log: &LogName, m_id: MessageNumber| {
            held.and_then(|held| held.get(log)).is_some_and(|held| *held >= m_id)
        };
        let is_held = |other: &NodeNumber| {
            let marks = beginning.others.get(other).into_iter().flatten();
            let mut marks = marks.filter(|(log, _)| log.namespace == namespace);
            beginning.replaced.contains(other) || marks.all(|(log, m_id)| holds(log, *m_id))
        };
        let ready = self.ready.iter().filter(|(other, of)| *of == namespace && *other != node);
        ready.map(|(other, _)| other).any(is_held)
            || beginning.replaced.iter().any(|other| *other != node)
    }
}
