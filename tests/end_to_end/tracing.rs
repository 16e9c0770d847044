//! One trace from the publish call in one region to the delivery in another, and by
//! whom a message came there.
//!
//! The mesh is one of processes, because telemetry is configured by a process's
//! environment; they export to a collector in this one.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex, PoisonError};

use bytes::Bytes;
use interlock_client::{Mesh as Client, Start, Subscriber, SubscriberOptions};
use interlock_rpc::v1;
use opentelemetry_proto::tonic::collector::trace::v1::trace_service_server::{
    TraceService, TraceServiceServer,
};
use opentelemetry_proto::tonic::collector::trace::v1::{
    ExportTraceServiceRequest, ExportTraceServiceResponse,
};
use opentelemetry_proto::tonic::common::v1::{KeyValue, any_value::Value};
use opentelemetry_proto::tonic::trace::v1::Span;
use tokio::net::TcpListener;
use tokio_stream::wrappers::TcpListenerStream;
use tonic::{Request, Response, Status};
use xtask::mesh::{Mesh, REGIONS};

use crate::mesh_client::client_of;
use crate::support::{create, owned, publication, publish, text};
use crate::waiting::{in_time, until};

/// The trace of a call that names it in its headers.
const IN_HEADERS: &str = "00-11111111111111111111111111111111-aaaaaaaaaaaaaaaa-01";
/// The trace of a publication that carries it.
const IN_PUBLICATION: &str = "00-22222222222222222222222222222222-bbbbbbbbbbbbbbbb-01";
/// The trace of a call that says it is not sampled.
const UNSAMPLED: &str = "00-33333333333333333333333333333333-cccccccccccccccc-00";
/// The trace of all publications until one is relayed.
const RELAYED: &str = "00-44444444444444444444444444444444-dddddddddddddddd-01";

#[derive(Clone, Default)]
struct Collector {
    /// Each span with the name of the process that made it.
    spans: Arc<Mutex<Vec<(String, Span)>>>,
}

#[tonic::async_trait]
impl TraceService for Collector {
    async fn export(
        &self,
        request: Request<ExportTraceServiceRequest>,
    ) -> Result<Response<ExportTraceServiceResponse>, Status> {
        let mut spans = self.spans.lock().unwrap_or_else(PoisonError::into_inner);
        for resource_spans in request.into_inner().resource_spans {
            let resource = resource_spans.resource.unwrap_or_default().attributes;
            let process = attribute(&resource, "service.instance.id");
            let scopes = resource_spans.scope_spans.into_iter();
            spans.extend(scopes.flat_map(|scope| scope.spans).map(|span| (process.clone(), span)));
        }
        Ok(Response::new(ExportTraceServiceResponse::default()))
    }
}

/// Listens for spans: what comes, and where it is to be sent.
async fn collector() -> (Collector, String) {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
    let endpoint = format!("http://{}", listener.local_addr().expect("bound"));
    let collector = Collector::default();
    let service = TraceServiceServer::new(collector.clone());
    tokio::spawn(
        tonic::transport::Server::builder()
            .add_service(service)
            .serve_with_incoming(TcpListenerStream::new(listener)),
    );
    (collector, endpoint)
}

fn attribute(attributes: &[KeyValue], key: &str) -> String {
    let attribute = attributes.iter().find(|attribute| attribute.key == key);
    match attribute.and_then(|attribute| attribute.value.as_ref()?.value.as_ref()) {
        Some(Value::StringValue(text)) => text.clone(),
        _ => String::new(),
    }
}

fn binaries() -> PathBuf {
    let folder = std::env::var_os("INTERLOCK_BINARIES").expect(
        "INTERLOCK_BINARIES names the folder of the built binaries: run `cargo xtask test`",
    );
    PathBuf::from(folder)
}

/// Creates the channel `demo/news` on these regions.
async fn create_news(client: &Client, regions: &[&str]) {
    let mut topology = client.topology().expect("a control-plane");
    let group =
        v1::ApplyGroupRequest { name: "world".to_owned(), regions: owned(regions), leave: false };
    topology.apply_group(group).await.expect("the regions are known");
    let namespace = v1::CreateNamespaceRequest {
        name: "demo".to_owned(),
        groups: vec!["world".to_owned()],
        disk_cap_bytes: 0,
        retention: None,
    };
    topology.create_namespace(namespace).await.expect("the name is free");
    let mut channels = client.channels("europe").expect("a push-node");
    until("the namespace is ready", async || channels.create_channel(create("news")).await).await;
}

/// Three messages from europe to a subscriber in asia, in a mesh that exports to
/// this collector.
async fn publish_and_deliver(collector: String) {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let mut mesh = Mesh::new(folder.path(), &binaries(), BTreeMap::new()).expect("free ports");
    mesh.set_environment("OTEL_EXPORTER_OTLP_ENDPOINT", &collector);
    tokio::task::block_in_place(|| mesh.start()).expect("all processes start");
    let client = client_of(&mesh);
    create_news(&client, &REGIONS).await;
    let options = SubscriberOptions { start: Start::Oldest, ..SubscriberOptions::default() };
    let gateways = client.gateways("asia").expect("a gateway");
    let mut subscriber = Subscriber::new(gateways, "demo", &owned(&["*"]), &options);

    // The subscription stands before anything is published: what it gets comes by
    // the gateway's one upstream copy.
    in_time("the subscription", subscriber.next()).await.expect("it serves");

    let mut publishing = client.publishing("europe").expect("a push-node");
    let in_headers = |text: &'static str, traceparent: &str| {
        let mut request = Request::new(publish("news", text));
        let header = traceparent.parse().expect("a plain header");
        request.metadata_mut().insert("traceparent", header);
        request
    };
    let carried = |text: &str, traceparent: &str| v1::PublishRequest {
        publication: Some(v1::Publication {
            traceparent: traceparent.to_owned(),
            ..publication("news", Bytes::from(text.to_owned()))
        }),
        ..publish("news", "")
    };
    publishing.publish(in_headers("in headers", IN_HEADERS)).await.expect("the node accepts");
    publishing.publish(carried("carried", IN_PUBLICATION)).await.expect("the node accepts");
    publishing.publish(in_headers("unsampled", UNSAMPLED)).await.expect("the node accepts");
    let mut got = Vec::new();
    while got.len() < 3 {
        let received = in_time("the messages", subscriber.next()).await.expect("it serves");
        for delivery in received.expect("there is no limit").deliveries {
            if let Some(v1::delivery::Event::Message(message)) = delivery.event {
                let trace = message.traceparent.split('-').nth(1).unwrap_or_default().to_owned();
                got.push((text(&message), trace));
            }
        }
    }
    let trace_id = |traceparent: &str| traceparent[3..35].to_owned();
    assert_eq!(
        got,
        [
            ("in headers".to_owned(), trace_id(IN_HEADERS)),
            ("carried".to_owned(), trace_id(IN_PUBLICATION)),
            ("unsampled".to_owned(), String::new()),
        ]
    );
    // An orderly end exports what is left.
    tokio::task::block_in_place(|| mesh.stop_all()).expect("all processes stop");
}

fn bytes_of(hexadecimal: &str) -> Vec<u8> {
    (0..hexadecimal.len())
        .step_by(2)
        .map(|at| u8::from_str_radix(&hexadecimal[at..at + 2], 16).expect("hexadecimal"))
        .collect()
}

/// One trace spans the publish call at europe's push-node, what asia's push-node
/// does with the message, and the delivery by asia's gateway, in this order of
/// parents; a trace that is not sampled leaves no spans.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_trace_from_publish_to_delivery() {
    let (collector, endpoint) = collector().await;
    publish_and_deliver(endpoint).await;

    let spans = collector.spans.lock().unwrap_or_else(PoisonError::into_inner);
    let mut by_trace: BTreeMap<&[u8], Vec<(&str, &Span)>> = BTreeMap::new();
    for (process, span) in spans.iter() {
        by_trace.entry(&span.trace_id).or_default().push((process, span));
    }
    assert!(!by_trace.contains_key(&bytes_of(&UNSAMPLED[3..35])[..]), "it was not sampled");
    for traceparent in [IN_HEADERS, IN_PUBLICATION] {
        let trace = by_trace.get(&bytes_of(&traceparent[3..35])[..]);
        let trace = trace.unwrap_or_else(|| panic!("{traceparent}: no span arrived"));
        let listed: Vec<_> = trace.iter().map(|(process, span)| (process, &span.name)).collect();
        let find = |process: &str, name: &str| {
            let mut found = trace.iter().filter(|(of, span)| *of == process && span.name == name);
            let first =
                found.next().unwrap_or_else(|| panic!("no {name} of {process}: {listed:?}"));
            first.1
        };
        let publish = find("europe-1", "publish news");
        let caller = bytes_of(&traceparent[36..52]);
        let called = trace.iter().find(|(_, span)| span.span_id == publish.parent_span_id);
        match called {
            // The call's own span is between.
            Some((process, call)) => {
                assert_eq!((*process, &call.parent_span_id), ("europe-1", &caller));
            }
            None => assert_eq!(publish.parent_span_id, caller),
        }
        for process in ["america-1", "asia-1", "asia-gateway"] {
            let processed = find(process, "process news");
            assert_eq!(processed.parent_span_id, publish.span_id, "{process}");
            assert_eq!(
                attribute(&processed.attributes, "messaging.message.id"),
                attribute(&publish.attributes, "messaging.message.id"),
                "{process}"
            );
        }
    }
}

/// A second push-node of a region, killed when it is dropped.
struct Sibling(Child);

impl Sibling {
    fn start(
        name: &str,
        region: &str,
        folder: &Path,
        control_plane: &str,
        collector: &str,
    ) -> Self {
        let started = Command::new(binaries().join("push-node"))
            .args(["--node", name, "--region", region, "--control-plane", control_plane])
            .args(["--client-listen", "127.0.0.1:0", "--replication-listen", "127.0.0.1:0"])
            .arg("--data-dir")
            .arg(folder.join(name))
            .env("OTEL_EXPORTER_OTLP_ENDPOINT", collector)
            .env("OTEL_BSP_SCHEDULE_DELAY", EXPORT_MILLISECONDS)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn();
        Self(started.expect("the binary is there"))
    }
}

impl Drop for Sibling {
    fn drop(&mut self) {
        // One that has ended by itself has failed the test already.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Spans are exported so soon, not after five seconds.
const EXPORT_MILLISECONDS: &str = "100";

/// Of two push-nodes in asia one takes europe's messages from the other: its spans say
/// from whom, those of the other say nothing.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_span_tells_who_relayed_the_message() {
    let (collector, endpoint) = collector().await;
    let folder = tempfile::tempdir().expect("a temporary folder");
    let mut mesh = Mesh::new(folder.path(), &binaries(), BTreeMap::new()).expect("free ports");
    mesh.set_environment("OTEL_EXPORTER_OTLP_ENDPOINT", &endpoint);
    mesh.set_environment("OTEL_BSP_SCHEDULE_DELAY", EXPORT_MILLISECONDS);
    tokio::task::block_in_place(|| {
        mesh.start_control_plane()?;
        mesh.start_push_node("europe")?;
        mesh.start_push_node("asia")
    })
    .expect("the processes start");
    let control_plane = mesh.url("control-plane");
    let _sibling = Sibling::start("asia-2", "asia", folder.path(), &control_plane, &endpoint);
    let client = client_of(&mesh);
    create_news(&client, &["europe", "asia"]).await;

    let mut publishing = client.publishing("europe").expect("a push-node");
    let (message, receiver, relay) = until("a message is relayed", async || {
        let mut request = Request::new(publish("news", "x"));
        request.metadata_mut().insert("traceparent", RELAYED.parse().expect("a plain header"));
        publishing.publish(request).await.map_err(|status| status.to_string())?;
        let spans = collector.spans.lock().unwrap_or_else(PoisonError::into_inner);
        let received = spans.iter().filter(|(_, span)| span.name == "process news");
        let mut relayed = received.map(|(process, span)| {
            let of = |key| attribute(&span.attributes, key);
            (of("messaging.message.id"), process.clone(), of("interlock.relayed_by"))
        });
        let found = relayed.find(|(_, _, relay)| !relay.is_empty());
        found.ok_or_else(|| format!("{} spans", spans.len()))
    })
    .await;
    let mut siblings = [receiver.as_str(), relay.as_str()];
    siblings.sort_unstable();
    assert_eq!(siblings, ["asia-1", "asia-2"]);
    let direct = until("the other's span of the message", async || {
        let spans = collector.spans.lock().unwrap_or_else(PoisonError::into_inner);
        let mut of_relay = spans.iter().filter(|(process, span)| {
            let is_it = attribute(&span.attributes, "messaging.message.id") == message;
            is_it && *process == relay && span.name == "process news"
        });
        of_relay.next().map(|(_, span)| span.clone()).ok_or_else(|| spans.len())
    })
    .await;
    assert_eq!(attribute(&direct.attributes, "interlock.relayed_by"), "");
    tokio::task::block_in_place(|| mesh.stop_all()).expect("all processes stop");
}
