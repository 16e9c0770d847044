//! EIO of a write or a sync: the node ends without an acknowledgement of what it
//! was about, because nobody knows what the disk has.

use rand::RngExt as _;
use tonic::Status;
use xtask::mesh::Mesh;

use super::{Scene, power_cut};
use crate::disk::{Failing, PlannedError};
use crate::waiting::until;

/// What a node that must not go on ends with.
const FAILURE_EXIT_CODE: i32 = 70;

pub(super) async fn of_a_write(at: &mut Scene<'_>) {
    // One write that fails and none after it is the harder case: whoever tries
    // again succeeds.
    let planned = PlannedError {
        what: Failing::Write,
        after: at.random.random_range(0..100),
        lasts: at.random.random_bool(0.3),
    };
    fail(at, planned).await;
}

pub(super) async fn of_a_sync(at: &mut Scene<'_>) {
    let planned = PlannedError {
        what: Failing::Sync,
        after: at.random.random_range(0..50),
        lasts: at.random.random_bool(0.3),
    };
    fail(at, planned).await;
}

async fn fail(at: &mut Scene<'_>, planned: PlannedError) {
    let (victim, others) = at.choose();
    let _ = at.mesh.see_durable(victim).await;
    at.mesh.disk(victim).plan_error(planned);
    ends(at, victim).await;
    let failed = at.mesh.disk(victim).end_errors();
    assert!(failed > 0, "{victim} ended before its disk failed");
    at.load.progress(others[0], 1).await;
    // What the failed sync was about is in the kernel's memory and on no disk.
    power_cut::cut_power(at, victim);
    at.mesh.start_node(victim).await;
}

/// Waits until a node has ended by itself, as one does that must not go on.
pub(super) async fn ends(at: &mut Scene<'_>, victim: &str) {
    let name = Mesh::push_node(victim);
    let processes = &mut at.mesh.processes;
    let ended = until(&format!("{victim} ends"), async || {
        let ended = processes.take_ended().into_iter().find(|ended| ended.name == name);
        ended.ok_or_else(|| Status::unavailable("it runs"))
    })
    .await;
    if ended.status.code() != Some(FAILURE_EXIT_CODE) {
        at.incident(victim, &format!("ended with {}, not by its own will", ended.status));
    }
}
