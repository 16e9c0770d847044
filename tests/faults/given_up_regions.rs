//! Regions that are given up under load: one whose node is dead for good and is removed by
//! force, and then one whose node leaves in order.

use interlock_client::{Mesh as Client, v1};
use tonic::Status;
use xtask::mesh::{Mesh, REGIONS};

use crate::load::LEVELS;
use crate::loaded_mesh::LoadedMesh;
use crate::waiting::{holds, until};
use crate::{binaries, the_machine};

/// Messages that a publisher has acknowledged between two steps.
const PROGRESS: u64 = 300;

/// A dead node takes nothing with it that peers were waited for, and one that leaves takes
/// nothing at all. Nobody who stays waits for those who went (METHOD M8, M10, M13;
/// promises I1–I5).
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn regions_are_given_up() {
    let _machine = the_machine().lock().await;
    let [dead, leaving, last] = REGIONS;
    let mut loaded = LoadedMesh::start(&binaries(), |_| {}).await;
    for region in REGIONS {
        for (level, _) in LEVELS {
            loaded.advance(region, level, PROGRESS).await;
        }
    }

    println!("{dead} dies and is removed by force");
    loaded.mesh.kill(&Mesh::push_node(dead)).expect("the node runs");
    loaded.mesh.kill(&Mesh::gateway(dead)).expect("the gateway runs");
    loaded.end_subscriber(dead);
    let mut told = loaded.end_publishers(dead).await;
    let alone = told.get_mut(&format!("{dead}-local")).expect("it has published");
    // Its disk may have been the only one.
    alone.doubt_acknowledged();
    loaded.demand(told);
    remove(&loaded.client, dead, true).await;
    for (level, _) in LEVELS {
        // The highest level waits for all members, and the dead one is none.
        loaded.advance(leaving, level, PROGRESS).await;
        loaded.advance(last, level, PROGRESS).await;
    }

    println!("{leaving} leaves");
    // Nobody is left then for whom a publication could wait.
    loaded.end_publisher(last, "peers").await;
    loaded.end_subscriber(leaving);
    remove(&loaded.client, leaving, false).await;
    let told = loaded.end_publishers(leaving).await;
    loaded.demand(told);
    loaded.mesh.stop(&Mesh::gateway(leaving)).expect("it stops when it is told");
    for level in ["local", "all"] {
        loaded.advance(last, level, PROGRESS).await;
    }
    loaded.check().await;
}

/// Takes a region's node out of the mesh, and then the region.
async fn remove(client: &Client, region: &str, force: bool) {
    let mut topology = client.topology().expect("a control-plane");
    let name = Mesh::push_node(region);
    until("the node's removal", async || {
        let request = v1::RemoveNodeRequest { name: name.clone(), force };
        let answer = topology.clone().remove_node(request).await?.into_inner();
        let state = answer.node.unwrap_or_default().state();
        holds(state == v1::NodeState::Removed, state)
            .map_err(|state| Status::unavailable(format!("{name} is {state:?}")))
    })
    .await;
    let request = v1::RemoveRegionRequest { name: region.to_owned() };
    topology.remove_region(request).await.expect("nobody is in it");
}
