//! After the faults: all comes right, and what every node and every reader has is
//! given to the checkers of the simulation.

use std::collections::BTreeMap;
use std::time::Duration;

use interlock_client::v1;
use interlock_core::identity::Epoch;
use interlock_core::names::ChannelName;
use interlock_simulation::checks::{self, Verdict};
use interlock_simulation::history::{
    FinalChannel, FinalNamespace, FinalNode, FinalState, Reading, Record,
};
use interlock_simulation::machine::MachineName;
use tonic::Status;
use xtask::mesh::REGIONS;

use super::disk_reading;
use super::faulty_mesh::{FaultyMesh, WEST, WEST_REGIONS};
use super::load::Load;
use super::reader::history;
use crate::waiting::{holds, until};

const CHANNELS_A_PAGE: u32 = 500;

/// Ends the load, waits until all nodes hold the same, and judges the run.
pub(crate) async fn judge(mut mesh: FaultyMesh, mut load: Load) -> Verdict {
    load.stop().await;
    let (shown, _) = until_same(&mesh).await;
    drop(shown);
    load.close(&mesh).await;
    let (shown, _) = until_same(&mesh).await;
    let readings = readings(&mesh, &mut load).await;
    let channels = channels(&mesh).await;
    mesh.processes.stop_all().expect("all processes stop");
    let mut end = FinalState { readings, ..FinalState::default() };
    for region in REGIONS {
        match final_node(&mut mesh, region, &shown[region], &channels[region]) {
            Ok(node) => _ = end.nodes.insert(mesh.number(region), node),
            Err(why) => {
                let what = format!("{region}: the disk cannot be read at the end: {why}");
                mesh.recorder.incident(Some(mesh.number(region)), what);
            }
        }
    }
    for (node, held) in &end.nodes {
        see_held(&mesh, MachineName::first_of(*node), held);
    }
    checks::check(&mesh.recorder.finish(), &end)
}

type Digests = BTreeMap<&'static str, Vec<v1::NamespaceDigest>>;

/// Waits until nothing waits anywhere, nobody has an alarm, and all members of
/// each namespace hold the same: their digests, and how long it took.
pub(crate) async fn until_same(mesh: &FaultyMesh) -> (Digests, Duration) {
    let begun = std::time::Instant::now();
    let digests = until("the nodes hold the same", async || {
        let mut seen = Digests::new();
        for region in REGIONS {
            seen.insert(region, held(mesh, region).await?);
        }
        let all: Vec<&v1::NamespaceDigest> = seen.values().flatten().collect();
        let is_same = all
            .iter()
            .all(|one| all.iter().all(|other| one.namespace != other.namespace || one == other));
        holds(is_same, seen).map_err(|seen| Status::unavailable(format!("{seen:#?}")))
    })
    .await;
    (digests, begun.elapsed())
}

/// What a node says that it holds, once it has no queue; it must have no alarm.
async fn held(mesh: &FaultyMesh, region: &str) -> Result<Vec<v1::NamespaceDigest>, Status> {
    let status = mesh.status(region).await?;
    if !status.alarms.is_empty() {
        return Err(Status::unavailable(format!("{region}: {:?}", status.alarms)));
    }
    if let Some(peer) = status.peers.iter().find(|peer| peer.queue_messages > 0) {
        return Err(Status::unavailable(format!("{region} has a queue: {peer:?}")));
    }
    let (_, mut node) = mesh.client.nodes(region).expect("a push-node").remove(0);
    let request = v1::VerifyRequest::default();
    Ok(node.verify(request).await?.into_inner().namespaces)
}

async fn readings(mesh: &FaultyMesh, load: &mut Load) -> Vec<Reading> {
    let mut readings = Vec::new();
    for reader in load.take_readers() {
        let (reading, ended) = reader.finish().await;
        if let Some(why) = ended {
            mesh.recorder.incident(None, format!("{} ended: {why}", reading.reader));
        }
        readings.push(reading);
    }
    for subject in &load.subjects {
        let regions = if subject.name == WEST { &WEST_REGIONS[..] } else { &REGIONS[..] };
        for region in regions {
            let told = until("the history", async || history(&mesh.client, region, subject).await);
            readings.push(told.await);
        }
    }
    readings
}

type Channels = BTreeMap<&'static str, BTreeMap<ChannelName, FinalChannel>>;

/// The channels that each region shows, by namespace.
async fn channels(mesh: &FaultyMesh) -> BTreeMap<&'static str, Channels> {
    let mut all = BTreeMap::new();
    for region in REGIONS {
        let mut of_region = Channels::new();
        for namespace in FaultyMesh::namespaces_of(region) {
            of_region.insert(*namespace, list_channels(mesh, region, namespace).await);
        }
        all.insert(region, of_region);
    }
    all
}

async fn list_channels(
    mesh: &FaultyMesh,
    region: &str,
    namespace: &str,
) -> BTreeMap<ChannelName, FinalChannel> {
    let mut shown = BTreeMap::new();
    let mut request = v1::ListChannelsRequest {
        namespace: namespace.to_owned(),
        page_size: CHANNELS_A_PAGE,
        show_deleted: true,
        ..Default::default()
    };
    loop {
        let mut channels = mesh.client.channels(region).expect("a push-node");
        let page = channels.list_channels(request.clone()).await.expect("it answers").into_inner();
        for channel in page.channels {
            let name = ChannelName::parse(&channel.name).expect("a name");
            let (epoch, deleted) = (Epoch::new(channel.epoch), channel.deleted);
            shown.insert(name, FinalChannel { epoch, deleted });
        }
        if page.next_page_token.is_empty() {
            return shown;
        }
        request.page_token = page.next_page_token;
    }
}

/// What is on a node's disk, beside what the node showed.
fn final_node(
    mesh: &mut FaultyMesh,
    region: &str,
    digests: &[v1::NamespaceDigest],
    channels: &Channels,
) -> Result<FinalNode, String> {
    let logs = disk_reading::logs(&mesh.disk(region).copy())?;
    let mut namespaces = BTreeMap::new();
    for name in FaultyMesh::namespaces_of(region) {
        let number = mesh.namespace(name);
        let digest = digests.iter().find(|digest| digest.namespace == number.get());
        let digest = digest.ok_or_else(|| format!("no digest of {name}"))?;
        let sixteen = |bytes: &[u8]| <[u8; 16]>::try_from(bytes).map_err(|it| it.to_string());
        let held = FinalNamespace {
            admission_digest: disk_reading::directory(&logs, number).digest(),
            shown_digest: sixteen(&digest.state)?,
            tips_digest: sixteen(&digest.tips)?,
            channels: channels[name].clone(),
        };
        namespaces.insert(number, held);
    }
    Ok(FinalNode { logs, namespaces })
}

/// Sees every message on a disk as if it had been appended now, to one that was
/// empty: no name has two contents, no namespace is where it must not be.
fn see_held(mesh: &FaultyMesh, machine: MachineName, node: &FinalNode) {
    let reading = MachineName { number: u32::MAX, ..machine };
    for (log, held) in &node.logs {
        mesh.recorder.see(Record::Durable { machine, log: *log, mark: held.mark });
        let mut hash = held.row.start_hash();
        for (m_id, bytes) in &held.messages {
            hash = hash.then(bytes);
            let name = interlock_core::identity::MessageName { log: *log, m_id: *m_id };
            let row = (*m_id == held.row.first_m_id()).then(|| held.row.clone());
            mesh.recorder.see(Record::Appended { machine: reading, name, hash, row });
        }
    }
}
