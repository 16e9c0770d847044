//! `interlock bench`: what a running mesh can do, from the side of its clients.
//!
//! With a rate the loop is open: a latency counts from when its message was meant to
//! be sent, so that a stall counts for all that it held up. Without one, as much is
//! published as is acknowledged.

mod catch_up;
mod counted;
mod fan_out;
mod load;
mod mixed;
mod publish;
mod publishing;
mod replicate;
mod subscribing;

use anyhow::Result;

use crate::output::print;
use crate::target::Target;

#[derive(clap::Subcommand)]
pub(crate) enum Command {
    /// Publications a second, durable before they are acknowledged.
    Publish(publish::Arguments),
    /// From publishing here to a subscriber of another region.
    Replicate(replicate::Arguments),
    /// One gateway to many subscribers, each with a connection of its own.
    FanOut(fan_out::Arguments),
    /// Publishers and subscribers in every region at once.
    Mixed(mixed::Arguments),
    /// A subscriber that was away reads what it missed while others read along.
    CatchUp(catch_up::Arguments),
}

pub(crate) async fn run(target: &Target, command: Command) -> Result<()> {
    let (report, table) = match command {
        Command::Publish(arguments) => (publish::run(target, &arguments).await?, arguments.load),
        Command::Replicate(arguments) => {
            (replicate::run(target, &arguments).await?, arguments.load)
        }
        Command::FanOut(arguments) => (fan_out::run(target, &arguments).await?, arguments.load),
        Command::Mixed(arguments) => (mixed::run(target, &arguments).await?, arguments.load),
        Command::CatchUp(arguments) => (catch_up::run(target, &arguments).await?, arguments.load),
    };
    table.append_csv(&report)?;
    print(target.format, &report.to_json(), || report.to_text())
}
