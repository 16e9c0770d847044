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

/// A level with the members that it was asked of, checked before anything is
/// stored.
#[derive(Clone, Debug)]
pub struct Requirement {
    level: Durability,
    me: NodeNumber,
    /// The other members as the message is stored.
    others: BTreeSet<NodeNumber>,
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
    /// Reads what a call asks for.
    pub fn of(
        level: Durability,
        namespace: NamespaceNumber,
        topology: &Topology,
        me: NodeNumber,
    ) -> Result<Self, Status> {
        let others: BTreeSet<NodeNumber> = topology
            .members(namespace)
            .into_iter()
            .map(|member| member.number)
            .filter(|member| *member != me)
            .collect();
        if let Durability::Peers(count) = level
            && count as usize > others.len()
        {
            let text =
                format!("{count} other members were asked for and there are {}", others.len());
            return Err(refusal(Reason::TooFewMembers, text)
                .outcome(&PublishOutcome::not_stored())
                .into());
        }
        Ok(Self { level, me, others })
    }

    /// Whether durable here is enough.
    pub fn is_local(&self) -> bool {
        self.level == Durability::Local
    }

    /// Waits until a message that is durable here is durable everywhere asked
    /// for. Later messages of one log hold whenever an earlier wait for them has.
    pub async fn wait(
        &self,
        hub: &Arc<ReplicationHub>,
        name: &MessageName,
        current: impl Fn() -> Arc<Topology>,
        deadline: Instant,
    ) -> Reached {
        if self.is_local() {
            return self.reached(hub, name, &current());
        }
        let mut facts = hub.await_facts();
        loop {
            let reached = self.reached(hub, name, &current());
            if reached.satisfied {
                return reached;
            }
            tokio::select! {
                () = facts.changed() => {}
                () = tokio::time::sleep_until(deadline) => {
                    return self.reached(hub, name, &current());
                }
            }
        }
    }

    fn reached(&self, hub: &ReplicationHub, name: &MessageName, current: &Topology) -> Reached {
        let holders: BTreeSet<NodeNumber> = hub
            .holders(&name.log, name.m_id)
            .into_iter()
            .filter(|holder| self.others.contains(holder))
            .collect();
        let satisfied = match self.level {
            Durability::Local => true,
            Durability::Peers(count) => holders.len() >= count as usize,
            // Members that have left since are not waited for.
            Durability::All => self
                .others
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
