//! Spans leave over OTLP as the semantic conventions want them, in the traces
//! that messages and callers belong to.
//!
//! Telemetry is configured by the environment and started once a process, so what
//! exports is a process of its own: `examples/exporting_process.rs`, which is built
//! with the tests.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::process::Command;

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

fn text(attributes: &[KeyValue], key: &str) -> Option<String> {
    let attribute = attributes.iter().find(|attribute| attribute.key == key)?;
    match attribute.value.as_ref()?.value.as_ref()? {
        Value::StringValue(text) => Some(text.clone()),
        Value::IntValue(number) => Some(number.to_string()),
        other => panic!("{key} is {other:?}"),
    }
}

/// Examples stand beside the folder that tests are in.
fn exporting_process() -> PathBuf {
    let test = std::env::current_exe().expect("this test");
    let built = test.parent().and_then(|deps| deps.parent()).expect("tests are in deps/");
    built.join("examples").join(format!("exporting_process{}", std::env::consts::EXE_SUFFIX))
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
        Command::new(exporting_process())
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
}
