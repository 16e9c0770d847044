//! What a run leaves behind for the checkers: every client operation with its
//! outcome, what each node did, what happened to each disk, and at the end what
//! every member holds.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use bytes::Bytes;
use interlock_core::cursor::Cursor;
use interlock_core::delivery::ChannelFilter;
use interlock_core::identity::{
    ChainHash, Epoch, FencingToken, Incarnation, LogName, Mark, MessageName, MessageNumber,
    NamespaceNumber, NodeNumber, PublisherSequence, SessionId,
};
use interlock_core::names::ChannelName;
use interlock_core::replication::rows::Row;
use interlock_core::topology::Topology;

use crate::delivery::Told;
use crate::machine::MachineName;
use crate::network::ProcessNumber;

/// Names a client of the workload.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct ClientNumber(u32);

impl ClientNumber {
    /// Wraps the raw number.
    pub const fn new(raw: u32) -> Self {
        Self(raw)
    }

    /// The raw number.
    pub const fn get(self) -> u32 {
        self.0
    }
}

impl std::fmt::Display for ClientNumber {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "c{}", self.0)
    }
}

/// Names an operation: its place in the history.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct OperationNumber(usize);

/// What a client wanted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Attempt {
    /// To publish, in a session or without one.
    Publish {
        /// The channel.
        channel: ChannelName,
        /// The content, unlike that of all other operations.
        payload: Bytes,
        /// The place in a session.
        position: Option<(SessionId, PublisherSequence)>,
        /// It says of itself that it may be a repeat.
        possibly_repeated: bool,
    },
    /// To create a channel.
    Create {
        /// The channel.
        channel: ChannelName,
        /// The description, unlike that of all other operations.
        description: String,
    },
    /// To update a channel.
    Update {
        /// The channel.
        channel: ChannelName,
        /// The description, unlike that of all other operations.
        description: String,
    },
    /// To delete a channel.
    Delete {
        /// The channel.
        channel: ChannelName,
    },
}

/// What the client knows of it at the end.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// Nothing: it timed out, or its connection broke.
    Unknown,
    /// It was acknowledged.
    Ok {
        /// The message, where the answer told it.
        name: Option<MessageName>,
    },
    /// It was refused: nothing is stored.
    Fail,
}

/// One operation of a client.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Operation {
    /// Who.
    pub client: ClientNumber,
    /// Where.
    pub node: NodeNumber,
    /// The namespace.
    pub namespace: NamespaceNumber,
    /// What.
    pub attempt: Attempt,
    /// What came of it.
    pub outcome: Outcome,
}

/// Why a disk holds something else from one moment to the next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Replacement {
    /// It was emptied.
    Wiped,
    /// An old copy was put back.
    Restored,
}

/// What happened at a node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Record {
    /// A process opened the disk and found this.
    Opened {
        /// The machine.
        machine: MachineName,
        /// The run.
        process: ProcessNumber,
        /// Its incarnation.
        incarnation: Incarnation,
        /// The token that it registered with, 0 if it did not.
        token: FencingToken,
        /// What the opening walk left, all of it durable.
        logs: Vec<(LogName, Mark)>,
    },
    /// A message was appended.
    Appended {
        /// The machine.
        machine: MachineName,
        /// The message.
        name: MessageName,
        /// The chain hash after it.
        hash: ChainHash,
        /// The log's row, with its first message.
        row: Option<Row>,
    },
    /// A log became durable up to a mark, as the node says.
    Durable {
        /// The machine.
        machine: MachineName,
        /// The log.
        log: LogName,
        /// The mark.
        mark: Mark,
    },
    /// The projections took a message in.
    Applied {
        /// The machine.
        machine: MachineName,
        /// The message.
        name: MessageName,
    },
    /// The durable directory shows a channel like this from now on.
    Shown {
        /// The machine.
        machine: MachineName,
        /// The namespace.
        namespace: NamespaceNumber,
        /// The channel.
        channel: ChannelName,
        /// Its epoch.
        epoch: Epoch,
        /// Whether that is deleted.
        deleted: bool,
    },
    /// A publisher was told that so many other members hold a message.
    HeldByPeers {
        /// The origin.
        machine: MachineName,
        /// The message.
        name: MessageName,
        /// How many, beside the origin.
        peers: usize,
    },
    /// A member accepts in a namespace from now on.
    Ready {
        /// The machine.
        machine: MachineName,
        /// The namespace.
        namespace: NamespaceNumber,
    },
    /// A member has taken over the state of a namespace.
    Backfilled {
        /// The machine.
        machine: MachineName,
        /// The namespace.
        namespace: NamespaceNumber,
    },
    /// A disk holds other contents from now on.
    Replaced {
        /// The machine.
        machine: MachineName,
        /// How.
        by: Replacement,
        /// What it holds now.
        logs: BTreeMap<LogName, Mark>,
    },
    /// A process that was started without the control-plane has registered.
    Registered {
        /// The machine.
        machine: MachineName,
        /// What it was given.
        token: FencingToken,
    },
    /// A process has heard that another one registered its name.
    Superseded {
        /// The machine.
        machine: MachineName,
        /// With what token.
        by: FencingToken,
    },
    /// A process that drained was stopped, and its machine is gone for good.
    Retired {
        /// The machine.
        machine: MachineName,
    },
    /// A machine was resumed from a snapshot of its memory and disk, which goes on
    /// as the opening that it was, from these marks.
    Resumed {
        /// The machine.
        machine: MachineName,
        /// The opening.
        incarnation: Incarnation,
        /// What it held.
        logs: BTreeMap<LogName, Mark>,
    },
    /// There is a newer topology.
    TopologyEdited(Arc<Topology>),
}

/// Names a subscription: its place in the history.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SessionNumber(usize);

/// One subscription: where it began, and all that the subscriber was told.
#[derive(Clone, Debug)]
pub struct SessionRecord {
    /// Who.
    pub subscriber: u32,
    /// At which node's gateway.
    pub node: NodeNumber,
    /// The namespace.
    pub namespace: NamespaceNumber,
    /// The channels.
    pub filter: ChannelFilter,
    /// The cursor that it began with.
    pub start: Cursor,
    /// In order.
    pub told: Vec<Told>,
    /// It lasted until there was nothing left to tell.
    pub is_complete: bool,
}

/// Something that must not happen and was seen as it did.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Incident {
    /// Where.
    pub node: Option<NodeNumber>,
    /// What.
    pub what: String,
}

/// Everything that happened.
#[derive(Debug, Default)]
pub struct History {
    operations: Vec<Operation>,
    /// In order of time.
    pub records: Vec<Record>,
    /// In order of time.
    pub incidents: Vec<Incident>,
    sessions: Vec<SessionRecord>,
    /// Publications that were passed over because their channel's epoch had
    /// ended.
    pub ended: Vec<MessageName>,
}

impl History {
    /// Nothing has happened.
    pub fn new() -> Self {
        Self::default()
    }

    /// A client begins an operation; its outcome is unknown.
    pub fn begin(&mut self, operation: Operation) -> OperationNumber {
        self.operations.push(operation);
        OperationNumber(self.operations.len() - 1)
    }

    /// A client learns what became of an operation.
    pub fn end(&mut self, number: OperationNumber, outcome: Outcome) {
        self.operations[number.0].outcome = outcome;
    }

    /// One operation.
    pub fn operation(&self, number: OperationNumber) -> &Operation {
        &self.operations[number.0]
    }

    /// The publication takes another place in its session.
    pub fn renumber(&mut self, number: OperationNumber, place: (SessionId, PublisherSequence)) {
        if let Attempt::Publish { position, .. } = &mut self.operations[number.0].attempt {
            *position = Some(place);
        }
    }

    /// All operations.
    pub fn operations(&self) -> &[Operation] {
        &self.operations
    }

    /// A subscription begins.
    pub fn begin_session(&mut self, session: SessionRecord) -> SessionNumber {
        self.sessions.push(session);
        SessionNumber(self.sessions.len() - 1)
    }

    /// One subscription.
    pub fn session_mut(&mut self, number: SessionNumber) -> &mut SessionRecord {
        &mut self.sessions[number.0]
    }

    /// All subscriptions.
    pub fn sessions(&self) -> &[SessionRecord] {
        &self.sessions
    }

    /// Notes what must not happen.
    pub fn incident(&mut self, node: Option<NodeNumber>, what: String) {
        self.incidents.push(Incident { node, what });
    }
}

/// One log as a member's disk has it at the end.
#[derive(Clone, Debug)]
pub struct FinalLog {
    /// Its name and parents.
    pub row: Row,
    /// How far it goes, durably.
    pub mark: Mark,
    /// Its messages, from the first to the last.
    pub messages: Vec<(MessageNumber, Bytes)>,
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

    /// Whether every member of the log's namespace holds a message.
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
