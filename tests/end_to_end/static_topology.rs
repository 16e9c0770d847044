//! A mesh whose topology is a file: no control-plane at all.

use std::collections::BTreeMap;
use std::net::{Ipv4Addr, SocketAddr};

use interlock_client::{Mesh, RegionAddresses, Start, Subscriber, SubscriberOptions};
use interlock_push_node::{Config, PushNode};
use interlock_rpc::v1;
use interlock_subscriber_gateway::{Config as GatewayConfig, Gateway};
use tonic::Status;

use crate::support::{REGIONS, create, get, publish};
use crate::waiting::{holds, in_time, until};

fn any_port() -> SocketAddr {
    SocketAddr::from((Ipv4Addr::LOCALHOST, 0))
}

/// METHOD M1, M3, M13, M15: three regions started with a file that says who holds
/// what work as a mesh, restart, and found their namespaces only where
/// `bootstrap` says so.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_file_takes_the_place_of_the_control_plane() {
    interlock_rpc::install_crypto_provider();
    let folder = tempfile::tempdir().expect("a temporary folder");
    let topology_file = folder.path().join("topology.toml");
    let mut file = String::from(
        "version = 1\nregions = [\"europe\", \"america\", \"asia\"]\n\
         [[groups]]\nnumber = 1\nname = \"world\"\nregions = [\"europe\", \"america\", \"asia\"]\n\
         [[groups]]\nnumber = 2\nname = \"atlantic\"\nregions = [\"europe\", \"america\"]\n\
         [[namespaces]]\nnumber = 1\nname = \"demo\"\ngroups = [\"world\"]\n\
         [[namespaces]]\nnumber = 2\nname = \"near\"\ngroups = [\"atlantic\"]\n",
    );
    let mut bound = Vec::new();
    for (number, region) in (1..).zip(REGIONS) {
        let config = Config {
            node: format!("{region}-1"),
            region: region.to_owned(),
            data_dir: folder.path().join(region),
            client_listen: any_port(),
            replication_listen: any_port(),
            topology_file: Some(topology_file.clone()),
            bootstrap: true,
            ..Config::default()
        };
        let node = PushNode::bind(config.clone()).await.expect("free ports");
        let client = node.client_address().expect("bound");
        let replication = node.replication_address().expect("bound");
        file.push_str(&format!(
            "[[nodes]]\nnumber = {number}\nname = \"{region}-1\"\nregion = \"{region}\"\n\
             client_address = \"{client}\"\nreplication_address = \"{replication}\"\n"
        ));
        let config = Config { client_listen: client, replication_listen: replication, ..config };
        bound.push((config, node));
    }
    std::fs::write(&topology_file, file).expect("the folder is writable");
    let mut nodes = Vec::new();
    let mut gateways = Vec::new();
    let mut addresses = BTreeMap::new();
    for (region, (config, node)) in REGIONS.into_iter().zip(bound) {
        let running = node.start().await.expect("a founder starts");
        let push_node = format!("http://{}", running.client_address());
        let gateway = GatewayConfig {
            listen: any_port(),
            push_nodes: vec![push_node.clone()],
            ..GatewayConfig::new(&format!("{region}-gateway"), region)
        };
        let gateway = Gateway::start(gateway).await.expect("free ports");
        let gateway_address = format!("http://{}", gateway.listen());
        addresses.insert(
            region.to_owned(),
            RegionAddresses { push_nodes: vec![push_node], gateways: vec![gateway_address] },
        );
        gateways.push(gateway);
        nodes.push((config, running));
    }
    let mesh = Mesh::new(None, &addresses, None).expect("addresses");
    let known = async |region: &str, namespace: &str, channel: &str| {
        let mut channels = mesh.channels(region).expect("a push-node");
        channels.get_channel(get(namespace, channel)).await
    };
    let accepted = async |region: &str, text: &str| {
        until("the node accepts", async || {
            let mut publishing = mesh.publishing(region).expect("a push-node");
            publishing.publish(publish("news", text.to_owned())).await
        })
        .await;
    };
    let mut europe = mesh.channels("europe").expect("a push-node");
    until("founders are ready", async || europe.create_channel(create("news")).await).await;
    let near = v1::CreateChannelRequest { namespace: "near".to_owned(), ..create("news") };
    until("founders are ready", async || europe.create_channel(near.clone()).await).await;
    for region in REGIONS {
        until("the channel is there", async || known(region, "demo", "news").await).await;
        accepted(region, region).await;
    }
    until("the channel is there", async || known("america", "near", "news").await).await;
    assert!(known("asia", "near", "news").await.is_err(), "asia is not in its group");

    // A restart without `bootstrap` remembers what it has opened.
    let (config, running) = nodes.remove(0);
    running.abort().await;
    let again = Config { bootstrap: false, ..config };
    let running = until("it starts again", async || PushNode::start(again.clone()).await).await;
    accepted("europe", "europe again").await;
    let mut subscriber = Subscriber::new(
        mesh.gateways("asia").expect("a gateway"),
        "demo",
        &["news".to_owned()],
        &SubscriberOptions { start: Start::Oldest, limit: Some(4), ..Default::default() },
    );
    let mut got = Vec::new();
    while let Some(received) = in_time("messages", subscriber.next()).await.expect("it serves") {
        for delivery in received.deliveries {
            if let Some(v1::delivery::Event::Message(message)) = delivery.event {
                got.push(crate::support::text(&message));
            }
        }
    }
    got.sort();
    assert_eq!(got, ["america", "asia", "europe", "europe again"]);

    // An empty disk without `bootstrap` takes the others' state first.
    let (config, wiped) = nodes.pop().expect("asia");
    wiped.abort().await;
    std::fs::remove_dir_all(&config.data_dir).expect("it is a folder");
    let empty = Config { bootstrap: false, ..config };
    let wiped = until("it starts again", async || PushNode::start(empty.clone()).await).await;
    accepted("asia", "asia again").await;
    until("its own old messages came back", async || {
        let (_, mut node) = mesh.nodes("asia").expect("a node").remove(0);
        let status = node.get_status(v1::GetStatusRequest { brief: false }).await?.into_inner();
        let messages = status.namespaces.first().map(|namespace| namespace.messages);
        // One channel and five publications.
        holds(messages == Some(6), status).map_err(|status| Status::unknown(format!("{status:?}")))
    })
    .await;
    drop(gateways);
    for running in [running, wiped].into_iter().chain(nodes.into_iter().map(|(_, node)| node)) {
        running.abort().await;
    }
}
