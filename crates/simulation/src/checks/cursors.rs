//! I8, and what I3 and I4 say of subscribers: a cursor never moves back; behind
//! it nothing comes that it covers, so nothing comes twice nor out of order along
//! a path; what it covers has come, or an explicit gap has; and whoever resumes
//! it, wherever that is, gets all the rest.

use std::collections::{BTreeMap, BTreeSet};

use interlock_core::cursor::Cursor;
use interlock_core::identity::{MessageName, NamespaceNumber, PathName};
use interlock_core::message::MessageKind;
use interlock_core::replication::rows::Rows;

use crate::delivery::Told;
use crate::history::{Record, SessionRecord};

use super::{Evidence, Findings};

/// Publications with their channels, by namespace.
type Publications<'a> = BTreeMap<NamespaceNumber, Vec<(MessageName, &'a str)>>;

pub(super) fn check(evidence: &Evidence<'_>, findings: &mut Findings) {
    let rows = all_rows(evidence);
    let ended: BTreeSet<MessageName> = evidence.history.ended.iter().copied().collect();
    let mut publications = Publications::new();
    for (name, message) in &evidence.messages {
        let is_wanted = message.kind == MessageKind::Publication && !ended.contains(name);
        if is_wanted && !evidence.still.holds(name) {
            let list = publications.entry(name.log.namespace).or_default();
            list.push((*name, message.channel.as_str()));
        }
    }
    for session in evidence.history.sessions() {
        let missed: Vec<MessageName> = publications
            .get(&session.namespace)
            .into_iter()
            .flatten()
            .filter(|(name, channel)| {
                session.filter.matches(channel) && !session.start.covers(name, &rows)
            })
            .map(|(name, _)| *name)
            .collect();
        Reading::new(session, &rows).check(evidence, &missed, findings);
    }
}

/// The rows of all logs that ever were: what a cursor covers is what it covers by
/// these.
fn all_rows(evidence: &Evidence<'_>) -> Rows {
    let mut rows = evidence.rows.clone();
    for record in &evidence.history.records {
        if let Record::Appended { row: Some(row), .. } = record {
            // A log with two rows is somebody else's finding.
            let _ = rows.insert(row.clone());
        }
    }
    rows
}

/// One session as it is gone through.
struct Reading<'a> {
    session: &'a SessionRecord,
    rows: &'a Rows,
    /// The last cursor that was told.
    told: Cursor,
    /// What came, and all that it goes on from.
    came: Cursor,
    messages: BTreeSet<MessageName>,
    gaps: Vec<(MessageName, bool)>,
}

impl<'a> Reading<'a> {
    fn new(session: &'a SessionRecord, rows: &'a Rows) -> Self {
        let (told, came) = (session.start.clone(), session.start.clone());
        Self { session, rows, told, came, messages: BTreeSet::new(), gaps: Vec::new() }
    }

    fn who(&self) -> String {
        format!("u{} at node {}", self.session.subscriber, self.session.node)
    }

    fn check(mut self, evidence: &Evidence<'_>, missed: &[MessageName], findings: &mut Findings) {
        for told in &self.session.told {
            match told {
                Told::Message(name) => self.take(evidence, name, findings),
                Told::Gap { log, through, is_unknown_branch, .. } => {
                    let last = MessageName { log: *log, m_id: *through };
                    self.gaps.push((last, *is_unknown_branch));
                }
                Told::Cursor(cursor) => {
                    if !self.told.le(cursor, self.rows) {
                        let who = self.who();
                        findings.broken(format!("{who}: {cursor:?} after {:?}", self.told));
                    }
                    self.told = cursor.clone();
                }
                Told::Kept => self.check_covered(missed, findings),
            }
        }
        self.check_covered(missed, findings);
        for name in missed.iter().filter(|_| self.session.is_complete) {
            if !self.told.covers(name, self.rows) && !self.is_in_gap(name) {
                findings.broken(format!("{} never gets {name}", self.who()));
            }
        }
    }

    fn take(&mut self, evidence: &Evidence<'_>, name: &MessageName, findings: &mut Findings) {
        if evidence.still.holds(name) {
            return;
        }
        if self.told.covers(name, self.rows) || self.came.covers(name, self.rows) {
            let who = self.who();
            findings.broken(format!("{who} gets {name} again, or behind what follows it"));
        }
        let message = evidence.messages.get(name);
        let is_wanted = |channel| self.session.filter.matches(channel);
        if message.is_some_and(|message| !is_wanted(message.channel.as_str())) {
            findings.broken(format!("{} gets {name} that it did not ask for", self.who()));
        }
        self.came.advance(*name, self.rows);
        self.messages.insert(*name);
    }

    /// Whatever the cursor covers now and did not at the start has come.
    fn check_covered(&self, missed: &[MessageName], findings: &mut Findings) {
        for name in missed {
            let has_come = self.messages.contains(name);
            let is_covered = self.told.covers(name, self.rows);
            if is_covered && !has_come && !self.is_in_gap(name) {
                findings.broken(format!(
                    "{}: the cursor covers {name}, which never came: {:?}",
                    self.who(),
                    self.told
                ));
            }
            if has_come && !is_covered {
                findings.broken(format!("{}: {name} came and is not covered", self.who()));
            }
        }
    }

    fn is_in_gap(&self, name: &MessageName) -> bool {
        let path: PathName = name.log.path();
        self.gaps.iter().any(|(last, is_unknown_branch)| {
            let is_of_it =
                if *is_unknown_branch { last.log.path() == path } else { last.log == name.log };
            is_of_it && name.m_id <= last.m_id
        })
    }
}
