//! Trims in a small world, and the base and the hole that stand for what is gone.

use std::collections::BTreeMap;

use interlock_core::admission::HoleOutcome;
use interlock_core::directory::{Directory, DirectoryEntry};
use interlock_core::identity::{LogName, MessageNumber, NodeNumber};
use interlock_core::projection::{DirectoryProjection, Projection as _};
use interlock_core::replication::base_sending::{BaseSending, PageLimits};
use interlock_core::replication::frames::{BaseEntries, Hole};
use interlock_core::replication::log_table::NoHistory;
use interlock_core::replication::rows::Row;
use interlock_storage::LogStorage;

use crate::planted_bug::PlantedBug;
use crate::scenario::EVERYWHERE;

use super::node::{Node, WALL};

/// One page is enough for all that is left of a small world.
const ONE_PAGE: PageLimits = PageLimits { bytes: 1 << 16, entries: 64, trim_points: 64 };

/// What a peer gets in place of what is trimmed.
#[derive(Clone, Debug)]
pub(super) struct Remains {
    row: Row,
    base: BaseEntries,
    hole: Hole,
}

impl Node {
    /// The log that has most to be trimmed by what the others hold, and how far.
    pub(super) fn trimmable(&self, others: &[NodeNumber]) -> Option<(LogName, MessageNumber)> {
        let blind = self.planted == Some(PlantedBug::TrimmedBeforeHeldByAll);
        let logs = self.durable().filter_map(|(log, mark)| {
            let held = self.facts.held_by_all(&log, others.iter().copied());
            let through = if blind { mark.m_id } else { held.unwrap_or_default().min(mark.m_id) };
            let floor = self.floors.get(&log).copied().unwrap_or_default();
            (through > floor).then_some((log, through))
        });
        logs.max_by_key(|(log, through)| (*through, *log))
    }

    /// First what is left of the messages is durable, then they go.
    pub(super) fn trim(&mut self, log: LogName, through: MessageNumber) {
        self.store_directories();
        let floor = self.storage.trim(&log, through).expect("the disk takes all");
        self.admission.handle_trimmed(&log, floor);
        self.floors.insert(log, floor.m_id);
    }

    /// What stands for the messages after a number that are trimmed here.
    pub(super) fn remains(&self, log: LogName, after: MessageNumber) -> Option<Remains> {
        let row = self.admission.logs().get(&log)?.row.clone();
        let from = after.next().max(row.first_m_id());
        let hole = self.storage.missing_from(&log, from).ok()??;
        let mut sending = BaseSending::new(ONE_PAGE);
        sending.need(EVERYWHERE);
        sending.begin(BTreeMap::new());
        let nothing = Directory::new();
        let directory = self.directories.directory(EVERYWHERE).unwrap_or(&nothing);
        let base = sending.directory_page(Some(directory))?;
        Some(Remains { row, base, hole })
    }

    /// Takes a base, stores it, and only then moves its mark over the hole.
    pub(super) fn take_remains(&mut self, remains: &Remains) -> Result<(), String> {
        let Remains { row, base, hole } = remains;
        self.admission.merge_base(base).map_err(|refusal| refusal.to_string())?;
        if self.planted != Some(PlantedBug::HoleBeforeBase) {
            for bytes in &base.directory {
                let entry = DirectoryEntry::decode(bytes).map_err(|error| error.to_string())?;
                self.directories.merge_entry(EVERYWHERE, entry);
            }
            self.store_directories();
        }
        // What precedes it is durable first.
        self.sync();
        if let HoleOutcome::Moved { row, hole } =
            self.admission.receive_hole(WALL, hole, Some(row), &NoHistory)
        {
            let moved = self.storage.cross_hole(WALL, row.as_ref(), &hole);
            moved.map_err(|error| error.to_string())?;
            self.storage.sync().expect("the disk takes all");
            self.admission.handle_durable(&[(hole.log, hole.through)]);
            self.directories.skip(&hole.log, hole.through.m_id);
            self.floors.insert(hole.log, hole.through.m_id);
        }
        Ok(())
    }

    fn store_directories(&mut self) {
        let (position, changes) = (self.directories.position(), self.directories.take_changes());
        let stored = self.storage.store_projection(DirectoryProjection::KIND, &position, &changes);
        stored.and_then(|()| self.storage.sync_projections()).expect("the disk takes all");
    }
}
