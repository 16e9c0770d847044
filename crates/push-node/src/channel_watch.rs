//! One watcher of a namespace's channels: the present state first, then changes.

use std::sync::Arc;

use interlock_core::identity::NamespaceNumber;
use interlock_core::names::ChannelName;
use interlock_core::topology::Namespace;
use interlock_rpc::convert::channel as wire;
use interlock_rpc::status::{Reason, refusal};
use interlock_rpc::v1;
use interlock_rpc::v1::watch_channels_response::Event;
use tokio::sync::{broadcast, mpsc};
use tonic::Status;

use crate::context::NodeContext;
use crate::projector::ChannelNews;
use crate::tasks::until_set;

/// Channels read at a time for a watcher's first state.
const WATCH_PAGE: usize = 256;

type Events = mpsc::Sender<Result<v1::WatchChannelsResponse, Status>>;

/// Tells one watcher of channels: the present state, then changes.
pub struct ChannelWatch {
    context: Arc<NodeContext>,
    namespace: Namespace,
    prefix: String,
    out: Events,
}

/// The watcher is gone.
struct WatcherGone;

impl ChannelWatch {
    /// Tells a watcher of the channels with a prefix.
    pub fn new(
        context: Arc<NodeContext>,
        namespace: Namespace,
        prefix: String,
        out: Events,
    ) -> Self {
        Self { context, namespace, prefix, out }
    }

    /// Runs until the watcher or the node ends.
    pub async fn run(self) {
        let mut news = self.context.channel_news.subscribe();
        let mut ending = self.context.tasks.ending();
        // An end of the watcher needs no word.
        let _ = tokio::select! {
            ended = self.tell(&mut news) => ended,
            () = until_set(&mut ending) => {
                let status = refusal(Reason::Draining, "this node is ending").into();
                self.out.send(Err(status)).await.map_err(|_| WatcherGone)
            }
        };
    }

    async fn tell(&self, news: &mut broadcast::Receiver<ChannelNews>) -> Result<(), WatcherGone> {
        self.tell_state().await?;
        loop {
            let event = tokio::select! {
                event = news.recv() => event,
                () = self.out.closed() => return Err(WatcherGone),
            };
            match event {
                Ok(ChannelNews::Changed(namespace, channel)) => {
                    if self.is_watched(namespace, &channel) {
                        self.tell_channel(&channel).await?;
                    }
                }
                Ok(ChannelNews::Lost(namespace, channel, lost)) => {
                    if self.is_watched(namespace, &channel) {
                        let lost = wire::lost_operation(namespace, &lost);
                        self.send(Event::Lost(lost)).await?;
                    }
                }
                // The watcher was too slow: it gets the state anew.
                Err(broadcast::error::RecvError::Lagged(_)) => self.tell_state().await?,
                Err(broadcast::error::RecvError::Closed) => return Ok(()),
            }
        }
    }

    async fn tell_state(&self) -> Result<(), WatcherGone> {
        let directory = self.context.directories.namespace(self.namespace.number);
        let mut after: Option<String> = None;
        loop {
            let (channels, next) = directory.read(|directory| {
                let page = directory.page(&self.prefix, after.as_deref(), true, WATCH_PAGE);
                let channels: Vec<v1::Channel> = page
                    .channels
                    .iter()
                    .map(|(name, definition)| wire::channel(&self.namespace.name, name, definition))
                    .collect();
                (channels, page.next_after.map(ToString::to_string))
            });
            for channel in channels {
                self.send(Event::Changed(channel)).await?;
            }
            if next.is_none() {
                break;
            }
            after = next;
        }
        self.send(Event::Synchronized(true)).await
    }

    async fn tell_channel(&self, channel: &ChannelName) -> Result<(), WatcherGone> {
        let directory = self.context.directories.namespace(self.namespace.number);
        let definition = directory.read(|directory| directory.get(channel).cloned());
        let Some(definition) = definition else { return Ok(()) };
        let channel = wire::channel(&self.namespace.name, channel, &definition);
        self.send(Event::Changed(channel)).await
    }

    fn is_watched(&self, namespace: NamespaceNumber, channel: &ChannelName) -> bool {
        namespace == self.namespace.number && channel.as_str().starts_with(&self.prefix)
    }

    async fn send(&self, event: Event) -> Result<(), WatcherGone> {
        let response = v1::WatchChannelsResponse { event: Some(event) };
        self.out.send(Ok(response)).await.map_err(|_| WatcherGone)
    }
}
