//! The payload of a channel operation, and the registers of a definition that it
//! sets. The directory's entries are written with the same fields.

use std::collections::BTreeMap;

use bytes::Bytes;
use thiserror::Error;

use crate::clock::WallTime;
use crate::limits::{
    MAX_CONTENT_BYTES, MAX_DESCRIPTION_BYTES, MAX_ETAG_BYTES, MAX_LABEL_BYTES, MAX_LABELS,
    MAX_MEDIA_TYPE_BYTES, MAX_SOURCE_PATH_BYTES,
};
use crate::wire_format::{Reader, WireError, Writer};

/// What an operation does to its channel (METHOD M3).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum ChannelAction {
    /// Begins an epoch.
    Create,
    /// Sets registers.
    Update,
    /// Ends an epoch.
    Delete,
}

impl ChannelAction {
    /// The action's number on the wire.
    pub const fn number(self) -> u32 {
        match self {
            Self::Create => 1,
            Self::Update => 2,
            Self::Delete => 3,
        }
    }

    const fn from_number(number: u32) -> Option<Self> {
        match number {
            1 => Some(Self::Create),
            2 => Some(Self::Update),
            3 => Some(Self::Delete),
            _ => None,
        }
    }
}

/// Register 1 of a definition: what people read.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct Presentation {
    /// What the channel is for.
    pub description: String,
    /// Whatever its owners sort it by.
    pub labels: BTreeMap<String, String>,
}

/// Register 2 of a definition: where content comes from, and the content
/// (METHOD M5).
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct Source {
    /// A path under the region's web origin; empty means no source.
    pub path: String,
    /// What was fetched.
    pub content: Bytes,
    /// The content's blake3, if something was fetched.
    pub digest: Option<[u8; 32]>,
    /// The web origin's ETag, for conditional requests.
    pub etag: String,
    /// The content's media type.
    pub media_type: String,
    /// When the origin fetched it.
    pub fetched_at: WallTime,
}

/// Register 3 of a definition. 0 means the node's default.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct ChannelLimits {
    /// The largest payload of a publication.
    pub max_payload_bytes: u32,
    /// Publications per second and node.
    pub max_publications_per_second: u32,
}

/// The payload of a message of kind `ChannelOperation`. A register that is absent
/// is left as it was.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct ChannelOperation {
    /// What it does.
    pub action: ChannelAction,
    /// Register 1, if it is set.
    pub presentation: Option<Presentation>,
    /// Register 2, if it is set.
    pub source: Option<Source>,
    /// Register 3, if it is set.
    pub limits: Option<ChannelLimits>,
}

/// Why bytes are not an operation or a register, or why a register cannot be
/// stored. The same input will always fail.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum OperationError {
    /// They are not protobuf.
    #[error(transparent)]
    Wire(#[from] WireError),
    /// An action that this build does not know.
    #[error("the action {number} is unknown")]
    UnknownAction {
        /// Its number.
        number: u32,
    },
    /// A digest that is not blake3's 32 bytes.
    #[error("source.digest has {actual} bytes instead of 32")]
    DigestLength {
        /// What it has.
        actual: usize,
    },
    /// A field is beyond its limit.
    #[error("{field} is beyond its limit of {limit}")]
    OverLimit {
        /// The field.
        field: &'static str,
        /// The limit, in bytes or elements.
        limit: usize,
    },
}

impl Presentation {
    /// Checks the limits.
    pub fn check(&self) -> Result<(), OperationError> {
        check_length("description", self.description.len(), MAX_DESCRIPTION_BYTES)?;
        check_length("labels", self.labels.len(), MAX_LABELS)?;
        self.labels.iter().try_for_each(|(key, value)| {
            check_length("a label's key", key.len(), MAX_LABEL_BYTES)?;
            check_length("a label's value", value.len(), MAX_LABEL_BYTES)
        })
    }

    /// Writes the fields of a `ChannelPresentation`.
    pub fn write_fields(&self, writer: &mut Writer) {
        writer.text(1, &self.description);
        for (key, value) in &self.labels {
            writer.message(2, |writer| {
                writer.text(1, key);
                writer.text(2, value);
            });
        }
    }

    /// Reads the fields of a `ChannelPresentation` into this, and checks them.
    pub fn read_fields(&mut self, mut reader: Reader<'_>) -> Result<(), OperationError> {
        while let Some(field) = reader.next_field()? {
            match field.number {
                1 => self.description = field.text()?.to_owned(),
                2 => {
                    let (key, value) = read_label(field.message()?)?;
                    self.labels.insert(key.to_owned(), value.to_owned());
                    check_length("labels", self.labels.len(), MAX_LABELS)?;
                }
                _ => {}
            }
        }
        self.check()
    }
}

fn read_label(mut reader: Reader<'_>) -> Result<(&str, &str), WireError> {
    let (mut key, mut value) = ("", "");
    while let Some(field) = reader.next_field()? {
        match field.number {
            1 => key = field.text()?,
            2 => value = field.text()?,
            _ => {}
        }
    }
    Ok((key, value))
}

impl Source {
    /// Checks the limits.
    pub fn check(&self) -> Result<(), OperationError> {
        check_length("source.path", self.path.len(), MAX_SOURCE_PATH_BYTES)?;
        check_length("source.content", self.content.len(), MAX_CONTENT_BYTES)?;
        check_length("source.etag", self.etag.len(), MAX_ETAG_BYTES)?;
        check_length("source.media_type", self.media_type.len(), MAX_MEDIA_TYPE_BYTES)
    }

    /// Writes the fields of a `ChannelSource`.
    pub fn write_fields(&self, writer: &mut Writer) {
        writer.text(1, &self.path);
        writer.bytes(2, &self.content);
        if let Some(digest) = &self.digest {
            writer.bytes(3, digest);
        }
        writer.text(4, &self.etag);
        writer.text(5, &self.media_type);
        writer.number(6, self.fetched_at.get());
    }

    /// Reads the fields of a `ChannelSource` into this, and checks them. The
    /// content becomes a part of `bytes`, which the reader was made from.
    pub fn read_fields(
        &mut self,
        mut reader: Reader<'_>,
        bytes: &Bytes,
    ) -> Result<(), OperationError> {
        while let Some(field) = reader.next_field()? {
            match field.number {
                1 => self.path = field.text()?.to_owned(),
                2 => self.content = bytes.slice_ref(field.bytes()?),
                3 => self.digest = read_digest(field.bytes()?)?,
                4 => self.etag = field.text()?.to_owned(),
                5 => self.media_type = field.text()?.to_owned(),
                6 => self.fetched_at = WallTime::new(field.number()?),
                _ => {}
            }
        }
        self.check()
    }
}

fn read_digest(bytes: &[u8]) -> Result<Option<[u8; 32]>, OperationError> {
    if bytes.is_empty() {
        return Ok(None);
    }
    let digest =
        bytes.try_into().map_err(|_| OperationError::DigestLength { actual: bytes.len() })?;
    Ok(Some(digest))
}

impl ChannelLimits {
    /// Writes the fields of a `ChannelLimits`.
    pub fn write_fields(&self, writer: &mut Writer) {
        writer.number(1, u64::from(self.max_payload_bytes));
        writer.number(2, u64::from(self.max_publications_per_second));
    }

    /// Reads the fields of a `ChannelLimits` into this.
    pub fn read_fields(&mut self, mut reader: Reader<'_>) -> Result<(), OperationError> {
        while let Some(field) = reader.next_field()? {
            match field.number {
                1 => self.max_payload_bytes = field.number32()?,
                2 => self.max_publications_per_second = field.number32()?,
                _ => {}
            }
        }
        Ok(())
    }
}

impl ChannelOperation {
    /// An operation that sets no register.
    pub const fn new(action: ChannelAction) -> Self {
        Self { action, presentation: None, source: None, limits: None }
    }

    /// Checks the limits of all registers: whether `decode` takes what `encode`
    /// writes.
    pub fn check(&self) -> Result<(), OperationError> {
        self.presentation.iter().try_for_each(Presentation::check)?;
        self.source.iter().try_for_each(Source::check)
    }

    /// The bytes of the payload.
    pub fn encode(&self) -> Bytes {
        let content = self.source.as_ref().map_or(0, |source| source.content.len());
        let mut writer = Writer::with_capacity(256 + content);
        writer.number(1, u64::from(self.action.number()));
        if let Some(presentation) = &self.presentation {
            writer.message(2, |writer| presentation.write_fields(writer));
        }
        if let Some(source) = &self.source {
            writer.message(3, |writer| source.write_fields(writer));
        }
        if let Some(limits) = &self.limits {
            writer.message(4, |writer| limits.write_fields(writer));
        }
        writer.into_bytes()
    }

    /// Reads a payload. Content is a part of `bytes`, not a copy; unknown fields
    /// are passed over.
    pub fn decode(bytes: &Bytes) -> Result<Self, OperationError> {
        let mut action = 0;
        let mut presentation: Option<Presentation> = None;
        let mut source: Option<Source> = None;
        let mut limits: Option<ChannelLimits> = None;
        let mut reader = Reader::new(bytes);
        while let Some(field) = reader.next_field()? {
            match field.number {
                1 => action = field.number32()?,
                2 => presentation.get_or_insert_default().read_fields(field.message()?)?,
                3 => source.get_or_insert_default().read_fields(field.message()?, bytes)?,
                4 => limits.get_or_insert_default().read_fields(field.message()?)?,
                _ => {}
            }
        }
        let action = ChannelAction::from_number(action)
            .ok_or(OperationError::UnknownAction { number: action })?;
        Ok(Self { action, presentation, source, limits })
    }
}

fn check_length(field: &'static str, length: usize, limit: usize) -> Result<(), OperationError> {
    if length > limit {
        return Err(OperationError::OverLimit { field, limit });
    }
    Ok(())
}
