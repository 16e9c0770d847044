//! `interlock history`

use std::io::Write as _;

use anyhow::Result;
use interlock_client::{Start, v1};
use serde_json::json;

use crate::commands::messages::{cursor_text, gap, line, message, start};
use crate::commands::subscribe::one_namespace;
use crate::output::Format;
use crate::target::{ChannelPath, Target};

#[derive(clap::Args)]
pub(crate) struct Arguments {
    /// namespace/channel, or namespace/prefix*; several of one namespace.
    #[arg(required = true)]
    channels: Vec<ChannelPath>,
    /// oldest, last:N, time:RFC3339 or cursor:TEXT.
    #[arg(long, default_value = "oldest", value_parser = start)]
    from: Start,
    /// At most so many messages.
    #[arg(long, default_value_t = 1000)]
    limit: u32,
    /// Only the payloads, each with one `\n` behind it.
    #[arg(long)]
    raw: bool,
}

pub(crate) async fn run(target: &Target, arguments: Arguments) -> Result<()> {
    let request = v1::ReadHistoryRequest {
        namespace: one_namespace(&arguments.channels)?,
        channels: arguments.channels.iter().map(|path| path.channel.clone()).collect(),
        start: Some(arguments.from.to_wire()),
        limit: arguments.limit,
    };
    let mut stream =
        target.mesh.subscribing(&target.region)?.read_history(request).await?.into_inner();
    let mut stdout = std::io::stdout().lock();
    let mut cursor = bytes::Bytes::new();
    let mut more = false;
    while let Some(response) = stream.message().await? {
        for missing in &response.gaps {
            eprintln!("{}", gap(missing));
        }
        for delivered in &response.messages {
            if arguments.raw {
                stdout.write_all(&delivered.payload)?;
                stdout.write_all(b"\n")?;
            } else if target.format == Format::Json {
                writeln!(stdout, "{}", message(delivered))?;
            } else {
                writeln!(stdout, "{}", line(delivered))?;
            }
        }
        cursor = response.cursor;
        more = response.more;
    }
    if arguments.raw {
        return Ok(());
    }
    match target.format {
        Format::Json => {
            writeln!(
                stdout,
                "{}",
                json!({ "type": "end", "cursor": cursor_text(&cursor), "more": more })
            )?;
        }
        Format::Table if more => {
            eprintln!("there is more: go on with --from cursor:{}", cursor_text(&cursor))
        }
        Format::Table => {}
    }
    Ok(())
}
