//! The stream itself: the greeting, what is announced, and whether the peer lives.

use super::driver::{Driver, log, offered};
use crate::clock::Moment;
use crate::identity::{ChainHash, Mark, NodeNumber};
use crate::replication::frames::{Fact, ReceiverFrame, SenderFrame};
use crate::replication::peer_sender::{SenderAction, SenderDisconnect};
use crate::replication::specimens::{
    RECEIVER, SENDER, ServedLog, at, log_of, number, opening, welcome,
};
use crate::replication::timing::{GREETING_LIMIT, SILENCE_LIMIT};

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
