//! A push-node for tests: it opens every read at the start of the namespace, and
//! what comes then is for the test to say.

use std::net::SocketAddr;

use interlock_core::cursor::Cursor;
use interlock_core::replication::rows::Row;
use interlock_rpc::convert::IntoWire as _;
use interlock_rpc::server::{GrpcServer, Listener, RunningServer, ServerConfig};
use interlock_rpc::services::delivery::Service;
use interlock_rpc::{services, v1};
use interlock_telemetry::metrics::Registry;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Response, Status};

use crate::metrics::GatewayMetrics;
use crate::push_nodes::PushNodes;
use crate::samples::{NAMESPACE, log};
use crate::stream_slots::SlotLimits;

/// Streams that it takes on one connection, and that the gateway may have on one.
pub(crate) const STREAMS: usize = 3;

/// A read that was opened.
pub(crate) struct OpenedRead {
    pub(crate) request: v1::FollowRequest,
    responses: mpsc::Sender<Result<v1::FollowResponse, Status>>,
}

impl OpenedRead {
    pub(crate) async fn say(&self, body: v1::follow_response::Body) {
        let response = v1::FollowResponse { body: Some(body) };
        self.responses.send(Ok(response)).await.expect("the gateway reads");
    }

    /// Until the gateway has ended it.
    pub(crate) async fn ended(&self) {
        self.responses.closed().await;
    }
}

/// It runs as long as it is there.
pub(crate) struct FakePushNode {
    pub(crate) nodes: PushNodes,
    pub(crate) metrics: GatewayMetrics,
    pub(crate) reads: mpsc::Receiver<OpenedRead>,
    _server: RunningServer,
}

impl FakePushNode {
    pub(crate) async fn start() -> Self {
        let (opened, reads) = mpsc::channel(100);
        let listener = Listener::bind(SocketAddr::from(([127, 0, 0, 1], 0))).await;
        let config =
            ServerConfig { max_concurrent_streams: STREAMS as u32, ..ServerConfig::default() };
        let server = GrpcServer::new(config)
            .add_service(services::delivery::server(Follows(opened)))
            .serve(listener.expect("a free port"))
            .await
            .expect("it serves");
        let limits = SlotLimits {
            connections: 2,
            streams_per_connection: STREAMS,
            patience: std::time::Duration::ZERO,
        };
        let metrics = GatewayMetrics::register(&Registry::new());
        let nodes = PushNodes::with_limits(None, metrics.clone(), limits, limits);
        nodes.replace(&[format!("http://{}", server.local_addr())]).expect("an address");
        Self { nodes, metrics, reads, _server: server }
    }
}

struct Follows(mpsc::Sender<OpenedRead>);

#[tonic::async_trait]
impl Service for Follows {
    type FollowStream = ReceiverStream<Result<v1::FollowResponse, Status>>;

    async fn follow(
        &self,
        request: Request<v1::FollowRequest>,
    ) -> Result<Response<Self::FollowStream>, Status> {
        let (responses, stream) = mpsc::channel(1);
        let read = OpenedRead { request: request.into_inner(), responses };
        let row = Row { log: log(1, 11), parents: Vec::new() };
        let opened = v1::FollowOpened {
            namespace: NAMESPACE.get(),
            cursor: Cursor::new(NAMESPACE).encode(),
            rows: vec![row.into_wire()],
            ..Default::default()
        };
        read.say(v1::follow_response::Body::Opened(opened)).await;
        self.0.send(read).await.map_err(|_| Status::unavailable("the test has ended"))?;
        Ok(Response::new(ReceiverStream::new(stream)))
    }
}
