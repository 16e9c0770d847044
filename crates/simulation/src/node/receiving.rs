//! What the streams of peers ask for: the logs that this node takes.

use interlock_core::features::FEATURE_LEVEL;
use interlock_core::identity::{LogName, Mark, NodeNumber};
use interlock_core::limits::WINDOW_BYTES;
use interlock_core::names::RegionName;
use interlock_core::replication::frames::{
    Heartbeat, Hello, LogOffer, PROTOCOL_VERSION, ReceiverFrame, Welcome,
};
use interlock_core::replication::peer_receiver::{ReceiverAction, ReceiverDisconnect};
use interlock_core::replication::rows::Row;
use interlock_storage::StorageError;

use crate::network::{Cargo, StreamNumber};
use crate::planted_bug::PlantedBug;
use crate::random::Random;

use super::Process;
use super::messages::Output;
use super::readiness::telling;
use super::writing::{BackfillNews, Command};

impl Process {
    pub(super) fn act_as_receiver(
        &mut self,
        stream: StreamNumber,
        action: ReceiverAction,
        random: &mut Random,
    ) -> Result<(), StorageError> {
        let peer = self.inbound.get(&stream).and_then(|inbound| inbound.peer);
        match action {
            ReceiverAction::Transmit(frame) => {
                self.outputs.push(Output::Transmit(stream, Cargo::Receiver(frame)));
            }
            ReceiverAction::TransmitHeartbeat => {
                let frame = ReceiverFrame::Heartbeat(Heartbeat::at(self.wall));
                self.outputs.push(Output::Transmit(stream, Cargo::Receiver(frame)));
            }
            ReceiverAction::PeerIntroduced(hello) => self.introduce(stream, &hello, random),
            ReceiverAction::PeerClock(_) => self.hear_heartbeat(stream),
            ReceiverAction::PeerDigests(theirs) => {
                if let Some(peer) = peer {
                    self.compare_digests(peer, &theirs);
                }
            }
            ReceiverAction::Offered { peer, offers } => self.take_offers(stream, peer, offers),
            ReceiverAction::Submit(frame) => self.command(Command::Receive(stream, frame)),
            ReceiverAction::SubmitHole(hole) => {
                let offered = self.inbound.get(&stream).map(|inbound| &inbound.offered);
                let row = offered.and_then(|offered| offered.get(&hole.log)).cloned();
                self.command(Command::ReceiveHole(stream, hole, row));
            }
            ReceiverAction::BaseReceived(base) => {
                if let Some(peer) = peer {
                    self.command(Command::MergeBase(stream, peer, base));
                }
            }
            ReceiverAction::RelayedFact(fact) => {
                if self.hear_as_receiver(stream, fact.opening.node, &fact.marks) {
                    self.record_fact(&fact, false);
                }
            }
            ReceiverAction::Refused(refused) => {
                if let Some(peer) = peer {
                    self.sources.server_failed(self.now, peer, &refused.log);
                }
            }
            ReceiverAction::TopologyReceived(topology) => self.adopt(topology)?,
            ReceiverAction::Disconnect { reason } => {
                if !matches!(reason, ReceiverDisconnect::NoHello | ReceiverDisconnect::Silent) {
                    self.incident(format!("the stream of node {peer:?} ends: {reason}"));
                }
                self.end_stream(stream, true, random);
            }
        }
        Ok(())
    }

    /// Answers a peer's greeting with what this node holds.
    fn introduce(&mut self, stream: StreamNumber, hello: &Hello, random: &mut Random) {
        let peer = hello.member.opening.node;
        self.journal.introduced(hello.member.opening, self.now);
        if let Some(older) = self.current_inbound.insert(peer, stream) {
            // Its place is taken: its end tells nobody anything.
            self.inbound.remove(&older);
            self.outputs.push(Output::TakeOver(older));
        }
        let _ = random;
        let marks: Vec<(LogName, Mark)> = self
            .durable
            .iter()
            .filter(|(log, _)| self.topology.is_holder(peer, log.namespace))
            .map(|(log, held)| (*log, held.mark))
            .collect();
        let welcome = Welcome {
            protocol_version: PROTOCOL_VERSION,
            member: self.me.clone(),
            topology_version: self.topology.version,
            marks: marks.clone(),
            namespaces: self.digests(peer),
            window_bytes: WINDOW_BYTES,
            feature_level: FEATURE_LEVEL,
            wall_clock: self.wall,
        };
        let inbound = self.inbound.get_mut(&stream).expect("it has just acted");
        inbound.peer = Some(peer);
        inbound.ready = hello.namespaces.iter().map(|digest| digest.namespace).collect();
        inbound.acknowledged = marks.into_iter().map(|(log, mark)| (log, mark.m_id)).collect();
        inbound.receiver.accept(self.now, welcome);
        let region = match self.is(PlantedBug::SiblingsUnknown) {
            true => RegionName::parse("elsewhere").expect("a good name"),
            false => hello.member.region.clone(),
        };
        self.sources.peer_connected(self.now, peer, region);
    }

    fn take_offers(&mut self, stream: StreamNumber, peer: NodeNumber, offers: Vec<LogOffer>) {
        let me = self.me.opening.node;
        let offers: Vec<LogOffer> = offers
            .into_iter()
            .filter(|offer| {
                let namespace = offer.log.namespace;
                let takes =
                    self.is_member(me, namespace) || self.is(PlantedBug::FilteredBySenderOnly);
                takes && self.is_holder(peer, namespace)
            })
            .collect();
        if self.current_inbound.get(&peer) != Some(&stream) {
            return;
        }
        let tips: Vec<_> = offers.iter().map(|offer| (offer.log, offer.tip)).collect();
        self.hear_as_receiver(stream, peer, &tips);
        for offer in &offers {
            self.sources.peer_offered(self.now, peer, offer);
        }
        let inbound = self.inbound.get_mut(&stream).expect("it has just acted");
        let new: Vec<(LogName, Mark)> = offers
            .iter()
            .filter(|offer| {
                let row = Row { log: offer.log, parents: offer.parents.clone() };
                inbound.offered.insert(offer.log, row).is_none()
            })
            .map(|offer| (offer.log, offer.tip))
            .collect();
        let ready = (!inbound.said_all && !inbound.ready.is_empty()).then(|| inbound.ready.clone());
        if !new.is_empty() {
            self.command(Command::Examine(peer, new));
        }
        if let Some(ready) = ready {
            self.command(Command::Backfill(
                ready,
                BackfillNews::Offered(telling(peer, stream), offers),
            ));
        }
    }

    /// A heartbeat says that nothing else is there than what was offered.
    fn hear_heartbeat(&mut self, stream: StreamNumber) {
        let Some(inbound) = self.inbound.get_mut(&stream) else { return };
        let Some(peer) = inbound.peer else { return };
        if !std::mem::replace(&mut inbound.said_all, true) && !inbound.ready.is_empty() {
            let ready = inbound.ready.clone();
            self.command(Command::Backfill(ready, BackfillNews::OfferedAll(telling(peer, stream))));
        }
    }
}
