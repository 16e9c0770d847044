//! Rows: which logs there are, and from which tips of the same origin each goes
//! on. They answer what a tip covers.
//!
//! Usually a log has one parent, the opening before. An origin whose disk was
//! restored from an old copy forks, and joins both branches at its next opening,
//! so the logs of one path form a graph without cycles.

use std::collections::{BTreeMap, BTreeSet};

use thiserror::Error;

use crate::identity::{ChainHash, Incarnation, LogName, MessageName, MessageNumber, ParentPoint};
use crate::limits::MAX_PARENTS;

/// A log and what it goes on from. It exists from the log's first message, and
/// never changes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Row {
    /// The log.
    pub log: LogName,
    /// The tips of its origin's own logs when it began, in the order of the first
    /// message, which the start hash depends on.
    pub parents: Vec<ParentPoint>,
}

impl Row {
    /// The number of the log's first message: 1 + the highest parent's, so that
    /// m_ids have no holes along the longest path.
    pub fn first_m_id(&self) -> MessageNumber {
        let highest = self.parents.iter().map(|parent| parent.m_id).max();
        MessageNumber::new(highest.unwrap_or(MessageNumber::ZERO).get().saturating_add(1))
    }

    /// The chain hash before the log's first message.
    pub fn start_hash(&self) -> ChainHash {
        ChainHash::of_parents(&self.parents)
    }

    /// The parents as messages of their logs.
    pub fn parent_names(&self) -> impl Iterator<Item = MessageName> + '_ {
        let path = self.log.path();
        self.parents
            .iter()
            .map(move |parent| MessageName { log: path.log(parent.incarnation), m_id: parent.m_id })
    }

    /// Checks what can be checked without other rows.
    fn check(&self) -> Result<(), RowConflict> {
        let log = self.log;
        if self.parents.len() > MAX_PARENTS {
            return Err(RowConflict::TooManyParents { log, parents: self.parents.len() });
        }
        let mut incarnations = BTreeSet::new();
        for parent in &self.parents {
            let parent_is_new = incarnations.insert(parent.incarnation);
            if parent.incarnation == log.incarnation
                || parent.m_id == MessageNumber::ZERO
                || !parent_is_new
            {
                return Err(RowConflict::ImpossibleParent { log, parent: parent.incarnation });
            }
        }
        Ok(())
    }
}

/// Why a row was not taken. Trying again cannot help; a row that differs from the
/// one held is other content under one name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum RowConflict {
    /// The log is known with other parents.
    #[error("log {log} is known with other parents")]
    DifferentParents {
        /// The log.
        log: LogName,
    },
    /// A parent that is the log itself, is named twice, has the number 0, or lies
    /// before the parent log's first message.
    #[error("log {log} names incarnation {parent} as a parent where it cannot be one")]
    ImpossibleParent {
        /// The log.
        log: LogName,
        /// What it names.
        parent: Incarnation,
    },
    /// More parents than a log may have.
    #[error("log {log} names {parents} parents; {MAX_PARENTS} are possible")]
    TooManyParents {
        /// The log.
        log: LogName,
        /// How many it names.
        parents: usize,
    },
}

/// All rows known here. They are never forgotten: cursors need them after the
/// messages are trimmed.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Rows {
    rows: BTreeMap<LogName, Row>,
}

impl Rows {
    /// No rows.
    pub const fn new() -> Self {
        Self { rows: BTreeMap::new() }
    }

    /// Takes a row; true when it was not known. Parents need not be known yet.
    pub fn insert(&mut self, row: Row) -> Result<bool, RowConflict> {
        if let Some(known) = self.rows.get(&row.log) {
            return if known.parents == row.parents {
                Ok(false)
            } else {
                Err(RowConflict::DifferentParents { log: row.log })
            };
        }
        row.check()?;
        for parent in row.parent_names() {
            if self.first_m_id(&parent.log).is_some_and(|first| parent.m_id < first) {
                let parent = parent.log.incarnation;
                return Err(RowConflict::ImpossibleParent { log: row.log, parent });
            }
        }
        self.rows.insert(row.log, row);
        Ok(true)
    }

    /// The row of a log.
    pub fn get(&self, log: &LogName) -> Option<&Row> {
        self.rows.get(log)
    }

    /// Whether a log's row is known.
    pub fn contains(&self, log: &LogName) -> bool {
        self.rows.contains_key(log)
    }

    /// How many rows are known.
    pub fn len(&self) -> usize {
        self.rows.len()
    }

    /// Whether none is known.
    pub fn is_empty(&self) -> bool {
        self.rows.is_empty()
    }

    /// All rows, by log name.
    pub fn iter(&self) -> impl Iterator<Item = &Row> {
        self.rows.values()
    }

    /// The number of a log's first message; `None` when its row is unknown.
    pub fn first_m_id(&self, log: &LogName) -> Option<MessageNumber> {
        self.rows.get(log).map(Row::first_m_id)
    }

    /// The chain hash before a log's first message; `None` when its row is
    /// unknown.
    pub fn start_hash(&self, log: &LogName) -> Option<ChainHash> {
        self.rows.get(log).map(Row::start_hash)
    }

    /// How far a tip covers `other`, a log of the same path: the tip's own number
    /// in its own log, a parent point along its ancestry. `None` when the two are
    /// unrelated, or not known to be related. Never more than is true.
    pub fn covered_through(&self, tip: &MessageName, other: &LogName) -> Option<MessageNumber> {
        if tip.log == *other {
            return Some(tip.m_id);
        }
        if tip.log.path() != other.path() {
            return None;
        }
        let other_first = self.first_m_id(other);
        let mut covered = None;
        self.walk_ancestry(tip, |parent| {
            if parent.log == *other {
                covered = covered.max(Some(parent.m_id));
            }
            // Whatever descends from `other` begins after it does.
            self.first_m_id(&parent.log) > other_first
        });
        covered
    }

    /// The logs that must be known before it is certain what a tip covers: its
    /// own or ancestors whose rows are not known here. Empty means certain.
    pub fn unknown_ancestry(&self, tip: &MessageName) -> BTreeSet<LogName> {
        let mut unknown = BTreeSet::new();
        if !self.contains(&tip.log) {
            unknown.insert(tip.log);
        }
        self.walk_ancestry(tip, |parent| {
            if self.contains(&parent.log) {
                return true;
            }
            unknown.insert(parent.log);
            false
        });
        unknown
    }

    /// Whether every row that a tip's coverage depends on is known here.
    pub fn ancestry_is_known(&self, tip: &MessageName) -> bool {
        self.unknown_ancestry(tip).is_empty()
    }

    /// Shows each parent point below a tip, once per log that names it, and goes
    /// on above those for which `visit` answers true.
    ///
    /// A tip or a point that lies before its log's first message covers nothing
    /// of the log's parents. That cannot be among rows that honest origins made;
    /// following none of it keeps the walk finite whatever was received, since
    /// first numbers fall along it.
    fn walk_ancestry(&self, tip: &MessageName, mut visit: impl FnMut(&MessageName) -> bool) {
        let mut pending = vec![*tip];
        let mut expanded = BTreeSet::new();
        while let Some(point) = pending.pop() {
            let Some(row) = self.rows.get(&point.log) else { continue };
            if point.m_id < row.first_m_id() || !expanded.insert(point.log) {
                continue;
            }
            for parent in row.parent_names() {
                let is_possible =
                    self.first_m_id(&parent.log).is_none_or(|first| parent.m_id >= first);
                if is_possible && visit(&parent) {
                    pending.push(parent);
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::identity::{NamespaceNumber, NodeNumber, PathName, ShardNumber};

    fn path(origin: u32) -> PathName {
        PathName {
            namespace: NamespaceNumber::new(1),
            shard: ShardNumber::new(0),
            origin: NodeNumber::new(origin),
        }
    }

    fn incarnation(bits: u64) -> Incarnation {
        Incarnation::new(bits).expect("not zero")
    }

    fn row(bits: u64, parents: &[(u64, u64)]) -> Row {
        let parents = parents
            .iter()
            .map(|&(bits, m_id)| ParentPoint {
                incarnation: incarnation(bits),
                m_id: MessageNumber::new(m_id),
                hash: ChainHash::EMPTY.then(&m_id.to_be_bytes()),
            })
            .collect();
        Row { log: path(1).log(incarnation(bits)), parents }
    }

    fn rows(all: &[Row]) -> Rows {
        let mut rows = Rows::new();
        for row in all {
            assert_eq!(rows.insert(row.clone()), Ok(true));
        }
        rows
    }

    fn tip(bits: u64, m_id: u64) -> MessageName {
        MessageName { log: path(1).log(incarnation(bits)), m_id: MessageNumber::new(m_id) }
    }

    fn covered(rows: &Rows, from: (u64, u64), other: u64) -> Option<u64> {
        let other = path(1).log(incarnation(other));
        rows.covered_through(&tip(from.0, from.1), &other).map(MessageNumber::get)
    }

    #[test]
    fn numbers_go_on_after_the_highest_parent() {
        assert_eq!(row(9, &[]).first_m_id().get(), 1);
        assert_eq!(row(9, &[(1, 7), (2, 4)]).first_m_id().get(), 8);
        assert_eq!(row(9, &[]).start_hash(), ChainHash::EMPTY);
        assert_ne!(row(9, &[(1, 7)]).start_hash(), row(9, &[(2, 7)]).start_hash());
    }

    #[test]
    fn a_tip_covers_its_ancestors_up_to_each_parent_point() {
        let all = [row(1, &[]), row(2, &[(1, 5)]), row(3, &[(1, 3)]), row(4, &[(2, 8), (3, 6)])];
        let rows = rows(&all);
        assert_eq!(covered(&rows, (4, 9), 4), Some(9));
        assert_eq!(covered(&rows, (4, 9), 2), Some(8));
        assert_eq!(covered(&rows, (4, 9), 3), Some(6));
        assert_eq!(covered(&rows, (4, 9), 1), Some(5), "the farther of two ways");
        assert_eq!(covered(&rows, (3, 4), 1), Some(3));
        assert_eq!(covered(&rows, (3, 4), 2), None, "another branch");
        assert_eq!(covered(&rows, (1, 4), 2), None, "a descendant");
        assert_eq!(covered(&rows, (4, 8), 2), None, "before the first message of its log");
        let elsewhere = path(2).log(incarnation(1));
        assert_eq!(rows.covered_through(&tip(4, 9), &elsewhere), None);
    }

    #[test]
    fn what_is_unknown_covers_nothing_but_itself() {
        let rows = rows(&[row(1, &[]), row(3, &[(2, 4)])]);
        assert_eq!(covered(&rows, (2, 4), 2), Some(4));
        assert_eq!(covered(&rows, (2, 4), 1), None);
        assert_eq!(covered(&rows, (3, 5), 2), Some(4), "the row names it");
        assert_eq!(covered(&rows, (3, 5), 1), None);
        let unknown = rows.unknown_ancestry(&tip(3, 5));
        assert_eq!(unknown.into_iter().collect::<Vec<_>>(), [path(1).log(incarnation(2))]);
        assert!(rows.ancestry_is_known(&tip(1, 1)));
        assert!(!rows.ancestry_is_known(&tip(2, 4)));
    }

    #[test]
    fn a_row_never_changes() {
        let mut rows = rows(&[row(1, &[]), row(2, &[(1, 5)])]);
        assert_eq!(rows.insert(row(2, &[(1, 5)])), Ok(false));
        let other = row(2, &[(1, 4)]);
        let log = other.log;
        assert_eq!(rows.insert(other), Err(RowConflict::DifferentParents { log }));
        assert_eq!(rows.get(&log), Some(&row(2, &[(1, 5)])));
    }

    #[test]
    fn impossible_parents_are_refused() {
        let mut rows = rows(&[row(1, &[]), row(2, &[(1, 5)])]);
        let mut refused = |bad: Row| {
            let is_refused = matches!(rows.insert(bad), Err(RowConflict::ImpossibleParent { .. }));
            is_refused
        };
        assert!(refused(row(9, &[(9, 5)])), "itself");
        assert!(refused(row(9, &[(1, 0)])), "no number");
        assert!(refused(row(9, &[(1, 3), (1, 4)])), "one log twice");
        assert!(refused(row(9, &[(2, 5)])), "before that log's first message");
        let many: Vec<_> = (1..=257).map(|bits| (bits + 100, 5)).collect();
        assert!(matches!(
            rows.insert(row(9, &many)),
            Err(RowConflict::TooManyParents { parents: 257, .. })
        ));
        assert!(!rows.contains(&path(1).log(incarnation(9))));
    }

    /// Rows that come children first cannot be checked against their parents; a
    /// circle of them ends all the same, and covers nothing it should not.
    #[test]
    fn a_circle_of_rows_ends() {
        let rows = rows(&[row(1, &[(2, 5)]), row(3, &[(1, 6)])]);
        let mut circle = rows.clone();
        assert_eq!(circle.insert(row(2, &[(3, 9)])), Ok(true));
        assert_eq!(covered(&circle, (3, 9), 1), Some(6));
        assert_eq!(covered(&circle, (1, 9), 2), None);
        assert_eq!(covered(&circle, (3, 9), 2), None);
        assert_eq!(covered(&circle, (2, 10), 1), Some(6));
    }

    #[test]
    fn a_long_chain_of_restarts_is_followed() {
        let mut all = vec![row(1, &[])];
        all.extend((2..=2000).map(|bits| row(bits, &[(bits - 1, bits - 1)])));
        let rows = rows(&all);
        assert_eq!(covered(&rows, (2000, 2000), 1), Some(1));
        assert_eq!(covered(&rows, (2000, 2000), 1500), Some(1500));
        assert_eq!((rows.len(), rows.iter().count()), (2000, 2000));
    }
}
