//! Room for encoded messages, a large piece at a time: an allocation for each message
//! costs more than its encoding.

use bytes::{Bytes, BytesMut};

use crate::wire_format::Writer;

/// What is allocated at a time. A message that is kept keeps all of it: whoever keeps
/// some for long copies them.
const PIECE_BYTES: usize = 128 * 1024;

/// See the module's page.
#[derive(Debug, Default)]
pub struct EncodingBuffer {
    writer: Writer,
    piece: BytesMut,
}

impl EncodingBuffer {
    /// Room for nothing yet.
    pub fn new() -> Self {
        Self::default()
    }

    /// What `write` writes, as bytes of its own.
    pub(super) fn encode(&mut self, write: impl FnOnce(&mut Writer)) -> Bytes {
        self.writer.clear();
        write(&mut self.writer);
        let written = self.writer.written();
        if self.piece.capacity() < written.len() {
            self.piece = BytesMut::with_capacity(PIECE_BYTES.max(written.len()));
        }
        self.piece.extend_from_slice(written);
        self.piece.split().freeze()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_of_any_length_keep_their_bytes() {
        let mut buffer = EncodingBuffer::new();
        let mut encoded = Vec::new();
        for length in (0..300).map(|it| it * 997 % 3000).chain([PIECE_BYTES - 1, PIECE_BYTES * 2]) {
            let content = vec![length as u8; length];
            encoded.push((length, buffer.encode(|writer| writer.repeated_bytes(1, &content))));
        }
        for (length, bytes) in encoded {
            let mut writer = Writer::new();
            writer.repeated_bytes(1, &vec![length as u8; length]);
            assert_eq!(bytes, writer.into_bytes());
        }
    }
}
