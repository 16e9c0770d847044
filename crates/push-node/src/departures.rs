//! Namespaces that this node leaves (docs/decisions/0006): it hands over what it
//! holds, says when the members have all of it (`core::replication::departure`), and
//! removes it at the next opening (`storage::departing`).

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use interlock_core::admission::Admission;
use interlock_core::identity::{NamespaceNumber, NodeNumber, TopologyVersion};
use interlock_core::replication::departure::{LeftLog, logs_to_leave};
use interlock_core::topology::{NodeState, Topology};
use interlock_storage::departing::{self, note_drained, take_drained_back, was_drained};
use interlock_storage::{LogStorage, Recovery, StorageError};
use tokio::sync::watch;

use crate::config::Config;
use crate::context::NodeContext;
use crate::failure::NodeFailure;
use crate::fencing::is_fenced;
use crate::open_node::Reopening;
use crate::readiness;
use crate::start_error::StartError;
use crate::stored_messages::on_disk;
use crate::tasks::until_set;
use crate::work_queue::QueueClosed;

/// How often the members' marks are looked at.
const LOOK_INTERVAL: Duration = Duration::from_millis(500);

const LOCK: &str = "no holder of the departures' lock panics";

/// What a namespace that is left still waits for.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Departure {
    /// Messages that some member does not hold durably.
    pub messages: u64,
    /// The members that lack some, by name.
    pub waits_for: BTreeSet<String>,
}

/// How far the departures are, for status.
#[derive(Debug, Default)]
pub struct DepartureBoard {
    departures: Mutex<BTreeMap<NamespaceNumber, Departure>>,
}

impl DepartureBoard {
    /// How far one namespace is; `None` while nothing is known of it.
    pub fn of(&self, namespace: NamespaceNumber) -> Option<Departure> {
        self.departures.lock().expect(LOCK).get(&namespace).cloned()
    }

    fn set(&self, namespace: NamespaceNumber, departure: Departure) {
        self.departures.lock().expect(LOCK).insert(namespace, departure);
    }

    fn clear(&self, namespace: NamespaceNumber) {
        self.departures.lock().expect(LOCK).remove(&namespace);
    }
}

/// Watches what this node leaves.
pub struct Departures {
    context: Arc<NodeContext>,
    /// What is drained and still on the list of those that leave: the control-plane has
    /// to record it. With a static topology nobody listens, and its owner takes the node
    /// off the list.
    left: watch::Sender<Left>,
    /// Noted on the disk as drained, and with what logs.
    drained: BTreeMap<NamespaceNumber, Vec<LeftLog>>,
}

/// What this node is about to leave, and by which document.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Left {
    /// The namespaces that are drained.
    pub namespaces: BTreeSet<NamespaceNumber>,
    /// The topology that lists them as being left.
    pub topology: TopologyVersion,
}

impl Departures {
    /// Begins with what the disk says.
    pub fn new(context: Arc<NodeContext>, left: watch::Sender<Left>) -> Self {
        Self { context, left, drained: BTreeMap::new() }
    }

    async fn run(&mut self) -> Result<(), StorageError> {
        let mut topology = self.context.topology.watch();
        let mut ending = self.context.tasks.ending();
        self.remember_what_was_drained().await?;
        loop {
            let newest = topology.borrow_and_update().clone();
            let me = self.context.me().node;
            if self.is_over(&newest) && !is_fenced(&self.context) {
                self.context.reopen.send_replace(Some(Reopening::Drained));
                return Ok(());
            }
            let leaving: Vec<NamespaceNumber> = newest
                .namespaces_held_by(me)
                .into_iter()
                .filter(|namespace| newest.is_leaving(me, *namespace))
                .collect();
            let drained: Vec<NamespaceNumber> = self.drained.keys().copied().collect();
            for namespace in drained {
                if newest.is_member(me, namespace) {
                    self.take_back(namespace).await?;
                }
            }
            for namespace in &leaving {
                self.look(&newest, *namespace).await?;
            }
            self.tell_what_is_drained(&newest, &leaving);
            let waits = leaving.iter().any(|namespace| !self.drained.contains_key(namespace));
            tokio::select! {
                changed = topology.changed() => if changed.is_err() { return Ok(()) },
                () = tokio::time::sleep(LOOK_INTERVAL), if waits => {}
                () = until_set(&mut ending) => return Ok(()),
            }
        }
    }

    /// Has the control-plane record what is drained, for as long as it lists it.
    fn tell_what_is_drained(&self, topology: &Topology, leaving: &[NamespaceNumber]) {
        let drained = leaving.iter().copied().filter(|it| self.drained.contains_key(it)).collect();
        let left = Left { namespaces: drained, topology: topology.version };
        self.left.send_if_modified(|told| {
            let is_news = *told != left;
            *told = left;
            is_news
        });
    }

    /// What an opening before this one has noted is as drained as it was: nothing came
    /// since.
    async fn remember_what_was_drained(&mut self) -> Result<(), StorageError> {
        let topology = self.context.topology.current();
        let namespaces = topology.namespaces.iter().map(|namespace| namespace.number);
        for namespace in namespaces {
            let note = move |storage: &dyn LogStorage| was_drained(storage, namespace);
            if on_disk(&self.context.storage, note).await?
                && let Ok(logs) = self.logs_of(namespace).await
            {
                self.drained.insert(namespace, logs);
            }
        }
        Ok(())
    }

    /// Whether something that is drained has been left, or the node was removed: the
    /// next opening does the rest.
    fn is_over(&self, topology: &Topology) -> bool {
        let me = self.context.me().node;
        is_removed(topology, me)
            || self.drained.keys().any(|namespace| !topology.is_holder(me, *namespace))
    }

    async fn take_back(&mut self, namespace: NamespaceNumber) -> Result<(), StorageError> {
        let note = move |storage: &dyn LogStorage| take_drained_back(storage, namespace);
        on_disk(&self.context.storage, note).await?;
        self.drained.remove(&namespace);
        self.context.departures.clear(namespace);
        Ok(())
    }

    async fn logs_of(&self, namespace: NamespaceNumber) -> Result<Vec<LeftLog>, QueueClosed> {
        let logs = move |admission: &Admission| logs_to_leave(admission.logs(), namespace);
        self.context.writer.look(logs).await
    }

    /// Sees what the members lack of one namespace, and notes when it is nothing.
    async fn look(
        &mut self,
        topology: &Topology,
        namespace: NamespaceNumber,
    ) -> Result<(), StorageError> {
        // What a repair took off here is nobody's yet. Asked first: what it publishes
        // again is in the logs then.
        let brings_back = self.context.bringing_back.messages_of(namespace) > 0;
        // The writer goes by the document that this node leaves with: nothing else is
        // appended, so these are the last messages.
        let Ok(logs) = self.logs_of(namespace).await else { return Ok(()) };
        match self.drained.get(&namespace) {
            Some(drained) if *drained == logs => return Ok(()),
            // It was a member again by a document that came and went unseen here.
            Some(_) => self.take_back(namespace).await?,
            None => {}
        }
        let members = topology.members(namespace).into_iter().map(|member| member.number);
        let waiting = self.context.hub.departure(members, &logs);
        let alarms = &self.context.alarms;
        let conflicts = logs.iter().filter(|left| alarms.is_in_conflict(&left.log));
        let conflicts: Vec<String> = conflicts
            .map(|left| format!("a repair (others hold other content of {})", left.log))
            .collect();
        let is_drained = waiting.is_drained() && conflicts.is_empty() && !brings_back;
        let name = |node: NodeNumber| topology.node(node).map(|node| node.name.to_string());
        let mut waits_for: BTreeSet<String> =
            waiting.waits_for.into_iter().filter_map(name).chain(conflicts).collect();
        if brings_back {
            waits_for.insert(format!("{} (what a repair took off)", self.context.name()));
        }
        let departure = Departure { messages: waiting.messages, waits_for };
        self.context.departures.set(namespace, departure);
        if is_drained {
            let note = move |storage: &dyn LogStorage| note_drained(storage, namespace);
            on_disk(&self.context.storage, note).await?;
            self.drained.insert(namespace, logs);
            tracing::info!(
                namespace = %self.context.namespace_name(namespace),
                "the members hold everything: the namespace can be left"
            );
        }
        Ok(())
    }
}

/// Watches what this node leaves, until the node ends.
pub async fn watch_departures(mut departures: Departures) {
    if let Err(error) = departures.run().await {
        let failure = NodeFailure::Storage(error.to_string());
        departures.context.failure.report(failure);
    }
}

/// Removes the namespaces that this node has left, before anything is done with what
/// the opening found, and takes them out of that.
pub fn remove_what_was_left(
    storage: &dyn LogStorage,
    topology: &Topology,
    me: NodeNumber,
    mut recovery: Recovery,
) -> Result<Recovery, StorageError> {
    let removed = departing::remove_what_was_left(
        storage,
        topology,
        me,
        &mut recovery,
        &readiness::document_of,
    )?;
    for namespace in removed {
        tracing::info!(%namespace, "removed what this node held of a namespace it has left");
    }
    Ok(recovery)
}

/// Refuses to start a node that was removed from the mesh.
pub fn check_still_in_mesh(
    config: &Config,
    topology: &Topology,
    me: NodeNumber,
    recovery: &Recovery,
) -> Result<(), StartError> {
    if !is_removed(topology, me) {
        return Ok(());
    }
    let (node, folder) = (config.node.clone(), config.data_dir.display().to_string());
    Err(match recovery.logs.is_empty() {
        true => StartError::Left { node, folder },
        false => StartError::RemovedByForce { node, folder },
    })
}

fn is_removed(topology: &Topology, me: NodeNumber) -> bool {
    topology.node(me).is_some_and(|node| node.state == NodeState::Removed)
}
