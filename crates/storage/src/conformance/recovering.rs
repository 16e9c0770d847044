//! Closing, dying and opening again (METHOD M12).

use interlock_core::identity::{Incarnation, MemberOpening, NodeNumber};

use super::{TestDisk, append, check_log, check_recovery, m_id};
use crate::contract::LogStorage;
use crate::opening_outcome::{OpenError, OpenOptions, Recovery};
use crate::test_logs::{TestLog, log_name};

pub(crate) fn an_empty_disk_has_nothing<D: TestDisk>() {
    let disk = D::new();
    for _ in 0..2 {
        assert_eq!(disk.open().1, Recovery::default());
    }
}

/// An opening is durable before anything is accepted under it.
pub(crate) fn openings_follow_one_another<D: TestDisk>() {
    let mut disk = D::new();
    let mut opened_from = None;
    for bits in [9, 3, 6, 1] {
        let (storage, recovery) = disk.open();
        assert_eq!(recovery.opened_from, opened_from);
        let opened_as = opened_from.map(|_| NodeNumber::new(1));
        assert_eq!(recovery.opened_as, opened_as);
        let incarnation = Incarnation::new(bits).expect("not zero");
        let opening = MemberOpening { node: NodeNumber::new(1), incarnation, opened_from };
        storage.record_opening(opening).expect("recorded");
        opened_from = Some(incarnation);
        disk.kill(storage);
    }
}

pub(crate) fn logs_come_back_after_a_close<D: TestDisk>() {
    let disk = D::new();
    let mut logs = [1, 2, 3].map(|origin| TestLog::new(log_name(1, origin, 7)));
    for round in 0..6 {
        let (storage, recovery) = disk.open();
        let [first, second, third] = &logs;
        check_recovery(&recovery, &[first, second, third][..round.min(3)]);
        for log in &mut logs[..(round + 1).min(3)] {
            check_log_or_new(&storage, log);
            append(&storage, log, 150 * round + 1);
        }
        if round % 2 == 0 {
            storage.sync().expect("synced");
            storage.store_checkpoint(&[], &[]).expect("stored");
            append(&storage, &mut logs[0], 3);
        }
    }
}

fn check_log_or_new(storage: &impl LogStorage, log: &TestLog) {
    if !log.entries.is_empty() {
        check_log(storage, log, log.start());
    }
}

/// METHOD M12: after a kill in the middle the log goes on where it was.
pub(crate) fn logs_come_back_after_a_kill<D: TestDisk>() {
    let mut disk = D::new();
    let (mut storage, _) = disk.open();
    let mut logs = [1, 2].map(|origin| TestLog::new(log_name(1, origin, 7)));
    for round in 0..6 {
        for log in &mut logs {
            append(&storage, log, 100 * round + 7);
        }
        match round {
            1 => _ = storage.sync().expect("synced"),
            3 => {
                storage.sync().expect("synced");
                storage.store_checkpoint(&[], &[]).expect("stored");
                append(&storage, &mut logs[1], 300);
            }
            _ => {}
        }
        disk.kill(storage);
        let (opened, recovery) = disk.open();
        check_recovery(&recovery, &[&logs[0], &logs[1]]);
        for log in &logs {
            check_log(&opened, log, log.start());
        }
        storage = opened;
    }
}

/// A kill leaves unsynced writes in the page cache. The opening serves them, so
/// they must be durable: recorded as such, and taken by a checkpoint.
pub(crate) fn what_a_kill_leaves_is_made_durable<D: TestDisk>() {
    let mut disk = D::new();
    let (storage, _) = disk.open();
    let mut log = TestLog::new(log_name(1, 1, 7));
    append(&storage, &mut log, 50);
    disk.kill(storage);
    let (storage, _) = disk.open();
    storage.store_checkpoint(&[(log.name(), log.mark())], &[]).expect("all of it is durable");
}

pub(crate) fn a_second_opening_is_refused<D: TestDisk>() {
    let disk = D::new();
    let (storage, _) = disk.open();
    let second = disk.open_with(OpenOptions::default());
    assert!(matches!(second, Err(OpenError::Locked { .. })));
    let mut log = TestLog::new(log_name(1, 1, 7));
    append(&storage, &mut log, 5);
    drop(storage);
    check_recovery(&disk.open().1, &[&log]);
}

pub(crate) fn parents_are_checked_over_openings<D: TestDisk>() {
    let mut disk = D::new();
    let mut logs: Vec<TestLog> = Vec::new();
    for incarnation in 1..6 {
        let (storage, recovery) = disk.open();
        check_recovery(&recovery, &logs.iter().collect::<Vec<_>>());
        let parents = logs.iter().map(TestLog::tip).next_back().into_iter().collect();
        // The lowest incarnation last, so that order by name is not order in time.
        let mut log = TestLog::after(log_name(1, 1, 10 - incarnation), parents);
        append(&storage, &mut log, 200);
        logs.push(log);
        if incarnation % 2 == 0 {
            storage.sync().expect("synced");
            storage.store_checkpoint(&[], &[]).expect("stored");
        }
        disk.kill(storage);
    }
    assert_eq!(logs.last().expect("some").mark().m_id, m_id(1_000));
}

/// What a log's number once meant is never read as another log's.
pub(crate) fn log_numbers_are_not_given_twice<D: TestDisk>() {
    let disk = D::new();
    let mut logs = Vec::new();
    for origin in 1..20 {
        let (storage, _) = disk.open();
        let mut pair = [origin, origin + 100].map(|origin| TestLog::new(log_name(1, origin, 7)));
        for log in &mut pair {
            append(&storage, log, 3);
        }
        logs.extend(pair);
        for log in &logs {
            check_log(&storage, log, log.start());
        }
    }
}
