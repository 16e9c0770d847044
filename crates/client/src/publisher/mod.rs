//! Publishes through a session: many publications under way at a time, each
//! stored exactly once however often connections and nodes break.
//!
//! A publication keeps its sequence until it is acknowledged. After a break the
//! session is resumed and everything without an acknowledgement is sent again
//! under its sequence; the node answers what it has already with the first
//! answer.

mod pending;
#[cfg(test)]
mod pending_model;
mod worker;

use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use interlock_core::limits::MAX_PAYLOAD_BYTES;
use interlock_core::names::check_channel;
use interlock_rpc::convert::InvalidField;
use interlock_rpc::status::{PublishOutcome, Reason, refusal};
use interlock_rpc::v1;
use tokio::sync::{mpsc, oneshot};
use tokio::task::JoinHandle;

use crate::addresses::Addresses;
use crate::error::{ClientError, FailedBatch};

use pending::Pending;
use worker::Worker;

/// How many batches may wait for the worker before [`Publisher::publish`] waits.
const WAITING_BATCHES: usize = 64;

/// Where a message must be durable before it is acknowledged.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Durability {
    /// At the node that accepts it.
    #[default]
    Local,
    /// At so many members besides.
    Peers(u32),
    /// At all members.
    All,
}

impl Durability {
    /// As the wire carries it.
    pub fn to_wire(self) -> v1::Durability {
        let (level, peers) = match self {
            Self::Local => (v1::DurabilityLevel::Local, 0),
            Self::Peers(peers) => (v1::DurabilityLevel::Peers, peers),
            Self::All => (v1::DurabilityLevel::All, 0),
        };
        v1::Durability { level: level.into(), peers }
    }
}

/// How a publisher behaves.
#[derive(Clone, Debug)]
pub struct PublisherOptions {
    /// Where messages must be durable before they are acknowledged.
    pub durability: Durability,
    /// The most publications without an acknowledgement; the node may allow less.
    pub max_in_flight: u64,
    /// The most publications in one request.
    pub max_frame_publications: usize,
    /// The most payload bytes in one request, a single larger one aside.
    pub max_frame_bytes: usize,
    /// How long publications may wait while none is settled before giving up.
    pub give_up_after: Duration,
    /// When the node has forgotten the session: publish what was in flight again,
    /// marked as possibly repeated, instead of failing with
    /// [`ClientError::OutcomeUnknown`].
    pub republish_unknown: bool,
}

impl Default for PublisherOptions {
    fn default() -> Self {
        Self {
            durability: Durability::Local,
            max_in_flight: 8192,
            max_frame_publications: 1024,
            max_frame_bytes: 512 * 1024,
            give_up_after: Duration::from_secs(60),
            republish_unknown: false,
        }
    }
}

/// Something to publish.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Outgoing {
    /// The channel, without its namespace.
    pub channel: String,
    /// The content.
    pub payload: Bytes,
    /// W3C traceparent of the caller's trace; empty if there is none.
    pub traceparent: String,
}

impl Outgoing {
    /// Refuses what every node would refuse as malformed, which ends a stream
    /// without a word on which publication it was.
    fn check(&self) -> Result<(), ClientError> {
        let wrong = |field, reason: String| {
            let text = format!("{field}: {reason}");
            let refused =
                refusal(Reason::InvalidField, text).field(InvalidField::new(field, reason));
            ClientError::from(refused.into_status())
        };
        check_channel(&self.channel).map_err(|error| wrong("channel", error.to_string()))?;
        let size = self.payload.len();
        if size > MAX_PAYLOAD_BYTES {
            let reason = format!("has {size} bytes, more than {MAX_PAYLOAD_BYTES}");
            return Err(wrong("payload", reason));
        }
        Ok(())
    }
}

/// What became of a batch.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Published {
    /// The first message's name, unless the node had forgotten it.
    pub first: Option<v1::MessageReference>,
    /// The last message's name.
    pub last: Option<v1::MessageReference>,
    /// How many there were.
    pub count: u64,
    /// How many of them were stored by an earlier attempt.
    pub repeated: u64,
    /// The nodes where they are known to be durable.
    pub durable_at: Vec<String>,
}

/// Answers once its batch is durable as asked for.
#[derive(Debug)]
pub struct Receipt(oneshot::Receiver<Result<Published, ClientError>>);

impl Future for Receipt {
    type Output = Result<Published, ClientError>;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        Pin::new(&mut self.0).poll(context).map(|answer| answer.unwrap_or(Err(ClientError::Ended)))
    }
}

/// Publishes to one namespace at one region.
#[derive(Debug)]
pub struct Publisher {
    batches: mpsc::Sender<Pending>,
    worker: JoinHandle<()>,
}

impl Publisher {
    /// Starts a publisher; its session is opened with the first batch. To be
    /// called inside a Tokio runtime.
    pub fn new(push_nodes: Addresses, namespace: &str, options: PublisherOptions) -> Self {
        let (batches, waiting) = mpsc::channel(WAITING_BATCHES);
        let worker = Worker::new(push_nodes, namespace.to_owned(), options, waiting);
        Self { batches, worker: tokio::spawn(worker.run()) }
    }

    /// Hands a batch over, in order behind those before it; waits while too much
    /// is under way. The receipt answers once all of it is durable. When one
    /// publication is refused, it and what follows it in the batch are not
    /// stored, and what comes before it is; [`ClientError::batch`] says which. A
    /// batch that no node can take is refused here as a whole.
    pub async fn publish(&self, batch: Vec<Outgoing>) -> Result<Receipt, ClientError> {
        for (index, outgoing) in batch.iter().enumerate() {
            outgoing.check().map_err(|cause| {
                ClientError::Batch(Box::new(FailedBatch {
                    publications: batch.len() as u64,
                    stored: 0,
                    refused: Some(index as u64),
                    outcome: PublishOutcome::not_stored(),
                    cause,
                }))
            })?;
        }
        let (reply, receipt) = oneshot::channel();
        self.batches.send(Pending::new(batch, reply)).await.map_err(|_| ClientError::Ended)?;
        Ok(Receipt(receipt))
    }

    /// Waits until everything handed over has been answered.
    pub async fn finish(self) {
        drop(self.batches);
        // A worker that panicked has answered nobody: their receipts say so.
        let _ = self.worker.await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn what_no_node_takes_is_refused_before_it_ends_the_stream() {
        let nodes = Addresses::new(&[], None).expect("no addresses");
        let publisher = Publisher::new(nodes, "demo", PublisherOptions::default());
        let outgoing = |channel: &str, payload: usize| Outgoing {
            channel: channel.to_owned(),
            payload: vec![0; payload].into(),
            ..Default::default()
        };
        for (channel, payload) in [("not a name", 1), ("", 1), ("news", MAX_PAYLOAD_BYTES + 1)] {
            let error = publisher.publish(vec![outgoing(channel, payload)]).await;
            let error = error.expect_err("refused");
            let code = error.status().map(tonic::Status::code);
            assert_eq!(code, Some(tonic::Code::InvalidArgument), "{error}");
        }
    }
}
