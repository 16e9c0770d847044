//! Equal messages and other channels, on streams that are long established: a node,
//! and a peer whose every word the test says.

use std::time::Duration;

use interlock_core::clock::WallTime;
use interlock_core::identity::{
    FeatureLevel, FencingToken, Incarnation, MemberOpening, NamespaceNumber, NodeNumber,
    TopologyVersion,
};
use interlock_core::names::{NodeName, RegionName};
use interlock_core::replication::frames::{
    Heartbeat, Hello, Member, NamespaceDigest, PROTOCOL_VERSION, ReceiverFrame, SenderFrame,
    Welcome,
};
use interlock_rpc::channel::EndpointConfig;
use interlock_rpc::convert::{IntoCore as _, IntoWire as _};
use interlock_rpc::server::{GrpcServer, Listener, ServerConfig};
use interlock_rpc::services::replication;
use interlock_rpc::v1;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Response, Status, Streaming};

use crate::support::{Mesh, PATIENCE, TestNamespace, until};

fn peer() -> Member {
    let incarnation = Incarnation::new(77).expect("not zero");
    Member {
        opening: MemberOpening { node: NodeNumber::new(2), incarnation, opened_from: None },
        name: NodeName::parse("node-1").expect("a name"),
        region: RegionName::parse("region-1").expect("a name"),
        fencing_token: FencingToken::new(0),
    }
}

/// Answers the node's call as a member that holds the same, and tells what comes.
struct Peer {
    heard: mpsc::UnboundedSender<SenderFrame>,
}

#[tonic::async_trait]
impl replication::Service for Peer {
    type ReplicateStream = ReceiverStream<Result<v1::ReplicateResponse, Status>>;

    async fn replicate(
        &self,
        request: Request<Streaming<v1::ReplicateRequest>>,
    ) -> Result<Response<Self::ReplicateStream>, Status> {
        let mut requests = request.into_inner();
        let heard = self.heard.clone();
        let (responses, receiver) = mpsc::channel(64);
        tokio::spawn(async move {
            let mut beat = tokio::time::interval(Duration::from_secs(1));
            loop {
                let frame = tokio::select! {
                    frame = requests.message() => frame,
                    _ = beat.tick() => {
                        let beat = ReceiverFrame::Heartbeat(Heartbeat::at(WallTime::new(0)));
                        let _ = responses.send(Ok(beat.into_wire())).await;
                        continue;
                    }
                };
                let Ok(Some(frame)) = frame else { return };
                let frame: SenderFrame = frame.into_core().expect("a node's frame can be read");
                if let SenderFrame::Hello(hello) = &frame {
                    let welcome = Welcome {
                        protocol_version: PROTOCOL_VERSION,
                        member: peer(),
                        topology_version: hello.topology_version,
                        marks: Vec::new(),
                        namespaces: hello.namespaces.clone(),
                        window_bytes: 64 << 20,
                        feature_level: FeatureLevel::new(1),
                        wall_clock: hello.wall_clock,
                    };
                    let welcome = ReceiverFrame::Welcome(welcome).into_wire();
                    let _ = responses.send(Ok(welcome)).await;
                }
                let _ = heard.send(frame);
            }
        });
        Ok(Response::new(ReceiverStream::new(receiver)))
    }
}

/// A peer whose channels become others while the stream stands gets the base, is an
/// alarm as long as they stay others, and none when they are the same again.
#[tokio::test(flavor = "multi_thread")]
async fn divergence_is_seen_on_a_stream_that_stands() {
    let namespaces = [TestNamespace::on("demo", vec![0, 1])];
    let mut mesh = Mesh::with_config(2, &namespaces, |_, config| {
        config.metrics_listen = Some(std::net::SocketAddr::from(([127, 0, 0, 1], 0)));
    })
    .await;
    mesh.create_channel(0, "news", &[0, 1]).await;
    mesh.publish(0, "news", "a").await.expect("it is accepted");
    mesh.until_converged(&[0, 1]).await;
    mesh.shutdown(1).await;
    let held = mesh.verify(0).await.expect("it serves").namespaces[0].clone();
    let equal = NamespaceDigest {
        namespace: NamespaceNumber::new(held.namespace),
        tips: held.tips[..].try_into().expect("16 bytes"),
        state: held.state[..].try_into().expect("16 bytes"),
    };

    let (heard_sender, mut heard) = mpsc::unbounded_channel();
    let address = mesh.nodes[1].config.replication_listen;
    let listener = until("the address is free", async || Listener::bind(address).await).await;
    let service = replication::server(Peer { heard: heard_sender });
    let server = GrpcServer::new(ServerConfig::bulk()).add_service(service);
    let _server = server.serve(listener).await.expect("it serves");

    // What the node says of itself: told once it was quiet for a while.
    let told = async {
        loop {
            let frame = heard.recv().await.expect("the node goes on");
            let SenderFrame::Heartbeat(beat) = frame else { continue };
            if let Some(digest) = beat.namespaces.into_iter().next() {
                return digest;
            }
        }
    };
    let told = tokio::time::timeout(PATIENCE, told).await.expect("it says so in time");
    assert_eq!(told, equal);

    let (frames, requests) = mpsc::channel(4);
    let replication = mesh.nodes[0].config.replication_listen.to_string();
    let channel = EndpointConfig::bulk(replication).connect_lazy().expect("a plain address");
    let say = async |frame: SenderFrame| {
        frames.send(frame.into_wire()).await.map_err(|_| "the stream has ended".to_owned())
    };
    let now = || {
        let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
        let since = since.expect("after 1970").as_millis();
        WallTime::new(u64::try_from(since).expect("this century"))
    };
    let hello = Hello {
        protocol_version: PROTOCOL_VERSION,
        member: peer(),
        topology_version: TopologyVersion::default(),
        namespaces: vec![equal],
        feature_level: FeatureLevel::new(1),
        wall_clock: now(),
    };
    say(SenderFrame::Hello(hello)).await.expect("it is open");
    let mut client = replication::client(channel);
    let calling = client.replicate(ReceiverStream::new(requests)).await;
    let mut answers = calling.expect("the node answers").into_inner();
    tokio::spawn(async move { while let Ok(Some(_)) = answers.message().await {} });

    let other = NamespaceDigest { state: [0x5a; 16], ..equal };
    let divergences = async || {
        let status = mesh.status(0).await.expect("it serves");
        let raised = status.alarms.into_iter().filter(|alarm| alarm.name == "divergence");
        raised.map(|alarm| alarm.detail).collect::<Vec<_>>()
    };
    let beat = |digest: &NamespaceDigest| {
        let namespaces = vec![*digest];
        SenderFrame::Heartbeat(Heartbeat { wall_clock: now(), namespaces })
    };
    let raised = until("the alarm is up", async || {
        say(beat(&other)).await?;
        match divergences().await {
            raised if raised.len() == 1 => Ok(raised),
            none => Err(format!("{none:?}")),
        }
    })
    .await;
    assert!(raised[0].starts_with("demo at node-1: "), "{raised:?}");
    let line = "interlock_directory_divergences_total{namespace=\"demo\"}";
    assert_eq!(mesh.metric(0, line).await, Some(1.0));
    let line = "interlock_directory_diverged_peers{namespace=\"demo\"}";
    assert_eq!(mesh.metric(0, line).await, Some(1.0));
    let base = async {
        loop {
            if let SenderFrame::BaseEntries(base) = heard.recv().await.expect("the node goes on")
                && !base.directory.is_empty()
            {
                return base;
            }
        }
    };
    let base = tokio::time::timeout(PATIENCE, base).await.expect("it sends its own in time");
    assert_eq!(base.namespace, equal.namespace);

    until("the alarm is over", async || {
        say(beat(&equal)).await?;
        match divergences().await {
            none if none.is_empty() => Ok(()),
            raised => Err(format!("{raised:?}")),
        }
    })
    .await;
    assert_eq!(mesh.metric(0, line).await, None);
}
