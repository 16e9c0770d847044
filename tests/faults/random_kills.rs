//! kill -9 of push-nodes at random, under load in all regions.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use interlock_client::{Mesh as Client, RegionAddresses, v1};
use rand::rngs::StdRng;
use rand::{RngExt as _, SeedableRng as _};
use xtask::mesh::{Mesh, REGIONS};

use crate::load::{LoadPublisher, LoadSubscriber};
use crate::{binaries, setting};

/// Enough to see a broken promise in the gate; the full run is by command.
const KILLS_IN_THE_GATE: u64 = 8;
/// How long the regions may take to get everything after the last kill.
const HEALING: Duration = Duration::from_secs(120);

/// Acknowledged messages survive kill -9 at any moment, at the origin and at the
/// receivers, and reach every region's subscribers once and in order (METHOD M8,
/// M10, M11, M12; RELIABILITY I1, I3, I4, I5).
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn random_kills() {
    let kills = setting("INTERLOCK_KILLS", KILLS_IN_THE_GATE);
    let seed = setting("INTERLOCK_SEED", 1);
    println!("random kills: {kills}, seed {seed}");
    let folder = tempfile::tempdir().expect("a temporary folder");
    let mut mesh = Mesh::new(folder.path(), &binaries(), BTreeMap::new()).expect("free ports");
    mesh.start().expect("all processes start");
    let client = client(&mesh);
    prepare(&client).await;

    let stop = Arc::new(AtomicBool::new(false));
    let mut publishers: Vec<LoadPublisher> = REGIONS
        .iter()
        .map(|region| LoadPublisher::start(&client, region, Arc::clone(&stop)))
        .collect();
    let mut subscribers: Vec<LoadSubscriber> =
        REGIONS.iter().map(|region| LoadSubscriber::start(&client, region)).collect();

    let mut random = StdRng::seed_from_u64(seed);
    let started = Instant::now();
    for _ in 0..kills {
        // A kill comes after some progress, wherever the node is then.
        let watched = random.random_range(0..REGIONS.len());
        publishers[watched].advance(random.random_range(1..2000)).await;
        let region = REGIONS[random.random_range(0..REGIONS.len())];
        let name = Mesh::push_node(region);
        mesh.kill(&name).expect("the node runs");
        if random.random_bool(0.5) {
            // The others go on without it.
            let other = REGIONS.iter().position(|other| *other != region).expect("three regions");
            publishers[other].advance(random.random_range(1..500)).await;
        }
        mesh.start_push_node(region).expect("the node starts again");
    }
    stop.store(true, Ordering::Relaxed);
    let mut published = BTreeMap::new();
    for (region, publisher) in REGIONS.iter().zip(publishers) {
        published.insert((*region).to_owned(), publisher.finish().await);
    }
    let healing = Instant::now();
    for subscriber in &mut subscribers {
        subscriber.catch_up(&published, HEALING.saturating_sub(healing.elapsed())).await;
    }

    let acknowledged: u64 = published.values().sum();
    println!(
        "{kills} kills in {:.0} s, acknowledged {acknowledged} ({published:?}), healed in {:.1} s",
        started.elapsed().as_secs_f64(),
        healing.elapsed().as_secs_f64()
    );
    let mut broken = 0;
    for (region, subscriber) in REGIONS.iter().zip(subscribers) {
        let got = subscriber.finish();
        let lost: u64 =
            published.iter().map(|(publisher, count)| got.lost(publisher, *count)).sum();
        let present: usize = got.numbers.values().map(Vec::len).sum();
        println!(
            "{region}: present {present}, lost {lost}, doubled {}, out of order {}, invented {}, gaps {}, subscription resumed {}",
            got.doubled(),
            got.out_of_order(),
            got.invented.len(),
            got.gaps,
            got.resumed
        );
        broken += lost + got.doubled() + got.out_of_order() + got.invented.len() as u64 + got.gaps;
    }
    assert_eq!(broken, 0, "a promise was broken; see the figures above");
    mesh.stop_all().expect("all processes stop");
}

fn client(mesh: &Mesh) -> Client {
    let regions = REGIONS
        .iter()
        .map(|region| {
            let addresses = RegionAddresses {
                push_nodes: vec![mesh.url(&Mesh::push_node(region))],
                gateways: vec![mesh.url(&Mesh::gateway(region))],
            };
            ((*region).to_owned(), addresses)
        })
        .collect();
    Client::new(Some(&mesh.url("control-plane")), &regions, None).expect("addresses")
}

/// The namespace and its channels, at every region.
async fn prepare(client: &Client) {
    let mut topology = client.topology().expect("a control-plane");
    let regions: Vec<String> = REGIONS.iter().map(|region| (*region).to_owned()).collect();
    topology
        .apply_group(v1::ApplyGroupRequest { name: "world".into(), regions })
        .await
        .expect("a group");
    let namespace = v1::CreateNamespaceRequest {
        name: "demo".into(),
        groups: vec!["world".into()],
        disk_cap_bytes: 0,
    };
    topology.create_namespace(namespace).await.expect("a namespace");
    for region in REGIONS {
        let mut channels = client.channels(region).expect("a push-node");
        let request = v1::CreateChannelRequest {
            namespace: "demo".into(),
            channel: format!("from-{region}"),
            ..Default::default()
        };
        // The node takes the namespace up when the topology reaches it.
        let deadline = Instant::now() + Duration::from_secs(30);
        while let Err(status) = channels.create_channel(request.clone()).await {
            assert!(Instant::now() < deadline, "{region}: {status}");
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }
}
