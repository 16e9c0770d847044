//! Publications: stored exactly once, as durable as asked for.

use std::time::Duration;

use bytes::Bytes;
use interlock_client::{Durability, Outgoing, Publisher, PublisherOptions, Start};
use interlock_rpc::status::{
    PublishOutcome, Reason, Stored, invalid_fields, metadata_of, reason_of, retry_after,
};
use interlock_rpc::v1;
use tonic::{Code, Status};

use crate::support::{
    PublishClient, REGIONS, World, assert_rising, create, numbered, publication, publish, within,
};
use crate::waiting::{holds, in_time, until};

async fn open_session(client: &mut PublishClient) -> Bytes {
    let request = v1::OpenSessionRequest { namespace: "demo".to_owned(), ..Default::default() };
    client.open_session(request).await.expect("a session is free").into_inner().session
}

fn in_session(session: &Bytes, sequence: u64, text: &str) -> v1::PublishRequest {
    v1::PublishRequest { session: session.clone(), sequence, ..publish("news", text.to_owned()) }
}

async fn try_publish(
    client: &mut PublishClient,
    request: v1::PublishRequest,
) -> Result<v1::PublishResponse, Status> {
    client.publish(request).await.map(tonic::Response::into_inner)
}

/// METHOD M10, M12 and promise I3: an answer that was lost is asked for again
/// with the same sequence, over the gateway or at the node, before and after the
/// node dies, and is the first answer; what is no repeat is told apart.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_session_retries_exactly() {
    let mut world = World::start().await;
    world.create("europe", "news").await;
    let mut node = world.publishing("europe");
    let mut gateway = world.publishing_by_gateway("europe");
    let session = open_session(&mut gateway).await;
    let first = try_publish(&mut gateway, in_session(&session, 1, "a")).await.expect("it is next");
    let second = try_publish(&mut node, in_session(&session, 2, "b")).await.expect("it is next");
    assert!(!first.already_stored && !second.already_stored && first.message.is_some());
    for client in [&mut node, &mut gateway] {
        let again = try_publish(client, in_session(&session, 1, "a")).await.expect("a repeat");
        assert_eq!((again.already_stored, again.message), (true, first.message));
    }
    world.abort("europe").await;
    world.restart("europe").await;
    let again = until("the gateway finds its node again", async || {
        try_publish(&mut gateway, in_session(&session, 2, "b")).await
    })
    .await;
    assert_eq!((again.already_stored, again.message), (true, second.message));

    let jump = try_publish(&mut node, in_session(&session, 4, "d")).await.expect_err("a jump");
    assert_eq!(jump.code(), Code::FailedPrecondition, "{jump}");
    assert_eq!(reason_of(&jump), Some(Reason::OutOfSequence));
    assert_eq!(metadata_of(&jump, "expected").as_deref(), Some("3"));
    let other = try_publish(&mut node, in_session(&session, 2, "x")).await;
    let other = other.expect_err("other content");
    assert_eq!(other.code(), Code::InvalidArgument, "{other}");
    assert_eq!(reason_of(&other), Some(Reason::SequenceContentDiffers));
    let zero = try_publish(&mut node, in_session(&session, 0, "x")).await.expect_err("no sequence");
    assert_eq!(invalid_fields(&zero)[0].field, "sequence");
    let unknown = in_session(&Bytes::from(vec![7; 16]), 1, "x");
    let unknown = try_publish(&mut node, unknown).await.expect_err("no such session");
    assert_eq!(reason_of(&unknown), Some(Reason::SessionUnknown));
    // A session belongs to the node that opened it.
    let elsewhere = try_publish(&mut world.publishing("asia"), in_session(&session, 3, "c")).await;
    assert_eq!(reason_of(&elsewhere.expect_err("not here")), Some(Reason::SessionUnknown));
    for refused in [&jump, &other, &unknown] {
        assert_eq!(PublishOutcome::of(refused, true).stored, Stored::No);
    }

    let resume = |sequence, last: &v1::PublishResponse| v1::OpenSessionRequest {
        namespace: "demo".to_owned(),
        session: session.clone(),
        last_acknowledged_sequence: sequence,
        last_acknowledged: last.message,
    };
    let resumed = node.open_session(resume(1, &first)).await.expect("it is known").into_inner();
    assert_eq!((resumed.next_sequence, resumed.last_stored), (3, second.message));
    let forked = node.open_session(resume(1, &second)).await.expect_err("not what 1 was");
    assert_eq!(reason_of(&forked), Some(Reason::SessionForked));
    try_publish(&mut node, in_session(&session, 3, "c")).await.expect("it is next");
    world.until_same().await;
    for region in REGIONS {
        let read = world.history(region, &["news"], Start::Oldest).await;
        assert_eq!(read.texts(), ["a", "b", "c"], "{region}");
    }
    world.end().await;
}

/// A channel's rate is held at each node: what is beyond it is refused with the
/// time to wait, the stream says from which sequence on, and the SDK waits.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_channel_takes_no_more_than_its_rate() {
    let world = World::start().await;
    let slow = v1::CreateChannelRequest { max_publications_per_second: 3, ..create("slow") };
    world.channels("europe").create_channel(slow).await.expect("it is free");
    let mut node = world.publishing("europe");
    let session = open_session(&mut node).await;
    // A frame is decided at one moment.
    let frame = v1::PublishStreamRequest {
        namespace: "demo".to_owned(),
        session,
        first_sequence: 1,
        publications: (1..=5).map(|n| publication("slow", n.to_string())).collect(),
        ..Default::default()
    };
    let stream = node.publish_stream(tokio_stream::iter([frame])).await.expect("it begins");
    let mut answers = stream.into_inner();
    let answer = in_time("an answer", answers.message()).await.expect("one").expect("one");
    assert_eq!(answer.acknowledged.len(), 1, "{answer:?}");
    assert_eq!(answer.acknowledged[0].last_sequence, 3);
    let refused = in_time("a refusal", answers.message()).await.expect_err("too fast");
    assert_eq!(refused.code(), Code::ResourceExhausted, "{refused}");
    assert_eq!(reason_of(&refused), Some(Reason::RateLimited), "{refused}");
    assert_eq!(metadata_of(&refused, "sequence").as_deref(), Some("4"));
    let wait = retry_after(&refused).expect("it says when");
    assert!(wait > Duration::ZERO && wait <= Duration::from_millis(334), "{wait:?}");
    assert_eq!(PublishOutcome::of(&refused, true).stored, Stored::No);

    let nodes = world.client.push_nodes("europe").expect("a push-node");
    let publisher = Publisher::new(nodes, "demo", PublisherOptions::default());
    let batch = (6..=12).map(|n| Outgoing {
        channel: "slow".to_owned(),
        payload: n.to_string().into(),
        ..Default::default()
    });
    let receipt = publisher.publish(batch.collect()).await.expect("it runs");
    let published = in_time("all of them", receipt).await.expect("after a while");
    assert_eq!(published.count, 7);
    publisher.finish().await;
    world.until_same().await;
    let read = world.history("asia", &["slow"], Start::Oldest).await;
    assert_eq!(read.texts(), ["1", "2", "3", "6", "7", "8", "9", "10", "11", "12"]);
    world.end().await;
}

fn with_level(level: Durability, text: &str) -> v1::PublishRequest {
    v1::PublishRequest { durability: Some(level.to_wire()), ..publish("news", text.to_owned()) }
}

/// METHOD M9, M11 and promise I1: PEERS(n) and ALL answer when that many
/// members hold the message; at the deadline the answer says what was reached,
/// and the message still comes to whoever was away. More than there are is
/// refused before anything is stored.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn levels_of_durability() {
    let mut world = World::start().await;
    world.create("europe", "news").await;
    let mut node = world.publishing("europe");
    let mut gateway = world.publishing_by_gateway("europe");
    let all = try_publish(&mut gateway, with_level(Durability::All, "all")).await;
    let mut durable_at = all.expect("all are up").durable_at;
    durable_at.sort();
    assert_eq!(durable_at, ["america-1", "asia-1", "europe-1"]);
    let one = try_publish(&mut node, with_level(Durability::Peers(1), "one")).await;
    assert!(one.expect("two are up").durable_at.len() >= 2);

    world.until_same().await;
    let before = world.held("europe").await.expect("it serves");
    for client in [&mut node, &mut gateway] {
        let too_many = try_publish(client, with_level(Durability::Peers(3), "never")).await;
        let too_many = too_many.expect_err("there are two peers");
        assert_eq!(too_many.code(), Code::FailedPrecondition, "{too_many}");
        assert_eq!(reason_of(&too_many), Some(Reason::TooFewMembers));
        assert_eq!(PublishOutcome::of(&too_many, false).stored, Stored::No);
    }
    assert_eq!(world.held("europe").await.expect("it serves"), before, "nothing was stored");

    world.abort("asia").await;
    let one = try_publish(&mut node, with_level(Durability::Peers(1), "one of two")).await;
    assert!(one.expect("america is up").durable_at.contains(&"america-1".to_owned()));
    for (level, text) in [(Durability::Peers(2), "late two"), (Durability::All, "late all")] {
        let request = within(with_level(level, text), Duration::from_millis(1500));
        let late = gateway.publish(request).await.expect_err("asia is away");
        assert_eq!(late.code(), Code::DeadlineExceeded, "{late}");
        assert_eq!(reason_of(&late), Some(Reason::DurabilityTimeout), "{late}");
        let mut outcome = PublishOutcome::of(&late, false);
        outcome.durable_at.sort();
        assert_eq!(outcome.stored, Stored::Yes);
        assert_eq!(outcome.durable_at, ["america-1", "europe-1"]);
        assert!(!outcome.safe_here && !outcome.safe_elsewhere, "{outcome:?}");
    }
    world.restart("asia").await;
    world.until_same().await;
    let read = world.history("asia", &["news"], Start::Oldest).await;
    assert_eq!(read.texts(), ["all", "one", "one of two", "late two", "late all"]);
    world.end().await;
}

/// METHOD M8, M11, M12 and promise I1, I3, I4: a publisher with much under way
/// goes on over crashes of its node; everything is acknowledged, and stored once
/// and in order at every region.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_publisher_goes_on_over_crashes() {
    const BATCHES: usize = 60;
    const PER_BATCH: usize = 20;
    let mut world = World::start().await;
    world.create("europe", "news").await;
    let nodes = world.client.push_nodes("europe").expect("a push-node");
    let publisher = Publisher::new(nodes, "demo", PublisherOptions::default());
    let texts = numbered("", 0..BATCHES * PER_BATCH);
    let mut receipts = Vec::new();
    let mut stored = 0;
    for (number, batch) in texts.chunks(PER_BATCH).enumerate() {
        let outgoing = |text: &String| Outgoing {
            channel: "news".to_owned(),
            payload: text.clone().into(),
            ..Outgoing::default()
        };
        let receipt = publisher.publish(batch.iter().map(outgoing).collect()).await.expect("runs");
        if number == 0 {
            // A session of which nothing is durable yet would die with its node.
            stored += in_time("the first receipt", receipt).await.expect("it is stored").count;
            continue;
        }
        receipts.push(receipt);
        if number % 20 == 10 {
            // With answers under way, and more to come while it is down.
            world.abort("europe").await;
            world.mesh.start_node("europe").await.expect("it starts again");
        }
    }
    for receipt in receipts {
        let published = in_time("a receipt", receipt).await.expect("it is stored");
        stored += published.count;
        assert!(published.durable_at.contains(&"europe-1".to_owned()));
    }
    publisher.finish().await;
    assert_eq!(stored as usize, texts.len());
    world.until_same().await;
    for region in REGIONS {
        let read = world.history(region, &["news"], Start::Oldest).await;
        assert!(read.texts() == texts, "{region}: {:?}", read.texts());
        assert_rising(&read.messages);
    }
    world.end().await;
}

/// METHOD M11 and promise I1, I11: a node that was away gets what both others
/// accepted meanwhile, by itself; the queues for it show what it lacks, and end
/// empty.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_that_was_away_catches_up() {
    let mut world = World::start().await;
    world.create("europe", "news").await;
    world.until_same().await;
    world.abort("asia").await;
    for number in 0..200 {
        let region = ["europe", "america"][number % 2];
        world.publish(region, "news", format!("{region} {number:03}")).await;
    }
    let queue = async |region: &str| {
        let status = world.status(region).await?;
        let peer = status.peers.into_iter().find(|peer| peer.name == "asia-1");
        peer.map(|peer| peer.queue_messages).ok_or_else(|| Status::unknown("no such peer"))
    };
    for region in ["europe", "america"] {
        // What was accepted there; it may serve the other's log as well.
        let waiting = queue(region).await.expect("it serves");
        assert!(waiting >= 100, "{region}: {waiting}");
    }
    world.mesh.start_node("asia").await.expect("it starts again");
    world.until_same().await;
    for region in ["europe", "america"] {
        until("the queue is empty", async || {
            let status = world.status(region).await?;
            let left: u64 = status.peers.iter().map(|peer| peer.queue_messages).sum();
            holds(left == 0, left).map_err(|left| Status::unknown(left.to_string()))
        })
        .await;
    }
    let read = world.history("asia", &["news"], Start::Oldest).await;
    assert_eq!(read.messages.len(), 200);
    assert_rising(&read.messages);
    world.end().await;
}

/// ALL means the members by the topology that a message is stamped
/// with. A stream that was opened before a region was added waits for its node.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_open_stream_counts_members_that_came_later() {
    let world = World::start().await;
    world.group("growing", &["europe", "america"]).await;
    world.namespace("grown", &["growing"]).await;
    for region in ["europe", "america"] {
        world.until_ready(region, "grown").await;
    }
    let channel = v1::CreateChannelRequest { namespace: "grown".to_owned(), ..create("news") };
    world.channels("europe").create_channel(channel).await.expect("the name is free");

    let (frames, requests) = tokio::sync::mpsc::channel(1);
    let frame = |text: &str| v1::PublishStreamRequest {
        namespace: "grown".to_owned(),
        durability: Some(Durability::All.to_wire()),
        publications: vec![publication("news", text.to_owned())],
        ..Default::default()
    };
    frames.send(frame("of two")).await.expect("the stream is open");
    let requests = tokio_stream::wrappers::ReceiverStream::new(requests);
    let answers = world.publishing("europe").publish_stream(requests).await;
    let mut answers = answers.expect("it begins").into_inner();
    let mut durable_at = async || {
        let answer = in_time("an answer", answers.message()).await.expect("one").expect("one");
        let mut durable_at = answer.durable_at;
        durable_at.sort();
        durable_at
    };
    assert_eq!(durable_at().await, ["america-1", "europe-1"]);

    world.group("growing", &REGIONS).await;
    world.until_ready("asia", "grown").await;
    // The node has the new topology when a new call counts the new member.
    until("europe counts asia", async || {
        let request = v1::PublishRequest {
            namespace: "grown".to_owned(),
            ..with_level(Durability::All, "of three")
        };
        let published = try_publish(&mut world.publishing("europe"), request).await?;
        holds(published.durable_at.len() == 3, published)
            .map_err(|published| Status::unknown(format!("{published:?}")))
    })
    .await;
    frames.send(frame("of three")).await.expect("the stream is open");
    assert_eq!(durable_at().await, ["america-1", "asia-1", "europe-1"]);
    world.end().await;
}
