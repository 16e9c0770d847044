//! `ChannelService`, forwarded to a push-node of the region that the call's
//! metadata names.

use std::pin::Pin;
use std::sync::Arc;

use futures_util::{Stream, StreamExt as _};
use interlock_core::names::RegionName;
use interlock_rpc::convert::InvalidField;
use interlock_rpc::convert::identity::region_name;
use interlock_rpc::services::channel::{Client, Service};
use interlock_rpc::status::{Reason, refusal};
use interlock_rpc::v1;
use tokio::sync::watch;
use tonic::transport::Channel;
use tonic::{Request, Response, Status};

use crate::forwarding::{Forwarder, deadline_for, outgoing};

/// The metadata that names the region a call is for.
pub const REGION_METADATA: &str = "interlock-region";

/// Serves `ChannelService` by forwarding.
pub(crate) struct ChannelService {
    pub(crate) forwarder: Arc<Forwarder>,
    /// Becomes true when the process is about to end.
    pub(crate) draining: watch::Receiver<bool>,
}

type WatchStream = Pin<Box<dyn Stream<Item = Result<v1::WatchChannelsResponse, Status>> + Send>>;

/// A unary call to its region.
macro_rules! forward {
    ($self:ident, $request:ident, $method:ident) => {{
        let region = region_of(&$request)?;
        let deadline = deadline_for(&$request);
        let message = $request.into_inner();
        $self
            .unary(&region, |mut client| {
                let request = outgoing(message.clone(), Some(deadline));
                async move { client.$method(request).await }
            })
            .await
    }};
}

#[tonic::async_trait]
impl Service for ChannelService {
    async fn create_channel(
        &self,
        request: Request<v1::CreateChannelRequest>,
    ) -> Result<Response<v1::CreateChannelResponse>, Status> {
        forward!(self, request, create_channel)
    }

    async fn update_channel(
        &self,
        request: Request<v1::UpdateChannelRequest>,
    ) -> Result<Response<v1::UpdateChannelResponse>, Status> {
        forward!(self, request, update_channel)
    }

    async fn delete_channel(
        &self,
        request: Request<v1::DeleteChannelRequest>,
    ) -> Result<Response<v1::DeleteChannelResponse>, Status> {
        forward!(self, request, delete_channel)
    }

    async fn get_channel(
        &self,
        request: Request<v1::GetChannelRequest>,
    ) -> Result<Response<v1::GetChannelResponse>, Status> {
        forward!(self, request, get_channel)
    }

    async fn list_channels(
        &self,
        request: Request<v1::ListChannelsRequest>,
    ) -> Result<Response<v1::ListChannelsResponse>, Status> {
        forward!(self, request, list_channels)
    }

    type WatchChannelsStream = WatchStream;

    async fn watch_channels(
        &self,
        request: Request<v1::WatchChannelsRequest>,
    ) -> Result<Response<WatchStream>, Status> {
        let region = region_of(&request)?;
        let deadline = interlock_rpc::server::deadline_of(&request);
        let message = request.into_inner();
        let watched = self
            .unary(&region, |mut client| {
                let request = outgoing(message.clone(), deadline);
                async move { client.watch_channels(request).await }
            })
            .await?
            .into_inner();
        let mut draining = self.draining.clone();
        let drained = async move {
            // An error says that the service is gone, which is the end as well.
            let _ = draining.wait_for(|draining| *draining).await;
        };
        let end = futures_util::stream::once(async {
            Err(refusal(Reason::Draining, "the control-plane ends: watch again").into())
        });
        Ok(Response::new(Box::pin(watched.take_until(Box::pin(drained)).chain(end))))
    }

    async fn get_channel_content(
        &self,
        request: Request<v1::GetChannelContentRequest>,
    ) -> Result<Response<v1::GetChannelContentResponse>, Status> {
        forward!(self, request, get_channel_content)
    }

    async fn refresh_channel_content(
        &self,
        request: Request<v1::RefreshChannelContentRequest>,
    ) -> Result<Response<v1::RefreshChannelContentResponse>, Status> {
        forward!(self, request, refresh_channel_content)
    }
}

impl ChannelService {
    async fn unary<T, F>(
        &self,
        region: &RegionName,
        call: impl Fn(Client<Channel>) -> F,
    ) -> Result<Response<T>, Status>
    where
        F: Future<Output = Result<Response<T>, Status>> + Send,
    {
        let forwarded = self.forwarder.forward(region, call).await?;
        match forwarded.answer {
            // The headers it came with belong to the other connection.
            Ok(response) => Ok(Response::new(response.into_inner())),
            Err(error) => Err(error.into_status(&forwarded.node)),
        }
    }
}

fn region_of<T>(request: &Request<T>) -> Result<RegionName, Status> {
    let field = format!("metadata {REGION_METADATA}");
    let Some(value) = request.metadata().get(REGION_METADATA) else {
        let reason = "is missing: name the region whose push-node is meant, or call a push-node or \
                      gateway of that region";
        return Err(InvalidField::new(field, reason).into());
    };
    let text = value.to_str().map_err(|_| InvalidField::new(field.clone(), "is not ASCII"))?;
    Ok(region_name(text, &field)?)
}
