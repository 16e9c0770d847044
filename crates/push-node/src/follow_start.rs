//! Turns the start that a follower asks for into a cursor: exactly what it will
//! not be shown.

use std::cmp::Reverse;
use std::collections::BinaryHeap;

use interlock_core::cursor::Cursor;
use interlock_core::delivery::ChannelFilter;
use interlock_core::identity::{LogName, MessageName, MessageNumber, NamespaceNumber};
use interlock_core::message::{MessageHead, MessageKind};
use interlock_core::names::ChannelName;
use interlock_rpc::convert::delivery::StartPosition;
use interlock_storage::{StorageError, StoredMessage};

use crate::catch_up_reader::HistoryKey;
use crate::channel_segments::ChannelSegments;
use crate::directories::NamespaceDirectory;
use crate::durable_state::JournalSnapshot;
use crate::stored_messages::{Storage, on_disk, read_stored};

/// How many numbers one step back takes.
const STEP_BACK: u64 = 1024;
/// What one step back reads at a time.
const STEP_BYTES: usize = 1 << 20;

/// What a start is looked for in.
pub struct StartSearch<'a> {
    /// The disk.
    pub storage: &'a Storage,
    /// The logs, as far as followers see them.
    pub snapshot: &'a JournalSnapshot,
    /// The channels asked for.
    pub filter: &'a ChannelFilter,
    /// The namespace's channels.
    pub directory: &'a NamespaceDirectory,
    /// Where in the logs they are.
    pub segments: &'a ChannelSegments,
}

impl StartSearch<'_> {
    /// Resolves a start.
    pub async fn resolve(
        &self,
        namespace: NamespaceNumber,
        start: &StartPosition,
    ) -> Result<Cursor, StorageError> {
        let Self { storage, snapshot, .. } = *self;
        match start {
            StartPosition::Cursor(cursor) => Ok(cursor.clone()),
            StartPosition::Oldest => Ok(Cursor::new(namespace)),
            StartPosition::Now | StartPosition::Last(0) => {
                let marks = snapshot.marks.iter().map(|(log, mark)| (*log, *mark));
                Ok(cursor_at(namespace, snapshot, marks))
            }
            StartPosition::Time(at) => {
                let at = *at;
                let logs: Vec<LogName> = snapshot.marks.keys().copied().collect();
                let marks = on_disk(storage, move |storage| {
                    logs.into_iter()
                        .map(|log| Ok((log, storage.arrived_before(&log, at)?)))
                        .collect::<Result<Vec<_>, StorageError>>()
                });
                let marks = marks.await?.into_iter().map(|(log, mark)| {
                    // What has arrived may not be durable yet.
                    (log, mark.min(snapshot.marks.get(&log).copied().unwrap_or_default()))
                });
                Ok(cursor_at(namespace, snapshot, marks))
            }
            StartPosition::Last(count) => {
                let first = self.nth_newest(*count as usize).await?;
                let Some(first) = first else { return Ok(Cursor::new(namespace)) };
                let mut marks = Vec::with_capacity(snapshot.marks.len());
                for (log, through) in &snapshot.marks {
                    marks.push((*log, last_before(storage, *log, *through, first).await?));
                }
                Ok(cursor_at(namespace, snapshot, marks.into_iter()))
            }
        }
    }

    /// The place of the n-th newest message that the follower would be shown;
    /// `None` when there are fewer.
    async fn nth_newest(&self, count: usize) -> Result<Option<HistoryKey>, StorageError> {
        let mut newest = Newest { count, keys: BinaryHeap::with_capacity(count + 1) };
        for (log, mark) in &self.snapshot.marks {
            match self.filter.only_exact() {
                Some(channels) => {
                    for channel in channels {
                        self.look_for_channel(*log, *mark, channel, &mut newest).await?;
                    }
                }
                None => self.look_back(*log, *mark, &mut newest).await?,
            }
        }
        Ok(newest.least())
    }

    /// Steps back through all of a log, until what it still has is older than
    /// what has been found.
    async fn look_back(
        &self,
        log: LogName,
        mark: MessageNumber,
        newest: &mut Newest,
    ) -> Result<(), StorageError> {
        let first = self.snapshot.rows.first_m_id(&log).unwrap_or(MessageNumber::new(1));
        let mut through = mark;
        while through >= first {
            let from = MessageNumber::new(through.get().saturating_sub(STEP_BACK - 1)).max(first);
            let oldest = self
                .look_at(log, from, through, newest, |channel| self.filter.matches(channel))
                .await?;
            // Nothing left here: trimmed or a hole, which nothing lies before.
            if oldest.is_none_or(|oldest| newest.has_all_before(oldest)) {
                break;
            }
            through = from.previous();
        }
        Ok(())
    }

    /// The same of one channel, of which the index knows where it is.
    async fn look_for_channel(
        &self,
        log: LogName,
        mark: MessageNumber,
        channel: &ChannelName,
        newest: &mut Newest,
    ) -> Result<(), StorageError> {
        let mut before = mark.next();
        loop {
            let segments = self.segments.before(self.storage, channel, log, before).await?;
            let Some(last) = segments.last() else { return Ok(()) };
            before = last.first;
            for segment in segments {
                let through = segment.last.min(mark);
                let oldest = self
                    .look_at(log, segment.first, through, newest, |name| name == channel.as_str())
                    .await?;
                if oldest.is_some_and(|oldest| newest.has_all_before(oldest)) {
                    return Ok(());
                }
            }
        }
    }

    /// Takes what a part of a log has; the place of its first message, if it has
    /// any.
    async fn look_at(
        &self,
        log: LogName,
        from: MessageNumber,
        through: MessageNumber,
        newest: &mut Newest,
        is_asked_for: impl Fn(&str) -> bool,
    ) -> Result<Option<HistoryKey>, StorageError> {
        let mut next = from;
        let mut oldest = None;
        while next <= through {
            let read = read_stored(self.storage, log, next, through, STEP_BYTES).await?;
            let Some(last) = read.last() else { break };
            next = last.m_id.next();
            for message in &read {
                let key = HistoryKey::of(&log, message.m_id, &message.bytes);
                oldest.get_or_insert(key);
                if newest.has_room_for(key) && self.is_shown(message, &is_asked_for) {
                    newest.take(key);
                }
            }
        }
        Ok(oldest)
    }

    fn is_shown(&self, message: &StoredMessage, is_asked_for: impl Fn(&str) -> bool) -> bool {
        let Ok(head) = MessageHead::decode(&message.bytes) else { return false };
        head.kind == MessageKind::Publication
            && is_asked_for(head.channel)
            && self.directory.read(|directory| directory.deliverable(head.channel, head.epoch))
    }
}

/// The places of the newest messages found so far.
struct Newest {
    count: usize,
    keys: BinaryHeap<Reverse<HistoryKey>>,
}

impl Newest {
    fn has_room_for(&self, key: HistoryKey) -> bool {
        self.keys.len() < self.count || self.keys.peek().is_some_and(|Reverse(least)| key > *least)
    }

    fn take(&mut self, key: HistoryKey) {
        self.keys.push(Reverse(key));
        if self.keys.len() > self.count {
            self.keys.pop();
        }
    }

    /// Whether nothing before a place can be among them any more.
    fn has_all_before(&self, place: HistoryKey) -> bool {
        self.keys.len() == self.count
            && self.keys.peek().is_none_or(|Reverse(least)| place < *least)
    }

    /// The oldest of them, if they are as many as asked for.
    fn least(&self) -> Option<HistoryKey> {
        let is_full = self.keys.len() == self.count;
        self.keys.peek().filter(|_| is_full).map(|Reverse(key)| *key)
    }
}

fn cursor_at(
    namespace: NamespaceNumber,
    snapshot: &JournalSnapshot,
    marks: impl Iterator<Item = (LogName, MessageNumber)>,
) -> Cursor {
    let mut cursor = Cursor::new(namespace);
    for (log, m_id) in marks {
        let first = snapshot.rows.first_m_id(&log).unwrap_or_default();
        // Before its first message a log is not passed at all.
        if m_id >= first && m_id > MessageNumber::ZERO {
            cursor.advance(MessageName { log, m_id }, &snapshot.rows);
        }
    }
    cursor
}

/// The last message of a log that comes before a place in history.
async fn last_before(
    storage: &Storage,
    log: LogName,
    through: MessageNumber,
    place: HistoryKey,
) -> Result<MessageNumber, StorageError> {
    on_disk(storage, move |storage| {
        // Invariant: `before` is, or lies before the log; `after` is not before.
        let (mut before, mut after) = (MessageNumber::ZERO, through.next());
        while before.next() < after {
            let middle = MessageNumber::new(before.get() + (after.get() - before.get()) / 2);
            let read = storage.read(&log, middle, after.previous(), 1)?;
            match read.first() {
                Some(found) if HistoryKey::of(&log, found.m_id, &found.bytes) < place => {
                    before = found.m_id;
                }
                _ => after = middle,
            }
        }
        Ok(before)
    })
    .await
}
