//! The little of protobuf that the core writes and reads itself: varints,
//! fixed64 and length-delimited fields.
//!
//! What is written equals, byte for byte, what prost writes for the same fields:
//! ascending, default values omitted, repeated numbers packed. The reader does
//! not copy, passes over unknown fields, and refuses rather than panics whatever
//! it is given.

use bytes::Bytes;
use thiserror::Error;

/// Why bytes could not be read as protobuf. The same bytes will always fail.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum WireError {
    /// The bytes end within a field.
    #[error("the bytes end within a field")]
    Truncated,
    /// A varint of more than 64 bits.
    #[error("a varint has more than 64 bits")]
    VarintTooLong,
    /// A field number of 0, or one above what protobuf has.
    #[error("a field number is outside 1 to 536870911")]
    FieldNumber,
    /// A field with a wire type that proto3 does not have.
    #[error("field {field} has the wire type {wire_type}, which proto3 does not have")]
    WireType {
        /// The field.
        field: u32,
        /// Its wire type.
        wire_type: u8,
    },
    /// A field has another type than it should.
    #[error("field {field} has another type than it should")]
    UnexpectedType {
        /// The field.
        field: u32,
    },
    /// A number does not fit the field.
    #[error("the number in field {field} is too large")]
    NumberTooLarge {
        /// The field.
        field: u32,
    },
    /// Text that is not UTF-8.
    #[error("field {field} is not UTF-8")]
    NotUtf8 {
        /// The field.
        field: u32,
    },
}

const VARINT: u8 = 0;
const FIXED64: u8 = 1;
const DELIMITED: u8 = 2;
const FIXED32: u8 = 5;
const MAX_FIELD_NUMBER: u64 = (1 << 29) - 1;

/// Appends a varint to a buffer.
#[inline]
pub fn put_varint(buffer: &mut Vec<u8>, mut value: u64) {
    while value >= 0x80 {
        buffer.push((value as u8) | 0x80);
        value >>= 7;
    }
    buffer.push(value as u8);
}

/// Takes a varint off the front of a slice.
#[inline]
pub fn take_varint(bytes: &mut &[u8]) -> Result<u64, WireError> {
    // Tags and nearly all lengths have one byte.
    if let Some((byte, rest)) = bytes.split_first()
        && *byte < 0x80
    {
        *bytes = rest;
        return Ok(u64::from(*byte));
    }
    take_long_varint(bytes)
}

fn take_long_varint(bytes: &mut &[u8]) -> Result<u64, WireError> {
    let mut value = 0_u64;
    for (index, byte) in bytes.iter().copied().enumerate() {
        // The tenth byte has room for the 64th bit alone.
        if index == 9 && byte > 1 {
            return Err(WireError::VarintTooLong);
        }
        value |= u64::from(byte & 0x7f) << (7 * index);
        if byte < 0x80 {
            *bytes = &bytes[index + 1..];
            return Ok(value);
        }
    }
    Err(WireError::Truncated)
}

/// How many bytes a varint takes.
pub const fn varint_length(value: u64) -> usize {
    let bits = 64 - (value | 1).leading_zeros() as usize;
    bits.div_ceil(7)
}

/// Writes fields in the order of the calls, which must be ascending. Fields with
/// their default value are omitted unless a method says otherwise.
#[derive(Debug, Default)]
pub struct Writer {
    buffer: Vec<u8>,
}

impl Writer {
    /// An empty writer.
    pub const fn new() -> Self {
        Self { buffer: Vec::new() }
    }

    /// An empty writer with room for so many bytes.
    pub fn with_capacity(bytes: usize) -> Self {
        Self { buffer: Vec::with_capacity(bytes) }
    }

    /// Forgets what was written, and keeps its room.
    pub fn clear(&mut self) {
        self.buffer.clear();
    }

    /// What was written so far.
    pub fn written(&self) -> &[u8] {
        &self.buffer
    }

    /// Everything written.
    pub fn into_bytes(self) -> Bytes {
        Bytes::from(self.buffer)
    }

    /// uint32, uint64 or an enum.
    pub fn number(&mut self, field: u32, value: u64) {
        if value != 0 {
            self.tag(field, VARINT);
            put_varint(&mut self.buffer, value);
        }
    }

    /// bool.
    pub fn boolean(&mut self, field: u32, value: bool) {
        self.number(field, u64::from(value));
    }

    /// fixed64.
    pub fn fixed64(&mut self, field: u32, value: u64) {
        if value != 0 {
            self.tag(field, FIXED64);
            self.buffer.extend_from_slice(&value.to_le_bytes());
        }
    }

    /// bytes.
    pub fn bytes(&mut self, field: u32, value: &[u8]) {
        if !value.is_empty() {
            self.repeated_bytes(field, value);
        }
    }

    /// string.
    pub fn text(&mut self, field: u32, value: &str) {
        self.bytes(field, value.as_bytes());
    }

    /// One element of a repeated bytes or string field: written also when empty.
    pub fn repeated_bytes(&mut self, field: u32, value: &[u8]) {
        self.tag(field, DELIMITED);
        put_varint(&mut self.buffer, value.len() as u64);
        self.buffer.extend_from_slice(value);
    }

    /// Packed repeated numbers.
    pub fn packed(&mut self, field: u32, values: impl Iterator<Item = u64> + Clone) {
        let length: usize = values.clone().map(varint_length).sum();
        if length != 0 {
            self.tag(field, DELIMITED);
            put_varint(&mut self.buffer, length as u64);
            values.for_each(|value| put_varint(&mut self.buffer, value));
        }
    }

    /// A message that is there: written also when all its fields have their
    /// default values, so that a reader sees that it is there.
    pub fn message(&mut self, field: u32, write: impl FnOnce(&mut Self)) {
        self.tag(field, DELIMITED);
        // Nearly every nested message is shorter than 128 bytes, so room for one
        // byte of length is kept; longer ones are moved behind their length.
        let length_at = self.buffer.len();
        self.buffer.push(0);
        write(self);
        let length = self.buffer.len() - length_at - 1;
        if length < 0x80 {
            self.buffer[length_at] = length as u8;
        } else {
            let mut prefix = Vec::with_capacity(varint_length(length as u64));
            put_varint(&mut prefix, length as u64);
            self.buffer.splice(length_at..=length_at, prefix);
        }
    }

    fn tag(&mut self, field: u32, wire_type: u8) {
        put_varint(&mut self.buffer, u64::from(field) << 3 | u64::from(wire_type));
    }
}

/// One field as read.
#[derive(Clone, Copy, Debug)]
pub struct Field<'a> {
    /// Its number.
    pub number: u32,
    value: Value<'a>,
}

#[derive(Clone, Copy, Debug)]
enum Value<'a> {
    Varint(u64),
    Fixed64(u64),
    Fixed32,
    Delimited(&'a [u8]),
}

impl<'a> Field<'a> {
    /// uint64 or an enum.
    pub fn number(&self) -> Result<u64, WireError> {
        match self.value {
            Value::Varint(value) => Ok(value),
            _ => Err(self.unexpected()),
        }
    }

    /// uint32.
    pub fn number32(&self) -> Result<u32, WireError> {
        u32::try_from(self.number()?).map_err(|_| WireError::NumberTooLarge { field: self.number })
    }

    /// bool.
    pub fn boolean(&self) -> Result<bool, WireError> {
        Ok(self.number()? != 0)
    }

    /// fixed64.
    pub fn fixed64(&self) -> Result<u64, WireError> {
        match self.value {
            Value::Fixed64(value) => Ok(value),
            _ => Err(self.unexpected()),
        }
    }

    /// bytes, borrowed.
    pub fn bytes(&self) -> Result<&'a [u8], WireError> {
        match self.value {
            Value::Delimited(bytes) => Ok(bytes),
            _ => Err(self.unexpected()),
        }
    }

    /// string, borrowed.
    pub fn text(&self) -> Result<&'a str, WireError> {
        std::str::from_utf8(self.bytes()?).map_err(|_| WireError::NotUtf8 { field: self.number })
    }

    /// A nested message.
    pub fn message(&self) -> Result<Reader<'a>, WireError> {
        Ok(Reader::new(self.bytes()?))
    }

    /// Appends the numbers of a repeated uint32 field, packed or not.
    pub fn numbers32(&self, into: &mut Vec<u32>) -> Result<(), WireError> {
        let Value::Delimited(mut packed) = self.value else {
            into.push(self.number32()?);
            return Ok(());
        };
        while !packed.is_empty() {
            let number = take_varint(&mut packed)?;
            let number = u32::try_from(number)
                .map_err(|_| WireError::NumberTooLarge { field: self.number })?;
            into.push(number);
        }
        Ok(())
    }

    fn unexpected(&self) -> WireError {
        WireError::UnexpectedType { field: self.number }
    }
}

/// Reads fields one after the other, without copying.
///
/// What it lends is part of the slice it was made from; a reader of `Bytes` that
/// wants to keep a part takes `Bytes::slice_ref` of it.
#[derive(Clone, Copy, Debug)]
pub struct Reader<'a> {
    rest: &'a [u8],
}

impl<'a> Reader<'a> {
    /// Reads a message.
    pub const fn new(bytes: &'a [u8]) -> Self {
        Self { rest: bytes }
    }

    /// The next field; `None` at the end. After an error there is nothing more to
    /// read.
    #[inline]
    pub fn next_field(&mut self) -> Result<Option<Field<'a>>, WireError> {
        if self.rest.is_empty() {
            return Ok(None);
        }
        let tag = take_varint(&mut self.rest)?;
        let number = match tag >> 3 {
            number @ 1..=MAX_FIELD_NUMBER => number as u32,
            _ => return Err(WireError::FieldNumber),
        };
        let value = match (tag & 7) as u8 {
            VARINT => Value::Varint(take_varint(&mut self.rest)?),
            FIXED64 => {
                let bytes = self.take(8)?;
                Value::Fixed64(u64::from_le_bytes(
                    bytes.try_into().expect("eight bytes were taken"),
                ))
            }
            DELIMITED => {
                let length = take_varint(&mut self.rest)?;
                let length = usize::try_from(length).map_err(|_| WireError::Truncated)?;
                Value::Delimited(self.take(length)?)
            }
            FIXED32 => {
                self.take(4)?;
                Value::Fixed32
            }
            wire_type => return Err(WireError::WireType { field: number, wire_type }),
        };
        Ok(Some(Field { number, value }))
    }

    #[inline]
    fn take(&mut self, length: usize) -> Result<&'a [u8], WireError> {
        let (taken, rest) = self.rest.split_at_checked(length).ok_or(WireError::Truncated)?;
        self.rest = rest;
        Ok(taken)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn varints_take_the_bytes_they_need() {
        for (value, bytes) in [
            (0, vec![0]),
            (127, vec![0x7f]),
            (128, vec![0x80, 1]),
            (u64::MAX, vec![255, 255, 255, 255, 255, 255, 255, 255, 255, 1]),
        ] {
            let mut written = Vec::new();
            put_varint(&mut written, value);
            assert_eq!(written, bytes);
            assert_eq!(varint_length(value), bytes.len());
        }
        let mut too_long = &[255, 255, 255, 255, 255, 255, 255, 255, 255, 2][..];
        assert_eq!(take_varint(&mut too_long), Err(WireError::VarintTooLong));
        let mut endless = &[0x80; 11][..];
        assert_eq!(take_varint(&mut endless), Err(WireError::VarintTooLong));
        assert_eq!(take_varint(&mut &[0x80][..]), Err(WireError::Truncated));
    }

    #[test]
    fn long_nested_messages_come_behind_their_length() {
        for length in [0, 1, 125, 126, 127, 128, 129, 20_000, 3_000_000] {
            let content = vec![0xee; length];
            let mut writer = Writer::new();
            writer.message(9, |writer| {
                writer.message(1, |writer| writer.repeated_bytes(2, &content));
                writer.boolean(3, true);
            });
            writer.number(10, 5);
            let bytes = writer.into_bytes();

            let mut outer = Reader::new(&bytes);
            let field = outer.next_field().unwrap().unwrap();
            let mut middle = field.message().unwrap();
            let mut inner = middle.next_field().unwrap().unwrap().message().unwrap();
            assert_eq!(inner.next_field().unwrap().unwrap().bytes().unwrap(), content);
            assert!(inner.next_field().unwrap().is_none());
            assert!(middle.next_field().unwrap().unwrap().boolean().unwrap());
            assert_eq!(outer.next_field().unwrap().unwrap().number(), Ok(5));
            assert!(outer.next_field().unwrap().is_none());
        }
    }

    #[test]
    fn what_is_not_proto3_is_refused() {
        let read = |bytes: &[u8]| Reader::new(bytes).next_field().map(|field| field.is_some());
        assert_eq!(read(&[]), Ok(false));
        assert_eq!(read(&[0x0d, 1, 2, 3, 4]), Ok(true), "fixed32 is passed over");
        assert_eq!(read(&[0x00, 1]), Err(WireError::FieldNumber));
        assert_eq!(
            read(&[0xf8, 0xff, 0xff, 0xff, 0x1f, 1]),
            Err(WireError::FieldNumber),
            "2^29 and more"
        );
        assert_eq!(read(&[0x0b]), Err(WireError::WireType { field: 1, wire_type: 3 }));
        assert_eq!(read(&[0x0f]), Err(WireError::WireType { field: 1, wire_type: 7 }));
        assert_eq!(read(&[0x08]), Err(WireError::Truncated));
        assert_eq!(read(&[0x09, 1, 2]), Err(WireError::Truncated));
        assert_eq!(read(&[0x0a, 2, 1]), Err(WireError::Truncated));
        let huge = [0x0a, 255, 255, 255, 255, 255, 255, 255, 255, 255, 1];
        assert_eq!(read(&huge), Err(WireError::Truncated));
    }

    #[test]
    fn a_field_is_read_as_what_it_is() {
        let field = |bytes| Reader::new(bytes).next_field().unwrap().unwrap();
        let unexpected = WireError::UnexpectedType { field: 1 };
        assert_eq!(field(&[0x08, 1]).bytes(), Err(unexpected));
        assert_eq!(field(&[0x08, 1]).fixed64(), Err(unexpected));
        assert_eq!(field(&[0x0a, 0]).number(), Err(unexpected));
        assert_eq!(field(&[0x0d, 0, 0, 0, 0]).number(), Err(unexpected));
        assert_eq!(field(&[0x0a, 1, 0xff]).text(), Err(WireError::NotUtf8 { field: 1 }));
        let large = field(&[0x08, 0x80, 0x80, 0x80, 0x80, 0x10]);
        assert_eq!(large.number(), Ok(1 << 32));
        assert_eq!(large.number32(), Err(WireError::NumberTooLarge { field: 1 }));
    }

    proptest! {
        #[test]
        fn varints_round_trip(value in any::<u64>(), shift in 0..64_u32, after in any::<u8>()) {
            let value = value >> shift;
            let mut bytes = Vec::new();
            put_varint(&mut bytes, value);
            prop_assert_eq!(bytes.len(), varint_length(value));
            bytes.push(after);
            let mut rest = &bytes[..];
            prop_assert_eq!(take_varint(&mut rest), Ok(value));
            prop_assert_eq!(rest, &[after]);
        }

        #[test]
        fn random_bytes_never_panic(bytes in proptest::collection::vec(any::<u8>(), 0..64)) {
            let mut reader = Reader::new(&bytes);
            while let Ok(Some(field)) = reader.next_field() {
                let _ = field.numbers32(&mut Vec::new());
                let _ = field.text();
                if let Ok(mut nested) = field.message() {
                    while let Ok(Some(_)) = nested.next_field() {}
                }
            }
        }
    }
}
