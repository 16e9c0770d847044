//! What is counted in a run, and over many.

use std::collections::BTreeMap;
use std::time::Duration;

use crate::faults::FaultKind;

/// Counts of one run or of several.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Statistics {
    /// Faults by kind.
    pub faults: BTreeMap<FaultKind, u64>,
    /// Events.
    pub events: u64,
    /// Openings of disks.
    pub openings: u64,
    /// Logs that an opening shortened or removed.
    pub cut_logs: u64,
    /// Processes that died while they opened their disk.
    pub deaths_while_opening: u64,
    /// Operations that clients began.
    pub operations: u64,
    /// Of these, acknowledged.
    pub acknowledged: u64,
    /// Of these, refused.
    pub refused: u64,
    /// Of these, without a known outcome.
    pub unknown: u64,
    /// Different messages held at the end.
    pub messages: u64,
    /// Logs held at the end.
    pub logs: u64,
    /// Logs with more than one parent, or that share a parent with another.
    pub branches: u64,
    /// Acknowledged messages whose only copies were lost with their disks.
    pub lost_with_disks: u64,
    /// Messages that processes accepted beside another one of their name.
    pub accepted_beside: u64,
    /// Frames of messages that were sent.
    pub frames: u64,
    /// Messages in these frames.
    pub messages_sent: u64,
    /// Complaints of receivers.
    pub nacks: u64,
    /// Requests that never arrived.
    pub lost_requests: u64,
    /// Requests that arrived when nobody waited for an answer.
    pub stray_requests: u64,
    /// Answers that never arrived.
    pub lost_replies: u64,
    /// Subscriptions that were begun.
    pub subscriptions: u64,
    /// Of these, those that began at the last so many, or at a time.
    pub wished_starts: u64,
    /// Channels that a reader let stand apart from the rest of its cursor.
    pub channels_apart: u64,
    /// Publications that subscribers got.
    pub delivered: u64,
    /// Gaps that they were told.
    pub gaps: u64,
    /// Namespaces that were removed from disks whose nodes had left them.
    pub purges: u64,
    /// Machines that went with their nodes.
    pub machines_gone: u64,
    /// Trims.
    pub trims: u64,
    /// Of these, those that released somebody's queue.
    pub releases: u64,
    /// Holes that were taken from peers.
    pub holes: u64,
    /// Cursors that they kept.
    pub kept_cursors: u64,
    /// Resumptions of kept cursors at the end, each at one member.
    pub resumed_cursors: u64,
    /// Logs that a region with several members took from another one at the end.
    pub carried_logs: u64,
    /// Machines that were resumed from a snapshot.
    pub resumed_snapshots: u64,
    /// Of these, seen and ended.
    pub resumed_and_seen: u64,
    /// Complaints about two contents under one name.
    pub conflicts: u64,
    /// Members that took over the state of a namespace.
    pub backfills: u64,
    /// How long the world ran, on its own clock.
    pub virtual_time: Duration,
    /// From the end of the faults until all was well, at most.
    pub longest_recovery: Duration,
}

impl Statistics {
    /// All faults together.
    pub fn all_faults(&self) -> u64 {
        self.faults.values().sum()
    }

    /// Adds another run's.
    pub fn add(&mut self, other: &Self) {
        for (kind, count) in &other.faults {
            *self.faults.entry(*kind).or_default() += count;
        }
        self.events += other.events;
        self.openings += other.openings;
        self.cut_logs += other.cut_logs;
        self.deaths_while_opening += other.deaths_while_opening;
        self.operations += other.operations;
        self.acknowledged += other.acknowledged;
        self.refused += other.refused;
        self.unknown += other.unknown;
        self.messages += other.messages;
        self.logs += other.logs;
        self.branches += other.branches;
        self.lost_with_disks += other.lost_with_disks;
        self.accepted_beside += other.accepted_beside;
        self.frames += other.frames;
        self.messages_sent += other.messages_sent;
        self.nacks += other.nacks;
        self.lost_requests += other.lost_requests;
        self.stray_requests += other.stray_requests;
        self.lost_replies += other.lost_replies;
        self.subscriptions += other.subscriptions;
        self.wished_starts += other.wished_starts;
        self.channels_apart += other.channels_apart;
        self.delivered += other.delivered;
        self.gaps += other.gaps;
        self.purges += other.purges;
        self.machines_gone += other.machines_gone;
        self.carried_logs += other.carried_logs;
        self.trims += other.trims;
        self.releases += other.releases;
        self.holes += other.holes;
        self.kept_cursors += other.kept_cursors;
        self.resumed_cursors += other.resumed_cursors;
        self.resumed_snapshots += other.resumed_snapshots;
        self.resumed_and_seen += other.resumed_and_seen;
        self.conflicts += other.conflicts;
        self.backfills += other.backfills;
        self.virtual_time += other.virtual_time;
        self.longest_recovery = self.longest_recovery.max(other.longest_recovery);
    }
}
