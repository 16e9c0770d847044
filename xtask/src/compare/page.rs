//! docs/benchmarks.md.

use std::fmt::Write as _;
use std::fs;
use std::path::Path;
use std::process::Command;

use anyhow::{Context as _, Result};

use super::Options;
use super::goals::Goals;

const HEAD: &str = "# Benchmarks

Written by `cargo xtask bench-compare`. The peer is nats-server with JetStream, at its best \
mode for each work as far as we found one, driven by `peers/nats`, which shares pace, payloads, \
latencies and reports with `interlock bench` (`crates/bench`). All processes of a work, clients \
included, share the machine. Contenders take turns; figures are medians, ratios are of medians.

What these figures do not cover: links with delay and loss, several disks, more than one client \
machine, TLS, and a peer that is replicated within a region.
";

/// Writes the page anew.
pub fn write(root: &Path, goals: &Goals, options: &Options) -> Result<()> {
    let mut page = HEAD.to_owned();
    let _ = writeln!(
        page,
        "\n{}; {}; {} turns of {} s each.\n",
        machine(),
        peer_version(),
        options.rounds,
        options.seconds
    );
    page.push_str("## Goals\n| goal | ratio | to reach | met |\n|---|---|---|---|\n");
    for [name, ratio, goal, met] in goals.rows() {
        let _ = writeln!(page, "| {name} | {ratio} | {goal} | {met} |");
    }
    page.push_str("\n## Medians\n| work | contender | median | one turn |\n|---|---|---|---|\n");
    for it in &goals.measured {
        let (work, contender, figures) = (it.work, &it.contender, &it.figures);
        let _ = writeln!(page, "| {work} | {contender} | {figures} | `{}` |", it.command);
    }
    let path = root.join("docs/benchmarks.md");
    fs::write(&path, page).with_context(|| path.display().to_string())
}

fn machine() -> String {
    let cpu = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let model = cpu.lines().find_map(|line| line.strip_prefix("model name")?.split_once(": "));
    let threads = std::thread::available_parallelism().map_or(1, usize::from);
    format!("{}, {threads} threads", model.map_or(std::env::consts::ARCH, |(_, name)| name))
}

fn peer_version() -> String {
    let output = Command::new("nats-server").arg("--version").output();
    let version = output.map(|output| String::from_utf8_lossy(&output.stdout).trim().to_owned());
    version.unwrap_or_else(|_| "nats-server".to_owned())
}
