//! A cursor's bytes and text.
//!
//! ```text
//! version  1 byte, 1
//! flags    1 byte, 0; a later build may announce a signature after the checksum
//! body     namespace (varint), positions, overrides
//! checksum 4 bytes, big-endian: the lower half of xxh3-64 of all before it
//!
//! positions  number of paths (varint), then per path, by origin and shard:
//!              origin (varint): how much above the one before; 0 is the same one
//!              shape (varint): shard * 2, and 1 more unless there is one tip
//!              number of tips (varint), only when the shape is odd
//!              per tip, by incarnation: incarnation (8 bytes, big-endian),
//!              m_id (varint)
//! overrides  number of channels (varint), then per channel, by name:
//!              length (varint) and bytes of its name, positions
//! ```
//!
//! One cursor has one encoding: whatever is not written exactly so is refused.

use std::collections::BTreeMap;

use bytes::Bytes;
use thiserror::Error;
use xxhash_rust::xxh3::xxh3_64;

use crate::identity::{Incarnation, MessageNumber, NamespaceNumber, NodeNumber, ShardNumber};
use crate::limits::{
    MAX_CURSOR_BYTES, MAX_CURSOR_OVERRIDES, MAX_CURSOR_TIPS, MAX_CURSOR_TIPS_PER_PATH,
    MAX_MESSAGE_NUMBER,
};
use crate::names::ChannelName;
use crate::wire_format::{put_varint, take_varint};

use super::{Cursor, PathKey, Positions, Tips};

const VERSION: u8 = 1;
const NO_FLAGS: u8 = 0;
const CHECKSUM_BYTES: usize = 4;

/// Why something is not a cursor. The same bytes will always fail here.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum DecodeError {
    /// Text with characters that base64url does not have, or of an impossible
    /// length.
    #[error("the cursor is not base64url")]
    NotBase64,
    /// Longer than any cursor.
    #[error("the cursor has {bytes} bytes, more than {MAX_CURSOR_BYTES}")]
    TooLong {
        /// What it has.
        bytes: usize,
    },
    /// More tips than any cursor.
    #[error(
        "the cursor has more than {MAX_CURSOR_TIPS} tips, or more than \
         {MAX_CURSOR_TIPS_PER_PATH} of one origin"
    )]
    TooManyTips,
    /// Shorter than any cursor, or damaged.
    #[error("the cursor is cut off or damaged")]
    Damaged,
    /// Made by a later build.
    #[error("the cursor is of version {version} with flags {flags:#04x}, which is unknown here")]
    UnknownVersion {
        /// Its version.
        version: u8,
        /// Its flags.
        flags: u8,
    },
    /// Whole, and yet nothing that a cursor's encoding allows.
    #[error("the cursor's content is invalid")]
    Invalid,
}

impl Cursor {
    /// The cursor's bytes.
    pub fn encode(&self) -> Bytes {
        // An origin with one tip takes about 15 bytes.
        let mut buffer = Vec::with_capacity(16 + 16 * self.tips.len());
        buffer.extend_from_slice(&[VERSION, NO_FLAGS]);
        put_varint(&mut buffer, u64::from(self.namespace.get()));
        put_positions(&mut buffer, &self.tips);
        put_varint(&mut buffer, self.overrides.len() as u64);
        for (channel, positions) in &self.overrides {
            put_varint(&mut buffer, channel.as_str().len() as u64);
            buffer.extend_from_slice(channel.as_str().as_bytes());
            put_positions(&mut buffer, positions);
        }
        let checksum = checksum(&buffer);
        buffer.extend_from_slice(&checksum);
        Bytes::from(buffer)
    }

    /// Reads a cursor's bytes.
    pub fn decode(bytes: &[u8]) -> Result<Self, DecodeError> {
        if bytes.len() > MAX_CURSOR_BYTES {
            return Err(DecodeError::TooLong { bytes: bytes.len() });
        }
        let [version, flags, ..] = *bytes else { return Err(DecodeError::Damaged) };
        if (version, flags) != (VERSION, NO_FLAGS) {
            return Err(DecodeError::UnknownVersion { version, flags });
        }
        let (content, expected) =
            bytes.split_last_chunk::<CHECKSUM_BYTES>().ok_or(DecodeError::Damaged)?;
        if checksum(content) != *expected {
            return Err(DecodeError::Damaged);
        }
        let mut rest = content.get(2..).ok_or(DecodeError::Damaged)?;
        let namespace = NamespaceNumber::new(take(&mut rest)?);
        let mut budget = TipBudget(MAX_CURSOR_TIPS);
        let tips = take_positions(&mut rest, Emptiness::Refused, &mut budget)?;
        let overrides = take_overrides(&mut rest, &mut budget)?;
        let cursor = Self { namespace, tips, overrides };
        // Varints may be written longer than they need, which no cursor made here
        // has; comparing is simpler than refusing at each.
        if !rest.is_empty() || cursor.encode() != bytes {
            return Err(DecodeError::Invalid);
        }
        Ok(cursor)
    }

    /// The cursor as text that fits into URLs and headers: base64url without
    /// padding.
    pub fn to_text(&self) -> String {
        base64url(&self.encode())
    }

    /// Reads a cursor's text.
    pub fn from_text(text: &str) -> Result<Self, DecodeError> {
        let bytes = text.len() / 4 * 3;
        if bytes > MAX_CURSOR_BYTES {
            return Err(DecodeError::TooLong { bytes });
        }
        Self::decode(&from_base64url(text).ok_or(DecodeError::NotBase64)?)
    }
}

fn checksum(content: &[u8]) -> [u8; CHECKSUM_BYTES] {
    (xxh3_64(content) as u32).to_be_bytes()
}

fn put_positions(buffer: &mut Vec<u8>, positions: &Positions) {
    put_varint(buffer, positions.len() as u64);
    let mut previous = 0;
    for (key, Tips(tips)) in positions {
        let origin = key.origin.get();
        put_varint(buffer, u64::from(origin - previous));
        previous = origin;
        let has_one_tip = tips.len() == 1;
        put_varint(buffer, u64::from(key.shard.get()) << 1 | u64::from(!has_one_tip));
        if !has_one_tip {
            put_varint(buffer, tips.len() as u64);
        }
        for (incarnation, m_id) in tips {
            buffer.extend_from_slice(&incarnation.get().to_be_bytes());
            put_varint(buffer, m_id.get());
        }
    }
}

/// Whether a path may have no tips: only where a channel stands before a rest
/// that has some.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Emptiness {
    Refused,
    Allowed,
}

/// How many tips the rest of a cursor may have.
struct TipBudget(usize);

impl TipBudget {
    fn take(&mut self, tips: usize) -> Result<(), DecodeError> {
        if tips > MAX_CURSOR_TIPS_PER_PATH {
            return Err(DecodeError::TooManyTips);
        }
        self.0 = self.0.checked_sub(tips).ok_or(DecodeError::TooManyTips)?;
        Ok(())
    }
}

fn take_overrides(
    rest: &mut &[u8],
    budget: &mut TipBudget,
) -> Result<BTreeMap<ChannelName, Positions>, DecodeError> {
    let count: usize = take(rest)?;
    if count > MAX_CURSOR_OVERRIDES {
        return Err(DecodeError::Invalid);
    }
    let mut overrides = BTreeMap::new();
    for _ in 0..count {
        let length = take(rest)?;
        let (name, after) = rest.split_at_checked(length).ok_or(DecodeError::Invalid)?;
        *rest = after;
        let name = std::str::from_utf8(name).map_err(|_| DecodeError::Invalid)?;
        let name = ChannelName::parse(name).map_err(|_| DecodeError::Invalid)?;
        let positions = take_positions(rest, Emptiness::Allowed, budget)?;
        if positions.is_empty() {
            return Err(DecodeError::Invalid);
        }
        overrides.insert(name, positions);
    }
    Ok(overrides)
}

fn take_positions(
    rest: &mut &[u8],
    emptiness: Emptiness,
    budget: &mut TipBudget,
) -> Result<Positions, DecodeError> {
    let count: usize = take(rest)?;
    let mut positions = Positions::new();
    let mut origin = 0_u32;
    // A false count ends at the end of the bytes, so it needs no check.
    for _ in 0..count {
        origin = origin.checked_add(take(rest)?).ok_or(DecodeError::Invalid)?;
        let shape: u32 = take(rest)?;
        let shard = u16::try_from(shape >> 1).map_err(|_| DecodeError::Invalid)?;
        let tips: usize = if shape & 1 == 0 { 1 } else { take(rest)? };
        if tips == 0 && emptiness == Emptiness::Refused {
            return Err(DecodeError::Invalid);
        }
        budget.take(tips)?;
        let key = PathKey { origin: NodeNumber::new(origin), shard: ShardNumber::new(shard) };
        positions.insert(key, take_tips(rest, tips)?);
    }
    Ok(positions)
}

fn take_tips(rest: &mut &[u8], count: usize) -> Result<Tips, DecodeError> {
    let mut tips = Vec::new();
    for _ in 0..count {
        let (incarnation, after) = rest.split_first_chunk::<8>().ok_or(DecodeError::Invalid)?;
        *rest = after;
        let incarnation =
            Incarnation::new(u64::from_be_bytes(*incarnation)).ok_or(DecodeError::Invalid)?;
        let m_id: u64 = take(rest)?;
        let is_ascending = tips.last().is_none_or(|(last, _)| *last < incarnation);
        if !is_ascending || !(1..=MAX_MESSAGE_NUMBER).contains(&m_id) {
            return Err(DecodeError::Invalid);
        }
        tips.push((incarnation, MessageNumber::new(m_id)));
    }
    Ok(Tips(tips))
}

/// Takes a varint that fits the type.
fn take<Number: TryFrom<u64>>(rest: &mut &[u8]) -> Result<Number, DecodeError> {
    let number = take_varint(rest).map_err(|_| DecodeError::Invalid)?;
    Number::try_from(number).map_err(|_| DecodeError::Invalid)
}

const BASE64URL: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";

fn base64url(bytes: &[u8]) -> String {
    let mut text = String::with_capacity((bytes.len() * 4).div_ceil(3));
    for chunk in bytes.chunks(3) {
        let mut group = [0; 4];
        group[1..=chunk.len()].copy_from_slice(chunk);
        let group = u32::from_be_bytes(group);
        for index in 0..=chunk.len() {
            let digit = group >> (18 - 6 * index) & 0x3f;
            text.push(char::from(BASE64URL[digit as usize]));
        }
    }
    text
}

fn from_base64url(text: &str) -> Option<Vec<u8>> {
    let mut bytes = Vec::with_capacity(text.len() / 4 * 3 + 2);
    for chunk in text.as_bytes().chunks(4) {
        let mut group = 0_u32;
        for (index, character) in chunk.iter().enumerate() {
            group |= u32::from(digit_of(*character)?) << (18 - 6 * index);
        }
        let whole = chunk.len().checked_sub(1).filter(|whole| *whole > 0)?;
        let group = group.to_be_bytes();
        // Bits beyond the last byte must be 0: one cursor has one text.
        if group[1 + whole..].iter().any(|byte| *byte != 0) {
            return None;
        }
        bytes.extend_from_slice(&group[1..=whole]);
    }
    Some(bytes)
}

const fn digit_of(character: u8) -> Option<u8> {
    match character {
        b'A'..=b'Z' => Some(character - b'A'),
        b'a'..=b'z' => Some(character - b'a' + 26),
        b'0'..=b'9' => Some(character - b'0' + 52),
        b'-' => Some(62),
        b'_' => Some(63),
        _ => None,
    }
}
