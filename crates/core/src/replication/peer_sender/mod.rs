//! The sender of one replication stream (METHOD M6 to M9, M11): we are the
//! caller, we serve logs. It greets, offers what it can serve, sends what the
//! receiver wants in turns and within the window, and sends again until it is
//! acknowledged, however long that takes.
//!
//! The driver carries out [`SenderAction`]s in order. A [`SenderAction::ReadAndSend`]
//! is answered with [`PeerSender::handle_frame_sent`], or with
//! [`PeerSender::handle_nothing_sent`] when nothing could be read.

mod actions;
mod announcements;
mod progress;
mod retransmission_timer;
#[cfg(test)]
mod tests;
mod turns;
mod window;

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;

pub use self::actions::{LogStatus, SenderAction, SenderConfig, SenderDisconnect, SenderStatus};
use self::announcements::{FactQueue, OfferQueue};
use self::progress::LogProgress;
pub use self::progress::ProgressState;
use self::retransmission_timer::{Jitter, RoundTrip};
use self::turns::Turns;
use self::window::{Urgency, Window};
use crate::clock::Moment;
use crate::identity::{LogName, Mark, MemberOpening, MessageNumber, TopologyVersion};
use crate::limits::{MAX_FRAME_MESSAGES, MAX_MESSAGE_NUMBER, MAX_OFFERS_PER_FRAME};
use crate::replication::frames::{
    Fact, Hello, LogOffer, Nack, NackReason, Offer, PROTOCOL_VERSION, ReceiverFrame, Refused,
    SenderFrame, Want, Welcome,
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
    logs: BTreeMap<LogName, LogProgress>,
    /// What the peer said to hold, for logs that come to be served later.
    welcome_marks: BTreeMap<LogName, Mark>,
    offers: OfferQueue,
    facts: FactQueue,
    turns: Turns,
    window: Window,
    round_trip: RoundTrip,
    jitter: Jitter,
    deadlines: BTreeSet<(Moment, LogName)>,
    waiting: BTreeSet<LogName>,
    retransmissions: u64,
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
            logs: BTreeMap::new(),
            welcome_marks: BTreeMap::new(),
            offers: OfferQueue::default(),
            facts: FactQueue::default(),
            turns: Turns::default(),
            window: Window::default(),
            round_trip: RoundTrip::default(),
            jitter: Jitter::new(config.jitter_seed),
            deadlines: BTreeSet::new(),
            waiting: BTreeSet::new(),
            retransmissions: 0,
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
                self.change(&unwant.log, LogProgress::become_unwanted);
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
    pub fn handle_log_advanced(&mut self, now: Moment, offer: LogOffer) {
        self.now = now;
        if self.phase == Phase::Closed {
            return;
        }
        let log = offer.log;
        match self.logs.get_mut(&log) {
            Some(progress) => {
                if progress.advance(offer) {
                    self.offers.push(log, false);
                }
            }
            None => {
                let acknowledged = self.welcome_marks.get(&log).copied().unwrap_or_default();
                self.logs.insert(log, LogProgress::new(offer, acknowledged));
                self.offers.push(log, true);
            }
        }
        self.give_turn(&log);
    }

    /// A log can no longer be served to this peer: its namespace is left, or the
    /// peer is no member any more.
    pub fn handle_log_withdrawn(&mut self, now: Moment, log: &LogName) {
        self.now = now;
        self.offers.remove(log);
        self.change(log, LogProgress::withdraw);
    }

    /// There is a newer topology here. The peer gets it if it has an older one,
    /// and what it refused by an older one is tried again.
    pub fn handle_topology(&mut self, now: Moment, topology: Arc<Topology>) {
        self.now = now;
        self.our_topology_version = self.our_topology_version.max(topology.version);
        self.topology = Some(topology);
        self.share_topology();
        self.retry_refused();
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
        let Some(progress) = self.logs.get_mut(log) else { return };
        self.window.settle(progress.read_settled());
        if progress.sent(now, first, through, window_bytes) {
            self.window.sent(window_bytes);
            if progress.deadline().is_none() {
                self.arm(log);
            }
        }
        self.give_turn(log);
    }

    /// The driver could not carry out a [`SenderAction::ReadAndSend`]. It is asked
    /// again after a while.
    pub fn handle_nothing_sent(&mut self, now: Moment, log: &LogName) {
        self.now = now;
        let Some(progress) = self.logs.get_mut(log) else { return };
        self.window.settle(progress.read_settled());
        if progress.is_sendable() && !progress.is_in_flight() {
            self.change(log, |progress| progress.become_paused(progress.next()));
            self.arm(log);
        }
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
        while let Some((due, log)) = self.deadlines.first().copied()
            && due <= now
        {
            self.set_deadline(&log, None);
            self.change(&log, LogProgress::handle_timer);
        }
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
                self.deadlines.first().map(|(due, _)| *due),
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
            let logs = offered.iter().filter_map(|log| self.logs.get(log)).map(LogProgress::offer);
            let offer = Offer { logs: logs.cloned().collect() };
            return Some(SenderAction::Transmit(SenderFrame::Offer(offer)));
        }
        if let Some(fact) = self.facts.take(self.now) {
            return Some(SenderAction::Transmit(SenderFrame::RelayedAck(fact)));
        }
        if std::mem::take(&mut self.heartbeat_due) {
            return Some(SenderAction::TransmitHeartbeat);
        }
        self.next_read()
    }

    /// How the stream stands.
    pub fn status(&self) -> SenderStatus {
        let logs = self.logs.iter().filter(|(_, progress)| !progress.is_withdrawn());
        SenderStatus {
            logs: logs
                .map(|(log, progress)| LogStatus {
                    log: *log,
                    state: progress.state(),
                    acknowledged: progress.acknowledged(),
                    next: progress.next(),
                    tip: progress.offer().tip.m_id,
                    in_flight: progress.messages_in_flight(),
                })
                .collect(),
            round_trip: self.round_trip.smoothed(),
            in_flight_bytes: self.window.in_flight(),
            window_bytes: self.window.limit(),
            retransmissions: self.retransmissions,
        }
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
        self.window = Window::new(welcome.window_bytes);
        self.peer_topology_version = welcome.topology_version;
        self.welcome_marks = welcome.marks.iter().copied().collect();
        for (log, progress) in &mut self.logs {
            if let Some(mark) = self.welcome_marks.get(log) {
                progress.acknowledge(self.now, *mark);
            }
        }
        self.actions.push_back(SenderAction::PeerWelcomed(welcome));
        self.share_topology();
    }

    fn handle_want(&mut self, want: Want) {
        if want.from == MessageNumber::ZERO || !is_plausible(want.from) {
            return self.rule_broken("a log is wanted from a possible number on");
        }
        // A log that is not known here was never offered, or was withdrawn
        // while the wish was under way.
        self.change(&want.log, |progress| progress.become_wanted(want.from));
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
            self.acknowledge(log, *mark);
        }
        self.actions.push_back(SenderAction::Acknowledged(fact));
    }

    fn acknowledge(&mut self, log: &LogName, mark: Mark) {
        let Some(progress) = self.logs.get_mut(log) else {
            // Kept for logs we hold but do not serve yet; others' are not ours
            // to remember.
            if let Some(held) = self.welcome_marks.get_mut(log)
                && held.m_id < mark.m_id
            {
                *held = mark;
            }
            return;
        };
        let Some(outcome) = progress.acknowledge(self.now, mark) else { return };
        self.window.freed(outcome.freed);
        if let Some(round_trip) = outcome.round_trip {
            self.round_trip.sample(round_trip);
        }
        if outcome.differs {
            let detail = format!("the peer's chain hash at {} is {}", mark.m_id, mark.hash);
            self.stop(log, mark.m_id.next(), NackReason::ContentDiffers, detail);
        } else {
            self.rearm(log);
            self.give_turn(log);
        }
        self.wake_children(log);
    }

    fn handle_nack(&mut self, nack: Nack) {
        if nack.expected == MessageNumber::ZERO || !is_plausible(nack.expected) {
            return self.rule_broken("a possible number is expected");
        }
        let Some(progress) = self.logs.get_mut(&nack.log) else { return };
        if matches!(progress.state(), ProgressState::NotWanted | ProgressState::Refused(_)) {
            return;
        }
        match nack.reason {
            NackReason::OutOfOrder => {
                let quiet = self.round_trip.timeout();
                if let Some(freed) = progress.handle_out_of_order(self.now, nack.expected, quiet) {
                    self.window.freed(freed);
                    self.rearm(&nack.log);
                    self.give_turn(&nack.log);
                }
            }
            NackReason::ParentMissing => {
                let expected = nack.expected.max(progress.acknowledged().m_id.next());
                let parents: Vec<LogName> = progress
                    .offer()
                    .parents
                    .iter()
                    .map(|parent| nack.log.path().log(parent.incarnation))
                    .collect();
                self.change(&nack.log, |progress| progress.become_waiting(expected));
                self.arm(&nack.log);
                for parent in parents {
                    self.give_turn_as(&parent, Urgency::Live);
                }
            }
            NackReason::ContentDiffers | NackReason::Invalid => {
                self.stop(&nack.log, nack.expected, nack.reason, nack.detail);
            }
        }
    }

    fn handle_refused(&mut self, refused: Refused) {
        if !self.logs.contains_key(&refused.log) {
            return;
        }
        if refused.version < self.our_topology_version {
            // The peer has been sent the newer one, and will know better soon.
            self.change(&refused.log, |log| log.become_paused(log.acknowledged().m_id.next()));
            self.arm(&refused.log);
        } else {
            self.change(&refused.log, |log| log.become_refused(refused.version));
        }
        self.actions.push_back(SenderAction::Refused(refused));
    }

    fn stop(&mut self, log: &LogName, expected: MessageNumber, reason: NackReason, detail: String) {
        let known = self.logs.get(log).map(LogProgress::state);
        if known != Some(ProgressState::Stopped(reason)) {
            self.change(log, |progress| progress.become_stopped(reason));
            self.actions.push_back(SenderAction::LogStopped {
                log: *log,
                expected,
                reason,
                detail,
            });
        }
    }

    /// Logs that wait for this one to reach their parent point, and for no other
    /// any more, are tried again.
    fn wake_children(&mut self, parent: &LogName) {
        let path = parent.path();
        let children: Vec<LogName> = self
            .waiting
            .iter()
            .filter(|log| log.path() == path && self.has_parents_acknowledged(log))
            .copied()
            .collect();
        for child in children {
            self.change(&child, |progress| progress.become_probe(progress.next()));
        }
    }

    fn has_parents_acknowledged(&self, log: &LogName) -> bool {
        let Some(progress) = self.logs.get(log) else { return false };
        progress.offer().parents.iter().all(|parent| {
            let name = log.path().log(parent.incarnation);
            let held = self
                .logs
                .get(&name)
                .map(LogProgress::acknowledged)
                .or_else(|| self.welcome_marks.get(&name).copied());
            held.is_some_and(|mark| mark.m_id >= parent.m_id)
        })
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

    fn retry_refused(&mut self) {
        let void: Vec<LogName> = self
            .logs
            .iter()
            .filter(|(_, progress)| {
                matches!(progress.state(), ProgressState::Refused(version)
                    if version < self.our_topology_version)
            })
            .map(|(log, _)| *log)
            .collect();
        for log in void {
            self.change(&log, |log| log.become_probe(log.acknowledged().m_id.next()));
        }
    }

    fn next_read(&mut self) -> Option<SenderAction> {
        while let Some(class) = self.turns.next_class(|class| self.window.room(class).is_some()) {
            let max_bytes = self.window.room(class)?;
            let log = self.turns.take(class)?;
            let Some(progress) = self.logs.get_mut(&log).filter(|log| log.is_sendable()) else {
                continue;
            };
            self.turns.used(class);
            self.window.grant(max_bytes);
            progress.reading(max_bytes);
            let retransmission = progress.is_repetition();
            self.retransmissions += u64::from(retransmission);
            return Some(SenderAction::ReadAndSend {
                log,
                from: progress.next(),
                previous_hash: progress.previous_hash(),
                through: progress.offer().tip.m_id,
                max_bytes,
                max_messages: MAX_FRAME_MESSAGES,
                retransmission,
            });
        }
        None
    }

    /// Carries out a transition that may free window bytes, and brings the
    /// timers and turns in line with it.
    fn change(&mut self, log: &LogName, transition: impl FnOnce(&mut LogProgress) -> u64) {
        let Some(progress) = self.logs.get_mut(log) else { return };
        let freed = transition(progress);
        self.window.freed(freed);
        self.rearm(log);
        self.give_turn(log);
    }

    fn give_turn(&mut self, log: &LogName) {
        if let Some(progress) = self.logs.get(log) {
            self.give_turn_as(log, progress.urgency());
        }
    }

    fn give_turn_as(&mut self, log: &LogName, urgency: Urgency) {
        if self.logs.get(log).is_some_and(LogProgress::is_sendable) {
            self.turns.enqueue(*log, urgency);
        }
    }

    /// Runs the log's timer while something is under way, from now on.
    fn rearm(&mut self, log: &LogName) {
        let in_flight = self.logs.get(log).is_some_and(LogProgress::is_in_flight);
        if in_flight { self.arm(log) } else { self.set_deadline(log, None) }
    }

    fn arm(&mut self, log: &LogName) {
        let Some(progress) = self.logs.get(log) else { return };
        let wait = self.round_trip.timeout_after(progress.backoff(), &mut self.jitter);
        self.set_deadline(log, Some(self.now + wait));
    }

    fn set_deadline(&mut self, log: &LogName, deadline: Option<Moment>) {
        let Some(progress) = self.logs.get_mut(log) else { return };
        if let Some(before) = progress.deadline() {
            self.deadlines.remove(&(before, *log));
        }
        progress.set_deadline(deadline);
        self.deadlines.extend(deadline.map(|due| (due, *log)));
        if progress.state() == ProgressState::WaitingForParents {
            self.waiting.insert(*log);
        } else {
            self.waiting.remove(log);
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
