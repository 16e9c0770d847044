//! `--repair`: where members hold a log with two contents, the origin's is made to hold
//! everywhere (docs/runbook/content-conflict.md). The members that hold another one take
//! its end off and get the origin's as they get anything; what they had and nobody else
//! has, one of them publishes again as its own.

use std::collections::{BTreeMap, BTreeSet};
use std::io::IsTerminal as _;
use std::time::Duration;

use anyhow::Result;
use bytes::Bytes;
use indicatif::ProgressBar;
use interlock_client::v1;
use tokio::time::Instant;

use super::comparing::{Conflict, Member, differs, first_difference, hash_at, marks};
use crate::commands::messages::{LogKey, log_key};

/// While one member is repaired, another that is still to be may give it back what it
/// gave up: then it is done once more.
const ROUNDS: usize = 5;
/// Between two looks at a member that opens its database anew.
const LOOK: Duration = Duration::from_millis(200);
/// Without any news for so long, a member is waited for no longer.
const PATIENCE: Duration = Duration::from_secs(60);

/// What a member gave up of a log.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Repaired {
    pub(super) log: v1::LogName,
    pub(super) keeper: String,
    pub(super) member: String,
    pub(super) first: u64,
    pub(super) last: u64,
    pub(super) brought_back: bool,
}

/// What was done so far.
#[derive(Debug, Default)]
pub(super) struct Repairs {
    pub(super) repaired: Vec<Repaired>,
    /// What could not be, a sentence each.
    pub(super) not_repaired: Vec<String>,
    pub(super) dry_run: bool,
    rounds: usize,
    /// How many were repaired in the last round.
    in_round: usize,
    /// With what the logs ended that were brought back.
    ends_brought_back: Vec<v1::LogMark>,
}

impl Repairs {
    pub(super) fn has_another_round(&self) -> bool {
        self.rounds < ROUNDS
    }

    /// Whether nothing could be repaired. Where nothing had to be, somebody else has.
    pub(super) fn is_stuck(&self) -> bool {
        self.in_round == 0 && !self.not_repaired.is_empty()
    }

    /// The logs of which something was given up.
    pub(super) fn logs(&self) -> BTreeSet<LogKey> {
        self.repaired.iter().map(|repaired| log_key(repaired.log)).collect()
    }

    pub(super) fn is_untried(&self) -> bool {
        self.rounds == 0
    }

    /// Whether an earlier round has brought back exactly what ends so: with the same
    /// hash there, all before is the same.
    fn has_brought_back(&self, last: &v1::LogMark) -> bool {
        self.ends_brought_back.contains(last)
    }
}

/// One round: all members that hold another content than a log's keeper give it up.
pub(super) async fn repair(
    members: &mut [Member],
    conflicts: &[Conflict],
    keep: Option<&str>,
    dry_run: bool,
    repairs: &mut Repairs,
) -> Result<()> {
    repairs.rounds += 1;
    repairs.in_round = 0;
    repairs.dry_run = dry_run;
    repairs.not_repaired.clear();
    // By member: what it keeps of each log, and whose content takes the place.
    let mut cuts: BTreeMap<usize, Vec<v1::LogMark>> = BTreeMap::new();
    let mut keepers: BTreeMap<LogKey, String> = BTreeMap::new();
    let logs: BTreeMap<LogKey, v1::LogName> =
        conflicts.iter().map(|conflict| (log_key(conflict.log), conflict.log)).collect();
    for log in logs.into_values() {
        let seen = conflicts.iter().filter(|conflict| conflict.log == log);
        let seen_at = seen.map(|conflict| conflict.seen_at).max().unwrap_or_default();
        let Some(keeper) = keeper_of(members, log, seen_at, keep).await? else {
            repairs.not_repaired.push(format!(
                "node {}, whose log it is, does not answer or has not got it as far as message \
                 {seen_at}: name the member whose content is to hold with --keep, one that has",
                log.origin
            ));
            continue;
        };
        keepers.insert(log_key(log), members[keeper].name.clone());
        for member in 0..members.len() {
            match kept_by(members, log, keeper, member).await? {
                Kept::All => {}
                Kept::Through(mark) => cuts.entry(member).or_default().push(mark),
                Kept::Unknown => repairs.not_repaired.push(format!(
                    "{} has trimmed the log beyond the first message that differs: start it with \
                     an empty data folder, and it takes everything from the others",
                    members[member].name
                )),
            }
        }
    }
    let planned = look_what_is_taken(members, &cuts, repairs).await;
    let brought_back = choose_who_brings_back(members, &planned, repairs).await?;
    let mut asked = Vec::new();
    for (member, mut taken) in planned {
        let back: Vec<v1::LogName> =
            brought_back.iter().filter(|(by, _)| *by == member).map(|(_, log)| *log).collect();
        if !dry_run {
            let request = v1::RepairRequest {
                repair_id: Bytes::copy_from_slice(&rand::random::<[u8; 16]>()),
                keep: cuts[&member].clone(),
                bring_back: back.clone(),
                dry_run: false,
            };
            // It may have got more since it was asked what it would lose, or less.
            taken = match members[member].client.repair(request).await {
                Ok(answer) => answer.into_inner().taken,
                Err(status) => {
                    let text = format!("{}: {}", members[member].name, status.message());
                    repairs.not_repaired.push(text);
                    continue;
                }
            };
            // Where nothing is taken, nothing is opened anew.
            if !taken.is_empty() {
                asked.push(member);
            }
        }
        for (log, first, end) in named(&taken) {
            repairs.in_round += 1;
            let brought_back = back.contains(&log);
            if brought_back {
                repairs.ends_brought_back.push(end.clone());
            }
            repairs.repaired.push(Repaired {
                log,
                // What goes on from a log goes with it.
                keeper: keepers
                    .get(&log_key(log))
                    .cloned()
                    .unwrap_or_else(|| "the origin".to_owned()),
                member: members[member].name.clone(),
                first,
                last: end.m_id,
                brought_back,
            });
        }
    }
    for member in asked {
        let member = &members[member];
        if !is_repaired_in_time(member).await {
            repairs.not_repaired.push(format!(
                "{name} is not done yet and goes on by itself: `interlock node show {name}` says \
                 how far it is, `interlock verify` whether all hold the same",
                name = member.name
            ));
        }
    }
    Ok(())
}

/// The member whose content holds: the origin, which goes on from it; else the one that
/// was named.
///
/// Either has to have the log as far as the difference, or it could not be seen there.
async fn keeper_of(
    members: &mut [Member],
    log: v1::LogName,
    seen_at: u64,
    keep: Option<&str>,
) -> Result<Option<usize>> {
    let origin = members.iter().position(|member| member.number == log.origin);
    let named = members.iter().position(|member| keep == Some(member.name.as_str()));
    for candidate in [origin, named].into_iter().flatten() {
        if hash_at(&mut members[candidate], log, seen_at).await?.is_some() {
            return Ok(Some(candidate));
        }
    }
    Ok(None)
}

/// What a member keeps of a log.
enum Kept {
    All,
    Through(v1::LogMark),
    /// The hashes before the first difference are no longer there.
    Unknown,
}

async fn kept_by(
    members: &mut [Member],
    log: v1::LogName,
    keeper: usize,
    member: usize,
) -> Result<Kept> {
    let Ok([keeper, member]) = members.get_disjoint_mut([keeper, member]) else {
        // It is the keeper itself.
        return Ok(Kept::All);
    };
    let end = |member: &Member| marks(member).get(&log_key(log)).map(|mark| mark.m_id);
    let Some(at) = end(keeper).zip(end(member)).map(|(one, other)| one.min(other)) else {
        return Ok(Kept::All);
    };
    if differs(keeper, member, log, at).await? != Some(true) {
        return Ok(Kept::All);
    }
    let Some(first) = first_difference(keeper, member, log, at).await? else {
        return Ok(Kept::Unknown);
    };
    let m_id = first - 1;
    let hash = if m_id == 0 { None } else { hash_at(keeper, log, m_id).await? };
    let hash = Bytes::from(hash.unwrap_or_default());
    Ok(Kept::Through(v1::LogMark { log: Some(log), m_id, hash }))
}

/// What each member would lose; not those that lose nothing, because they were
/// repaired since their logs were compared.
async fn look_what_is_taken(
    members: &mut [Member],
    cuts: &BTreeMap<usize, Vec<v1::LogMark>>,
    repairs: &mut Repairs,
) -> BTreeMap<usize, Vec<v1::TakenOff>> {
    let mut all = BTreeMap::new();
    for (member, keep) in cuts {
        let request = v1::RepairRequest {
            repair_id: Bytes::from_static(&[0; 16]),
            keep: keep.clone(),
            bring_back: Vec::new(),
            dry_run: true,
        };
        match members[*member].client.repair(request).await.map(tonic::Response::into_inner) {
            Ok(answer) if answer.taken.is_empty() => {}
            Ok(answer) => _ = all.insert(*member, answer.taken),
            Err(status) => {
                let text = format!("{}: {}", members[*member].name, status.message());
                repairs.not_repaired.push(text);
            }
        }
    }
    all
}

/// What is taken of which log: the first message and the end.
fn named(taken: &[v1::TakenOff]) -> impl Iterator<Item = (v1::LogName, u64, &v1::LogMark)> {
    taken.iter().filter_map(|taken| {
        let last = taken.last.as_ref()?;
        Some((last.log?, taken.first, last))
    })
}

/// Of each log that is taken somewhere: the member that has most of it publishes it
/// again, and any other only what that one has not.
async fn choose_who_brings_back(
    members: &mut [Member],
    taken: &BTreeMap<usize, Vec<v1::TakenOff>>,
    repairs: &Repairs,
) -> Result<Vec<(usize, v1::LogName)>> {
    let mut candidates: Vec<(v1::LogName, u64, usize)> = Vec::new();
    for (member, taken) in taken {
        let new = named(taken).filter(|(_, _, end)| !repairs.has_brought_back(end));
        candidates.extend(new.map(|(log, _, end)| (log, end.m_id, *member)));
    }
    candidates.sort_by_key(|(log, last, member)| (log_key(*log), u64::MAX - last, *member));
    let mut chosen: Vec<(usize, v1::LogName)> = Vec::new();
    for (log, last, member) in candidates {
        let before: BTreeSet<usize> =
            chosen.iter().filter(|(_, of)| *of == log).map(|(by, _)| *by).collect();
        let mut is_there = false;
        for by in before {
            if let Ok([by, member]) = members.get_disjoint_mut([by, member]) {
                is_there |= differs(by, member, log, last).await? == Some(false);
            }
        }
        if !is_there {
            chosen.push((member, log));
        }
    }
    Ok(chosen)
}

/// Waits until a member has opened its database anew and has published again what it
/// gave up; false if that takes too long.
async fn is_repaired_in_time(member: &Member) -> bool {
    let bar = match std::io::stderr().is_terminal() {
        true => ProgressBar::new_spinner(),
        false => ProgressBar::hidden(),
    };
    let mut last_news = Instant::now();
    let mut left = u64::MAX;
    loop {
        let mut client = member.client.clone();
        let status = client.get_status(v1::GetStatusRequest { brief: true }).await;
        let status = status.ok().map(tonic::Response::into_inner).filter(|status| {
            status.member.as_ref().is_some_and(|it| it.incarnation != member.incarnation)
        });
        match status {
            Some(status) if status.bringing_back_messages == 0 => {
                bar.finish_and_clear();
                return true;
            }
            Some(status) => {
                let messages = status.bringing_back_messages;
                bar.set_message(format!("{} publishes {messages} messages again", member.name));
                if messages < left {
                    left = messages;
                    last_news = Instant::now();
                }
            }
            None => bar.set_message(format!("{} opens its database anew", member.name)),
        }
        bar.tick();
        if last_news.elapsed() > PATIENCE {
            bar.finish_and_clear();
            return false;
        }
        tokio::time::sleep(LOOK).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_another_operator_has_repaired_is_looked_at_again() {
        let mut repairs = Repairs::default();
        assert!(!repairs.is_stuck(), "nothing had to be done");
        repairs.not_repaired.push("b: it leaves".to_owned());
        assert!(repairs.is_stuck());
        repairs.in_round = 1;
        assert!(!repairs.is_stuck(), "the others have changed");
    }
}
