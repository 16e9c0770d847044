//! The streams to peers and from them: when they are opened, what they begin with,
//! and how they end.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use interlock_core::clock::Moment;
use interlock_core::directory::Directory;
use interlock_core::features::FEATURE_LEVEL;
use interlock_core::identity::Mark;
use interlock_core::identity::{LogName, MessageNumber, NamespaceNumber, NodeNumber};
use interlock_core::limits::WINDOW_BYTES;
use interlock_core::replication::base_sending::{BaseSending, PageLimits};
use interlock_core::replication::frames::{Hello, NamespaceDigest, PROTOCOL_VERSION};
use interlock_core::replication::own_log_watch::OwnLogWatch;
use interlock_core::replication::peer_receiver::{PeerReceiver, ReceiverConfig};
use interlock_core::replication::peer_sender::{PeerSender, SenderConfig};
use interlock_core::replication::rows::Row;

use crate::network::{Cargo, StreamNumber};
use crate::planted_bug::PlantedBug;
use crate::random::Random;

use super::Process;
use super::messages::Output;
use super::writing::Command;

/// Small, so that a base has several pages and something comes between them.
const BASE_PAGES: PageLimits = PageLimits { bytes: 256, entries: 2, trim_points: 3 };

/// How long a stream is left to another process of this name.
const LEAST_TURN: Duration = Duration::from_secs(2);
const LEAST_BACKOFF: Duration = Duration::from_millis(100);
const MOST_BACKOFF: Duration = Duration::from_secs(10);

/// Our stream to a peer.
pub(super) struct Outbound {
    pub(super) attempts: u32,
    pub(super) state: OutboundState,
}

pub(super) enum OutboundState {
    Waiting { until: Moment },
    Connecting,
    Open(Box<OpenOutbound>),
}

pub(super) struct OpenOutbound {
    pub(super) stream: StreamNumber,
    pub(super) sender: PeerSender,
    /// What the greeting said of the namespaces that it named.
    pub(super) greeted: Vec<NamespaceDigest>,
    /// How far each log has been offered, and from where on.
    pub(super) offered: BTreeMap<LogName, (MessageNumber, MessageNumber)>,
    pub(super) bases: BaseSending,
    /// When the peer is greeted again, because what it was told has changed.
    pub(super) greet_again_at: Option<Moment>,
    /// What the peer says of our own logs.
    pub(super) own_marks: OwnLogWatch,
}

/// A peer's stream to us.
pub(super) struct Inbound {
    pub(super) receiver: PeerReceiver,
    /// Set once the peer is accepted.
    pub(super) peer: Option<NodeNumber>,
    /// The namespaces that it is ready in.
    pub(super) ready: Vec<NamespaceNumber>,
    pub(super) said_all: bool,
    pub(super) acknowledged: BTreeMap<LogName, MessageNumber>,
    /// The rows that the peer has offered.
    pub(super) offered: BTreeMap<LogName, Row>,
    /// What the peer says of our own logs.
    pub(super) own_marks: OwnLogWatch,
}

impl Process {
    /// Calls whoever shares a namespace with this node, and nobody else.
    pub(super) fn call_peers(&mut self) {
        let peers: Vec<NodeNumber> =
            self.topology.peers_of(self.me.opening.node).iter().map(|node| node.number).collect();
        let former: Vec<NodeNumber> =
            self.outbound.keys().filter(|peer| !peers.contains(peer)).copied().collect();
        for peer in former {
            self.hang_up(peer, Duration::ZERO);
            self.outbound.remove(&peer);
        }
        for peer in peers {
            let state = OutboundState::Waiting { until: self.now };
            self.outbound.entry(peer).or_insert(Outbound { attempts: 0, state });
        }
    }

    /// A call did not get through. One of before, of which that is heard late, is none of
    /// the stream's that is there now.
    pub(super) fn call_failed(&mut self, peer: NodeNumber, random: &mut Random) {
        let state = self.outbound.get(&peer).map(|outbound| &outbound.state);
        if matches!(state, Some(OutboundState::Connecting)) {
            self.wait_to_call(peer, random);
        }
    }

    fn wait_to_call(&mut self, peer: NodeNumber, random: &mut Random) {
        let now = self.now;
        if let Some(outbound) = self.outbound.get_mut(&peer) {
            let full =
                LEAST_BACKOFF.saturating_mul(1 << outbound.attempts.min(10)).min(MOST_BACKOFF);
            outbound.attempts += 1;
            let until = now + random.duration(full / 2, full);
            outbound.state = OutboundState::Waiting { until };
        }
    }

    /// Gives our stream to a peer up, and calls again after a while.
    pub(super) fn hang_up(&mut self, peer: NodeNumber, delay: Duration) {
        if let Some(open) = open_of(&mut self.outbound, peer) {
            self.outputs.push(Output::Close(open.stream));
            self.facts.handle_disconnected(peer);
            self.sources.peer_takes_nothing(self.now, peer);
            let state = OutboundState::Waiting { until: self.now + delay };
            self.outbound.insert(peer, Outbound { attempts: 0, state });
        }
    }

    pub(super) fn stream_opened(
        &mut self,
        stream: StreamNumber,
        peer: NodeNumber,
        random: &mut Random,
    ) {
        let is_awaited = self
            .outbound
            .get(&peer)
            .is_some_and(|outbound| matches!(outbound.state, OutboundState::Connecting));
        if !is_awaited {
            return self.outputs.push(Output::Close(stream));
        }
        let config = SenderConfig { peer, jitter_seed: random.bits() };
        let greeting = self.greeting(peer);
        let greeted = greeting.namespaces.clone();
        let mut sender = PeerSender::new(self.now, config, greeting);
        sender.handle_topology(self.now, Arc::clone(&self.topology));
        self.facts.handle_connecting(peer);
        for fact in self.facts.facts() {
            if let Some(fact) = self.fact_for(peer, fact) {
                sender.handle_fact(self.now, fact, false);
            }
        }
        let offered = BTreeMap::new();
        let own_marks = OwnLogWatch::new(self.me.opening);
        let bases = BaseSending::new(BASE_PAGES);
        let open = OpenOutbound {
            stream,
            sender,
            greeted,
            offered,
            bases,
            greet_again_at: None,
            own_marks,
        };
        let outbound = self.outbound.get_mut(&peer).expect("just looked at");
        outbound.state = OutboundState::Open(Box::new(open));
        self.offer_advanced();
    }

    /// Says who this node is and what it has, in the namespaces that both hold
    /// and that it is ready in.
    fn greeting(&self, peer: NodeNumber) -> Hello {
        Hello {
            protocol_version: PROTOCOL_VERSION,
            member: self.me.clone(),
            topology_version: self.topology.version,
            namespaces: self.digests(peer),
            feature_level: FEATURE_LEVEL,
            wall_clock: self.wall,
        }
    }

    pub(super) fn digests(&self, peer: NodeNumber) -> Vec<NamespaceDigest> {
        let digest = |namespace| {
            let directory = self.directories.directory(namespace);
            NamespaceDigest {
                namespace,
                tips: self.admission.logs().tips_digest(namespace),
                state: directory.map_or_else(|| Directory::new().digest(), Directory::digest),
            }
        };
        self.shared_and_ready(peer).into_iter().map(digest).collect()
    }

    pub(super) fn shared_and_ready(&self, peer: NodeNumber) -> Vec<NamespaceNumber> {
        let mut namespaces = self.topology.namespaces_of(self.me.opening.node);
        namespaces
            .retain(|namespace| self.is_member(peer, *namespace) && self.is_ready(*namespace));
        namespaces
    }

    pub(super) fn stream_accepted(&mut self, stream: StreamNumber) {
        let config = ReceiverConfig { window_bytes: WINDOW_BYTES };
        let mut receiver = PeerReceiver::new(self.now, config, self.me.opening);
        receiver.handle_topology(self.now, Arc::clone(&self.topology));
        let inbound = Inbound {
            receiver,
            peer: None,
            ready: Vec::new(),
            said_all: false,
            acknowledged: BTreeMap::new(),
            offered: BTreeMap::new(),
            own_marks: OwnLogWatch::new(self.me.opening),
        };
        self.inbound.insert(stream, inbound);
    }

    /// Takes marks that a peer names on our stream to it. False when they may not
    /// be counted: they are beyond what this process ever made durable.
    pub(super) fn hear_as_sender(&mut self, peer: NodeNumber, marks: &[(LogName, Mark)]) -> bool {
        let (now, me) = (self.now, self.me.opening);
        let Some(open) = open_of(&mut self.outbound, peer) else { return true };
        let mut watch = std::mem::replace(&mut open.own_marks, OwnLogWatch::new(me));
        let is_counted = self.hear_own_marks(&mut watch, now, peer, marks);
        if let Some(open) = open_of(&mut self.outbound, peer) {
            open.own_marks = watch;
        }
        is_counted
    }

    /// The same of a peer's stream to us.
    pub(super) fn hear_as_receiver(
        &mut self,
        stream: StreamNumber,
        peer: NodeNumber,
        marks: &[(LogName, Mark)],
    ) -> bool {
        let (now, me) = (self.now, self.me.opening);
        let Some(inbound) = self.inbound.get_mut(&stream) else { return true };
        let mut watch = std::mem::replace(&mut inbound.own_marks, OwnLogWatch::new(me));
        let is_counted = self.hear_own_marks(&mut watch, now, peer, marks);
        if let Some(inbound) = self.inbound.get_mut(&stream) {
            inbound.own_marks = watch;
        }
        is_counted
    }

    fn hear_own_marks(
        &mut self,
        watch: &mut OwnLogWatch,
        now: Moment,
        peer: NodeNumber,
        marks: &[(LogName, Mark)],
    ) -> bool {
        if self.is(PlantedBug::OwnMarksIgnored) {
            return true;
        }
        let durable = |log: &LogName| self.durable.get(log).map(|held| held.mark.m_id);
        let named = watch.named(now, marks, |log| durable(log).unwrap_or_default());
        if !named.to_examine.is_empty() {
            self.command(Command::Examine(peer, named.to_examine));
        }
        !named.is_beyond
    }

    pub(super) fn arrived(&mut self, stream: StreamNumber, cargo: Cargo, random: &mut Random) {
        match cargo {
            Cargo::End => self.end_stream(stream, false, random),
            Cargo::TakenOver => self.give_way(stream, random),
            Cargo::Sender(frame) => {
                if let Some(inbound) = self.inbound.get_mut(&stream) {
                    inbound.receiver.handle_frame(self.now, frame);
                }
            }
            Cargo::Receiver(frame) => {
                for (peer, outbound) in &mut self.outbound {
                    if let OutboundState::Open(open) = &mut outbound.state
                        && open.stream == stream
                    {
                        if let Some((log, takes)) = frame.takes() {
                            self.sources.peer_takes(self.now, *peer, &log, takes);
                        }
                        open.sender.handle_frame(self.now, frame);
                        return;
                    }
                }
            }
        }
    }

    /// Another process of this name calls the same peer. Each gets a turn that is
    /// long enough to say all that it has: the one that would call again at once
    /// would cut the other off before that.
    fn give_way(&mut self, stream: StreamNumber, random: &mut Random) {
        let peer = self.peer_called_by(stream);
        self.end_stream(stream, false, random);
        if let Some(outbound) = peer.and_then(|peer| self.outbound.get_mut(&peer)) {
            let until = self.now + random.duration(LEAST_TURN, 2 * LEAST_TURN);
            outbound.state = OutboundState::Waiting { until };
        }
    }

    /// The peer that a stream of ours leads to.
    fn peer_called_by(&self, stream: StreamNumber) -> Option<NodeNumber> {
        let is_it = |outbound: &Outbound| matches!(&outbound.state, OutboundState::Open(open) if open.stream == stream);
        self.outbound.iter().find(|(_, outbound)| is_it(outbound)).map(|(peer, _)| *peer)
    }

    /// A stream is over, ended by us or by the other side.
    pub(super) fn end_stream(&mut self, stream: StreamNumber, by_us: bool, random: &mut Random) {
        if by_us {
            self.outputs.push(Output::Close(stream));
        }
        if let Some(inbound) = self.inbound.remove(&stream) {
            let Some(peer) = inbound.peer else { return };
            if self.current_inbound.get(&peer) == Some(&stream) {
                self.current_inbound.remove(&peer);
                self.sources.peer_disconnected(self.now, peer);
            }
            return;
        }
        if let Some(peer) = self.peer_called_by(stream) {
            self.facts.handle_disconnected(peer);
            self.sources.peer_takes_nothing(self.now, peer);
            self.wait_to_call(peer, random);
        }
    }
}

pub(super) fn open_of(
    outbound: &mut BTreeMap<NodeNumber, Outbound>,
    peer: NodeNumber,
) -> Option<&mut OpenOutbound> {
    match outbound.get_mut(&peer).map(|outbound| &mut outbound.state) {
        Some(OutboundState::Open(open)) => Some(open),
        _ => None,
    }
}
