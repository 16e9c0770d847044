//! What two push-nodes say to each other on one replication stream. The caller
//! of the stream serves logs and speaks [`SenderFrame`]s, the callee chooses
//! what it wants and acknowledges with [`ReceiverFrame`]s. These are the core's
//! own types: the edge turns them into protobuf and back.

use std::sync::Arc;

use bytes::Bytes;

use crate::clock::{HybridTime, WallTime};
use crate::identity::{
    ChainHash, FeatureLevel, FencingToken, LogName, Mark, MemberOpening, MessageNumber,
    NamespaceNumber, ParentPoint, TopologyVersion,
};
use crate::limits::WINDOW_BYTES_PER_MESSAGE;
use crate::names::{NodeName, RegionName};
use crate::projection::channel_index::ChannelHash;
use crate::topology::Topology;

/// The version of the stream's rules that this build speaks. Builds of another
/// one do not talk; what can be added without harm goes by feature level.
pub const PROTOCOL_VERSION: u32 = 1;

/// Who speaks: a member with its name, place and opening.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Member {
    /// The node number and the opening of its database.
    pub opening: MemberOpening,
    /// The node's name.
    pub name: NodeName,
    /// The region it stands in.
    pub region: RegionName,
    /// The token of its last registration; 0 without a control-plane.
    pub fencing_token: FencingToken,
}

/// Digests of one namespace, compared at the start of a stream.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NamespaceDigest {
    /// The namespace.
    pub namespace: NamespaceNumber,
    /// Of all tips held durably.
    pub tips: [u8; 16],
    /// Of the state: the directory, later also keyed values.
    pub state: [u8; 16],
}

/// The caller's first frame.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Hello {
    /// See [`PROTOCOL_VERSION`].
    pub protocol_version: u32,
    /// Who calls.
    pub member: Member,
    /// The newest topology it has.
    pub topology_version: TopologyVersion,
    /// Of each namespace that both are members of.
    pub namespaces: Vec<NamespaceDigest>,
    /// What its build understands.
    pub feature_level: FeatureLevel,
    /// Its wall clock, to notice clocks that are far off.
    pub wall_clock: WallTime,
}

/// The callee's answer to [`Hello`]: what it holds, first-hand.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Welcome {
    /// See [`PROTOCOL_VERSION`].
    pub protocol_version: u32,
    /// Who answers.
    pub member: Member,
    /// The newest topology it has.
    pub topology_version: TopologyVersion,
    /// Its durable marks in the namespaces that both are members of.
    pub marks: Vec<(LogName, Mark)>,
    /// What it has of the namespaces that both hold and that it is ready in.
    pub namespaces: Vec<NamespaceDigest>,
    /// How many unacknowledged bytes it takes on this stream.
    pub window_bytes: u64,
    /// What its build understands.
    pub feature_level: FeatureLevel,
    /// Its wall clock, to notice clocks that are far off.
    pub wall_clock: WallTime,
}

impl Welcome {
    /// The fact that a welcome states.
    pub fn fact(&self) -> Fact {
        Fact { opening: self.member.opening, marks: self.marks.clone() }
    }
}

/// A log that the sender can serve: its row, durable tip and floor.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LogOffer {
    /// The log.
    pub log: LogName,
    /// Its row's parents.
    pub parents: Vec<ParentPoint>,
    /// How far the sender holds it durably.
    pub tip: Mark,
    /// The last m_id it has trimmed; 0 when it has all.
    pub floor: MessageNumber,
}

/// Logs that are new or have moved since the last offer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Offer {
    /// The logs.
    pub logs: Vec<LogOffer>,
}

/// The receiver asks this sender for a log, from a number on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Want {
    /// The log.
    pub log: LogName,
    /// The first message it lacks.
    pub from: MessageNumber,
}

/// The receiver no longer takes a log from this sender.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Unwant {
    /// The log.
    pub log: LogName,
}

/// Many messages of one log, strictly in order and without holes (METHOD M7).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Frame {
    /// The log.
    pub log: LogName,
    /// The number of the first message.
    pub first_m_id: MessageNumber,
    /// The chain hash before the first message.
    pub previous_hash: ChainHash,
    /// Milliseconds since the first message was accepted by its origin.
    pub age_milliseconds: u64,
    /// Milliseconds since the last message had surely been accepted by its origin: it
    /// is at least so old. 0 where nobody knows.
    pub last_age_milliseconds: u64,
    /// The encoded messages, unchanged since their origin.
    pub sends: Vec<Bytes>,
}

impl Frame {
    /// The number of the last message; the one before the first for an empty
    /// frame. Saturates on numbers no honest sender uses.
    pub fn last_m_id(&self) -> MessageNumber {
        let count = self.sends.len() as u64;
        MessageNumber::new(self.first_m_id.previous().get().saturating_add(count))
    }

    /// The chain hash after the last message, computed from the first on.
    pub fn last_hash(&self) -> ChainHash {
        self.sends.iter().fold(self.previous_hash, |hash, send| hash.then(send))
    }

    /// What the frame takes of the stream's window: both sides count the same.
    pub fn window_bytes(&self) -> u64 {
        self.sends.iter().fold(2 * WINDOW_BYTES_PER_MESSAGE, |sum, send| {
            sum + send.len() as u64 + WINDOW_BYTES_PER_MESSAGE
        })
    }
}

/// Messages that are no longer anywhere: the mark moves over them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Hole {
    /// The log.
    pub log: LogName,
    /// The first number that is missing.
    pub from: MessageNumber,
    /// The last number that is missing, with the chain hash there.
    pub through: Mark,
    /// The stamp of the last message that is missing.
    pub stamp: HybridTime,
}

/// What is left of trimmed messages: entries that merge into the state.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BaseEntries {
    /// The namespace.
    pub namespace: NamespaceNumber,
    /// Encoded directory entries.
    pub directory: Vec<Bytes>,
    /// Of the logs that were trimmed: what readers of single channels missed.
    pub trim_points: Vec<TrimPoint>,
    /// Whether the base is complete with these.
    pub last: bool,
}

/// The newest message of a channel that a log no longer has, or one that is not
/// older.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct TrimPoint {
    /// The log.
    pub log: LogName,
    /// The channel, short.
    pub channel: ChannelHash,
    /// The message.
    pub m_id: MessageNumber,
}

/// A fact: what one opening of a member holds durably (METHOD M9). Cumulative,
/// and independent of who served the messages. `Ack` carries one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fact {
    /// Whose fact it is.
    pub opening: MemberOpening,
    /// How far it holds the named logs; logs not named are as they were.
    pub marks: Vec<(LogName, Mark)>,
}

/// An acknowledgement is a fact.
pub type Ack = Fact;

/// Why a frame was not appended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum NackReason {
    /// The frame began after the number expected.
    OutOfOrder,
    /// A parent's log is not held up to its point yet.
    ParentMissing,
    /// Other content under a name that is held: the log stands still.
    ContentDiffers,
    /// A message breaks the rules of its encoding.
    Invalid,
}

/// The receiver could not append a frame.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Nack {
    /// The log.
    pub log: LogName,
    /// The number that the receiver would take next.
    pub expected: MessageNumber,
    /// Why.
    pub reason: NackReason,
    /// For people.
    pub detail: String,
}

/// The speaker, or the one spoken to, is no member of the log's namespace by
/// this version: not resent, not counted as held, void with a newer version.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Refused {
    /// The log.
    pub log: LogName,
    /// The last message refused.
    pub through: MessageNumber,
    /// The topology it was refused by.
    pub version: TopologyVersion,
}

/// "Nothing else": all that was announced is all there is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Heartbeat {
    /// The speaker's wall clock.
    pub wall_clock: WallTime,
    /// Now and then: what the speaker's logs and channels come to.
    pub namespaces: Vec<NamespaceDigest>,
}

impl Heartbeat {
    /// One that says nothing of namespaces.
    pub const fn at(wall_clock: WallTime) -> Self {
        Self { wall_clock, namespaces: Vec::new() }
    }
}

/// What the caller of a stream says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum SenderFrame {
    /// First of all.
    Hello(Hello),
    /// Logs that can be had.
    Offer(Offer),
    /// Messages of a wanted log.
    Frame(Frame),
    /// A range of a wanted log that is gone.
    Hole(Hole),
    /// The base of what is gone.
    BaseEntries(BaseEntries),
    /// A newer topology than the receiver has.
    Topology(Arc<Topology>),
    /// Alive, and nothing else.
    Heartbeat(Heartbeat),
    /// The sender's own fact, or another member's passed on.
    RelayedAck(Fact),
    /// The receiver is no member by the sender's topology.
    Refused(Refused),
}

/// What the callee of a stream says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ReceiverFrame {
    /// The answer to `Hello`.
    Welcome(Welcome),
    /// Serve this log.
    Want(Want),
    /// Serve it no longer.
    Unwant(Unwant),
    /// The receiver's own fact.
    Ack(Ack),
    /// A frame could not be appended.
    Nack(Nack),
    /// The receiver is no member.
    Refused(Refused),
    /// Alive, and nothing else.
    Heartbeat(Heartbeat),
    /// A newer topology than the sender has.
    Topology(Arc<Topology>),
}

impl ReceiverFrame {
    /// The log that the receiver takes from now on, or no longer.
    pub const fn takes(&self) -> Option<(LogName, bool)> {
        match self {
            Self::Want(want) => Some((want.log, true)),
            Self::Unwant(unwant) => Some((unwant.log, false)),
            _ => None,
        }
    }
}
