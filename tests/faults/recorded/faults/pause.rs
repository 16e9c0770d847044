//! SIGSTOP, and SIGCONT much later: a node that neither answers nor goes away.

use std::process::Command;

use rand::RngExt as _;
use xtask::mesh::Mesh;

use super::Scene;

pub(super) async fn one(at: &mut Scene<'_>) {
    let (victim, others) = at.choose();
    let (before, meanwhile) = (at.random.random_range(1..50), at.random.random_range(50..600));
    at.load.progress(victim, before).await;
    let process = at.mesh.processes.process_number(&Mesh::push_node(victim)).expect("it runs");
    signal("-STOP", process);
    at.load.progress(others[0], meanwhile).await;
    signal("-CONT", process);
    at.load.progress(victim, 1).await;
}

fn signal(signal: &str, process: u32) {
    let sent = Command::new("kill").args([signal, &process.to_string()]).status();
    assert!(sent.is_ok_and(|status| status.success()), "kill {signal} {process}");
}
