//! What a server sends to a subscriber, read for as little as can be: how many messages
//! there are, and the first bytes of each.
//!
//! The protocol is <https://docs.nats.io/reference/reference-protocols/nats-protocol>:
//! lines that end with `\r\n`, and after `MSG subject sid [reply] bytes` and
//! `HMSG subject sid [reply] header-bytes bytes` as many bytes and another `\r\n`. The
//! bytes of an `HMSG` begin with its headers, which count among them.

use anyhow::{Context as _, Result, bail};
use interlock_bench::Payloads;

/// Bytes of a payload that are kept: its stamp.
const KEPT: usize = Payloads::LEAST_BYTES;
/// No line is longer; INFO, the longest, has about a kilobyte.
const LINE_BYTES: usize = 64 << 10;
const LINE_END: usize = 2;

/// What a server said.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Event<'a> {
    /// A message, with the first bytes of its payload.
    Message(&'a [u8]),
    /// It wants a PONG.
    Ping,
    /// It has processed all that was sent before a PING.
    Pong,
    /// It is about to close the connection, mostly.
    Error(&'a str),
}

/// Reads what comes, cut anywhere.
#[derive(Debug, Default)]
pub(crate) struct Parser {
    /// The beginning of a line whose end is yet to come.
    line: Vec<u8>,
    message: Option<Message>,
}

/// A message of which something is yet to come.
#[derive(Debug)]
struct Message {
    headers: usize,
    /// Of the payload.
    kept: [u8; KEPT],
    kept_bytes: usize,
    to_keep: usize,
    /// After what is kept, with the end of the line.
    rest: usize,
}

impl Parser {
    /// Calls for each event that these bytes complete.
    pub(crate) fn feed(
        &mut self,
        mut bytes: &[u8],
        mut take: impl FnMut(Event<'_>) -> Result<()>,
    ) -> Result<()> {
        while !bytes.is_empty() {
            if let Some(message) = &mut self.message {
                if message.advance(&mut bytes) {
                    take(Event::Message(&message.kept[..message.to_keep]))?;
                    self.message = None;
                }
                continue;
            }
            let Some(end) = bytes.iter().position(|byte| *byte == b'\n') else {
                self.line.extend_from_slice(bytes);
                if self.line.len() > LINE_BYTES {
                    bail!("the server sent a line of more than {LINE_BYTES} bytes");
                }
                return Ok(());
            };
            let (line, rest) = bytes.split_at(end + 1);
            bytes = rest;
            if self.line.is_empty() {
                self.message = begun_by(line, &mut take)?;
            } else {
                self.line.extend_from_slice(line);
                self.message = begun_by(&self.line, &mut take)?;
                self.line.clear();
            }
        }
        Ok(())
    }
}

impl Message {
    const fn new(headers: usize, payload: usize) -> Self {
        let to_keep = if payload < KEPT { payload } else { KEPT };
        let rest = payload - to_keep + LINE_END;
        Self { headers, kept: [0; KEPT], kept_bytes: 0, to_keep, rest }
    }

    /// Takes its bytes off the front, and says whether all of it is there.
    fn advance(&mut self, bytes: &mut &[u8]) -> bool {
        skip(&mut self.headers, bytes);
        let count = (self.to_keep - self.kept_bytes).min(bytes.len());
        let (kept, rest) = bytes.split_at(count);
        self.kept[self.kept_bytes..self.kept_bytes + count].copy_from_slice(kept);
        self.kept_bytes += count;
        *bytes = rest;
        skip(&mut self.rest, bytes);
        self.rest == 0
    }
}

fn skip(left: &mut usize, bytes: &mut &[u8]) {
    let count = (*left).min(bytes.len());
    *left -= count;
    *bytes = &bytes[count..];
}

/// What a line says, and the message that it begins.
fn begun_by(
    line: &[u8],
    take: &mut impl FnMut(Event<'_>) -> Result<()>,
) -> Result<Option<Message>> {
    let unknown = || format!("the server sent {:?}", String::from_utf8_lossy(line));
    let line = line.trim_ascii_end();
    let mut from_the_end = line.rsplit(|byte| *byte == b' ');
    if line.starts_with(b"MSG ") {
        let bytes = from_the_end.next().and_then(number).with_context(unknown)?;
        return Ok(Some(Message::new(0, bytes)));
    }
    if line.starts_with(b"HMSG ") {
        let bytes = from_the_end.next().and_then(number).with_context(unknown)?;
        let headers = from_the_end.next().and_then(number).with_context(unknown)?;
        let payload = bytes.checked_sub(headers).with_context(unknown)?;
        return Ok(Some(Message::new(headers, payload)));
    }
    match line {
        b"PING" => take(Event::Ping)?,
        b"PONG" => take(Event::Pong)?,
        b"+OK" => {}
        _ if line.starts_with(b"INFO ") => {}
        _ => match line.strip_prefix(b"-ERR ") {
            Some(error) => take(Event::Error(&String::from_utf8_lossy(error)))?,
            None => bail!(unknown()),
        },
    }
    Ok(None)
}

fn number(digits: &[u8]) -> Option<usize> {
    let value = |value: usize, digit: &u8| {
        let digit = digit.checked_sub(b'0').filter(|digit| *digit < 10)?;
        value.checked_mul(10)?.checked_add(usize::from(digit))
    };
    digits.first()?;
    digits.iter().try_fold(0, value)
}

#[cfg(test)]
mod tests {
    use super::*;

    const SENT: &[u8] = b"INFO {\"server_id\":\"x\"}\r\nPONG\r\n\
        MSG load 1 20\r\n0123456789abcdefghij\r\n\
        MSG load 1 $JS.ACK.1 5\r\nshort\r\n\
        PING\r\n\
        HMSG load 1 12 30\r\nNATS/1.0\r\n\r\nabcdefghijklmnopqr\r\n\
        HMSG load 1 $JS.ACK.2 12 12\r\nNATS/1.0\r\n\r\n\r\n\
        MSG load 1 0\r\n\r\n\
        MSG load 1 6\r\nMSG 1\n\r\n\
        -ERR 'Slow Consumer'\r\n";
    const SAID: [&str; 10] = [
        "pong",
        "0123456789abcdef",
        "short",
        "ping",
        "abcdefghijklmnop",
        "",
        "",
        "MSG 1\n",
        "error 'Slow Consumer'",
        "end",
    ];

    fn said(pieces: &[&[u8]]) -> Vec<String> {
        let mut parser = Parser::default();
        let mut said = Vec::new();
        for piece in pieces {
            let fed = parser.feed(piece, |event| {
                said.push(match event {
                    Event::Message(kept) => String::from_utf8_lossy(kept).into_owned(),
                    Event::Ping => "ping".to_owned(),
                    Event::Pong => "pong".to_owned(),
                    Event::Error(error) => format!("error {error}"),
                });
                Ok(())
            });
            fed.expect("all of it is known");
        }
        if parser.message.is_none() && parser.line.is_empty() {
            said.push("end".to_owned());
        }
        said
    }

    #[test]
    fn cut_at_every_byte_it_says_the_same() {
        assert_eq!(said(&[SENT]), SAID);
        for first in 0..=SENT.len() {
            let (one, rest) = SENT.split_at(first);
            assert_eq!(said(&[one, rest]), SAID, "cut at {first}");
            for second in 0..=rest.len() {
                let (two, three) = rest.split_at(second);
                assert_eq!(said(&[one, two, three]), SAID, "cut at {first} and {second} later");
            }
        }
    }

    #[test]
    fn byte_by_byte_it_says_the_same() {
        let pieces: Vec<&[u8]> = SENT.chunks(1).collect();
        assert_eq!(said(&pieces), SAID);
    }

    #[test]
    fn what_is_no_line_of_a_server_is_an_error() {
        let long = vec![b'x'; LINE_BYTES + 1];
        let wrong: [&[u8]; 5] =
            [b"MSG load 1 many\r\n", b"MSG \r\n", b"HMSG load 1 9 8\r\n", b"HELLO\r\n", &long];
        for wrong in wrong {
            assert!(Parser::default().feed(wrong, |_| Ok(())).is_err());
        }
    }
}
