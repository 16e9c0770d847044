//! Nodes that come with an empty disk, leave, and are looked after.

use crate::support::{Mesh, until};
use interlock_rpc::status::{Reason, reason_of};
use interlock_rpc::v1;
use tonic::Code;

/// A wiped member takes the whole state of another before it accepts; until then
/// it says so, and its own old messages come back.
#[tokio::test(flavor = "multi_thread")]
async fn a_wiped_node_backfills_before_it_accepts() {
    let mut mesh = Mesh::start(3).await;
    mesh.create_channel(0, "news", &[0, 1, 2]).await;
    for number in 0..50 {
        let node = number % 3;
        mesh.publish(node, "news", number.to_string()).await.expect("it is accepted");
    }
    mesh.until_converged(&[0, 1, 2]).await;
    let before = mesh.read_all(0, &[]).await;

    mesh.kill(2).await;
    std::fs::remove_dir_all(mesh.data_dir(2)).expect("it is a folder");
    mesh.kill(0).await;
    mesh.kill(1).await;
    mesh.nodes[2].config.bootstrap = false;
    mesh.restart(2).await;
    let status = mesh.status(2).await.expect("it serves");
    assert_eq!(status.state(), v1::ServingState::Backfilling);
    let refused = mesh.publish(2, "news", "x").await.expect_err("it knows nothing yet");
    assert_eq!(refused.code(), Code::Unavailable, "{refused}");
    assert_eq!(reason_of(&refused), Some(Reason::Backfilling));

    mesh.restart(0).await;
    mesh.restart(1).await;
    mesh.until_serving(2).await;
    mesh.publish(2, "news", "after").await.expect("it has the state now");
    mesh.until_converged(&[0, 1, 2]).await;
    for node in 0..3 {
        let read = mesh.read_all(node, &[]).await;
        assert_eq!(read.len(), before.len() + 1);
        assert_eq!(read[..before.len()], before[..]);
    }
}

/// A database restored from an old copy makes a fork: both branches are valid
/// and reach everyone.
#[tokio::test(flavor = "multi_thread")]
async fn a_restored_disk_forks_and_both_branches_stay() {
    let mut mesh = Mesh::start(3).await;
    mesh.create_channel(0, "news", &[0, 1, 2]).await;
    mesh.publish(0, "news", "common").await.expect("it is accepted");
    mesh.until_converged(&[0, 1, 2]).await;
    mesh.kill(0).await;
    let copy = mesh.folder.path().join("copy");
    copy_folder(&mesh.data_dir(0), &copy);
    mesh.restart(0).await;
    mesh.until_serving(0).await;
    mesh.publish(0, "news", "lost here").await.expect("it is accepted");
    mesh.until_converged(&[0, 1, 2]).await;

    mesh.kill(0).await;
    std::fs::remove_dir_all(mesh.data_dir(0)).expect("it is a folder");
    copy_folder(&copy, &mesh.data_dir(0));
    // With no peer in reach it accepts at once, and collides with nothing.
    mesh.kill(1).await;
    mesh.kill(2).await;
    mesh.restart(0).await;
    mesh.until_serving(0).await;
    mesh.publish(0, "news", "new branch").await.expect("it waits for nobody");
    mesh.restart(1).await;
    mesh.restart(2).await;
    mesh.until_converged(&[0, 1, 2]).await;
    for node in 0..3 {
        let mut read = mesh.read_all(node, &[]).await;
        read.sort();
        assert_eq!(read, ["common", "lost here", "new branch"]);
        let status = mesh.status(node).await.expect("it serves");
        assert!(status.alarms.is_empty(), "{:?}", status.alarms);
    }
}

pub fn copy_folder(from: &std::path::Path, to: &std::path::Path) {
    std::fs::create_dir_all(to).expect("the folder is writable");
    for entry in std::fs::read_dir(from).expect("it is a folder") {
        let entry = entry.expect("it can be read");
        let target = to.join(entry.file_name());
        if entry.file_type().expect("it has a type").is_dir() {
            copy_folder(&entry.path(), &target);
        } else {
            std::fs::copy(entry.path(), target).expect("it can be copied");
        }
    }
}

/// A node that drains accepts nothing, sends its gateways away, and goes on
/// serving what it has to its peers.
#[tokio::test(flavor = "multi_thread")]
async fn a_draining_node_sends_everyone_elsewhere() {
    let mesh = Mesh::start(2).await;
    mesh.create_channel(0, "news", &[0, 1]).await;
    let followed = crate::support::follow(crate::support::now(), &[]);
    let mut stream = mesh.delivery(0).follow(followed).await.expect("it serves").into_inner();
    mesh.publish(0, "news", "a").await.expect("it is accepted");
    let drained = mesh
        .node(0)
        .drain(v1::DrainRequest { deadline_milliseconds: 30_000 })
        .await
        .expect("it answers")
        .into_inner();
    assert_eq!(drained.queue_messages, 0);
    let refused = mesh.publish(0, "news", "b").await.expect_err("it drains");
    assert_eq!(reason_of(&refused), Some(Reason::Draining), "{refused}");
    loop {
        let response = stream.message().await.expect("it goes on").expect("it is told first");
        if let Some(v1::follow_response::Body::Draining(_)) = response.body {
            break;
        }
    }
    assert_eq!(mesh.status(0).await.expect("it serves").state(), v1::ServingState::Draining);
    assert_eq!(mesh.read_all(1, &[]).await, ["a"]);
}

/// Status tells what an operator asks for first.
#[tokio::test(flavor = "multi_thread")]
async fn status_is_complete() {
    let mesh = Mesh::start(2).await;
    mesh.create_channel(0, "news", &[0, 1]).await;
    for number in 0..5 {
        mesh.publish(0, "news", number.to_string()).await.expect("it is accepted");
    }
    mesh.until_converged(&[0, 1]).await;
    let status = until("the peer replicates", async || {
        let status = mesh.status(0).await.map_err(|status| status.to_string())?;
        let peer = &status.peers[0];
        match peer.state() {
            v1::PeerState::Replicating if peer.queue_messages == 0 => Ok(status),
            _ => Err(format!("{status:?}")),
        }
    })
    .await;
    let member = status.member.expect("it says who it is");
    assert_eq!((member.name.as_str(), member.region.as_str()), ("node-0", "region-0"));
    assert_ne!(member.incarnation, 0);
    assert_eq!(status.publications_total, 5);
    assert!(status.disk_used_bytes > 0 && status.disk_free_bytes > 0);
    let demo = &status.namespaces[0];
    assert_eq!((demo.name.as_str(), demo.channels, demo.messages), ("demo", 1, 6));
    assert!(demo.member && demo.ready && demo.log_bytes > 0);
    assert_eq!(demo.groups, ["group-1"]);
    assert_eq!(demo.logs[0].origin_name, "node-0");
    let other = mesh.status(1).await.expect("it serves");
    assert_eq!(other.namespaces[0].tips_digest, demo.tips_digest);
    assert_eq!(other.namespaces[0].state_digest, demo.state_digest);
}

/// Metrics are there, with the queue of each peer.
#[tokio::test(flavor = "multi_thread")]
async fn metrics_are_served() {
    let all = crate::support::TestNamespace::on("demo", vec![0, 1]);
    let mesh = Mesh::with_config(2, &[all], |_, config| {
        config.metrics_listen = Some(std::net::SocketAddr::from(([127, 0, 0, 1], 0)));
    })
    .await;
    mesh.create_channel(0, "news", &[0, 1]).await;
    mesh.publish(0, "news", "a").await.expect("it is accepted");
    let running = mesh.nodes[0].running.as_ref().expect("it is up");
    let address = running.metrics_address().expect("it was asked for");
    let client = reqwest::Client::builder().no_proxy().build().expect("a plain client");
    until("the metrics tell it", async || {
        let answer = client.get(format!("http://{address}/metrics")).send().await;
        let text = answer.map_err(|error| error.to_string())?.text().await;
        let text = text.map_err(|error| error.to_string())?;
        let wanted = [
            "interlock_publications_total{namespace=\"demo\"} 1",
            "interlock_append_batch_messages_count",
            "interlock_sync_duration_seconds_count",
            "interlock_peer_queue_messages{peer=\"node-1\"} 0",
            "interlock_frames_sent_total{peer=\"node-1\"}",
            "interlock_serving 1",
        ];
        match wanted.iter().find(|line| !text.contains(**line)) {
            None => Ok(()),
            Some(missing) => Err(format!("{missing} is not in {text}")),
        }
    })
    .await;
}

/// Without a control-plane two processes of one name are told apart by the peer
/// that hears both: one of them accepts nothing more, and the other one goes on.
#[tokio::test(flavor = "multi_thread")]
async fn of_two_processes_of_one_name_one_drains() {
    let mesh = Mesh::start(2).await;
    mesh.create_channel(0, "news", &[0, 1]).await;
    let anywhere = std::net::SocketAddr::from(([127, 0, 0, 1], 0));
    let twin = interlock_push_node::Config {
        data_dir: mesh.folder.path().join("twin"),
        client_listen: anywhere,
        replication_listen: anywhere,
        ..mesh.nodes[0].config.clone()
    };
    let twin = interlock_push_node::PushNode::start(twin).await.expect("a fresh node starts");
    let client = interlock_rpc::channel::EndpointConfig::new(twin.client_address().to_string());
    let channel = client.connect_lazy().expect("a plain address");
    let of_twin = async || {
        let request = v1::GetStatusRequest { brief: true };
        let mut client = interlock_rpc::services::node::client(channel.clone());
        client.get_status(request).await.map(tonic::Response::into_inner)
    };
    let is_fenced = |status: &v1::GetStatusResponse| {
        let told = status.alarms.iter().any(|alarm| alarm.name == "fenced");
        told && status.state() == v1::ServingState::Draining
    };
    let fenced = until("one of them drains", async || {
        let told = [mesh.status(0).await, of_twin().await].map(|status| {
            let status = status.expect("it serves");
            (is_fenced(&status), status.member.expect("it says who it is").incarnation)
        });
        match told {
            [(true, fenced), (false, other)] | [(false, other), (true, fenced)] => {
                Ok((fenced, other))
            }
            other => Err(other),
        }
    })
    .await;
    assert!(fenced.0 < fenced.1, "the lower incarnation drains: {fenced:?}");
    // The other one keeps its stream to the peer: nobody takes it over any more.
    let incarnation = fenced.1;
    if mesh.status(0).await.expect("it serves").member.map(|me| me.incarnation) == Some(incarnation)
    {
        mesh.publish(0, "news", "still here").await.expect("it is accepted");
        until("the peer has it", async || match mesh.read_all(1, &["news"]).await {
            read if read == ["still here"] => Ok(()),
            read => Err(read),
        })
        .await;
    }
    twin.shutdown().await;
}

/// A node on another one's disk, after a swapped volume or under another name,
/// does not start, and says whose it is.
#[tokio::test(flavor = "multi_thread")]
async fn a_node_does_not_open_the_database_of_another() {
    let mut mesh = Mesh::start(2).await;
    mesh.shutdown(0).await;
    mesh.shutdown(1).await;
    let swapped =
        interlock_push_node::Config { data_dir: mesh.data_dir(0), ..mesh.nodes[1].config.clone() };
    let error = interlock_push_node::PushNode::start(swapped).await.expect_err("it is another's");
    let text = error.to_string();
    assert!(text.contains("node-0 (number 1)") && text.contains("node node-1"), "{text}");
    mesh.restart(0).await;
    mesh.until_serving(0).await;
}
