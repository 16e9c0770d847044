//! The receiver of one replication stream (METHOD M10): we are the callee, a
//! peer serves us logs. It answers the greeting, asks for the logs that were
//! chosen for this stream, hands frames to the log writer, and acknowledges what
//! is durable.
//!
//! The driver carries out [`ReceiverAction`]s in order. Each
//! [`ReceiverAction::Submit`] and [`ReceiverAction::SubmitHole`] is answered once,
//! in the order of submission, with [`PeerReceiver::handle_outcome`].

mod actions;
#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

pub use self::actions::{
    ReceiverAction, ReceiverConfig, ReceiverDisconnect, ReceiverStatus, SubmissionOutcome,
};
use crate::clock::Moment;
use crate::identity::{
    LogName, Mark, MemberOpening, MessageNumber, NamespaceNumber, NodeNumber, TopologyVersion,
};
use crate::limits::{
    MAX_BASE_ENTRIES_BYTES, MAX_FRAME_BYTES, MAX_FRAME_MESSAGES, MAX_MARKS_PER_FRAME,
    MAX_MESSAGE_NUMBER, MAX_OFFERS_PER_FRAME, MAX_PARENTS, MAX_SEND_BYTES, MAX_SUBMISSIONS_PER_LOG,
    MAX_WINDOW_BYTES_OF_A_FRAME,
};
use crate::replication::frames::{
    Ack, Frame, Hello, Hole, LogOffer, Nack, NackReason, PROTOCOL_VERSION, ReceiverFrame, Refused,
    SenderFrame, Unwant, Want, Welcome,
};
use crate::replication::timing::{
    ACKNOWLEDGEMENT_INTERVAL, GREETING_LIMIT, HEARTBEAT_INTERVAL, NACK_INTERVAL, SILENCE_LIMIT,
};
use crate::topology::Topology;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    AwaitingHello { until: Moment },
    AwaitingAccept { peer: NodeNumber },
    Established { peer: NodeNumber },
    Closed,
}

#[derive(Clone, Copy, Debug)]
struct Complaint {
    expected: MessageNumber,
    reason: NackReason,
    at: Moment,
}

/// A submission that the log writer has not answered.
#[derive(Clone, Copy, Debug)]
struct Submission {
    window_bytes: u64,
    through: MessageNumber,
}

#[derive(Clone, Debug, Default)]
struct LogState {
    wanted: bool,
    submissions: VecDeque<Submission>,
    complaint: Option<Complaint>,
    /// The number to ask for when a closed window opens again.
    dropped_from: Option<MessageNumber>,
}

/// The receiving end of one stream. See the module's documentation.
#[derive(Debug)]
pub struct PeerReceiver {
    config: ReceiverConfig,
    me: MemberOpening,
    phase: Phase,
    now: Moment,
    heard_at: Moment,
    heartbeat_at: Moment,
    actions: VecDeque<ReceiverAction>,
    peer_topology_version: TopologyVersion,
    topology: Option<Arc<Topology>>,
    logs: BTreeMap<LogName, LogState>,
    /// Our durable marks, as far as the peer was or is going to be told.
    durable: BTreeMap<LogName, Mark>,
    unacknowledged: BTreeMap<LogName, Mark>,
    acknowledge_at: Moment,
    window_closed: bool,
    bases: BTreeMap<NamespaceNumber, Base>,
    status: ReceiverStatus,
}

/// The base of a namespace, as far as it came on this stream.
#[derive(Debug, Default)]
struct Base {
    /// A whole one has come: holes of the namespace may follow.
    has_come: bool,
    /// Whole ones that are not stored durably yet.
    unstored: u32,
    /// What came behind them, and is submitted when they are: the mark must not
    /// move over a hole before its base is on disk.
    parked: VecDeque<ReceiverAction>,
}

impl PeerReceiver {
    /// A receiver on a new stream.
    pub fn new(now: Moment, config: ReceiverConfig, me: MemberOpening) -> Self {
        Self {
            config,
            me,
            phase: Phase::AwaitingHello { until: now + GREETING_LIMIT },
            now,
            heard_at: now,
            heartbeat_at: now + HEARTBEAT_INTERVAL,
            actions: VecDeque::new(),
            peer_topology_version: TopologyVersion::default(),
            topology: None,
            logs: BTreeMap::new(),
            durable: BTreeMap::new(),
            unacknowledged: BTreeMap::new(),
            acknowledge_at: now,
            window_closed: false,
            bases: BTreeMap::new(),
            status: ReceiverStatus::default(),
        }
    }

    /// The peer that introduced itself may serve us: `welcome` answers it. Its
    /// window is that of the configuration; of its marks those that fit into one
    /// frame go with it, the others follow as acknowledgements.
    pub fn accept(&mut self, now: Moment, mut welcome: Welcome) {
        self.now = now;
        let Phase::AwaitingAccept { peer } = self.phase else { return };
        self.phase = Phase::Established { peer };
        self.heard_at = now;
        self.heartbeat_at = now + HEARTBEAT_INTERVAL;
        welcome.window_bytes = self.config.window_bytes;
        for (log, mark) in &welcome.marks {
            raise(&mut self.durable, *log, *mark);
        }
        let first = welcome.marks.len().min(MAX_MARKS_PER_FRAME);
        for (log, mark) in welcome.marks.split_off(first) {
            raise(&mut self.unacknowledged, log, mark);
        }
        self.transmit(ReceiverFrame::Welcome(welcome));
        self.share_topology();
        self.acknowledge();
    }

    /// A frame came from the peer.
    pub fn handle_frame(&mut self, now: Moment, frame: SenderFrame) {
        self.now = now;
        self.heard_at = now;
        match (self.phase, frame) {
            (Phase::Closed, _) => {}
            (Phase::AwaitingHello { .. }, SenderFrame::Hello(hello)) => self.handle_hello(hello),
            (Phase::AwaitingHello { .. }, _) => self.rule_broken("a greeting comes first"),
            (_, SenderFrame::Hello(_)) => self.rule_broken("there is one greeting"),
            (_, SenderFrame::Heartbeat(heartbeat)) => {
                self.actions.push_back(ReceiverAction::PeerClock(heartbeat.wall_clock));
                let is_established = matches!(self.phase, Phase::Established { .. });
                if is_established && !heartbeat.namespaces.is_empty() {
                    self.actions.push_back(ReceiverAction::PeerDigests(heartbeat.namespaces));
                }
            }
            (Phase::AwaitingAccept { .. }, _) => {
                self.rule_broken("logs are offered after the welcome");
            }
            (Phase::Established { peer }, SenderFrame::Offer(offer)) => {
                if offer.logs.len() > MAX_OFFERS_PER_FRAME || !offer.logs.iter().all(is_possible) {
                    return self.rule_broken("an offer is of possible logs");
                }
                self.actions.push_back(ReceiverAction::Offered { peer, offers: offer.logs });
            }
            (Phase::Established { .. }, SenderFrame::Frame(frame)) => self.handle_messages(frame),
            (Phase::Established { .. }, SenderFrame::Hole(hole)) => self.handle_hole(hole),
            (Phase::Established { .. }, SenderFrame::BaseEntries(entries)) => {
                let bytes: usize = entries.directory.iter().map(bytes::Bytes::len).sum();
                if bytes > MAX_BASE_ENTRIES_BYTES + MAX_SEND_BYTES {
                    return self.rule_broken("a frame of base entries is bounded");
                }
                if entries.last {
                    let base = self.bases.entry(entries.namespace).or_default();
                    base.has_come = true;
                    base.unstored += 1;
                }
                self.actions.push_back(ReceiverAction::BaseReceived(entries));
            }
            (Phase::Established { .. }, SenderFrame::Topology(topology)) => {
                self.peer_topology_version = self.peer_topology_version.max(topology.version);
                self.actions.push_back(ReceiverAction::TopologyReceived(topology));
            }
            (Phase::Established { .. }, SenderFrame::RelayedAck(fact)) => {
                if fact.marks.len() > MAX_MARKS_PER_FRAME
                    || !fact.marks.iter().all(|(_, mark)| is_plausible(mark.m_id))
                {
                    return self.rule_broken("a mark is a possible number");
                }
                // What we hold ourselves nobody can tell us.
                if fact.opening.node != self.me.node {
                    self.actions.push_back(ReceiverAction::RelayedFact(fact));
                }
            }
            (Phase::Established { .. }, SenderFrame::Refused(refused)) => {
                self.actions.push_back(ReceiverAction::Refused(refused));
            }
        }
    }

    /// This stream was chosen to serve a log; `from` is the first message that is
    /// not appended here.
    pub fn handle_want(&mut self, now: Moment, log: LogName, from: MessageNumber) {
        self.now = now;
        if let Phase::Established { .. } = self.phase {
            let state = self.logs.entry(log).or_default();
            state.wanted = true;
            state.complaint = None;
            self.transmit(ReceiverFrame::Want(Want { log, from }));
        }
    }

    /// This stream serves a log no longer.
    pub fn handle_unwant(&mut self, now: Moment, log: &LogName) {
        self.now = now;
        let Some(state) = self.logs.get_mut(log) else { return };
        let was_wanted = std::mem::take(&mut state.wanted);
        state.dropped_from = None;
        self.forget_if_idle(log);
        if was_wanted && self.phase != Phase::Closed {
            self.transmit(ReceiverFrame::Unwant(Unwant { log: *log }));
        }
    }

    /// The log writer has answered the oldest open submission of this log.
    pub fn handle_outcome(&mut self, now: Moment, log: &LogName, outcome: SubmissionOutcome) {
        self.now = now;
        let Some(state) = self.logs.get_mut(log) else { return };
        let Some(submission) = state.submissions.pop_front() else { return };
        self.status.outstanding_bytes =
            self.status.outstanding_bytes.saturating_sub(submission.window_bytes);
        match outcome {
            SubmissionOutcome::Appended => state.complaint = None,
            SubmissionOutcome::AlreadyHeld => {
                // METHOD M10: a repeat is acknowledged again. Where it is not
                // durable yet, the acknowledgement follows by itself.
                if let Some(mark) = self.durable.get(log) {
                    raise(&mut self.unacknowledged, *log, *mark);
                }
            }
            SubmissionOutcome::Nack { expected, reason, detail } => {
                self.complain(log, expected, reason, detail);
            }
            SubmissionOutcome::Refused { version } => {
                let refused = Refused { log: *log, through: submission.through, version };
                self.transmit(ReceiverFrame::Refused(refused));
            }
            SubmissionOutcome::Dropped => {}
        }
        self.forget_if_idle(log);
        self.acknowledge();
    }

    /// A whole base that came on this stream is stored durably: holes may follow.
    pub fn handle_base_stored(&mut self, now: Moment, namespace: NamespaceNumber) {
        self.now = now;
        let Some(base) = self.bases.get_mut(&namespace) else { return };
        base.unstored = base.unstored.saturating_sub(1);
        if base.unstored == 0 {
            self.actions.append(&mut base.parked);
        }
    }

    /// These logs are durable up to these marks, whoever served them. The driver
    /// leaves out the logs of namespaces that the peer is no member of.
    pub fn handle_durable(&mut self, now: Moment, marks: &[(LogName, Mark)]) {
        self.now = now;
        for (log, mark) in marks {
            if raise(&mut self.durable, *log, *mark) {
                raise(&mut self.unacknowledged, *log, *mark);
            }
        }
        self.acknowledge();
    }

    /// There is a newer topology here. The peer gets it if it has an older one.
    pub fn handle_topology(&mut self, now: Moment, topology: Arc<Topology>) {
        self.now = now;
        self.topology = Some(topology);
        self.share_topology();
    }

    /// Closes the window, or opens it again. Frames that come to a closed window
    /// are dropped; when it opens they are asked for again at once.
    pub fn set_window_closed(&mut self, now: Moment, closed: bool) {
        self.now = now;
        self.window_closed = closed;
        if closed {
            return;
        }
        let dropped: Vec<(LogName, MessageNumber)> = self
            .logs
            .iter_mut()
            .filter_map(|(log, state)| Some((*log, state.dropped_from.take()?)))
            .collect();
        for (log, from) in dropped {
            self.complain(&log, from, NackReason::OutOfOrder, "the window opens".to_owned());
        }
    }

    /// The moment that [`Self::poll_timeout`] named has come.
    pub fn handle_timeout(&mut self, now: Moment) {
        self.now = now;
        match self.phase {
            Phase::Closed => return,
            Phase::AwaitingHello { until } if now >= until => {
                return self.disconnect(ReceiverDisconnect::NoHello);
            }
            Phase::AwaitingHello { .. } => return,
            Phase::AwaitingAccept { .. } | Phase::Established { .. } => {}
        }
        if now.since(self.heartbeat_at) >= HEARTBEAT_INTERVAL {
            // This node itself stood still (a stopped process, a stalled disk):
            // what the peer said meanwhile may be waiting to be read.
            self.heard_at = now;
        }
        if now.since(self.heard_at) >= SILENCE_LIMIT {
            return self.disconnect(ReceiverDisconnect::Silent);
        }
        self.acknowledge();
        if now >= self.heartbeat_at {
            self.heartbeat_at = now + HEARTBEAT_INTERVAL;
            if matches!(self.phase, Phase::Established { .. }) {
                self.actions.push_back(ReceiverAction::TransmitHeartbeat);
            }
        }
    }

    /// When to call [`Self::handle_timeout`] if nothing happens before. `None`
    /// when the stream is closed.
    pub fn poll_timeout(&self) -> Option<Moment> {
        match self.phase {
            Phase::Closed => None,
            Phase::AwaitingHello { until } => Some(until),
            Phase::AwaitingAccept { .. } | Phase::Established { .. } => {
                let is_established = matches!(self.phase, Phase::Established { .. });
                let has_news = is_established && !self.unacknowledged.is_empty();
                let silent_at = self.heard_at + SILENCE_LIMIT;
                [Some(silent_at), Some(self.heartbeat_at), has_news.then_some(self.acknowledge_at)]
                    .into_iter()
                    .flatten()
                    .min()
            }
        }
    }

    /// The next thing to do.
    pub fn poll_action(&mut self) -> Option<ReceiverAction> {
        self.actions.pop_front()
    }

    /// What happened on the stream.
    pub fn status(&self) -> ReceiverStatus {
        self.status
    }

    /// The peer, once it has introduced itself.
    pub fn peer(&self) -> Option<NodeNumber> {
        match self.phase {
            Phase::AwaitingAccept { peer } | Phase::Established { peer } => Some(peer),
            Phase::AwaitingHello { .. } | Phase::Closed => None,
        }
    }

    fn handle_hello(&mut self, hello: Hello) {
        if hello.protocol_version != PROTOCOL_VERSION {
            let theirs = hello.protocol_version;
            return self.disconnect(ReceiverDisconnect::ProtocolVersion { theirs });
        }
        let peer = hello.member.opening.node;
        if peer == self.me.node {
            return self.disconnect(ReceiverDisconnect::Ourselves);
        }
        self.phase = Phase::AwaitingAccept { peer };
        self.heartbeat_at = self.now + HEARTBEAT_INTERVAL;
        self.peer_topology_version = hello.topology_version;
        self.actions.push_back(ReceiverAction::PeerIntroduced(hello));
    }

    fn handle_messages(&mut self, frame: Frame) {
        let Some(state) = self.logs.get_mut(&frame.log).filter(|state| state.wanted) else {
            self.status.unwanted_frames += 1;
            return;
        };
        if let Some(detail) = fault_of(&frame) {
            // The sender needs to know only that it is this log.
            let expected = MessageNumber::new(frame.first_m_id.get().clamp(1, MAX_MESSAGE_NUMBER));
            return self.complain(&frame.log, expected, NackReason::Invalid, detail.to_owned());
        }
        let window_bytes = frame.window_bytes();
        // The last frame may go beyond the window by what a frame may have.
        let bound =
            self.config.window_bytes.max(MAX_FRAME_BYTES as u64) + MAX_WINDOW_BYTES_OF_A_FRAME;
        if self.window_closed || self.status.outstanding_bytes + window_bytes > bound {
            state.dropped_from = Some(match state.dropped_from {
                Some(from) => from.min(frame.first_m_id),
                None => frame.first_m_id,
            });
            self.status.dropped_frames += 1;
            return;
        }
        state.submissions.push_back(Submission { window_bytes, through: frame.last_m_id() });
        self.status.outstanding_bytes += window_bytes;
        self.status.submitted_frames += 1;
        self.submit(frame.log.namespace, ReceiverAction::Submit(frame));
    }

    fn handle_hole(&mut self, hole: Hole) {
        if !self.logs.get(&hole.log).is_some_and(|state| state.wanted) {
            self.status.unwanted_frames += 1;
            return;
        }
        let is_range = hole.from != MessageNumber::ZERO && hole.from <= hole.through.m_id;
        if !is_range || !is_plausible(hole.through.m_id) {
            return self.rule_broken("a hole is a range of possible numbers");
        }
        if !self.bases.get(&hole.log.namespace).is_some_and(|base| base.has_come) {
            return self.rule_broken("a base comes before a hole");
        }
        let Some(state) = self.logs.get_mut(&hole.log) else { return };
        if state.submissions.len() >= MAX_SUBMISSIONS_PER_LOG {
            self.status.dropped_frames += 1;
            return;
        }
        state.submissions.push_back(Submission { window_bytes: 0, through: hole.through.m_id });
        self.submit(hole.log.namespace, ReceiverAction::SubmitHole(hole));
    }

    /// Has something written, behind the base that it may rest on.
    fn submit(&mut self, namespace: NamespaceNumber, action: ReceiverAction) {
        match self.bases.get_mut(&namespace).filter(|base| base.unstored > 0) {
            Some(base) => base.parked.push_back(action),
            None => self.actions.push_back(action),
        }
    }

    /// Says once per interval what is wrong with a log: the frames that are
    /// under way would all bring the same complaint.
    fn complain(
        &mut self,
        log: &LogName,
        expected: MessageNumber,
        reason: NackReason,
        detail: String,
    ) {
        let Some(state) = self.logs.get_mut(log).filter(|state| state.wanted) else { return };
        let is_repeat = state.complaint.is_some_and(|last| {
            last.expected == expected
                && last.reason == reason
                && self.now.since(last.at) < NACK_INTERVAL
        });
        if !is_repeat {
            state.complaint = Some(Complaint { expected, reason, at: self.now });
            self.transmit(ReceiverFrame::Nack(Nack { log: *log, expected, reason, detail }));
        }
    }

    /// Acknowledges if it is time: at once after a pause, else every few
    /// milliseconds.
    fn acknowledge(&mut self) {
        let is_established = matches!(self.phase, Phase::Established { .. });
        if !is_established || self.unacknowledged.is_empty() || self.now < self.acknowledge_at {
            return;
        }
        self.acknowledge_at = self.now + ACKNOWLEDGEMENT_INTERVAL;
        while !self.unacknowledged.is_empty() {
            let mut marks = Vec::new();
            while marks.len() < MAX_MARKS_PER_FRAME
                && let Some(mark) = self.unacknowledged.pop_first()
            {
                marks.push(mark);
            }
            self.status.acknowledgements += 1;
            self.transmit(ReceiverFrame::Ack(Ack { opening: self.me, marks }));
        }
    }

    fn share_topology(&mut self) {
        if let Some(topology) = &self.topology
            && matches!(self.phase, Phase::Established { .. })
            && self.peer_topology_version < topology.version
        {
            self.peer_topology_version = topology.version;
            let frame = ReceiverFrame::Topology(Arc::clone(topology));
            self.transmit(frame);
        }
    }

    fn forget_if_idle(&mut self, log: &LogName) {
        if self.logs.get(log).is_some_and(|state| !state.wanted && state.submissions.is_empty()) {
            self.logs.remove(log);
        }
    }

    fn transmit(&mut self, frame: ReceiverFrame) {
        self.actions.push_back(ReceiverAction::Transmit(frame));
    }

    fn rule_broken(&mut self, rule: &'static str) {
        self.disconnect(ReceiverDisconnect::RuleBroken { rule });
    }

    fn disconnect(&mut self, reason: ReceiverDisconnect) {
        self.phase = Phase::Closed;
        self.actions.push_back(ReceiverAction::Disconnect { reason });
    }
}

fn raise(marks: &mut BTreeMap<LogName, Mark>, log: LogName, mark: Mark) -> bool {
    match marks.get_mut(&log) {
        Some(held) if held.m_id >= mark.m_id => false,
        Some(held) => {
            *held = mark;
            true
        }
        None => {
            marks.insert(log, mark);
            true
        }
    }
}

/// What is wrong with a frame before anyone looks into its messages.
fn fault_of(frame: &Frame) -> Option<&'static str> {
    let bytes = frame.sends.iter().fold(0_usize, |sum, send| sum.saturating_add(send.len()));
    if frame.first_m_id == MessageNumber::ZERO || !is_plausible(frame.last_m_id()) {
        Some("a frame has possible numbers")
    } else if frame.sends.is_empty() {
        Some("a frame has messages")
    } else if frame.sends.len() > MAX_FRAME_MESSAGES {
        Some("a frame has too many messages")
    } else if frame.sends.iter().any(|send| send.is_empty() || send.len() > MAX_SEND_BYTES) {
        Some("a message is empty or too long")
    } else if bytes > MAX_FRAME_BYTES + MAX_SEND_BYTES {
        Some("a frame is too long")
    } else {
        None
    }
}

fn is_possible(offer: &LogOffer) -> bool {
    offer.parents.len() <= MAX_PARENTS
        && is_plausible(offer.tip.m_id)
        && offer.floor <= offer.tip.m_id
        && offer.parents.iter().all(|parent| is_plausible(parent.m_id))
}

/// Whether a number from the peer can be counted on from.
fn is_plausible(m_id: MessageNumber) -> bool {
    m_id.get() <= MAX_MESSAGE_NUMBER
}
