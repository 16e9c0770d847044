//! Ends of logs that are taken off.

use interlock_core::clock::WallTime;
use interlock_core::identity::{MessageNumber, ParentPoint};
use interlock_core::projection::{ProjectionChanges, ProjectionKind, ProjectionPosition};

use super::{TestDisk, append, check_log, check_recovery, m_id};
use crate::contract::{AppendBatch, LogStorage, StorageError, TakenOff};
use crate::test_logs::{TestLog, log_name};

fn parent(log: &TestLog, at: u64) -> ParentPoint {
    let mark = log.mark_at(m_id(at));
    ParentPoint { incarnation: log.name().incarnation, m_id: mark.m_id, hash: mark.hash }
}

fn taken(log: &TestLog, first: u64) -> TakenOff {
    TakenOff { log: log.name(), first: m_id(first), last: log.mark() }
}

/// A log of 600 messages; one that goes on from 400, one from that one, and one from 200;
/// one of another origin.
pub(crate) struct Filled {
    pub(crate) named: TestLog,
    child: TestLog,
    grandchild: TestLog,
    pub(crate) early_child: TestLog,
    pub(crate) other: TestLog,
}

pub(crate) fn fill(storage: &impl LogStorage) -> Filled {
    let mut named = TestLog::new(log_name(1, 1, 7));
    append(storage, &mut named, 600);
    let mut child = TestLog::after(log_name(1, 1, 9), vec![parent(&named, 400)]);
    append(storage, &mut child, 10);
    let mut grandchild = TestLog::after(log_name(1, 1, 8), vec![parent(&child, 410)]);
    append(storage, &mut grandchild, 20);
    let mut early_child = TestLog::after(log_name(1, 1, 3), vec![parent(&named, 200)]);
    append(storage, &mut early_child, 30);
    let mut other = TestLog::new(log_name(1, 2, 7));
    append(storage, &mut other, 300);
    storage.sync().expect("synced");
    let logs = [&named, &child, &grandchild, &early_child, &other];
    let marks: Vec<_> = logs.iter().map(|log| (log.name(), log.mark())).collect();
    storage.store_checkpoint(&marks, &[]).expect("stored");
    let positions = marks.iter().map(|(log, mark)| (*log, mark.m_id)).collect();
    let position = ProjectionPosition { positions, ..ProjectionPosition::default() };
    for kind in ProjectionKind::ALL {
        storage.store_projection(kind, &position, &ProjectionChanges::default()).expect("stored");
    }
    storage.sync_projections().expect("flushed");
    Filled { named, child, grandchild, early_child, other }
}

pub(crate) fn a_cut_takes_what_goes_on_from_the_end<D: TestDisk>() {
    let mut disk = D::new();
    let (storage, _) = disk.open();
    let Filled { named, child, grandchild, early_child, other } = fill(&storage);
    let expected = [taken(&named, 301), taken(&child, 401), taken(&grandchild, 411)];
    assert_eq!(storage.taken_by_cut(&[(named.name(), m_id(300))]), Ok(expected.into()));
    storage.cut_ends(&[(named.name(), m_id(300))]).expect("cut");
    assert_eq!(storage.sync(), Err(StorageError::Failed), "the handle is good for nothing more");
    disk.kill(storage);

    let (storage, recovery) = disk.open();
    let mut named = named.up_to(m_id(300));
    check_recovery(&recovery, &[&named, &early_child, &other]);
    let ahead = [ProjectionKind::Publishers, ProjectionKind::ChannelIndex];
    assert_eq!(recovery.projections_ahead, ahead, "the directory goes on from the cut");
    let position = storage.projection(ProjectionKind::Directory).expect("readable");
    let position = position.expect("it is there");
    assert_eq!(position.of(&named.name()), m_id(300));
    assert_eq!(position.of(&child.name()), MessageNumber::ZERO);
    assert_eq!(position.of(&other.name()), other.mark().m_id);
    assert_eq!(storage.taken_by_cut(&[(named.name(), m_id(300))]), Ok(Vec::new()));

    // Other content takes the place.
    let entries = named.push_many(500, 33);
    storage.append(&AppendBatch::new(WallTime::new(2_000), entries)).expect("appended");
    storage.sync().expect("synced");
    for log in [&named, &early_child, &other] {
        check_log(&storage, log, log.start());
    }
    disk.kill(storage);
    let (_, recovery) = disk.open();
    check_recovery(&recovery, &[&named, &early_child, &other]);
}

/// And again, after a crash that came before anyone noted it.
pub(crate) fn a_whole_log_may_be_cut<D: TestDisk>() {
    let mut disk = D::new();
    let (storage, _) = disk.open();
    let Filled { named, other, .. } = fill(&storage);
    storage.cut_ends(&[(named.name(), MessageNumber::ZERO)]).expect("cut");
    disk.kill(storage);
    let (storage, recovery) = disk.open();
    check_recovery(&recovery, &[&other]);
    storage.cut_ends(&[(named.name(), MessageNumber::ZERO)]).expect("there is nothing to cut");
    disk.kill(storage);
    let (storage, recovery) = disk.open();
    check_recovery(&recovery, &[&other]);
    check_log(&storage, &other, other.start());
}

pub(crate) fn what_is_trimmed_is_not_cut<D: TestDisk>() {
    let mut disk = D::new();
    let (storage, _) = disk.open();
    let Filled { named, other, .. } = fill(&storage);
    storage.trim(&named.name(), m_id(256)).expect("trimmed");
    let refused = storage.cut_ends(&[(named.name(), m_id(100))]).expect_err("its hash is not kept");
    assert!(matches!(&refused, StorageError::Read { .. }), "{refused}");
    assert_eq!(storage.taken_by_cut(&[(named.name(), m_id(256))]).expect("planned").len(), 3);
    check_log(&storage, &other, other.start());
    check_log(&storage, &named, named.mark_at(m_id(256)));
    disk.kill(storage);
}
