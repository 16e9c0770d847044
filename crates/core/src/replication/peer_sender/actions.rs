//! What goes between a sender and its driver.

use std::sync::Arc;
use std::time::Duration;

use thiserror::Error;

use super::progress::ProgressState;
use crate::clock::WallTime;
use crate::identity::{ChainHash, Incarnation, LogName, Mark, MessageNumber, NodeNumber};
use crate::replication::frames::{
    Fact, NackReason, PROTOCOL_VERSION, Refused, SenderFrame, Welcome,
};
use crate::replication::timing::SILENCE_LIMIT;
use crate::topology::Topology;

/// What a sender is told at its start.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SenderConfig {
    /// The node that was called.
    pub peer: NodeNumber,
    /// Random bits that scatter the retransmissions.
    pub jitter_seed: u64,
}

/// What the driver has to do, in this order.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum SenderAction {
    /// Put a frame on the stream.
    Transmit(SenderFrame),
    /// Put a heartbeat with the driver's wall clock on the stream.
    TransmitHeartbeat,
    /// Read a frame of a log and put it on the stream: at least one message,
    /// however large, then as many as fit. Where `from` has been trimmed, send
    /// the base and the hole instead.
    ReadAndSend {
        /// The log.
        log: LogName,
        /// The first message.
        from: MessageNumber,
        /// The chain hash before it, where it is known here.
        previous_hash: Option<ChainHash>,
        /// The last message that was offered; nothing beyond it is known durable.
        through: MessageNumber,
        /// What the frame may take of the window, see
        /// [`Frame::window_bytes`](crate::replication::frames::Frame::window_bytes).
        max_bytes: u64,
        /// Messages in the frame.
        max_messages: usize,
        /// Whether it was sent before.
        retransmission: bool,
    },
    /// The peer has introduced itself: a first-hand fact.
    PeerWelcomed(Welcome),
    /// The peer's wall clock, to notice clocks that are far off.
    PeerClock(WallTime),
    /// The peer holds this durably.
    Acknowledged(Fact),
    /// The peer is no member; the log waits for another topology.
    Refused(Refused),
    /// The peer has a newer topology than we had.
    TopologyReceived(Arc<Topology>),
    /// The peer cannot take this log: an alarm.
    LogStopped {
        /// The log.
        log: LogName,
        /// The number that the peer would take next.
        expected: MessageNumber,
        /// Why.
        reason: NackReason,
        /// For people.
        detail: String,
    },
    /// Close the stream; nothing follows. The driver calls again after a while.
    Disconnect {
        /// Why.
        reason: SenderDisconnect,
    },
}

/// Why a sender gave its stream up. Calling again may help with all of them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum SenderDisconnect {
    /// The peer's build speaks another protocol.
    #[error("the peer speaks version {theirs} of the replication protocol, not {PROTOCOL_VERSION}")]
    ProtocolVersion {
        /// The peer's version.
        theirs: u32,
    },
    /// Somebody else answers at the peer's address.
    #[error("node {answered} answered where node {expected} was called")]
    OtherNode {
        /// Who was called.
        expected: NodeNumber,
        /// Who answered.
        answered: NodeNumber,
    },
    /// An acknowledgement of another opening than the one that welcomed us.
    #[error("an acknowledgement of incarnation {theirs} came on a stream of {welcomed}")]
    OtherIncarnation {
        /// Who welcomed us.
        welcomed: Incarnation,
        /// Who acknowledges.
        theirs: Incarnation,
    },
    /// No answer to the greeting.
    #[error("the peer did not answer the greeting")]
    NoWelcome,
    /// Nothing was heard for several heartbeats.
    #[error("the peer has been silent for {} s", SILENCE_LIMIT.as_secs())]
    Silent,
    /// A frame that breaks the stream's rules.
    #[error("the peer broke the rules of the stream: {rule}")]
    RuleBroken {
        /// Which rule.
        rule: &'static str,
    },
}

/// How one log stands at the peer, to be shown.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LogStatus {
    /// The log.
    pub log: LogName,
    /// What is done with it.
    pub state: ProgressState,
    /// What the peer holds durably.
    pub acknowledged: Mark,
    /// The number that is sent next.
    pub next: MessageNumber,
    /// The last message that can be sent.
    pub tip: MessageNumber,
    /// Messages under way.
    pub in_flight: u64,
}

/// How the stream stands, to be shown.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SenderStatus {
    /// Each log that can be served.
    pub logs: Vec<LogStatus>,
    /// The smoothed time from sending to acknowledgement.
    pub round_trip: Option<Duration>,
    /// Unacknowledged bytes.
    pub in_flight_bytes: u64,
    /// How many there may be.
    pub window_bytes: u64,
    /// Frames that were sent again since the stream began.
    pub retransmissions: u64,
}
