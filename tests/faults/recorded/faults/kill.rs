//! kill -9: of one node, of all at once, of a gateway, of the control-plane.

use rand::RngExt as _;
use xtask::mesh::{Mesh, REGIONS};

use super::Scene;

pub(super) async fn one(at: &mut Scene<'_>) {
    let (victim, others) = at.choose();
    let (before, meanwhile) = (at.random.random_range(1..100), at.random.random_range(1..50));
    at.load.progress(victim, before).await;
    at.mesh.kill(victim).await;
    // The others go on without it, where they need not ask it.
    at.load.progress(others[0], meanwhile).await;
    at.mesh.start_node(victim).await;
}

pub(super) async fn all(at: &mut Scene<'_>) {
    all_at_once(at).await;
    start_all(at).await;
}

/// Kills every push-node under load, none before another.
pub(super) async fn all_at_once(at: &mut Scene<'_>) {
    let region = at.region();
    let before = at.random.random_range(1..100);
    at.load.progress(region, before).await;
    for region in REGIONS {
        // What it says before all of them go is less than what it has, no more.
        let _ = at.mesh.see_durable(region).await;
    }
    REGIONS.iter().for_each(|region| at.mesh.kill_at_once(region));
}

pub(super) async fn start_all(at: &mut Scene<'_>) {
    for region in REGIONS {
        at.mesh.start_node(region).await;
    }
}

/// Its subscriber goes on behind its cursor.
pub(super) async fn gateway(at: &mut Scene<'_>) {
    let region = at.region();
    at.mesh.processes.kill(&Mesh::gateway(region)).expect("it runs");
    let meanwhile = at.random.random_range(1..100);
    at.load.progress(region, meanwhile).await;
    at.mesh.processes.start_gateway(region).expect("it starts");
}

/// Nodes run on without it, and start without it.
pub(super) async fn control_plane(at: &mut Scene<'_>) {
    let (victim, others) = at.choose();
    at.mesh.processes.kill("control-plane").expect("it runs");
    at.load.progress(others[0], 20).await;
    at.mesh.kill(victim).await;
    at.mesh.start_node(victim).await;
    at.load.progress(victim, 20).await;
    at.mesh.processes.start_control_plane().expect("it starts");
}
