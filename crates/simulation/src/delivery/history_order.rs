//! All logs of a namespace merged into the one order that is the same at every
//! node: (stamp, origin, incarnation, m_id), and a log only when what it goes on
//! from has been read.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use interlock_core::clock::HybridTime;
use interlock_core::identity::{Incarnation, LogName, MessageName, MessageNumber, NodeNumber};
use interlock_core::message::MessageHead;
use interlock_core::replication::rows::Rows;
use interlock_storage::{LogStorage, MemoryStorage, StorageError};

use super::Found;

/// A part of one log to be read.
#[derive(Clone, Copy, Debug)]
pub(crate) struct LogRange {
    pub(crate) log: LogName,
    pub(crate) from: MessageNumber,
    pub(crate) through: MessageNumber,
}

/// What comes next.
#[derive(Debug)]
pub(crate) enum History {
    Message(Found),
    /// Numbers that the log no longer has.
    Missing(LogRange),
}

type Place = (HybridTime, NodeNumber, Incarnation, MessageNumber);

struct OpenLog {
    left: VecDeque<History>,
    unread_parents: usize,
    /// The logs that go on from this one, with the points they go on from.
    children: Vec<(MessageNumber, usize)>,
}

/// What these ranges hold, in the order of history.
pub(crate) fn in_order_of_history(
    storage: &MemoryStorage,
    ranges: &[LogRange],
    rows: &Rows,
    in_disorder: bool,
) -> Result<VecDeque<History>, StorageError> {
    let ranges: Vec<&LogRange> =
        ranges.iter().filter(|range| range.from <= range.through).collect();
    let places: BTreeMap<LogName, usize> =
        ranges.iter().enumerate().map(|(index, range)| (range.log, index)).collect();
    let mut logs = Vec::with_capacity(ranges.len());
    for range in &ranges {
        let left = read_range(storage, range)?;
        logs.push(OpenLog { left, unread_parents: 0, children: Vec::new() });
    }
    for (log, index) in &places {
        for parent in rows.get(log).into_iter().flat_map(|row| row.parent_names()) {
            let Some(parent_index) = places.get(&parent.log) else { continue };
            // What a reader has of it already is before all of its child.
            if ranges[*parent_index].from <= parent.m_id {
                logs[*parent_index].children.push((parent.m_id, *index));
                logs[*index].unread_parents += 1;
            }
        }
    }
    if in_disorder {
        // A planted bug: the newest logs first, each as a whole.
        logs.sort_by_key(|log| std::cmp::Reverse(log.left.front().and_then(number_of)));
        return Ok(logs.into_iter().flat_map(|log| log.left).collect());
    }
    Ok(merge(logs))
}

fn merge(mut logs: Vec<OpenLog>) -> VecDeque<History> {
    let mut order = VecDeque::new();
    let mut heads: BTreeSet<(Place, usize)> = BTreeSet::new();
    let mut hungry: Vec<usize> =
        (0..logs.len()).filter(|index| logs[*index].unread_parents == 0).collect();
    loop {
        while let Some(index) = hungry.pop() {
            while let Some(missing @ History::Missing(_)) =
                logs[index].left.pop_front_if(|next| matches!(next, History::Missing(_)))
            {
                order.push_back(missing);
            }
            match logs[index].left.front() {
                Some(History::Message(found)) => _ = heads.insert((place_of(found), index)),
                // Where the range ends before a child's point, nothing comes
                // before the child.
                _ => open_children(&mut logs, index, MessageNumber::new(u64::MAX), &mut hungry),
            }
        }
        let Some((_, index)) = heads.pop_first() else { return order };
        let next = logs[index].left.pop_front().expect("a head has a message");
        if let History::Message((name, _)) = &next {
            open_children(&mut logs, index, name.m_id, &mut hungry);
        }
        order.push_back(next);
        hungry.push(index);
    }
}

/// A log has been read through a message: opens what goes on from there.
fn open_children(
    logs: &mut [OpenLog],
    index: usize,
    through: MessageNumber,
    hungry: &mut Vec<usize>,
) {
    let (ready, waiting) = std::mem::take(&mut logs[index].children)
        .into_iter()
        .partition::<Vec<_>, _>(|(point, _)| *point <= through);
    logs[index].children = waiting;
    for (_, child) in ready {
        logs[child].unread_parents -= 1;
        if logs[child].unread_parents == 0 {
            hungry.push(child);
        }
    }
}

fn number_of(history: &History) -> Option<MessageNumber> {
    match history {
        History::Message((name, _)) => Some(name.m_id),
        History::Missing(_) => None,
    }
}

fn place_of((name, bytes): &Found) -> Place {
    let stamp = MessageHead::decode(bytes).map_or(HybridTime::ZERO, |head| head.stamp);
    (stamp, name.log.origin, name.log.incarnation, name.m_id)
}

fn read_range(
    storage: &MemoryStorage,
    range: &LogRange,
) -> Result<VecDeque<History>, StorageError> {
    let LogRange { log, mut from, through } = *range;
    let mut left = VecDeque::new();
    while from <= through {
        let read = storage.read(&log, from, through, usize::MAX)?;
        let first = read.first().map_or(through.next(), |message| message.m_id);
        if first > from {
            left.push_back(History::Missing(LogRange { log, from, through: first.previous() }));
        }
        from = read.last().map_or(through, |message| message.m_id).next();
        left.extend(read.into_iter().map(|message| {
            History::Message((MessageName { log, m_id: message.m_id }, message.bytes))
        }));
    }
    Ok(left)
}
