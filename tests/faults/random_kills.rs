//! kill -9 of push-nodes at random, under load in all regions.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Instant;

use interlock_client::{Mesh as Client, RegionAddresses, v1};
use rand::rngs::StdRng;
use rand::{RngExt as _, SeedableRng as _};
use tonic::Status;
use xtask::mesh::{Mesh, REGIONS};

use crate::load::{LEVELS, LoadPublisher, MAX_PAYLOAD_BYTES, Record, Told, channel, closing};
use crate::readers::{Broken, LoadSubscriber, history};
use crate::waiting::{holds, in_time, until};
use crate::{binaries, setting, the_machine};

/// Enough to see a broken promise in the gate; the full run is by command.
const KILLS_IN_THE_GATE: u64 = 8;

/// Acknowledged messages survive kill -9 at any moment, at the origin and at the
/// receivers, and reach every region's subscribers once and in order; then all
/// nodes hold the same (METHOD M8, M10, M11, M12; promise I1–I6, I11).
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn random_kills() {
    let _machine = the_machine().lock().await;
    let kills = setting("INTERLOCK_KILLS", KILLS_IN_THE_GATE);
    let seed = setting("INTERLOCK_SEED", 1);
    println!("random kills: {kills}, seed {seed}");
    let folder = tempfile::tempdir().expect("a temporary folder");
    let mut mesh = Mesh::new(folder.path(), &binaries(), BTreeMap::new()).expect("free ports");
    mesh.start().expect("all processes start");
    let client = client(&mesh);
    prepare(&client).await;

    let stop = Arc::new(AtomicBool::new(false));
    let start = |region, level| LoadPublisher::start(&client, region, level, Arc::clone(&stop));
    let mut publishers: Vec<Vec<LoadPublisher>> = REGIONS
        .iter()
        .map(|region| LEVELS.iter().map(|level| start(region, *level)).collect())
        .collect();
    let mut subscribers: Vec<LoadSubscriber> =
        REGIONS.iter().map(|region| LoadSubscriber::start(&client, region)).collect();

    let mut random = StdRng::seed_from_u64(seed);
    let started = Instant::now();
    for _ in 0..kills {
        // A kill comes after some progress, wherever the node is then.
        let watched = &mut publishers[random.random_range(0..REGIONS.len())];
        let level = random.random_range(0..LEVELS.len());
        watched[level].advance(random.random_range(1..2000)).await;
        let region = REGIONS[random.random_range(0..REGIONS.len())];
        let name = Mesh::push_node(region);
        mesh.kill(&name).expect("the node runs");
        if random.random_bool(0.5) {
            // The others go on without it, where they need not ask it.
            let other = REGIONS.iter().position(|other| *other != region).expect("three regions");
            let level = random.random_range(0..LEVELS.len() - 1);
            publishers[other][level].advance(random.random_range(1..500)).await;
        }
        mesh.start_push_node(region).expect("the node starts again");
    }
    stop.store(true, Ordering::Relaxed);
    let mut records = BTreeMap::new();
    for publisher in publishers.into_iter().flatten() {
        records.insert(publisher.name.clone(), publisher.finish().await);
    }
    let lasted = started.elapsed().as_secs_f64();
    let healing = Instant::now();
    until_same(&client).await;
    let healed = healing.elapsed().as_secs_f64();

    // What would come twice comes before what is published now.
    let last = close(&client, &mut records).await;
    for subscriber in &mut subscribers {
        in_time("the last messages", subscriber.until_last(&last)).await;
    }
    until_same(&client).await;

    let told = |told| records.values().map(|record| record.count(told)).sum::<u64>();
    println!(
        "{kills} kills in {lasted:.0} s, acknowledged {}, refused {}, unknown {}, healed in {healed:.1} s",
        told(Told::Acknowledged),
        told(Told::Refused),
        told(Told::Unknown),
    );
    let mut broken = Vec::new();
    for (region, subscriber) in REGIONS.iter().zip(subscribers) {
        let stored = history(&client, region).await;
        for (what, got) in [("subscriber", subscriber.finish()), ("history", stored)] {
            let found = got.check(&records);
            println!("{region}, {what}: present {}, {found:?}", got.present());
            if found != Broken::default() {
                broken.push((region, what, found));
            }
        }
    }
    assert!(broken.is_empty(), "promises are broken: {broken:#?}");
    assert!(told(Told::Refused) > 0, "nothing was refused: nothing shows that it stays away");
    mesh.stop_all().expect("all processes stop");
}

/// Publishes one more in each channel, at its origin: its number by publisher.
async fn close(client: &Client, records: &mut BTreeMap<String, Record>) -> BTreeMap<String, u64> {
    let mut last = BTreeMap::new();
    for region in REGIONS {
        for (level, _) in LEVELS {
            let publisher = format!("{region}-{level}");
            let record = records.get_mut(&publisher).expect("it has published");
            let number = record.attempted();
            let mut node = client.publishing(region).expect("a push-node");
            node.publish(closing(&publisher, number)).await.expect("all are there");
            record.note_acknowledged();
            last.insert(publisher, number);
        }
    }
    last
}

/// Waits until nothing waits anywhere and all nodes hold the same logs, by their
/// hashes, and the same state, without an alarm.
async fn until_same(client: &Client) {
    until("the nodes hold the same", async || {
        let mut seen = Vec::new();
        for region in REGIONS {
            seen.push(held(client, region).await?);
        }
        let is_same = seen.windows(2).all(|pair| pair[0] == pair[1]);
        holds(is_same, seen).map_err(|seen| Status::unavailable(format!("{seen:#?}")))
    })
    .await;
}

/// What a node holds, once it has no queue; it must have no alarm.
async fn held(client: &Client, region: &str) -> Result<v1::VerifyResponse, Status> {
    let (_, mut node) = client.nodes(region).expect("a push-node").remove(0);
    let status = node.get_status(v1::GetStatusRequest { brief: true }).await?.into_inner();
    assert!(status.alarms.is_empty(), "{region}: {:?}", status.alarms);
    if let Some(peer) = status.peers.iter().find(|peer| peer.queue_messages > 0) {
        return Err(Status::unavailable(format!("{region} has a queue: {peer:?}")));
    }
    let request = v1::VerifyRequest::default();
    let mut held = node.verify(request).await?.into_inner();
    held.logs.sort_by_key(|mark| {
        mark.log.map(|log| (log.namespace, log.origin, log.incarnation, log.shard))
    });
    held.namespaces.sort_by_key(|namespace| namespace.namespace);
    Ok(held)
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
        retention: None,
    };
    topology.create_namespace(namespace).await.expect("a namespace");
    for region in REGIONS {
        for (level, _) in LEVELS {
            let request = v1::CreateChannelRequest {
                namespace: "demo".into(),
                channel: channel(&format!("{region}-{level}")),
                max_payload_bytes: MAX_PAYLOAD_BYTES,
                ..Default::default()
            };
            // The node takes the namespace up when the topology reaches it.
            until("the namespace", async || {
                client.channels(region).expect("a push-node").create_channel(request.clone()).await
            })
            .await;
        }
    }
}
