//! What all works of `interlock bench` share: how much of what is published, and how.

use std::fs::File;
use std::io::Write as _;
use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context as _, Result};
use futures_util::{StreamExt as _, TryStreamExt as _, stream};
use interlock_bench::{PayloadKind, Payloads, Report};
use interlock_client::v1;
use serde_json::Value;
use tonic::Code;

use crate::commands::messages::DurabilityArgument;
use crate::target::{ChannelPath, Target};

/// Channels that are created at a time.
const CREATED_AT_A_TIME: usize = 256;

#[derive(Clone, Copy, Debug, clap::ValueEnum)]
enum Payload {
    /// Compressible, as services send it.
    Json,
    /// Nothing can be saved.
    Random,
}

/// How much is published, and how.
#[derive(clap::Args, Clone, Debug)]
pub(super) struct Load {
    /// namespace/channel
    pub(super) channel: ChannelPath,
    /// How long, in seconds.
    #[arg(long, default_value_t = 10)]
    seconds: u64,
    /// Payload bytes, at least 16.
    #[arg(long, default_value_t = 128)]
    size: usize,
    /// How compressible payloads are.
    #[arg(long, value_enum, default_value_t = Payload::Json)]
    payload: Payload,
    /// Publications a second, of all connections together; as many as are acknowledged
    /// unless given.
    #[arg(long)]
    pub(super) rate: Option<std::num::NonZeroU64>,
    /// Publishers, each with a connection of its own.
    #[arg(long, default_value_t = 1)]
    pub(super) connections: usize,
    /// The most publications that each has without an acknowledgement.
    #[arg(long, default_value_t = 8192)]
    pub(super) in_flight: usize,
    /// The most publications that are handed over at a time.
    #[arg(long, default_value_t = 1024)]
    batch: usize,
    /// Spread over so many channels: NAME-0, NAME-1, …, created where they are
    /// missing.
    #[arg(long, default_value_t = 1)]
    channels: usize,
    #[command(flatten)]
    pub(super) durability: DurabilityArgument,
    /// Append the figures as a line of this table (RFC 4180), with a header where it
    /// is new.
    #[arg(long)]
    csv: Option<PathBuf>,
}

impl Load {
    /// The same for another time, as fast as acknowledged.
    pub(super) fn for_seconds(&self, seconds: u64) -> Self {
        Self { seconds, rate: None, ..self.clone() }
    }

    /// The same at another rate.
    pub(super) fn at_rate(&self, per_second: u64) -> Self {
        Self { rate: per_second.try_into().ok(), ..self.clone() }
    }

    pub(super) const fn time(&self) -> Duration {
        Duration::from_secs(self.seconds)
    }

    /// The most that goes in one batch.
    pub(super) fn batch(&self) -> usize {
        self.batch.clamp(1, self.in_flight.max(1))
    }

    pub(super) fn payloads(&self) -> Payloads {
        let kind = match self.payload {
            Payload::Json => PayloadKind::Json,
            Payload::Random => PayloadKind::Random,
        };
        Payloads::new(kind, self.size)
    }

    /// The channels by name.
    pub(super) fn channels(&self) -> Vec<String> {
        match self.channels {
            0 | 1 => vec![self.channel.channel.clone()],
            count => (0..count).map(|it| format!("{}-{it}", self.channel.channel)).collect(),
        }
    }

    /// What a subscriber asks for to get all of them.
    pub(super) fn subscribed(&self) -> String {
        match self.channels {
            0 | 1 => self.channel.channel.clone(),
            _ => format!("{}-*", self.channel.channel),
        }
    }

    /// Creates those of many channels that are missing.
    pub(super) async fn prepare(&self, target: &Target) -> Result<()> {
        if self.channels <= 1 {
            return Ok(());
        }
        let client = target.mesh.channels(&target.region)?;
        let creating = self.channels().into_iter().map(|channel| {
            let mut client = client.clone();
            let namespace = self.channel.namespace.clone();
            async move {
                let request = v1::CreateChannelRequest { namespace, channel, ..Default::default() };
                match client.create_channel(request).await {
                    Ok(_) => Ok(()),
                    Err(status) if status.code() == Code::AlreadyExists => Ok(()),
                    Err(status) => Err(status),
                }
            }
        });
        stream::iter(creating).buffer_unordered(CREATED_AT_A_TIME).try_collect::<()>().await?;
        Ok(())
    }

    /// A report that says all of this.
    pub(super) fn report(&self, work: &'static str, target: &Target) -> Report {
        let payload = match self.payload {
            Payload::Json => "json",
            Payload::Random => "random",
        };
        let rate: Value = self.rate.map_or_else(|| "as acknowledged".into(), |it| it.get().into());
        Report::new(work)
            .version("interlock", env!("CARGO_PKG_VERSION"))
            .setting("region", target.region.clone())
            .setting("namespace", self.channel.namespace.clone())
            .setting("size", self.size)
            .setting("payload", payload)
            .setting("rate", rate)
            .setting("connections", self.connections)
            .setting("in_flight", self.in_flight)
            .setting("batch", self.batch())
            .setting("channels", self.channels)
            .setting("durability", self.durability.to_string())
    }

    /// Adds a line to the table, if one was asked for.
    pub(super) fn append_csv(&self, report: &Report) -> Result<()> {
        let Some(path) = &self.csv else { return Ok(()) };
        let writing = || path.display().to_string();
        let mut file =
            File::options().create(true).append(true).open(path).with_context(writing)?;
        let (header, line) = report.to_csv();
        if file.metadata().with_context(writing)?.len() == 0 {
            writeln!(file, "{header}").with_context(writing)?;
        }
        writeln!(file, "{line}").with_context(writing)
    }
}
