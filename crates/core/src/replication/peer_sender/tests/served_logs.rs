//! The logs that are served: what is sent of them, when, and when again.

use std::sync::Arc;

use super::driver::{Driver, log};
use crate::clock::WallTime;
use crate::identity::{ChainHash, Mark, TopologyVersion};
use crate::limits::WINDOW_BYTES;
use crate::replication::frames::{
    Fact, Heartbeat, LogOffer, Nack, NackReason, ReceiverFrame, Refused, SenderFrame, Unwant, Want,
};
use crate::replication::peer_sender::{ProgressState, SenderAction};
use crate::replication::specimens::{ServedLog, at, log_of, number, welcome};
use crate::topology::Topology;

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

/// A trim that meets a hole goes on to its end, also where that is not durable yet: what
/// is offered stays possible.
#[test]
fn no_log_is_offered_as_trimmed_beyond_its_tip() {
    let mut driver = Driver::new();
    driver.hear(ReceiverFrame::Welcome(welcome(driver.peer, Vec::new())));
    driver.told();
    let log = ServedLog::with(log(), 4, 10);
    let offer = LogOffer { floor: number(11), ..log.offer() };
    driver.sender.handle_log_advanced(driver.now, offer);
    driver.drain();
    let told = driver.told();
    let mut offers = told.iter().filter_map(|action| match action {
        SenderAction::Transmit(SenderFrame::Offer(offer)) => Some(&offer.logs),
        _ => None,
    });
    let offered = offers.next().expect("it is offered");
    assert_eq!((offered[0].tip.m_id, offered[0].floor), (number(4), number(4)));
}
