//! I5: every message is what some client asked its origin for, byte for byte,
//! and was not told to be refused.

use std::collections::BTreeMap;

use interlock_core::identity::{NamespaceNumber, NodeNumber};
use interlock_core::message::{ChannelAction, MessageKind};

use crate::history::{Attempt, Operation, Outcome};

use super::acknowledged::{is_content, operation_of};
use super::{Evidence, Findings};

/// What finds the operations that a message may come from: where, and the text
/// that no other operation has, or the channel of a deletion.
type Key = (NodeNumber, NamespaceNumber, Vec<u8>);

pub(super) fn check(evidence: &Evidence<'_>, findings: &mut Findings) {
    let mut attempts: BTreeMap<Key, Vec<&Operation>> = BTreeMap::new();
    for operation in evidence.history.operations() {
        let text = match &operation.attempt {
            Attempt::Publish { payload, .. } => payload.to_vec(),
            Attempt::Create { description, .. } | Attempt::Update { description, .. } => {
                description.as_bytes().to_vec()
            }
            Attempt::Delete { channel } => channel.as_str().as_bytes().to_vec(),
        };
        attempts.entry((operation.node, operation.namespace, text)).or_default().push(operation);
    }
    for (name, message) in &evidence.messages {
        let text = match message.kind {
            MessageKind::Publication => message.payload.to_vec(),
            _ => match operation_of(message) {
                Some(operation) if operation.action == ChannelAction::Delete => {
                    message.channel.as_str().as_bytes().to_vec()
                }
                Some(operation) => {
                    operation.presentation.unwrap_or_default().description.into_bytes()
                }
                None => Vec::new(),
            },
        };
        let found = attempts.get(&(name.log.origin, name.log.namespace, text));
        let mut wanted = found
            .into_iter()
            .flatten()
            .filter(|operation| is_content(message, &operation.attempt))
            .peekable();
        if wanted.peek().is_none() {
            findings.broken(format!("{name} was asked for by nobody: {message:?}"));
        } else if wanted.all(|operation| operation.outcome == Outcome::Fail) {
            findings.broken(format!("{name} is stored though it was refused: {message:?}"));
        }
    }
}
