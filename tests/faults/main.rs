//! Real processes that are killed, on disks and networks that break: every promise
//! holds (I1–I7, I9–I12; METHOD M8–M12).
//!
//! `recorded` lets all kinds of faults happen and hands what it saw to the checkers
//! of the simulation; `cargo xtask faults` runs it at full length (`docs/faults.md`).
//! `random_kills` kills under more load, `given_up_regions` takes regions out of the mesh
//! for good.
//!
//! `cargo xtask test` builds the binaries and names their folder in
//! `INTERLOCK_BINARIES`. `cargo xtask kills --kills 100 --seed N` runs the random
//! kills at full length. `rolling_upgrade` changes builds under load; `cargo xtask
//! upgrade --from REVISION` runs it with a build of the repository's history.

mod demonstration;
mod disk;
mod given_up_regions;
mod load;
mod loaded_mesh;
#[path = "../end_to_end/mesh_client.rs"]
mod mesh_client;
mod network;
mod random_kills;
mod readers;
mod recorded;
mod requirements;
mod rolling_upgrade;
#[path = "../end_to_end/waiting.rs"]
mod waiting;

use std::path::PathBuf;

/// The processes of one test take all of the machine: the others wait.
fn the_machine() -> &'static tokio::sync::Mutex<()> {
    static MACHINE: tokio::sync::Mutex<()> = tokio::sync::Mutex::const_new(());
    &MACHINE
}

/// Where the binaries are.
fn binaries() -> PathBuf {
    let folder = std::env::var_os("INTERLOCK_BINARIES").expect(
        "INTERLOCK_BINARIES names the folder of the built binaries: run `cargo xtask test`",
    );
    PathBuf::from(folder)
}

/// A number from the environment, for longer runs.
fn setting(name: &str, default: u64) -> u64 {
    match std::env::var(name) {
        Ok(text) => text.parse().unwrap_or_else(|_| panic!("{name} is not a number: {text:?}")),
        Err(_) => default,
    }
}
