//! The smallest worlds, wholly or to a depth; and bugs that such a search finds.

use interlock_simulation::exhaustive::{SmallWorld, WORLDS, search};
use interlock_simulation::planted_bug::PlantedBug;

fn world(name: &str) -> &'static SmallWorld {
    WORLDS.iter().find(|world| world.name == name).expect("a world of that name")
}

#[test]
fn the_smallest_worlds_come_right() {
    for (name, depth) in [
        ("restored", 64),
        ("power-cut", 8),
        ("wiped", 10),
        ("subscriber", 6),
        ("trimmed", 64),
        ("trimmed-and-restored", 6),
    ] {
        let report = search(world(name), depth, None, |_, _| {});
        println!("{name}: {} states, depth {}", report.states, report.depth);
        assert!(report.violation.is_none(), "{name}: {:?}", report.violation);
        assert!(report.states > 100, "{name} has only {} states", report.states);
    }
}

#[test]
fn planted_bugs_are_found_with_the_path_to_them() {
    let cases = [
        (PlantedBug::IncarnationReused, "restored", 9),
        (PlantedBug::OldAcknowledgementBelieved, "late-acknowledgement", 11),
        (PlantedBug::UnknownTipsForgotten, "subscriber", 9),
        (PlantedBug::ForkTailDropped, "subscriber-of-forks", 12),
        (PlantedBug::DirectoryNotReplayed, "power-cut", 9),
        (PlantedBug::ParentsUnchecked, "killed-then-cut", 11),
        (PlantedBug::TrimmedBeforeHeldByAll, "trimmed", 8),
        (PlantedBug::HoleBeforeBase, "trimmed", 10),
    ];
    let mut missed = Vec::new();
    for (bug, name, depth) in cases {
        let report = search(world(name), depth, Some(bug), |_, _| {});
        match report.violation {
            Some(violation) => {
                println!("{bug:?} in {name} after {} states: {}", report.states, violation.what);
                assert!(!violation.path.is_empty());
            }
            None => missed.push((bug, report.states)),
        }
    }
    assert_eq!(missed, [], "not found");
}

/// The same world twice gives the same states.
#[test]
fn a_search_is_repeatable() {
    let count = || {
        let report = search(world("restored"), 6, None, |_, _| {});
        (report.states, report.transitions)
    };
    assert_eq!(count(), count());
}
