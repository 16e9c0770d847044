//! `nats-bench replicate`

use anyhow::{Context as _, Result};
use async_nats::jetstream::Context;
use interlock_bench::{Report, Unit};
use tempfile::TempDir;

use crate::publishing::{Mode, Publishing};
use crate::server::{Configuration, Leafnodes, Server};
use crate::settings::{Installation, Messages, Syncing, name_of};
use crate::streams;

/// When a message counts as replicated.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
enum Until {
    /// Once the mirror has stored it.
    Stored,
    /// Once a consumer of the mirror has it.
    Delivered,
}

#[derive(clap::Args)]
pub(crate) struct Arguments {
    #[command(flatten)]
    messages: Messages,
    #[command(flatten)]
    publishing: Publishing,
    /// When both servers sync what they store.
    #[arg(long, value_enum, default_value_t = Syncing::Always)]
    sync: Syncing,
    /// When a message counts as replicated.
    #[arg(long, value_enum, default_value_t = Until::Delivered)]
    until: Until,
}

pub(crate) async fn run(installation: &Installation, arguments: &Arguments) -> Result<Report> {
    let Arguments { messages, publishing, sync, until } = arguments;
    let report = messages.report("JetStream publish to the mirror of a leaf node", installation)?;
    let pair = Pair::start(installation, *sync, publishing.mode).await?;
    let payloads = messages.payloads();
    let before = streams::last(&pair.at_b, streams::MIRROR).await?;
    let (published, ended, deliveries) = match until {
        Until::Stored => {
            let published = publishing.run(&pair.a, &payloads, messages.time()).await?;
            let all = before + published.messages;
            let progress = streams::wait_until(&pair.at_b, streams::MIRROR, before, all).await?;
            (published, progress.ended, None)
        }
        Until::Delivered => {
            let consumer =
                streams::consume(&pair.at_b, &pair.b, streams::MIRROR, &payloads).await?;
            let published = publishing.run(&pair.a, &payloads, messages.time()).await?;
            let counted = consumer.finish(published.messages).await?;
            (published, counted.ended, counted.latencies)
        }
    };
    let elapsed = ended.duration_since(published.begun).as_secs_f64();
    Ok(publishing
        .describe(report)
        .setting("sync", name_of(sync))
        .setting("until", name_of(until))
        .figure("messages", published.messages as f64, Unit::Messages)
        .figure("seconds", elapsed, Unit::Seconds)
        .figure("messages_per_second", published.messages as f64 / elapsed, Unit::PerSecond)
        .latencies("acknowledgement", published.latencies)
        .latencies("delivery", deliveries.unwrap_or_default()))
}

/// Two servers, each with a domain of its own: B is a leaf node of A and has a mirror of
/// A's stream.
pub(crate) struct Pair {
    pub(crate) a: Server,
    pub(crate) b: Server,
    pub(crate) at_a: Context,
    pub(crate) at_b: Context,
    /// How B is started, to be started again.
    pub(crate) b_configuration: Configuration,
    /// Dropped after the servers that store in it.
    pub(crate) folder: TempDir,
}

impl Pair {
    /// Starts both, and returns once a message has come to the mirror.
    pub(crate) async fn start(
        installation: &Installation,
        sync: Syncing,
        mode: Mode,
    ) -> Result<Self> {
        let folder = installation.folder()?;
        let configuration =
            Configuration { name: "A", jetstream: Some(sync), leafnodes: Leafnodes::Listen };
        let a = Server::start(installation, folder.path(), &configuration).await?;
        let address = a.leafnodes.clone().context("nats-server names no port for leaf nodes")?;
        let b_configuration = Configuration {
            name: "B",
            jetstream: Some(sync),
            leafnodes: Leafnodes::Remote(address),
        };
        let b = Server::start(installation, folder.path(), &b_configuration).await?;
        let at_a = streams::jetstream(&a).await?;
        let at_b = streams::jetstream(&b).await?;
        streams::create(&at_a, mode).await?;
        streams::create_mirror(&at_b, configuration.name).await?;
        streams::publish_one(&at_a).await?;
        streams::wait_until(&at_b, streams::MIRROR, 0, 1).await?;
        Ok(Self { a, b, at_a, at_b, b_configuration, folder })
    }
}
