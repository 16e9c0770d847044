//! `interlock publish`

use std::path::PathBuf;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};
use bytes::Bytes;
use interlock_client::{ClientError, Outgoing, Published, Publisher, PublisherOptions};
use interlock_core::limits::MAX_PAYLOAD_BYTES;
use interlock_rpc::status::Stored;
use serde_json::json;

use crate::commands::messages::{DurabilityArgument, reference};
use crate::commands::publish_lines::publish_lines;
use crate::output::print;
use crate::target::{ChannelPath, Target};
use interlock_cli::usage::{UsageError, usage};

#[derive(clap::Args)]
pub(crate) struct Arguments {
    /// namespace/channel
    channel: ChannelPath,
    /// The message.
    #[arg(conflicts_with_all = ["file", "lines"])]
    message: Option<String>,
    /// A file whose content is one message.
    #[arg(long, conflicts_with = "lines")]
    file: Option<PathBuf>,
    /// A file whose lines are a message each, split at `\n`; `-` for stdin.
    #[arg(long)]
    lines: Option<PathBuf>,
    /// Seconds to look for a node that answers before giving up.
    #[arg(long, default_value_t = 60)]
    timeout: u64,
    #[command(flatten)]
    durability: DurabilityArgument,
}

/// What has been published so far.
#[derive(Default)]
pub(super) struct Sum {
    pub(super) published: u64,
    repeated: u64,
    first: Option<interlock_client::v1::MessageReference>,
    pub(super) last: Option<interlock_client::v1::MessageReference>,
    durable_at: Vec<String>,
}

impl Sum {
    pub(super) fn add(&mut self, published: Published) {
        self.published += published.count;
        self.repeated += published.repeated;
        self.first = self.first.or(published.first);
        self.last = published.last.or(self.last);
        self.durable_at = published.durable_at;
    }
}

pub(crate) async fn run(target: &Target, arguments: Arguments) -> Result<()> {
    let options = PublisherOptions {
        durability: arguments.durability.level(),
        give_up_after: Duration::from_secs(arguments.timeout),
        ..Default::default()
    };
    let channel = &arguments.channel;
    let publisher =
        Publisher::new(target.mesh.push_nodes(&target.region)?, &channel.namespace, options);
    let started = Instant::now();
    let mut sum = Sum::default();
    match (&arguments.message, &arguments.file, &arguments.lines) {
        (Some(message), None, None) => {
            one(&publisher, channel, Bytes::from(message.clone()), &mut sum).await?;
        }
        (None, Some(file), None) => {
            let content =
                std::fs::read(file).with_context(|| UsageError::new(file.display().to_string()))?;
            one(&publisher, channel, Bytes::from(content), &mut sum).await?;
        }
        (None, None, Some(lines)) => publish_lines(&publisher, channel, lines, &mut sum).await?,
        _ => return Err(usage("give a message, --file or --lines")),
    }
    publisher.finish().await;
    let seconds = started.elapsed().as_secs_f64();
    let value = json!({
        "published": sum.published,
        "repeated": sum.repeated,
        "first": sum.first.as_ref().map(reference),
        "last": sum.last.as_ref().map(reference),
        "durable_at": sum.durable_at,
        "seconds": seconds,
    });
    print(target.format, &value, || {
        let last = sum.last.map(|name| format!(", the last as {}:{}", name.origin, name.m_id));
        let durable_at = match sum.durable_at.as_slice() {
            [] => String::new(),
            nodes => format!(", durable at {}", nodes.join(", ")),
        };
        format!(
            "published {} to {channel}{}{durable_at}, in {seconds:.2} s",
            sum.published,
            last.unwrap_or_default(),
        )
    })
}

pub(super) fn outgoing(channel: &ChannelPath, payload: Bytes) -> Outgoing {
    Outgoing { channel: channel.channel.clone(), payload, ..Default::default() }
}

async fn one(
    publisher: &Publisher,
    channel: &ChannelPath,
    payload: Bytes,
    sum: &mut Sum,
) -> Result<()> {
    check_size(payload.len(), "the message")?;
    let published = match publisher.publish(vec![outgoing(channel, payload)]).await {
        Ok(receipt) => receipt.await,
        Err(error) => Err(error),
    };
    match published {
        Ok(published) => {
            sum.add(published);
            Ok(())
        }
        Err(error) if may_be_stored(&error) => Err(anyhow::Error::from(cause(error))
            .context("it may be stored: publishing it again may repeat it")),
        Err(error) => Err(cause(error).into()),
    }
}

/// What went wrong with a batch, in words that do not count publications.
pub(super) fn cause(error: ClientError) -> ClientError {
    match error {
        ClientError::Batch(batch) => batch.cause,
        error => error,
    }
}

/// Whether something of a batch may be stored that was not acknowledged.
pub(super) fn may_be_stored(error: &ClientError) -> bool {
    error.batch().is_none_or(|batch| batch.outcome.stored != Stored::No)
}

pub(super) fn check_size(size: usize, what: &str) -> Result<()> {
    if size > MAX_PAYLOAD_BYTES {
        return Err(usage(format!(
            "{what} has {size} bytes; a message holds at most {MAX_PAYLOAD_BYTES}"
        )));
    }
    Ok(())
}
