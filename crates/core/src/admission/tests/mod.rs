//! Members with a disk that forgets what is not durable, driven by hand.

use std::collections::BTreeMap;
use std::sync::Arc;

use bytes::Bytes;

use super::*;
use crate::identity::{
    ChainHash, FeatureLevel, FencingToken, Incarnation, MessageName, MessageNumber, NodeNumber,
    PublisherSequence, SessionId, TopologyVersion,
};
use crate::message::{Message, PublisherPosition};
use crate::names::{ChannelName, GroupName, NamespaceName, NodeName, RegionName};
use crate::replication::frames::Frame;
use crate::replication::log_table::ChainHistory;
use crate::replication::rows::Row;
use crate::topology::{Founder, Group, Namespace, Node, NodeState, Retention};

mod channels;
mod convergence;
mod forks;
mod holes;
mod publishing;
mod receiving;
mod sessions;

/// Placed on the regions of nodes 1, 2 and 3.
const EVERYWHERE: NamespaceNumber = NamespaceNumber::new(1);
/// Placed on the regions of nodes 1 and 2 only.
const NARROW: NamespaceNumber = NamespaceNumber::new(2);

const NOW: WallTime = WallTime::new(1_700_000_000_000);

fn incarnation(bits: u64) -> Incarnation {
    Incarnation::new(bits).expect("not zero")
}

fn channel(name: &str) -> ChannelName {
    ChannelName::parse(name).expect("well-formed")
}

fn topology() -> Arc<Topology> {
    let region = |number: u32| RegionName::parse(&format!("region-{number}")).expect("well-formed");
    let group_name = |name: &str| GroupName::parse(name).expect("well-formed");
    let node = |number: u32| Node {
        number: NodeNumber::new(number),
        name: NodeName::parse(&format!("node-{number}")).expect("well-formed"),
        region: region(number),
        replication_address: String::new(),
        client_address: String::new(),
        state: NodeState::Active,
        fencing_token: FencingToken::new(0),
        feature_level: FeatureLevel::new(1),
    };
    let namespace = |number: NamespaceNumber, group: &str| Namespace {
        number,
        name: NamespaceName::parse(&format!("namespace-{number}")).expect("well-formed"),
        groups: vec![group_name(group)],
        disk_cap_bytes: 0,
        retention: Retention::default(),
        founders: vec![Founder { node: NodeNumber::new(1), opened: false }],
        leaving: Vec::new(),
    };
    let group = |number: u32, name: &str, regions: &[u32]| Group {
        number: GroupNumber::new(number),
        name: group_name(name),
        regions: regions.iter().map(|number| region(*number)).collect(),
    };
    Arc::new(Topology {
        version: TopologyVersion { generation: 1, number: 1 },
        regions: (1..=3).map(region).collect(),
        groups: vec![group(7, "all", &[1, 2, 3]), group(8, "narrow", &[1, 2])],
        nodes: (1..=3).map(node).collect(),
        namespaces: vec![namespace(EVERYWHERE, "all"), namespace(NARROW, "narrow")],
    })
}

/// What a member's storage holds of one log.
#[derive(Clone, Debug)]
struct StoredLog {
    row: Row,
    entries: Vec<AppendEntry>,
    durable: usize,
}

impl StoredLog {
    fn mark(&self, count: usize) -> Mark {
        let start = Mark { m_id: self.row.first_m_id().previous(), hash: self.row.start_hash() };
        self.entries[..count].last().map_or(start, AppendEntry::mark)
    }
}

/// A member's storage. A clone is a copy of the disk.
#[derive(Clone, Debug, Default)]
struct Disk {
    logs: BTreeMap<LogName, StoredLog>,
}

impl Disk {
    fn append(&mut self, entry: AppendEntry) {
        let log = self.logs.entry(entry.log).or_insert_with(|| StoredLog {
            row: entry.row.clone().expect("a log's first entry brings its row"),
            entries: Vec::new(),
            durable: 0,
        });
        let expected = log.mark(log.entries.len());
        assert_eq!(entry.m_id, expected.m_id.next(), "entries of {} are contiguous", entry.log);
        assert_eq!(entry.hash, expected.hash.then(&entry.bytes), "entries are chained");
        assert_eq!(entry.row.is_some(), log.entries.is_empty(), "the row comes once");
        log.entries.push(entry);
    }

    /// What is not durable is lost.
    fn crash(&mut self) {
        for log in self.logs.values_mut() {
            log.entries.truncate(log.durable);
        }
        self.logs.retain(|_, log| !log.entries.is_empty());
    }

    fn recover(&self, node: NodeNumber) -> RecoveredState {
        let mut recovered = RecoveredState::new();
        let mut logs: Vec<&StoredLog> = self.logs.values().collect();
        logs.sort_by_key(|log| log.row.first_m_id());
        for log in logs {
            let mark = log.mark(log.entries.len());
            let stamp = log.entries.last().expect("not empty").stamp;
            recovered.insert_log(log.row.clone(), mark, Mark::default(), stamp).expect("held");
            for entry in &log.entries {
                let message = Message::decode(&entry.bytes).expect("what is stored can be read");
                recovered.replay(node, &entry.name(), &message);
            }
        }
        recovered
    }

    fn names(&self) -> Vec<MessageName> {
        self.logs.values().flat_map(|log| log.entries.iter().map(AppendEntry::name)).collect()
    }

    fn payloads(&self, namespace: NamespaceNumber) -> Vec<Bytes> {
        let logs = self.logs.values().filter(|log| log.row.log.namespace == namespace);
        logs.flat_map(|log| &log.entries)
            .map(|entry| Message::decode(&entry.bytes).expect("readable").payload)
            .collect()
    }
}

impl ChainHistory for Disk {
    /// Only what is durable, and sparse, as a storage keeps it: whatever is asked
    /// above must be known to the log table.
    fn chain_hash_at(&self, log: &LogName, m_id: MessageNumber) -> Option<ChainHash> {
        let log = self.logs.get(log)?;
        log.entries[..log.durable].iter().find(|entry| entry.m_id == m_id).map(|entry| entry.hash)
    }
}

/// A push-node's deciding part over its disk.
#[derive(Debug)]
struct Member {
    admission: Admission,
    disk: Disk,
    now: WallTime,
}

impl Member {
    fn new(number: u32, bits: u64) -> Self {
        Self::open(number, bits, Disk::default(), topology())
    }

    fn open(number: u32, bits: u64, disk: Disk, topology: Arc<Topology>) -> Self {
        let node = NodeNumber::new(number);
        let opening = MemberOpening { node, incarnation: incarnation(bits), opened_from: None };
        let mut disk = disk;
        for log in disk.logs.values_mut() {
            log.durable = log.entries.len();
        }
        let admission = Admission::new(opening, disk.recover(node), topology);
        Self { admission, disk, now: NOW }
    }

    /// The process ends; what is durable is opened again.
    fn reopen(mut self, bits: u64) -> Self {
        self.disk.crash();
        let number = self.admission.opening().node.get();
        let topology = Arc::clone(self.admission.topology());
        let now = self.now;
        Self { now, ..Self::open(number, bits, self.disk, topology) }
    }

    fn log(&self, namespace: NamespaceNumber) -> LogName {
        self.admission.own_log(namespace)
    }

    fn edit(
        &mut self,
        namespace: NamespaceNumber,
        name: &str,
        change: ChannelChange,
    ) -> Result<Edited, EditRefusal> {
        let edit = ChannelEdit { namespace, channel: channel(name), change, trace: None };
        let edited = self.admission.edit_channel(self.now, edit)?;
        self.disk.append(edited.entry.clone());
        Ok(edited)
    }

    fn create(&mut self, namespace: NamespaceNumber, name: &str) -> Result<Edited, EditRefusal> {
        self.edit(namespace, name, ChannelChange::Create(ChannelDraft::default()))
    }

    fn delete(&mut self, namespace: NamespaceNumber, name: &str) -> Result<Edited, EditRefusal> {
        let condition = EditCondition::default();
        self.edit(namespace, name, ChannelChange::Delete { condition })
    }

    fn describe(
        &mut self,
        namespace: NamespaceNumber,
        name: &str,
        description: &str,
    ) -> Result<Edited, EditRefusal> {
        let update =
            ChannelUpdate { description: Some(description.to_owned()), ..Default::default() };
        let condition = EditCondition::default();
        self.edit(namespace, name, ChannelChange::Update { condition, update })
    }

    fn publish(
        &mut self,
        namespace: NamespaceNumber,
        name: &str,
        payload: &str,
    ) -> Result<MessageName, PublishRefusal> {
        match self.publish_in(publication(namespace, name, payload))? {
            Published::Stored { name, .. } => Ok(name),
            repeat => panic!("without a session there are no repeats: {repeat:?}"),
        }
    }

    fn publish_in(&mut self, publication: NewPublication) -> Result<Published, PublishRefusal> {
        let published = self.admission.publish(self.now, publication)?;
        if let Published::Stored { entry, .. } = &published {
            self.disk.append(entry.clone());
        }
        Ok(published)
    }

    fn sync(&mut self) {
        let mut marks = Vec::new();
        for (name, log) in &mut self.disk.logs {
            log.durable = log.entries.len();
            marks.push((*name, log.mark(log.durable)));
        }
        self.admission.handle_durable(&marks);
    }

    fn receive(&mut self, frame: &Frame) -> FrameOutcome {
        let outcome = self.admission.receive(self.now, frame, &self.disk);
        if let FrameOutcome::Appended { entries, mark, .. } = &outcome {
            assert_eq!(entries.last().expect("something is new").mark(), *mark);
            for entry in entries {
                self.disk.append(entry.clone());
            }
        }
        outcome
    }

    /// What this member serves of a log: only what is durable.
    fn frame(&self, log: &LogName, from: u64, count: usize) -> Option<Frame> {
        let stored = self.disk.logs.get(log)?;
        let first = stored.row.first_m_id().get();
        let skip = usize::try_from(from.checked_sub(first)?).ok()?;
        let durable = &stored.entries[..stored.durable];
        let entries = durable.get(skip..)?;
        let entries = &entries[..count.min(entries.len())];
        Some(Frame {
            log: *log,
            first_m_id: entries.first()?.m_id,
            previous_hash: stored.mark(skip).hash,
            age_milliseconds: 0,
            last_age_milliseconds: 0,
            sends: entries.iter().map(|entry| entry.bytes.clone()).collect(),
        })
    }

    fn whole_log(&self, log: &LogName) -> Frame {
        let first = self.disk.logs[log].row.first_m_id().get();
        self.frame(log, first, usize::MAX).expect("the log is served")
    }

    fn held(&self, log: &LogName) -> Mark {
        self.admission.logs().get(log).expect("held").appended
    }

    /// Takes all durable messages of another member, parents' logs first.
    fn take_all_of(&mut self, other: &Self) {
        let mut logs: Vec<&StoredLog> = other.disk.logs.values().collect();
        logs.sort_by_key(|log| log.row.first_m_id());
        for log in logs.iter().filter(|log| log.durable > 0) {
            let name = log.row.log;
            if !self.admission.is_own_log(&name) {
                self.receive(&other.whole_log(&name));
            }
        }
        self.sync();
    }
}

fn publication(namespace: NamespaceNumber, name: &str, payload: &str) -> NewPublication {
    NewPublication {
        namespace,
        channel: channel(name),
        key: Bytes::new(),
        payload: Bytes::copy_from_slice(payload.as_bytes()),
        publisher: None,
        possibly_repeated: false,
        trace: None,
    }
}

fn in_session(session: SessionId, sequence: u64, publication: NewPublication) -> NewPublication {
    let sequence = PublisherSequence::new(sequence);
    NewPublication { publisher: Some(PublisherPosition { session, sequence }), ..publication }
}

/// All that can be seen of what is appended: to show that a refusal leaves
/// nothing behind.
fn state_of(member: &Member) -> (Vec<(LogName, Mark)>, Vec<[u8; 16]>, u64) {
    let admission = &member.admission;
    let marks = admission.logs().iter().map(|(name, held)| (*name, held.appended)).collect();
    let digests = [EVERYWHERE, NARROW]
        .iter()
        .filter_map(|namespace| Some(admission.directory(*namespace)?.digest()))
        .collect();
    (marks, digests, admission.clock.last().get())
}
