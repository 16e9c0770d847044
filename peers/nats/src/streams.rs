//! The streams, mirrors and consumers of the works, and how far they are.

use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};
use async_nats::jetstream::consumer::{AckPolicy, DeliverPolicy, push};
use async_nats::jetstream::stream::{Config, External, Source, StorageType};
use async_nats::jetstream::{self, Context};
use async_nats::{Client, ConnectOptions};
use interlock_bench::Payloads;

use crate::publishing::Mode;
use crate::server::Server;
use crate::subscriber::Counter;

/// What is published to, and the stream that stores it.
pub(crate) const SUBJECT: &str = "load";
pub(crate) const STREAM: &str = "LOAD";
/// The stream that has a copy of all of it.
pub(crate) const MIRROR: &str = "COPY";

/// How long a stream may make no progress before what is missing counts as lost. A
/// mirror whose first try fails waits for some ten seconds before the next.
const PATIENCE: Duration = Duration::from_secs(60);
/// Between two looks at how far it is.
const LOOK: Duration = Duration::from_millis(2);

/// More than any work has under way: a client drops what a subscription has no room for.
const SUBSCRIPTION_MESSAGES: usize = 1 << 18;
/// What waits between a publisher and its connection.
const CLIENT_COMMANDS: usize = 8192;

/// A connection as fast as async-nats has it: without looking for spaces in subjects,
/// and with the largest read buffer. It does not come back once it is lost: what was on
/// its way is gone, and a work that waited for it would wait for long.
pub(crate) async fn connect(server: &Server) -> Result<Client> {
    ConnectOptions::new()
        .skip_subject_validation(true)
        .client_capacity(CLIENT_COMMANDS)
        .subscription_capacity(SUBSCRIPTION_MESSAGES)
        .read_buffer_capacity(u16::MAX)
        .max_reconnects(1)
        .connect(&server.clients)
        .await
        .with_context(|| format!("cannot connect to nats-server at {}", server.clients))
}

/// A stream in files that lets messages be published in these modes.
pub(crate) async fn create(context: &Context, mode: Mode) -> Result<()> {
    let config = Config {
        name: STREAM.to_owned(),
        subjects: vec![SUBJECT.to_owned()],
        storage: StorageType::File,
        allow_atomic_publish: mode == Mode::Atomic,
        allow_batch_publish: mode == Mode::Fast,
        ..Default::default()
    };
    context.create_stream(config).await.context("cannot create the stream")?;
    Ok(())
}

/// A mirror of the stream in another domain, whose API a leaf node reaches as
/// `$JS.{domain}.API`:
/// <https://docs.nats.io/running-a-nats-service/configuration/leafnodes/jetstream_leafnodes>.
pub(crate) async fn create_mirror(context: &Context, domain: &str) -> Result<()> {
    let external = External { api_prefix: format!("$JS.{domain}.API"), delivery_prefix: None };
    let source = Source { name: STREAM.to_owned(), external: Some(external), ..Default::default() };
    let config = Config {
        name: MIRROR.to_owned(),
        storage: StorageType::File,
        mirror: Some(source),
        ..Default::default()
    };
    context.create_stream(config).await.context("cannot create the mirror")?;
    Ok(())
}

/// Publishes something that is of no run.
pub(crate) async fn publish_one(context: &Context) -> Result<()> {
    const OF_NO_RUN: &[u8] = &[0; Payloads::LEAST_BYTES];
    let sent = context.publish(SUBJECT, bytes::Bytes::from_static(OF_NO_RUN)).await;
    sent.context("cannot publish")?.await.context("the first message is not stored")?;
    Ok(())
}

/// The number of the last message that a stream has stored.
pub(crate) async fn last(context: &Context, stream: &str) -> Result<u64> {
    let asking = || format!("cannot ask how far the stream {stream} is");
    let stream = context.get_stream_no_info(stream).await.with_context(asking)?;
    Ok(stream.get_info().await.with_context(asking)?.state.last_sequence)
}

/// When a stream was seen to go on, and when it had all.
pub(crate) struct Progress {
    pub(crate) first: Instant,
    pub(crate) ended: Instant,
}

/// Waits until a stream has stored the message of this number; `stored` of them it has
/// stored before.
pub(crate) async fn wait_until(
    context: &Context,
    stream: &str,
    stored: u64,
    number: u64,
) -> Result<Progress> {
    let mut first = None;
    let (mut before, mut moved) = (stored, Instant::now());
    loop {
        let last = last(context, stream).await?;
        let now = Instant::now();
        if last > before {
            first.get_or_insert(now);
            (before, moved) = (last, now);
        }
        if last >= number {
            return Ok(Progress { first: first.unwrap_or(now), ended: now });
        }
        if moved.elapsed() > PATIENCE {
            bail!("the stream {stream} stays at {last} of {number} messages for {PATIENCE:?}");
        }
        tokio::time::sleep(LOOK).await;
    }
}

/// A consumer that pushes what is stored from now on, as fast as it can: without
/// acknowledgements, without flow control, to a subscriber that only counts. An ordered
/// consumer of async-nats gets the same messages, and parses each.
pub(crate) async fn consume(
    context: &Context,
    server: &Server,
    stream: &str,
    payloads: &Payloads,
) -> Result<Counter> {
    let deliver_subject = context.client().new_inbox();
    let counter = Counter::open(&server.clients, &deliver_subject, payloads, true).await?;
    let config = push::Config {
        deliver_subject,
        deliver_policy: DeliverPolicy::New,
        ack_policy: AckPolicy::None,
        memory_storage: true,
        ..Default::default()
    };
    let created = context.create_consumer_on_stream(config, stream).await;
    created.with_context(|| format!("cannot create a consumer of the stream {stream}"))?;
    Ok(counter)
}

/// JetStream through a connection of its own.
pub(crate) async fn jetstream(server: &Server) -> Result<Context> {
    Ok(jetstream::new(connect(server).await?))
}
