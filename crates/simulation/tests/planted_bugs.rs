//! The checkers are checked: each bug that the driver commits on request is
//! found, within a stated number of seeds, and by the promise that it breaks.

use std::collections::BTreeSet;

use interlock_simulation::checks::Promise;
use interlock_simulation::faults::FaultKind;
use interlock_simulation::planted_bug::PlantedBug;
use interlock_simulation::run::{RunOptions, run};
use interlock_simulation::scenario::Restrictions;

/// A bug, what finds it, and how soon.
struct Case {
    bug: PlantedBug,
    /// One of these is broken.
    promises: &'static [Promise],
    /// The faults that bring it out.
    faults: &'static [FaultKind],
    /// Within so many seeds.
    seeds: u64,
}

const CASES: [Case; 26] = [
    Case {
        bug: PlantedBug::AcknowledgedBeforeSync,
        promises: &[Promise::AcknowledgedSurvives],
        faults: &[FaultKind::Crash, FaultKind::SlowSync],
        seeds: 40,
    },
    Case {
        bug: PlantedBug::RepeatAnsweredBeforeSync,
        promises: &[Promise::AcknowledgedSurvives],
        faults: &[FaultKind::Crash, FaultKind::SlowSync, FaultKind::PowerCut],
        seeds: 1000,
    },
    Case {
        bug: PlantedBug::AppendedToldAsHeld,
        promises: &[Promise::AcknowledgedSurvives],
        faults: &[FaultKind::Crash, FaultKind::SlowSync],
        seeds: 50,
    },
    Case {
        bug: PlantedBug::WalkResultIgnored,
        promises: &[Promise::NoIncident],
        faults: &[FaultKind::Crash, FaultKind::SlowSync],
        seeds: 20,
    },
    Case {
        bug: PlantedBug::MarkFromLastKey,
        promises: &[Promise::NoIncident],
        faults: &[FaultKind::Crash, FaultKind::SlowSync],
        seeds: 100,
    },
    Case {
        bug: PlantedBug::IncarnationReused,
        promises: &[Promise::OneContent],
        faults: &[FaultKind::RestoredCopy],
        seeds: 20,
    },
    Case {
        bug: PlantedBug::SessionsNotReplayed,
        promises: &[Promise::AppliedOnce],
        faults: &[FaultKind::Crash],
        seeds: 1000,
    },
    Case {
        bug: PlantedBug::DirectoryNotReplayed,
        promises: &[Promise::Convergence],
        faults: &[FaultKind::Crash],
        seeds: 20,
    },
    Case {
        bug: PlantedBug::TombstonesForgotten,
        promises: &[Promise::DeletedStays],
        faults: &[FaultKind::Crash],
        seeds: 20,
    },
    Case { bug: PlantedBug::AppliedInReverse, promises: &[Promise::Order], faults: &[], seeds: 5 },
    Case {
        bug: PlantedBug::PayloadAltered,
        promises: &[Promise::NothingInvented],
        faults: &[],
        seeds: 5,
    },
    Case {
        bug: PlantedBug::TimersIgnored,
        promises: &[Promise::NoIncident],
        faults: &[FaultKind::StreamBreak, FaultKind::OneWayPartition, FaultKind::Crash],
        seeds: 200,
    },
    Case {
        bug: PlantedBug::FramesRepeated,
        promises: &[Promise::NoIncident],
        faults: &[],
        seeds: 5,
    },
    Case {
        bug: PlantedBug::ReadyBeforeBackfill,
        promises: &[Promise::WholeState],
        faults: &[FaultKind::WipedDisk],
        seeds: 10,
    },
    Case {
        bug: PlantedBug::FactsNeverRetired,
        promises: &[Promise::NoIncident],
        faults: &[FaultKind::Crash],
        seeds: 10,
    },
    Case {
        bug: PlantedBug::FencingIgnored,
        promises: &[Promise::OneHolder],
        faults: &[FaultKind::SecondProcess],
        seeds: 5,
    },
    Case {
        bug: PlantedBug::TailAbandoned,
        promises: &[Promise::NothingLost],
        faults: &[FaultKind::SecondProcess, FaultKind::OneWayPartition, FaultKind::Partition],
        seeds: 5,
    },
    Case {
        bug: PlantedBug::ResidencyIgnored,
        promises: &[Promise::Residency],
        faults: &[],
        seeds: 10,
    },
    Case {
        bug: PlantedBug::UnseenOriginSkipped,
        promises: &[Promise::HonestCursors],
        faults: &[],
        seeds: 10,
    },
    Case {
        bug: PlantedBug::ForkTailDropped,
        promises: &[Promise::HonestCursors],
        faults: &[FaultKind::RestoredCopy],
        seeds: 60,
    },
    Case {
        bug: PlantedBug::UnknownTipsForgotten,
        promises: &[Promise::HonestCursors],
        faults: &[FaultKind::Partition, FaultKind::Crash],
        seeds: 60,
    },
    Case {
        bug: PlantedBug::UntilJudgedUnknown,
        promises: &[Promise::HonestCursors],
        faults: &[FaultKind::WipedDisk, FaultKind::Partition, FaultKind::Crash],
        seeds: 400,
    },
    Case {
        bug: PlantedBug::ParentsReadLast,
        promises: &[Promise::HonestCursors],
        faults: &[FaultKind::Crash],
        seeds: 20,
    },
    Case {
        bug: PlantedBug::SaidAgainShownAgain,
        promises: &[Promise::HonestCursors],
        faults: &[FaultKind::WipedDisk],
        seeds: 20,
    },
    Case {
        bug: PlantedBug::RepeatsUndeclared,
        promises: &[Promise::AppliedOnce],
        faults: &[FaultKind::Crash],
        seeds: 10,
    },
    Case {
        bug: PlantedBug::OwnMarksIgnored,
        promises: &[Promise::NoIncident],
        faults: &[FaultKind::ResumedSnapshot],
        seeds: 20,
    },
];

fn seed_that_finds(case: &Case) -> Option<u64> {
    let restrictions = Restrictions {
        always: case.faults.iter().copied().collect(),
        allowed: BTreeSet::new(),
        nodes: None,
        moving_publishers: None,
    };
    let options = RunOptions { restrictions, planted: Some(case.bug) };
    (1..=case.seeds).find(|seed| {
        let outcome = run(*seed, &options, None);
        outcome.violations.iter().any(|violation| case.promises.contains(&violation.promise))
    })
}

#[test]
fn every_planted_bug_is_found() {
    let mut not_found = Vec::new();
    for case in &CASES {
        match seed_that_finds(case) {
            Some(seed) => println!("{:?} by seed {seed}", case.bug),
            None => not_found.push(case.bug),
        }
    }
    assert_eq!(not_found, [], "not found within the stated seeds");
}

#[test]
fn every_bug_has_a_case() {
    let mut cases: Vec<PlantedBug> = CASES.iter().map(|case| case.bug).collect();
    // `exhaustive.rs` has this one.
    cases.push(PlantedBug::OldAcknowledgementBelieved);
    assert_eq!(cases, PlantedBug::ALL);
}

/// What finds the bugs finds nothing where there is none.
#[test]
fn the_same_scenarios_are_clean_without_a_bug() {
    for case in &CASES {
        let restrictions = Restrictions {
            always: case.faults.iter().copied().collect(),
            allowed: BTreeSet::new(),
            nodes: None,
            moving_publishers: None,
        };
        let options = RunOptions { restrictions, planted: None };
        for seed in 1..=case.seeds.min(10) {
            let outcome = run(seed, &options, None);
            assert_eq!(outcome.violations, [], "{:?}, seed {seed}", case.faults);
        }
    }
}
