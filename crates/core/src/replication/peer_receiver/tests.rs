use std::time::Duration;

use bytes::Bytes;
use proptest::prelude::*;

use super::*;
use crate::clock::WallTime;
use crate::identity::ChainHash;
use crate::replication::frames::{BaseEntries, Fact, Heartbeat, NamespaceDigest, Offer};
use crate::replication::specimens::{
    RECEIVER, SENDER, ServedLog, at, hello, log_of, number, opening, welcome,
};

const WINDOW: u64 = 4 * 1024 * 1024;

struct Driver {
    receiver: PeerReceiver,
    now: Moment,
}

impl Driver {
    fn new() -> Self {
        let config = ReceiverConfig { window_bytes: WINDOW };
        Self { receiver: PeerReceiver::new(at(0), config, opening(RECEIVER, 2)), now: at(0) }
    }

    /// Greeted by a peer and holding these marks.
    fn established(marks: Vec<(LogName, Mark)>) -> Self {
        let mut driver = Self::new();
        driver.hear(SenderFrame::Hello(hello(opening(SENDER, 1))));
        assert!(matches!(driver.actions()[..], [ReceiverAction::PeerIntroduced(_)]));
        driver.receiver.accept(driver.now, welcome(opening(RECEIVER, 2), marks));
        assert!(matches!(
            driver.actions()[..],
            [ReceiverAction::Transmit(ReceiverFrame::Welcome(Welcome {
                window_bytes: WINDOW,
                ..
            }))]
        ));
        driver
    }

    fn wanting(log: LogName) -> Self {
        let mut driver = Self::established(Vec::new());
        driver.receiver.handle_want(driver.now, log, number(1));
        let want = ReceiverFrame::Want(Want { log, from: number(1) });
        assert_eq!(driver.actions(), [ReceiverAction::Transmit(want)]);
        driver
    }

    fn hear(&mut self, frame: SenderFrame) {
        self.receiver.handle_frame(self.now, frame);
    }

    fn wait(&mut self, milliseconds: u64) {
        self.now = self.now + Duration::from_millis(milliseconds);
    }

    fn actions(&mut self) -> Vec<ReceiverAction> {
        std::iter::from_fn(|| self.receiver.poll_action()).collect()
    }

    fn outcome(&mut self, outcome: SubmissionOutcome) -> Vec<ReceiverAction> {
        self.receiver.handle_outcome(self.now, &log(), outcome);
        self.actions()
    }

    fn durable(&mut self, mark: Mark) -> Vec<ReceiverAction> {
        self.receiver.handle_durable(self.now, &[(log(), mark)]);
        self.actions()
    }
}

fn log() -> LogName {
    log_of(1, 1)
}

fn frame(served: &ServedLog, from: u64, through: u64) -> Frame {
    served.read(number(from), number(through), u64::MAX, usize::MAX).expect("it is held")
}

fn hole(through: u64) -> Hole {
    let through = Mark { m_id: number(through), hash: ChainHash::EMPTY };
    Hole { log: log(), from: number(1), through, stamp: crate::clock::HybridTime::new(1) }
}

fn base(last: bool) -> BaseEntries {
    let namespace = log().namespace;
    BaseEntries { namespace, directory: Vec::new(), trim_points: Vec::new(), last }
}

/// What trimmed messages did has to be on disk before the mark moves over them: a hole
/// and what comes behind it wait until the whole base is stored.
#[test]
fn a_hole_waits_until_its_base_is_stored() {
    let mut driver = Driver::wanting(log());
    driver.hear(SenderFrame::BaseEntries(base(false)));
    driver.hear(SenderFrame::BaseEntries(base(true)));
    let told = driver.actions();
    assert!(matches!(told[..], [ReceiverAction::BaseReceived(_), ReceiverAction::BaseReceived(_)]));
    driver.hear(SenderFrame::Hole(hole(4)));
    let behind = frame(&ServedLog::with(log(), 6, 10), 5, 6);
    driver.hear(SenderFrame::Frame(behind));
    assert_eq!(driver.actions(), []);
    driver.receiver.handle_base_stored(driver.now, log().namespace);
    let submitted = driver.actions();
    assert!(
        matches!(submitted[..], [ReceiverAction::SubmitHole(_), ReceiverAction::Submit(_)]),
        "{submitted:?}"
    );
}

#[test]
fn a_hole_without_a_base_breaks_the_rules() {
    for part in [None, Some(base(false))] {
        let mut driver = Driver::wanting(log());
        part.into_iter().for_each(|part| driver.hear(SenderFrame::BaseEntries(part)));
        driver.hear(SenderFrame::Hole(hole(4)));
        let last = driver.actions().pop();
        assert!(matches!(last, Some(ReceiverAction::Disconnect { .. })), "{last:?}");
    }
}

fn ack(marks: Vec<(LogName, Mark)>) -> ReceiverAction {
    let opening = opening(RECEIVER, 2);
    ReceiverAction::Transmit(ReceiverFrame::Ack(Ack { opening, marks }))
}

fn disconnect(actions: &[ReceiverAction]) -> Option<ReceiverDisconnect> {
    actions.iter().find_map(|action| match action {
        ReceiverAction::Disconnect { reason } => Some(*reason),
        _ => None,
    })
}

/// A peer refuses more marks than a frame may have: the rest is acknowledged.
#[test]
fn marks_beyond_a_frame_follow_the_welcome() {
    let marks: Vec<(LogName, Mark)> = (1..=MAX_MARKS_PER_FRAME as u64 + 2)
        .map(|opening| (log_of(1, opening), Mark { m_id: number(3), hash: ChainHash::EMPTY }))
        .collect();
    let mut driver = Driver::new();
    driver.hear(SenderFrame::Hello(hello(opening(SENDER, 1))));
    driver.actions();
    driver.receiver.accept(driver.now, welcome(opening(RECEIVER, 2), marks.clone()));
    let actions = driver.actions();
    let [ReceiverAction::Transmit(ReceiverFrame::Welcome(first)), rest] = &actions[..] else {
        panic!("a welcome and one acknowledgement");
    };
    assert!(first.marks == marks[..MAX_MARKS_PER_FRAME]);
    assert_eq!(*rest, ack(marks[MAX_MARKS_PER_FRAME..].to_vec()));
}

#[test]
fn only_peers_of_this_protocol_are_introduced() {
    let mut driver = Driver::new();
    let mut greeting = hello(opening(SENDER, 1));
    greeting.protocol_version = 9;
    driver.hear(SenderFrame::Hello(greeting));
    let reason = ReceiverDisconnect::ProtocolVersion { theirs: 9 };
    assert_eq!(disconnect(&driver.actions()), Some(reason));
    assert_eq!(driver.receiver.poll_timeout(), None);

    let mut driver = Driver::new();
    driver.hear(SenderFrame::Hello(hello(opening(RECEIVER, 1))));
    assert_eq!(disconnect(&driver.actions()), Some(ReceiverDisconnect::Ourselves));

    let mut driver = Driver::new();
    driver.hear(SenderFrame::Offer(Offer { logs: Vec::new() }));
    assert!(matches!(disconnect(&driver.actions()), Some(ReceiverDisconnect::RuleBroken { .. })));
}

#[test]
fn a_peer_that_does_not_greet_or_falls_silent_is_given_up() {
    let mut driver = Driver::new();
    driver.receiver.handle_timeout(at(0) + GREETING_LIMIT);
    assert_eq!(disconnect(&driver.actions()), Some(ReceiverDisconnect::NoHello));

    let mut driver = Driver::established(Vec::new());
    let mut beats = 0;
    let reason = loop {
        driver.now = driver.receiver.poll_timeout().expect("a timer runs");
        driver.receiver.handle_timeout(driver.now);
        let actions = driver.actions();
        beats += actions
            .iter()
            .filter(|action| matches!(action, ReceiverAction::TransmitHeartbeat))
            .count();
        if let Some(reason) = disconnect(&actions) {
            break reason;
        }
    };
    assert_eq!((reason, driver.now), (ReceiverDisconnect::Silent, at(0) + SILENCE_LIMIT));
    assert_eq!(beats, 4);
}

/// After a pause of our own the peer gets the time to be heard.
#[test]
fn a_pause_of_our_own_is_not_the_peers_silence() {
    let mut driver = Driver::established(Vec::new());
    driver.wait(60_000);
    driver.receiver.handle_timeout(driver.now);
    assert_eq!(driver.actions(), [ReceiverAction::TransmitHeartbeat]);
}

/// What a heartbeat says of namespaces is compared once the peer is accepted.
#[test]
fn digests_of_an_accepted_peer_are_compared() {
    let digest = NamespaceDigest { namespace: log().namespace, tips: [1; 16], state: [2; 16] };
    let wall_clock = WallTime::new(5);
    let beat = SenderFrame::Heartbeat(Heartbeat { wall_clock, namespaces: vec![digest] });
    let clock = ReceiverAction::PeerClock(wall_clock);
    let mut driver = Driver::established(Vec::new());
    driver.hear(SenderFrame::Heartbeat(Heartbeat::at(wall_clock)));
    assert_eq!(driver.actions(), std::slice::from_ref(&clock), "one that says nothing of them");
    driver.hear(beat.clone());
    assert_eq!(driver.actions(), [clock.clone(), ReceiverAction::PeerDigests(vec![digest])]);

    let mut driver = Driver::new();
    driver.hear(SenderFrame::Hello(hello(opening(SENDER, 1))));
    driver.actions();
    driver.hear(beat);
    assert_eq!(driver.actions(), [clock], "nobody knows yet whether it may speak");
}

/// METHOD M10: new messages go to the writer; durable, they are acknowledged.
#[test]
fn wanted_frames_are_submitted_and_acknowledged_when_durable() {
    let served = ServedLog::with(log(), 5, 100);
    let mut driver = Driver::wanting(log());
    driver.hear(SenderFrame::Frame(frame(&served, 1, 5)));
    assert_eq!(driver.actions(), [ReceiverAction::Submit(frame(&served, 1, 5))]);
    assert_eq!(driver.outcome(SubmissionOutcome::Appended), []);
    assert_eq!(driver.durable(served.tip()), [ack(vec![(log(), served.tip())])]);
    assert_eq!(driver.durable(served.tip()), [], "no news");
    assert_eq!(driver.receiver.status().outstanding_bytes, 0);
}

#[test]
fn what_becomes_durable_before_the_welcome_is_told_after_it() {
    let served = ServedLog::with(log(), 5, 100);
    let mut driver = Driver::new();
    driver.hear(SenderFrame::Hello(hello(opening(SENDER, 1))));
    driver.actions();
    assert_eq!(driver.durable(served.tip()), []);
    assert!(driver.receiver.poll_timeout() > Some(driver.now));
    driver.receiver.accept(driver.now, welcome(opening(RECEIVER, 2), Vec::new()));
    assert_eq!(driver.actions()[1..], [ack(vec![(log(), served.tip())])]);
}

#[test]
fn acknowledgements_are_at_once_after_a_pause_and_bundled_else() {
    let served = ServedLog::with(log(), 50, 100);
    let mut driver = Driver::wanting(log());
    let mark = |m_id| served.mark_at(number(m_id)).expect("it is held");
    assert_eq!(driver.durable(mark(1)), [ack(vec![(log(), mark(1))])]);
    for m_id in 2..5 {
        driver.wait(1);
        assert_eq!(driver.durable(mark(m_id)), []);
    }
    let due = driver.receiver.poll_timeout().expect("a timer runs");
    assert_eq!(due, at(0) + ACKNOWLEDGEMENT_INTERVAL);
    driver.receiver.handle_timeout(due);
    assert_eq!(driver.actions(), [ack(vec![(log(), mark(4))])]);
}

/// METHOD M10: a repeat is acknowledged again, as far as it is durable.
#[test]
fn a_repeat_is_acknowledged_again() {
    let served = ServedLog::with(log(), 5, 100);
    let mark = served.mark_at(number(3)).expect("it is held");
    let mut driver = Driver::established(vec![(log(), mark)]);
    driver.receiver.handle_want(driver.now, log(), number(4));
    driver.hear(SenderFrame::Frame(frame(&served, 1, 3)));
    driver.actions();
    assert_eq!(driver.outcome(SubmissionOutcome::AlreadyHeld), [ack(vec![(log(), mark)])]);
}

#[test]
fn unwanted_frames_are_dropped() {
    let served = ServedLog::with(log(), 5, 100);
    let mut driver = Driver::established(Vec::new());
    driver.hear(SenderFrame::Frame(frame(&served, 1, 5)));
    driver.receiver.handle_want(driver.now, log(), number(1));
    driver.receiver.handle_unwant(driver.now, &log());
    driver.actions();
    driver.hear(SenderFrame::Frame(frame(&served, 1, 5)));
    assert_eq!(driver.actions(), []);
    assert_eq!(driver.receiver.status().unwanted_frames, 2);
}

#[test]
fn a_complaint_is_not_repeated_for_each_frame() {
    let served = ServedLog::with(log(), 50, 100);
    let mut driver = Driver::wanting(log());
    let mut complaints = 0;
    for first in 2..12 {
        driver.hear(SenderFrame::Frame(frame(&served, first, first)));
        driver.actions();
        let outcome = SubmissionOutcome::Nack {
            expected: number(1),
            reason: NackReason::OutOfOrder,
            detail: String::new(),
        };
        complaints += driver.outcome(outcome).len();
        driver.wait(30);
    }
    assert_eq!(complaints, 3, "in 300 ms");
}

#[test]
fn a_refusal_names_the_version() {
    let served = ServedLog::with(log(), 5, 100);
    let mut driver = Driver::wanting(log());
    driver.hear(SenderFrame::Frame(frame(&served, 1, 5)));
    driver.actions();
    let version = TopologyVersion { generation: 1, number: 7 };
    let refused = Refused { log: log(), through: number(5), version };
    assert_eq!(
        driver.outcome(SubmissionOutcome::Refused { version }),
        [ReceiverAction::Transmit(ReceiverFrame::Refused(refused))]
    );
}

/// The window bounds what a sender can make us hold, whatever it sends.
#[test]
fn a_flood_is_dropped_beyond_the_window() {
    let served = ServedLog::with(log(), 40, 900_000);
    let mut driver = Driver::wanting(log());
    for first in 1..=40 {
        driver.hear(SenderFrame::Frame(frame(&served, first, first)));
    }
    let status = driver.receiver.status();
    assert!(status.dropped_frames > 30);
    assert!(status.outstanding_bytes <= WINDOW + MAX_WINDOW_BYTES_OF_A_FRAME);
    assert_eq!(status.submitted_frames + status.dropped_frames, 40);
}

#[test]
fn a_closed_window_asks_again_when_it_opens() {
    let served = ServedLog::with(log(), 9, 100);
    let mut driver = Driver::wanting(log());
    driver.receiver.set_window_closed(driver.now, true);
    for first in [4, 7] {
        driver.hear(SenderFrame::Frame(frame(&served, first, first + 2)));
    }
    assert_eq!(driver.actions(), []);
    driver.receiver.set_window_closed(driver.now, false);
    let actions = driver.actions();
    assert!(matches!(
        &actions[..],
        [ReceiverAction::Transmit(ReceiverFrame::Nack(Nack {
            expected, reason: NackReason::OutOfOrder, ..
        }))] if *expected == number(4)
    ));
}

#[test]
fn a_frame_that_breaks_the_limits_is_refused_for_its_log() {
    let served = ServedLog::with(log(), 5, 100);
    let good = frame(&served, 1, 5);
    let bad = [
        Frame { sends: Vec::new(), ..good.clone() },
        Frame { sends: vec![Bytes::new()], ..good.clone() },
        Frame { first_m_id: number(0), ..good.clone() },
        Frame { first_m_id: number(u64::MAX), ..good.clone() },
        Frame { sends: vec![Bytes::from(vec![0; MAX_SEND_BYTES + 1])], ..good.clone() },
        Frame { sends: vec![Bytes::from_static(b"x"); MAX_FRAME_MESSAGES + 1], ..good.clone() },
        Frame { sends: vec![Bytes::from(vec![0; 600_000]); 4], ..good },
    ];
    for frame in bad {
        let mut driver = Driver::wanting(log());
        driver.hear(SenderFrame::Frame(frame));
        assert!(matches!(
            driver.actions()[..],
            [ReceiverAction::Transmit(ReceiverFrame::Nack(Nack {
                reason: NackReason::Invalid,
                ..
            }))]
        ));
    }
}

#[test]
fn facts_about_ourselves_are_not_taken_from_others() {
    let mut driver = Driver::established(Vec::new());
    let fact = |node| Fact { opening: opening(node, 9), marks: Vec::new() };
    driver.hear(SenderFrame::RelayedAck(fact(RECEIVER)));
    driver.hear(SenderFrame::RelayedAck(fact(NodeNumber::new(7))));
    assert_eq!(driver.actions(), [ReceiverAction::RelayedFact(fact(NodeNumber::new(7)))]);
}

#[test]
fn an_older_peer_gets_the_topology_once() {
    let mut driver = Driver::established(Vec::new());
    let version = TopologyVersion { generation: 0, number: 3 };
    let topology = Arc::new(Topology { version, ..Topology::default() });
    driver.receiver.handle_topology(driver.now, Arc::clone(&topology));
    driver.receiver.handle_topology(driver.now, Arc::clone(&topology));
    let told = ReceiverAction::Transmit(ReceiverFrame::Topology(topology));
    assert_eq!(driver.actions(), [told]);
}

fn any_number() -> impl Strategy<Value = MessageNumber> {
    prop_oneof![0..10_u64, Just(MAX_MESSAGE_NUMBER), Just(u64::MAX), any::<u64>()]
        .prop_map(MessageNumber::new)
}

fn any_frame() -> impl Strategy<Value = SenderFrame> {
    let mark = || any_number().prop_map(|m_id| Mark { m_id, hash: ChainHash::EMPTY });
    prop_oneof![
        (any_number(), proptest::collection::vec(0..3_usize, 0..5)).prop_map(|(first, sizes)| {
            SenderFrame::Frame(Frame {
                log: log(),
                first_m_id: first,
                previous_hash: ChainHash::EMPTY,
                age_milliseconds: u64::MAX,
                last_age_milliseconds: 0,
                sends: sizes.into_iter().map(|size| Bytes::from(vec![1; size])).collect(),
            })
        }),
        (any_number(), mark()).prop_map(|(floor, tip)| {
            let offer = LogOffer { log: log(), parents: Vec::new(), tip, floor };
            SenderFrame::Offer(Offer { logs: vec![offer] })
        }),
        (any_number(), mark()).prop_map(|(from, through)| {
            let stamp = crate::clock::HybridTime::new(u64::MAX);
            SenderFrame::Hole(Hole { log: log(), from, through, stamp })
        }),
        mark().prop_map(|mark| {
            SenderFrame::RelayedAck(Fact {
                opening: opening(SENDER, 4),
                marks: vec![(log(), mark)],
            })
        }),
        Just(SenderFrame::Heartbeat(Heartbeat::at(WallTime::new(u64::MAX)))),
    ]
}

proptest! {
    /// Whatever a peer says, there is no panic, what is passed on is within the
    /// limits, and no timer stands still.
    #[test]
    fn a_hostile_sender_breaks_nothing(
        frames in proptest::collection::vec((any_frame(), 0..200_u64, any::<bool>()), 0..60)
    ) {
        let mut driver = Driver::wanting(log());
        for (frame, pause, answer) in frames {
            driver.wait(pause);
            if driver.receiver.poll_timeout().is_some_and(|due| due <= driver.now) {
                driver.receiver.handle_timeout(driver.now);
            }
            driver.hear(frame);
            for action in driver.actions() {
                if let ReceiverAction::Submit(frame) = action {
                    prop_assert!(!frame.sends.is_empty());
                    prop_assert!(frame.last_m_id().get() <= MAX_MESSAGE_NUMBER);
                }
                if answer {
                    driver.outcome(SubmissionOutcome::AlreadyHeld);
                }
            }
            match driver.receiver.poll_timeout() {
                Some(due) => prop_assert!(due > driver.now),
                None => prop_assert_eq!(driver.receiver.phase, Phase::Closed),
            }
        }
    }
}
