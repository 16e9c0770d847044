//! Turns the start that a follower asks for into a cursor: exactly what it will not be
//! shown. What `push-node/follow_start` does, all at once.

use interlock_core::clock::{HybridTime, WallTime};
use interlock_core::cursor::Cursor;
use interlock_core::delivery::ChannelFilter;
use interlock_core::identity::{
    Incarnation, LogName, MessageName, MessageNumber, NamespaceNumber, NodeNumber,
};
use interlock_core::message::{MessageHead, MessageKind};
use interlock_storage::{LogStorage, StorageError};

use crate::node::{JournalSnapshot, Process};
use crate::planted_bug::PlantedBug;

/// Where a follower starts that has no cursor.
#[derive(Clone, Copy, Debug)]
pub enum Start {
    /// At the last so many publications that it asks for.
    Last(usize),
    /// At what arrived from then on, by the node's clock.
    Since(WallTime),
}

type Place = (HybridTime, NodeNumber, Incarnation, MessageNumber);

/// A publication that would be shown, by its place in history.
struct Found {
    place: Place,
    is_shown: bool,
}

/// Resolves a start at a node.
pub fn resolve(
    process: &Process,
    namespace: NamespaceNumber,
    start: Start,
    filter: &ChannelFilter,
) -> Result<Cursor, StorageError> {
    let snapshot = process.delivery_snapshot(namespace);
    let mut cursor = Cursor::new(namespace);
    let mut pass = |log: LogName, m_id: MessageNumber| {
        let first = snapshot.rows.first_m_id(&log).unwrap_or_default();
        // Before its first message a log is not passed at all.
        if m_id >= first && m_id > MessageNumber::ZERO {
            cursor.advance(MessageName { log, m_id }, &snapshot.rows);
        }
    };
    let by_stamp = process.is(PlantedBug::StartedByStamp);
    match start {
        Start::Since(at) if !by_stamp => {
            for (log, mark) in &snapshot.marks {
                pass(*log, process.storage().arrived_before(log, at)?.min(*mark));
            }
        }
        Start::Since(at) => {
            for found in read_all(process, namespace, &snapshot, filter)? {
                let (stamp, origin, incarnation, m_id) = found.place;
                let log = snapshot
                    .marks
                    .keys()
                    .find(|log| log.origin == origin && log.incarnation == incarnation);
                if let Some(log) = log.filter(|_| stamp.wall() < at) {
                    pass(*log, m_id);
                }
            }
        }
        Start::Last(count) => {
            let is_doubled = process.is(PlantedBug::LastCountedTwice);
            let count = if is_doubled { 2 * count } else { count };
            let mut all = read_all(process, namespace, &snapshot, filter)?;
            if process.is(PlantedBug::LastCountsUnshown) {
                all.iter_mut().for_each(|found| found.is_shown = true);
            }
            let shown = in_order(&all);
            // When there are fewer, all of them are shown.
            let first = shown.len().checked_sub(count).and_then(|index| shown.get(index));
            let Some(first) = first.copied() else { return Ok(cursor) };
            for log in snapshot.marks.keys() {
                let before = all.iter().map(|found| found.place).filter(|place| {
                    *place < first && place.1 == log.origin && place.2 == log.incarnation
                });
                pass(*log, before.map(|place| place.3).max().unwrap_or_default());
            }
        }
    }
    Ok(cursor)
}

/// What a reader who asks for the last so many is to be shown, and what it is not.
#[derive(Clone, Debug, Default)]
pub struct LastAsked {
    /// The last so many publications.
    pub newest: Vec<MessageName>,
    /// All others that it asks for.
    pub older: Vec<MessageName>,
}

/// Tells the last so many publications from those before.
pub fn last_asked(
    process: &Process,
    namespace: NamespaceNumber,
    count: usize,
    filter: &ChannelFilter,
) -> Result<LastAsked, StorageError> {
    let snapshot = process.delivery_snapshot(namespace);
    let shown = in_order(&read_all(process, namespace, &snapshot, filter)?);
    let name = |(_, origin, incarnation, m_id): &Place| {
        let is_it = |log: &&LogName| log.origin == *origin && log.incarnation == *incarnation;
        snapshot.marks.keys().find(is_it).map(|log| MessageName { log: *log, m_id: *m_id })
    };
    let (older, newest) = shown.split_at(shown.len().saturating_sub(count));
    let names = |places: &[Place]| places.iter().filter_map(name).collect();
    Ok(LastAsked { newest: names(newest), older: names(older) })
}

/// The places of what is shown, in the order of history.
fn in_order(all: &[Found]) -> Vec<Place> {
    let shown = all.iter().filter(|found| found.is_shown);
    let mut places: Vec<Place> = shown.map(|found| found.place).collect();
    places.sort_unstable();
    places
}

/// All that a node has of a namespace.
fn read_all(
    process: &Process,
    namespace: NamespaceNumber,
    snapshot: &JournalSnapshot,
    filter: &ChannelFilter,
) -> Result<Vec<Found>, StorageError> {
    let directory = process.directories().directory(namespace);
    let mut all = Vec::new();
    for (log, mark) in &snapshot.marks {
        let mut from = MessageNumber::new(1);
        while from <= *mark {
            let read = process.storage().read(log, from, *mark, usize::MAX)?;
            let Some(last) = read.last() else { break };
            from = last.m_id.next();
            for message in &read {
                let Ok(head) = MessageHead::decode(&message.bytes) else { continue };
                let is_deliverable =
                    || directory.is_none_or(|it| it.deliverable(head.channel, head.epoch));
                let is_shown = head.kind == MessageKind::Publication
                    && filter.matches(head.channel)
                    && is_deliverable();
                let place = (head.stamp, log.origin, log.incarnation, message.m_id);
                all.push(Found { place, is_shown });
            }
        }
    }
    Ok(all)
}
