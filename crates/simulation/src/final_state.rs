//! What is there after healing and quiet: what every node's disk has, what it shows,
//! and what readers were shown.

use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;
use interlock_core::identity::{
    Epoch, LogName, Mark, MessageName, MessageNumber, NamespaceNumber, NodeNumber,
};
use interlock_core::names::ChannelName;
use interlock_core::replication::frames::TrimPoint;
use interlock_core::replication::rows::Row;

/// One log as a member's disk has it at the end.
#[derive(Clone, Debug)]
pub struct FinalLog {
    /// Its name and parents.
    pub row: Row,
    /// How far it goes, durably.
    pub mark: Mark,
    /// Its messages, from the first to the last; what is missing was trimmed.
    pub messages: Vec<(MessageNumber, Bytes)>,
}

impl FinalLog {
    /// The numbers that it no longer has, as ranges with both ends.
    pub fn missing(&self) -> Vec<(MessageNumber, MessageNumber)> {
        let mut missing = Vec::new();
        let mut next = self.row.first_m_id();
        for (m_id, _) in &self.messages {
            if *m_id > next {
                missing.push((next, m_id.previous()));
            }
            next = m_id.next();
        }
        if next <= self.mark.m_id {
            missing.push((next, self.mark.m_id));
        }
        missing
    }
}

/// A channel as a member shows it at the end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FinalChannel {
    /// The epoch.
    pub epoch: Epoch,
    /// Whether that is deleted.
    pub deleted: bool,
}

/// One namespace at a member at the end.
#[derive(Clone, Debug, Default)]
pub struct FinalNamespace {
    /// Of the directory that admission reads.
    pub admission_digest: [u8; 16],
    /// Of the directory that is shown.
    pub shown_digest: [u8; 16],
    /// Of all tips.
    pub tips_digest: [u8; 16],
    /// What is shown.
    pub channels: BTreeMap<ChannelName, FinalChannel>,
}

/// One node at the end.
#[derive(Clone, Debug, Default)]
pub struct FinalNode {
    /// What its disk has, read back.
    pub logs: BTreeMap<LogName, FinalLog>,
    /// The namespaces that it is a member of.
    pub namespaces: BTreeMap<NamespaceNumber, FinalNamespace>,
}

/// How a reader read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ReadingKind {
    /// As messages came, behind one cursor, through whatever broke.
    Subscription,
    /// What was stored, in the order of history, at the end.
    History,
}

/// A message as a reader was shown it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Shown {
    /// Its name.
    pub name: MessageName,
    /// Its channel.
    pub channel: ChannelName,
    /// Its content.
    pub payload: Bytes,
}

/// All that one reader was shown from the oldest message to the end.
#[derive(Clone, Debug)]
pub struct Reading {
    /// Who, for people.
    pub reader: String,
    /// How.
    pub kind: ReadingKind,
    /// The namespace.
    pub namespace: NamespaceNumber,
    /// The channels of which it has to have everything; none of them was ever
    /// deleted.
    pub channels: BTreeSet<ChannelName>,
    /// In the order it was shown.
    pub messages: Vec<Shown>,
    /// What it was told to be missing, both ends included.
    pub gaps: Vec<(LogName, MessageNumber, MessageNumber)>,
}

/// What every node holds after healing and quiet.
#[derive(Clone, Debug, Default)]
pub struct FinalState {
    /// The nodes.
    pub nodes: BTreeMap<NodeNumber, FinalNode>,
    /// What readers were shown, where there were some.
    pub readings: Vec<Reading>,
    /// What the members' stored indexes say of trimmed messages, where they were asked.
    pub trim_points: BTreeMap<NodeNumber, Vec<TrimPoint>>,
}

impl FinalState {
    /// The members of a namespace.
    pub fn members(
        &self,
        namespace: NamespaceNumber,
    ) -> impl Iterator<Item = (NodeNumber, &FinalNode)> {
        self.nodes
            .iter()
            .filter(move |(_, node)| node.namespaces.contains_key(&namespace))
            .map(|(number, node)| (*number, node))
    }

    /// All namespaces that have members.
    pub fn namespaces(&self) -> BTreeSet<NamespaceNumber> {
        self.nodes.values().flat_map(|node| node.namespaces.keys().copied()).collect()
    }

    /// The members of the log's namespace whose marks do not cover a message.
    pub fn missing_at(&self, name: &MessageName) -> Vec<NodeNumber> {
        self.members(name.log.namespace)
            .filter(|(_, node)| {
                node.logs
                    .get(&name.log)
                    .is_none_or(|log| name.m_id > log.mark.m_id || name.m_id < log.row.first_m_id())
            })
            .map(|(number, _)| number)
            .collect()
    }

    /// All messages that any member holds, each once.
    pub fn messages(&self) -> BTreeMap<MessageName, &Bytes> {
        let mut all = BTreeMap::new();
        for (log, held) in self.nodes.values().flat_map(|node| &node.logs) {
            for (m_id, bytes) in &held.messages {
                all.insert(MessageName { log: *log, m_id: *m_id }, bytes);
            }
        }
        all
    }
}
