//! I4: along a path messages are applied in the order of their numbers, parents
//! first, and their stamps rise.

use std::collections::BTreeMap;

use interlock_core::clock::HybridTime;
use interlock_core::identity::{LogName, MessageName, MessageNumber};
use interlock_core::replication::rows::Row;

use crate::history::Record;
use crate::machine::MachineName;

use super::{Evidence, Findings};

pub(super) fn check(evidence: &Evidence<'_>, findings: &mut Findings) {
    check_opened(evidence, findings);
    check_applied(evidence, findings);
    check_stamps(evidence, findings);
}

/// What logs go on from that is not held.
pub(crate) fn missing_parents<'a>(
    held: &BTreeMap<LogName, MessageNumber>,
    rows: impl Iterator<Item = &'a Row>,
) -> impl Iterator<Item = (LogName, MessageName)> {
    let parents = rows.flat_map(|row| row.parent_names().map(|parent| (row.log, parent)));
    parents.filter(|(_, parent)| held.get(&parent.log).is_none_or(|mark| *mark < parent.m_id))
}

/// What an opening leaves stands on what it goes on from.
fn check_opened(evidence: &Evidence<'_>, findings: &mut Findings) {
    let mut rows: BTreeMap<LogName, &Row> = BTreeMap::new();
    for record in &evidence.history.records {
        match record {
            Record::Appended { row: Some(row), .. } | Record::HoleTaken { row: Some(row), .. } => {
                rows.insert(row.log, row);
            }
            Record::Opened { machine, logs, .. } => {
                let held: BTreeMap<LogName, MessageNumber> =
                    logs.iter().map(|(log, mark)| (*log, mark.m_id)).collect();
                let rows = held.keys().filter_map(|log| rows.get(log).copied());
                for (log, parent) in missing_parents(&held, rows) {
                    findings.broken(format!(
                        "node {machine} opens {log}, which goes on from {parent}, without that"
                    ));
                }
            }
            _ => {}
        }
    }
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
            Record::HoleApplied { machine, log, through } => {
                let position = applied.entry(*machine).or_default().insert(*log, *through);
                if let Some(position) = position.filter(|position| *position >= *through) {
                    findings.broken(format!(
                        "node {machine}: a hole of {log} up to {through} after {position}"
                    ));
                }
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

#[cfg(test)]
mod tests {
    use interlock_core::identity::{
        ChainHash, Incarnation, NamespaceNumber, NodeNumber, ParentPoint, PathName, ShardNumber,
    };

    use super::*;

    #[test]
    fn what_a_log_goes_on_from_is_held() {
        let incarnation = |bits| Incarnation::new(bits).expect("not zero");
        let (namespace, shard) = (NamespaceNumber::new(1), ShardNumber::new(0));
        let path = PathName { namespace, shard, origin: NodeNumber::new(1) };
        let (parent, child) = (path.log(incarnation(7)), path.log(incarnation(8)));
        let (m_id, hash) = (MessageNumber::new(5), ChainHash::EMPTY);
        let parents = vec![ParentPoint { incarnation: incarnation(7), m_id, hash }];
        let rows = [Row { log: parent, parents: Vec::new() }, Row { log: child, parents }];
        let missing = |held: &[(LogName, u64)]| {
            let held = held.iter().map(|(log, m_id)| (*log, MessageNumber::new(*m_id))).collect();
            missing_parents(&held, rows.iter()).collect::<Vec<_>>()
        };
        assert_eq!(missing(&[(parent, 5), (child, 6)]), []);
        let lacks = [(child, MessageName { log: parent, m_id })];
        assert_eq!(missing(&[(parent, 4), (child, 6)]), lacks);
        assert_eq!(missing(&[(child, 6)]), lacks);
    }
}
