//! A disk is put back to an old copy: a fork, of which both branches reach
//! everyone, whether the peers are there at that moment or not.

use rand::RngExt as _;
use xtask::mesh::Mesh;

use super::{Scene, power_cut};

pub(super) async fn one(at: &mut Scene<'_>) {
    let (victim, others) = at.choose();
    let (before, after) = (at.random.random_range(1..60), at.random.random_range(1..100));
    at.load.progress(victim, before).await;
    at.mesh.kill(victim).await;
    power_cut::cut_power(at, victim);
    let copy = at.mesh.disk(victim).copy();
    at.mesh.start_node(victim).await;
    at.load.progress(victim, after).await;
    at.mesh.kill(victim).await;
    at.mesh.replace(victim, Some(copy)).await;
    let is_alone = at.random.random_bool(0.5);
    if is_alone {
        for other in others {
            let (victim, other) = (Mesh::push_node(victim), Mesh::push_node(other));
            at.mesh.network.cut(&other, &victim);
            at.mesh.network.cut(&victim, &other);
        }
    }
    at.mesh.start_node(victim).await;
    at.load.progress(victim, 10).await;
    at.mesh.network.mend_all();
}
