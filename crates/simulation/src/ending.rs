//! After the faults: all has to come right within a bounded time, to stay so
//! without anyone talking much, and then every member shows what it holds.

use std::collections::BTreeSet;
use std::time::Duration;

use interlock_core::identity::{NamespaceNumber, NodeNumber};
use interlock_core::replication::frames::TrimPoint;
use interlock_core::topology::NodeState;
use interlock_storage::{LogStorage, MemoryStorage, RecoveredLog};

use crate::checks::StandingStill;
use crate::event::Event;
use crate::history::{FinalChannel, FinalLog, FinalNamespace, FinalNode, Outcome, Record};
use crate::machine::{Machine, MachineName};
use crate::node::Process;
use crate::opening::OpeningError;
use crate::world::{Phase, World};

/// All has to be well so long after the faults: reconnecting takes up to ten
/// seconds, a retransmission that backed off twelve, and a member that takes
/// over a state does both after one another.
const RECOVERY_LIMIT: Duration = Duration::from_secs(60);
const LOOK_INTERVAL: Duration = Duration::from_millis(250);
/// What was under way when all was well, answers that were delayed and frames
/// that were sent again meanwhile, has come by then.
const SETTLING_TIME: Duration = Duration::from_secs(4);
/// How long it has to stay quiet.
const QUIET_TIME: Duration = Duration::from_secs(5);

impl World {
    pub(crate) fn begin_healing(&mut self) {
        self.phase = Phase::Healing;
        self.after(LOOK_INTERVAL, Event::Look);
        // Who has something to retry retries it.
        let clients: Vec<_> = self.clients.keys().copied().collect();
        for client in clients {
            self.wake_client(client, LOOK_INTERVAL);
        }
    }

    /// Looks whether all is well.
    pub(crate) fn look(&mut self) {
        let Some(trouble) = self.trouble() else {
            let recovery = self.now.since(self.healed_at());
            self.statistics.longest_recovery = recovery;
            return self.after(SETTLING_TIME, Event::QuietBegins);
        };
        if self.now.since(self.healed_at()) < RECOVERY_LIMIT {
            return self.after(LOOK_INTERVAL, Event::Look);
        }
        let what = format!("not well {} s after the faults: {trouble}", RECOVERY_LIMIT.as_secs());
        self.history.incident(None, what);
        self.finish();
    }

    /// What keeps the world from being well, if anything does.
    fn trouble(&self) -> Option<String> {
        let still = self.standing_still();
        if let Some(machine) = self.machines.values().find(|machine| machine.is_superseded) {
            let name = machine.name;
            let what = self.what_keeps(name).unwrap_or_else(|| "is about to go".to_owned());
            return Some(format!("node {name} stays: it {what}"));
        }
        for (name, machine) in &self.machines {
            let node = name.node;
            let Some(process) = &machine.process else {
                return Some(format!("node {name} is down"));
            };
            if self.machines_of(node).nth(1).is_some() {
                return Some(format!("node {node} has two processes"));
            }
            if let Some(peer) = self.unheard_peer(*name) {
                return Some(format!("node {node} has not heard from node {peer}"));
            }
            if let Some(trouble) = self.trouble_at(machine, process, &still) {
                return Some(format!("node {node}: {trouble}"));
            }
        }
        let topology = self.topology();
        for namespace in &topology.namespaces {
            if let Some(node) = namespace.leaving.first() {
                return Some(format!("node {node} has not left {} yet", namespace.name));
            }
        }
        let is_removed = |name: &&MachineName| {
            topology.node(name.node).is_some_and(|node| node.state == NodeState::Removed)
        };
        if let Some(name) = self.machines.keys().find(is_removed) {
            return Some(format!("node {name} was removed and is there"));
        }
        let busy = self.busy_clients();
        if !busy.is_empty() {
            return Some(format!("clients wait: {busy:?}"));
        }
        None
    }

    fn trouble_at(
        &self,
        machine: &Machine,
        process: &Process,
        still: &StandingStill,
    ) -> Option<String> {
        let node = machine.node.number;
        let topology = self.topology();
        if process.topology().version != topology.version {
            return Some(format!("has topology {}", process.topology().version));
        }
        for namespace in topology.namespaces_of(node) {
            // A state of which a part stands still nobody can take over before a repair.
            let stands_still = still.logs().any(|log| log.namespace == namespace);
            if !process.is_ready(namespace) && !stands_still {
                return Some(format!("is not ready in namespace {namespace}"));
            }
        }
        if !process.is_idle() {
            return Some("has something to write".to_owned());
        }
        for peer in topology.peers_of(node) {
            let queue = process.queue_of(peer.number);
            let waits = queue.iter().find(|queued| !still.touches(&queued.log));
            if let Some(queued) = waits {
                let facts = process.facts().facts();
                let of_peer: Vec<_> = facts
                    .iter()
                    .filter(|fact| fact.opening.node == peer.number)
                    .map(|fact| {
                        let of_log = fact.marks.iter().find(|(log, _)| *log == queued.log);
                        (fact.opening, of_log.map(|(_, mark)| mark.m_id))
                    })
                    .collect();
                return Some(format!(
                    "node {} has acknowledged {} up to {} of {}: {of_peer:?}",
                    peer.number, queued.log, queued.acknowledged, queued.tip
                ));
            }
        }
        None
    }

    /// From now on nobody has a reason to send a message.
    pub(crate) fn begin_quiet(&mut self) {
        self.phase = Phase::Quiet;
        self.quiet_from = (self.statistics.frames, self.statistics.nacks);
        self.after(QUIET_TIME, Event::QuietEnds);
    }

    /// The time in which it had to be quiet is over.
    pub(crate) fn end_quiet(&mut self) {
        let (frames, nacks) = self.quiet_from;
        let frames = self.statistics.frames - frames;
        let nacks = self.statistics.nacks - nacks;
        // What stands still is looked at again from time to time, by each pair.
        let pairs = self.machines.len() * self.machines.len();
        let still = (self.standing_still().logs().count() * pairs) as u64;
        if frames > still || nacks > still {
            let what = format!("{frames} frames and {nacks} complaints though nothing was new");
            self.history.incident(None, what);
        }
        if let Some(trouble) = self.trouble() {
            self.history.incident(None, format!("not well any more: {trouble}"));
        }
        self.end_when_all_have_read();
    }

    /// A slow subscriber reads for as long as it takes.
    pub(crate) fn end_when_all_have_read(&mut self) {
        if let Some(subscriber) = self.subscriptions.one_behind() {
            if self.now.since(self.healed_at()) < RECOVERY_LIMIT {
                return self.after(LOOK_INTERVAL, Event::ReadersLooked);
            }
            self.history.incident(None, format!("u{subscriber} has still to read what is there"));
        }
        if self.has_carriers() {
            return self.look_at_carriers_later();
        }
        self.finish();
    }

    pub(crate) fn finish(&mut self) {
        self.phase = Phase::Over;
        self.collect_final_state();
        self.look_for_unseen_resumed();
        self.end_subscriptions();
        self.resume_kept_cursors();
        self.count();
        let nodes: Vec<NodeNumber> = self.final_state.nodes.keys().copied().collect();
        for node in nodes {
            let namespaces = self.final_state.nodes[&node].namespaces.clone();
            for (namespace, held) in namespaces {
                let tips = u128::from_be_bytes(held.tips_digest);
                let state = u128::from_be_bytes(held.shown_digest);
                self.note(format_args!("n{node} ends {namespace}: {tips:032x} {state:032x}"));
            }
        }
    }

    fn collect_final_state(&mut self) {
        let topology = std::sync::Arc::clone(self.topology());
        for (MachineName { node, .. }, machine) in &self.machines {
            let Some(process) = &machine.process else { continue };
            match final_node(machine, process, &topology.namespaces_of(*node)) {
                Ok(state) => {
                    let points = trim_points(process, state.namespaces.keys());
                    self.final_state.trim_points.insert(*node, points);
                    self.final_state.nodes.insert(*node, state);
                }
                Err(error) => {
                    let what = format!("the disk cannot be read at the end: {error}");
                    self.history.incident(Some(*node), what);
                }
            }
        }
    }

    fn count(&mut self) {
        let statistics = &mut self.statistics;
        for operation in self.history.operations() {
            statistics.operations += 1;
            match operation.outcome {
                Outcome::Ok { .. } => statistics.acknowledged += 1,
                Outcome::Fail => statistics.refused += 1,
                Outcome::Unknown => statistics.unknown += 1,
            }
        }
        let is_backfill = |record: &&Record| matches!(record, Record::Backfilled { .. });
        statistics.backfills = self.history.records.iter().filter(is_backfill).count() as u64;
        statistics.messages = self.final_state.messages().len() as u64;
        let mut rows = BTreeSet::new();
        let mut parents = BTreeSet::new();
        for log in self.final_state.nodes.values().flat_map(|node| node.logs.values()) {
            if !rows.insert(log.row.log) {
                continue;
            }
            let is_fork = log.row.parents.iter().fold(log.row.parents.len() > 1, |fork, parent| {
                !parents.insert((log.row.log.path(), parent.incarnation)) || fork
            });
            statistics.branches += u64::from(is_fork);
        }
        statistics.logs = rows.len() as u64;
    }
}

/// What the stored index has of the namespaces; nothing where it cannot be read, which
/// is found out elsewhere.
fn trim_points<'a>(
    process: &Process,
    namespaces: impl Iterator<Item = &'a NamespaceNumber>,
) -> Vec<TrimPoint> {
    namespaces.flat_map(|it| process.trim_points(*it).unwrap_or_default()).collect()
}

/// What the disk has, whatever the process knows of it, and what the process shows.
fn final_node(
    machine: &Machine,
    process: &Process,
    namespaces: &[NamespaceNumber],
) -> Result<FinalNode, OpeningError> {
    let mut node = FinalNode::default();
    let opened = MemoryStorage::open(&machine.disk.copy());
    let (storage, recovery) =
        opened.map_err(|error| OpeningError::Inconsistent(error.to_string()))?;
    for RecoveredLog { row, mark, .. } in recovery.logs {
        let mut messages = Vec::new();
        let mut from = row.first_m_id();
        while from <= mark.m_id {
            let read = storage.read(&row.log, from, mark.m_id, usize::MAX)?;
            let Some(last) = read.last() else { break };
            from = last.m_id.next();
            messages.extend(read.into_iter().map(|message| (message.m_id, message.bytes)));
        }
        node.logs.insert(row.log, FinalLog { row, mark, messages });
    }
    for namespace in namespaces {
        let admission = process.admission();
        let shown = process.directories().directory(*namespace);
        let channels = shown.map_or_else(Default::default, |directory| {
            directory
                .list("", None)
                .map(|(channel, definition)| {
                    let (epoch, deleted) = (definition.epoch(), definition.is_deleted());
                    (channel.clone(), FinalChannel { epoch, deleted })
                })
                .collect()
        });
        let state = FinalNamespace {
            admission_digest: admission.directory(*namespace).map_or([0; 16], |it| it.digest()),
            shown_digest: shown.map_or([0; 16], |directory| directory.digest()),
            tips_digest: admission.logs().tips_digest(*namespace),
            channels,
        };
        node.namespaces.insert(*namespace, state);
    }
    Ok(node)
}
