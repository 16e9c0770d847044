//! How far a peer is with one log: the peer's queue of that log (METHOD M6) is
//! what lies between `acknowledged` and the offered tip. All transitions of a
//! log's state are methods here.

use std::collections::VecDeque;
use std::time::Duration;

use super::retransmission_timer::Backoff;
use super::window::Urgency;
use crate::clock::Moment;
use crate::identity::{ChainHash, Mark, MessageNumber, TopologyVersion};
use crate::limits::MAX_FRAME_MESSAGES;
use crate::replication::frames::{LogOffer, NackReason};

/// What a peer's sender does with one log.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ProgressState {
    /// The receiver has not asked for it here.
    NotWanted,
    /// One frame at a time, until an acknowledgement moves.
    Probe,
    /// Pipelined, as far as the window goes.
    Replicate,
    /// The receiver lacks a parent's log up to its point.
    WaitingForParents,
    /// It could not be read here, or the receiver is about to learn that it is a
    /// member; the timer tries again.
    Paused,
    /// What it wants is trimmed here: the base of the namespace goes first.
    AwaitingBase,
    /// The receiver is no member of the namespace by this version.
    Refused(TopologyVersion),
    /// The receiver cannot take it as it is.
    Stopped(NackReason),
}

/// A frame that is under way.
#[derive(Clone, Copy, Debug)]
struct Segment {
    first: MessageNumber,
    through: Mark,
    window_bytes: u64,
    sent_at: Moment,
    /// Whether a part of it had been sent before.
    repeated: bool,
}

/// What an acknowledgement did.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Acknowledged {
    /// Window bytes that became free.
    pub(super) freed: u64,
    /// The time from sending to acknowledgement, if it may be measured.
    pub(super) round_trip: Option<Duration>,
    /// The peer's hash is another than that of the frame it acknowledges.
    pub(super) differs: bool,
}

/// The progress of one log at one peer.
#[derive(Clone, Debug)]
pub(super) struct LogProgress {
    offer: LogOffer,
    state: ProgressState,
    withdrawn: bool,
    acknowledged: Mark,
    next: MessageNumber,
    /// The highest number ever sent on this stream: below it is repetition.
    highest_sent: MessageNumber,
    /// The hash before `next` where our own frames told it.
    before_next: Option<Mark>,
    /// The end of the last frame of ours that was acknowledged.
    acknowledged_end: Option<Mark>,
    segments: VecDeque<Segment>,
    /// The window bytes granted to the read that the driver was asked for.
    read: Option<u64>,
    /// The frame of a probe answers complaints about its first number until
    /// this moment: they were sent before it arrived.
    quiet_until: Option<Moment>,
    backoff: Backoff,
    deadline: Option<Moment>,
}

impl LogProgress {
    pub(super) fn new(offer: LogOffer, acknowledged: Mark) -> Self {
        Self {
            offer,
            state: ProgressState::NotWanted,
            withdrawn: false,
            acknowledged,
            next: acknowledged.m_id.next(),
            highest_sent: MessageNumber::ZERO,
            before_next: None,
            acknowledged_end: None,
            segments: VecDeque::new(),
            read: None,
            quiet_until: None,
            backoff: Backoff::default(),
            deadline: None,
        }
    }

    pub(super) fn offer(&self) -> &LogOffer {
        &self.offer
    }

    pub(super) fn state(&self) -> ProgressState {
        self.state
    }

    pub(super) fn is_withdrawn(&self) -> bool {
        self.withdrawn
    }

    pub(super) fn acknowledged(&self) -> Mark {
        self.acknowledged
    }

    pub(super) fn next(&self) -> MessageNumber {
        self.next
    }

    pub(super) fn deadline(&self) -> Option<Moment> {
        self.deadline
    }

    pub(super) fn set_deadline(&mut self, deadline: Option<Moment>) {
        self.deadline = deadline;
    }

    pub(super) fn backoff(&self) -> Backoff {
        self.backoff
    }

    pub(super) fn messages_in_flight(&self) -> u64 {
        self.segments
            .iter()
            .map(|segment| segment.through.m_id.since(segment.first.previous()))
            .sum()
    }

    /// Whether something is under way that an acknowledgement is expected for.
    pub(super) fn is_in_flight(&self) -> bool {
        !self.segments.is_empty()
    }

    /// The log has moved, or can be served again. Returns whether the offer is
    /// news.
    pub(super) fn advance(&mut self, offer: LogOffer) -> bool {
        let again = std::mem::take(&mut self.withdrawn);
        let moved = offer.tip.m_id > self.offer.tip.m_id || offer.floor > self.offer.floor;
        if moved {
            self.offer = offer;
        }
        moved || again
    }

    /// Whether a frame can be read now, the window apart.
    pub(super) fn is_sendable(&self) -> bool {
        let turn = match self.state {
            ProgressState::Probe => self.segments.is_empty(),
            ProgressState::Replicate => true,
            _ => false,
        };
        turn && self.read.is_none() && !self.withdrawn && self.next <= self.offer.tip.m_id
    }

    /// A log is live when one frame catches it up.
    pub(super) fn urgency(&self) -> Urgency {
        let rest = self.offer.tip.m_id.since(self.next.previous());
        if rest <= MAX_FRAME_MESSAGES as u64 { Urgency::Live } else { Urgency::Backlog }
    }

    /// The chain hash before `next`, where it is known without reading the log.
    pub(super) fn previous_hash(&self) -> Option<ChainHash> {
        if let Some(mark) = self.before_next {
            return Some(mark.hash);
        }
        let is_first = self.next.previous() == self.start();
        is_first.then(|| ChainHash::of_parents(&self.offer.parents))
    }

    /// The number before the log's first.
    fn start(&self) -> MessageNumber {
        self.offer.parents.iter().map(|parent| parent.m_id).max().unwrap_or_default()
    }

    /// Whether the message that is next was sent before.
    pub(super) fn is_repetition(&self) -> bool {
        self.next <= self.highest_sent
    }

    /// The driver was asked to read from `next`.
    pub(super) fn reading(&mut self, granted: u64) {
        self.read = Some(granted);
    }

    /// The read came back: the window bytes that were granted for it.
    pub(super) fn read_settled(&mut self) -> u64 {
        self.read.take().unwrap_or_default()
    }

    /// A frame went out. Returns whether it counts: one that was read before a
    /// complaint moved `next` back is dropped by the receiver.
    pub(super) fn sent(
        &mut self,
        now: Moment,
        first: MessageNumber,
        through: Mark,
        window_bytes: u64,
    ) -> bool {
        let repeated = first <= self.highest_sent;
        self.highest_sent = self.highest_sent.max(through.m_id);
        let is_sending = matches!(self.state, ProgressState::Probe | ProgressState::Replicate);
        if !is_sending || first > self.next || through.m_id < self.next {
            return false;
        }
        self.next = through.m_id.next();
        self.before_next = Some(through);
        self.segments.push_back(Segment { first, through, window_bytes, sent_at: now, repeated });
        true
    }

    /// The receiver holds the log durably up to a mark (METHOD M9). `None` when
    /// that is no news.
    pub(super) fn acknowledge(&mut self, now: Moment, mark: Mark) -> Option<Acknowledged> {
        if mark.m_id <= self.acknowledged.m_id {
            return None;
        }
        self.acknowledged = mark;
        self.backoff = Backoff::default();
        self.quiet_until = None;
        let mut outcome = Acknowledged::default();
        let mut oldest = None;
        let mut measurable = true;
        while let Some(segment) = self.segments.front().copied() {
            if segment.through.m_id > mark.m_id {
                break;
            }
            self.segments.pop_front();
            outcome.freed += segment.window_bytes;
            outcome.differs |=
                segment.through.m_id == mark.m_id && segment.through.hash != mark.hash;
            self.acknowledged_end = Some(segment.through);
            // Karn's rule. The oldest is what the timer waits for.
            measurable &= !segment.repeated;
            oldest = oldest.or(Some(segment.sent_at));
        }
        if measurable {
            outcome.round_trip = oldest.map(|sent_at| now.since(sent_at));
        }
        if self.next <= mark.m_id {
            self.next = mark.m_id.next();
            self.before_next = self.acknowledged_end.filter(|end| end.m_id == mark.m_id);
        }
        if matches!(self.state, ProgressState::Probe | ProgressState::WaitingForParents) {
            self.state = ProgressState::Replicate;
        }
        Some(outcome)
    }

    /// The receiver asks for the log from a number on.
    pub(super) fn become_wanted(&mut self, from: MessageNumber) -> u64 {
        self.backoff = Backoff::default();
        self.quiet_until = None;
        self.become_probe(from)
    }

    /// One frame from a number on, then wait. Returns the window bytes given up.
    pub(super) fn become_probe(&mut self, from: MessageNumber) -> u64 {
        let from = from.max(self.start().next());
        let before = from.previous();
        let known = self
            .segments
            .iter()
            .map(|segment| segment.through)
            .chain(self.acknowledged_end)
            .chain(self.before_next)
            .find(|mark| mark.m_id == before);
        self.state = ProgressState::Probe;
        self.next = from;
        self.before_next = known;
        self.give_up_segments()
    }

    /// The receiver lacks a parent: wait for it.
    pub(super) fn become_waiting(&mut self, expected: MessageNumber) -> u64 {
        let freed = self.become_probe(expected);
        self.state = ProgressState::WaitingForParents;
        self.backoff = self.backoff.raised();
        freed
    }

    /// Nothing can be sent now: wait for the timer, then go on from a number.
    pub(super) fn become_paused(&mut self, from: MessageNumber) -> u64 {
        let freed = self.become_probe(from);
        self.state = ProgressState::Paused;
        self.backoff = self.backoff.raised();
        freed
    }

    /// What is next is trimmed: it goes on when the base was sent.
    pub(super) fn become_awaiting_base(&mut self) -> u64 {
        let freed = self.become_probe(self.next);
        self.state = ProgressState::AwaitingBase;
        freed
    }

    pub(super) fn become_refused(&mut self, version: TopologyVersion) -> u64 {
        self.state = ProgressState::Refused(version);
        self.give_up_segments()
    }

    pub(super) fn become_stopped(&mut self, reason: NackReason) -> u64 {
        self.state = ProgressState::Stopped(reason);
        self.give_up_segments()
    }

    pub(super) fn become_unwanted(&mut self) -> u64 {
        self.state = ProgressState::NotWanted;
        self.give_up_segments()
    }

    pub(super) fn withdraw(&mut self) -> u64 {
        self.withdrawn = true;
        self.give_up_segments()
    }

    fn give_up_segments(&mut self) -> u64 {
        self.segments.drain(..).map(|segment| segment.window_bytes).sum()
    }

    /// The receiver expected another number than a frame began with. Returns the
    /// window bytes given up when that is to be answered, `None` for complaints
    /// that crossed with the answer or that an acknowledgement has settled.
    pub(super) fn handle_out_of_order(
        &mut self,
        now: Moment,
        expected: MessageNumber,
        quiet: Duration,
    ) -> Option<u64> {
        if !matches!(self.state, ProgressState::Probe | ProgressState::Replicate)
            || expected <= self.acknowledged.m_id
        {
            return None;
        }
        let answered = self.segments.front().map_or(self.next, |segment| segment.first) == expected;
        if answered && self.quiet_until.is_some_and(|until| now < until) {
            return None;
        }
        self.quiet_until = Some(now + quiet);
        Some(self.become_probe(expected))
    }

    /// The timer ran out (METHOD M8): again from the first unacknowledged on.
    /// Returns the window bytes given up.
    pub(super) fn handle_timer(&mut self) -> u64 {
        match self.state {
            ProgressState::Probe | ProgressState::Replicate => {
                let from = self.segments.front().map_or(self.next, |segment| segment.first);
                let from = from.max(self.acknowledged.m_id.next());
                self.backoff = self.backoff.raised();
                self.become_probe(from)
            }
            // The backoff was raised when the wait began.
            ProgressState::WaitingForParents | ProgressState::Paused => {
                self.become_probe(self.next)
            }
            _ => 0,
        }
    }
}
