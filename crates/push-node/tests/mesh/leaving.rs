//! Nodes that leave the mesh, namespaces that leave a region, and a control-plane that
//! was restored from an old copy (docs/decisions/0006).

use std::net::SocketAddr;

use interlock_control_plane::Running as ControlPlaneRunning;
use interlock_push_node::{Config, NodeFailure, PushNode, Running, StartError};
use interlock_rpc::status::{Reason, reason_of};
use interlock_rpc::{services, v1};
use tempfile::TempDir;

use crate::registered::{
    channel, create_channel, loopback, node_config, publish, start_confirmed_control_plane,
    start_control_plane, status, until_held,
};
use crate::support::{publication, until};

const REGIONS: [&str; 3] = ["north", "south", "west"];

/// Three regions with a node each, and namespaces on all of them.
struct Fixture {
    folder: TempDir,
    control_plane: Option<ControlPlaneRunning>,
    address: SocketAddr,
    nodes: Vec<(Config, Option<Running>)>,
}

impl Fixture {
    async fn start(namespaces: &[&str]) -> Self {
        interlock_rpc::install_crypto_provider();
        let folder = tempfile::tempdir().expect("a temporary folder");
        let control_plane = start_control_plane(folder.path(), loopback()).await;
        let address = control_plane.listen_address();
        let mut fixture =
            Self { folder, control_plane: Some(control_plane), address, nodes: Vec::new() };
        for region in REGIONS {
            let mut config = node_config(fixture.folder.path(), region, address);
            let node = PushNode::start(config.clone()).await.expect("it registers");
            config.client_listen = node.client_address();
            config.replication_listen = node.replication_address();
            fixture.nodes.push((config, Some(node)));
        }
        for namespace in namespaces {
            fixture.apply_group(namespace, &REGIONS, false).await;
            let request = v1::CreateNamespaceRequest {
                name: (*namespace).to_owned(),
                groups: vec![(*namespace).to_owned()],
                ..Default::default()
            };
            fixture.topology().create_namespace(request).await.expect("it is stored");
            create_channel(fixture.node(0), namespace).await;
            for node in 0..REGIONS.len() {
                until_held(fixture.node(node), namespace, 1).await;
            }
        }
        fixture
    }

    fn topology(&self) -> services::topology::Client<tonic::transport::Channel> {
        services::topology::client(channel(self.address))
    }

    /// A group of the namespace's name: its regions are where the namespace is.
    async fn apply_group(&self, name: &str, regions: &[&str], leave: bool) {
        let regions = regions.iter().map(|&region| region.to_owned()).collect();
        let request = v1::ApplyGroupRequest { name: name.to_owned(), regions, leave };
        self.topology().apply_group(request).await.expect("it is stored");
    }

    fn node(&self, index: usize) -> &Running {
        self.nodes[index].1.as_ref().expect("it runs")
    }

    fn take(&mut self, index: usize) -> Running {
        self.nodes[index].1.take().expect("it runs")
    }

    async fn start_node(&mut self, index: usize) {
        let config = self.nodes[index].0.clone();
        let node = until("the node starts", async || {
            PushNode::start(config.clone()).await.map_err(|error| error.to_string())
        });
        self.nodes[index].1 = Some(node.await);
    }

    async fn remove(&self, index: usize, force: bool) -> Result<v1::NodeState, tonic::Status> {
        let request = v1::RemoveNodeRequest { name: self.nodes[index].0.node.clone(), force };
        let answer = self.topology().remove_node(request).await?.into_inner();
        Ok(answer.node.expect("it is told").state())
    }

    async fn state_of(&self, index: usize) -> v1::NodeState {
        let answer = self.topology().get_topology(v1::GetTopologyRequest {}).await;
        let topology = answer.expect("it answers").into_inner().topology.expect("there is one");
        let name = &self.nodes[index].0.node;
        topology.nodes.iter().find(|node| node.name == *name).expect("registered").state()
    }

    /// For whom a node waits that is leaving `demo`.
    async fn waits_for(&self, index: usize) -> Option<Vec<String>> {
        let namespace = namespace_of(self.node(index), "demo").await?;
        namespace.leaving.then_some(namespace.leaving_waits_for)
    }

    async fn until_removed(&self, index: usize) {
        until("it has left", async || match self.state_of(index).await {
            v1::NodeState::Removed => Ok(()),
            other => Err(other),
        })
        .await;
    }

    async fn end(mut self) {
        for (_, node) in &mut self.nodes {
            if let Some(node) = node.take() {
                node.abort().await;
            }
        }
        if let Some(control_plane) = self.control_plane.take() {
            control_plane.shutdown().await;
        }
    }
}

async fn publish_all(node: &Running, namespace: &str, prefix: &str, count: usize) {
    for number in 0..count {
        publish(node, namespace, &format!("{prefix} {number}")).await.expect("it is accepted");
    }
}

async fn namespace_of(node: &Running, namespace: &str) -> Option<v1::NamespaceStatus> {
    let namespaces = status(node).await.namespaces;
    namespaces.into_iter().find(|held| held.name == namespace)
}

fn incarnation(status: &v1::GetStatusResponse) -> u64 {
    status.member.as_ref().expect("it says who it is").incarnation
}

/// A node that leaves accepts nothing more, waits until the last member has all it
/// holds, over a crash of its own, and goes: nothing is lost, and nobody waits for it.
#[tokio::test(flavor = "multi_thread")]
async fn a_node_hands_over_what_it_holds_and_leaves() {
    let mut fixture = Fixture::start(&["demo"]).await;
    let south = fixture.take(1);
    south.abort().await;
    publish_all(fixture.node(2), "demo", "of the west", 50).await;
    assert_eq!(fixture.remove(2, false).await.expect("it is told"), v1::NodeState::Leaving);
    // Until it has heard of it, it accepts.
    let mut sent = 50;
    until("it accepts nothing", async || match publish(fixture.node(2), "demo", "late").await {
        Err(status) if reason_of(&status) == Some(Reason::NotMember) => Ok(()),
        other => {
            sent += u64::from(other.is_ok());
            Err(format!("{other:?}"))
        }
    })
    .await;
    until("it says for whom it waits", async || {
        let namespace = namespace_of(fixture.node(2), "demo").await.expect("it holds it");
        let told = (namespace.leaving, namespace.member, namespace.leaving_waits_for.clone());
        match told == (true, false, vec!["south-1".to_owned()]) && namespace.leaving_messages >= 50
        {
            true => Ok(()),
            false => Err(format!("{namespace:?}")),
        }
    })
    .await;
    publish_all(fixture.node(0), "demo", "of the north", 10).await;

    let west = fixture.take(2);
    west.abort().await;
    fixture.start_node(2).await;
    assert_eq!(fixture.state_of(2).await, v1::NodeState::Leaving);
    fixture.start_node(1).await;
    fixture.until_removed(2).await;
    let mut west = fixture.take(2);
    let ended = west.wait().await;
    assert!(matches!(ended, NodeFailure::Left(_)), "{ended}");
    west.shutdown().await;
    for node in [0, 1] {
        until_held(fixture.node(node), "demo", 1 + sent + 10).await;
    }
    let again = PushNode::start(fixture.nodes[2].0.clone()).await.expect_err("it was removed");
    assert!(matches!(again, StartError::Left { .. }), "{again}");

    // Nobody waits for one that has left.
    let request = v1::PublishRequest {
        namespace: "demo".to_owned(),
        publication: Some(publication("news", "for all".to_owned())),
        durability: Some(v1::Durability {
            level: v1::DurabilityLevel::All.into(),
            ..Default::default()
        }),
        ..Default::default()
    };
    let mut publisher = services::publish::client(channel(fixture.node(0).client_address()));
    publisher.publish(request).await.expect("both members have it");
    until("no queue is left", async || {
        let peers = status(fixture.node(0)).await.peers;
        match peers.iter().all(|peer| peer.name == "south-1") {
            true => Ok(()),
            false => Err(format!("{peers:?}")),
        }
    })
    .await;
    fixture.end().await;
}

/// A namespace that leaves a region is handed over and removed there, while the node
/// goes on with others, in the same process and at the same address; and it can come
/// back, as to an empty member.
#[tokio::test(flavor = "multi_thread")]
async fn a_namespace_leaves_a_region_and_comes_back() {
    let fixture = Fixture::start(&["demo", "stays"]).await;
    for namespace in ["demo", "stays"] {
        publish_all(fixture.node(2), namespace, "of the west", 20).await;
    }
    let before = incarnation(&status(fixture.node(2)).await);
    fixture.apply_group("demo", &["north", "south"], true).await;
    until("nothing is left of it", async || {
        let mut client = services::node::client(channel(fixture.node(2).client_address()));
        let request = v1::GetStatusRequest { brief: false };
        let status = client.get_status(request).await.map_err(|status| status.to_string())?;
        let status = status.into_inner();
        let held = status.namespaces.iter().any(|namespace| namespace.name == "demo");
        match !held && incarnation(&status) != before {
            true => Ok(()),
            false => Err(format!("{:?}", status.namespaces)),
        }
    })
    .await;
    until("the other namespace goes on", async || {
        publish(fixture.node(2), "stays", "after").await.map_err(|status| status.to_string())
    })
    .await;
    for node in 0..3 {
        until_held(fixture.node(node), "stays", 22).await;
    }
    let refused = publish(fixture.node(2), "demo", "x").await.expect_err("it is no member");
    assert_eq!(reason_of(&refused), Some(Reason::NotMember), "{refused}");
    publish_all(fixture.node(0), "demo", "meanwhile", 5).await;

    fixture.apply_group("demo", &REGIONS, false).await;
    until("it accepts again", async || {
        publish(fixture.node(2), "demo", "back").await.map_err(|status| status.to_string())
    })
    .await;
    for node in 0..3 {
        until_held(fixture.node(node), "demo", 27).await;
        let alarms = status(fixture.node(node)).await.alarms;
        assert!(alarms.is_empty(), "{alarms:?}");
    }
    fixture.end().await;
}

/// What is taken back before it was left stays as it is.
#[tokio::test(flavor = "multi_thread")]
async fn a_departure_may_be_taken_back() {
    let mut fixture = Fixture::start(&["demo"]).await;
    let south = fixture.take(1);
    south.abort().await;
    publish_all(fixture.node(2), "demo", "of the west", 5).await;
    fixture.apply_group("demo", &["north", "south"], true).await;
    until("it leaves", async || match namespace_of(fixture.node(2), "demo").await {
        Some(namespace) if namespace.leaving => Ok(()),
        other => Err(format!("{other:?}")),
    })
    .await;
    let before = incarnation(&status(fixture.node(2)).await);
    fixture.apply_group("demo", &REGIONS, false).await;
    until("it accepts again", async || {
        publish(fixture.node(2), "demo", "stays").await.map_err(|status| status.to_string())
    })
    .await;
    assert_eq!(incarnation(&status(fixture.node(2)).await), before, "nothing was opened anew");
    fixture.start_node(1).await;
    for node in 0..3 {
        until_held(fixture.node(node), "demo", 7).await;
    }
    fixture.end().await;
}

/// What was noted as drained, and was not left because the document was taken back
/// meanwhile, is held on, and has to be handed over anew when it leaves again.
#[tokio::test(flavor = "multi_thread")]
async fn what_was_drained_and_comes_back_is_drained_anew() {
    let mut fixture = Fixture::start(&["demo"]).await;
    let south = fixture.take(1);
    south.abort().await;
    publish_all(fixture.node(2), "demo", "of the west", 5).await;
    fixture.apply_group("demo", &["north", "south"], true).await;
    until("it leaves", async || fixture.waits_for(2).await.ok_or("not yet")).await;
    // Nobody records that it has drained.
    fixture.control_plane.take().expect("it runs").shutdown().await;
    fixture.start_node(1).await;
    until("it has drained", async || match fixture.waits_for(2).await {
        Some(waits_for) if waits_for.is_empty() => Ok(()),
        other => Err(other),
    })
    .await;
    let west = fixture.take(2);
    west.abort().await;
    let folder = fixture.folder.path();
    let control_plane = start_confirmed_control_plane(folder, fixture.address, true).await;
    fixture.control_plane = Some(control_plane);
    fixture.apply_group("demo", &REGIONS, false).await;

    // Also over an opening that finds the note.
    fixture.start_node(2).await;
    until_held(fixture.node(2), "demo", 6).await;
    until("it accepts again", async || {
        publish(fixture.node(2), "demo", "stays").await.map_err(|status| status.to_string())
    })
    .await;
    until_held(fixture.node(0), "demo", 7).await;
    let south = fixture.take(1);
    south.abort().await;
    publish(fixture.node(2), "demo", "late").await.expect("it is accepted");
    fixture.apply_group("demo", &["north", "south"], true).await;
    until("it waits for who lacks some", async || match fixture.waits_for(2).await {
        Some(waits_for) if waits_for == ["south-1"] => Ok(()),
        other => Err(other),
    })
    .await;
    fixture.start_node(1).await;
    // It is not reached while it opens its database anew.
    let address = fixture.node(2).client_address();
    until("it has left", async || {
        let request = v1::GetStatusRequest { brief: false };
        let status = services::node::client(channel(address)).get_status(request).await;
        let held = status.map_err(|status| status.to_string())?.into_inner().namespaces;
        if held.is_empty() { Ok(()) } else { Err(format!("{held:?}")) }
    })
    .await;
    for node in 0..2 {
        until_held(fixture.node(node), "demo", 8).await;
    }
    fixture.end().await;
}

/// Removed by force, a node ends and leaves its folder as it is.
#[tokio::test(flavor = "multi_thread")]
async fn a_node_that_is_removed_by_force_keeps_its_folder() {
    let mut fixture = Fixture::start(&["demo"]).await;
    publish_all(fixture.node(2), "demo", "of the west", 5).await;
    assert_eq!(fixture.remove(2, true).await.expect("it is told"), v1::NodeState::Removed);
    let mut west = fixture.take(2);
    let ended = west.wait().await;
    assert!(matches!(&ended, NodeFailure::NotReopened(why) if why.contains("by force")), "{ended}");
    west.shutdown().await;
    let again = PushNode::start(fixture.nodes[2].0.clone()).await.expect_err("it was removed");
    assert!(matches!(again, StartError::RemovedByForce { .. }), "{again}");
    publish(fixture.node(0), "demo", "on").await.expect("the others go on");

    // The last member stays.
    fixture.remove(1, true).await.expect("another is left");
    let refused = fixture.remove(0, true).await.expect_err("nobody is left");
    assert_eq!(reason_of(&refused), Some(Reason::TopologyInvalid), "{refused}");
    fixture.end().await;
}

/// A control-plane that was put back to an old copy changes nothing until it has gone
/// on from the nodes' document; then no number is given twice.
#[tokio::test(flavor = "multi_thread")]
async fn a_restored_control_plane_goes_on_from_the_nodes_document() {
    let mut fixture = Fixture::start(&["demo"]).await;
    let data = fixture.folder.path().join("control-plane");
    let copy = fixture.folder.path().join("copy");
    fixture.control_plane.take().expect("it runs").shutdown().await;
    crate::membership::copy_folder(&data, &copy);
    fixture.control_plane = Some(start_control_plane(fixture.folder.path(), fixture.address).await);
    let create = |name: &str| v1::CreateNamespaceRequest {
        name: name.to_owned(),
        groups: vec!["demo".to_owned()],
        ..Default::default()
    };
    let lost = fixture.topology().create_namespace(create("lost")).await.expect("it is stored");
    let lost = lost.into_inner().namespace.expect("it is told");
    create_channel(fixture.node(1), "lost").await;

    fixture.control_plane.take().expect("it runs").shutdown().await;
    std::fs::remove_dir_all(&data).expect("it is a folder");
    std::fs::rename(&copy, &data).expect("a folder of this test");
    fixture.control_plane = Some(start_control_plane(fixture.folder.path(), fixture.address).await);
    until("it knows that it is behind", async || {
        match fixture.topology().create_namespace(create("new")).await {
            Err(status) if reason_of(&status) == Some(Reason::TopologyBehind) => Ok(()),
            other => Err(format!("{other:?}")),
        }
    })
    .await;
    publish(fixture.node(0), "demo", "on").await.expect("the mesh runs on");

    let mut node = services::node::client(channel(fixture.node(1).client_address()));
    let held = node.get_node_topology(v1::GetNodeTopologyRequest {}).await.expect("it answers");
    let request = v1::AdoptTopologyRequest { topology: held.into_inner().topology };
    let adopted = fixture.topology().adopt_topology(request.clone()).await.expect("it is newer");
    let adopted = adopted.into_inner().topology.expect("it is told");
    assert_eq!(adopted.version.map(|version| version.generation), Some(2));
    let again = fixture.topology().adopt_topology(request).await.expect("it may be repeated");
    assert_eq!(again.into_inner().topology.and_then(|it| it.version), adopted.version);

    let new = until("it edits again", async || {
        let created = fixture.topology().create_namespace(create("new")).await;
        created.map_err(|status| status.to_string())
    })
    .await;
    let new = new.into_inner().namespace.expect("it is told");
    assert!(new.number > lost.number, "{} was given before", lost.number);
    create_channel(fixture.node(2), "new").await;
    for index in 0..3 {
        until("all go by the new generation", async || {
            let version = status(fixture.node(index)).await.topology_version;
            match version.map(|version| version.generation) {
                Some(2) => Ok(()),
                other => Err(other),
            }
        })
        .await;
    }
    fixture.end().await;
}
