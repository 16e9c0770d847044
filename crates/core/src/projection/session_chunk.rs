//! Stored key: a run of one session's answers.
//!
//! | part | bytes |
//! |---|---|
//! | tag, 1 | 1 |
//! | namespace | 4 |
//! | session | 16 |
//! | sequence of the first answer | 8 |
//!
//! All big-endian, so that a session's chunks follow one another. The value is
//! protobuf: 1 the stamp of the last answer, 2 (repeated) runs of answers of one
//! incarnation: 1 the incarnation, 2 the m_ids as differences, packed, 3 the
//! digests, 16 bytes each.
//!
//! A chunk replaces what earlier ones have from its first sequence on.

use bytes::Bytes;
use thiserror::Error;

use crate::clock::HybridTime;
use crate::identity::{Incarnation, MessageNumber, NamespaceNumber, PublisherSequence, SessionId};
use crate::wire_format::{Reader, WireError, Writer, take_varint};

use super::key_parts::{KeyError, KeyReader, KeyWriter};
use super::publishers::{Answer, PublicationDigest};

pub(super) const TAG: u8 = 1;
const DIGEST_BYTES: usize = 16;

/// Answers in one chunk.
pub(super) const CHUNK_ANSWERS: usize = 256;

/// Why stored bytes are no chunk of a session.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum ChunkError {
    /// The key.
    #[error(transparent)]
    Key(#[from] KeyError),
    /// The value is not protobuf.
    #[error(transparent)]
    Wire(#[from] WireError),
    /// A run's parts do not go together.
    #[error("a run of answers is inconsistent")]
    Run,
}

/// The key of a chunk.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct SessionChunkKey {
    pub(super) namespace: NamespaceNumber,
    pub(super) session: SessionId,
    pub(super) first: PublisherSequence,
}

impl SessionChunkKey {
    pub(super) fn encode(&self) -> Bytes {
        let mut key = KeyWriter::new(TAG);
        key.u32(self.namespace.get());
        key.bytes(self.session.as_bytes());
        key.u64(self.first.get());
        key.finish()
    }

    pub(super) fn decode(bytes: &[u8]) -> Result<Self, KeyError> {
        let mut key = KeyReader::new(bytes, TAG)?;
        let decoded = Self {
            namespace: NamespaceNumber::new(key.u32()?),
            session: SessionId::new(key.array()?),
            first: PublisherSequence::new(key.u64()?),
        };
        key.finish()?;
        Ok(decoded)
    }

    /// What all keys begin with.
    pub(super) fn all() -> Bytes {
        KeyWriter::new(TAG).finish()
    }

    /// What the keys of one namespace begin with.
    pub(super) fn prefix(namespace: NamespaceNumber) -> Bytes {
        let mut key = KeyWriter::new(TAG);
        key.u32(namespace.get());
        key.finish()
    }
}

/// A run of answers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct SessionChunk {
    pub(super) first: PublisherSequence,
    pub(super) last_stamp: HybridTime,
    pub(super) answers: Vec<Answer>,
}

impl SessionChunk {
    pub(super) fn encode<'a>(
        last_stamp: HybridTime,
        answers: impl Iterator<Item = &'a Answer> + Clone,
    ) -> Bytes {
        let mut writer = Writer::with_capacity(64 + CHUNK_ANSWERS * (DIGEST_BYTES + 2));
        writer.fixed64(1, last_stamp.get());
        let mut rest = answers.peekable();
        while let Some(start) = rest.peek().map(|answer| answer.incarnation) {
            let mut run = Vec::new();
            while let Some(answer) = rest.next_if(|answer| answer.incarnation == start) {
                run.push(answer);
            }
            writer.message(2, |writer| {
                writer.fixed64(1, start.get());
                let mut previous = 0;
                let numbers: Vec<u64> = run
                    .iter()
                    .map(|answer| {
                        let difference = answer.m_id.get().wrapping_sub(previous);
                        previous = answer.m_id.get();
                        difference
                    })
                    .collect();
                writer.packed(2, numbers.into_iter());
                let digests: Vec<u8> =
                    run.iter().flat_map(|answer| answer.digest.to_bytes()).collect();
                writer.bytes(3, &digests);
            });
        }
        writer.into_bytes()
    }

    pub(super) fn decode(first: PublisherSequence, bytes: &[u8]) -> Result<Self, ChunkError> {
        if first.get() == 0 {
            return Err(ChunkError::Run);
        }
        let mut chunk = Self { first, last_stamp: HybridTime::ZERO, answers: Vec::new() };
        let mut reader = Reader::new(bytes);
        while let Some(field) = reader.next_field()? {
            match field.number {
                1 => chunk.last_stamp = HybridTime::new(field.fixed64()?),
                2 => decode_run(field.message()?, &mut chunk.answers)?,
                _ => {}
            }
        }
        if first.get().checked_add(chunk.answers.len() as u64).is_none() {
            return Err(ChunkError::Run);
        }
        Ok(chunk)
    }
}

fn decode_run(mut reader: Reader<'_>, answers: &mut Vec<Answer>) -> Result<(), ChunkError> {
    let (mut incarnation, mut numbers, mut digests) = (0, &[][..], &[][..]);
    while let Some(field) = reader.next_field()? {
        match field.number {
            1 => incarnation = field.fixed64()?,
            2 => numbers = field.bytes()?,
            3 => digests = field.bytes()?,
            _ => {}
        }
    }
    let incarnation = Incarnation::new(incarnation).ok_or(ChunkError::Run)?;
    let (digests, []) = digests.as_chunks::<DIGEST_BYTES>() else { return Err(ChunkError::Run) };
    let mut m_id = 0_u64;
    for digest in digests {
        m_id = m_id.wrapping_add(take_varint(&mut numbers)?);
        answers.push(Answer {
            incarnation,
            m_id: MessageNumber::new(m_id),
            digest: PublicationDigest::from_bytes(*digest),
        });
    }
    if numbers.is_empty() { Ok(()) } else { Err(ChunkError::Run) }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn answers() -> impl Strategy<Value = Vec<Answer>> {
        let answer =
            (1..4_u64, any::<u64>(), any::<[u8; 16]>()).prop_map(|(incarnation, m_id, digest)| {
                Answer {
                    incarnation: Incarnation::new(incarnation).expect("not zero"),
                    m_id: MessageNumber::new(m_id),
                    digest: PublicationDigest::from_bytes(digest),
                }
            });
        prop::collection::vec(answer, 0..40)
    }

    proptest! {
        #[test]
        fn keys_round_trip_and_keep_the_order(
            parts in any::<(u32, [u8; 16], u64)>(),
            others in any::<(u32, [u8; 16], u64)>(),
        ) {
            let key = |(namespace, session, first)| SessionChunkKey {
                namespace: NamespaceNumber::new(namespace),
                session: SessionId::new(session),
                first: PublisherSequence::new(first),
            };
            let (one, other) = (key(parts), key(others));
            prop_assert_eq!(SessionChunkKey::decode(&one.encode()), Ok(one));
            prop_assert_eq!(one.cmp(&other), one.encode().cmp(&other.encode()));
            prop_assert!(one.encode().starts_with(&SessionChunkKey::prefix(one.namespace)));
        }

        #[test]
        fn chunks_round_trip(
            answers in answers(),
            first in 1..u64::MAX / 2,
            stamp in any::<u64>(),
        ) {
            let last_stamp = HybridTime::new(stamp);
            let first = PublisherSequence::new(first);
            let bytes = SessionChunk::encode(last_stamp, answers.iter());
            let chunk = SessionChunk { first, last_stamp, answers };
            prop_assert_eq!(SessionChunk::decode(first, &bytes), Ok(chunk));
        }

        #[test]
        fn hostile_bytes_are_refused(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
            let _ = SessionChunkKey::decode(&bytes);
            let _ = SessionChunk::decode(PublisherSequence::new(u64::MAX), &bytes);
        }
    }

    #[test]
    fn golden_bytes() {
        let key = SessionChunkKey {
            namespace: NamespaceNumber::new(0x0102_0304),
            session: SessionId::new([9; 16]),
            first: PublisherSequence::new(5),
        };
        assert_eq!(
            key.encode()[..],
            [&[1, 1, 2, 3, 4][..], &[9; 16], &[0, 0, 0, 0, 0, 0, 0, 5]].concat()
        );
        let answer = |m_id, digest| Answer {
            incarnation: Incarnation::new(7).expect("not zero"),
            m_id: MessageNumber::new(m_id),
            digest: PublicationDigest::from_bytes([digest; 16]),
        };
        let bytes =
            SessionChunk::encode(HybridTime::new(3), [answer(200, 1), answer(201, 2)].iter());
        assert_eq!(
            bytes[..],
            [
                &[9, 3, 0, 0, 0, 0, 0, 0, 0][..],
                &[18, 48],
                &[9, 7, 0, 0, 0, 0, 0, 0, 0],
                &[18, 3, 200, 1, 1],
                &[26, 32],
                &[1; 16],
                &[2; 16],
            ]
            .concat()
        );
    }
}
