//! I7: once an epoch of a channel is deleted, nobody shows it as live, neither
//! at the end nor where it was shown as deleted before.

use std::collections::BTreeMap;

use interlock_core::identity::{Epoch, NamespaceNumber};
use interlock_core::message::ChannelAction;
use interlock_core::names::ChannelName;

use crate::history::Record;
use crate::machine::MachineName;

use super::acknowledged::operation_of;
use super::{Evidence, Findings};

/// A channel as one machine shows it: its epoch, and whether that is deleted.
type Shown<'a> = BTreeMap<(NamespaceNumber, &'a ChannelName), (Epoch, bool)>;

pub(super) fn check(evidence: &Evidence<'_>, findings: &mut Findings) {
    let mut machines: BTreeMap<MachineName, Shown<'_>> = BTreeMap::new();
    for record in &evidence.history.records {
        match record {
            Record::Shown { machine, namespace, channel, epoch, deleted } => {
                let shown = machines.entry(*machine).or_default();
                let before = shown.insert((*namespace, channel), (*epoch, *deleted));
                if before > Some((*epoch, *deleted)) {
                    findings.broken(format!(
                        "node {machine} shows {channel} as {epoch}, deleted {deleted}, after {before:?}"
                    ));
                }
            }
            Record::Replaced { machine, .. } => _ = machines.remove(machine),
            Record::Purged { machine, namespace } => {
                let shown = machines.entry(*machine).or_default();
                shown.retain(|(of, _), _| of != namespace);
            }
            _ => {}
        }
    }
    for (name, message) in &evidence.messages {
        let is_deletion =
            operation_of(message).is_some_and(|it| it.action == ChannelAction::Delete);
        if !is_deletion || evidence.still.holds(name) {
            continue;
        }
        for (node, state) in evidence.end.members(name.log.namespace) {
            let channels = &state.namespaces[&name.log.namespace].channels;
            let shown = message.channel.name().and_then(|name| channels.get(name));
            let is_gone = shown.is_some_and(|shown| {
                shown.epoch > message.epoch || shown.epoch == message.epoch && shown.deleted
            });
            if !is_gone {
                findings.broken(format!("node {node} shows {shown:?} after {name}: {message:?}"));
            }
        }
    }
}
