//! What the story publishes: the lines of a file, and how they are recognised
//! again.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context as _, Result, bail, ensure};

/// Every message's payload ends here; a longer line cannot be published.
const MAX_PAYLOAD_BYTES: usize = 1024 * 1024;
/// What anything in the story may take with no input at all; only reached when
/// something is wrong.
const LEAST_LIMIT: Duration = Duration::from_secs(120);
/// What any step gets done in a second at the very least, on a machine that does
/// much else.
const BYTES_PER_SECOND: u64 = 128 * 1024;
/// What a line costs besides its bytes.
const BYTES_PER_LINE: u64 = 64;

/// The lines that are published.
pub struct Input {
    path: PathBuf,
    lines: Vec<Vec<u8>>,
}

impl Input {
    /// The lines of a file, split at `\n`; what follows the last `\n` counts if it
    /// is not empty. A line that no message holds is named.
    pub fn read(path: &Path) -> Result<Self> {
        let bytes = fs::read(path).with_context(|| format!("reading {}", path.display()))?;
        let mut lines: Vec<Vec<u8>> =
            bytes.split(|byte| *byte == b'\n').map(<[u8]>::to_vec).collect();
        if lines.last().is_some_and(Vec::is_empty) {
            lines.pop();
        }
        for (number, line) in lines.iter().enumerate() {
            if line.len() > MAX_PAYLOAD_BYTES {
                bail!(
                    "{}: line {} has {} bytes; a message holds at most {MAX_PAYLOAD_BYTES}",
                    path.display(),
                    number + 1,
                    line.len()
                );
            }
        }
        Ok(Self { path: path.to_owned(), lines })
    }

    /// Where the lines are from.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The lines, without their `\n`.
    pub fn lines(&self) -> &[Vec<u8>] {
        &self.lines
    }

    /// How long one step may take with this much input.
    pub fn limit(&self) -> Duration {
        let bytes: u64 = self.lines.iter().map(|line| line.len() as u64 + BYTES_PER_LINE).sum();
        LEAST_LIMIT + Duration::from_secs(bytes / BYTES_PER_SECOND)
    }

    /// What a region publishes to a channel when all lines are published there:
    /// no line is like it.
    pub fn closing(&self, channel: &str, region: &str) -> String {
        let mut text = format!("{region} has nothing more for {channel}");
        while self.lines.iter().any(|line| line == text.as_bytes()) {
            text.push('.');
        }
        text
    }

    /// Whether `got` is every line byte for byte, once and in order, and each of
    /// `closings` once. The first closing is by the origin of the lines, so that no
    /// line may come after it. `got` holds payloads with one `\n` behind each, and
    /// no line holds a `\n`.
    pub fn compare(&self, got: &[u8], closings: &[String], who: &str) -> Result<()> {
        let mut messages: Vec<&[u8]> = got.split(|byte| *byte == b'\n').collect();
        ensure!(messages.pop() == Some(&[]), "{who}: the last message is not complete");
        let mut open: Vec<&[u8]> = closings.iter().map(String::as_bytes).collect();
        let origin = open.first().copied();
        let mut lines = self.lines.iter().enumerate();
        for message in messages {
            if let Some(at) = open.iter().position(|closing| *closing == message) {
                if let (true, Some((number, _))) = (Some(message) == origin, lines.clone().next()) {
                    bail!("{who}: line {} did not come before the origin's end", number + 1);
                }
                open.remove(at);
                continue;
            }
            match lines.next() {
                Some((_, line)) if line == message => {}
                Some((number, line)) => bail!(
                    "{who}: line {} should be {:?} but is {:?}",
                    number + 1,
                    excerpt(line),
                    excerpt(message)
                ),
                None => bail!("{who}: {:?} came after the last line", excerpt(message)),
            }
        }
        if let Some((number, line)) = lines.next() {
            bail!("{who}: line {} is missing: {:?}", number + 1, excerpt(line));
        }
        if let Some(closing) = open.first() {
            bail!("{who}: {:?} is missing", excerpt(closing));
        }
        Ok(())
    }
}

fn excerpt(bytes: &[u8]) -> String {
    let shown = String::from_utf8_lossy(&bytes[..bytes.len().min(60)]).into_owned();
    if bytes.len() > 60 { format!("{shown}… ({} bytes)", bytes.len()) } else { shown }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(lines: &[&str]) -> Input {
        let lines = lines.iter().map(|line| line.as_bytes().to_vec()).collect();
        Input { path: PathBuf::new(), lines }
    }

    fn read(content: &[u8]) -> Result<Input> {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("input");
        fs::write(&path, content).expect("written");
        Input::read(&path)
    }

    #[test]
    fn a_message_holds_as_much_here_as_in_the_product() {
        assert_eq!(MAX_PAYLOAD_BYTES, interlock_core::limits::MAX_PAYLOAD_BYTES);
    }

    #[test]
    fn lines_end_at_a_line_feed_and_nowhere_else() {
        let cases: [(&[u8], &[&[u8]]); 7] = [
            (b"", &[]),
            (b"\n", &[b""]),
            (b"a", &[b"a"]),
            (b"a\n", &[b"a"]),
            (b"a\n\n", &[b"a", b""]),
            (b"\r\n\xff\x00\n", &[b"\r", b"\xff\x00"]),
            (b"a\nb", &[b"a", b"b"]),
        ];
        for (content, lines) in cases {
            assert_eq!(read(content).expect("readable").lines(), lines, "{content:?}");
        }
    }

    #[test]
    fn a_line_that_no_message_holds_is_named() {
        let mut content = b"short\n".to_vec();
        content.extend(vec![b'x'; MAX_PAYLOAD_BYTES]);
        assert_eq!(read(&content).expect("the most is allowed").lines().len(), 2);
        content.push(b'x');
        let error = read(&content).err().expect("one byte too many").to_string();
        assert!(error.contains("line 2 has 1048577 bytes"), "{error}");
    }

    #[test]
    fn more_input_has_more_time() {
        assert_eq!(of(&[]).limit(), LEAST_LIMIT);
        let line = "x".repeat(MAX_PAYLOAD_BYTES);
        let large: Vec<&str> = (0..100).map(|_| line.as_str()).collect();
        assert!(of(&large).limit() > LEAST_LIMIT + Duration::from_secs(700));
    }

    #[test]
    fn only_every_line_once_and_in_order_is_right() {
        let input = of(&["a", "", "b"]);
        let closings = ["end 1".to_owned(), "end 2".to_owned()];
        let right = ["a\n\nb\nend 1\nend 2\n", "end 2\na\n\nb\nend 1\n", "a\nend 2\n\nb\nend 1\n"];
        for got in right {
            input.compare(got.as_bytes(), &closings, "a reader").expect(got);
        }
        let wrong = [
            ("", "line 1 is missing"),
            ("\n", "line 1 should be \"a\" but is \"\""),
            ("a\n\nb\n", "\"end 1\" is missing"),
            ("a\n\nb\nend 1\n", "\"end 2\" is missing"),
            ("a\n\nend 1\nend 2\n", "line 3 did not come before"),
            ("a\nb\n\nend 1\nend 2\n", "line 2 should be \"\""),
            ("a\n\nb\nb\nend 1\nend 2\n", "\"b\" came after the last line"),
            ("a\n\nb\nend 1\nend 2\nb\n", "\"b\" came after the last line"),
            ("a\n\nb\nend 1\nend 2\nend 2\n", "\"end 2\" came after the last line"),
            ("a\n\nb\nend 1\nend 1\nend 2\n", "\"end 1\" came after the last line"),
            ("a\n\nb\nend 1\nend 2", "not complete"),
        ];
        for (got, expected) in wrong {
            let error = input.compare(got.as_bytes(), &closings, "a reader").expect_err(got);
            assert!(error.to_string().contains(expected), "{got:?}: {error}");
        }
        of(&[]).compare(b"end 1\nend 2\n", &closings, "a reader").expect("no lines at all");
    }

    #[test]
    fn a_closing_message_is_like_no_line() {
        let plain = of(&[]).closing("demo/a", "asia");
        let input = of(&[&plain, &format!("{plain}.")]);
        assert_eq!(input.closing("demo/a", "asia"), format!("{plain}.."));
    }
}
