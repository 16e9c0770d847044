//! Spans leave over OTLP as the semantic conventions want them, in the traces
//! that messages and callers belong to.
//!
//! Telemetry is configured by the environment and started once a process, so the
//! exporting process is this test binary again, as a child.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::process::Command;
use std::time::Duration;

use interlock_core::message::TraceContext;
use interlock_rpc::server::{GrpcServer, Listener, ServerConfig};
use interlock_rpc::{channel::EndpointConfig, services, trace, v1};
use interlock_telemetry::{LogFormat, TelemetryConfig, init, spans};
use opentelemetry_proto::tonic::collector::trace::v1::trace_service_server::{
    TraceService, TraceServiceServer,
};
use opentelemetry_proto::tonic::collector::trace::v1::{
    ExportTraceServiceRequest, ExportTraceServiceResponse,
};
use opentelemetry_proto::tonic::common::v1::{KeyValue, any_value::Value};
use opentelemetry_proto::tonic::trace::v1::{Span, span::SpanKind, status::StatusCode};
use tokio::net::TcpListener;
use tokio::sync::mpsc;
use tokio_stream::wrappers::TcpListenerStream;
use tonic::transport::{Identity, ServerTlsConfig};
use tonic::{Request, Response, Status};

const TRACE_ID: [u8; 16] = [0x11; 16];
const PARENT_SPAN: [u8; 8] = [0x22; 8];

struct Collector {
    received: mpsc::UnboundedSender<ExportTraceServiceRequest>,
}

#[tonic::async_trait]
impl TraceService for Collector {
    async fn export(
        &self,
        request: Request<ExportTraceServiceRequest>,
    ) -> Result<Response<ExportTraceServiceResponse>, Status> {
        self.received.send(request.into_inner()).expect("the test listens");
        Ok(Response::new(ExportTraceServiceResponse::default()))
    }
}

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
}

/// The child: publishes one message, calls a server in its trace, processes it,
/// and ends.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "the process that the other test starts"]
async fn exporting_process() {
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
    trace::set_parent(&process, &kept);
    spans::record_failure(&process, "no room");
    drop(process);
    let batch = spans::batch("commit", 3);
    trace::add_link(&batch, &kept);
    drop(batch);

    // A trace that its publisher did not sample stays unsampled.
    let unsampled = spans::process("markets", "unsampled", "3/7.0@00000000000000aa:13");
    trace::set_parent(&unsampled, &TraceContext { flags: 0, ..context });
    assert_eq!(trace::of_span(&unsampled), None);
    drop(unsampled);

    guard.shutdown().await;
    assert!(!spans::exporting());
}

fn text(attributes: &[KeyValue], key: &str) -> Option<String> {
    let attribute = attributes.iter().find(|attribute| attribute.key == key)?;
    match attribute.value.as_ref()?.value.as_ref()? {
        Value::StringValue(text) => Some(text.clone()),
        Value::IntValue(number) => Some(number.to_string()),
        other => panic!("{key} is {other:?}"),
    }
}

/// What the child exports to a collector, which speaks TLS if it has a
/// certificate for `localhost`.
async fn collect(
    tls: Option<ServerTlsConfig>,
    environment: Vec<(&'static str, PathBuf)>,
) -> Vec<ExportTraceServiceRequest> {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
    let port = listener.local_addr().expect("bound").port();
    let scheme = if tls.is_some() { "https" } else { "http" };
    let endpoint = format!("{scheme}://localhost:{port}");
    let (received, mut exports) = mpsc::unbounded_channel();
    let mut server = tonic::transport::Server::builder();
    if let Some(tls) = tls {
        server = server.tls_config(tls).expect("a valid certificate");
    }
    tokio::spawn(
        server
            .add_service(TraceServiceServer::new(Collector { received }))
            .serve_with_incoming(TcpListenerStream::new(listener)),
    );

    let child = tokio::task::spawn_blocking(move || {
        Command::new(std::env::current_exe().expect("this test"))
            .args(["--exact", "exporting_process", "--ignored", "--nocapture"])
            .env("OTEL_EXPORTER_OTLP_ENDPOINT", endpoint)
            .env("OTEL_RESOURCE_ATTRIBUTES", "deployment.environment.name=test")
            .envs(environment)
            .output()
            .expect("it starts")
    });
    let output = child.await.expect("it ends");
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{}\n{said}", String::from_utf8_lossy(&output.stdout));
    // The child flushed before it ended, so all of it has been received.
    std::iter::from_fn(|| exports.try_recv().ok()).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_collector_behind_tls_is_trusted_by_the_certificate_that_the_environment_names() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let signed = rcgen::generate_simple_self_signed(["localhost".to_owned()]).expect("signed");
    let certificate = folder.path().join("collector.pem");
    std::fs::write(&certificate, signed.cert.pem()).expect("it can be written");
    let identity = Identity::from_pem(signed.cert.pem(), signed.signing_key.serialize_pem());
    let tls = || Some(ServerTlsConfig::new().identity(identity.clone()));

    let trusted = collect(tls(), vec![("OTEL_EXPORTER_OTLP_CERTIFICATE", certificate)]).await;
    assert!(!trusted.is_empty());
    // Without it only the system's roots count, and they do not know this one.
    assert!(collect(tls(), Vec::new()).await.is_empty());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn spans_reach_the_collector_in_the_traces_they_belong_to() {
    let exports = collect(None, Vec::new()).await;
    let mut by_name: BTreeMap<String, Span> = BTreeMap::new();
    for export in exports {
        for resource_spans in export.resource_spans {
            let resource = resource_spans.resource.expect("a resource").attributes;
            assert_eq!(text(&resource, "service.name").as_deref(), Some("push-node"));
            assert_eq!(text(&resource, "service.instance.id").as_deref(), Some("north-0"));
            assert_eq!(text(&resource, "interlock.region").as_deref(), Some("north"));
            assert_eq!(text(&resource, "deployment.environment.name").as_deref(), Some("test"));
            for span in resource_spans.scope_spans.into_iter().flat_map(|scope| scope.spans) {
                assert!(by_name.insert(span.name.clone(), span).is_none(), "a name twice");
            }
        }
    }
    let names: Vec<&str> = by_name.keys().map(String::as_str).collect();
    assert_eq!(
        names,
        [
            "commit",
            "interlock.v1.NodeService/Drain",
            "interlock.v1.NodeService/GetStatus",
            "process prices/EUR.USD",
            "publish prices/EUR.USD",
        ]
    );

    let publish = &by_name["publish prices/EUR.USD"];
    assert_eq!(publish.trace_id, TRACE_ID);
    assert_eq!(publish.parent_span_id, PARENT_SPAN);
    assert_eq!(publish.kind(), SpanKind::Producer);
    for (key, value) in [
        ("messaging.system", "interlock"),
        ("messaging.operation.name", "publish"),
        ("messaging.operation.type", "send"),
        ("messaging.destination.name", "prices/EUR.USD"),
        ("messaging.message.id", "3/7.0@00000000000000aa:12"),
    ] {
        assert_eq!(text(&publish.attributes, key).as_deref(), Some(value), "{key}");
    }

    let process = &by_name["process prices/EUR.USD"];
    assert_eq!(process.trace_id, TRACE_ID);
    assert_eq!(process.parent_span_id, publish.span_id);
    assert_eq!(process.kind(), SpanKind::Consumer);
    assert_eq!(process.status.as_ref().expect("a status").code(), StatusCode::Error);

    let drain = &by_name["interlock.v1.NodeService/Drain"];
    assert_eq!(drain.trace_id, TRACE_ID);
    assert_eq!(drain.parent_span_id, publish.span_id);
    assert_eq!(drain.kind(), SpanKind::Server);
    assert_eq!(text(&drain.attributes, "rpc.response.status_code").as_deref(), Some("OK"));
    assert_eq!(text(&drain.attributes, "rpc.system.name").as_deref(), Some("grpc"));

    let refused = &by_name["interlock.v1.NodeService/GetStatus"];
    let code = text(&refused.attributes, "rpc.response.status_code");
    assert_eq!(code.as_deref(), Some("UNAVAILABLE"));
    assert_eq!(refused.status.as_ref().expect("a status").code(), StatusCode::Error);

    let batch = &by_name["commit"];
    assert_eq!(text(&batch.attributes, "messaging.batch.message_count").as_deref(), Some("3"));
    let [link] = batch.links.as_slice() else { panic!("one link, not {:?}", batch.links) };
    assert_eq!((link.trace_id.as_slice(), &link.span_id), (&TRACE_ID[..], &publish.span_id));
}
