//! `interlock publish`

use std::io::{BufRead as _, BufReader, IsTerminal as _, Read};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};
use bytes::Bytes;
use indicatif::{ProgressBar, ProgressStyle};
use interlock_client::{Outgoing, Publisher, PublisherOptions, Receipt};
use interlock_core::limits::MAX_PAYLOAD_BYTES;
use serde_json::json;

use crate::commands::messages::{DurabilityArgument, reference};
use crate::output::print;
use crate::target::{ChannelPath, Target};
use interlock_cli::usage::usage;

/// Publications handed over at a time.
const BATCH: usize = 256;
/// What is read at a time. Lines go out when what was read is used up: a pipe
/// that says little is not kept waiting.
const READ_BYTES: usize = 256 << 10;
/// Batches whose receipts are waited for at a time.
const OPEN_RECEIPTS: usize = 64;

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
struct Sum {
    published: u64,
    repeated: u64,
    first: Option<interlock_client::v1::MessageReference>,
    last: Option<interlock_client::v1::MessageReference>,
    durable_at: Vec<String>,
}

impl Sum {
    async fn wait_for(&mut self, receipt: Receipt) -> Result<()> {
        let published = receipt.await?;
        self.published += published.count;
        self.repeated += published.repeated;
        self.first = self.first.or(published.first);
        self.last = published.last.or(self.last);
        self.durable_at = published.durable_at;
        Ok(())
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
            let content = std::fs::read(file).with_context(|| file.display().to_string())?;
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
        format!(
            "published {} to {channel}{}, durable at {}, in {seconds:.2} s",
            sum.published,
            last.unwrap_or_default(),
            sum.durable_at.join(", ")
        )
    })
}

fn outgoing(channel: &ChannelPath, payload: Bytes) -> Outgoing {
    Outgoing { channel: channel.channel.clone(), payload, ..Default::default() }
}

async fn one(
    publisher: &Publisher,
    channel: &ChannelPath,
    payload: Bytes,
    sum: &mut Sum,
) -> Result<()> {
    check_size(payload.len(), "the message")?;
    let receipt = publisher.publish(vec![outgoing(channel, payload)]).await?;
    sum.wait_for(receipt).await
}

fn check_size(size: usize, what: &str) -> Result<()> {
    if size > MAX_PAYLOAD_BYTES {
        bail!("{what} has {size} bytes; a message holds at most {MAX_PAYLOAD_BYTES}");
    }
    Ok(())
}

async fn publish_lines(
    publisher: &Publisher,
    channel: &ChannelPath,
    path: &Path,
    sum: &mut Sum,
) -> Result<()> {
    let (input, size): (Box<dyn Read>, Option<u64>) = if path.as_os_str() == "-" {
        (Box::new(std::io::stdin().lock()), None)
    } else {
        let file = std::fs::File::open(path).with_context(|| path.display().to_string())?;
        let size = file.metadata().ok().map(|metadata| metadata.len());
        (Box::new(file), size)
    };
    let mut reader = BufReader::with_capacity(READ_BYTES, input);
    let bar = progress(size)?;
    let mut receipts = std::collections::VecDeque::new();
    let mut batch = Vec::with_capacity(BATCH);
    let mut number = 0_u64;
    loop {
        let mut line = Vec::new();
        let read = reader.read_until(b'\n', &mut line)?;
        if read > 0 {
            number += 1;
            if line.last() == Some(&b'\n') {
                line.pop();
            }
            check_size(line.len(), &format!("line {number}"))?;
            bar.inc(read as u64);
            batch.push(outgoing(channel, Bytes::from(line)));
        }
        let bytes: usize = batch.iter().map(|outgoing: &Outgoing| outgoing.payload.len()).sum();
        let is_full = batch.len() == BATCH || bytes > MAX_PAYLOAD_BYTES;
        if is_full || reader.buffer().is_empty() && !batch.is_empty() {
            receipts.push_back(publisher.publish(std::mem::take(&mut batch)).await?);
        }
        while receipts.len() > OPEN_RECEIPTS || read == 0 && !receipts.is_empty() {
            if let Some(receipt) = receipts.pop_front() {
                sum.wait_for(receipt).await?;
            }
        }
        if read == 0 {
            bar.finish_and_clear();
            return Ok(());
        }
    }
}

/// On stderr, and only on a terminal.
fn progress(size: Option<u64>) -> Result<ProgressBar> {
    if !std::io::stderr().is_terminal() {
        return Ok(ProgressBar::hidden());
    }
    let bar = size.map_or_else(ProgressBar::new_spinner, ProgressBar::new);
    let template = if size.is_some() {
        "publishing {bar:30} {bytes}/{total_bytes}, {eta} left"
    } else {
        "publishing {bytes} in {elapsed}"
    };
    Ok(bar.with_style(ProgressStyle::with_template(template)?))
}
