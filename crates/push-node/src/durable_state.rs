//! What may leave this process: the durable marks and the newest durable
//! messages. The log syncer moves it, after a sync and before anything else;
//! links, feeds and waiters read it and are woken by it.

use std::collections::BTreeMap;
use std::sync::{Arc, RwLock, RwLockReadGuard, RwLockWriteGuard};

use interlock_core::identity::{LogName, Mark, MessageNumber, NamespaceNumber};
use interlock_core::replication::rows::{Row, Rows};
use tokio::sync::watch;

use crate::tail_cache::{JournalPosition, JournalRead, Segment, TailCache, TailRead};

/// One log as far as it is durable.
#[derive(Clone, Debug)]
pub struct DurableLog {
    /// Its name and parents.
    pub row: Row,
    /// How far it is durable.
    pub durable: Mark,
    /// How far the projections have seen it: what followers are shown.
    pub applied: MessageNumber,
    /// The last message that is not held: trimmed, or in a hole. From behind it on the
    /// log is offered as whole.
    pub last_missing: MessageNumber,
    /// The last message that is trimmed here. Between it and a hole messages may still be
    /// held.
    pub trimmed: MessageNumber,
}

/// What somebody has seen of a log.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SeenLog {
    durable: MessageNumber,
    floor: MessageNumber,
}

/// A count that rises with each change, to wait for the next one.
pub type Change = u64;

/// What a follower starts from: a place in the order of durability, and exactly
/// what is before it.
#[derive(Clone, Debug)]
pub struct JournalSnapshot {
    /// What comes after the snapshot is read from here.
    pub position: JournalPosition,
    /// How far each log of the namespace goes before it.
    pub marks: BTreeMap<LogName, MessageNumber>,
    /// The rows known then.
    pub rows: Arc<Rows>,
}

#[derive(Debug)]
struct Inner {
    logs: BTreeMap<LogName, DurableLog>,
    rows: Arc<Rows>,
    tail: TailCache,
    applied_ends: BTreeMap<NamespaceNumber, JournalPosition>,
}

/// Shared by everything that reads durable messages.
#[derive(Debug)]
pub struct DurableState {
    inner: RwLock<Inner>,
    durable_changes: watch::Sender<Change>,
    applied_changes: watch::Sender<Change>,
}

const LOCK: &str = "no holder of the durable state's lock panics";

impl DurableState {
    /// The state as the opening walk found it: all of it durable and applied.
    pub fn new(recovered: impl IntoIterator<Item = DurableLog>, tail_bytes: usize) -> Self {
        let mut rows = Rows::new();
        let mut logs = BTreeMap::new();
        for log in recovered {
            rows.insert(log.row.clone()).expect("the opening walk left consistent rows");
            logs.insert(log.row.log, log);
        }
        Self {
            inner: RwLock::new(Inner {
                logs,
                rows: Arc::new(rows),
                tail: TailCache::new(tail_bytes),
                applied_ends: BTreeMap::new(),
            }),
            durable_changes: watch::Sender::new(0),
            applied_changes: watch::Sender::new(0),
        }
    }

    /// Moves the durable marks over segments that a sync has covered. Nothing is
    /// woken yet: see [`DurableState::wake_durable`].
    pub fn advance(&self, segments: &[Arc<Segment>]) {
        let mut inner = self.write();
        for segment in segments {
            if let Some(row) = &segment.row {
                inner.enter(row.clone());
            }
            let log =
                inner.logs.get_mut(&segment.log).expect("a log's row comes with its first message");
            log.durable = segment.last;
            inner.tail.push(segment.clone());
        }
    }

    /// Moves a log's durable mark over messages that no member has any more. What is
    /// held before them can still be served, but a log is offered as whole only from
    /// behind them on.
    pub fn cross_hole(&self, row: Option<Row>, log: &LogName, through: Mark) {
        let mut inner = self.write();
        if let Some(row) = row {
            inner.enter(row);
        }
        if let Some(held) = inner.logs.get_mut(log) {
            let hole = Segment::hole(*log, held.durable, through);
            held.durable = through;
            held.last_missing = through.m_id;
            inner.tail.push(Arc::new(hole));
        }
    }

    /// A trim has moved a log's floor: it is offered anew.
    pub fn note_trimmed(&self, log: &LogName, through: MessageNumber) {
        if let Some(log) = self.write().logs.get_mut(log) {
            log.trimmed = through.max(log.trimmed);
            log.last_missing = through.max(log.last_missing);
        }
        self.wake_durable();
    }

    /// The projections have gone over a hole.
    pub fn note_hole_applied(&self, log: &LogName, through: MessageNumber) {
        {
            let mut inner = self.write();
            if let Some(log) = inner.logs.get_mut(log) {
                log.applied = through.max(log.applied);
            }
            let end = inner.applied_ends.entry(log.namespace).or_default();
            *end = end.next();
        }
        self.applied_changes.send_modify(|change| *change += 1);
    }

    /// Wakes links and waiters after the marks moved.
    pub fn wake_durable(&self) {
        self.durable_changes.send_modify(|change| *change += 1);
    }

    /// Notes that the projections have seen these segments, and wakes followers.
    pub fn note_applied(&self, segments: &[Arc<Segment>]) {
        {
            let mut inner = self.write();
            for segment in segments {
                if let Some(log) = inner.logs.get_mut(&segment.log) {
                    log.applied = segment.last.m_id;
                }
                let end = inner.applied_ends.entry(segment.log.namespace).or_default();
                *end = end.next();
            }
        }
        self.applied_changes.send_modify(|change| *change += 1);
    }

    /// Changes of durable marks, for links and waiters.
    pub fn watch_durable(&self) -> watch::Receiver<Change> {
        self.durable_changes.subscribe()
    }

    /// Changes of what followers may be shown.
    pub fn watch_applied(&self) -> watch::Receiver<Change> {
        self.applied_changes.subscribe()
    }

    /// One log.
    pub fn log(&self, log: &LogName) -> Option<DurableLog> {
        self.read().logs.get(log).cloned()
    }

    /// One log's durable mark.
    pub fn mark_of(&self, log: &LogName) -> Option<Mark> {
        self.read().logs.get(log).map(|log| log.durable)
    }

    /// All logs that a choice picks, with their marks.
    pub fn logs(&self, choose: impl Fn(&LogName) -> bool) -> Vec<DurableLog> {
        let inner = self.read();
        inner.logs.iter().filter(|(name, _)| choose(name)).map(|(_, log)| log.clone()).collect()
    }

    /// All durable marks.
    pub fn marks(&self) -> Vec<(LogName, Mark)> {
        self.read().logs.iter().map(|(name, log)| (*name, log.durable)).collect()
    }

    /// Collects the logs whose durable mark or floor differs from what the caller
    /// has seen, and updates what it has seen.
    pub fn collect_advanced(
        &self,
        seen: &mut BTreeMap<LogName, SeenLog>,
        choose: impl Fn(&LogName) -> bool,
    ) -> Vec<DurableLog> {
        let inner = self.read();
        let mut advanced = Vec::new();
        for (name, log) in &inner.logs {
            let now = SeenLog { durable: log.durable.m_id, floor: log.last_missing };
            if seen.get(name) != Some(&now) && choose(name) {
                seen.insert(*name, now);
                advanced.push(log.clone());
            }
        }
        advanced
    }

    /// All rows of durable logs.
    pub fn rows(&self) -> Arc<Rows> {
        self.read().rows.clone()
    }

    /// Durable messages of a log from memory, see [`TailCache::read_log`].
    pub fn read_tail(
        &self,
        log: &LogName,
        from: MessageNumber,
        max_bytes: usize,
        max_messages: usize,
    ) -> Option<TailRead> {
        self.read().tail.read_log(log, from, max_bytes, max_messages)
    }

    /// Waits until the projections have seen all that is durable of a namespace
    /// now: what was acknowledged before a reader came is there for it.
    pub async fn until_applied(&self, namespace: NamespaceNumber) {
        let wanted = self.logs(|log| log.namespace == namespace);
        let mut changes = self.watch_applied();
        for log in wanted {
            loop {
                changes.mark_unchanged();
                let applied = self.log(&log.row.log).map(|log| log.applied);
                // The sender lives as long as this state.
                if applied >= Some(log.durable.m_id) || changes.changed().await.is_err() {
                    break;
                }
            }
        }
    }

    /// Where a follower of a namespace goes from reading what was to following
    /// what comes.
    pub fn snapshot(&self, namespace: NamespaceNumber) -> JournalSnapshot {
        let inner = self.read();
        JournalSnapshot {
            position: inner.applied_ends.get(&namespace).copied().unwrap_or_default(),
            marks: inner
                .logs
                .iter()
                .filter(|(name, _)| name.namespace == namespace)
                .map(|(name, log)| (*name, log.applied))
                .collect(),
            rows: inner.rows.clone(),
        }
    }

    /// The next segments in a namespace's order of durability, as far as the
    /// projections have seen them.
    pub fn read_journal(
        &self,
        namespace: NamespaceNumber,
        from: JournalPosition,
        max_bytes: usize,
    ) -> JournalRead {
        let inner = self.read();
        let end = inner.applied_ends.get(&namespace).copied().unwrap_or_default();
        inner.tail.read_journal(namespace, from, end, max_bytes)
    }

    fn read(&self) -> RwLockReadGuard<'_, Inner> {
        self.inner.read().expect(LOCK)
    }

    fn write(&self) -> RwLockWriteGuard<'_, Inner> {
        self.inner.write().expect(LOCK)
    }
}

impl Inner {
    fn enter(&mut self, row: Row) {
        if self.logs.contains_key(&row.log) {
            return;
        }
        let start = Mark { m_id: row.first_m_id().previous(), hash: row.start_hash() };
        Arc::make_mut(&mut self.rows).insert(row.clone()).expect("admission checked the row");
        let name = row.log;
        let log = DurableLog {
            row,
            durable: start,
            applied: start.m_id,
            last_missing: MessageNumber::ZERO,
            trimmed: MessageNumber::ZERO,
        };
        self.logs.insert(name, log);
    }
}
