//! I10, second half: a process that has heard of another one's registration under
//! its name accepts nothing more, and in the end each name has one process.

use std::collections::{BTreeMap, BTreeSet};

use interlock_core::identity::{FencingToken, Incarnation, LogName, NodeNumber};

use crate::history::Record;
use crate::machine::MachineName;

use super::{Evidence, Findings};

/// A process under its name.
struct Holder {
    incarnation: Incarnation,
    token: FencingToken,
    superseded_by: Option<FencingToken>,
}

/// The processes as the history tells them.
#[derive(Default)]
struct Story {
    holders: BTreeMap<MachineName, Holder>,
}

pub(super) fn check(evidence: &Evidence<'_>, findings: &mut Findings) {
    let mut story = Story::default();
    for record in &evidence.history.records {
        story.take(record);
        if let Record::Appended { machine, name, .. } = record
            && let Some(holder) = story.acceptor(*machine, &name.log)
            && let Some(by) = holder.superseded_by
        {
            findings.broken(format!(
                "node {machine} accepted {name} with token {} and knew of token {by}",
                holder.token
            ));
        }
    }
    let mut names: BTreeSet<NodeNumber> = BTreeSet::new();
    for (machine, holder) in &story.holders {
        if !names.insert(machine.node) {
            findings.broken(format!("node {} has two processes at the end", machine.node));
        }
        if let Some(by) = holder.superseded_by {
            findings.broken(format!("node {machine} is left though token {by} was given out"));
        }
    }
}

/// How many messages a process accepted beside another one of its name.
pub(super) fn count_accepted_beside(evidence: &Evidence<'_>) -> u64 {
    let mut story = Story::default();
    let mut count = 0;
    for record in &evidence.history.records {
        story.take(record);
        if let Record::Appended { machine, name, .. } = record {
            let is_own = story.acceptor(*machine, &name.log).is_some();
            let has_other =
                || story.holders.keys().any(|it| it.node == machine.node && it != machine);
            count += u64::from(is_own && has_other());
        }
    }
    count
}

impl Story {
    fn take(&mut self, record: &Record) {
        match record {
            Record::Opened { machine, incarnation, token, .. } => {
                let holder =
                    Holder { incarnation: *incarnation, token: *token, superseded_by: None };
                self.holders.insert(*machine, holder);
            }
            Record::Registered { machine, token } => {
                if let Some(holder) = self.holders.get_mut(machine) {
                    holder.token = *token;
                }
            }
            Record::Superseded { machine, by } => {
                if let Some(holder) = self.holders.get_mut(machine) {
                    holder.superseded_by = Some(*by);
                }
            }
            Record::Replaced { machine, .. }
            | Record::Retired { machine }
            | Record::Gone { machine, .. } => {
                self.holders.remove(machine);
            }
            _ => {}
        }
    }

    /// The process at a machine, if a message of this log is its own.
    fn acceptor(&self, machine: MachineName, log: &LogName) -> Option<&Holder> {
        self.holders
            .get(&machine)
            .filter(|holder| log.origin == machine.node && log.incarnation == holder.incarnation)
    }
}
