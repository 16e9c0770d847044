//! The projector: what is durable reaches the projections, which are stored from
//! time to time.

use interlock_core::admission::AppendEntry;
use interlock_core::directory::DirectoryChange;
use interlock_core::message::MessageHead;
use interlock_core::projection::{DirectoryProjection, Projection, PublishersProjection};
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
            self.publishers.apply(&name, &head);
        }
        self.journal.append(name, &entry.bytes);
        self.outputs.push(Output::Record(Record::Applied { machine, name }));
        for change in changes {
            if let DirectoryChange::Lost { .. } = change {
                continue;
            }
            let namespace = name.log.namespace;
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
        self.storage.store_projection(PublishersProjection::KIND, &position, &changes)
    }
}
