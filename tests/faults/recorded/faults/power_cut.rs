//! The power goes: what was not synced is lost in one way or another, at one node
//! or at all of them at once.

use rand::RngExt as _;
use xtask::mesh::REGIONS;

use super::{Scene, kill};
use crate::disk::Loss;

pub(super) async fn one(at: &mut Scene<'_>) {
    let (victim, others) = at.choose();
    let (before, meanwhile) = (at.random.random_range(1..100), at.random.random_range(1..30));
    at.load.progress(victim, before).await;
    at.mesh.kill(victim).await;
    cut_power(at, victim);
    at.load.progress(others[0], meanwhile).await;
    at.mesh.start_node(victim).await;
}

pub(super) async fn all(at: &mut Scene<'_>) {
    kill::all_at_once(at).await;
    REGIONS.iter().for_each(|region| cut_power(at, region));
    kill::start_all(at).await;
}

/// Of a node whose process has been killed.
pub(super) fn cut_power(at: &mut Scene<'_>, region: &str) {
    let loss = Loss::choose(at.random);
    at.mesh.disk(region).cut_power(loss, at.random).expect("mounted again");
}
