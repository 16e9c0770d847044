//! The driver of a node's core: what the push-node's log writer, log syncer,
//! projector, replication hub and links do, on one thread and in virtual time.
//!
//! The order of things is the push-node's. The writer decides and appends; what
//! came of it waits with its answers for the sync that covers it; then the
//! durable marks move, links are told, and only then answers leave. Everything a
//! process says to the world around it is an [`Output`].

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use interlock_core::admission::{
    Admission, AppendEntry, Backfill, ClosedReason, FrameOutcome, MarkFinding, NamespaceReadiness,
    PublishRefusal, Published,
};
use interlock_core::clock::{Moment, WallTime};
use interlock_core::directory::DirectoryChange;
use interlock_core::identity::{
    ChainHash, FeatureLevel, FencingToken, Incarnation, LogName, Mark, MemberOpening, MessageName,
    MessageNumber, NamespaceNumber, NodeNumber,
};
use interlock_core::limits::{MAX_FRAME_BYTES, WINDOW_BYTES};
use interlock_core::message::MessageHead;
use interlock_core::projection::{DirectoryProjection, Projection, PublishersProjection};
use interlock_core::replication::acknowledgements::{Acknowledgements, QueuedLog, Recorded};
use interlock_core::replication::frames::{
    Fact, Frame, Heartbeat, Hello, LogOffer, Member, NackReason, NamespaceDigest, PROTOCOL_VERSION,
    ReceiverFrame, SenderFrame, Welcome,
};
use interlock_core::replication::log_sources::{LogSources, WantChange};
use interlock_core::replication::log_table::ChainHistory;
use interlock_core::replication::peer_receiver::{
    PeerReceiver, ReceiverAction, ReceiverConfig, ReceiverDisconnect, SubmissionOutcome,
};
use interlock_core::replication::peer_sender::{
    PeerSender, SenderAction, SenderConfig, SenderDisconnect,
};
use interlock_core::replication::rows::Row;
use interlock_core::topology::{Node, Topology};
use interlock_storage::{AppendBatch, LogStorage, MemoryStorage, Recovery, StorageError, Ticket};

use crate::history::Record;
use crate::network::{Cargo, StreamNumber};
use crate::opening::{self, OpeningError};
use crate::planted_bug::PlantedBug;
use crate::random::Random;
use crate::requests::{
    Level, Reply, ReplyBody, Request, RequestBody, RequestName, StoredPublication,
};

const FEATURE_LEVEL: FeatureLevel = FeatureLevel::new(1);
/// Marks and facts are stored at least this often.
const CHECKPOINT_INTERVAL: Duration = Duration::from_secs(1);
/// Projections are stored at most this often.
const STORE_INTERVAL: Duration = Duration::from_millis(500);
/// How long a publisher waits for other members.
const LEVEL_DEADLINE: Duration = Duration::from_secs(2);
const LEAST_BACKOFF: Duration = Duration::from_millis(100);
const MOST_BACKOFF: Duration = Duration::from_secs(10);
/// A founder tells the control-plane again that it has opened its namespaces.
const RECORDING_INTERVAL: Duration = Duration::from_secs(2);

/// The document that says which topology the node had.
pub const TOPOLOGY_DOCUMENT: &str = "topology";

/// The document that says that a member has once been ready in a namespace.
pub fn readiness_document(namespace: NamespaceNumber) -> String {
    format!("ready-{namespace}")
}

/// What reaches a process.
#[derive(Debug)]
pub enum Input {
    /// A stream to a peer is open: we are the caller.
    Opened(StreamNumber, NodeNumber),
    /// A peer cannot be reached.
    ConnectFailed(NodeNumber),
    /// A stream of a peer is open: we are the callee.
    Accepted(StreamNumber),
    /// Something came on a stream.
    Arrived(StreamNumber, Cargo),
    /// A client asks.
    Requested(Request),
    /// The writer's thread runs.
    WriterRuns,
    /// The sync that was begun is done.
    SyncEnds,
    /// The control-plane tells the newest topology.
    Topology(Arc<Topology>),
    /// The moment of [`Process::timer`] has come.
    Timer,
}

/// What a process does to the world.
#[derive(Debug)]
pub enum Output {
    /// Open a stream to a peer.
    Connect(NodeNumber),
    /// Put something on a stream.
    Transmit(StreamNumber, Cargo),
    /// Close this end of a stream.
    Close(StreamNumber),
    /// Answer a client.
    Reply(Reply),
    /// Let the writer's thread run.
    WakeWriter,
    /// A sync has begun, and ends a while later.
    SyncBegan,
    /// Have the topology record that these namespaces are opened.
    RecordOpened(Vec<NamespaceNumber>),
    /// For the history.
    Record(Record),
    /// What must not happen.
    Incident(String),
}

/// How a run of the process differs from others.
#[derive(Clone, Copy, Debug)]
pub struct ProcessConfig {
    /// At most so many messages in a frame.
    pub frame_messages: usize,
    /// In so many of a hundred cases the disk has a sync's writes when it begins,
    /// else when it ends.
    pub early_sync_percent: u64,
    /// A bug to commit.
    pub planted: Option<PlantedBug>,
}

enum Command {
    Request(Request),
    Receive(StreamNumber, Frame),
    Examine(NodeNumber, Vec<(LogName, Mark)>),
    Backfill(Vec<NamespaceNumber>, BackfillNews),
}

enum BackfillNews {
    Offered(NodeNumber, Vec<LogOffer>),
    OfferedAll(NodeNumber),
    Lost(NodeNumber),
}

enum Answer {
    Client(Reply, Option<Level>),
    Submission(StreamNumber, LogName, SubmissionOutcome),
}

struct AppendedBatch {
    ticket: Ticket,
    entries: Vec<AppendEntry>,
    answers: Vec<Answer>,
}

/// A sync that is under way.
struct Sync {
    batches: Vec<AppendedBatch>,
    /// Set when the disk had it at the beginning.
    done: Option<Ticket>,
}

struct DurableLog {
    row: Row,
    mark: Mark,
}

/// A publisher that waits for other members.
struct Waiter {
    reply: Reply,
    level: Level,
    others: BTreeSet<NodeNumber>,
    names: Vec<MessageName>,
    deadline: Moment,
}

enum Readiness {
    /// Recorded on the disk; the topology is to record it too.
    Recording {
        again_at: Moment,
    },
    Ready,
    Backfilling(Backfill),
}

/// Our stream to a peer.
struct Outbound {
    attempts: u32,
    state: OutboundState,
}

enum OutboundState {
    Waiting { until: Moment },
    Connecting,
    Open(Box<OpenOutbound>),
}

struct OpenOutbound {
    stream: StreamNumber,
    sender: PeerSender,
    /// The namespaces that the greeting named.
    greeted: Vec<NamespaceNumber>,
    /// How far each log has been offered.
    offered: BTreeMap<LogName, MessageNumber>,
}

/// A peer's stream to us.
struct Inbound {
    receiver: PeerReceiver,
    /// Set once the peer is accepted.
    peer: Option<NodeNumber>,
    /// The namespaces that it is ready in.
    ready: Vec<NamespaceNumber>,
    said_all: bool,
    acknowledged: BTreeMap<LogName, MessageNumber>,
    examined: BTreeSet<LogName>,
}

/// One run of a node's process.
pub struct Process {
    config: ProcessConfig,
    me: Member,
    storage: MemoryStorage,
    admission: Admission,
    topology: Arc<Topology>,
    directories: DirectoryProjection,
    publishers: PublishersProjection,
    readiness: BTreeMap<NamespaceNumber, Readiness>,
    commands: VecDeque<Command>,
    writer_is_awake: bool,
    durable_news: Vec<(LogName, Mark)>,
    appended: Vec<AppendedBatch>,
    ticket: Ticket,
    synced: Ticket,
    sync: Option<Sync>,
    durable: BTreeMap<LogName, DurableLog>,
    sources: LogSources,
    facts: Acknowledgements,
    waiters: Vec<Waiter>,
    outbound: BTreeMap<NodeNumber, Outbound>,
    inbound: BTreeMap<StreamNumber, Inbound>,
    current_inbound: BTreeMap<NodeNumber, StreamNumber>,
    checkpoint_at: Moment,
    store_at: Moment,
    now: Moment,
    wall: WallTime,
    outputs: Vec<Output>,
}

impl std::fmt::Debug for Process {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Process").field("me", &self.me).finish_non_exhaustive()
    }
}

/// What a process is started with, beside its disk.
#[derive(Clone, Debug)]
pub struct Start {
    /// The node as the topology names it.
    pub node: Node,
    /// The newest topology that it can get at.
    pub topology: Arc<Topology>,
    /// This opening.
    pub incarnation: Incarnation,
    /// What the process before had appended, for a planted bug.
    pub remembered: Vec<(LogName, Mark)>,
}

impl Process {
    /// Starts over a disk whose walk is done (METHOD M12).
    pub fn open(
        storage: MemoryStorage,
        recovery: &Recovery,
        start: Start,
        config: ProcessConfig,
        wall: WallTime,
    ) -> Result<Self, OpeningError> {
        let Start { node, topology, incarnation, remembered } = start;
        let reused = config.planted == Some(PlantedBug::IncarnationReused);
        let incarnation = recovery.opened_from.filter(|_| reused).unwrap_or(incarnation);
        let opening =
            MemberOpening { node: node.number, incarnation, opened_from: recovery.opened_from };
        let mut recovery = recovery.clone();
        misread(&mut recovery, config.planted, &remembered);
        let opened = opening::take_up(&storage, &recovery, node.number, config.planted)?;
        storage.record_opening(opening)?;
        storage.store_document(TOPOLOGY_DOCUMENT, &version_bytes(&topology))?;

        let mut directories = opened.directories;
        directories.set_opening(incarnation);
        let mut sources = LogSources::new(opening, node.region.clone());
        let mut durable = BTreeMap::new();
        for log in &recovery.logs {
            sources.mark_appended(Moment::START, &log.row.log, log.mark.m_id);
            durable.insert(log.row.log, DurableLog { row: log.row.clone(), mark: log.mark });
        }
        let others: Vec<Fact> = recovery
            .facts
            .iter()
            .filter(|fact| fact.opening.node != node.number)
            .cloned()
            .collect();
        let seen = widened(&topology, config.planted);
        let mut process = Self {
            config,
            me: Member {
                opening,
                name: node.name,
                region: node.region,
                fencing_token: FencingToken::new(0),
            },
            storage,
            admission: Admission::new(opening, opened.recovered, seen),
            topology,
            directories,
            publishers: opened.publishers,
            readiness: BTreeMap::new(),
            commands: VecDeque::new(),
            writer_is_awake: false,
            durable_news: Vec::new(),
            appended: Vec::new(),
            ticket: Ticket::ZERO,
            synced: Ticket::ZERO,
            sync: None,
            durable,
            sources,
            facts: Acknowledgements::from_checkpoint(&others),
            waiters: Vec::new(),
            outbound: BTreeMap::new(),
            inbound: BTreeMap::new(),
            current_inbound: BTreeMap::new(),
            checkpoint_at: Moment::START + CHECKPOINT_INTERVAL,
            store_at: Moment::START + STORE_INTERVAL,
            now: Moment::START,
            wall,
            outputs: Vec::new(),
        };
        process.consider_readiness()?;
        process.call_peers();
        Ok(process)
    }

    /// Takes an input, and tells all that came of it. An error ends the process:
    /// nobody knows what the disk has.
    pub fn handle(
        &mut self,
        now: Moment,
        wall: WallTime,
        random: &mut Random,
        input: Input,
    ) -> Result<Vec<Output>, StorageError> {
        self.now = now;
        self.wall = wall;
        match input {
            Input::Opened(stream, peer) => self.stream_opened(stream, peer, random),
            Input::ConnectFailed(peer) => self.wait_to_call(peer, random),
            Input::Accepted(stream) => self.stream_accepted(stream),
            Input::Arrived(stream, cargo) => self.arrived(stream, cargo, random),
            Input::Requested(request) => self.requested(request),
            Input::WriterRuns => self.run_writer(random)?,
            Input::SyncEnds => self.end_sync()?,
            Input::Topology(topology) => self.adopt(topology)?,
            Input::Timer => self.handle_timers()?,
        }
        self.begin_sync(random)?;
        self.drain(random)?;
        Ok(std::mem::take(&mut self.outputs))
    }

    /// What the opening itself came to.
    pub fn first_outputs(&mut self) -> Vec<Output> {
        std::mem::take(&mut self.outputs)
    }

    /// When to send [`Input::Timer`] if nothing happens before.
    pub fn timer(&self) -> Moment {
        let outbound = self.outbound.values().filter_map(|outbound| match &outbound.state {
            OutboundState::Waiting { until } => Some(*until),
            OutboundState::Connecting => None,
            OutboundState::Open(open) if self.is(PlantedBug::TimersIgnored) => {
                let _ = open;
                None
            }
            OutboundState::Open(open) => open.sender.poll_timeout(),
        });
        let inbound = self.inbound.values().filter_map(|inbound| inbound.receiver.poll_timeout());
        let recording = self.readiness.values().filter_map(|readiness| match readiness {
            Readiness::Recording { again_at } => Some(*again_at),
            Readiness::Ready | Readiness::Backfilling(_) => None,
        });
        let waiters = self.waiters.iter().map(|waiter| waiter.deadline);
        let own =
            [self.checkpoint_at, self.store_at].into_iter().chain(self.sources.poll_timeout());
        own.chain(outbound)
            .chain(inbound)
            .chain(recording)
            .chain(waiters)
            .min()
            .expect("there is always a next checkpoint")
    }

    // What the world looks at.

    /// What decides here.
    pub const fn admission(&self) -> &Admission {
        &self.admission
    }

    /// The directories that are shown.
    pub const fn directories(&self) -> &DirectoryProjection {
        &self.directories
    }

    /// The disk, to be read.
    pub const fn storage(&self) -> &MemoryStorage {
        &self.storage
    }

    /// The topology in use.
    pub const fn topology(&self) -> &Arc<Topology> {
        &self.topology
    }

    /// How far each log is appended.
    pub fn appended_marks(&self) -> Vec<(LogName, Mark)> {
        self.admission.logs().iter().map(|(log, held)| (*log, held.appended)).collect()
    }

    /// Whether it accepts in a namespace.
    pub fn is_ready(&self, namespace: NamespaceNumber) -> bool {
        matches!(self.readiness.get(&namespace), Some(Readiness::Ready))
    }

    /// Whether the writer and the syncer have nothing to do.
    pub fn is_idle(&self) -> bool {
        self.commands.is_empty()
            && self.appended.is_empty()
            && self.sync.is_none()
            && self.waiters.is_empty()
    }

    /// What a peer has still to acknowledge (METHOD M6).
    pub fn queue_of(&self, peer: NodeNumber) -> Vec<QueuedLog> {
        let held = self
            .durable
            .iter()
            .filter(|(log, _)| self.topology.is_member(peer, log.namespace))
            .map(|(log, held)| (*log, held.row.first_m_id().previous(), held.mark.m_id));
        self.facts.queue(peer, held)
    }

    /// Who holds what, as far as it is known here.
    pub const fn facts(&self) -> &Acknowledgements {
        &self.facts
    }

    // The log writer.

    fn requested(&mut self, request: Request) {
        if let RequestBody::Publish { publications, level: Level::Peers(peers) } = &request.body {
            let namespace = publications.first().map(|publication| publication.namespace);
            let others = namespace.map_or(0, |namespace| self.other_members(namespace).len());
            if *peers > others {
                let body = ReplyBody::TooFewMembers;
                return self.outputs.push(Output::Reply(Reply { to: request.name, body }));
            }
        }
        self.command(Command::Request(request));
    }

    fn command(&mut self, command: Command) {
        self.commands.push_back(command);
        self.wake_writer();
    }

    fn wake_writer(&mut self) {
        if !std::mem::replace(&mut self.writer_is_awake, true) {
            self.outputs.push(Output::WakeWriter);
        }
    }

    fn run_writer(&mut self, random: &mut Random) -> Result<(), StorageError> {
        self.writer_is_awake = false;
        let marks = std::mem::take(&mut self.durable_news);
        self.admission.handle_durable(&marks);
        self.advance_backfills()?;

        let mut entries = Vec::new();
        let mut answers = Vec::new();
        for command in std::mem::take(&mut self.commands) {
            self.carry_out(command, random, &mut entries, &mut answers);
        }
        if entries.is_empty() && answers.is_empty() {
            return Ok(());
        }
        let batch = AppendBatch { arrived_at: self.wall, entries };
        if !batch.entries.is_empty() {
            self.ticket = self.storage.append(&batch)?;
        }
        for entry in &batch.entries {
            self.outputs.push(Output::Record(Record::Appended {
                node: self.me.opening.node,
                name: entry.name(),
                hash: entry.hash,
                row: entry.row.clone(),
            }));
        }
        if self.is(PlantedBug::AcknowledgedBeforeSync) {
            self.release(std::mem::take(&mut answers));
        }
        if self.is(PlantedBug::AppendedToldAsHeld) {
            let marks: Vec<_> =
                batch.entries.iter().map(|entry| (entry.log, entry.mark())).collect();
            for inbound in self.inbound.values_mut().filter(|inbound| inbound.peer.is_some()) {
                inbound.receiver.handle_durable(self.now, &marks);
            }
        }
        self.appended.push(AppendedBatch { ticket: self.ticket, entries: batch.entries, answers });
        Ok(())
    }

    fn carry_out(
        &mut self,
        command: Command,
        random: &mut Random,
        entries: &mut Vec<AppendEntry>,
        answers: &mut Vec<Answer>,
    ) {
        match command {
            Command::Request(Request { name, body }) => {
                answers.extend(self.decide(name, body, random, entries));
            }
            Command::Receive(stream, frame) => {
                let outcome = self.receive(&frame, entries);
                answers.push(Answer::Submission(stream, frame.log, outcome));
            }
            Command::Examine(peer, marks) => {
                for (log, mark) in marks {
                    let history = StoredHistory(&self.storage);
                    let finding = self.admission.examine_mark(&log, mark, &history);
                    if !matches!(finding, MarkFinding::Consistent(_)) {
                        self.incident(format!("mark of node {peer} for {log}: {finding:?}"));
                    }
                }
            }
            Command::Backfill(namespaces, news) => self.take_backfill_news(&namespaces, &news),
        }
    }

    fn decide(
        &mut self,
        to: RequestName,
        body: RequestBody,
        random: &mut Random,
        entries: &mut Vec<AppendEntry>,
    ) -> Option<Answer> {
        let mut level = None;
        let body = match body {
            RequestBody::OpenSession { namespace, resume } => {
                let (high, low) = (random.bits(), random.bits());
                let bits = (u128::from(high) << 64 | u128::from(low)).to_be_bytes();
                let opened = self.admission.open_session(self.wall, namespace, bits, resume);
                ReplyBody::Session(opened)
            }
            RequestBody::Publish { publications, level: wanted } => {
                level = Some(wanted);
                let (stored, refusal) = self.publish(publications, entries);
                let is_repeat = stored.first().is_some_and(|stored| stored.repeat);
                let body = ReplyBody::Published { stored, refusal, reached: true };
                if is_repeat && self.is(PlantedBug::RepeatAnsweredBeforeSync) {
                    self.outputs.push(Output::Reply(Reply { to, body }));
                    return None;
                }
                body
            }
            RequestBody::Edit(edit) => {
                let edited = self.admission.edit_channel(self.wall, *edit).map(|edited| {
                    entries.push(edited.entry);
                    (edited.name, Box::new(edited.definition))
                });
                ReplyBody::Edited(edited)
            }
        };
        Some(Answer::Client(Reply { to, body }, level))
    }

    fn publish(
        &mut self,
        publications: Vec<interlock_core::admission::NewPublication>,
        entries: &mut Vec<AppendEntry>,
    ) -> (Vec<StoredPublication>, Option<PublishRefusal>) {
        let mut stored = Vec::new();
        for mut publication in publications {
            if self.is(PlantedBug::PayloadAltered) && self.wall.get().is_multiple_of(64) {
                let mut payload = publication.payload.to_vec();
                payload[0] ^= 1;
                publication.payload = Bytes::from(payload);
            }
            match self.admission.publish(self.wall, publication) {
                Ok(Published::Stored { name, entry }) => {
                    entries.push(entry);
                    stored.push(StoredPublication { name: Some(name), repeat: false });
                }
                Ok(Published::Repeat { name }) => {
                    stored.push(StoredPublication { name, repeat: true });
                }
                // What follows would be out of sequence, or out of order.
                Err(refusal) => return (stored, Some(refusal)),
            }
        }
        (stored, None)
    }

    fn receive(&mut self, frame: &Frame, entries: &mut Vec<AppendEntry>) -> SubmissionOutcome {
        let history = StoredHistory(&self.storage);
        match self.admission.receive(self.wall, frame, &history) {
            FrameOutcome::Appended { entries: new, .. } => {
                entries.extend(new);
                SubmissionOutcome::Appended
            }
            FrameOutcome::AlreadyHeld { .. } => SubmissionOutcome::AlreadyHeld,
            FrameOutcome::Nack(nack) => {
                if matches!(nack.reason, NackReason::ContentDiffers | NackReason::Invalid) {
                    self.incident(format!("{:?} of {}: {}", nack.reason, nack.log, nack.detail));
                }
                SubmissionOutcome::Nack {
                    expected: nack.expected,
                    reason: nack.reason,
                    detail: nack.detail,
                }
            }
            FrameOutcome::Refused(refused) => {
                SubmissionOutcome::Refused { version: refused.version }
            }
            FrameOutcome::OwnLogAhead { theirs, ours } => {
                self.incident(format!("{}: {theirs:?} elsewhere, {ours:?} here", frame.log));
                SubmissionOutcome::Dropped
            }
        }
    }

    // The log syncer.

    fn begin_sync(&mut self, random: &mut Random) -> Result<(), StorageError> {
        if self.sync.is_some() || self.appended.is_empty() {
            return Ok(());
        }
        let batches = std::mem::take(&mut self.appended);
        let needed = batches.last().map_or(Ticket::ZERO, |batch| batch.ticket);
        if needed <= self.synced {
            self.publish_durable(batches);
            return Ok(());
        }
        let is_early = random.chance(self.config.early_sync_percent);
        let done = if is_early { Some(self.storage.sync()?) } else { None };
        self.sync = Some(Sync { batches, done });
        self.outputs.push(Output::SyncBegan);
        Ok(())
    }

    fn end_sync(&mut self) -> Result<(), StorageError> {
        let Some(Sync { batches, done }) = self.sync.take() else { return Ok(()) };
        self.synced = match done {
            Some(ticket) => ticket,
            None => self.storage.sync()?,
        };
        self.publish_durable(batches);
        Ok(())
    }

    /// What these batches hold is durable: says so, in this order.
    fn publish_durable(&mut self, batches: Vec<AppendedBatch>) {
        let mut answers = Vec::new();
        let mut marks: BTreeMap<LogName, Mark> = BTreeMap::new();
        for mut batch in batches {
            answers.extend(batch.answers);
            for entry in &mut batch.entries {
                if let Some(row) = entry.row.take() {
                    let mark = Mark { m_id: row.first_m_id().previous(), hash: row.start_hash() };
                    self.durable.entry(entry.log).or_insert(DurableLog { row, mark });
                }
                let log = self.durable.get_mut(&entry.log);
                log.expect("a row comes with its first message").mark = entry.mark();
                marks.insert(entry.log, entry.mark());
            }
            if self.is(PlantedBug::AppliedInReverse) {
                batch.entries.reverse();
            }
            batch.entries.iter().for_each(|entry| self.project(entry));
        }
        for (log, mark) in &marks {
            let (node, log, mark) = (self.me.opening.node, *log, *mark);
            self.outputs.push(Output::Record(Record::Durable { node, log, mark }));
            self.sources.mark_appended(self.now, &log, mark.m_id);
        }
        if !marks.is_empty() {
            self.offer_advanced();
            self.acknowledge();
            self.durable_news.extend(marks);
            self.wake_writer();
        }
        self.release(answers);
    }

    fn release(&mut self, answers: Vec<Answer>) {
        for answer in answers {
            match answer {
                Answer::Client(reply, level) => self.reply(reply, level),
                Answer::Submission(stream, log, outcome) => {
                    let Some(inbound) = self.inbound.get_mut(&stream) else { continue };
                    let failed = matches!(
                        &outcome,
                        SubmissionOutcome::Nack {
                            reason: NackReason::ContentDiffers | NackReason::Invalid,
                            ..
                        }
                    );
                    inbound.receiver.handle_outcome(self.now, &log, outcome);
                    if let (true, Some(peer)) = (failed, inbound.peer) {
                        self.sources.server_failed(self.now, peer, &log);
                    }
                }
            }
        }
        self.check_waiters();
    }

    fn reply(&mut self, reply: Reply, level: Option<Level>) {
        let level = level.filter(|level| *level != Level::Local);
        let (Some(level), ReplyBody::Published { stored, .. }) = (level, &reply.body) else {
            return self.outputs.push(Output::Reply(reply));
        };
        let names: Vec<MessageName> = stored.iter().filter_map(|stored| stored.name).collect();
        let Some(first) = names.first() else {
            return self.outputs.push(Output::Reply(reply));
        };
        let others = self.other_members(first.log.namespace);
        let deadline = self.now + LEVEL_DEADLINE;
        self.waiters.push(Waiter { reply, level, others, names, deadline });
    }

    fn other_members(&self, namespace: NamespaceNumber) -> BTreeSet<NodeNumber> {
        let members = self.topology.members(namespace).into_iter().map(|member| member.number);
        members.filter(|member| *member != self.me.opening.node).collect()
    }

    /// Answers the publishers whose level is reached, or whose time is over.
    fn check_waiters(&mut self) {
        for mut waiter in std::mem::take(&mut self.waiters) {
            let holders = waiter.names.iter().map(|name| {
                let holders = self.facts.holders(&name.log, name.m_id);
                holders.intersection(&waiter.others).count()
            });
            let peers = holders.min().unwrap_or_default();
            let wanted = match waiter.level {
                Level::Local => 0,
                Level::Peers(peers) => peers,
                Level::All => waiter.others.len(),
            };
            let is_reached = peers >= wanted;
            if is_reached {
                for name in waiter.names {
                    let node = self.me.opening.node;
                    self.outputs.push(Output::Record(Record::HeldByPeers {
                        node,
                        name,
                        peers: wanted,
                    }));
                }
            } else if self.now < waiter.deadline {
                self.waiters.push(waiter);
                continue;
            }
            if let ReplyBody::Published { reached, .. } = &mut waiter.reply.body {
                *reached = is_reached;
            }
            self.outputs.push(Output::Reply(waiter.reply));
        }
    }

    // The projector.

    fn project(&mut self, entry: &AppendEntry) {
        let name = entry.name();
        let node = self.me.opening.node;
        let head = MessageHead::decode(&entry.bytes).expect("admission has read it");
        let reversed = self.is(PlantedBug::AppliedInReverse);
        // The projections would not take messages in the wrong order.
        let changes = if reversed { Vec::new() } else { self.directories.apply(&name, &head) };
        if !reversed {
            self.publishers.apply(&name, &head);
        }
        self.outputs.push(Output::Record(Record::Applied { node, name }));
        for change in changes {
            if let DirectoryChange::Lost { .. } = change {
                continue;
            }
            let namespace = name.log.namespace;
            let directory = self.directories.directory(namespace).expect("it has just changed");
            let held = directory.get(change.channel()).expect("it has just changed");
            let (epoch, deleted) = (held.epoch(), held.is_deleted());
            let channel = change.channel().clone();
            let shown = Record::Shown { node, namespace, channel, epoch, deleted };
            self.outputs.push(Output::Record(shown));
        }
    }

    fn store_projections(&mut self) -> Result<(), StorageError> {
        let (position, changes) = (self.directories.position(), self.directories.take_changes());
        self.storage.store_projection(DirectoryProjection::KIND, &position, &changes)?;
        let (position, changes) = (self.publishers.position(), self.publishers.take_changes());
        self.storage.store_projection(PublishersProjection::KIND, &position, &changes)
    }

    // Readiness.

    /// Nothing is accepted in a namespace before it is ready.
    fn consider_readiness(&mut self) -> Result<(), StorageError> {
        let me = self.me.opening.node;
        let mut to_record = Vec::new();
        for namespace in self.admission.topology().namespaces_of(me) {
            let founder = self
                .topology
                .namespace(namespace)
                .and_then(|namespace| namespace.founders.iter().find(|it| it.node == me));
            let waits_for_topology = founder.is_some_and(|founder| !founder.opened);
            match self.readiness.get(&namespace) {
                Some(Readiness::Recording { .. }) if !waits_for_topology => {
                    self.set_ready(namespace);
                }
                Some(_) => {}
                None => {
                    let document = readiness_document(namespace);
                    let is_recorded = self.storage.load_document(&document)?.is_some();
                    let readiness = NamespaceReadiness::at_opening(
                        &self.topology,
                        me,
                        namespace,
                        is_recorded,
                        true,
                    );
                    self.admission.set_closed(namespace, ClosedReason::Backfilling, true);
                    match readiness {
                        NamespaceReadiness::Ready if waits_for_topology => {
                            self.storage.store_document(&document, &[])?;
                            let again_at = self.now + RECORDING_INTERVAL;
                            self.readiness.insert(namespace, Readiness::Recording { again_at });
                            to_record.push(namespace);
                        }
                        NamespaceReadiness::Ready => self.set_ready(namespace),
                        NamespaceReadiness::Backfilling(_)
                            if self.is(PlantedBug::ReadyBeforeBackfill) =>
                        {
                            let node = me;
                            self.outputs
                                .push(Output::Record(Record::Backfilled { node, namespace }));
                            self.set_ready(namespace);
                        }
                        NamespaceReadiness::Backfilling(backfill) => {
                            self.readiness.insert(namespace, Readiness::Backfilling(backfill));
                        }
                    }
                }
            }
        }
        if !to_record.is_empty() {
            self.outputs.push(Output::RecordOpened(to_record));
        }
        Ok(())
    }

    fn set_ready(&mut self, namespace: NamespaceNumber) {
        self.readiness.insert(namespace, Readiness::Ready);
        let node = self.me.opening.node;
        self.outputs.push(Output::Record(Record::Ready { node, namespace }));
        self.admission.set_closed(namespace, ClosedReason::Backfilling, false);
        // Peers are told anew what this node is ready for.
        let peers: Vec<NodeNumber> = self.outbound.keys().copied().collect();
        for peer in peers {
            self.hang_up(peer, Duration::ZERO);
        }
    }

    fn take_backfill_news(&mut self, namespaces: &[NamespaceNumber], news: &BackfillNews) {
        for namespace in namespaces {
            let Some(Readiness::Backfilling(backfill)) = self.readiness.get_mut(namespace) else {
                continue;
            };
            match news {
                BackfillNews::Offered(peer, offers) => {
                    let offers: Vec<LogOffer> = offers
                        .iter()
                        .filter(|offer| offer.log.namespace == *namespace)
                        .cloned()
                        .collect();
                    backfill.handle_offer(*peer, &offers);
                }
                BackfillNews::OfferedAll(peer) => backfill.handle_offered_all(*peer),
                BackfillNews::Lost(peer) => backfill.handle_lost(*peer),
            }
        }
        self.wake_writer();
    }

    fn advance_backfills(&mut self) -> Result<(), StorageError> {
        let logs = self.admission.logs();
        let complete: Vec<NamespaceNumber> = self
            .readiness
            .iter()
            .filter(|(_, readiness)| {
                matches!(readiness, Readiness::Backfilling(backfill) if backfill.is_complete(logs))
            })
            .map(|(namespace, _)| *namespace)
            .collect();
        for namespace in complete {
            self.storage.store_document(&readiness_document(namespace), &[])?;
            let node = self.me.opening.node;
            self.outputs.push(Output::Record(Record::Backfilled { node, namespace }));
            self.set_ready(namespace);
        }
        Ok(())
    }

    // Topology.

    fn adopt(&mut self, topology: Arc<Topology>) -> Result<(), StorageError> {
        if topology.version <= self.topology.version {
            if topology.version == self.topology.version && topology != self.topology {
                self.incident(format!("two topologies of version {}", topology.version));
            }
            return Ok(());
        }
        self.storage.store_document(TOPOLOGY_DOCUMENT, &version_bytes(&topology))?;
        self.topology = topology;
        self.admission.set_topology(widened(&self.topology, self.config.planted));
        self.consider_readiness()?;
        let peers: Vec<NodeNumber> = self.outbound.keys().copied().collect();
        for peer in peers {
            let shared = self.shared_and_ready(peer);
            let Some(open) = open_of(&mut self.outbound, peer) else { continue };
            if open.greeted != shared {
                // The peer may have something to take over: it is told anew.
                self.hang_up(peer, Duration::ZERO);
                continue;
            }
            let withdrawn: Vec<LogName> = open
                .offered
                .keys()
                .filter(|log| !self.topology.is_member(peer, log.namespace))
                .copied()
                .collect();
            for log in withdrawn {
                open.offered.remove(&log);
                open.sender.handle_log_withdrawn(self.now, &log);
            }
            open.sender.handle_topology(self.now, Arc::clone(&self.topology));
        }
        self.offer_advanced();
        for inbound in self.inbound.values_mut() {
            inbound.receiver.handle_topology(self.now, Arc::clone(&self.topology));
        }
        self.acknowledge();
        self.call_peers();
        Ok(())
    }

    fn is_member(&self, node: NodeNumber, namespace: NamespaceNumber) -> bool {
        self.is(PlantedBug::ResidencyIgnored) || self.topology.is_member(node, namespace)
    }

    // The links.

    fn call_peers(&mut self) {
        let peers: Vec<NodeNumber> =
            self.topology.peers_of(self.me.opening.node).iter().map(|node| node.number).collect();
        for peer in peers {
            let state = OutboundState::Waiting { until: self.now };
            self.outbound.entry(peer).or_insert(Outbound { attempts: 0, state });
        }
    }

    fn wait_to_call(&mut self, peer: NodeNumber, random: &mut Random) {
        let now = self.now;
        if let Some(outbound) = self.outbound.get_mut(&peer) {
            let full =
                LEAST_BACKOFF.saturating_mul(1 << outbound.attempts.min(10)).min(MOST_BACKOFF);
            outbound.attempts += 1;
            let until = now + random.duration(full / 2, full);
            outbound.state = OutboundState::Waiting { until };
        }
    }

    /// Gives our stream to a peer up, and calls again after a while.
    fn hang_up(&mut self, peer: NodeNumber, delay: Duration) {
        if let Some(open) = open_of(&mut self.outbound, peer) {
            self.outputs.push(Output::Close(open.stream));
            self.facts.handle_disconnected(peer);
            let state = OutboundState::Waiting { until: self.now + delay };
            self.outbound.insert(peer, Outbound { attempts: 0, state });
        }
    }

    fn stream_opened(&mut self, stream: StreamNumber, peer: NodeNumber, random: &mut Random) {
        let is_awaited = self
            .outbound
            .get(&peer)
            .is_some_and(|outbound| matches!(outbound.state, OutboundState::Connecting));
        if !is_awaited {
            return self.outputs.push(Output::Close(stream));
        }
        let config = SenderConfig { peer, jitter_seed: random.bits() };
        let mut sender = PeerSender::new(self.now, config, self.greeting(peer));
        let greeted = self.shared_and_ready(peer);
        sender.handle_topology(self.now, Arc::clone(&self.topology));
        self.facts.handle_connecting(peer);
        for fact in self.facts.facts() {
            if let Some(fact) = self.fact_for(peer, fact) {
                sender.handle_fact(self.now, fact, false);
            }
        }
        let open = OpenOutbound { stream, sender, greeted, offered: BTreeMap::new() };
        let outbound = self.outbound.get_mut(&peer).expect("just looked at");
        outbound.state = OutboundState::Open(Box::new(open));
        self.offer_advanced();
    }

    /// Says who this node is and what it has, in the namespaces that both hold
    /// and that it is ready in.
    fn greeting(&self, peer: NodeNumber) -> Hello {
        let ready = self.topology.namespaces_of(self.me.opening.node).into_iter();
        let ready =
            ready.filter(|namespace| self.is_member(peer, *namespace) && self.is_ready(*namespace));
        let namespaces = ready.map(|namespace| NamespaceDigest {
            namespace,
            tips: self.admission.logs().tips_digest(namespace),
            state: self.directories.directory(namespace).map_or([0; 16], |it| it.digest()),
        });
        Hello {
            protocol_version: PROTOCOL_VERSION,
            member: self.me.clone(),
            topology_version: self.topology.version,
            namespaces: namespaces.collect(),
            feature_level: FEATURE_LEVEL,
            wall_clock: self.wall,
        }
    }

    fn shared_and_ready(&self, peer: NodeNumber) -> Vec<NamespaceNumber> {
        let mut namespaces = self.topology.namespaces_of(self.me.opening.node);
        namespaces
            .retain(|namespace| self.is_member(peer, *namespace) && self.is_ready(*namespace));
        namespaces
    }

    fn stream_accepted(&mut self, stream: StreamNumber) {
        let config = ReceiverConfig { window_bytes: WINDOW_BYTES };
        let mut receiver = PeerReceiver::new(self.now, config, self.me.opening);
        receiver.handle_topology(self.now, Arc::clone(&self.topology));
        let inbound = Inbound {
            receiver,
            peer: None,
            ready: Vec::new(),
            said_all: false,
            acknowledged: BTreeMap::new(),
            examined: BTreeSet::new(),
        };
        self.inbound.insert(stream, inbound);
    }

    fn arrived(&mut self, stream: StreamNumber, cargo: Cargo, random: &mut Random) {
        match cargo {
            Cargo::End => self.end_stream(stream, false, random),
            Cargo::Sender(frame) => {
                if let Some(inbound) = self.inbound.get_mut(&stream) {
                    inbound.receiver.handle_frame(self.now, frame);
                }
            }
            Cargo::Receiver(frame) => {
                for outbound in self.outbound.values_mut() {
                    if let OutboundState::Open(open) = &mut outbound.state
                        && open.stream == stream
                    {
                        open.sender.handle_frame(self.now, frame);
                        return;
                    }
                }
            }
        }
    }

    /// A stream is over, ended by us or by the other side.
    fn end_stream(&mut self, stream: StreamNumber, by_us: bool, random: &mut Random) {
        if by_us {
            self.outputs.push(Output::Close(stream));
        }
        if let Some(inbound) = self.inbound.remove(&stream) {
            let Some(peer) = inbound.peer else { return };
            if self.current_inbound.get(&peer) == Some(&stream) {
                self.current_inbound.remove(&peer);
                self.sources.peer_disconnected(self.now, peer);
                self.command(Command::Backfill(inbound.ready, BackfillNews::Lost(peer)));
            }
            return;
        }
        let caller = self.outbound.iter().find(|(_, outbound)| {
            matches!(&outbound.state, OutboundState::Open(open) if open.stream == stream)
        });
        if let Some(peer) = caller.map(|(peer, _)| *peer) {
            self.facts.handle_disconnected(peer);
            self.wait_to_call(peer, random);
        }
    }

    /// Tells the senders of logs that have moved.
    fn offer_advanced(&mut self) {
        let everywhere = self.is(PlantedBug::ResidencyIgnored);
        for (peer, outbound) in &mut self.outbound {
            let OutboundState::Open(open) = &mut outbound.state else { continue };
            for (log, held) in &self.durable {
                let m_id = held.mark.m_id;
                let may_have = everywhere || self.topology.is_member(*peer, log.namespace);
                if may_have && open.offered.get(log) != Some(&m_id) {
                    open.offered.insert(*log, m_id);
                    let offer = LogOffer {
                        log: *log,
                        parents: held.row.parents.clone(),
                        tip: held.mark,
                        floor: MessageNumber::ZERO,
                    };
                    open.sender.handle_log_advanced(self.now, offer);
                }
            }
        }
    }

    /// Tells the receivers what has become durable.
    fn acknowledge(&mut self) {
        for inbound in self.inbound.values_mut() {
            let Some(peer) = inbound.peer else { continue };
            let mut marks = Vec::new();
            for (log, held) in &self.durable {
                let m_id = held.mark.m_id;
                if self.topology.is_member(peer, log.namespace)
                    && inbound.acknowledged.get(log) != Some(&m_id)
                {
                    inbound.acknowledged.insert(*log, m_id);
                    marks.push((*log, held.mark));
                }
            }
            inbound.receiver.handle_durable(self.now, &marks);
        }
    }

    fn fact_for(&self, peer: NodeNumber, mut fact: Fact) -> Option<Fact> {
        if fact.opening.node == peer {
            return None;
        }
        fact.marks.retain(|(log, _)| self.topology.is_member(peer, log.namespace));
        (!fact.marks.is_empty()).then_some(fact)
    }

    fn record_fact(&mut self, fact: &Fact, first_hand: bool) {
        if fact.opening.node == self.me.opening.node {
            return;
        }
        let recorded = if self.is(PlantedBug::FactsNeverRetired) {
            let opening = MemberOpening { opened_from: None, ..fact.opening };
            self.facts.record(&Fact { opening, marks: fact.marks.clone() }, false)
        } else {
            self.facts.record(fact, first_hand)
        };
        if let Recorded::News(marks) = recorded {
            let news = Fact { opening: fact.opening, marks };
            let awaited = !self.waiters.is_empty();
            let peers: Vec<NodeNumber> = self.outbound.keys().copied().collect();
            for peer in peers {
                let news = self.fact_for(peer, news.clone());
                if let (Some(news), Some(open)) = (news, open_of(&mut self.outbound, peer)) {
                    open.sender.handle_fact(self.now, news, awaited);
                }
            }
            self.check_waiters();
        }
    }

    // Time.

    fn handle_timers(&mut self) -> Result<(), StorageError> {
        let now = self.now;
        let is_due = |due: Option<Moment>| due.is_some_and(|due| due <= now);
        let ignored = self.is(PlantedBug::TimersIgnored);
        for (peer, outbound) in &mut self.outbound {
            match &mut outbound.state {
                OutboundState::Waiting { until } if *until <= now => {
                    outbound.state = OutboundState::Connecting;
                    self.outputs.push(Output::Connect(*peer));
                }
                OutboundState::Open(open) if !ignored && is_due(open.sender.poll_timeout()) => {
                    open.sender.handle_timeout(now);
                }
                _ => {}
            }
        }
        for inbound in self.inbound.values_mut() {
            if is_due(inbound.receiver.poll_timeout()) {
                inbound.receiver.handle_timeout(now);
            }
        }
        self.sources.handle_timeout(now);
        self.check_waiters();
        self.record_again();
        if self.checkpoint_at <= now {
            self.checkpoint_at = now + CHECKPOINT_INTERVAL;
            let marks: Vec<_> = self.durable.iter().map(|(log, held)| (*log, held.mark)).collect();
            self.storage.store_checkpoint(&marks, &self.facts.to_checkpoint())?;
        }
        if self.store_at <= now {
            self.store_at = now + STORE_INTERVAL;
            self.store_projections()?;
        }
        Ok(())
    }

    fn record_again(&mut self) {
        let mut to_record = Vec::new();
        for (namespace, readiness) in &mut self.readiness {
            if let Readiness::Recording { again_at } = readiness
                && *again_at <= self.now
            {
                *again_at = self.now + RECORDING_INTERVAL;
                to_record.push(*namespace);
            }
        }
        if !to_record.is_empty() {
            self.outputs.push(Output::RecordOpened(to_record));
        }
    }

    // Actions of the core.

    /// Carries out all that the state machines ask for.
    fn drain(&mut self, random: &mut Random) -> Result<(), StorageError> {
        loop {
            let mut is_quiet = true;
            let peers: Vec<NodeNumber> = self.outbound.keys().copied().collect();
            for peer in peers {
                while let Some(action) =
                    open_of(&mut self.outbound, peer).and_then(|open| open.sender.poll_action())
                {
                    is_quiet = false;
                    self.act_as_sender(peer, action, random)?;
                }
            }
            let streams: Vec<StreamNumber> = self.inbound.keys().copied().collect();
            for stream in streams {
                while let Some(action) =
                    self.inbound.get_mut(&stream).and_then(|it| it.receiver.poll_action())
                {
                    is_quiet = false;
                    self.act_as_receiver(stream, action, random)?;
                }
            }
            while let Some(change) = self.sources.poll_change() {
                is_quiet = false;
                let stream = self.current_inbound.get(&change.peer());
                let Some(inbound) = stream.and_then(|stream| self.inbound.get_mut(stream)) else {
                    continue;
                };
                match change {
                    WantChange::Want { log, from, .. } => {
                        inbound.receiver.handle_want(self.now, log, from);
                    }
                    WantChange::Unwant { log, .. } => {
                        inbound.receiver.handle_unwant(self.now, &log)
                    }
                }
            }
            if is_quiet {
                return Ok(());
            }
        }
    }

    fn act_as_sender(
        &mut self,
        peer: NodeNumber,
        action: SenderAction,
        random: &mut Random,
    ) -> Result<(), StorageError> {
        match action {
            SenderAction::Transmit(frame) => self.transmit_to(peer, frame),
            SenderAction::TransmitHeartbeat => {
                let wall_clock = self.wall;
                self.transmit_to(peer, SenderFrame::Heartbeat(Heartbeat { wall_clock }));
            }
            SenderAction::ReadAndSend {
                log,
                from,
                previous_hash,
                through,
                max_bytes,
                max_messages,
                ..
            } => {
                let wish = Wish { log, from, previous_hash, through, max_bytes, max_messages };
                self.read_and_send(peer, &wish)?;
            }
            SenderAction::PeerWelcomed(welcome) => {
                if let Some(outbound) = self.outbound.get_mut(&peer) {
                    outbound.attempts = 0;
                }
                self.record_fact(&welcome.fact(), true);
                self.command(Command::Examine(peer, welcome.marks));
            }
            SenderAction::PeerClock(_) | SenderAction::Refused(_) => {}
            SenderAction::Acknowledged(fact) => {
                self.record_fact(&fact, false);
                if self.is(PlantedBug::FramesRepeated) {
                    self.repeat_frames(peer, &fact)?;
                }
            }
            SenderAction::TopologyReceived(topology) => self.adopt(topology)?,
            SenderAction::LogStopped { log, expected, reason, detail } => {
                self.incident(format!(
                    "node {peer} stops {log} at {expected}, {reason:?}: {detail}"
                ));
            }
            SenderAction::Disconnect { reason } => {
                if !matches!(reason, SenderDisconnect::NoWelcome | SenderDisconnect::Silent) {
                    self.incident(format!("the stream to node {peer} ends: {reason}"));
                }
                if let Some(stream) = open_of(&mut self.outbound, peer).map(|open| open.stream) {
                    self.end_stream(stream, true, random);
                }
            }
        }
        Ok(())
    }

    fn transmit_to(&mut self, peer: NodeNumber, frame: SenderFrame) {
        if let Some(open) = open_of(&mut self.outbound, peer) {
            self.outputs.push(Output::Transmit(open.stream, Cargo::Sender(frame)));
        }
    }

    fn read_and_send(&mut self, peer: NodeNumber, wish: &Wish) -> Result<(), StorageError> {
        let frame = self.read_frame(wish)?;
        let Some(open) = open_of(&mut self.outbound, peer) else { return Ok(()) };
        let Some((frame, through)) = frame else {
            open.sender.handle_nothing_sent(self.now, &wish.log);
            return Ok(());
        };
        let (first, window_bytes) = (frame.first_m_id, frame.window_bytes());
        self.outputs.push(Output::Transmit(open.stream, Cargo::Sender(SenderFrame::Frame(frame))));
        open.sender.handle_frame_sent(self.now, &wish.log, first, through, window_bytes);
        Ok(())
    }

    fn read_frame(&self, wish: &Wish) -> Result<Option<(Frame, Mark)>, StorageError> {
        let Wish { log, from, through, .. } = *wish;
        let max_bytes = usize::try_from(wish.max_bytes).unwrap_or(usize::MAX).min(MAX_FRAME_BYTES);
        let read = self.storage.read(&log, from, through, max_bytes)?;
        if read.first().is_none_or(|first| first.m_id != from) {
            return Ok(None);
        }
        let is_first = |held: &&DurableLog| held.row.first_m_id() == from;
        let previous = match (wish.previous_hash, self.durable.get(&log).filter(is_first)) {
            (Some(hash), _) => Some(hash),
            (None, Some(held)) => Some(held.row.start_hash()),
            (None, None) => self.storage.chain_hash_at(&log, from.previous())?,
        };
        let Some(previous_hash) = previous else { return Ok(None) };
        let mut last = Mark { m_id: from.previous(), hash: previous_hash };
        let mut sends = Vec::new();
        for message in read.into_iter().take(wish.max_messages.min(self.config.frame_messages)) {
            last = Mark { m_id: message.m_id, hash: last.hash.then(&message.bytes) };
            sends.push(message.bytes);
        }
        let stamp = sends.first().and_then(|send| MessageHead::decode(send).ok());
        let age_milliseconds = match stamp {
            Some(head) if log.origin == self.me.opening.node => {
                self.wall.milliseconds_since(head.stamp.wall())
            }
            _ => 0,
        };
        let frame = Frame { log, first_m_id: from, previous_hash, age_milliseconds, sends };
        Ok(Some((frame, last)))
    }

    /// The planted storm: what was acknowledged goes out once more.
    fn repeat_frames(&mut self, peer: NodeNumber, fact: &Fact) -> Result<(), StorageError> {
        for (log, mark) in &fact.marks {
            let wish = Wish {
                log: *log,
                from: mark.m_id,
                previous_hash: None,
                through: mark.m_id,
                max_bytes: MAX_FRAME_BYTES as u64,
                max_messages: 1,
            };
            if let Some((frame, _)) =
                self.read_frame(&wish).ok().flatten().filter(|_| self.durable.contains_key(log))
            {
                self.transmit_to(peer, SenderFrame::Frame(frame));
            }
        }
        Ok(())
    }

    fn act_as_receiver(
        &mut self,
        stream: StreamNumber,
        action: ReceiverAction,
        random: &mut Random,
    ) -> Result<(), StorageError> {
        let peer = self.inbound.get(&stream).and_then(|inbound| inbound.peer);
        match action {
            ReceiverAction::Transmit(frame) => {
                self.outputs.push(Output::Transmit(stream, Cargo::Receiver(frame)));
            }
            ReceiverAction::TransmitHeartbeat => {
                let frame = ReceiverFrame::Heartbeat(Heartbeat { wall_clock: self.wall });
                self.outputs.push(Output::Transmit(stream, Cargo::Receiver(frame)));
            }
            ReceiverAction::PeerIntroduced(hello) => self.introduce(stream, &hello, random),
            ReceiverAction::PeerClock(_) => self.hear_heartbeat(stream),
            ReceiverAction::Offered { peer, offers } => self.take_offers(stream, peer, offers),
            ReceiverAction::Submit(frame) => self.command(Command::Receive(stream, frame)),
            ReceiverAction::SubmitHole(_) | ReceiverAction::BaseReceived(_) => {
                self.incident("a hole, though nothing is ever trimmed".to_owned());
            }
            ReceiverAction::RelayedFact(fact) => self.record_fact(&fact, false),
            ReceiverAction::Refused(refused) => {
                if let Some(peer) = peer {
                    self.sources.server_failed(self.now, peer, &refused.log);
                }
            }
            ReceiverAction::TopologyReceived(topology) => self.adopt(topology)?,
            ReceiverAction::Disconnect { reason } => {
                if !matches!(reason, ReceiverDisconnect::NoHello | ReceiverDisconnect::Silent) {
                    self.incident(format!("the stream of node {peer:?} ends: {reason}"));
                }
                self.end_stream(stream, true, random);
            }
        }
        Ok(())
    }

    /// Answers a peer's greeting with what this node holds.
    fn introduce(&mut self, stream: StreamNumber, hello: &Hello, random: &mut Random) {
        let peer = hello.member.opening.node;
        if let Some(older) = self.current_inbound.insert(peer, stream) {
            // Its place is taken: its end tells nobody anything.
            self.inbound.remove(&older);
            self.outputs.push(Output::Close(older));
        }
        let _ = random;
        let marks: Vec<(LogName, Mark)> = self
            .durable
            .iter()
            .filter(|(log, _)| self.topology.is_member(peer, log.namespace))
            .map(|(log, held)| (*log, held.mark))
            .collect();
        let welcome = Welcome {
            protocol_version: PROTOCOL_VERSION,
            member: self.me.clone(),
            topology_version: self.topology.version,
            marks: marks.clone(),
            window_bytes: WINDOW_BYTES,
            feature_level: FEATURE_LEVEL,
            wall_clock: self.wall,
        };
        let inbound = self.inbound.get_mut(&stream).expect("it has just acted");
        inbound.peer = Some(peer);
        inbound.ready = hello.namespaces.iter().map(|digest| digest.namespace).collect();
        inbound.acknowledged = marks.into_iter().map(|(log, mark)| (log, mark.m_id)).collect();
        inbound.receiver.accept(self.now, welcome);
        self.sources.peer_connected(self.now, peer, hello.member.region.clone());
    }

    fn take_offers(&mut self, stream: StreamNumber, peer: NodeNumber, offers: Vec<LogOffer>) {
        let me = self.me.opening.node;
        let offers: Vec<LogOffer> = offers
            .into_iter()
            .filter(|offer| {
                let namespace = offer.log.namespace;
                self.is_member(me, namespace) && self.is_member(peer, namespace)
            })
            .collect();
        if self.current_inbound.get(&peer) != Some(&stream) {
            return;
        }
        for offer in &offers {
            self.sources.peer_offered(self.now, peer, offer);
        }
        let inbound = self.inbound.get_mut(&stream).expect("it has just acted");
        let new: Vec<(LogName, Mark)> = offers
            .iter()
            .filter(|offer| inbound.examined.insert(offer.log))
            .map(|offer| (offer.log, offer.tip))
            .collect();
        let ready = (!inbound.said_all && !inbound.ready.is_empty()).then(|| inbound.ready.clone());
        if !new.is_empty() {
            self.command(Command::Examine(peer, new));
        }
        if let Some(ready) = ready {
            self.command(Command::Backfill(ready, BackfillNews::Offered(peer, offers)));
        }
    }

    /// A heartbeat says that nothing else is there than what was offered.
    fn hear_heartbeat(&mut self, stream: StreamNumber) {
        let Some(inbound) = self.inbound.get_mut(&stream) else { return };
        let Some(peer) = inbound.peer else { return };
        if !std::mem::replace(&mut inbound.said_all, true) && !inbound.ready.is_empty() {
            let ready = inbound.ready.clone();
            self.command(Command::Backfill(ready, BackfillNews::OfferedAll(peer)));
        }
    }

    fn incident(&mut self, what: String) {
        self.outputs.push(Output::Incident(what));
    }

    fn is(&self, bug: PlantedBug) -> bool {
        self.config.planted == Some(bug)
    }
}

/// What a frame should hold.
struct Wish {
    log: LogName,
    from: MessageNumber,
    previous_hash: Option<ChainHash>,
    through: MessageNumber,
    max_bytes: u64,
    max_messages: usize,
}

fn open_of(
    outbound: &mut BTreeMap<NodeNumber, Outbound>,
    peer: NodeNumber,
) -> Option<&mut OpenOutbound> {
    match outbound.get_mut(&peer).map(|outbound| &mut outbound.state) {
        Some(OutboundState::Open(open)) => Some(open),
        _ => None,
    }
}

fn version_bytes(topology: &Topology) -> Vec<u8> {
    let version = topology.version;
    [version.generation.to_be_bytes(), version.number.to_be_bytes()].concat()
}

/// The topology, or what a planted bug makes of it: everything everywhere.
fn widened(topology: &Arc<Topology>, planted: Option<PlantedBug>) -> Arc<Topology> {
    if planted != Some(PlantedBug::ResidencyIgnored) {
        return Arc::clone(topology);
    }
    let mut widened = Topology::clone(topology);
    for group in &mut widened.groups {
        group.regions.clone_from(&widened.regions);
    }
    Arc::new(widened)
}

/// What planted bugs make of the opening walk's result.
fn misread(recovery: &mut Recovery, planted: Option<PlantedBug>, remembered: &[(LogName, Mark)]) {
    match planted {
        Some(PlantedBug::MarkFromLastKey) => {
            for log in &mut recovery.logs {
                let cut = recovery.cut.iter().find(|cut| cut.log == log.row.log);
                if let Some(cut) = cut {
                    log.mark.m_id = log.mark.m_id.max(cut.found);
                }
            }
        }
        Some(PlantedBug::WalkResultIgnored) => {
            for log in &mut recovery.logs {
                let known = remembered.iter().find(|(name, _)| *name == log.row.log);
                if let Some((_, mark)) = known {
                    log.mark = *mark;
                }
            }
        }
        _ => {}
    }
}

/// The chain hashes that the storage keeps.
struct StoredHistory<'a>(&'a MemoryStorage);

impl ChainHistory for StoredHistory<'_> {
    fn chain_hash_at(&self, log: &LogName, m_id: MessageNumber) -> Option<ChainHash> {
        self.0.chain_hash_at(log, m_id).ok().flatten()
    }
}
