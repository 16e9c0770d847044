//! Which peer serves us which log: one at a time, chosen from what is offered on
//! all streams. Whoever still has what we lack goes before one that has trimmed
//! it. Then the carrier of our region, the origin, a sibling, and whoever offers
//! more: that is relay around a broken link, and the tail of a dead origin. A
//! server that makes no progress for two seconds while another has more is
//! replaced.
//!
//! **One WAN copy per region.** Of the siblings that hold a log of another region
//! one is its *carrier*, the same for all of them by a hash of log and node: it
//! takes the log from the origin, the others take it from the carrier. They go to
//! the origin themselves while the carrier is away or stalls, and so does whoever the
//! carrier itself takes the log from: it has lost the origin. The carrier never
//! prefers a sibling, so nobody waits in a circle.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet, VecDeque};

use xxhash_rust::xxh3::xxh3_64;

use crate::clock::Moment;
use crate::identity::{LogName, MemberOpening, MessageNumber, NodeNumber};
use crate::limits::MAX_LOGS_PER_PEER;
use crate::names::RegionName;
use crate::replication::frames::LogOffer;
use crate::replication::timing::{STALLED_SERVER_LIMIT, STALLED_SERVER_PENALTY};

/// What to tell a peer's receiver.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum WantChange {
    /// Serve a log from a number on.
    Want {
        /// The server.
        peer: NodeNumber,
        /// The log.
        log: LogName,
        /// The first message that is not appended here.
        from: MessageNumber,
    },
    /// Serve it no longer.
    Unwant {
        /// The server.
        peer: NodeNumber,
        /// The log.
        log: LogName,
    },
}

impl WantChange {
    /// The peer to tell.
    pub const fn peer(&self) -> NodeNumber {
        match self {
            Self::Want { peer, .. } | Self::Unwant { peer, .. } => *peer,
        }
    }
}

/// How willingly a peer is chosen, the best last.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Nearness {
    Elsewhere,
    Sibling,
    Origin,
    /// The sibling that takes this log over the WAN for the region.
    Carrier,
}

/// What a peer has of a log.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Offered {
    tip: MessageNumber,
    /// The last message it has trimmed.
    floor: MessageNumber,
}

/// How good a server is for what we lack, the best last.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Rank {
    /// It has all that we lack up to its tip: no hole comes from it.
    is_whole: bool,
    nearness: Nearness,
}

#[derive(Clone, Debug)]
struct Peer {
    region: RegionName,
    logs: BTreeSet<LogName>,
}

#[derive(Clone, Debug, Default)]
struct LogState {
    /// The last message appended here, or the number before the log's first.
    appended: MessageNumber,
    /// What connected peers offer.
    offers: BTreeMap<NodeNumber, Offered>,
    server: Option<NodeNumber>,
    /// Servers that stalled, until then; without an end those that cannot serve
    /// it on their present stream.
    avoided: BTreeMap<NodeNumber, Option<Moment>>,
    /// Who takes it from us.
    takers: BTreeSet<NodeNumber>,
    /// Since when the server makes no progress though there is more.
    behind_since: Option<Moment>,
    deadline: Option<Moment>,
}

impl LogState {
    fn is_avoided(&self, node: NodeNumber) -> bool {
        self.avoided.contains_key(&node)
    }

    fn rank(&self, node: NodeNumber, nearness: Nearness) -> Rank {
        let offered = self.offers.get(&node).copied().unwrap_or_default();
        Rank { is_whole: offered.floor <= self.appended, nearness }
    }
}

/// The choice of servers for all logs of a node. See the module's documentation.
#[derive(Clone, Debug)]
pub struct LogSources {
    me: MemberOpening,
    region: RegionName,
    peers: BTreeMap<NodeNumber, Peer>,
    logs: BTreeMap<LogName, LogState>,
    deadlines: BTreeSet<(Moment, LogName)>,
    changes: VecDeque<WantChange>,
}

impl LogSources {
    /// Nobody is connected. The driver tells the appended marks of all logs it
    /// holds with [`Self::mark_appended`] before the first peer connects.
    pub const fn new(me: MemberOpening, region: RegionName) -> Self {
        Self {
            me,
            region,
            peers: BTreeMap::new(),
            logs: BTreeMap::new(),
            deadlines: BTreeSet::new(),
            changes: VecDeque::new(),
        }
    }

    /// A peer's stream to us is established. A stream that it had before is over.
    pub fn peer_connected(&mut self, now: Moment, node: NodeNumber, region: RegionName) {
        self.peer_disconnected(now, node);
        self.peers.insert(node, Peer { region, logs: BTreeSet::new() });
    }

    /// A peer's stream is over: its logs are taken from others.
    pub fn peer_disconnected(&mut self, now: Moment, node: NodeNumber) {
        let Some(peer) = self.peers.remove(&node) else { return };
        self.changes.retain(|change| change.peer() != node);
        for log in peer.logs {
            if let Some(state) = self.logs.get_mut(&log) {
                state.offers.remove(&node);
                state.avoided.remove(&node);
                if state.server == Some(node) {
                    state.server = None;
                }
            }
            self.reconsider(now, &log);
        }
    }

    /// A connected peer can serve a log up to its tip. The driver leaves out what
    /// either end is no member for. False when the peer offers more logs than are
    /// kept of one: this one is not taken from it, and somebody has to know.
    pub fn peer_offered(&mut self, now: Moment, node: NodeNumber, offer: &LogOffer) -> bool {
        let log = offer.log;
        // What we write ourselves we need from nobody; an offer beyond our own
        // tip is the driver's alarm.
        if log.origin == self.me.node && log.incarnation == self.me.incarnation {
            return true;
        }
        let Some(peer) = self.peers.get_mut(&node) else { return true };
        if peer.logs.len() >= MAX_LOGS_PER_PEER && !peer.logs.contains(&log) {
            return false;
        }
        peer.logs.insert(log);
        let state = self.logs.entry(log).or_default();
        // A log goes on from its highest parent's number.
        let start = offer.parents.iter().map(|parent| parent.m_id).max().unwrap_or_default();
        state.appended = state.appended.max(start);
        let offered = state.offers.entry(node).or_default();
        offered.tip = offer.tip.m_id.max(offered.tip);
        offered.floor = offer.floor.max(offered.floor);
        self.reconsider(now, &log);
        true
    }

    /// A log is appended here up to a number, whoever served it.
    pub fn mark_appended(&mut self, now: Moment, log: &LogName, m_id: MessageNumber) {
        let state = self.logs.entry(*log).or_default();
        if m_id <= state.appended {
            return;
        }
        state.appended = m_id;
        state.behind_since = None;
        // Frames come before the announcement of what is in them.
        if let Some(offered) = state.server.and_then(|server| state.offers.get_mut(&server)) {
            offered.tip = m_id.max(offered.tip);
        }
        self.reconsider(now, log);
    }

    /// A peer cannot serve a log on its present stream: it refused, or what it
    /// has is not what we have.
    pub fn server_failed(&mut self, now: Moment, node: NodeNumber, log: &LogName) {
        let Some(state) = self.logs.get_mut(log) else { return };
        if !state.offers.contains_key(&node) {
            return;
        }
        state.avoided.insert(node, None);
        if state.server == Some(node) {
            state.server = None;
            self.changes.push_back(WantChange::Unwant { peer: node, log: *log });
        }
        self.reconsider(now, log);
    }

    /// A peer takes a log from us from now on, or no longer.
    pub fn peer_takes(&mut self, now: Moment, node: NodeNumber, log: &LogName, takes: bool) {
        let Some(state) = self.logs.get_mut(log) else { return };
        let is_news = if takes { state.takers.insert(node) } else { state.takers.remove(&node) };
        if is_news {
            self.reconsider(now, log);
        }
    }

    /// Our stream to a peer is over, or begins: it takes nothing from us.
    pub fn peer_takes_nothing(&mut self, now: Moment, node: NodeNumber) {
        let taken = self.logs.iter().filter(|(_, state)| state.takers.contains(&node));
        let taken: Vec<LogName> = taken.map(|(log, _)| *log).collect();
        for log in taken {
            self.peer_takes(now, node, &log, false);
        }
    }

    /// A log is no longer to be held here.
    pub fn forget_log(&mut self, log: &LogName) {
        let Some(state) = self.logs.remove(log) else { return };
        if let Some(deadline) = state.deadline {
            self.deadlines.remove(&(deadline, *log));
        }
        if let Some(peer) = state.server {
            self.changes.push_back(WantChange::Unwant { peer, log: *log });
        }
        for node in state.offers.keys() {
            if let Some(peer) = self.peers.get_mut(node) {
                peer.logs.remove(log);
            }
        }
    }

    /// The moment that [`Self::poll_timeout`] named has come.
    pub fn handle_timeout(&mut self, now: Moment) {
        while let Some((due, log)) = self.deadlines.first().copied()
            && due <= now
        {
            self.deadlines.pop_first();
            if let Some(state) = self.logs.get_mut(&log) {
                state.deadline = None;
            }
            self.reconsider(now, &log);
        }
    }

    /// When to call [`Self::handle_timeout`] if nothing happens before.
    pub fn poll_timeout(&self) -> Option<Moment> {
        self.deadlines.first().map(|(due, _)| *due)
    }

    /// The next thing to tell a peer. A log is unwanted at one before it is
    /// wanted at another.
    pub fn poll_change(&mut self) -> Option<WantChange> {
        self.changes.pop_front()
    }

    /// Who serves a log at present.
    pub fn server_of(&self, log: &LogName) -> Option<NodeNumber> {
        self.logs.get(log)?.server
    }

    /// How far any connected peer holds a log.
    #[cfg(test)]
    fn best_offer(&self, log: &LogName) -> Option<MessageNumber> {
        self.logs.get(log)?.offers.values().map(|offered| offered.tip).max()
    }

    /// Looks again at who should serve a log, and when to look next.
    fn reconsider(&mut self, now: Moment, log: &LogName) {
        let Some(state) = self.logs.get_mut(log) else { return };
        state.avoided.retain(|_, until| until.is_none_or(|until| until > now));

        let is_sibling =
            |node: NodeNumber| self.peers.get(&node).is_some_and(|peer| peer.region == self.region);
        // A log of our own region is taken from its origin by everybody.
        let is_ours = log.origin == self.me.node || is_sibling(log.origin);
        let carrier = (!is_ours).then(|| {
            let siblings = state.offers.keys().copied().filter(|node| is_sibling(*node));
            let candidates = siblings.filter(|node| !state.is_avoided(*node));
            candidates.chain([self.me.node]).min_by_key(|node| (lot(log, *node), *node))
        });
        let carrier = carrier.flatten().filter(|carrier| !state.takers.contains(carrier));
        let nearness = |node: NodeNumber| {
            if carrier == Some(node) {
                Nearness::Carrier
            } else if node == log.origin {
                Nearness::Origin
            } else if is_sibling(node) {
                Nearness::Sibling
            } else {
                Nearness::Elsewhere
            }
        };
        let wish = choose(state, nearness);
        let mut server = state.server.or(wish);
        if let (Some(current), Some(wished)) = (state.server, wish)
            // One that stalled comes back when its penalty is over, also where
            // nobody else is level with us.
            && !state.is_avoided(wished)
            && state.rank(wished, nearness(wished)) > state.rank(current, nearness(current))
            // Two siblings that both see the other ahead must not come to wait
            // for each other: only the higher number moves to the lower.
            // Whoever has what the other has trimmed does not wait for us.
            && (nearness(wished) >= Nearness::Origin
                || !state.rank(current, nearness(current)).is_whole
                || wished < self.me.node)
        {
            server = wish;
        }

        let more_elsewhere = |state: &LogState, server| {
            state
                .offers
                .iter()
                .filter(|(node, offered)| {
                    let is_other = Some(**node) != server && !state.is_avoided(**node);
                    is_other && offered.tip > state.appended
                })
                .max_by_key(|(node, offered)| {
                    (state.rank(**node, nearness(**node)), offered.tip, Reverse(**node))
                })
                .map(|(node, _)| *node)
        };
        if server != state.server {
            state.behind_since = None;
        }
        if let Some(other) = more_elsewhere(state, server) {
            let since = *state.behind_since.get_or_insert(now);
            if let Some(stalled) = server
                && now.since(since) >= STALLED_SERVER_LIMIT
            {
                state.avoided.insert(stalled, Some(now + STALLED_SERVER_PENALTY));
                server = Some(other);
                state.behind_since = more_elsewhere(state, server).map(|_| now);
            }
        } else {
            state.behind_since = None;
        }

        if server != state.server {
            if let Some(peer) = state.server {
                self.changes.push_back(WantChange::Unwant { peer, log: *log });
            }
            if let Some(peer) = server {
                let from = state.appended.next();
                self.changes.push_back(WantChange::Want { peer, log: *log, from });
            }
            state.server = server;
        }

        let stalled_at = state.behind_since.map(|since| since + STALLED_SERVER_LIMIT);
        let deadline = state.avoided.values().copied().flatten().chain(stalled_at).min();
        if deadline != state.deadline {
            if let Some(before) = state.deadline {
                self.deadlines.remove(&(before, *log));
            }
            self.deadlines.extend(deadline.map(|due| (due, *log)));
            state.deadline = deadline;
        }
    }
}

/// The place of a node among the siblings that could carry a log: another one for
/// each log, so that the region's nodes share the work.
fn lot(log: &LogName, node: NodeNumber) -> u64 {
    let mut bytes = [0; 16];
    bytes[..8].copy_from_slice(&log.incarnation.get().to_be_bytes());
    bytes[8..12].copy_from_slice(&log.namespace.get().to_be_bytes());
    bytes[12..].copy_from_slice(&node.get().to_be_bytes());
    xxh3_64(&bytes)
}

/// The best server by what is offered now. The carrier and the origin need only to
/// be level with us, since what is new comes from there; others have to have more.
/// Stalled servers come last.
fn choose(state: &LogState, nearness: impl Fn(NodeNumber) -> Nearness) -> Option<NodeNumber> {
    state
        .offers
        .iter()
        .filter(|(node, offered)| {
            let is_level = offered.tip == state.appended && nearness(**node) >= Nearness::Origin;
            let can_serve = state.avoided.get(node) != Some(&None);
            can_serve && (offered.tip > state.appended || is_level)
        })
        .max_by_key(|(node, offered)| {
            let rank = state.rank(**node, nearness(**node));
            (!state.is_avoided(**node), rank, offered.tip, Reverse(**node))
        })
        .map(|(node, _)| *node)
}

#[cfg(test)]
mod tests;
