//! A channel's whole definition as bytes: what is stored, what a base entry
//! carries, and what the directory's digest is made of.
//!
//! Equal definitions have equal bytes: fields ascend, labels are sorted, and a
//! tombstone is its name and its epoch.

use bytes::Bytes;
use thiserror::Error;
use xxhash_rust::xxh3::xxh3_128;

use crate::identity::{Epoch, RegisterVersion};
use crate::message::OperationError;
use crate::names::{ChannelName, NameError};
use crate::wire_format::{Reader, WireError, Writer};

use super::definition::{Definition, Registers};
use super::stamp::RegisterStamp;

/// A channel and its definition.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DirectoryEntry {
    /// The channel.
    pub channel: ChannelName,
    /// What is known of it.
    pub definition: Definition,
}

/// Why bytes are not a directory entry. The same bytes will always fail.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum EntryError {
    /// They are not protobuf.
    #[error(transparent)]
    Wire(#[from] WireError),
    /// The channel's name is none.
    #[error("channel: {0}")]
    Channel(#[from] NameError),
    /// An epoch of 0, which no channel has.
    #[error("the epoch is missing")]
    MissingEpoch,
    /// A register cannot be read, or is beyond its limits.
    #[error(transparent)]
    Register(#[from] OperationError),
}

impl DirectoryEntry {
    /// The bytes of a `DirectoryEntry`.
    pub fn encode(&self) -> Bytes {
        encode_entry(&self.channel, &self.definition)
    }

    /// Reads a `DirectoryEntry`. Content is a part of `bytes`, not a copy; unknown
    /// fields are passed over.
    pub fn decode(bytes: &Bytes) -> Result<Self, EntryError> {
        let (mut channel, mut epoch, mut deleted, mut version, mut defined) =
            ("", 0, false, 0, false);
        let mut registers = Registers::default();
        let mut reader = Reader::new(bytes);
        while let Some(field) = reader.next_field()? {
            match field.number {
                1 => channel = field.text()?,
                2 => epoch = field.number()?,
                3 => deleted = field.boolean()?,
                4 => version = field.number()?,
                5 => defined = field.boolean()?,
                6 => registers.presentation.stamp = RegisterStamp::read_fields(field.message()?)?,
                7 => registers.presentation.value.read_fields(field.message()?)?,
                8 => registers.source.stamp = RegisterStamp::read_fields(field.message()?)?,
                9 => registers.source.value.read_fields(field.message()?, bytes)?,
                10 => registers.limits.stamp = RegisterStamp::read_fields(field.message()?)?,
                11 => registers.limits.value.read_fields(field.message()?)?,
                _ => {}
            }
        }
        if epoch == 0 {
            return Err(EntryError::MissingEpoch);
        }
        // A value that nobody wrote has no place in the order.
        registers.drop_unwritten();
        Ok(Self {
            channel: ChannelName::parse(channel)?,
            definition: Definition::from_parts(
                Epoch::new(epoch),
                deleted,
                defined,
                RegisterVersion::new(version),
                registers,
            ),
        })
    }
}

/// The bytes of an entry whose parts are kept apart.
pub(super) fn encode_entry(channel: &ChannelName, definition: &Definition) -> Bytes {
    const FIXED_BYTES: usize = 256;
    let content = definition.source().map_or(0, |source| source.content.len());
    let mut writer = Writer::with_capacity(FIXED_BYTES + channel.as_str().len() + content);
    writer.text(1, channel.as_str());
    writer.number(2, definition.epoch().get());
    writer.boolean(3, definition.is_deleted());
    writer.number(4, definition.version().get());
    writer.boolean(5, definition.is_defined());
    if let Some(registers) = definition.registers() {
        if let Some(stamp) = &registers.presentation.stamp {
            writer.message(6, |writer| stamp.write_fields(writer));
            writer.message(7, |writer| registers.presentation.value.write_fields(writer));
        }
        if let Some(stamp) = &registers.source.stamp {
            writer.message(8, |writer| stamp.write_fields(writer));
            writer.message(9, |writer| registers.source.value.write_fields(writer));
        }
        if let Some(stamp) = &registers.limits.stamp {
            writer.message(10, |writer| stamp.write_fields(writer));
            writer.message(11, |writer| registers.limits.value.write_fields(writer));
        }
    }
    writer.into_bytes()
}

/// An entry's part of the directory's digest.
pub(super) fn entry_hash(channel: &ChannelName, definition: &Definition) -> u128 {
    xxh3_128(&encode_entry(channel, definition))
}
