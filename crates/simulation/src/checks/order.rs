//! I4: along a path messages are applied in the order of their numbers, parents
//! first, and their stamps rise.

use std::collections::BTreeMap;

use interlock_core::clock::HybridTime;
use interlock_core::identity::{LogName, MessageName, MessageNumber};

use crate::history::Record;
use crate::machine::MachineName;

use super::{Evidence, Findings};

pub(super) fn check(evidence: &Evidence<'_>, findings: &mut Findings) {
    check_applied(evidence, findings);
    check_stamps(evidence, findings);
}

fn check_applied(evidence: &Evidence<'_>, findings: &mut Findings) {
    let mut applied: BTreeMap<MachineName, BTreeMap<LogName, MessageNumber>> = BTreeMap::new();
    for record in &evidence.history.records {
        match record {
            Record::Opened { machine, logs, .. } => {
                let marks = logs.iter().map(|(log, mark)| (*log, mark.m_id)).collect();
                applied.insert(*machine, marks);
            }
            Record::Applied { machine, name } => {
                let positions = applied.entry(*machine).or_default();
                if let Some(why) = out_of_order(evidence, positions, name) {
                    findings.broken(format!("node {machine}: {name} {why}"));
                }
                positions.insert(name.log, name.m_id);
            }
            _ => {}
        }
    }
}

fn out_of_order(
    evidence: &Evidence<'_>,
    positions: &BTreeMap<LogName, MessageNumber>,
    name: &MessageName,
) -> Option<String> {
    if let Some(position) = positions.get(&name.log) {
        return (name.m_id != position.next()).then(|| format!("is applied after {position}"));
    }
    // A log that is nowhere at the end was lost with a disk.
    let row = evidence.rows.get(&name.log)?;
    if row.first_m_id() != name.m_id {
        return Some("is applied before the log's first message".to_owned());
    }
    row.parent_names()
        .find(|parent| positions.get(&parent.log).is_none_or(|position| *position < parent.m_id))
        .map(|parent| format!("is applied before its parent {parent}"))
}

fn check_stamps(evidence: &Evidence<'_>, findings: &mut Findings) {
    let stamp_of = |name: &MessageName| evidence.messages.get(name).map(|message| message.stamp);
    for (name, message) in &evidence.messages {
        if evidence.still.holds(name) {
            continue;
        }
        let mut before: Vec<Option<HybridTime>> = Vec::new();
        match evidence.rows.get(&name.log) {
            Some(row) if row.first_m_id() == name.m_id => {
                before.extend(row.parent_names().map(|parent| stamp_of(&parent)));
            }
            _ => before.push(stamp_of(&MessageName { m_id: name.m_id.previous(), ..*name })),
        }
        if before.iter().flatten().any(|before| *before >= message.stamp) {
            findings.broken(format!("{name} is not stamped above what it follows"));
        }
    }
}
