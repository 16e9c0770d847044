//! Where followers start, what they are shown, and where they stop.

use crate::support::{Mesh, follow, messages, oldest, start, texts, until, until_finished};
use bytes::Bytes;
use interlock_rpc::v1;
use interlock_rpc::v1::start_position::Position;

async fn publish_all(mesh: &Mesh, at: usize, channel: &str, texts: &[&str]) {
    for text in texts {
        mesh.publish(at, channel, text.to_string()).await.expect("it is accepted");
    }
}

fn until_now(request: v1::FollowRequest) -> v1::FollowRequest {
    v1::FollowRequest { until_now: true, ..request }
}

/// The last n of the channels asked for, by the order of history, across
/// origins.
#[tokio::test(flavor = "multi_thread")]
async fn the_last_n_are_of_the_channels_asked_for() {
    let mesh = Mesh::start(2).await;
    mesh.create_channel(0, "a", &[0, 1]).await;
    mesh.create_channel(0, "b", &[0, 1]).await;
    publish_all(&mesh, 0, "a", &["a1", "a2"]).await;
    mesh.until_converged(&[0, 1]).await;
    publish_all(&mesh, 1, "b", &["b1", "b2", "b3"]).await;
    mesh.until_converged(&[0, 1]).await;
    publish_all(&mesh, 0, "a", &["a3"]).await;
    mesh.until_converged(&[0, 1]).await;
    let last = async |node: usize, count: u32, channels: &[&str]| {
        let request = follow(start(Position::Last(count)), channels);
        mesh.read(node, until_now(request)).await.0
    };
    for node in 0..2 {
        assert_eq!(last(node, 2, &[]).await, ["b3", "a3"]);
        assert_eq!(last(node, 2, &["a"]).await, ["a2", "a3"]);
        assert_eq!(last(node, 2, &["b*"]).await, ["b2", "b3"]);
        assert_eq!(last(node, 100, &["a"]).await, ["a1", "a2", "a3"]);
        assert!(last(node, 0, &[]).await.is_empty());
    }
}

/// METHOD M14: a cursor taken at one node goes on at any other, without loss and
/// without repetition.
#[tokio::test(flavor = "multi_thread")]
async fn a_cursor_goes_on_at_every_node() {
    let mut mesh = Mesh::start(3).await;
    mesh.create_channel(0, "a", &[0, 1, 2]).await;
    publish_all(&mesh, 0, "a", &["1", "2"]).await;
    publish_all(&mesh, 1, "a", &["3"]).await;
    mesh.until_converged(&[0, 1, 2]).await;
    let (read, cursor) = mesh.read(0, until_now(follow(oldest(), &[]))).await;
    assert_eq!(read.len(), 3);

    // The origin restarts: what follows is of another incarnation.
    mesh.kill(0).await;
    mesh.restart(0).await;
    mesh.until_serving(0).await;
    publish_all(&mesh, 0, "a", &["4"]).await;
    publish_all(&mesh, 2, "a", &["5"]).await;
    mesh.until_converged(&[0, 1, 2]).await;
    for node in 0..3 {
        let from = |cursor: &Bytes| until_now(follow(start(Position::Cursor(cursor.clone())), &[]));
        let (rest, end) = mesh.read(node, from(&cursor)).await;
        assert_eq!(rest, ["4", "5"]);
        let (nothing, _) = mesh.read((node + 1) % 3, from(&end)).await;
        assert!(nothing.is_empty(), "{nothing:?}");
    }
}

/// A read up to another's cursor stops exactly there, also when that is live.
#[tokio::test(flavor = "multi_thread")]
async fn a_read_stops_at_a_cursor() {
    let mesh = Mesh::start(1).await;
    mesh.create_channel(0, "a", &[0]).await;
    publish_all(&mesh, 0, "a", &["1", "2", "3"]).await;
    let (_, end) = mesh.read(0, until_now(follow(oldest(), &[]))).await;
    publish_all(&mesh, 0, "a", &["4"]).await;
    let request = v1::FollowRequest { until_cursor: end, ..follow(oldest(), &[]) };
    assert_eq!(mesh.read(0, request).await.0, ["1", "2", "3"]);
}

/// A read up to a cursor with a branch that is not known here shows the path that it
/// knows, waits for the branch, and stops behind it.
#[tokio::test(flavor = "multi_thread")]
async fn a_limit_on_an_unknown_branch_leaves_nothing_out() {
    let mut mesh = Mesh::start(2).await;
    mesh.create_channel(0, "a", &[0, 1]).await;
    publish_all(&mesh, 0, "a", &["1", "2"]).await;
    mesh.until_converged(&[0, 1]).await;
    mesh.shutdown(1).await;
    mesh.kill(0).await;
    mesh.restart(0).await;
    mesh.until_serving(0).await;
    publish_all(&mesh, 0, "a", &["3"]).await;
    let (read, end) = mesh.read(0, until_now(follow(oldest(), &[]))).await;
    assert_eq!(read, ["1", "2", "3"]);
    publish_all(&mesh, 0, "a", &["later"]).await;
    mesh.shutdown(0).await;

    // The other has never heard of the incarnation that "3" is of.
    mesh.restart(1).await;
    publish_all(&mesh, 1, "a", &["of another origin"]).await;
    let request = v1::FollowRequest { until_cursor: end, ..follow(oldest(), &[]) };
    let stream = mesh.delivery(1).follow(request).await.expect("it serves");
    let mut stream = stream.into_inner();
    let mut read = Vec::new();
    while read.len() < 2 {
        let response = stream.message().await.expect("it goes on").expect("it goes on");
        if let Some(v1::follow_response::Body::Batch(batch)) = response.body {
            read.extend(texts(&batch));
        }
    }
    assert_eq!(read, ["1", "2"]);
    mesh.restart(0).await;
    let (rest, _) = until_finished(stream).await;
    assert_eq!(rest, ["3"]);
}

/// The position moves through what a filter leaves out; origins that are left
/// out are not shown.
#[tokio::test(flavor = "multi_thread")]
async fn what_is_filtered_out_is_passed() {
    let mesh = Mesh::start(2).await;
    mesh.create_channel(0, "a", &[0, 1]).await;
    mesh.create_channel(0, "b", &[0, 1]).await;
    publish_all(&mesh, 0, "a", &["a1", "a2", "a3"]).await;
    publish_all(&mesh, 1, "b", &["b1"]).await;
    mesh.until_converged(&[0, 1]).await;
    let (read, end) = mesh.read(0, until_now(follow(oldest(), &["b"]))).await;
    assert_eq!(read, ["b1"]);
    let everything = mesh.read(0, until_now(follow(oldest(), &[]))).await.1;
    assert_eq!(end, everything, "both have passed all there is");

    let request = v1::FollowRequest { excluded_origins: vec![1], ..follow(oldest(), &[]) };
    assert_eq!(mesh.read(0, until_now(request)).await.0, ["b1"]);
}

/// A follower that reads nothing for a while gets everything afterwards, from
/// the disk where memory has moved on.
#[tokio::test(flavor = "multi_thread")]
async fn a_slow_follower_misses_nothing() {
    let all = crate::support::TestNamespace::on("demo", vec![0]);
    let mesh = Mesh::with_config(1, &[all], |_, config| {
        config.limits.tail_cache_bytes = 64 * 1024;
    })
    .await;
    mesh.create_channel(0, "a", &[0]).await;
    let stream = mesh.delivery(0).follow(follow(oldest(), &[])).await.expect("it serves");
    let mut stream = stream.into_inner();
    const MESSAGES: usize = 400;
    let payload = |number: usize| {
        let mut bytes = format!("{number:06}").into_bytes();
        bytes.resize(16 * 1024, b'.');
        bytes
    };
    for number in 0..MESSAGES {
        mesh.publish(0, "a", payload(number)).await.expect("it is accepted");
    }
    let mut next = 0;
    let mut last = 0;
    while next < MESSAGES {
        let response = stream.message().await.expect("it goes on").expect("it goes on");
        let Some(v1::follow_response::Body::Batch(batch)) = response.body else { continue };
        for (_, m_id, message) in messages(&batch) {
            assert_eq!(message.payload[..], payload(next)[..], "in order, once");
            assert!(m_id.get() > last, "the path's numbers rise");
            last = m_id.get();
            next += 1;
        }
    }
}

/// A follower is told how fresh each origin is.
#[tokio::test(flavor = "multi_thread")]
async fn heartbeats_tell_how_fresh_origins_are() {
    let mesh = Mesh::start(2).await;
    let stream = mesh.delivery(0).follow(follow(oldest(), &[])).await.expect("it serves");
    let mut stream = stream.into_inner();
    until("the other node was heard", async || {
        let response = stream.message().await.expect("it goes on").expect("it goes on");
        let Some(v1::follow_response::Body::Heartbeat(heartbeat)) = response.body else {
            return Err("no heartbeat".to_owned());
        };
        assert!(heartbeat.caught_up);
        let names: Vec<_> = heartbeat.origins.iter().map(|origin| origin.name.as_str()).collect();
        assert_eq!(names, ["node-0", "node-1"]);
        assert_eq!(heartbeat.origins[0].last_heard_milliseconds, 0);
        match heartbeat.origins[1].incarnation {
            0 => Err(format!("{heartbeat:?}")),
            _ => Ok(()),
        }
    })
    .await;
}

/// Starts and filters that make no sense are refused with the field.
#[tokio::test(flavor = "multi_thread")]
async fn bad_starts_are_refused() {
    let mesh = Mesh::start(1).await;
    let refused = async |request: v1::FollowRequest| {
        let refused = mesh.delivery(0).follow(request).await.expect_err("it makes no sense");
        assert_eq!(refused.code(), tonic::Code::InvalidArgument, "{refused}");
        interlock_rpc::status::invalid_fields(&refused)
            .first()
            .map(|field| field.field.clone())
            .unwrap_or_default()
    };
    let garbage = start(Position::Cursor(Bytes::from_static(b"garbage")));
    assert_eq!(refused(follow(garbage, &[])).await, "start.cursor");
    assert_eq!(refused(follow(start(Position::Last(u32::MAX)), &[])).await, "start.last");
    assert_eq!(refused(follow(oldest(), &["no channel"])).await, "channels");
}
