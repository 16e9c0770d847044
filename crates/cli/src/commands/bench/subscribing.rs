//! Subscribers under load, each with a connection of its own.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};
use interlock_bench::{Latencies, Payloads};
use interlock_client::{Addresses, Start, v1};
use tokio::sync::oneshot;
use tokio::task::JoinHandle;
use tonic::Streaming;
use tonic::codegen::http::uri::PathAndQuery;

use super::counted::{CountingCodec, Response};

/// How long nothing may come before what is missing counts as lost.
const PATIENCE: Duration = Duration::from_secs(60);

/// What a subscriber has counted so far.
#[derive(Debug, Default)]
pub(super) struct Count {
    messages: AtomicU64,
}

impl Count {
    pub(super) fn messages(&self) -> u64 {
        self.messages.load(Ordering::Relaxed)
    }
}

/// A subscriber that counts the messages of one run.
pub(super) struct Counter {
    pub(super) count: Arc<Count>,
    /// Told how many there are in all once that is known.
    end: oneshot::Sender<u64>,
    counting: JoinHandle<Result<Counted>>,
}

/// What came.
pub(super) struct Counted {
    /// When the last one came.
    pub(super) ended: Instant,
    /// From when each was meant to be sent; of those with `latencies` only.
    pub(super) latencies: Latencies,
}

impl Counter {
    /// Opens a subscription, and returns once it stands.
    pub(super) async fn open(
        gateways: &Addresses,
        namespace: &str,
        channel: &str,
        start: &Start,
        payloads: &Payloads,
        with_latencies: bool,
    ) -> Result<Self> {
        let request = v1::SubscribeRequest {
            namespace: namespace.to_owned(),
            channels: vec![channel.to_owned()],
            start: Some(start.to_wire()),
            ..Default::default()
        };
        let channel = gateways.separate()?.current().context("the region has no gateway")?;
        let mut grpc = tonic::client::Grpc::new(channel)
            .max_decoding_message_size(interlock_core::limits::MAX_RECEIVED_MESSAGE_BYTES);
        grpc.ready().await?;
        let path = PathAndQuery::from_static("/interlock.v1.SubscribeService/Subscribe");
        let mut stream = grpc
            .server_streaming(tonic::Request::new(request), path, CountingCodec)
            .await?
            .into_inner();
        // The first response says that the subscription stands; it may bring messages.
        let first = stream.message().await?.context("the gateway ended the subscription")?;
        let count = Arc::new(Count::default());
        let (end, ending) = oneshot::channel();
        let counting =
            Counting { count: Arc::clone(&count), payloads: payloads.clone(), with_latencies };
        let counting = tokio::spawn(counting.run(first, stream, ending));
        Ok(Self { count, end, counting })
    }

    /// Waits for as many as there are in all.
    pub(super) async fn finish(self, messages: u64) -> Result<Counted> {
        // It has failed before where it does not listen.
        let _ = self.end.send(messages);
        self.counting.await?
    }
}

struct Counting {
    count: Arc<Count>,
    payloads: Payloads,
    with_latencies: bool,
}

impl Counting {
    async fn run(
        self,
        first: Response,
        mut stream: Streaming<Response>,
        mut ending: oneshot::Receiver<u64>,
    ) -> Result<Counted> {
        let mut counted = Counted { ended: Instant::now(), latencies: Latencies::new() };
        let mut total = None;
        self.take(&first, &mut counted);
        while total.is_none_or(|total| self.count.messages() < total) {
            tokio::select! {
                biased;
                response = stream.message() => {
                    let response = response?.context("the gateway ended the subscription")?;
                    self.take(&response, &mut counted);
                }
                end = &mut ending, if total.is_none() => total = Some(end?),
                () = tokio::time::sleep(PATIENCE), if total.is_some() => {
                    let missing = total.unwrap_or_default() - self.count.messages();
                    bail!("{missing} messages did not come within {PATIENCE:?}");
                }
            }
        }
        Ok(counted)
    }

    fn take(&self, response: &Response, counted: &mut Counted) {
        let now = Instant::now();
        let mut ours = 0;
        response.each_payload(|payload| {
            if let Some(age) = self.payloads.age_of(payload, now) {
                ours += 1;
                if self.with_latencies {
                    counted.latencies.record(age);
                }
            }
        });
        if ours > 0 {
            counted.ended = now;
            self.count.messages.fetch_add(ours, Ordering::Relaxed);
        }
    }
}
