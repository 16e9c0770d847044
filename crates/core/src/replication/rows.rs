//! Rows: which logs there are, and from which tips of the same origin each goes
//! on. They answer what a tip covers.
//!
//! Usually a log has one parent, the opening before. An origin whose disk was
//! restored from an old copy forks, and joins both branches at its next opening,
//! so the logs of one path form a graph without cycles.

use std::collections::{BTreeMap, BTreeSet};

use thiserror::Error;

use crate::identity::{
    ChainHash, Incarnation, LogName, MessageName, MessageNumber, ParentPoint, PathName,
};
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

    /// The rows of one path, by incarnation.
    pub fn logs_of_path(&self, path: &PathName) -> impl Iterator<Item = &Row> {
        let bounds = Incarnation::new(1)
            .zip(Incarnation::new(u64::MAX))
            .map(|(lowest, highest)| path.log(lowest)..=path.log(highest));
        bounds.into_iter().flat_map(|bounds| self.rows.range(bounds)).map(|(_, row)| row)
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
