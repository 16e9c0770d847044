//! A member that takes over a state accepts only once it holds all that some
//! ready member had when this run of its process began.

use std::collections::{BTreeMap, BTreeSet};

use interlock_core::identity::{LogName, Mark, MessageNumber, NamespaceNumber, NodeNumber};

use crate::history::Record;

use super::{Evidence, Findings};

type Marks = BTreeMap<LogName, MessageNumber>;

/// One run of a node, and what others had when it began.
#[derive(Default)]
struct Run {
    others: BTreeMap<NodeNumber, Marks>,
    /// Members whose disk was replaced since: what they had counts no more.
    replaced: BTreeSet<NodeNumber>,
}

#[derive(Default)]
struct Story {
    held: BTreeMap<NodeNumber, Marks>,
    ready: BTreeSet<(NodeNumber, NamespaceNumber)>,
    runs: BTreeMap<NodeNumber, Run>,
}

pub(super) fn check(evidence: &Evidence<'_>, findings: &mut Findings) {
    let mut story = Story::default();
    for record in &evidence.history.records {
        match record {
            Record::Opened { node, logs, .. } => story.open(*node, logs),
            Record::Durable { node, log, mark } => {
                story.held.entry(*node).or_default().insert(*log, mark.m_id);
            }
            Record::Replaced { node, logs, .. } => {
                let marks = logs.iter().map(|(log, mark)| (*log, mark.m_id)).collect();
                story.held.insert(*node, marks);
                story.ready.retain(|(ready, _)| ready != node);
                story.runs.values_mut().for_each(|run| _ = run.replaced.insert(*node));
            }
            Record::Ready { node, namespace } => _ = story.ready.insert((*node, *namespace)),
            Record::Backfilled { node, namespace } => {
                if !story.is_whole(*node, *namespace) {
                    findings.broken(format!(
                        "node {node} is ready in {namespace} without the state of any member"
                    ));
                }
            }
            _ => {}
        }
    }
}

impl Story {
    fn open(&mut self, node: NodeNumber, logs: &[(LogName, Mark)]) {
        let marks = logs.iter().map(|(log, mark)| (*log, mark.m_id)).collect();
        self.held.insert(node, marks);
        let others = self
            .held
            .iter()
            .filter(|(other, _)| **other != node)
            .map(|(other, marks)| (*other, marks.clone()));
        let run = Run { others: others.collect(), replaced: BTreeSet::new() };
        self.runs.insert(node, run);
    }

    /// Whether a node holds what some member that is ready held when the node's
    /// run began.
    fn is_whole(&self, node: NodeNumber, namespace: NamespaceNumber) -> bool {
        let Some(run) = self.runs.get(&node) else { return false };
        let held = self.held.get(&node);
        let holds = |log: &LogName, m_id: MessageNumber| {
            held.and_then(|held| held.get(log)).is_some_and(|held| *held >= m_id)
        };
        run.others.iter().filter(|(other, _)| self.ready.contains(&(**other, namespace))).any(
            |(other, marks)| {
                run.replaced.contains(other)
                    || marks
                        .iter()
                        .filter(|(log, _)| log.namespace == namespace)
                        .all(|(log, m_id)| holds(log, *m_id))
            },
        ) || run.replaced.iter().any(|other| *other != node)
    }
}
