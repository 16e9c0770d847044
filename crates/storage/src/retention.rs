//! What retention trims: of all logs of a namespace together the oldest, by age and
//! by bytes, as far as every member holds it durably. At a cap that releases, without
//! regard to who is behind.
//!
//! Ages and sizes are read from the storage. Who holds what, and when to look, is the
//! caller's business; so is what comes before a trim: see [`LogStorage::trim`].

use std::collections::BTreeMap;

use interlock_core::clock::WallTime;
use interlock_core::identity::{LogName, MessageNumber, NamespaceNumber};
use interlock_core::topology::Retention;

use crate::contract::{LogStorage, StorageError};

/// The part of a limit by which the logs go below it, once they are above: trims
/// are large, and seldom.
const HEADROOM_DIVISOR: u64 = 16;

/// The most messages that go of a log at once; the next look goes on behind them. What
/// the channel index has of them is in memory meanwhile, some 300 bytes for each where
/// every message has a channel of its own: about 40 MB.
const MAX_MESSAGES_AT_ONCE: u64 = 128 * 1024;

/// A log as it may be trimmed.
#[derive(Clone, Copy, Debug)]
pub struct TrimmableLog {
    /// The log.
    pub log: LogName,
    /// Its last trimmed message, or the number before its first.
    pub floor: MessageNumber,
    /// Its last durable message.
    pub durable: MessageNumber,
    /// What every other member surely holds too.
    pub held_by_all: MessageNumber,
}

/// How much of a namespace is kept.
#[derive(Clone, Copy, Debug)]
pub struct TrimLimits {
    /// The namespace.
    pub namespace: NamespaceNumber,
    /// What it wants.
    pub retention: Retention,
    /// Beyond it members' marks no longer hold a trim back; 0 is never.
    pub cap: u64,
    /// Fewer messages are left for later, unless the cap asks for them.
    pub least: u64,
}

/// What is to be trimmed.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct TrimPlan {
    /// Logs, each up to and with a message.
    pub trims: Vec<(LogName, MessageNumber)>,
    /// Of these, those that go beyond what all members hold.
    pub released: Vec<(LogName, MessageNumber)>,
}

/// Decides what of a namespace's logs is to be trimmed.
pub fn plan_trims(
    storage: &dyn LogStorage,
    now: WallTime,
    logs: &[TrimmableLog],
    limits: &TrimLimits,
) -> Result<TrimPlan, StorageError> {
    let TrimLimits { retention, cap, .. } = *limits;
    let bytes = storage.log_bytes(limits.namespace);
    let mut held_by_all: BTreeMap<LogName, MessageNumber> = BTreeMap::new();
    if retention.age_seconds > 0 {
        let cutoff = now.minus_milliseconds(retention.age_seconds.saturating_mul(1000));
        for log in logs {
            let old = storage.accepted_before(&log.log, cutoff)?;
            held_by_all.insert(log.log, old.min(log.held_by_all));
        }
    }
    if retention.bytes > 0 && bytes > retention.bytes {
        let excess = bytes - (retention.bytes - retention.bytes / HEADROOM_DIVISOR);
        for (log, m_id) in oldest(storage, now, logs, excess, |log| log.held_by_all)? {
            let old = held_by_all.entry(log).or_default();
            *old = m_id.max(*old);
        }
    }
    // The cap closes publications: room is made a little before.
    let nearly = cap - cap / HEADROOM_DIVISOR;
    let at_cap = if cap > 0 && bytes >= nearly {
        let excess = bytes - (nearly - nearly / HEADROOM_DIVISOR);
        oldest(storage, now, logs, excess, |log| log.durable)?
    } else {
        BTreeMap::new()
    };
    let mut plan = TrimPlan::default();
    for log in logs {
        let most = MessageNumber::new(log.floor.get().saturating_add(MAX_MESSAGES_AT_ONCE));
        let of = |trims: &BTreeMap<LogName, MessageNumber>| {
            trims.get(&log.log).map_or(log.floor, |through| most.min(*through))
        };
        let (held_by_all, at_cap) = (of(&held_by_all), of(&at_cap));
        let through = held_by_all.max(at_cap);
        let is_worth_it = at_cap > log.floor
            || through.since(log.floor) >= limits.least
            || through == log.durable;
        if through > log.floor && is_worth_it {
            plan.trims.push((log.log, through));
        }
        if at_cap > log.floor.max(log.held_by_all) {
            plan.released.push((log.log, at_cap));
        }
    }
    Ok(plan)
}

/// The oldest messages of all logs together that take so many bytes, by halving the
/// age at which they end. Where many have one age, because they came together, only
/// as many of those go as are needed. `bound` says how far each log may go.
fn oldest(
    storage: &dyn LogStorage,
    now: WallTime,
    logs: &[TrimmableLog],
    excess: u64,
    bound: impl Fn(&TrimmableLog) -> MessageNumber,
) -> Result<BTreeMap<LogName, MessageNumber>, StorageError> {
    let at = |cutoff: WallTime| -> Result<Aged, StorageError> {
        let mut aged = Aged::default();
        for log in logs {
            let through = storage.accepted_before(&log.log, cutoff)?.min(bound(log));
            if through > log.floor {
                aged.bytes += storage.bytes_through(&log.log, through)?;
                aged.logs.insert(log.log, through);
            }
        }
        Ok(aged)
    };
    // All that is kept had been accepted by then, wherever the clock stood.
    let mut enough = at(WallTime::new(u64::MAX))?;
    if enough.bytes <= excess {
        return Ok(enough.logs);
    }
    let mut too_little = Aged::default();
    let (mut low, mut high) = (0, now.get().saturating_add(MAX_CLOCK_LEAD_MILLISECONDS));
    while low < high {
        let middle = low + (high - low) / 2;
        let aged = at(WallTime::new(middle))?;
        if aged.bytes >= excess {
            enough = aged;
            high = middle;
        } else {
            too_little = aged;
            low = middle + 1;
        }
    }
    let Aged { bytes, logs: mut trims } = too_little;
    let mut missing = excess - bytes;
    for (log, end) in enough.logs {
        if missing == 0 {
            break;
        }
        let floor = logs.iter().find(|held| held.log == log).map(|held| held.floor);
        let from = trims.get(&log).copied().or(floor).unwrap_or_default();
        let (through, taken) = first_bytes(storage, &log, from, end, missing)?;
        missing = missing.saturating_sub(taken);
        trims.insert(log, through);
    }
    Ok(trims)
}

/// Messages up to an age, by log.
#[derive(Debug, Default)]
struct Aged {
    bytes: u64,
    logs: BTreeMap<LogName, MessageNumber>,
}

/// How far a log goes on from a message for so many bytes, at most to an end; and the
/// bytes that are taken so.
fn first_bytes(
    storage: &dyn LogStorage,
    log: &LogName,
    from: MessageNumber,
    end: MessageNumber,
    bytes: u64,
) -> Result<(MessageNumber, u64), StorageError> {
    if from >= end {
        return Ok((from, 0));
    }
    let before = storage.bytes_through(log, from)?;
    let taken = |m_id: MessageNumber| Ok(storage.bytes_through(log, m_id)?.saturating_sub(before));
    let (mut low, mut high) = (from.next().get(), end.get());
    while low < high {
        let middle = low + (high - low) / 2;
        if taken(MessageNumber::new(middle))? >= bytes { high = middle } else { low = middle + 1 }
    }
    let through = MessageNumber::new(low);
    Ok((through, taken(through)?))
}

/// How far ahead of this clock a kept time is looked for: a clock that was set back
/// by a day.
const MAX_CLOCK_LEAD_MILLISECONDS: u64 = 24 * 60 * 60 * 1000;

#[cfg(test)]
mod tests;
