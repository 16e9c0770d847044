//! Bases and holes on the streams to peers and from them: what
//! `push-node/outbound_link` and the log writer do with them.

use std::collections::BTreeMap;
use std::time::Duration;

use interlock_core::admission::BaseRefusal;
use interlock_core::identity::{LogName, MessageNumber, NamespaceNumber, NodeNumber};
use interlock_core::projection::{ChannelIndex, Projection};
use interlock_core::replication::base_sending::{BaseCause, PageSource, cause_of_base};
use interlock_core::replication::frames::{BaseEntries, Hole, NamespaceDigest, SenderFrame};
use interlock_storage::stored_index::unreadable_index;
use interlock_storage::{LogStorage, StorageError};

use crate::network::StreamNumber;
use crate::planted_bug::PlantedBug;

use super::Process;
use super::links::{OutboundState, open_of};
use super::trimming::ProjectorWork;

/// Between two pages of a base there is time for something else.
const PAGE_INTERVAL: Duration = Duration::from_millis(1);

impl Process {
    /// A peer has answered the greeting: it may need bases before anything asks for them.
    pub(super) fn compare_namespaces(&mut self, peer: NodeNumber, theirs: &[NamespaceDigest]) {
        let leaves_alone = self.is(PlantedBug::DifferencesLeftAlone);
        let Some(open) = open_of(&mut self.outbound, peer) else { return };
        for ours in &open.greeted {
            match cause_of_base(ours, theirs) {
                Some(BaseCause::StateDiffers) if leaves_alone => {}
                Some(_) => open.bases.need(ours.namespace),
                None => {}
            }
        }
    }

    /// What this node has of the namespaces that both hold and in which nothing is under
    /// way: pairs of tips and state that belong together (`push-node/divergence.rs`).
    pub(super) fn settled_digests(&self, peer: NodeNumber) -> Vec<NamespaceDigest> {
        let applied = self.directories.position();
        let is_settled = |namespace: NamespaceNumber| {
            self.admission.logs().namespace(namespace).all(|(log, held)| {
                held.appended == held.durable && applied.of(log) == held.durable.m_id
            })
        };
        let mut digests = self.digests(peer);
        digests.retain(|digest| is_settled(digest.namespace));
        digests
    }

    /// A peer that holds the same messages and shows other channels gets the base, and
    /// sends its own when it hears us.
    pub(super) fn compare_digests(&mut self, peer: NodeNumber, theirs: &[NamespaceDigest]) {
        // The comparison would heal the second one, and leave the checkers nothing to find.
        if self.is(PlantedBug::DifferencesLeftAlone) || self.is(PlantedBug::DirectoryNotReplayed) {
            return;
        }
        let ours = self.settled_digests(peer);
        let Some(open) = open_of(&mut self.outbound, peer) else { return };
        for ours in &ours {
            let differs = |theirs: &&NamespaceDigest| {
                theirs.namespace == ours.namespace
                    && theirs.tips == ours.tips
                    && theirs.state != ours.state
            };
            if theirs.iter().any(|theirs| differs(&theirs)) {
                open.bases.need(ours.namespace);
            }
        }
    }

    /// Sends a hole whose base is on the stream; else has the base sent first.
    pub(super) fn send_hole(&mut self, peer: NodeNumber, hole: Hole) {
        let Some(open) = open_of(&mut self.outbound, peer) else { return };
        if !open.bases.covers(&hole) {
            open.bases.need(hole.log.namespace);
            return open.sender.handle_trimmed(self.now, &hole.log);
        }
        open.sender.handle_frame_sent(self.now, &hole.log, hole.from, hole.through, 0);
        self.transmit_to(peer, SenderFrame::Hole(hole));
    }

    pub(super) fn schedule_base_pages(&mut self) {
        let is_due = |outbound: &super::links::Outbound| matches!(&outbound.state, OutboundState::Open(open) if open.bases.is_due());
        if self.base_page_at.is_none() && self.outbound.values().any(is_due) {
            self.base_page_at = Some(self.now + PAGE_INTERVAL);
        }
    }

    /// Sends one page on each stream on which a base is due.
    pub(super) fn send_base_pages(&mut self) -> Result<(), StorageError> {
        let peers: Vec<NodeNumber> = self.outbound.keys().copied().collect();
        for peer in peers {
            let Some(page) = self.next_base_page(peer)? else { continue };
            let (namespace, is_last) = (page.namespace, page.last);
            self.transmit_to(peer, SenderFrame::BaseEntries(page));
            if let (true, Some(open)) = (is_last, open_of(&mut self.outbound, peer)) {
                open.sender.handle_base_sent(self.now, namespace);
            }
        }
        Ok(())
    }

    fn next_base_page(&mut self, peer: NodeNumber) -> Result<Option<BaseEntries>, StorageError> {
        let Some(open) = open_of(&mut self.outbound, peer) else { return Ok(None) };
        if let Some(namespace) = open.bases.next_to_begin() {
            let held = self.durable.iter().filter(|(log, _)| log.namespace == namespace);
            let floors: BTreeMap<LogName, MessageNumber> =
                held.map(|(log, held)| (*log, held.floor)).collect();
            open.bases.begin(floors);
        }
        match open.bases.next_page() {
            None => Ok(None),
            Some(PageSource::Directory(namespace)) => {
                Ok(open.bases.directory_page(self.directories.directory(namespace)))
            }
            Some(PageSource::TrimPoints(scan, limit)) => {
                let after = scan.after.as_deref();
                let found =
                    self.storage.scan_projection(ChannelIndex::KIND, &scan.prefix, after, limit)?;
                open.bases.trim_points_page(&found).map_err(unreadable_index)
            }
        }
    }

    /// Names are known at once; what was merged is stored by the projector, which
    /// answers.
    pub(super) fn merge_base(&mut self, stream: StreamNumber, peer: NodeNumber, base: BaseEntries) {
        match self.admission.merge_base(&base) {
            Ok(_) => self.project_later(ProjectorWork::Base { stream, peer, base }),
            // What follows of a namespace that is none of ours is refused by itself.
            Err(BaseRefusal::NotMember(namespace)) if base.last => {
                self.tell_base_stored(stream, namespace);
            }
            Err(BaseRefusal::NotMember(_)) => {}
            Err(refusal) => self.incident(format!("the base of node {peer}: {refusal}")),
        }
    }

    pub(super) fn tell_base_stored(&mut self, stream: StreamNumber, namespace: NamespaceNumber) {
        // A stream that has ended asks for it again when it is there again.
        if let Some(inbound) = self.inbound.get_mut(&stream) {
            inbound.receiver.handle_base_stored(self.now, namespace);
        }
    }
}
