//! What followers of a node read beside its disk: the newest messages in the
//! order in which they became durable and were projected, and what each origin
//! called itself when it was last heard first-hand.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use interlock_core::clock::Moment;
use interlock_core::identity::{
    Incarnation, LogName, MemberOpening, MessageName, MessageNumber, NamespaceNumber, NodeNumber,
};
use interlock_core::replication::rows::{Row, Rows};

use super::Process;

/// How much of a namespace is kept: little, so that followers fall behind.
const KEPT_ENTRIES: usize = 24;

/// A place in a namespace's order of durability.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct JournalPosition(u64);

/// Where a follower goes from reading what was to following what comes.
#[derive(Clone, Debug)]
pub struct JournalSnapshot {
    /// The end of the order then.
    pub position: JournalPosition,
    /// How far each log was durable.
    pub marks: BTreeMap<LogName, MessageNumber>,
    /// The rows known then.
    pub rows: Arc<Rows>,
}

/// Something that became durable.
#[derive(Clone, Debug)]
pub enum JournalEntry {
    /// A message.
    Message(MessageName, Bytes),
    /// A log's mark moved over numbers that it no longer has.
    Hole {
        /// The log.
        log: LogName,
        /// The first.
        from: MessageNumber,
        /// The last.
        through: MessageNumber,
    },
}

/// What comes next in the order of durability.
#[derive(Debug)]
pub enum JournalRead {
    /// What became durable, and where reading goes on.
    Entries(Vec<JournalEntry>, JournalPosition),
    /// Nothing yet.
    End,
    /// It is no longer kept.
    Behind,
}

#[derive(Debug, Default)]
struct Tail {
    first: u64,
    entries: VecDeque<JournalEntry>,
}

/// See the module's page.
#[derive(Debug, Default)]
pub(super) struct Journal {
    tails: BTreeMap<NamespaceNumber, Tail>,
    rows: Arc<Rows>,
    introduced: BTreeMap<NodeNumber, (Incarnation, Moment)>,
}

impl Journal {
    pub(super) fn enter(&mut self, row: &Row) {
        let rows = Arc::make_mut(&mut self.rows);
        rows.insert(row.clone()).expect("admission has checked the row");
    }

    pub(super) fn append(&mut self, name: MessageName, bytes: &Bytes) {
        self.push(name.log.namespace, JournalEntry::Message(name, bytes.clone()));
    }

    pub(super) fn append_hole(
        &mut self,
        log: LogName,
        from: MessageNumber,
        through: MessageNumber,
    ) {
        self.push(log.namespace, JournalEntry::Hole { log, from, through });
    }

    fn push(&mut self, namespace: NamespaceNumber, entry: JournalEntry) {
        let tail = self.tails.entry(namespace).or_default();
        tail.entries.push_back(entry);
        while tail.entries.len() > KEPT_ENTRIES {
            tail.entries.pop_front();
            tail.first += 1;
        }
    }

    /// A node introduced itself, first-hand.
    pub(super) fn introduced(&mut self, opening: MemberOpening, now: Moment) {
        self.introduced.insert(opening.node, (opening.incarnation, now));
    }
}

impl Process {
    /// What is durable of a namespace now.
    pub fn delivery_snapshot(&self, namespace: NamespaceNumber) -> JournalSnapshot {
        let tail = self.journal.tails.get(&namespace);
        let end = tail.map_or(0, |tail| tail.first + tail.entries.len() as u64);
        let of_namespace = self.durable.iter().filter(|(log, _)| log.namespace == namespace);
        JournalSnapshot {
            position: JournalPosition(end),
            marks: of_namespace.map(|(log, held)| (*log, held.mark.m_id)).collect(),
            rows: Arc::clone(&self.journal.rows),
        }
    }

    /// What comes next of a namespace in the order of durability, at most so much.
    pub fn read_journal(
        &self,
        namespace: NamespaceNumber,
        from: JournalPosition,
        most: usize,
    ) -> JournalRead {
        let Some(tail) = self.journal.tails.get(&namespace) else { return JournalRead::End };
        let Some(skipped) = from.0.checked_sub(tail.first) else { return JournalRead::Behind };
        let read: Vec<_> = tail.entries.iter().skip(skipped as usize).take(most).cloned().collect();
        if read.is_empty() {
            return JournalRead::End;
        }
        let next = JournalPosition(from.0 + read.len() as u64);
        JournalRead::Entries(read, next)
    }

    /// The rows of all durable logs.
    pub const fn rows(&self) -> &Arc<Rows> {
        &self.journal.rows
    }

    /// Under which incarnation each member of a namespace introduced itself here
    /// last, and how long ago.
    pub fn origin_news(
        &self,
        namespace: NamespaceNumber,
        now: Moment,
    ) -> Vec<(NodeNumber, Incarnation, Duration)> {
        let me = self.me.opening;
        let members = self.topology.members(namespace);
        members
            .into_iter()
            .filter_map(|member| {
                let own = (member.number == me.node).then_some((me.incarnation, Moment::START));
                let (incarnation, at) =
                    own.or_else(|| self.journal.introduced.get(&member.number).copied())?;
                Some((member.number, incarnation, now.since(at)))
            })
            .collect()
    }
}
