//! The newest durable messages in memory: immutable segments that serve all who
//! keep up, so that only the late read the disk.
//!
//! The same segments are reachable in two orders: by log and number (outbound
//! links), and by the order in which a namespace's messages became durable here
//! (delivery feeds). Bounded by bytes; the oldest segments go first.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

use bytes::{Bytes, BytesMut};
use interlock_core::admission::AppendEntry;
use interlock_core::clock::WallTime;
use interlock_core::identity::{
    ChainHash, LogName, Mark, MessageNumber, NamespaceNumber, NodeNumber,
};
use interlock_core::replication::rows::Row;

/// What a message takes of a replication window beside its bytes, and half of
/// what a frame takes; a test compares it with the core's count.
pub const MESSAGE_WINDOW_BYTES: usize = 32;

/// A segment is closed at this size: large enough that its own cost does not
/// count, small enough that one reader's slice does not pin much.
const SEGMENT_BYTES: usize = 256 * 1024;

/// When messages were accepted by their origin, on this node's clock, and from
/// whom they came.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Accepted {
    /// The first of them.
    pub first_at: WallTime,
    /// All of them by then.
    pub by: WallTime,
    /// The peer that sent the last of them.
    pub server: Option<NodeNumber>,
}

impl Accepted {
    /// Accepted here, as they came.
    pub const fn at(now: WallTime) -> Self {
        Self { first_at: now, by: now, server: None }
    }
}

/// Consecutive durable messages of one log, or numbers that it no longer has.
#[derive(Debug)]
pub struct Segment {
    /// The log.
    pub log: LogName,
    /// The log's row, in the segment that begins it.
    pub row: Option<Row>,
    /// The number of the first message.
    pub first: MessageNumber,
    /// The chain hash before the first message.
    pub previous: ChainHash,
    /// The number of the last message, with the chain hash there.
    pub last: Mark,
    /// When the messages were accepted, and who sent them.
    pub accepted: Accepted,
    /// The encoded messages, slices of one buffer; none of a hole.
    pub sends: Vec<Bytes>,
    bytes: usize,
}

impl Segment {
    /// A hole behind a mark: followers are told of it at its place.
    pub fn hole(log: LogName, before: Mark, through: Mark) -> Self {
        Self {
            log,
            row: None,
            first: before.m_id.next(),
            previous: before.hash,
            last: through,
            accepted: Accepted::at(WallTime::new(0)),
            sends: Vec::new(),
            bytes: 0,
        }
    }

    /// Whether it stands for messages that are no longer there.
    pub const fn is_hole(&self) -> bool {
        self.sends.is_empty()
    }

    /// The encoded messages with their numbers, from `from` on.
    pub fn sends_from(&self, from: MessageNumber) -> &[Bytes] {
        let skipped = from.since(self.first) as usize;
        self.sends.get(skipped..).unwrap_or_default()
    }
}

/// Cuts one durable batch into segments: copies the messages out of the buffers
/// they came in, which may be much larger, and keeps their order. `mark_of` tells
/// how far a log was held before the batch, `accepted` when the batch's messages
/// of a log were.
pub fn segments_of(
    entries: &[AppendEntry],
    accepted: impl Fn(&LogName) -> Accepted,
    mark_of: impl Fn(&LogName) -> Mark,
) -> Vec<Arc<Segment>> {
    let mut segments = Vec::new();
    let mut hashes: BTreeMap<LogName, ChainHash> = BTreeMap::new();
    let mut rest = entries;
    while let Some(first) = rest.first() {
        let mut bytes = 0;
        let count = rest
            .iter()
            .take_while(|entry| {
                let fits = bytes == 0 || bytes + entry.bytes.len() <= SEGMENT_BYTES;
                bytes += entry.bytes.len();
                entry.log == first.log && fits
            })
            .count();
        let (run, after) = rest.split_at(count);
        rest = after;
        let previous = match (&first.row, hashes.get(&first.log)) {
            (Some(row), _) => row.start_hash(),
            (None, Some(hash)) => *hash,
            (None, None) => mark_of(&first.log).hash,
        };
        let segment = segment_of(run, previous, accepted(&first.log));
        hashes.insert(segment.log, segment.last.hash);
        segments.push(Arc::new(segment));
    }
    segments
}

fn segment_of(run: &[AppendEntry], previous: ChainHash, accepted: Accepted) -> Segment {
    let bytes = run.iter().map(|entry| entry.bytes.len()).sum();
    let mut buffer = BytesMut::with_capacity(bytes);
    for entry in run {
        buffer.extend_from_slice(&entry.bytes);
    }
    let mut buffer = buffer.freeze();
    let sends = run.iter().map(|entry| buffer.split_to(entry.bytes.len())).collect();
    let (first, last) = match run {
        [only] => (only, only),
        [first, .., last] => (first, last),
        [] => unreachable!("a run has at least its first entry"),
    };
    Segment {
        log: first.log,
        row: first.row.clone(),
        first: first.m_id,
        previous,
        last: last.mark(),
        accepted,
        sends,
        bytes,
    }
}

/// What a read by log found.
#[derive(Debug)]
pub struct TailRead {
    /// The chain hash before the first message.
    pub previous: ChainHash,
    /// When the messages were accepted.
    pub accepted: Accepted,
    /// The messages, at least one.
    pub sends: Vec<Bytes>,
    /// Up to where the sends go.
    pub last: Mark,
}

/// What a read by durable order found.
#[derive(Debug)]
pub enum JournalRead {
    /// Segments in order; the reader goes on at `next`.
    Segments {
        /// The segments.
        segments: Vec<Arc<Segment>>,
        /// The position after them.
        next: JournalPosition,
    },
    /// Nothing after this position yet.
    End,
    /// The position has left the cache: read the storage.
    Behind,
}

/// A place in the order of durability of one namespace at this node since its
/// start. Means nothing elsewhere.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct JournalPosition(u64);

impl JournalPosition {
    /// The place after the segment here.
    pub const fn next(self) -> Self {
        Self(self.0 + 1)
    }
}

#[derive(Debug, Default)]
struct Journal {
    /// How many segments have left.
    gone: u64,
    segments: VecDeque<Arc<Segment>>,
}

impl Journal {
    fn end(&self) -> JournalPosition {
        JournalPosition(self.gone + self.segments.len() as u64)
    }
}

/// The newest segments of all logs.
#[derive(Debug)]
pub struct TailCache {
    capacity_bytes: usize,
    bytes: usize,
    /// All segments, oldest first: the order in which they leave.
    order: VecDeque<Arc<Segment>>,
    logs: BTreeMap<LogName, VecDeque<Arc<Segment>>>,
    journals: BTreeMap<NamespaceNumber, Journal>,
}

impl TailCache {
    /// An empty cache of a capacity.
    pub fn new(capacity_bytes: usize) -> Self {
        Self {
            capacity_bytes,
            bytes: 0,
            order: VecDeque::new(),
            logs: BTreeMap::new(),
            journals: BTreeMap::new(),
        }
    }

    /// Adds a segment at the end of its log and of its namespace's order.
    pub fn push(&mut self, segment: Arc<Segment>) {
        self.bytes += charge(&segment);
        let log = self.logs.entry(segment.log).or_default();
        // After a hole, what was before it is no longer contiguous.
        if segment.is_hole()
            || log.back().is_some_and(|last| last.last.m_id.next() != segment.first)
        {
            log.clear();
        }
        if !segment.is_hole() {
            log.push_back(segment.clone());
        }
        let journal = self.journals.entry(segment.log.namespace).or_default();
        journal.segments.push_back(segment.clone());
        self.order.push_back(segment);
        while self.bytes > self.capacity_bytes && self.order.len() > 1 {
            self.drop_oldest();
        }
    }

    /// Messages of a log from `from` on, as many as a frame of `max_bytes` in the
    /// replication window holds, and at least one; `None` when the first is not
    /// here.
    pub fn read_log(
        &self,
        log: &LogName,
        from: MessageNumber,
        max_bytes: usize,
        max_messages: usize,
    ) -> Option<TailRead> {
        let segments = self.logs.get(log)?;
        let start = segments.partition_point(|segment| segment.last.m_id < from);
        let first = segments.get(start).filter(|segment| segment.first <= from)?;
        let skipped = from.since(first.first) as usize;
        let previous =
            first.sends.iter().take(skipped).fold(first.previous, |hash, send| hash.then(send));
        let mut read = TailRead {
            previous,
            accepted: first.accepted,
            sends: Vec::new(),
            last: Mark { m_id: from.previous(), hash: previous },
        };
        let mut bytes = 2 * MESSAGE_WINDOW_BYTES;
        for segment in segments.range(start..) {
            let sends = segment.sends_from(from);
            read.accepted.by = segment.accepted.by;
            for (index, send) in sends.iter().enumerate() {
                let with_it = bytes + send.len() + MESSAGE_WINDOW_BYTES;
                let full = !read.sends.is_empty()
                    && (with_it > max_bytes || read.sends.len() >= max_messages);
                if full {
                    // The hash inside a segment is computed, at its end it is known.
                    read.last.hash =
                        sends.iter().take(index).fold(read.last.hash, |hash, send| hash.then(send));
                    return Some(read);
                }
                bytes = with_it;
                read.sends.push(send.clone());
                read.last.m_id = read.last.m_id.next();
            }
            read.last.hash = segment.last.hash;
        }
        Some(read)
    }

    /// Segments of a namespace in the order in which they became durable, from a
    /// position to `end`, up to so many bytes and at least one.
    pub fn read_journal(
        &self,
        namespace: NamespaceNumber,
        from: JournalPosition,
        end: JournalPosition,
        max_bytes: usize,
    ) -> JournalRead {
        if from >= end {
            return JournalRead::End;
        }
        let Some(journal) = self.journals.get(&namespace) else {
            return JournalRead::End;
        };
        if from.0 < journal.gone {
            return JournalRead::Behind;
        }
        let range =
            (from.0 - journal.gone) as usize..(end.min(journal.end()).0 - journal.gone) as usize;
        let mut segments: Vec<Arc<Segment>> = Vec::new();
        let mut bytes = 0;
        for segment in journal.segments.range(range) {
            if !segments.is_empty() && bytes + segment.bytes > max_bytes {
                break;
            }
            bytes += segment.bytes;
            segments.push(segment.clone());
        }
        let next = JournalPosition(from.0 + segments.len() as u64);
        if segments.is_empty() {
            JournalRead::End
        } else {
            JournalRead::Segments { segments, next }
        }
    }

    fn drop_oldest(&mut self) {
        let Some(oldest) = self.order.pop_front() else { return };
        self.bytes -= charge(&oldest);
        if let Some(log) = self.logs.get_mut(&oldest.log) {
            if log.front().is_some_and(|front| Arc::ptr_eq(front, &oldest)) {
                log.pop_front();
            }
            if log.is_empty() {
                self.logs.remove(&oldest.log);
            }
        }
        if let Some(journal) = self.journals.get_mut(&oldest.log.namespace) {
            journal.segments.pop_front();
            journal.gone += 1;
        }
    }
}

/// What a segment takes of the capacity: its bytes and what holds them.
fn charge(segment: &Segment) -> usize {
    const SEGMENT_OVERHEAD: usize = 256;
    // A slice of the buffer.
    const MESSAGE_OVERHEAD: usize = 32;
    segment.bytes + SEGMENT_OVERHEAD + segment.sends.len() * MESSAGE_OVERHEAD
}

#[cfg(test)]
mod tests {
    use interlock_core::clock::HybridTime;
    use interlock_core::identity::{Incarnation, NodeNumber, PathName, ShardNumber};
    use interlock_core::replication::frames::Frame;

    use super::*;

    fn log(origin: u32) -> LogName {
        PathName {
            namespace: NamespaceNumber::new(1),
            shard: ShardNumber::new(0),
            origin: NodeNumber::new(origin),
        }
        .log(Incarnation::new(9).expect("not zero"))
    }

    fn before(hash: ChainHash) -> Mark {
        Mark { m_id: MessageNumber::ZERO, hash }
    }

    /// Entries of one log with the chain they make.
    fn entries(
        log: LogName,
        first: u64,
        count: u64,
        size: usize,
        previous: ChainHash,
    ) -> Vec<AppendEntry> {
        let mut hash = previous;
        (first..first + count)
            .map(|m_id| {
                let bytes = Bytes::from(vec![m_id as u8; size]);
                hash = hash.then(&bytes);
                AppendEntry {
                    log,
                    row: None,
                    m_id: MessageNumber::new(m_id),
                    bytes,
                    hash,
                    stamp: HybridTime::new(m_id),
                }
            })
            .collect()
    }

    fn push(cache: &mut TailCache, entries: &[AppendEntry], previous: ChainHash) {
        for segment in
            segments_of(entries, |_| Accepted::at(WallTime::new(5)), |_| before(previous))
        {
            cache.push(segment);
        }
    }

    #[test]
    fn a_read_carries_the_chain_hashes_around_it() {
        let mut cache = TailCache::new(1 << 20);
        let all = entries(log(1), 1, 20, 10, ChainHash::EMPTY);
        push(&mut cache, &all[..7], ChainHash::EMPTY);
        push(&mut cache, &all[7..], all[6].hash);
        for from in 1..=20_usize {
            for max_messages in 1..=20 {
                let read = cache
                    .read_log(&log(1), MessageNumber::new(from as u64), 1 << 20, max_messages)
                    .expect("it is in the cache");
                let expected = max_messages.min(21 - from);
                assert_eq!(read.sends.len(), expected);
                let before = if from == 1 { ChainHash::EMPTY } else { all[from - 2].hash };
                assert_eq!(read.previous, before);
                assert_eq!(read.last, all[from - 1 + expected - 1].mark());
            }
        }
        assert!(cache.read_log(&log(1), MessageNumber::new(21), 1, 1).is_none());
        assert!(cache.read_log(&log(2), MessageNumber::new(1), 1, 1).is_none());
    }

    #[test]
    fn a_read_counts_the_window_as_the_core_does() {
        let mut cache = TailCache::new(1 << 20);
        push(&mut cache, &entries(log(1), 1, 20, 100, ChainHash::EMPTY), ChainHash::EMPTY);
        for max_bytes in [1, 196, 327, 328, 329, 1000] {
            let read = cache.read_log(&log(1), MessageNumber::new(1), max_bytes, 100);
            let read = read.expect("it is in the cache");
            let frame = |count: usize| Frame {
                log: log(1),
                first_m_id: MessageNumber::new(1),
                previous_hash: ChainHash::EMPTY,
                age_milliseconds: 0,
                last_age_milliseconds: 0,
                sends: vec![Bytes::from(vec![0; 100]); count],
            };
            let fits = |count| frame(count).window_bytes() <= max_bytes as u64;
            let count = read.sends.len();
            assert!(count == 1 || fits(count), "{max_bytes}: {count}");
            assert!(!fits(count + 1), "{max_bytes}: {count}");
        }
    }

    #[test]
    fn the_oldest_leave_and_readers_are_told() {
        let mut cache = TailCache::new(8 * 1024);
        let end_of = |cache: &TailCache| cache.journals[&NamespaceNumber::new(1)].end();
        let mut hash = ChainHash::EMPTY;
        for m_id in 1..=100 {
            let entries = entries(log(1), m_id, 1, 500, hash);
            push(&mut cache, &entries, hash);
            hash = entries[0].hash;
            assert!(cache.bytes <= 8 * 1024);
        }
        let end = end_of(&cache);
        let namespace = NamespaceNumber::new(1);
        let behind = cache.read_journal(namespace, JournalPosition(0), end, 1 << 20);
        assert!(matches!(behind, JournalRead::Behind), "{behind:?}");
        let at_end = cache.read_journal(namespace, end, end, 1 << 20);
        assert!(matches!(at_end, JournalRead::End), "{at_end:?}");
        let newest = cache.read_journal(namespace, JournalPosition(end.0 - 2), end, 1 << 20);
        let JournalRead::Segments { segments, next } = newest else { panic!("{newest:?}") };
        assert_eq!(next, end);
        assert_eq!(segments.iter().map(|it| it.first.get()).collect::<Vec<_>>(), [99, 100]);
        assert!(cache.read_log(&log(1), MessageNumber::new(1), 1, 1).is_none());
        assert!(cache.read_log(&log(1), MessageNumber::new(100), 1, 1).is_some());
    }

    /// Links read past a hole from the disk, and followers come by it at its place.
    #[test]
    fn a_hole_has_its_place_in_the_order() {
        let mut cache = TailCache::new(1 << 20);
        let early = entries(log(1), 1, 3, 10, ChainHash::EMPTY);
        let through = Mark { m_id: MessageNumber::new(6), hash: ChainHash::EMPTY.then(b"6") };
        push(&mut cache, &early, ChainHash::EMPTY);
        cache.push(Arc::new(Segment::hole(log(1), early[2].mark(), through)));
        for m_id in [2, 4, 6, 7] {
            let read = cache.read_log(&log(1), MessageNumber::new(m_id), 1, 1);
            assert!(read.is_none(), "message {m_id}: {read:?}");
        }
        let late = entries(log(1), 7, 2, 10, through.hash);
        for segment in segments_of(&late, |_| Accepted::at(WallTime::new(5)), |_| through) {
            cache.push(segment);
        }
        let read = cache.read_log(&log(1), MessageNumber::new(7), 1 << 20, 9).expect("it is there");
        assert_eq!((read.previous, read.last), (through.hash, late[1].mark()));
        let namespace = NamespaceNumber::new(1);
        let end = cache.journals[&namespace].end();
        let all = cache.read_journal(namespace, JournalPosition(0), end, 1 << 20);
        let JournalRead::Segments { segments, .. } = all else { panic!("{all:?}") };
        let shape: Vec<_> =
            segments.iter().map(|it| (it.first.get(), it.last.m_id.get(), it.is_hole())).collect();
        assert_eq!(shape, [(1, 3, false), (4, 6, true), (7, 8, false)]);
    }

    #[test]
    fn a_batch_is_cut_at_logs_and_at_size() {
        let mut batch = entries(log(1), 1, 3, 200 * 1024, ChainHash::EMPTY);
        batch.extend(entries(log(2), 1, 3, 10, ChainHash::EMPTY));
        let segments =
            segments_of(&batch, |_| Accepted::at(WallTime::new(1)), |_| before(ChainHash::EMPTY));
        let shape: Vec<_> = segments
            .iter()
            .map(|it| (it.log.origin.get(), it.first.get(), it.sends.len()))
            .collect();
        assert_eq!(shape, [(1, 1, 1), (1, 2, 1), (1, 3, 1), (2, 1, 3)]);
        assert_eq!(segments[1].previous, batch[0].hash);
    }
}
