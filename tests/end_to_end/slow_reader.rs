//! A subscriber that does not read costs nobody else anything.

use bytes::Bytes;
use interlock_client::{Outgoing, Publisher, PublisherOptions, Start};
use interlock_rpc::v1;

use crate::observability::metric;
use crate::support::{World, subscribe};
use crate::waiting::{in_time, until};

/// Far more batches than the gateway keeps for one reader, with what the
/// connection takes: each is published when the quick reader has the one before.
const BATCHES: usize = 300;
const PER_BATCH: usize = 20;
const MESSAGES: usize = BATCHES * PER_BATCH;
const PAYLOAD_BYTES: usize = 2048;

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
    async fn start(world: &World) -> Self {
        // A connection of its own, which what is left unread fills.
        let mut gateway = world.own_subscribing("america");
        let opened = gateway.subscribe(subscribe(&["news"], Start::Now)).await;
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

/// METHOD M14 and RELIABILITY, slow subscriber: while one subscriber reads nothing
/// of thousands of messages, another of the same gateway gets them all; the slow
/// one was let go of, and when it reads gets all of them, once and in order.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_slow_reader_holds_up_nobody() {
    let world = World::start().await;
    world.create("europe", "news").await;
    let mut slow = Progress::start(&world).await;
    let mut quick = Progress::start(&world).await;
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
    until("the slow one is let go of", async || {
        match metric(gateway, "interlock_gateway_subscribers_fell_behind_total").await {
            Some(count) if count >= 1.0 => Ok(()),
            other => Err(other),
        }
    })
    .await;
    slow.read_up_to(MESSAGES).await;
    world.end().await;
}
