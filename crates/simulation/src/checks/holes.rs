//! I2, where messages are missing: nothing is trimmed that a member of the namespace
//! lacks, unless that is declared; a hole is taken only over what somebody trimmed; and
//! what is missing at the end was. Each member's index says of every channel how far its
//! messages may be missing.

use std::collections::BTreeMap;

use interlock_core::identity::{LogName, Mark, MessageName, MessageNumber};
use interlock_core::message::MessageKind;
use interlock_core::projection::channel_index::ChannelHash;

use crate::history::Record;

use super::{Evidence, Findings};

pub(super) fn check(evidence: &Evidence<'_>, findings: &mut Findings) {
    let undeclared = evidence.trims.undeclared();
    undeclared.iter().for_each(|what| findings.broken(what.clone()));
    taken_untrimmed(&evidence.history.records).for_each(|what| findings.broken(what));
    for (node, state) in &evidence.end.nodes {
        for (log, held) in &state.logs {
            for (from, through) in held.missing() {
                if !evidence.trims.covers(*node, log, (from, through)) {
                    findings.broken(format!(
                        "node {node} lacks {log} {from}..{through}, which it never let go of"
                    ));
                }
            }
        }
    }
    check_trim_points(evidence, findings);
}

/// Holes that were taken over what nobody had trimmed before.
fn taken_untrimmed(records: &[Record]) -> impl Iterator<Item = String> {
    let mut trimmed: BTreeMap<LogName, MessageNumber> = BTreeMap::new();
    records.iter().filter_map(move |record| match record {
        Record::Trimmed { log, through, .. } => {
            let highest = trimmed.entry(*log).or_default();
            *highest = *through.max(highest);
            None
        }
        Record::HoleTaken { machine, log, through: Mark { m_id, .. }, .. } => {
            let is_trimmed = trimmed.get(log) >= Some(m_id);
            let what =
                format!("node {machine} takes a hole of {log} up to {m_id} that nobody trimmed");
            (!is_trimmed).then_some(what)
        }
        _ => None,
    })
}

/// A channel's newest missing message is not above its trim point. That may be too high: a
/// gap too many is told, never one too few.
fn check_trim_points(evidence: &Evidence<'_>, findings: &mut Findings) {
    for (node, points) in &evidence.end.trim_points {
        let Some(state) = evidence.end.nodes.get(node) else { continue };
        let points: BTreeMap<(LogName, ChannelHash), MessageNumber> =
            points.iter().map(|point| ((point.log, point.channel), point.m_id)).collect();
        for (log, held) in &state.logs {
            let missing = held.missing();
            let mut newest: BTreeMap<ChannelHash, MessageNumber> = BTreeMap::new();
            for (from, through) in &missing {
                let range = MessageName { log: *log, m_id: *from }..=MessageName {
                    log: *log,
                    m_id: *through,
                };
                for (name, message) in evidence.messages.range(range) {
                    if message.kind == MessageKind::Publication && !evidence.still.holds(name) {
                        newest.insert(ChannelHash::of(message.channel.as_str()), name.m_id);
                    }
                }
            }
            for (channel, m_id) in newest {
                let point = points.get(&(*log, channel)).copied().unwrap_or_default();
                if point < m_id {
                    findings.broken(format!(
                        "node {node} has the trim point {point} of {log}, and {m_id} is missing"
                    ));
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use interlock_core::identity::{
        ChainHash, Incarnation, NamespaceNumber, NodeNumber, PathName, ShardNumber,
    };

    use super::*;
    use crate::machine::MachineName;

    #[test]
    fn a_hole_is_taken_over_what_was_trimmed_before() {
        let machine = |node| MachineName::first_of(NodeNumber::new(node));
        let (namespace, shard) = (NamespaceNumber::new(1), ShardNumber::new(0));
        let log = PathName { namespace, shard, origin: NodeNumber::new(1) }
            .log(Incarnation::new(7).expect("not zero"));
        let trimmed = Record::Trimmed {
            machine: machine(1),
            log,
            through: MessageNumber::new(5),
            released: false,
        };
        let taken = |m_id| Record::HoleTaken {
            machine: machine(2),
            log,
            from: MessageNumber::new(1),
            through: Mark { m_id: MessageNumber::new(m_id), hash: ChainHash::EMPTY },
            row: None,
        };
        let wrong = |records: &[Record]| taken_untrimmed(records).count();
        assert_eq!(wrong(&[trimmed.clone(), taken(5)]), 0);
        assert_eq!(wrong(&[trimmed.clone(), taken(6)]), 1);
        assert_eq!(wrong(&[taken(5), trimmed]), 1, "it was there still");
    }
}
