//! Which logs this node holds and how far: appended, durable, trimmed.
//!
//! The log writer moves the appended marks, the syncer's word moves the durable
//! ones. Only durable marks may leave the process.

use std::collections::{BTreeMap, VecDeque};
use std::fmt;

use xxhash_rust::xxh3::Xxh3;

use crate::clock::HybridTime;
use crate::identity::{
    ChainHash, Incarnation, LogName, Mark, MessageName, MessageNumber, NamespaceNumber, NodeNumber,
    ParentPoint, PathName, ShardNumber,
};
use crate::replication::rows::{Row, RowConflict, Rows};

/// The chain hashes of what is stored, as far as they are kept.
pub trait ChainHistory {
    /// The chain hash of `log` after `m_id`; `None` inside a hole, below the
    /// floor, and for what is not stored.
    fn chain_hash_at(&self, log: &LogName, m_id: MessageNumber) -> Option<ChainHash>;
}

/// A history that remembers nothing: every comparison ends at what the log
/// table itself knows.
#[derive(Clone, Copy, Debug, Default)]
pub struct NoHistory;

impl ChainHistory for NoHistory {
    fn chain_hash_at(&self, _: &LogName, _: MessageNumber) -> Option<ChainHash> {
        None
    }
}

/// Why a log stands still between this node and a member that holds other
/// content under the same names. What agrees with the content held here goes
/// on, whoever serves it; what descends from the other content cannot.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct StopReason {
    /// The message at which both contents were compared. They part at or before
    /// it.
    pub noticed_at: MessageNumber,
    /// The chain hash held here.
    pub held: ChainHash,
    /// The chain hash that the other content has there.
    pub offered: ChainHash,
}

impl fmt::Display for StopReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "content differs at or before message {}: held {}, offered {}",
            self.noticed_at, self.held, self.offered
        )
    }
}

/// One log as this node holds it.
#[derive(Clone, Debug)]
pub struct HeldLog {
    /// The log's name and parents.
    pub row: Row,
    /// How far it is appended: visible here, perhaps not durable.
    pub appended: Mark,
    /// How far it is durable: may be served, acknowledged and delivered.
    pub durable: Mark,
    /// The last trimmed message; the message before the first if none is.
    pub floor: Mark,
    /// The stamp of the last appended message.
    pub last_stamp: HybridTime,
    /// Set once a member has shown other content under names of this log.
    pub stopped: Option<StopReason>,
    /// The marks after each message above the durable one, up to the appended
    /// one: the storage may not have these messages yet.
    settling: VecDeque<Mark>,
}

impl HeldLog {
    /// A log before its first message.
    fn before_first(row: Row) -> Self {
        let start = Mark { m_id: row.first_m_id().previous(), hash: row.start_hash() };
        Self {
            row,
            appended: start,
            durable: start,
            floor: start,
            last_stamp: HybridTime::ZERO,
            stopped: None,
            settling: VecDeque::new(),
        }
    }

    /// The number of the log's first message.
    pub fn first_m_id(&self) -> MessageNumber {
        self.row.first_m_id()
    }

    /// Whether this message of the log is, or has been, held here.
    pub fn holds(&self, m_id: MessageNumber) -> bool {
        m_id >= self.first_m_id() && m_id <= self.appended.m_id
    }

    /// The chain hash after `m_id`, where the table knows it without storage.
    fn known_hash_at(&self, m_id: MessageNumber) -> Option<ChainHash> {
        if m_id == self.appended.m_id {
            return Some(self.appended.hash);
        }
        if m_id > self.durable.m_id {
            let index = self.settling.binary_search_by_key(&m_id, |mark| mark.m_id).ok()?;
            return Some(self.settling[index].hash);
        }
        if m_id == self.durable.m_id {
            return Some(self.durable.hash);
        }
        if m_id == self.floor.m_id {
            return Some(self.floor.hash);
        }
        (m_id == self.first_m_id().previous()).then(|| self.row.start_hash())
    }
}

/// What is known of one chain hash.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum HeldHash {
    /// The message is held, with this hash after it.
    Known(ChainHash),
    /// The message was held, and no hash of it is kept any more.
    Forgotten,
    /// The mark has not reached the message.
    NotReached,
}

/// Another member's mark against what is appended here.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MarkComparison {
    /// The log is not held here.
    UnknownLog,
    /// What both hold is the same, as far as it can be compared; the other has
    /// no more than we have.
    Agrees,
    /// The other holds more of the log.
    Ahead,
    /// Both hold the message, with different content up to it.
    Differs(StopReason),
}

/// All logs that this node holds, with their rows.
#[derive(Clone, Debug, Default)]
pub struct LogTable {
    rows: Rows,
    logs: BTreeMap<LogName, HeldLog>,
}

impl LogTable {
    /// A table without logs.
    pub fn new() -> Self {
        Self::default()
    }

    /// Enters a log as the storage found it at opening: all of it is durable.
    pub fn insert_recovered(
        &mut self,
        row: Row,
        mark: Mark,
        floor: Mark,
        last_stamp: HybridTime,
    ) -> Result<(), RowConflict> {
        let name = row.log;
        self.open(row)?;
        let held = self.logs.get_mut(&name).expect("just entered");
        held.appended = mark;
        held.durable = mark;
        // A storage that has trimmed nothing may say so with an empty mark.
        if floor.m_id > held.floor.m_id {
            held.floor = floor;
        }
        held.last_stamp = last_stamp;
        Ok(())
    }

    /// Enters a log before its first message. Again is no error.
    pub fn open(&mut self, row: Row) -> Result<(), RowConflict> {
        let name = row.log;
        self.rows.insert(row.clone())?;
        self.logs.entry(name).or_insert_with(|| HeldLog::before_first(row));
        Ok(())
    }

    /// Moves the appended mark over one message. The log is held.
    pub fn note_appended(&mut self, log: &LogName, mark: Mark, stamp: HybridTime) {
        let held = self.logs.get_mut(log).expect("a message is appended to a log that is held");
        debug_assert_eq!(held.appended.m_id.next(), mark.m_id, "messages of {log} are contiguous");
        held.appended = mark;
        held.last_stamp = stamp;
        held.settling.push_back(mark);
    }

    /// Moves the durable mark, never back and never beyond the appended one.
    pub fn note_durable(&mut self, log: &LogName, mark: Mark) {
        let Some(held) = self.logs.get_mut(log) else { return };
        while let Some(settled) = held.settling.pop_front_if(|settling| settling.m_id <= mark.m_id)
        {
            debug_assert!(settled.m_id != mark.m_id || settled.hash == mark.hash, "{log} differs");
            held.durable = settled;
        }
    }

    /// Moves the appended mark and the floor over a hole, as declared by a member
    /// that trimmed it.
    pub fn note_hole(&mut self, log: &LogName, through: Mark, stamp: HybridTime) {
        let Some(held) = self.logs.get_mut(log) else { return };
        if through.m_id <= held.appended.m_id {
            return;
        }
        held.appended = through;
        held.floor = through;
        held.last_stamp = held.last_stamp.max(stamp);
        held.settling.push_back(through);
    }

    /// Moves the floor up after a trim.
    pub fn note_trimmed(&mut self, log: &LogName, floor: Mark) {
        if let Some(held) = self.logs.get_mut(log)
            && floor.m_id > held.floor.m_id
            && floor.m_id <= held.durable.m_id
        {
            held.floor = floor;
        }
    }

    /// Remembers that a member holds other content under this log's names. The
    /// first such finding stays.
    pub fn note_stopped(&mut self, log: &LogName, reason: StopReason) {
        if let Some(held) = self.logs.get_mut(log) {
            held.stopped.get_or_insert(reason);
        }
    }

    /// Forgets that a log stood still, after a repair.
    pub fn clear_stopped(&mut self, log: &LogName) {
        if let Some(held) = self.logs.get_mut(log) {
            held.stopped = None;
        }
    }

    /// The rows of all logs held.
    pub fn rows(&self) -> &Rows {
        &self.rows
    }

    /// One log.
    pub fn get(&self, log: &LogName) -> Option<&HeldLog> {
        self.logs.get(log)
    }

    /// All logs, in the order of their names.
    pub fn iter(&self) -> impl Iterator<Item = (&LogName, &HeldLog)> {
        self.logs.iter()
    }

    /// The logs of one namespace.
    pub fn namespace(
        &self,
        namespace: NamespaceNumber,
    ) -> impl Iterator<Item = (&LogName, &HeldLog)> {
        let first = LogName {
            namespace,
            shard: ShardNumber::new(0),
            origin: NodeNumber::new(0),
            incarnation: FIRST_INCARNATION,
        };
        let last = LogName {
            namespace,
            shard: ShardNumber::new(u16::MAX),
            origin: NodeNumber::new(u32::MAX),
            incarnation: LAST_INCARNATION,
        };
        self.logs.range(first..=last)
    }

    /// The logs of one origin's path.
    pub fn path(&self, path: &PathName) -> impl Iterator<Item = (&LogName, &HeldLog)> {
        self.logs.range(path.log(FIRST_INCARNATION)..=path.log(LAST_INCARNATION))
    }

    /// Whether this very message is, or has been, held.
    pub fn holds(&self, name: &MessageName) -> bool {
        self.get(&name.log).is_some_and(|held| held.holds(name.m_id))
    }

    /// The newest appended message of each branch of a path, none of them an
    /// ancestor of another: the parents of the origin's next log.
    pub fn tips_of_path(&self, path: &PathName) -> Vec<ParentPoint> {
        self.tips_by(path, |held| held.appended)
    }

    /// The same of what is durable.
    pub fn durable_tips_of_path(&self, path: &PathName) -> Vec<ParentPoint> {
        self.tips_by(path, |held| held.durable)
    }

    fn tips_by(&self, path: &PathName, mark_of: fn(&HeldLog) -> Mark) -> Vec<ParentPoint> {
        // A log's newest message is an ancestor exactly if some log that holds a
        // message of its own names it as parent: the way down from it to any
        // descendant leaves through such a log.
        let mut continued: BTreeMap<Incarnation, MessageNumber> = BTreeMap::new();
        for (_, child) in self.path(path) {
            if mark_of(child).m_id >= child.first_m_id() {
                for parent in &child.row.parents {
                    let through = continued.entry(parent.incarnation).or_default();
                    *through = (*through).max(parent.m_id);
                }
            }
        }
        self.path(path)
            .filter_map(|(name, held)| {
                let mark = mark_of(held);
                let covered =
                    continued.get(&name.incarnation).is_some_and(|through| *through >= mark.m_id);
                (mark.m_id >= held.first_m_id() && !covered).then_some(ParentPoint {
                    incarnation: name.incarnation,
                    m_id: mark.m_id,
                    hash: mark.hash,
                })
            })
            .collect()
    }

    /// A digest of all tips of a namespace that are held durably. Two members
    /// with equal digests hold the same messages, or have had them.
    pub fn tips_digest(&self, namespace: NamespaceNumber) -> [u8; 16] {
        let mut hasher = Xxh3::new();
        let mut done: Option<PathName> = None;
        for (name, _) in self.namespace(namespace) {
            let path = name.path();
            if done == Some(path) {
                continue;
            }
            done = Some(path);
            for tip in self.durable_tips_of_path(&path) {
                hasher.update(&path.shard.get().to_be_bytes());
                hasher.update(&path.origin.get().to_be_bytes());
                hasher.update(&tip.incarnation.get().to_be_bytes());
                hasher.update(&tip.m_id.get().to_be_bytes());
                hasher.update(&tip.hash.to_bytes());
            }
        }
        hasher.digest128().to_be_bytes()
    }

    /// The chain hash of a log after `m_id`, from the table and else from what
    /// is stored.
    pub fn hash_at(
        &self,
        log: &LogName,
        m_id: MessageNumber,
        history: &dyn ChainHistory,
    ) -> HeldHash {
        let Some(held) = self.get(log).filter(|held| m_id <= held.appended.m_id) else {
            return HeldHash::NotReached;
        };
        match held.known_hash_at(m_id).or_else(|| history.chain_hash_at(log, m_id)) {
            Some(hash) => HeldHash::Known(hash),
            None => HeldHash::Forgotten,
        }
    }

    /// Compares the mark another member names with what is held here.
    pub fn compare(&self, log: &LogName, mark: Mark, history: &dyn ChainHistory) -> MarkComparison {
        if self.get(log).is_none() {
            return MarkComparison::UnknownLog;
        }
        match self.hash_at(log, mark.m_id, history) {
            HeldHash::NotReached => MarkComparison::Ahead,
            HeldHash::Known(held) if held != mark.hash => MarkComparison::Differs(StopReason {
                noticed_at: mark.m_id,
                held,
                offered: mark.hash,
            }),
            HeldHash::Known(_) | HeldHash::Forgotten => MarkComparison::Agrees,
        }
    }
}

const FIRST_INCARNATION: Incarnation = match Incarnation::new(1) {
    Some(first) => first,
    None => panic!("one is not zero"),
};

const LAST_INCARNATION: Incarnation = match Incarnation::new(u64::MAX) {
    Some(last) => last,
    None => panic!("the greatest is not zero"),
};

#[cfg(test)]
mod tests {
    use super::*;

    fn path() -> PathName {
        PathName {
            namespace: NamespaceNumber::new(1),
            shard: ShardNumber::new(0),
            origin: NodeNumber::new(1),
        }
    }

    fn log(bits: u64) -> LogName {
        path().log(Incarnation::new(bits).expect("not zero"))
    }

    fn mark(log: &LogName, m_id: u64) -> Mark {
        let hash = ChainHash::EMPTY.then(&log.incarnation.get().to_be_bytes());
        Mark { m_id: MessageNumber::new(m_id), hash: hash.then(&m_id.to_be_bytes()) }
    }

    fn parent(log: &LogName, m_id: u64) -> ParentPoint {
        let Mark { m_id, hash } = mark(log, m_id);
        ParentPoint { incarnation: log.incarnation, m_id, hash }
    }

    /// Opens a log and appends up to a number.
    fn hold(table: &mut LogTable, log: LogName, parents: Vec<ParentPoint>, through: u64) {
        table.open(Row { log, parents }).expect("no conflict");
        let appended = table.get(&log).expect("opened").appended.m_id.get();
        for m_id in appended + 1..=through {
            table.note_appended(&log, mark(&log, m_id), HybridTime::new(m_id));
        }
    }

    fn tips(table: &LogTable) -> Vec<(u64, u64)> {
        let tips = table.tips_of_path(&path());
        tips.iter().map(|tip| (tip.incarnation.get(), tip.m_id.get())).collect()
    }

    #[test]
    fn a_tip_is_no_ancestor_of_another() {
        let mut table = LogTable::new();
        hold(&mut table, log(5), Vec::new(), 3);
        assert_eq!(tips(&table), [(5, 3)]);
        // A restart goes on from it.
        hold(&mut table, log(2), vec![parent(&log(5), 3)], 4);
        assert_eq!(tips(&table), [(2, 4)]);
        // A copy of before that goes on from 5 as well.
        hold(&mut table, log(9), vec![parent(&log(5), 2)], 3);
        assert_eq!(tips(&table), [(2, 4), (9, 3)]);
        // The next opening closes both.
        hold(&mut table, log(1), vec![parent(&log(2), 4), parent(&log(9), 3)], 5);
        assert_eq!(tips(&table), [(1, 5)]);
        // The parent's log had more than its child knew.
        table.note_appended(&log(9), mark(&log(9), 4), HybridTime::new(9));
        assert_eq!(tips(&table), [(1, 5), (9, 4)]);
    }

    #[test]
    fn a_log_without_messages_of_its_own_is_no_tip_and_covers_nothing() {
        let mut table = LogTable::new();
        hold(&mut table, log(5), Vec::new(), 3);
        table.open(Row { log: log(2), parents: vec![parent(&log(5), 3)] }).expect("no conflict");
        assert_eq!(tips(&table), [(5, 3)]);
    }

    #[test]
    fn only_durable_tips_are_in_the_digest() {
        let namespace = path().namespace;
        let mut table = LogTable::new();
        let empty = table.tips_digest(namespace);
        hold(&mut table, log(5), Vec::new(), 3);
        assert_eq!(table.tips_digest(namespace), empty);
        table.note_durable(&log(5), mark(&log(5), 2));
        let partly = table.tips_digest(namespace);
        assert_ne!(partly, empty);
        table.note_durable(&log(5), mark(&log(5), 3));
        let wholly = table.tips_digest(namespace);
        assert_ne!(wholly, partly);
        assert_eq!(table.tips_digest(NamespaceNumber::new(2)), empty);

        let mut other = LogTable::new();
        let stamp = HybridTime::new(3);
        let row = Row { log: log(5), parents: Vec::new() };
        other.insert_recovered(row, mark(&log(5), 3), Mark::default(), stamp).expect("fits");
        assert_eq!(other.tips_digest(namespace), wholly);
    }

    #[test]
    fn durable_marks_neither_go_back_nor_pass_what_is_appended() {
        let mut table = LogTable::new();
        hold(&mut table, log(5), Vec::new(), 3);
        let durable = |table: &LogTable| table.get(&log(5)).expect("held").durable.m_id.get();
        table.note_durable(&log(5), mark(&log(5), 2));
        assert_eq!(durable(&table), 2);
        table.note_durable(&log(5), mark(&log(5), 1));
        assert_eq!(durable(&table), 2);
        table.note_durable(&log(5), mark(&log(5), 9));
        assert_eq!(durable(&table), 3);
        table.note_durable(&log(6), mark(&log(6), 1));
    }

    /// What the storage does not have yet is known to the table.
    #[test]
    fn hashes_of_what_is_not_durable_are_known() {
        let mut table = LogTable::new();
        hold(&mut table, log(5), Vec::new(), 6);
        table.note_durable(&log(5), mark(&log(5), 3));
        let at = |m_id| table.hash_at(&log(5), MessageNumber::new(m_id), &NoHistory);
        assert_eq!(at(0), HeldHash::Known(ChainHash::EMPTY));
        for forgotten in [1, 2] {
            assert_eq!(at(forgotten), HeldHash::Forgotten);
        }
        for known in 3..=6 {
            assert_eq!(at(known), HeldHash::Known(mark(&log(5), known).hash));
        }
        assert_eq!(at(7), HeldHash::NotReached);
        assert_eq!(table.hash_at(&log(6), MessageNumber::ZERO, &NoHistory), HeldHash::NotReached);
    }

    #[test]
    fn a_log_keeps_its_row() {
        let mut table = LogTable::new();
        hold(&mut table, log(5), Vec::new(), 2);
        let other = Row { log: log(5), parents: vec![parent(&log(4), 1)] };
        assert_eq!(table.open(other), Err(RowConflict::DifferentParents { log: log(5) }));
        assert_eq!(table.get(&log(5)).expect("held").appended.m_id, MessageNumber::new(2));
        assert_eq!(table.rows().len(), 1);
    }

    #[test]
    fn a_floor_moves_up_to_what_is_durable_only() {
        let mut table = LogTable::new();
        hold(&mut table, log(5), Vec::new(), 6);
        table.note_durable(&log(5), mark(&log(5), 4));
        let floor = |table: &LogTable| table.get(&log(5)).expect("held").floor.m_id.get();
        table.note_trimmed(&log(5), mark(&log(5), 5));
        assert_eq!(floor(&table), 0);
        table.note_trimmed(&log(5), mark(&log(5), 4));
        table.note_trimmed(&log(5), mark(&log(5), 2));
        assert_eq!(floor(&table), 4);
        assert!(table.holds(&MessageName { log: log(5), m_id: MessageNumber::new(1) }));
        assert!(!table.holds(&MessageName { log: log(5), m_id: MessageNumber::new(7) }));
    }

    #[test]
    fn the_first_finding_of_other_content_stays_until_a_repair() {
        let mut table = LogTable::new();
        hold(&mut table, log(5), Vec::new(), 3);
        let stopped = |table: &LogTable| table.get(&log(5)).expect("held").stopped;
        assert_eq!(stopped(&table), None);
        let mark = mark(&log(5), 3);
        let reason =
            StopReason { noticed_at: mark.m_id, held: mark.hash, offered: ChainHash::EMPTY };
        table.note_stopped(&log(5), reason);
        let later = StopReason { noticed_at: MessageNumber::new(1), ..reason };
        table.note_stopped(&log(5), later);
        assert_eq!(stopped(&table), Some(reason));
        table.clear_stopped(&log(5));
        assert_eq!(stopped(&table), None);
    }
}
