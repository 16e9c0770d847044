//! `cargo xtask measure`: figures, each by the command that repeats it.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::process::Command;

use anyhow::Result;

use crate::demo;
use crate::workspace::{self, binaries};
use xtask::interlock_command::Interlock;
use xtask::mesh::{Mesh, REGIONS};

/// What the tables of docs/decisions/0003-log-key-layout.md were measured with.
const KEY_LAYOUT_MESSAGES: u32 = 1_000_000;
const KEY_LAYOUT_ROUNDS: u32 = 3;

/// Durable publishes per second and the latency to a remote subscriber, on a
/// fresh mesh by `interlock bench`.
pub fn mesh(root: &Path, seconds: u32) -> Result<()> {
    on_fresh_mesh(root, |_, interlock| {
        for arguments in [
            vec!["bench", "publish"],
            vec!["bench", "replicate", "--rate", "1000", "--to", REGIONS[2]],
        ] {
            let seconds = seconds.to_string();
            let mut command: Command = interlock.command(REGIONS[0], &arguments);
            let command = command.args(["--seconds", &seconds]).arg("demo/hello");
            workspace::run(command, "the measurement")?;
        }
        Ok(())
    })
}

/// Measures something on a mesh that begins empty and is gone afterwards.
pub fn on_fresh_mesh(
    root: &Path,
    measure: impl FnOnce(&mut Mesh, &Interlock) -> Result<()>,
) -> Result<()> {
    workspace::build(root)?;
    let folder = workspace::target_folder(root)?.join("interlock-measure");
    if folder.exists() {
        fs::remove_dir_all(&folder)?;
    }
    let mut mesh = Mesh::new(&folder, &binaries(root)?, BTreeMap::new())?;
    let interlock = Interlock::new(&binaries(root)?, &mesh.context_file());
    mesh.start()?;
    demo::prepare(&interlock)?;
    measure(&mut mesh, &interlock)?;
    mesh.stop_all()?;
    fs::remove_dir_all(&folder)?;
    Ok(())
}

/// How the log's keys could be laid out, and what each layout costs.
pub fn key_layouts(root: &Path) -> Result<()> {
    let example = workspace::build_example(root, "key_layouts")?;
    let arguments = [KEY_LAYOUT_MESSAGES, KEY_LAYOUT_ROUNDS].map(|number| number.to_string());
    workspace::run(Command::new(example).args(arguments), "the measurement")
}

/// The storage alone: appends with a syncer beside, catch-up, and the time to
/// open after a kill.
pub fn log_rates(root: &Path) -> Result<()> {
    let example = workspace::build_example(root, "log_rates")?;
    workspace::run(&mut Command::new(example), "the measurement")
}
