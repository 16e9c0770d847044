//! kill -9 of push-nodes at random, under load in all regions.

use rand::rngs::StdRng;
use rand::seq::IndexedRandom as _;
use rand::{RngExt as _, SeedableRng as _};
use xtask::mesh::{Mesh, REGIONS};

use crate::load::LEVELS;
use crate::loaded_mesh::LoadedMesh;
use crate::{binaries, setting, the_machine};

/// Enough to see a broken promise in the gate; the full run is by command.
const KILLS_IN_THE_GATE: u64 = 8;

/// Acknowledged messages survive kill -9 at any moment, at the origin and at the
/// receivers, and reach every region's subscribers once and in order; then all
/// nodes hold the same (METHOD M8, M10, M11, M12; promise I1–I6, I11).
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn random_kills() {
    let _machine = the_machine().lock().await;
    let kills = setting("INTERLOCK_KILLS", KILLS_IN_THE_GATE);
    let seed = setting("INTERLOCK_SEED", 1);
    println!("random kills: {kills}, seed {seed}");
    let mut loaded = LoadedMesh::start(&binaries(), |_| {}).await;
    let mut random = StdRng::seed_from_u64(seed);
    for _ in 0..kills {
        // A kill comes after some progress, wherever the node is then.
        let watched = any(&mut random, &REGIONS);
        let (level, _) = any(&mut random, &LEVELS);
        loaded.advance(watched, level, random.random_range(1..2000)).await;
        let region = any(&mut random, &REGIONS);
        loaded.mesh.kill(&Mesh::push_node(region)).expect("the node runs");
        if random.random_bool(0.5) {
            // The others go on without it, where they need not ask it.
            let other = REGIONS.into_iter().find(|other| *other != region).expect("three regions");
            let (level, _) = any(&mut random, &LEVELS[..LEVELS.len() - 1]);
            loaded.advance(other, level, random.random_range(1..500)).await;
        }
        loaded.mesh.start_push_node(region).expect("the node starts again");
    }
    let refused = loaded.check().await;
    println!("{kills} kills");
    assert!(refused > 0, "nothing was refused: nothing shows that it stays away");
}

fn any<T: Copy>(random: &mut StdRng, of: &[T]) -> T {
    *of.choose(random).expect("there are some")
}
