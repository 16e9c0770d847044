//! A namespace's data stays in its groups.

use std::path::Path;

use interlock_client::Start;
use interlock_rpc::status::{Reason, reason_of};
use interlock_rpc::{services, v1};
use tonic::{Code, Status};

use crate::support::{World, create, get, owned, publish};
use crate::waiting::{in_time, until};

/// Whether any file under a folder has these bytes in it.
fn holds_bytes(folder: &Path, bytes: &[u8]) -> bool {
    std::fs::read_dir(folder).expect("it is a folder").any(|entry| {
        let entry = entry.expect("it can be read");
        if entry.file_type().expect("it has a type").is_dir() {
            return holds_bytes(&entry.path(), bytes);
        }
        let content = std::fs::read(entry.path()).expect("it can be read");
        content.windows(bytes.len()).any(|window| window == bytes)
    })
}

/// METHOD M15 and promise I12: a namespace of two regions is at their nodes
/// and nowhere else: not in the third's status, lists, logs or files; its node and
/// its gateway refuse publications, edits, reads and subscriptions.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_namespace_stays_in_its_groups() {
    let mut world = World::start().await;
    world.group("atlantic", &["europe", "america"]).await;
    world.namespace("private", &["atlantic"]).await;
    for region in ["europe", "america"] {
        world.until_ready(region, "private").await;
    }
    world.create("europe", "public").await;
    let secret = v1::CreateChannelRequest { namespace: "private".to_owned(), ..create("secret") };
    world.channels("europe").create_channel(secret.clone()).await.expect("the namespace is ready");
    let mut america = world.channels("america");
    until("the channel is there", async || america.get_channel(get("private", "secret")).await)
        .await;
    // Random text: nothing compresses it out of sight.
    let marker = format!("{:032x}{:032x}", rand::random::<u128>(), rand::random::<u128>());
    let in_private = |payload: &str| v1::PublishRequest {
        namespace: "private".to_owned(),
        ..publish("secret", payload.to_owned())
    };
    for region in ["europe", "america"] {
        world.publishing(region).publish(in_private(&marker)).await.expect("it is a member");
    }
    let mut reader = world.reader_of("private", "america", &["secret"], Start::Oldest);
    reader.until_messages(2).await;
    // Everything else goes on to asia, over the same streams.
    world.publish("europe", "public", "for all").await;
    world.publish("america", "public", "for all").await;
    let mut everywhere = world.reader("asia", &["public"], Start::Oldest);
    everywhere.until_messages(2).await;

    let status = world.status("asia").await.expect("it serves");
    for namespace in &status.namespaces {
        if namespace.name == "private" {
            assert!(!namespace.member && namespace.logs.is_empty(), "{namespace:?}");
            assert_eq!((namespace.messages, namespace.channels), (0, 0), "{namespace:?}");
        }
    }
    let demo = world.status("europe").await.expect("it serves");
    let private = demo.namespaces.iter().find(|held| held.name == "private").expect("a member");
    assert!(private.member && private.messages == 3, "{private:?}");
    let number = private.number;
    let held = world.held("asia").await.expect("it serves");
    let names = held.logs.iter().filter_map(|mark| mark.log).map(|log| log.namespace);
    assert!(names.chain(held.namespaces.iter().map(|held| held.namespace)).all(|it| it != number));
    for peer in &status.peers {
        assert!(peer.queues.iter().all(|queue| queue.namespace != number), "{peer:?}");
    }

    let refused = |what: &str, outcome: Result<(), Status>| {
        let status = outcome.expect_err(what);
        let reason = reason_of(&status);
        assert!(
            matches!(reason, Some(Reason::NotMember | Reason::UnknownNamespace)),
            "{what}: {status}"
        );
        assert!(
            matches!(status.code(), Code::FailedPrecondition | Code::NotFound),
            "{what}: {status}"
        );
    };
    let list = v1::ListChannelsRequest { namespace: "private".to_owned(), ..Default::default() };
    let session = v1::OpenSessionRequest { namespace: "private".to_owned(), ..Default::default() };
    for mut channels in [world.channels("asia"), world.channels_by_gateway("asia")] {
        refused("list", channels.list_channels(list.clone()).await.map(drop));
        refused("get", channels.get_channel(get("private", "secret")).await.map(drop));
        refused("create", channels.create_channel(secret.clone()).await.map(drop));
    }
    for mut publishing in [world.publishing("asia"), world.publishing_by_gateway("asia")] {
        refused("publish", publishing.publish(in_private("x")).await.map(drop));
        refused("session", publishing.open_session(session.clone()).await.map(drop));
    }
    for channels in [&["secret"][..], &["*"]] {
        let subscription = async {
            let request = v1::SubscribeRequest {
                namespace: "private".to_owned(),
                ..crate::support::subscribe(channels, Start::Oldest)
            };
            let mut stream = world.subscribe("asia", request).await?;
            in_time("a refusal", stream.message()).await.map(drop)
        };
        refused("subscribe", subscription.await);
        let request = v1::ReadHistoryRequest {
            namespace: "private".to_owned(),
            channels: owned(channels),
            start: Some(Start::Oldest.to_wire()),
            limit: 0,
        };
        refused("history", world.try_history("asia", request).await.map(drop));
    }
    // A gateway of another region, set up to ask a member, is not this test's; a
    // follower that goes to asia's node directly is refused as well.
    let node = world.client.push_nodes("asia").expect("a node").current().expect("an address");
    let mut delivery = services::delivery::client(node);
    let follow = v1::FollowRequest { namespace: "private".to_owned(), ..Default::default() };
    refused("follow", delivery.follow(follow).await.map(drop));

    for region in ["europe", "america", "asia"] {
        world.abort(region).await;
        let there = holds_bytes(&world.mesh.node_folder(region), marker.as_bytes());
        assert_eq!(there, region != "asia", "{region}");
    }
    world.end().await;
}
