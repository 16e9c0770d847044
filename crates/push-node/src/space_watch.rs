//! Watches the disk. Below a limit of free space publications are refused; below
//! a second, lower one nothing is received from peers either. A namespace at its
//! cap refuses publications. What was refused works again once there is room.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use interlock_core::admission::ClosedReason;
use interlock_core::identity::NamespaceNumber;
use interlock_core::topology::Namespace;
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
    growth: Mutex<BTreeMap<NamespaceNumber, Growth>>,
}

const LOCK: &str = "no holder of the lock of the namespaces' growth panics";

impl SpaceBoard {
    /// The state as last seen.
    pub fn state(&self) -> SpaceState {
        *self.state.borrow()
    }

    /// Seconds until a namespace's logs reach a cap at their present growth.
    pub fn seconds_to_cap(&self, namespace: NamespaceNumber, cap: u64) -> Option<u64> {
        self.growth.lock().expect(LOCK).get(&namespace)?.seconds_to(cap)
    }

    fn note_bytes(&self, bytes: &[(NamespaceNumber, u64)]) {
        let mut growth = self.growth.lock().expect(LOCK);
        growth.retain(|namespace, _| bytes.iter().any(|(held, _)| held == namespace));
        for (namespace, bytes) in bytes {
            let next = growth.get(namespace).map(|before| before.next(*bytes));
            growth.insert(*namespace, next.unwrap_or(Growth::first(*bytes)));
        }
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

    context.space.note_bytes(&bytes);
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
        .map(|namespace| (namespace.number, cap_of(context, namespace)))
        .collect()
}

/// The bytes of log at which a namespace is full here; 0 while nothing is known of
/// the disk. Where neither the topology nor the configuration names a cap, it is
/// half of what this node's logs could take before publications are refused for
/// want of space: well before that, and room for others.
pub fn cap_of(context: &NodeContext, namespace: &Namespace) -> u64 {
    let limits = &context.config.limits;
    match (namespace.disk_cap_bytes, limits.namespace_disk_cap_bytes) {
        (0, 0) => {
            let Space { free_bytes, used_bytes } = context.space.state().space;
            (free_bytes + used_bytes).saturating_sub(limits.publication_free_bytes) / 2
        }
        (0, cap) | (cap, _) => cap,
    }
}

/// How fast a namespace's logs grow: over about the last minute, recent seconds
/// count more.
#[derive(Clone, Copy, Debug, Default)]
struct Growth {
    bytes: u64,
    bytes_per_second: f64,
}

impl Growth {
    /// The part of a new second.
    const SMOOTHING: f64 = 1.0 / 30.0;

    const fn first(bytes: u64) -> Self {
        Self { bytes, bytes_per_second: 0.0 }
    }

    fn next(self, bytes: u64) -> Self {
        let grown = bytes as f64 - self.bytes as f64;
        let rate = self.bytes_per_second + (grown - self.bytes_per_second) * Self::SMOOTHING;
        Self { bytes, bytes_per_second: rate }
    }

    /// Seconds until a cap at the present rate; `None` when it does not grow, or the
    /// cap is years away.
    fn seconds_to(self, cap: u64) -> Option<u64> {
        const YEAR: f64 = 365.0 * 24.0 * 3600.0;
        let left = cap.saturating_sub(self.bytes) as f64;
        let seconds = left / self.bytes_per_second;
        (cap > 0 && self.bytes_per_second >= 1.0 && seconds < YEAR).then_some(seconds as u64)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_forecast_follows_the_growth() {
        let mut growth = Growth::first(1_000_000);
        assert_eq!(growth.seconds_to(2_000_000), None, "nothing is known of its growth");
        for second in 1..=300 {
            growth = growth.next(1_000_000 + second * 1_000);
        }
        let seconds = growth.seconds_to(2_000_000).expect("it grows");
        assert!((695..=705).contains(&seconds), "{seconds}");
        for _ in 0..600 {
            growth = growth.next(1_300_000);
        }
        assert_eq!(growth.seconds_to(2_000_000), None, "it has stopped");
    }

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
