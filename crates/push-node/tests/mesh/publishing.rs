//! Sessions, streams, levels of acknowledgement, refusals.

use std::time::Duration;

use crate::support::{Mesh, publication, until, within};
use bytes::Bytes;
use interlock_core::limits::MAX_PAYLOAD_BYTES;
use interlock_rpc::status::{PublishOutcome, Reason, Stored, invalid_fields, reason_of};
use interlock_rpc::v1;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Code, Status};

async fn open_session(mesh: &Mesh, at: usize) -> Bytes {
    let request = v1::OpenSessionRequest { namespace: "demo".to_owned(), ..Default::default() };
    let opened = mesh.publisher(at).open_session(request).await.expect("a session is free");
    opened.into_inner().session
}

fn in_session(session: &Bytes, sequence: u64, text: &str) -> v1::PublishRequest {
    v1::PublishRequest {
        namespace: "demo".to_owned(),
        publication: Some(publication("news", text.to_owned())),
        session: session.clone(),
        sequence,
        ..Default::default()
    }
}

async fn publish(
    mesh: &Mesh,
    at: usize,
    request: v1::PublishRequest,
) -> Result<v1::PublishResponse, Status> {
    mesh.publisher(at).publish(request).await.map(|response| response.into_inner())
}

/// A retry in a session gets the first answer and stores nothing; jumps, other
/// content and unknown sessions are told apart, also after a restart.
#[tokio::test(flavor = "multi_thread")]
async fn sessions_retry_exactly() {
    let mut mesh = Mesh::start(1).await;
    mesh.create_channel(0, "news", &[0]).await;
    let session = open_session(&mesh, 0).await;
    let first = publish(&mesh, 0, in_session(&session, 1, "a")).await.expect("it is next");
    let second = publish(&mesh, 0, in_session(&session, 2, "b")).await.expect("it is next");
    assert!(!first.already_stored && !second.already_stored);
    let again = publish(&mesh, 0, in_session(&session, 1, "a")).await.expect("it is known");
    assert!(again.already_stored);
    assert_eq!(again.message, first.message);

    let reason = |refused: Result<v1::PublishResponse, Status>| {
        reason_of(&refused.expect_err("it is refused"))
    };
    let jump = publish(&mesh, 0, in_session(&session, 4, "d")).await;
    assert_eq!(reason(jump), Some(Reason::OutOfSequence));
    let other = publish(&mesh, 0, in_session(&session, 2, "x")).await;
    assert_eq!(reason(other), Some(Reason::SequenceContentDiffers));
    let unknown = publish(&mesh, 0, in_session(&Bytes::from(vec![7; 16]), 1, "x")).await;
    assert_eq!(reason(unknown), Some(Reason::SessionUnknown));

    mesh.kill(0).await;
    mesh.restart(0).await;
    mesh.until_serving(0).await;
    let resume = |last: &v1::PublishResponse, sequence| v1::OpenSessionRequest {
        namespace: "demo".to_owned(),
        session: session.clone(),
        last_acknowledged_sequence: sequence,
        last_acknowledged: last.message,
    };
    let resumed = mesh.publisher(0).open_session(resume(&first, 1)).await.expect("it goes on");
    let resumed = resumed.into_inner();
    assert_eq!(resumed.next_sequence, 3);
    assert_eq!(resumed.last_stored, second.message);
    let again = publish(&mesh, 0, in_session(&session, 2, "b")).await.expect("it is known");
    assert_eq!((again.already_stored, again.message), (true, second.message));
    publish(&mesh, 0, in_session(&session, 3, "c")).await.expect("it is next");
    let forked = mesh.publisher(0).open_session(resume(&first, 2)).await;
    let forked = forked.expect_err("another name was acknowledged there");
    assert_eq!(reason_of(&forked), Some(Reason::SessionForked));
    assert_eq!(mesh.read_all(0, &[]).await, ["a", "b", "c"]);
}

/// Frames of many, acknowledged in ranges; a refused frame ends the stream with
/// the reason, after all before it is acknowledged.
#[tokio::test(flavor = "multi_thread")]
async fn streams_are_acknowledged_in_ranges() {
    let mesh = Mesh::start(1).await;
    mesh.create_channel(0, "news", &[0]).await;
    let session = open_session(&mesh, 0).await;
    let (frames, requests) = mpsc::channel(16);
    let mut publisher = mesh.publisher(0);
    let answers = publisher.publish_stream(ReceiverStream::new(requests));
    const FRAMES: u64 = 20;
    const PER_FRAME: u64 = 50;
    let sending = async {
        for frame in 0..FRAMES {
            let first = frame * PER_FRAME + 1;
            let request = v1::PublishStreamRequest {
                namespace: "demo".to_owned(),
                session: session.clone(),
                first_sequence: first,
                publications: (first..first + PER_FRAME)
                    .map(|sequence| publication("news", sequence.to_string()))
                    .collect(),
                ..Default::default()
            };
            frames.send(request).await.expect("the stream is open");
        }
        let unknown = v1::PublishStreamRequest {
            first_sequence: FRAMES * PER_FRAME + 1,
            publications: vec![publication("no-such-channel", "x")],
            ..Default::default()
        };
        frames.send(unknown).await.expect("the stream is open");
    };
    let (answers, ()) = tokio::join!(answers, sending);
    let mut answers = answers.expect("the node serves").into_inner();
    let mut acknowledged = 0;
    let refused = loop {
        match answers.message().await {
            Ok(Some(response)) => {
                assert_eq!(response.durable_at, ["node-0"]);
                for range in response.acknowledged {
                    assert_eq!(range.first_sequence, acknowledged + 1);
                    assert!(!range.already_stored);
                    acknowledged = range.last_sequence;
                }
            }
            Ok(None) => panic!("the stream ended without a reason"),
            Err(status) => break status,
        }
    };
    assert_eq!(acknowledged, FRAMES * PER_FRAME);
    assert_eq!(reason_of(&refused), Some(Reason::UnknownChannel), "{refused}");
    assert_eq!(PublishOutcome::of(&refused, true).stored, Stored::No);
    let expected: Vec<String> = (1..=FRAMES * PER_FRAME).map(|it| it.to_string()).collect();
    assert_eq!(mesh.read_all(0, &[]).await, expected);
}

fn with_level(level: v1::DurabilityLevel, peers: u32, text: &str) -> v1::PublishRequest {
    v1::PublishRequest {
        namespace: "demo".to_owned(),
        publication: Some(publication("news", text.to_owned())),
        durability: Some(v1::Durability { level: level.into(), peers }),
        ..Default::default()
    }
}

/// PEERS(n) and ALL wait for the others; where one is down, the deadline's answer
/// says what was reached. More than there are is refused before storing.
#[tokio::test(flavor = "multi_thread")]
async fn levels_say_where_a_message_is_durable() {
    let mut mesh = Mesh::start(3).await;
    mesh.create_channel(0, "news", &[0, 1, 2]).await;
    let all = with_level(v1::DurabilityLevel::All, 0, "a");
    let reached = publish(&mesh, 0, all).await.expect("all are up");
    assert_eq!(reached.durable_at.len(), 3, "{reached:?}");

    mesh.kill(2).await;
    let two = with_level(v1::DurabilityLevel::Peers, 1, "b");
    let reached = publish(&mesh, 0, two).await.expect("one peer is up");
    assert!(reached.durable_at.contains(&"node-1".to_owned()), "{reached:?}");

    for request in [
        with_level(v1::DurabilityLevel::Peers, 2, "c"),
        with_level(v1::DurabilityLevel::All, 0, "d"),
    ] {
        let late = within(request, Duration::from_secs(2));
        let refused = mesh.publisher(0).publish(late).await.expect_err("a peer is down");
        assert_eq!(refused.code(), Code::DeadlineExceeded, "{refused}");
        assert_eq!(reason_of(&refused), Some(Reason::DurabilityTimeout));
        let outcome = PublishOutcome::of(&refused, false);
        assert_eq!(outcome.stored, Stored::Yes);
        assert_eq!(outcome.durable_at, ["node-0", "node-1"]);
        assert!(!outcome.safe_here && !outcome.safe_elsewhere);
    }
    let too_many = with_level(v1::DurabilityLevel::Peers, 3, "e");
    let refused = publish(&mesh, 0, too_many).await.expect_err("there are not so many");
    assert_eq!(reason_of(&refused), Some(Reason::TooFewMembers));
    assert_eq!(PublishOutcome::of(&refused, false).stored, Stored::No);
    assert_eq!(mesh.read_all(0, &[]).await, ["a", "b", "c", "d"]);
}

/// Limits are told with the field; nothing over them is stored.
#[tokio::test(flavor = "multi_thread")]
async fn what_is_over_a_limit_is_named() {
    let mesh = Mesh::start(1).await;
    mesh.create_channel(0, "news", &[0]).await;
    mesh.publish(0, "news", vec![1; MAX_PAYLOAD_BYTES]).await.expect("it is at the limit");
    let refused = mesh.publish(0, "news", vec![1; MAX_PAYLOAD_BYTES + 1]).await;
    let refused = refused.expect_err("it is over the limit");
    assert_eq!(refused.code(), Code::InvalidArgument);
    assert_eq!(invalid_fields(&refused)[0].field, "publication.payload");
    let refused = mesh.publish(0, "no channel", "x").await.expect_err("it is no name");
    assert_eq!(invalid_fields(&refused)[0].field, "publication.channel");
    let refused = mesh.publish(0, "unknown", "x").await.expect_err("it is not there");
    assert_eq!(refused.code(), Code::NotFound);
    let elsewhere = v1::PublishRequest {
        namespace: "nowhere".to_owned(),
        publication: Some(publication("news", "x")),
        ..Default::default()
    };
    let refused = publish(&mesh, 0, elsewhere).await.expect_err("it is not there");
    assert_eq!(reason_of(&refused), Some(Reason::UnknownNamespace));
    let held = mesh.verify(0).await.expect("it serves");
    assert_eq!(held.logs[0].m_id, 2, "the channel and one publication");
}

/// At its disk cap a namespace refuses publications and takes deletions.
#[tokio::test(flavor = "multi_thread")]
async fn a_full_namespace_refuses_publications() {
    let all = crate::support::TestNamespace::on("demo", vec![0]);
    let mesh = Mesh::with_config(1, &[all], |_, config| {
        config.limits.namespace_disk_cap_bytes = 64 * 1024;
    })
    .await;
    mesh.create_channel(0, "news", &[0]).await;
    let refused = until("the namespace is full", async || {
        match mesh.publish(0, "news", vec![7; 8 * 1024]).await {
            Ok(stored) => Err(format!("{stored:?}")),
            Err(status) => Ok(status),
        }
    })
    .await;
    assert_eq!(refused.code(), Code::ResourceExhausted, "{refused}");
    assert!(interlock_rpc::status::retry_after(&refused).is_some());
    let status = mesh.status(0).await.expect("it serves");
    assert!(status.alarms.iter().any(|alarm| alarm.name == "namespace_full"), "{status:?}");
    let request = v1::DeleteChannelRequest {
        namespace: "demo".to_owned(),
        channel: "news".to_owned(),
        ..Default::default()
    };
    mesh.channels(0).delete_channel(request).await.expect("a deletion needs little room");
}
