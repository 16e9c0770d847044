//! Namespaces that are removed whole.

use bytes::Bytes;
use interlock_core::identity::{NamespaceNumber, ParentPoint};
use interlock_core::projection::{ProjectionChanges, ProjectionKind, ProjectionPosition};

use super::{TestDisk, append, check_log, m_id};
use crate::contract::{LogStorage, StorageError};
use crate::test_logs::{TestLog, log_name};

pub(crate) const GONE: NamespaceNumber = NamespaceNumber::new(1);

/// A projection's key: its tag and the namespace, then whatever it has.
pub(crate) fn key(tag: u8, namespace: u32) -> Bytes {
    let mut key = vec![tag];
    key.extend_from_slice(&namespace.to_be_bytes());
    key.extend_from_slice(b"the rest");
    Bytes::from(key)
}

/// Two logs of the namespace that goes, one on top of the other, and one that stays.
pub(crate) fn fill(storage: &impl LogStorage) -> (TestLog, TestLog, TestLog) {
    let mut first = TestLog::new(log_name(1, 1, 7));
    let mut stays = TestLog::new(log_name(2, 1, 7));
    append(storage, &mut first, 600);
    append(storage, &mut stays, 300);
    let parent = ParentPoint {
        incarnation: first.name().incarnation,
        m_id: first.mark().m_id,
        hash: first.mark().hash,
    };
    let mut second = TestLog::after(log_name(1, 1, 8), vec![parent]);
    append(storage, &mut second, 10);
    append(storage, &mut stays, 300);
    storage.sync().expect("synced");
    storage.trim(&first.name(), m_id(100)).expect("trimmed");
    for kind in ProjectionKind::ALL {
        let position = ProjectionPosition {
            positions: [&first, &second, &stays].map(|log| (log.name(), log.mark().m_id)).into(),
            ..ProjectionPosition::default()
        };
        let puts = [1, 2].into_iter().flat_map(|tag| [1, 2].map(|number| key(tag, number)));
        let puts = puts.map(|key| (key, Bytes::from_static(b"value"))).collect();
        let changes = ProjectionChanges { puts, deletes: Vec::new() };
        storage.store_projection(kind, &position, &changes).expect("stored");
    }
    storage.sync_projections().expect("flushed");
    storage.store_checkpoint(&[(first.name(), first.mark())], &[]).expect("stored");
    (first, second, stays)
}

pub(crate) fn check_removed(storage: &impl LogStorage, first: &TestLog, stays: &TestLog) {
    let unknown = Err(StorageError::UnknownLog { log: first.name() });
    assert_eq!(storage.read(&first.name(), m_id(1), m_id(9_999), 0), unknown);
    assert_eq!(storage.log_bytes(GONE), 0);
    check_log(storage, stays, stays.start());
    for kind in ProjectionKind::ALL {
        for tag in [1, 2] {
            let entries = storage.scan_projection(kind, &[tag], None, 99).expect("readable");
            let keys: Vec<Bytes> = entries.into_iter().map(|(key, _)| key).collect();
            assert_eq!(keys, [key(tag, 2)]);
        }
        let position = storage.projection(kind).expect("readable").expect("it is there");
        assert_eq!(position.positions, [(stays.name(), stays.mark().m_id)]);
    }
}

pub(crate) fn a_namespace_is_removed_whole<D: TestDisk>() {
    let mut disk = D::new();
    let (storage, _) = disk.open();
    let (first, _, stays) = fill(&storage);
    disk.kill(storage);
    let (storage, recovery) = disk.open();
    assert_eq!(recovery.logs.len(), 3);
    storage.remove_namespace(GONE).expect("removed");
    check_removed(&storage, &first, &stays);
    storage.remove_namespace(GONE).expect("there is nothing to remove");
    disk.kill(storage);
    let (storage, recovery) = disk.open();
    assert_eq!(recovery.cut, []);
    assert_eq!(recovery.projections_ahead, []);
    let held: Vec<_> = recovery.logs.iter().map(|log| (log.row.log, log.mark)).collect();
    assert_eq!(held, [(stays.name(), stays.mark())]);
    check_removed(&storage, &first, &stays);
}

/// After the next opening, and of what was never there.
pub(crate) fn a_removal_may_be_repeated<D: TestDisk>() {
    let mut disk = D::new();
    let (storage, _) = disk.open();
    let (first, _, mut stays) = fill(&storage);
    storage.remove_namespace(GONE).expect("removed");
    append(&storage, &mut stays, 5);
    storage.sync().expect("synced");
    disk.kill(storage);
    let (storage, recovery) = disk.open();
    assert_eq!(recovery.logs.len(), 1);
    storage.remove_namespace(GONE).expect("nothing is left");
    storage.remove_namespace(NamespaceNumber::new(77)).expect("it was never there");
    assert_eq!(storage.log_bytes(GONE), 0);
    check_log(&storage, &stays, stays.start());
    assert_eq!(storage.chain_hash_at(&first.name(), m_id(1)), Ok(None));
}

pub(crate) fn a_namespace_that_was_removed_may_come_back<D: TestDisk>() {
    let mut disk = D::new();
    let (storage, _) = disk.open();
    let (first, ..) = fill(&storage);
    storage.remove_namespace(GONE).expect("removed");
    let mut again = TestLog::new(first.name());
    append(&storage, &mut again, 700);
    storage.sync().expect("synced");
    check_log(&storage, &again, again.start());
    disk.kill(storage);
    let (storage, recovery) = disk.open();
    assert_eq!(recovery.cut, []);
    check_log(&storage, &again, again.start());
}
