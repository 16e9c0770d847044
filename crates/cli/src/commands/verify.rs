//! `interlock verify`: whether all members of a namespace hold the same, and what to do
//! where they do not.

mod comparing;
mod repairing;

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use anyhow::Result;
use interlock_client::v1;
use serde_json::{Value, json};
use tokio::time::Instant;

use crate::commands::messages::{LogKey, incarnation};
use crate::commands::verify::comparing::{
    Conflict, Divergence, Member, ask, behind, conflicts, divergences, ends,
};
use crate::commands::verify::repairing::{Repaired, Repairs, repair};
use crate::exit::Differs;
use crate::output::print;
use crate::target::Target;

/// Between two looks at what is under way.
const LOOK: Duration = Duration::from_millis(500);
/// How long what a repair has set going is followed.
const SETTLES_WITHIN: Duration = Duration::from_secs(60);

#[derive(clap::Args)]
pub(crate) struct Arguments {
    /// The namespace; all of them unless given.
    namespace: Option<String>,
    /// Where members hold a log with two contents, make one hold everywhere: its
    /// origin's. What the others had comes back under their own names, marked as
    /// possibly repeated.
    #[arg(long)]
    repair: bool,
    /// Only say what a repair would do.
    #[arg(long, requires = "repair")]
    dry_run: bool,
    /// The member whose content holds where a log's origin does not answer.
    #[arg(long, requires = "repair", value_name = "MEMBER")]
    keep: Option<String>,
}

/// What was found.
struct Findings {
    members: Vec<Member>,
    unreachable: Vec<String>,
    behind: Vec<(String, usize)>,
    divergences: Vec<Divergence>,
    conflicts: Vec<Conflict>,
}

async fn look(target: &Target, namespace: Option<&str>) -> Result<Findings> {
    let (mut members, unreachable) = ask(target, namespace).await?;
    let behind = behind(&members, &ends(&members));
    let mut divergences = divergences(&members);
    if !divergences.is_empty() {
        // Marks and channels are not read at one moment: what is only under way is
        // gone at the next look.
        let (again, _) = ask(target, namespace).await?;
        let still = self::divergences(&again);
        divergences.retain(|seen| still.iter().any(|it| it.namespace == seen.namespace));
    }
    let conflicts = conflicts(&mut members).await?;
    Ok(Findings { members, unreachable, behind, divergences, conflicts })
}

/// Looks again until every member has the repaired logs as far as they went at first, and
/// the channels go with them: all else may have traffic and never come to rest.
async fn look_when_settled(
    target: &Target,
    namespace: Option<&str>,
    repaired: &BTreeSet<LogKey>,
) -> Result<Findings> {
    let deadline = Instant::now() + SETTLES_WITHIN;
    let mut findings = look(target, namespace).await?;
    let mut ends = ends(&findings.members);
    ends.retain(|log, _| repaired.contains(log));
    let is_touched = |namespace: u32| repaired.iter().any(|(touched, ..)| *touched == namespace);
    loop {
        let moves = !behind(&findings.members, &ends).is_empty()
            || findings.divergences.iter().any(|it| is_touched(it.namespace));
        if !moves || !findings.conflicts.is_empty() || Instant::now() >= deadline {
            return Ok(findings);
        }
        tokio::time::sleep(LOOK).await;
        findings = look(target, namespace).await?;
    }
}

pub(crate) async fn run(target: &Target, arguments: &Arguments) -> Result<()> {
    let namespace = arguments.namespace.as_deref();
    let mut findings = look(target, namespace).await?;
    let mut repairs = Repairs::default();
    if arguments.repair {
        let keep = arguments.keep.as_deref();
        while !findings.conflicts.is_empty() && repairs.has_another_round() {
            let Findings { members, conflicts, .. } = &mut findings;
            repair(members, conflicts, keep, arguments.dry_run, &mut repairs).await?;
            if arguments.dry_run || repairs.is_stuck() {
                break;
            }
            findings = look_when_settled(target, namespace, &repairs.logs()).await?;
        }
    }
    let names = names(target).await;
    print(target.format, &value(&findings, &repairs, &names), || {
        text(&findings, &repairs, &names)
    })?;
    let wrong = findings.conflicts.len() + findings.divergences.len();
    if wrong > 0 {
        return Err(Differs(format!("{wrong} differences between members")).into());
    }
    if !repairs.not_repaired.is_empty() {
        let text = format!("{} repairs are not done yet", repairs.not_repaired.len());
        return Err(tonic::Status::deadline_exceeded(text).into());
    }
    if !findings.unreachable.is_empty() {
        let text = format!("{} members were not compared", findings.unreachable.len());
        return Err(tonic::Status::unavailable(text).into());
    }
    Ok(())
}

fn value(findings: &Findings, repairs: &Repairs, names: &BTreeMap<u32, String>) -> Value {
    let Findings { members, unreachable, behind, divergences, conflicts } = findings;
    json!({
        "members": members.iter().map(|member| member.name.clone()).collect::<Vec<_>>(),
        "unreachable": unreachable,
        "conflicts": conflicts.iter().map(|it| conflict_value(it, names)).collect::<Vec<_>>(),
        "different_channels": divergences.iter().map(|it| divergence_value(it, names)).collect::<Vec<_>>(),
        "behind": behind.iter().map(|(member, logs)| json!({"member": member, "logs": logs})).collect::<Vec<_>>(),
        "repaired": repairs.repaired.iter().map(|it| repaired_value(it, names)).collect::<Vec<_>>(),
        "not_repaired": repairs.not_repaired,
    })
}

fn text(findings: &Findings, repairs: &Repairs, names: &BTreeMap<u32, String>) -> String {
    let mut lines = Vec::new();
    for repaired in &repairs.repaired {
        lines.push(repaired_text(repaired, repairs.dry_run, names));
    }
    lines.extend(repairs.not_repaired.iter().cloned());
    for conflict in &findings.conflicts {
        lines.push(conflict_text(conflict, names));
    }
    for divergence in &findings.divergences {
        let namespace = name_of(divergence.namespace, names);
        lines.push(format!(
            "{namespace}: {} hold the same messages and other channels",
            divergence.members.join(", ")
        ));
    }
    for (member, logs) in &findings.behind {
        lines.push(format!("{member} is behind in {logs} logs: `interlock lag` shows how far"));
    }
    lines.extend(findings.unreachable.iter().cloned());
    if !findings.conflicts.is_empty() && repairs.is_untried() {
        lines.push("`interlock verify --repair` makes one content hold everywhere".to_owned());
    }
    if findings.conflicts.is_empty()
        && findings.divergences.is_empty()
        && findings.unreachable.is_empty()
        && findings.behind.is_empty()
    {
        lines.push(format!("{} members hold the same", findings.members.len()));
    }
    lines.join("\n")
}

/// The names of namespaces, where the control-plane tells them.
async fn names(target: &Target) -> BTreeMap<u32, String> {
    let Ok(mut client) = target.mesh.topology() else { return BTreeMap::new() };
    let Ok(response) = client.get_topology(v1::GetTopologyRequest {}).await else {
        return BTreeMap::new();
    };
    let topology = response.into_inner().topology.unwrap_or_default();
    topology.namespaces.into_iter().map(|namespace| (namespace.number, namespace.name)).collect()
}

fn name_of(namespace: u32, names: &BTreeMap<u32, String>) -> String {
    names.get(&namespace).cloned().unwrap_or_else(|| format!("namespace {namespace}"))
}

fn conflict_text(conflict: &Conflict, names: &BTreeMap<u32, String>) -> String {
    let Conflict { log, one, other, first, seen_at } = conflict;
    let place = match first {
        Some(first) => format!("from message {first} on"),
        None => format!("at message {seen_at}, and before it as far as hashes are kept"),
    };
    format!(
        "{}: the log of node {} (opening {}) differs between {one} and {other} {place}",
        name_of(log.namespace, names),
        log.origin,
        incarnation(log.incarnation)
    )
}

fn conflict_value(conflict: &Conflict, names: &BTreeMap<u32, String>) -> Value {
    json!({
        "namespace": name_of(conflict.log.namespace, names),
        "origin": conflict.log.origin,
        "incarnation": incarnation(conflict.log.incarnation),
        "members": [conflict.one, conflict.other],
        "first_m_id": conflict.first,
        "seen_at_m_id": conflict.seen_at,
    })
}

fn divergence_value(divergence: &Divergence, names: &BTreeMap<u32, String>) -> Value {
    json!({ "namespace": name_of(divergence.namespace, names), "members": divergence.members })
}

fn repaired_text(repaired: &Repaired, dry_run: bool, names: &BTreeMap<u32, String>) -> String {
    let Repaired { log, keeper, member, first, last, brought_back } = repaired;
    let (gives, publishes) = match dry_run {
        true => ("would give up", "would publish"),
        false => ("gave up", "published"),
    };
    let back = match brought_back {
        true => format!("and {publishes} them again as its own"),
        false => "which another member has too".to_owned(),
    };
    format!(
        "{}: of the log of node {} (opening {}) the content of {keeper} holds: {member} {gives} \
         messages {first} to {last}, {back}",
        name_of(log.namespace, names),
        log.origin,
        incarnation(log.incarnation)
    )
}

fn repaired_value(repaired: &Repaired, names: &BTreeMap<u32, String>) -> Value {
    json!({
        "namespace": name_of(repaired.log.namespace, names),
        "origin": repaired.log.origin,
        "incarnation": incarnation(repaired.log.incarnation),
        "content_of": repaired.keeper,
        "member": repaired.member,
        "first_m_id": repaired.first,
        "last_m_id": repaired.last,
        "brought_back": repaired.brought_back,
    })
}
