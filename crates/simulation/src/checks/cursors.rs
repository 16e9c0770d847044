//! I8, and what I3 and I4 say of subscribers: a cursor never moves back; behind
//! it nothing comes that it covers, so nothing comes twice nor out of order along
//! a path; what it covers has come, or an explicit gap has; and whoever resumes
//! it, wherever that is, gets all the rest.

use std::collections::{BTreeMap, BTreeSet};

use interlock_core::cursor::Cursor;
use interlock_core::identity::{LogName, MessageName, MessageNumber, NamespaceNumber, PathName};
use interlock_core::message::MessageKind;
use interlock_core::names::ChannelName;
use interlock_core::replication::rows::Rows;

use crate::delivery::Told;
use crate::history::{Record, SessionRecord};

use super::{Evidence, Findings, started};

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
        started::check(evidence, session, &rows, findings);
        let missed: Vec<MessageName> = publications
            .get(&session.namespace)
            .into_iter()
            .flatten()
            .filter(|(name, channel)| {
                session.filter.matches(channel) && !covers(evidence, &session.start, name, &rows)
            })
            .map(|(name, _)| *name)
            .collect();
        Reading::new(session, &rows).check(evidence, &missed, findings);
    }
}

fn channel_of<'a>(evidence: &'a Evidence<'_>, name: &MessageName) -> Option<&'a ChannelName> {
    evidence.messages.get(name)?.channel.name()
}

/// Whether a cursor covers a message, for the channel that it is of.
fn covers(evidence: &Evidence<'_>, cursor: &Cursor, name: &MessageName, rows: &Rows) -> bool {
    match channel_of(evidence, name) {
        Some(channel) => cursor.channel_covers(channel, name, rows),
        None => cursor.covers(name, rows),
    }
}

/// The rows of all logs that ever were: what a cursor covers is what it covers by
/// these.
fn all_rows(evidence: &Evidence<'_>) -> Rows {
    let mut rows = evidence.rows.clone();
    for record in &evidence.history.records {
        if let Record::Appended { row: Some(row), .. } | Record::HoleTaken { row: Some(row), .. } =
            record
        {
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
    gaps: Vec<Gap>,
    /// What is still to come or to be told as missing.
    pending: BTreeMap<LogName, BTreeSet<MessageNumber>>,
}

/// A gap as it was told.
struct Gap {
    log: LogName,
    from: MessageNumber,
    through: MessageNumber,
    is_unknown_branch: bool,
}

impl<'a> Reading<'a> {
    fn new(session: &'a SessionRecord, rows: &'a Rows) -> Self {
        let (told, came) = (session.start.clone(), session.start.clone());
        let (messages, gaps, pending) = (BTreeSet::new(), Vec::new(), BTreeMap::new());
        Self { session, rows, told, came, messages, gaps, pending }
    }

    fn who(&self) -> String {
        format!("u{} at node {}", self.session.subscriber, self.session.node)
    }

    fn check(mut self, evidence: &Evidence<'_>, missed: &[MessageName], findings: &mut Findings) {
        for name in missed {
            self.pending.entry(name.log).or_default().insert(name.m_id);
        }
        for told in &self.session.told {
            match told {
                Told::Message(name) => self.take(evidence, name, findings),
                Told::Gap { log, from, through, is_unknown_branch } => {
                    let gap = Gap {
                        log: *log,
                        from: *from,
                        through: *through,
                        is_unknown_branch: *is_unknown_branch,
                    };
                    self.take_gap(evidence, gap, findings);
                }
                Told::Cursor(cursor) => {
                    if !self.told.le(cursor, self.rows) {
                        let who = self.who();
                        findings.broken(format!("{who}: {cursor:?} after {:?}", self.told));
                    }
                    self.told = cursor.clone();
                }
                Told::Kept => self.check_covered(evidence, missed, findings),
            }
        }
        self.check_covered(evidence, missed, findings);
        for name in missed.iter().filter(|_| self.session.is_complete) {
            if !covers(evidence, &self.told, name, self.rows) && !self.is_in_gap(name) {
                findings.broken(format!("{} never gets {name}", self.who()));
            }
        }
    }

    fn take(&mut self, evidence: &Evidence<'_>, name: &MessageName, findings: &mut Findings) {
        if evidence.still.holds(name) {
            return;
        }
        let has = |cursor: &Cursor| covers(evidence, cursor, name, self.rows);
        // Of what was lost since nobody can say of which channel it was.
        let is_unknown = channel_of(evidence, name).is_none();
        if is_unknown && self.session.start.has_overrides() {
            return;
        }
        if has(&self.told) || has(&self.came) {
            let who = self.who();
            findings.broken(format!("{who} gets {name} again, or behind what follows it"));
        }
        let message = evidence.messages.get(name);
        let is_wanted = |channel| self.session.filter.matches(channel);
        if message.is_some_and(|message| !is_wanted(message.channel.as_str())) {
            findings.broken(format!("{} gets {name} that it did not ask for", self.who()));
        }
        self.check_first(name, findings);
        match channel_of(evidence, name).filter(|it| self.came.is_overridden(it)) {
            Some(channel) => self.came.advance_channel(channel, *name, self.rows),
            None => self.came.advance(*name, self.rows),
        }
        self.messages.insert(*name);
    }

    /// Whatever a message goes on from has come before it, or was told to be missing.
    fn check_first(&mut self, name: &MessageName, findings: &mut Findings) {
        if let Some(pending) = self.pending.get_mut(&name.log) {
            pending.remove(&name.m_id);
        }
        let path = name.log.path();
        let before = self.pending.iter().filter(|(log, _)| log.path() == path);
        let skipped = before.filter_map(|(log, pending)| {
            let first = pending.first()?;
            let through = if *log == name.log {
                Some(name.m_id.previous())
            } else {
                self.rows.covered_through(name, log)
            };
            (Some(*first) <= through).then_some(MessageName { log: *log, m_id: *first })
        });
        for skipped in skipped.collect::<Vec<_>>() {
            findings.broken(format!(
                "{} gets {name} before {skipped}, and no gap came first",
                self.who()
            ));
        }
    }

    fn take_gap(&mut self, evidence: &Evidence<'_>, gap: Gap, findings: &mut Findings) {
        let Gap { log, from, through, is_unknown_branch } = gap;
        for (other, pending) in &mut self.pending {
            if *other == log || is_unknown_branch && other.path() == log.path() {
                pending.retain(|m_id| !(from..=through).contains(m_id));
            }
        }
        let who = self.who();
        if is_unknown_branch {
            if self.is_held_at_the_end(evidence, &log) {
                findings.broken(format!("{who} is told that {log} is unknown, which is held"));
            }
        } else if !self.may_be_told(evidence, &log, (from, through)) {
            findings.broken(format!("{who} is told a gap {log} {from}..{through}: not let go of"));
        }
        self.gaps.push(gap);
    }

    /// Whether it is resumed at the end where a log is held.
    fn is_held_at_the_end(&self, evidence: &Evidence<'_>, log: &LogName) -> bool {
        let node = evidence.end.nodes.get(&self.session.node);
        self.session.is_at_the_end && node.is_some_and(|node| node.logs.contains_key(log))
    }

    /// Whether the node that served it let go of a range: at the end its own, before one
    /// of the gateway's region.
    fn may_be_told(
        &self,
        evidence: &Evidence<'_>,
        log: &LogName,
        range: (MessageNumber, MessageNumber),
    ) -> bool {
        let own = self.session.node;
        let topologies = evidence.history.records.iter().rev().filter_map(|record| match record {
            Record::TopologyEdited(topology) => Some(topology),
            _ => None,
        });
        let nodes = topologies.take(1).flat_map(|topology| {
            let region = topology.node(own).map(|node| &node.region);
            topology.nodes.iter().filter(move |node| Some(&node.region) == region)
        });
        let siblings = nodes.map(|node| node.number).filter(|_| !self.session.is_at_the_end);
        let mut serving = siblings.chain([own]);
        serving.any(|node| evidence.trims.covers(node, log, range))
    }

    /// Whatever the cursor covers now and did not at the start has come.
    fn check_covered(
        &self,
        evidence: &Evidence<'_>,
        missed: &[MessageName],
        findings: &mut Findings,
    ) {
        for name in missed {
            let has_come = self.messages.contains(name);
            let is_covered = covers(evidence, &self.told, name, self.rows);
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
        self.gaps.iter().any(|gap| {
            let is_of_it =
                if gap.is_unknown_branch { gap.log.path() == path } else { gap.log == name.log };
            is_of_it && (gap.from..=gap.through).contains(&name.m_id)
        })
    }
}
