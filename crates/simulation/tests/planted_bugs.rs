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

const CASES: [Case; 32] = [
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
        seeds: 400,
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
        bug: PlantedBug::ProjectionAhead,
        promises: &[Promise::AcknowledgedSurvives, Promise::NothingInvented, Promise::NoIncident],
        faults: &[FaultKind::PowerCut, FaultKind::SlowSync],
        seeds: 400,
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
        seeds: 60,
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
        seeds: 700,
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
    Case {
        bug: PlantedBug::SiblingsUnknown,
        promises: &[Promise::NoIncident],
        faults: &[],
        seeds: 20,
    },
    Case {
        bug: PlantedBug::LastCountsUnshown,
        promises: &[Promise::HonestCursors],
        faults: &[],
        seeds: 40,
    },
    Case {
        bug: PlantedBug::LastCountedTwice,
        promises: &[Promise::HonestCursors],
        faults: &[],
        seeds: 10,
    },
    Case {
        bug: PlantedBug::StartedByStamp,
        promises: &[Promise::HonestCursors],
        faults: &[FaultKind::Partition, FaultKind::Delay],
        seeds: 100,
    },
    Case {
        bug: PlantedBug::OverridesForgotten,
        promises: &[Promise::HonestCursors],
        faults: &[],
        seeds: 40,
    },
];

/// The same where members leave.
const LEAVING_CASES: [Case; 5] = [
    Case {
        bug: PlantedBug::FilteredBySenderOnly,
        promises: &[Promise::Residency],
        faults: &[FaultKind::NamespaceShrink, FaultKind::ControlPlaneLost, FaultKind::Delay],
        seeds: 200,
    },
    Case {
        bug: PlantedBug::RefusedCountedAsHeld,
        promises: &[Promise::AcknowledgedSurvives, Promise::NothingLost],
        faults: &[FaultKind::NamespaceShrink, FaultKind::ControlPlaneLost, FaultKind::Delay],
        seeds: 600,
    },
    Case {
        bug: PlantedBug::PurgedBeforeHeldByAll,
        promises: &[Promise::NothingLost],
        faults: &[FaultKind::NamespaceShrink, FaultKind::Partition],
        seeds: 20,
    },
    Case {
        bug: PlantedBug::LeftOnDisk,
        promises: &[Promise::Residency],
        faults: &[FaultKind::NamespaceShrink],
        seeds: 20,
    },
    Case {
        bug: PlantedBug::DrainedNeverTakenBack,
        promises: &[Promise::NothingLost],
        faults: &[FaultKind::NamespaceShrink, FaultKind::ControlPlaneLost],
        seeds: 100,
    },
];

/// The same where logs are trimmed.
const TRIMMING_CASES: [Case; 8] = [
    Case {
        bug: PlantedBug::OldAcknowledgementBelieved,
        promises: &[Promise::NothingLost],
        faults: &[FaultKind::RestoredCopy, FaultKind::WipedDisk, FaultKind::Delay],
        seeds: 600,
    },
    Case {
        bug: PlantedBug::TrimmedBeforeHeldByAll,
        promises: &[Promise::NothingLost],
        faults: &[FaultKind::Partition],
        seeds: 10,
    },
    Case {
        bug: PlantedBug::TrimmedBeyondDecided,
        promises: &[Promise::NothingLost],
        faults: &[FaultKind::Partition],
        seeds: 10,
    },
    Case {
        bug: PlantedBug::HoleBeforeBase,
        promises: &[Promise::Convergence, Promise::DeletedStays, Promise::NothingLost],
        faults: &[FaultKind::WipedDisk, FaultKind::Crash, FaultKind::PowerCut],
        seeds: 200,
    },
    Case {
        bug: PlantedBug::TrimPointsDropped,
        promises: &[Promise::NothingLost],
        faults: &[FaultKind::WipedDisk],
        seeds: 10,
    },
    Case {
        bug: PlantedBug::DifferencesLeftAlone,
        promises: &[Promise::Convergence],
        faults: &[FaultKind::RestoredCopy, FaultKind::WipedDisk, FaultKind::PowerCut],
        seeds: 800,
    },
    Case {
        bug: PlantedBug::HolesPassedOver,
        promises: &[Promise::HonestCursors],
        faults: &[FaultKind::Partition, FaultKind::WipedDisk],
        seeds: 400,
    },
    Case {
        bug: PlantedBug::SurvivorsUnsynced,
        promises: &[Promise::NoIncident, Promise::NothingLost],
        faults: &[FaultKind::Crash, FaultKind::PowerCut, FaultKind::SlowSync],
        seeds: 100,
    },
];

fn all_cases() -> impl Iterator<Item = (&'static Case, bool)> {
    let without = CASES.iter().map(|case| (case, false));
    let without = without.chain(LEAVING_CASES.iter().map(|case| (case, false)));
    without.chain(TRIMMING_CASES.iter().map(|case| (case, true)))
}

fn restrictions(case: &Case, trimming: bool) -> Restrictions {
    Restrictions {
        always: case.faults.iter().copied().collect(),
        allowed: BTreeSet::new(),
        trimming: Some(trimming),
        large: Some(false),
        ..Restrictions::default()
    }
}

fn seed_that_finds(case: &Case, trimming: bool) -> Option<u64> {
    let restrictions = restrictions(case, trimming);
    let options = RunOptions { restrictions, planted: Some(case.bug) };
    (1..=case.seeds).find(|seed| {
        let outcome = run(*seed, &options, None);
        outcome.violations.iter().any(|violation| case.promises.contains(&violation.promise))
    })
}

#[test]
fn every_planted_bug_is_found() {
    let mut not_found = Vec::new();
    for (case, trimming) in all_cases() {
        match seed_that_finds(case, trimming) {
            Some(seed) => println!("{:?} by seed {seed}", case.bug),
            None => not_found.push(case.bug),
        }
    }
    assert_eq!(not_found, [], "not found within the stated seeds");
}

#[test]
fn every_bug_has_a_case() {
    let mut cases: Vec<PlantedBug> = all_cases().map(|(case, _)| case.bug).collect();
    // `exhaustive.rs` has this one: a crash has to come between two logs of one origin.
    cases.push(PlantedBug::ParentsUnchecked);
    assert_eq!(cases, PlantedBug::ALL);
}

/// What finds the bugs finds nothing where there is none.
#[test]
fn the_same_scenarios_are_clean_without_a_bug() {
    for (case, trimming) in all_cases() {
        let restrictions = restrictions(case, trimming);
        let options = RunOptions { restrictions, planted: None };
        for seed in 1..=case.seeds.min(10) {
            let outcome = run(seed, &options, None);
            assert_eq!(outcome.violations, [], "{:?}, seed {seed}", case.faults);
        }
    }
}
