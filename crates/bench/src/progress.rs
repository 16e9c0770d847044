//! How far a measurement is, on a terminal and on stderr only.

use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressStyle};

/// A bar that goes by time or by a count.
#[derive(Clone, Debug)]
pub struct Progress {
    bar: ProgressBar,
}

impl Progress {
    /// For what ends after a count of messages.
    pub fn counting(what: &'static str, total: u64) -> Self {
        let style = "{msg} {wide_bar} {human_pos}/{human_len} ({per_sec}, {eta} left)";
        Self::new(what, total, style)
    }

    /// For what ends after a time: advanced by [`Self::tick`].
    pub fn timed(what: &'static str, time: Duration) -> Self {
        let total = u64::try_from(time.as_millis()).unwrap_or(u64::MAX);
        Self::new(what, total, "{msg} {wide_bar} {elapsed} ({eta} left)")
    }

    fn new(what: &'static str, total: u64, style: &str) -> Self {
        // Hidden where stderr is no terminal.
        let bar = ProgressBar::new(total);
        bar.set_style(ProgressStyle::with_template(style).expect("a template of ours"));
        bar.set_message(what);
        Self { bar }
    }

    /// So many are done.
    pub fn set(&self, done: u64) {
        self.bar.set_position(done);
    }

    /// It began then.
    pub fn tick(&self, begun: Instant) {
        self.set(u64::try_from(begun.elapsed().as_millis()).unwrap_or(u64::MAX));
    }

    /// It is over: the bar goes.
    pub fn finish(&self) {
        self.bar.finish_and_clear();
    }
}
