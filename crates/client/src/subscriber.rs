//! Reads along, and goes on where it was when a gateway is lost.

use std::time::Duration;

use bytes::Bytes;
use interlock_rpc::channel::Backoff;
use interlock_rpc::{services, v1};
use tokio::time::Instant;
use tonic::{Status, Streaming};

use crate::addresses::Addresses;
use crate::error::{ClientError, is_transient};

/// Where a subscription starts.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Start {
    /// With what is published from now on.
    Now,
    /// With the oldest message that is kept.
    Oldest,
    /// With the last so many messages of the channels.
    Last(u32),
    /// With what arrived in the region from this time on; Unix milliseconds,
    /// approximate, never later.
    Time(u64),
    /// After a cursor, from any gateway of any region.
    Cursor(Bytes),
}

impl Start {
    /// As the wire carries it.
    pub fn to_wire(&self) -> v1::StartPosition {
        use v1::start_position::Position;
        let position = match self {
            Self::Now => Position::Now(true),
            Self::Oldest => Position::Oldest(true),
            Self::Last(count) => Position::Last(*count),
            Self::Time(milliseconds) => Position::TimeUnixMilliseconds(*milliseconds),
            Self::Cursor(cursor) => Position::Cursor(cursor.clone()),
        };
        v1::StartPosition { position: Some(position) }
    }
}

/// How a subscriber behaves.
#[derive(Clone, Debug)]
pub struct SubscriberOptions {
    /// Where it starts.
    pub start: Start,
    /// End with OUT_OF_RANGE instead of being told a gap.
    pub decline_gaps: bool,
    /// End after so many messages.
    pub limit: Option<u64>,
    /// How long to look for a gateway that answers before giving up.
    pub give_up_after: Duration,
}

impl Default for SubscriberOptions {
    fn default() -> Self {
        Self {
            start: Start::Now,
            decline_gaps: false,
            limit: None,
            give_up_after: Duration::from_secs(60),
        }
    }
}

/// What came, and the position after it.
#[derive(Clone, Debug)]
pub struct Received {
    /// Messages, gaps and channel events, in order; empty when only the position
    /// moved.
    pub deliveries: Vec<v1::Delivery>,
    /// Where to go on after them, valid at every gateway of every region.
    pub cursor: Bytes,
}

/// A subscription that survives the gateways it goes through: each message is
/// handed out once, whatever breaks.
#[derive(Debug)]
pub struct Subscriber {
    gateways: Addresses,
    request: v1::SubscribeRequest,
    stream: Option<Streaming<v1::SubscribeResponse>>,
    give_up_after: Duration,
    failing_since: Option<Instant>,
    backoff: Backoff,
    resumed: u64,
    finished: bool,
}

impl Subscriber {
    /// Prepares a subscription; the first [`Self::next`] opens it.
    pub fn new(
        gateways: Addresses,
        namespace: &str,
        channels: &[String],
        options: &SubscriberOptions,
    ) -> Self {
        let request = v1::SubscribeRequest {
            namespace: namespace.to_owned(),
            channels: channels.to_vec(),
            start: Some(options.start.to_wire()),
            decline_gaps: options.decline_gaps,
            limit: options.limit.unwrap_or(0),
        };
        Self {
            gateways,
            request,
            stream: None,
            give_up_after: options.give_up_after,
            failing_since: None,
            backoff: Backoff::reconnect(rand::random()),
            resumed: 0,
            finished: options.limit == Some(0),
        }
    }

    /// How often the subscription was opened again after a loss.
    pub fn resumed(&self) -> u64 {
        self.resumed
    }

    /// What comes next; `None` once the limit is reached. Cancel safe: a dropped
    /// call loses nothing, and looking for a gateway does not begin anew.
    pub async fn next(&mut self) -> Result<Option<Received>, ClientError> {
        loop {
            if self.finished {
                return Ok(None);
            }
            let status = match self.try_next().await {
                Ok(received) => {
                    self.failing_since = None;
                    return Ok(Some(received));
                }
                Err(status) => status,
            };
            self.stream = None;
            if !is_transient(&status) {
                return Err(status.into());
            }
            let since = *self.failing_since.get_or_insert_with(Instant::now);
            if since.elapsed() >= self.give_up_after {
                let seconds = self.give_up_after.as_secs();
                return Err(ClientError::GaveUp { seconds, last: Box::new(status) });
            }
            tracing::debug!(%status, "subscribing again");
            self.gateways.leave_current();
            self.resumed += 1;
            tokio::time::sleep(self.backoff.next_delay()).await;
        }
    }

    async fn try_next(&mut self) -> Result<Received, Status> {
        let stream = match &mut self.stream {
            Some(stream) => stream,
            None => {
                let channel = self
                    .gateways
                    .current()
                    .ok_or_else(|| Status::failed_precondition("no gateway is known"))?;
                let opened =
                    services::subscribe::client(channel).subscribe(self.request.clone()).await?;
                self.stream.insert(opened.into_inner())
            }
        };
        let response = stream
            .message()
            .await?
            .ok_or_else(|| Status::unavailable("the gateway ended the subscription"))?;
        self.backoff.reset();
        // From here on a loss goes on after this response.
        self.request.start = Some(Start::Cursor(response.cursor.clone()).to_wire());
        if self.request.limit > 0 {
            let is_message = |delivery: &&v1::Delivery| {
                matches!(delivery.event, Some(v1::delivery::Event::Message(_)))
            };
            let messages = response.deliveries.iter().filter(is_message).count() as u64;
            self.request.limit = self.request.limit.saturating_sub(messages);
            self.finished = self.request.limit == 0;
        }
        Ok(Received { deliveries: response.deliveries, cursor: response.cursor })
    }
}
