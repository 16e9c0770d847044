//! Floors and holes.

use bytes::Bytes;
use interlock_core::clock::{HybridTime, WallTime};
use interlock_core::identity::{ChainHash, Mark, NamespaceNumber, ParentPoint};
use interlock_core::projection::{ProjectionChanges, ProjectionKind, ProjectionPosition};
use interlock_core::replication::frames::Hole;

use super::{NO_LIMIT, TestDisk, append, append_at, check_log, m_id};
use crate::contract::{LogStorage, StorageError};
use crate::test_logs::{TestLog, log_name};

pub(crate) fn a_trimmed_log_begins_at_its_floor<D: TestDisk>() {
    let mut disk = D::new();
    let (storage, _) = disk.open();
    let mut log = TestLog::new(log_name(1, 1, 7));
    let name = log.name();
    for second in 1..=10 {
        append_at(&storage, &mut log, 100, second * 10_000);
    }
    storage.sync().expect("synced");
    let before = storage.log_bytes(NamespaceNumber::new(1));
    let floor = storage.trim(&name, m_id(550)).expect("trimmed");
    assert_eq!(floor, log.mark_at(m_id(550)));
    assert_eq!(storage.trim(&name, m_id(20)), Ok(floor));
    let after = storage.log_bytes(NamespaceNumber::new(1));
    assert!(after < before / 2 && after > before * 4 / 10);

    append(&storage, &mut log, 5);
    let size = storage.log_bytes(NamespaceNumber::new(1));
    disk.kill(storage);
    let (storage, recovery) = disk.open();
    assert_eq!(recovery.logs[0].floor, floor);
    assert_eq!(recovery.logs[0].mark, log.mark());
    assert_eq!(storage.log_bytes(NamespaceNumber::new(1)), size);
    check_log(&storage, &log, floor);
    assert_eq!(storage.chain_hash_at(&name, m_id(549)), Ok(None));
    let first = storage.read(&name, m_id(1), m_id(1_000), 0).expect("readable");
    assert_eq!(first[0].m_id, m_id(551));
    assert_eq!(recovery.logs[0].last_missing, floor.m_id);
    let missing = |from| storage.missing_from(&name, m_id(from)).expect("readable");
    let below = missing(1).expect("it is trimmed");
    assert_eq!((below.from, below.through), (m_id(1), floor));
    assert_eq!(missing(551), None, "the first that is held");
    assert_eq!(missing(2_000), None, "not there yet");
    let bytes = |through| storage.bytes_through(&name, m_id(through)).expect("readable");
    assert_eq!(bytes(550), 0, "nothing below the floor counts");
    assert_eq!(bytes(1_005), size);
    assert!(bytes(700) > 0 && bytes(700) < bytes(900));

    let before = |at| storage.arrived_before(&name, WallTime::new(at)).expect("readable");
    assert_eq!(before(50_001), m_id(0), "the floor may have arrived later");
    assert_eq!(before(60_001), m_id(600));
    assert_eq!(before(90_001), m_id(900));
}

pub(crate) fn a_trim_may_end_anywhere<D: TestDisk>() {
    let mut disk = D::new();
    let (mut storage, _) = disk.open();
    let mut log = TestLog::new(log_name(1, 1, 7));
    let mut neighbour = TestLog::new(log_name(1, 2, 7));
    append(&storage, &mut neighbour, 300);
    append(&storage, &mut log, 700);
    storage.sync().expect("synced");
    for through in [1, 2, 255, 256, 257, 512, 699, 700] {
        let floor = storage.trim(&log.name(), m_id(through)).expect("trimmed");
        assert_eq!(floor, log.mark_at(m_id(through)));
        check_log(&storage, &log, floor);
        disk.kill(storage);
        let opened = disk.open();
        storage = opened.0;
        let found = &opened.1.logs[0];
        assert_eq!((found.floor, found.mark), (floor, log.mark()));
        assert_eq!(found.last_stamp, log.stamp_at(m_id(700)));
        check_log(&storage, &log, floor);
        check_log(&storage, &neighbour, neighbour.start());
    }
    append(&storage, &mut log, 3);
    check_log(&storage, &log, log.mark_at(m_id(700)));
}

pub(crate) fn what_is_not_durable_is_not_trimmed<D: TestDisk>() {
    let disk = D::new();
    let (storage, _) = disk.open();
    let mut log = TestLog::new(log_name(1, 1, 7));
    append(&storage, &mut log, 7);
    storage.sync().expect("synced");
    append(&storage, &mut log, 7);
    let (name, claimed, durable) = (log.name(), m_id(8), m_id(7));
    let refused = storage.trim(&name, claimed);
    assert_eq!(refused, Err(StorageError::NotDurable { log: name, claimed, durable }));
    check_log(&storage, &log, log.start());
}

/// Moves a log over messages that are there in the model and not on the disk.
fn cross(storage: &impl LogStorage, log: &mut TestLog, messages: usize, is_new: bool) -> Hole {
    let from = log.mark().m_id.next();
    log.push_many(messages, 5);
    let (through, stamp) = (log.mark(), log.stamp_at(log.mark().m_id));
    let hole = Hole { log: log.name(), from, through, stamp };
    let row = is_new.then(|| log.row.clone());
    storage.cross_hole(WallTime::new(2_000), row.as_ref(), &hole).expect("crossed");
    hole
}

pub(crate) fn holes_are_crossed<D: TestDisk>() {
    let mut disk = D::new();
    let (mut storage, _) = disk.open();
    let mut log = TestLog::new(log_name(1, 1, 7));
    let name = log.name();
    append(&storage, &mut log, 300);
    cross(&storage, &mut log, 400, false);
    cross(&storage, &mut log, 10, false);
    append(&storage, &mut log, 90);
    storage.sync().expect("synced");

    let wrong = Hole { log: name, from: m_id(5), through: log.mark(), stamp: HybridTime::ZERO };
    let refused = storage.cross_hole(WallTime::new(1), None, &wrong);
    assert!(matches!(refused, Err(StorageError::NotContiguous { .. })));

    for is_reopened in [false, true] {
        if is_reopened {
            storage.store_checkpoint(&[(name, log.mark())], &[]).expect("stored");
            cross(&storage, &mut log, 5, false);
            disk.kill(storage);
            let opened = disk.open();
            assert_eq!(opened.1.cut, []);
            assert_eq!(opened.1.logs[0].mark, log.mark());
            assert_eq!(opened.1.logs[0].last_stamp, log.stamp_at(log.mark().m_id));
            assert_eq!(opened.1.logs[0].last_missing, log.mark().m_id, "the last hole's end");
            assert_eq!(opened.1.logs[0].floor, log.start(), "nothing is trimmed");
            storage = opened.0;
        }
        let missing = |from| storage.missing_from(&name, m_id(from)).expect("readable");
        for (from, through) in [(301, 700), (500, 700), (701, 710)] {
            let hole = missing(from).expect("in a hole");
            assert_eq!(hole.through, log.mark_at(m_id(through)), "from {from}");
        }
        assert_eq!((missing(300), missing(711)), (None, None));
        let numbers = |from: u64| {
            let read = storage.read(&name, m_id(from), m_id(9_999), NO_LIMIT).expect("readable");
            read.into_iter().map(|message| message.m_id.get()).collect::<Vec<_>>()
        };
        assert_eq!(numbers(290), (290..=300).collect::<Vec<_>>());
        assert_eq!(numbers(301), (711..=800).collect::<Vec<_>>());
        assert_eq!(numbers(705), (711..=800).collect::<Vec<_>>());
        let hash = |number: u64| storage.chain_hash_at(&name, m_id(number)).expect("readable");
        for held in [1, 300, 700, 710, 711, 768, 800] {
            assert_eq!(hash(held), Some(log.hash_at(m_id(held))));
        }
        for missing in [301, 512, 699, 701, 709] {
            assert_eq!(hash(missing), None);
        }
    }
}

pub(crate) fn a_hole_at_the_beginning_is_a_floor<D: TestDisk>() {
    let mut disk = D::new();
    let (storage, _) = disk.open();
    let mut log = TestLog::new(log_name(1, 1, 7));
    cross(&storage, &mut log, 40, true);
    let floor = log.mark();
    append(&storage, &mut log, 20);
    check_log(&storage, &log, floor);
    disk.kill(storage);
    let (storage, recovery) = disk.open();
    assert_eq!((recovery.logs[0].floor, recovery.logs[0].mark), (floor, log.mark()));
    check_log(&storage, &log, floor);

    let unknown = Hole {
        log: log_name(1, 2, 7),
        from: m_id(1),
        through: Mark { m_id: m_id(4), hash: ChainHash::EMPTY },
        stamp: HybridTime::ZERO,
    };
    let refused = storage.cross_hole(WallTime::new(1), None, &unknown);
    assert_eq!(refused, Err(StorageError::UnknownLog { log: unknown.log }));
}

/// What a log goes on from may itself be trimmed: reaching it is enough, at the
/// opening as at admission.
pub(crate) fn a_parent_inside_a_hole_is_held<D: TestDisk>() {
    let mut disk = D::new();
    let (storage, _) = disk.open();
    let mut parent = TestLog::new(log_name(1, 1, 7));
    cross(&storage, &mut parent, 40, true);
    let mut child = TestLog::after(log_name(1, 1, 3), vec![parent.tip()]);
    cross(&storage, &mut child, 10, true);
    let point = parent.mark_at(m_id(30));
    let incarnation = parent.name().incarnation;
    let inside = ParentPoint { incarnation, m_id: point.m_id, hash: point.hash };
    let mut branch = TestLog::after(log_name(1, 1, 9), vec![inside]);
    append(&storage, &mut branch, 10);
    disk.kill(storage);
    let (_, recovery) = disk.open();
    assert_eq!(recovery.cut, []);
    assert_eq!(recovery.logs.len(), 3);
}

pub(crate) fn a_trim_passes_over_holes<D: TestDisk>() {
    let mut disk = D::new();
    let (storage, _) = disk.open();
    let mut log = TestLog::new(log_name(1, 1, 7));
    append(&storage, &mut log, 100);
    let first = cross(&storage, &mut log, 50, false);
    append(&storage, &mut log, 100);
    let second = cross(&storage, &mut log, 50, false);
    append(&storage, &mut log, 100);
    storage.sync().expect("synced");
    // A floor inside a hole or just before it is at the hole's end.
    assert_eq!(storage.trim(&log.name(), m_id(100)), Ok(first.through));
    assert_eq!(storage.trim(&log.name(), m_id(260)), Ok(second.through));
    disk.kill(storage);
    let (storage, recovery) = disk.open();
    assert_eq!(recovery.cut, []);
    assert_eq!(recovery.logs[0].floor, second.through);
    check_log(&storage, &log, second.through);
}

/// What is left of trimmed messages is in the projections: they are durable
/// before the messages go.
pub(crate) fn a_trim_flushes_what_is_left_of_the_trimmed<D: TestDisk>() {
    let mut disk = D::new();
    let (storage, _) = disk.open();
    let mut log = TestLog::new(log_name(1, 1, 7));
    append(&storage, &mut log, 10);
    storage.sync().expect("synced");
    let positions = vec![(log.name(), m_id(10))];
    let position = ProjectionPosition { positions, ..ProjectionPosition::default() };
    let entry = (Bytes::from_static(b"channel"), Bytes::from_static(b"definition"));
    let changes = ProjectionChanges { puts: vec![entry.clone()], deletes: vec![] };
    let kind = ProjectionKind::Directory;
    storage.store_projection(kind, &position, &changes).expect("stored");
    storage.trim(&log.name(), m_id(10)).expect("trimmed");
    disk.kill(storage);
    let (storage, _) = disk.open();
    assert_eq!(storage.projection(kind), Ok(Some(position)));
    assert_eq!(storage.scan_projection(kind, b"", None, 9), Ok(vec![entry]));
}
