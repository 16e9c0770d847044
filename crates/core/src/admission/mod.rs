//! What the single writer of a push-node decides: which publication, channel
//! edit or received frame is appended to which log, under which name.
//!
//! A push-node is the provisional master of what it accepts and the provisional
//! slave for all else, at the same time (METHOD M4): [`Admission::publish`] and
//! [`Admission::edit_channel`] are the one role, [`Admission::receive`] the
//! other, over the same logs and the same directory.
//!
//! Admission decides and remembers; it stores nothing. The driver, one thread,
//! does for a whole batch, in this order:
//!
//! 1. asks for decisions, and collects the [`AppendEntry`]s in their order;
//! 2. appends them all to the storage;
//! 3. syncs, and tells [`Admission::handle_durable`];
//! 4. releases answers, acknowledgements and frames.
//!
//! **Visible is not durable.** Each decision sees everything that was appended
//! before it, durable or not. So whatever an answer says, be it a name, a
//! repeat's first name or a refusal ("exists", "out of sequence", "unknown
//! channel"), rests on all that was appended before it, and the driver releases
//! it only after a sync that covers all of that. A crash before that sync may
//! take the reason away with it.
//!
//! A refusal leaves nothing behind: no name is used up, no clock moves, no
//! session advances.

use std::collections::BTreeMap;
use std::sync::Arc;

use crate::clock::{HybridClock, HybridTime, WallTime};
use crate::directory::Directory;
use crate::identity::{GroupNumber, LogName, Mark, MemberOpening, NamespaceNumber};
use crate::limits::MAX_CHANNELS_PER_NAMESPACE;
use crate::message::EncodingBuffer;
use crate::projection::publishers::Publishers;
use crate::replication::log_table::LogTable;
use crate::topology::Topology;

mod append_entry;
mod backfill;
mod channel_operations;
mod closed;
mod etag;
mod holes;
mod marks;
mod outcomes;
mod own_log;
mod publications;
mod rate_limits;
mod readiness;
mod receiving;
mod recovered;
mod sessions;
#[cfg(test)]
mod tests;

pub use append_entry::AppendEntry;
pub use backfill::{Backfill, BackfillProgress, Telling};
pub use channel_operations::{
    ChannelChange, ChannelDraft, ChannelEdit, ChannelUpdate, EditCondition, EditRefusal, Edited,
};
pub use closed::{ClosedReason, ClosedReasons};
pub use etag::{Etag, EtagError};
pub use holes::BaseRefusal;
pub use marks::MarkFinding;
pub use outcomes::{FrameOutcome, HoleOutcome};
pub use publications::{NewPublication, PublishRefusal, Published};
pub use readiness::NamespaceReadiness;
pub use recovered::RecoveredState;
pub use sessions::{ResumeSession, SessionOpened, SessionRefusal};

use rate_limits::RateLimits;

/// What admission keeps of one namespace.
#[derive(Debug, Default)]
struct NamespaceState {
    /// Whether this node is a member by the present topology.
    member: bool,
    /// The groups that messages accepted here name.
    groups: Vec<GroupNumber>,
    /// Why nothing may be accepted here at present.
    closed: ClosedReasons,
    /// The channels as of everything appended.
    directory: Directory,
    /// The sessions of publishers as of everything appended here.
    publishers: Publishers,
    /// What channels with a rate still take.
    rate_limits: RateLimits,
}

/// What a node has to be in a namespace to accept something there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Standing {
    /// A member.
    Member,
    /// A member, or one that is leaving: for what only this node has, which it hands over.
    Holder,
}

/// Decides what is appended. See the module's page.
#[derive(Debug)]
pub struct Admission {
    opening: MemberOpening,
    topology: Arc<Topology>,
    clock: HybridClock,
    logs: LogTable,
    namespaces: BTreeMap<NamespaceNumber, NamespaceState>,
    /// The highest stamp of any recovered message, until the first time told.
    unobserved: Option<HybridTime>,
    /// Reasons that hold for the whole node.
    node_closed: ClosedReasons,
    /// Channels, deleted ones included, that a namespace may have.
    channel_quota: usize,
    /// What is encoded here is written there.
    encoding: EncodingBuffer,
}

impl Admission {
    /// Takes up what the storage recovered, under a new opening of the database
    /// that is already durable.
    pub fn new(opening: MemberOpening, recovered: RecoveredState, topology: Arc<Topology>) -> Self {
        let RecoveredState { logs, directories, publishers } = recovered;
        let mut namespaces: BTreeMap<NamespaceNumber, NamespaceState> = BTreeMap::new();
        for (namespace, directory) in directories {
            namespaces.entry(namespace).or_default().directory = directory;
        }
        for (namespace, publishers) in publishers {
            namespaces.entry(namespace).or_default().publishers = publishers;
        }
        for state in namespaces.values_mut() {
            state.directory.set_opening(opening.incarnation);
        }
        let stamps = |own: bool| {
            logs.iter()
                .filter(|(log, _)| !own || log.origin == opening.node)
                .map(|(_, held)| held.last_stamp)
                .max()
                .unwrap_or(HybridTime::ZERO)
        };
        let mut admission = Self {
            opening,
            topology: Arc::clone(&topology),
            clock: HybridClock::new(stamps(true)),
            unobserved: Some(stamps(false)),
            logs,
            namespaces,
            node_closed: ClosedReasons::default(),
            channel_quota: MAX_CHANNELS_PER_NAMESPACE,
            encoding: EncodingBuffer::new(),
        };
        admission.set_topology(topology);
        admission
    }

    /// Who decides here.
    pub const fn opening(&self) -> MemberOpening {
        self.opening
    }

    /// The topology that decides who is a member.
    pub const fn topology(&self) -> &Arc<Topology> {
        &self.topology
    }

    /// Takes up another topology. Which one is newer is the driver's business.
    pub fn set_topology(&mut self, topology: Arc<Topology>) {
        for state in self.namespaces.values_mut() {
            state.member = false;
        }
        for namespace in topology.namespaces_of(self.opening.node) {
            let groups = topology.groups_of(namespace);
            let state = self.state_mut(namespace);
            state.member = true;
            state.groups = groups;
        }
        self.topology = topology;
    }

    /// Whether this node is a member of a namespace.
    pub fn is_member(&self, namespace: NamespaceNumber) -> bool {
        self.namespaces.get(&namespace).is_some_and(|state| state.member)
    }

    /// Sets or clears a reason for accepting nothing in one namespace.
    pub fn set_closed(&mut self, namespace: NamespaceNumber, reason: ClosedReason, holds: bool) {
        self.state_mut(namespace).closed.set(reason, holds);
    }

    /// Sets or clears a reason for accepting nothing at all.
    pub fn set_node_closed(&mut self, reason: ClosedReason, holds: bool) {
        self.node_closed.set(reason, holds);
    }

    /// Sets how many channels, deleted ones included, a namespace may have for
    /// another to be created here; at most [`MAX_CHANNELS_PER_NAMESPACE`].
    pub const fn set_channel_quota(&mut self, channels: usize) {
        self.channel_quota = if channels < MAX_CHANNELS_PER_NAMESPACE {
            channels
        } else {
            MAX_CHANNELS_PER_NAMESPACE
        };
    }

    /// Why nothing is accepted in a namespace at present, if so.
    pub fn closed(&self, namespace: NamespaceNumber) -> Option<ClosedReason> {
        let closed = self.namespaces.get(&namespace).map(|state| state.closed).unwrap_or_default();
        self.node_closed.and(closed).first()
    }

    /// The logs as of everything appended.
    pub const fn logs(&self) -> &LogTable {
        &self.logs
    }

    /// The channels of a namespace as of everything appended, which may not be
    /// durable: for admission, and for showing only what is released after a
    /// sync.
    pub fn directory(&self, namespace: NamespaceNumber) -> Option<&Directory> {
        self.namespaces.get(&namespace).map(|state| &state.directory)
    }

    /// The sessions of a namespace as of everything appended here.
    pub fn publishers(&self, namespace: NamespaceNumber) -> Option<&Publishers> {
        self.namespaces.get(&namespace).map(|state| &state.publishers)
    }

    /// What was appended has become durable up to these marks.
    pub fn handle_durable(&mut self, marks: &[(LogName, Mark)]) {
        for (log, mark) in marks {
            self.logs.note_durable(log, *mark);
        }
    }

    /// A trim has moved a log's floor.
    pub fn handle_trimmed(&mut self, log: &LogName, floor: Mark) {
        self.logs.note_trimmed(log, floor);
    }

    /// A repair has made one content of this log hold everywhere.
    pub fn handle_repaired(&mut self, log: &LogName) {
        self.logs.clear_stopped(log);
    }

    fn state_as(&self, standing: Standing, namespace: NamespaceNumber) -> Option<&NamespaceState> {
        let holds = self.has_standing(standing, namespace);
        self.namespaces.get(&namespace).filter(|_| holds)
    }

    fn state_as_mut(
        &mut self,
        standing: Standing,
        namespace: NamespaceNumber,
    ) -> Option<&mut NamespaceState> {
        let holds = self.has_standing(standing, namespace);
        self.namespaces.get_mut(&namespace).filter(|_| holds)
    }

    fn has_standing(&self, standing: Standing, namespace: NamespaceNumber) -> bool {
        let leaves = || self.topology.is_leaving(self.opening.node, namespace);
        self.is_member(namespace) || (standing == Standing::Holder && leaves())
    }

    fn state_mut(&mut self, namespace: NamespaceNumber) -> &mut NamespaceState {
        let opening = self.opening.incarnation;
        self.namespaces.entry(namespace).or_insert_with(|| {
            let mut state = NamespaceState::default();
            state.directory.set_opening(opening);
            state
        })
    }

    fn stamp(&mut self, now: WallTime, above: HybridTime) -> HybridTime {
        self.take_up_clock(now);
        self.clock.stamp(now, above)
    }

    /// Whether the stamp is far ahead of the wall clock.
    fn observe(&mut self, now: WallTime, stamp: HybridTime) -> bool {
        self.take_up_clock(now);
        self.clock.observe(stamp, now).far_off
    }

    /// What others had stamped before the opening counts as seen now, with the
    /// same bound.
    fn take_up_clock(&mut self, now: WallTime) {
        if let Some(stamp) = self.unobserved.take() {
            self.clock.observe(stamp, now);
        }
    }
}
