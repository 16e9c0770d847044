//! One task per peer: calls it, serves it the logs it wants, and sends again
//! until they are acknowledged, however long that takes (METHOD M6 to M9, M11).
//! The decisions are the core's `PeerSender`'s; this carries them out.

mod base_sending;
pub(crate) mod greeting;
#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

use interlock_core::clock::{Moment, WallTime};
use interlock_core::identity::LogName;
use interlock_core::replication::base_sending::{BaseCause, BaseSending, cause_of_base};
use interlock_core::replication::frames::{
    Heartbeat, Hole, LogOffer, NackReason, NamespaceDigest, ReceiverFrame, SenderFrame,
};
use interlock_core::replication::peer_sender::{
    PeerSender, SenderAction, SenderConfig, SenderDisconnect,
};
use interlock_core::topology::{Node, Topology};
use interlock_rpc::channel::{Backoff, EndpointConfig};
use interlock_rpc::convert::{IntoCore as _, IntoWire as _};
use interlock_rpc::status::{Reason, reason_of};
use interlock_rpc::{services, v1};
use thiserror::Error;
use tokio::sync::{mpsc, watch};
use tokio_stream::wrappers::ReceiverStream;
use tonic::Streaming;

use self::base_sending::next_page;
use self::greeting::{GreetAgain, greeting, shared_and_ready};
use crate::alarms::AlarmKind;
use crate::context::NodeContext;
use crate::durable_state::{DurableLog, SeenLog};
use crate::failure::NodeFailure;
use crate::fencing::fence;
use crate::frame_reading::{FrameRead, Wish, read_frame};
use crate::link_status::{LinkState, LinkStatus};
use crate::own_marks::OwnMarks;
use crate::replication_hub::{OutboundStream, RelayedFact, Speaker};
use crate::tasks::{send_first, until_set};
use crate::topology_state::offer_topology;
use crate::writer_commands::WriterCommand;

/// Frames that wait for the connection; each is at most about 1 MiB.
const FRAMES_AHEAD: usize = 4;
/// While a stream is established, status is kept this fresh.
const STATUS_INTERVAL: std::time::Duration = std::time::Duration::from_millis(200);

/// Why a stream ended.
#[derive(Debug, Error)]
enum LinkEnd {
    /// The node ends, or the peer is no longer one.
    #[error("the link was closed")]
    Stopped,
    /// Another link to the peer has taken this one's place. One of both will be
    /// stopped; until it is, nobody knows which.
    #[error("another stream to the peer has taken over")]
    Superseded,
    /// The peer cannot be reached, or broke off.
    #[error("{0}")]
    Transport(Box<tonic::Status>),
    /// The address is none.
    #[error("{0}")]
    Address(#[from] interlock_rpc::channel::ChannelError),
    /// The peer sent what is no frame.
    #[error("the peer sent a frame that cannot be read: {0}")]
    Unreadable(interlock_rpc::convert::InvalidField),
    /// The core gave the stream up.
    #[error("{0}")]
    GivenUp(#[from] SenderDisconnect),
    /// What this node is ready for has changed: the peer is told anew.
    #[error("this node introduces itself anew")]
    Reintroduce,
    /// The one who answers is about to be told that it is fenced off.
    #[error("the process that answers is fenced off: another one of its name is {0}")]
    PeerFenced(Speaker),
    /// The node is ending.
    #[error(transparent)]
    Ending(#[from] crate::work_queue::QueueClosed),
    /// The disk cannot be read.
    #[error(transparent)]
    Storage(#[from] interlock_storage::StorageError),
}

impl From<tonic::Status> for LinkEnd {
    fn from(status: tonic::Status) -> Self {
        Self::Transport(Box::new(status))
    }
}

/// Keeps a stream to a peer, until it is told to stop.
pub async fn run_outbound_link(
    context: Arc<NodeContext>,
    peer: Node,
    status: Arc<LinkStatus>,
    mut stop: watch::Receiver<bool>,
) {
    let mut backoff = Backoff::reconnect(context.random_seed());
    loop {
        status.set(LinkState::Connecting, "");
        let ended = tokio::select! {
            ended = connect_and_serve(&context, &peer, &status, &mut backoff) => ended,
            () = until_set(&mut stop) => LinkEnd::Stopped,
        };
        match &ended {
            LinkEnd::Stopped | LinkEnd::Ending(_) => return,
            LinkEnd::Reintroduce => {
                backoff.reset();
                continue;
            }
            LinkEnd::GivenUp(
                reason @ (SenderDisconnect::ProtocolVersion { .. }
                | SenderDisconnect::OtherNode { .. }),
            ) => {
                let now = context.clock.wall();
                let detail = reason.to_string();
                context.alarms.raise(now, AlarmKind::PeerRefused, peer.name.as_str(), &detail);
                status.set(LinkState::Refused, &detail);
            }
            LinkEnd::Transport(refused) if reason_of(refused) == Some(Reason::Fenced) => {
                fence(&context, &format!("{}: {}", peer.name, refused.message()));
                status.set(LinkState::Refused, refused.message());
            }
            other => status.set(LinkState::Unreachable, &other.to_string()),
        }
        let delay = backoff.next_delay();
        tracing::debug!(peer = %peer.name, error = %ended, ?delay, "replication to the peer ended");
        tokio::select! {
            () = tokio::time::sleep(delay) => {}
            () = until_set(&mut stop) => return,
        }
    }
}

async fn connect_and_serve(
    context: &Arc<NodeContext>,
    peer: &Node,
    status: &Arc<LinkStatus>,
    backoff: &mut Backoff,
) -> LinkEnd {
    match Link::connect(context, peer, status).await {
        Ok(mut link) => link.serve(backoff).await.err().unwrap_or(LinkEnd::Stopped),
        Err(end) => end,
    }
}

/// One established stream.
struct Link {
    context: Arc<NodeContext>,
    peer: Node,
    status: Arc<LinkStatus>,
    sender: PeerSender,
    outgoing: mpsc::Sender<v1::ReplicateRequest>,
    /// Frames that found no room; nothing more is made meanwhile.
    waiting: VecDeque<v1::ReplicateRequest>,
    incoming: Streaming<v1::ReplicateResponse>,
    /// Its place among the links, given back when it is dropped.
    stream: OutboundStream,
    own_marks: OwnMarks,
    /// What each log was offered as.
    offered: BTreeMap<LogName, SeenLog>,
    bases: BaseSending,
    /// Moves when this node becomes ready in a namespace: then it greets again.
    ready: watch::Receiver<u64>,
    /// The namespaces that the greeting was about.
    greeted: Vec<NamespaceDigest>,
    /// The last digests that heartbeats have told.
    told_digests: u64,
}

impl Link {
    async fn connect(
        context: &Arc<NodeContext>,
        peer: &Node,
        status: &Arc<LinkStatus>,
    ) -> Result<Self, LinkEnd> {
        // From before the greeting on: what becomes ready meanwhile is not in it.
        let mut ready = context.readiness.watch();
        ready.mark_unchanged();
        let hello = greeting(context, peer.number).await?;
        let greeted = hello.namespaces.clone();
        let channel = EndpointConfig::bulk(peer.replication_address.clone())
            .tls(context.config.peer_tls.clone())
            .user("push-node")
            .connect_lazy()?;
        let (outgoing, requests) = mpsc::channel(FRAMES_AHEAD);
        let mut client = services::replication::client(channel);
        let incoming = client.replicate(ReceiverStream::new(requests)).await?.into_inner();
        let stream = context.hub.outbound_connected(peer.number);
        let config = SenderConfig { peer: peer.number, jitter_seed: context.random_seed() };
        status.set(LinkState::Probing, "");
        Ok(Self {
            sender: PeerSender::new(context.clock.moment(), config, hello),
            context: Arc::clone(context),
            peer: peer.clone(),
            status: Arc::clone(status),
            outgoing,
            waiting: VecDeque::new(),
            incoming,
            stream,
            own_marks: OwnMarks::new(context),
            offered: BTreeMap::new(),
            bases: BaseSending::default(),
            ready,
            greeted,
            told_digests: 0,
        })
    }

    /// Drives the stream until it ends.
    async fn serve(&mut self, backoff: &mut Backoff) -> Result<(), LinkEnd> {
        let context = Arc::clone(&self.context);
        let mut durable = context.durable.watch_durable();
        let mut topology = context.topology.watch();
        let mut ready = self.ready.clone();
        let mut owing = context.divergence.watch_owing();
        owing.mark_changed();
        let mut greet_again = GreetAgain::default();
        let mut status_tick = tokio::time::interval(STATUS_INTERVAL);
        topology.mark_changed();
        durable.mark_changed();
        // "Nothing else" is said of what was offered: so that comes first.
        self.offer_advanced();
        loop {
            while let Some(action) = self.next_action() {
                self.carry_out(action, backoff).await?;
            }
            // A base goes out a page at a time, when there is room for it.
            if self.waiting.is_empty() && self.send_base_page().await? {
                continue;
            }
            let is_waiting = !self.waiting.is_empty();
            let timeout = context.clock.sleep_until(self.sender.poll_timeout());
            tokio::select! {
                sent = send_first(&self.outgoing, &mut self.waiting), if is_waiting => {
                    if !sent {
                        return Err(closed_by_peer());
                    }
                }
                frame = self.incoming.message() => match frame? {
                    Some(frame) => self.handle_frame(frame)?,
                    None => return Err(closed_by_peer()),
                },
                changed = durable.changed() => match changed {
                    Ok(()) => self.offer_advanced(),
                    Err(_) => return Err(LinkEnd::Stopped),
                },
                changed = topology.changed() => match changed {
                    Ok(()) => {
                        let newest = topology.borrow_and_update().clone();
                        self.take_topology(newest);
                        // A namespace that has grown to the peer: it needs to know
                        // that this node is ready there.
                        if self.has_changed_since_greeting() {
                            greet_again.changed(self.now());
                        }
                    }
                    Err(_) => return Err(LinkEnd::Stopped),
                },
                changed = ready.changed() => match changed {
                    Ok(()) => greet_again.changed(self.now()),
                    Err(_) => return Err(LinkEnd::Stopped),
                },
                () = context.clock.sleep_until(greet_again.due_at()) => {
                    if self.has_changed_since_greeting() {
                        return Err(LinkEnd::Reintroduce);
                    }
                    greet_again = GreetAgain::default();
                }
                changed = owing.changed() => match changed {
                    Ok(()) => {
                        for namespace in context.divergence.take_owed(self.peer.number) {
                            self.bases.need(namespace);
                        }
                    }
                    Err(_) => return Err(LinkEnd::Stopped),
                },
                fact = self.stream.next_fact() => match fact {
                    Some(RelayedFact { fact, awaited }) => {
                        if let Some(fact) = self.fact_for_peer(fact) {
                            self.sender.handle_fact(self.now(), fact, awaited);
                        }
                    }
                    None => return Err(LinkEnd::Superseded),
                },
                () = timeout => self.sender.handle_timeout(self.now()),
                _ = status_tick.tick() => self.report_status(),
            }
        }
    }

    /// The next thing to do. While frames wait for room no others are made, and
    /// what the peer has said is still taken in: else it would pile up.
    fn next_action(&mut self) -> Option<SenderAction> {
        match self.waiting.is_empty() {
            true => self.sender.poll_action(),
            false => self.sender.poll_immediate_action(),
        }
    }

    fn now(&self) -> Moment {
        self.context.clock.moment()
    }

    fn check_clock(&self, theirs: WallTime) {
        self.context.clock.check_peer(&self.context.alarms, self.peer.name.as_str(), theirs);
    }

    fn handle_frame(&mut self, frame: v1::ReplicateResponse) -> Result<(), LinkEnd> {
        self.context.news.heard(self.peer.number);
        let frame: ReceiverFrame = frame.into_core().map_err(LinkEnd::Unreadable)?;
        if let Some((log, takes)) = frame.takes() {
            self.stream.peer_takes(&log, takes);
        }
        self.sender.handle_frame(self.now(), frame);
        Ok(())
    }

    async fn carry_out(
        &mut self,
        action: SenderAction,
        backoff: &mut Backoff,
    ) -> Result<(), LinkEnd> {
        match action {
            SenderAction::Transmit(frame) => self.transmit(frame)?,
            SenderAction::TransmitHeartbeat => {
                let wall_clock = self.context.clock.wall();
                let shared = shared_and_ready(&self.context, self.peer.number);
                let may_know = |namespace| shared.contains(&namespace);
                let namespaces = self.context.divergence.news(&mut self.told_digests, may_know);
                self.transmit(SenderFrame::Heartbeat(Heartbeat { wall_clock, namespaces }))?;
            }
            SenderAction::ReadAndSend {
                log,
                from,
                previous_hash,
                through,
                max_bytes,
                max_messages,
                retransmission,
            } => {
                let wish = Wish { log, from, previous_hash, through, max_bytes, max_messages };
                if self.read_and_send(wish).await? {
                    self.count_frame(retransmission);
                }
            }
            SenderAction::PeerWelcomed(welcome) => {
                if let Some(other) = self.context.hub.goes_before(&welcome.member) {
                    return Err(LinkEnd::PeerFenced(other));
                }
                backoff.reset();
                self.compare_namespaces(&welcome.namespaces);
                self.status.set(LinkState::Replicating, "");
                self.context.alarms.clear(AlarmKind::PeerRefused, self.peer.name.as_str());
                self.context.news.introduced(welcome.member.opening);
                self.context.alarms.peer_opened(&welcome.member.opening);
                self.check_clock(welcome.wall_clock);
                if self.own_marks.hear(self.peer.number, &welcome.marks)? {
                    self.context.hub.record(&welcome.fact(), true);
                }
                let marks = welcome.marks;
                let examine = WriterCommand::Examine(self.peer.number, marks);
                self.context.writer.submit(examine).await?;
            }
            SenderAction::PeerClock(wall) => self.check_clock(wall),
            SenderAction::Acknowledged(fact) => {
                if self.own_marks.hear(self.peer.number, &fact.marks)? {
                    self.context.hub.record(&fact, false);
                }
            }
            SenderAction::Refused(refused) => {
                tracing::info!(
                    peer = %self.peer.name,
                    log = %refused.log,
                    version = %refused.version,
                    "the peer is no member"
                );
            }
            SenderAction::TopologyReceived(topology) => {
                offer_topology(&self.context, topology, self.peer.name.as_str()).await;
            }
            SenderAction::LogStopped { log, expected, reason, detail } => {
                let detail = format!(
                    "{} expects {expected} and refuses: {reason:?}: {detail}",
                    self.peer.name
                );
                let now = self.context.clock.wall();
                self.context.alarms.raise_conflict(now, &log, self.peer.number, &detail);
                let me = self.context.me();
                let is_own = log.origin == me.node && log.incarnation == me.incarnation;
                if is_own && reason == NackReason::ContentDiffers {
                    // Nobody else writes this log: it was written twice.
                    self.context.failure.report(NodeFailure::ResumedFromSnapshot(detail));
                }
            }
            SenderAction::Disconnect { reason } => return Err(reason.into()),
        }
        Ok(())
    }

    fn transmit(&mut self, frame: SenderFrame) -> Result<(), LinkEnd> {
        let frame = frame.into_wire();
        if !self.waiting.is_empty() {
            self.waiting.push_back(frame);
            return Ok(());
        }
        match self.outgoing.try_send(frame) {
            Ok(()) => Ok(()),
            Err(mpsc::error::TrySendError::Full(frame)) => {
                self.waiting.push_back(frame);
                Ok(())
            }
            Err(mpsc::error::TrySendError::Closed(_)) => Err(closed_by_peer()),
        }
    }

    /// Reads a frame from memory, or for a peer that is late from the disk, and
    /// puts it on the stream. `false` when there was nothing to be had.
    async fn read_and_send(&mut self, wish: Wish) -> Result<bool, LinkEnd> {
        let (frame, through) = match read_frame(&self.context, &wish).await? {
            FrameRead::Frame(frame, through) => (frame, through),
            FrameRead::Missing(hole) => return self.send_hole(hole),
            FrameRead::Nothing => {
                self.sender.handle_nothing_sent(self.now(), &wish.log);
                return Ok(false);
            }
        };
        let (first, window_bytes) = (frame.first_m_id, frame.window_bytes());
        self.transmit(SenderFrame::Frame(frame))?;
        self.sender.handle_frame_sent(self.now(), &wish.log, first, through, window_bytes);
        Ok(true)
    }

    /// What the peer is not ready in it gets the base of, and where both have the same
    /// messages and other channels, each sends its own to the other: bases merge.
    fn compare_namespaces(&mut self, theirs: &[NamespaceDigest]) {
        for ours in &self.greeted {
            let namespace = ours.namespace;
            let Some(cause) = cause_of_base(ours, theirs) else { continue };
            if cause == BaseCause::StateDiffers {
                let name = self.context.namespace_name(namespace);
                tracing::warn!(
                    peer = %self.peer.name,
                    namespace = %name,
                    "the peer holds the same messages and other channels: it gets ours to merge"
                );
                self.context.metrics.divergences.with([name]).increment();
            }
            self.bases.need(namespace);
        }
    }

    /// Whether this node is ready in other namespaces than the peer was told.
    fn has_changed_since_greeting(&self) -> bool {
        let ready = shared_and_ready(&self.context, self.peer.number);
        !ready.iter().eq(self.greeted.iter().map(|digest| &digest.namespace))
    }

    /// Sends a hole whose base is on the stream; else has the base sent first.
    fn send_hole(&mut self, hole: Hole) -> Result<bool, LinkEnd> {
        let now = self.now();
        if !self.bases.covers(&hole) {
            self.bases.need(hole.log.namespace);
            self.sender.handle_trimmed(now, &hole.log);
            return Ok(false);
        }
        tracing::info!(
            peer = %self.peer.name,
            log = %hole.log,
            from = %hole.from,
            through = %hole.through.m_id,
            "the peer gets a hole in place of messages that are trimmed here"
        );
        self.transmit(SenderFrame::Hole(hole))?;
        self.sender.handle_frame_sent(now, &hole.log, hole.from, hole.through, 0);
        Ok(true)
    }

    /// Sends one page of the base that is due. `false` when none is.
    async fn send_base_page(&mut self) -> Result<bool, LinkEnd> {
        let Some(page) = next_page(&mut self.bases, &self.context).await? else { return Ok(false) };
        let (namespace, is_last) = (page.namespace, page.last);
        self.transmit(SenderFrame::BaseEntries(page))?;
        if is_last {
            self.sender.handle_base_sent(self.now(), namespace);
            self.context.divergence.base_sent(self.peer.number, namespace);
        }
        Ok(true)
    }

    fn count_frame(&mut self, retransmission: bool) {
        let peer = self.peer.name.to_string();
        self.context.metrics.frames_sent.with([peer.clone()]).increment();
        if retransmission {
            self.context.metrics.retransmissions.with([peer]).increment();
        }
    }

    /// Tells the sender of logs that have moved, of those the peer may have.
    fn offer_advanced(&mut self) {
        let topology = self.context.topology.current();
        let peer = self.peer.number;
        let advanced = self
            .context
            .durable
            .collect_advanced(&mut self.offered, |log| topology.is_member(peer, log.namespace));
        let now = self.now();
        for log in advanced {
            self.sender.handle_log_advanced(now, offer_of(log));
        }
    }

    /// Goes by a newer topology: what the peer may no longer have is withdrawn,
    /// what it may have now is offered.
    fn take_topology(&mut self, topology: Arc<Topology>) {
        let (now, peer) = (self.now(), self.peer.number);
        let withdrawn: Vec<LogName> = self
            .offered
            .keys()
            .filter(|log| !topology.is_member(peer, log.namespace))
            .copied()
            .collect();
        for log in withdrawn {
            self.offered.remove(&log);
            self.sender.handle_log_withdrawn(now, &log);
        }
        self.sender.handle_topology(now, topology);
        self.offer_advanced();
    }

    /// A fact without the logs of namespaces that are none of the peer's.
    fn fact_for_peer(
        &self,
        mut fact: interlock_core::replication::frames::Fact,
    ) -> Option<interlock_core::replication::frames::Fact> {
        let topology = self.context.topology.current();
        fact.marks.retain(|(log, _)| topology.is_holder(self.peer.number, log.namespace));
        (!fact.marks.is_empty()).then_some(fact)
    }

    fn report_status(&self) {
        self.status.report(self.sender.status());
    }
}

fn offer_of(log: DurableLog) -> LogOffer {
    LogOffer {
        log: log.row.log,
        parents: log.row.parents,
        tip: log.durable,
        floor: log.last_missing,
    }
}

fn closed_by_peer() -> LinkEnd {
    tonic::Status::unavailable("the peer closed the stream").into()
}
