//! What operators and Kubernetes ask the services.

use std::collections::BTreeSet;
use std::net::SocketAddr;

use interlock_client::Start;
use interlock_rpc::channel::EndpointConfig;
use interlock_rpc::health::HealthError;
use interlock_rpc::v1;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tonic_health::pb::HealthCheckRequest;
use tonic_health::pb::health_check_response::ServingStatus;
use tonic_health::pb::health_client::HealthClient;
use tonic_reflection::pb::v1::ServerReflectionRequest;
use tonic_reflection::pb::v1::server_reflection_client::ServerReflectionClient;
use tonic_reflection::pb::v1::server_reflection_request::MessageRequest;
use tonic_reflection::pb::v1::server_reflection_response::MessageResponse;

use crate::support::{REGIONS, World};
use crate::waiting::{holds, in_time, until};

/// What an HTTP GET answers: the status, and the body.
async fn http_get(address: SocketAddr, path: &str) -> std::io::Result<(u16, String)> {
    let mut stream = TcpStream::connect(address).await?;
    let request = format!("GET {path} HTTP/1.1\r\nHost: test\r\nConnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).await?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await?;
    let malformed = || std::io::Error::other(format!("not HTTP: {answer:?}"));
    let (head, body) = answer.split_once("\r\n\r\n").ok_or_else(malformed)?;
    let status = head.split(' ').nth(1).and_then(|status| status.parse().ok());
    Ok((status.ok_or_else(malformed)?, body.to_owned()))
}

/// The sum of a metric over its labels; `None` where it is not there.
pub(crate) async fn metric(address: SocketAddr, name: &str) -> Option<f64> {
    let (_, text) = http_get(address, "/metrics").await.ok()?;
    let values: Vec<f64> = text
        .lines()
        .filter_map(|line| line.strip_prefix(name))
        .filter(|rest| rest.starts_with([' ', '{']))
        .filter_map(|rest| rest.rsplit(' ').next()?.parse().ok())
        .collect();
    (!values.is_empty()).then(|| values.iter().sum())
}

/// Every service's metrics tell what it did, under one prefix.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn metrics_of_all_services() {
    let world = World::start().await;
    world.create("europe", "news").await;
    let mut reader = world.reader("america", &["news"], Start::Now);
    reader.until_caught_up().await;
    for number in 0..7 {
        world.publish("europe", "news", number.to_string()).await;
    }
    reader.until_messages(7).await;
    let addresses = world.mesh.metrics_addresses();
    assert_eq!(addresses.len(), 7, "{addresses:?}");
    for (name, address) in &addresses {
        let (status, text) = http_get(*address, "/metrics").await.expect("it answers");
        assert_eq!(status, 200, "{name}");
        for line in text.lines().filter(|line| !line.starts_with('#')) {
            assert!(line.starts_with("interlock_"), "{name}: {line}");
        }
        assert!(text.contains("# HELP interlock_"), "{name}: {text}");
        for path in ["/healthz", "/readyz"] {
            assert_eq!(http_get(*address, path).await.expect("it answers").0, 200, "{name} {path}");
        }
    }
    let cases: [(&str, &str, f64); 12] = [
        ("europe-1", "interlock_publications_total", 7.0),
        ("europe-1", "interlock_channel_operations_total", 1.0),
        ("europe-1", "interlock_sync_duration_seconds_count", 1.0),
        ("europe-1", "interlock_frames_sent_total", 2.0),
        ("america-1", "interlock_messages_received_total", 8.0),
        ("america-1", "interlock_delivered_messages_total", 7.0),
        ("asia-1", "interlock_durable_messages_total", 8.0),
        ("america-gateway", "interlock_gateway_subscriptions", 1.0),
        ("america-gateway", "interlock_gateway_upstream_messages_total", 7.0),
        ("america-gateway", "interlock_gateway_delivered_messages_total", 7.0),
        ("control-plane", "interlock_control_plane_nodes", 3.0),
        ("control-plane", "interlock_rpc_requests_total", 3.0),
    ];
    for (service, name, at_least) in cases {
        until(name, async || {
            let value = metric(addresses[service], name).await;
            holds(value.is_some_and(|value| value >= at_least), (service, name, value))
        })
        .await;
    }
    until("the queues are empty", async || {
        let queues = metric(addresses["europe-1"], "interlock_peer_queue_messages").await;
        holds(queues == Some(0.0), queues)
    })
    .await;
    world.end().await;
}

async fn reflected_services(address: &str) -> BTreeSet<String> {
    let channel = EndpointConfig::new(address).connect_lazy().expect("an address");
    let request = ServerReflectionRequest {
        message_request: Some(MessageRequest::ListServices(String::new())),
        ..Default::default()
    };
    let mut client = ServerReflectionClient::new(channel);
    let answers = client.server_reflection_info(tokio_stream::once(request)).await;
    let mut answers = answers.expect("it serves reflection").into_inner();
    let answer = in_time("reflection", answers.message()).await.expect("it answers");
    match answer.expect("it answers").message_response {
        Some(MessageResponse::ListServicesResponse(list)) => {
            list.service.into_iter().map(|service| service.name).collect()
        }
        other => panic!("{other:?}"),
    }
}

/// Health and reflection of every service name what it serves; a node that drains
/// says so to health and readiness, so that nobody is sent to it any more.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn health_and_reflection_of_all_services() {
    let world = World::start().await;
    let context = world.mesh.context();
    let control_plane = context.control_plane.clone().expect("there is one");
    let mut expected =
        vec![(control_plane, ["TopologyService", "OperationService", "ChannelService"].as_slice())];
    for region in REGIONS {
        expected.push((
            context.regions[region].push_nodes[0].clone(),
            &["ChannelService", "PublishService", "DeliveryService", "NodeService"],
        ));
        expected.push((
            context.regions[region].gateways[0].clone(),
            &["SubscribeService", "ChannelService", "PublishService"],
        ));
    }
    for (address, services) in &expected {
        let endpoint = EndpointConfig::new(address.clone());
        interlock_rpc::health::check(&endpoint).await.expect("it serves");
        let listed = reflected_services(address).await;
        let mut health = HealthClient::new(endpoint.connect_lazy().expect("an address"));
        for service in *services {
            let service = format!("interlock.v1.{service}");
            assert!(listed.contains(&service), "{address}: {service} is not in {listed:?}");
            let request = HealthCheckRequest { service: service.clone() };
            let state = health.check(request).await.expect("it is known").into_inner();
            assert_eq!(state.status(), ServingStatus::Serving, "{address} {service}");
        }
        let ours = listed.iter().filter(|name| name.starts_with("interlock.")).count();
        assert_eq!(ours, services.len(), "{address}: {listed:?}");
        let nothing = HealthCheckRequest { service: "interlock.v1.Nothing".to_owned() };
        let unknown = health.check(nothing).await.expect_err("there is no such service");
        assert_eq!(unknown.code(), tonic::Code::NotFound);
    }

    let (address, mut node) = world.client.nodes("asia").expect("a node").remove(0);
    node.drain(v1::DrainRequest { deadline_milliseconds: 1000 }).await.expect("it answers");
    let status = world.status("asia").await.expect("it still answers");
    assert_eq!(status.state(), v1::ServingState::Draining);
    until("health says that it drains", async || {
        match interlock_rpc::health::check(&EndpointConfig::new(address.clone())).await {
            Err(HealthError::NotServing) => Ok(()),
            other => Err(other),
        }
    })
    .await;
    let metrics = world.mesh.metrics_addresses()["asia-1"];
    until("readiness says that it drains", async || match http_get(metrics, "/readyz").await {
        Ok((503, _)) => Ok(()),
        other => Err(other),
    })
    .await;
    assert_eq!(http_get(metrics, "/healthz").await.expect("it answers").0, 200, "it is alive");
    world.end().await;
}
