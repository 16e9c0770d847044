//! Reading what is stored again.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicBool, Ordering};

use interlock_core::clock::{HybridTime, WallTime};
use interlock_core::identity::{ChainHash, Mark, NamespaceNumber};
use interlock_core::replication::frames::Hole;

use super::{TestDisk, append, m_id, removing};
use crate::contract::LogStorage;
use crate::scrubbing::{ScrubFinding, ScrubPosition};
use crate::test_logs::{TestLog, log_name};

/// Reads everything in steps of so many bytes: how many steps it took, what was read,
/// and what was found.
pub(crate) fn scrub_all(
    storage: &impl LogStorage,
    step_bytes: u64,
) -> (usize, u64, Vec<ScrubFinding>) {
    let (mut steps, mut bytes, mut findings) = (0, 0, Vec::new());
    let mut next = Some(ScrubPosition::default());
    while let Some(from) = next {
        let step = storage.scrub(&from, step_bytes).expect("the storage goes on");
        assert_ne!(step.next.as_ref(), Some(&from), "it moves");
        (steps, bytes) = (steps + 1, bytes + step.bytes);
        findings.extend(step.finding);
        next = step.next;
    }
    (steps, bytes, findings)
}

/// Trimmed logs, one with a hole, and projections; in one step or many, and what is
/// appended and not yet durable is left out.
pub(crate) fn a_scrub_reads_everything_that_is_stored<D: TestDisk>() {
    let mut disk = D::new();
    let (storage, _) = disk.open();
    assert_eq!(scrub_all(&storage, 1_000).2, []);
    let (_, mut second, stays) = removing::fill(&storage);
    let hole = Hole {
        log: stays.name(),
        from: stays.mark().m_id.next(),
        through: Mark { m_id: m_id(1_000), hash: ChainHash::EMPTY.then(b"trimmed elsewhere") },
        stamp: HybridTime::ZERO,
    };
    storage.cross_hole(WallTime::new(2_000), None, &hole).expect("crossed");
    storage.sync().expect("synced");
    storage.store_checkpoint(&[], &[]).expect("stored");

    let stored = [1, 2].map(|number| storage.log_bytes(NamespaceNumber::new(number)));
    let stored: u64 = stored.into_iter().sum();
    let (few, all, findings) = scrub_all(&storage, u64::MAX);
    assert_eq!((few, findings), (1, vec![]));
    assert!(all > stored, "{all} of {stored}");
    let (many, again, findings) = scrub_all(&storage, 1_000);
    assert_eq!((again, findings), (all, vec![]));
    assert!(many > 20, "{many}");

    append(&storage, &mut second, 3_000);
    assert_eq!(scrub_all(&storage, 10_000).2, []);
    disk.kill(storage);
    let (storage, recovery) = disk.open();
    assert_eq!(recovery.logs.len(), 3);
    let (_, after, findings) = scrub_all(&storage, 10_000);
    assert_eq!(findings, []);
    assert!(after > all + 3_000 * 20, "what the opening found is read: {after}");
    assert!(storage.scrub(&ScrubPosition::default(), 1).expect("it goes on").bytes > 0);
}

/// A step's position stays good when its log is trimmed beyond it, grows, or is gone.
pub(crate) fn a_scrub_goes_on_while_logs_change<D: TestDisk>() {
    let disk = D::new();
    let (storage, _) = disk.open();
    let mut log = TestLog::new(log_name(1, 1, 7));
    append(&storage, &mut log, 2_000);
    storage.sync().expect("synced");
    let mut next = Some(ScrubPosition::default());
    let mut steps = 0;
    while let Some(from) = next {
        let step = storage.scrub(&from, 5_000).expect("the storage goes on");
        assert_eq!(step.finding, None);
        next = step.next;
        steps += 1;
        if steps < 10 {
            append(&storage, &mut log, 50);
            storage.sync().expect("synced");
            storage.trim(&log.name(), m_id(steps * 150)).expect("trimmed");
        }
    }
    assert!(steps > 10, "{steps}");
    let inside = storage.scrub(&ScrubPosition::default(), 5_000).expect("it goes on");
    storage.remove_namespace(log.name().namespace).expect("removed");
    let step = storage.scrub(&inside.next.expect("there is more"), u64::MAX);
    let step = step.expect("the storage goes on");
    assert_eq!((step.finding, step.next), (None, None));
}

/// A scrub and a reader go over a log again and again while it grows and is trimmed:
/// what is trimmed under them is no damage.
pub(crate) fn readers_beside_a_trim_miss_nothing<D: TestDisk>() {
    let disk = D::new();
    let (storage, _) = disk.open();
    let storage = &storage;
    let mut log = TestLog::new(log_name(1, 1, 7));
    append(storage, &mut log, 300);
    storage.sync().expect("synced");
    let name = log.name();
    let is_over = AtomicBool::new(false);
    std::thread::scope(|threads| {
        threads.spawn(|| {
            while !is_over.load(Ordering::Acquire) {
                assert_eq!(scrub_all(storage, 3_000).2, []);
            }
        });
        threads.spawn(|| {
            while !is_over.load(Ordering::Acquire) {
                let read = storage.read(&name, m_id(1), m_id(u64::MAX), 3_000);
                assert!(!read.expect("it is held from its floor on").is_empty());
            }
        });
        let written = catch_unwind(AssertUnwindSafe(|| {
            for round in 1..=200 {
                append(storage, &mut log, 100);
                storage.sync().expect("synced");
                storage.trim(&name, m_id(round * 100)).expect("trimmed");
            }
        }));
        is_over.store(true, Ordering::Release);
        written.expect("the writer goes on");
    });
}
