//! `SubscribeService`: where subscribers call (METHOD M13).

use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use interlock_core::delivery::ChannelFilter;
use interlock_core::limits::{MAX_SUBSCRIPTIONS, MAX_UNREAD_RESPONSES};
use interlock_core::names::NamespaceName;
use interlock_rpc::convert::InvalidField;
use interlock_rpc::convert::delivery::start_position;
use interlock_rpc::services::subscribe::Service;
use interlock_rpc::status::{Reason, reason_of, refusal};
use interlock_rpc::{services, v1};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc, watch};
use tokio_stream::Stream;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Response, Status};

use crate::fan_out::Timer;
use crate::history;
use crate::metrics::GatewayMetrics;
use crate::namespaces::Namespaces;
use crate::push_nodes::PushNodes;
use crate::subscriber_session::SubscriberSession;

/// The service.
pub(crate) struct SubscribeService {
    pub(crate) gateway: String,
    pub(crate) namespaces: Namespaces,
    pub(crate) push_nodes: PushNodes,
    pub(crate) metrics: GatewayMetrics,
    pub(crate) timer: Timer,
    pub(crate) draining: watch::Receiver<bool>,
    pub(crate) subscriptions: SubscriptionRoom,
}

/// When a retry may help where there are too many subscriptions.
const ROOM_RETRY: Duration = Duration::from_secs(5);

/// Room for as many subscriptions as the gateway takes, reads of history included.
pub(crate) struct SubscriptionRoom(Arc<Semaphore>);

impl SubscriptionRoom {
    pub(crate) fn new() -> Self {
        Self::of(MAX_SUBSCRIPTIONS)
    }

    fn of(subscriptions: usize) -> Self {
        Self(Arc::new(Semaphore::new(subscriptions)))
    }

    fn take(&self) -> Result<OwnedSemaphorePermit, Status> {
        Arc::clone(&self.0).try_acquire_owned().map_err(|_| {
            let text = "this gateway has as many subscriptions as it takes";
            refusal(Reason::TooManyConnections, text).retry_after(ROOM_RETRY).into_status()
        })
    }
}

type Responses<T> = Pin<Box<dyn Stream<Item = Result<T, Status>> + Send>>;

#[tonic::async_trait]
impl Service for SubscribeService {
    type SubscribeStream = Responses<v1::SubscribeResponse>;
    type ReadHistoryStream = Responses<v1::ReadHistoryResponse>;

    async fn subscribe(
        &self,
        request: Request<v1::SubscribeRequest>,
    ) -> Result<Response<Self::SubscribeStream>, Status> {
        let request = request.into_inner();
        self.refuse_while_draining()?;
        let room = self.subscriptions.take()?;
        check_namespace(&request.namespace)?;
        if request.channels.is_empty() {
            return Err(invalid("channels", "name at least one channel, or * for all"));
        }
        let filter = filter(&request.channels)?;
        let start = checked_start(request.start)?.unwrap_or_default();
        self.check_channels(&request.namespace, &filter, is_resumed(&start)).await?;
        let (responses, stream) = mpsc::channel(MAX_UNREAD_RESPONSES);
        let session = SubscriberSession {
            gateway: self.gateway.clone(),
            fan_out: self.namespaces.follow(&request.namespace),
            push_nodes: self.push_nodes.clone(),
            metrics: self.metrics.clone(),
            timer: self.timer,
            filter,
            decline_gaps: request.decline_gaps,
            limit: (request.limit > 0).then_some(request.limit),
            responses,
            draining: self.draining.clone(),
            seed: rand::random(),
        };
        tokio::spawn(async move {
            session.run(start).await;
            drop(room);
        });
        Ok(Response::new(Box::pin(ReceiverStream::new(stream))))
    }

    async fn read_history(
        &self,
        request: Request<v1::ReadHistoryRequest>,
    ) -> Result<Response<Self::ReadHistoryStream>, Status> {
        let request = request.into_inner();
        self.refuse_while_draining()?;
        let room = self.subscriptions.take()?;
        check_namespace(&request.namespace)?;
        let filter = filter(&request.channels)?;
        let start = checked_start(request.start.clone())?;
        let resumed = start.as_ref().is_some_and(is_resumed);
        self.check_channels(&request.namespace, &filter, resumed).await?;
        let (responses, stream) = mpsc::channel(MAX_UNREAD_RESPONSES);
        let read = history::read(
            self.push_nodes.clone(),
            self.gateway.clone(),
            request,
            filter,
            responses,
        );
        tokio::spawn(async move {
            read.await;
            drop(room);
        });
        Ok(Response::new(Box::pin(ReceiverStream::new(stream))))
    }
}

impl SubscribeService {
    fn refuse_while_draining(&self) -> Result<(), Status> {
        if *self.draining.borrow() {
            return Err(
                refusal(Reason::Draining, "this gateway stops: subscribe elsewhere").into_status()
            );
        }
        Ok(())
    }

    /// A channel asked for by name must be known in this region, so that a typing
    /// error does not wait for ever. Who comes with a cursor has read it already:
    /// it may have been deleted since, or not have come to this region yet.
    async fn check_channels(
        &self,
        namespace: &str,
        filter: &ChannelFilter,
        resumed: bool,
    ) -> Result<(), Status> {
        let node = self.push_nodes.current()?;
        let mut client = services::channel::client(node.calls.clone());
        for name in filter.exact() {
            let request = v1::GetChannelRequest {
                namespace: namespace.to_owned(),
                channel: name.to_string(),
            };
            if let Err(status) = client.get_channel(request).await {
                if resumed && reason_of(&status) == Some(Reason::UnknownChannel) {
                    continue;
                }
                self.push_nodes.failed(&node, &status);
                return Err(status);
            }
        }
        Ok(())
    }
}

/// A start as it came, if it is one.
fn checked_start(start: Option<v1::StartPosition>) -> Result<Option<v1::StartPosition>, Status> {
    // A cursor that cannot be read has a reason of its own, told where it is used.
    let is_cursor = start.as_ref().is_some_and(is_resumed);
    if !is_cursor {
        start_position(start.clone())?;
    }
    Ok(start)
}

fn is_resumed(start: &v1::StartPosition) -> bool {
    matches!(start.position, Some(v1::start_position::Position::Cursor(_)))
}

fn check_namespace(namespace: &str) -> Result<(), Status> {
    NamespaceName::parse(namespace)
        .map(|_| ())
        .map_err(|error| invalid("namespace", &error.to_string()))
}

fn filter(channels: &[String]) -> Result<ChannelFilter, Status> {
    ChannelFilter::parse(channels).map_err(|error| invalid("channels", &error.to_string()))
}

fn invalid(field: &str, reason: &str) -> Status {
    refusal(Reason::InvalidField, format!("{field}: {reason}"))
        .field(InvalidField::new(field, reason))
        .into_status()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn more_subscriptions_than_there_is_room_for_are_refused() {
        let room = SubscriptionRoom::of(2);
        let (first, _second) = (room.take().expect("room"), room.take().expect("room"));
        let refused = room.take().expect_err("no room");
        assert_eq!(refused.code(), tonic::Code::ResourceExhausted);
        assert_eq!(reason_of(&refused), Some(Reason::TooManyConnections));
        drop(first);
        assert!(room.take().is_ok(), "there is room again");
    }
}
