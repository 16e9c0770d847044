//! What may stand still: a log with two contents, which only a machine resumed
//! from a snapshot can make, and whatever descends from it. All else goes on.

use std::collections::{BTreeMap, BTreeSet};

use interlock_core::identity::{ChainHash, LogName, MessageName, MessageNumber};

use crate::history::Record;

/// The logs that stand still, and from which message on.
#[derive(Debug, Default)]
pub(crate) struct StandingStill {
    from: BTreeMap<LogName, MessageNumber>,
}

impl StandingStill {
    /// Finds them. A name with two contents of which none was resumed is not
    /// excused.
    pub(crate) fn follow(records: &[Record]) -> Self {
        let mut still = Self::default();
        let is_resumed = |record: &Record| matches!(record, Record::Resumed { .. });
        if !records.iter().any(is_resumed) {
            return still;
        }
        let mut resumed = BTreeSet::new();
        let mut contents: BTreeMap<MessageName, ChainHash> = BTreeMap::new();
        let mut rows = BTreeMap::new();
        for record in records {
            match record {
                Record::Resumed { machine, incarnation, .. } => {
                    resumed.insert((machine.node, *incarnation));
                }
                Record::Appended { name, hash, row, .. } => {
                    let is_other = *contents.entry(*name).or_insert(*hash) != *hash;
                    if is_other && resumed.contains(&(name.log.origin, name.log.incarnation)) {
                        let from = still.from.entry(name.log).or_insert(name.m_id);
                        *from = name.m_id.min(*from);
                    }
                    if let Some(row) = row {
                        rows.insert(name.log, row);
                    }
                }
                _ => {}
            }
        }
        loop {
            let before = still.from.len();
            for (log, row) in &rows {
                let descends = row.parent_names().any(|parent| still.holds(&parent));
                if descends && !still.from.contains_key(log) {
                    still.from.insert(*log, row.first_m_id());
                }
            }
            if still.from.len() == before {
                return still;
            }
        }
    }

    /// Whether a message stands still.
    pub(crate) fn holds(&self, name: &MessageName) -> bool {
        self.from.get(&name.log).is_some_and(|from| name.m_id >= *from)
    }

    /// Whether any of a log stands still.
    pub(crate) fn touches(&self, log: &LogName) -> bool {
        self.from.contains_key(log)
    }

    /// All logs of which something does.
    pub(crate) fn logs(&self) -> impl Iterator<Item = &LogName> {
        self.from.keys()
    }
}
