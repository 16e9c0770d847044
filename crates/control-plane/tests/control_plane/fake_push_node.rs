//! A push-node that answers as it is told, and counts.

use std::net::{Ipv4Addr, SocketAddr};
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use interlock_rpc::server::{GrpcServer, Listener, RunningServer, ServerConfig};
use interlock_rpc::services;
use interlock_rpc::status::{PublishOutcome, Reason, refusal};
use interlock_rpc::v1;
use tokio::net::TcpListener;
use tokio_stream::Stream;
use tonic::{Request, Response, Status};

/// What a fake answers to every edit.
#[derive(Clone, Copy, Debug)]
pub(super) enum Behaviour {
    /// Done.
    Obey,
    /// Refused for a rule, nothing stored.
    Refuse,
    /// Takes no work.
    Drain,
    /// Stored, and not where it was asked for.
    Late,
}

pub(super) struct FakePushNode {
    pub(super) calls: Arc<AtomicUsize>,
    server: RunningServer,
}

impl FakePushNode {
    pub(super) async fn start(behaviour: Behaviour) -> Self {
        let calls = Arc::new(AtomicUsize::new(0));
        let service = Channels { behaviour, calls: Arc::clone(&calls) };
        let listener = Listener::bind((Ipv4Addr::LOCALHOST, 0)).await.expect("a free port");
        let server = GrpcServer::new(ServerConfig::default())
            .add_service(services::channel::server(service))
            .serve(listener)
            .await
            .expect("serves");
        Self { calls, server }
    }

    pub(super) fn address(&self) -> String {
        self.server.local_addr().to_string()
    }

    pub(super) fn calls(&self) -> usize {
        self.calls.load(Ordering::SeqCst)
    }
}

/// Accepts connections, lets the caller speak, and hangs up: the call was perhaps
/// heard, and its answer is lost.
pub(super) async fn start_mute() -> (SocketAddr, Arc<AtomicUsize>) {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.expect("a free port");
    let address = listener.local_addr().expect("is bound");
    let connections = Arc::new(AtomicUsize::new(0));
    let counted = Arc::clone(&connections);
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            counted.fetch_add(1, Ordering::SeqCst);
            tokio::spawn(hear_and_hang_up(stream));
        }
    });
    (address, connections)
}

/// Takes part in HTTP/2 until the call's headers have come.
async fn hear_and_hang_up(stream: tokio::net::TcpStream) {
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    let (mut reader, mut writer) = stream.into_split();
    // An empty SETTINGS frame.
    let _ = writer.write_all(&[0, 0, 0, 4, 0, 0, 0, 0, 0]).await;
    let mut preface = [0; 24];
    if reader.read_exact(&mut preface).await.is_err() {
        return;
    }
    loop {
        let mut header = [0; 9];
        if reader.read_exact(&mut header).await.is_err() {
            return;
        }
        let length =
            usize::from(header[0]) << 16 | usize::from(header[1]) << 8 | usize::from(header[2]);
        let mut payload = vec![0; length];
        if reader.read_exact(&mut payload).await.is_err() {
            return;
        }
        let is_headers = header[3] == 1;
        if is_headers {
            return;
        }
    }
}

struct Channels {
    behaviour: Behaviour,
    calls: Arc<AtomicUsize>,
}

impl Channels {
    fn answer(&self, namespace: &str, name: &str) -> Result<v1::Channel, Status> {
        self.calls.fetch_add(1, Ordering::SeqCst);
        let not_stored = PublishOutcome::not_stored();
        match self.behaviour {
            Behaviour::Obey => Ok(v1::Channel {
                namespace: namespace.to_owned(),
                name: name.to_owned(),
                epoch: 1,
                ..v1::Channel::default()
            }),
            Behaviour::Refuse => Err(refusal(Reason::ChannelExists, "it is there already")
                .outcome(&not_stored)
                .into()),
            Behaviour::Drain => Err(refusal(Reason::Draining, "go elsewhere").into()),
            Behaviour::Late => Err(refusal(Reason::DurabilityTimeout, "durable here alone")
                .outcome(&PublishOutcome::stored(vec!["eu-1".to_owned()], false))
                .into()),
        }
    }
}

type WatchStream = Pin<Box<dyn Stream<Item = Result<v1::WatchChannelsResponse, Status>> + Send>>;

#[tonic::async_trait]
impl services::channel::Service for Channels {
    async fn create_channel(
        &self,
        request: Request<v1::CreateChannelRequest>,
    ) -> Result<Response<v1::CreateChannelResponse>, Status> {
        let request = request.into_inner();
        let channel = self.answer(&request.namespace, &request.channel)?;
        Ok(Response::new(v1::CreateChannelResponse {
            channel: Some(channel),
            ..v1::CreateChannelResponse::default()
        }))
    }

    async fn update_channel(
        &self,
        request: Request<v1::UpdateChannelRequest>,
    ) -> Result<Response<v1::UpdateChannelResponse>, Status> {
        let request = request.into_inner();
        let channel = self.answer(&request.namespace, &request.channel)?;
        Ok(Response::new(v1::UpdateChannelResponse {
            channel: Some(channel),
            ..v1::UpdateChannelResponse::default()
        }))
    }

    async fn delete_channel(
        &self,
        request: Request<v1::DeleteChannelRequest>,
    ) -> Result<Response<v1::DeleteChannelResponse>, Status> {
        let request = request.into_inner();
        let epoch = self.answer(&request.namespace, &request.channel)?.epoch;
        Ok(Response::new(v1::DeleteChannelResponse {
            epoch,
            ..v1::DeleteChannelResponse::default()
        }))
    }

    async fn get_channel(
        &self,
        request: Request<v1::GetChannelRequest>,
    ) -> Result<Response<v1::GetChannelResponse>, Status> {
        let request = request.into_inner();
        let channel = self.answer(&request.namespace, &request.channel)?;
        Ok(Response::new(v1::GetChannelResponse {
            channel: Some(channel),
            ..v1::GetChannelResponse::default()
        }))
    }

    async fn list_channels(
        &self,
        request: Request<v1::ListChannelsRequest>,
    ) -> Result<Response<v1::ListChannelsResponse>, Status> {
        let channel = self.answer(&request.into_inner().namespace, "only")?;
        Ok(Response::new(v1::ListChannelsResponse {
            channels: vec![channel],
            next_page_token: String::new(),
        }))
    }

    type WatchChannelsStream = WatchStream;

    async fn watch_channels(
        &self,
        request: Request<v1::WatchChannelsRequest>,
    ) -> Result<Response<WatchStream>, Status> {
        use tokio_stream::StreamExt as _;
        use v1::watch_channels_response::Event;
        let channel = self.answer(&request.into_inner().namespace, "only")?;
        let events = [Event::Changed(channel), Event::Synchronized(true)];
        let events = tokio_stream::iter(
            events.map(|event| Ok(v1::WatchChannelsResponse { event: Some(event) })),
        );
        Ok(Response::new(Box::pin(events.chain(tokio_stream::pending()))))
    }

    async fn get_channel_content(
        &self,
        _: Request<v1::GetChannelContentRequest>,
    ) -> Result<Response<v1::GetChannelContentResponse>, Status> {
        Ok(Response::new(v1::GetChannelContentResponse {
            content: b"content".to_vec().into(),
            info: None,
        }))
    }

    async fn refresh_channel_content(
        &self,
        request: Request<v1::RefreshChannelContentRequest>,
    ) -> Result<Response<v1::RefreshChannelContentResponse>, Status> {
        let request = request.into_inner();
        let channel = self.answer(&request.namespace, &request.channel)?;
        Ok(Response::new(v1::RefreshChannelContentResponse {
            channel: Some(channel),
            changed: true,
            ..v1::RefreshChannelContentResponse::default()
        }))
    }
}
