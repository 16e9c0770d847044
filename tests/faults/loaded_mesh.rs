//! A mesh of real processes under load in all regions, and what the regions hold of it
//! at the end.

use std::collections::BTreeMap;
use std::path::Path;
use std::time::Instant;

use interlock_client::{Mesh as Client, v1};
use tempfile::TempDir;
use tonic::Status;
use xtask::mesh::{Mesh, REGIONS};

use crate::load::{LEVELS, LoadPublisher, MAX_PAYLOAD_BYTES, Record, Told, channel, closing};
use crate::mesh_client::client_of;
use crate::readers::{Broken, Got, LoadSubscriber, history};
use crate::waiting::{holds, in_time, until};

/// See the module's page.
pub(crate) struct LoadedMesh {
    pub(crate) mesh: Mesh,
    pub(crate) client: Client,
    /// By region and level, of the regions that are in the mesh.
    publishers: BTreeMap<&'static str, BTreeMap<&'static str, LoadPublisher>>,
    subscribers: BTreeMap<&'static str, LoadSubscriber>,
    /// What publishers of regions that were given up had been told.
    given_up: BTreeMap<String, Record>,
    /// What subscribers of such regions got in their time.
    parted: Vec<(&'static str, Got)>,
    started: Instant,
    _folder: TempDir,
}

impl LoadedMesh {
    /// Starts it from the binaries of a folder; `prepare_mesh` may set more before.
    pub(crate) async fn start(binaries: &Path, prepare_mesh: impl FnOnce(&mut Mesh)) -> Self {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let mut mesh = Mesh::new(folder.path(), binaries, BTreeMap::new()).expect("free ports");
        prepare_mesh(&mut mesh);
        mesh.start().expect("all processes start");
        let client = client_of(&mesh);
        prepare(&client).await;
        let publishers_of = |region| {
            let start = |level| LoadPublisher::start(&client, region, level);
            LEVELS.into_iter().map(|level| (level.0, start(level))).collect()
        };
        let publishers =
            REGIONS.into_iter().map(|region| (region, publishers_of(region))).collect();
        let subscriber_of = |region| LoadSubscriber::start(&client, region);
        let subscribers =
            REGIONS.into_iter().map(|region| (region, subscriber_of(region))).collect();
        Self {
            mesh,
            client,
            publishers,
            subscribers,
            given_up: BTreeMap::new(),
            parted: Vec::new(),
            started: Instant::now(),
            _folder: folder,
        }
    }

    /// Waits until the publisher of a region and level has so many more acknowledged.
    pub(crate) async fn advance(&mut self, region: &str, level: &str, more: u64) {
        let publishers = self.publishers.get_mut(region).expect("the region is in the mesh");
        publishers.get_mut(level).expect("each level has one").advance(more).await;
    }

    /// Ends who reads in a region that goes.
    pub(crate) fn end_subscriber(&mut self, region: &'static str) {
        let subscriber = self.subscribers.remove(region).expect("each region has one");
        self.parted.push((region, subscriber.finish()));
    }

    /// Ends the publisher of one level while others go on: what it was told is held.
    pub(crate) async fn end_publisher(&mut self, region: &str, level: &str) {
        let publishers = self.publishers.get_mut(region).expect("the region is in the mesh");
        let publisher = publishers.remove(level).expect("each level has one");
        self.given_up.insert(publisher.name.clone(), publisher.finish().await);
    }

    /// Ends who publishes in a region that goes: what they were told.
    pub(crate) async fn end_publishers(&mut self, region: &str) -> BTreeMap<String, Record> {
        let publishers = self.publishers.remove(region).expect("the region is in the mesh");
        let mut told = BTreeMap::new();
        for publisher in publishers.into_values() {
            told.insert(publisher.name.clone(), publisher.abandon().await);
        }
        told
    }

    /// What was told to publishers of regions that were given up is held by the others.
    pub(crate) fn demand(&mut self, told: BTreeMap<String, Record>) {
        self.given_up.extend(told);
    }

    /// Ends the load, waits until all nodes hold the same, and checks what every
    /// subscriber got and every region holds. Tells how many were refused.
    pub(crate) async fn check(self) -> u64 {
        let Self { mut mesh, client, publishers, mut subscribers, started, .. } = self;
        let (given_up, parted, _folder) = (self.given_up, self.parted, self._folder);
        let regions: Vec<&'static str> = publishers.keys().copied().collect();
        let publishers: Vec<LoadPublisher> =
            publishers.into_values().flat_map(BTreeMap::into_values).collect();
        publishers.iter().for_each(LoadPublisher::stop);
        let mut records = given_up;
        for publisher in publishers {
            records.insert(publisher.name.clone(), publisher.finish().await);
        }
        let lasted = started.elapsed().as_secs_f64();
        let healing = Instant::now();
        until_same(&client, &regions).await;
        let healed = healing.elapsed().as_secs_f64();

        // What would come twice comes before what is published now.
        let last = close(&client, &regions, &mut records).await;
        for subscriber in subscribers.values_mut() {
            in_time("the last messages", subscriber.until_last(&last)).await;
        }
        until_same(&client, &regions).await;

        let told = |told| records.values().map(|record| record.count(told)).sum::<u64>();
        println!(
            "{lasted:.0} s under load, acknowledged {}, refused {}, unknown {}, healed in {healed:.1} s",
            told(Told::Acknowledged),
            told(Told::Refused),
            told(Told::Unknown),
        );
        let mut broken = Vec::new();
        for (region, subscriber) in subscribers {
            let stored = history(&client, region).await;
            for (what, got) in [("subscriber", subscriber.finish()), ("history", stored)] {
                let found = got.check(&records);
                println!("{region}, {what}: present {}, {found:?}", got.present());
                if found != Broken::default() {
                    broken.push((region, what, found));
                }
            }
        }
        for (region, got) in parted {
            // What came after its time is not lost.
            let found = Broken { lost: 0, ..got.check(&records) };
            println!("{region}, subscriber until it was given up: present {}", got.present());
            if found != Broken::default() {
                broken.push((region, "subscriber until it was given up", found));
            }
        }
        assert!(broken.is_empty(), "promises are broken: {broken:#?}");
        mesh.stop_all().expect("all processes stop");
        told(Told::Refused)
    }
}

/// Publishes one more in each channel, at its origin: its number by publisher.
async fn close(
    client: &Client,
    regions: &[&str],
    records: &mut BTreeMap<String, Record>,
) -> BTreeMap<String, u64> {
    let mut last = BTreeMap::new();
    for region in regions {
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
async fn until_same(client: &Client, regions: &[&str]) {
    until("the nodes hold the same", async || {
        let mut seen = Vec::new();
        for region in regions {
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

/// The namespace and its channels, at every region.
async fn prepare(client: &Client) {
    let mut topology = client.topology().expect("a control-plane");
    let regions: Vec<String> = REGIONS.iter().map(|region| (*region).to_owned()).collect();
    topology
        .apply_group(v1::ApplyGroupRequest { name: "world".into(), regions, leave: false })
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
