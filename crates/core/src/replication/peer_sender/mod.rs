//! The sender of one replication stream (METHOD M6 to M9, M11): we are the
//! caller, we serve logs. It greets, offers what it can serve, sends what the
//! receiver wants in turns and within the window, and sends again until it is
//! acknowledged, however long that takes.
//!
//! The driver carries out [`SenderAction`]s in order. A [`SenderAction::ReadAndSend`]
//! is answered with [`PeerSender::handle_frame_sent`], with
//! [`PeerSender::handle_trimmed`] where the base has to go first, or with
//! [`PeerSender::handle_nothing_sent`] when nothing could be read.

mod actions;
mod announcements;
mod progress;
mod retransmission_timer;
mod served_logs;
#[cfg(test)]
mod tests;
mod turns;
mod window;

use std::collections::VecDeque;
use std::sync::Arc;

pub use self::actions::{LogStatus, SenderAction, SenderConfig, SenderDisconnect, SenderStatus};
use self::announcements::{FactQueue, OfferQueue};
pub use self::progress::ProgressState;
use self::served_logs::{OfferNews, ServedLogs};
use crate::clock::Moment;
use crate::identity::{
    LogName, Mark, MemberOpening, MessageNumber, NamespaceNumber, TopologyVersion,
};
use crate::limits::{MAX_MESSAGE_NUMBER, MAX_OFFERS_PER_FRAME};
use crate::replication::frames::{
    Fact, Hello, LogOffer, Nack, Offer, PROTOCOL_VERSION, ReceiverFrame, Refused, SenderFrame,
    Want, Welcome,
};
use crate::replication::timing::{GREETING_LIMIT, HEARTBEAT_INTERVAL, SILENCE_LIMIT};
use crate::topology::Topology;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    Greeting { until: Moment },
    Established { peer: MemberOpening },
    Closed,
}

/// The sending end of one stream. See the module's documentation.
#[derive(Debug)]
pub struct PeerSender {
    config: SenderConfig,
    phase: Phase,
    now: Moment,
    heard_at: Moment,
    heartbeat_at: Moment,
    heartbeat_due: bool,
    actions: VecDeque<SenderAction>,
    our_topology_version: TopologyVersion,
    peer_topology_version: TopologyVersion,
    topology: Option<Arc<Topology>>,
    logs: ServedLogs,
    offers: OfferQueue,
    facts: FactQueue,
}

impl PeerSender {
    /// A sender on a new stream. Its first action is to transmit `hello`.
    pub fn new(now: Moment, config: SenderConfig, hello: Hello) -> Self {
        let our_topology_version = hello.topology_version;
        Self {
            config,
            phase: Phase::Greeting { until: now + GREETING_LIMIT },
            now,
            heard_at: now,
            heartbeat_at: now + HEARTBEAT_INTERVAL,
            heartbeat_due: false,
            actions: VecDeque::from([SenderAction::Transmit(SenderFrame::Hello(hello))]),
            our_topology_version,
            peer_topology_version: TopologyVersion::default(),
            topology: None,
            logs: ServedLogs::new(config.jitter_seed),
            offers: OfferQueue::default(),
            facts: FactQueue::default(),
        }
    }

    /// A frame came from the peer.
    pub fn handle_frame(&mut self, now: Moment, frame: ReceiverFrame) {
        self.now = now;
        self.heard_at = now;
        match (self.phase, frame) {
            (Phase::Closed, _) => {}
            (Phase::Greeting { .. }, ReceiverFrame::Welcome(welcome)) => {
                self.handle_welcome(welcome);
            }
            (Phase::Greeting { .. }, ReceiverFrame::Heartbeat(_)) => {}
            (Phase::Greeting { .. }, _) => self.rule_broken("a welcome comes first"),
            (Phase::Established { .. }, ReceiverFrame::Welcome(_)) => {
                self.rule_broken("there is one welcome");
            }
            (Phase::Established { .. }, ReceiverFrame::Want(want)) => self.handle_want(want),
            (Phase::Established { .. }, ReceiverFrame::Unwant(unwant)) => {
                self.logs.unwant(now, &unwant.log);
            }
            (Phase::Established { peer }, ReceiverFrame::Ack(fact)) => {
                self.handle_ack(peer, fact);
            }
            (Phase::Established { .. }, ReceiverFrame::Nack(nack)) => self.handle_nack(nack),
            (Phase::Established { .. }, ReceiverFrame::Refused(refused)) => {
                self.handle_refused(refused);
            }
            (Phase::Established { .. }, ReceiverFrame::Heartbeat(heartbeat)) => {
                self.actions.push_back(SenderAction::PeerClock(heartbeat.wall_clock));
            }
            (Phase::Established { .. }, ReceiverFrame::Topology(topology)) => {
                self.peer_topology_version = self.peer_topology_version.max(topology.version);
                self.actions.push_back(SenderAction::TopologyReceived(topology));
            }
        }
    }

    /// A log that the peer may have is new here or has moved, durably. The
    /// driver leaves out the logs of namespaces that the peer is no member of.
    pub fn handle_log_advanced(&mut self, now: Moment, mut offer: LogOffer) {
        self.now = now;
        // A trim up to a hole goes on to its end, which may not be durable yet.
        offer.floor = offer.floor.min(offer.tip.m_id);
        if self.phase == Phase::Closed {
            return;
        }
        let log = offer.log;
        match self.logs.advance(offer) {
            OfferNews::New => self.offers.push(log, true),
            OfferNews::Moved => self.offers.push(log, false),
            OfferNews::Known => {}
        }
    }

    /// A log can no longer be served to this peer: its namespace is left, or the
    /// peer is no member any more.
    pub fn handle_log_withdrawn(&mut self, now: Moment, log: &LogName) {
        self.now = now;
        self.offers.remove(log);
        self.logs.withdraw(now, log);
    }

    /// There is a newer topology here. The peer gets it if it has an older one,
    /// and what it refused by an older one is tried again.
    pub fn handle_topology(&mut self, now: Moment, topology: Arc<Topology>) {
        self.now = now;
        self.our_topology_version = self.our_topology_version.max(topology.version);
        self.topology = Some(topology);
        self.share_topology();
        self.logs.retry_refused(now, self.our_topology_version);
    }

    /// A fact to pass on: our own or another member's. `awaited` when someone
    /// waits for it, else it may wait to be sent together with others.
    pub fn handle_fact(&mut self, now: Moment, fact: Fact, awaited: bool) {
        self.now = now;
        if self.phase != Phase::Closed && fact.opening.node != self.config.peer {
            self.facts.push(fact, awaited);
        }
    }

    /// The driver has carried out a [`SenderAction::ReadAndSend`]: the messages
    /// from `first` up to the mark are on the stream, and take so many bytes of
    /// the window. A hole takes none.
    pub fn handle_frame_sent(
        &mut self,
        now: Moment,
        log: &LogName,
        first: MessageNumber,
        through: Mark,
        window_bytes: u64,
    ) {
        self.now = now;
        self.logs.frame_sent(now, log, first, through, window_bytes);
    }

    /// The driver could not carry out a [`SenderAction::ReadAndSend`]. It is asked
    /// again after a while.
    pub fn handle_nothing_sent(&mut self, now: Moment, log: &LogName) {
        self.now = now;
        self.logs.nothing_sent(now, log);
    }

    /// What a [`SenderAction::ReadAndSend`] asked for is trimmed, and the base of
    /// the namespace has not been sent on this stream as of that floor. The log
    /// waits for [`Self::handle_base_sent`].
    pub fn handle_trimmed(&mut self, now: Moment, log: &LogName) {
        self.now = now;
        self.logs.awaits_base(now, log);
    }

    /// The whole base of a namespace is on the stream: what waits for it is read
    /// again, and holes may go out.
    pub fn handle_base_sent(&mut self, now: Moment, namespace: NamespaceNumber) {
        self.now = now;
        self.logs.base_sent(now, namespace);
    }

    /// The moment that [`Self::poll_timeout`] named has come.
    pub fn handle_timeout(&mut self, now: Moment) {
        self.now = now;
        match self.phase {
            Phase::Closed => return,
            Phase::Greeting { until } => {
                if now >= until {
                    self.disconnect(SenderDisconnect::NoWelcome);
                }
                return;
            }
            Phase::Established { .. } => {}
        }
        if now.since(self.heartbeat_at) >= HEARTBEAT_INTERVAL {
            // This node itself stood still (a stopped process, a stalled disk):
            // what the peer said meanwhile may be waiting to be read.
            self.heard_at = now;
        }
        if now.since(self.heard_at) >= SILENCE_LIMIT {
            self.disconnect(SenderDisconnect::Silent);
            return;
        }
        if now >= self.heartbeat_at {
            self.heartbeat_at = now + HEARTBEAT_INTERVAL;
            self.heartbeat_due = true;
            self.offers.hasten();
        }
        self.logs.handle_timers(now);
    }

    /// When to call [`Self::handle_timeout`] if nothing happens before. `None`
    /// when the stream is closed.
    pub fn poll_timeout(&self) -> Option<Moment> {
        match self.phase {
            Phase::Closed => None,
            Phase::Greeting { until } => Some(until),
            Phase::Established { .. } => [
                Some(self.heard_at + SILENCE_LIMIT),
                Some(self.heartbeat_at),
                self.logs.due_at(),
                // What is due already waits for the driver to poll, not for a timer.
                self.offers.due_at(self.now).filter(|due| *due > self.now),
                self.facts.due_at(self.now).filter(|due| *due > self.now),
            ]
            .into_iter()
            .flatten()
            .min(),
        }
    }

    /// The next thing to do that follows from what was said, and that does not wait
    /// for room on the stream: all but offers, facts, heartbeats and messages. The
    /// driver polls it where it has no room for those.
    pub fn poll_immediate_action(&mut self) -> Option<SenderAction> {
        self.actions.pop_front()
    }

    /// The next thing to do. What is known to the peer goes before messages,
    /// messages go in turns.
    pub fn poll_action(&mut self) -> Option<SenderAction> {
        if let Some(action) = self.poll_immediate_action() {
            return Some(action);
        }
        if !matches!(self.phase, Phase::Established { .. }) {
            return None;
        }
        let offered = self.offers.take(self.now, MAX_OFFERS_PER_FRAME);
        if !offered.is_empty() {
            let logs = offered.iter().filter_map(|log| self.logs.offer(log));
            let offer = Offer { logs: logs.collect() };
            return Some(SenderAction::Transmit(SenderFrame::Offer(offer)));
        }
        if let Some(fact) = self.facts.take(self.now) {
            return Some(SenderAction::Transmit(SenderFrame::RelayedAck(fact)));
        }
        if std::mem::take(&mut self.heartbeat_due) {
            return Some(SenderAction::TransmitHeartbeat);
        }
        self.logs.next_read()
    }

    /// How the stream stands.
    pub fn status(&self) -> SenderStatus {
        self.logs.status()
    }

    fn handle_welcome(&mut self, welcome: Welcome) {
        let peer = welcome.member.opening;
        if welcome.protocol_version != PROTOCOL_VERSION {
            let theirs = welcome.protocol_version;
            return self.disconnect(SenderDisconnect::ProtocolVersion { theirs });
        }
        if peer.node != self.config.peer {
            let expected = self.config.peer;
            return self.disconnect(SenderDisconnect::OtherNode { expected, answered: peer.node });
        }
        if !welcome.marks.iter().all(|(_, mark)| is_plausible(mark.m_id)) {
            return self.rule_broken("a mark is a possible number");
        }
        self.phase = Phase::Established { peer };
        self.heartbeat_at = self.now + HEARTBEAT_INTERVAL;
        self.peer_topology_version = welcome.topology_version;
        self.logs.welcomed(self.now, &welcome.marks, welcome.window_bytes);
        self.actions.push_back(SenderAction::PeerWelcomed(welcome));
        self.share_topology();
    }

    fn handle_want(&mut self, want: Want) {
        if want.from == MessageNumber::ZERO || !is_plausible(want.from) {
            return self.rule_broken("a log is wanted from a possible number on");
        }
        self.logs.want(self.now, &want.log, want.from);
    }

    fn handle_ack(&mut self, peer: MemberOpening, fact: Fact) {
        if fact.opening != peer {
            return self.disconnect(SenderDisconnect::OtherIncarnation {
                welcomed: peer.incarnation,
                theirs: fact.opening.incarnation,
            });
        }
        if !fact.marks.iter().all(|(_, mark)| is_plausible(mark.m_id)) {
            return self.rule_broken("a mark is a possible number");
        }
        for (log, mark) in &fact.marks {
            let stopped = self.logs.acknowledge(self.now, log, *mark);
            self.actions.extend(stopped);
        }
        self.actions.push_back(SenderAction::Acknowledged(fact));
    }

    fn handle_nack(&mut self, nack: Nack) {
        if nack.expected == MessageNumber::ZERO || !is_plausible(nack.expected) {
            return self.rule_broken("a possible number is expected");
        }
        let stopped = self.logs.nacked(self.now, nack);
        self.actions.extend(stopped);
    }

    fn handle_refused(&mut self, refused: Refused) {
        let ours = self.our_topology_version;
        if self.logs.refused(self.now, &refused.log, refused.version, ours) {
            self.actions.push_back(SenderAction::Refused(refused));
        }
    }

    fn share_topology(&mut self) {
        if let Some(topology) = &self.topology
            && matches!(self.phase, Phase::Established { .. })
            && self.peer_topology_version < topology.version
        {
            self.peer_topology_version = topology.version;
            let frame = SenderFrame::Topology(Arc::clone(topology));
            self.actions.push_back(SenderAction::Transmit(frame));
        }
    }

    fn rule_broken(&mut self, rule: &'static str) {
        self.disconnect(SenderDisconnect::RuleBroken { rule });
    }

    fn disconnect(&mut self, reason: SenderDisconnect) {
        self.phase = Phase::Closed;
        self.actions.push_back(SenderAction::Disconnect { reason });
    }
}

/// Whether a number from the peer can be counted on from.
fn is_plausible(m_id: MessageNumber) -> bool {
    m_id.get() <= MAX_MESSAGE_NUMBER
}
