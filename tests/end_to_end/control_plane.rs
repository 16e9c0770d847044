//! Regions go on without the control-plane.

use interlock_client::Start;
use interlock_rpc::v1;
use tonic::Status;

use crate::support::{REGIONS, World, create, delete, describe, get, numbered, sorted};
use crate::waiting::{holds, until};

/// METHOD M1, M2: with the control-plane away, channels are made and changed,
/// messages are published and delivered, and nodes die and come back with the
/// topology they have on disk. When it is back, nodes are alive to it and what it
/// is told reaches them.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_mesh_runs_without_the_control_plane() {
    let mut world = World::start().await;
    world.create("europe", "news").await;
    let mut reader = world.reader("america", &["news"], Start::Now);
    reader.until_caught_up().await;
    world.mesh.stop_control_plane().await;
    assert!(
        world
            .client
            .topology()
            .expect("an address")
            .list_nodes(v1::ListNodesRequest {})
            .await
            .is_err(),
        "the control-plane is away"
    );

    world.channels("asia").update_channel(describe("news", "changed")).await.expect("it is there");
    world.create("america", "more").await;
    world.channels("europe").delete_channel(delete("more")).await.expect("it is there");
    world.publish_all("asia", "news", &numbered("asia", 0..5)).await;
    reader.until_messages(5).await;
    world.abort("asia").await;
    world.publish_all("europe", "news", &numbered("europe", 0..5)).await;
    world.restart("asia").await;
    world.publish_all("asia", "news", &numbered("asia", 5..10)).await;
    reader.until_messages(15).await;
    world.until_same().await;
    let expected = sorted([numbered("asia", 0..10), numbered("europe", 0..5)].concat());
    assert_eq!(sorted(reader.texts()), expected);
    for region in REGIONS {
        let status = world.status(region).await.expect("it serves");
        assert_eq!(status.state(), v1::ServingState::Serving, "{region}");
        let seen = world.channel(region, "news").await.expect("it is there").channel;
        assert_eq!(seen.unwrap_or_default().description, "changed", "{region}");
    }
    until("the nodes notice", async || {
        let status = world.status("europe").await?;
        holds(!status.control_plane_connected, status)
            .map_err(|status| Status::unknown(format!("{status:?}")))
    })
    .await;

    let mesh = &mut world.mesh;
    until("the control-plane starts", async || mesh.start_control_plane().await).await;
    for region in REGIONS {
        until("the node is known as alive", async || {
            let mut topology = world.client.topology().expect("an address");
            let nodes = topology.list_nodes(v1::ListNodesRequest {}).await?.into_inner().nodes;
            let alive = nodes.iter().any(|record| {
                record.liveness() == v1::Liveness::Alive
                    && record.node.as_ref().is_some_and(|node| node.region == region)
            });
            holds(alive, nodes).map_err(|nodes| Status::unknown(format!("{nodes:?}")))
        })
        .await;
    }
    world.namespace("later", &["world"]).await;
    for region in REGIONS {
        world.until_ready(region, "later").await;
    }
    let request = v1::CreateChannelRequest { namespace: "later".to_owned(), ..create("first") };
    world.channels("asia").create_channel(request).await.expect("the namespace is ready");
    for region in REGIONS {
        let mut channels = world.channels(region);
        until("the channel is there", async || channels.get_channel(get("later", "first")).await)
            .await;
    }
    world.end().await;
}

/// METHOD M1, M12: all nodes die and come back while the control-plane is away;
/// what was acknowledged is there (promise I1, power loss of all at once).
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn all_nodes_come_back_without_the_control_plane() {
    let mut world = World::start().await;
    world.create("europe", "news").await;
    for region in REGIONS {
        world.publish_all(region, "news", &numbered(region, 0..20)).await;
    }
    world.mesh.stop_control_plane().await;
    for region in REGIONS {
        world.abort(region).await;
    }
    for region in REGIONS {
        world.restart(region).await;
        world.publish(region, "news", format!("{region} again")).await;
    }
    world.until_same().await;
    let mut expected = Vec::new();
    for region in REGIONS {
        expected.extend(numbered(region, 0..20));
        expected.push(format!("{region} again"));
    }
    for region in REGIONS {
        let read = world.history(region, &["news"], Start::Oldest).await;
        assert_eq!(sorted(read.texts()), sorted(expected.clone()), "{region}");
    }
    world.end().await;
}
