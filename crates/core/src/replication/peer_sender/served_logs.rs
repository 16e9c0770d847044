//! The logs that one stream serves: how far the peer is with each, whose turn it
//! is, how much of the window is left, and when each is sent again (METHOD M6 to
//! M9). What the peer says about a log arrives here after [`super::PeerSender`]
//! has held it against the rules of the stream.

use std::collections::{BTreeMap, BTreeSet};

use super::actions::{LogStatus, SenderAction, SenderStatus};
use super::progress::{LogProgress, ProgressState};
use super::retransmission_timer::{Jitter, RoundTrip};
use super::turns::Turns;
use super::window::{Urgency, Window};
use crate::clock::Moment;
use crate::identity::{LogName, Mark, MessageNumber, NamespaceNumber, TopologyVersion};
use crate::limits::MAX_FRAME_MESSAGES;
use crate::replication::frames::{LogOffer, Nack, NackReason};

/// What became of an offer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum OfferNews {
    /// The log is new on this stream.
    New,
    /// It has moved, or is served again.
    Moved,
    /// The peer knows that already.
    Known,
}

/// See the module's documentation.
#[derive(Debug)]
pub(super) struct ServedLogs {
    logs: BTreeMap<LogName, LogProgress>,
    /// What the peer said to hold, for logs that come to be served later.
    welcome_marks: BTreeMap<LogName, Mark>,
    turns: Turns,
    window: Window,
    round_trip: RoundTrip,
    jitter: Jitter,
    deadlines: BTreeSet<(Moment, LogName)>,
    waiting: BTreeSet<LogName>,
    retransmissions: u64,
}

impl ServedLogs {
    pub(super) fn new(jitter_seed: u64) -> Self {
        Self {
            logs: BTreeMap::new(),
            welcome_marks: BTreeMap::new(),
            turns: Turns::default(),
            window: Window::default(),
            round_trip: RoundTrip::default(),
            jitter: Jitter::new(jitter_seed),
            deadlines: BTreeSet::new(),
            waiting: BTreeSet::new(),
            retransmissions: 0,
        }
    }

    /// The peer has greeted back: what it holds, and how much may be under way.
    pub(super) fn welcomed(&mut self, now: Moment, marks: &[(LogName, Mark)], window_bytes: u64) {
        self.window = Window::new(window_bytes);
        self.welcome_marks = marks.iter().copied().collect();
        for (log, progress) in &mut self.logs {
            if let Some(mark) = self.welcome_marks.get(log) {
                progress.acknowledge(now, *mark);
            }
        }
    }

    /// What to say of a log, if it is served.
    pub(super) fn offer(&self, log: &LogName) -> Option<LogOffer> {
        self.logs.get(log).map(|progress| progress.offer().clone())
    }

    /// A log is new here or has moved.
    pub(super) fn advance(&mut self, offer: LogOffer) -> OfferNews {
        let log = offer.log;
        let news = match self.logs.get_mut(&log) {
            Some(progress) => {
                if progress.advance(offer) {
                    OfferNews::Moved
                } else {
                    OfferNews::Known
                }
            }
            None => {
                let acknowledged = self.welcome_marks.get(&log).copied().unwrap_or_default();
                self.logs.insert(log, LogProgress::new(offer, acknowledged));
                OfferNews::New
            }
        };
        self.give_turn(&log);
        news
    }

    /// The log can no longer be served.
    pub(super) fn withdraw(&mut self, now: Moment, log: &LogName) {
        self.change(now, log, LogProgress::withdraw);
    }

    /// The peer wants the log from a number on. One that is not known here was
    /// never offered, or was withdrawn while the wish was under way.
    pub(super) fn want(&mut self, now: Moment, log: &LogName, from: MessageNumber) {
        self.change(now, log, |progress| progress.become_wanted(from));
    }

    /// The peer takes the log from someone else.
    pub(super) fn unwant(&mut self, now: Moment, log: &LogName) {
        self.change(now, log, LogProgress::become_unwanted);
    }

    /// A frame of the log is on the stream, see
    /// [`super::PeerSender::handle_frame_sent`].
    pub(super) fn frame_sent(
        &mut self,
        now: Moment,
        log: &LogName,
        first: MessageNumber,
        through: Mark,
        window_bytes: u64,
    ) {
        let Some(progress) = self.logs.get_mut(log) else { return };
        self.window.settle(progress.read_settled());
        if progress.sent(now, first, through, window_bytes) {
            self.window.sent(window_bytes);
            if progress.deadline().is_none() {
                self.arm(now, log);
            }
        }
        self.give_turn(log);
    }

    /// Nothing of the log could be read; it is asked for again after a while.
    pub(super) fn nothing_sent(&mut self, now: Moment, log: &LogName) {
        let Some(progress) = self.logs.get_mut(log) else { return };
        self.window.settle(progress.read_settled());
        if progress.is_sendable() && !progress.is_in_flight() {
            self.change(now, log, |progress| progress.become_paused(progress.next()));
            self.arm(now, log);
        }
    }

    /// What was to be read is trimmed, and its base has not been sent.
    pub(super) fn awaits_base(&mut self, now: Moment, log: &LogName) {
        let Some(progress) = self.logs.get_mut(log) else { return };
        self.window.settle(progress.read_settled());
        if progress.is_sendable() {
            self.change(now, log, LogProgress::become_awaiting_base);
        }
    }

    /// The base of a namespace is on the stream: its logs go on.
    pub(super) fn base_sent(&mut self, now: Moment, namespace: NamespaceNumber) {
        let waiting: Vec<LogName> = self
            .logs
            .iter()
            .filter(|(log, progress)| {
                log.namespace == namespace && progress.state() == ProgressState::AwaitingBase
            })
            .map(|(log, _)| *log)
            .collect();
        for log in waiting {
            self.change(now, &log, |progress| progress.become_probe(progress.next()));
        }
    }

    /// The peer holds the log up to a mark. Tells of a log that stops because the
    /// peer's bytes are others than ours.
    pub(super) fn acknowledge(
        &mut self,
        now: Moment,
        log: &LogName,
        mark: Mark,
    ) -> Option<SenderAction> {
        let Some(progress) = self.logs.get_mut(log) else {
            // Kept for logs we hold but do not serve yet; others' are not ours
            // to remember.
            if let Some(held) = self.welcome_marks.get_mut(log)
                && held.m_id < mark.m_id
            {
                *held = mark;
            }
            return None;
        };
        let outcome = progress.acknowledge(now, mark)?;
        self.window.freed(outcome.freed);
        if let Some(round_trip) = outcome.round_trip {
            self.round_trip.sample(round_trip);
        }
        let stopped = if outcome.differs {
            let detail = format!("the peer's chain hash at {} is {}", mark.m_id, mark.hash);
            self.stop(now, log, mark.m_id.next(), NackReason::ContentDiffers, detail)
        } else {
            self.rearm(now, log);
            self.give_turn(log);
            None
        };
        self.wake_children(now, log);
        stopped
    }

    /// The peer cannot take what it was sent (METHOD M8: a reported failure).
    /// Tells of a log that stops.
    pub(super) fn nacked(&mut self, now: Moment, nack: Nack) -> Option<SenderAction> {
        let progress = self.logs.get_mut(&nack.log)?;
        if matches!(progress.state(), ProgressState::NotWanted | ProgressState::Refused(_)) {
            return None;
        }
        match nack.reason {
            NackReason::OutOfOrder => {
                let quiet = self.round_trip.timeout();
                if let Some(freed) = progress.handle_out_of_order(now, nack.expected, quiet) {
                    self.window.freed(freed);
                    self.rearm(now, &nack.log);
                    self.give_turn(&nack.log);
                }
                None
            }
            NackReason::ParentMissing => {
                let expected = nack.expected.max(progress.acknowledged().m_id.next());
                let parents: Vec<LogName> = progress
                    .offer()
                    .parents
                    .iter()
                    .map(|parent| nack.log.path().log(parent.incarnation))
                    .collect();
                self.change(now, &nack.log, |progress| progress.become_waiting(expected));
                self.arm(now, &nack.log);
                for parent in parents {
                    self.give_turn_as(&parent, Urgency::Live);
                }
                None
            }
            NackReason::ContentDiffers | NackReason::Invalid => {
                self.stop(now, &nack.log, nack.expected, nack.reason, nack.detail)
            }
        }
    }

    /// The peer is no member of the log's namespace by a version. Older than ours
    /// it has been sent ours and will know better soon. Returns whether the log is
    /// served here.
    pub(super) fn refused(
        &mut self,
        now: Moment,
        log: &LogName,
        version: TopologyVersion,
        ours: TopologyVersion,
    ) -> bool {
        if version < ours {
            self.change(now, log, |log| log.become_paused(log.acknowledged().m_id.next()));
            self.arm(now, log);
        } else {
            self.change(now, log, |log| log.become_refused(version));
        }
        self.logs.contains_key(log)
    }

    /// Tries again what was refused by a topology older than ours.
    pub(super) fn retry_refused(&mut self, now: Moment, ours: TopologyVersion) {
        let void: Vec<LogName> = self
            .logs
            .iter()
            .filter(|(_, progress)| {
                matches!(progress.state(), ProgressState::Refused(version) if version < ours)
            })
            .map(|(log, _)| *log)
            .collect();
        for log in void {
            self.change(now, &log, |log| log.become_probe(log.acknowledged().m_id.next()));
        }
    }

    /// The timers that have run out (METHOD M8).
    pub(super) fn handle_timers(&mut self, now: Moment) {
        while let Some((due, log)) = self.deadlines.first().copied()
            && due <= now
        {
            self.set_deadline(&log, None);
            self.change(now, &log, LogProgress::handle_timer);
        }
    }

    /// When the next timer runs out.
    pub(super) fn due_at(&self) -> Option<Moment> {
        self.deadlines.first().map(|(due, _)| *due)
    }

    /// The next frame to read and send, as far as the window goes.
    pub(super) fn next_read(&mut self) -> Option<SenderAction> {
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

    /// How each log stands.
    pub(super) fn status(&self) -> SenderStatus {
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

    fn stop(
        &mut self,
        now: Moment,
        log: &LogName,
        expected: MessageNumber,
        reason: NackReason,
        detail: String,
    ) -> Option<SenderAction> {
        let known = self.logs.get(log)?.state();
        if known == ProgressState::Stopped(reason) {
            return None;
        }
        self.change(now, log, |progress| progress.become_stopped(reason));
        Some(SenderAction::LogStopped { log: *log, expected, reason, detail })
    }

    /// Logs that wait for this one to reach their parent point, and for no other
    /// any more, are tried again.
    fn wake_children(&mut self, now: Moment, parent: &LogName) {
        let path = parent.path();
        let children: Vec<LogName> = self
            .waiting
            .iter()
            .filter(|log| log.path() == path && self.has_parents_acknowledged(log))
            .copied()
            .collect();
        for child in children {
            self.change(now, &child, |progress| progress.become_probe(progress.next()));
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

    /// Carries out a transition that may free window bytes, and brings the
    /// timers and turns in line with it.
    fn change(
        &mut self,
        now: Moment,
        log: &LogName,
        transition: impl FnOnce(&mut LogProgress) -> u64,
    ) {
        let Some(progress) = self.logs.get_mut(log) else { return };
        let freed = transition(progress);
        self.window.freed(freed);
        self.rearm(now, log);
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
    fn rearm(&mut self, now: Moment, log: &LogName) {
        let in_flight = self.logs.get(log).is_some_and(LogProgress::is_in_flight);
        if in_flight { self.arm(now, log) } else { self.set_deadline(log, None) }
    }

    fn arm(&mut self, now: Moment, log: &LogName) {
        let Some(progress) = self.logs.get(log) else { return };
        let wait = self.round_trip.timeout_after(progress.backoff(), &mut self.jitter);
        self.set_deadline(log, Some(now + wait));
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

    /// Whether the queue of timers is that of the logs.
    #[cfg(test)]
    pub(super) fn assert_timers_agree(&self) {
        let of_logs = self.logs.iter();
        let running = of_logs.filter_map(|(log, progress)| Some((progress.deadline()?, *log)));
        assert_eq!(self.deadlines, running.collect());
    }
}
