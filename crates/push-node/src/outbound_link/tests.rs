//! A real node and a peer whose every word the test says.

use std::net::SocketAddr;
use std::time::Duration;

use bytes::Bytes;
use interlock_core::admission::{ChannelChange, ChannelDraft, ChannelEdit, NewPublication};
use interlock_core::features::FEATURE_LEVEL;
use interlock_core::identity::{
    FencingToken, Incarnation, Mark, MemberOpening, MessageNumber, NamespaceNumber, NodeNumber,
};
use interlock_core::names::{ChannelName, NodeName, RegionName};
use interlock_core::replication::frames::{Fact, Member, PROTOCOL_VERSION, Want, Welcome};
use interlock_rpc::server::{GrpcServer, Listener, RunningServer, ServerConfig};
use interlock_rpc::services::replication::Service;
use tempfile::TempDir;
use tokio::sync::oneshot;
use tonic::{Request, Response, Status};

use super::*;
use crate::open_node::OpenNode;
use crate::{Config, PushNode};

const NAMESPACE: NamespaceNumber = NamespaceNumber::new(1);
const PEER: NodeNumber = NodeNumber::new(2);
const PATIENCE: Duration = Duration::from_secs(60);

/// One call of the node, at the peer.
struct Call {
    requests: Streaming<v1::ReplicateRequest>,
    responses: mpsc::Sender<Result<v1::ReplicateResponse, Status>>,
}

struct Peer {
    calls: mpsc::UnboundedSender<Call>,
}

#[tonic::async_trait]
impl Service for Peer {
    type ReplicateStream = ReceiverStream<Result<v1::ReplicateResponse, Status>>;

    async fn replicate(
        &self,
        request: Request<Streaming<v1::ReplicateRequest>>,
    ) -> Result<Response<Self::ReplicateStream>, Status> {
        let (responses, receiver) = mpsc::channel(64);
        let call = Call { requests: request.into_inner(), responses };
        self.calls.send(call).map_err(|_| Status::unavailable("the test is over"))?;
        Ok(Response::new(ReceiverStream::new(receiver)))
    }
}

/// A node that shares a namespace with the peer, and the calls it makes there.
struct World {
    node: OpenNode,
    calls: mpsc::UnboundedReceiver<Call>,
    _peer: RunningServer,
    _folder: TempDir,
}

impl World {
    async fn start() -> Self {
        interlock_rpc::install_crypto_provider();
        let loopback = SocketAddr::from(([127, 0, 0, 1], 0));
        let listener = Listener::bind(loopback).await.expect("a free port");
        let peer_address = listener.local_addr().expect("bound");
        let (sender, calls) = mpsc::unbounded_channel();
        let service = interlock_rpc::services::replication::server(Peer { calls: sender });
        let server = GrpcServer::new(ServerConfig::bulk()).add_service(service);
        let peer = server.serve(listener).await.expect("it serves");

        let folder = tempfile::tempdir().expect("a temporary folder");
        let topology_file = folder.path().join("topology.toml");
        let mut config = Config {
            node: "node".to_owned(),
            region: "here".to_owned(),
            data_dir: folder.path().join("node"),
            client_listen: loopback,
            replication_listen: loopback,
            topology_file: Some(topology_file.clone()),
            bootstrap: true,
            ..Config::default()
        };
        config.limits.publication_free_bytes = 0;
        config.limits.replication_free_bytes = 0;
        config.limits.drain_milliseconds = 1;
        let bound = PushNode::bind(config).await.expect("free ports");
        let text = format!(
            "version = 1\nregions = [\"here\", \"there\"]\n\
             [[nodes]]\nnumber = 1\nname = \"node\"\nregion = \"here\"\n\
             client_address = \"{}\"\nreplication_address = \"{}\"\n\
             [[nodes]]\nnumber = 2\nname = \"peer\"\nregion = \"there\"\n\
             client_address = \"{peer_address}\"\nreplication_address = \"{peer_address}\"\n\
             [[groups]]\nnumber = 1\nname = \"all\"\nregions = [\"here\", \"there\"]\n\
             [[namespaces]]\nnumber = 1\nname = \"demo\"\ngroups = [\"all\"]\n",
            bound.client_address().expect("bound"),
            bound.replication_address().expect("bound"),
        );
        std::fs::write(topology_file, text).expect("the folder is writable");
        let node = bound.open().await.expect("a fresh node starts");
        until("the node is ready", || node.context.readiness.is_ready(NAMESPACE)).await;
        Self { node, calls, _peer: peer, _folder: folder }
    }

    /// The next call that goes on: one that was made before the node was ready is
    /// broken off by the node itself.
    async fn welcomed(&mut self) -> Call {
        loop {
            let call = tokio::time::timeout(PATIENCE, self.calls.recv()).await;
            let mut call = call.expect("the node calls").expect("the peer serves");
            let Some(SenderFrame::Hello(hello)) = call.next().await else { continue };
            if hello.namespaces.is_empty() {
                continue;
            }
            call.say(ReceiverFrame::Welcome(Welcome {
                protocol_version: PROTOCOL_VERSION,
                member: Member {
                    opening: opening(),
                    name: NodeName::parse("peer").expect("a name"),
                    region: RegionName::parse("there").expect("a name"),
                    fencing_token: FencingToken::new(0),
                },
                topology_version: hello.topology_version,
                marks: Vec::new(),
                namespaces: hello.namespaces,
                window_bytes: 64 << 20,
                feature_level: FEATURE_LEVEL,
                wall_clock: self.node.context.clock.wall(),
            }))
            .await;
            return call;
        }
    }
}

impl Call {
    async fn next(&mut self) -> Option<SenderFrame> {
        let frame = tokio::time::timeout(PATIENCE, self.requests.message()).await;
        let frame = frame.expect("the node says something").ok()??;
        Some(frame.into_core().expect("a node's frame can be read"))
    }

    async fn say(&self, frame: ReceiverFrame) {
        self.responses.send(Ok(frame.into_wire())).await.expect("the node reads");
    }
}

fn opening() -> MemberOpening {
    let incarnation = Incarnation::new(77).expect("not zero");
    MemberOpening { node: PEER, incarnation, opened_from: None }
}

async fn until(what: &str, is_so: impl Fn() -> bool) {
    let begun = std::time::Instant::now();
    while !is_so() {
        assert!(begun.elapsed() < PATIENCE, "{what}: not in time");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

/// After an address change two links to one peer may be there for a moment: the
/// one that lost its place tries again for as long as nobody stops it.
#[tokio::test(flavor = "multi_thread")]
async fn a_link_whose_place_was_taken_calls_again() {
    let mut world = World::start().await;
    let _first = world.welcomed().await;
    let taken = world.node.context.hub.outbound_connected(PEER);
    let _second = world.welcomed().await;
    drop(taken);
    world.node.abort().await;
}

/// A peer that takes nothing for a while is still heard: what it holds counts for
/// those who wait for it, and does not pile up.
#[tokio::test(flavor = "multi_thread")]
async fn a_peer_that_does_not_read_is_still_heard() {
    const MESSAGES: usize = 40;
    const SURELY_STUCK_BYTES: u64 = 12 << 20;
    let mut world = World::start().await;
    let context = Arc::clone(&world.node.context);
    let channel = ChannelName::parse("news").expect("a name");
    let (sender, created) = oneshot::channel();
    let edit = ChannelEdit {
        namespace: NAMESPACE,
        channel: channel.clone(),
        change: ChannelChange::Create(ChannelDraft::default()),
        trace: None,
    };
    let command = WriterCommand::Edit(Box::new(edit), sender);
    context.writer.submit(command).await.expect("it is open");
    created.await.expect("it is answered").expect("it is accepted");
    for _ in 0..MESSAGES {
        let publication = NewPublication {
            namespace: NAMESPACE,
            channel: channel.clone(),
            key: Bytes::new(),
            payload: Bytes::from(vec![7; 1 << 20]),
            publisher: None,
            possibly_repeated: false,
            trace: None,
        };
        let answer = context.writer.publish(vec![publication]).await.expect("it is open");
        assert!(answer.await.expect("it is answered").refusal.is_none());
    }

    let mut call = world.welcomed().await;
    // The call may be older than the messages, which are then offered as they come.
    let (log, tip): (LogName, Mark) = loop {
        match call.next().await.expect("the stream goes on") {
            SenderFrame::Offer(offer) if offer.logs[0].tip.m_id.get() > MESSAGES as u64 => {
                break (offer.logs[0].log, offer.logs[0].tip);
            }
            _ => continue,
        }
    };
    call.say(ReceiverFrame::Want(Want { log, from: MessageNumber::new(1) })).await;
    // The first frame is sent alone, to see where the peer stands.
    let first = loop {
        match call.next().await.expect("the stream goes on") {
            SenderFrame::Frame(frame) => break frame,
            _ => continue,
        }
    };
    let held = Mark { m_id: first.last_m_id(), hash: first.last_hash() };
    call.say(ReceiverFrame::Ack(Fact { opening: opening(), marks: vec![(log, held)] })).await;
    until("more is sent than fits while nobody reads", || {
        let views = context.links.views();
        let sender = views.first().and_then(|(_, view)| view.sender.as_ref());
        sender.is_some_and(|sender| sender.in_flight_bytes > SURELY_STUCK_BYTES)
    })
    .await;
    let fact = Fact { opening: opening(), marks: vec![(log, tip)] };
    call.say(ReceiverFrame::Ack(fact)).await;
    until("its word counts", || context.hub.holders(&log, tip.m_id).contains(&PEER)).await;
    drop(context);
    world.node.abort().await;
}
