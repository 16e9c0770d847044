//! Three regions of real processes on disks and a network that break, and what a
//! run sees of them.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use interlock_client::{Mesh as Client, v1};
use interlock_core::identity::{
    FencingToken, Incarnation, LogName, Mark, MessageNumber, NamespaceNumber, NodeNumber,
};
use interlock_rpc::convert::IntoCore as _;
use interlock_simulation::history::{Record, Replacement};
use interlock_simulation::machine::MachineName;
use interlock_simulation::network::ProcessNumber;
use tempfile::TempDir;
use tonic::Status;
use xtask::mesh::{Mesh, Place, REGIONS};

use super::disk_reading;
use super::recorder::Recorder;
use crate::disk::{Copy, Disk};
use crate::mesh_client::client_of;
use crate::network::Network;
use crate::waiting::{holds, until};
use crate::{binaries, requirements};

/// The namespace of all regions.
pub(crate) const EVERYWHERE: &str = "everywhere";
/// The namespace of the first two regions: nothing of it may be in the third.
pub(crate) const WEST: &str = "west";
pub(crate) const WEST_REGIONS: [&str; 2] = [REGIONS[0], REGIONS[1]];

/// How far each log is held.
pub(crate) type Marks = BTreeMap<LogName, MessageNumber>;

/// The mesh of one round.
pub(crate) struct FaultyMesh {
    // In this order they go: nobody is left on a disk or in a network.
    pub(crate) processes: Mesh,
    disks: BTreeMap<&'static str, Disk>,
    pub(crate) network: Network,
    pub(crate) client: Client,
    pub(crate) recorder: Recorder,
    numbers: BTreeMap<&'static str, NodeNumber>,
    namespaces: BTreeMap<&'static str, NamespaceNumber>,
    started: u64,
    _folder: TempDir,
}

impl FaultyMesh {
    /// Starts everything and prepares the namespaces.
    pub(crate) async fn start() -> Self {
        requirements::demand(&requirements::DISK);
        requirements::demand(&requirements::NETWORK);
        let folder = tempfile::tempdir().expect("a temporary folder");
        let nodes: Vec<String> = REGIONS.iter().map(|region| Mesh::push_node(region)).collect();
        let network = Network::new(&nodes);
        let path = folder.path().join("mesh");
        let mut processes = Mesh::new(&path, &binaries(), BTreeMap::new()).expect("free ports");
        let host = network.host().into();
        let outside = Place { address: host, entrance: Vec::new(), data: None };
        processes.set_place("control-plane", outside);
        let mut disks = BTreeMap::new();
        for (region, node) in REGIONS.into_iter().zip(&nodes) {
            let disk = Disk::mount(&folder.path().join("disks").join(node)).expect("mounted");
            let place = Place {
                address: network.address(node).into(),
                entrance: network.entrance(node),
                data: Some(disk.path().join(disk_reading::DATA)),
            };
            processes.set_place(node, place);
            disks.insert(region, disk);
        }
        processes.start().expect("all processes start");
        let client = client_of(&processes);
        let mut mesh = Self {
            processes,
            disks,
            network,
            client,
            recorder: Recorder::default(),
            numbers: BTreeMap::new(),
            namespaces: BTreeMap::new(),
            started: 0,
            _folder: folder,
        };
        mesh.prepare().await;
        mesh
    }

    async fn prepare(&mut self) {
        let mut topology = self.client.topology().expect("a control-plane");
        for (name, regions) in [(EVERYWHERE, &REGIONS[..]), (WEST, &WEST_REGIONS[..])] {
            self.place(name, regions).await;
            let namespace = v1::CreateNamespaceRequest {
                name: name.to_owned(),
                groups: vec![name.to_owned()],
                disk_cap_bytes: 0,
                retention: None,
            };
            topology.create_namespace(namespace).await.expect("a namespace");
        }
        for region in REGIONS {
            let status = self.until_ready(region).await;
            let member = status.member.as_ref().expect("a node knows itself");
            self.numbers.insert(region, NodeNumber::new(member.node));
            for held in &status.namespaces {
                let name = [EVERYWHERE, WEST].into_iter().find(|name| *name == held.name);
                self.namespaces
                    .insert(name.expect("it is ours"), NamespaceNumber::new(held.number));
            }
            self.see_opened(region, &status, Vec::new());
        }
        let answer = topology.get_topology(v1::GetTopologyRequest {}).await.expect("it answers");
        let topology = answer.into_inner().topology.expect("there is one");
        let topology = Arc::new(topology.into_core().expect("it is valid"));
        self.recorder.see(Record::TopologyEdited(topology));
        for region in REGIONS {
            self.see_ready(region);
        }
    }

    // Names.

    pub(crate) fn machine(&self, region: &str) -> MachineName {
        MachineName::first_of(self.number(region))
    }

    pub(crate) fn number(&self, region: &str) -> NodeNumber {
        self.numbers[region]
    }

    pub(crate) fn namespace(&self, name: &str) -> NamespaceNumber {
        self.namespaces[name]
    }

    /// The namespaces that a region's node is a member of.
    pub(crate) fn namespaces_of(region: &str) -> &'static [&'static str] {
        if WEST_REGIONS.contains(&region) { &[EVERYWHERE, WEST] } else { &[EVERYWHERE] }
    }

    pub(crate) fn disk(&mut self, region: &str) -> &mut Disk {
        self.disks.get_mut(region).expect("each region has one")
    }

    // What nodes say.

    pub(crate) async fn status(&self, region: &str) -> Result<v1::GetStatusResponse, Status> {
        let (_, mut node) = self.client.nodes(region).expect("a push-node").remove(0);
        let mut request = tonic::Request::new(v1::GetStatusRequest { brief: false });
        request.set_timeout(Duration::from_secs(10));
        Ok(node.get_status(request).await?.into_inner())
    }

    /// Waits until a node accepts in all its namespaces.
    pub(crate) async fn until_ready(&self, region: &str) -> v1::GetStatusResponse {
        until(&format!("{region} is ready"), async || {
            let status = self.status(region).await?;
            let is_ready = |name: &&str| {
                let mut held = status.namespaces.iter().filter(|held| held.name == **name);
                held.any(|held| held.member && held.ready)
            };
            let all = Self::namespaces_of(region).iter().all(is_ready);
            holds(all, status).map_err(|status| Status::unavailable(format!("{status:?}")))
        })
        .await
    }

    /// Sees how far a node says that its logs are durable.
    pub(crate) async fn see_durable(&self, region: &str) -> Result<Marks, Status> {
        let status = self.status(region).await?;
        Ok(self.see_durable_in(region, &status))
    }

    fn see_durable_in(&self, region: &str, status: &v1::GetStatusResponse) -> Marks {
        let machine = self.machine(region);
        let mut marks = Marks::new();
        for held in status.namespaces.iter().flat_map(|namespace| &namespace.logs) {
            if held.durable == 0 {
                continue;
            }
            let (log, mark) = mark_of(held);
            marks.insert(log, mark.m_id);
            self.recorder.see(Record::Durable { machine, log, mark });
        }
        marks
    }

    fn see_opened(
        &mut self,
        region: &str,
        status: &v1::GetStatusResponse,
        logs: Vec<(LogName, Mark)>,
    ) {
        self.started += 1;
        let incarnation = status.member.as_ref().map_or(0, |member| member.incarnation);
        self.recorder.see(Record::Opened {
            machine: self.machine(region),
            process: ProcessNumber::new(self.started),
            incarnation: Incarnation::new(incarnation).expect("each opening has one"),
            token: FencingToken::new(0),
            logs,
        });
    }

    fn see_ready(&self, region: &str) {
        let machine = self.machine(region);
        for name in Self::namespaces_of(region) {
            self.recorder.see(Record::Ready { machine, namespace: self.namespace(name) });
        }
    }

    // What is done to nodes.

    /// Kills a node, and sees first what it says to be durable.
    pub(crate) async fn kill(&mut self, region: &str) {
        // One that does not answer is killed all the same.
        let _ = self.see_durable(region).await;
        self.kill_at_once(region);
    }

    pub(crate) fn kill_at_once(&mut self, region: &str) {
        self.processes.kill(&Mesh::push_node(region)).expect("the node runs");
    }

    /// Starts a node that is down, and waits until it answers. What its disk holds
    /// is read before, from a copy.
    pub(crate) async fn start_node(&mut self, region: &str) -> v1::GetStatusResponse {
        let copy = self.disk(region).copy();
        let logs = match disk_reading::marks(&copy) {
            Ok(logs) => logs,
            Err(why) => {
                let what = format!("{region}: the disk cannot be opened: {why}");
                self.recorder.incident(Some(self.number(region)), what);
                Vec::new()
            }
        };
        self.processes.start_push_node(region).expect("the node starts");
        let status = until("the node answers", async || self.status(region).await).await;
        self.see_opened(region, &status, logs);
        self.see_durable_in(region, &status);
        status
    }

    /// Puts something else in the place of what is on the disk of a node that is
    /// down, and sees what is lost with it: what nobody else has by now.
    pub(crate) async fn replace(&mut self, region: &'static str, by: Option<Copy>) {
        self.see_on_disk(region);
        for other in REGIONS.into_iter().filter(|other| *other != region) {
            // One that is down has said before what it holds.
            let _ = self.see_durable(other).await;
        }
        let (kind, logs) = match &by {
            None => (Replacement::Wiped, BTreeMap::new()),
            Some(copy) => {
                let marks = disk_reading::marks(copy).expect("a copy can be opened");
                (Replacement::Restored, marks.into_iter().collect())
            }
        };
        let disk = self.disk(region);
        match by {
            None => disk.wipe().expect("mounted again"),
            Some(copy) => disk.restore(copy).expect("mounted again"),
        }
        self.recorder.see(Record::Replaced { machine: self.machine(region), by: kind, logs });
    }

    /// Sees what the disk of a node that is down holds.
    pub(crate) fn see_on_disk(&mut self, region: &str) {
        let machine = self.machine(region);
        let copy = self.disk(region).copy();
        // One that cannot be opened was looked at before it was damaged.
        for (log, mark) in disk_reading::marks(&copy).unwrap_or_default() {
            self.recorder.see(Record::Durable { machine, log, mark });
        }
    }

    /// Starts a node on a disk that knows less than the mesh, and waits until it
    /// has taken over the state of another member.
    pub(crate) async fn start_behind(&mut self, region: &'static str) {
        self.start_node(region).await;
        // A namespace of two members is taken over from the other one, or not.
        self.network.mend_all();
        self.see_backfilled(region).await;
    }

    /// Places a namespace on these regions; members elsewhere leave it.
    pub(crate) async fn place(&self, namespace: &str, regions: &[&str]) {
        let regions: Vec<String> = regions.iter().map(|region| (*region).to_owned()).collect();
        until("the placement", async || {
            let mut topology = self.client.topology().expect("a control-plane");
            let (name, regions) = (namespace.to_owned(), regions.clone());
            topology.apply_group(v1::ApplyGroupRequest { name, regions, leave: true }).await
        })
        .await;
    }

    /// Waits until nothing of a namespace is left at a node that was told to leave it,
    /// and sees that others have all that it had.
    pub(crate) async fn until_left(&mut self, region: &'static str, namespace: &str) {
        let status = until(&format!("{region} has left {namespace}"), async || {
            let status = self.status(region).await?;
            self.see_durable_in(region, &status);
            let is_left = status.namespaces.iter().all(|held| held.name != namespace);
            holds(is_left, status).map_err(|status| Status::unavailable(format!("{status:?}")))
        })
        .await;
        for other in REGIONS.into_iter().filter(|other| *other != region) {
            let _ = self.see_durable(other).await;
        }
        let (machine, namespace) = (self.machine(region), self.namespace(namespace));
        self.recorder.see(Record::Left { machine, namespace });
        let marks = status.namespaces.iter().flat_map(|held| &held.logs).map(mark_of);
        self.see_opened(region, &status, marks.collect());
    }

    /// Waits until a node has taken over the state of another member, and sees it.
    pub(crate) async fn see_backfilled(&mut self, region: &'static str) {
        let status = self.until_ready(region).await;
        self.see_durable_in(region, &status);
        let machine = self.machine(region);
        for name in Self::namespaces_of(region) {
            let namespace = self.namespace(name);
            self.recorder.see(Record::Backfilled { machine, namespace });
        }
        self.see_ready(region);
    }

    /// Waits until every member holds what any member holds now: how long that
    /// takes.
    pub(crate) async fn catch_up(&self) -> Duration {
        let begun = Instant::now();
        let mut goal = Marks::new();
        for region in REGIONS {
            self.until_ready(region).await;
            self.see_ready(region);
            let marks = until("the node answers", async || self.see_durable(region).await).await;
            for (log, m_id) in marks {
                let highest = goal.entry(log).or_default();
                *highest = m_id.max(*highest);
            }
        }
        for region in REGIONS {
            let namespaces: Vec<NamespaceNumber> =
                Self::namespaces_of(region).iter().map(|name| self.namespace(name)).collect();
            until(&format!("{region} catches up"), async || {
                let marks = self.see_durable(region).await?;
                let missing: Vec<_> = goal
                    .iter()
                    .filter(|(log, _)| namespaces.contains(&log.namespace))
                    .filter(|(log, m_id)| marks.get(log) < Some(m_id))
                    .collect();
                holds(missing.is_empty(), missing)
                    .map(|_| ())
                    .map_err(|missing| Status::unavailable(format!("{missing:?}")))
            })
            .await;
        }
        begun.elapsed()
    }
}

impl Drop for FaultyMesh {
    /// What nodes said last goes with the folder: where the run has failed it is
    /// told before.
    fn drop(&mut self) {
        const LINES: usize = 15;
        if !std::thread::panicking() {
            return;
        }
        for region in REGIONS {
            let said = log_of(self, region);
            let lines: Vec<&str> = said.lines().collect();
            println!("{region} said last:");
            for line in &lines[lines.len().saturating_sub(LINES)..] {
                println!("  {line}");
            }
        }
    }
}

/// How far a node says that it holds a log.
fn mark_of(held: &v1::LogStatus) -> (LogName, Mark) {
    let wire = v1::LogMark { log: held.log, m_id: held.durable, hash: held.durable_hash.clone() };
    wire.into_core().expect("a node knows its marks")
}

/// All that a node has said.
pub(crate) fn log_of(mesh: &FaultyMesh, region: &str) -> String {
    let name = format!("{}.log", Mesh::push_node(region));
    let path = mesh.processes.folder().join("logs").join(name);
    std::fs::read_to_string(path).unwrap_or_default()
}
