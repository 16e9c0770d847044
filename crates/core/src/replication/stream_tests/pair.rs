//! A sender and a receiver with a toy log each, driven in virtual time over a
//! network that delays, and where told so loses, repeats and reorders messages
//! and acknowledgements. The receiver's log writer and its syncs take time too.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use super::held_log::HeldLog;
use crate::clock::{Moment, WallTime};
use crate::identity::{LogName, Mark, MemberOpening, MessageNumber, ParentPoint};
use crate::limits::WINDOW_BYTES;
use crate::names::RegionName;
use crate::replication::acknowledgements::Acknowledgements;
use crate::replication::frames::{Frame, Heartbeat, NackReason, ReceiverFrame, SenderFrame};
use crate::replication::log_sources::{LogSources, WantChange};
use crate::replication::peer_receiver::{
    PeerReceiver, ReceiverAction, ReceiverConfig, SubmissionOutcome,
};
use crate::replication::peer_sender::{PeerSender, SenderAction, SenderConfig};
use crate::replication::specimens::{RECEIVER, SENDER, ServedLog, hello, incarnation, welcome};

/// What the network does to frames of messages, acknowledgements and complaints.
/// The rest arrives in order, as on any stream.
#[derive(Clone, Copy, Debug)]
pub(super) struct Conditions {
    pub(super) delay: Duration,
    pub(super) loss_percent: u64,
    pub(super) repeat_percent: u64,
    pub(super) reorder_percent: u64,
    pub(super) write_time: Duration,
    pub(super) sync_time: Duration,
}

impl Conditions {
    pub(super) const GOOD: Self = Self {
        delay: Duration::from_millis(10),
        loss_percent: 0,
        repeat_percent: 0,
        reorder_percent: 0,
        write_time: Duration::from_millis(1),
        sync_time: Duration::from_millis(2),
    };
}

#[derive(Debug)]
enum Event {
    Connect,
    ToReceiver(SenderFrame),
    ToSender(ReceiverFrame),
    Write(Frame),
    Sync(Vec<(LogName, Mark)>),
}

/// What went over the network, for tests to look at.
#[derive(Debug, Clone)]
pub(super) enum Seen {
    Messages { at: Moment, log: LogName, first: MessageNumber, last: MessageNumber },
    Acknowledgement { marks: Vec<(LogName, Mark)> },
    Nack { reason: NackReason },
}

type Filter = Box<dyn FnMut(&SenderFrame) -> bool>;

pub(super) struct Pair {
    pub(super) now: Moment,
    pub(super) conditions: Conditions,
    pub(super) served: BTreeMap<LogName, ServedLog>,
    pub(super) facts: Acknowledgements,
    pub(super) seen: Vec<Seen>,
    pub(super) sender: Option<PeerSender>,
    pub(super) receiver: Option<PeerReceiver>,
    pub(super) disconnects: Vec<String>,
    /// Frames for which it returns true are lost.
    pub(super) lose: Option<Filter>,
    /// Acknowledgements are lost while set.
    pub(super) lose_acknowledgements: bool,
    held: BTreeMap<LogName, HeldLog>,
    sources: LogSources,
    me: MemberOpening,
    events: BTreeMap<(Moment, u64), (u64, Event)>,
    connection: u64,
    sequence: u64,
    bits: u64,
    writer_free_at: Moment,
    last_arrivals: [Moment; 2],
    unsynced: bool,
}

impl Pair {
    pub(super) fn new(seed: u64, conditions: Conditions) -> Self {
        let me = MemberOpening { node: RECEIVER, incarnation: incarnation(100), opened_from: None };
        let mut pair = Self {
            now: Moment::START,
            conditions,
            served: BTreeMap::new(),
            facts: Acknowledgements::new(),
            seen: Vec::new(),
            sender: None,
            receiver: None,
            disconnects: Vec::new(),
            lose: None,
            lose_acknowledgements: false,
            held: BTreeMap::new(),
            sources: LogSources::new(me, region()),
            me,
            events: BTreeMap::new(),
            connection: 0,
            sequence: 0,
            bits: seed | 1,
            writer_free_at: Moment::START,
            last_arrivals: [Moment::START; 2],
            unsynced: false,
        };
        pair.schedule(Moment::START, Event::Connect);
        pair
    }

    /// The sender gets a log, or more messages of it.
    pub(super) fn serve(&mut self, log: ServedLog) {
        let offer = log.offer();
        self.served.insert(log.name, log);
        if let Some(sender) = &mut self.sender {
            sender.handle_log_advanced(self.now, offer);
        }
        self.drain();
    }

    pub(super) fn publish(&mut self, log: LogName, messages: usize, bytes: usize) {
        let mut served = self.served.get(&log).expect("the log is served").clone();
        (0..messages).for_each(|_| served.publish(bytes));
        self.serve(served);
    }

    /// The connection breaks; what is under way on it is lost.
    pub(super) fn break_connection(&mut self) {
        if self.sender.take().is_some() {
            self.sources.peer_disconnected(self.now, SENDER);
            self.facts.handle_disconnected(RECEIVER);
        }
        self.receiver = None;
        self.connection += 1;
        self.schedule(self.now + Duration::from_millis(300), Event::Connect);
    }

    /// The receiver loses its power, and what it had not synced.
    pub(super) fn restart_receiver(&mut self) {
        self.break_connection();
        let kept = |(_, event): &(u64, Event)| matches!(event, Event::Connect);
        self.events.retain(|_, event| kept(event));
        self.unsynced = false;
        for log in self.held.values_mut() {
            log.sends.truncate(log.durable);
            log.hashes.truncate(log.durable);
        }
        // What hangs on a parent that is gone goes with it.
        let cut: Vec<LogName> = self
            .held
            .iter()
            .filter(|(name, log)| !self.has_parents(name, &log.parents))
            .map(|(name, _)| *name)
            .collect();
        for name in cut {
            let log = &self.held[&name];
            assert_eq!(log.durable, 0, "durable before its parent");
            self.held.remove(&name);
        }
        self.me = MemberOpening {
            node: RECEIVER,
            incarnation: incarnation(self.me.incarnation.get() + 1),
            opened_from: Some(self.me.incarnation),
        };
        self.sources = LogSources::new(self.me, region());
        for (name, log) in &self.held {
            self.sources.mark_appended(self.now, name, log.appended().m_id);
        }
    }

    pub(super) fn appended(&self, log: &LogName) -> u64 {
        self.held.get(log).map_or(0, |log| log.appended().m_id.get())
    }

    /// Whether the receiver holds all and has acknowledged it.
    pub(super) fn is_caught_up(&self) -> bool {
        self.queue() == 0
    }

    /// How many messages the receiver has still to acknowledge.
    pub(super) fn queue(&self) -> u64 {
        let held = self.served.values().map(|log| (log.name, log.start.m_id, log.tip().m_id));
        self.facts.queue(RECEIVER, held).iter().map(|log| log.messages()).sum()
    }

    /// Whether both ends hold the same bytes.
    pub(super) fn assert_equal(&self) {
        for (name, served) in &self.served {
            let held = self.held.get(name).expect("every log is held");
            assert_eq!(held.sends, served.sends, "of {name}");
            assert_eq!(held.appended(), served.tip(), "of {name}");
        }
    }

    /// Runs until the receiver has acknowledged all; returns when that was.
    pub(super) fn run_until_caught_up(&mut self, within: Duration) -> Moment {
        let end = self.now + within;
        while !self.is_caught_up() {
            let status = self.sender.as_ref().map(PeerSender::status);
            assert!(self.now < end, "not caught up by {end:?}: {status:?}");
            self.step(end);
        }
        self.now
    }

    pub(super) fn run_for(&mut self, time: Duration) {
        let end = self.now + time;
        while self.now < end {
            self.step(end);
        }
    }

    /// Goes on to what happens next, or to `end`.
    fn step(&mut self, end: Moment) {
        let timeouts = [
            self.events.first_key_value().map(|((at, _), _)| *at),
            self.sender.as_ref().and_then(PeerSender::poll_timeout),
            self.receiver.as_ref().and_then(PeerReceiver::poll_timeout),
            self.sources.poll_timeout(),
        ];
        let next = timeouts.into_iter().flatten().min().unwrap_or(end);
        self.now = next.max(self.now).min(end);
        while let Some(entry) = self.events.first_entry()
            && entry.key().0 <= self.now
        {
            let (connection, event) = entry.remove();
            self.happen(connection, event);
            self.drain();
        }
        if let Some(sender) = &mut self.sender
            && sender.poll_timeout().is_some_and(|due| due <= self.now)
        {
            sender.handle_timeout(self.now);
        }
        if let Some(receiver) = &mut self.receiver
            && receiver.poll_timeout().is_some_and(|due| due <= self.now)
        {
            receiver.handle_timeout(self.now);
        }
        self.sources.handle_timeout(self.now);
        self.drain();
        for due in [
            self.sender.as_ref().and_then(PeerSender::poll_timeout),
            self.receiver.as_ref().and_then(PeerReceiver::poll_timeout),
            self.sources.poll_timeout(),
        ] {
            assert!(due.is_none_or(|due| due > self.now), "a timer that does not move on");
        }
    }

    fn happen(&mut self, connection: u64, event: Event) {
        match event {
            Event::Connect if self.sender.is_none() => self.connect(),
            Event::Connect => {}
            // The log writer outlives the connection.
            Event::Write(frame) => self.write(connection, frame),
            Event::Sync(marks) => self.sync(&marks),
            Event::ToReceiver(_) | Event::ToSender(_) if connection != self.connection => {}
            Event::ToReceiver(frame) => {
                if let Some(receiver) = &mut self.receiver {
                    receiver.handle_frame(self.now, frame);
                }
            }
            Event::ToSender(frame) => {
                if let Some(sender) = &mut self.sender {
                    sender.handle_frame(self.now, frame);
                }
            }
        }
    }

    fn connect(&mut self) {
        self.facts.handle_connecting(RECEIVER);
        let config = SenderConfig { peer: RECEIVER, jitter_seed: self.next_bits() };
        let opening =
            MemberOpening { node: SENDER, incarnation: incarnation(1), opened_from: None };
        let mut sender = PeerSender::new(self.now, config, hello(opening));
        for log in self.served.values() {
            sender.handle_log_advanced(self.now, log.offer());
        }
        self.sender = Some(sender);
        let config = ReceiverConfig { window_bytes: WINDOW_BYTES };
        self.receiver = Some(PeerReceiver::new(self.now, config, self.me));
        self.last_arrivals = [self.now; 2];
    }

    fn drain(&mut self) {
        loop {
            if let Some(action) = self.sender.as_mut().and_then(PeerSender::poll_action) {
                self.carry_out_for_sender(action);
            } else if let Some(action) = self.receiver.as_mut().and_then(PeerReceiver::poll_action)
            {
                self.carry_out_for_receiver(action);
            } else if let Some(change) = self.sources.poll_change() {
                if let Some(receiver) = &mut self.receiver {
                    match change {
                        WantChange::Want { log, from, .. } => {
                            receiver.handle_want(self.now, log, from);
                        }
                        WantChange::Unwant { log, .. } => receiver.handle_unwant(self.now, &log),
                    }
                }
            } else {
                return;
            }
        }
    }

    fn carry_out_for_sender(&mut self, action: SenderAction) {
        match action {
            SenderAction::Transmit(frame) => self.deliver_to_receiver(frame),
            SenderAction::TransmitHeartbeat => {
                let wall_clock = WallTime::new(0);
                self.deliver_to_receiver(SenderFrame::Heartbeat(Heartbeat::at(wall_clock)));
            }
            SenderAction::ReadAndSend {
                log,
                from,
                previous_hash,
                through,
                max_bytes,
                max_messages,
                ..
            } => {
                let frame = self.served[&log].read(from, through, max_bytes, max_messages);
                let sender = self.sender.as_mut().expect("it has just acted");
                let Some(frame) = frame else {
                    return sender.handle_nothing_sent(self.now, &log);
                };
                if let Some(known) = previous_hash {
                    assert_eq!(known, frame.previous_hash, "of {log} before {from}");
                }
                let mark = Mark { m_id: frame.last_m_id(), hash: frame.last_hash() };
                sender.handle_frame_sent(self.now, &log, from, mark, frame.window_bytes());
                self.deliver_to_receiver(SenderFrame::Frame(frame));
            }
            SenderAction::PeerWelcomed(welcome) => {
                self.facts.record(&welcome.fact(), true);
            }
            SenderAction::Acknowledged(fact) => {
                self.facts.record(&fact, false);
            }
            SenderAction::Disconnect { reason } => {
                self.disconnects.push(reason.to_string());
                self.break_connection();
            }
            SenderAction::PeerClock(_) => {}
            SenderAction::Refused(_)
            | SenderAction::TopologyReceived(_)
            | SenderAction::LogStopped { .. } => panic!("unexpected: {action:?}"),
        }
    }

    fn carry_out_for_receiver(&mut self, action: ReceiverAction) {
        match action {
            ReceiverAction::Transmit(frame) => self.deliver_to_sender(frame),
            ReceiverAction::TransmitHeartbeat => {
                let wall_clock = WallTime::new(0);
                self.deliver_to_sender(ReceiverFrame::Heartbeat(Heartbeat::at(wall_clock)));
            }
            ReceiverAction::PeerIntroduced(_) => {
                let marks = self.held.iter().map(|(name, log)| (*name, log.mark(log.durable)));
                let answer =
                    welcome(self.me, marks.filter(|(_, mark)| mark.m_id.get() > 0).collect());
                let receiver = self.receiver.as_mut().expect("it has just acted");
                receiver.accept(self.now, answer);
                self.sources.peer_connected(self.now, SENDER, region());
            }
            ReceiverAction::Offered { peer, offers } => {
                for offer in offers {
                    self.held.entry(offer.log).or_insert_with(|| HeldLog {
                        parents: offer.parents.clone(),
                        start: ServedLog::new(offer.log, offer.parents.clone()).start,
                        sends: Vec::new(),
                        hashes: Vec::new(),
                        durable: 0,
                    });
                    self.sources.peer_offered(self.now, peer, &offer);
                }
            }
            ReceiverAction::Submit(frame) => {
                let due = self.writer_free_at.max(self.now) + self.conditions.write_time;
                self.writer_free_at = due;
                self.schedule(due, Event::Write(frame));
            }
            ReceiverAction::Disconnect { reason } => {
                self.disconnects.push(reason.to_string());
                self.break_connection();
            }
            ReceiverAction::PeerClock(_) => {}
            ReceiverAction::SubmitHole(_)
            | ReceiverAction::BaseReceived(_)
            | ReceiverAction::RelayedFact(_)
            | ReceiverAction::Refused(_)
            | ReceiverAction::PeerDigests(_)
            | ReceiverAction::TopologyReceived(_) => panic!("unexpected: {action:?}"),
        }
    }

    fn deliver_to_receiver(&mut self, frame: SenderFrame) {
        let mut is_lost = self.lose.as_mut().is_some_and(|lose| lose(&frame));
        let is_unreliable = matches!(frame, SenderFrame::Frame(_));
        if let SenderFrame::Frame(messages) = &frame {
            self.seen.push(Seen::Messages {
                at: self.now,
                log: messages.log,
                first: messages.first_m_id,
                last: messages.last_m_id(),
            });
        }
        is_lost |= is_unreliable && self.chance(self.conditions.loss_percent);
        if is_lost {
            return;
        }
        if is_unreliable && self.chance(self.conditions.repeat_percent) {
            let at = self.arrival(0, is_unreliable);
            self.schedule(at, Event::ToReceiver(frame.clone()));
        }
        let at = self.arrival(0, is_unreliable);
        self.schedule(at, Event::ToReceiver(frame));
    }

    fn deliver_to_sender(&mut self, frame: ReceiverFrame) {
        let is_unreliable = matches!(frame, ReceiverFrame::Ack(_) | ReceiverFrame::Nack(_));
        match &frame {
            ReceiverFrame::Ack(fact) => {
                for (log, mark) in &fact.marks {
                    let durable = self.held.get(log).map(|log| log.mark(log.durable));
                    assert!(durable.is_some_and(|durable| durable.m_id >= mark.m_id));
                }
                let marks = fact.marks.clone();
                self.seen.push(Seen::Acknowledgement { marks });
                if self.lose_acknowledgements {
                    return;
                }
            }
            ReceiverFrame::Nack(nack) => {
                self.seen.push(Seen::Nack { reason: nack.reason });
            }
            _ => {}
        }
        let mut frame = frame;
        if is_unreliable && self.chance(self.conditions.loss_percent) {
            // What is not served here is told once: no timer asks for it again,
            // since a stream that lives loses nothing.
            let ReceiverFrame::Ack(fact) = &mut frame else { return };
            fact.marks.retain(|(log, _)| self.sources.server_of(log).is_none());
        }
        let at = self.arrival(1, is_unreliable);
        self.schedule(at, Event::ToSender(frame));
    }

    /// When a frame arrives: after those before it, unless it is reordered.
    fn arrival(&mut self, direction: usize, is_unreliable: bool) -> Moment {
        let straight = (self.now + self.conditions.delay).max(self.last_arrivals[direction]);
        if is_unreliable && self.chance(self.conditions.reorder_percent) {
            let detour = self.next_bits() % 60;
            return straight + Duration::from_millis(detour);
        }
        self.last_arrivals[direction] = straight;
        straight
    }

    /// The apply rule, for a toy log. Every message is checked
    /// against the one that was published under its name (METHOD M10).
    fn write(&mut self, connection: u64, frame: Frame) {
        let outcome = self.append(&frame);
        if outcome == SubmissionOutcome::Appended {
            let appended = self.held[&frame.log].appended();
            self.sources.mark_appended(self.now, &frame.log, appended.m_id);
            if !self.unsynced {
                self.unsynced = true;
                self.schedule(self.now + self.conditions.sync_time, Event::Sync(Vec::new()));
            }
        }
        if connection == self.connection
            && let Some(receiver) = &mut self.receiver
        {
            receiver.handle_outcome(self.now, &frame.log, outcome);
        }
    }

    fn append(&mut self, frame: &Frame) -> SubmissionOutcome {
        let nack =
            |expected, reason| SubmissionOutcome::Nack { expected, reason, detail: String::new() };
        let held = self.held.get(&frame.log).expect("frames come after offers");
        let appended = held.appended();
        if appended == held.start && !self.has_parents(&frame.log, &held.parents) {
            return nack(appended.m_id.next(), NackReason::ParentMissing);
        }
        if frame.first_m_id > appended.m_id.next() {
            return nack(appended.m_id.next(), NackReason::OutOfOrder);
        }
        assert_eq!(held.hash_at(frame.first_m_id.previous()), Some(frame.previous_hash));
        if frame.last_m_id() <= appended.m_id {
            return SubmissionOutcome::AlreadyHeld;
        }
        let overlap = appended.m_id.since(frame.first_m_id.previous());
        let held = self.held.get_mut(&frame.log).expect("looked up above");
        let served = &self.served[&frame.log];
        for send in frame.sends.iter().skip(usize::try_from(overlap).expect("small")) {
            let m_id = held.appended().m_id.next();
            assert_eq!(served.send_at(m_id), Some(send), "another message under {m_id}");
            held.hashes.push(held.appended().hash.then(send));
            held.sends.push(send.clone());
        }
        SubmissionOutcome::Appended
    }

    fn has_parents(&self, log: &LogName, parents: &[ParentPoint]) -> bool {
        parents.iter().all(|parent| {
            let name = log.path().log(parent.incarnation);
            self.held.get(&name).and_then(|held| held.hash_at(parent.m_id)) == Some(parent.hash)
        })
    }

    /// A sync makes all that was appended before it began durable. It begins when
    /// the one before it ends.
    fn sync(&mut self, finished: &[(LogName, Mark)]) {
        for (log, mark) in finished {
            let held = self.held.get_mut(log).expect("logs stay");
            let count = mark.m_id.since(held.start.m_id);
            held.durable = held.durable.max(usize::try_from(count).expect("small"));
        }
        if let Some(receiver) = &mut self.receiver {
            receiver.handle_durable(self.now, finished);
        }
        let marks: Vec<(LogName, Mark)> = self
            .held
            .iter()
            .filter(|(_, log)| log.durable < log.sends.len())
            .map(|(name, log)| (*name, log.appended()))
            .collect();
        self.unsynced = !marks.is_empty();
        if self.unsynced {
            self.schedule(self.now + self.conditions.sync_time, Event::Sync(marks));
        }
    }

    fn schedule(&mut self, at: Moment, event: Event) {
        self.sequence += 1;
        self.events.insert((at, self.sequence), (self.connection, event));
    }

    fn chance(&mut self, percent: u64) -> bool {
        percent > 0 && self.next_bits() % 100 < percent
    }

    pub(super) fn next_bits(&mut self) -> u64 {
        self.bits ^= self.bits << 13;
        self.bits ^= self.bits >> 7;
        self.bits ^= self.bits << 17;
        self.bits >> 16
    }

    /// All numbers of a log that were acknowledged over the network.
    pub(super) fn acknowledged_numbers(&self, log: LogName) -> BTreeSet<u64> {
        let marks = self.seen.iter().filter_map(|seen| match seen {
            Seen::Acknowledgement { marks, .. } => Some(marks),
            _ => None,
        });
        marks.flatten().filter(|(name, _)| *name == log).map(|(_, mark)| mark.m_id.get()).collect()
    }
}

fn region() -> RegionName {
    RegionName::parse("region").expect("a good name")
}
