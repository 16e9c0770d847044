//! What a process lets go of: what `push-node/retention` and the projector do, a step
//! each.

use std::time::Duration;

use interlock_core::admission::ClosedReason;
use interlock_core::directory::DirectoryEntry;
use interlock_core::identity::{LogName, MessageNumber, NamespaceNumber, NodeNumber};
use interlock_core::projection::{ChannelIndex, Projection, trimmable_through};
use interlock_core::replication::frames::{BaseEntries, TrimPoint};
use interlock_core::topology::{Namespace, WhenFull};
use interlock_storage::retention::{TrimLimits, TrimPlan, TrimmableLog, plan_trims};
use interlock_storage::stored_index::{stored_contents, stored_trim_point, unreadable_index};
use interlock_storage::{LogStorage, StorageError};

use crate::history::Record;
use crate::network::StreamNumber;
use crate::planted_bug::PlantedBug;

use super::Process;
use super::messages::Output;
use super::readiness::telling;
use super::writing::Command;

/// The projector's thread takes so long to come to something.
const PROJECTOR_DELAY: Duration = Duration::from_millis(3);
/// A trim that takes fewer messages waits, but not every time.
const LEAST_MESSAGES: u64 = 4;
const LOOKS_UNTIL_SMALL_TRIMS: u64 = 3;

/// Work for the projector, beside messages.
pub(super) enum ProjectorWork {
    /// Base entries that admission has merged.
    Base { stream: StreamNumber, peer: NodeNumber, base: BaseEntries },
    /// A log is to be trimmed: first what is left of its messages is stored.
    Prepare { log: LogName, through: MessageNumber, released: bool },
    /// That is stored: it is trimmed.
    Trim { log: LogName, through: MessageNumber, released: bool },
}

impl Process {
    /// Looks what may be trimmed of each namespace.
    pub(super) fn look_for_trims(&mut self) -> Result<(), StorageError> {
        self.looks_for_trims += 1;
        let is_patient = !self.looks_for_trims.is_multiple_of(LOOKS_UNTIL_SMALL_TRIMS);
        let least = if is_patient { LEAST_MESSAGES } else { 1 };
        for number in self.topology.namespaces_of(self.me.opening.node) {
            let Some(namespace) = self.topology.namespace(number).cloned() else { continue };
            let TrimPlan { trims, released } = self.trims_of(&namespace, least)?;
            for (log, through) in trims {
                let released = released.iter().any(|(released, _)| *released == log);
                let (machine, topology) = (self.machine, self.topology.version);
                let decided = Record::TrimDecided { machine, log, through, released, topology };
                self.outputs.push(Output::Record(decided));
                self.project_later(ProjectorWork::Prepare { log, through, released });
            }
            let cap = namespace.disk_cap_bytes;
            let is_full = cap > 0 && self.storage.log_bytes(number) >= cap;
            self.admission.set_closed(number, ClosedReason::DiskCap, is_full);
        }
        Ok(())
    }

    fn trims_of(&self, namespace: &Namespace, least: u64) -> Result<TrimPlan, StorageError> {
        let Namespace { number, retention, disk_cap_bytes, .. } = namespace;
        let others = self.other_members(*number);
        let logs: Vec<TrimmableLog> = self
            .durable
            .iter()
            .filter(|(log, _)| log.namespace == *number)
            .map(|(log, held)| {
                let durable = held.mark.m_id;
                let by_all = self.facts.held_by_all(log, others.iter().copied());
                let by_all = by_all.filter(|_| !self.is(PlantedBug::TrimmedBeforeHeldByAll));
                TrimmableLog {
                    log: *log,
                    floor: held.floor.max(held.row.first_m_id().previous()),
                    durable,
                    held_by_all: by_all.unwrap_or(durable).min(durable),
                }
            })
            .collect();
        let releases = retention.when_full == WhenFull::Release;
        let cap = if releases { *disk_cap_bytes } else { 0 };
        let limits = TrimLimits { namespace: *number, retention: *retention, cap, least };
        plan_trims(&self.storage, self.wall, &logs, &limits)
    }

    pub(super) fn project_later(&mut self, work: ProjectorWork) {
        self.projector.push_back(work);
        self.projector_at.get_or_insert(self.now + PROJECTOR_DELAY);
    }

    /// Does one piece of work: a crash may come between any two.
    pub(super) fn run_projector(&mut self) -> Result<(), StorageError> {
        match self.projector.pop_front() {
            Some(ProjectorWork::Base { stream, peer, base }) => {
                self.project_base(stream, peer, base)?;
            }
            Some(ProjectorWork::Prepare { log, through, released }) => {
                if let Some(through) = self.prepare_trim(&log, through)? {
                    self.projector.push_front(ProjectorWork::Trim { log, through, released });
                }
            }
            Some(ProjectorWork::Trim { log, through, released }) => {
                self.trim(log, through, released)?;
            }
            None => {}
        }
        if !self.projector.is_empty() {
            self.projector_at = Some(self.now + PROJECTOR_DELAY);
        }
        Ok(())
    }

    /// Merges a part of a base and stores it durably; the last one is answered.
    fn project_base(
        &mut self,
        stream: StreamNumber,
        peer: NodeNumber,
        base: BaseEntries,
    ) -> Result<(), StorageError> {
        let BaseEntries { namespace, directory, trim_points, last } = base;
        let mut changes = Vec::new();
        for bytes in &directory {
            let entry = DirectoryEntry::decode(bytes).expect("admission has read it");
            changes.extend(self.directories.merge_entry(namespace, entry));
        }
        let drops_points = self.is(PlantedBug::TrimPointsDropped);
        for point in trim_points.iter().filter(|_| !drops_points) {
            self.merge_trim_point(point)?;
        }
        // What is shown as deleted stays so: a page is durable before it is told.
        if !self.is(PlantedBug::HoleBeforeBase) {
            self.store_projections()?;
            self.storage.sync_projections()?;
        }
        self.show(namespace, changes);
        if last {
            self.command(Command::BaseStored(telling(peer, stream), namespace));
            self.tell_base_stored(stream, namespace);
        }
        Ok(())
    }

    fn merge_trim_point(&mut self, point: &TrimPoint) -> Result<(), StorageError> {
        let held = stored_trim_point(&self.storage, point)?;
        self.channel_index.merge_trim_point(point, held);
        Ok(())
    }

    /// What the index keeps of the messages is stored, with all other projections: how
    /// far the log may be trimmed then, if there is anything to trim.
    fn prepare_trim(
        &mut self,
        log: &LogName,
        wished: MessageNumber,
    ) -> Result<Option<MessageNumber>, StorageError> {
        let me = self.me.opening.node;
        let durable = self.durable.get(log).map(|held| held.mark.m_id);
        let goes_on = self.is(PlantedBug::TrimmedBeyondDecided);
        let wished = durable.filter(|_| goes_on).unwrap_or(wished);
        let (directories, publishers) = (&self.directories, &self.publishers);
        let through =
            trimmable_through(me, log, wished, directories, publishers, &self.channel_index);
        if self.durable.get(log).is_none_or(|held| through <= held.floor) {
            return Ok(None);
        }
        let contents = stored_contents(&self.storage, log, through)?;
        let moved = self.channel_index.trim(log, through, contents).map_err(unreadable_index)?;
        for point in &moved {
            self.merge_trim_point(point)?;
        }
        self.store_projections()?;
        Ok(Some(through))
    }

    fn trim(
        &mut self,
        log: LogName,
        through: MessageNumber,
        released: bool,
    ) -> Result<(), StorageError> {
        let machine = self.machine;
        let trimmed = Record::Trimmed { machine, log, through, released };
        // Recorded before: a write that fails may be on the disk all the same.
        self.outputs.push(Output::Record(trimmed));
        let floor = self.storage.trim(&log, through)?;
        if let Some(held) = self.durable.get_mut(&log) {
            held.floor = floor.m_id.max(held.floor);
        }
        self.offer_advanced();
        self.command(Command::Trimmed(log, floor));
        Ok(())
    }

    /// What the node's index has of a namespace's trim points, as stored.
    pub fn trim_points(&self, namespace: NamespaceNumber) -> Result<Vec<TrimPoint>, StorageError> {
        use interlock_core::projection::channel_index::{all_trim_points, decode_any_trim_point};
        let prefix = all_trim_points(namespace).prefix;
        let found = self.storage.scan_projection(ChannelIndex::KIND, &prefix, None, usize::MAX)?;
        let points = found.iter().map(|(key, value)| decode_any_trim_point(key, value));
        points.collect::<Result<_, _>>().map_err(unreadable_index)
    }
}
