//! The checkers: one module a promise, each over the history and the final state
//! alone. They know nothing of how the world was made: real processes are judged by
//! the same ones (`tests/faults`).

mod acknowledged;
mod backfill;
mod convergence;
mod cursors;
mod deletion;
mod delivered;
mod disks;
mod holes;
mod identity;
mod invented;
mod nothing_lost;
mod once;
mod one_holder;
mod order;
mod residency;
mod standing_still;
mod started;
mod trims;

use std::collections::BTreeMap;
use std::fmt;

use bytes::Bytes;
use interlock_core::identity::MessageName;
use interlock_core::message::Message;
use interlock_core::replication::rows::Rows;

use crate::history::{FinalState, History, Record};

pub(crate) use order::missing_parents;
pub(crate) use standing_still::StandingStill;

use disks::Disks;
use trims::Trims;

/// Looks at the evidence for one promise.
type Checker = fn(&Evidence<'_>, &mut Findings);

/// What is promised, by the names of the reliability page.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Promise {
    /// I1: an acknowledged message survives.
    AcknowledgedSurvives,
    /// I2: nothing is lost on the way.
    NothingLost,
    /// I3: nothing is applied twice.
    AppliedOnce,
    /// I4: order along a path.
    Order,
    /// I5: nothing is invented.
    NothingInvented,
    /// I6: the directory converges.
    Convergence,
    /// I7: what is deleted stays deleted.
    DeletedStays,
    /// I8: cursors are honest.
    HonestCursors,
    /// I10: one name, one content.
    OneContent,
    /// I10: once connected, one process per node name accepts.
    OneHolder,
    /// I12: no byte of a namespace outside its groups.
    Residency,
    /// A member that takes over a state accepts only with the whole of it.
    WholeState,
    /// I11 and everything else that is seen as it happens: the world comes back,
    /// disks open, nobody complains of what cannot be.
    NoIncident,
}

impl Promise {
    /// The name that people look for.
    pub const fn name(self) -> &'static str {
        match self {
            Self::AcknowledgedSurvives => "I1",
            Self::NothingLost => "I2",
            Self::AppliedOnce => "I3",
            Self::Order => "I4",
            Self::NothingInvented => "I5",
            Self::Convergence => "I6",
            Self::DeletedStays => "I7",
            Self::HonestCursors => "I8",
            Self::OneContent | Self::OneHolder => "I10",
            Self::Residency => "I12",
            Self::WholeState => "whole state",
            Self::NoIncident => "I11",
        }
    }
}

/// A promise that was broken.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Violation {
    /// Which one.
    pub promise: Promise,
    /// How.
    pub detail: String,
}

impl fmt::Display for Violation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.promise.name(), self.detail)
    }
}

/// What checkers read.
pub(crate) struct Evidence<'a> {
    pub(crate) history: &'a History,
    pub(crate) end: &'a FinalState,
    /// All messages that the members' marks cover at the end, decoded: held, or trimmed.
    pub(crate) messages: BTreeMap<MessageName, Message>,
    /// The same as they are encoded.
    pub(crate) contents: BTreeMap<MessageName, &'a Bytes>,
    /// The rows of all logs held at the end.
    pub(crate) rows: Rows,
    /// What the disks held, and what was lost with them.
    pub(crate) disks: Disks,
    /// What may differ between members, and stand still.
    pub(crate) still: StandingStill,
    /// What was trimmed.
    pub(crate) trims: Trims,
}

/// Where violations go.
pub(crate) struct Findings {
    violations: Vec<Violation>,
    promise: Promise,
}

impl Findings {
    pub(crate) fn broken(&mut self, detail: String) {
        self.violations.push(Violation { promise: self.promise, detail });
    }
}

/// The verdict over one run.
#[derive(Clone, Debug)]
pub struct Verdict {
    /// Promises that were broken.
    pub violations: Vec<Violation>,
    /// Acknowledged messages whose only copies were lost with their disks.
    pub lost_with_disks: u64,
    /// Messages that processes accepted beside another one of their name.
    pub accepted_beside: u64,
}

/// What messages held that the members' marks cover and that are trimmed: as their origins
/// accepted them.
fn trimmed_messages<'a>(
    history: &'a History,
    end: &FinalState,
) -> BTreeMap<MessageName, &'a Bytes> {
    let mut accepted = BTreeMap::new();
    for record in &history.records {
        if let Record::Content { name, bytes } = record {
            accepted.entry(*name).or_insert(bytes);
        }
    }
    let mut trimmed = BTreeMap::new();
    for (log, held) in end.nodes.values().flat_map(|node| &node.logs) {
        for (from, through) in held.missing() {
            let range =
                MessageName { log: *log, m_id: from }..=MessageName { log: *log, m_id: through };
            trimmed.extend(accepted.range(range).map(|(name, bytes)| (*name, *bytes)));
        }
    }
    trimmed
}

/// Runs all checkers.
pub fn check(history: &History, end: &FinalState) -> Verdict {
    let mut findings = Findings { violations: Vec::new(), promise: Promise::NoIncident };
    for incident in &history.incidents {
        let place = incident.node.map_or_else(|| "the world".to_owned(), |it| format!("node {it}"));
        findings.broken(format!("{place}: {}", incident.what));
    }
    let mut evidence = Evidence {
        history,
        end,
        messages: BTreeMap::new(),
        contents: trimmed_messages(history, end),
        rows: Rows::new(),
        disks: Disks::follow(&history.records),
        still: StandingStill::follow(&history.records),
        trims: Trims::follow(&history.records),
    };
    findings.promise = Promise::NothingInvented;
    evidence.contents.extend(end.messages());
    for (name, bytes) in &evidence.contents {
        match Message::decode(bytes) {
            Ok(message) => _ = evidence.messages.insert(*name, message),
            Err(error) => findings.broken(format!("{name} cannot be read: {error}")),
        }
    }
    findings.promise = Promise::OneContent;
    for log in end.nodes.values().flat_map(|node| node.logs.values()) {
        let conflict = evidence.rows.insert(log.row.clone()).err();
        if let Some(conflict) = conflict.filter(|_| !evidence.still.touches(&log.row.log)) {
            findings.broken(format!("{}: {conflict}", log.row.log));
        }
    }
    let checkers: [(Promise, Checker); 17] = [
        (Promise::AcknowledgedSurvives, acknowledged::check),
        (Promise::NothingLost, nothing_lost::check),
        (Promise::NothingLost, holes::check),
        (Promise::AppliedOnce, once::check),
        (Promise::Order, order::check),
        (Promise::NothingInvented, invented::check),
        (Promise::Convergence, convergence::check),
        (Promise::DeletedStays, deletion::check),
        (Promise::HonestCursors, cursors::check),
        (Promise::OneContent, identity::check),
        (Promise::OneHolder, one_holder::check),
        (Promise::Residency, residency::check),
        (Promise::WholeState, backfill::check),
        (Promise::AppliedOnce, delivered::check_once),
        (Promise::Order, delivered::check_order),
        (Promise::NothingInvented, delivered::check_invented),
        (Promise::NothingLost, delivered::check_whole),
    ];
    for (promise, checker) in checkers {
        findings.promise = promise;
        checker(&evidence, &mut findings);
    }
    let lost_with_disks = acknowledged::count_lost(&evidence);
    let accepted_beside = one_holder::count_accepted_beside(&evidence);
    Verdict { violations: findings.violations, lost_with_disks, accepted_beside }
}
