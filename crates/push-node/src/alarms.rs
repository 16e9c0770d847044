//! What an operator has to look at: raised where it is found, shown by status
//! and metrics until it is over.

use std::collections::BTreeMap;
use std::sync::Mutex;

use interlock_core::clock::WallTime;

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
        }
    }
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

    /// All alarms that are up, by kind.
    pub fn list(&self) -> Vec<Alarm> {
        self.raised.lock().expect(LOCK).values().cloned().collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

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
