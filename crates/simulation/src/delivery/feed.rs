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

use crate::node::{JournalEntry, JournalPosition, JournalRead, JournalSnapshot, Process};
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
            JournalRead::Entries(read, next) => {
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
                    self.take_missing(log, from, through, &mut batch);
                }
            }
        }
        batch
    }

    fn take_journal(&mut self, process: &Process, read: Vec<JournalEntry>) -> Batch {
        let mut batch = Batch::default();
        for entry in read {
            let (log, first, last) = match &entry {
                JournalEntry::Message(name, _) => (name.log, name.m_id, name.m_id),
                JournalEntry::Hole { log, from, through } => (*log, *from, *through),
            };
            if self.excluded.contains(&log.origin) {
                continue;
            }
            if !self.rows.contains(&log) {
                self.rows = Arc::clone(process.rows());
            }
            let last = self.limit_of(process, &log).map_or(last, |limit| limit.min(last));
            let first = self.next_of(process, &log).max(first);
            if last < first {
                continue;
            }
            match entry {
                JournalEntry::Message(name, bytes) => {
                    self.passed.insert(log, name.m_id);
                    self.take(process, name, &bytes, &mut batch);
                }
                JournalEntry::Hole { .. } if process.is(PlantedBug::HolesPassedOver) => {}
                JournalEntry::Hole { .. } => self.take_missing(log, first, last, &mut batch),
            }
        }
        batch
    }

    /// Tells that numbers are missing, and goes on behind them.
    fn take_missing(
        &mut self,
        log: LogName,
        from: MessageNumber,
        through: MessageNumber,
        batch: &mut Batch,
    ) {
        if self.told_rows.insert(log) {
            batch.rows.extend(self.rows.get(&log).cloned());
        }
        self.passed.insert(log, through);
        self.cursor.pass(MessageName { log, m_id: through }, &self.rows);
        batch.items.push(Item::Gap { log, from, through });
    }

    /// Goes over one message: shows it if the reader asked for it.
    fn take(&mut self, process: &Process, name: MessageName, bytes: &Bytes, batch: &mut Batch) {
        self.cursor.pass(name, &self.rows);
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
        // Channels that stand apart were read from the furthest back of them all.
        let is_had =
            self.start.has_overrides() && self.start.channel_covers(&channel, &name, &self.rows);
        let is_asked_for = self.filter.matches(head.channel) && !is_had;
        if head.kind != MessageKind::Publication || !is_asked_for {
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
            self.start_of(process, log)
        };
        let passed = *self.passed.entry(*log).or_insert(start);
        let first = self.rows.first_m_id(log).unwrap_or(MessageNumber::new(1));
        passed.next().max(first)
    }

    /// How far the start covers a log, for the channel that is the furthest back.
    fn start_of(&self, process: &Process, log: &LogName) -> MessageNumber {
        let forgotten = process.is(PlantedBug::OverridesForgotten);
        let apart = self.apart().filter(|_| !forgotten);
        let apart = apart.map(|channel| self.start.channel_position_of(channel, log, &self.rows));
        apart.chain([self.start.position_of(log, &self.rows)]).min().unwrap_or_default()
    }

    /// The channels asked for that stand apart at the start.
    fn apart(&self) -> impl Iterator<Item = &ChannelName> {
        let apart = self.start.overridden_channels();
        apart.filter(|channel| self.filter.matches(channel.as_str()))
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
                .all(|tip| self.cursor.covers_for_all(self.apart(), &tip, &self.rows)),
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
