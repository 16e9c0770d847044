//! A seed decides everything: the same one twice gives the same trace.

use std::collections::BTreeSet;

use interlock_simulation::run::{RunOptions, run};

#[test]
fn a_seed_twice_gives_the_same_trace_hash() {
    let options = RunOptions::default();
    let mut hashes = BTreeSet::new();
    for seed in 1..=20 {
        let first = run(seed, &options, None);
        let second = run(seed, &options, None);
        assert_eq!(first.violations, [], "seed {seed}");
        assert!(first.trace_hash.is_some(), "seed {seed}");
        assert_eq!(first.trace_hash, second.trace_hash, "seed {seed}");
        hashes.insert(format!("{:?}", first.trace_hash));
    }
    assert_eq!(hashes.len(), 20, "different seeds take different ways");
}
