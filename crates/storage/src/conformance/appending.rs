//! Appending and reading.

use interlock_core::clock::WallTime;
use interlock_core::limits::CHAIN_HASH_INTERVAL;

use super::{NO_LIMIT, TestDisk, append, append_at, check_log, m_id};
use crate::contract::{AppendBatch, LogStorage, StorageError};
use crate::test_logs::{TestLog, log_name};

pub(crate) fn what_is_appended_can_be_read<D: TestDisk>() {
    let disk = D::new();
    let (storage, _) = disk.open();
    let mut logs = [(1, 1), (1, 2), (2, 1)].map(|(n, o)| TestLog::new(log_name(n, o, 7)));
    for round in 1..40 {
        // Logs interleaved within a batch, and batches of different sizes.
        let mut entries = Vec::new();
        for _ in 0..round {
            entries.extend(logs.iter_mut().map(|log| log.push(round)));
        }
        let ticket = storage.append(&AppendBatch::new(WallTime::new(1), entries));
        assert_eq!(ticket.expect("appended").get(), round as u64);
    }
    for log in &logs {
        check_log(&storage, log, log.start());
    }
    let ticket = storage.sync().expect("synced");
    assert_eq!(ticket.get(), 39);
    let empty = AppendBatch::new(WallTime::new(1), Vec::new());
    assert_eq!(storage.append(&empty), Ok(ticket));
}

pub(crate) fn reads_are_bounded<D: TestDisk>() {
    let disk = D::new();
    let (storage, _) = disk.open();
    let mut log = TestLog::new(log_name(1, 1, 7));
    append(&storage, &mut log, 600);
    let name = log.name();
    let numbers = |from, through, max_bytes| {
        let read = storage.read(&name, m_id(from), m_id(through), max_bytes).expect("readable");
        read.into_iter().map(|message| message.m_id.get()).collect::<Vec<_>>()
    };
    assert_eq!(numbers(1, 600, NO_LIMIT), (1..=600).collect::<Vec<_>>());
    assert_eq!(numbers(0, 2, NO_LIMIT), [1, 2]);
    assert_eq!(numbers(255, 258, NO_LIMIT), [255, 256, 257, 258]);
    assert_eq!(numbers(300, 300, NO_LIMIT), [300]);
    assert_eq!(numbers(599, 700, NO_LIMIT), [599, 600]);
    assert_eq!(numbers(601, 700, NO_LIMIT), [0; 0]);
    assert_eq!(numbers(10, 9, NO_LIMIT), [0; 0]);
    assert_eq!(numbers(5, 600, 0), [5]);
    let two = log.entry(m_id(5)).bytes.len() + log.entry(m_id(6)).bytes.len();
    assert_eq!(numbers(5, 600, two), [5, 6]);
    assert_eq!(numbers(5, 600, two - 1), [5]);
    let unknown = log_name(1, 1, 8);
    let refused = storage.read(&unknown, m_id(1), m_id(1), NO_LIMIT);
    assert_eq!(refused, Err(StorageError::UnknownLog { log: unknown }));
}

pub(crate) fn a_batch_is_all_or_nothing<D: TestDisk>() {
    let disk = D::new();
    let (storage, _) = disk.open();
    let mut log = TestLog::new(log_name(1, 1, 7));
    append(&storage, &mut log, 3);
    let name = log.name();

    let mut ahead = log.clone();
    let mut other = TestLog::new(log_name(1, 2, 7));
    let [good, skipped, late] = [ahead.push(1), ahead.push(1), ahead.push(1)];
    let entries = vec![other.push(1), good.clone(), late];
    let refused = storage.append(&AppendBatch::new(WallTime::new(1), entries));
    let (expected, found) = (skipped.m_id, m_id(6));
    assert_eq!(refused, Err(StorageError::NotContiguous { log: name, expected, found }));
    check_log(&storage, &log, log.start());
    let log_is_unknown = Err(StorageError::UnknownLog { log: other.name() });
    assert_eq!(storage.read(&other.name(), m_id(1), m_id(1), NO_LIMIT), log_is_unknown);

    // A message of a log that has no row here.
    let mut second = other.entries[0].clone();
    second.row = None;
    let entries = vec![good, second];
    let refused = storage.append(&AppendBatch::new(WallTime::new(1), entries));
    assert_eq!(refused, Err(StorageError::UnknownLog { log: other.name() }));
    check_log(&storage, &log, log.start());

    append(&storage, &mut log, 2);
    check_log(&storage, &log, log.start());
}

pub(crate) fn large_messages_are_kept_whole<D: TestDisk>() {
    let disk = D::new();
    let (storage, _) = disk.open();
    let mut log = TestLog::new(log_name(1, 1, 7));
    for bytes in [0, 1, 127, 128, 65_000, 70_000, 1_000_000, 3] {
        let entries = vec![log.push(bytes), log.push(bytes / 2)];
        storage.append(&AppendBatch::new(WallTime::new(1), entries)).expect("appended");
    }
    check_log(&storage, &log, log.start());
}

pub(crate) fn hashes_are_known_at_every_message<D: TestDisk>() {
    let mut disk = D::new();
    let (mut storage, _) = disk.open();
    let mut parent = TestLog::new(log_name(1, 1, 7));
    append(&storage, &mut parent, 10);
    let mut log = TestLog::after(log_name(1, 1, 8), vec![parent.tip()]);
    for messages in [1, 254, 3, 600, 1] {
        append(&storage, &mut log, messages);
    }
    for is_reopened in [false, true] {
        if is_reopened {
            disk.kill(storage);
            storage = disk.open().0;
        }
        for number in 10..=log.mark().m_id.get() {
            let hash = log.hash_at(m_id(number));
            assert_eq!(storage.chain_hash_at(&log.name(), m_id(number)), Ok(Some(hash)));
        }
        assert_eq!(storage.chain_hash_at(&log.name(), m_id(9)), Ok(None));
        assert_eq!(storage.chain_hash_at(&log_name(1, 1, 9), m_id(1)), Ok(None));
    }
    assert!(log.mark().m_id.get() > 3 * CHAIN_HASH_INTERVAL);
}

pub(crate) fn arrival_times_are_never_too_late<D: TestDisk>() {
    let disk = D::new();
    let (storage, _) = disk.open();
    let mut log = TestLog::new(log_name(1, 1, 7));
    let mut arrivals = Vec::new();
    let mut now = 10_000;
    for round in 0..300_u64 {
        now += [1, 10, 700, 5_000][(round % 4) as usize];
        let messages = [1, 3, 90][(round % 3) as usize];
        append_at(&storage, &mut log, messages, now);
        arrivals.push((now, log.mark().m_id));
    }
    let before = |at| storage.arrived_before(&log.name(), WallTime::new(at)).expect("readable");
    assert_eq!(before(0), m_id(0));
    for (index, (arrived_at, _)) in arrivals.iter().enumerate() {
        let exact = arrivals[..index].last().map_or(m_id(0), |(_, m_id)| *m_id);
        let found = before(*arrived_at);
        assert!(found <= exact, "{found} arrived after {arrived_at}");
        // At most what one kept time stands for.
        let slack = arrivals[..index].iter().filter(|(at, _)| at + 1_000 >= *arrived_at).count();
        assert!(exact.since(found) <= 256 + 90 * slack as u64, "{found} is long before {exact}");
    }
    assert_eq!(before(u64::MAX), arrivals.last().expect("some").1);
}

pub(crate) fn a_clock_set_back_is_never_too_late<D: TestDisk>() {
    let disk = D::new();
    let (storage, _) = disk.open();
    let mut log = TestLog::new(log_name(1, 1, 7));
    for arrived_at in [5_000, 90_000, 10_000, 11_000, 12_000, 13_000, 91_500] {
        append_at(&storage, &mut log, 300, arrived_at);
    }
    let before = |at| storage.arrived_before(&log.name(), WallTime::new(at)).expect("readable");
    assert_eq!(before(5_000), m_id(0));
    assert_eq!(before(5_001), m_id(300));
    // What came while the clock was back may have come after 90,000.
    for at in [10_001, 12_001, 14_000, 90_000] {
        assert_eq!(before(at), m_id(300));
    }
    assert_eq!(before(90_001), m_id(1_800));
    assert_eq!(before(91_501), m_id(2_100));
}

/// Ages go on from the acceptance that the origin stated, not from the arrival here.
pub(crate) fn ages_go_on_from_acceptance<D: TestDisk>() {
    let mut disk = D::new();
    let (mut storage, _) = disk.open();
    let mut own = TestLog::new(log_name(1, 1, 7));
    let mut theirs = TestLog::new(log_name(1, 2, 7));
    for second in 1..=5_u64 {
        let arrived_at = WallTime::new(100_000 + second * 10_000);
        let mut entries = own.push_many(300, 20);
        entries.extend(theirs.push_many(300, 20));
        let accepted_by = [(theirs.name(), WallTime::new(second * 10_000))].into();
        let batch = AppendBatch { arrived_at, accepted_by, entries };
        storage.append(&batch).expect("appended");
    }
    storage.sync().expect("synced");
    for is_reopened in [false, true] {
        if is_reopened {
            disk.kill(storage);
            storage = disk.open().0;
        }
        let accepted_before = |log: &TestLog, at| {
            storage.accepted_before(&log.name(), WallTime::new(at)).expect("readable")
        };
        let accepted_by = |log: &TestLog, number| {
            let at = storage.accepted_by(&log.name(), m_id(number)).expect("readable");
            at.map(WallTime::get)
        };
        assert_eq!(accepted_before(&theirs, 30_001), m_id(900));
        assert_eq!(accepted_before(&theirs, 10_000), m_id(0));
        assert_eq!(accepted_before(&own, 30_001), m_id(0));
        assert_eq!(accepted_before(&own, 130_001), m_id(900));
        assert_eq!(accepted_by(&theirs, 900), Some(30_000));
        assert_eq!(accepted_by(&own, 900), Some(130_000));
        assert_eq!(accepted_by(&theirs, 1_501), None, "it is not there");
        let arrived = storage.arrived_before(&theirs.name(), WallTime::new(130_001));
        assert_eq!(arrived, Ok(m_id(900)), "arrival is this node's");
    }
}

/// No time is kept behind the first of it: it grows old all the same.
pub(crate) fn a_burst_that_nothing_follows_grows_old<D: TestDisk>() {
    let mut disk = D::new();
    let (mut storage, _) = disk.open();
    let mut log = TestLog::new(log_name(1, 1, 7));
    for (messages, arrived_at) in [(10, 5_000), (100, 5_400), (50, 5_900)] {
        append_at(&storage, &mut log, messages, arrived_at);
    }
    storage.sync().expect("synced");
    let name = log.name();
    let before = |storage: &D::Storage, at| {
        let arrived = storage.arrived_before(&name, WallTime::new(at)).expect("readable");
        let accepted = storage.accepted_before(&name, WallTime::new(at)).expect("readable");
        (arrived, accepted)
    };
    for _ in 0..2 {
        assert_eq!(before(&storage, 5_999), (m_id(10), m_id(10)));
        assert_eq!(before(&storage, 6_000), (m_id(160), m_id(160)));
        disk.kill(storage);
        storage = disk.open().0;
    }
    // Its only kept time goes with a trim: what is left is not younger than the floor.
    storage.trim(&name, m_id(50)).expect("trimmed");
    for _ in 0..2 {
        assert_eq!(before(&storage, 6_000), (m_id(0), m_id(50)));
        assert_eq!(before(&storage, 7_000), (m_id(160), m_id(160)));
        disk.kill(storage);
        storage = disk.open().0;
    }
    append_at(&storage, &mut log, 1, 9_500);
    assert_eq!(before(&storage, 9_500), (m_id(50), m_id(50)), "one time stands for all of them");
    assert_eq!(before(&storage, 9_501), (m_id(161), m_id(161)));
}
