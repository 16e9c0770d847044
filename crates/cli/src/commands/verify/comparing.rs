//! What the members hold, and where they differ.

use std::collections::{BTreeMap, BTreeSet};

use anyhow::Result;
use interlock_client::v1;
use interlock_rpc::services::node;
use tonic::Code;
use tonic::transport::Channel;

use crate::commands::messages::{LogKey, log_key};
use crate::target::Target;

/// A member that answered.
pub(super) struct Member {
    pub(super) name: String,
    pub(super) number: u32,
    pub(super) incarnation: u64,
    pub(super) client: node::Client<Channel>,
    pub(super) held: v1::VerifyResponse,
}

/// A log that two members hold with different content.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Conflict {
    pub(super) log: v1::LogName,
    pub(super) one: String,
    pub(super) other: String,
    /// The first message that differs; `None` where the hashes before it are no
    /// longer kept.
    pub(super) first: Option<u64>,
    /// Where the difference was seen.
    pub(super) seen_at: u64,
}

/// A member whose channels differ though its logs are those of others.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Divergence {
    pub(super) namespace: u32,
    pub(super) members: Vec<String>,
}

/// Asks every push-node of the context; who did not answer, and why.
pub(super) async fn ask(
    target: &Target,
    namespace: Option<&str>,
) -> Result<(Vec<Member>, Vec<String>)> {
    let mut members = Vec::new();
    let mut failures = Vec::new();
    for region in target.mesh.regions() {
        for (address, mut client) in target.mesh.nodes(region)? {
            let request = v1::VerifyRequest {
                namespace: namespace.unwrap_or_default().to_owned(),
                points: Vec::new(),
            };
            let status = client.get_status(v1::GetStatusRequest { brief: true }).await;
            let member = status.ok().and_then(|status| status.into_inner().member);
            let member = member.unwrap_or_default();
            let (number, incarnation) = (member.node, member.incarnation);
            let name = if member.name.is_empty() { address } else { member.name };
            match client.verify(request).await {
                Ok(held) => {
                    let held = held.into_inner();
                    members.push(Member { name, number, incarnation, client, held });
                }
                // No member knows more of it than this one.
                Err(status) if status.code() == Code::NotFound => return Err(status.into()),
                Err(status) => failures.push(format!("{name} in {region}: {}", status.message())),
            }
        }
    }
    Ok((members, failures))
}

pub(super) fn marks(member: &Member) -> BTreeMap<LogKey, v1::LogMark> {
    let marks = member.held.logs.iter();
    marks.filter_map(|mark| Some((log_key(mark.log?), mark.clone()))).collect()
}

/// How far each log goes at the member that has most of it.
pub(super) fn ends(members: &[Member]) -> BTreeMap<LogKey, u64> {
    let mut ends: BTreeMap<LogKey, u64> = BTreeMap::new();
    for (log, mark) in members.iter().flat_map(marks) {
        let end = ends.entry(log).or_default();
        *end = mark.m_id.max(*end);
    }
    ends
}

/// How many logs each member has not got to these ends.
pub(super) fn behind(members: &[Member], ends: &BTreeMap<LogKey, u64>) -> Vec<(String, usize)> {
    let lacks = |member: &Member| {
        let held = marks(member);
        let namespaces: BTreeSet<u32> =
            member.held.namespaces.iter().map(|digest| digest.namespace).collect();
        let is_its = |log: &LogKey| namespaces.contains(&log.0);
        ends.iter()
            .filter(|(log, end)| is_its(log) && held.get(*log).map_or(0, |mark| mark.m_id) < **end)
            .count()
    };
    let counted = members.iter().map(|member| (member.name.clone(), lacks(member)));
    counted.filter(|(_, logs)| *logs > 0).collect()
}

/// Namespaces in which members with equal tips have different channels.
pub(super) fn divergences(members: &[Member]) -> Vec<Divergence> {
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
pub(super) async fn conflicts(members: &mut [Member]) -> Result<Vec<Conflict>> {
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
pub(super) async fn differs(
    one: &mut Member,
    other: &mut Member,
    log: v1::LogName,
    m_id: u64,
) -> Result<Option<bool>> {
    let (one, other) = (hash_at(one, log, m_id).await?, hash_at(other, log, m_id).await?);
    Ok(one.zip(other).map(|(one, other)| one != other))
}

pub(super) async fn hash_at(
    member: &mut Member,
    log: v1::LogName,
    m_id: u64,
) -> Result<Option<Vec<u8>>> {
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
pub(super) async fn first_difference(
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
