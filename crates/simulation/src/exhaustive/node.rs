//! A node of a small world: a disk, and the core over it. What the log writer and
//! the log syncer do, a step each.

use std::collections::BTreeMap;
use std::sync::Arc;

use interlock_core::admission::{Admission, AppendEntry, FrameOutcome, NewPublication, Published};
use interlock_core::clock::{Moment, WallTime};
use interlock_core::identity::{
    Incarnation, LogName, Mark, MemberOpening, MessageName, MessageNumber, NodeNumber,
};
use interlock_core::message::MessageHead;
use interlock_core::projection::{DirectoryProjection, Projection as _};
use interlock_core::replication::acknowledgements::Acknowledgements;
use interlock_core::replication::frames::{Fact, Frame};
use interlock_core::replication::log_table::NoHistory;
use interlock_core::topology::Topology;
use interlock_storage::{AppendBatch, LogStorage, Loss, MemoryDisk, MemoryStorage, OpenOptions};

use crate::checks::missing_parents;
use crate::opening;
use crate::planted_bug::PlantedBug;

/// The wall clock stands still: stamps differ by what was seen before them.
pub(super) const WALL: WallTime = WallTime::new(1_767_225_600_000);

pub(super) struct Node {
    pub(super) number: NodeNumber,
    pub(super) disk: MemoryDisk,
    pub(super) copy: Option<MemoryDisk>,
    pub(super) storage: MemoryStorage,
    pub(super) admission: Admission,
    pub(super) directories: DirectoryProjection,
    pub(super) facts: Acknowledgements,
    /// Under which incarnation each node has introduced itself, and when.
    pub(super) heard: BTreeMap<NodeNumber, (Incarnation, Moment)>,
    /// What was appended since the last sync, a batch each.
    pub(super) unsynced: Vec<Vec<AppendEntry>>,
    /// How far logs are trimmed, or in a hole.
    pub(super) floors: BTreeMap<LogName, MessageNumber>,
    openings: u64,
    pub(super) planted: Option<PlantedBug>,
}

impl Node {
    pub(super) fn new(number: u32, topology: &Arc<Topology>, planted: Option<PlantedBug>) -> Self {
        let (number, disk) = (NodeNumber::new(number), MemoryDisk::new());
        let (storage, admission, directories) =
            open(number, &disk, 1, topology, planted).expect("an empty disk opens");
        let heard = [(number, (admission.opening().incarnation, Moment::START))].into();
        Self {
            number,
            disk,
            copy: None,
            storage,
            admission,
            directories,
            facts: Acknowledgements::new(),
            heard,
            unsynced: Vec::new(),
            floors: BTreeMap::new(),
            openings: 1,
            planted,
        }
    }

    /// Opens the disk again, as it is by now.
    pub(super) fn open_again(
        &mut self,
        topology: &Arc<Topology>,
        now: Moment,
    ) -> Result<(), String> {
        self.openings += 1;
        let opened = open(self.number, &self.disk, self.openings, topology, self.planted)?;
        (self.storage, self.admission, self.directories) = opened;
        self.facts = Acknowledgements::new();
        self.heard = [(self.number, (self.opening().incarnation, now))].into();
        self.unsynced.clear();
        let logs: Vec<LogName> = self.admission.logs().iter().map(|(log, _)| *log).collect();
        self.floors = logs
            .into_iter()
            .filter_map(|log| {
                let first = self.admission.logs().get(&log)?.row.first_m_id();
                let missing = self.storage.missing_from(&log, first).ok()??;
                Some((log, missing.through.m_id))
            })
            .collect();
        Ok(())
    }

    /// The process ends and the disk loses a run of unsynced writes, or none.
    pub(super) fn crash(&mut self, lost: Option<(usize, usize)>) {
        match lost {
            None => self.disk.crash(Loss::Nothing, &mut |_| 0),
            Some((from, count)) => {
                let mut choices = [from, count].into_iter();
                self.disk.crash(Loss::MiddleRun, &mut |_| choices.next().unwrap_or(0));
            }
        }
    }

    pub(super) fn opening(&self) -> MemberOpening {
        self.admission.opening()
    }

    pub(super) fn publish(&mut self, publication: NewPublication) -> Option<AppendEntry> {
        match self.admission.publish(WALL, publication) {
            Ok(Published::Stored { entry, .. }) => {
                self.append(vec![entry.clone()]);
                Some(entry)
            }
            _ => None,
        }
    }

    pub(super) fn append(&mut self, entries: Vec<AppendEntry>) {
        let batch = AppendBatch::new(WALL, entries);
        self.storage.append(&batch).expect("the disk takes all");
        self.unsynced.push(batch.entries);
    }

    pub(super) fn receive(&mut self, frame: &Frame) -> Result<Vec<AppendEntry>, String> {
        match self.admission.receive(WALL, frame, &NoHistory) {
            FrameOutcome::Appended { entries, .. } => {
                self.append(entries.clone());
                Ok(entries)
            }
            FrameOutcome::Nack(nack)
                if matches!(
                    nack.reason,
                    interlock_core::replication::frames::NackReason::ContentDiffers
                        | interlock_core::replication::frames::NackReason::Invalid
                ) =>
            {
                Err(format!("node {} refuses {}: {}", self.number, nack.log, nack.detail))
            }
            FrameOutcome::OwnLogAhead { theirs, ours } => {
                Err(format!("node {} wrote {ours:?} where {theirs:?} is held", self.number))
            }
            _ => Ok(Vec::new()),
        }
    }

    pub(super) fn sync(&mut self) {
        self.storage.sync().expect("the disk takes all");
        let mut marks: BTreeMap<LogName, Mark> = BTreeMap::new();
        for entry in std::mem::take(&mut self.unsynced).into_iter().flatten() {
            marks.insert(entry.log, entry.mark());
            let head = MessageHead::decode(&entry.bytes).expect("admission has read it");
            self.directories.apply(&entry.name(), &head);
        }
        let marks: Vec<(LogName, Mark)> = marks.into_iter().collect();
        self.admission.handle_durable(&marks);
    }

    /// How far each log is held durably.
    pub(super) fn durable(&self) -> impl Iterator<Item = (LogName, Mark)> + '_ {
        let held = self.admission.logs().iter().map(|(log, held)| (*log, held.durable, held));
        held.filter(|(_, mark, held)| mark.m_id >= held.row.first_m_id())
            .map(|(log, mark, _)| (log, mark))
    }

    /// How far one is.
    pub(super) fn durable_through(&self, log: &LogName) -> MessageNumber {
        self.admission.logs().get(log).map_or(MessageNumber::ZERO, |held| held.durable.m_id)
    }

    pub(super) fn holds(&self, name: &MessageName) -> bool {
        let first = self.admission.logs().get(&name.log).map(|held| held.row.first_m_id());
        first.is_some_and(|first| name.m_id >= first)
            && self.durable_through(&name.log) >= name.m_id
    }

    pub(super) fn fact(&self) -> Fact {
        Fact { opening: self.opening(), marks: self.durable().collect() }
    }

    pub(super) fn take_fact(&mut self, fact: &Fact, first_hand: bool, now: Moment) {
        if first_hand {
            self.facts.handle_connecting(fact.opening.node);
            self.heard.insert(fact.opening.node, (fact.opening.incarnation, now));
        }
        let mut fact = fact.clone();
        if self.planted == Some(PlantedBug::OldAcknowledgementBelieved)
            && let Some((incarnation, _)) = self.heard.get(&fact.opening.node)
        {
            fact.opening.incarnation = *incarnation;
        }
        self.facts.record(&fact, first_hand);
    }

    /// What a peer that holds a log up to `mark` lacks of it.
    pub(super) fn frame(&self, log: LogName, after: MessageNumber) -> Option<Frame> {
        let held = self.admission.logs().get(&log)?;
        let first_m_id = after.next().max(held.row.first_m_id());
        let read = self.storage.read(&log, first_m_id, held.durable.m_id, usize::MAX).ok()?;
        if read.first()?.m_id != first_m_id {
            return None;
        }
        let previous_hash = if first_m_id == held.row.first_m_id() {
            held.row.start_hash()
        } else {
            self.storage.chain_hash_at(&log, first_m_id.previous()).ok()??
        };
        let sends = read.into_iter().map(|message| message.bytes).collect();
        Some(Frame {
            log,
            first_m_id,
            previous_hash,
            age_milliseconds: 0,
            last_age_milliseconds: 0,
            sends,
        })
    }
}

type Opened = (MemoryStorage, Admission, DirectoryProjection);

fn open(
    number: NodeNumber,
    disk: &MemoryDisk,
    ordinal: u64,
    topology: &Arc<Topology>,
    planted: Option<PlantedBug>,
) -> Result<Opened, String> {
    let flaw = planted.and_then(PlantedBug::opening_flaw);
    let opened = MemoryStorage::open_flawed(disk, OpenOptions::default(), flaw);
    let (storage, recovery) = opened.map_err(|error| error.to_string())?;
    let marks: BTreeMap<LogName, MessageNumber> =
        recovery.logs.iter().map(|log| (log.row.log, log.mark.m_id)).collect();
    let rows = recovery.logs.iter().map(|log| &log.row);
    if let Some((log, parent)) = missing_parents(&marks, rows).next() {
        return Err(format!("{log} goes on from {parent}, which is not held"));
    }
    let reused = recovery.opened_from.filter(|_| planted == Some(PlantedBug::IncarnationReused));
    let minted = Incarnation::new(u64::from(number.get()) * 16 + ordinal);
    let incarnation = reused.or(minted).expect("not zero");
    let opening = MemberOpening { node: number, incarnation, opened_from: recovery.opened_from };
    let opened = opening::take_up(&storage, &recovery, number, planted)
        .map_err(|error| error.to_string())?;
    storage.record_opening(opening).map_err(|error| error.to_string())?;
    let mut directories = opened.directories;
    directories.set_opening(incarnation);
    let admission = Admission::new(opening, opened.recovered, Arc::clone(topology));
    Ok((storage, admission, directories))
}
