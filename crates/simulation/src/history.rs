//! What a run leaves behind for the checkers: every client operation with its
//! outcome, what each node did and what happened to each disk (`record`), what
//! subscribers were told, and at the end what every member holds (`final_state`).

use bytes::Bytes;
use interlock_core::clock::WallTime;
use interlock_core::cursor::Cursor;
use interlock_core::delivery::ChannelFilter;
use interlock_core::identity::{
    MessageName, NamespaceNumber, NodeNumber, PublisherSequence, SessionId,
};
use interlock_core::names::ChannelName;

use crate::delivery::{LastAsked, Told};
use crate::machine::MachineName;

pub use crate::final_state::{
    FinalChannel, FinalLog, FinalNamespace, FinalNode, FinalState, Reading, ReadingKind, Shown,
};
pub use crate::record::{Record, Replacement};

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

/// Names a subscription: its place in the history.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SessionNumber(usize);

/// What a subscription asked for in place of a cursor.
#[derive(Clone, Debug)]
pub enum Asked {
    /// The last publications that were there, so many.
    Last(LastAsked),
    /// What arrived at a machine from then on, by its clock.
    Since {
        /// The machine.
        machine: MachineName,
        /// When.
        at: WallTime,
        /// So many records there were when it asked.
        records: usize,
    },
}

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
    /// What it asked for, if that was no cursor.
    pub asked: Option<Asked>,
    /// The cursor that it began with.
    pub start: Cursor,
    /// In order.
    pub told: Vec<Told>,
    /// It lasted until there was nothing left to tell.
    pub is_complete: bool,
    /// It is a kept cursor that was resumed when all was over, at this node alone.
    pub is_at_the_end: bool,
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
