//! The workload: publishers with sessions, publishers without, and people who
//! create, update and delete the same channels at all nodes at once.
//!
//! A client knows only what it was answered. What it does not know it records as
//! unknown; what it retries it retries exactly, as the client library does.

mod editor;
mod plain_publisher;
mod session_publisher;

use std::collections::BTreeMap;
use std::time::Duration;

use bytes::Bytes;
use interlock_core::admission::NewPublication;
use interlock_core::identity::{NamespaceNumber, NodeNumber};
use interlock_core::names::ChannelName;

use crate::history::{Attempt, ClientNumber, History, Operation, OperationNumber, Outcome};
use crate::planted_bug::PlantedBug;
use crate::random::Random;
use crate::requests::{Level, ReplyBody, Request, RequestBody, RequestName, RequestNumber};

use editor::Editor;
use plain_publisher::PlainPublisher;
use session_publisher::SessionPublisher;

/// How long a patient client waits for an answer: longer than a node waits for
/// other members.
const PATIENCE: Duration = Duration::from_secs(3);
/// How long an impatient one waits: often less than a sync takes.
const IMPATIENCE: Duration = Duration::from_millis(60);

/// Where a client works, and on what.
#[derive(Clone, Debug)]
pub struct Place {
    /// Its number.
    pub client: ClientNumber,
    /// The node that it calls.
    pub node: NodeNumber,
    /// The nodes that it may go to when that one does not answer.
    pub elsewhere: Vec<NodeNumber>,
    /// The namespace.
    pub namespace: NamespaceNumber,
    /// The channels that all clients of the namespace work on.
    pub channels: Vec<ChannelName>,
    /// Operations that it begins at most.
    pub operations: u32,
    /// Between its operations, on average.
    pub pace: Duration,
}

/// What kinds of clients there are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ClientKind {
    /// Publishes in sessions, pipelined, and retries exactly.
    SessionPublisher,
    /// Publishes without sessions.
    PlainPublisher,
    /// Edits channels.
    Editor,
}

/// What a client does to the world.
#[derive(Debug)]
pub enum ClientOutput {
    /// Sends a request, and wants to be told when the time for it is over.
    Send(Request, Duration),
    /// Wants to be woken.
    WakeAfter(Duration),
}

/// What happens around a client while it acts.
pub struct Surroundings<'a> {
    /// Chance.
    pub random: &'a mut Random,
    /// A bug to commit.
    pub planted: Option<PlantedBug>,
    /// Where operations are recorded.
    pub history: &'a mut History,
    /// Whether new operations may begin.
    pub may_begin: bool,
    /// What it does.
    pub outputs: Vec<ClientOutput>,
}

/// One client.
#[derive(Debug)]
pub struct Client {
    desk: Desk,
    role: Role,
}

#[derive(Debug)]
enum Role {
    SessionPublisher(SessionPublisher),
    PlainPublisher(PlainPublisher),
    Editor(Editor),
}

impl Client {
    /// A client that has done nothing yet.
    pub fn new(kind: ClientKind, place: Place) -> Self {
        let role = match kind {
            ClientKind::SessionPublisher => Role::SessionPublisher(SessionPublisher::default()),
            ClientKind::PlainPublisher => Role::PlainPublisher(PlainPublisher::default()),
            ClientKind::Editor => Role::Editor(Editor::default()),
        };
        let moves = Random::new(u64::from(place.client.get()));
        Self { desk: Desk { place, requests: 0, begun: 0, moves }, role }
    }

    /// Where it works.
    pub const fn place(&self) -> &Place {
        &self.desk.place
    }

    /// A node is no place to go any more: whoever is there goes to the other one.
    pub fn keep_away_from(&mut self, node: NodeNumber, other: NodeNumber) {
        let place = &mut self.desk.place;
        place.elsewhere.retain(|it| *it != node);
        if place.node == node {
            place.node = other;
        }
    }

    /// It wanted to be woken.
    pub fn wake(&mut self, around: &mut Surroundings<'_>) {
        match &mut self.role {
            Role::SessionPublisher(role) => role.wake(&mut self.desk, around),
            Role::PlainPublisher(role) => role.wake(&mut self.desk, around),
            Role::Editor(role) => role.wake(&mut self.desk, around),
        }
    }

    /// An answer came.
    pub fn answered(
        &mut self,
        number: RequestNumber,
        body: ReplyBody,
        around: &mut Surroundings<'_>,
    ) {
        match &mut self.role {
            Role::SessionPublisher(role) => role.answered(&mut self.desk, number, body, around),
            Role::PlainPublisher(role) => role.answered(number, body, around),
            Role::Editor(role) => role.answered(number, body, around),
        }
    }

    /// The time for an answer is over.
    pub fn timed_out(&mut self, number: RequestNumber, around: &mut Surroundings<'_>) {
        match &mut self.role {
            Role::SessionPublisher(role) => role.timed_out(&mut self.desk, number, around),
            Role::PlainPublisher(role) => role.timed_out(&mut self.desk, number, around),
            Role::Editor(role) => role.timed_out(number, around),
        }
    }

    /// Whether it waits for nothing.
    pub fn is_idle(&self) -> bool {
        match &self.role {
            Role::SessionPublisher(role) => role.is_idle(),
            Role::PlainPublisher(role) => role.is_idle(),
            Role::Editor(role) => role.is_idle(),
        }
    }
}

/// What all roles do alike.
#[derive(Debug)]
struct Desk {
    place: Place,
    requests: u64,
    begun: u32,
    /// Whether to go elsewhere is decided apart, so that those who stay do the same
    /// whether others go or not.
    moves: Random,
}

impl Desk {
    /// Goes to another node, perhaps: this one did not answer, or not well.
    fn perhaps_go_elsewhere(&mut self) {
        if self.moves.chance(40) {
            let node = self.moves.choose(&self.place.elsewhere).copied();
            self.place.node = node.unwrap_or(self.place.node);
        }
    }

    fn may_begin(&self, around: &Surroundings<'_>) -> bool {
        around.may_begin && self.begun < self.place.operations
    }

    fn send(&mut self, body: RequestBody, around: &mut Surroundings<'_>) -> RequestNumber {
        self.requests += 1;
        let number = RequestNumber::new(self.requests);
        let name = RequestName { client: self.place.client, number };
        let patience = if around.random.chance(15) { IMPATIENCE } else { PATIENCE };
        around.outputs.push(ClientOutput::Send(Request { name, body }, patience));
        number
    }

    /// A content that no other operation has.
    fn unique_text(&self) -> String {
        format!("{}-{}", self.place.client, self.begun)
    }

    fn channel(&self, random: &mut Random) -> ChannelName {
        random.choose(&self.place.channels).expect("there are channels").clone()
    }

    /// Something new to publish.
    fn new_publication(&mut self, around: &mut Surroundings<'_>) -> NewPublication {
        self.begun += 1;
        let filler = around.random.index(40);
        NewPublication {
            namespace: self.place.namespace,
            channel: self.channel(around.random),
            key: Bytes::new(),
            payload: Bytes::from(format!("{}{}", self.unique_text(), ".".repeat(filler))),
            publisher: None,
            possibly_repeated: false,
            trace: None,
        }
    }

    fn record_publication(
        &self,
        publication: &NewPublication,
        history: &mut History,
    ) -> OperationNumber {
        let position = publication.publisher.map(|position| (position.session, position.sequence));
        self.record(
            Attempt::Publish {
                channel: publication.channel.clone(),
                payload: publication.payload.clone(),
                position,
                possibly_repeated: publication.possibly_repeated,
            },
            history,
        )
    }

    fn record(&self, attempt: Attempt, history: &mut History) -> OperationNumber {
        let Place { client, node, namespace, .. } = &self.place;
        let (client, node, namespace) = (*client, *node, *namespace);
        let outcome = Outcome::Unknown;
        history.begin(Operation { client, node, namespace, attempt, outcome })
    }

    fn level(&self, random: &mut Random) -> Level {
        match random.below(10) {
            0..7 => Level::Local,
            7..9 => Level::Peers(1),
            _ => Level::All,
        }
    }

    /// Several at once, then nothing for a while: so there is more than one
    /// write under way when something happens.
    fn wake_later(&self, around: &mut Surroundings<'_>) {
        let longest =
            if around.random.chance(60) { Duration::from_millis(4) } else { 5 * self.place.pace };
        let pace = around.random.duration(Duration::from_micros(1), longest);
        around.outputs.push(ClientOutput::WakeAfter(pace));
    }
}

/// Requests without an answer, with what they are about.
type Outstanding<T> = BTreeMap<RequestNumber, T>;
