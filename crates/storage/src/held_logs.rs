//! What an open database knows of its logs without reading them.

use std::collections::BTreeMap;
use std::sync::Arc;

use interlock_core::clock::{HybridTime, WallTime};
use interlock_core::identity::{LogName, Mark, MessageNumber, NamespaceNumber};
use interlock_core::replication::rows::Row;

use crate::contract::{StorageError, Ticket};
use crate::keys::LogNumber;
use crate::keys::arrival::Arrival;
use crate::keys::chain_point::ChainPoint;
use crate::keys::floor::Floor;
use crate::keys::hole::HoleEnd;

/// What of a log changes seldom: readers share it.
#[derive(Clone, Debug)]
pub(crate) struct LogShape {
    pub(crate) number: LogNumber,
    pub(crate) row: Row,
    /// The point before the first message if nothing is trimmed.
    pub(crate) floor: Floor,
    /// Holes above the floor, by their first missing message.
    pub(crate) holes: BTreeMap<MessageNumber, HoleEnd>,
}

impl LogShape {
    pub(crate) fn new(number: LogNumber, row: Row) -> Self {
        let mark = Mark { m_id: row.first_m_id().previous(), hash: row.start_hash() };
        let floor = Floor {
            point: ChainPoint { mark, bytes: 0 },
            stamp: HybridTime::ZERO,
            arrived_by: WallTime::new(0),
        };
        Self { number, row, floor, holes: BTreeMap::new() }
    }

    /// The hole that a message is missing in.
    pub(crate) fn hole_around(&self, m_id: MessageNumber) -> Option<&HoleEnd> {
        let (_, end) = self.holes.range(..=m_id).next_back()?;
        (end.point.mark.m_id >= m_id).then_some(end)
    }

    /// The first missing message of the next hole.
    pub(crate) fn next_hole(&self, after: MessageNumber) -> Option<MessageNumber> {
        self.holes.range(after.next()..).next().map(|(from, _)| *from)
    }

    /// The tail of the log as long as it ends at its floor.
    pub(crate) fn tail_at_floor(&self) -> Tail {
        Tail { point: self.floor.point, stamp: self.floor.stamp, arrival: None }
    }
}

/// The end of a log, as appended or as durable.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Tail {
    pub(crate) point: ChainPoint,
    /// The stamp of the last message.
    pub(crate) stamp: HybridTime,
    /// The last kept time of arrival.
    pub(crate) arrival: Option<Arrival>,
}

/// One log.
#[derive(Clone, Debug)]
pub(crate) struct HeldLog {
    pub(crate) shape: Arc<LogShape>,
    pub(crate) appended: Tail,
    pub(crate) durable: Tail,
    /// Whether it is in the list of logs that the next sync makes durable.
    is_unsynced: bool,
}

/// All logs of a database, and what was written and synced of them.
#[derive(Debug, Default)]
pub(crate) struct HeldLogs {
    logs: BTreeMap<LogName, HeldLog>,
    namespace_bytes: BTreeMap<NamespaceNumber, u64>,
    /// Logs appended to since the last sync began.
    unsynced: Vec<LogName>,
    written: Ticket,
}

/// What a sync that has begun makes durable.
#[derive(Debug)]
pub(crate) struct BegunSync {
    pub(crate) ticket: Ticket,
    tails: Vec<(LogName, Tail)>,
}

impl HeldLogs {
    /// Enters a log that an opening found; all of it is durable.
    pub(crate) fn insert_recovered(&mut self, shape: LogShape, tail: Tail) {
        let log = shape.row.log;
        *self.bytes_of(&log) += tail.point.bytes - shape.floor.point.bytes;
        let shape = Arc::new(shape);
        let held = HeldLog { shape, appended: tail, durable: tail, is_unsynced: false };
        self.logs.insert(log, held);
    }

    pub(crate) fn get(&self, log: &LogName) -> Option<&HeldLog> {
        self.logs.get(log)
    }

    pub(crate) fn known(&self, log: &LogName) -> Result<&HeldLog, StorageError> {
        self.logs.get(log).ok_or(StorageError::UnknownLog { log: *log })
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = (&LogName, &HeldLog)> {
        self.logs.iter()
    }

    pub(crate) fn log_bytes(&self, namespace: NamespaceNumber) -> u64 {
        self.namespace_bytes.get(&namespace).copied().unwrap_or(0)
    }

    pub(crate) const fn written(&self) -> Ticket {
        self.written
    }

    /// Enters a log with its first messages.
    pub(crate) fn insert_new(&mut self, shape: LogShape) {
        let tail = shape.tail_at_floor();
        let log = shape.row.log;
        let shape = Arc::new(shape);
        let held = HeldLog { shape, appended: tail, durable: tail, is_unsynced: false };
        self.logs.insert(log, held);
    }

    /// Moves the end of a log that was written.
    pub(crate) fn note_appended(&mut self, log: &LogName, tail: Tail) {
        let held = self.logs.get_mut(log).expect("a log is entered before it is appended to");
        let grown = tail.point.bytes - held.appended.point.bytes;
        held.appended = tail;
        if !held.is_unsynced {
            held.is_unsynced = true;
            self.unsynced.push(*log);
        }
        *self.bytes_of(log) += grown;
    }

    /// Counts a write whose effects are entered.
    pub(crate) fn note_written(&mut self) -> Ticket {
        self.written = self.written.next();
        self.written
    }

    /// Changes what seldom changes of a log.
    pub(crate) fn reshape(&mut self, log: &LogName, change: impl FnOnce(&mut LogShape)) {
        let held = self.logs.get_mut(log).expect("a log is entered before it is trimmed");
        let bytes_before = held.shape.floor.point.bytes;
        change(Arc::make_mut(&mut held.shape));
        let freed = held.shape.floor.point.bytes - bytes_before;
        *self.bytes_of(log) -= freed;
    }

    /// Takes what has been written so far into a sync.
    pub(crate) fn begin_sync(&mut self) -> BegunSync {
        let unsynced = std::mem::take(&mut self.unsynced);
        let mut tails = Vec::with_capacity(unsynced.len());
        for log in unsynced {
            let held = self.logs.get_mut(&log).expect("logs are not removed while open");
            held.is_unsynced = false;
            tails.push((log, held.appended));
        }
        BegunSync { ticket: self.written, tails }
    }

    /// Moves the durable marks after the sync succeeded.
    pub(crate) fn finish_sync(&mut self, begun: &BegunSync) {
        for (log, tail) in &begun.tails {
            self.logs.get_mut(log).expect("logs are not removed while open").durable = *tail;
        }
    }

    fn bytes_of(&mut self, log: &LogName) -> &mut u64 {
        self.namespace_bytes.entry(log.namespace).or_default()
    }
}
