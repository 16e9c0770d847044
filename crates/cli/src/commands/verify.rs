//! `interlock verify`: whether all members of a namespace hold the same.

use std::collections::{BTreeMap, BTreeSet};

use anyhow::Result;
use interlock_client::v1;
use interlock_rpc::services::node;
use serde_json::{Value, json};
use tonic::Code;
use tonic::transport::Channel;

use crate::commands::messages::incarnation;
use crate::exit::Differs;
use crate::output::print;
use crate::target::Target;

#[derive(clap::Args)]
pub(crate) struct Arguments {
    /// The namespace; all of them unless given.
    namespace: Option<String>,
}

/// A member that answered.
struct Member {
    name: String,
    client: node::Client<Channel>,
    held: v1::VerifyResponse,
}

/// A log as what it is called.
type LogKey = (u32, u32, u32, u64);

fn key(log: v1::LogName) -> LogKey {
    (log.namespace, log.shard, log.origin, log.incarnation)
}

/// A log that two members hold with different content.
#[derive(Debug, PartialEq, Eq)]
struct Conflict {
    log: v1::LogName,
    one: String,
    other: String,
    /// The first message that differs; `None` where the hashes before it are no
    /// longer kept.
    first: Option<u64>,
    /// Where the difference was seen.
    seen_at: u64,
}

/// A member whose channels differ though its logs are those of others.
#[derive(Debug, PartialEq, Eq)]
struct Divergence {
    namespace: u32,
    members: Vec<String>,
}

pub(crate) async fn run(target: &Target, arguments: &Arguments) -> Result<()> {
    let (mut members, failures) = ask(target, arguments.namespace.as_deref()).await?;
    let behind = behind(&members);
    let mut divergences = divergences(&members);
    if !divergences.is_empty() {
        // Marks and channels are not read at one moment: what is only under way is
        // gone at the next look.
        let (again, _) = ask(target, arguments.namespace.as_deref()).await?;
        let still = self::divergences(&again);
        divergences.retain(|seen| still.iter().any(|it| it.namespace == seen.namespace));
    }
    let conflicts = conflicts(&mut members).await?;
    let names = names(target).await;
    let value = json!({
        "members": members.iter().map(|member| member.name.clone()).collect::<Vec<_>>(),
        "unreachable": failures,
        "conflicts": conflicts.iter().map(|it| conflict_value(it, &names)).collect::<Vec<_>>(),
        "different_channels": divergences.iter().map(|it| divergence_value(it, &names)).collect::<Vec<_>>(),
        "behind": behind.iter().map(|(member, logs)| json!({"member": member, "logs": logs})).collect::<Vec<_>>(),
    });
    print(target.format, &value, || {
        let mut lines = Vec::new();
        for conflict in &conflicts {
            lines.push(conflict_text(conflict, &names));
        }
        for divergence in &divergences {
            let namespace = name_of(divergence.namespace, &names);
            lines.push(format!(
                "{namespace}: {} hold the same messages and other channels",
                divergence.members.join(", ")
            ));
        }
        for (member, logs) in &behind {
            lines.push(format!("{member} is behind in {logs} logs: `interlock lag` shows how far"));
        }
        for failure in &failures {
            lines.push(failure.clone());
        }
        if lines.is_empty() {
            lines.push(format!("{} members hold the same", members.len()));
        }
        lines.join("\n")
    })?;
    let wrong = conflicts.len() + divergences.len();
    if wrong > 0 {
        return Err(Differs(format!("{wrong} differences between members")).into());
    }
    if !failures.is_empty() {
        let text = format!("{} members were not compared", failures.len());
        return Err(tonic::Status::unavailable(text).into());
    }
    Ok(())
}

/// Asks every push-node of the context; who did not answer, and why.
async fn ask(target: &Target, namespace: Option<&str>) -> Result<(Vec<Member>, Vec<String>)> {
    let mut members = Vec::new();
    let mut failures = Vec::new();
    for region in target.mesh.regions() {
        for (address, mut client) in target.mesh.nodes(region)? {
            let request = v1::VerifyRequest {
                namespace: namespace.unwrap_or_default().to_owned(),
                points: Vec::new(),
            };
            let status = client.get_status(v1::GetStatusRequest { brief: true }).await;
            let name = match status {
                Ok(status) => status.into_inner().member.unwrap_or_default().name,
                Err(_) => address.clone(),
            };
            match client.verify(request).await {
                Ok(held) => members.push(Member { name, client, held: held.into_inner() }),
                // No member knows more of it than this one.
                Err(status) if status.code() == Code::NotFound => return Err(status.into()),
                Err(status) => failures.push(format!("{name} in {region}: {}", status.message())),
            }
        }
    }
    Ok((members, failures))
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

fn marks(member: &Member) -> BTreeMap<LogKey, v1::LogMark> {
    let marks = member.held.logs.iter();
    marks.filter_map(|mark| Some((key(mark.log?), mark.clone()))).collect()
}

/// How many logs each member has not got to the end that another has.
fn behind(members: &[Member]) -> Vec<(String, usize)> {
    let mut furthest: BTreeMap<LogKey, u64> = BTreeMap::new();
    let mut namespaces: BTreeMap<&str, BTreeSet<u32>> = BTreeMap::new();
    for member in members {
        for (log, mark) in marks(member) {
            let end = furthest.entry(log).or_default();
            *end = mark.m_id.max(*end);
        }
        let held = member.held.namespaces.iter().map(|digest| digest.namespace);
        namespaces.insert(&member.name, held.collect());
    }
    let lacks = |member: &Member| {
        let held = marks(member);
        let is_its = |log: &LogKey| namespaces[member.name.as_str()].contains(&log.0);
        furthest
            .iter()
            .filter(|(log, end)| is_its(log) && held.get(*log).map_or(0, |mark| mark.m_id) < **end)
            .count()
    };
    let counted = members.iter().map(|member| (member.name.clone(), lacks(member)));
    counted.filter(|(_, logs)| *logs > 0).collect()
}

/// Namespaces in which members with equal tips have different channels.
fn divergences(members: &[Member]) -> Vec<Divergence> {
    // By namespace and tips: who holds those, with the digest of its channels.
    type Holder<'a> = (&'a str, &'a [u8]);
    let mut by_tips: BTreeMap<(u32, &[u8]), Vec<Holder<'_>>> = BTreeMap::new();
    for member in members {
        for digest in &member.held.namespaces {
            let of_tips = by_tips.entry((digest.namespace, &digest.tips)).or_default();
            of_tips.push((&member.name, &digest.state));
        }
    }
    by_tips
        .into_iter()
        .filter(|(_, states)| states.windows(2).any(|pair| pair[0].1 != pair[1].1))
        .map(|((namespace, _), states)| Divergence {
            namespace,
            members: states.into_iter().map(|(name, _)| name.to_owned()).collect(),
        })
        .collect()
}

/// Compares each member's logs with those of the members before it, at the lower of
/// both marks, and looks for the first message that differs.
async fn conflicts(members: &mut [Member]) -> Result<Vec<Conflict>> {
    let mut found = Vec::new();
    for second in 1..members.len() {
        for first in 0..second {
            let (before, after) = members.split_at_mut(second);
            let (one, other) = (&mut before[first], &mut after[0]);
            let (ours, theirs) = (marks(one), marks(other));
            for (log, mark) in &ours {
                let Some(their) = theirs.get(log) else { continue };
                let at = mark.m_id.min(their.m_id);
                if let Some(name) = mark.log
                    && differs(one, other, name, at).await? == Some(true)
                {
                    let first = first_difference(one, other, name, at).await?;
                    let (one, other) = (one.name.clone(), other.name.clone());
                    found.push(Conflict { log: name, one, other, first, seen_at: at });
                }
            }
        }
    }
    Ok(found)
}

/// Whether two members' chain hashes at a message differ; `None` where one of them
/// does not know it.
async fn differs(
    one: &mut Member,
    other: &mut Member,
    log: v1::LogName,
    m_id: u64,
) -> Result<Option<bool>> {
    let (one, other) = (hash_at(one, log, m_id).await?, hash_at(other, log, m_id).await?);
    Ok(one.zip(other).map(|(one, other)| one != other))
}

async fn hash_at(member: &mut Member, log: v1::LogName, m_id: u64) -> Result<Option<Vec<u8>>> {
    let own = member.held.logs.iter().find(|mark| mark.log == Some(log) && mark.m_id == m_id);
    if let Some(mark) = own {
        return Ok(Some(mark.hash.to_vec()));
    }
    let point = v1::LogMark { log: Some(log), m_id, ..Default::default() };
    let request = v1::VerifyRequest { points: vec![point], ..Default::default() };
    let response = member.client.verify(request).await?.into_inner();
    Ok(response.points.into_iter().next().map(|point| point.hash.to_vec()))
}

/// A chain differs from the first message that differs on: halving finds it.
async fn first_difference(
    one: &mut Member,
    other: &mut Member,
    log: v1::LogName,
    seen_at: u64,
) -> Result<Option<u64>> {
    let (mut low, mut high) = (1, seen_at);
    let mut is_sure = true;
    while low < high {
        let middle = low + (high - low) / 2;
        match differs(one, other, log, middle).await? {
            Some(true) => high = middle,
            Some(false) => low = middle + 1,
            // Trimmed, or before the log's first: what is behind it is looked at.
            None => {
                is_sure = false;
                low = middle + 1;
            }
        }
    }
    let before = if high > 1 { differs(one, other, log, high - 1).await? } else { Some(false) };
    Ok((is_sure || before == Some(false)).then_some(high))
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
