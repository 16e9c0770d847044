//! One follower of one namespace at a node: first what it has missed, read from
//! the disk in the order of history, then what becomes durable there, in that
//! order. What `push-node/delivery_feed` does, a few messages at a time.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;

use bytes::Bytes;
use interlock_core::cursor::Cursor;
use interlock_core::delivery::ChannelFilter;
use interlock_core::identity::{LogName, MessageName, MessageNumber, NamespaceNumber, NodeNumber};
use interlock_core::message::{MessageHead, MessageKind};
use interlock_core::names::ChannelName;
use interlock_core::replication::rows::{Row, Rows};
use interlock_storage::StorageError;

use crate::node::{JournalPosition, JournalRead, JournalSnapshot, Process};
use crate::planted_bug::PlantedBug;

use super::history_order::{History, LogRange, in_order_of_history};
use super::{Batch, Item};

/// Where a follower stops.
#[derive(Clone, Debug)]
pub enum Until {
    /// Never.
    Forever,
    /// When this coverage is reached.
    Cursor(Cursor),
}

/// What a follower is told.
#[derive(Debug)]
pub enum FeedNews {
    /// Something to deliver or to pass over.
    Batch(Batch),
    /// Nothing else is there.
    CaughtUp,
    /// All that was asked for has been told.
    Finished,
}

/// See the module's page.
#[derive(Debug)]
pub struct Feed {
    namespace: NamespaceNumber,
    filter: ChannelFilter,
    excluded: BTreeSet<NodeNumber>,
    until: Until,
    /// Where it started.
    start: Cursor,
    /// What the reader has been shown, or does not want.
    cursor: Cursor,
    rows: Arc<Rows>,
    told_rows: BTreeSet<LogName>,
    /// How far each log has been gone through.
    passed: BTreeMap<LogName, MessageNumber>,
    catching_up: Option<VecDeque<History>>,
    position: JournalPosition,
    /// Publications passed over because their channel's epoch has ended.
    pub(crate) ended: Vec<MessageName>,
}

impl Feed {
    /// Opens a feed at a node; none starts at what is durable now. The rows that
    /// the reader is told come with it.
    pub fn open(
        process: &Process,
        namespace: NamespaceNumber,
        start: Option<Cursor>,
        filter: ChannelFilter,
        until: Until,
        excluded: BTreeSet<NodeNumber>,
    ) -> Result<(Self, Cursor, Vec<Row>), StorageError> {
        let snapshot = process.delivery_snapshot(namespace);
        let mut start = start.unwrap_or_else(|| cursor_at_end(namespace, &snapshot));
        if process.is(PlantedBug::UnseenOriginSkipped) {
            skip_unseen_origins(&mut start, &snapshot);
        }
        let told: Vec<Row> =
            snapshot.rows.iter().filter(|row| row.log.namespace == namespace).cloned().collect();
        let mut feed = Self {
            namespace,
            filter,
            excluded,
            until,
            cursor: start.clone(),
            start: start.clone(),
            rows: Arc::clone(&snapshot.rows),
            told_rows: told.iter().map(|row| row.log).collect(),
            passed: BTreeMap::new(),
            catching_up: None,
            position: snapshot.position,
            ended: Vec::new(),
        };
        feed.begin_catching_up(process, snapshot)?;
        Ok((feed, start, told))
    }

    fn begin_catching_up(
        &mut self,
        process: &Process,
        snapshot: JournalSnapshot,
    ) -> Result<(), StorageError> {
        self.rows = snapshot.rows;
        self.position = snapshot.position;
        let mut ranges = Vec::new();
        for (log, mark) in &snapshot.marks {
            if !self.excluded.contains(&log.origin) {
                let through = self.limit_of(process, log).map_or(*mark, |limit| limit.min(*mark));
                ranges.push(LogRange { log: *log, from: self.next_of(process, log), through });
            }
        }
        let in_disorder = process.is(PlantedBug::ParentsReadLast);
        let rows = if in_disorder { &Rows::new() } else { &*self.rows };
        let history = in_order_of_history(process.storage(), &ranges, rows, in_disorder)?;
        self.catching_up = Some(history);
        Ok(())
    }

    /// Goes on, by at most so many messages.
    pub fn go_on(&mut self, process: &Process, most: usize) -> Result<FeedNews, StorageError> {
        if let Some(history) = &mut self.catching_up {
            let part: Vec<History> = history.drain(..history.len().min(most)).collect();
            if !part.is_empty() {
                return Ok(FeedNews::Batch(self.take_history(process, part)));
            }
            self.catching_up = None;
            if self.is_finished() {
                return Ok(FeedNews::Finished);
            }
        }
        match process.read_journal(self.namespace, self.position, most) {
            JournalRead::Messages(read, next) => {
                self.position = next;
                let batch = self.take_journal(process, read);
                Ok(FeedNews::Batch(batch))
            }
            JournalRead::End if self.is_finished() => Ok(FeedNews::Finished),
            JournalRead::End => Ok(FeedNews::CaughtUp),
            JournalRead::Behind => {
                let snapshot = process.delivery_snapshot(self.namespace);
                self.begin_catching_up(process, snapshot)?;
                self.go_on(process, most)
            }
        }
    }

    fn take_history(&mut self, process: &Process, part: Vec<History>) -> Batch {
        let mut batch = Batch::default();
        for found in part {
            match found {
                History::Message((name, bytes)) => {
                    self.passed.insert(name.log, name.m_id);
                    self.take(process, name, &bytes, &mut batch);
                }
                History::Missing(LogRange { log, from, through }) => {
                    self.passed.insert(log, through);
                    self.cursor.advance(MessageName { log, m_id: through }, &self.rows);
                    batch.items.push(Item::Gap { log, from, through });
                }
            }
        }
        batch
    }

    fn take_journal(&mut self, process: &Process, read: Vec<(MessageName, Bytes)>) -> Batch {
        let mut batch = Batch::default();
        for (name, bytes) in read {
            if self.excluded.contains(&name.log.origin) {
                continue;
            }
            if !self.rows.contains(&name.log) {
                self.rows = Arc::clone(process.rows());
            }
            let limit = self.limit_of(process, &name.log).unwrap_or(name.m_id);
            if name.m_id < self.next_of(process, &name.log) || name.m_id > limit {
                continue;
            }
            self.passed.insert(name.log, name.m_id);
            self.take(process, name, &bytes, &mut batch);
        }
        batch
    }

    /// Goes over one message: shows it if the reader asked for it.
    fn take(&mut self, process: &Process, name: MessageName, bytes: &Bytes, batch: &mut Batch) {
        self.cursor.advance(name, &self.rows);
        if self.told_rows.insert(name.log) {
            batch.rows.extend(self.rows.get(&name.log).cloned());
        }
        let follows = |item: &Item| matches!(item, Item::Run { log, .. } if *log == name.log);
        if !batch.items.last().is_some_and(follows) {
            let (log, through) = (name.log, name.m_id);
            batch.items.push(Item::Run { log, from: None, through, messages: Vec::new() });
        }
        let Some(Item::Run { through, messages, .. }) = batch.items.last_mut() else { return };
        *through = name.m_id;
        let Ok(head) = MessageHead::decode(bytes) else { return };
        let Ok(channel) = ChannelName::parse(head.channel) else { return };
        if head.kind != MessageKind::Publication || !self.filter.matches(head.channel) {
            return;
        }
        let directory = process.directories().directory(self.namespace);
        if directory.is_none_or(|directory| directory.deliverable(head.channel, head.epoch)) {
            messages.push((name, channel));
        } else {
            self.ended.push(name);
        }
    }

    /// The next message of a log to look at.
    fn next_of(&mut self, process: &Process, log: &LogName) -> MessageNumber {
        let start = if process.is(PlantedBug::ForkTailDropped) {
            self.start.tips_of_path(&log.path()).map(|tip| tip.m_id).max().unwrap_or_default()
        } else {
            self.start.position_of(log, &self.rows)
        };
        let passed = *self.passed.entry(*log).or_insert(start);
        let first = self.rows.first_m_id(log).unwrap_or(MessageNumber::new(1));
        passed.next().max(first)
    }

    fn limit_of(&self, process: &Process, log: &LogName) -> Option<MessageNumber> {
        match &self.until {
            Until::Forever => None,
            // What an unknown tip covers nobody can tell here: of its path nothing
            // is left out, or what goes on from that would cover it unseen, and
            // what a lost branch went on from would never come.
            Until::Cursor(until) => until
                .tips_of_path(&log.path())
                .all(|tip| {
                    self.rows.ancestry_is_known(&tip) || process.is(PlantedBug::UntilJudgedUnknown)
                })
                .then(|| until.position_of(log, &self.rows)),
        }
    }

    fn is_finished(&self) -> bool {
        match &self.until {
            Until::Forever => false,
            Until::Cursor(until) => until
                .tips()
                .filter(|tip| !self.excluded.contains(&tip.log.origin))
                .all(|tip| self.cursor.covers(&tip, &self.rows)),
        }
    }
}

/// What a planted bug makes of a start: origins that it does not name are at their
/// ends.
fn skip_unseen_origins(start: &mut Cursor, snapshot: &JournalSnapshot) {
    let seen: BTreeSet<NodeNumber> = start.paths().map(|path| path.origin).collect();
    for (log, m_id) in snapshot.marks.iter().filter(|(log, _)| !seen.contains(&log.origin)) {
        start.advance(MessageName { log: *log, m_id: *m_id }, &snapshot.rows);
    }
}

/// The cursor of who starts at what is durable now.
fn cursor_at_end(namespace: NamespaceNumber, snapshot: &JournalSnapshot) -> Cursor {
    let mut cursor = Cursor::new(namespace);
    for (log, m_id) in &snapshot.marks {
        let first = snapshot.rows.first_m_id(log).unwrap_or_default();
        // Before its first message a log is not passed at all.
        if *m_id >= first && *m_id > MessageNumber::ZERO {
            cursor.advance(MessageName { log: *log, m_id: *m_id }, &snapshot.rows);
        }
    }
    cursor
}
