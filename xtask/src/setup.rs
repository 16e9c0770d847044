//! What the build needs besides Rust as rustup installs it and git: a C++
//! compiler and libclang for RocksDB's bindings. Installs it where that is
//! possible without asking, and otherwise says the one line to run.

use std::path::Path;
use std::process::{Command, Stdio};

use anyhow::{Result, bail};

const PACKAGES: [&str; 2] = ["g++", "libclang-dev"];

/// What the faults of `tests/faults` need besides root's rights and `/dev/fuse`.
const PACKAGES_OF_FAULTS: [&str; 2] = ["iproute2", "iptables"];

/// Installs `g++` and `libclang-dev` if they are missing.
pub fn install_what_is_missing() -> Result<()> {
    install("building", &PACKAGES)
}

/// Installs what breaks networks, if it is missing.
pub fn install_for_faults() -> Result<()> {
    install("breaking networks", &PACKAGES_OF_FAULTS)
}

fn install(who: &str, packages: &[&'static str]) -> Result<()> {
    let missing: Vec<&str> =
        packages.iter().copied().filter(|package| !is_there(package)).collect();
    if missing.is_empty() {
        return Ok(());
    }
    let list = missing.join(" ");
    let line = format!("apt-get install -y {list}");
    if !Path::new("/usr/bin/apt-get").exists() {
        bail!("{who} needs what Debian has in {list}; install that and run this again");
    }
    if !rustix::process::geteuid().is_root() {
        bail!("{who} needs {list}; run `sudo {line}` and then this again");
    }
    eprintln!("setup: installing {list}");
    run_apt(&["update", "-qq"])?;
    let mut arguments = vec!["install", "-y", "-qq", "--no-install-recommends"];
    arguments.extend(&missing);
    run_apt(&arguments)
}

fn run_apt(arguments: &[&str]) -> Result<()> {
    let status = Command::new("apt-get")
        .args(arguments)
        .env("DEBIAN_FRONTEND", "noninteractive")
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .status()?;
    if !status.success() {
        bail!("`apt-get {}` failed with {status}; run it by hand to see why", arguments.join(" "));
    }
    Ok(())
}

fn is_there(package: &str) -> bool {
    match package {
        "g++" => answers("c++") || answers("g++") || answers("clang++"),
        "iproute2" => answers_to("ip", "-V"),
        "iptables" => answers_to("iptables", "-V"),
        _ => {
            std::env::var_os("LIBCLANG_PATH").is_some()
                || libclang_folders().iter().any(|folder| has_libclang(folder))
        }
    }
}

fn answers(program: &str) -> bool {
    answers_to(program, "--version")
}

fn answers_to(program: &str, argument: &str) -> bool {
    Command::new(program)
        .arg(argument)
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .status()
        .is_ok_and(|status| status.success())
}

/// The folders where clang-sys looks on Linux.
fn libclang_folders() -> Vec<std::path::PathBuf> {
    let mut folders: Vec<_> = [
        "/usr/lib",
        "/usr/lib64",
        "/usr/local/lib",
        "/usr/lib/x86_64-linux-gnu",
        "/usr/lib/aarch64-linux-gnu",
    ]
    .into_iter()
    .map(std::path::PathBuf::from)
    .collect();
    if let Ok(entries) = std::fs::read_dir("/usr/lib") {
        let versions = entries.flatten().map(|entry| entry.path());
        folders.extend(
            versions
                .filter(|path| {
                    path.file_name().is_some_and(|name| name.to_string_lossy().starts_with("llvm-"))
                })
                .map(|path| path.join("lib")),
        );
    }
    folders
}

/// A libclang that can be loaded: `libclang.so`, `libclang.so.1` or
/// `libclang-14.so.1`, but not the C++ library `libclang-cpp`.
fn has_libclang(folder: &Path) -> bool {
    let Ok(entries) = std::fs::read_dir(folder) else { return false };
    entries.flatten().any(|entry| {
        let name = entry.file_name();
        let name = name.to_string_lossy();
        name.starts_with("libclang") && name.contains(".so") && !name.starts_with("libclang-cpp")
            || name.starts_with("libclang.dylib")
    })
}
