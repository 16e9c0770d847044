//! A bit of what was synced turns over while a node is down. It refuses to open
//! and says why, its peers go on, and on an empty disk it takes back what they
//! have.

use rand::RngExt as _;

use super::super::ending::log_of;
use super::Scene;
use crate::disk::Loss;

/// Of the write-ahead log: a flip in a shorter one may hit nothing that matters.
const LEAST_BYTES: u64 = 64 * 1024;

pub(super) async fn one(at: &mut Scene<'_>) {
    let (victim, others) = at.choose();
    let before = at.random.random_range(50..150);
    at.load.progress(victim, before).await;
    at.mesh.kill(victim).await;
    at.mesh.see_on_disk(victim);
    // What was not synced may be damaged without a word.
    at.mesh.disk(victim).cut_power(Loss::Everything, at.random).expect("mounted again");
    let flipped = at.mesh.disk(victim).flip_bit(LEAST_BYTES, at.random).expect("mounted again");
    let Some((file, offset)) = flipped else {
        // A file that has just begun: nothing is damaged.
        at.mesh.start_node(victim).await;
        return;
    };
    let said_before = log_of(at.mesh, victim).len();
    let node = xtask::mesh::Mesh::push_node(victim);
    match at.mesh.processes.start_one(&node) {
        Ok(()) => {
            let what = format!("opens though a bit of {} at {offset} is wrong", file.display());
            at.incident(victim, &what);
            at.mesh.kill_at_once(victim);
        }
        Err(_) => {
            let said = log_of(at.mesh, victim).split_off(said_before);
            let name = file.file_name().expect("a file").to_string_lossy();
            if !(said.contains("is damaged") && said.contains(&*name)) {
                at.incident(victim, &format!("does not say that {name} is damaged: {said}"));
            }
        }
    }
    at.load.progress(others[0], 20).await;
    at.load.progress(others[1], 20).await;
    at.mesh.replace(victim, None).await;
    at.mesh.start_behind(victim).await;
}
