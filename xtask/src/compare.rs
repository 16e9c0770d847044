//! `cargo xtask bench-compare`: Interlock and nats-server with JetStream at the same
//! works, on the same machine, in the same run, by turns.
//!
//! Each work is done by each of its contenders once in a round; what is compared are
//! the medians over the rounds, as a ratio. The peer is driven at its best mode for
//! each work by `peers/nats`, which shares its pace, payloads and count of latencies
//! with `interlock bench`.

mod goals;
mod mesh;
mod page;
mod rounds;
mod works;

use std::path::Path;

use anyhow::{Context as _, Result};

use crate::workspace::{self, binaries, cargo};
use goals::Goals;
use works::Bench;

/// How much is measured.
#[derive(Clone, Copy, Debug)]
pub struct Options {
    /// How often each contender has its turn.
    pub rounds: usize,
    /// How long each turn is.
    pub seconds: u64,
    /// Messages of the long queue.
    pub backlog: u64,
    /// One JSON object on stdout and nothing else.
    pub json: bool,
    /// Write docs/benchmarks.md.
    pub write: bool,
}

impl Options {
    /// Enough for a figure that can be cited.
    pub const FULL: Self =
        Self { rounds: 5, seconds: 20, backlog: 10_000_000, json: false, write: true };
    /// In under ten minutes.
    pub const QUICK: Self =
        Self { rounds: 3, seconds: 4, backlog: 1_000_000, json: false, write: false };
}

/// Measures all works, and says which goals are met.
pub fn compare(root: &Path, options: &Options) -> Result<()> {
    workspace::build(root)?;
    let peer = build_peer(root)?;
    let folder = workspace::target_folder(root)?.join("interlock-compare");
    let mut bench = Bench::new(&folder, &binaries(root)?, &peer, *options)?;
    let mut goals = Goals::new();
    for (name, work) in works::ALL {
        eprintln!("{name}");
        // What fails is not measured, and its goals are not met; the others are.
        if let Err(error) = work(&mut bench, &mut goals) {
            eprintln!("  not measured: {error:#}");
        }
    }
    bench.finish()?;
    if options.write {
        page::write(root, &goals, options)?;
        eprintln!("docs/benchmarks.md is written");
    }
    if options.json {
        println!("{:#}", goals.to_json());
    } else {
        println!("{}", goals.to_text());
    }
    Ok(())
}

/// Builds what drives the peer, which is a workspace of its own.
fn build_peer(root: &Path) -> Result<std::path::PathBuf> {
    let folder = root.join("peers/nats");
    let mut command = cargo(&folder);
    let target = workspace::target_folder(root)?.join("peers");
    command.args(["build", "--locked", "--release", "--target-dir"]).arg(&target);
    workspace::run(&mut command, "the build of peers/nats")
        .context("building the peer's driver")?;
    Ok(target.join("release/nats-bench"))
}
