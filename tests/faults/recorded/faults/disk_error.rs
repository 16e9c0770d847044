//! EIO of a write or a sync: the node ends without an acknowledgement of what it
//! was about, because nobody knows what the disk has.

use rand::RngExt as _;
use rand::seq::IndexedRandom as _;
use xtask::mesh::Mesh;

use super::{Scene, power_cut};
use crate::disk::{Failing, PlannedError};
use crate::waiting::{holds, until};

/// What a node that must not go on ends with.
const FAILURE_EXIT_CODE: i32 = 70;

/// The end of a file's name: of the write-ahead log, which everything goes through,
/// of the file beside the database, of any.
const WRITE_AHEAD: &str = ".log";
const SUFFIXES: [&str; 4] = [WRITE_AHEAD, WRITE_AHEAD, "durable-marks", ""];
/// A node that has acknowledged so much after a failure goes on.
const GOES_ON: u64 = 60;

pub(super) async fn of_a_write(at: &mut Scene<'_>) {
    let after = at.random.random_range(0..100);
    fail(at, Failing::Write, after).await;
}

pub(super) async fn of_a_sync(at: &mut Scene<'_>) {
    let after = at.random.random_range(0..50);
    fail(at, Failing::Sync, after).await;
}

async fn fail(at: &mut Scene<'_>, what: Failing, after: u64) {
    let (victim, others) = at.choose();
    let suffix = *SUFFIXES.choose(at.random).expect("there are some");
    // That one is written about once a second.
    let after = if suffix.starts_with("durable") { after % 4 } else { after };
    // One that fails and none after it is the harder case: whoever tries again
    // succeeds.
    let lasts = at.random.random_bool(0.3);
    let _ = at.mesh.see_durable(victim).await;
    at.mesh.disk(victim).plan_error(PlannedError { what, suffix, after, lasts });
    until("the disk fails", async || {
        let failed = at.mesh.disk(victim).failed();
        holds(!failed.is_empty(), ())
    })
    .await;
    let failed = at.mesh.disk(victim).failed();
    println!("  {victim}: {what:?} of {} failed", failed[0].display());
    // The kernel tells a long write that fails in its middle as a short one, and the
    // rest, written again, may come through: then nobody has seen an error.
    let is_seen = what == Failing::Sync || lasts;
    if suffix == WRITE_AHEAD && is_seen {
        ends(at, victim).await;
    } else {
        // A file that nothing rests on may fail without consequence.
        ends_or_goes_on(at, victim).await;
    }
    at.mesh.disk(victim).end_errors();
    at.load.progress(others[0], 1).await;
    // What the failed sync was about is in the kernel's memory and on no disk.
    power_cut::cut_power(at, victim);
    at.mesh.start_node(victim).await;
}

async fn ends_or_goes_on(at: &mut Scene<'_>, victim: &'static str) {
    let mut acknowledged = at.load.acknowledged(victim);
    let goal = *acknowledged.borrow() + GOES_ON;
    let goes_on = tokio::select! {
        () = ends(at, victim) => false,
        Ok(_) = acknowledged.wait_for(|count| *count >= goal) => true,
    };
    if goes_on {
        at.mesh.kill(victim).await;
    }
}

/// Waits until a node has ended by itself, as one does that must not go on.
async fn ends(at: &mut Scene<'_>, victim: &str) {
    until(&format!("{victim} ends"), async || holds(has_ended(at, victim), "it runs")).await;
}

/// Whether a node has ended by itself, as one does that must not go on.
pub(super) fn has_ended(at: &mut Scene<'_>, victim: &str) -> bool {
    let name = Mesh::push_node(victim);
    let ended = at.mesh.processes.take_ended();
    let Some(ended) = ended.iter().find(|ended| ended.name == name) else { return false };
    if ended.status.code() != Some(FAILURE_EXIT_CODE) {
        at.incident(victim, &format!("ended with {}, not by its own will", ended.status));
    }
    true
}
