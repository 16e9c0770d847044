//! Namespaces that the node leaves: what `push-node/departures` does, a look each.

use std::time::Duration;

use interlock_core::identity::NamespaceNumber;
use interlock_core::replication::departure::{Departure, logs_to_leave};
use interlock_core::topology::NodeState;
use interlock_storage::StorageError;
use interlock_storage::departing::{note_drained, take_drained_back, was_drained};

use crate::history::Record;
use crate::planted_bug::PlantedBug;

use super::Process;
use super::messages::Output;

/// How often the members' marks are looked at.
const LOOK_INTERVAL: Duration = Duration::from_millis(500);

impl Process {
    /// Whether it has noted that the members have all of a namespace.
    pub(crate) fn has_drained_anything(&self) -> bool {
        !self.drained.is_empty()
    }

    /// What an opening before this one has noted is as drained as it was: nothing came
    /// since.
    pub(super) fn remember_what_was_drained(&mut self) -> Result<(), StorageError> {
        for namespace in self.topology.namespaces.iter().map(|namespace| namespace.number) {
            if was_drained(&self.storage, namespace)? {
                self.drained.insert(namespace);
            }
        }
        Ok(())
    }

    /// Sees what the members lack of what is left here, notes when it is nothing, and
    /// says so until it is heard. What was left goes with the next opening.
    pub(super) fn look_at_departures(&mut self) -> Result<(), StorageError> {
        let me = self.me.opening.node;
        self.departures_at = None;
        if self.is_over() {
            self.outputs.push(Output::Reopens);
            return Ok(());
        }
        for namespace in self.drained.clone() {
            let is_member_again = self.topology.is_member(me, namespace);
            if is_member_again && !self.is(PlantedBug::DrainedNeverTakenBack) {
                take_drained_back(&self.storage, namespace)?;
                self.drained.remove(&namespace);
            }
        }
        let mut leaving = self.topology.namespaces_held_by(me);
        leaving.retain(|namespace| self.topology.is_leaving(me, *namespace));
        if leaving.is_empty() {
            return Ok(());
        }
        self.departures_at = Some(self.now + LOOK_INTERVAL);
        for namespace in &leaving {
            if !self.drained.contains(namespace) {
                self.look_at_departure(*namespace)?;
            }
        }
        leaving.retain(|namespace| self.drained.contains(namespace));
        if !leaving.is_empty() {
            self.outputs.push(Output::RecordLeft(leaving, self.topology.version));
        }
        Ok(())
    }

    fn look_at_departure(&mut self, namespace: NamespaceNumber) -> Result<(), StorageError> {
        let logs = logs_to_leave(self.admission.logs(), namespace);
        let members = self.topology.members(namespace).into_iter().map(|member| member.number);
        let departure = Departure::of(members, &logs, &self.facts);
        if !departure.is_drained() && !self.is(PlantedBug::PurgedBeforeHeldByAll) {
            return Ok(());
        }
        // Recorded before: a note that fails may be on the disk all the same.
        let (machine, topology) = (self.machine, self.topology.version);
        let logs = logs.into_iter().map(|left| (left.log, left.end.m_id)).collect();
        let drained = Record::Drained { machine, namespace, logs, topology };
        self.outputs.push(Output::Record(drained));
        note_drained(&self.storage, namespace)?;
        self.drained.insert(namespace);
        Ok(())
    }

    /// Whether something that is drained has been left, or the node was removed: the
    /// next opening does the rest.
    fn is_over(&self) -> bool {
        let me = self.me.opening.node;
        self.is_removed()
            || self.drained.iter().any(|namespace| !self.topology.is_holder(me, *namespace))
    }

    fn is_removed(&self) -> bool {
        let me = self.topology.node(self.me.opening.node);
        me.is_some_and(|node| node.state == NodeState::Removed)
    }
}
