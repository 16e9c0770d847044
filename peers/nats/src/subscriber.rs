//! A subscriber that costs little: it counts messages, reads the stamps of those that
//! it measures, and takes nothing else out of what comes, so that a measurement with a
//! thousand of them measures the server.

use std::cell::RefCell;
use std::future::poll_fn;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context, Poll, ready};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};
use interlock_bench::{Latencies, Payloads};
use tokio::io::{AsyncRead as _, AsyncWriteExt as _, ReadBuf};
use tokio::net::TcpStream;
use tokio::sync::oneshot;
use tokio::task::JoinHandle;

use crate::parser::{Event, Parser};

/// How long nothing may come before what is missing counts as lost.
const PATIENCE: Duration = Duration::from_secs(60);
/// Read at a time.
const READ_BYTES: usize = 256 << 10;

thread_local! {
    /// All subscribers of a thread read into the same bytes: what is left of a message
    /// at their end is the parser's to keep, and a thousand buffers would miss the cache.
    static READ: RefCell<Vec<u8>> = RefCell::new(vec![0; READ_BYTES]);
}

/// A subscriber with a connection of its own, in a task of its own: the runtime wakes it
/// for its socket alone. In a profile of a thousand of them four fifths of the time are the
/// kernel's, and no function of the runtime has a fiftieth.
pub(crate) struct Counter {
    /// Messages that came so far.
    count: Arc<AtomicU64>,
    /// Told how many there are in all once that is known.
    end: oneshot::Sender<u64>,
    counting: JoinHandle<Result<Counted>>,
}

/// What came.
pub(crate) struct Counted {
    /// When the last one came.
    pub(crate) ended: Instant,
    /// From when each was meant to be sent; a subscriber that measures none has no room
    /// for any.
    pub(crate) latencies: Option<Latencies>,
}

impl Counter {
    /// Subscribes, and returns once the server has it: it answers a PING after all that
    /// was sent before.
    pub(crate) async fn open(
        address: &str,
        subject: &str,
        payloads: &Payloads,
        with_latencies: bool,
    ) -> Result<Self> {
        let connecting = || format!("cannot connect to nats-server at {address}");
        let mut stream = TcpStream::connect(address).await.with_context(connecting)?;
        stream.set_nodelay(true).with_context(connecting)?;
        let hello = format!(
            "CONNECT {{\"verbose\":false,\"pedantic\":false,\"headers\":true,\
             \"no_responders\":false,\"echo\":true,\"lang\":\"rust\",\"version\":\"{}\",\
             \"protocol\":1}}\r\nSUB {subject} 1\r\nPING\r\n",
            env!("CARGO_PKG_VERSION")
        );
        stream.write_all(hello.as_bytes()).await.with_context(connecting)?;
        let count = Arc::new(AtomicU64::new(0));
        let mut counting = Counting {
            stream,
            parser: Parser::default(),
            stands: false,
            pongs: 0,
            count: Arc::clone(&count),
            payloads: payloads.clone(),
            counted: Counted {
                ended: Instant::now(),
                latencies: with_latencies.then(Latencies::new),
            },
        };
        while !counting.stands {
            poll_fn(|context| counting.poll_read(context)).await?;
        }
        let (end, ending) = oneshot::channel();
        let counting = tokio::spawn(counting.run(ending));
        Ok(Self { count, end, counting })
    }

    /// How many came so far.
    pub(crate) fn messages(&self) -> u64 {
        self.count.load(Ordering::Relaxed)
    }

    /// Whether it gave up: [`Self::finish`] says why.
    pub(crate) fn failed(&self) -> bool {
        self.counting.is_finished()
    }

    /// Waits for as many as there are in all.
    pub(crate) async fn finish(self, messages: u64) -> Result<Counted> {
        // It has failed before where it does not listen.
        let _ = self.end.send(messages);
        self.counting.await?
    }
}

struct Counting {
    stream: TcpStream,
    parser: Parser,
    /// The server has the subscription.
    stands: bool,
    /// Yet to be sent.
    pongs: usize,
    count: Arc<AtomicU64>,
    payloads: Payloads,
    counted: Counted,
}

impl Counting {
    async fn run(mut self, mut ending: oneshot::Receiver<u64>) -> Result<Counted> {
        let mut total = None;
        while total.is_none_or(|total| self.messages() < total) {
            tokio::select! {
                biased;
                read = poll_fn(|context| self.poll_read(context)) => read?,
                end = &mut ending, if total.is_none() => total = Some(end?),
                () = tokio::time::sleep(PATIENCE), if total.is_some() => {
                    let missing = total.unwrap_or_default() - self.messages();
                    bail!("{missing} messages did not come within {PATIENCE:?}");
                }
            }
            for _ in 0..std::mem::take(&mut self.pongs) {
                self.stream.write_all(b"PONG\r\n").await.context("nats-server does not read")?;
            }
        }
        Ok(self.counted)
    }

    fn messages(&self) -> u64 {
        self.count.load(Ordering::Relaxed)
    }

    /// Reads once, and takes what is there.
    fn poll_read(&mut self, context: &mut Context<'_>) -> Poll<Result<()>> {
        READ.with_borrow_mut(|bytes| {
            let mut buffer = ReadBuf::new(bytes);
            let read = ready!(Pin::new(&mut self.stream).poll_read(context, &mut buffer));
            Poll::Ready(read.context("nats-server does not send").and_then(|()| {
                if buffer.filled().is_empty() {
                    bail!("nats-server ended the connection");
                }
                self.take(buffer.filled())
            }))
        })
    }

    fn take(&mut self, bytes: &[u8]) -> Result<()> {
        let Self { parser, stands, pongs, payloads, counted, count, .. } = self;
        let now = Instant::now();
        let mut messages = 0;
        parser.feed(bytes, |event| {
            match event {
                Event::Message(kept) => {
                    messages += 1;
                    if let Some(latencies) = &mut counted.latencies
                        && let Some(age) = payloads.age_of(kept, now)
                    {
                        latencies.record(age);
                    }
                }
                Event::Ping => *pongs += 1,
                Event::Pong => *stands = true,
                Event::Error(error) => bail!("nats-server says {error}"),
            }
            Ok(())
        })?;
        if messages > 0 {
            counted.ended = now;
            count.fetch_add(messages, Ordering::Relaxed);
        }
        Ok(())
    }
}
