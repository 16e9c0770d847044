use std::collections::BTreeMap;
use std::time::Duration;

use proptest::prelude::*;

use super::*;
use crate::clock::WallTime;
use crate::identity::{ChainHash, NodeNumber};
use crate::limits::WINDOW_BYTES;
use crate::replication::frames::{Frame, Heartbeat, NackReason, Unwant};
use crate::replication::specimens::{
    RECEIVER, SENDER, ServedLog, at, hello, incarnation, log_of, number, opening, welcome,
};

const SEED: u64 = 7;

/// A sender with the logs it serves; carries out what it is told to read.
struct Driver {
    sender: PeerSender,
    logs: BTreeMap<LogName, ServedLog>,
    now: Moment,
    peer: MemberOpening,
    sent: Vec<Frame>,
    told: Vec<SenderAction>,
}

impl Driver {
    fn new() -> Self {
        let config = SenderConfig { peer: RECEIVER, jitter_seed: SEED };
        let mut driver = Self {
            sender: PeerSender::new(at(0), config, hello(opening(SENDER, 1))),
            logs: BTreeMap::new(),
            now: at(0),
            peer: opening(RECEIVER, 2),
            sent: Vec::new(),
            told: Vec::new(),
        };
        driver.drain();
        driver
    }

    /// Welcomed by a peer that holds nothing and wants these logs.
    fn serving(logs: impl IntoIterator<Item = ServedLog>) -> Self {
        let mut driver = Self::new();
        driver.hear(ReceiverFrame::Welcome(welcome(driver.peer, Vec::new())));
        for log in logs {
            let name = log.name;
            let from = log.start.m_id.next();
            driver.serve(log);
            driver.hear(ReceiverFrame::Want(Want { log: name, from }));
        }
        driver
    }

    fn serve(&mut self, log: ServedLog) {
        self.sender.handle_log_advanced(self.now, log.offer());
        self.logs.insert(log.name, log);
        self.drain();
    }

    fn publish(&mut self, log: LogName, messages: usize, bytes: usize) {
        let mut served = self.logs[&log].clone();
        (0..messages).for_each(|_| served.publish(bytes));
        self.serve(served);
    }

    fn hear(&mut self, frame: ReceiverFrame) {
        self.sender.handle_frame(self.now, frame);
        self.drain();
    }

    fn acknowledge(&mut self, log: LogName, m_id: u64) {
        let mark = self.logs[&log].mark_at(number(m_id)).expect("it is held");
        self.hear(ReceiverFrame::Ack(Fact { opening: self.peer, marks: vec![(log, mark)] }));
    }

    fn complain(&mut self, log: LogName, expected: u64, reason: NackReason) {
        let expected = number(expected);
        self.hear(ReceiverFrame::Nack(Nack { log, expected, reason, detail: "so".to_owned() }));
    }

    /// Goes on to the next timer, with a peer that is alive.
    fn timeout(&mut self) -> Moment {
        self.now = self.sender.poll_timeout().expect("a timer runs");
        self.sender.handle_timeout(self.now);
        self.drain();
        let heartbeat = Heartbeat::at(WallTime::new(0));
        self.hear(ReceiverFrame::Heartbeat(heartbeat));
        self.now
    }

    fn drain(&mut self) {
        while let Some(action) = self.sender.poll_action() {
            if let SenderAction::ReadAndSend {
                log, from, through, max_bytes, max_messages, ..
            } = action
            {
                let frame = self.logs[&log].read(from, through, max_bytes, max_messages);
                let frame = frame.expect("what is offered can be read");
                let mark = Mark { m_id: frame.last_m_id(), hash: frame.last_hash() };
                self.sender.handle_frame_sent(self.now, &log, from, mark, frame.window_bytes());
                self.sent.push(frame);
            } else {
                self.told.push(action);
            }
        }
    }

    /// The first and last number of each frame sent since the last call.
    fn frames(&mut self) -> Vec<(u64, u64)> {
        let bounds = |frame: Frame| (frame.first_m_id.get(), frame.last_m_id().get());
        self.sent.drain(..).map(bounds).collect()
    }

    fn told(&mut self) -> Vec<SenderAction> {
        std::mem::take(&mut self.told)
    }

    fn disconnect(&mut self) -> Option<SenderDisconnect> {
        self.told().into_iter().find_map(|action| match action {
            SenderAction::Disconnect { reason } => Some(reason),
            _ => None,
        })
    }

    fn state(&self, log: LogName) -> ProgressState {
        let status = self.sender.status();
        status.logs.iter().find(|status| status.log == log).expect("it is served").state
    }
}

fn offered(actions: &[SenderAction]) -> Vec<Vec<LogName>> {
    let offers = actions.iter().filter_map(|action| match action {
        SenderAction::Transmit(SenderFrame::Offer(offer)) => Some(offer),
        _ => None,
    });
    offers.map(|offer| offer.logs.iter().map(|log| log.log).collect()).collect()
}

fn log() -> LogName {
    log_of(1, 1)
}

#[test]
fn the_greeting_comes_first_and_offers_after_the_welcome() {
    let mut driver = Driver::new();
    assert!(matches!(driver.told()[..], [SenderAction::Transmit(SenderFrame::Hello(_))]));
    driver.serve(ServedLog::with(log(), 3, 100));
    assert_eq!(driver.told(), []);
    driver.hear(ReceiverFrame::Welcome(welcome(driver.peer, Vec::new())));
    let told = driver.told();
    assert!(matches!(told[0], SenderAction::PeerWelcomed(_)));
    assert_eq!(offered(&told), [[log()]]);
    assert_eq!(driver.frames(), [], "nothing is sent unasked");
}

#[test]
fn somebody_else_is_not_served() {
    let mut driver = Driver::new();
    driver.hear(ReceiverFrame::Welcome(welcome(opening(SENDER, 2), Vec::new())));
    let reason = SenderDisconnect::OtherNode { expected: RECEIVER, answered: SENDER };
    assert_eq!(driver.disconnect(), Some(reason));

    let mut driver = Driver::new();
    let mut answer = welcome(driver.peer, Vec::new());
    answer.protocol_version = 2;
    driver.hear(ReceiverFrame::Welcome(answer));
    assert_eq!(driver.disconnect(), Some(SenderDisconnect::ProtocolVersion { theirs: 2 }));
    assert_eq!(driver.sender.poll_timeout(), None);
}

#[test]
fn a_greeting_without_answer_is_given_up() {
    let mut driver = Driver::new();
    let due = driver.sender.poll_timeout().expect("a timer runs");
    assert_eq!(due, at(0) + GREETING_LIMIT);
    driver.sender.handle_timeout(due);
    driver.drain();
    assert_eq!(driver.disconnect(), Some(SenderDisconnect::NoWelcome));
}

/// An acknowledgement belongs to an opening; one of another is not ours.
#[test]
fn an_acknowledgement_of_another_incarnation_ends_the_stream() {
    let mut driver = Driver::serving([ServedLog::with(log(), 3, 100)]);
    let other = opening(RECEIVER, 3);
    let mark = driver.logs[&log()].tip();
    driver.hear(ReceiverFrame::Ack(Fact { opening: other, marks: vec![(log(), mark)] }));
    let told = driver.told();
    assert!(!told.iter().any(|action| matches!(action, SenderAction::Acknowledged(_))));
    assert!(matches!(
        told.last(),
        Some(SenderAction::Disconnect { reason: SenderDisconnect::OtherIncarnation { .. } })
    ));
}

#[test]
fn a_probe_opens_the_pipeline() {
    let mut driver = Driver::serving([ServedLog::with(log(), 10_000, 1000)]);
    assert_eq!(driver.frames(), [(1, 1016)], "one frame, until it is acknowledged");
    assert_eq!(driver.state(log()), ProgressState::Probe);
    driver.acknowledge(log(), 1016);
    assert_eq!(driver.state(log()), ProgressState::Replicate);
    let frames = driver.frames();
    assert!(frames.len() > 3);
    assert!(driver.sender.status().in_flight_bytes <= WINDOW_BYTES);
    assert!(frames.windows(2).all(|pair| pair[1].0 == pair[0].1 + 1));
    // An acknowledgement of more than one frame lets more than one go on.
    let last = frames[3].1;
    driver.acknowledge(log(), last);
    assert!(!driver.frames().is_empty());
}

#[test]
fn a_new_stream_starts_where_the_receiver_says() {
    let mut driver = Driver::new();
    let served = ServedLog::with(log(), 10, 100);
    let mark = served.mark_at(number(4)).expect("it is held");
    driver.serve(served);
    driver.hear(ReceiverFrame::Welcome(welcome(driver.peer, vec![(log(), mark)])));
    driver.hear(ReceiverFrame::Want(Want { log: log(), from: number(6) }));
    assert_eq!(driver.frames(), [(6, 10)], "it has appended one that is not durable yet");
    assert_eq!(driver.sender.status().logs[0].acknowledged, mark);
}

/// RFC 6298, 5.2 and 5.3: all acknowledged stops the timer, news restart it.
#[test]
fn the_timer_runs_while_something_is_under_way() {
    let mut driver = Driver::serving([ServedLog::with(log(), 1, 100)]);
    driver.now = at(40);
    driver.acknowledge(log(), 1);
    assert_eq!(driver.sender.logs.due_at(), None);
    driver.publish(log(), 1, 100);
    driver.now = at(60);
    driver.publish(log(), 1, 100);
    // SRTT 40, RTTVAR 20, RTO 120, at least 200.
    assert_eq!(driver.sender.logs.due_at(), Some(at(240)));
    driver.now = at(100);
    driver.acknowledge(log(), 2);
    assert_eq!(driver.sender.logs.due_at(), Some(at(300)));
}

/// METHOD M8 with Karn's rule: what was sent twice measures nothing.
#[test]
fn a_repeated_frame_is_not_measured() {
    let mut driver = Driver::serving([ServedLog::with(log(), 1, 100)]);
    assert_eq!(driver.timeout(), at(1000));
    driver.now = at(1010);
    driver.acknowledge(log(), 1);
    assert_eq!(driver.frames(), [(1, 1), (1, 1)]);
    let status = driver.sender.status();
    assert_eq!((status.round_trip, status.retransmissions), (None, 1));
}

/// METHOD M8: at once, and once for all complaints about the same number.
#[test]
fn a_gap_is_answered_once() {
    let mut driver = Driver::serving([ServedLog::with(log(), 5, 100)]);
    driver.acknowledge(log(), 5);
    for _ in 0..3 {
        driver.publish(log(), 1, 100);
    }
    assert_eq!(driver.frames(), [(1, 5), (6, 6), (7, 7), (8, 8)]);
    driver.complain(log(), 6, NackReason::OutOfOrder);
    driver.complain(log(), 6, NackReason::OutOfOrder);
    driver.complain(log(), 3, NackReason::OutOfOrder);
    assert_eq!(driver.frames(), [(6, 8)]);
    driver.acknowledge(log(), 8);
    driver.publish(log(), 1, 100);
    assert_eq!(driver.frames(), [(9, 9)]);
}

#[test]
fn a_child_waits_until_its_parent_is_acknowledged() {
    let parent = ServedLog::with(log_of(1, 9), 5, 100);
    let mut child = ServedLog::new(log(), vec![parent.parent_point()]);
    child.publish(100);
    let mut driver = Driver::serving([parent, child]);
    assert_eq!(driver.frames(), [(1, 5), (6, 6)]);
    driver.complain(log(), 6, NackReason::ParentMissing);
    assert_eq!(driver.state(log()), ProgressState::WaitingForParents);
    driver.acknowledge(log_of(1, 9), 4);
    assert_eq!(driver.frames(), [], "the parent is not there yet");
    driver.acknowledge(log_of(1, 9), 5);
    assert_eq!(driver.frames(), [(6, 6)]);
}

#[test]
fn a_child_whose_parent_comes_from_elsewhere_is_tried_by_the_timer() {
    let parent = ServedLog::with(log_of(1, 9), 5, 100);
    let mut child = ServedLog::new(log(), vec![parent.parent_point()]);
    child.publish(100);
    let mut driver = Driver::serving([child]);
    driver.complain(log(), 6, NackReason::ParentMissing);
    driver.frames();
    for _ in 0..10 {
        driver.timeout();
    }
    let frames = driver.frames();
    assert!(!frames.is_empty() && frames.iter().all(|frame| *frame == (6, 6)), "{frames:?}");
}

#[test]
fn other_content_stops_the_log_and_nothing_else() {
    let other = log_of(3, 1);
    let mut driver =
        Driver::serving([ServedLog::with(log(), 5, 100), ServedLog::with(other, 5, 100)]);
    driver.told();
    driver.complain(log(), 3, NackReason::ContentDiffers);
    driver.complain(log(), 3, NackReason::ContentDiffers);
    let told = driver.told();
    assert!(matches!(
        told[..],
        [SenderAction::LogStopped { reason: NackReason::ContentDiffers, .. }]
    ));
    driver.frames();
    driver.publish(log(), 1, 100);
    assert_eq!(driver.frames(), []);
    driver.acknowledge(other, 5);
    driver.publish(other, 1, 100);
    assert_eq!(driver.frames(), [(6, 6)]);
}

#[test]
fn another_hash_in_an_acknowledgement_stops_the_log() {
    let mut driver = Driver::serving([ServedLog::with(log(), 5, 100)]);
    driver.told();
    let mark = Mark { m_id: number(5), hash: ChainHash::EMPTY };
    driver.hear(ReceiverFrame::Ack(Fact { opening: driver.peer, marks: vec![(log(), mark)] }));
    assert!(matches!(driver.told()[0], SenderAction::LogStopped { .. }));
}

#[test]
fn a_refused_log_waits_for_a_newer_topology() {
    let mut driver = Driver::serving([ServedLog::with(log(), 5, 100)]);
    driver.frames();
    let version = |number| TopologyVersion { generation: 0, number };
    let refused = Refused { log: log(), through: number(5), version: version(4) };
    driver.hear(ReceiverFrame::Refused(refused));
    for _ in 0..20 {
        driver.timeout();
    }
    assert_eq!(driver.frames(), [], "what is refused is not resent");
    for (newer, frames) in [(4, vec![]), (5, vec![(1, 5)])] {
        let topology = Topology { version: version(newer), ..Topology::default() };
        driver.sender.handle_topology(driver.now, Arc::new(topology));
        driver.drain();
        assert_eq!(driver.frames(), frames);
    }
    let shared = driver
        .told()
        .into_iter()
        .filter(|action| matches!(action, SenderAction::Transmit(SenderFrame::Topology(_))));
    assert_eq!(shared.count(), 2, "the peer has an older one");
}

#[test]
fn a_refusal_by_an_older_topology_is_tried_again() {
    let mut driver = Driver::serving([ServedLog::with(log(), 5, 100)]);
    driver.frames();
    let version = |number| TopologyVersion { generation: 0, number };
    let topology = Topology { version: version(5), ..Topology::default() };
    driver.sender.handle_topology(driver.now, Arc::new(topology));
    let refused = Refused { log: log(), through: number(5), version: version(4) };
    driver.hear(ReceiverFrame::Refused(refused));
    assert_eq!(driver.frames(), [], "not at once");
    for _ in 0..5 {
        driver.timeout();
    }
    assert_eq!(driver.frames(), [(1, 5)]);
}

/// A driver whose connection is full polls no further, and must not be woken by
/// what it has not yet polled.
#[test]
fn what_is_ready_to_be_polled_runs_no_timer() {
    let mut driver = Driver::serving([]);
    let fact = Fact { opening: opening(NodeNumber::new(8), 5), marks: Vec::new() };
    driver.sender.handle_fact(driver.now, fact, true);
    driver.sender.handle_log_advanced(driver.now, ServedLog::with(log(), 3, 100).offer());
    assert!(driver.sender.poll_timeout() > Some(driver.now));
}

#[test]
fn an_unwanted_or_withdrawn_log_is_not_sent() {
    let other = log_of(3, 1);
    let mut driver =
        Driver::serving([ServedLog::with(log(), 1, 100), ServedLog::with(other, 1, 100)]);
    driver.acknowledge(log(), 1);
    driver.acknowledge(other, 1);
    driver.frames();
    driver.hear(ReceiverFrame::Unwant(Unwant { log: log() }));
    driver.publish(log(), 1, 100);
    driver.sender.handle_log_withdrawn(driver.now, &other);
    assert_eq!(driver.frames(), []);
    assert_eq!(driver.sender.status().logs.len(), 1);
    driver.publish(other, 1, 100);
    assert_eq!(driver.frames(), [(2, 2)], "served again");
}

#[test]
fn moves_are_announced_together() {
    let mut driver = Driver::serving([]);
    driver.told();
    let logs = [log_of(1, 1), log_of(2, 1), log_of(3, 1)];
    for log in logs {
        driver.serve(ServedLog::with(log, 1, 100));
    }
    assert_eq!(offered(&driver.told()).len(), 3, "what is new is told at once");
    for _ in 0..10 {
        logs.iter().for_each(|log| driver.publish(*log, 1, 100));
    }
    assert_eq!(driver.told(), []);
    driver.timeout();
    assert_eq!(offered(&driver.told()), [logs.to_vec()]);
}

#[test]
fn a_heartbeat_each_second_after_all_else_is_told() {
    let mut driver = Driver::serving([ServedLog::with(log(), 1, 100)]);
    driver.acknowledge(log(), 1);
    driver.told();
    let beats: Vec<Moment> = (0..3).map(|_| driver.timeout()).collect();
    assert_eq!(beats, [at(1000), at(2000), at(3000)]);
    driver.told();
    driver.now = at(3999);
    driver.publish(log(), 1, 100);
    driver.acknowledge(log(), 2);
    driver.publish(log(), 1, 100);
    driver.acknowledge(log(), 3);
    driver.told();
    driver.timeout();
    let told = driver.told();
    assert!(matches!(
        told[..],
        [
            SenderAction::Transmit(SenderFrame::Offer(_)),
            SenderAction::TransmitHeartbeat,
            SenderAction::PeerClock(_)
        ]
    ));
}

#[test]
fn a_silent_peer_is_given_up() {
    let mut driver = Driver::serving([]);
    let mut due = at(0);
    while driver.told.iter().all(|action| !matches!(action, SenderAction::Disconnect { .. })) {
        due = driver.sender.poll_timeout().expect("a timer runs");
        driver.sender.handle_timeout(due);
        driver.drain();
    }
    assert_eq!(due, at(0) + SILENCE_LIMIT);
    assert_eq!(driver.disconnect(), Some(SenderDisconnect::Silent));
}

/// After a pause of our own the peer gets the time to be heard.
#[test]
fn a_pause_of_our_own_is_not_the_peers_silence() {
    let mut driver = Driver::serving([]);
    driver.told();
    driver.now = at(60_000);
    driver.sender.handle_timeout(driver.now);
    driver.drain();
    assert_eq!(driver.told(), [SenderAction::TransmitHeartbeat]);
    assert_eq!(driver.sender.poll_timeout(), Some(at(61_000)));
}

#[test]
fn facts_are_passed_on_merged_and_not_to_their_owner() {
    let mut driver = Driver::serving([]);
    driver.told();
    let fact = |node, m_id| Fact {
        opening: opening(NodeNumber::new(node), 5),
        marks: vec![(log(), Mark { m_id: number(m_id), hash: ChainHash::EMPTY })],
    };
    driver.sender.handle_fact(driver.now, fact(8, 1), false);
    driver.drain();
    driver.told();
    for m_id in 2..20 {
        driver.sender.handle_fact(driver.now, fact(8, m_id), false);
        driver.sender.handle_fact(driver.now, fact(RECEIVER.get(), m_id), true);
    }
    driver.drain();
    assert_eq!(driver.told(), []);
    driver.sender.handle_fact(driver.now, fact(9, 1), true);
    driver.drain();
    let relayed = |fact| SenderAction::Transmit(SenderFrame::RelayedAck(fact));
    assert_eq!(driver.told(), [relayed(fact(8, 19)), relayed(fact(9, 1))]);
}

#[test]
fn what_cannot_be_read_is_tried_again() {
    let mut driver = Driver::serving([]);
    driver.sender.handle_log_advanced(driver.now, ServedLog::with(log(), 3, 100).offer());
    driver
        .sender
        .handle_frame(driver.now, ReceiverFrame::Want(Want { log: log(), from: number(1) }));
    let mut reads = 0;
    for _ in 0..20 {
        while let Some(action) = driver.sender.poll_action() {
            if let SenderAction::ReadAndSend { .. } = action {
                reads += 1;
                driver.sender.handle_nothing_sent(driver.now, &log());
            }
        }
        driver.now = driver.sender.poll_timeout().expect("a timer runs");
        driver.sender.handle_timeout(driver.now);
        let heartbeat = Heartbeat::at(WallTime::new(0));
        driver.sender.handle_frame(driver.now, ReceiverFrame::Heartbeat(heartbeat));
    }
    assert!((3..10).contains(&reads), "{reads} reads in {:?}", driver.now);
}

/// A read that was under way when the receiver complained is dropped there, and
/// must not count as sent.
#[test]
fn a_read_that_a_complaint_overtook_does_not_count() {
    let mut driver = Driver::serving([ServedLog::with(log(), 4, 100)]);
    driver.acknowledge(log(), 4);
    driver.publish(log(), 2, 100);
    driver.frames();
    let mut served = driver.logs[&log()].clone();
    served.publish(100);
    driver.sender.handle_log_advanced(driver.now, served.offer());
    driver.logs.insert(log(), served.clone());
    let read = driver.sender.poll_action();
    assert!(matches!(read, Some(SenderAction::ReadAndSend { from, .. }) if from == number(7)));
    driver.sender.handle_frame(
        driver.now,
        ReceiverFrame::Nack(Nack {
            log: log(),
            expected: number(5),
            reason: NackReason::OutOfOrder,
            detail: String::new(),
        }),
    );
    driver.sender.handle_frame_sent(driver.now, &log(), number(7), served.tip(), 100);
    driver.drain();
    assert_eq!(driver.frames(), [(5, 7)]);
}

fn any_number() -> impl Strategy<Value = MessageNumber> {
    prop_oneof![
        4 => 0..40_u64,
        1 => Just(MAX_MESSAGE_NUMBER),
        1 => Just(u64::MAX),
        1 => any::<u64>(),
    ]
    .prop_map(MessageNumber::new)
}

fn any_log() -> impl Strategy<Value = LogName> {
    (0..4_u32, 1..3_u64).prop_map(|(origin, opening)| log_of(origin, opening))
}

fn any_frame() -> impl Strategy<Value = ReceiverFrame> {
    let mark = (any_log(), any_number())
        .prop_map(|(log, m_id)| (log, Mark { m_id, hash: ChainHash::EMPTY }));
    let reason = prop_oneof![
        Just(NackReason::OutOfOrder),
        Just(NackReason::ParentMissing),
        Just(NackReason::ContentDiffers),
        Just(NackReason::Invalid),
    ];
    prop_oneof![
        8 => (any_log(), any_number())
            .prop_map(|(log, from)| ReceiverFrame::Want(Want { log, from })),
        2 => any_log().prop_map(|log| ReceiverFrame::Unwant(Unwant { log })),
        8 => proptest::collection::vec(mark, 0..4).prop_map(|marks| {
            ReceiverFrame::Ack(Fact { opening: opening(RECEIVER, 2), marks })
        }),
        8 => (any_log(), any_number(), reason).prop_map(|(log, expected, reason)| {
            ReceiverFrame::Nack(Nack { log, expected, reason, detail: String::new() })
        }),
        1 => (any_log(), any_number(), 0..3_u64).prop_map(|(log, through, number)| {
            let version = TopologyVersion { generation: 0, number };
            ReceiverFrame::Refused(Refused { log, through, version })
        }),
        1 => Just(ReceiverFrame::Heartbeat(Heartbeat::at(WallTime::new(u64::MAX)))),
    ]
}

proptest! {
    /// Whatever a peer says, the sender keeps its books: no panic, no timer that
    /// stands still, no window that leaks, nothing sent beyond what it has.
    #[test]
    fn a_hostile_receiver_breaks_nothing(
        frames in proptest::collection::vec((any_frame(), 0..300_u64, 0..3_usize), 0..80)
    ) {
        let parent = ServedLog::with(log_of(1, 2), 6, 100);
        let mut child = ServedLog::new(log_of(1, 1), vec![parent.parent_point()]);
        child.publish(100);
        let mut driver = Driver::serving([parent, child, ServedLog::with(log_of(2, 1), 20, 100)]);
        for (frame, pause, published) in frames {
            driver.now = driver.now + Duration::from_millis(pause);
            if driver.sender.poll_timeout().is_some_and(|due| due <= driver.now) {
                driver.sender.handle_timeout(driver.now);
                driver.drain();
            }
            driver.hear(frame);
            driver.publish(log_of(2, 1), published, 100);
            match driver.sender.poll_timeout() {
                Some(due) => prop_assert!(due > driver.now),
                None => prop_assert_eq!(driver.sender.phase, Phase::Closed),
            }
            driver.sender.logs.assert_timers_agree();
            let status = driver.sender.status();
            prop_assert!(status.in_flight_bytes <= status.window_bytes);
            let in_flight: u64 = status.logs.iter().map(|log| log.in_flight).sum();
            prop_assert_eq!(in_flight == 0, status.in_flight_bytes == 0);
        }
    }

    /// The same, for incarnations: only the one that welcomed us is believed.
    #[test]
    fn only_the_opening_that_welcomed_us_is_believed(bits in 1..5_u64) {
        let mut driver = Driver::serving([]);
        let other = MemberOpening { incarnation: incarnation(bits), ..driver.peer };
        driver.hear(ReceiverFrame::Ack(Fact { opening: other, marks: Vec::new() }));
        prop_assert_eq!(driver.disconnect().is_none(), bits == 2);
    }
}
