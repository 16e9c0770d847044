//! Turns the start that a follower asks for into a cursor: exactly what it will
//! not be shown.

use std::cmp::Reverse;
use std::collections::BinaryHeap;

use interlock_core::cursor::Cursor;
use interlock_core::delivery::ChannelFilter;
use interlock_core::identity::{LogName, MessageName, MessageNumber, NamespaceNumber};
use interlock_core::message::{MessageHead, MessageKind};
use interlock_rpc::convert::delivery::StartPosition;
use interlock_storage::StorageError;

use crate::catch_up_reader::HistoryKey;
use crate::directories::NamespaceDirectory;
use crate::durable_state::JournalSnapshot;
use crate::stored_messages::{Storage, on_disk, read_stored};

/// The most messages that `last n` names: their keys are held in memory while
/// they are looked for.
pub const MAX_LAST_MESSAGES: u32 = 65_536;

/// How many numbers one step back takes.
const STEP_BACK: u64 = 1024;
/// What one step back reads at a time.
const STEP_BYTES: usize = 1 << 20;

/// Resolves a start.
pub async fn resolve_start(
    storage: &Storage,
    namespace: NamespaceNumber,
    start: &StartPosition,
    snapshot: &JournalSnapshot,
    filter: &ChannelFilter,
    directory: &NamespaceDirectory,
) -> Result<Cursor, StorageError> {
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
            let wanted = |bytes: &[u8]| is_wanted(bytes, filter, directory);
            let first = nth_newest(storage, snapshot, *count as usize, wanted).await?;
            let Some(first) = first else { return Ok(Cursor::new(namespace)) };
            let mut marks = Vec::with_capacity(snapshot.marks.len());
            for (log, through) in &snapshot.marks {
                marks.push((*log, last_before(storage, *log, *through, first).await?));
            }
            Ok(cursor_at(namespace, snapshot, marks.into_iter()))
        }
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

fn is_wanted(bytes: &[u8], filter: &ChannelFilter, directory: &NamespaceDirectory) -> bool {
    let Ok(head) = MessageHead::decode(bytes) else { return false };
    head.kind == MessageKind::Publication
        && filter.matches(head.channel)
        && directory.read(|directory| directory.deliverable(head.channel, head.epoch))
}

/// The place of the n-th newest wanted message; `None` when there are fewer.
/// Steps back through each log until what it still has is older than what has
/// been found.
async fn nth_newest(
    storage: &Storage,
    snapshot: &JournalSnapshot,
    count: usize,
    wanted: impl Fn(&[u8]) -> bool,
) -> Result<Option<HistoryKey>, StorageError> {
    let mut newest: BinaryHeap<Reverse<HistoryKey>> = BinaryHeap::with_capacity(count + 1);
    for (log, mark) in &snapshot.marks {
        let first = snapshot.rows.first_m_id(log).unwrap_or(MessageNumber::new(1));
        let mut through = *mark;
        'log: while through >= first {
            let from = MessageNumber::new(through.get().saturating_sub(STEP_BACK - 1)).max(first);
            let mut next = from;
            let mut oldest = None;
            while next <= through {
                let read = read_stored(storage, *log, next, through, STEP_BYTES).await?;
                let Some(last) = read.last() else { break };
                next = last.m_id.next();
                for message in &read {
                    let key = HistoryKey::of(log, message.m_id, &message.bytes);
                    oldest.get_or_insert(key);
                    let counts = newest.len() < count
                        || newest.peek().is_some_and(|Reverse(least)| key > *least);
                    if counts && wanted(&message.bytes) {
                        newest.push(Reverse(key));
                        if newest.len() > count {
                            newest.pop();
                        }
                    }
                }
            }
            let enough = newest.len() == count
                && newest.peek().zip(oldest).is_none_or(|(Reverse(least), oldest)| oldest < *least);
            // Nothing left here: trimmed or a hole, which nothing lies before.
            if enough || oldest.is_none() {
                break 'log;
            }
            through = from.previous();
        }
    }
    let full = newest.len() == count;
    Ok(newest.pop().filter(|_| full).map(|Reverse(key)| key))
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
