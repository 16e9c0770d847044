//! `interlock publish --lines`: a message a line, many under way at a time.

use std::collections::VecDeque;
use std::io::{BufRead, BufReader, IsTerminal as _, Read};
use std::path::Path;

use anyhow::{Context as _, Result};
use bytes::Bytes;
use indicatif::{ProgressBar, ProgressStyle};
use interlock_cli::usage::UsageError;
use interlock_client::{ClientError, Outgoing, Published, Publisher, Receipt};
use interlock_core::limits::MAX_PAYLOAD_BYTES;
use tokio::sync::mpsc;

use crate::commands::publish::{Sum, cause, check_size, may_be_stored, outgoing};
use crate::target::ChannelPath;

/// Publications handed over at a time.
const BATCH: usize = 256;
/// What is read at a time. Lines go out when what was read is used up: a pipe
/// that says little is not kept waiting.
const READ_BYTES: usize = 256 << 10;
/// Batches whose receipts are waited for at a time.
const OPEN_RECEIPTS: usize = 64;
/// Batches that are read ahead.
const READ_AHEAD: usize = 4;

/// Lines that are published together.
#[derive(Debug, Default)]
struct Lines {
    lines: Vec<Bytes>,
    /// Bytes of input that they were.
    read: u64,
}

/// Publishes every line; what is stored is in `sum`, also when it fails.
pub(super) async fn publish_lines(
    publisher: &Publisher,
    channel: &ChannelPath,
    path: &Path,
    sum: &mut Sum,
) -> Result<()> {
    let (input, size) = open(path)?;
    let bar = progress(size)?;
    let mut input = read_in_thread(input);
    let mut open: VecDeque<Receipt> = VecDeque::new();
    let mut ended = None;
    // Input may stay away for long: what was published is answered meanwhile.
    loop {
        let may_read = open.len() < OPEN_RECEIPTS;
        tokio::select! {
            answer = first(&mut open) => match answer {
                Ok(published) => sum.add(published),
                Err(error) => {
                    let failure = Failure::of(error, open, sum).await;
                    bar.finish_and_clear();
                    return Err(failure.into_error(sum));
                }
            },
            lines = input.recv(), if may_read && ended.is_none() => match lines {
                Some(Ok(lines)) => {
                    bar.inc(lines.read);
                    let batch: Vec<Outgoing> =
                        lines.lines.into_iter().map(|line| outgoing(channel, line)).collect();
                    match publisher.publish(batch).await {
                        Ok(receipt) => open.push_back(receipt),
                        // Its receipts say why.
                        Err(ClientError::Ended) if !open.is_empty() => {}
                        Err(error) => return Err(cause(error).into()),
                    }
                }
                Some(Err(error)) => ended = Some(Err(error)),
                None => ended = Some(Ok(())),
            },
        }
        if open.is_empty()
            && let Some(ended) = ended
        {
            bar.finish_and_clear();
            return ended.with_context(|| stored(sum));
        }
    }
}

/// Waits for the first open receipt, for ever if there is none.
async fn first(open: &mut VecDeque<Receipt>) -> Result<Published, ClientError> {
    let Some(receipt) = open.front_mut() else { return std::future::pending().await };
    let answer = receipt.await;
    open.pop_front();
    answer
}

/// What is known to be stored, from the first line on.
fn stored(sum: &Sum) -> String {
    match &sum.last {
        Some(last) => format!(
            "lines 1 to {} are stored, the last as {}:{}",
            sum.published, last.origin, last.m_id
        ),
        None => format!("{} lines are stored", sum.published),
    }
}

/// Publishing that went wrong.
struct Failure {
    cause: ClientError,
    /// Whether lines behind those that are known to be stored may be stored too.
    more_may_be: bool,
}

impl Failure {
    /// A batch has failed: what became of those behind it decides what a retry may
    /// do.
    async fn of(error: ClientError, mut behind: VecDeque<Receipt>, sum: &mut Sum) -> Self {
        let mut more_may_be = may_be_stored(&error);
        if let Some(batch) = error.batch().filter(|batch| batch.stored > 0) {
            sum.published += batch.stored;
            // It was not told under which name.
            sum.last = None;
        }
        while !behind.is_empty() {
            more_may_be |= match first(&mut behind).await {
                Ok(_) => true,
                Err(error) => {
                    may_be_stored(&error) || error.batch().is_some_and(|batch| batch.stored > 0)
                }
            };
        }
        Self { cause: cause(error), more_may_be }
    }

    fn into_error(self, sum: &Sum) -> anyhow::Error {
        let next = sum.published + 1;
        let retry = match self.more_may_be {
            false => format!("no other line is: to go on with line {next} repeats nothing"),
            true => {
                format!("lines from {next} on may be too: publishing them again may repeat some")
            }
        };
        anyhow::Error::from(self.cause).context(format!("{}; {retry}", stored(sum)))
    }
}

fn open(path: &Path) -> Result<(Box<dyn Read + Send>, Option<u64>)> {
    if path.as_os_str() == "-" {
        return Ok((Box::new(std::io::stdin()), None));
    }
    let file =
        std::fs::File::open(path).with_context(|| UsageError::new(path.display().to_string()))?;
    let size = file.metadata().ok().map(|metadata| metadata.len());
    Ok((Box::new(file), size))
}

/// Reads in a thread of its own: a read from a pipe cannot be given up.
fn read_in_thread(input: Box<dyn Read + Send>) -> mpsc::Receiver<Result<Lines>> {
    let (sender, receiver) = mpsc::channel(READ_AHEAD);
    std::thread::spawn(move || {
        let mut reader = BufReader::with_capacity(READ_BYTES, input);
        let mut number = 0;
        loop {
            let (lines, error) = next_lines(&mut reader, &mut number);
            let is_end = lines.lines.is_empty();
            // Whoever does not wait any more has an error to tell.
            if !is_end && sender.blocking_send(Ok(lines)).is_err() {
                return;
            }
            if let Some(error) = error {
                let _ = sender.blocking_send(Err(error));
                return;
            }
            if is_end {
                return;
            }
        }
    });
    receiver
}

/// Lines until a batch is full or would have to wait for more input; none at the
/// end. What is wrong with the line behind them comes with them.
fn next_lines(
    reader: &mut BufReader<impl Read>,
    number: &mut u64,
) -> (Lines, Option<anyhow::Error>) {
    let mut batch = Lines::default();
    let mut bytes = 0;
    loop {
        let line = match next_line(reader, *number + 1) {
            Ok(Some(line)) => line,
            Ok(None) => return (batch, None),
            Err(error) => return (batch, Some(error)),
        };
        *number += 1;
        batch.read += line.len() as u64 + 1;
        bytes += line.len();
        batch.lines.push(line);
        let is_full = batch.lines.len() == BATCH || bytes >= MAX_PAYLOAD_BYTES;
        // What is there is taken; more is not waited for.
        if is_full || !reader.buffer().contains(&b'\n') {
            return (batch, None);
        }
    }
}

fn next_line(reader: &mut impl BufRead, number: u64) -> Result<Option<Bytes>> {
    let mut line = Vec::new();
    // One byte more than a message and its end hold shows that it is too long.
    let most = MAX_PAYLOAD_BYTES as u64 + 2;
    if reader.take(most).read_until(b'\n', &mut line).context("reading lines")? == 0 {
        return Ok(None);
    }
    if line.last() == Some(&b'\n') {
        line.pop();
    }
    check_size(line.len(), &format!("line {number}"))?;
    Ok(Some(Bytes::from(line)))
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

#[cfg(test)]
mod tests {
    use interlock_client::{FailedBatch, v1};
    use interlock_rpc::status::PublishOutcome;
    use tonic::Status;

    use super::*;

    /// Gives one piece at a time, as a pipe does.
    struct Pieces(VecDeque<&'static [u8]>);

    impl Read for Pieces {
        fn read(&mut self, into: &mut [u8]) -> std::io::Result<usize> {
            let Some(piece) = self.0.pop_front() else { return Ok(0) };
            into[..piece.len()].copy_from_slice(piece);
            Ok(piece.len())
        }
    }

    fn texts(lines: &Lines) -> Vec<&[u8]> {
        lines.lines.iter().map(Bytes::as_ref).collect()
    }

    #[test]
    fn what_is_there_goes_out_before_more_is_waited_for() {
        let pieces = [b"a\n\nhal".as_slice(), b"f\nend"];
        let mut reader = BufReader::new(Pieces(pieces.into_iter().collect()));
        let mut number = 0;
        let mut next = || next_lines(&mut reader, &mut number).0;
        assert_eq!(texts(&next()), [b"a".as_slice(), b""]);
        assert_eq!(texts(&next()), [b"half"]);
        assert_eq!(texts(&next()), [b"end"]);
        assert!(next().lines.is_empty());
        assert_eq!(number, 4);
    }

    #[test]
    fn a_line_that_is_too_long_is_named_after_those_before_it() {
        let mut input = b"short\n".to_vec();
        input.extend(vec![b'x'; MAX_PAYLOAD_BYTES]);
        input.extend(b"\n");
        input.extend(vec![b'x'; MAX_PAYLOAD_BYTES + 1]);
        let mut reader = BufReader::with_capacity(4 * MAX_PAYLOAD_BYTES, input.as_slice());
        let (lines, error) = next_lines(&mut reader, &mut 0);
        assert_eq!(lines.lines.iter().map(Bytes::len).collect::<Vec<_>>(), [5, MAX_PAYLOAD_BYTES]);
        assert!(error.is_none(), "the batch is full");
        let (lines, error) = next_lines(&mut reader, &mut 2);
        assert!(lines.lines.is_empty());
        let error = error.expect("too long");
        assert!(error.is::<UsageError>() && error.to_string().contains("line 3 "), "{error}");
    }

    fn failed(stored: u64, outcome: PublishOutcome) -> ClientError {
        let cause = ClientError::from(Status::not_found("no such channel"));
        let batch = FailedBatch { publications: 5, stored, refused: None, outcome, cause };
        ClientError::Batch(Box::new(batch))
    }

    async fn said(stored_before: u64, error: ClientError) -> String {
        let last = v1::MessageReference { origin: 1, m_id: stored_before, ..Default::default() };
        let mut sum = Sum::default();
        sum.add(Published { count: stored_before, last: Some(last), ..Published::default() });
        let failure = Failure::of(error, VecDeque::new(), &mut sum).await;
        format!("{:#}", failure.into_error(&sum))
    }

    #[tokio::test]
    async fn a_failure_says_how_far_it_came_and_what_a_retry_does() {
        let text = said(7, failed(0, PublishOutcome::not_stored())).await;
        assert!(text.contains("lines 1 to 7 are stored, the last as 1:7"), "{text}");
        assert!(text.contains("to go on with line 8 repeats nothing"), "{text}");
        assert!(text.ends_with("no such channel"), "{text}");
        let text = said(7, failed(2, PublishOutcome::not_stored())).await;
        assert!(text.contains("9 lines are stored; no other line is"), "{text}");
        let text = said(7, failed(2, PublishOutcome::unknown(true))).await;
        assert!(text.contains("9 lines are stored; lines from 10 on may be too"), "{text}");
        let text = said(7, ClientError::Ended).await;
        assert!(text.contains("lines from 8 on may be too"), "{text}");
    }
}
