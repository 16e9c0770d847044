//! The other end of a peer's link: takes the logs that this node wants from it,
//! has them written, and acknowledges what is durable (METHOD M10). The decisions
//! are the core's `PeerReceiver`'s and the log writer's; this carries them out.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

use interlock_core::admission::Telling;
use interlock_core::clock::Moment;
use interlock_core::identity::{LogName, Mark, NamespaceNumber, NodeNumber};
use interlock_core::limits::WINDOW_BYTES;
use interlock_core::replication::frames::{
    Heartbeat, Hello, LogOffer, NackReason, PROTOCOL_VERSION, ReceiverFrame, SenderFrame, Welcome,
};
use interlock_core::replication::peer_receiver::{
    PeerReceiver, ReceiverAction, ReceiverConfig, ReceiverDisconnect, SubmissionOutcome,
};
use interlock_core::replication::rows::Row;
use interlock_core::replication::timing::SILENCE_LIMIT;
use interlock_core::topology::Topology;
use interlock_rpc::convert::{IntoCore as _, IntoWire as _, InvalidField};
use interlock_rpc::services::replication::Service;
use interlock_rpc::status::{Reason, refusal};
use interlock_rpc::v1;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Response, Status, Streaming};

use crate::alarms::AlarmKind;
use crate::context::NodeContext;
use crate::divergence::hear_digests;
use crate::durable_state::SeenLog;
use crate::outbound_link::greeting::digests;
use crate::own_marks::OwnMarks;
use crate::replication_hub::{InboundCommand, Speaker, StreamNumber};
use crate::tasks::{send_first, until_set};
use crate::topology_state::offer_topology;
use crate::work_queue::QueueClosed;
use crate::writer_commands::{BackfillNews, BaseAnswer, SubmissionAnswer, WriterCommand};

/// Answers that wait for the connection.
const ANSWERS_AHEAD: usize = 64;

/// Serves peers.
#[derive(Clone)]
pub struct ReplicationServer {
    context: Arc<NodeContext>,
}

impl ReplicationServer {
    /// Serves peers of this node.
    pub fn new(context: Arc<NodeContext>) -> Self {
        Self { context }
    }
}

#[tonic::async_trait]
impl Service for ReplicationServer {
    type ReplicateStream = ReceiverStream<Result<v1::ReplicateResponse, Status>>;

    async fn replicate(
        &self,
        request: Request<Streaming<v1::ReplicateRequest>>,
    ) -> Result<Response<Self::ReplicateStream>, Status> {
        let (outgoing, responses) = mpsc::channel(ANSWERS_AHEAD);
        let link = Link::new(Arc::clone(&self.context), request.into_inner(), outgoing);
        self.context.tasks.spawn("a peer's link", link.run())?;
        Ok(Response::new(ReceiverStream::new(responses)))
    }
}

/// A peer that was introduced and accepted.
struct Accepted {
    node: NodeNumber,
    name: String,
    stream: StreamNumber,
    commands: mpsc::UnboundedReceiver<InboundCommand>,
    /// The namespaces that it is ready in.
    ready: Vec<NamespaceNumber>,
    /// It has said once that there is nothing else.
    said_all: bool,
}

impl Accepted {
    /// What it says of what it has is said on this stream.
    const fn telling(&self) -> Telling {
        Telling { member: self.node, stream: self.stream.get() }
    }
}

struct Link {
    context: Arc<NodeContext>,
    receiver: PeerReceiver,
    incoming: Streaming<v1::ReplicateRequest>,
    outgoing: mpsc::Sender<Result<v1::ReplicateResponse, Status>>,
    waiting: VecDeque<Result<v1::ReplicateResponse, Status>>,
    answers_sender: mpsc::UnboundedSender<SubmissionAnswer>,
    answers: mpsc::UnboundedReceiver<SubmissionAnswer>,
    base_answers_sender: mpsc::UnboundedSender<BaseAnswer>,
    base_answers: mpsc::UnboundedReceiver<BaseAnswer>,
    peer: Option<Accepted>,
    /// How far each log has been acknowledged on this stream.
    acknowledged: BTreeMap<LogName, SeenLog>,
    own_marks: OwnMarks,
    /// The rows that the peer has offered, for holes.
    offered: BTreeMap<LogName, Row>,
}

impl Link {
    fn new(
        context: Arc<NodeContext>,
        incoming: Streaming<v1::ReplicateRequest>,
        outgoing: mpsc::Sender<Result<v1::ReplicateResponse, Status>>,
    ) -> Self {
        // One answer to each submission, and those are within the window.
        let (answers_sender, answers) = mpsc::unbounded_channel();
        // One to each base.
        let (base_answers_sender, base_answers) = mpsc::unbounded_channel();
        let config = ReceiverConfig { window_bytes: WINDOW_BYTES };
        let receiver = PeerReceiver::new(context.clock.moment(), config, context.me());
        Self {
            own_marks: OwnMarks::new(&context),
            context,
            receiver,
            incoming,
            outgoing,
            waiting: VecDeque::new(),
            answers_sender,
            answers,
            base_answers_sender,
            base_answers,
            peer: None,
            acknowledged: BTreeMap::new(),
            offered: BTreeMap::new(),
        }
    }

    async fn run(mut self) {
        let ended = self.drive().await;
        if let Some(peer) = &self.peer {
            self.context.hub.inbound_disconnected(peer.node, peer.stream);
        }
        if let Err(status) = ended {
            tracing::debug!(
                peer = self.peer.as_ref().map(|peer| peer.name.as_str()),
                %status,
                "a peer's stream ended"
            );
            // The peer may have gone first, or not read any more.
            let told = self.outgoing.send(Err(status));
            let _ = tokio::time::timeout(SILENCE_LIMIT, told).await;
        }
    }

    async fn drive(&mut self) -> Result<(), Status> {
        let context = Arc::clone(&self.context);
        let mut durable = context.durable.watch_durable();
        let mut topology = context.topology.watch();
        let mut space = context.space.watch();
        let mut ending = context.tasks.ending();
        topology.mark_changed();
        space.mark_changed();
        loop {
            // A stream that was given up ends, also if nobody takes what waits.
            while self.waiting.is_empty() || self.receiver.poll_timeout().is_none() {
                let Some(action) = self.receiver.poll_action() else { break };
                self.carry_out(action).await?;
            }
            let is_waiting = !self.waiting.is_empty();
            let timeout = context.clock.sleep_until(self.receiver.poll_timeout());
            tokio::select! {
                sent = send_first(&self.outgoing, &mut self.waiting), if is_waiting => {
                    if !sent {
                        return Ok(());
                    }
                }
                frame = self.incoming.message(), if !is_waiting => match frame? {
                    Some(frame) => self.handle_frame(frame)?,
                    None => return Ok(()),
                },
                answer = self.answers.recv() => {
                    if let Some(SubmissionAnswer { log, outcome }) = answer {
                        self.note_conflict(&log, &outcome);
                        self.receiver.handle_outcome(context.clock.moment(), &log, outcome);
                    }
                }
                base = self.base_answers.recv() => match base {
                    Some(BaseAnswer::Stored(namespace)) => {
                        self.receiver.handle_base_stored(context.clock.moment(), namespace);
                    }
                    Some(BaseAnswer::Refused(detail)) => {
                        return Err(Status::invalid_argument(format!("the base: {detail}")));
                    }
                    None => return Ok(()),
                },
                changed = durable.changed() => match changed {
                    Ok(()) => self.acknowledge(),
                    Err(_) => return Ok(()),
                },
                changed = topology.changed() => match changed {
                    Ok(()) => {
                        let newest = topology.borrow_and_update().clone();
                        self.receiver.handle_topology(context.clock.moment(), newest);
                        self.acknowledge();
                    }
                    Err(_) => return Ok(()),
                },
                changed = space.changed() => match changed {
                    Ok(()) => {
                        let closed = space.borrow_and_update().replication_closed;
                        self.receiver.set_window_closed(context.clock.moment(), closed);
                    }
                    Err(_) => return Ok(()),
                },
                command = command_of(&mut self.peer) => match command {
                    Some(command) => self.obey(command)?,
                    // A newer stream of this peer has taken over.
                    None => return Err(Status::aborted("a newer stream of this node is open")),
                },
                () = timeout => self.receiver.handle_timeout(context.clock.moment()),
                () = until_set(&mut ending) => {
                    return Err(refusal(Reason::Draining, "this node is ending").into());
                }
            }
        }
    }

    fn now(&self) -> Moment {
        self.context.clock.moment()
    }

    fn handle_frame(&mut self, frame: v1::ReplicateRequest) -> Result<(), Status> {
        let frame: SenderFrame =
            frame.into_core().map_err(|error: InvalidField| Status::from(error))?;
        if let Some(peer) = &self.peer {
            self.context.news.heard(peer.node);
            if let SenderFrame::Frame(frame) = &frame {
                let name = || [peer.name.clone()];
                self.context.metrics.frames_received.with(name()).increment();
                self.context.metrics.messages_received.with(name()).add(frame.sends.len() as u64);
            }
        }
        self.receiver.handle_frame(self.context.clock.moment(), frame);
        Ok(())
    }

    fn obey(&mut self, command: InboundCommand) -> Result<(), Status> {
        let now = self.now();
        match command {
            InboundCommand::Want(log, from) => self.receiver.handle_want(now, log, from),
            InboundCommand::Unwant(log) => self.receiver.handle_unwant(now, &log),
            InboundCommand::Fenced(other) => {
                let name = self.peer.as_ref().map_or("", |peer| peer.name.as_str());
                return Err(fenced_status(name, &other));
            }
        }
        Ok(())
    }

    async fn carry_out(&mut self, action: ReceiverAction) -> Result<(), Status> {
        match action {
            ReceiverAction::Transmit(frame) => self.transmit(frame)?,
            ReceiverAction::TransmitHeartbeat => {
                let wall_clock = self.context.clock.wall();
                self.transmit(ReceiverFrame::Heartbeat(Heartbeat::at(wall_clock)))?;
            }
            ReceiverAction::PeerIntroduced(hello) => self.introduce(hello).await?,
            ReceiverAction::PeerClock(wall) => self.hear_clock(wall)?,
            ReceiverAction::PeerDigests(digests) => {
                if let Some(peer) = &self.peer {
                    hear_digests(&self.context, peer.node, &peer.name, &digests);
                }
            }
            ReceiverAction::Offered { peer, offers } => self.take_offers(peer, offers).await?,
            ReceiverAction::Submit(frame) => {
                let Some(peer) = &self.peer else { return Ok(()) };
                let answer = self.answers_sender.clone();
                let command = WriterCommand::Receive(peer.node, frame, answer);
                self.context.writer.submit(command).await.map_err(ending_status)?;
            }
            ReceiverAction::SubmitHole(hole) => {
                let row = self.offered.get(&hole.log).cloned();
                let command = WriterCommand::ReceiveHole(hole, row, self.answers_sender.clone());
                self.context.writer.submit(command).await.map_err(ending_status)?;
            }
            ReceiverAction::BaseReceived(base) => {
                let Some(peer) = &self.peer else { return Ok(()) };
                let answer = self.base_answers_sender.clone();
                let command = WriterCommand::MergeBase(peer.telling(), base, answer);
                self.context.writer.submit(command).await.map_err(ending_status)?;
            }
            ReceiverAction::RelayedFact(fact) => {
                let member = fact.opening.node;
                if self.own_marks.hear(member, &fact.marks).map_err(ending_status)? {
                    self.context.hub.record(&fact, false);
                }
            }
            ReceiverAction::Refused(refused) => {
                if let Some(peer) = &self.peer {
                    self.context.hub.server_failed(peer.node, &refused.log);
                }
            }
            ReceiverAction::TopologyReceived(topology) => {
                let from = self.peer.as_ref().map_or_else(String::new, |peer| peer.name.clone());
                offer_topology(&self.context, topology, &from).await;
            }
            ReceiverAction::Disconnect { reason } => return Err(disconnect_status(reason)),
        }
        Ok(())
    }

    fn note_conflict(&self, log: &LogName, outcome: &SubmissionOutcome) {
        let Some(peer) = &self.peer else { return };
        if let SubmissionOutcome::Nack { reason: NackReason::ContentDiffers, detail, .. } = outcome
        {
            let now = self.context.clock.wall();
            self.context.alarms.raise_conflict(now, log, peer.node, detail);
        }
    }

    /// Checks who calls, and answers with what this node holds.
    async fn introduce(&mut self, hello: Hello) -> Result<(), Status> {
        let context = Arc::clone(&self.context);
        let member = &hello.member;
        let topology = context.topology.current();
        check_member(&topology, &hello).inspect_err(|status| {
            let now = context.clock.wall();
            let subject = member.name.as_str();
            context.alarms.raise(now, AlarmKind::PeerRefused, subject, status.message());
        })?;
        let peer = member.opening.node;
        let introduced = context.hub.introduce(member).await;
        let (stream, commands) =
            introduced.map_err(|other| fenced_status(member.name.as_str(), &other))?;
        self.peer = Some(Accepted {
            node: peer,
            name: member.name.to_string(),
            stream,
            commands,
            ready: hello.namespaces.iter().map(|digest| digest.namespace).collect(),
            said_all: false,
        });
        context.alarms.clear(AlarmKind::PeerRefused, member.name.as_str());
        context.clock.check_peer(&context.alarms, member.name.as_str(), hello.wall_clock);
        context.news.introduced(member.opening);
        context.alarms.peer_opened(&member.opening);
        let marks = self.marks_for(&topology, peer);
        let welcome = Welcome {
            protocol_version: PROTOCOL_VERSION,
            member: context.member(),
            topology_version: topology.version,
            marks,
            namespaces: digests(&context, peer).await.map_err(ending_status)?,
            window_bytes: WINDOW_BYTES,
            feature_level: context.config.feature_level(),
            wall_clock: context.clock.wall(),
        };
        self.receiver.accept(self.now(), welcome);
        Ok(())
    }

    /// The durable marks of all logs that the peer may know of.
    fn marks_for(&self, topology: &Topology, peer: NodeNumber) -> Vec<(LogName, Mark)> {
        let logs = self.context.durable.logs(|log| topology.is_holder(peer, log.namespace));
        logs.into_iter().map(|log| (log.row.log, log.durable)).collect()
    }

    async fn take_offers(&mut self, peer: NodeNumber, offers: Vec<LogOffer>) -> Result<(), Status> {
        let topology = self.context.topology.current();
        let me = self.context.me().node;
        let offers: Vec<LogOffer> = offers
            .into_iter()
            .filter(|offer| {
                let namespace = offer.log.namespace;
                topology.is_member(me, namespace) && topology.is_holder(peer, namespace)
            })
            .collect();
        let tips: Vec<_> = offers.iter().map(|offer| (offer.log, offer.tip)).collect();
        self.own_marks.hear(peer, &tips).map_err(ending_status)?;
        let Some(accepted) = &self.peer else { return Ok(()) };
        let mut new = Vec::new();
        for offer in &offers {
            let row = Row { log: offer.log, parents: offer.parents.clone() };
            if self.offered.insert(offer.log, row).is_none() {
                new.push((offer.log, offer.tip));
            }
        }
        let writer = &self.context.writer;
        if !new.is_empty() {
            writer.submit(WriterCommand::Examine(peer, new)).await.map_err(ending_status)?;
        }
        self.context.hub.offered(peer, accepted.stream, &offers);
        if !accepted.said_all && !accepted.ready.is_empty() {
            let news = BackfillNews::Offered(accepted.telling(), offers);
            let command = WriterCommand::Backfill(accepted.ready.clone(), news);
            writer.submit(command).await.map_err(ending_status)?;
        }
        Ok(())
    }

    /// A heartbeat says that nothing else is there than what was offered.
    fn hear_clock(&mut self, wall: interlock_core::clock::WallTime) -> Result<(), Status> {
        let now = self.now();
        let Some(peer) = &mut self.peer else { return Ok(()) };
        self.context.hub.heard_inbound(peer.node, peer.stream, now);
        if !std::mem::replace(&mut peer.said_all, true) && !peer.ready.is_empty() {
            let news = BackfillNews::OfferedAll(peer.telling());
            let command = WriterCommand::Backfill(peer.ready.clone(), news);
            self.context.writer.tell(command).map_err(ending_status)?;
        }
        self.context.clock.check_peer(&self.context.alarms, &peer.name, wall);
        Ok(())
    }

    /// Tells the receiver what has become durable, of what the peer may know.
    fn acknowledge(&mut self) {
        let Some(peer) = self.peer.as_ref().map(|peer| peer.node) else { return };
        let topology = self.context.topology.current();
        let advanced = self.context.durable.collect_advanced(&mut self.acknowledged, |log| {
            topology.is_holder(peer, log.namespace)
        });
        let marks: Vec<(LogName, Mark)> =
            advanced.into_iter().map(|log| (log.row.log, log.durable)).collect();
        self.receiver.handle_durable(self.context.clock.moment(), &marks);
    }

    fn transmit(&mut self, frame: ReceiverFrame) -> Result<(), Status> {
        let frame = frame.into_wire();
        if !self.waiting.is_empty() {
            self.waiting.push_back(Ok(frame));
            return Ok(());
        }
        match self.outgoing.try_send(Ok(frame)) {
            Ok(()) => Ok(()),
            Err(mpsc::error::TrySendError::Full(frame)) => {
                self.waiting.push_back(frame);
                Ok(())
            }
            Err(mpsc::error::TrySendError::Closed(_)) => Err(Status::cancelled("the peer is gone")),
        }
    }
}

/// The next command of the hub, once the peer is accepted.
async fn command_of(peer: &mut Option<Accepted>) -> Option<InboundCommand> {
    match peer {
        Some(peer) => peer.commands.recv().await,
        None => std::future::pending().await,
    }
}

/// Whether a caller is who it says to be, by the topology.
fn check_member(topology: &Topology, hello: &Hello) -> Result<(), Status> {
    let member = &hello.member;
    let refuse = |text: String| Err(refusal(Reason::UnknownNode, text).into());
    let Some(node) = topology.node(member.opening.node) else {
        // One that has a newer topology may know better than we do.
        if hello.topology_version > topology.version {
            return Ok(());
        }
        return refuse(format!("node number {} is not in the topology", member.opening.node));
    };
    if node.name != member.name || node.region != member.region {
        return refuse(format!(
            "node number {} is {} of {}, not {} of {}",
            node.number, node.name, node.region, member.name, member.region
        ));
    }
    Ok(())
}

/// Tells one of two live processes of a name to drain.
fn fenced_status(name: &str, other: &Speaker) -> Status {
    tracing::warn!(peer = name, %other, "of two live processes of this name, one is fenced off");
    refusal(Reason::Fenced, format!("another process of the name {name} is live: {other}")).into()
}

fn ending_status(_: QueueClosed) -> Status {
    refusal(Reason::Draining, "this node is ending").into()
}

fn disconnect_status(reason: ReceiverDisconnect) -> Status {
    let text = reason.to_string();
    match reason {
        ReceiverDisconnect::ProtocolVersion { .. } => {
            refusal(Reason::ProtocolMismatch, text).into()
        }
        ReceiverDisconnect::Silent | ReceiverDisconnect::NoHello => Status::unavailable(text),
        ReceiverDisconnect::Ourselves | ReceiverDisconnect::RuleBroken { .. } => {
            Status::failed_precondition(text)
        }
    }
}
