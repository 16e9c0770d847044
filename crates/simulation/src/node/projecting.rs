//! The projector: what is durable reaches the projections, which are stored from
//! time to time.

use interlock_core::admission::AppendEntry;
use interlock_core::directory::DirectoryChange;
use interlock_core::identity::NamespaceNumber;
use interlock_core::message::MessageHead;
use interlock_core::projection::{
    ChannelIndex, DirectoryProjection, Projection, PublishersProjection,
};
use interlock_core::replication::frames::Hole;
use interlock_storage::{LogStorage, StorageError};

use crate::history::Record;
use crate::planted_bug::PlantedBug;

use super::Process;
use super::messages::Output;

impl Process {
    pub(super) fn project(&mut self, entry: &AppendEntry) {
        let name = entry.name();
        let machine = self.machine;
        let head = MessageHead::decode(&entry.bytes).expect("admission has read it");
        let reversed = self.is(PlantedBug::AppliedInReverse);
        // The projections would not take messages in the wrong order.
        let changes = if reversed { Vec::new() } else { self.directories.apply(&name, &head) };
        if !reversed {
            if !self.is(PlantedBug::ProjectionAhead) {
                self.publishers.apply(&name, &head);
            }
            self.channel_index.apply(&name, &head);
        }
        self.journal.append(name, &entry.bytes);
        self.outputs.push(Output::Record(Record::Applied { machine, name }));
        self.show(name.log.namespace, changes);
    }

    /// What a planted bug does: the session table is stored as of what is appended.
    pub(super) fn project_unsynced(&mut self) -> Result<(), StorageError> {
        for entry in self.appended.iter().flat_map(|batch| &batch.entries) {
            let head = MessageHead::decode(&entry.bytes).expect("admission has read it");
            self.publishers.apply(&entry.name(), &head);
        }
        self.store_projections()?;
        self.storage.sync_projections()
    }

    /// The mark has moved over a hole: its base is there already.
    pub(super) fn project_hole(&mut self, hole: &Hole) {
        let Hole { log, from, through, .. } = *hole;
        self.directories.skip(&log, through.m_id);
        self.publishers.skip(&log, through.m_id);
        self.channel_index.skip(&log, through.m_id);
        self.journal.append_hole(log, from, through.m_id);
        let machine = self.machine;
        self.outputs.push(Output::Record(Record::HoleApplied {
            machine,
            log,
            through: through.m_id,
        }));
    }

    /// Tells what the durable directory shows from now on.
    pub(super) fn show(&mut self, namespace: NamespaceNumber, changes: Vec<DirectoryChange>) {
        let machine = self.machine;
        for change in changes {
            if let DirectoryChange::Lost { .. } = change {
                continue;
            }
            let directory = self.directories.directory(namespace).expect("it has just changed");
            let held = directory.get(change.channel()).expect("it has just changed");
            let (epoch, deleted) = (held.epoch(), held.is_deleted());
            let channel = change.channel().clone();
            let shown = Record::Shown { machine, namespace, channel, epoch, deleted };
            self.outputs.push(Output::Record(shown));
        }
    }

    pub(super) fn store_projections(&mut self) -> Result<(), StorageError> {
        let (position, changes) = (self.directories.position(), self.directories.take_changes());
        self.storage.store_projection(DirectoryProjection::KIND, &position, &changes)?;
        let (position, changes) = (self.publishers.position(), self.publishers.take_changes());
        self.storage.store_projection(PublishersProjection::KIND, &position, &changes)?;
        let (position, changes) =
            (self.channel_index.position(), self.channel_index.take_changes());
        self.storage.store_projection(ChannelIndex::KIND, &position, &changes)
    }
}
