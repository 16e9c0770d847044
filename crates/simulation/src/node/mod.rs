//! The driver of a node's core: what the push-node's log writer, log syncer,
//! projector, replication hub and links do, on one thread and in virtual time.
//!
//! The order of things is the push-node's. The writer decides and appends; what
//! came of it waits with its answers for the sync that covers it; then the
//! durable marks move, links are told, and only then answers leave. Everything a
//! process says to the world around it is an [`Output`].

mod bases;
mod facts;
mod fencing;
mod journal;
mod leaving;
mod links;
mod messages;
mod planted;
mod projecting;
mod readiness;
mod receiving;
mod serving;
mod syncing;
mod timing;
mod topology;
mod trimming;
mod waiting;
mod writing;

pub use self::journal::{JournalEntry, JournalPosition, JournalRead, JournalSnapshot};
pub use self::messages::{Input, Output};
pub use self::readiness::readiness_document;
pub use self::topology::TOPOLOGY_DOCUMENT;

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;

use interlock_core::admission::Admission;
use interlock_core::clock::{Moment, WallTime};
use interlock_core::identity::{
    FencingToken, Incarnation, LogName, Mark, MemberOpening, NamespaceNumber, NodeNumber,
};
use interlock_core::projection::{ChannelIndex, DirectoryProjection, PublishersProjection};
use interlock_core::replication::acknowledgements::{Acknowledgements, MemberRecord, QueuedLog};
use interlock_core::replication::frames::Member;
use interlock_core::replication::log_sources::{LogSources, WantChange};
use interlock_core::topology::{Node, Topology};
use interlock_storage::{LogStorage, MemoryStorage, Recovery, StorageError, Ticket};

use crate::machine::MachineName;
use crate::network::StreamNumber;
use crate::opening;
use crate::opening::OpeningError;
use crate::planted_bug::PlantedBug;
use crate::random::Random;

use self::journal::Journal;
use self::links::{Inbound, Outbound, OutboundState, open_of};
use self::planted::{misread, widened};
use self::readiness::Readiness;
use self::syncing::{AppendedBatch, DurableLog, Sync};
use self::timing::{CHECKPOINT_INTERVAL, STORE_INTERVAL, TRIM_INTERVAL};
use self::topology::version_bytes;
use self::trimming::ProjectorWork;
use self::waiting::Waiter;
use self::writing::Command;

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

/// One run of a node's process.
pub struct Process {
    config: ProcessConfig,
    machine: MachineName,
    me: Member,
    /// Another process has its name: it accepts nothing more.
    is_fenced: bool,
    storage: MemoryStorage,
    admission: Admission,
    topology: Arc<Topology>,
    directories: DirectoryProjection,
    publishers: PublishersProjection,
    channel_index: ChannelIndex,
    /// What the projector has to do beside applying messages.
    projector: VecDeque<ProjectorWork>,
    projector_at: Option<Moment>,
    base_page_at: Option<Moment>,
    trim_at: Moment,
    looks_for_trims: u64,
    readiness: BTreeMap<NamespaceNumber, Readiness>,
    /// Namespaces that it leaves, noted on the disk as held by all members.
    drained: BTreeSet<NamespaceNumber>,
    departures_at: Option<Moment>,
    /// When the streams hear of the topology that the writer goes by.
    tell_links_at: Option<Moment>,
    commands: VecDeque<Command>,
    writer_is_awake: bool,
    durable_news: Vec<(LogName, Mark)>,
    appended: Vec<AppendedBatch>,
    ticket: Ticket,
    synced: Ticket,
    sync: Option<Sync>,
    durable: BTreeMap<LogName, DurableLog>,
    journal: Journal,
    sources: LogSources,
    facts: Acknowledgements,
    waiters: Vec<Waiter>,
    outbound: BTreeMap<NodeNumber, Outbound>,
    /// Who has welcomed us last.
    welcomes: BTreeMap<NodeNumber, MemberOpening>,
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
    /// The machine that it runs on.
    pub machine: MachineName,
    /// The node as the topology names it.
    pub node: Node,
    /// The newest topology that it can get at.
    pub topology: Arc<Topology>,
    /// This opening.
    pub incarnation: Incarnation,
    /// What it registered with; 0 if it could not.
    pub token: FencingToken,
    /// What the process before had appended, for a planted bug.
    pub remembered: Vec<(LogName, Mark)>,
    /// The opening of the process whose memory is resumed, if it is.
    pub resumed: Option<MemberOpening>,
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
        let Start { machine, node, topology, incarnation, token, remembered, resumed } = start;
        let reused = config.planted == Some(PlantedBug::IncarnationReused);
        let incarnation = recovery.opened_from.filter(|_| reused).unwrap_or(incarnation);
        let opening =
            MemberOpening { node: node.number, incarnation, opened_from: recovery.opened_from };
        // What is resumed goes on as what it was.
        let opening = resumed.unwrap_or(opening);
        let incarnation = opening.incarnation;
        let mut recovery = recovery.clone();
        misread(&mut recovery, config.planted, &remembered);
        let opened = opening::take_up(&storage, &recovery, node.number, config.planted)?;
        storage.record_opening(opening)?;
        storage.store_document(TOPOLOGY_DOCUMENT, &version_bytes(&topology))?;

        let mut directories = opened.directories;
        directories.set_opening(incarnation);
        let mut sources = LogSources::new(opening, node.region.clone());
        let mut durable = BTreeMap::new();
        let mut journal = Journal::default();
        for log in &recovery.logs {
            sources.mark_appended(Moment::START, &log.row.log, log.mark.m_id);
            journal.enter(&log.row);
            let (row, mark, floor) = (log.row.clone(), log.mark, log.last_missing);
            durable.insert(log.row.log, DurableLog { row, mark, floor });
        }
        let others: Vec<MemberRecord> =
            recovery.members.iter().filter(|member| member.node != node.number).cloned().collect();
        let seen = widened(&topology, config.planted);
        let mut process = Self {
            config,
            machine,
            me: Member { opening, name: node.name, region: node.region, fencing_token: token },
            is_fenced: false,
            storage,
            admission: Admission::new(opening, opened.recovered, seen),
            topology,
            directories,
            publishers: opened.publishers,
            channel_index: opened.channel_index,
            projector: VecDeque::new(),
            projector_at: None,
            base_page_at: None,
            trim_at: Moment::START + TRIM_INTERVAL,
            looks_for_trims: 0,
            readiness: BTreeMap::new(),
            drained: BTreeSet::new(),
            departures_at: None,
            tell_links_at: None,
            commands: VecDeque::new(),
            writer_is_awake: false,
            durable_news: Vec::new(),
            appended: Vec::new(),
            ticket: Ticket::ZERO,
            synced: Ticket::ZERO,
            sync: None,
            durable,
            journal,
            sources,
            facts: Acknowledgements::from_checkpoint(&others),
            waiters: Vec::new(),
            outbound: BTreeMap::new(),
            welcomes: BTreeMap::new(),
            inbound: BTreeMap::new(),
            current_inbound: BTreeMap::new(),
            checkpoint_at: Moment::START + CHECKPOINT_INTERVAL,
            store_at: Moment::START + STORE_INTERVAL,
            now: Moment::START,
            wall,
            outputs: Vec::new(),
        };
        process.tell_adopted();
        process.consider_readiness()?;
        process.call_peers();
        process.remember_what_was_drained()?;
        process.look_at_departures()?;
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
            Input::ConnectFailed(peer) => self.call_failed(peer, random),
            Input::Accepted(stream) => self.stream_accepted(stream),
            Input::Arrived(stream, cargo) => self.arrived(stream, cargo, random),
            Input::Requested(request) => self.requested(request),
            Input::WriterRuns => self.run_writer(random)?,
            Input::SyncEnds => self.end_sync()?,
            Input::Topology(topology) => self.adopt(topology)?,
            Input::Registered(token) => self.me.fencing_token = token,
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
            OutboundState::Open(open) if self.is(PlantedBug::TimersIgnored) => open.greet_again_at,
            OutboundState::Open(open) => {
                open.sender.poll_timeout().into_iter().chain(open.greet_again_at).min()
            }
        });
        let inbound = self.inbound.values().filter_map(|inbound| inbound.receiver.poll_timeout());
        let recording = self.readiness.values().filter_map(|readiness| match readiness {
            Readiness::Recording { again_at } => Some(*again_at),
            Readiness::Ready | Readiness::Backfilling(_) => None,
        });
        let waiters = self.waiters.iter().map(|waiter| waiter.deadline);
        let own = [self.checkpoint_at, self.store_at, self.trim_at]
            .into_iter()
            .chain(self.sources.poll_timeout())
            .chain(self.projector_at)
            .chain(self.base_page_at)
            .chain(self.departures_at)
            .chain(self.tell_links_at);
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
            && self.projector.is_empty()
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

    /// The opening of a peer that has welcomed us last.
    pub fn welcomed_by(&self, peer: NodeNumber) -> Option<MemberOpening> {
        self.welcomes.get(&peer).copied()
    }

    /// Whom a log is taken from.
    pub fn server_of(&self, log: &LogName) -> Option<NodeNumber> {
        self.sources.server_of(log)
    }

    /// Who holds what, as far as it is known here.
    pub const fn facts(&self) -> &Acknowledgements {
        &self.facts
    }

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
                self.schedule_base_pages();
                return Ok(());
            }
        }
    }

    /// Two contents under one name: an alarm; the log stands still.
    fn conflict(&mut self, log: LogName, what: String) {
        self.outputs.push(Output::Conflict(log, what));
    }

    /// Somebody has more of this opening's own log than this process ever wrote:
    /// it was resumed from a snapshot of its memory, and ends.
    fn end_as_resumed(&mut self, log: LogName) {
        if !self.is(PlantedBug::OwnMarksIgnored) {
            self.outputs.push(Output::EndAsResumed(log));
        }
    }

    pub(super) fn incident(&mut self, what: String) {
        self.outputs.push(Output::Incident(what));
    }
}
