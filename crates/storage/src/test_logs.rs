//! Logs as tests write them: real messages with real hashes, and what is
//! expected to be read back.

use bytes::Bytes;
use interlock_core::admission::AppendEntry;
use interlock_core::clock::{HybridTime, WallTime};
use interlock_core::identity::{
    ChainHash, Epoch, Incarnation, LogName, Mark, MessageNumber, NamespaceNumber, NodeNumber,
    ParentPoint, RegisterVersion, ShardNumber, TopologyVersion,
};
use interlock_core::message::{Message, MessageKind};
use interlock_core::names::ChannelName;
use interlock_core::replication::rows::Row;

/// A log's name.
pub(crate) fn log_name(namespace: u32, origin: u32, incarnation: u64) -> LogName {
    LogName {
        namespace: NamespaceNumber::new(namespace),
        shard: ShardNumber::new(0),
        origin: NodeNumber::new(origin),
        incarnation: Incarnation::new(incarnation).expect("not zero"),
    }
}

/// One log as it is expected to be: every message it ever had.
#[derive(Clone, Debug)]
pub(crate) struct TestLog {
    pub(crate) row: Row,
    pub(crate) entries: Vec<AppendEntry>,
}

impl TestLog {
    pub(crate) fn new(log: LogName) -> Self {
        Self::after(log, Vec::new())
    }

    pub(crate) fn after(log: LogName, parents: Vec<ParentPoint>) -> Self {
        Self { row: Row { log, parents }, entries: Vec::new() }
    }

    pub(crate) fn name(&self) -> LogName {
        self.row.log
    }

    /// The point before the first message.
    pub(crate) fn start(&self) -> Mark {
        Mark { m_id: self.row.first_m_id().previous(), hash: self.row.start_hash() }
    }

    pub(crate) fn mark(&self) -> Mark {
        self.entries.last().map_or(self.start(), AppendEntry::mark)
    }

    /// The mark at an earlier message.
    pub(crate) fn mark_at(&self, m_id: MessageNumber) -> Mark {
        if m_id == self.start().m_id { self.start() } else { self.entry(m_id).mark() }
    }

    pub(crate) fn stamp_at(&self, m_id: MessageNumber) -> HybridTime {
        if m_id == self.start().m_id { HybridTime::ZERO } else { self.entry(m_id).stamp }
    }

    pub(crate) fn hash_at(&self, m_id: MessageNumber) -> ChainHash {
        self.mark_at(m_id).hash
    }

    pub(crate) fn entry(&self, m_id: MessageNumber) -> &AppendEntry {
        let index = m_id.since(self.row.first_m_id());
        &self.entries[usize::try_from(index).expect("a small log")]
    }

    /// The log as it was when it ended with a message.
    pub(crate) fn up_to(&self, m_id: MessageNumber) -> Self {
        let kept = self.entries.iter().filter(|entry| entry.m_id <= m_id);
        Self { row: self.row.clone(), entries: kept.cloned().collect() }
    }

    /// The tip as a parent of the next log on the path.
    pub(crate) fn tip(&self) -> ParentPoint {
        let Mark { m_id, hash } = self.mark();
        ParentPoint { incarnation: self.row.log.incarnation, m_id, hash }
    }

    /// Adds a message of a payload of so many bytes and gives its entry.
    pub(crate) fn push(&mut self, payload_bytes: usize) -> AppendEntry {
        let Mark { m_id, hash } = self.mark();
        let m_id = m_id.next();
        let is_first = self.entries.is_empty();
        let stamp = HybridTime::at(WallTime::new(1_700_000_000_000 + m_id.get()));
        let message = Message {
            m_id,
            groups: vec![],
            kind: MessageKind::Publication,
            stamp,
            parents: if is_first { self.row.parents.clone() } else { Vec::new() },
            topology_version: TopologyVersion { generation: 1, number: 1 },
            channel: ChannelName::parse("prices/gold").expect("a name").into(),
            epoch: Epoch::new(1),
            version: RegisterVersion::new(1),
            key: Bytes::new(),
            publisher: None,
            possibly_repeated: false,
            trace: None,
            payload: self.payload(m_id, payload_bytes),
        };
        let bytes = message.encode();
        let entry = AppendEntry {
            log: self.row.log,
            row: is_first.then(|| self.row.clone()),
            m_id,
            hash: hash.then(&bytes),
            bytes,
            stamp,
        };
        self.entries.push(entry.clone());
        entry
    }

    pub(crate) fn push_many(&mut self, messages: usize, payload_bytes: usize) -> Vec<AppendEntry> {
        (0..messages).map(|_| self.push(payload_bytes)).collect()
    }

    /// Different in each message, so that a mix-up shows.
    fn payload(&self, m_id: MessageNumber, bytes: usize) -> Bytes {
        let mut payload = format!("{} {m_id} ", self.row.log).into_bytes();
        let filler = m_id.get().wrapping_mul(0x9e37_79b9_7f4a_7c15).to_be_bytes();
        payload.extend(filler.iter().cycle().take(bytes));
        Bytes::from(payload)
    }
}
