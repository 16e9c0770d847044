//! The mesh of a test, and what its clients do.

use std::collections::BTreeMap;
use std::path::Path;
use std::time::Duration;

use bytes::Bytes;
use interlock_cli::dev_mesh::{DevMesh, DevMeshOptions};
use interlock_client::{Mesh, Start, Subscriber, SubscriberOptions};
use interlock_rpc::channel::EndpointConfig;
use interlock_rpc::{services, v1};
use tempfile::TempDir;
use tonic::transport::Channel;
use tonic::{Request, Status};

use crate::waiting::{PATIENCE, holds, in_time, until};

/// The regions of every mesh here.
pub(crate) const REGIONS: [&str; 3] = ["europe", "america", "asia"];

pub(crate) type ChannelClient = services::channel::Client<Channel>;
pub(crate) type PublishClient = services::publish::Client<Channel>;

/// A mesh with a namespace `demo` in all regions.
pub(crate) struct World {
    pub(crate) mesh: DevMesh,
    pub(crate) client: Mesh,
    pub(crate) folder: TempDir,
}

impl World {
    pub(crate) async fn start() -> Self {
        Self::with_web_origin(None).await
    }

    /// The regions fetch sources from this web server.
    pub(crate) async fn with_web_origin(web_origin: Option<String>) -> Self {
        interlock_rpc::install_crypto_provider();
        let folder = tempfile::tempdir().expect("a temporary folder");
        let options = DevMeshOptions {
            folder: folder.path().to_owned(),
            regions: REGIONS.map(str::to_owned).to_vec(),
            web_origin,
        };
        let mesh = DevMesh::start(options).await.expect("the mesh starts");
        let client = mesh.client().expect("addresses");
        let world = Self { mesh, client, folder };
        world.group("world", &REGIONS).await;
        world.namespace("demo", &["world"]).await;
        for region in REGIONS {
            world.until_ready(region, "demo").await;
        }
        world
    }

    /// Ends it without the patience of an orderly end.
    pub(crate) async fn end(mut self) {
        for region in REGIONS {
            // Where a test has ended it already, there is nothing to do.
            let _ = self.mesh.abort_node(region).await;
        }
    }

    // Placement.

    pub(crate) async fn group(&self, name: &str, regions: &[&str]) {
        let request = v1::ApplyGroupRequest {
            name: name.to_owned(),
            regions: owned(regions),
            ..Default::default()
        };
        until("the regions are known", async || {
            self.client.topology().expect("a control-plane").apply_group(request.clone()).await
        })
        .await;
    }

    pub(crate) async fn namespace(&self, name: &str, groups: &[&str]) {
        let request = v1::CreateNamespaceRequest {
            name: name.to_owned(),
            groups: owned(groups),
            disk_cap_bytes: 0,
            retention: None,
        };
        let mut topology = self.client.topology().expect("a control-plane");
        topology.create_namespace(request).await.expect("the name is free");
    }

    /// Waits until a region's node accepts for a namespace.
    pub(crate) async fn until_ready(&self, region: &str, namespace: &str) {
        until("the node is ready", async || {
            let status = self.status(region).await?;
            let held = status.namespaces.iter().find(|held| held.name == namespace);
            let ready = held.is_some_and(|held| held.member && held.ready);
            holds(ready, status).map_err(|status| Status::unavailable(format!("{status:?}")))
        })
        .await;
    }

    // Faults.

    pub(crate) async fn abort(&mut self, region: &str) {
        self.mesh.abort_node(region).await.expect("it is up");
    }

    /// Starts a node that is down and waits until it accepts.
    pub(crate) async fn restart(&mut self, region: &str) {
        // Something else may hold its port for a moment.
        let mesh = &mut self.mesh;
        until("the node starts", async || mesh.start_node(region).await).await;
        self.until_ready(region, "demo").await;
    }

    pub(crate) async fn restart_gateway(&mut self, region: &str) {
        let mesh = &mut self.mesh;
        mesh.stop_gateway(region).await.expect("it is up");
        until("the gateway starts", async || mesh.start_gateway(region).await).await;
    }

    // What nodes hold.

    pub(crate) async fn status(&self, region: &str) -> Result<v1::GetStatusResponse, Status> {
        let (_, mut node) = self.client.nodes(region).expect("a node").remove(0);
        Ok(node.get_status(v1::GetStatusRequest { brief: false }).await?.into_inner())
    }

    /// Marks with hashes of all logs, and digests of all namespaces.
    pub(crate) async fn held(&self, region: &str) -> Result<v1::VerifyResponse, Status> {
        let (_, mut node) = self.client.nodes(region).expect("a node").remove(0);
        let request = v1::VerifyRequest::default();
        let mut held = node.verify(request).await?.into_inner();
        held.logs.sort_by_key(|mark| {
            mark.log.map(|log| (log.namespace, log.origin, log.incarnation, log.shard))
        });
        held.namespaces.sort_by_key(|namespace| namespace.namespace);
        Ok(held)
    }

    /// Waits until all nodes hold the same logs with the same hashes, and the
    /// same state (promise I2, I3, I6).
    pub(crate) async fn until_same(&self) -> v1::VerifyResponse {
        self.until_same_at(&REGIONS).await
    }

    pub(crate) async fn until_same_at(&self, regions: &[&str]) -> v1::VerifyResponse {
        until("the nodes hold the same", async || {
            let mut seen = Vec::new();
            for region in regions {
                seen.push(self.held(region).await?);
            }
            let same = seen.windows(2).all(|pair| pair[0] == pair[1]);
            match holds(same, seen) {
                Ok(mut seen) => Ok(seen.remove(0)),
                Err(seen) => Err(Status::unavailable(format!("{seen:#?}"))),
            }
        })
        .await
    }

    // Channels.

    pub(crate) fn channels(&self, region: &str) -> ChannelClient {
        self.client.channels(region).expect("a push-node")
    }

    /// The same through the region's gateway.
    pub(crate) fn channels_by_gateway(&self, region: &str) -> ChannelClient {
        services::channel::client(self.gateway(region))
    }

    pub(crate) fn gateway(&self, region: &str) -> Channel {
        self.client.gateways(region).expect("a gateway").current().expect("an address")
    }

    pub(crate) async fn channel(
        &self,
        region: &str,
        channel: &str,
    ) -> Result<v1::GetChannelResponse, Status> {
        let request = get("demo", channel);
        Ok(self.channels(region).get_channel(request).await?.into_inner())
    }

    /// Creates a channel of `demo` and waits until every region has it.
    pub(crate) async fn create(&self, region: &str, channel: &str) {
        self.channels(region).create_channel(create(channel)).await.expect("the name is free");
        for region in REGIONS {
            until("the channel is there", async || self.channel(region, channel).await).await;
        }
    }

    // Publishing.

    pub(crate) fn publishing(&self, region: &str) -> PublishClient {
        self.client.publishing(region).expect("a push-node")
    }

    pub(crate) fn publishing_by_gateway(&self, region: &str) -> PublishClient {
        services::publish::client(self.gateway(region))
    }

    pub(crate) async fn publish(
        &self,
        region: &str,
        channel: &str,
        payload: impl Into<Bytes>,
    ) -> v1::PublishResponse {
        let request = publish(channel, payload);
        let published = self.publishing(region).publish(request).await;
        published.expect("the node accepts").into_inner()
    }

    /// Publishes these texts, one after the other.
    pub(crate) async fn publish_all(&self, region: &str, channel: &str, texts: &[String]) {
        for text in texts {
            self.publish(region, channel, text.clone()).await;
        }
    }

    // Reading.

    pub(crate) fn reader(&self, region: &str, channels: &[&str], start: Start) -> Reader {
        self.reader_of("demo", region, channels, start)
    }

    pub(crate) fn reader_of(
        &self,
        namespace: &str,
        region: &str,
        channels: &[&str],
        start: Start,
    ) -> Reader {
        let options =
            SubscriberOptions { start, give_up_after: PATIENCE, ..SubscriberOptions::default() };
        let gateways = self.client.gateways(region).expect("a gateway");
        Reader::new(Subscriber::new(gateways, namespace, &owned(channels), &options))
    }

    /// A subscription that the client does not mend.
    pub(crate) async fn subscribe(
        &self,
        region: &str,
        request: v1::SubscribeRequest,
    ) -> Result<tonic::Streaming<v1::SubscribeResponse>, Status> {
        let mut gateway = self.client.subscribing(region).expect("a gateway");
        Ok(gateway.subscribe(request).await?.into_inner())
    }

    /// The region's gateway over a connection of its own.
    pub(crate) fn own_subscribing(&self, region: &str) -> services::subscribe::Client<Channel> {
        let context = self.mesh.context();
        let address = context.regions[region].gateways[0].clone();
        let channel = EndpointConfig::new(address).connect_lazy().expect("an address");
        services::subscribe::client(channel)
    }

    /// All that is stored from a start up to now, and the cursor behind it.
    pub(crate) async fn history(&self, region: &str, channels: &[&str], start: Start) -> History {
        let request = v1::ReadHistoryRequest {
            namespace: "demo".to_owned(),
            channels: owned(channels),
            start: Some(start.to_wire()),
            limit: u32::MAX,
        };
        self.try_history(region, request).await.expect("the gateway answers")
    }

    pub(crate) async fn try_history(
        &self,
        region: &str,
        request: v1::ReadHistoryRequest,
    ) -> Result<History, Status> {
        let mut gateway = self.client.subscribing(region).expect("a gateway");
        let mut stream = gateway.read_history(request).await?.into_inner();
        let mut history = History::default();
        while let Some(response) = in_time("history", stream.message()).await? {
            history.messages.extend(response.messages);
            history.gaps += response.gaps.len();
            history.cursor = response.cursor;
            history.more = response.more;
        }
        Ok(history)
    }

    /// Publishes one message at each region and waits until a reader has them
    /// all: what would come twice or out of turn has come before.
    pub(crate) async fn close_off(&self, channel: &str, reader: &mut Reader, regions: &[&str]) {
        let end = format!("end {}", rand::random::<u64>());
        for region in regions {
            self.publish(region, channel, end.clone()).await;
        }
        reader
            .until("the last messages", |reader| {
                reader.texts().iter().filter(|text| **text == end).count() == regions.len()
            })
            .await;
        // Also those that were meant for other readers.
        reader.messages.retain(|message| !message.payload.starts_with(b"end "));
    }
}

/// What is stored of some channels.
#[derive(Clone, Debug, Default)]
pub(crate) struct History {
    pub(crate) messages: Vec<v1::DeliveredMessage>,
    pub(crate) gaps: usize,
    pub(crate) cursor: Bytes,
    pub(crate) more: bool,
}

impl History {
    pub(crate) fn texts(&self) -> Vec<String> {
        self.messages.iter().map(text).collect()
    }
}

/// A subscriber that keeps what it got.
pub(crate) struct Reader {
    subscriber: Subscriber,
    pub(crate) messages: Vec<v1::DeliveredMessage>,
    pub(crate) events: Vec<v1::ChannelEvent>,
    pub(crate) gaps: Vec<v1::DeliveryGap>,
    /// How often it was told that it has caught up.
    pub(crate) caught_up: usize,
    pub(crate) cursor: Bytes,
}

impl Reader {
    fn new(subscriber: Subscriber) -> Self {
        Self {
            subscriber,
            messages: Vec::new(),
            events: Vec::new(),
            gaps: Vec::new(),
            caught_up: 0,
            cursor: Bytes::new(),
        }
    }

    /// How often it had to subscribe again.
    pub(crate) fn resumed(&self) -> u64 {
        self.subscriber.resumed()
    }

    pub(crate) fn texts(&self) -> Vec<String> {
        self.messages.iter().map(text).collect()
    }

    /// Reads on until this holds.
    pub(crate) async fn until(&mut self, what: &str, enough: impl Fn(&Self) -> bool) {
        let reading = tokio::time::timeout(PATIENCE, async {
            while !enough(self) {
                let received = self.subscriber.next().await.expect("the gateway serves");
                let received = received.expect("there is no limit");
                for delivery in received.deliveries {
                    self.take(delivery.event.expect("a delivery is one of its kinds"));
                }
                self.cursor = received.cursor;
            }
        });
        if reading.await.is_err() {
            panic!("{what}: not in time; got {:?}, gaps {:?}", self.texts(), self.gaps);
        }
    }

    fn take(&mut self, event: v1::delivery::Event) {
        use v1::delivery::Event;
        match event {
            Event::Message(message) => self.messages.push(message),
            Event::Gap(gap) => self.gaps.push(gap),
            Event::ChannelEvent(event) => self.events.extend(event.event),
            Event::CaughtUp(_) => self.caught_up += 1,
            Event::Moved(_) => {}
        }
    }

    /// Reads until so many messages are there.
    pub(crate) async fn until_messages(&mut self, count: usize) {
        self.until("the messages", |reader| reader.messages.len() >= count).await;
    }

    /// Reads until it stands where its gateway stands.
    pub(crate) async fn until_caught_up(&mut self) {
        let before = self.caught_up;
        self.until("catching up", |reader| reader.caught_up > before).await;
    }
}

/// Along each origin's path, and so in each channel, numbers rise strictly: in
/// order and none twice (promise I3, I4). For paths without forks.
pub(crate) fn assert_rising(messages: &[v1::DeliveredMessage]) {
    let mut last = BTreeMap::new();
    for message in messages {
        let name = message.message.expect("a message has a name");
        let before = last.insert((name.origin, message.channel.clone()), name.m_id).unwrap_or(0);
        assert!(before < name.m_id, "{} after {before}: {message:?}", name.m_id);
    }
}

pub(crate) fn text(message: &v1::DeliveredMessage) -> String {
    String::from_utf8_lossy(&message.payload).into_owned()
}

/// Exactly these texts, each as often as expected, in whatever order.
#[track_caller]
pub(crate) fn assert_all(context: &str, got: &[String], expected: &[String]) {
    let mut balance = BTreeMap::new();
    for text in expected {
        *balance.entry(text).or_insert(0) += 1;
    }
    for text in got {
        *balance.entry(text).or_insert(0) -= 1;
    }
    balance.retain(|_, count| *count != 0);
    assert!(balance.is_empty(), "{context}: missing (above 0) or too often (below): {balance:?}");
}

pub(crate) fn sorted(mut texts: Vec<String>) -> Vec<String> {
    texts.sort();
    texts
}

/// `{what} 0`, `{what} 1`, …
pub(crate) fn numbered(what: &str, numbers: std::ops::Range<usize>) -> Vec<String> {
    numbers.map(|number| format!("{what} {number:04}")).collect()
}

pub(crate) fn owned(texts: &[&str]) -> Vec<String> {
    texts.iter().map(|text| (*text).to_owned()).collect()
}

pub(crate) fn get(namespace: &str, channel: &str) -> v1::GetChannelRequest {
    v1::GetChannelRequest { namespace: namespace.to_owned(), channel: channel.to_owned() }
}

pub(crate) fn create(channel: &str) -> v1::CreateChannelRequest {
    v1::CreateChannelRequest {
        namespace: "demo".to_owned(),
        channel: channel.to_owned(),
        ..Default::default()
    }
}

pub(crate) fn describe(channel: &str, description: &str) -> v1::UpdateChannelRequest {
    v1::UpdateChannelRequest {
        namespace: "demo".to_owned(),
        channel: channel.to_owned(),
        description: Some(description.to_owned()),
        ..Default::default()
    }
}

pub(crate) fn delete(channel: &str) -> v1::DeleteChannelRequest {
    v1::DeleteChannelRequest {
        namespace: "demo".to_owned(),
        channel: channel.to_owned(),
        ..Default::default()
    }
}

pub(crate) fn publication(channel: &str, payload: impl Into<Bytes>) -> v1::Publication {
    v1::Publication { channel: channel.to_owned(), payload: payload.into(), ..Default::default() }
}

pub(crate) fn publish(channel: &str, payload: impl Into<Bytes>) -> v1::PublishRequest {
    v1::PublishRequest {
        namespace: "demo".to_owned(),
        publication: Some(publication(channel, payload)),
        ..Default::default()
    }
}

pub(crate) fn subscribe(channels: &[&str], start: Start) -> v1::SubscribeRequest {
    v1::SubscribeRequest {
        namespace: "demo".to_owned(),
        channels: owned(channels),
        start: Some(start.to_wire()),
        ..Default::default()
    }
}

/// A call that gives up after this time.
pub(crate) fn within<T>(message: T, timeout: Duration) -> Request<T> {
    let mut request = Request::new(message);
    request.set_timeout(timeout);
    request
}

/// Copies a folder with what is in it.
pub(crate) fn copy_folder(from: &Path, to: &Path) {
    std::fs::create_dir_all(to).expect("the folder is writable");
    for entry in std::fs::read_dir(from).expect("it is a folder") {
        let entry = entry.expect("it can be read");
        let target = to.join(entry.file_name());
        if entry.file_type().expect("it has a type").is_dir() {
            copy_folder(&entry.path(), &target);
        } else {
            std::fs::copy(entry.path(), target).expect("it can be copied");
        }
    }
}
