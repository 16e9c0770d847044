//! All clients of a run: publishers of each level in each region, an
//! administrator in each, a subscriber in each.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use bytes::Bytes;
use interlock_client::{Durability, v1};
use interlock_core::names::ChannelName;
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tonic::Status;
use xtask::mesh::REGIONS;

use super::editor::Editor;
use super::faulty_mesh::{EVERYWHERE, FaultyMesh, WEST, WEST_REGIONS};
use super::publisher::{RecordedPublisher, Task, channel};
use super::reader::{RecordedReader, Subject};
use super::recorder::Place;
use crate::waiting::{in_time, until};

/// The level whose publishers go on without the others.
const ALONE: &str = "local";

/// Clients at work.
pub(crate) struct Load {
    stop: Arc<AtomicBool>,
    publishers: Vec<RecordedPublisher>,
    /// How many each region has acknowledged by itself.
    progress: BTreeMap<&'static str, watch::Receiver<u64>>,
    editors: Vec<JoinHandle<()>>,
    readers: Vec<RecordedReader>,
    pub(crate) subjects: Vec<Subject>,
}

/// The publishers: region, level, namespace, durability and how many others hold
/// what is acknowledged.
fn publishers() -> Vec<(&'static str, &'static str, &'static str, Durability, usize)> {
    let mut all = Vec::new();
    for region in REGIONS {
        all.push((region, ALONE, EVERYWHERE, Durability::Local, 0));
        all.push((region, "peers", EVERYWHERE, Durability::Peers(1), 1));
        all.push((region, "all", EVERYWHERE, Durability::All, REGIONS.len() - 1));
    }
    for region in WEST_REGIONS {
        all.push((region, "west", WEST, Durability::Local, 0));
    }
    all
}

impl Load {
    /// Creates the channels and starts all clients.
    pub(crate) async fn start(mesh: &FaultyMesh, seed: u64) -> Self {
        let mut load = Self {
            stop: Arc::new(AtomicBool::new(false)),
            publishers: Vec::new(),
            progress: BTreeMap::new(),
            editors: Vec::new(),
            readers: Vec::new(),
            subjects: subjects(mesh),
        };
        let mut clients = 0..;
        let mut place = |region: &str, namespace: &str| Place {
            client: clients.next().expect("endless"),
            node: mesh.number(region),
            namespace: mesh.namespace(namespace),
        };
        for (region, level, namespace, durability, peers) in publishers() {
            let name = format!("{region}-{level}");
            let place = place(region, namespace);
            create_channel(mesh, region, namespace, place, &channel(&name)).await;
            let push_nodes = mesh.client.push_nodes(region).expect("a push-node");
            let recorder = mesh.recorder.clone();
            let task = Task { name, push_nodes, place, namespace, durability, peers, recorder };
            let publisher = RecordedPublisher::start(task, Arc::clone(&load.stop));
            if level == ALONE {
                load.progress.insert(region, publisher.acknowledged());
            }
            load.publishers.push(publisher);
        }
        for (region, number) in REGIONS.into_iter().zip(0..) {
            let editor = editor(mesh, region, EVERYWHERE, place(region, EVERYWHERE));
            load.editors.push(editor.start(seed + number, Arc::clone(&load.stop)));
        }
        for subject in &load.subjects {
            let regions = if subject.name == WEST { &WEST_REGIONS[..] } else { &REGIONS[..] };
            let readers =
                regions.iter().map(|region| RecordedReader::start(&mesh.client, region, subject));
            load.readers.extend(readers);
        }
        load
    }

    /// How many a region has acknowledged by itself.
    pub(crate) fn acknowledged(&self, region: &str) -> watch::Receiver<u64> {
        self.progress[region].clone()
    }

    /// Waits until a region has acknowledged so many more by itself.
    pub(crate) async fn progress(&mut self, region: &str, more: u64) {
        let count = self.progress.get_mut(region).expect("each region has one");
        let goal = *count.borrow() + more;
        in_time(&format!("{region} goes on"), count.wait_for(|count| *count >= goal))
            .await
            .expect("the publisher runs");
    }

    /// Ends all but the readers, once all that was begun is answered.
    pub(crate) async fn stop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        for publisher in self.publishers.drain(..) {
            in_time("the last answers", publisher.finish()).await;
        }
        for editor in self.editors.drain(..) {
            in_time("the last edit", editor).await.expect("the editor does not fail");
        }
    }

    /// Publishes one last message from each region in each namespace, and waits
    /// until all readers have them: what would come twice has come before.
    pub(crate) async fn close(&mut self, mesh: &FaultyMesh) {
        for subject in &self.subjects {
            let mut payloads = BTreeSet::new();
            for (number, (region, level, namespace, ..)) in (1000..).zip(publishers()) {
                if namespace != subject.name {
                    continue;
                }
                let place = Place {
                    client: number,
                    node: mesh.number(region),
                    namespace: subject.namespace,
                };
                let channel = channel(&format!("{region}-{level}"));
                let payload = Bytes::from(format!("the last of {region}-{level}"));
                publish_one(mesh, region, namespace, place, &channel, &payload)
                    .await
                    .expect("all nodes are there");
                payloads.insert(payload);
            }
            let of_subject = self.readers.iter_mut().filter(|it| it.is_of(subject.namespace));
            for reader in of_subject {
                in_time("the last messages", reader.until(&payloads)).await;
            }
        }
    }

    /// The readers.
    pub(crate) fn take_readers(&mut self) -> Vec<RecordedReader> {
        std::mem::take(&mut self.readers)
    }
}

fn subjects(mesh: &FaultyMesh) -> Vec<Subject> {
    [EVERYWHERE, WEST]
        .into_iter()
        .map(|name| {
            let of_namespace = publishers().into_iter().filter(|(_, _, it, ..)| *it == name);
            let channels: BTreeSet<ChannelName> = of_namespace
                .map(|(region, level, ..)| channel(&format!("{region}-{level}")))
                .collect();
            Subject { namespace: mesh.namespace(name), name, channels }
        })
        .collect()
}

fn editor(
    mesh: &FaultyMesh,
    region: &'static str,
    namespace: &'static str,
    place: Place,
) -> Editor {
    let recorder = mesh.recorder.clone();
    Editor { mesh: mesh.client.clone(), region, namespace, place, recorder }
}

async fn create_channel(
    mesh: &FaultyMesh,
    region: &'static str,
    namespace: &'static str,
    place: Place,
    channel: &ChannelName,
) {
    let editor = editor(mesh, region, namespace, place);
    until("the channel", async || editor.create(channel.as_str(), format!("for {channel}")).await)
        .await;
}

/// Publishes one message by itself and records it.
pub(crate) async fn publish_one(
    mesh: &FaultyMesh,
    region: &str,
    namespace: &str,
    place: Place,
    channel: &ChannelName,
    payload: &Bytes,
) -> Result<(), Status> {
    let request = v1::PublishRequest {
        namespace: namespace.to_owned(),
        publication: Some(v1::Publication {
            channel: channel.as_str().to_owned(),
            payload: payload.clone(),
            ..Default::default()
        }),
        durability: Some(Durability::Local.to_wire()),
        ..Default::default()
    };
    let operation = mesh.recorder.begin_publication(place, channel, payload);
    let mut request = tonic::Request::new(request);
    request.set_timeout(Duration::from_secs(5));
    let answer = mesh.client.publishing(region).expect("a push-node").publish(request).await;
    match answer {
        Ok(published) => {
            mesh.recorder.acknowledged(operation, published.into_inner().message, 0);
            Ok(())
        }
        Err(status) => {
            let outcome = interlock_client::PublishOutcome::of(&status, false);
            if outcome.stored == interlock_client::Stored::No {
                mesh.recorder.refused(operation);
            }
            Err(status)
        }
    }
}
