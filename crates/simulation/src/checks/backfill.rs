//! A member that takes over a state accepts only once it holds all that some
//! ready member had when it began to: when this run of its process began, or
//! when it became a member.

use std::collections::{BTreeMap, BTreeSet};

use interlock_core::identity::{LogName, Mark, MessageNumber, NamespaceNumber, NodeNumber};
use interlock_core::topology::Topology;

use crate::history::Record;
use crate::machine::MachineName;

use super::{Evidence, Findings};

type Marks = BTreeMap<LogName, MessageNumber>;

/// What others had when a node began to take over a namespace.
#[derive(Clone, Default)]
struct Beginning {
    others: BTreeMap<MachineName, Marks>,
    /// Those who had some of it and whose disk was replaced since: what they had counts
    /// no more.
    replaced: BTreeSet<MachineName>,
    /// Members that were ready and have left since.
    were_ready: BTreeSet<MachineName>,
}

#[derive(Default)]
struct Story<'a> {
    topology: Option<&'a Topology>,
    held: BTreeMap<MachineName, Marks>,
    ready: BTreeSet<(MachineName, NamespaceNumber)>,
    beginnings: BTreeMap<(MachineName, NamespaceNumber), Beginning>,
}

pub(super) fn check(evidence: &Evidence<'_>, findings: &mut Findings) {
    let mut story = Story::default();
    for record in &evidence.history.records {
        match record {
            Record::Opened { machine, logs, .. } => {
                story.hold(*machine, logs.iter().map(|(log, mark)| (log, mark)));
                for namespace in story.namespaces_of(machine.node) {
                    story.begin(*machine, namespace);
                }
            }
            Record::Durable { machine, log, mark } => {
                story.held.entry(*machine).or_default().insert(*log, mark.m_id);
            }
            Record::Replaced { machine, logs, .. } => {
                story.forget(*machine);
                story.hold(*machine, logs.iter());
            }
            Record::Retired { machine } | Record::Gone { machine, .. } => story.forget(*machine),
            Record::Purged { machine, namespace } | Record::Left { machine, namespace } => {
                story.leave(*machine, *namespace);
            }
            Record::TopologyEdited(topology) => {
                let before = story.topology.replace(topology);
                let is_new = |node, namespace| {
                    before.is_some_and(|before| !before.is_member(node, namespace))
                };
                for node in topology.nodes.iter().map(|node| node.number) {
                    for namespace in topology.namespaces_of(node) {
                        if is_new(node, namespace) {
                            story.begin_all_of(node, namespace);
                        }
                    }
                }
            }
            Record::Ready { machine, namespace } => {
                story.ready.insert((*machine, *namespace));
            }
            Record::Backfilled { machine, namespace } if !story.is_whole(*machine, *namespace) => {
                findings.broken(format!(
                    "node {machine} is ready in {namespace} without the state of any member"
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

    /// A machine's disk is another, or gone: what it had counts no more.
    fn forget(&mut self, machine: MachineName) {
        let held = self.held.remove(&machine).unwrap_or_default();
        for ((_, namespace), beginning) in &mut self.beginnings {
            let is_ready = self.ready.contains(&(machine, *namespace));
            if is_ready || held.keys().any(|log| log.namespace == *namespace) {
                beginning.replaced.insert(machine);
            }
        }
        self.ready.retain(|(ready, _)| *ready != machine);
    }

    /// A namespace is left, and its state there was whole until then: whoever began
    /// before may have taken it from there.
    fn leave(&mut self, machine: MachineName, namespace: NamespaceNumber) {
        if self.ready.remove(&(machine, namespace)) {
            let begun = self.beginnings.iter_mut().filter(|((_, of), _)| *of == namespace);
            begun.for_each(|(_, beginning)| _ = beginning.were_ready.insert(machine));
        }
        if let Some(held) = self.held.get_mut(&machine) {
            held.retain(|log, _| log.namespace != namespace);
        }
    }

    /// A node becomes a member with all its machines.
    fn begin_all_of(&mut self, node: NodeNumber, namespace: NamespaceNumber) {
        let machines = self.held.keys().copied().filter(|machine| machine.node == node);
        for machine in machines.collect::<Vec<_>>() {
            self.begin(machine, namespace);
        }
    }

    fn hold<'a>(
        &mut self,
        machine: MachineName,
        logs: impl Iterator<Item = (&'a LogName, &'a Mark)>,
    ) {
        self.held.insert(machine, logs.map(|(log, mark)| (*log, mark.m_id)).collect());
    }

    fn begin(&mut self, machine: MachineName, namespace: NamespaceNumber) {
        let others = self.held.iter().filter(|(other, _)| **other != machine);
        let others = others.map(|(other, marks)| (*other, marks.clone())).collect();
        let beginning = Beginning { others, ..Beginning::default() };
        self.beginnings.insert((machine, namespace), beginning);
    }

    /// Whether a node holds what some member that is ready held at the
    /// beginning.
    fn is_whole(&self, machine: MachineName, namespace: NamespaceNumber) -> bool {
        let Some(beginning) = self.beginnings.get(&(machine, namespace)) else { return false };
        let held = self.held.get(&machine);
        let holds = |log: &LogName, m_id: MessageNumber| {
            held.and_then(|held| held.get(log)).is_some_and(|held| *held >= m_id)
        };
        let is_held = |other: &MachineName| {
            let marks = beginning.others.get(other).into_iter().flatten();
            let mut marks = marks.filter(|(log, _)| log.namespace == namespace);
            beginning.replaced.contains(other) || marks.all(|(log, m_id)| holds(log, *m_id))
        };
        let ready = self.ready.iter().filter(|(_, of)| *of == namespace).map(|(other, _)| other);
        let mut ready = ready.chain(&beginning.were_ready).filter(|other| **other != machine);
        ready.any(is_held) || beginning.replaced.iter().any(|other| *other != machine)
    }
}
