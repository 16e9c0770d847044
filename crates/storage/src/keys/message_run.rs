//! Messages of one log, as many as one write brought, up to a bound.
//!
//! ```text
//! table log
//! key    segment u32 | log number u32 | m_id of the first u64
//! value  (length varint | encoded Send)+
//! ```
//!
//! A run never reaches past a multiple of [`CHAIN_HASH_INTERVAL`], so that a log
//! can be shortened to any kept chain hash by deleting whole keys. Why segments
//! and runs: docs/decisions/0003-log-key-layout.md.
//!
//! [`CHAIN_HASH_INTERVAL`]: interlock_core::limits::CHAIN_HASH_INTERVAL

use interlock_core::identity::MessageNumber;
use interlock_core::wire_format::{put_varint, take_varint};

use super::{FieldReader, LogNumber, Malformed, SegmentNumber};

const WHAT: &str = "run of messages";

/// What a message takes beside its bytes: its length, and a share of the key.
/// Counts for the size of logs only.
pub(crate) const MESSAGE_OVERHEAD_BYTES: u64 = 4;

/// What a run takes in a write buffer beside its value: the key, and what the
/// buffer needs for an entry.
pub(crate) const RUN_OVERHEAD_BYTES: usize = 64;

/// The key of the run that begins with `first`.
pub(crate) fn key(segment: SegmentNumber, log: LogNumber, first: MessageNumber) -> [u8; 16] {
    let mut key = [0; 16];
    key[..4].copy_from_slice(&segment.get().to_be_bytes());
    key[4..8].copy_from_slice(&log.get().to_be_bytes());
    key[8..].copy_from_slice(&first.get().to_be_bytes());
    key
}

/// The bounds of all runs of a log in a segment.
pub(crate) fn bounds(segment: SegmentNumber, log: LogNumber) -> ([u8; 16], [u8; 16]) {
    (key(segment, log, MessageNumber::ZERO), key(segment, log.next(), MessageNumber::ZERO))
}

/// The first key of a segment.
pub(crate) fn segment_begin(segment: SegmentNumber) -> [u8; 16] {
    key(segment, LogNumber::new(0), MessageNumber::ZERO)
}

/// Reads a key.
pub(crate) fn decode_key(
    key: &[u8],
) -> Result<(SegmentNumber, LogNumber, MessageNumber), Malformed> {
    let mut reader = FieldReader::new(key, WHAT);
    let decoded = (reader.segment()?, reader.log_number()?, reader.m_id()?);
    reader.finish()?;
    Ok(decoded)
}

/// Adds a message to the value of a run.
pub(crate) fn push(value: &mut Vec<u8>, message: &[u8]) {
    put_varint(value, message.len() as u64);
    value.extend_from_slice(message);
}

/// The messages of a run, in order.
pub(crate) struct Messages<'a> {
    next: MessageNumber,
    value: &'a [u8],
}

impl<'a> Messages<'a> {
    /// The messages of a stored run.
    pub(crate) fn of(key: &[u8], value: &'a [u8]) -> Result<Self, Malformed> {
        let (_, _, first) = decode_key(key)?;
        Ok(Self { next: first, value })
    }
}

impl<'a> Iterator for Messages<'a> {
    type Item = Result<(MessageNumber, &'a [u8]), Malformed>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.value.is_empty() {
            return None;
        }
        let malformed = Malformed { what: WHAT };
        let taken = take_varint(&mut self.value)
            .ok()
            .and_then(|length| self.value.split_at_checked(usize::try_from(length).ok()?));
        let Some((message, rest)) = taken else {
            self.value = &[];
            return Some(Err(malformed));
        };
        let m_id = self.next;
        if m_id.get() == u64::MAX {
            // No message has the last number: the key is damaged.
            self.value = &[];
            return Some(Err(malformed));
        }
        self.value = rest;
        self.next = m_id.next();
        Some(Ok((m_id, message)))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::keys::strategies;

    /// Found by the fuzz target for stored entries.
    #[test]
    fn the_last_number_of_all_is_refused() {
        let mut messages = Messages { next: MessageNumber::new(u64::MAX), value: &[1, b'a'] };
        assert!(messages.next().expect("something is there").is_err());
        assert!(messages.next().is_none());
    }

    #[test]
    fn golden_bytes() {
        let segment = SegmentNumber::new(0x0a0b);
        let key = key(segment, LogNumber::new(0x0102_0304), MessageNumber::new(0x05));
        assert_eq!(key, [0, 0, 0x0a, 0x0b, 1, 2, 3, 4, 0, 0, 0, 0, 0, 0, 0, 5]);
        let mut value = Vec::new();
        push(&mut value, b"ab");
        push(&mut value, b"");
        push(&mut value, b"c");
        assert_eq!(value, [2, b'a', b'b', 0, 1, b'c']);
        let messages = Messages::of(&key, &value).expect("a key");
        let messages = messages.collect::<Result<Vec<_>, _>>().expect("whole messages");
        let m_id = MessageNumber::new;
        assert_eq!(messages, [(m_id(5), &b"ab"[..]), (m_id(6), b""), (m_id(7), b"c")]);
    }

    #[test]
    fn a_torn_value_is_malformed() {
        let key = key(SegmentNumber::ZERO, LogNumber::FIRST, MessageNumber::new(1));
        let mut messages = Messages::of(&key, &[1, b'a', 9, b'b']).expect("a key");
        assert!(messages.next().expect("one").is_ok());
        assert!(messages.next().expect("another").is_err());
        assert!(messages.next().is_none());
    }

    proptest! {
        #[test]
        fn runs_round_trip(
            segment in strategies::segment(),
            log in strategies::log_number(),
            first in 1_u64..1 << 60,
            messages: Vec<Vec<u8>>,
        ) {
            let first = MessageNumber::new(first);
            let key = key(segment, log, first);
            prop_assert_eq!(decode_key(&key), Ok((segment, log, first)));
            let mut value = Vec::new();
            for message in &messages {
                push(&mut value, message);
            }
            let mut expected = first;
            let mut read = Vec::new();
            for message in Messages::of(&key, &value).expect("a key") {
                let (m_id, message) = message.expect("whole messages");
                prop_assert_eq!(m_id, expected);
                expected = expected.next();
                read.push(message.to_vec());
            }
            prop_assert_eq!(read, messages);
        }

        #[test]
        fn any_bytes_are_read_without_panic(value: Vec<u8>) {
            let key = key(SegmentNumber::ZERO, LogNumber::FIRST, MessageNumber::new(1));
            let _ = Messages::of(&key, &value).expect("a key").count();
        }
    }
}
