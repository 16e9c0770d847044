//! `cargo xtask faults`: the recorded runs of `tests/faults` at full length.

use std::path::Path;

use anyhow::Result;
use clap::Args;

use crate::{setup, workspace};

/// How long, which faults, and from which seed.
#[derive(Args)]
pub struct FaultsArguments {
    /// How many rounds; in each a mesh of its own meets each fault once.
    #[arg(long, default_value_t = 10)]
    rounds: u64,
    /// Begin rounds for so many minutes instead.
    #[arg(long, conflicts_with = "rounds")]
    minutes: Option<u64>,
    /// Decides which fault comes when, where and how; the next round takes the next one.
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// Only these faults; a name that is none lists them.
    #[arg(long, value_delimiter = ',', value_name = "FAULT")]
    only: Vec<String>,
}

/// Runs them.
pub fn run(root: &Path, arguments: &FaultsArguments) -> Result<()> {
    setup::install_for_faults()?;
    workspace::build(root)?;
    workspace::run(
        workspace::fault_test(root, "recorded_rounds")?
            .env("INTERLOCK_FAULT_ROUNDS", arguments.rounds.to_string())
            .env("INTERLOCK_FAULT_MINUTES", arguments.minutes.unwrap_or(0).to_string())
            .env("INTERLOCK_SEED", arguments.seed.to_string())
            .env("INTERLOCK_FAULTS", arguments.only.join(",")),
        "the faults",
    )
}
