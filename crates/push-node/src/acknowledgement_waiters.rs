//! Levels of acknowledgement beyond LOCAL: waits until enough members hold a
//! message durably, at most until the caller's deadline, and says who does.

use std::collections::BTreeSet;
use std::sync::Arc;

use interlock_core::identity::{MessageName, NamespaceNumber, NodeNumber};
use interlock_core::topology::Topology;
use interlock_rpc::convert::publish::Durability;
use interlock_rpc::status::{PublishOutcome, Reason, refusal};
use tokio::time::Instant;
use tonic::Status;

use crate::replication_hub::ReplicationHub;

/// A level that a call asks for in a namespace. Which members it means is said by
/// the topology that each message is stamped with.
#[derive(Clone, Copy, Debug)]
pub struct Requirement {
    level: Durability,
    namespace: NamespaceNumber,
    me: NodeNumber,
}

/// What was reached.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Reached {
    /// Whether that is what was asked for.
    pub satisfied: bool,
    /// The nodes where the message is durable, by name; this one first.
    pub durable_at: Vec<String>,
}

impl Requirement {
    /// What a call asks for at a node.
    pub const fn new(level: Durability, namespace: NamespaceNumber, me: NodeNumber) -> Self {
        Self { level, namespace, me }
    }

    /// Refuses, before anything is stored, what more members would be needed for.
    pub fn check(&self, topology: &Topology) -> Result<(), Status> {
        let Durability::Peers(count) = self.level else { return Ok(()) };
        let others = self.others(topology).len();
        if count as usize <= others {
            return Ok(());
        }
        let text = format!("{count} other members were asked for and there are {others}");
        Err(refusal(Reason::TooFewMembers, text).outcome(&PublishOutcome::not_stored()).into())
    }

    fn others(&self, topology: &Topology) -> BTreeSet<NodeNumber> {
        let members = topology.members(self.namespace).into_iter();
        members.map(|member| member.number).filter(|member| *member != self.me).collect()
    }

    /// Whether durable here is enough.
    pub fn is_local(&self) -> bool {
        self.level == Durability::Local
    }

    /// Waits until a message that is durable here is durable everywhere asked
    /// for: at the members by the topology that it is `stamped` with, those that
    /// still are. Later messages of one log hold whenever an earlier wait for them
    /// has.
    pub async fn wait(
        &self,
        hub: &Arc<ReplicationHub>,
        name: &MessageName,
        stamped: &Topology,
        current: impl Fn() -> Arc<Topology>,
        deadline: Instant,
    ) -> Reached {
        let others = self.others(stamped);
        if self.is_local() {
            return self.reached(hub, name, &others, &current());
        }
        let mut facts = hub.await_facts();
        loop {
            let reached = self.reached(hub, name, &others, &current());
            if reached.satisfied {
                return reached;
            }
            tokio::select! {
                () = facts.changed() => {}
                () = tokio::time::sleep_until(deadline) => {
                    return self.reached(hub, name, &others, &current());
                }
            }
        }
    }

    fn reached(
        &self,
        hub: &ReplicationHub,
        name: &MessageName,
        others: &BTreeSet<NodeNumber>,
        current: &Topology,
    ) -> Reached {
        let holders: BTreeSet<NodeNumber> = hub
            .holders(&name.log, name.m_id)
            .into_iter()
            .filter(|holder| others.contains(holder))
            .collect();
        let satisfied = match self.level {
            Durability::Local => true,
            Durability::Peers(count) => holders.len() >= count as usize,
            // Members that have left since are not waited for.
            Durability::All => others
                .iter()
                .filter(|member| current.is_member(**member, name.log.namespace))
                .all(|member| holders.contains(member)),
        };
        let names = std::iter::once(self.me).chain(holders).map(|node| {
            current.node(node).map_or_else(|| node.to_string(), |node| node.name.to_string())
        });
        Reached { satisfied, durable_at: names.collect() }
    }
}

/// The answer to a call whose deadline came before its durability.
pub fn deadline_status(reached: &Reached, name: &MessageName, with_session: bool) -> Status {
    let text = format!(
        "message {name} is stored and durable at {}; the deadline came before the rest",
        reached.durable_at.join(", ")
    );
    refusal(Reason::DurabilityTimeout, text)
        .with("message", name)
        .outcome(&PublishOutcome::stored(reached.durable_at.clone(), with_session))
        .into()
}
