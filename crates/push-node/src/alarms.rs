//! What an operator has to look at: raised where it is found, shown by status
//! and metrics until it is over.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Mutex;

use interlock_core::clock::WallTime;
use interlock_core::identity::{Incarnation, LogName, MemberOpening, NamespaceNumber, NodeNumber};

/// What is wrong. The name is stable, for alerts.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum AlarmKind {
    /// Two members hold other content under one name; the log stands still.
    ContentConflict,
    /// A peer's clock and this node's are more than a minute apart.
    ClockFarOff,
    /// Two topology documents of one version differ.
    TopologyConflict,
    /// Free space is below a limit.
    LowSpace,
    /// A namespace is at its disk cap.
    NamespaceFull,
    /// At a namespace's cap, messages were let go of that a member had not got yet.
    QueueReleased,
    /// Another process holds this node's name.
    Fenced,
    /// A peer speaks no protocol version of this build, or is not who it should be.
    PeerRefused,
    /// Messages of a kind that this build does not know.
    UnknownKind,
    /// A peer holds the same messages and stays with other channels.
    Divergence,
    /// Stored data is not what was written, or cannot be read.
    DamagedData,
}

impl AlarmKind {
    /// The name on the wire and in metrics.
    pub const fn name(self) -> &'static str {
        match self {
            Self::ContentConflict => "content_conflict",
            Self::ClockFarOff => "clock_far_off",
            Self::TopologyConflict => "topology_conflict",
            Self::LowSpace => "low_space",
            Self::NamespaceFull => "namespace_full",
            Self::QueueReleased => "queue_released",
            Self::Fenced => "fenced",
            Self::PeerRefused => "peer_refused",
            Self::UnknownKind => "unknown_kind",
            Self::Divergence => "divergence",
            Self::DamagedData => "damaged_data",
        }
    }
}

/// What a conflict of contents is about: it is over when this one member agrees.
fn conflict_subject(log: &LogName, peer: NodeNumber) -> String {
    format!("{log} at node {peer}")
}

/// One alarm.
#[derive(Clone, Debug)]
pub struct Alarm {
    /// What is wrong.
    pub kind: AlarmKind,
    /// What it is about: a peer, a log, a namespace.
    pub subject: String,
    /// For people.
    pub detail: String,
    /// Since when.
    pub since: WallTime,
}

/// All alarms that are up.
#[derive(Debug, Default)]
pub struct Alarms {
    raised: Mutex<BTreeMap<(AlarmKind, String), Alarm>>,
    /// The members that hold other content, and of which logs.
    conflicts: Mutex<BTreeSet<(NodeNumber, LogName)>>,
    /// The openings of the members that were heard last.
    peers: Mutex<BTreeMap<NodeNumber, Incarnation>>,
}

const LOCK: &str = "no holder of the alarms' lock panics";

impl Alarms {
    /// Raises an alarm. Again changes its detail only.
    pub fn raise(&self, now: WallTime, kind: AlarmKind, subject: &str, detail: &str) {
        let mut raised = self.raised.lock().expect(LOCK);
        let alarm = raised.entry((kind, subject.to_owned())).or_insert_with(|| {
            tracing::error!(alarm = kind.name(), subject, detail, "alarm raised");
            Alarm { kind, subject: subject.to_owned(), detail: String::new(), since: now }
        });
        detail.clone_into(&mut alarm.detail);
    }

    /// Ends an alarm, if it is up.
    pub fn clear(&self, kind: AlarmKind, subject: &str) {
        let removed = self.raised.lock().expect(LOCK).remove(&(kind, subject.to_owned()));
        if removed.is_some() {
            tracing::info!(alarm = kind.name(), subject, "alarm is over");
        }
    }

    /// Raises or ends an alarm.
    pub fn set(&self, now: WallTime, kind: AlarmKind, subject: &str, detail: Option<&str>) {
        match detail {
            Some(detail) => self.raise(now, kind, subject, detail),
            None => self.clear(kind, subject),
        }
    }

    /// Raises the alarm of a log of which a member holds other content.
    pub fn raise_conflict(&self, now: WallTime, log: &LogName, peer: NodeNumber, detail: &str) {
        self.conflicts.lock().expect(LOCK).insert((peer, *log));
        self.raise(now, AlarmKind::ContentConflict, &conflict_subject(log, peer), detail);
    }

    /// Whether some member holds other content of a log.
    pub fn is_in_conflict(&self, log: &LogName) -> bool {
        self.conflicts.lock().expect(LOCK).iter().any(|(_, other)| other == log)
    }

    /// Ends the conflicts that are none any more: with a member that has opened its
    /// database anew, which a repair needs, or that holds the log no longer.
    fn end_conflicts(&self, is_over: impl Fn(NodeNumber, &LogName) -> bool) {
        let mut over = Vec::new();
        self.conflicts.lock().expect(LOCK).retain(|(peer, log)| {
            let stays = !is_over(*peer, log);
            if !stays {
                over.push(conflict_subject(log, *peer));
            }
            stays
        });
        for subject in over {
            self.clear(AlarmKind::ContentConflict, &subject);
        }
    }

    /// A member is there, with this opening. What was in conflict with an older one is
    /// compared anew: a repair needs an opening.
    pub fn peer_opened(&self, peer: &MemberOpening) {
        let before = self.peers.lock().expect(LOCK).insert(peer.node, peer.incarnation);
        if before.is_some_and(|before| before != peer.incarnation) {
            self.end_conflicts(|node, _| node == peer.node);
        }
    }

    /// The topology has changed: who holds a namespace no longer is in conflict with
    /// nobody there.
    pub fn holders_changed(&self, is_holder: impl Fn(NodeNumber, NamespaceNumber) -> bool) {
        self.end_conflicts(|peer, log| !is_holder(peer, log.namespace));
    }

    /// Whether an alarm is up.
    pub fn is_up(&self, kind: AlarmKind, subject: &str) -> bool {
        self.raised.lock().expect(LOCK).contains_key(&(kind, subject.to_owned()))
    }

    /// All alarms that are up, by kind.
    pub fn list(&self) -> Vec<Alarm> {
        self.raised.lock().expect(LOCK).values().cloned().collect()
    }
}

#[cfg(test)]
mod tests {
    use interlock_core::identity::{PathName, ShardNumber};

    use super::*;

    const PEER: NodeNumber = NodeNumber::new(2);

    fn log(namespace: u32) -> LogName {
        let path = PathName {
            namespace: NamespaceNumber::new(namespace),
            shard: ShardNumber::new(0),
            origin: NodeNumber::new(1),
        };
        path.log(Incarnation::new(1).expect("not zero"))
    }

    fn opened(incarnation: u64) -> MemberOpening {
        let incarnation = Incarnation::new(incarnation).expect("not zero");
        MemberOpening { node: PEER, incarnation, opened_from: None }
    }

    #[test]
    fn a_conflict_ends_with_the_opening_of_the_member() {
        let alarms = Alarms::default();
        alarms.peer_opened(&opened(1));
        alarms.raise_conflict(WallTime::new(1), &log(1), PEER, "other content");
        alarms.raise(WallTime::new(1), AlarmKind::LowSpace, "disk", "a");
        assert!(alarms.is_in_conflict(&log(1)) && !alarms.is_in_conflict(&log(2)));
        alarms.peer_opened(&opened(1));
        assert!(alarms.is_in_conflict(&log(1)), "it is the same opening");
        alarms.peer_opened(&opened(2));
        assert!(!alarms.is_in_conflict(&log(1)));
        assert_eq!(alarms.list().len(), 1, "the disk's stays");
    }

    #[test]
    fn a_conflict_ends_when_the_member_holds_it_no_more() {
        let alarms = Alarms::default();
        alarms.raise_conflict(WallTime::new(1), &log(1), PEER, "other content");
        alarms.raise_conflict(WallTime::new(1), &log(2), PEER, "other content");
        alarms.holders_changed(|node, namespace| {
            node == PEER && namespace == NamespaceNumber::new(2)
        });
        assert!(!alarms.is_in_conflict(&log(1)) && alarms.is_in_conflict(&log(2)));
        assert_eq!(alarms.list().len(), 1);
    }

    #[test]
    fn an_alarm_keeps_its_beginning() {
        let alarms = Alarms::default();
        alarms.raise(WallTime::new(1), AlarmKind::LowSpace, "disk", "a");
        alarms.raise(WallTime::new(2), AlarmKind::LowSpace, "disk", "b");
        let up = alarms.list();
        assert_eq!(up.len(), 1);
        assert_eq!((up[0].since, up[0].detail.as_str()), (WallTime::new(1), "b"));
        alarms.clear(AlarmKind::LowSpace, "disk");
        assert!(alarms.list().is_empty());
    }
}
