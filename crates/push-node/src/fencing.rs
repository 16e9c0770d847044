//! Two processes of one name (hygiene: no rule of the log rests on it): whoever learns that another one
//! goes before it accepts nothing more and drains.

use std::sync::atomic::Ordering;

use interlock_core::topology::Topology;

use crate::alarms::AlarmKind;
use crate::context::NodeContext;

/// Another process goes by this node's name before this one.
pub fn fence(context: &NodeContext, detail: &str) {
    let now = context.clock.wall();
    context.alarms.raise(now, AlarmKind::Fenced, context.name().as_str(), detail);
    context.begin_drain();
}

/// Whether this process has given way to another one of its name.
pub fn is_fenced(context: &NodeContext) -> bool {
    context.alarms.is_up(AlarmKind::Fenced, context.name().as_str())
}

/// Compares the token of this process with the one that the topology knows.
pub fn check_topology(context: &NodeContext, topology: &Topology) {
    let held = context.identity.fencing_token.load(Ordering::Relaxed);
    let Some(node) = topology.node(context.me().node) else { return };
    if held > 0 && node.fencing_token.get() > held {
        let token = node.fencing_token;
        fence(context, &format!("another process registered this name with token {token}"));
    }
}
