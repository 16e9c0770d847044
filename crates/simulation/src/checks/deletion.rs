//! I7: once an epoch of a channel is deleted, nobody shows it as live, neither
//! at the end nor where it was shown as deleted before.

use std::collections::BTreeMap;

use interlock_core::identity::{Epoch, NamespaceNumber, NodeNumber};
use interlock_core::message::ChannelAction;
use interlock_core::names::ChannelName;

use crate::history::Record;

use super::acknowledged::operation_of;
use super::{Evidence, Findings};

/// A channel as one node shows it: its epoch, and whether that is deleted.
type Shown<'a> = BTreeMap<(NamespaceNumber, &'a ChannelName), (Epoch, bool)>;

pub(super) fn check(evidence: &Evidence<'_>, findings: &mut Findings) {
    let mut nodes: BTreeMap<NodeNumber, Shown<'_>> = BTreeMap::new();
    for record in &evidence.history.records {
        match record {
            Record::Shown { node, namespace, channel, epoch, deleted } => {
                let shown = nodes.entry(*node).or_default();
                let before = shown.insert((*namespace, channel), (*epoch, *deleted));
                if before > Some((*epoch, *deleted)) {
                    findings.broken(format!(
                        "node {node} shows {channel} as {epoch}, deleted {deleted}, after {before:?}"
                    ));
                }
            }
            Record::Replaced { node, .. } => _ = nodes.remove(node),
            _ => {}
        }
    }
    for (name, message) in &evidence.messages {
        let is_deletion =
            operation_of(message).is_some_and(|it| it.action == ChannelAction::Delete);
        if !is_deletion {
            continue;
        }
        for (node, state) in evidence.end.members(name.log.namespace) {
            let channels = &state.namespaces[&name.log.namespace].channels;
            let shown = channels.get(&message.channel);
            let is_gone = shown.is_some_and(|shown| {
                shown.epoch > message.epoch || shown.epoch == message.epoch && shown.deleted
            });
            if !is_gone {
                findings.broken(format!("node {node} shows {shown:?} after {name}: {message:?}"));
            }
        }
    }
}
