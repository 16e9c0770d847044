//! Going on from a document of the nodes (decision 0006).

use interlock_control_plane::Config;
use interlock_rpc::status::{Reason, reason_of};
use interlock_rpc::v1;
use tonic::Status;

use super::{Fixture, config, registration};

/// A control-plane that has given the number 1 to a namespace, and its two nodes.
struct Mesh {
    fixture: Fixture,
    nodes: [v1::RegisterNodeResponse; 2],
}

impl Mesh {
    async fn start() -> Self {
        let fixture = Fixture::start().await;
        let nodes = [fixture.register("eu-1", "eu").await, fixture.register("us-1", "us").await];
        fixture.apply_group("both", &["eu", "us"]).await;
        fixture.create_namespace("first", &["both"]).await.expect("created");
        Self { fixture, nodes }
    }

    async fn restart_confirmed(&mut self) {
        self.fixture.stop().await;
        let confirmed = Config { topology_confirmed: true, ..config(&self.fixture.folder) };
        self.fixture.start_again(confirmed).await;
    }

    /// A node renews its lease, and says which version it goes by.
    async fn renew(&self, node: usize, token: u64, number: u64) -> Result<(), Status> {
        let request = v1::RenewLeaseRequest {
            number: self.nodes[node].number,
            fencing_token: token,
            incarnation: 7,
            topology_version: Some(v1::TopologyVersion { generation: 1, number }),
        };
        self.fixture.topology().renew_lease(request).await.map(|_| ())
    }

    async fn adopt(&self, topology: &v1::Topology) -> Result<v1::Topology, Status> {
        let request = v1::AdoptTopologyRequest { topology: Some(topology.clone()) };
        let adopted = self.fixture.topology().adopt_topology(request).await?.into_inner();
        Ok(adopted.topology.expect("is in every answer"))
    }

    /// The control-plane's document as it became later, with one namespace more.
    async fn later(&self, number: u64) -> v1::Topology {
        let mut topology = self.fixture.get_topology().await;
        topology.version = Some(v1::TopologyVersion { generation: 1, number });
        let mut lost = topology.namespaces[0].clone();
        (lost.number, lost.name) = (2, "lost".to_owned());
        topology.namespaces.push(lost);
        topology
    }
}

fn version(topology: &v1::Topology) -> (u64, u64) {
    let version = topology.version.expect("has one");
    (version.generation, version.number)
}

#[track_caller]
fn assert_behind(answer: Result<v1::Topology, Status>, named: &str) {
    let status = answer.expect_err(named);
    assert_eq!(reason_of(&status), Some(Reason::TopologyBehind), "{status}");
    assert!(status.message().contains(named), "{status}");
}

/// What is not the newest would hide the newest: the next generation is above both.
#[tokio::test]
async fn a_document_older_than_one_that_is_known_of_is_not_adopted() {
    let mesh = Mesh::start().await;
    let before = mesh.fixture.get_topology().await;
    let older = mesh.later(8).await;
    mesh.renew(1, 1, 9).await.expect("it is on record");
    assert_behind(mesh.adopt(&older).await, "the node us-1 holds 1.9");
    assert_eq!(mesh.fixture.get_topology().await, before);

    let adopted = mesh.adopt(&mesh.later(9).await).await.expect("it is the newest");
    assert_eq!(version(&adopted), (2, 9));
    let new = mesh.fixture.create_namespace("new", &["both"]).await.expect("nobody knows more");
    assert_eq!(new.number, 3, "2 was given before");
}

/// Whoever was not heard may hold a newer one, unless it was removed since.
#[tokio::test]
async fn a_document_is_adopted_when_all_were_heard_who_may_know_more() {
    let mut mesh = Mesh::start().await;
    let newest = mesh.later(9).await;
    let of_generation = |generation| v1::Topology {
        version: Some(v1::TopologyVersion { generation, number: 9 }),
        ..newest.clone()
    };
    mesh.fixture.restart().await;
    mesh.renew(0, 1, 9).await.expect("it is on record");
    assert_behind(mesh.adopt(&newest).await, "us-1");
    // One that is under way when the last of them is heard goes on.
    let (adopted, renewed) = tokio::join!(mesh.adopt(&newest), mesh.renew(1, 1, 9));
    renewed.expect("it is on record");
    assert_eq!(version(&adopted.expect("all were heard")), (2, 9));

    mesh.fixture.restart().await;
    mesh.renew(0, 1, 9).await.expect("it is on record");
    let mut newest = of_generation(3);
    newest.nodes[1].state = v1::NodeState::Removed.into();
    assert_eq!(version(&mesh.adopt(&newest).await.expect("us-1 knows nothing more")), (4, 9));

    mesh.restart_confirmed().await;
    let adopted = mesh.adopt(&of_generation(5)).await.expect("an operator vouches for it");
    assert_eq!(version(&adopted), (6, 9));
}

/// A node that has registered since the old copy was made is refused its lease, and
/// has said what it knows all the same.
#[tokio::test]
async fn a_token_of_the_lost_time_is_in_the_adopted_document() {
    let mut mesh = Mesh::start().await;
    mesh.fixture.restart().await;
    mesh.renew(0, 1, 0).await.expect("it is on record");
    let status = mesh.renew(1, 5, 0).await.expect_err("never given here");
    assert_eq!(reason_of(&status), Some(Reason::TopologyBehind), "{status}");
    let mut newest = mesh.later(9).await;
    assert_behind(mesh.adopt(&newest).await, "fencing token 5");
    newest.nodes[1].fencing_token = 5;
    mesh.adopt(&newest).await.expect("it has the token");
    mesh.renew(1, 5, 9).await.expect("it is known now");
    let again = mesh.fixture.try_register(registration("us-1", "us")).await.expect("registers");
    assert_eq!(again.fencing_token, 6);
}

/// A control-plane that was restored and confirmed has given a version a second time.
#[tokio::test]
async fn another_document_of_the_same_version_is_adopted() {
    let mesh = Mesh::start().await;
    let held = mesh.fixture.get_topology().await;
    let (_, number) = version(&held);
    let same = mesh.adopt(&held).await.expect("it is known");
    assert_eq!(same, held, "nothing is changed");

    let other = mesh.later(number).await;
    let adopted = mesh.adopt(&other).await.expect("it is another one");
    assert_eq!(version(&adopted), (2, number));
    assert_eq!(adopted.namespaces, other.namespaces);
    let again = mesh.adopt(&other).await.expect("it may be repeated");
    assert_eq!(again, adopted, "an older generation is no news");
}

/// The nodes' document says more than a copy that an older build has passed on.
#[tokio::test]
async fn a_fuller_document_of_the_same_version_is_adopted() {
    let mesh = Mesh::start().await;
    let mut fuller = mesh.fixture.get_topology().await;
    let (_, number) = version(&fuller);
    for node in &mut fuller.nodes {
        node.feature_level = 2;
    }
    let adopted = mesh.adopt(&fuller).await.expect("it says more");
    assert_eq!(version(&adopted), (2, number));
    assert!(adopted.nodes.iter().all(|node| node.feature_level == 2), "{adopted:?}");
}
