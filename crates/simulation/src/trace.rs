//! What happened, as one line an event: hashed always, shown when asked for.

use std::fmt::{self, Write as _};

use interlock_core::clock::Moment;
use xxhash_rust::xxh3::Xxh3;

/// The hash of all lines so far.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct TraceHash(u128);

impl fmt::Display for TraceHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:032x}", self.0)
    }
}

impl fmt::Debug for TraceHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// Where a line of the trace goes, beside the hash.
pub type Listener = Box<dyn FnMut(&str)>;

/// The trace of one run.
pub struct Trace {
    hasher: Xxh3,
    line: String,
    lines: u64,
    listener: Option<Listener>,
}

impl fmt::Debug for Trace {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Trace").field("lines", &self.lines).finish_non_exhaustive()
    }
}

impl Trace {
    /// An empty trace.
    pub const fn new(listener: Option<Listener>) -> Self {
        Self { hasher: Xxh3::new(), line: String::new(), lines: 0, listener }
    }

    /// Adds a line.
    pub fn note(&mut self, at: Moment, event: impl fmt::Display) {
        self.line.clear();
        let micros = at.since_start().as_micros();
        let (seconds, rest) = (micros / 1_000_000, micros % 1_000_000);
        writeln!(self.line, "{seconds:>4}.{rest:06} {event}").expect("a string takes everything");
        self.hasher.update(self.line.as_bytes());
        self.lines += 1;
        if let Some(listener) = &mut self.listener {
            listener(self.line.trim_end());
        }
    }

    /// How many lines there are.
    pub const fn lines(&self) -> u64 {
        self.lines
    }

    /// The hash of all lines.
    pub fn hash(&self) -> TraceHash {
        TraceHash(self.hasher.digest128())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_hash_depends_on_every_line_and_its_time() {
        let hash = |lines: &[(u64, &str)]| {
            let mut trace = Trace::new(None);
            for (micros, line) in lines {
                trace.note(Moment::new(std::time::Duration::from_micros(*micros)), line);
            }
            trace.hash()
        };
        let first = hash(&[(1, "a"), (2, "b")]);
        assert_eq!(first, hash(&[(1, "a"), (2, "b")]));
        assert_ne!(first, hash(&[(1, "a"), (3, "b")]));
        assert_ne!(first, hash(&[(1, "a"), (2, "c")]));
        assert_ne!(first, hash(&[(1, "a")]));
    }
}
