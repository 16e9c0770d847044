//! What the links of a node share: who offers which log, who is asked for it,
//! and who holds what (METHOD M6, M9). Links report here and are told here; they
//! do not know of one another.

mod fact_mailbox;
mod introductions;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};

use interlock_core::clock::Moment;
use interlock_core::identity::{LogName, MemberOpening, MessageNumber, NodeNumber};
use interlock_core::limits::MAX_LOGS_PER_PEER;
use interlock_core::names::RegionName;
use interlock_core::replication::acknowledgements::{
    Acknowledgements, MemberRecord, QueuedLog, Recorded,
};
use interlock_core::replication::departure::{self, LeftLog};
use interlock_core::replication::frames::{Fact, LogOffer};
use interlock_core::replication::log_sources::{LogSources, WantChange};
use tokio::sync::{Notify, mpsc, watch};

use self::fact_mailbox::FactMailbox;
pub use self::introductions::Speaker;
use crate::durable_state::DurableState;
use crate::node_clock::NodeClock;

const LOCK: &str = "no holder of the replication hub's lock panics";

/// What an inbound link is told.
#[derive(Clone, Copy, Debug)]
pub enum InboundCommand {
    /// Ask the peer for a log.
    Want(LogName, MessageNumber),
    /// Ask it no longer.
    Unwant(LogName),
    /// Another process of the peer's name goes before the one on this stream.
    Fenced(Speaker),
}

/// What an outbound link is told: a fact to pass on.
#[derive(Clone, Debug)]
pub struct RelayedFact {
    /// The fact.
    pub fact: Fact,
    /// Whether someone waits for it.
    pub awaited: bool,
}

/// Tells the streams of one peer apart, the later ones above.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct StreamNumber(u64);

impl StreamNumber {
    /// The number itself.
    pub const fn get(self) -> u64 {
        self.0
    }
}

#[derive(Debug)]
struct Inbound {
    stream: StreamNumber,
    /// The process at its other end.
    speaker: Speaker,
    /// When it was last heard to be alive.
    heard: watch::Sender<Moment>,
    /// A log changes its server at most every two seconds, and a link that does not
    /// come to take what it is told is given up after five of silence.
    commands: mpsc::UnboundedSender<InboundCommand>,
}

#[derive(Debug)]
struct Outbound {
    stream: StreamNumber,
    facts: Arc<FactMailbox>,
}

#[derive(Debug)]
struct State {
    sources: LogSources,
    acknowledgements: Acknowledgements,
    inbound: BTreeMap<NodeNumber, Inbound>,
    outbound: BTreeMap<NodeNumber, Outbound>,
}

/// See the module's page.
#[derive(Debug)]
pub struct ReplicationHub {
    me: MemberOpening,
    clock: NodeClock,
    state: Mutex<State>,
    streams: AtomicU64,
    waiters: AtomicUsize,
    fact_changes: watch::Sender<u64>,
    /// The moment to look at servers again may have changed.
    sources_changed: Notify,
}

impl ReplicationHub {
    /// Nobody is connected; `recovered` is what was last known of others.
    pub fn new(
        me: MemberOpening,
        region: RegionName,
        clock: NodeClock,
        recovered: &[MemberRecord],
        held: impl IntoIterator<Item = (LogName, MessageNumber)>,
    ) -> Self {
        let mut sources = LogSources::new(me, region);
        for (log, m_id) in held {
            sources.mark_appended(clock.moment(), &log, m_id);
        }
        let others: Vec<MemberRecord> =
            recovered.iter().filter(|member| member.node != me.node).cloned().collect();
        let state = State {
            sources,
            acknowledgements: Acknowledgements::from_checkpoint(&others),
            inbound: BTreeMap::new(),
            outbound: BTreeMap::new(),
        };
        Self {
            me,
            clock,
            state: Mutex::new(state),
            streams: AtomicU64::new(0),
            waiters: AtomicUsize::new(0),
            fact_changes: watch::Sender::new(0),
            sources_changed: Notify::new(),
        }
    }

    // Inbound links.

    /// A peer's stream to us is over.
    pub fn inbound_disconnected(&self, peer: NodeNumber, stream: StreamNumber) {
        let mut state = self.lock();
        if state.inbound.get(&peer).is_some_and(|inbound| inbound.stream == stream) {
            state.inbound.remove(&peer);
            state.sources.peer_disconnected(self.clock.moment(), peer);
            self.dispatch(&mut state);
            self.sources_changed.notify_one();
        }
    }

    /// A peer can serve these logs.
    pub fn offered(&self, peer: NodeNumber, stream: StreamNumber, offers: &[LogOffer]) {
        let mut state = self.lock();
        if state.inbound.get(&peer).is_none_or(|inbound| inbound.stream != stream) {
            return;
        }
        let now = self.clock.moment();
        let mut left_out = 0;
        for offer in offers {
            left_out += usize::from(!state.sources.peer_offered(now, peer, offer));
        }
        if left_out > 0 {
            tracing::warn!(
                %peer,
                logs = left_out,
                limit = MAX_LOGS_PER_PEER,
                "the peer offers more logs than are kept of one: these are left to other peers"
            );
        }
        self.dispatch(&mut state);
        self.sources_changed.notify_one();
    }

    /// A peer cannot serve a log on its present stream.
    pub fn server_failed(&self, peer: NodeNumber, log: &LogName) {
        let mut state = self.lock();
        state.sources.server_failed(self.clock.moment(), peer, log);
        self.dispatch(&mut state);
        self.sources_changed.notify_one();
    }

    // Outbound links.

    /// Our stream to a peer is established: facts to pass on come out of it, all
    /// that are known first. A stream to the same peer that was there before ends.
    pub fn outbound_connected(self: &Arc<Self>, peer: NodeNumber) -> OutboundStream {
        let facts = Arc::new(FactMailbox::default());
        let stream = self.next_stream();
        let mut state = self.lock();
        state.acknowledgements.handle_connecting(peer);
        self.takes_nothing(&mut state, peer);
        for fact in state.acknowledgements.facts() {
            if fact.opening.node != peer {
                facts.put(fact, false);
            }
        }
        let before = state.outbound.insert(peer, Outbound { stream, facts: Arc::clone(&facts) });
        if let Some(before) = before {
            before.facts.close();
        }
        OutboundStream { hub: Arc::clone(self), peer, stream, facts }
    }

    /// Our stream to a peer is over.
    fn outbound_disconnected(&self, peer: NodeNumber, stream: StreamNumber) {
        let mut state = self.lock();
        if state.outbound.get(&peer).is_some_and(|outbound| outbound.stream == stream) {
            state.outbound.remove(&peer);
            state.acknowledgements.handle_disconnected(peer);
            self.takes_nothing(&mut state, peer);
        }
    }

    fn peer_takes(&self, peer: NodeNumber, stream: StreamNumber, log: &LogName, takes: bool) {
        let mut state = self.lock();
        if state.outbound.get(&peer).is_some_and(|outbound| outbound.stream == stream) {
            state.sources.peer_takes(self.clock.moment(), peer, log, takes);
            self.dispatch(&mut state);
            self.sources_changed.notify_one();
        }
    }

    fn takes_nothing(&self, state: &mut State, peer: NodeNumber) {
        state.sources.peer_takes_nothing(self.clock.moment(), peer);
        self.dispatch(state);
        self.sources_changed.notify_one();
    }

    // Facts.

    /// Takes a fact, wakes who waits for it, and passes news on.
    pub fn record(&self, fact: &Fact, first_hand: bool) {
        if fact.opening.node == self.me.node {
            return;
        }
        let mut state = self.lock();
        match state.acknowledgements.record(fact, first_hand) {
            Recorded::News(marks) => {
                let awaited = self.waiters.load(Ordering::Relaxed) > 0;
                let news = Fact { opening: fact.opening, marks };
                for (peer, outbound) in &state.outbound {
                    if *peer != fact.opening.node {
                        outbound.facts.put(news.clone(), awaited);
                    }
                }
                drop(state);
                self.fact_changes.send_modify(|change| *change += 1);
            }
            Recorded::TooManyOpenings => {
                tracing::warn!(node = %fact.opening.node, "more openings than are kept: its facts are dropped");
            }
            Recorded::Known | Recorded::Retired => {}
        }
    }

    /// Who serves a log to this node at present.
    pub fn server_of(&self, log: &LogName) -> Option<NodeNumber> {
        self.lock().sources.server_of(log)
    }

    /// The members that surely hold a message durably, without this one.
    pub fn holders(&self, log: &LogName, m_id: MessageNumber) -> BTreeSet<NodeNumber> {
        self.lock().acknowledgements.holders(log, m_id)
    }

    /// How far all of these members surely hold a log; `None` of none of them.
    pub fn held_by_all(
        &self,
        log: &LogName,
        members: impl IntoIterator<Item = NodeNumber>,
    ) -> Option<MessageNumber> {
        self.lock().acknowledgements.held_by_all(log, members)
    }

    /// What members lack of logs that this node leaves.
    pub fn departure(
        &self,
        members: impl IntoIterator<Item = NodeNumber>,
        logs: &[LeftLog],
    ) -> departure::Departure {
        departure::Departure::of(members, logs, &self.lock().acknowledgements)
    }

    /// A member's queue (METHOD M6) of the logs given.
    pub fn queue(
        &self,
        peer: NodeNumber,
        held: impl IntoIterator<Item = (LogName, MessageNumber, MessageNumber)>,
    ) -> Vec<QueuedLog> {
        self.lock().acknowledgements.queue(peer, held)
    }

    /// What a checkpoint stores of others.
    pub fn members_for_checkpoint(&self) -> Vec<MemberRecord> {
        self.lock().acknowledgements.to_checkpoint()
    }

    /// Changes of facts, for waiters. While it is held, facts are passed on at
    /// once.
    pub fn await_facts(self: &Arc<Self>) -> FactWaiter {
        self.waiters.fetch_add(1, Ordering::Relaxed);
        FactWaiter { hub: Arc::clone(self), changes: self.fact_changes.subscribe() }
    }

    // The hub's own task.

    /// Keeps the choice of servers in step with what becomes durable and with
    /// time, until it is dropped.
    pub async fn run(&self, durable: &DurableState) {
        let mut changes = durable.watch_durable();
        let mut seen = BTreeMap::new();
        loop {
            changes.mark_unchanged();
            let advanced = durable.collect_advanced(&mut seen, |_| true);
            let next = {
                let mut state = self.lock();
                let now = self.clock.moment();
                for log in advanced {
                    state.sources.mark_appended(now, &log.row.log, log.durable.m_id);
                }
                state.sources.handle_timeout(now);
                self.dispatch(&mut state);
                state.sources.poll_timeout()
            };
            let timeout = async {
                match next {
                    Some(moment) => tokio::time::sleep_until(self.clock.instant(moment)).await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                changed = changes.changed() => if changed.is_err() { return },
                () = timeout => {}
                () = self.sources_changed.notified() => {}
            }
        }
    }

    fn dispatch(&self, state: &mut State) {
        while let Some(change) = state.sources.poll_change() {
            let Some(inbound) = state.inbound.get(&change.peer()) else { continue };
            let command = match change {
                WantChange::Want { log, from, .. } => InboundCommand::Want(log, from),
                WantChange::Unwant { log, .. } => InboundCommand::Unwant(log),
            };
            // A link that has just ended reports it in a moment.
            let _ = inbound.commands.send(command);
        }
    }

    fn next_stream(&self) -> StreamNumber {
        StreamNumber(self.streams.fetch_add(1, Ordering::Relaxed))
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().expect(LOCK)
    }
}

/// Our stream to a peer, among the links: over when it is dropped, however its
/// link ended.
#[derive(Debug)]
pub struct OutboundStream {
    hub: Arc<ReplicationHub>,
    peer: NodeNumber,
    stream: StreamNumber,
    facts: Arc<FactMailbox>,
}

impl OutboundStream {
    /// The peer takes a log from this node from now on, or no longer.
    pub fn peer_takes(&self, log: &LogName, takes: bool) {
        self.hub.peer_takes(self.peer, self.stream, log, takes);
    }

    /// The next fact to pass on; `None` once another stream has taken over.
    pub async fn next_fact(&self) -> Option<RelayedFact> {
        self.facts.next().await
    }
}

impl Drop for OutboundStream {
    fn drop(&mut self) {
        self.hub.outbound_disconnected(self.peer, self.stream);
    }
}

/// Someone who waits for facts.
#[derive(Debug)]
pub struct FactWaiter {
    hub: Arc<ReplicationHub>,
    changes: watch::Receiver<u64>,
}

impl FactWaiter {
    /// Waits until something was recorded since the last call.
    pub async fn changed(&mut self) {
        // The hub is kept alive by this waiter.
        let _ = self.changes.changed().await;
    }
}

impl Drop for FactWaiter {
    fn drop(&mut self) {
        self.hub.waiters.fetch_sub(1, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use interlock_core::identity::Incarnation;

    use super::*;

    #[tokio::test]
    async fn a_stream_that_is_dropped_leaves_the_place_to_the_one_that_took_it() {
        let opening = |node| MemberOpening {
            node: NodeNumber::new(node),
            incarnation: Incarnation::new(u64::from(node)).expect("not zero"),
            opened_from: None,
        };
        let region = RegionName::parse("south").expect("a name");
        let hub = Arc::new(ReplicationHub::new(opening(1), region, NodeClock::start(), &[], []));
        let peer = NodeNumber::new(2);
        let older = hub.outbound_connected(peer);
        let newer = hub.outbound_connected(peer);
        assert!(older.next_fact().await.is_none(), "its place is taken");
        drop(older);
        assert_eq!(hub.lock().outbound.len(), 1);
        drop(newer);
        assert!(hub.lock().outbound.is_empty());
    }
}
