//! What the rounds came to: a line for each kind of fault.

use std::collections::BTreeMap;
use std::fmt;
use std::time::Duration;

use interlock_simulation::checks::Verdict;
use xtask::mesh::Mesh;

use super::faults::Fault;
use super::recorder::Counts;
use super::usage::MostUsed;

/// One kind of fault over all rounds.
#[derive(Clone, Copy, Debug, Default)]
struct Line {
    times: u64,
    counts: Counts,
    /// Of the rounds that it happened in.
    violations: u64,
    caught_up_in: Duration,
    longest: Duration,
}

/// All of them.
#[derive(Debug, Default)]
pub(crate) struct Report {
    lines: BTreeMap<Fault, Line>,
    /// Promises that were broken, with the seed of their round.
    pub(crate) violations: Vec<String>,
    lost_with_disks: u64,
    most_used: MostUsed,
}

impl Report {
    /// Looks what the processes take.
    pub(crate) fn look_at(&mut self, seed: u64, mesh: &Mesh) {
        let beyond = self.most_used.look(mesh);
        self.violations.extend(beyond.into_iter().map(|it| format!("seed {seed}: {it}")));
    }

    /// A fault happened and was healed.
    pub(crate) fn happened(&mut self, fault: Fault, counts: Counts, caught_up: Duration) {
        let line = self.lines.entry(fault).or_default();
        line.times += 1;
        line.counts += counts;
        line.caught_up_in += caught_up;
        line.longest = line.longest.max(caught_up);
    }

    /// A round was judged.
    pub(crate) fn judged(&mut self, seed: u64, faults: &[Fault], verdict: &Verdict) {
        let count = verdict.violations.len() as u64;
        for fault in faults {
            self.lines.entry(*fault).or_default().violations += count;
        }
        for violation in &verdict.violations {
            println!("  broken: {violation}");
            self.violations.push(format!("seed {seed}: {violation}"));
        }
        self.lost_with_disks += verdict.lost_with_disks;
        println!("  violations {count}, lost with disks {}", verdict.lost_with_disks);
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(
            f,
            "| fault | times | operations | acknowledged | refused | violations | caught up in, mean | longest |"
        )?;
        writeln!(f, "|---|---|---|---|---|---|---|---|")?;
        for (fault, line) in &self.lines {
            let mean = line.caught_up_in.as_secs_f64() / line.times.max(1) as f64;
            writeln!(
                f,
                "| {fault} | {} | {} | {} | {} | {} | {mean:.1} s | {:.1} s |",
                line.times,
                line.counts.begun,
                line.counts.acknowledged,
                line.counts.refused,
                line.violations,
                line.longest.as_secs_f64(),
            )?;
        }
        writeln!(f, "{}", self.most_used)?;
        write!(f, "acknowledged and lost with the last disk that had it: {}", self.lost_with_disks)
    }
}
