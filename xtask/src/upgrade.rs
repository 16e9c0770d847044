//! `cargo xtask upgrade`: a build of the repository's history beside this one, under
//! load, in both directions (docs/runbook/upgrade.md).

use std::fs;
use std::path::Path;
use std::process::Command;

use anyhow::{Context as _, Result};

use crate::workspace;

/// Builds a revision in a folder and a target of its own, and runs `tests/faults`'
/// rolling upgrade from it to this build.
pub fn run(root: &Path, from: &str) -> Result<()> {
    workspace::build(root)?;
    let folder = workspace::target_folder(root)?.join("interlock-older");
    let (source, target) = (folder.join("source"), folder.join("target"));
    if source.exists() {
        fs::remove_dir_all(&source).with_context(|| source.display().to_string())?;
    }
    fs::create_dir_all(&folder)?;
    let clone = ["clone", "--quiet", "--no-checkout"];
    let mut git = Command::new("git");
    workspace::run(git.args(clone).arg(root).arg(&source), "cloning the repository")?;
    let checkout = ["checkout", "--quiet", "--detach", from];
    let mut git = Command::new("git");
    workspace::run(git.current_dir(&source).args(checkout), "checking the revision out")?;
    println!("building {from} in {}", folder.display());
    let mut build = workspace::cargo(&source);
    build.args(["build", "--workspace"]).env("CARGO_TARGET_DIR", &target);
    workspace::run(&mut build, "the older build")?;
    let mut test = workspace::fault_test(root, "rolling_upgrade")?;
    test.env("INTERLOCK_OLDER_BINARIES", target.join("debug"));
    workspace::run(&mut test, "the rolling upgrade")
}
