//! What a checkpoint stores: how far the logs are durable, and what is known of others;
//! of both only what changed since the last one.

use std::collections::BTreeMap;

use interlock_core::identity::{LogName, Mark, MessageNumber, NamespaceNumber};
use interlock_core::replication::acknowledgements::MemberRecord;

use crate::engine::{Engine, Table};
use crate::held_logs::HeldLogs;
use crate::keys::{checkpoint_mark, fact, retired_openings, segment_checkpoint};

/// What the last checkpoint stored.
#[derive(Debug, Default)]
pub(crate) struct Checkpoint {
    marks: BTreeMap<LogName, MessageNumber>,
    /// The entries of the `meta` table that say what is known of others.
    members: BTreeMap<Vec<u8>, Vec<u8>>,
}

impl Checkpoint {
    /// What the database has of members when it is opened; marks are stored anew.
    pub(crate) fn of_opening(members: &[MemberRecord]) -> Self {
        Self { marks: BTreeMap::new(), members: member_entries(members) }
    }

    /// What is to be written now, and the durable marks of all logs.
    pub(crate) fn stage<E: Engine>(
        &mut self,
        engine: &E,
        held_logs: &HeldLogs,
        members: &[MemberRecord],
    ) -> (E::Batch, Vec<(LogName, Mark)>) {
        let mut batch = E::Batch::default();
        let durable_marks: Vec<(LogName, Mark)> = held_logs.durable_marks().collect();
        let segment = segment_checkpoint::encode(held_logs.durable_segment());
        engine.put(&mut batch, Table::Meta, &segment_checkpoint::KEY, &segment);
        for (log, mark) in &durable_marks {
            let has_moved = self.marks.insert(*log, mark.m_id) != Some(mark.m_id);
            if let Some(held) = held_logs.get(log).filter(|_| has_moved) {
                let (number, point) = (held.shape.number, held.durable.point);
                let value = checkpoint_mark::encode(&point);
                engine.put(&mut batch, Table::Meta, &checkpoint_mark::key(number), &value);
            }
        }
        self.put_members(engine, &mut batch, members);
        (batch, durable_marks)
    }

    /// A namespace is on the disk no more.
    pub(crate) fn forget(&mut self, namespace: NamespaceNumber) {
        self.marks.retain(|log, _| log.namespace != namespace);
    }

    fn put_members<E: Engine>(
        &mut self,
        engine: &E,
        batch: &mut E::Batch,
        members: &[MemberRecord],
    ) {
        let new = member_entries(members);
        for key in self.members.keys().filter(|key| !new.contains_key(*key)) {
            engine.delete(batch, Table::Meta, key);
        }
        for (key, value) in &new {
            if self.members.get(key) != Some(value) {
                engine.put(batch, Table::Meta, key, value);
            }
        }
        self.members = new;
    }
}

/// The entries of the `meta` table that hold what is known of members.
fn member_entries(members: &[MemberRecord]) -> BTreeMap<Vec<u8>, Vec<u8>> {
    let mut entries = BTreeMap::new();
    for member in members {
        for fact in &member.facts {
            entries.insert(fact::key(&fact.opening).to_vec(), fact::encode(fact));
        }
        if !member.retired.is_empty() || member.too_many_openings {
            let value = retired_openings::encode(&member.retired, member.too_many_openings);
            entries.insert(retired_openings::key(member.node).to_vec(), value);
        }
    }
    entries
}
