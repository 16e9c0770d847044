//! Trims the logs of each namespace by its retention: what is too old, and the
//! oldest of what is too much, as far as every member holds it durably.
//!
//! At the namespace's cap a namespace that prefers to go on lets go of what a
//! member that is behind has not got yet; that member gets the channels and a
//! declared hole instead. All others refuse publications then (`space_watch`).

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use interlock_core::clock::WallTime;
use interlock_core::identity::{LogName, MessageNumber, NamespaceNumber, NodeNumber};
use interlock_core::topology::{Namespace, Retention, Topology, WhenFull};
use interlock_storage::{LogStorage, StorageError};

use crate::alarms::AlarmKind;
use crate::context::NodeContext;
use crate::projector::ProjectorWork;
use crate::space_watch::cap_of;
use crate::stored_messages::on_disk;
use crate::tasks::until_set;

/// How often the logs are looked at.
const INTERVAL: Duration = Duration::from_secs(1);
/// A trim that takes fewer messages waits, for each is a durable write of its own.
const LEAST_MESSAGES: u64 = 256;
/// Until so many looks have passed: then what little there is goes too.
const LOOKS_UNTIL_SMALL_TRIMS: u64 = 60;
/// The part of a limit by which the logs go below it, once they are above: trims
/// are large, and seldom.
const HEADROOM_DIVISOR: u64 = 16;

/// Trims until the node ends.
pub async fn trim_by_retention(context: Arc<NodeContext>) {
    let mut ending = context.tasks.ending();
    let mut looks = 0_u64;
    loop {
        looks += 1;
        let least = if looks.is_multiple_of(LOOKS_UNTIL_SMALL_TRIMS) { 1 } else { LEAST_MESSAGES };
        if let Err(error) = look(&context, least).await {
            tracing::warn!(%error, "what may be trimmed cannot be read");
        }
        tokio::select! {
            () = tokio::time::sleep(INTERVAL) => {}
            () = until_set(&mut ending) => return,
        }
    }
}

async fn look(context: &NodeContext, least: u64) -> Result<(), StorageError> {
    let topology = context.topology.current();
    let mut trims = Vec::new();
    for number in topology.namespaces_of(context.me().node) {
        if let Some(namespace) = topology.namespace(number) {
            trims.extend(trims_of(context, &topology, namespace, least).await?);
        }
    }
    if !trims.is_empty() {
        // The projector ends after the tasks.
        let _ = context.projector.push(ProjectorWork::Trim(trims));
    }
    Ok(())
}

async fn trims_of(
    context: &NodeContext,
    topology: &Topology,
    namespace: &Namespace,
    least: u64,
) -> Result<Vec<(LogName, MessageNumber)>, StorageError> {
    let cap = cap_of(context, namespace);
    let releases = namespace.retention.when_full == WhenFull::Release && cap > 0;
    if namespace.retention == Retention::default() && !releases {
        return Ok(Vec::new());
    }
    let others: Vec<NodeNumber> = topology
        .members(namespace.number)
        .into_iter()
        .map(|member| member.number)
        .filter(|member| *member != context.me().node)
        .collect();
    let held = context.durable.logs(|log| log.namespace == namespace.number);
    let logs: Vec<HeldLog> = held
        .into_iter()
        .map(|log| HeldLog {
            log: log.row.log,
            floor: log.floor.max(log.row.first_m_id().previous()),
            durable: log.durable.m_id,
            held_by_all: context
                .hub
                .held_by_all(&log.row.log, others.iter().copied())
                .unwrap_or(log.durable.m_id)
                .min(log.durable.m_id),
        })
        .collect();
    let limits = Limits {
        namespace: namespace.number,
        retention: namespace.retention,
        cap: if releases { cap } else { 0 },
        least,
    };
    let now = context.clock.wall();
    let all_have_the_rest = logs.iter().all(|log| log.held_by_all >= log.floor);
    let plan = on_disk(&context.storage, move |storage| plan(storage, now, &logs, &limits));
    let Plan { trims, released } = plan.await?;
    if !released.is_empty() {
        tell_released(context, topology, namespace, &released);
    } else if all_have_the_rest {
        context.alarms.clear(AlarmKind::QueueReleased, namespace.name.as_str());
    }
    Ok(trims)
}

/// Says whose queue is let go of. It stays said until all have come past the hole.
fn tell_released(
    context: &NodeContext,
    topology: &Topology,
    namespace: &Namespace,
    released: &[(LogName, MessageNumber)],
) {
    let behind: BTreeSet<String> = topology
        .members(namespace.number)
        .into_iter()
        .filter(|member| {
            member.number != context.me().node
                && released.iter().any(|(log, through)| {
                    context.hub.held_by_all(log, [member.number]).unwrap_or_default() < *through
                })
        })
        .map(|member| member.name.to_string())
        .collect();
    if behind.is_empty() {
        return;
    }
    let who = behind.into_iter().collect::<Vec<_>>().join(", ");
    let detail = format!("messages that {who} had not acknowledged were let go of at the cap");
    let (now, subject) = (context.clock.wall(), namespace.name.as_str());
    context.alarms.raise(now, AlarmKind::QueueReleased, subject, &detail);
}

/// A log as it may be trimmed.
#[derive(Clone, Copy, Debug)]
struct HeldLog {
    log: LogName,
    floor: MessageNumber,
    durable: MessageNumber,
    /// What every other member surely holds too.
    held_by_all: MessageNumber,
}

#[derive(Clone, Copy, Debug)]
struct Limits {
    namespace: NamespaceNumber,
    retention: Retention,
    /// Beyond it members' marks no longer hold a trim back; 0 is never.
    cap: u64,
    /// Fewer messages are left for later.
    least: u64,
}

/// What is to be trimmed.
#[derive(Debug, Default, PartialEq, Eq)]
struct Plan {
    trims: Vec<(LogName, MessageNumber)>,
    /// Of these, those that go beyond what all members hold.
    released: Vec<(LogName, MessageNumber)>,
}

fn plan(
    storage: &dyn LogStorage,
    now: WallTime,
    logs: &[HeldLog],
    limits: &Limits,
) -> Result<Plan, StorageError> {
    let Limits { retention, cap, .. } = *limits;
    let bytes = storage.log_bytes(limits.namespace);
    let mut through: BTreeMap<LogName, MessageNumber> = BTreeMap::new();
    let mut note = |log: LogName, m_id: MessageNumber| {
        let highest = through.entry(log).or_default();
        *highest = m_id.max(*highest);
    };
    if retention.age_seconds > 0 {
        let cutoff = now.minus_milliseconds(retention.age_seconds.saturating_mul(1000));
        for log in logs {
            let old = storage.accepted_before(&log.log, cutoff)?;
            note(log.log, old.min(log.held_by_all));
        }
    }
    if retention.bytes > 0 && bytes > retention.bytes {
        let excess = bytes - (retention.bytes - retention.bytes / HEADROOM_DIVISOR);
        for (log, m_id) in oldest(storage, now, logs, excess, |log| log.held_by_all)? {
            note(log, m_id);
        }
    }
    let mut plan = Plan::default();
    // The cap closes publications: room is made a little before.
    let nearly = cap - cap / HEADROOM_DIVISOR;
    if cap > 0 && bytes >= nearly {
        let excess = bytes - (nearly - nearly / HEADROOM_DIVISOR);
        for (log, m_id) in oldest(storage, now, logs, excess, |log| log.durable)? {
            note(log, m_id);
        }
    }
    for log in logs {
        let Some(through) = through.get(&log.log).copied() else { continue };
        let is_worth_it = through.since(log.floor) >= limits.least || through == log.durable;
        if through > log.floor && is_worth_it {
            plan.trims.push((log.log, through));
            if through > log.held_by_all {
                plan.released.push((log.log, through));
            }
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
    logs: &[HeldLog],
    excess: u64,
    bound: impl Fn(&HeldLog) -> MessageNumber,
) -> Result<Vec<(LogName, MessageNumber)>, StorageError> {
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
        return Ok(enough.logs.into_iter().collect());
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
    Ok(trims.into_iter().collect())
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
