//! Publishers that wait until other members hold what they published.

use std::collections::BTreeSet;
use std::time::Duration;

use interlock_core::clock::Moment;
use interlock_core::identity::{MessageName, NamespaceNumber, NodeNumber};

use crate::history::Record;
use crate::requests::{Level, Reply, ReplyBody};

use super::Process;
use super::messages::Output;

/// How long a publisher waits for other members.
const LEVEL_DEADLINE: Duration = Duration::from_secs(2);

/// A publisher that waits for other members.
pub(super) struct Waiter {
    pub(super) reply: Reply,
    pub(super) level: Level,
    pub(super) others: BTreeSet<NodeNumber>,
    pub(super) names: Vec<MessageName>,
    pub(super) deadline: Moment,
}

impl Process {
    pub(super) fn reply(&mut self, reply: Reply, level: Option<Level>) {
        let level = level.filter(|level| *level != Level::Local);
        let (Some(level), ReplyBody::Published { stored, .. }) = (level, &reply.body) else {
            return self.outputs.push(Output::Reply(reply));
        };
        let names: Vec<MessageName> = stored.iter().filter_map(|stored| stored.name).collect();
        let Some(first) = names.first() else {
            return self.outputs.push(Output::Reply(reply));
        };
        let others = self.other_members(first.log.namespace);
        let deadline = self.now + LEVEL_DEADLINE;
        self.waiters.push(Waiter { reply, level, others, names, deadline });
    }

    pub(super) fn other_members(&self, namespace: NamespaceNumber) -> BTreeSet<NodeNumber> {
        let members = self.topology.members(namespace).into_iter().map(|member| member.number);
        members.filter(|member| *member != self.me.opening.node).collect()
    }

    /// Answers the publishers whose level is reached, or whose time is over.
    pub(super) fn check_waiters(&mut self) {
        for mut waiter in std::mem::take(&mut self.waiters) {
            let holders = waiter.names.iter().map(|name| {
                let holders = self.facts.holders(&name.log, name.m_id);
                holders.intersection(&waiter.others).count()
            });
            let peers = holders.min().unwrap_or_default();
            let namespace = waiter.names.first().map(|name| name.log.namespace);
            let is_still_member =
                |other: NodeNumber| namespace.is_some_and(|it| self.topology.is_member(other, it));
            let wanted = match waiter.level {
                Level::Local => 0,
                Level::Peers(peers) => peers,
                // Members that have left since are not waited for.
                Level::All => waiter.others.iter().filter(|it| is_still_member(**it)).count(),
            };
            let is_reached = peers >= wanted;
            if is_reached {
                for name in waiter.names {
                    let machine = self.machine;
                    self.outputs.push(Output::Record(Record::HeldByPeers {
                        machine,
                        name,
                        peers: wanted,
                    }));
                }
            } else if self.now < waiter.deadline {
                self.waiters.push(waiter);
                continue;
            }
            if let ReplyBody::Published { reached, .. } = &mut waiter.reply.body {
                *reached = is_reached;
            }
            self.outputs.push(Output::Reply(waiter.reply));
        }
    }
}
