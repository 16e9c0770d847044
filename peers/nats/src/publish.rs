//! `nats-bench publish`

use anyhow::Result;
use interlock_bench::{Report, Unit};

use crate::publishing::Publishing;
use crate::server::{Configuration, Leafnodes, Server};
use crate::settings::{Installation, Messages, Syncing, name_of};
use crate::streams;

#[derive(clap::Args)]
pub(crate) struct Arguments {
    #[command(flatten)]
    messages: Messages,
    #[command(flatten)]
    publishing: Publishing,
    /// When the server syncs what it stores.
    #[arg(long, value_enum, default_value_t = Syncing::Always)]
    sync: Syncing,
}

pub(crate) async fn run(installation: &Installation, arguments: &Arguments) -> Result<Report> {
    let Arguments { messages, publishing, sync } = arguments;
    let report = messages.report("JetStream publish", installation)?;
    let folder = installation.folder()?;
    let configuration =
        Configuration { name: "A", jetstream: Some(*sync), leafnodes: Leafnodes::None };
    let server = Server::start(installation, folder.path(), &configuration).await?;
    let context = streams::jetstream(&server).await?;
    streams::create(&context, publishing.mode).await?;
    streams::publish_one(&context).await?;

    let published = publishing.run(&server, &messages.payloads(), messages.time()).await?;
    let elapsed = published.ended.duration_since(published.begun).as_secs_f64();
    Ok(publishing
        .describe(report)
        .setting("sync", name_of(sync))
        .figure("messages", published.messages as f64, Unit::Messages)
        .figure("seconds", elapsed, Unit::Seconds)
        .figure("messages_per_second", published.messages as f64 / elapsed, Unit::PerSecond)
        .latencies("acknowledgement", published.latencies))
}
