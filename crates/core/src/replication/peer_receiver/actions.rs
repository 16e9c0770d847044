//! What goes between a receiver and its driver.

use std::sync::Arc;

use thiserror::Error;

use crate::clock::WallTime;
use crate::identity::{MessageNumber, NodeNumber, TopologyVersion};
use crate::replication::frames::{
    BaseEntries, Fact, Frame, Hello, Hole, LogOffer, NackReason, NamespaceDigest, PROTOCOL_VERSION,
    ReceiverFrame, Refused,
};
use crate::replication::timing::SILENCE_LIMIT;
use crate::topology::Topology;

/// What a receiver is told at its start.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ReceiverConfig {
    /// Unacknowledged bytes to take on this stream, see
    /// [`WINDOW_BYTES`](crate::limits::WINDOW_BYTES).
    pub window_bytes: u64,
}

/// What the log writer made of a submitted frame or hole.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum SubmissionOutcome {
    /// Appended, a part of it at least; the acknowledgement follows when it is
    /// durable.
    Appended,
    /// All of it was there already (METHOD M10).
    AlreadyHeld,
    /// Not appended.
    Nack {
        /// The number that would be taken next.
        expected: MessageNumber,
        /// Why.
        reason: NackReason,
        /// For people.
        detail: String,
    },
    /// We are no member of its namespace by this version.
    Refused {
        /// Our topology.
        version: TopologyVersion,
    },
    /// Dropped for a reason that is not the sender's: it comes again.
    Dropped,
}

/// What the driver has to do, in this order.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ReceiverAction {
    /// Put a frame on the stream.
    Transmit(ReceiverFrame),
    /// Put a heartbeat with the driver's wall clock on the stream.
    TransmitHeartbeat,
    /// The peer has introduced itself. The driver checks who it is and answers
    /// with [`PeerReceiver::accept`], or closes the stream.
    PeerIntroduced(Hello),
    /// The peer's wall clock, to notice clocks that are far off.
    PeerClock(WallTime),
    /// What the peer's logs and channels come to, of namespaces that are quiet there:
    /// to be compared with what is held here.
    PeerDigests(Vec<NamespaceDigest>),
    /// The peer can serve these logs.
    Offered {
        /// The peer.
        peer: NodeNumber,
        /// The logs.
        offers: Vec<LogOffer>,
    },
    /// To the log writer.
    Submit(Frame),
    /// To the log writer, once nobody connected has what is missing.
    SubmitHole(Hole),
    /// To be merged into the state before the hole that follows.
    BaseReceived(BaseEntries),
    /// A fact the peer tells or passes on.
    RelayedFact(Fact),
    /// The peer does not serve the log: we are no member by its topology.
    Refused(Refused),
    /// The peer has a newer topology than we had.
    TopologyReceived(Arc<Topology>),
    /// Close the stream; nothing follows.
    Disconnect {
        /// Why.
        reason: ReceiverDisconnect,
    },
}

/// Why a receiver gave its stream up.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum ReceiverDisconnect {
    /// The peer's build speaks another protocol.
    #[error("the peer speaks version {theirs} of the replication protocol, not {PROTOCOL_VERSION}")]
    ProtocolVersion {
        /// The peer's version.
        theirs: u32,
    },
    /// The caller is this very node.
    #[error("the caller says to be this node itself")]
    Ourselves,
    /// The stream was opened without a greeting.
    #[error("the peer did not introduce itself")]
    NoHello,
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

/// What happened on the stream, to be shown.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ReceiverStatus {
    /// Frames handed to the log writer.
    pub submitted_frames: u64,
    /// Frames of logs that were not wanted (any more).
    pub unwanted_frames: u64,
    /// Frames beyond the window, or while it was closed.
    pub dropped_frames: u64,
    /// Bytes at the log writer.
    pub outstanding_bytes: u64,
    /// Acknowledgements put on the stream.
    pub acknowledgements: u64,
}
