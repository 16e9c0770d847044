//! A namespace leaves a region under load and comes back: what the node had goes to
//! the members that stay, nothing of it is left there, and it returns as to an empty
//! member.

use rand::RngExt as _;
use xtask::mesh::REGIONS;

use super::super::faulty_mesh::EVERYWHERE;
use super::Scene;

pub(super) async fn and_return(at: &mut Scene<'_>) {
    let (victim, others) = at.choose();
    let (before, meanwhile) = (at.random.random_range(1..100), at.random.random_range(1..100));
    at.load.progress(victim, before).await;
    at.mesh.place(EVERYWHERE, &others).await;
    at.mesh.until_left(victim, EVERYWHERE).await;
    at.load.progress(others[0], meanwhile).await;
    at.mesh.place(EVERYWHERE, &REGIONS).await;
    at.mesh.network.mend_all();
    at.mesh.see_backfilled(victim).await;
    at.load.progress(victim, 1).await;
}
