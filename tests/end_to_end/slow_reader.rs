//! A subscriber that does not read costs nobody else anything.

use std::net::SocketAddr;

use bytes::Bytes;
use interlock_client::{Outgoing, Publisher, PublisherOptions, Start};
use interlock_core::limits::LIVE_QUEUE_BYTES;
use interlock_rpc::v1;

use crate::observability::metric;
use crate::support::{World, subscribe};
use crate::waiting::{in_time, until};

/// Three times what the gateway keeps for all readers, and far more than a
/// connection takes: each batch is published when the quick reader has the one
/// before.
const BATCHES: usize = 300;
const PER_BATCH: usize = 20;
const MESSAGES: usize = BATCHES * PER_BATCH;
const PAYLOAD_BYTES: usize = 4096;
const _: () = assert!(MESSAGES * PAYLOAD_BYTES > 2 * LIVE_QUEUE_BYTES);

fn payload(number: usize) -> Bytes {
    let mut bytes = format!("{number:08}").into_bytes();
    bytes.resize(PAYLOAD_BYTES, b'.');
    bytes.into()
}

/// What a subscriber has got of the messages.
struct Progress {
    stream: tonic::Streaming<v1::SubscribeResponse>,
    next: usize,
    last_m_id: u64,
}

impl Progress {
    /// Subscribes, and waits for the position at the start: what is published
    /// from now on is behind it.
    async fn start(world: &World, start: Start) -> Self {
        // A connection of its own, which what is left unread fills.
        let mut gateway = world.own_subscribing("america");
        let opened = gateway.subscribe(subscribe(&["news"], start)).await;
        let mut stream = opened.expect("it serves").into_inner();
        in_time("the start", stream.message()).await.expect("it serves").expect("it serves");
        Self { stream, next: 0, last_m_id: 0 }
    }

    /// Reads until it has so many messages: each once, and in order.
    async fn read_up_to(&mut self, count: usize) {
        while self.next < count {
            let response = in_time("a response", self.stream.message()).await;
            let response = response.expect("the gateway keeps it").expect("the gateway keeps it");
            for delivery in response.deliveries {
                match delivery.event.expect("a delivery is one of its kinds") {
                    v1::delivery::Event::Message(message) => {
                        assert!(message.payload == payload(self.next), "message {}", self.next);
                        let m_id = message.message.expect("a name").m_id;
                        assert!(m_id > self.last_m_id, "{m_id} after {}", self.last_m_id);
                        self.last_m_id = m_id;
                        self.next += 1;
                    }
                    v1::delivery::Event::Gap(gap) => panic!("nothing is missing: {gap:?}"),
                    _ => {}
                }
            }
        }
    }
}

/// Waits until a metric of a gateway is as expected.
async fn until_metric(gateway: SocketAddr, name: &str, is_so: impl Fn(f64) -> bool) {
    until(name, async || match metric(gateway, name).await {
        Some(value) if is_so(value) => Ok(()),
        other => Err(other),
    })
    .await;
}

/// METHOD M14, promise I9: while one subscriber reads nothing
/// of thousands of messages, another of the same gateway gets them all, and the
/// gateway keeps no more than its queue. The slow one was let go of; one that
/// comes later and reads nothing either keeps no stream from the push-node open.
/// When they read they get all of them, once and in order.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_slow_reader_holds_up_nobody() {
    let world = World::start().await;
    world.create("europe", "news").await;
    let mut slow = Progress::start(&world, Start::Now).await;
    let mut quick = Progress::start(&world, Start::Now).await;
    let nodes = world.client.push_nodes("europe").expect("a push-node");
    let publisher = Publisher::new(nodes, "demo", PublisherOptions::default());
    for first in (0..MESSAGES).step_by(PER_BATCH) {
        let batch = (first..first + PER_BATCH).map(|number| Outgoing {
            channel: "news".to_owned(),
            payload: payload(number),
            ..Outgoing::default()
        });
        publisher.publish(batch.collect()).await.expect("it runs");
        quick.read_up_to(first + PER_BATCH).await;
    }
    in_time("the end of publishing", publisher.finish()).await;
    let gateway = world.mesh.metrics_addresses()["america-gateway"];
    let fell_behind = "interlock_gateway_subscribers_fell_behind_total";
    until_metric(gateway, fell_behind, |count| count >= 1.0).await;
    let kept = metric(gateway, "interlock_gateway_queued_bytes").await.expect("it is told");
    assert!(kept > 0.0 && kept <= LIVE_QUEUE_BYTES as f64, "{kept}");

    let mut late = Progress::start(&world, Start::Oldest).await;
    let private_reads = "interlock_gateway_private_reads";
    until_metric(gateway, private_reads, |count| count >= 1.0).await;
    until_metric(gateway, private_reads, |count| count == 0.0).await;
    late.read_up_to(MESSAGES).await;
    slow.read_up_to(MESSAGES).await;
    world.end().await;
}
