//! What a scrub finds on a disk whose bytes have changed without an error.

use bytes::Bytes;
use interlock_core::clock::WallTime;
use interlock_core::identity::{MessageName, MessageNumber};

use crate::conformance::scrubbing::scrub_all;
use crate::contract::{AppendBatch, LogStorage};
use crate::engine::Table;
use crate::keys::{chain_point, message_run, row};
use crate::memory::disk::Operation;
use crate::memory::{MemoryDisk, MemoryStorage};
use crate::scrubbing::{ScrubFinding, ScrubbedPlace};
use crate::test_logs::{TestLog, log_name};

const fn m_id(number: u64) -> MessageNumber {
    MessageNumber::new(number)
}

/// Two logs of 600 messages on a disk, of which the first will be damaged.
fn two_logs() -> (MemoryDisk, MemoryStorage, TestLog) {
    let disk = MemoryDisk::new();
    let (storage, _) = MemoryStorage::open(&disk).expect("empty");
    let mut log = TestLog::new(log_name(1, 1, 9));
    let mut other = TestLog::new(log_name(1, 2, 9));
    for _ in 0..20 {
        for log in [&mut log, &mut other] {
            let entries = log.push_many(30, 20);
            storage.append(&AppendBatch::new(WallTime::new(1), entries)).expect("appended");
        }
    }
    storage.sync().expect("synced");
    (disk, storage, log)
}

fn place(finding: &ScrubFinding, log: &TestLog) -> MessageNumber {
    match finding.place {
        ScrubbedPlace::Log { log: found, first } if found == log.name() => first,
        _ => panic!("{finding}"),
    }
}

/// Changes the last byte of the run that has a message.
fn change_run(disk: &MemoryDisk, log: &TestLog, m_id: MessageNumber) {
    let mut state = disk.state();
    let number = state.visible.table(Table::Meta).iter().find_map(|(key, value)| {
        let number = row::decode_key(key).ok()?;
        (row::decode(value).ok()?.log == log.name()).then_some(number)
    });
    let mut runs = state.visible.table(Table::Log).iter();
    let run = runs.rfind(|(key, _)| {
        let (_, of, first) = message_run::decode_key(key).expect("a run's key");
        Some(of) == number && first <= m_id
    });
    let (key, value) = run.map(|(key, value)| (key.clone(), value.to_vec())).expect("it is held");
    let mut value = value;
    *value.last_mut().expect("a message") ^= 1;
    state.visible.apply(&Operation::Put { table: Table::Log, key, value: Bytes::from(value) });
}

/// Other bytes under a name are found at the next chain hash that is kept, in steps
/// of any size, and the message behind the last good hash is named.
#[test]
fn changed_bytes_are_found_by_the_chain() {
    for step_bytes in [1, 500, u64::MAX] {
        let (disk, storage, log) = two_logs();
        change_run(&disk, &log, m_id(300));
        let (_, _, findings) = scrub_all(&storage, step_bytes);
        assert_eq!(findings.len(), 1, "{findings:?}");
        assert_eq!(place(&findings[0], &log), m_id(257));
        assert!(findings[0].detail.contains("up to 512"), "{}", findings[0]);
    }
}

/// Behind the last kept chain hash the durable mark tells.
#[test]
fn changed_bytes_at_the_end_are_found_by_the_mark() {
    let (disk, storage, log) = two_logs();
    change_run(&disk, &log, m_id(590));
    let (_, _, findings) = scrub_all(&storage, 500);
    assert_eq!(findings.len(), 1, "{findings:?}");
    assert_eq!(place(&findings[0], &log), m_id(513));
    assert!(findings[0].detail.contains("up to 600"), "{}", findings[0]);
}

#[test]
fn messages_that_are_gone_are_found() {
    let (disk, storage, log) = two_logs();
    disk.lose_synced(&MessageName { log: log.name(), m_id: m_id(391) });
    let (_, _, findings) = scrub_all(&storage, 1_000);
    assert_eq!(findings.len(), 1, "{findings:?}");
    assert_eq!(place(&findings[0], &log), m_id(391));
    assert!(findings[0].detail.contains("missing"), "{}", findings[0]);
}

#[test]
fn a_kept_hash_that_cannot_be_read_is_a_finding() {
    let (disk, storage, log) = two_logs();
    let mut state = disk.state();
    let points = state.visible.table(Table::Sparse).keys();
    let begin = chain_point::key(crate::keys::LogNumber::FIRST, m_id(512));
    let key = points.clone().find(|key| **key == begin).cloned().expect("it is kept");
    state.visible.apply(&Operation::Put { table: Table::Sparse, key, value: Bytes::new() });
    drop(state);
    let (_, _, findings) = scrub_all(&storage, 1_000);
    assert_eq!(findings.len(), 1, "{findings:?}");
    assert_eq!(place(&findings[0], &log), m_id(257));
}
