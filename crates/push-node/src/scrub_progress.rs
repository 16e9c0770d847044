//! How the reading of all stored data goes, for status and metrics.

use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use interlock_core::clock::WallTime;
use interlock_rpc::v1;
use interlock_telemetry::metrics::Registry;

use crate::context::NodeContext;
use crate::origin_news::millis;

/// How it goes now.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ScrubProgress {
    /// Passes over everything that have ended since this node opened its database.
    pub passes: u64,
    /// Bytes that the present pass has read; 0 between passes.
    pub read_bytes: u64,
    /// What the present pass will read, about: what the last one did, and before the
    /// first has ended what the logs take.
    pub expected_bytes: u64,
    /// When the last pass ended.
    pub last_finished: Option<WallTime>,
    /// How long it took.
    pub last_took: Duration,
    /// Logs and tables whose damage the last pass found, or the present one.
    pub findings: u64,
}

/// How it goes, shared.
#[derive(Debug, Default)]
pub struct ScrubBoard {
    progress: Mutex<ScrubProgress>,
}

impl ScrubBoard {
    /// How it goes now.
    pub fn progress(&self) -> ScrubProgress {
        *self.lock()
    }

    /// Changes how it goes.
    pub fn update(&self, change: impl FnOnce(&mut ScrubProgress)) {
        change(&mut self.lock());
    }

    fn lock(&self) -> MutexGuard<'_, ScrubProgress> {
        self.progress.lock().expect("no holder of the lock of the scrubbing's progress panics")
    }
}

/// What `GetStatus` tells of it.
pub fn status(context: &NodeContext) -> v1::ScrubStatus {
    let ScrubProgress { passes, read_bytes, expected_bytes, last_finished, last_took, findings } =
        context.scrub.progress();
    v1::ScrubStatus {
        bytes_per_second: context.config.limits.scrub_bytes_per_second,
        passes,
        read_bytes,
        expected_bytes,
        last_finished: last_finished.map_or(0, WallTime::get),
        last_took_milliseconds: millis(last_took),
        findings,
    }
}

/// Registers its gauges. They hold the node by a weak hand only.
pub fn register_gauges(registry: &Registry, context: &Arc<NodeContext>) {
    let gauge = |name, help, observe: fn(ScrubProgress) -> f64| {
        let context = Arc::downgrade(context);
        let progress = move || context.upgrade().map(|context| context.scrub.progress());
        registry.observed_gauge(name, help, move || progress().map_or(0.0, observe));
    };
    gauge(
        "scrub_progress",
        "How much of the present pass over stored data is done, 0 to 1",
        |progress| (progress.read_bytes as f64 / progress.expected_bytes.max(1) as f64).min(1.0),
    );
    gauge("scrub_last_pass_seconds", "How long the last pass over stored data took", |progress| {
        progress.last_took.as_secs_f64()
    });
    gauge(
        "scrub_last_finished_timestamp_seconds",
        "When the last pass over stored data ended, since 1970; 0 before the first",
        |progress| progress.last_finished.map_or(0.0, |at| at.get() as f64 / 1000.0),
    );
}
