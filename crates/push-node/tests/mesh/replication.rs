//! Messages get from any node to every other, once and in order, over crashes.

use crate::support::{Mesh, TestNamespace, follow, now, texts, until};
use interlock_rpc::v1;

fn numbered(prefix: &str, range: std::ops::Range<usize>) -> Vec<String> {
    range.map(|number| format!("{prefix}{number}")).collect()
}

/// METHOD M3, M4, M7, M9, M10: an operation and publications at any node are at
/// every node, without a second call; each node is master and slave at once.
#[tokio::test(flavor = "multi_thread")]
async fn what_one_node_accepts_all_nodes_hold() {
    let mesh = Mesh::start(3).await;
    mesh.create_channel(0, "news", &[0, 1, 2]).await;
    for node in 0..3 {
        for text in numbered(&format!("{node}-"), 0..20) {
            mesh.publish(node, "news", text).await.expect("it is accepted");
        }
    }
    mesh.until_converged(&[0, 1, 2]).await;
    let first = mesh.read_all(0, &[]).await;
    for node in 0..3 {
        let read = mesh.read_all(node, &[]).await;
        assert_eq!(read, first, "history is the same everywhere");
        for origin in 0..3 {
            let prefix = format!("{origin}-");
            let of_origin: Vec<_> =
                read.iter().filter(|text| text.starts_with(&prefix)).cloned().collect();
            assert_eq!(of_origin, numbered(&prefix, 0..20), "in order and once");
        }
    }
    // The queues of all peers are empty in the end.
    for node in 0..3 {
        until("the queues are empty", async || {
            let status = mesh.status(node).await.map_err(|status| status.to_string())?;
            let queued: u64 = status.peers.iter().map(|peer| peer.queue_messages).sum();
            if queued == 0 { Ok(()) } else { Err(format!("{queued} messages")) }
        })
        .await;
    }
}

/// METHOD M12: after a crash in mid-transfer the origin carries on, under a new
/// incarnation, with nothing lost and nothing twice.
#[tokio::test(flavor = "multi_thread")]
async fn an_origin_that_crashes_carries_on() {
    let mut mesh = Mesh::start(3).await;
    mesh.create_channel(0, "news", &[0, 1, 2]).await;
    let mut expected = Vec::new();
    for round in 0..4 {
        let texts = numbered(&format!("{round}-"), 0..25);
        for text in &texts {
            mesh.publish(0, "news", text.clone()).await.expect("it is accepted");
        }
        expected.extend(texts);
        mesh.kill(0).await;
        mesh.restart(0).await;
        mesh.until_serving(0).await;
    }
    mesh.until_converged(&[0, 1, 2]).await;
    for node in 0..3 {
        assert_eq!(mesh.read_all(node, &["news"]).await, expected);
    }
    let status = mesh.status(0).await.expect("it serves");
    assert!(status.namespaces[0].logs.len() > 1, "each opening has a log of its own");
    assert!(status.alarms.is_empty(), "{:?}", status.alarms);
}

/// METHOD M11: a peer that was away gets what it missed when it comes back.
#[tokio::test(flavor = "multi_thread")]
async fn a_peer_that_was_away_catches_up() {
    let mut mesh = Mesh::start(3).await;
    mesh.create_channel(0, "news", &[0, 1, 2]).await;
    mesh.kill(2).await;
    for text in numbered("", 0..300) {
        mesh.publish(0, "news", text).await.expect("it is accepted");
    }
    let queued = mesh.status(0).await.expect("it serves");
    let away = queued.peers.iter().find(|peer| peer.name == "node-2").expect("a peer");
    assert!(away.queue_messages >= 300, "{away:?}");
    mesh.restart(2).await;
    mesh.until_converged(&[0, 1, 2]).await;
    assert_eq!(mesh.read_all(2, &[]).await, numbered("", 0..300));
}

/// METHOD M1: a node serves its region with everybody else unreachable, also
/// after a restart.
#[tokio::test(flavor = "multi_thread")]
async fn a_node_serves_alone() {
    let mut mesh = Mesh::start(3).await;
    mesh.kill(1).await;
    mesh.kill(2).await;
    mesh.create_channel(0, "news", &[0]).await;
    mesh.publish(0, "news", "a").await.expect("it is accepted");
    mesh.kill(0).await;
    mesh.restart(0).await;
    mesh.until_serving(0).await;
    mesh.publish(0, "news", "b").await.expect("it is accepted");
    assert_eq!(mesh.read_all(0, &[]).await, ["a", "b"]);
}

/// METHOD M15: a namespace is at the nodes of its groups and at no other.
#[tokio::test(flavor = "multi_thread")]
async fn data_stays_in_its_groups() {
    let namespaces =
        [TestNamespace::on("demo", vec![0, 1]), TestNamespace::on("other", vec![1, 2])];
    let mesh = Mesh::with_namespaces(3, &namespaces).await;
    mesh.create_channel(0, "news", &[0, 1]).await;
    mesh.publish(0, "news", "secret").await.expect("it is accepted");
    mesh.until_converged(&[0]).await;
    until("the other member has it", async || {
        let read = mesh.read_all(1, &[]).await;
        if read == ["secret"] { Ok(()) } else { Err(read) }
    })
    .await;
    let refused = mesh.publish(2, "news", "x").await.expect_err("it is no member");
    assert_eq!(refused.code(), tonic::Code::FailedPrecondition, "{refused}");
    let held = mesh.verify(2).await.expect("it serves");
    let names: Vec<_> =
        held.logs.iter().map(|log| log.log.expect("a log has a name").namespace).collect();
    assert!(!names.contains(&1), "{names:?}");
}

/// METHOD M13: a follower at another node gets what comes, as it comes, and a
/// channel's end is told.
#[tokio::test(flavor = "multi_thread")]
async fn a_follower_gets_what_comes() {
    let mesh = Mesh::start(2).await;
    mesh.create_channel(0, "news", &[0, 1]).await;
    mesh.publish(0, "news", "before").await.expect("it is accepted");
    mesh.until_converged(&[0, 1]).await;
    let stream = mesh.delivery(1).follow(follow(now(), &["news"])).await.expect("it serves");
    let mut stream = stream.into_inner();
    let opened = stream.message().await.expect("it goes on").and_then(|first| first.body);
    assert!(matches!(opened, Some(v1::follow_response::Body::Opened(_))), "{opened:?}");

    for text in numbered("", 0..10) {
        mesh.publish(0, "news", text).await.expect("it is accepted");
    }
    // What is still to be delivered when its channel goes is not.
    let mut got = Vec::new();
    while got.len() < 10 {
        let response = stream.message().await.expect("it goes on").expect("it goes on");
        if let Some(v1::follow_response::Body::Batch(batch)) = response.body {
            got.extend(texts(&batch));
        }
    }
    let request = v1::DeleteChannelRequest {
        namespace: "demo".to_owned(),
        channel: "news".to_owned(),
        ..Default::default()
    };
    mesh.channels(0).delete_channel(request).await.expect("it is there");
    let event = loop {
        let response = stream.message().await.expect("it goes on").expect("it goes on");
        match response.body {
            Some(v1::follow_response::Body::Batch(batch)) => got.extend(texts(&batch)),
            Some(v1::follow_response::Body::ChannelEvent(event)) => break event,
            _ => {}
        }
    };
    assert_eq!(got, numbered("", 0..10));
    assert_eq!(event.kind(), v1::ChannelEventKind::Deleted);
    // What was published to the deleted epoch is in the log and not delivered.
    assert!(mesh.read_all(1, &["news"]).await.is_empty());
}

/// A node that is shut down in good order has told its peers everything.
#[tokio::test(flavor = "multi_thread")]
async fn an_orderly_end_leaves_nothing_behind() {
    let mut mesh = Mesh::start(2).await;
    mesh.create_channel(0, "news", &[0, 1]).await;
    for text in numbered("", 0..200) {
        mesh.publish(0, "news", text).await.expect("it is accepted");
    }
    mesh.shutdown(0).await;
    assert_eq!(mesh.read_all(1, &[]).await, numbered("", 0..200));
    mesh.restart(0).await;
    mesh.until_serving(0).await;
    assert_eq!(mesh.read_all(0, &[]).await, numbered("", 0..200));
}
