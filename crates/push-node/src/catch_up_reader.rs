//! Reads what a follower has missed: all logs of a namespace merged into the one
//! order that is the same at every node, (stamp, origin, incarnation, m_id).
//!
//! Along a path stamps rise, so the merge keeps each origin's order, and a log is
//! opened only when what it goes on from has been read: of a path usually one is
//! open, however often its origin was restarted. Memory is bounded: all open logs
//! share one amount of read-ahead, and beyond it those that come last let go of
//! theirs and are read again.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use bytes::Bytes;
use interlock_core::clock::HybridTime;
use interlock_core::identity::{Incarnation, LogName, MessageName, MessageNumber, NodeNumber};
use interlock_core::message::MessageHead;
use interlock_core::replication::rows::Rows;
use interlock_storage::{StorageError, StoredMessage};

use crate::stored_messages::{Storage, read_stored};

/// What all logs of one reader together hold in memory.
const READ_AHEAD_BYTES: usize = 2 << 20;
/// What one log reads at least at a time.
const LEAST_READ_BYTES: usize = 4 << 10;
/// What one log reads at most at a time.
const MOST_READ_BYTES: usize = 512 << 10;

/// A message's place in the order of history.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct HistoryKey {
    /// First of all: when its origin accepted it.
    pub stamp: HybridTime,
    /// Then its origin.
    pub origin: NodeNumber,
    /// Then the opening of its origin.
    pub incarnation: Incarnation,
    /// Then its number.
    pub m_id: MessageNumber,
}

impl HistoryKey {
    /// The place of an encoded message. One that cannot be read stands where the
    /// log's numbers put it, at no time of its own.
    pub fn of(log: &LogName, m_id: MessageNumber, bytes: &[u8]) -> Self {
        let stamp = MessageHead::decode(bytes).map_or(HybridTime::ZERO, |head| head.stamp);
        Self { stamp, origin: log.origin, incarnation: log.incarnation, m_id }
    }
}

/// A part of one log to be read.
#[derive(Clone, Copy, Debug)]
pub struct LogRange {
    /// The log.
    pub log: LogName,
    /// The first message.
    pub from: MessageNumber,
    /// The last message.
    pub through: MessageNumber,
}

/// What comes next.
#[derive(Debug)]
pub enum Found {
    /// A message.
    Message(MessageName, Bytes),
    /// Numbers that the log no longer has.
    Missing(LogRange),
}

#[derive(Debug)]
struct LogReader {
    /// What is not in the buffer yet.
    rest: LogRange,
    buffer: VecDeque<StoredMessage>,
    /// Parents that have to be read up to their points first.
    unread_parents: usize,
    /// The logs that go on from this one, with the points they go on from.
    children: Vec<(MessageNumber, usize)>,
}

impl LogReader {
    fn new(rest: LogRange) -> Self {
        Self { rest, buffer: VecDeque::new(), unread_parents: 0, children: Vec::new() }
    }

    fn buffered_bytes(&self) -> usize {
        self.buffer.iter().map(|message| message.bytes.len()).sum()
    }
}

/// Merges several logs' ranges. See the module's page.
pub struct CatchUpReader {
    storage: Storage,
    logs: Vec<LogReader>,
    /// The next message of each open log. One whose buffer was let go of has its
    /// place here all the same.
    heads: BTreeSet<(HistoryKey, usize)>,
    /// What the buffers hold.
    buffered_bytes: usize,
    missing: VecDeque<LogRange>,
    /// Logs whose buffer is empty and that have to be read on.
    hungry: Vec<usize>,
}

impl CatchUpReader {
    /// A reader of these ranges; empty ones are left out. The rows say which log
    /// goes on from which.
    pub fn new(storage: Storage, ranges: impl IntoIterator<Item = LogRange>, rows: &Rows) -> Self {
        let mut logs: Vec<LogReader> = ranges
            .into_iter()
            .filter(|range| range.from <= range.through)
            .map(LogReader::new)
            .collect();
        let places: BTreeMap<LogName, usize> =
            logs.iter().enumerate().map(|(index, reader)| (reader.rest.log, index)).collect();
        for (log, index) in &places {
            for parent in rows.get(log).into_iter().flat_map(|row| row.parent_names()) {
                // What a reader has of it already is before all of its child.
                let unread = places.get(&parent.log).filter(|parent_index| {
                    let rest = &logs[**parent_index].rest;
                    rest.from <= parent.m_id
                });
                if let Some(parent_index) = unread {
                    logs[*parent_index].children.push((parent.m_id, *index));
                    logs[*index].unread_parents += 1;
                }
            }
        }
        let hungry = (0..logs.len()).filter(|index| logs[*index].unread_parents == 0).collect();
        Self {
            storage,
            logs,
            heads: BTreeSet::new(),
            buffered_bytes: 0,
            missing: VecDeque::new(),
            hungry,
        }
    }

    /// What comes next in the order of history; `None` after all of it.
    pub async fn next(&mut self) -> Result<Option<Found>, StorageError> {
        loop {
            while let Some(index) = self.hungry.pop() {
                self.feed(index).await?;
            }
            if let Some(missing) = self.missing.pop_front() {
                return Ok(Some(Found::Missing(missing)));
            }
            let Some((_, index)) = self.heads.pop_first() else { return Ok(None) };
            let reader = &mut self.logs[index];
            let Some(message) = reader.buffer.pop_front() else {
                // Let go of, and now it is its turn.
                self.hungry.push(index);
                continue;
            };
            self.buffered_bytes -= message.bytes.len();
            let name = MessageName { log: reader.rest.log, m_id: message.m_id };
            self.open_children(index, name.m_id);
            self.offer_head(index);
            return Ok(Some(Found::Message(name, message.bytes)));
        }
    }

    /// Puts a log's next message among the heads, or has the log read on.
    fn offer_head(&mut self, index: usize) {
        let reader = &self.logs[index];
        match reader.buffer.front() {
            Some(next) => {
                let key = HistoryKey::of(&reader.rest.log, next.m_id, &next.bytes);
                self.heads.insert((key, index));
            }
            None if reader.rest.from <= reader.rest.through => self.hungry.push(index),
            // Where the range ends before a child's point, nothing comes before it.
            None => self.open_children(index, MessageNumber::new(u64::MAX)),
        }
    }

    /// A log has been read through a message: opens what goes on from there.
    fn open_children(&mut self, index: usize, through: MessageNumber) {
        let mut children = std::mem::take(&mut self.logs[index].children);
        children.retain(|(point, child)| {
            let waits = *point > through;
            if !waits {
                let child_reader = &mut self.logs[*child];
                child_reader.unread_parents -= 1;
                if child_reader.unread_parents == 0 {
                    self.hungry.push(*child);
                }
            }
            waits
        });
        self.logs[index].children = children;
    }

    async fn feed(&mut self, index: usize) -> Result<(), StorageError> {
        let LogRange { log, from, through } = self.logs[index].rest;
        let open = self.heads.len() + self.hungry.len() + 1;
        let bytes = (READ_AHEAD_BYTES / open).clamp(LEAST_READ_BYTES, MOST_READ_BYTES);
        let read = read_stored(&self.storage, log, from, through, bytes).await?;
        let first = read.first().map_or(through.next(), |message| message.m_id);
        if first > from {
            self.missing.push_back(LogRange { log, from, through: first.previous() });
        }
        let reader = &mut self.logs[index];
        reader.rest.from = read.last().map_or(through, |message| message.m_id).next();
        reader.buffer = read.into();
        self.buffered_bytes += reader.buffered_bytes();
        self.offer_head(index);
        self.keep_budget();
        Ok(())
    }

    /// Lets go of what would be read last, beyond what all may hold; what comes
    /// next is kept.
    fn keep_budget(&mut self) {
        let mut from_last = self.heads.iter().rev();
        while self.buffered_bytes > READ_AHEAD_BYTES && from_last.len() > 1 {
            let Some((_, index)) = from_last.next() else { return };
            let reader = &mut self.logs[*index];
            if let Some(first) = reader.buffer.front() {
                reader.rest.from = first.m_id;
                self.buffered_bytes -= reader.buffered_bytes();
                reader.buffer = VecDeque::new();
            }
        }
    }
}

#[cfg(test)]
mod tests {

    use interlock_core::admission::AppendEntry;
    use interlock_core::clock::WallTime;
    use interlock_core::identity::{
        Epoch, NamespaceNumber, ParentPoint, PathName, RegisterVersion, ShardNumber,
        TopologyVersion,
    };
    use interlock_core::message::{Message, MessageKind};
    use interlock_core::names::ChannelName;
    use interlock_core::replication::rows::Row;
    use interlock_storage::{AppendBatch, LogStorage as _, MemoryDisk, MemoryStorage};

    use super::*;

    /// Logs as their origins would write them.
    struct Logs {
        storage: MemoryStorage,
        rows: Rows,
        ranges: Vec<LogRange>,
        stamp: u64,
    }

    impl Logs {
        fn new() -> Self {
            let (storage, _) = MemoryStorage::open(&MemoryDisk::new()).expect("an empty disk");
            Self { storage, rows: Rows::new(), ranges: Vec::new(), stamp: 0 }
        }

        /// A log with so many messages, that goes on from a message of another.
        fn add(
            &mut self,
            origin: u32,
            parent: Option<(LogName, MessageNumber)>,
            count: u64,
            payload_bytes: usize,
        ) -> LogName {
            let path = PathName {
                namespace: NamespaceNumber::new(1),
                shard: ShardNumber::new(0),
                origin: NodeNumber::new(origin),
            };
            let bits = self.ranges.len() as u64 + 1;
            let log = path.log(Incarnation::new(bits).expect("not zero"));
            let parents = parent.map(|(parent, m_id)| ParentPoint {
                incarnation: parent.incarnation,
                m_id,
                hash: self
                    .storage
                    .chain_hash_at(&parent, m_id)
                    .expect("it is readable")
                    .expect("it is kept"),
            });
            let row = Row { log, parents: parents.into_iter().collect() };
            let first = row.first_m_id();
            let mut hash = row.start_hash();
            let mut entries = Vec::new();
            for m_id in (0..count).map(|it| MessageNumber::new(first.get() + it)) {
                self.stamp += 1;
                let parents = if m_id == first { row.parents.clone() } else { Vec::new() };
                let message = Message {
                    m_id,
                    groups: Vec::new(),
                    kind: MessageKind::Publication,
                    stamp: HybridTime::new(self.stamp),
                    parents,
                    topology_version: TopologyVersion::default(),
                    channel: ChannelName::parse("news").expect("a name").into(),
                    epoch: Epoch::new(1),
                    version: RegisterVersion::new(1),
                    key: Bytes::new(),
                    publisher: None,
                    possibly_repeated: false,
                    trace: None,
                    payload: vec![0; payload_bytes].into(),
                };
                let bytes = message.encode();
                hash = hash.then(&bytes);
                let row = (m_id == first).then(|| row.clone());
                entries.push(AppendEntry { log, row, m_id, bytes, hash, stamp: message.stamp });
            }
            let through = entries.last().expect("a log has messages").m_id;
            let batch = AppendBatch::new(WallTime::new(1), entries);
            self.storage.append(&batch).expect("the disk works");
            self.rows.insert(row).expect("it is new");
            self.ranges.push(LogRange { log, from: first, through });
            log
        }

        fn reader(self) -> CatchUpReader {
            CatchUpReader::new(Storage::share(self.storage).0, self.ranges, &self.rows)
        }
    }

    /// Reads all of it: the stamps in their order, the most logs that were open,
    /// and the most bytes that were held.
    async fn read_all(mut reader: CatchUpReader) -> (Vec<u64>, usize, usize) {
        let (mut stamps, mut open, mut held) = (Vec::new(), 0, 0);
        while let Some(found) = reader.next().await.expect("the disk works") {
            let Found::Message(_, bytes) = found else { panic!("nothing is missing: {found:?}") };
            stamps.push(MessageHead::decode(&bytes).expect("it is readable").stamp.get());
            open = open.max(reader.heads.len() + reader.hungry.len());
            held = held.max(reader.logs.iter().map(LogReader::buffered_bytes).sum());
            assert_eq!(
                reader.buffered_bytes,
                reader.logs.iter().map(LogReader::buffered_bytes).sum::<usize>()
            );
        }
        (stamps, open, held)
    }

    /// An origin that was restarted thousands of times has as many logs, and each
    /// goes on where the one before it ended.
    #[tokio::test]
    async fn the_logs_of_one_path_are_open_one_after_the_other() {
        let mut logs = Logs::new();
        let mut parent = None;
        for _ in 0..2000 {
            let log = logs.add(1, parent, 2, 2000);
            parent = Some((log, logs.ranges.last().expect("just added").through));
        }
        let (stamps, open, held) = read_all(logs.reader()).await;
        assert_eq!(stamps, (1..=4000).collect::<Vec<_>>());
        assert!(open <= 1, "{open} logs were open at once");
        assert!(held <= MOST_READ_BYTES, "{held} bytes were held");
    }

    /// Branches of a fork are merged from the point on where they part.
    #[tokio::test]
    async fn branches_are_merged_from_where_they_part() {
        let mut logs = Logs::new();
        let trunk = logs.add(1, None, 10, 10);
        logs.add(1, Some((trunk, MessageNumber::new(4))), 3, 10);
        // Goes on from what the reader has already.
        logs.ranges[0].from = MessageNumber::new(3);
        let early = logs.add(1, Some((trunk, MessageNumber::new(2))), 3, 10);
        logs.add(1, Some((early, MessageNumber::new(5))), 3, 10);
        let (stamps, ..) = read_all(logs.reader()).await;
        assert_eq!(stamps, (3..=19).collect::<Vec<_>>());
    }

    /// However many origins there are, what is held for them together is bounded.
    #[tokio::test]
    async fn many_origins_share_one_budget() {
        const LARGE: usize = 40_000;
        let mut logs = Logs::new();
        let mut parents = Vec::new();
        for origin in 1..=150 {
            let log = logs.add(origin, None, 2, LARGE);
            parents.push((origin, (log, MessageNumber::new(2))));
        }
        // In turns, so that all of them are open all the time.
        for (origin, parent) in parents {
            logs.add(origin, Some(parent), 2, LARGE);
        }
        let (stamps, _, held) = read_all(logs.reader()).await;
        assert_eq!(stamps, (1..=600).collect::<Vec<_>>());
        assert!(held <= READ_AHEAD_BYTES, "{held} bytes were held");
    }
}
