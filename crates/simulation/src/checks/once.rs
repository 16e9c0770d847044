//! I3: each name is applied once on each disk, in the order of its log; what is
//! held gives the chain hash that is told of it; each sequence of a publisher's
//! session is stored once along every path; and what is stored more than once says
//! of itself that it may be a repeat.

use std::collections::{BTreeMap, BTreeSet};

use interlock_core::identity::{
    ChainHash, LogName, MessageName, MessageNumber, NodeNumber, PublisherSequence, SessionId,
};
use interlock_core::message::MessageKind;

use crate::history::Record;
use crate::machine::MachineName;

use super::{Evidence, Findings};

pub(super) fn check(evidence: &Evidence<'_>, findings: &mut Findings) {
    check_appended(evidence, findings);
    check_chains(evidence, findings);
    check_sessions(evidence, findings);
    check_repeats(evidence, findings);
}

fn check_appended(evidence: &Evidence<'_>, findings: &mut Findings) {
    let mut disks: BTreeMap<MachineName, BTreeMap<LogName, MessageNumber>> = BTreeMap::new();
    for record in &evidence.history.records {
        match record {
            Record::Opened { machine, logs, .. } => {
                let marks = logs.iter().map(|(log, mark)| (*log, mark.m_id)).collect();
                disks.insert(*machine, marks);
            }
            Record::Appended { machine, name, row, .. } => {
                let disk = disks.entry(*machine).or_default();
                let expected = match (disk.get(&name.log), row) {
                    (Some(mark), None) => mark.next(),
                    (None, Some(row)) => row.first_m_id(),
                    (Some(_), Some(_)) => {
                        findings.broken(format!("node {machine}: {} begins twice", name.log));
                        name.m_id
                    }
                    (None, None) => {
                        findings.broken(format!("node {machine}: {} has no beginning", name.log));
                        name.m_id
                    }
                };
                if name.m_id != expected {
                    findings.broken(format!("node {machine}: {name} where {expected} follows"));
                }
                disk.insert(name.log, name.m_id);
            }
            Record::HoleTaken { machine, log, from, through, row } => {
                let disk = disks.entry(*machine).or_default();
                let expected = match (disk.get(log), row) {
                    (Some(mark), _) => mark.next(),
                    (None, Some(row)) => row.first_m_id(),
                    (None, None) => MessageNumber::ZERO,
                };
                if *from != expected {
                    findings.broken(format!(
                        "node {machine}: a hole of {log} at {from} where {expected} follows"
                    ));
                }
                disk.insert(*log, through.m_id);
            }
            _ => {}
        }
    }
}

/// A content is published once, and then again only where its publisher could not
/// know: every copy but the first says so. A publisher that retries exactly says
/// nothing, and its copies have one place in one session: forks may keep two.
fn check_repeats(evidence: &Evidence<'_>, findings: &mut Findings) {
    let mut undeclared = BTreeMap::new();
    for (name, message) in &evidence.messages {
        let is_plain = message.kind == MessageKind::Publication && !message.possibly_repeated;
        if !is_plain || evidence.still.holds(name) {
            continue;
        }
        let key = (name.log.namespace, message.payload.clone());
        let place = message.publisher.map(|it| (name.log.origin, it.session, it.sequence));
        let (first, first_place) = *undeclared.entry(key).or_insert((*name, place));
        let is_same_place = place.is_some() && place == first_place;
        if first != *name && !is_same_place {
            findings.broken(format!("{name} repeats {first} and does not say so"));
        }
    }
}

fn check_chains(evidence: &Evidence<'_>, findings: &mut Findings) {
    for (node, state) in &evidence.end.nodes {
        for (name, log) in &state.logs {
            let missing = log.missing();
            let mut ranges = missing.iter().peekable();
            let mut hash = log.row.start_hash();
            let trimmed = |hash: ChainHash, (from, through): &(MessageNumber, MessageNumber)| {
                (from.get()..=through.get()).fold(hash, |hash, m_id| {
                    let m_id = MessageNumber::new(m_id);
                    let content = evidence.contents.get(&MessageName { log: *name, m_id });
                    content.map_or(hash, |bytes| hash.then(bytes))
                })
            };
            for (m_id, bytes) in &log.messages {
                while let Some(range) = ranges.next_if(|(_, through)| through < m_id) {
                    hash = trimmed(hash, range);
                }
                hash = hash.then(bytes);
            }
            hash = ranges.fold(hash, trimmed);
            // Of two contents of a trimmed message nobody knows which one was here.
            let is_known = missing.is_empty() || !evidence.still.touches(name);
            if is_known && hash != log.mark.hash {
                findings.broken(format!("node {node}: {name} does not give its chain hash"));
            }
        }
    }
}

fn check_sessions(evidence: &Evidence<'_>, findings: &mut Findings) {
    let mut places: BTreeMap<(SessionId, PublisherSequence), Vec<MessageName>> = BTreeMap::new();
    let mut last: BTreeMap<(LogName, SessionId), PublisherSequence> = BTreeMap::new();
    let stored: BTreeSet<(NodeNumber, SessionId, PublisherSequence)> = evidence
        .messages
        .iter()
        .filter_map(|(name, message)| Some((name.log.origin, message.publisher?)))
        .map(|(origin, publisher)| (origin, publisher.session, publisher.sequence))
        .collect();
    for (name, message) in &evidence.messages {
        let Some(publisher) = message.publisher else { continue };
        if evidence.still.holds(name) {
            continue;
        }
        let (session, sequence) = (publisher.session, publisher.sequence);
        // One log is one run of the process: its answers are one sequence, but for
        // what another process of the same name stored in between.
        let before = last.insert((name.log, session), sequence);
        let is_stored = |sequence| {
            stored.contains(&(name.log.origin, session, PublisherSequence::new(sequence)))
        };
        let follows = |before: PublisherSequence| {
            before < sequence && (before.get() + 1..sequence.get()).all(is_stored)
        };
        if before.is_some_and(|before| !follows(before)) {
            findings.broken(format!("{name}: {session:?} {sequence} after {before:?}"));
        }
        let others = places.entry((session, sequence)).or_default();
        for other in others.iter() {
            let covers = |tip: &MessageName, other: &MessageName| {
                evidence
                    .rows
                    .covered_through(tip, &other.log)
                    .is_some_and(|through| through >= other.m_id)
            };
            // On branches that do not know of each other the same sequence may
            // be stored twice: that is what a fork is.
            if covers(name, other) || covers(other, name) {
                findings.broken(format!("{session:?} {sequence} is both {other} and {name}"));
            }
        }
        others.push(*name);
    }
}
