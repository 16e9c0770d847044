//! `cargo xtask …`: every build, test, simulation, demonstration and
//! measurement of Interlock goes through here, so that the whole workspace is
//! always built with one set of features and RocksDB is compiled once.

mod checks;
mod compare;
mod demo;
mod faults;
mod live_table;
mod measure;
mod recovery;
mod setup;
mod story;
mod upgrade;
mod workspace;

use std::process::ExitCode;

use anyhow::Result;
use clap::{Parser, Subcommand};

/// Builds, tests and demonstrates Interlock.
#[derive(Parser)]
#[command(name = "cargo xtask", bin_name = "cargo xtask")]
struct Arguments {
    #[command(subcommand)]
    task: Task,
}

#[derive(Subcommand)]
enum Task {
    /// Install or name what the build needs.
    Setup,
    /// Build everything.
    Build,
    /// Set up, build and run all tests.
    Test {
        /// Only tests whose name contains this.
        filter: Option<String>,
    },
    /// fmt, clippy, cargo-deny and buf, as the gate runs them.
    Lint,
    /// Start three regions and a control-plane on loopback, or check M1–M15 with them.
    Demo(demo::DemoArguments),
    /// Run the simulation; arguments go to it (see `cargo xtask simulate --help`).
    #[command(disable_help_flag = true)]
    Simulate {
        /// Arguments of the simulation.
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        arguments: Vec<String>,
    },
    /// Kill -9 push-nodes at random under load and check what the regions hold.
    Kills {
        /// How many kills.
        #[arg(long, default_value_t = 100)]
        kills: u32,
        /// Decides who is killed and when.
        #[arg(long, default_value_t = 1)]
        seed: u64,
    },
    /// Break disks, processes and the network under load, and check every promise. Needs root.
    Faults(faults::FaultsArguments),
    /// Change an older build for this one and back, process by process, under load.
    Upgrade {
        /// The revision that the older build is made from.
        #[arg(long)]
        from: String,
    },
    /// First figures: durable publishes per second, latency to a remote subscriber.
    Measure {
        /// Seconds for each measurement.
        #[arg(long, default_value_t = 5)]
        seconds: u32,
        /// The layouts of the log's keys instead, as in docs/decisions/0003.
        #[arg(long, conflicts_with = "seconds")]
        key_layouts: bool,
        /// The storage alone instead: appends, catch-up, opening after a kill.
        #[arg(long, conflicts_with_all = ["seconds", "key_layouts"])]
        log_rates: bool,
        /// How long nodes take to come back instead, with so many messages in their logs.
        #[arg(long, value_name = "MESSAGES", num_args = 0..=1, default_missing_value = "10000000",
            conflicts_with_all = ["seconds", "key_layouts", "log_rates"])]
        recovery: Option<u64>,
    },
    /// Interlock and nats-server by the same works, by turns: ratios of medians, and which
    /// goals are met (docs/benchmarks.md).
    BenchCompare {
        /// In under ten minutes; the page is not written.
        #[arg(long)]
        quick: bool,
        /// One JSON object with the goals on stdout, and nothing else.
        #[arg(long)]
        json: bool,
    },
    /// Run a fuzz target with random and mutated inputs (cargo-fuzz where a nightly toolchain is there).
    Fuzz {
        /// Which target; all when left out.
        target: Option<String>,
        /// Seconds for each target.
        #[arg(long, default_value_t = 60)]
        seconds: u32,
    },
}

fn main() -> ExitCode {
    match run(Arguments::parse().task) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            // The chain of causes says it; a backtrace of this tool does not.
            eprintln!("xtask: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(task: Task) -> Result<()> {
    let root = workspace::root();
    match task {
        Task::Setup => setup::install_what_is_missing(),
        Task::Build => workspace::build(&root),
        Task::Test { filter } => workspace::test(&root, filter.as_deref()),
        Task::Lint => checks::lint(&root),
        Task::Demo(arguments) => demo::run(&root, &arguments),
        Task::Simulate { arguments } => workspace::simulate(&root, &arguments),
        Task::Kills { kills, seed } => workspace::kills(&root, kills, seed),
        Task::Faults(arguments) => faults::run(&root, &arguments),
        Task::Upgrade { from } => upgrade::run(&root, &from),
        Task::Measure { key_layouts: true, .. } => measure::key_layouts(&root),
        Task::Measure { log_rates: true, .. } => measure::log_rates(&root),
        Task::Measure { recovery: Some(messages), .. } => recovery::measure(&root, messages),
        Task::Measure { seconds, .. } => measure::mesh(&root, seconds),
        Task::BenchCompare { quick, json } => {
            let options = if quick { compare::Options::QUICK } else { compare::Options::FULL };
            compare::compare(&root, &compare::Options { json, ..options })
        }
        Task::Fuzz { target, seconds } => checks::fuzz(&root, target.as_deref(), seconds),
    }
}
