//! `ChannelService` and `PublishService` as a gateway has them: handed on to the
//! push-node of its region, so that a client needs one address.

use std::pin::Pin;

use interlock_rpc::services::{channel, publish};
use interlock_rpc::v1;
use tokio_stream::{Stream, StreamExt as _};
use tonic::{Request, Response, Status, Streaming};

use crate::push_nodes::PushNodes;

/// Hands calls on.
#[derive(Clone)]
pub(crate) struct Forwarding {
    pub(crate) push_nodes: PushNodes,
}

type Responses<T> = Pin<Box<dyn Stream<Item = Result<T, Status>> + Send>>;

/// Hands one call on and turns to another push-node when this one cannot be
/// reached. The call itself is not made twice: whether it is safe is for the
/// caller to know.
macro_rules! hand_on {
    ($self:ident, $service:ident, $method:ident, $request:expr) => {{
        let node = $self.push_nodes.current()?;
        let outcome = $service::client(node.calls.clone()).$method($request).await;
        outcome.inspect_err(|status| $self.push_nodes.failed(&node, status))
    }};
}

/// Hands a stream on. It takes room of its own for as long as its client keeps it.
macro_rules! hand_on_stream {
    ($self:ident, $service:ident, $method:ident, $request:expr) => {{
        let node = $self.push_nodes.current()?;
        let slot = node.streams.slot().await?;
        let outcome = $service::client(slot.channel.clone()).$method($request).await;
        let response = outcome.inspect_err(|status| $self.push_nodes.failed(&node, status))?;
        Ok(response.map(|stream| {
            let stream = stream.map(move |item| {
                let _until_the_end = &slot;
                item
            });
            Box::pin(stream) as Responses<_>
        }))
    }};
}

#[tonic::async_trait]
impl channel::Service for Forwarding {
    type WatchChannelsStream = Responses<v1::WatchChannelsResponse>;

    async fn create_channel(
        &self,
        request: Request<v1::CreateChannelRequest>,
    ) -> Result<Response<v1::CreateChannelResponse>, Status> {
        hand_on!(self, channel, create_channel, request)
    }

    async fn update_channel(
        &self,
        request: Request<v1::UpdateChannelRequest>,
    ) -> Result<Response<v1::UpdateChannelResponse>, Status> {
        hand_on!(self, channel, update_channel, request)
    }

    async fn delete_channel(
        &self,
        request: Request<v1::DeleteChannelRequest>,
    ) -> Result<Response<v1::DeleteChannelResponse>, Status> {
        hand_on!(self, channel, delete_channel, request)
    }

    async fn get_channel(
        &self,
        request: Request<v1::GetChannelRequest>,
    ) -> Result<Response<v1::GetChannelResponse>, Status> {
        hand_on!(self, channel, get_channel, request)
    }

    async fn list_channels(
        &self,
        request: Request<v1::ListChannelsRequest>,
    ) -> Result<Response<v1::ListChannelsResponse>, Status> {
        hand_on!(self, channel, list_channels, request)
    }

    async fn watch_channels(
        &self,
        request: Request<v1::WatchChannelsRequest>,
    ) -> Result<Response<Self::WatchChannelsStream>, Status> {
        hand_on_stream!(self, channel, watch_channels, request)
    }

    async fn get_channel_content(
        &self,
        request: Request<v1::GetChannelContentRequest>,
    ) -> Result<Response<v1::GetChannelContentResponse>, Status> {
        hand_on!(self, channel, get_channel_content, request)
    }

    async fn refresh_channel_content(
        &self,
        request: Request<v1::RefreshChannelContentRequest>,
    ) -> Result<Response<v1::RefreshChannelContentResponse>, Status> {
        hand_on!(self, channel, refresh_channel_content, request)
    }
}

#[tonic::async_trait]
impl publish::Service for Forwarding {
    type PublishStreamStream = Responses<v1::PublishStreamResponse>;

    async fn open_session(
        &self,
        request: Request<v1::OpenSessionRequest>,
    ) -> Result<Response<v1::OpenSessionResponse>, Status> {
        hand_on!(self, publish, open_session, request)
    }

    async fn publish(
        &self,
        request: Request<v1::PublishRequest>,
    ) -> Result<Response<v1::PublishResponse>, Status> {
        hand_on!(self, publish, publish, request)
    }

    async fn publish_stream(
        &self,
        request: Request<Streaming<v1::PublishStreamRequest>>,
    ) -> Result<Response<Self::PublishStreamStream>, Status> {
        // A client that breaks off ends the stream to the push-node too.
        let request = request.map(|stream| stream.map_while(Result::ok));
        hand_on_stream!(self, publish, publish_stream, request)
    }
}
