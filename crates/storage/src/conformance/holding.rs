//! What is kept beside the log.

use bytes::Bytes;
use interlock_core::identity::{
    Incarnation, LogName, Mark, MemberOpening, NamespaceNumber, NodeNumber,
};
use interlock_core::projection::{
    LayoutVersion, ProjectionChanges, ProjectionKind, ProjectionPosition,
};
use interlock_core::replication::acknowledgements::{Acknowledgements, MemberRecord, Recorded};
use interlock_core::replication::frames::Fact;

use super::{TestDisk, append, m_id};
use crate::contract::{LogStorage, StorageError};
use crate::test_logs::{TestLog, log_name};

pub(crate) fn documents_are_kept<D: TestDisk>() {
    let mut disk = D::new();
    let (storage, _) = disk.open();
    assert_eq!(storage.load_document("topology"), Ok(None));
    storage.store_document("topology", b"one").expect("stored");
    storage.store_document("topology", b"two").expect("stored");
    storage.store_document("topology/last", b"").expect("stored");
    disk.kill(storage);
    let (storage, _) = disk.open();
    assert_eq!(storage.load_document("topology"), Ok(Some(Bytes::from_static(b"two"))));
    assert_eq!(storage.load_document("topology/last"), Ok(Some(Bytes::new())));
    assert_eq!(storage.load_document("topolog"), Ok(None));
}

pub(crate) fn checkpoints_take_durable_marks_only<D: TestDisk>() {
    let mut disk = D::new();
    let (storage, _) = disk.open();
    let mut log = TestLog::new(log_name(1, 1, 7));
    append(&storage, &mut log, 300);
    let name = log.name();
    let early = storage.store_checkpoint(&[(name, log.mark())], &[]);
    let claimed = log.mark().m_id;
    let not_durable = StorageError::NotDurable { log: name, claimed, durable: m_id(0) };
    assert_eq!(early, Err(not_durable));

    storage.sync().expect("synced");
    append(&storage, &mut log, 10);
    let durable = log.mark_at(m_id(300));
    storage.store_checkpoint(&[(name, durable)], &[]).expect("stored");
    storage.store_checkpoint(&[(name, log.mark_at(m_id(3)))], &[]).expect("an older mark is fine");
    let other = Mark { m_id: durable.m_id, hash: log.hash_at(m_id(1)) };
    let differs = storage.store_checkpoint(&[(name, other)], &[]);
    assert_eq!(differs, Err(StorageError::MarkDiffers { log: name, m_id: durable.m_id }));
    let late = storage.store_checkpoint(&[(name, log.mark())], &[]);
    assert!(matches!(late, Err(StorageError::NotDurable { .. })));
    disk.kill(storage);
    assert_eq!(disk.open().1.logs[0].mark, log.mark());
}

fn opening(node: u32, incarnation: u64, opened_from: u64) -> MemberOpening {
    MemberOpening {
        node: NodeNumber::new(node),
        incarnation: Incarnation::new(incarnation).expect("not zero"),
        opened_from: Incarnation::new(opened_from),
    }
}

fn mark(number: u64) -> (LogName, Mark) {
    (log_name(1, 1, 7), Mark { m_id: m_id(number), ..Mark::default() })
}

pub(crate) fn what_is_known_of_members_is_replaced<D: TestDisk>() {
    let mut disk = D::new();
    let (mut storage, _) = disk.open();
    let member = |node, facts, retired: &[u64]| MemberRecord {
        node: NodeNumber::new(node),
        facts,
        retired: retired.iter().filter_map(|bits| Incarnation::new(*bits)).collect(),
        too_many_openings: retired.len() == 1,
    };
    let first = Fact { opening: opening(2, 5, 0), marks: vec![mark(4)] };
    let second = Fact { opening: opening(3, 6, 5), marks: vec![] };
    let other = Fact { opening: opening(3, 7, 0), marks: vec![mark(3)] };
    let moved = Fact { marks: vec![mark(9)], ..first.clone() };
    for members in [
        vec![member(2, vec![first.clone()], &[]), member(3, vec![second.clone()], &[5])],
        vec![member(2, vec![moved], &[4, 3]), member(3, vec![second, other], &[5, 4, 9])],
        vec![member(2, vec![first], &[3]), member(3, vec![], &[8])],
        vec![],
    ] {
        storage.store_checkpoint(&[], &members).expect("stored");
        disk.kill(storage);
        let opened = disk.open();
        assert_eq!(opened.1.members, members);
        storage = opened.0;
        // What is unchanged stays.
        storage.store_checkpoint(&[], &members).expect("stored");
        drop(storage);
        let opened = disk.open();
        assert_eq!(opened.1.members, members);
        storage = opened.0;
    }
}

/// METHOD M6, M9: the queue of a peer that was restarted, several times, is what
/// it was before this node was.
pub(crate) fn the_queue_of_a_restarted_peer_survives<D: TestDisk>() {
    let mut disk = D::new();
    let (storage, _) = disk.open();
    let mut known = Acknowledgements::new();
    for restart in 1..5 {
        let fact =
            Fact { opening: opening(2, restart + 1, restart), marks: vec![mark(restart * 9)] };
        known.handle_connecting(fact.opening.node);
        known.record(&fact, true);
    }
    known.record(&Fact { opening: opening(3, 8, 0), marks: vec![mark(2)] }, false);
    known.record(&Fact { opening: opening(3, 9, 0), marks: vec![mark(1)] }, false);
    storage.store_checkpoint(&[], &known.to_checkpoint()).expect("stored");
    disk.kill(storage);

    let (_, recovery) = disk.open();
    let mut restored = Acknowledgements::from_checkpoint(&recovery.members);
    assert_eq!(restored.to_checkpoint(), known.to_checkpoint());
    let queue = restored.queue(NodeNumber::new(2), [(mark(0).0, m_id(0), m_id(40))]);
    assert_eq!(queue[0].messages(), 4, "what it acknowledged is not sent again");
    for over in 1..5 {
        let late = Fact { opening: opening(2, over, 0), marks: vec![mark(999)] };
        assert_eq!(restored.record(&late, false), Recorded::Retired, "opening {over}");
    }
}

fn position(layout: u32, log: &TestLog) -> ProjectionPosition {
    let positions = vec![(log.name(), log.mark().m_id)];
    ProjectionPosition { layout: LayoutVersion::new(layout), positions }
}

fn bytes(text: &'static str) -> Bytes {
    Bytes::from_static(text.as_bytes())
}

pub(crate) fn projections_are_kept_by_kind<D: TestDisk>() {
    let disk = D::new();
    let (storage, _) = disk.open();
    let mut log = TestLog::new(log_name(1, 1, 7));
    append(&storage, &mut log, 5);
    storage.sync().expect("synced");
    let [directory, publishers, index] = ProjectionKind::ALL;
    assert_eq!(storage.projection(directory), Ok(None));

    let names = ["a", "ab", "abc", "b", "\u{7f}"];
    let puts: Vec<_> = names.iter().map(|name| (bytes(name), bytes("1"))).collect();
    let changes = ProjectionChanges { puts: puts.clone(), deletes: vec![bytes("zz")] };
    storage.store_projection(directory, &position(3, &log), &changes).expect("stored");
    let other = ProjectionChanges { puts: vec![(Bytes::new(), bytes("2"))], deletes: vec![] };
    storage.store_projection(publishers, &position(1, &log), &other).expect("stored");

    assert_eq!(storage.projection(directory), Ok(Some(position(3, &log))));
    let scan = |kind, prefix: &str, after: Option<&str>, limit| {
        let after = after.map(str::as_bytes);
        let found = storage.scan_projection(kind, prefix.as_bytes(), after, limit);
        let found = found.expect("readable").into_iter();
        found.map(|(key, _)| String::from_utf8(key.to_vec()).expect("text")).collect::<Vec<_>>()
    };
    assert_eq!(scan(directory, "", None, 100), names);
    assert_eq!(scan(directory, "a", None, 100), ["a", "ab", "abc"]);
    assert_eq!(scan(directory, "a", Some("a"), 1), ["ab"]);
    assert_eq!(scan(directory, "a", Some("abc"), 9), [""; 0]);
    assert_eq!(scan(directory, "b", Some("a"), 9), ["b"]);
    assert_eq!(scan(directory, "", None, 0), [""; 0]);
    assert_eq!(scan(publishers, "", None, 100), [""]);
    assert_eq!(scan(index, "", None, 100), [""; 0]);

    append(&storage, &mut log, 1);
    storage.sync().expect("synced");
    let removal = ProjectionChanges { puts: vec![], deletes: vec![bytes("ab")] };
    storage.store_projection(directory, &position(3, &log), &removal).expect("stored");
    assert_eq!(scan(directory, "a", None, 100), ["a", "abc"]);
    assert_eq!(storage.projection(directory), Ok(Some(position(3, &log))));
    drop(storage);

    let (storage, recovery) = disk.open();
    assert_eq!(recovery.projections_ahead, []);
    storage.reset_projection(directory).expect("reset");
    assert_eq!(storage.projection(directory), Ok(None));
    assert_eq!(storage.scan_projection(directory, b"", None, 9), Ok(vec![]));
    assert_eq!(storage.projection(index), Ok(None));
}

pub(crate) fn projections_take_durable_positions_only<D: TestDisk>() {
    let disk = D::new();
    let (storage, _) = disk.open();
    let mut log = TestLog::new(log_name(1, 1, 7));
    append(&storage, &mut log, 5);
    let kind = ProjectionKind::Directory;
    let nothing = ProjectionChanges::default();
    let early = storage.store_projection(kind, &position(1, &log), &nothing);
    assert!(matches!(early, Err(StorageError::NotDurable { .. })));
    storage.sync().expect("synced");
    storage.store_projection(kind, &position(1, &log), &nothing).expect("stored");
}

pub(crate) fn space_is_told<D: TestDisk>() {
    let disk = D::new();
    let (storage, _) = disk.open();
    let before = storage.space().expect("told");
    assert!(before.free_bytes > 0);
    let mut log = TestLog::new(log_name(1, 1, 7));
    append(&storage, &mut log, 2_000);
    assert!(storage.space().expect("told").used_bytes >= before.used_bytes + 2_000 * 40);
}

pub(crate) fn the_size_of_logs_is_counted<D: TestDisk>() {
    let mut disk = D::new();
    let (storage, _) = disk.open();
    let mut logs = [(1, 1), (1, 2), (2, 1)].map(|(n, o)| TestLog::new(log_name(n, o, 7)));
    for log in &mut logs {
        append(&storage, log, 700);
    }
    storage.sync().expect("synced");
    storage.store_checkpoint(&[], &[]).expect("stored");
    append(&storage, &mut logs[0], 5);
    let sizes = |storage: &D::Storage| {
        [1, 2, 3].map(|namespace| storage.log_bytes(NamespaceNumber::new(namespace)))
    };
    let payload = |log: &TestLog| log.entries.iter().map(|entry| entry.bytes.len() as u64).sum();
    let before = sizes(&storage);
    let [first, second, third]: [u64; 3] = [&logs[0], &logs[1], &logs[2]].map(payload);
    assert!(before[0] >= first + second && before[0] < (first + second) * 5 / 4);
    assert!(before[1] >= third && before[1] < third * 5 / 4);
    assert_eq!(before[2], 0);
    disk.kill(storage);
    let (storage, _) = disk.open();
    assert_eq!(sizes(&storage), before);
}
