//! What an open database knows of its logs without reading them.

use std::collections::BTreeMap;
use std::ops::Bound;
use std::sync::Arc;

use interlock_core::clock::{HybridTime, WallTime};
use interlock_core::identity::{LogName, Mark, MessageNumber, NamespaceNumber};
use interlock_core::replication::rows::Row;

use crate::contract::{StorageError, Ticket};
use crate::keys::arrival::Arrival;
use crate::keys::chain_point::ChainPoint;
use crate::keys::floor::Floor;
use crate::keys::hole::HoleEnd;
use crate::keys::sync_witness::SyncWitness;
use crate::keys::{LogNumber, SegmentNumber};

/// Whoever removes logs keeps syncs out meanwhile, and takes them off the list of what
/// is unsynced.
const NOT_REMOVED_UNSYNCED: &str = "a log that is to be synced is held";

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

    /// The last message that is not held: the floor, or the end of the last hole.
    pub(crate) fn last_missing(&self) -> MessageNumber {
        let last_hole = self.holes.values().next_back();
        let floor = self.floor.point.mark.m_id;
        last_hole.map_or(floor, |end| end.point.mark.m_id.max(floor))
    }

    /// The tail of the log as long as it ends at its floor.
    pub(crate) fn tail_at_floor(&self) -> Tail {
        Tail { point: self.floor.point, stamp: self.floor.stamp, arrival: None, segment: None }
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
    /// The last segment that has messages of the log, if they came in this
    /// opening.
    pub(crate) segment: Option<SegmentNumber>,
}

/// One log.
#[derive(Clone, Debug)]
pub(crate) struct HeldLog {
    pub(crate) shape: Arc<LogShape>,
    pub(crate) appended: Tail,
    pub(crate) durable: Tail,
    /// The first segment that has messages above the floor.
    pub(crate) oldest_segment: Option<SegmentNumber>,
    /// Whether it is in the list of logs that the next sync makes durable.
    is_unsynced: bool,
}

impl HeldLog {
    fn all_durable(shape: LogShape, tail: Tail, oldest: Option<SegmentNumber>) -> Self {
        Self {
            shape: Arc::new(shape),
            appended: tail,
            durable: tail,
            oldest_segment: oldest,
            is_unsynced: false,
        }
    }
}

/// All logs of a database, and what was written and synced of them.
#[derive(Debug, Default)]
pub(crate) struct HeldLogs {
    logs: BTreeMap<LogName, HeldLog>,
    namespace_bytes: BTreeMap<NamespaceNumber, u64>,
    /// Logs appended to since the last sync began.
    unsynced: Vec<LogName>,
    written: Ticket,
    synced: Ticket,
    /// The appends that the database had when it was opened, all of them durable.
    appends_before: u64,
    /// The segment that is written.
    segment: SegmentNumber,
    /// All segments before this one are durable.
    durable_segment: SegmentNumber,
}

/// What a sync that has begun makes durable.
#[derive(Debug)]
pub(crate) struct BegunSync {
    pub(crate) ticket: Ticket,
    segment: SegmentNumber,
    tails: Vec<(LogName, Tail)>,
}

impl HeldLogs {
    /// No logs yet, and everything before a segment and all appends so far are durable.
    pub(crate) fn new(segment: SegmentNumber, appends_before: u64) -> Self {
        Self { segment, durable_segment: segment, appends_before, ..Self::default() }
    }

    /// Enters a log that an opening found; all of it is durable.
    pub(crate) fn insert_recovered(
        &mut self,
        shape: LogShape,
        tail: Tail,
        oldest: Option<SegmentNumber>,
    ) {
        let log = shape.row.log;
        *self.bytes_of(&log) += tail.point.bytes - shape.floor.point.bytes;
        self.logs.insert(log, HeldLog::all_durable(shape, tail, oldest));
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

    /// The first log after one, by name; the first of all after none.
    pub(crate) fn next_log(&self, after: Option<&LogName>) -> Option<LogName> {
        let begin = after.map_or(Bound::Unbounded, Bound::Excluded);
        self.logs.range((begin, Bound::Unbounded)).next().map(|(log, _)| *log)
    }

    pub(crate) fn log_bytes(&self, namespace: NamespaceNumber) -> u64 {
        self.namespace_bytes.get(&namespace).copied().unwrap_or(0)
    }

    pub(crate) const fn written(&self) -> Ticket {
        self.written
    }

    /// What the next append says of those before it.
    pub(crate) const fn next_witness(&self) -> SyncWitness {
        SyncWitness {
            number: self.appends_before + self.written.get() + 1,
            synced: self.appends_before + self.synced.get(),
        }
    }

    /// Enters a log with its first messages.
    pub(crate) fn insert_new(&mut self, shape: LogShape) {
        let tail = shape.tail_at_floor();
        self.logs.insert(shape.row.log, HeldLog::all_durable(shape, tail, None));
    }

    /// Moves the end of a log that was written.
    pub(crate) fn note_appended(&mut self, log: &LogName, tail: Tail) {
        let held = self.logs.get_mut(log).expect("a log is entered before it is appended to");
        let grown = tail.point.bytes - held.appended.point.bytes;
        held.appended = tail;
        held.oldest_segment = held.oldest_segment.or(tail.segment);
        if !held.is_unsynced {
            held.is_unsynced = true;
            self.unsynced.push(*log);
        }
        *self.bytes_of(log) += grown;
    }

    /// Counts a write whose effects are entered.
    pub(crate) fn note_written(&mut self, segment: SegmentNumber) -> Ticket {
        self.segment = segment;
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
            let held = self.logs.get_mut(&log).expect(NOT_REMOVED_UNSYNCED);
            held.is_unsynced = false;
            tails.push((log, held.appended));
        }
        BegunSync { ticket: self.written, segment: self.segment, tails }
    }

    /// Moves the durable marks after the sync succeeded.
    pub(crate) fn finish_sync(&mut self, begun: &BegunSync) {
        for (log, tail) in &begun.tails {
            self.logs.get_mut(log).expect(NOT_REMOVED_UNSYNCED).durable = *tail;
        }
        self.durable_segment = begun.segment;
        self.synced = begun.ticket;
    }

    /// The segment that was written last. No segment before it gets more messages.
    pub(crate) const fn segment(&self) -> SegmentNumber {
        self.segment
    }

    /// All segments before this one are durable.
    pub(crate) const fn durable_segment(&self) -> SegmentNumber {
        self.durable_segment
    }

    /// Enters where a log begins after a trim, and tells the first segment that
    /// any log still needs.
    pub(crate) fn note_trimmed(
        &mut self,
        log: &LogName,
        oldest: Option<SegmentNumber>,
    ) -> SegmentNumber {
        let held = self.logs.get_mut(log).expect("a log is entered before it is trimmed");
        held.oldest_segment = oldest;
        let needed = self.logs.values().filter_map(|held| held.oldest_segment).min();
        needed.unwrap_or(self.segment)
    }

    /// How far the logs are durable, of those that have durable messages.
    pub(crate) fn durable_marks(&self) -> impl Iterator<Item = (LogName, Mark)> {
        self.logs.iter().filter_map(|(log, held)| {
            let durable = held.durable.point.mark;
            (durable.m_id >= held.shape.row.first_m_id()).then_some((*log, durable))
        })
    }

    /// The numbers of a namespace's logs.
    pub(crate) fn numbers_of(&self, namespace: NamespaceNumber) -> Vec<LogNumber> {
        let logs = self.logs.iter().filter(|(log, _)| log.namespace == namespace);
        logs.map(|(_, held)| held.shape.number).collect()
    }

    /// Forgets the logs of a namespace, which are on the disk no more. No sync may be
    /// under way.
    pub(crate) fn remove(&mut self, namespace: NamespaceNumber) {
        self.logs.retain(|log, _| log.namespace != namespace);
        self.unsynced.retain(|log| log.namespace != namespace);
        self.namespace_bytes.remove(&namespace);
    }

    fn bytes_of(&mut self, log: &LogName) -> &mut u64 {
        self.namespace_bytes.entry(log.namespace).or_default()
    }
}
