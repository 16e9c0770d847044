//! Trims the logs of each namespace by its retention: what is too old, and the
//! oldest of what is too much, as far as every member holds it durably.
//!
//! At the namespace's cap a namespace that prefers to go on lets go of what a
//! member that is behind has not got yet; that member gets the channels and a
//! declared hole instead. All others refuse publications then (`space_watch`).

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use interlock_core::identity::{LogName, MessageNumber, NodeNumber};
use interlock_core::topology::{Namespace, Retention, Topology, WhenFull};
use interlock_storage::StorageError;
use interlock_storage::retention::{TrimLimits, TrimPlan, TrimmableLog, plan_trims};

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
    // What was let go of stays said after the namespace prefers otherwise.
    let is_told = context.alarms.is_up(AlarmKind::QueueReleased, namespace.name.as_str());
    if namespace.retention == Retention::default() && !releases && !is_told {
        return Ok(Vec::new());
    }
    let others: Vec<NodeNumber> = topology
        .members(namespace.number)
        .into_iter()
        .map(|member| member.number)
        .filter(|member| *member != context.me().node)
        .collect();
    let held = context.durable.logs(|log| log.namespace == namespace.number);
    let mut all_have_the_rest = true;
    let mut logs = Vec::with_capacity(held.len());
    for log in held {
        let held_by_all = context
            .hub
            .held_by_all(&log.row.log, others.iter().copied())
            .unwrap_or(log.durable.m_id)
            .min(log.durable.m_id);
        all_have_the_rest &= held_by_all >= log.last_missing;
        logs.push(TrimmableLog {
            log: log.row.log,
            floor: log.trimmed.max(log.row.first_m_id().previous()),
            durable: log.durable.m_id,
            held_by_all,
        });
    }
    let limits = TrimLimits {
        namespace: namespace.number,
        retention: namespace.retention,
        cap: if releases { cap } else { 0 },
        least,
    };
    let now = context.clock.wall();
    let plan = on_disk(&context.storage, move |storage| plan_trims(storage, now, &logs, &limits));
    let TrimPlan { trims, released } = plan.await?;
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
