//! A message, and the bytes of a `Send` that it is stored and sent as.
//!
//! The bytes are made once, at the message's origin, and carried unchanged
//! through every log, frame and gateway (METHOD M7); the chain hash is over
//! them. Reading copies neither payload nor key.

use bytes::Bytes;
use thiserror::Error;

use crate::clock::HybridTime;
use crate::identity::{
    ChainHash, Epoch, GroupNumber, Incarnation, MessageNumber, ParentPoint, PublisherSequence,
    RegisterVersion, SessionId, TopologyVersion,
};
use crate::limits::{
    MAX_GROUPS_PER_MESSAGE, MAX_KEY_BYTES, MAX_MESSAGE_NUMBER, MAX_OPERATION_BYTES, MAX_PARENTS,
    MAX_PAYLOAD_BYTES, MAX_SEND_BYTES,
};
use crate::names::{ChannelName, NameError};
use crate::wire_format::{Field, Reader, WireError, Writer};

mod channel_operation;
mod encoding_buffer;
mod head;
#[cfg(test)]
mod tests;

pub use channel_operation::{
    ChannelAction, ChannelLimits, ChannelOperation, OperationError, Presentation, Source,
};
pub use encoding_buffer::EncodingBuffer;
pub use head::MessageHead;

/// What a message is. Kinds that this build does not know are stored and
/// forwarded like any other.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum MessageKind {
    /// Something said on a channel.
    Publication,
    /// A change of a channel's definition; the payload is a [`ChannelOperation`].
    ChannelOperation,
    /// A kind of a later build.
    Unknown(u32),
}

impl MessageKind {
    /// The kind's number on the wire.
    pub const fn number(self) -> u32 {
        match self {
            Self::Publication => 1,
            Self::ChannelOperation => 2,
            Self::Unknown(number) => number,
        }
    }

    /// The kind of a number; `None` for 0, which names no kind, and for what is
    /// above the wire's enums.
    pub const fn from_number(number: u32) -> Option<Self> {
        match number {
            0 => None,
            1 => Some(Self::Publication),
            2 => Some(Self::ChannelOperation),
            number if number <= i32::MAX as u32 => Some(Self::Unknown(number)),
            _ => None,
        }
    }
}

/// A publication's place in its publisher's session.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PublisherPosition {
    /// The session.
    pub session: SessionId,
    /// Its number there, from 1 on without gaps.
    pub sequence: PublisherSequence,
}

/// W3C trace context of the publish call.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct TraceContext {
    /// The trace.
    pub trace_id: [u8; 16],
    /// The span that the message comes from.
    pub span_id: [u8; 8],
    /// The trace flags.
    pub flags: u8,
}

/// The channel that a message names.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum MessageChannel {
    /// By its name, as every message of a known kind.
    Named(ChannelName),
    /// What a message of a later kind has in its place; often nothing.
    Text(String),
}

impl MessageChannel {
    /// What is stored.
    pub fn as_str(&self) -> &str {
        match self {
            Self::Named(name) => name.as_str(),
            Self::Text(text) => text,
        }
    }

    /// The name, if it is one.
    pub const fn name(&self) -> Option<&ChannelName> {
        match self {
            Self::Named(name) => Some(name),
            Self::Text(_) => None,
        }
    }

    /// What a message of a kind says, if it may.
    fn of(kind: MessageKind, text: &str) -> Result<Self, NameError> {
        match (ChannelName::parse(text), kind) {
            (Ok(name), _) => Ok(Self::Named(name)),
            (Err(_), MessageKind::Unknown(_)) => Ok(Self::Text(text.to_owned())),
            (Err(error), _) => Err(error),
        }
    }
}

impl From<ChannelName> for MessageChannel {
    fn from(name: ChannelName) -> Self {
        Self::Named(name)
    }
}

impl PartialEq<ChannelName> for MessageChannel {
    fn eq(&self, name: &ChannelName) -> bool {
        matches!(self, Self::Named(named) if named == name)
    }
}

/// What a `Send` carries: a channel operation or a publication.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Message {
    /// Its number along its origin's path.
    pub m_id: MessageNumber,
    /// The groups its namespace was placed on at its origin (METHOD M15).
    pub groups: Vec<GroupNumber>,
    /// What it is.
    pub kind: MessageKind,
    /// When its origin accepted it.
    pub stamp: HybridTime,
    /// The tips its log goes on from; only in the first message of a log.
    pub parents: Vec<ParentPoint>,
    /// The topology its origin had.
    pub topology_version: TopologyVersion,
    /// The channel it is about.
    pub channel: MessageChannel,
    /// The channel's epoch that it means.
    pub epoch: Epoch,
    /// Publications: the highest register version of the channel known at
    /// admission. Operations: the version that they write.
    pub version: RegisterVersion,
    /// The key, in namespaces that keep the newest value per key; else empty.
    pub key: Bytes,
    /// Its place in its publisher's session, if it was published in one.
    pub publisher: Option<PublisherPosition>,
    /// Its publisher could not know whether it had been accepted before.
    pub possibly_repeated: bool,
    /// The trace it belongs to, if that was sampled.
    pub trace: Option<TraceContext>,
    /// The content.
    pub payload: Bytes,
}

/// Why bytes are not a message. The same bytes will always fail.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum DecodeError {
    /// They are not protobuf.
    #[error(transparent)]
    Wire(#[from] WireError),
    /// A field that every message has is absent, or has the value that means so.
    #[error("{field} is missing")]
    Missing {
        /// The field.
        field: &'static str,
    },
    /// A field of fixed length has another one.
    #[error("{field} has {actual} bytes instead of {expected}")]
    Length {
        /// The field.
        field: &'static str,
        /// What it must have.
        expected: usize,
        /// What it has.
        actual: usize,
    },
    /// A field is beyond its limit.
    #[error("{field} is beyond its limit of {limit}")]
    OverLimit {
        /// The field.
        field: &'static str,
        /// The limit, in bytes or elements.
        limit: u64,
    },
    /// The channel's name is none.
    #[error("channel: {0}")]
    Channel(#[from] NameError),
}

impl Message {
    /// Whether a message of this content can be stored: whether `decode` takes
    /// what `encode` writes.
    pub fn check(&self) -> Result<(), DecodeError> {
        check_number(self.m_id)?;
        if MessageKind::from_number(self.kind.number()) != Some(self.kind) {
            return Err(DecodeError::Missing { field: "kind" });
        }
        MessageChannel::of(self.kind, self.channel.as_str())?;
        check_epoch(self.kind, self.epoch)?;
        check_count("groups", self.groups.len(), MAX_GROUPS_PER_MESSAGE)?;
        check_count("parents", self.parents.len(), MAX_PARENTS)?;
        self.parents.iter().try_for_each(|parent| check_number(parent.m_id))?;
        if self.publisher.is_some_and(|publisher| publisher.sequence.get() == 0) {
            return Err(DecodeError::Missing { field: "publisher_sequence" });
        }
        check_key(self.kind, self.key.len())?;
        check_payload(self.kind, self.payload.len())
    }

    /// The bytes of the `Send`: ascending fields, as prost would write them.
    pub fn encode(&self) -> Bytes {
        let mut writer = Writer::with_capacity(self.encoded_length_estimate());
        self.write(&mut writer);
        writer.into_bytes()
    }

    /// The same, at the end of a buffer that many messages share.
    pub fn encode_into(&self, buffer: &mut EncodingBuffer) -> Bytes {
        buffer.encode(|writer| self.write(writer))
    }

    fn write(&self, writer: &mut Writer) {
        if cfg!(test) {
            assert_eq!(self.check(), Ok(()), "only what can be read again is written");
        }
        writer.number(1, self.m_id.get());
        writer.packed(2, self.groups.iter().map(|group| u64::from(group.get())));
        writer.number(3, u64::from(self.kind.number()));
        writer.fixed64(4, self.stamp.get());
        for parent in &self.parents {
            writer.message(5, |writer| write_parent(writer, parent));
        }
        if self.topology_version != TopologyVersion::default() {
            writer.message(6, |writer| {
                writer.number(1, self.topology_version.generation);
                writer.number(2, self.topology_version.number);
            });
        }
        writer.text(7, self.channel.as_str());
        writer.number(8, self.epoch.get());
        writer.number(9, self.version.get());
        writer.bytes(10, &self.key);
        if let Some(publisher) = &self.publisher {
            writer.bytes(11, publisher.session.as_bytes());
            writer.number(12, publisher.sequence.get());
        }
        writer.boolean(13, self.possibly_repeated);
        if let Some(trace) = &self.trace {
            writer.message(14, |writer| {
                writer.bytes(1, &trace.trace_id);
                writer.bytes(2, &trace.span_id);
                writer.number(3, u64::from(trace.flags));
            });
        }
        writer.bytes(15, &self.payload);
    }

    /// Reads a `Send`. Payload and key are parts of `bytes`, not copies; unknown
    /// fields are passed over; what breaks a rule is refused.
    pub fn decode(bytes: &Bytes) -> Result<Self, DecodeError> {
        check_count("the message", bytes.len(), MAX_SEND_BYTES)?;
        let mut head = MessageHead::unread();
        let mut groups = Vec::new();
        let mut parents = Vec::new();
        let mut trace: Option<TraceFields> = None;
        let mut reader = Reader::new(bytes);
        while let Some(field) = reader.next_field()? {
            if head.take(&field)? {
                continue;
            }
            match field.number {
                2 => {
                    field.numbers32(&mut groups)?;
                    check_count("groups", groups.len(), MAX_GROUPS_PER_MESSAGE)?;
                }
                5 => {
                    check_count("parents", parents.len() + 1, MAX_PARENTS)?;
                    parents.push(read_parent(field.message()?)?);
                }
                14 => trace.get_or_insert_default().merge(field.message()?)?,
                _ => {}
            }
        }
        head.check()?;
        Ok(Self {
            m_id: head.m_id,
            groups: groups.into_iter().map(GroupNumber::new).collect(),
            kind: head.kind,
            stamp: head.stamp,
            parents,
            topology_version: head.topology_version,
            channel: MessageChannel::of(head.kind, head.channel)?,
            epoch: head.epoch,
            version: head.version,
            key: bytes.slice_ref(head.key),
            publisher: match (head.publisher(), head.kind) {
                (Err(_), MessageKind::Unknown(_)) => None,
                (publisher, _) => publisher?,
            },
            possibly_repeated: head.possibly_repeated,
            trace: match (trace.map(TraceFields::finish).transpose(), head.kind) {
                (Err(_), MessageKind::Unknown(_)) => None,
                (trace, _) => trace?,
            },
            payload: bytes.slice_ref(head.payload),
        })
    }

    fn encoded_length_estimate(&self) -> usize {
        // All fields of bounded length together are below 160 bytes.
        const FIXED: usize = 160;
        FIXED
            + self.payload.len()
            + self.channel.as_str().len()
            + self.key.len()
            + self.groups.len() * 5
            + self.parents.len() * 40
    }
}

fn write_parent(writer: &mut Writer, parent: &ParentPoint) {
    writer.fixed64(1, parent.incarnation.get());
    writer.number(2, parent.m_id.get());
    writer.bytes(3, &parent.hash.to_bytes());
}

fn read_parent(mut reader: Reader<'_>) -> Result<ParentPoint, DecodeError> {
    let (mut incarnation, mut m_id, mut hash) = (0, 0, &[][..]);
    while let Some(field) = reader.next_field()? {
        match field.number {
            1 => incarnation = field.fixed64()?,
            2 => m_id = field.number()?,
            3 => hash = field.bytes()?,
            _ => {}
        }
    }
    let m_id = MessageNumber::new(m_id);
    check_number(m_id)?;
    Ok(ParentPoint {
        incarnation: Incarnation::new(incarnation)
            .ok_or(DecodeError::Missing { field: "a parent's incarnation" })?,
        m_id,
        hash: ChainHash::from_bytes(array("a parent's hash", hash)?),
    })
}

#[derive(Default)]
struct TraceFields<'a> {
    trace_id: &'a [u8],
    span_id: &'a [u8],
    flags: u8,
}

impl<'a> TraceFields<'a> {
    fn merge(&mut self, mut reader: Reader<'a>) -> Result<(), DecodeError> {
        while let Some(field) = reader.next_field()? {
            match field.number {
                1 => self.trace_id = field.bytes()?,
                2 => self.span_id = field.bytes()?,
                3 => self.flags = trace_flags(&field)?,
                _ => {}
            }
        }
        Ok(())
    }

    fn finish(self) -> Result<TraceContext, DecodeError> {
        Ok(TraceContext {
            trace_id: array("trace_id", self.trace_id)?,
            span_id: array("span_id", self.span_id)?,
            flags: self.flags,
        })
    }
}

fn trace_flags(field: &Field<'_>) -> Result<u8, DecodeError> {
    u8::try_from(field.number32()?)
        .map_err(|_| DecodeError::OverLimit { field: "trace flags", limit: u8::MAX.into() })
}

fn array<const LENGTH: usize>(
    field: &'static str,
    bytes: &[u8],
) -> Result<[u8; LENGTH], DecodeError> {
    bytes.try_into().map_err(|_| DecodeError::Length {
        field,
        expected: LENGTH,
        actual: bytes.len(),
    })
}

fn check_number(m_id: MessageNumber) -> Result<(), DecodeError> {
    match m_id.get() {
        0 => Err(DecodeError::Missing { field: "m_id" }),
        1..=MAX_MESSAGE_NUMBER => Ok(()),
        _ => Err(DecodeError::OverLimit { field: "m_id", limit: MAX_MESSAGE_NUMBER }),
    }
}

/// Kinds of later builds may mean something else by a channel's epoch.
fn check_epoch(kind: MessageKind, epoch: Epoch) -> Result<(), DecodeError> {
    match kind {
        MessageKind::Unknown(_) => Ok(()),
        _ if epoch.get() == 0 => Err(DecodeError::Missing { field: "epoch" }),
        _ => Ok(()),
    }
}

/// Of kinds of later builds only the whole is limited.
fn check_key(kind: MessageKind, bytes: usize) -> Result<(), DecodeError> {
    match kind {
        MessageKind::Unknown(_) => Ok(()),
        _ => check_count("key", bytes, MAX_KEY_BYTES),
    }
}

fn check_payload(kind: MessageKind, bytes: usize) -> Result<(), DecodeError> {
    let limit = match kind {
        MessageKind::Publication => MAX_PAYLOAD_BYTES,
        MessageKind::ChannelOperation => MAX_OPERATION_BYTES,
        MessageKind::Unknown(_) => MAX_SEND_BYTES,
    };
    check_count("payload", bytes, limit)
}

fn check_count(field: &'static str, count: usize, limit: usize) -> Result<(), DecodeError> {
    if count > limit {
        return Err(DecodeError::OverLimit { field, limit: limit as u64 });
    }
    Ok(())
}
