//! `interlock`: the command for people and scripts.

mod commands;
mod exit;
mod output;
mod target;

use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Parser, Subcommand};

use crate::output::Format;
use crate::target::Target;

/// Channels, messages and the state of an Interlock mesh.
#[derive(Parser)]
#[command(name = "interlock", version, about, propagate_version = true)]
struct Arguments {
    /// Where contexts are kept.
    #[arg(long, env = "INTERLOCK_CONTEXT_FILE", global = true)]
    context_file: Option<PathBuf>,
    /// Which mesh of the context file; its `current` one unless given.
    #[arg(long, env = "INTERLOCK_CONTEXT", global = true)]
    context: Option<String>,
    /// Which region to talk to; the context's default one unless given.
    #[arg(long, env = "INTERLOCK_REGION", global = true)]
    region: Option<String>,
    /// A table for people or JSON for scripts.
    #[arg(short, long, value_enum, default_value_t = Format::Table, global = true)]
    output: Format,
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// How the mesh is: nodes, namespaces, queues, worst first.
    Status(commands::status::Arguments),
    /// Messages that peers have not acknowledged yet.
    Lag,
    /// Whether all members hold the same, and which message differs first.
    Verify(commands::verify::Arguments),
    /// Regions: places with push-nodes and gateways.
    #[command(subcommand)]
    Region(commands::regions::Command),
    /// Groups: named sets of regions.
    #[command(subcommand)]
    Group(commands::groups::Command),
    /// Namespaces: families of channels, placed on groups.
    #[command(subcommand)]
    Namespace(commands::namespaces::Command),
    /// Channels of a namespace.
    #[command(subcommand)]
    Channel(commands::channels::Command),
    /// Publish a message, a file, or the lines of one.
    Publish(commands::publish::Arguments),
    /// Read along from any point.
    Subscribe(commands::subscribe::Arguments),
    /// Read what is stored.
    History(commands::history::Arguments),
    /// Push-nodes.
    #[command(subcommand)]
    Node(commands::nodes::Command),
    /// The document of who holds what.
    #[command(subcommand)]
    Topology(commands::topology::Command),
    /// Look into a cursor.
    #[command(subcommand)]
    Cursor(commands::cursors::Command),
    /// What a running mesh can do: rates and latencies.
    #[command(subcommand)]
    Bench(commands::bench::Command),
    /// A whole mesh in this process, for development.
    Dev(commands::dev::Arguments),
    /// Completions for a shell.
    Completion(commands::completion::Arguments),
}

#[tokio::main]
async fn main() -> ExitCode {
    let arguments = Arguments::parse();
    interlock_rpc::install_crypto_provider();
    match run(arguments).await {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => exit::report(&error),
    }
}

async fn run(arguments: Arguments) -> anyhow::Result<()> {
    let Arguments { context_file, context, region, output, command } = arguments;
    // What needs no mesh comes first.
    match command {
        Command::Completion(arguments) => return commands::completion::run(&arguments),
        Command::Dev(arguments) => return commands::dev::run(arguments, output).await,
        Command::Cursor(command) => return commands::cursors::run(&command, output),
        Command::Node(commands::nodes::Command::Recover { data_dir, accept_loss }) => {
            return commands::nodes::recover(&data_dir, accept_loss, output);
        }
        _ => {}
    }
    let target = Target::load(context_file, context.as_deref(), region, output)?;
    match command {
        Command::Status(arguments) => commands::status::run(&target, &arguments).await,
        Command::Lag => commands::lag::run(&target).await,
        Command::Verify(arguments) => commands::verify::run(&target, &arguments).await,
        Command::Region(command) => commands::regions::run(&target, command).await,
        Command::Topology(command) => commands::topology::run(&target, command).await,
        Command::Group(command) => commands::groups::run(&target, command).await,
        Command::Namespace(command) => commands::namespaces::run(&target, command).await,
        Command::Channel(command) => commands::channels::run(&target, command).await,
        Command::Publish(arguments) => commands::publish::run(&target, arguments).await,
        Command::Subscribe(arguments) => commands::subscribe::run(&target, arguments).await,
        Command::History(arguments) => commands::history::run(&target, arguments).await,
        Command::Node(command) => commands::nodes::run(&target, command).await,
        Command::Bench(command) => commands::bench::run(&target, command).await,
        Command::Completion(_) | Command::Dev(_) | Command::Cursor(_) => {
            unreachable!("what needs no mesh was carried out above")
        }
    }
}
