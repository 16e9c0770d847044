//! One seed, from the beginning to the verdict.

use std::panic::{self, AssertUnwindSafe};

use crate::checks::{self, Promise, Violation};
use crate::planted_bug::PlantedBug;
use crate::scenario::Restrictions;
use crate::statistics::Statistics;
use crate::trace::{Listener, TraceHash};
use crate::world::World;

/// What a run is to be.
#[derive(Clone, Debug, Default)]
pub struct RunOptions {
    /// What the caller wants of the scenario.
    pub restrictions: Restrictions,
    /// A bug for the driver to commit.
    pub planted: Option<PlantedBug>,
}

/// What came of a run.
#[derive(Clone, Debug)]
pub struct Outcome {
    /// The hash of everything that happened; none if the run ended in a panic.
    pub trace_hash: Option<TraceHash>,
    /// Promises that were broken.
    pub violations: Vec<Violation>,
    /// What was counted.
    pub statistics: Statistics,
}

/// Runs a seed.
pub fn run(seed: u64, options: &RunOptions, listener: Option<Listener>) -> Outcome {
    let RunOptions { restrictions, planted } = options;
    let world = AssertUnwindSafe(|| {
        let remains = World::new(seed, restrictions, *planted, listener).run();
        let verdict = checks::check(&remains.history, &remains.final_state);
        let mut statistics = remains.statistics;
        statistics.lost_with_disks = verdict.lost_with_disks;
        statistics.accepted_beside = verdict.accepted_beside;
        let trace_hash = Some(remains.trace.hash());
        Outcome { trace_hash, violations: verdict.violations, statistics }
    });
    panic::catch_unwind(world).unwrap_or_else(|cause| {
        let text = cause
            .downcast_ref::<String>()
            .cloned()
            .or_else(|| cause.downcast_ref::<&str>().map(|text| (*text).to_owned()))
            .unwrap_or_default();
        let detail = format!("a rule of the code is broken: {text}");
        let violation = Violation { promise: Promise::NoIncident, detail };
        let statistics = Statistics::default();
        Outcome { trace_hash: None, violations: vec![violation], statistics }
    })
}
