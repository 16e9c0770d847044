//! `interlock subscribe`

use std::fs::File;
use std::io::{BufWriter, Write};
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context as _, Result};
use bytes::Bytes;
use interlock_client::{Received, Start, Subscriber, SubscriberOptions, v1};
use interlock_core::cursor::Cursor;
use serde_json::{Value, json};

use crate::commands::messages::{cursor_text, gap, line, message, start};
use crate::output::Format;
use crate::target::{ChannelPath, Target};
use interlock_cli::usage::{UsageError, usage};

#[derive(clap::Args)]
pub(crate) struct Arguments {
    /// namespace/channel, or namespace/prefix*; several of one namespace.
    #[arg(required = true)]
    channels: Vec<ChannelPath>,
    /// now, oldest, last:N, time:RFC3339 or cursor:TEXT.
    #[arg(long, default_value = "now", value_parser = start)]
    from: Start,
    /// End after so many messages.
    #[arg(long)]
    count: Option<u64>,
    /// Only the payloads, each with one `\n` behind it.
    #[arg(long)]
    raw: bool,
    /// Where to write instead of stdout.
    #[arg(long)]
    output_file: Option<PathBuf>,
    /// Start at the cursor in this file if it exists, and keep it there as it
    /// moves. An output file is then gone on with. After a kill the messages that
    /// came last may be written again: none is left out.
    #[arg(long)]
    cursor_file: Option<PathBuf>,
    /// End after so many seconds without a message.
    #[arg(long)]
    idle_timeout: Option<u64>,
    /// End instead of going on when messages may be missing.
    #[arg(long)]
    decline_gaps: bool,
}

pub(crate) async fn run(target: &Target, arguments: Arguments) -> Result<()> {
    let namespace = one_namespace(&arguments.channels)?;
    let channels: Vec<String> =
        arguments.channels.iter().map(|path| path.channel.clone()).collect();
    let resumed = arguments.cursor_file.as_deref().map(read_cursor).transpose()?.flatten();
    let goes_on = resumed.is_some();
    let start = resumed.unwrap_or_else(|| arguments.from.clone());
    let options = SubscriberOptions {
        start,
        decline_gaps: arguments.decline_gaps,
        limit: arguments.count,
        ..Default::default()
    };
    let gateways = target.mesh.gateways(&target.region)?;
    let mut subscriber = Subscriber::new(gateways, &namespace, &channels, &options);
    let mut writer: Box<dyn Write> = match &arguments.output_file {
        Some(path) => Box::new(BufWriter::new(output_file(path, goes_on)?)),
        None => Box::new(BufWriter::new(std::io::stdout())),
    };
    let printer = Printer { format: target.format, raw: arguments.raw };
    let idle = arguments.idle_timeout.map(Duration::from_secs);
    let mut last_message = tokio::time::Instant::now();
    loop {
        let received = match idle {
            None => subscriber.next().await?,
            Some(idle) => {
                match tokio::time::timeout_at(last_message + idle, subscriber.next()).await {
                    Ok(received) => received?,
                    Err(_) => return Ok(()),
                }
            }
        };
        let Some(received) = received else { return Ok(()) };
        if printer.print(&mut writer, &received)? > 0 {
            last_message = tokio::time::Instant::now();
        }
        // What was printed is out before the cursor says so.
        writer.flush()?;
        if let Some(path) = &arguments.cursor_file {
            write_cursor(path, &received.cursor)?;
        }
    }
}

struct Printer {
    format: Format,
    raw: bool,
}

impl Printer {
    /// Prints what came; how many messages there were.
    fn print(&self, writer: &mut impl Write, received: &Received) -> Result<usize> {
        let mut messages = 0;
        for (index, delivery) in received.deliveries.iter().enumerate() {
            // The cursor covers all that came together: only the last may say it.
            let is_last = index + 1 == received.deliveries.len();
            match &delivery.event {
                Some(v1::delivery::Event::Message(message)) => {
                    messages += 1;
                    self.message(writer, message, is_last.then_some(&received.cursor))?;
                }
                Some(event) => self.event(writer, event)?,
                None => {}
            }
        }
        Ok(messages)
    }

    fn message(
        &self,
        writer: &mut impl Write,
        delivered: &v1::DeliveredMessage,
        cursor: Option<&Bytes>,
    ) -> Result<()> {
        if self.raw {
            writer.write_all(&delivered.payload)?;
            writer.write_all(b"\n")?;
        } else if self.format == Format::Json {
            let mut value = message(delivered);
            if let Some(cursor) = cursor {
                value["cursor"] = json!(cursor_text(cursor));
            }
            writeln!(writer, "{value}")?;
        } else {
            writeln!(writer, "{}", line(delivered))?;
        }
        Ok(())
    }

    /// Gaps and deletions: among the messages as JSON, on stderr otherwise.
    fn event(&self, writer: &mut impl Write, event: &v1::delivery::Event) -> Result<()> {
        let (value, text): (Value, String) = match event {
            v1::delivery::Event::Gap(missing) => {
                (json!({ "type": "gap", "text": gap(missing) }), gap(missing))
            }
            v1::delivery::Event::ChannelEvent(event) => {
                let event = event.event.clone().unwrap_or_default();
                let kind = event
                    .kind()
                    .as_str_name()
                    .trim_start_matches("CHANNEL_EVENT_KIND_")
                    .to_lowercase();
                let text = format!("channel {} was {kind} (epoch {})", event.channel, event.epoch);
                let value = json!({ "type": "channel", "channel": event.channel, "kind": kind, "epoch": event.epoch });
                (value, text)
            }
            _ => return Ok(()),
        };
        if self.format == Format::Json && !self.raw {
            writeln!(writer, "{value}")?;
        } else if value["kind"] == "created" && value["epoch"] == 1 {
            // Nothing came before it that a reader could have missed.
        } else {
            eprintln!("{text}");
        }
        Ok(())
    }
}

pub(crate) fn one_namespace(channels: &[ChannelPath]) -> Result<String> {
    let namespace = channels.first().map(|path| path.namespace.clone()).unwrap_or_default();
    if let Some(other) = channels.iter().find(|path| path.namespace != namespace) {
        return Err(usage(format!(
            "{other} is of another namespace than {namespace}: one subscription reads one namespace"
        )));
    }
    Ok(namespace)
}

/// The cursor that an earlier run left; none before the first.
fn read_cursor(path: &Path) -> Result<Option<Start>> {
    let text = match std::fs::read_to_string(path) {
        Ok(text) => text,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
        Err(error) => {
            return Err(error).with_context(|| UsageError::new(path.display().to_string()));
        }
    };
    match Cursor::from_text(text.trim()) {
        Ok(cursor) => Ok(Some(Start::Cursor(cursor.encode()))),
        Err(error) => Err(usage(format!(
            "{}: the cursor cannot be read: {error}; remove the file to start anew",
            path.display()
        ))),
    }
}

/// Written beside and renamed, so that a kill leaves the old or the new one.
fn write_cursor(path: &Path, cursor: &[u8]) -> Result<()> {
    let mut beside = path.as_os_str().to_owned();
    beside.push(".new");
    std::fs::write(&beside, cursor_text(cursor))
        .and_then(|()| std::fs::rename(&beside, path))
        .with_context(|| path.display().to_string())
}

/// Where messages are written: behind those of an earlier run, if it left a
/// cursor behind them.
fn output_file(path: &Path, goes_on: bool) -> Result<File> {
    File::options()
        .create(true)
        .write(true)
        .append(goes_on)
        .truncate(!goes_on)
        .open(path)
        .with_context(|| UsageError::new(path.display().to_string()))
}

#[cfg(test)]
mod tests {
    use interlock_core::identity::NamespaceNumber;

    use super::*;

    #[test]
    fn a_cursor_file_is_replaced_as_a_whole_and_keeps_its_neighbours() {
        let folder = tempfile::tempdir().expect("a folder");
        let (one, other) = (folder.path().join("position.a"), folder.path().join("position.b"));
        assert_eq!(read_cursor(&one).expect("none yet"), None);
        let cursor = Cursor::new(NamespaceNumber::new(7)).encode();
        write_cursor(&one, &cursor).expect("written");
        write_cursor(&other, &Cursor::new(NamespaceNumber::new(8)).encode()).expect("written");
        assert_eq!(read_cursor(&one).expect("a cursor"), Some(Start::Cursor(cursor)));
        std::fs::write(&one, "").expect("written");
        assert!(read_cursor(&one).is_err(), "an empty file is no start at the beginning");
    }

    #[test]
    fn what_an_earlier_run_wrote_is_kept_when_it_left_a_cursor() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("output");
        for (goes_on, expected) in [(false, "line\n"), (true, "line\nline\n"), (false, "line\n")] {
            output_file(&path, goes_on).expect("open").write_all(b"line\n").expect("written");
            assert_eq!(std::fs::read_to_string(&path).expect("text"), expected);
        }
    }

    #[test]
    fn only_the_last_of_what_came_together_says_the_cursor() {
        let message = v1::DeliveredMessage { payload: "hello".into(), ..Default::default() };
        let delivery = v1::Delivery { event: Some(v1::delivery::Event::Message(message)) };
        let received = Received {
            deliveries: vec![delivery.clone(), delivery],
            cursor: Cursor::new(NamespaceNumber::new(7)).encode(),
        };
        let printer = Printer { format: Format::Json, raw: false };
        let mut written = Vec::new();
        assert_eq!(printer.print(&mut written, &received).expect("printed"), 2);
        let lines: Vec<Value> = String::from_utf8(written)
            .expect("text")
            .lines()
            .map(|line| serde_json::from_str(line).expect("JSON"))
            .collect();
        assert!(lines[0].get("cursor").is_none());
        assert!(lines[1].get("cursor").is_some());
    }
}
