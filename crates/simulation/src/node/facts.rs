//! What peers are told of what this node and others hold.

use interlock_core::identity::{MemberOpening, NodeNumber};
use interlock_core::replication::acknowledgements::Recorded;
use interlock_core::replication::frames::{Fact, LogOffer};

use crate::planted_bug::PlantedBug;

use super::Process;
use super::links::{OutboundState, open_of};

impl Process {
    /// Tells the senders of logs that have moved.
    pub(super) fn offer_advanced(&mut self) {
        let everywhere = self.is(PlantedBug::ResidencyIgnored);
        for (peer, outbound) in &mut self.outbound {
            let OutboundState::Open(open) = &mut outbound.state else { continue };
            for (log, held) in &self.durable {
                let seen = (held.mark.m_id, held.floor);
                let may_have = everywhere || self.topology.is_member(*peer, log.namespace);
                if may_have && open.offered.get(log) != Some(&seen) {
                    open.offered.insert(*log, seen);
                    let offer = LogOffer {
                        log: *log,
                        parents: held.row.parents.clone(),
                        tip: held.mark,
                        floor: held.floor,
                    };
                    open.sender.handle_log_advanced(self.now, offer);
                }
            }
        }
    }

    /// Tells the receivers what has become durable.
    pub(super) fn acknowledge(&mut self) {
        for inbound in self.inbound.values_mut() {
            let Some(peer) = inbound.peer else { continue };
            let mut marks = Vec::new();
            for (log, held) in &self.durable {
                let m_id = held.mark.m_id;
                if self.topology.is_holder(peer, log.namespace)
                    && inbound.acknowledged.get(log) != Some(&m_id)
                {
                    inbound.acknowledged.insert(*log, m_id);
                    marks.push((*log, held.mark));
                }
            }
            inbound.receiver.handle_durable(self.now, &marks);
        }
    }

    pub(super) fn fact_for(&self, peer: NodeNumber, mut fact: Fact) -> Option<Fact> {
        if fact.opening.node == peer {
            return None;
        }
        fact.marks.retain(|(log, _)| self.topology.is_holder(peer, log.namespace));
        (!fact.marks.is_empty()).then_some(fact)
    }

    pub(super) fn record_fact(&mut self, fact: &Fact, first_hand: bool) {
        if fact.opening.node == self.me.opening.node {
            return;
        }
        let recorded = if self.is(PlantedBug::OldAcknowledgementBelieved) {
            let opening = self.welcomes.get(&fact.opening.node).copied().unwrap_or(fact.opening);
            self.facts.record(&Fact { opening, marks: fact.marks.clone() }, first_hand)
        } else if self.is(PlantedBug::FactsNeverRetired) {
            let opening = MemberOpening { opened_from: None, ..fact.opening };
            self.facts.record(&Fact { opening, marks: fact.marks.clone() }, false)
        } else {
            self.facts.record(fact, first_hand)
        };
        if let Recorded::News(marks) = recorded {
            let news = Fact { opening: fact.opening, marks };
            let awaited = !self.waiters.is_empty();
            let peers: Vec<NodeNumber> = self.outbound.keys().copied().collect();
            for peer in peers {
                let news = self.fact_for(peer, news.clone());
                if let (Some(news), Some(open)) = (news, open_of(&mut self.outbound, peer)) {
                    open.sender.handle_fact(self.now, news, awaited);
                }
            }
            self.check_waiters();
        }
    }
}
