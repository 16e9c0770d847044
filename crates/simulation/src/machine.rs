//! A machine: a disk, old copies of it, a clock, and a process that comes and
//! goes.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::sync::Arc;

use interlock_core::clock::{Moment, WallTime};
use interlock_core::identity::{
    FencingToken, Incarnation, LogName, Mark, MemberOpening, NamespaceNumber, NodeNumber,
    TopologyVersion,
};
use interlock_core::topology::{Node, NodeState, Topology};
use interlock_storage::departing::{remove_what_was_left, take_drained_back};
use interlock_storage::{
    LogStorage, Loss, MemoryDisk, MemoryStorage, OpenError, OpenOptions, Recovery,
};

use crate::network::{Endpoint, ProcessNumber};
use crate::node::{Process, ProcessConfig, Start, TOPOLOGY_DOCUMENT, readiness_document};
use crate::opening::OpeningError;
use crate::planted_bug::PlantedBug;
use crate::random::Random;

/// Names a machine, and so a disk and whatever runs over it: a node has one,
/// until somebody starts a second process of its name elsewhere.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct MachineName {
    /// The node.
    pub node: NodeNumber,
    /// Which of all that the node has had; 0 is the first.
    pub number: u32,
}

impl MachineName {
    /// A node's first machine.
    pub const fn first_of(node: NodeNumber) -> Self {
        Self { node, number: 0 }
    }
}

impl fmt::Display for MachineName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.node)?;
        if self.number == 0 { Ok(()) } else { write!(f, "/{}", self.number) }
    }
}

/// The wall clock at the beginning of the world: 2026-01-01.
const EPOCH_MILLISECONDS: u64 = 1_767_225_600_000;

/// An old copy of a disk.
#[derive(Debug)]
pub struct SavedCopy {
    /// The copy.
    pub disk: MemoryDisk,
    /// What it holds, durably once it is opened.
    pub logs: BTreeMap<LogName, Mark>,
    /// The namespaces that it says to have been ready in.
    pub recorded: BTreeSet<NamespaceNumber>,
}

/// A machine's disk and its process's memory as of one moment. All that a process
/// decides by is on its disk, but for which opening it is; its connections do not
/// survive.
#[derive(Debug)]
pub struct MachineSnapshot {
    /// The disk.
    pub copy: SavedCopy,
    /// Which process.
    pub process: ProcessNumber,
    /// Its opening.
    pub opening: MemberOpening,
    /// Its token.
    pub token: FencingToken,
}

/// A machine that a node runs on.
#[derive(Debug)]
pub struct Machine {
    /// Its name.
    pub name: MachineName,
    /// The node as the topology names it.
    pub node: Node,
    /// Its disk.
    pub disk: MemoryDisk,
    /// Old copies of the disk.
    pub copies: Vec<SavedCopy>,
    /// The process, while there is one.
    pub process: Option<Process>,
    /// The number of the process, or of the last one.
    pub process_number: ProcessNumber,
    /// When that was started.
    pub started_at: Moment,
    /// How far the wall clock is off.
    pub clock_offset_milliseconds: i64,
    /// How many times longer than usual a sync takes.
    pub sync_factor: u32,
    /// Whether it hears from the control-plane.
    pub hears_control_plane: bool,
    /// Whether its process has heard of another one with a higher token.
    pub is_superseded: bool,
    /// Whether a write or a sync was made to fail.
    pub disk_may_fail: bool,
    /// The process is to die as soon as so many writes are not synced.
    pub ambush: Option<usize>,
    /// And all others with it.
    pub cuts_power: bool,
    /// When the process wants to be called, as scheduled.
    pub timer_at: Option<Moment>,
    /// The namespaces that its disk says to have been ready in.
    pub recorded: BTreeSet<NamespaceNumber>,
    /// A snapshot of the machine: its disk and its process's memory.
    pub snapshot: Option<MachineSnapshot>,
    /// The process was resumed from a snapshot.
    pub is_resumed: bool,
    /// What the last process had appended.
    pub remembered: Vec<(LogName, Mark)>,
    /// Namespaces that its openings have removed and the history does not know of.
    pub purged: Vec<NamespaceNumber>,
    /// What its disk holds for certain: as opened, and synced since.
    pub durable: BTreeMap<LogName, Mark>,
}

/// Why a process did not start.
#[derive(Debug)]
pub enum StartError {
    /// It died again while it opened its disk.
    Died,
    /// The node was removed from the mesh.
    Removed,
    /// The storage refused the disk.
    Storage(OpenError),
    /// The disk contradicts itself.
    Opening(OpeningError),
}

/// What starting a process needs of the world.
pub struct Starter<'a> {
    /// Chance.
    pub random: &'a mut Random,
    /// Now.
    pub now: Moment,
    /// The number of the new process.
    pub process: ProcessNumber,
    /// What the control-plane gave it when it registered; 0 if it did not.
    pub token: FencingToken,
    /// All topologies that ever were.
    pub topologies: &'a BTreeMap<TopologyVersion, Arc<Topology>>,
    /// How the process is to be.
    pub config: ProcessConfig,
    /// In so many of a hundred cases the process dies while it opens its disk.
    pub dies_percent: u64,
    /// The opening of the process whose memory is resumed, if it is.
    pub resumed: Option<MemberOpening>,
}

impl Machine {
    /// A machine with an empty disk.
    pub fn new(number: u32, node: Node) -> Self {
        Self {
            name: MachineName { node: node.number, number },
            node,
            disk: MemoryDisk::new(),
            copies: Vec::new(),
            process: None,
            process_number: ProcessNumber::new(0),
            started_at: Moment::START,
            clock_offset_milliseconds: 0,
            sync_factor: 1,
            hears_control_plane: true,
            is_superseded: false,
            disk_may_fail: false,
            ambush: None,
            cuts_power: false,
            timer_at: None,
            recorded: BTreeSet::new(),
            snapshot: None,
            is_resumed: false,
            remembered: Vec::new(),
            purged: Vec::new(),
            durable: BTreeMap::new(),
        }
    }

    /// What the machine's wall clock shows.
    pub fn wall(&self, now: Moment) -> WallTime {
        let right = EPOCH_MILLISECONDS + now.since_start().as_millis() as u64;
        WallTime::new(right.saturating_add_signed(self.clock_offset_milliseconds))
    }

    /// Sets the wall clock to the beginning of 1970.
    pub fn set_clock_to_1970(&mut self, now: Moment) {
        let right = EPOCH_MILLISECONDS + now.since_start().as_millis() as u64;
        self.clock_offset_milliseconds = -(right as i64);
    }

    /// A moment as the process counts it.
    pub fn local(&self, now: Moment) -> Moment {
        Moment::new(now.since(self.started_at))
    }

    /// The end of a stream at the present process.
    pub const fn endpoint(&self) -> Endpoint {
        Endpoint { machine: self.name, process: self.process_number }
    }

    /// Brings up to date what the disk says about readiness.
    pub fn note_readiness(&mut self) {
        if let Some(process) = &self.process {
            let namespaces = process.topology().namespaces_of(self.node.number);
            let ready = namespaces.into_iter().filter(|namespace| process.is_ready(*namespace));
            self.recorded.extend(ready);
        }
    }

    /// Starts a process over the disk.
    pub fn start(&mut self, starter: Starter<'_>) -> Result<Recovery, StartError> {
        let Starter { random, now, process, token, topologies, config, dies_percent, resumed } =
            starter;
        let flaw = config.planted.and_then(PlantedBug::opening_flaw);
        let (storage, mut recovery) =
            MemoryStorage::open_flawed(&self.disk, OpenOptions::default(), flaw)
                .map_err(StartError::Storage)?;
        // What the walk left is durable, whatever becomes of this process.
        self.durable = recovery.logs.iter().map(|log| (log.row.log, log.mark)).collect();
        let topology = self
            .known_topology(&storage, topologies)
            .map_err(|error| StartError::Opening(error.into()))?;
        self.remove_what_was_left(&storage, &topology, &mut recovery, config.planted)
            .map_err(|error| StartError::Opening(error.into()))?;
        if random.chance(dies_percent) {
            drop(storage);
            self.crash(random);
            return Err(StartError::Died);
        }
        if topology.node(self.node.number).is_some_and(|it| it.state == NodeState::Removed) {
            return Err(StartError::Removed);
        }
        let incarnation = Incarnation::new(random.nonzero_bits()).expect("not zero");
        let remembered = std::mem::take(&mut self.remembered);
        let start = Start {
            machine: self.name,
            node: self.node.clone(),
            topology,
            incarnation,
            token,
            remembered,
            resumed,
        };
        self.is_resumed = resumed.is_some();
        self.process_number = process;
        self.is_superseded = false;
        self.started_at = now;
        self.timer_at = None;
        let opened = Process::open(storage, &recovery, start, config, self.wall(now));
        self.process = Some(opened.map_err(StartError::Opening)?);
        Ok(recovery)
    }

    /// The opening begins with what the node has left. Old copies of the disk go with
    /// it: where one is put back, nobody can say whether the members have what it has.
    fn remove_what_was_left(
        &mut self,
        storage: &MemoryStorage,
        topology: &Topology,
        recovery: &mut Recovery,
        planted: Option<PlantedBug>,
    ) -> Result<(), interlock_storage::StorageError> {
        let me = self.node.number;
        let remove = |storage: &MemoryStorage, recovery: &mut Recovery| {
            remove_what_was_left(storage, topology, me, recovery, &readiness_document)
        };
        let removed = if planted == Some(PlantedBug::LeftOnDisk) {
            let opened = MemoryStorage::open(&self.disk.copy());
            let removed = remove(&opened.expect("it has just been opened").0, recovery)?;
            removed.iter().try_for_each(|namespace| take_drained_back(storage, *namespace))?;
            removed
        } else {
            remove(storage, recovery)?
        };
        for namespace in &removed {
            self.recorded.remove(namespace);
            self.durable.retain(|log, _| log.namespace != *namespace);
            self.copies.clear();
            self.snapshot = None;
        }
        self.purged.extend(removed);
        Ok(())
    }

    /// The newest topology that the machine can get at: the control-plane's, or
    /// the one on its disk.
    fn known_topology(
        &self,
        storage: &MemoryStorage,
        topologies: &BTreeMap<TopologyVersion, Arc<Topology>>,
    ) -> Result<Arc<Topology>, interlock_storage::StorageError> {
        let newest = topologies.values().next_back().expect("there is a first topology");
        let stored = storage.load_document(TOPOLOGY_DOCUMENT)?;
        let known = stored.filter(|_| !self.hears_control_plane).and_then(|bytes| {
            let (generation, number) = bytes.split_at_checked(8)?;
            let version = TopologyVersion {
                generation: u64::from_be_bytes(generation.try_into().ok()?),
                number: u64::from_be_bytes(number.try_into().ok()?),
            };
            topologies.get(&version)
        });
        Ok(Arc::clone(known.unwrap_or(newest)))
    }

    /// The process dies, and the disk loses what the fault takes. Returns whether
    /// the operating system was there to close its connections.
    pub fn crash(&mut self, random: &mut Random) -> bool {
        let loss = match random.below(8) {
            0..2 => Loss::Nothing,
            2 => Loss::Unsynced,
            3 => Loss::Suffix,
            4 => Loss::SuffixPerLog,
            _ => Loss::MiddleRun,
        };
        self.crash_losing(loss, random);
        loss == Loss::Nothing
    }

    /// The same with a certain loss.
    pub fn crash_losing(&mut self, loss: Loss, random: &mut Random) {
        self.note_readiness();
        self.ambush = None;
        self.sync_factor = 1;
        if let Some(process) = self.process.take() {
            self.remembered = process.appended_marks();
        }
        self.timer_at = None;
        self.disk.crash(loss, &mut |most| random.between(0, most as u64) as usize);
    }

    /// Takes a snapshot of the machine, if there is a process.
    pub fn take_snapshot(&mut self) -> bool {
        self.note_readiness();
        let Some(process) = &self.process else { return false };
        let copy = SavedCopy {
            disk: self.disk.copy(),
            logs: process.appended_marks().into_iter().collect(),
            recorded: self.recorded.clone(),
        };
        let (opening, token) = (process.admission().opening(), process.token());
        self.snapshot =
            Some(MachineSnapshot { copy, process: self.process_number, opening, token });
        true
    }

    /// Copies the disk as it is, with what is in the page cache.
    pub fn save_copy(&mut self) {
        const KEPT: usize = 3;
        self.note_readiness();
        let Some(process) = &self.process else { return };
        let logs = process.appended_marks().into_iter().collect();
        let recorded = self.recorded.clone();
        self.copies.push(SavedCopy { disk: self.disk.copy(), logs, recorded });
        if self.copies.len() > KEPT {
            self.copies.remove(0);
        }
    }
}
