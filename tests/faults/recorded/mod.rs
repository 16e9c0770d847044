//! Recorded runs: real processes under load while disks, processes and the
//! network break, judged by the checkers of the simulation.
//!
//! A round is a mesh of its own. In it each fault that was chosen happens once, in
//! an order and a manner that the seed decides; after each the mesh has to catch
//! up. At the end every node and every reader shows what it has.

mod disk_reading;
mod editor;
mod ending;
mod faults;
mod faulty_mesh;
mod load;
mod publisher;
mod reader;
mod recorder;
mod report;
mod usage;

use std::time::{Duration, Instant};

use interlock_simulation::checks::Promise;
use rand::SeedableRng as _;
use rand::rngs::StdRng;
use rand::seq::SliceRandom as _;
use xtask::mesh::REGIONS;

use crate::disk::Loss;
use crate::{setting, the_machine};
use faults::{Fault, Scene};
use faulty_mesh::FaultyMesh;
use load::Load;
use report::Report;

/// Every kind of fault, so often. `cargo xtask faults` runs it at full length.
const ROUNDS_IN_THE_GATE: u64 = 1;

/// All promises hold in real processes, whatever breaks under them (promises
/// I1–I7, I9–I12; METHOD M8–M12).
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn recorded_rounds() {
    let _machine = the_machine().lock().await;
    let rounds = setting("INTERLOCK_FAULT_ROUNDS", ROUNDS_IN_THE_GATE);
    let minutes = setting("INTERLOCK_FAULT_MINUTES", 0);
    let seed = setting("INTERLOCK_SEED", 1);
    let chosen = chosen();
    let started = Instant::now();
    let is_over = |round: u64| {
        if minutes > 0 {
            started.elapsed() >= Duration::from_secs(minutes * 60)
        } else {
            round >= rounds
        }
    };
    let mut report = Report::default();
    let mut round = 0;
    while !is_over(round) {
        run_round(seed + round, &chosen, &mut report).await;
        round += 1;
    }
    println!("{round} rounds from seed {seed} in {:.0} s", started.elapsed().as_secs_f64());
    println!("{report}");
    assert!(report.violations.is_empty(), "promises are broken: {:#?}", report.violations);
}

/// The checks are themselves checked: a disk that says it has synced and has not
/// loses what was acknowledged, and that is found.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_disk_that_lies_is_found_out() {
    let _machine = the_machine().lock().await;
    let random = &mut StdRng::seed_from_u64(1);
    let mut mesh = FaultyMesh::start().await;
    let mut load = Load::start(&mesh, 1).await;
    let liar = REGIONS[0];
    load.progress(liar, 20).await;
    mesh.disk(liar).lie(true);
    load.progress(liar, 50).await;
    mesh.kill(liar).await;
    mesh.disk(liar).cut_power(Loss::Everything, random).expect("mounted again");
    mesh.disk(liar).lie(false);
    mesh.start_node(liar).await;
    mesh.catch_up().await;
    let verdict = ending::judge(mesh, load).await;
    let found: Vec<Promise> = verdict.violations.iter().map(|found| found.promise).collect();
    assert!(found.contains(&Promise::NothingLost), "{:?}", verdict.violations);
}

/// The faults that were asked for; all, if none was.
fn chosen() -> Vec<Fault> {
    let only = std::env::var("INTERLOCK_FAULTS").unwrap_or_default();
    let names: Vec<&str> = only.split(',').map(str::trim).filter(|it| !it.is_empty()).collect();
    let all: Vec<&str> = Fault::ALL.iter().map(|fault| fault.name()).collect();
    let parse = |name: &&str| {
        Fault::parse(name).unwrap_or_else(|| panic!("{name:?} is none of {}", all.join(", ")))
    };
    if names.is_empty() { Fault::ALL.to_vec() } else { names.iter().map(parse).collect() }
}

async fn run_round(seed: u64, chosen: &[Fault], report: &mut Report) {
    println!("round of seed {seed}");
    let random = &mut StdRng::seed_from_u64(seed);
    let mut order = chosen.to_vec();
    order.shuffle(random);
    let mut mesh = FaultyMesh::start().await;
    let mut load = Load::start(&mesh, seed).await;
    for fault in &order {
        let (before, begun) = (mesh.recorder.counts(), Instant::now());
        let mut scene = Scene { mesh: &mut mesh, load: &mut load, random };
        let is_cut = fault.happen(&mut scene).await;
        let caught_up = mesh.catch_up().await;
        let counts = mesh.recorder.counts() - before;
        println!(
            "  {fault:20} {:5.1} s, acknowledged {:5}, all caught up in {:.1} s{}",
            begun.elapsed().as_secs_f64(),
            counts.acknowledged,
            caught_up.as_secs_f64(),
            if is_cut { ", two nodes cut off meanwhile" } else { "" },
        );
        report.happened(*fault, counts, caught_up);
        report.look_at(seed, &mesh.processes);
    }
    let verdict = ending::judge(mesh, load).await;
    report.judged(seed, &order, &verdict);
}
