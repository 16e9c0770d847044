//! What stored keys are made of: a tag, then numbers big-endian, so that the
//! order of the bytes is the order of the parts.

use bytes::Bytes;
use thiserror::Error;

use crate::identity::{Incarnation, LogName, NamespaceNumber, NodeNumber, ShardNumber};

/// Why stored bytes are no key of the kind expected.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum KeyError {
    /// The tag is another.
    #[error("a stored key begins with the tag {found:?} instead of {expected}")]
    Tag {
        /// The kind's tag.
        expected: u8,
        /// What was found.
        found: Option<u8>,
    },
    /// It is too short or too long.
    #[error("a stored key has a wrong length")]
    Length,
    /// It names incarnation 0, which none has.
    #[error("a stored key names no incarnation")]
    Incarnation,
    /// A name in it is none.
    #[error("a stored key has a name that is none")]
    Name,
}

/// Writes a key.
pub(super) struct KeyWriter {
    buffer: Vec<u8>,
}

impl KeyWriter {
    pub(super) fn new(tag: u8) -> Self {
        // Nearly all keys are shorter.
        let mut buffer = Vec::with_capacity(48);
        buffer.push(tag);
        Self { buffer }
    }

    pub(super) fn u16(&mut self, number: u16) {
        self.bytes(&number.to_be_bytes());
    }

    pub(super) fn u32(&mut self, number: u32) {
        self.bytes(&number.to_be_bytes());
    }

    pub(super) fn u64(&mut self, number: u64) {
        self.bytes(&number.to_be_bytes());
    }

    pub(super) fn bytes(&mut self, bytes: &[u8]) {
        self.buffer.extend_from_slice(bytes);
    }

    /// A log's name without its namespace, which stands elsewhere in the key: 14
    /// bytes.
    pub(super) fn log_in_namespace(&mut self, log: &LogName) {
        self.u16(log.shard.get());
        self.u32(log.origin.get());
        self.u64(log.incarnation.get());
    }

    pub(super) fn finish(self) -> Bytes {
        Bytes::from(self.buffer)
    }
}

/// Reads a key.
#[derive(Debug)]
pub(super) struct KeyReader<'a> {
    rest: &'a [u8],
}

impl<'a> KeyReader<'a> {
    pub(super) fn new(bytes: &'a [u8], expected: u8) -> Result<Self, KeyError> {
        match bytes.split_first() {
            Some((tag, rest)) if *tag == expected => Ok(Self { rest }),
            found => Err(KeyError::Tag { expected, found: found.map(|(tag, _)| *tag) }),
        }
    }

    pub(super) fn array<const LENGTH: usize>(&mut self) -> Result<[u8; LENGTH], KeyError> {
        let (taken, rest) = self.rest.split_first_chunk().ok_or(KeyError::Length)?;
        self.rest = rest;
        Ok(*taken)
    }

    pub(super) fn u16(&mut self) -> Result<u16, KeyError> {
        self.array().map(u16::from_be_bytes)
    }

    pub(super) fn u32(&mut self) -> Result<u32, KeyError> {
        self.array().map(u32::from_be_bytes)
    }

    pub(super) fn u64(&mut self) -> Result<u64, KeyError> {
        self.array().map(u64::from_be_bytes)
    }

    pub(super) fn log_in_namespace(
        &mut self,
        namespace: NamespaceNumber,
    ) -> Result<LogName, KeyError> {
        let shard = ShardNumber::new(self.u16()?);
        let origin = NodeNumber::new(self.u32()?);
        let incarnation = Incarnation::new(self.u64()?).ok_or(KeyError::Incarnation)?;
        Ok(LogName { namespace, shard, origin, incarnation })
    }

    /// All that is left.
    pub(super) fn rest(&mut self) -> &'a [u8] {
        std::mem::take(&mut self.rest)
    }

    pub(super) fn finish(&self) -> Result<(), KeyError> {
        if self.rest.is_empty() { Ok(()) } else { Err(KeyError::Length) }
    }
}
