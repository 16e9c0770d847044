//! Watches the disk. Below a limit of free space publications are refused; below
//! a second, lower one nothing is received from peers either. A namespace at its
//! cap refuses publications. What was refused works again once there is room.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use interlock_core::admission::ClosedReason;
use interlock_core::identity::NamespaceNumber;
use interlock_storage::Space;
use tokio::sync::watch;

use crate::alarms::AlarmKind;
use crate::config::Limits;
use crate::context::NodeContext;
use crate::stored_messages::on_disk;
use crate::tasks::until_set;
use crate::writer_commands::WriterCommand;

/// How often the disk is looked at: the limits are far larger than what one
/// interval can write.
const INTERVAL: Duration = Duration::from_secs(1);

/// What is open, by the space that is left.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct SpaceState {
    /// What was seen.
    pub space: Space,
    /// Publications are refused.
    pub publications_closed: bool,
    /// Nothing is received from peers.
    pub replication_closed: bool,
}

/// The state of the disk, for links and status.
#[derive(Debug, Default)]
pub struct SpaceBoard {
    state: watch::Sender<SpaceState>,
}

impl SpaceBoard {
    /// The state as last seen.
    pub fn state(&self) -> SpaceState {
        *self.state.borrow()
    }

    /// Changes of the state.
    pub fn watch(&self) -> watch::Receiver<SpaceState> {
        self.state.subscribe()
    }

    fn set(&self, next: SpaceState) {
        self.state.send_if_modified(|state| {
            let closes_or_opens = (state.publications_closed, state.replication_closed)
                != (next.publications_closed, next.replication_closed);
            *state = next;
            closes_or_opens
        });
    }
}

/// Judges free space. What was closed opens again only with a tenth more than
/// the limit, so that it does not flap.
pub fn judge_space(limits: &Limits, before: SpaceState, space: Space) -> SpaceState {
    let closed = |limit: u64, was_closed: bool| {
        let limit = if was_closed { limit.saturating_add(limit / 10) } else { limit };
        space.free_bytes < limit
    };
    SpaceState {
        space,
        publications_closed: closed(limits.publication_free_bytes, before.publications_closed),
        replication_closed: closed(limits.replication_free_bytes, before.replication_closed),
    }
}

/// Watches until the node ends.
pub async fn watch_space(context: Arc<NodeContext>) {
    let mut ending = context.tasks.ending();
    let mut full: BTreeSet<NamespaceNumber> = BTreeSet::new();
    loop {
        look(&context, &mut full).await;
        tokio::select! {
            () = tokio::time::sleep(INTERVAL) => {}
            () = until_set(&mut ending) => return,
        }
    }
}

async fn look(context: &NodeContext, full: &mut BTreeSet<NamespaceNumber>) {
    let caps = caps_of(context);
    let namespaces: Vec<NamespaceNumber> = caps.keys().copied().collect();
    let seen = on_disk(&context.storage, move |storage| {
        let space = storage.space()?;
        let bytes: Vec<_> = namespaces.iter().map(|it| (*it, storage.log_bytes(*it))).collect();
        Ok((space, bytes))
    });
    let (space, bytes) = match seen.await {
        Ok(seen) => seen,
        Err(error) => return tracing::warn!(%error, "the disk's space cannot be read"),
    };
    let tell = |command| {
        // A writer that is ending refuses everything by itself.
        let _ = context.writer.tell(command);
    };
    let now = context.clock.wall();
    let before = context.space.state();
    let state = judge_space(&context.config.limits, before, space);
    context.space.set(state);
    if state.publications_closed != before.publications_closed {
        tell(WriterCommand::SetNodeClosed(ClosedReason::LowSpace, state.publications_closed));
    }
    let detail = format!("{} bytes are free", space.free_bytes);
    let low = state.publications_closed.then_some(detail.as_str());
    context.alarms.set(now, AlarmKind::LowSpace, "disk", low);

    for (namespace, bytes) in bytes {
        let cap = caps.get(&namespace).copied().unwrap_or_default();
        let is_full = cap > 0 && bytes >= cap;
        if is_full == full.contains(&namespace) {
            continue;
        }
        if is_full {
            full.insert(namespace);
        } else {
            full.remove(&namespace);
        }
        tell(WriterCommand::SetClosed(namespace, ClosedReason::DiskCap, is_full));
        let detail = format!("its logs take {bytes} bytes of {cap}");
        let subject = context.namespace_name(namespace);
        let raised = is_full.then_some(detail.as_str());
        context.alarms.set(now, AlarmKind::NamespaceFull, &subject, raised);
    }
}

/// The caps of the namespaces that this node holds; 0 is none.
fn caps_of(context: &NodeContext) -> BTreeMap<NamespaceNumber, u64> {
    let topology = context.topology.current();
    topology
        .namespaces_of(context.me().node)
        .into_iter()
        .filter_map(|number| topology.namespace(number))
        .map(|namespace| {
            let cap = match namespace.disk_cap_bytes {
                0 => context.config.limits.namespace_disk_cap_bytes,
                cap => cap,
            };
            (namespace.number, cap)
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn publications_close_first_and_open_with_room_to_spare() {
        let limits = Limits {
            publication_free_bytes: 1000,
            replication_free_bytes: 100,
            ..Limits::default()
        };
        let mut state = SpaceState::default();
        let mut at = |free_bytes| {
            state = judge_space(&limits, state, Space { free_bytes, used_bytes: 0 });
            (state.publications_closed, state.replication_closed)
        };
        assert_eq!(at(1000), (false, false));
        assert_eq!(at(999), (true, false));
        assert_eq!(at(1050), (true, false));
        assert_eq!(at(99), (true, true));
        assert_eq!(at(105), (true, true));
        assert_eq!(at(110), (true, false));
        assert_eq!(at(1100), (false, false));
    }
}
