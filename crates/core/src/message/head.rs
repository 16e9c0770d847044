//! What delivery, indexes and publisher tables need of a message, read without
//! allocating: the hot path looks at every message and opens few.

use crate::clock::HybridTime;
use crate::identity::{
    Epoch, MessageNumber, PublisherSequence, RegisterVersion, SessionId, TopologyVersion,
};
use crate::limits::MAX_SEND_BYTES;
use crate::wire_format::{Field, Reader, WireError};

use super::{
    DecodeError, Message, MessageKind, PublisherPosition, array, check_count, check_epoch,
    check_key, check_number, check_payload,
};

/// A message without its groups, parents and trace; what it holds is part of the
/// bytes it was read from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MessageHead<'a> {
    /// Its number along its origin's path.
    pub m_id: MessageNumber,
    /// What it is.
    pub kind: MessageKind,
    /// When its origin accepted it.
    pub stamp: HybridTime,
    /// The topology its origin had.
    pub topology_version: TopologyVersion,
    /// The channel's name, known to be UTF-8 and not checked further: what is in
    /// a log was checked when it came. Of a kind that this build does not know it
    /// may be any text.
    pub channel: &'a str,
    /// The channel's epoch that it means.
    pub epoch: Epoch,
    /// The register version it names.
    pub version: RegisterVersion,
    /// The key, often empty.
    pub key: &'a [u8],
    /// Its publisher could not know whether it had been accepted before.
    pub possibly_repeated: bool,
    /// The content.
    pub payload: &'a [u8],
    session: &'a [u8],
    sequence: PublisherSequence,
}

impl Message {
    /// The head of a message that was read in full.
    pub fn head(&self) -> MessageHead<'_> {
        let (session, sequence) = match &self.publisher {
            Some(publisher) => (&publisher.session.as_bytes()[..], publisher.sequence),
            None => (&[][..], PublisherSequence::new(0)),
        };
        MessageHead {
            m_id: self.m_id,
            kind: self.kind,
            stamp: self.stamp,
            topology_version: self.topology_version,
            channel: self.channel.as_str(),
            epoch: self.epoch,
            version: self.version,
            key: &self.key,
            possibly_repeated: self.possibly_repeated,
            payload: &self.payload,
            session,
            sequence,
        }
    }
}

impl<'a> MessageHead<'a> {
    /// Reads the head of an encoded `Send`.
    pub fn decode(bytes: &'a [u8]) -> Result<Self, DecodeError> {
        check_count("the message", bytes.len(), MAX_SEND_BYTES)?;
        let mut head = Self::unread();
        let mut reader = Reader::new(bytes);
        while let Some(field) = reader.next_field()? {
            head.take(&field)?;
        }
        head.check()?;
        Ok(head)
    }

    /// Its place in its publisher's session, if it was published in one.
    pub fn publisher(&self) -> Result<Option<PublisherPosition>, DecodeError> {
        if self.session.is_empty() && self.sequence.get() == 0 {
            return Ok(None);
        }
        let session = SessionId::new(array("publisher_session", self.session)?);
        if self.sequence.get() == 0 {
            return Err(DecodeError::Missing { field: "publisher_sequence" });
        }
        Ok(Some(PublisherPosition { session, sequence: self.sequence }))
    }

    pub(super) const fn unread() -> Self {
        Self {
            m_id: MessageNumber::ZERO,
            kind: MessageKind::Unknown(0),
            stamp: HybridTime::ZERO,
            topology_version: TopologyVersion { generation: 0, number: 0 },
            channel: "",
            epoch: Epoch::new(0),
            version: RegisterVersion::new(0),
            key: &[],
            possibly_repeated: false,
            payload: &[],
            session: &[],
            sequence: PublisherSequence::new(0),
        }
    }

    /// Takes a field if it belongs to the head.
    #[inline]
    pub(super) fn take(&mut self, field: &Field<'a>) -> Result<bool, DecodeError> {
        match field.number {
            1 => self.m_id = MessageNumber::new(field.number()?),
            3 => {
                let number = field.number32()?;
                self.kind = match (number, MessageKind::from_number(number)) {
                    (_, Some(kind)) => kind,
                    (0, None) => MessageKind::Unknown(0),
                    _ => return Err(WireError::NumberTooLarge { field: 3 }.into()),
                };
            }
            4 => self.stamp = HybridTime::new(field.fixed64()?),
            6 => self.merge_topology_version(field.message()?)?,
            7 => self.channel = field.text()?,
            8 => self.epoch = Epoch::new(field.number()?),
            9 => self.version = RegisterVersion::new(field.number()?),
            10 => self.key = field.bytes()?,
            11 => self.session = field.bytes()?,
            12 => self.sequence = PublisherSequence::new(field.number()?),
            13 => self.possibly_repeated = field.boolean()?,
            15 => self.payload = field.bytes()?,
            _ => return Ok(false),
        }
        Ok(true)
    }

    /// Checks what all messages have in common, but for the channel's name; of
    /// kinds that this build does not know only what it stores them by.
    pub(super) fn check(&self) -> Result<(), DecodeError> {
        check_number(self.m_id)?;
        if self.kind == MessageKind::Unknown(0) {
            return Err(DecodeError::Missing { field: "kind" });
        }
        if self.channel.is_empty() && !matches!(self.kind, MessageKind::Unknown(_)) {
            return Err(DecodeError::Missing { field: "channel" });
        }
        check_epoch(self.kind, self.epoch)?;
        check_key(self.kind, self.key.len())?;
        check_payload(self.kind, self.payload.len())
    }

    fn merge_topology_version(&mut self, mut reader: Reader<'_>) -> Result<(), WireError> {
        while let Some(field) = reader.next_field()? {
            match field.number {
                1 => self.topology_version.generation = field.number()?,
                2 => self.topology_version.number = field.number()?,
                _ => {}
            }
        }
        Ok(())
    }
}
