//! Members that hold the same messages and show other channels, which none may: noticed
//! by the digests that heartbeats carry, however long a stream lives (I6).
//!
//! Digests are taken every few seconds, of namespaces that were quiet meanwhile and
//! whose projections have seen all that is durable: a pair of tips and state that
//! belong together. A peer's pair is compared with the last one taken here. When both
//! differ in their state only, each sends the other its base, which merges; what then
//! still differs is an alarm until it does not.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use interlock_core::admission::Admission;
use interlock_core::identity::{LogName, MessageNumber, NamespaceNumber, NodeNumber};
use interlock_core::replication::frames::NamespaceDigest;
use interlock_telemetry::metrics::Registry;
use tokio::sync::watch;

use crate::alarms::AlarmKind;
use crate::context::NodeContext;
use crate::status::state_digest;
use crate::tasks::until_set;
use crate::work_queue::QueueClosed;

/// How often digests are taken and told: often enough that people learn of it before
/// subscribers do, and a small part of what a heartbeat costs.
const DIGEST_INTERVAL: Duration = Duration::from_secs(3);
/// Comparisons that have to show it before it is an alarm: after the first both send
/// their base, and the others follow when this node's has gone out.
const LOOKS_BEFORE_ALARM: u32 = 3;

const LOCK: &str = "no holder of the digests' lock panics";

/// What a comparison came to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Look {
    /// The messages are not the same, or not known to be, or what mends it is on its way:
    /// nothing can be said.
    NotComparable,
    /// The channels are the same.
    Equal,
    /// They differ, for so many comparisons in a row.
    Differs(u32),
}

/// A peer whose channels differ in one namespace.
#[derive(Clone, Debug)]
struct Seen {
    looks: u32,
    /// Whether this node's base has gone to the peer since: looks before that say nothing.
    base_sent: bool,
    /// What the alarm is about, also when the peer is in no topology any more.
    subject: String,
}

#[derive(Debug, Default)]
struct State {
    /// Rises with each taking.
    round: u64,
    /// Of the namespaces that were quiet, as last taken.
    digests: BTreeMap<NamespaceNumber, NamespaceDigest>,
    seen: BTreeMap<(NamespaceNumber, NodeNumber), Seen>,
    /// Whom the base of which namespaces is owed to.
    owed: BTreeMap<NodeNumber, BTreeSet<NamespaceNumber>>,
}

/// The digests of this node, and what peers' digests said against them.
#[derive(Debug, Default)]
pub struct DivergenceBoard {
    state: Mutex<State>,
    /// Moves when a base is owed to somebody.
    owing: watch::Sender<u64>,
}

impl DivergenceBoard {
    /// The digests that a peer has not been told of: those of namespaces that it may
    /// know. `told` is the round that it was told of last.
    pub fn news(
        &self,
        told: &mut u64,
        may_know: impl Fn(NamespaceNumber) -> bool,
    ) -> Vec<NamespaceDigest> {
        let state = self.state.lock().expect(LOCK);
        if *told == state.round {
            return Vec::new();
        }
        *told = state.round;
        state.digests.values().filter(|digest| may_know(digest.namespace)).cloned().collect()
    }

    /// Moves when bases are owed: ask [`take_owed`](Self::take_owed).
    pub fn watch_owing(&self) -> watch::Receiver<u64> {
        self.owing.subscribe()
    }

    /// The namespaces whose base is owed to a peer, which is told so once.
    pub fn take_owed(&self, peer: NodeNumber) -> BTreeSet<NamespaceNumber> {
        self.state.lock().expect(LOCK).owed.remove(&peer).unwrap_or_default()
    }

    /// This node's base has gone to a peer.
    pub fn base_sent(&self, peer: NodeNumber, namespace: NamespaceNumber) {
        if let Some(seen) = self.state.lock().expect(LOCK).seen.get_mut(&(namespace, peer)) {
            seen.base_sent = true;
        }
    }

    fn owe(&self, peer: NodeNumber, namespace: NamespaceNumber) {
        self.state.lock().expect(LOCK).owed.entry(peer).or_default().insert(namespace);
        self.owing.send_modify(|count| *count += 1);
    }

    fn look(&self, peer: NodeNumber, theirs: &NamespaceDigest, subject: &str) -> Look {
        let mut state = self.state.lock().expect(LOCK);
        let Some(ours) = state.digests.get(&theirs.namespace) else { return Look::NotComparable };
        if ours.tips != theirs.tips {
            return Look::NotComparable;
        }
        let pair = (theirs.namespace, peer);
        if ours.state == theirs.state {
            state.seen.remove(&pair);
            return Look::Equal;
        }
        let first = || Seen { looks: 0, base_sent: false, subject: subject.to_owned() };
        let seen = state.seen.entry(pair).or_insert_with(first);
        if seen.looks > 0 && !seen.base_sent {
            return Look::NotComparable;
        }
        seen.looks = seen.looks.saturating_add(1);
        Look::Differs(seen.looks)
    }

    fn take(&self, digests: BTreeMap<NamespaceNumber, NamespaceDigest>) {
        let mut state = self.state.lock().expect(LOCK);
        state.round += 1;
        state.digests = digests;
    }

    /// Forgets what was seen where both are no longer members; what it was about.
    fn forget(&self, is_shared: impl Fn(NamespaceNumber, NodeNumber) -> bool) -> Vec<String> {
        let mut state = self.state.lock().expect(LOCK);
        let mut forgotten = Vec::new();
        state.seen.retain(|(namespace, peer), seen| {
            let stays = is_shared(*namespace, *peer);
            if !stays {
                forgotten.push(seen.subject.clone());
            }
            stays
        });
        state.owed.retain(|peer, namespaces| {
            namespaces.retain(|namespace| is_shared(*namespace, *peer));
            !namespaces.is_empty()
        });
        forgotten
    }

    /// How many peers stay different, by namespace.
    fn diverged(&self) -> BTreeMap<NamespaceNumber, usize> {
        let state = self.state.lock().expect(LOCK);
        let stays = state.seen.iter().filter(|(_, seen)| seen.looks >= LOOKS_BEFORE_ALARM);
        let mut diverged = BTreeMap::new();
        for ((namespace, _), _) in stays {
            *diverged.entry(*namespace).or_default() += 1;
        }
        diverged
    }
}

/// Takes digests until the node ends.
pub async fn keep_digests(context: Arc<NodeContext>) {
    let mut ending = context.tasks.ending();
    let mut before: BTreeMap<NamespaceNumber, [u8; 16]> = BTreeMap::new();
    loop {
        tokio::select! {
            () = tokio::time::sleep(DIGEST_INTERVAL) => {}
            () = until_set(&mut ending) => return,
        }
        let topology = context.topology.current();
        let me = context.me().node;
        let ready = |namespace: &NamespaceNumber| context.readiness.is_ready(*namespace);
        let namespaces = topology.namespaces_of(me).into_iter().filter(ready).collect();
        let Ok(mut taken) = settled_digests(&context, namespaces).await else { return };
        let tips = taken.iter().map(|(namespace, digest)| (*namespace, digest.tips)).collect();
        taken.retain(|namespace, digest| before.get(namespace) == Some(&digest.tips));
        before = tips;
        context.divergence.take(taken);
        let is_shared = |namespace, peer| {
            topology.is_member(me, namespace) && topology.is_member(peer, namespace)
        };
        for subject in context.divergence.forget(is_shared) {
            context.alarms.clear(AlarmKind::Divergence, &subject);
        }
    }
}

/// Tips and state that belong together, of those of the namespaces where nothing is
/// under way.
async fn settled_digests(
    context: &NodeContext,
    namespaces: Vec<NamespaceNumber>,
) -> Result<BTreeMap<NamespaceNumber, NamespaceDigest>, QueueClosed> {
    type Marks = BTreeMap<LogName, MessageNumber>;
    let look = move |admission: &Admission| {
        let of = |namespace| {
            let logs = admission.logs().namespace(namespace);
            let marks: Marks = logs.map(|(log, held)| (*log, held.durable.m_id)).collect();
            (namespace, admission.logs().tips_digest(namespace), marks)
        };
        namespaces.into_iter().map(of).collect::<Vec<_>>()
    };
    let mut settled = BTreeMap::new();
    for (namespace, tips, marks) in context.writer.look(look).await? {
        let digest = NamespaceDigest { namespace, tips, state: state_digest(context, namespace) };
        // Read after the state: what has moved since then shows.
        let logs = context.durable.logs(|log| log.namespace == namespace);
        let is_settled = logs.iter().all(|log| {
            let durable = log.durable.m_id;
            log.applied == durable && marks.get(&log.row.log) == Some(&durable)
        });
        if is_settled {
            settled.insert(namespace, digest);
        }
    }
    Ok(settled)
}

/// Compares what a peer says its namespaces come to with what is held here.
pub fn hear_digests(
    context: &NodeContext,
    peer: NodeNumber,
    peer_name: &str,
    digests: &[NamespaceDigest],
) {
    let topology = context.topology.current();
    for theirs in digests {
        let namespace = theirs.namespace;
        if !topology.is_member(peer, namespace) {
            continue;
        }
        let name = context.namespace_name(namespace);
        let subject = format!("{name} at {peer_name}");
        match context.divergence.look(peer, theirs, &subject) {
            Look::NotComparable => {}
            Look::Equal => context.alarms.clear(AlarmKind::Divergence, &subject),
            Look::Differs(looks) => {
                if looks == 1 {
                    tracing::warn!(
                        peer = peer_name,
                        namespace = %name,
                        "the peer holds the same messages and other channels: both send theirs"
                    );
                    context.metrics.divergences.with([name]).increment();
                    context.divergence.owe(peer, namespace);
                }
                if looks >= LOOKS_BEFORE_ALARM {
                    let detail = "the same messages and other channels, also after both have sent \
                                  what they have; `interlock verify` compares all members";
                    let now = context.clock.wall();
                    context.alarms.raise(now, AlarmKind::Divergence, &subject, detail);
                }
            }
        }
    }
}

/// Registers the gauge. It holds the node by a weak hand only.
pub fn register_gauges(registry: &Registry, context: &Arc<NodeContext>) {
    let context = Arc::downgrade(context);
    registry.observed_gauges(
        "directory_diverged_peers",
        "Peers that hold the same messages and stay with other channels",
        ["namespace"],
        move || {
            let Some(context) = context.upgrade() else { return Vec::new() };
            let diverged = context.divergence.diverged().into_iter();
            diverged.map(|(it, peers)| ([context.namespace_name(it)], peers as f64)).collect()
        },
    );
}

#[cfg(test)]
mod tests {
    use super::*;

    const NAMESPACE: NamespaceNumber = NamespaceNumber::new(1);
    const PEER: NodeNumber = NodeNumber::new(2);

    fn digest(tips: u8, state: u8) -> NamespaceDigest {
        NamespaceDigest { namespace: NAMESPACE, tips: [tips; 16], state: [state; 16] }
    }

    fn board() -> DivergenceBoard {
        let board = DivergenceBoard::default();
        board.take(BTreeMap::from([(NAMESPACE, digest(1, 1))]));
        board
    }

    #[test]
    fn only_equal_tips_are_compared_and_only_a_row_of_differences_stays() {
        let board = board();
        let look = |theirs| board.look(PEER, &theirs, "demo at peer");
        assert_eq!(look(digest(2, 2)), Look::NotComparable);
        assert_eq!(look(digest(1, 2)), Look::Differs(1));
        assert_eq!(look(digest(1, 2)), Look::NotComparable, "the base is on its way");
        board.base_sent(PEER, NAMESPACE);
        assert_eq!(look(digest(2, 2)), Look::NotComparable, "which says nothing of before");
        assert_eq!(look(digest(1, 3)), Look::Differs(2));
        assert!(board.diverged().is_empty());
        assert_eq!(look(digest(1, 2)), Look::Differs(LOOKS_BEFORE_ALARM));
        assert_eq!(board.diverged(), BTreeMap::from([(NAMESPACE, 1)]));
        assert_eq!(look(digest(1, 1)), Look::Equal);
        assert!(board.diverged().is_empty());
        assert_eq!(look(digest(1, 2)), Look::Differs(1));
        board.take(BTreeMap::new());
        assert_eq!(look(digest(1, 2)), Look::NotComparable, "it was not quiet here");
    }

    #[test]
    fn what_is_seen_of_a_member_that_left_is_forgotten() {
        let board = board();
        board.look(PEER, &digest(1, 2), "demo at peer");
        board.owe(PEER, NAMESPACE);
        assert!(board.forget(|_, _| true).is_empty());
        assert_eq!(board.forget(|_, peer| peer != PEER), ["demo at peer"]);
        assert!(board.take_owed(PEER).is_empty());
        assert_eq!(board.look(PEER, &digest(1, 2), "demo at peer"), Look::Differs(1));
    }

    #[test]
    fn each_taking_is_told_once_and_only_of_what_the_peer_may_know() {
        let board = board();
        let mut told = 0;
        assert_eq!(board.news(&mut told, |_| true), [digest(1, 1)]);
        assert_eq!(board.news(&mut told, |_| true), []);
        board.take(BTreeMap::from([(NAMESPACE, digest(3, 3))]));
        assert_eq!(board.news(&mut told, |_| false), []);
        board.take(BTreeMap::from([(NAMESPACE, digest(3, 3))]));
        assert_eq!(board.news(&mut told, |_| true), [digest(3, 3)]);
    }
}
