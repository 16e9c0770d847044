//! A peer that says what no receiver says.

use std::time::Duration;

use proptest::prelude::*;

use super::driver::Driver;
use crate::clock::WallTime;
use crate::identity::{ChainHash, LogName, Mark, MemberOpening, MessageNumber, TopologyVersion};
use crate::limits::MAX_MESSAGE_NUMBER;
use crate::replication::frames::{
    Fact, Heartbeat, Nack, NackReason, ReceiverFrame, Refused, Unwant, Want,
};
use crate::replication::peer_sender::Phase;
use crate::replication::specimens::{RECEIVER, ServedLog, incarnation, log_of, opening};

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
}

/// Also an acknowledgement of nothing: of the opening that welcomed us it is taken, of
/// any other it ends the stream.
#[test]
fn only_the_opening_that_welcomed_us_is_believed() {
    for bits in 1..5 {
        let mut driver = Driver::serving([]);
        let other = MemberOpening { incarnation: incarnation(bits), ..driver.peer };
        driver.hear(ReceiverFrame::Ack(Fact { opening: other, marks: Vec::new() }));
        assert_eq!(driver.disconnect().is_none(), bits == 2, "{bits}");
    }
}
