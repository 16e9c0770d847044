//! The conformance suite on a disk in memory, and what only such a disk can do:
//! lose any part of what was not synced.

use std::collections::BTreeMap;

use bytes::Bytes;
use interlock_core::clock::WallTime;
use interlock_core::identity::{
    Incarnation, LogName, Mark, MemberOpening, MessageName, MessageNumber, NodeNumber,
};
use proptest::prelude::*;

use crate::conformance::cutting::{self, Filled};
use crate::conformance::removing::{GONE, check_removed, fill};
use crate::conformance::{TestDisk, check_recovery, conformance_suite};
use crate::contract::{AppendBatch, LogStorage, StorageError};
use crate::engine::Table;
use crate::keys::{LogNumber, message_run, removal, row, sparse_log_number};
use crate::memory::disk::Operation;
use crate::memory::{Loss, MemoryDisk, MemoryStorage};
use crate::opening_outcome::{CutLog, CutReason, DamageFinding, OpenError, OpenOptions, Recovery};
use crate::test_logs::{TestLog, log_name};

impl TestDisk for MemoryDisk {
    type Storage = MemoryStorage;

    fn new() -> Self {
        Self::new()
    }

    fn open_with(&self, options: OpenOptions) -> Result<(Self::Storage, Recovery), OpenError> {
        MemoryStorage::open_with(self, options)
    }

    fn kill(&mut self, storage: Self::Storage) {
        self.crash(Loss::Nothing, &mut |_| 0);
        drop(storage);
    }
}

mod conformance {
    super::conformance_suite!(super::MemoryDisk);
}

const ACCEPT_LOSS: OpenOptions = OpenOptions { accept_loss: true };

fn append(storage: &MemoryStorage, log: &mut TestLog, messages: usize) {
    let entries = log.push_many(messages, 20);
    let arrived_at = WallTime::new(1_000);
    storage.append(&AppendBatch::new(arrived_at, entries)).expect("appended");
}

fn recovered(recovery: &Recovery, log: &TestLog) -> Option<Mark> {
    recovery.logs.iter().find(|found| found.row.log == log.name()).map(|found| found.mark)
}

/// Every key of a message belongs to a log that is held, within its mark.
fn check_no_stray_keys(disk: &MemoryDisk, recovery: &Recovery) {
    let tables = disk.state().visible.clone();
    let logs: BTreeMap<LogNumber, LogName> = tables
        .table(Table::Meta)
        .iter()
        .filter_map(|(key, value)| Some((row::decode_key(key).ok()?, row::decode(value).ok()?.log)))
        .collect();
    assert_eq!(logs.len(), recovery.logs.len());
    for key in tables.table(Table::Log).keys() {
        let (_, number, first) = message_run::decode_key(key).expect("a key of the log table");
        let log = logs.get(&number).expect("a key without a row");
        let found = recovery.logs.iter().find(|found| found.row.log == *log);
        assert!(first <= found.expect("a row without a log").mark.m_id);
    }
    for key in tables.table(Table::Sparse).keys() {
        let number = sparse_log_number(key).expect("a key of the sparse table");
        assert!(logs.contains_key(&number), "a key without a row");
    }
}

/// The write that began a log's part of a segment is lost, and what followed it
/// in the segment is kept.
#[test]
fn messages_that_no_start_leads_to_are_removed() {
    for (is_new_log, filling) in [(false, 1_000), (true, 1_000), (true, 10)] {
        let disk = MemoryDisk::new();
        let (storage, _) = MemoryStorage::open(&disk).expect("empty");
        let mut filler = TestLog::new(log_name(1, 2, 9));
        let mut log = TestLog::new(log_name(1, 1, 9));
        if !is_new_log {
            append(&storage, &mut log, 10);
        }
        append(&storage, &mut filler, filling);
        storage.sync().expect("synced");
        storage.store_checkpoint(&[], &[]).expect("stored");
        let before = disk.unsynced_writes();
        for _ in 0..3 {
            append(&storage, &mut log, 300);
        }
        assert_eq!(disk.unsynced_writes(), before + 3);
        let mut choices = [before, 1].into_iter();
        disk.crash(Loss::MiddleRun, &mut |_| choices.next().unwrap_or(0));
        let (_storage, recovery) = MemoryStorage::open(&disk).expect("an honest crash");
        let kept = recovered(&recovery, &log);
        assert_eq!(kept, (!is_new_log).then(|| log.mark_at(MessageNumber::new(10))));
        check_no_stray_keys(&disk, &recovery);
    }
}

/// Of a write a crash leaves a part: never a message without the time of its arrival,
/// which would be that of what came before.
#[test]
fn messages_that_a_crash_leaves_have_their_time() {
    for kept in 0..4 {
        let disk = MemoryDisk::new();
        let (storage, _) = MemoryStorage::open(&disk).expect("empty");
        let mut log = TestLog::new(log_name(1, 1, 9));
        append(&storage, &mut log, 1);
        storage.sync().expect("synced");
        let late = AppendBatch::new(WallTime::new(9_000), log.push_many(1, 20));
        storage.append(&late).expect("appended");
        disk.crash(Loss::SuffixPerLog, &mut |count| kept.min(count));
        let (storage, _) = MemoryStorage::open(&disk).expect("an honest crash");
        let arrived = storage.arrived_before(&log.name(), WallTime::new(5_000));
        assert_eq!(arrived.expect("readable"), MessageNumber::new(1), "{kept} operations kept");
    }
}

/// What a crash of some kind leaves of three logs, of which one goes on from
/// another, with a part of everything synced.
fn crash_and_open(loss: Loss, choices: &[usize], syncs: &[bool]) {
    let disk = MemoryDisk::new();
    let (storage, _) = MemoryStorage::open(&disk).expect("empty");
    let mut parent = TestLog::new(log_name(1, 1, 9));
    let mut other = TestLog::new(log_name(1, 2, 9));
    append(&storage, &mut parent, 30);
    let mut child = TestLog::after(log_name(1, 1, 3), vec![parent.tip()]);
    let mut synced: Vec<Mark> = [&parent, &other, &child].map(TestLog::start).into();
    for (round, is_synced) in syncs.iter().enumerate() {
        append(&storage, &mut other, 97);
        append(&storage, &mut child, 41);
        if *is_synced {
            storage.sync().expect("synced");
            synced = [&parent, &other, &child].map(TestLog::mark).into();
        }
        if round % 2 == 1 {
            storage.store_checkpoint(&[], &[]).expect("stored");
        }
    }

    let mut choices = choices.iter().cycle();
    let mut choose = |n: usize| choices.next().map_or(0, |choice| choice % (n + 1));
    disk.crash(loss, &mut choose);
    assert_eq!(
        storage.sync(),
        Err(StorageError::UnknownOutcome {
            action: "syncing",
            detail: "the disk was taken away".to_owned(),
        })
    );
    drop(storage);

    let (storage, recovery) = MemoryStorage::open(&disk).expect("an honest crash");
    for (log, synced) in [&parent, &other, &child].into_iter().zip(synced) {
        let mark = recovered(&recovery, log).unwrap_or(log.start());
        assert!(mark.m_id >= synced.m_id, "acknowledged messages of {} are gone", log.name());
        assert_eq!(mark, log.mark_at(mark.m_id), "a prefix of what was written");
        let read = storage.read(&log.name(), MessageNumber::ZERO, mark.m_id, usize::MAX);
        if mark.m_id > log.start().m_id {
            let read = read.expect("readable");
            assert_eq!(read.len() as u64, mark.m_id.since(log.start().m_id));
            for message in read {
                assert_eq!(message.bytes, log.entry(message.m_id).bytes);
                let hash = storage.chain_hash_at(&log.name(), message.m_id);
                assert_eq!(hash, Ok(Some(log.hash_at(message.m_id))));
            }
        }
    }
    if recovered(&recovery, &child).is_some() {
        assert_eq!(recovered(&recovery, &parent), Some(parent.mark()), "the child's parent");
    }

    check_no_stray_keys(&disk, &recovery);

    // What was found is durable, and nothing that was cut is seen again: another
    // cut of power changes nothing.
    disk.crash(Loss::Unsynced, &mut |_| 0);
    let (storage, again) = MemoryStorage::open(&disk).expect("it was settled");
    assert_eq!(again.logs, recovery.logs);
    assert_eq!(again.cut, []);

    // The logs go on with other content than what was cut.
    let mut goes_on = TestLog::new(other.name());
    let kept = recovered(&again, &other).unwrap_or(other.start()).m_id;
    goes_on.entries = other.entries[..usize::try_from(kept.get()).expect("small")].to_vec();
    for bytes in 1..300 {
        let entries = vec![goes_on.push(bytes)];
        storage.append(&AppendBatch::new(WallTime::new(1), entries)).expect("appended");
    }
    storage.sync().expect("synced");
    drop(storage);
    let (storage, last) = MemoryStorage::open(&disk).expect("sound");
    assert_eq!(recovered(&last, &goes_on), Some(goes_on.mark()));
    let middle = goes_on.mark_at(MessageNumber::new(kept.get() + 150));
    assert_eq!(storage.chain_hash_at(&goes_on.name(), middle.m_id), Ok(Some(middle.hash)));
}

proptest! {
    /// METHOD M12: whatever a crash takes of what was not synced, what was synced
    /// is there, and what is there is a prefix of what was written.
    #[test]
    fn a_crash_takes_unsynced_writes_only(
        loss in prop::sample::select(vec![
            Loss::Nothing, Loss::Unsynced, Loss::Suffix, Loss::SuffixPerLog, Loss::MiddleRun,
        ]),
        choices in prop::collection::vec(any::<usize>(), 1..20),
        syncs in prop::collection::vec(any::<bool>(), 0..12),
    ) {
        crash_and_open(loss, &choices, &syncs);
    }
}

/// METHOD M12: openings, documents and trims are durable when the call returns.
#[test]
fn what_is_durable_on_return_survives_a_cut() {
    let disk = MemoryDisk::new();
    let reopen = |storage: MemoryStorage| {
        disk.crash(Loss::Unsynced, &mut |_| 0);
        drop(storage);
        MemoryStorage::open(&disk).expect("an honest crash")
    };
    let (storage, _) = MemoryStorage::open(&disk).expect("empty");
    let incarnation = Incarnation::new(5).expect("not zero");
    let opening = MemberOpening { node: NodeNumber::new(1), incarnation, opened_from: None };
    storage.record_opening(opening).expect("recorded");
    let (storage, recovery) = reopen(storage);
    assert_eq!(recovery.opened_from, Some(incarnation));

    storage.store_document("topology", b"one").expect("stored");
    let (storage, _) = reopen(storage);
    assert_eq!(storage.load_document("topology"), Ok(Some("one".into())));

    let mut log = TestLog::new(log_name(1, 1, 9));
    append(&storage, &mut log, 10);
    storage.sync().expect("synced");
    let floor = storage.trim(&log.name(), MessageNumber::new(4)).expect("trimmed");
    let (_storage, recovery) = reopen(storage);
    assert_eq!(recovery.logs[0].floor, floor);
}

#[test]
fn a_cut_tells_what_it_took() {
    let disk = MemoryDisk::new();
    let (storage, _) = MemoryStorage::open(&disk).expect("empty");
    let mut log = TestLog::new(log_name(1, 1, 9));
    append(&storage, &mut log, 10);
    storage.sync().expect("synced");
    for _ in 0..4 {
        append(&storage, &mut log, 10);
    }
    // The second and third of four writes are lost, the fourth is kept.
    let mut choices = [1, 2].into_iter();
    disk.crash(Loss::MiddleRun, &mut |_| choices.next().unwrap_or(0));
    let (_storage, recovery) = MemoryStorage::open(&disk).expect("an honest crash");
    let m_id = MessageNumber::new;
    let (kept, found, reason) = (Some(m_id(20)), m_id(50), CutReason::MissingMessage);
    assert_eq!(recovery.cut, [CutLog { log: log.name(), kept, found, reason }]);
}

#[test]
fn a_log_goes_with_the_parent_it_goes_on_from() {
    let disk = MemoryDisk::new();
    let (storage, _) = MemoryStorage::open(&disk).expect("empty");
    let mut parent = TestLog::new(log_name(1, 1, 9));
    append(&storage, &mut parent, 10);
    storage.sync().expect("synced");
    append(&storage, &mut parent, 10);
    let mut child = TestLog::after(log_name(1, 1, 3), vec![parent.tip()]);
    append(&storage, &mut child, 10);
    let mut grandchild = TestLog::after(log_name(1, 1, 5), vec![child.tip()]);
    append(&storage, &mut grandchild, 10);
    // The parent's second write is lost; all that goes on from it is kept.
    let mut choices = [0, 1].into_iter();
    disk.crash(Loss::MiddleRun, &mut |_| choices.next().unwrap_or(0));
    let (_storage, recovery) = MemoryStorage::open(&disk).expect("an honest crash");
    let m_id = MessageNumber::new;
    let reason = CutReason::ParentNotHeld;
    let gone = |log: &TestLog, found| CutLog { log: log.name(), kept: None, found, reason };
    assert_eq!(recovery.cut, [gone(&child, m_id(30)), gone(&grandchild, m_id(40))]);
    assert_eq!(recovered(&recovery, &parent), Some(parent.mark_at(m_id(10))));
    assert_eq!(recovery.logs.len(), 1);
}

#[test]
fn a_parent_of_other_content_is_not_held() {
    let disk = MemoryDisk::new();
    let (storage, _) = MemoryStorage::open(&disk).expect("empty");
    let mut parent = TestLog::new(log_name(1, 1, 9));
    append(&storage, &mut parent, 10);
    let mut point = parent.tip();
    point.hash = parent.hash_at(MessageNumber::new(9));
    let mut child = TestLog::after(log_name(1, 1, 3), vec![point]);
    append(&storage, &mut child, 10);
    drop(storage);
    let (_storage, recovery) = MemoryStorage::open(&disk).expect("it opens");
    assert_eq!(recovery.cut[0].reason, CutReason::ParentNotHeld);
    assert_eq!(recovered(&recovery, &child), None);
}

/// METHOD M12: damage to synced data is told from a cut of power, nothing is
/// touched, and what is left can be opened on request.
#[test]
fn lost_synced_data_is_refused_until_loss_is_accepted() {
    let disk = MemoryDisk::new();
    let (storage, _) = MemoryStorage::open(&disk).expect("empty");
    let mut parent = TestLog::new(log_name(1, 1, 9));
    let mut other = TestLog::new(log_name(1, 2, 9));
    append(&storage, &mut parent, 600);
    append(&storage, &mut other, 10);
    let mut child = TestLog::after(log_name(1, 1, 3), vec![parent.tip()]);
    append(&storage, &mut child, 10);
    storage.sync().expect("synced");
    storage.store_checkpoint(&[], &[]).expect("stored");
    drop(storage);
    let m_id = MessageNumber::new;
    disk.lose_synced(&MessageName { log: parent.name(), m_id: m_id(257) });

    for _ in 0..2 {
        let refused = MemoryStorage::open(&disk).expect_err("synced data is gone");
        let text = refused.to_string();
        let OpenError::Damaged { findings, .. } = refused else { panic!("{refused}") };
        let held = Some(m_id(256));
        let (log, durable) = (parent.name(), m_id(600));
        let reason = CutReason::MissingMessage;
        assert!(findings.contains(&DamageFinding::LogTooShort { log, durable, held, reason }));
        assert!(text.contains("Move the folder aside"), "{text}");
        assert!(text.contains(&parent.name().to_string()), "{text}");
    }

    let (storage, recovery) = MemoryStorage::open_with(&disk, ACCEPT_LOSS).expect("accepted");
    let cut: Vec<_> = recovery.cut.iter().map(|cut| (cut.log, cut.kept, cut.found)).collect();
    assert!(cut.contains(&(parent.name(), Some(m_id(256)), m_id(600))), "{cut:?}");
    assert!(cut.contains(&(child.name(), None, m_id(610))), "{cut:?}");
    assert_eq!(recovered(&recovery, &other), Some(other.mark()));
    drop(storage);
    let (_storage, recovery) = MemoryStorage::open(&disk).expect("accepted once");
    assert_eq!(recovery.cut, []);
    assert_eq!(recovered(&recovery, &parent), Some(parent.mark_at(m_id(256))));
}

#[test]
fn a_restored_copy_is_what_was_there() {
    let disk = MemoryDisk::new();
    let (storage, _) = MemoryStorage::open(&disk).expect("empty");
    let mut log = TestLog::new(log_name(1, 1, 9));
    append(&storage, &mut log, 10);
    storage.sync().expect("synced");
    storage.store_checkpoint(&[], &[]).expect("stored");
    let (copy, then) = (disk.copy(), log.clone());
    append(&storage, &mut log, 10);
    storage.sync().expect("synced");
    storage.store_checkpoint(&[], &[]).expect("stored");
    disk.restore(&copy);
    assert!(storage.append(&AppendBatch::default()).is_ok(), "nothing to write");
    assert!(storage.sync().is_err(), "its disk is gone");
    drop(storage);
    let (storage, recovery) = MemoryStorage::open(&disk).expect("an older whole disk");
    assert_eq!(recovered(&recovery, &log), Some(then.mark()));
    drop(storage);
    disk.wipe();
    assert_eq!(MemoryStorage::open(&disk).expect("empty").1, Recovery::default());
}

/// A failed write or sync has an unknown outcome, and nothing is tried again on
/// that handle.
#[test]
fn a_failed_handle_refuses_everything() {
    for is_sync in [false, true] {
        let disk = MemoryDisk::new();
        let (storage, _) = MemoryStorage::open(&disk).expect("empty");
        let mut log = TestLog::new(log_name(1, 1, 9));
        append(&storage, &mut log, 10);
        storage.sync().expect("synced");
        let entries = vec![log.push(3)];
        let batch = AppendBatch::new(WallTime::new(1), entries);
        let failed = if is_sync {
            storage.append(&batch).expect("appended");
            disk.fail_next_sync();
            storage.sync()
        } else {
            disk.fail_next_write();
            storage.append(&batch)
        };
        assert!(matches!(failed, Err(StorageError::UnknownOutcome { .. })));
        assert_eq!(storage.sync(), Err(StorageError::Failed));
        assert_eq!(storage.append(&batch), Err(StorageError::Failed));
        let m_id = MessageNumber::new;
        assert_eq!(storage.read(&log.name(), m_id(1), m_id(1), 1), Err(StorageError::Failed));
        assert_eq!(storage.store_checkpoint(&[], &[]), Err(StorageError::Failed));
        drop(storage);
        let (_storage, recovery) = MemoryStorage::open(&disk).expect("it opens again");
        let mark = recovered(&recovery, &log).expect("ten were synced").m_id;
        assert!(mark >= m_id(10));
    }
}

/// What a crash leaves of writes and syncs that failed.
const FAILURES: [(bool, Loss); 4] = [
    (false, Loss::Nothing),
    (false, Loss::Unsynced),
    (true, Loss::Nothing),
    (true, Loss::Unsynced),
];

/// Does something to a disk again and again, of which each time another write fails, or
/// another sync, until none does. `check` is shown what the next opening finds.
fn fail_each_in_turn<T>(
    least_writes: usize,
    prepare: impl Fn(&MemoryStorage) -> T,
    change: impl Fn(&MemoryStorage, &T) -> Result<(), StorageError>,
    check: impl Fn(&MemoryDisk, T),
) {
    for (is_sync, loss) in FAILURES {
        for failing in 0.. {
            let disk = MemoryDisk::new();
            let (storage, _) = MemoryStorage::open(&disk).expect("empty");
            let prepared = prepare(&storage);
            if is_sync {
                disk.fail_sync_after(failing);
            } else {
                disk.fail_write_after(failing);
            }
            let outcome = change(&storage, &prepared);
            drop(storage);
            disk.crash(loss, &mut |_| 0);
            let mut state = disk.state();
            (state.writes_until_failure, state.syncs_until_failure) = (None, None);
            drop(state);
            check(&disk, prepared);
            match outcome {
                Ok(()) => {
                    assert!(is_sync || failing >= least_writes, "{failing} writes");
                    break;
                }
                Err(error) => {
                    assert!(matches!(error, StorageError::UnknownOutcome { .. }), "{error}");
                }
            }
        }
    }
}

/// Whatever write of a removal is the last one, the next opening finds no damage, and
/// removes the rest.
#[test]
fn a_removal_that_was_cut_short_is_done_again() {
    let check = |disk: &MemoryDisk, (first, _, stays): (TestLog, TestLog, TestLog)| {
        let (storage, recovery) = MemoryStorage::open(disk).expect("nothing is damaged");
        assert!(matches!(recovery.logs.len(), 1 | 3), "all of it is removed at once");
        assert_eq!(recovery.cut, []);
        storage.remove_namespace(GONE).expect("removed");
        check_removed(&storage, &first, &stays);
        let tables = disk.state().visible.clone();
        assert_eq!(tables.table(Table::Meta).get(&removal::key(GONE)[..]), None);
    };
    // The note, the marks, the projections, the logs, and the note again.
    fail_each_in_turn(5, fill, |storage, _| storage.remove_namespace(GONE), check);
}

/// What is looked at is what was removed, not what points to it.
#[test]
fn messages_that_a_removal_leaves_are_found() {
    let disk = MemoryDisk::new();
    let (storage, _) = MemoryStorage::open(&disk).expect("empty");
    fill(&storage);
    let before = disk.state().visible.clone();
    let removal = storage.delete_namespace(GONE).expect("deleted");
    let is_of_it = |key: &&Vec<u8>| {
        message_run::decode_key(key).is_ok_and(|(_, log, _)| removal.logs.contains(&log))
    };
    let key = before.table(Table::Log).keys().find(is_of_it).expect("it had messages").clone();
    let left = Operation::Put { table: Table::Log, key, value: Bytes::from_static(b"left") };
    disk.state().visible.apply(&left);
    let refused = storage.remove_namespace(GONE).expect_err("something is left");
    assert!(matches!(refused, StorageError::NotRemoved { .. }), "{refused}");
    assert!(refused.to_string().contains("messages of the log"), "{refused}");
}

/// Whatever write of a cut is the last one, the next opening finds no damage, and cuts
/// the rest.
#[test]
fn a_cut_that_was_cut_short_is_done_again() {
    let keep = MessageNumber::new(300);
    let check = |disk: &MemoryDisk, filled: Filled| {
        let (storage, recovery) = MemoryStorage::open(disk).expect("nothing is damaged");
        assert!(matches!(recovery.logs.len(), 3 | 5), "all of it is taken at once");
        assert_eq!(recovery.cut, []);
        storage.cut_ends(&[(filled.named.name(), keep)]).expect("cut");
        drop(storage);
        let (_storage, recovery) = MemoryStorage::open(disk).expect("nothing is damaged");
        check_recovery(&recovery, &[&filled.named.up_to(keep), &filled.early_child, &filled.other]);
    };
    let cut =
        |storage: &MemoryStorage, filled: &Filled| storage.cut_ends(&[(filled.named.name(), keep)]);
    // The marks, the directory, the logs.
    fail_each_in_turn(3, cutting::fill, cut, check);
}
