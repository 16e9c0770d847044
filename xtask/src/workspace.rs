//! Builds and runs what the workspace holds, always with `--workspace`.

use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};
use indicatif::{ProgressBar, ProgressStyle};

use crate::setup;

/// How many C++ files RocksDB 11 compiles, for the progress of a first build.
const ROCKSDB_FILES: u64 = 343;

/// The workspace's root, from where this file was compiled.
pub fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("xtask lies in the workspace").to_owned()
}

/// Cargo, in the folder of a workspace.
pub fn cargo(root: &Path) -> Command {
    let mut command = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    command.current_dir(root);
    command
}

/// Where cargo puts what it builds.
pub fn target_folder(root: &Path) -> Result<PathBuf> {
    let output = cargo(root)
        .args(["metadata", "--no-deps", "--format-version", "1", "--offline"])
        .output()
        .context("running cargo metadata")?;
    let metadata: serde_json::Value =
        serde_json::from_slice(&output.stdout).context("reading what cargo metadata printed")?;
    let folder = metadata["target_directory"]
        .as_str()
        .context("cargo metadata names no target_directory")?;
    Ok(PathBuf::from(folder))
}

/// Where the built binaries are.
pub fn binaries(root: &Path) -> Result<PathBuf> {
    Ok(target_folder(root)?.join("debug"))
}

/// Sets up and builds all binaries.
pub fn build(root: &Path) -> Result<()> {
    setup::install_what_is_missing()?;
    let target = target_folder(root)?;
    let started = Instant::now();
    let first = !target.join("debug/push-node").exists();
    if first {
        if prebuilt_rocksdb() {
            eprintln!("build: the first build takes about 8 minutes on two cores");
        } else {
            eprintln!(
                "build: the first build compiles RocksDB, about 30 minutes on two cores; later ones take seconds"
            );
        }
    }
    let mut child = cargo(root)
        .args(["build", "--workspace", "--bins"])
        .spawn()
        .context("starting cargo build")?;
    let status = if first && !prebuilt_rocksdb() {
        wait_with_rocksdb_progress(&mut child, &target.join("debug/build"))?
    } else {
        child.wait()?
    };
    if !status.success() {
        bail!("the build failed");
    }
    if first {
        eprintln!("build: done in {} s", started.elapsed().as_secs());
    }
    Ok(())
}

/// Whether cargo links a RocksDB that is already compiled.
fn prebuilt_rocksdb() -> bool {
    std::env::var_os("ROCKSDB_LIB_DIR").is_some()
}

/// cargo shows nothing while RocksDB's build script runs for minutes; count the
/// object files it has made.
fn wait_with_rocksdb_progress(child: &mut Child, build: &Path) -> Result<ExitStatus> {
    let bar = ProgressBar::new(ROCKSDB_FILES).with_style(
        ProgressStyle::with_template("build: RocksDB {bar:30} {pos}/{len} files, {elapsed}")
            .context("progress template")?,
    );
    let mut spoken = 0;
    loop {
        if let Some(status) = child.try_wait()? {
            bar.finish_and_clear();
            return Ok(status);
        }
        let objects = rocksdb_objects(build).min(ROCKSDB_FILES);
        if objects > 0 && objects < ROCKSDB_FILES {
            bar.set_position(objects);
            // Without a terminal the bar draws nothing: say so now and then.
            if bar.is_hidden() && objects >= spoken + 50 {
                spoken = objects;
                eprintln!("build: RocksDB {objects}/{ROCKSDB_FILES} files");
            }
        }
        std::thread::sleep(Duration::from_secs(2));
    }
}

fn rocksdb_objects(build: &Path) -> u64 {
    let Ok(entries) = std::fs::read_dir(build) else { return 0 };
    entries
        .flatten()
        .filter(|entry| entry.file_name().to_string_lossy().starts_with("librocksdb-sys-"))
        .map(|entry| count_objects(&entry.path().join("out")))
        .max()
        .unwrap_or(0)
}

fn count_objects(folder: &Path) -> u64 {
    let Ok(entries) = std::fs::read_dir(folder) else { return 0 };
    entries
        .flatten()
        .map(|entry| {
            let path = entry.path();
            if path.is_dir() {
                count_objects(&path)
            } else {
                u64::from(path.extension().is_some_and(|extension| extension == "o"))
            }
        })
        .sum()
}

/// Builds an example with everything else's features; where it is then.
pub fn build_example(root: &Path, name: &str) -> Result<PathBuf> {
    build(root)?;
    run(cargo(root).args(["build", "--workspace", "--example", name]), "the build")?;
    Ok(binaries(root)?.join("examples").join(name))
}

/// Builds the binaries first, because tests start them, and runs all tests.
pub fn test(root: &Path, filter: Option<&str>) -> Result<()> {
    build(root)?;
    setup::install_for_faults()?;
    let started = Instant::now();
    let mut command = cargo(root);
    command.args(["test", "--workspace"]).env("INTERLOCK_BINARIES", binaries(root)?);
    if let Some(filter) = filter {
        command.arg("--").arg(filter);
    }
    run(&mut command, "the tests")?;
    eprintln!("test: all passed in {} s", started.elapsed().as_secs());
    Ok(())
}

/// Runs the simulation with `arguments`.
pub fn simulate(root: &Path, arguments: &[String]) -> Result<()> {
    build(root)?;
    run(Command::new(binaries(root)?.join("simulate")).args(arguments), "the simulation")
}

/// Runs the random-kill test of `tests/faults` at full length.
pub fn kills(root: &Path, kills: u32, seed: u64) -> Result<()> {
    build(root)?;
    run(
        fault_test(root, "random_kills")?
            .env("INTERLOCK_KILLS", kills.to_string())
            .env("INTERLOCK_SEED", seed.to_string()),
        "the random kills",
    )
}

/// One test of `tests/faults`, with the binaries of the last build.
pub fn fault_test(root: &Path, name: &str) -> Result<Command> {
    let mut command = cargo(root);
    command
        .args(["test", "--workspace", "--test", "faults", "--", name, "--nocapture"])
        .env("INTERLOCK_BINARIES", binaries(root)?);
    Ok(command)
}

/// Runs a command and fails with a name that says which one it was.
pub fn run(command: &mut Command, what: &str) -> Result<()> {
    let status = command.status().with_context(|| format!("starting {what}"))?;
    if !status.success() {
        bail!("{what} failed with {status}");
    }
    Ok(())
}
