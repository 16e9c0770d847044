//! Which namespaces the log writer holds closed, and what ready members have said
//! of those: a member that takes over a namespace accepts nothing before it holds
//! all that one of them has.
//!
//! What members say may come before the readiness task has decided that there is
//! anything to take over: it reads the disk for each namespace, and they do not
//! repeat themselves. So it is kept from the moment the namespace is held here.

use std::collections::{BTreeMap, BTreeSet};

use interlock_core::admission::{Backfill, Telling};
use interlock_core::identity::NamespaceNumber;
use interlock_core::replication::log_table::LogTable;

use crate::writer_commands::BackfillNews;

/// See the module's page.
#[derive(Debug, Default)]
pub struct Backfills {
    ready: BTreeSet<NamespaceNumber>,
    open: BTreeMap<NamespaceNumber, OpenBackfill>,
}

/// A namespace that is not ready.
#[derive(Debug, Default)]
struct OpenBackfill {
    said: Backfill,
    /// It was decided that the namespace is ready by this backfill and by nothing
    /// else: a founder may still be ready by itself.
    decided: bool,
    told: bool,
}

impl Backfills {
    /// Nothing is held and nothing is ready.
    pub fn new() -> Self {
        Self::default()
    }

    /// Goes by the namespaces that this node is a member of now: each with whether
    /// it is still closed.
    pub fn set_members(
        &mut self,
        members: &BTreeSet<NamespaceNumber>,
    ) -> Vec<(NamespaceNumber, bool)> {
        for (namespace, backfill) in &mut self.open {
            if !members.contains(namespace) {
                // What was said of it before is old when it is joined again.
                backfill.said.begin_again();
            }
        }
        let closed = |namespace: &NamespaceNumber| {
            let is_ready = self.ready.contains(namespace);
            if !is_ready {
                self.open.entry(*namespace).or_default();
            }
            (*namespace, !is_ready)
        };
        members.iter().map(closed).collect()
    }

    /// The namespace is ready once another member's state is taken over.
    pub fn begin(&mut self, namespace: NamespaceNumber) {
        if !self.ready.contains(&namespace) {
            self.open.entry(namespace).or_default().decided = true;
        }
    }

    /// The namespace is ready.
    pub fn set_ready(&mut self, namespace: NamespaceNumber) {
        self.ready.insert(namespace);
        self.open.remove(&namespace);
    }

    /// A ready member has said something.
    pub fn handle_news(&mut self, namespaces: &[NamespaceNumber], news: &BackfillNews) {
        for namespace in namespaces {
            let Some(OpenBackfill { said, .. }) = self.open.get_mut(namespace) else { continue };
            match news {
                BackfillNews::Offered(from, offers) => {
                    let of_namespace =
                        |log: &interlock_core::identity::LogName| log.namespace == *namespace;
                    let offers: Vec<_> =
                        offers.iter().filter(|offer| of_namespace(&offer.log)).cloned().collect();
                    said.handle_offer(*from, &offers);
                }
                BackfillNews::OfferedAll(from) => said.handle_offered_all(*from),
            }
        }
    }

    /// The base of what a member has trimmed was merged.
    pub fn handle_base(&mut self, namespace: NamespaceNumber, from: Telling) {
        if let Some(backfill) = self.open.get_mut(&namespace) {
            backfill.said.handle_base(from);
        }
    }

    /// Those that are complete now and were not before.
    pub fn take_complete(&mut self, logs: &LogTable) -> Vec<NamespaceNumber> {
        let mut complete = Vec::new();
        for (namespace, backfill) in &mut self.open {
            if backfill.decided && !backfill.told && backfill.said.is_complete(logs) {
                backfill.told = true;
                complete.push(*namespace);
            }
        }
        complete
    }

    /// Whether what becomes durable is waited for.
    pub fn await_durable_marks(&self) -> bool {
        self.open.values().any(|backfill| backfill.decided && !backfill.told)
    }
}

#[cfg(test)]
mod tests {
    use interlock_core::clock::HybridTime;
    use interlock_core::identity::{
        ChainHash, Incarnation, LogName, Mark, MessageNumber, NodeNumber, PathName, ShardNumber,
    };
    use interlock_core::replication::frames::LogOffer;
    use interlock_core::replication::rows::Row;

    use super::*;

    const JOINED: NamespaceNumber = NamespaceNumber::new(4);
    const PEER: NodeNumber = NodeNumber::new(2);

    fn log() -> LogName {
        PathName { namespace: JOINED, shard: ShardNumber::new(0), origin: PEER }
            .log(Incarnation::new(7).expect("not zero"))
    }

    fn mark(m_id: u64) -> Mark {
        Mark { m_id: MessageNumber::new(m_id), hash: ChainHash::EMPTY.then(&m_id.to_be_bytes()) }
    }

    fn say_all(backfills: &mut Backfills) {
        let (parents, floor) = (Vec::new(), MessageNumber::ZERO);
        let offer = LogOffer { log: log(), parents, tip: mark(5), floor };
        let from = Telling { member: PEER, stream: 1 };
        backfills.handle_news(&[JOINED], &BackfillNews::Offered(from, vec![offer]));
        backfills.handle_news(&[JOINED], &BackfillNews::OfferedAll(from));
    }

    fn holding(m_id: u64) -> LogTable {
        let mut logs = LogTable::new();
        let row = Row { log: log(), parents: Vec::new() };
        logs.insert_recovered(row, mark(m_id), Mark::default(), HybridTime::ZERO)
            .expect("the first row");
        logs
    }

    #[test]
    fn what_is_said_before_the_decision_is_kept() {
        let mut backfills = Backfills::new();
        assert_eq!(backfills.set_members(&BTreeSet::from([JOINED])), [(JOINED, true)]);
        say_all(&mut backfills);
        assert!(backfills.take_complete(&holding(5)).is_empty(), "a founder may be ready itself");
        backfills.begin(JOINED);
        assert!(backfills.await_durable_marks());
        assert!(backfills.take_complete(&LogTable::new()).is_empty(), "nothing is taken over yet");
        assert!(backfills.take_complete(&holding(4)).is_empty());
        assert_eq!(backfills.take_complete(&holding(5)), [JOINED]);
        assert!(backfills.take_complete(&holding(5)).is_empty(), "told once");
        backfills.set_ready(JOINED);
        assert!(!backfills.await_durable_marks());
        assert_eq!(backfills.set_members(&BTreeSet::from([JOINED])), [(JOINED, false)]);
    }

    #[test]
    fn what_was_said_before_the_namespace_was_left_counts_no_more() {
        let mut backfills = Backfills::new();
        backfills.set_members(&BTreeSet::from([JOINED]));
        backfills.begin(JOINED);
        say_all(&mut backfills);
        backfills.set_members(&BTreeSet::new());
        backfills.set_members(&BTreeSet::from([JOINED]));
        assert!(backfills.take_complete(&holding(5)).is_empty());
        say_all(&mut backfills);
        assert_eq!(backfills.take_complete(&holding(5)), [JOINED]);
    }
}
