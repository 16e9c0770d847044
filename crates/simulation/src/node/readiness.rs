//! Where the node may accept: nowhere before its state there is whole, and that is
//! recorded.

use std::time::Duration;

use interlock_core::admission::{Backfill, ClosedReason, NamespaceReadiness, Telling};
use interlock_core::clock::Moment;
use interlock_core::identity::{NamespaceNumber, NodeNumber};
use interlock_core::replication::frames::LogOffer;
use interlock_storage::{LogStorage, StorageError};

use crate::history::Record;
use crate::planted_bug::PlantedBug;

use super::Process;
use super::messages::Output;
use super::writing::BackfillNews;
use crate::network::StreamNumber;

/// A founder tells the control-plane again that it has opened its namespaces.
pub(super) const RECORDING_INTERVAL: Duration = Duration::from_secs(2);

/// The document that says that a member has once been ready in a namespace.
pub fn readiness_document(namespace: NamespaceNumber) -> String {
    format!("ready-{namespace}")
}

pub(super) enum Readiness {
    /// Recorded on the disk; the topology is to record it too.
    Recording {
        again_at: Moment,
    },
    Ready,
    Backfilling(Backfill),
}

/// What a member says of what it has is said on this stream.
pub(super) const fn telling(member: NodeNumber, stream: StreamNumber) -> Telling {
    Telling { member, stream: stream.get() }
}

impl Process {
    /// Nothing is accepted in a namespace before it is ready.
    pub(super) fn consider_readiness(&mut self) -> Result<(), StorageError> {
        let me = self.me.opening.node;
        let mut to_record = Vec::new();
        // Whoever is a member again is decided about again.
        let member_of = self.admission.topology().namespaces_of(me);
        self.readiness.retain(|namespace, _| member_of.contains(namespace));
        for namespace in member_of {
            let founder = self
                .topology
                .namespace(namespace)
                .and_then(|namespace| namespace.founders.iter().find(|it| it.node == me));
            let waits_for_topology = founder.is_some_and(|founder| !founder.opened);
            match self.readiness.get(&namespace) {
                Some(Readiness::Recording { .. }) if !waits_for_topology => {
                    self.set_ready(namespace);
                }
                Some(_) => {}
                None => {
                    let document = readiness_document(namespace);
                    let is_recorded = self.storage.load_document(&document)?.is_some();
                    let readiness = NamespaceReadiness::at_opening(
                        &self.topology,
                        me,
                        namespace,
                        is_recorded,
                        true,
                    );
                    self.admission.set_closed(namespace, ClosedReason::Backfilling, true);
                    match readiness {
                        NamespaceReadiness::Ready if waits_for_topology => {
                            self.storage.store_document(&document, &[])?;
                            let again_at = self.now + RECORDING_INTERVAL;
                            self.readiness.insert(namespace, Readiness::Recording { again_at });
                            to_record.push(namespace);
                        }
                        NamespaceReadiness::Ready => self.set_ready(namespace),
                        NamespaceReadiness::Backfilling(_)
                            if self.is(PlantedBug::ReadyBeforeBackfill) =>
                        {
                            let machine = self.machine;
                            self.outputs
                                .push(Output::Record(Record::Backfilled { machine, namespace }));
                            self.set_ready(namespace);
                        }
                        NamespaceReadiness::Backfilling(backfill) => {
                            self.readiness.insert(namespace, Readiness::Backfilling(backfill));
                        }
                    }
                }
            }
        }
        if !to_record.is_empty() {
            self.outputs.push(Output::RecordOpened(to_record));
        }
        Ok(())
    }

    fn set_ready(&mut self, namespace: NamespaceNumber) {
        self.readiness.insert(namespace, Readiness::Ready);
        let machine = self.machine;
        self.outputs.push(Output::Record(Record::Ready { machine, namespace }));
        self.admission.set_closed(namespace, ClosedReason::Backfilling, false);
        // Peers are told anew what this node is ready for.
        let peers: Vec<NodeNumber> = self.outbound.keys().copied().collect();
        for peer in peers {
            self.hang_up(peer, Duration::ZERO);
        }
    }

    pub(super) fn take_backfill_news(
        &mut self,
        namespaces: &[NamespaceNumber],
        news: &BackfillNews,
    ) {
        for namespace in namespaces {
            let Some(Readiness::Backfilling(backfill)) = self.readiness.get_mut(namespace) else {
                continue;
            };
            match news {
                BackfillNews::Offered(from, offers) => {
                    let offers: Vec<LogOffer> = offers
                        .iter()
                        .filter(|offer| offer.log.namespace == *namespace)
                        .cloned()
                        .collect();
                    backfill.handle_offer(*from, &offers);
                }
                BackfillNews::OfferedAll(from) => backfill.handle_offered_all(*from),
            }
        }
        self.wake_writer();
    }

    /// A peer's base has been merged and stored.
    pub(super) fn note_base_stored(&mut self, from: Telling, namespace: NamespaceNumber) {
        if let Some(Readiness::Backfilling(backfill)) = self.readiness.get_mut(&namespace) {
            backfill.handle_base(from);
            self.wake_writer();
        }
    }

    pub(super) fn advance_backfills(&mut self) -> Result<(), StorageError> {
        let logs = self.admission.logs();
        let complete: Vec<NamespaceNumber> = self
            .readiness
            .iter()
            .filter(|(_, readiness)| {
                matches!(readiness, Readiness::Backfilling(backfill) if backfill.is_complete(logs))
            })
            .map(|(namespace, _)| *namespace)
            .collect();
        for namespace in complete {
            self.storage.store_document(&readiness_document(namespace), &[])?;
            let machine = self.machine;
            self.outputs.push(Output::Record(Record::Backfilled { machine, namespace }));
            self.set_ready(namespace);
        }
        Ok(())
    }

    pub(super) fn record_again(&mut self) {
        let mut to_record = Vec::new();
        for (namespace, readiness) in &mut self.readiness {
            if let Readiness::Recording { again_at } = readiness
                && *again_at <= self.now
            {
                *again_at = self.now + RECORDING_INTERVAL;
                to_record.push(*namespace);
            }
        }
        if !to_record.is_empty() {
            self.outputs.push(Output::RecordOpened(to_record));
        }
    }
}
