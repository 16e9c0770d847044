//! What the gate checks besides the tests, and the fuzz targets.

use std::path::Path;
use std::process::{Command, Stdio};

use anyhow::{Result, bail};

use crate::setup;
use crate::workspace::run;

/// rustfmt, clippy with warnings denied, cargo-deny, buf.
pub fn lint(root: &Path) -> Result<()> {
    setup::install_what_is_missing()?;
    run(Command::new("cargo").current_dir(root).args(["fmt", "--all", "--check"]), "cargo fmt")?;
    run(
        Command::new("cargo").current_dir(root).args([
            "clippy",
            "--workspace",
            "--all-targets",
            "--",
            "-D",
            "warnings",
        ]),
        "cargo clippy",
    )?;
    if !has("cargo-deny") {
        bail!("cargo-deny is missing: `cargo install --locked cargo-deny`");
    }
    run(
        Command::new("cargo")
            .current_dir(root)
            .args(["deny", "check", "bans", "licenses", "sources"]),
        "cargo deny",
    )?;
    if !has("buf") {
        bail!("buf is missing: `pip install buf-bin`");
    }
    run(Command::new("buf").current_dir(root).arg("lint"), "buf lint")
}

/// Runs fuzz targets for a bounded time each.
pub fn fuzz(root: &Path, target: Option<&str>, seconds: u32) -> Result<()> {
    let targets: Vec<String> = match target {
        Some(target) => vec![target.to_owned()],
        None => fuzz_targets(root)?,
    };
    if !has("cargo-fuzz") {
        bail!(
            "cargo-fuzz is missing: `cargo install --locked cargo-fuzz`; it also needs a nightly toolchain"
        );
    }
    for target in targets {
        run(
            Command::new("cargo").current_dir(root.join("fuzz")).args([
                "+nightly",
                "fuzz",
                "run",
                &target,
                "--",
                &format!("-max_total_time={seconds}"),
            ]),
            &format!("fuzz target {target}"),
        )?;
    }
    Ok(())
}

fn fuzz_targets(root: &Path) -> Result<Vec<String>> {
    let mut names = Vec::new();
    for entry in std::fs::read_dir(root.join("fuzz/fuzz_targets"))? {
        let path = entry?.path();
        if let Some(name) = path.file_stem() {
            names.push(name.to_string_lossy().into_owned());
        }
    }
    names.sort();
    Ok(names)
}

fn has(program: &str) -> bool {
    Command::new(program)
        .arg("--version")
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .status()
        .is_ok_and(|status| status.success())
}
