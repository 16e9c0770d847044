//! Reads what a follower has missed: all logs of a namespace merged into the one
//! order that is the same at every node, (stamp, origin, incarnation, m_id).
//!
//! Along a path stamps rise, so the merge keeps each origin's order. Memory is
//! bounded: all logs together hold a fixed amount of read-ahead.

use std::cmp::Reverse;
use std::collections::{BinaryHeap, VecDeque};

use bytes::Bytes;
use interlock_core::clock::HybridTime;
use interlock_core::identity::{Incarnation, LogName, MessageName, MessageNumber, NodeNumber};
use interlock_core::message::MessageHead;
use interlock_storage::{StorageError, StoredMessage};

use crate::stored_messages::{Storage, read_stored};

/// What all logs of one reader together hold in memory.
const READ_AHEAD_BYTES: usize = 2 << 20;
/// What one log reads at least at a time.
const LEAST_READ_BYTES: usize = 16 << 10;
/// What one log reads at most at a time.
const MOST_READ_BYTES: usize = 512 << 10;

/// A message's place in the order of history.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct HistoryKey {
    /// First of all: when its origin accepted it.
    pub stamp: HybridTime,
    /// Then its origin.
    pub origin: NodeNumber,
    /// Then the opening of its origin.
    pub incarnation: Incarnation,
    /// Then its number.
    pub m_id: MessageNumber,
}

impl HistoryKey {
    /// The place of an encoded message. One that cannot be read stands where the
    /// log's numbers put it, at no time of its own.
    pub fn of(log: &LogName, m_id: MessageNumber, bytes: &[u8]) -> Self {
        let stamp = MessageHead::decode(bytes).map_or(HybridTime::ZERO, |head| head.stamp);
        Self { stamp, origin: log.origin, incarnation: log.incarnation, m_id }
    }
}

/// A part of one log to be read.
#[derive(Clone, Copy, Debug)]
pub struct LogRange {
    /// The log.
    pub log: LogName,
    /// The first message.
    pub from: MessageNumber,
    /// The last message.
    pub through: MessageNumber,
}

/// What comes next.
#[derive(Debug)]
pub enum Found {
    /// A message.
    Message(MessageName, Bytes),
    /// Numbers that the log no longer has.
    Missing(LogRange),
}

#[derive(Debug)]
struct LogReader {
    rest: LogRange,
    buffer: VecDeque<StoredMessage>,
}

/// Merges several logs' ranges. See the module's page.
pub struct CatchUpReader {
    storage: Storage,
    logs: Vec<LogReader>,
    read_bytes: usize,
    heads: BinaryHeap<Reverse<(HistoryKey, usize)>>,
    missing: VecDeque<LogRange>,
    /// Logs whose buffer is empty and that have to be read on.
    hungry: Vec<usize>,
}

impl CatchUpReader {
    /// A reader of these ranges; empty ones are left out.
    pub fn new(storage: Storage, ranges: impl IntoIterator<Item = LogRange>) -> Self {
        let logs: Vec<LogReader> = ranges
            .into_iter()
            .filter(|range| range.from <= range.through)
            .map(|rest| LogReader { rest, buffer: VecDeque::new() })
            .collect();
        let share = READ_AHEAD_BYTES / logs.len().max(1);
        Self {
            storage,
            read_bytes: share.clamp(LEAST_READ_BYTES, MOST_READ_BYTES),
            heads: BinaryHeap::with_capacity(logs.len()),
            missing: VecDeque::new(),
            hungry: (0..logs.len()).collect(),
            logs,
        }
    }

    /// What comes next in the order of history; `None` after all of it.
    pub async fn next(&mut self) -> Result<Option<Found>, StorageError> {
        while let Some(index) = self.hungry.pop() {
            self.feed(index).await?;
        }
        if let Some(missing) = self.missing.pop_front() {
            return Ok(Some(Found::Missing(missing)));
        }
        let Some(Reverse((_, index))) = self.heads.pop() else { return Ok(None) };
        let reader = &mut self.logs[index];
        let message = reader.buffer.pop_front().expect("a head stands for a buffered message");
        let name = MessageName { log: reader.rest.log, m_id: message.m_id };
        self.offer_head(index);
        Ok(Some(Found::Message(name, message.bytes)))
    }

    /// Puts a log's next message among the heads, or has the log read on.
    fn offer_head(&mut self, index: usize) {
        let reader = &self.logs[index];
        match reader.buffer.front() {
            Some(next) => {
                let key = HistoryKey::of(&reader.rest.log, next.m_id, &next.bytes);
                self.heads.push(Reverse((key, index)));
            }
            None if reader.rest.from <= reader.rest.through => self.hungry.push(index),
            None => {}
        }
    }

    async fn feed(&mut self, index: usize) -> Result<(), StorageError> {
        let LogRange { log, from, through } = self.logs[index].rest;
        let read = read_stored(&self.storage, log, from, through, self.read_bytes).await?;
        let first = read.first().map_or(through.next(), |message| message.m_id);
        if first > from {
            self.missing.push_back(LogRange { log, from, through: first.previous() });
        }
        let reader = &mut self.logs[index];
        reader.rest.from = read.last().map_or(through, |message| message.m_id).next();
        reader.buffer = read.into();
        self.offer_head(index);
        Ok(())
    }
}
