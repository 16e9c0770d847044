//! I1: an acknowledged message is at the end in the log of every member, with
//! the content that was acknowledged, unless the last disk that had it was
//! replaced. And what is said to be held by others has been held by them: a mark
//! that moved over a hole stands for what all had, or for what was declared.

use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;
use interlock_core::identity::{
    LogName, MessageName, MessageNumber, NodeNumber, PublisherSequence, SessionId,
};
use interlock_core::message::{ChannelAction, ChannelOperation, Message, MessageKind};
use interlock_core::names::ChannelName;

use crate::history::{Attempt, Operation, Outcome, Record};

use super::{Evidence, Findings};

pub(super) fn check(evidence: &Evidence<'_>, findings: &mut Findings) {
    let in_sessions: BTreeSet<(SessionId, PublisherSequence)> = evidence
        .messages
        .values()
        .filter_map(|message| message.publisher)
        .map(|publisher| (publisher.session, publisher.sequence))
        .collect();
    let payloads: BTreeSet<(NodeNumber, &Bytes)> = evidence
        .messages
        .iter()
        .map(|(name, message)| (name.log.origin, &message.payload))
        .collect();
    for operation in evidence.history.operations() {
        match &operation.outcome {
            Outcome::Ok { name: Some(name) } => {
                check_named(evidence, operation, name, findings);
            }
            Outcome::Ok { name: None } => {
                let Attempt::Publish { position, payload, .. } = &operation.attempt else {
                    continue;
                };
                let is_held = match position {
                    Some(position) => in_sessions.contains(position),
                    // No other operation has this content.
                    None => payloads.contains(&(operation.node, payload)),
                };
                // Its name is not known, so neither is whether it was lost, or stands
                // still.
                let origin = operation.node;
                let stands_still = evidence.still.logs().any(|log| log.origin == origin);
                let is_excused = evidence.disks.lost_any_of(origin) || stands_still;
                if !is_held && !is_excused {
                    findings.broken(format!("{operation:?} is nowhere"));
                }
            }
            Outcome::Fail | Outcome::Unknown => {}
        }
    }
    check_peers(evidence, findings);
}

fn check_named(
    evidence: &Evidence<'_>,
    operation: &Operation,
    name: &MessageName,
    findings: &mut Findings,
) {
    if evidence.disks.was_lost(name) || evidence.still.holds(name) {
        return;
    }
    let missing = evidence.end.missing_at(name);
    if !missing.is_empty() {
        return findings.broken(format!("{name} is not held by {missing:?}: {operation:?}"));
    }
    let message = &evidence.messages.get(name);
    if message.is_none_or(|message| !is_content(message, &operation.attempt)) {
        findings.broken(format!("{name} is not what was acknowledged: {operation:?}"));
    }
}

/// Whether a message is what an operation wanted.
pub(super) fn is_content(message: &Message, attempt: &Attempt) -> bool {
    let describes = |channel: &ChannelName, action, description: &str| {
        message.channel == *channel
            && operation_of(message).is_some_and(|operation| {
                operation.action == action
                    && operation.presentation.is_some_and(|it| it.description == description)
            })
    };
    match attempt {
        Attempt::Publish { channel, payload, possibly_repeated, .. } => {
            message.kind == MessageKind::Publication
                && message.channel == *channel
                && message.payload == *payload
                && message.possibly_repeated == *possibly_repeated
        }
        Attempt::Create { channel, description } => {
            describes(channel, ChannelAction::Create, description)
        }
        Attempt::Update { channel, description } => {
            describes(channel, ChannelAction::Update, description)
        }
        Attempt::Delete { channel } => {
            message.channel == *channel
                && operation_of(message).is_some_and(|it| it.action == ChannelAction::Delete)
        }
    }
}

/// The channel operation that a message carries.
pub(super) fn operation_of(message: &Message) -> Option<ChannelOperation> {
    let is_operation = message.kind == MessageKind::ChannelOperation;
    is_operation.then(|| ChannelOperation::decode(&Bytes::clone(&message.payload)).ok())?
}

/// How many acknowledged messages were lost with their disks.
pub(super) fn count_lost(evidence: &Evidence<'_>) -> u64 {
    let is_lost = |operation: &&Operation| match &operation.outcome {
        Outcome::Ok { name: Some(name) } => {
            evidence.disks.was_lost(name) && !evidence.messages.contains_key(name)
        }
        _ => false,
    };
    evidence.history.operations().iter().filter(is_lost).count() as u64
}

/// Whoever counts as a holder has held it durably.
fn check_peers(evidence: &Evidence<'_>, findings: &mut Findings) {
    let mut ever: BTreeMap<(NodeNumber, LogName), MessageNumber> = BTreeMap::new();
    let mut nodes = BTreeSet::new();
    for record in &evidence.history.records {
        let mut raise = |node, log, m_id: MessageNumber| {
            nodes.insert(node);
            let held = ever.entry((node, log)).or_default();
            *held = m_id.max(*held);
        };
        match record {
            Record::Opened { machine, logs, .. } => {
                logs.iter().for_each(|(log, mark)| raise(machine.node, *log, mark.m_id));
            }
            Record::Durable { machine, log, mark } => raise(machine.node, *log, mark.m_id),
            Record::HeldByPeers { machine, name, peers } => {
                let holders = nodes
                    .iter()
                    .filter(|other| **other != machine.node)
                    .filter(|other| ever.get(&(**other, name.log)) >= Some(&name.m_id))
                    .count();
                if holders < *peers {
                    findings.broken(format!(
                        "{name} was said to be held by {peers} others and was by {holders}"
                    ));
                }
            }
            _ => {}
        }
    }
}
