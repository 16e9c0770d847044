//! What is no message of ours, or far too much of one, and peers that are none: an
//! error, nothing stored, and every service goes on serving (promise I9, bad input).

use std::time::Duration;

use bytes::Bytes;
use interlock_client::Start;
use interlock_core::limits::MAX_RECEIVED_MESSAGE_BYTES;
use interlock_rpc::channel::EndpointConfig;
use interlock_rpc::{services, v1};
use tonic::transport::Channel;
use tonic::{Code, Request, Status};

use crate::support::{REGIONS, World, publish, within};
use crate::waiting::in_time;

/// `PublishRequest` as nobody should send it: text that is no UTF-8, and numbers
/// where messages belong.
#[derive(Clone, PartialEq, prost::Message)]
struct Malformed {
    #[prost(bytes = "bytes", tag = "1")]
    namespace: Bytes,
    #[prost(uint64, tag = "2")]
    publication: u64,
}

fn connect(address: &str) -> Channel {
    EndpointConfig::new(address).connect_lazy().expect("an address")
}

/// Every region still takes messages, and serves them. What `news` holds besides.
async fn assert_still_here(world: &World) -> Vec<String> {
    let context = world.mesh.context();
    for region in REGIONS {
        world.publish(region, "news", "still here").await;
        interlock_rpc::health::check(&EndpointConfig::new(
            context.regions[region].gateways[0].clone(),
        ))
        .await
        .expect("it serves");
    }
    world.until_same().await;
    let read = world.history("asia", &["news"], Start::Oldest).await;
    let (here, others): (Vec<_>, Vec<_>) =
        read.texts().into_iter().partition(|text| text == "still here");
    assert_eq!(here.len(), 3);
    others
}

/// Clients that send what cannot be read, far too much, or too late.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_no_message_harms_nobody() {
    let world = World::start().await;
    world.create("europe", "news").await;
    let before = world.until_same().await;
    let context = world.mesh.context();
    let push_node = context.regions["europe"].push_nodes[0].clone();
    let gateway = context.regions["europe"].gateways[0].clone();

    let malformed = [
        Malformed { namespace: Bytes::from_static(b"\xff\xfe\x80"), publication: 0 },
        Malformed { namespace: Bytes::from_static(b"demo"), publication: 77 },
    ];
    for address in [&push_node, &gateway] {
        for message in &malformed {
            let mut client = tonic::client::Grpc::new(connect(address));
            client.ready().await.expect("it listens");
            let codec = tonic_prost::ProstCodec::<Malformed, v1::PublishResponse>::default();
            let path = tonic::codegen::http::uri::PathAndQuery::from_static(
                "/interlock.v1.PublishService/Publish",
            );
            let refused = client.unary(Request::new(message.clone()), path, codec).await;
            let refused = refused.expect_err("it is no message");
            assert_ne!(refused.code(), Code::Unavailable, "{refused}");
        }
        // Larger than anything that is taken.
        let mut client =
            services::publish::Client::new(connect(address)).max_encoding_message_size(usize::MAX);
        let huge = publish("news", vec![0; 2 * MAX_RECEIVED_MESSAGE_BYTES]);
        let refused = client.publish(huge).await.expect_err("it is far too large");
        assert!(matches!(refused.code(), Code::OutOfRange | Code::ResourceExhausted), "{refused}");
        let mut oversized = Request::new(publish("news", "x"));
        let value = "x".repeat(1 << 20).parse().expect("plain text");
        oversized.metadata_mut().insert("x-large", value);
        client.publish(oversized).await.expect_err("the headers are far too large");
        // A deadline that is over.
        let late = within(publish("news", "x"), Duration::ZERO);
        let _ = services::publish::client(connect(address)).publish(late).await;
    }
    let held = world.held("europe").await.expect("it serves");
    let late = held.logs.iter().map(|mark| mark.m_id).sum::<u64>()
        - before.logs.iter().map(|mark| mark.m_id).sum::<u64>();
    assert!(late <= 2, "only what came with an expired deadline may be stored, not {late}");

    let others = assert_still_here(&world).await;
    assert!(others.iter().all(|text| text == "x"), "{others:?}");
    world.end().await;
}

/// Strangers at the port where push-nodes replicate: each stream ends, and the node's
/// operator is told of whoever gives a name.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn strangers_harm_nobody_and_are_told_of() {
    use v1::replicate_request::Body;
    let world = World::start().await;
    world.create("europe", "news").await;
    let mut topology = world.client.topology().expect("a control-plane");
    let topology = topology.get_topology(v1::GetTopologyRequest {}).await.expect("it answers");
    let nodes = topology.into_inner().topology.expect("it is told").nodes;
    let europe = nodes.iter().find(|node| node.region == "europe").expect("it is registered");
    let of_europe = v1::LogName { origin: europe.number, incarnation: 1, namespace: 1, shard: 0 };
    let stranger = v1::MemberIdentity {
        node: 900,
        name: "stranger".to_owned(),
        region: "europe".to_owned(),
        incarnation: 9,
        opened_from: 0,
        fencing_token: u64::MAX,
    };
    let hello = v1::Hello { protocol_version: 1, member: Some(stranger), ..Default::default() };
    let frame = v1::Frame {
        log: Some(of_europe),
        first_m_id: u64::MAX,
        sends: vec![Bytes::from_static(b"\xff\xff\xff"); 10],
        ..Default::default()
    };
    let bodies = [
        vec![None],
        vec![Some(Body::Frame(frame.clone()))],
        vec![Some(Body::Hello(v1::Hello::default()))],
        vec![Some(Body::Hello(v1::Hello { protocol_version: u32::MAX, ..hello.clone() }))],
        vec![Some(Body::Hello(hello)), Some(Body::Frame(frame))],
    ];
    for bodies in bodies {
        let mut client = services::replication::client(connect(&europe.replication_address));
        let described = format!("{bodies:?}");
        let requests: Vec<_> =
            bodies.into_iter().map(|body| v1::ReplicateRequest { body }).collect();
        let refused = async {
            let mut answers = client.replicate(tokio_stream::iter(requests)).await?.into_inner();
            while in_time("an end", answers.message()).await?.is_some() {}
            Ok::<_, Status>(())
        };
        // However it is told, it ends.
        if let Err(status) = refused.await {
            assert_ne!(status.code(), Code::Internal, "{described}: {status}");
        }
    }

    let others = assert_still_here(&world).await;
    assert!(others.is_empty(), "{others:?}");
    for region in REGIONS {
        let status = world.status(region).await.expect("it serves");
        let alarms: Vec<_> = status.alarms.iter().map(|alarm| alarm.name.as_str()).collect();
        let told = if region == "europe" { &["peer_refused"][..] } else { &[] };
        assert_eq!(alarms, told, "{region}: only the stranger is told of");
    }
    world.end().await;
}
