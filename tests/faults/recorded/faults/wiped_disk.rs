//! A node comes back under its name with an empty disk: it takes over the state
//! of a member before it accepts, and its own old messages come back.

use rand::RngExt as _;

use super::Scene;

pub(super) async fn one(at: &mut Scene<'_>) {
    let (victim, others) = at.choose();
    let (before, meanwhile) = (at.random.random_range(1..100), at.random.random_range(1..50));
    at.load.progress(victim, before).await;
    at.mesh.kill(victim).await;
    at.load.progress(others[0], meanwhile).await;
    at.mesh.replace(victim, None).await;
    at.mesh.start_behind(victim).await;
}
