//! A process that exports spans: publishes one message, calls a server in its
//! trace, processes it, and ends. `tests/otlp_export.rs` reads what arrives at a
//! collector, which the environment names (`OTEL_EXPORTER_OTLP_ENDPOINT`).

use std::time::Duration;

use interlock_core::message::TraceContext;
use interlock_rpc::server::{GrpcServer, Listener, ServerConfig};
use interlock_rpc::{channel::EndpointConfig, services, trace, v1};
use interlock_telemetry::{LogFormat, TelemetryConfig, init, spans};
use tonic::{Request, Response, Status};

const TRACE_ID: [u8; 16] = [0x11; 16];
const PARENT_SPAN: [u8; 8] = [0x22; 8];

struct Node;

#[tonic::async_trait]
impl services::node::Service for Node {
    async fn get_status(
        &self,
        _: Request<v1::GetStatusRequest>,
    ) -> Result<Response<v1::GetStatusResponse>, Status> {
        Err(Status::unavailable("not now"))
    }

    async fn drain(
        &self,
        request: Request<v1::DrainRequest>,
    ) -> Result<Response<v1::DrainResponse>, Status> {
        let context = trace::of_request(&request).expect("the call is traced");
        assert_eq!(context.trace_id, TRACE_ID, "the handler runs in the caller's trace");
        Ok(Response::new(v1::DrainResponse::default()))
    }

    async fn verify(
        &self,
        _: Request<v1::VerifyRequest>,
    ) -> Result<Response<v1::VerifyResponse>, Status> {
        Ok(Response::new(v1::VerifyResponse::default()))
    }

    async fn get_node_topology(
        &self,
        _: Request<v1::GetNodeTopologyRequest>,
    ) -> Result<Response<v1::GetNodeTopologyResponse>, Status> {
        Ok(Response::new(v1::GetNodeTopologyResponse::default()))
    }

    async fn repair(
        &self,
        _: Request<v1::RepairRequest>,
    ) -> Result<Response<v1::RepairResponse>, Status> {
        Ok(Response::new(v1::RepairResponse::default()))
    }
}

#[tokio::main(worker_threads = 2)]
async fn main() {
    let config = TelemetryConfig {
        region: Some("north".into()),
        node: Some("north-0".into()),
        log_format: LogFormat::Json,
        ..TelemetryConfig::new("push-node")
    };
    let guard = init(&config).expect("telemetry starts");
    assert!(spans::exporting());
    let context = TraceContext { trace_id: TRACE_ID, span_id: PARENT_SPAN, flags: 1 };

    let publish = spans::publish("markets", "prices/EUR.USD");
    trace::set_parent(&publish, &context);
    spans::record_message_id(&publish, "3/7.0@00000000000000aa:12");

    let listener = Listener::bind("127.0.0.1:0").await.expect("a free port");
    let server = GrpcServer::new(ServerConfig::default())
        .add_service(services::node::server(Node))
        .serve(listener)
        .await
        .expect("serves");
    let address = server.local_addr().to_string();
    let channel = EndpointConfig::new(address).connect_lazy().expect("an address");
    let mut request = Request::new(v1::DrainRequest::default());
    publish.in_scope(|| trace::inject(&mut request));
    services::node::client(channel.clone()).drain(request).await.expect("answers");
    let mut request = Request::new(v1::GetStatusRequest::default());
    publish.in_scope(|| trace::inject(&mut request));
    services::node::client(channel).get_status(request).await.expect_err("unavailable");
    server.shutdown(Duration::from_secs(5)).await;

    let kept = trace::of_span(&publish).expect("sampled");
    drop(publish);

    // What another member does later, with nothing but the message's context.
    let process = spans::process("markets", "prices/EUR.USD", "3/7.0@00000000000000aa:12");
    let process = process.expect("spans are exported");
    trace::set_parent(&process, &kept);
    spans::record_failure(&process, "no room");
    drop(process);

    // A trace that its publisher did not sample stays unsampled.
    let unsampled = spans::process("markets", "unsampled", "3/7.0@00000000000000aa:13");
    let unsampled = unsampled.expect("spans are exported");
    trace::set_parent(&unsampled, &TraceContext { flags: 0, ..context });
    assert_eq!(trace::of_span(&unsampled), None);
    drop(unsampled);

    guard.shutdown().await;
    assert!(!spans::exporting());
}
