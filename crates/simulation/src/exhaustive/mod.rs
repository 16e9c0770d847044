//! Every interleaving of small worlds over the real core and the memory storage.
//!
//! A world has two or three nodes, a few messages, a few faults, and a network
//! that carries real frames and facts, in any order and as late as it likes. What
//! happens one after another is a path; the search goes over all paths, and over
//! each state once, told by a digest of all disks, memories and the network. From
//! every state it asks whether a run without further faults comes right: all
//! members equal, all that was durable anywhere present everywhere, and the
//! subscriber's cursor honest.
//!
//! The core cannot be copied, so a state is its path, walked again.

mod judgement;
mod node;
mod step;
mod subscriber;
mod trimming;
mod world;
mod worlds;

pub use step::Step;
pub use worlds::{SmallWorld, WORLDS};

use std::collections::{BTreeSet, VecDeque};
use std::time::{Duration, Instant};

use crate::planted_bug::PlantedBug;

use world::World;

/// What came of a search.
#[derive(Clone, Debug)]
pub struct Report {
    /// The world's name.
    pub world: &'static str,
    /// Different states.
    pub states: u64,
    /// Steps from a state to a state.
    pub transitions: u64,
    /// The longest path to a new state.
    pub depth: usize,
    /// Whether all states were reached, or only those within the depth asked for.
    pub is_complete: bool,
    /// How long it took.
    pub elapsed: Duration,
    /// What is broken, and the path that leads there.
    pub violation: Option<Violation>,
}

/// A state that does not come right.
#[derive(Clone, Debug)]
pub struct Violation {
    /// What is wrong.
    pub what: String,
    /// How it came about.
    pub path: Vec<Step>,
}

/// Searches a world to a depth.
pub fn search(
    small: &'static SmallWorld,
    depth: usize,
    planted: Option<PlantedBug>,
    mut progress: impl FnMut(u64, usize),
) -> Report {
    let started = Instant::now();
    let mut report = Report {
        world: small.name,
        states: 1,
        transitions: 0,
        depth: 0,
        is_complete: true,
        elapsed: Duration::ZERO,
        violation: None,
    };
    let first = World::new(small, planted);
    let mut seen = BTreeSet::from([first.digest()]);
    let mut frontier: VecDeque<Vec<Step>> = VecDeque::from([Vec::new()]);
    while let Some(path) = frontier.pop_front() {
        let at = World::walk(small, planted, &path);
        for step in at.steps() {
            report.transitions += 1;
            let mut next = World::walk(small, planted, &path);
            next.take(step);
            if !seen.insert(next.digest()) {
                continue;
            }
            report.states += 1;
            progress(report.states, path.len() + 1);
            let mut path = path.clone();
            path.push(step);
            report.depth = report.depth.max(path.len());
            if let Some(what) = next.verdict() {
                report.violation = Some(Violation { what, path });
                report.elapsed = started.elapsed();
                return report;
            }
            if path.len() < depth {
                frontier.push_back(path);
            } else {
                report.is_complete = false;
            }
        }
    }
    report.elapsed = started.elapsed();
    report
}
