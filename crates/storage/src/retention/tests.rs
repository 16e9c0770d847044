//! What is trimmed, over real storage in memory.

use bytes::Bytes;
use interlock_core::admission::AppendEntry;
use interlock_core::clock::HybridTime;
use interlock_core::identity::{
    Epoch, Incarnation, NodeNumber, PathName, RegisterVersion, ShardNumber, TopologyVersion,
};
use interlock_core::message::{Message, MessageKind};
use interlock_core::names::ChannelName;
use interlock_core::replication::rows::Row;

use super::*;
use crate::{AppendBatch, MemoryDisk, MemoryStorage};

const NAMESPACE: NamespaceNumber = NamespaceNumber::new(1);
const SECOND: u64 = 1_000;

fn name(origin: u32) -> LogName {
    let path = PathName {
        namespace: NAMESPACE,
        shard: ShardNumber::new(0),
        origin: NodeNumber::new(origin),
    };
    path.log(Incarnation::new(7).expect("not zero"))
}

fn number(m_id: u64) -> MessageNumber {
    MessageNumber::new(m_id)
}

/// Two logs in a storage; all that is appended becomes durable.
struct Logs {
    storage: MemoryStorage,
    hashes: BTreeMap<LogName, (u64, interlock_core::identity::ChainHash)>,
}

impl Logs {
    fn new() -> Self {
        let (storage, _) = MemoryStorage::open(&MemoryDisk::new()).expect("an empty disk");
        Self { storage, hashes: BTreeMap::new() }
    }

    /// Appends messages of 1,000 bytes that were accepted at a second.
    fn append(&mut self, origin: u32, count: u64, second: u64) {
        self.append_sized(origin, count, second, 1_000);
    }

    fn append_sized(&mut self, origin: u32, count: u64, second: u64, bytes: usize) {
        let log = name(origin);
        let row = Row { log, parents: Vec::new() };
        let (mut last, mut hash) = self.hashes.get(&log).copied().unwrap_or((0, row.start_hash()));
        let mut entries = Vec::new();
        for _ in 0..count {
            last += 1;
            let message = Message {
                m_id: number(last),
                groups: Vec::new(),
                kind: MessageKind::Publication,
                stamp: HybridTime::new(last),
                parents: Vec::new(),
                topology_version: TopologyVersion::default(),
                channel: ChannelName::parse("news").expect("a name").into(),
                epoch: Epoch::new(1),
                version: RegisterVersion::new(1),
                key: Bytes::new(),
                publisher: None,
                possibly_repeated: false,
                trace: None,
                payload: vec![0; bytes].into(),
            };
            let bytes = message.encode();
            hash = hash.then(&bytes);
            let (m_id, stamp) = (message.m_id, message.stamp);
            let row = (last == 1).then(|| row.clone());
            entries.push(AppendEntry { log, row, m_id, bytes, hash, stamp });
        }
        self.hashes.insert(log, (last, hash));
        let at = WallTime::new(second * SECOND);
        self.storage.append(&AppendBatch::new(at, entries)).expect("the disk works");
        self.storage.sync().expect("the disk works");
    }

    /// As the others hold them up to these numbers.
    fn held(&self, by_all: &[(u32, u64)]) -> Vec<TrimmableLog> {
        by_all
            .iter()
            .map(|(origin, held_by_all)| TrimmableLog {
                log: name(*origin),
                floor: MessageNumber::ZERO,
                durable: number(self.hashes[&name(*origin)].0),
                held_by_all: number(*held_by_all),
            })
            .collect()
    }

    fn plan(&self, second: u64, by_all: &[(u32, u64)], limits: TrimLimits) -> TrimPlan {
        let now = WallTime::new(second * SECOND);
        plan_trims(&self.storage, now, &self.held(by_all), &limits).expect("the disk works")
    }
}

fn limits(retention: Retention) -> TrimLimits {
    TrimLimits { namespace: NAMESPACE, retention, cap: 0, least: 1 }
}

/// Ten seconds of two logs, 100 messages each second.
fn ten_seconds() -> Logs {
    let mut logs = Logs::new();
    for second in 1..=10 {
        logs.append(1, 100, second);
        logs.append(2, 100, second);
    }
    logs
}

#[test]
fn what_is_too_old_goes_as_far_as_all_hold_it() {
    let logs = ten_seconds();
    let age = Retention { age_seconds: 6, ..Retention::default() };
    let plan = logs.plan(10, &[(1, 1_000), (2, 150)], limits(age));
    // Accepted before second 4: three seconds' worth.
    assert_eq!(plan.trims, [(name(1), number(300)), (name(2), number(150))]);
    assert_eq!(plan.released, []);
    let never = logs.plan(10, &[(1, 1_000), (2, 1_000)], limits(Retention::default()));
    assert_eq!(never, TrimPlan::default());
}

#[test]
fn too_much_loses_its_oldest_in_all_logs_alike() {
    let logs = ten_seconds();
    let total = logs.storage.log_bytes(NAMESPACE);
    let half = Retention { bytes: total / 2, ..Retention::default() };
    let plan = logs.plan(10, &[(1, 1_000), (2, 1_000)], limits(half));
    // A half, and a sixteenth of the limit for headroom: five seconds of both, and
    // of the sixth no more than that takes.
    assert_eq!(plan.trims, [(name(1), number(563)), (name(2), number(500))]);
    let enough = Retention { bytes: total, ..Retention::default() };
    assert_eq!(logs.plan(10, &[(1, 1_000), (2, 1_000)], limits(enough)), TrimPlan::default());
    // Where the others hold only a little, only that goes.
    let plan = logs.plan(10, &[(1, 50), (2, 0)], limits(half));
    assert_eq!(plan.trims, [(name(1), number(50))]);
}

/// A log that is at its end already gives no more, and what it does not give the other
/// one does.
#[test]
fn no_more_goes_than_all_hold() {
    let mut logs = ten_seconds();
    let total = logs.storage.log_bytes(NAMESPACE);
    let half = Retention { bytes: total / 2, ..Retention::default() };
    let plan = logs.plan(10, &[(1, 150), (2, 1_000)], limits(half));
    assert_eq!(plan.trims, [(name(1), number(150)), (name(2), number(913))]);
    assert_eq!(plan.released, []);
    // A log that has ended and is old as a whole.
    logs.append(3, 100, 1);
    let held = [(1, 1_000), (2, 1_000), (3, 100)];
    let plan = logs.plan(20, &held, limits(half));
    assert!(plan.trims.contains(&(name(3), number(100))), "{plan:?}");
    assert_eq!(plan.released, []);
}

/// What came back in one piece has one age: still only its oldest part goes.
#[test]
fn what_came_together_goes_in_parts() {
    let mut logs = Logs::new();
    logs.append(1, 1_000, 5);
    let total = logs.storage.log_bytes(NAMESPACE);
    let half = Retention { bytes: total / 2, ..Retention::default() };
    let plan = logs.plan(10, &[(1, 1_000)], limits(half));
    assert_eq!(plan.trims, [(name(1), number(532))]);
}

#[test]
fn at_the_cap_a_member_that_is_behind_holds_nothing_back() {
    let logs = ten_seconds();
    let total = logs.storage.log_bytes(NAMESPACE);
    let at_cap = TrimLimits { cap: total, ..limits(Retention::default()) };
    let plan = logs.plan(10, &[(1, 1_000), (2, 0)], at_cap);
    assert_eq!(plan.trims, [(name(1), number(143)), (name(2), number(100))]);
    assert_eq!(plan.released, [(name(2), number(100))]);
    let below = TrimLimits { cap: total * 2, ..limits(Retention::default()) };
    assert_eq!(logs.plan(10, &[(1, 1_000), (2, 0)], below), TrimPlan::default());
    // What was let go of before is not let go of again.
    let held = logs.held(&[(1, 1_000), (2, 0)]);
    let behind = [held[0], TrimmableLog { floor: number(100), ..held[1] }];
    let age = TrimLimits {
        cap: total * 2,
        ..limits(Retention { age_seconds: 6, ..Retention::default() })
    };
    let plan = plan_trims(&logs.storage, WallTime::new(10 * SECOND), &behind, &age);
    let plan = plan.expect("the disk works");
    assert_eq!((plan.trims, plan.released), (vec![(name(1), number(300))], Vec::new()));
}

#[test]
fn a_few_messages_wait_for_more() {
    let logs = ten_seconds();
    let age = Retention { age_seconds: 8, ..Retention::default() };
    let patient = TrimLimits { least: 256, ..limits(age) };
    assert_eq!(logs.plan(10, &[(1, 1_000), (2, 1_000)], patient).trims, []);
    // All of a log that has ended is worth it.
    let plan = logs.plan(100, &[(1, 1_000), (2, 1_000)], patient);
    assert_eq!(plan.trims, [(name(1), number(1_000)), (name(2), number(1_000))]);
    // At the cap nothing waits.
    let cap = logs.storage.log_bytes(NAMESPACE);
    let at_cap = TrimLimits { cap, least: 256, ..limits(Retention::default()) };
    let plan = logs.plan(10, &[(1, 0), (2, 0)], at_cap);
    assert_eq!(plan.trims, [(name(1), number(143)), (name(2), number(100))]);
    assert_eq!(plan.released, plan.trims);
    // A clock that was set back takes nothing away.
    assert_eq!(logs.plan(1, &[(1, 1_000), (2, 1_000)], patient).trims, []);
}

/// What a trim has in memory is bounded, whatever there is to trim.
#[test]
fn a_long_log_goes_in_several_looks() {
    let mut logs = Logs::new();
    let count = MAX_MESSAGES_AT_ONCE + 1_000;
    logs.append_sized(1, count, 1, 1);
    let age = Retention { age_seconds: 8, ..Retention::default() };
    let held = |floor| TrimmableLog { floor: number(floor), ..logs.held(&[(1, count)])[0] };
    let plan = |floor| {
        let now = WallTime::new(100 * SECOND);
        plan_trims(&logs.storage, now, &[held(floor)], &limits(age)).expect("the disk works").trims
    };
    assert_eq!(plan(0), [(name(1), number(MAX_MESSAGES_AT_ONCE))]);
    assert_eq!(plan(MAX_MESSAGES_AT_ONCE), [(name(1), number(count))]);
}
