//! A mesh of push-nodes in one process: real servers on loopback, real RocksDB in
//! temporary folders, a topology from a file.

mod ways;

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use bytes::Bytes;
use interlock_core::identity::MessageNumber;
use interlock_core::message::Message;
use interlock_push_node::{Config, PushNode, Running};
use interlock_rpc::channel::EndpointConfig;
use interlock_rpc::{services, v1};
use tempfile::TempDir;
use tonic::transport::Channel;
use tonic::{Request, Status};

use self::ways::Way;

/// How long a condition may take to come about on a busy machine.
pub const PATIENCE: Duration = Duration::from_secs(60);

pub type PublishClient = services::publish::Client<Channel>;
pub type ChannelClient = services::channel::Client<Channel>;
pub type DeliveryClient = services::delivery::Client<Channel>;
pub type NodeClient = services::node::Client<Channel>;

/// A namespace of the test's topology.
#[derive(Clone, Debug)]
pub struct TestNamespace {
    pub name: &'static str,
    /// The indices of nodes in the regions that hold it.
    pub nodes: Vec<usize>,
    /// More lines of the topology file about it.
    pub options: &'static str,
}

impl TestNamespace {
    /// One that keeps everything.
    pub const fn on(name: &'static str, nodes: Vec<usize>) -> Self {
        Self { name, nodes, options: "" }
    }
}

/// One node of the mesh; it may be down.
pub struct TestNode {
    pub config: Config,
    pub running: Option<Running>,
    client: SocketAddr,
}

/// See the module's page.
pub struct Mesh {
    pub folder: TempDir,
    pub nodes: Vec<TestNode>,
    ways: BTreeMap<(usize, usize), Way>,
}

impl Mesh {
    /// As many nodes, each in a region of its own unless its configuration is changed,
    /// with one namespace `demo` on all of them.
    pub async fn start(count: usize) -> Self {
        let all = TestNamespace::on("demo", (0..count).collect());
        Self::with_namespaces(count, &[all]).await
    }

    /// The same with these namespaces.
    pub async fn with_namespaces(count: usize, namespaces: &[TestNamespace]) -> Self {
        Self::with_config(count, namespaces, |_, _| {}).await
    }

    /// The same with changes to each node's configuration.
    pub async fn with_config(
        count: usize,
        namespaces: &[TestNamespace],
        change: impl Fn(usize, &mut Config),
    ) -> Self {
        Self::with_ways(count, namespaces, &[], change).await
    }

    /// The same with ways from one node to another that [`Self::cut`] closes.
    pub async fn with_ways(
        count: usize,
        namespaces: &[TestNamespace],
        ways: &[(usize, usize)],
        change: impl Fn(usize, &mut Config),
    ) -> Self {
        interlock_rpc::install_crypto_provider();
        let folder = tempfile::tempdir().expect("a temporary folder");
        // One for each node: a way leads it to another address.
        let topology_file = |index| folder.path().join(format!("topology-{index}.toml"));
        let mut bound = Vec::new();
        for index in 0..count {
            let mut config = Config {
                node: format!("node-{index}"),
                region: format!("region-{index}"),
                data_dir: folder.path().join(format!("node-{index}")),
                client_listen: loopback(),
                replication_listen: loopback(),
                topology_file: Some(topology_file(index)),
                bootstrap: true,
                ..Config::default()
            };
            config.limits.publication_free_bytes = 0;
            config.limits.replication_free_bytes = 0;
            config.limits.drain_milliseconds = 2_000;
            change(index, &mut config);
            bound.push((config.clone(), PushNode::bind(config).await.expect("free ports")));
        }
        let placed: Vec<Placed> = bound
            .iter()
            .map(|(config, bound)| Placed {
                region: config.region.clone(),
                client: bound.client_address().expect("bound"),
                replication: bound.replication_address().expect("bound"),
            })
            .collect();
        let mut opened = BTreeMap::new();
        for (from, to) in ways {
            opened.insert((*from, *to), Way::to(placed[*to].replication).await);
        }
        for index in 0..count {
            let mut seen = placed.clone();
            for ((_, to), way) in opened.iter().filter(|((from, _), _)| *from == index) {
                seen[*to].replication = way.address();
            }
            std::fs::write(topology_file(index), topology_text(&seen, namespaces))
                .expect("the folder is writable");
        }
        let mut nodes = Vec::new();
        for ((mut config, bound), Placed { client, replication, .. }) in
            bound.into_iter().zip(placed)
        {
            config.client_listen = client;
            config.replication_listen = replication;
            let running = bound.start().await.expect("a fresh node starts");
            nodes.push(TestNode { config, running: Some(running), client });
        }
        let mesh = Self { folder, nodes, ways: opened };
        for index in 0..count {
            mesh.until_serving(index).await;
        }
        mesh
    }

    pub fn data_dir(&self, index: usize) -> PathBuf {
        self.nodes[index].config.data_dir.clone()
    }

    /// Ends a node as a crash would.
    pub async fn kill(&mut self, index: usize) {
        let running = self.nodes[index].running.take().expect("it is up");
        running.abort().await;
    }

    /// Ends a node as an operator would.
    pub async fn shutdown(&mut self, index: usize) {
        let running = self.nodes[index].running.take().expect("it is up");
        running.shutdown().await;
    }

    /// Starts a node that is down, at its old addresses.
    pub async fn restart(&mut self, index: usize) {
        let config = self.nodes[index].config.clone();
        let running = until("the node starts again", async || {
            PushNode::start(config.clone()).await.map_err(|error| error.to_string())
        })
        .await;
        self.nodes[index].running = Some(running);
    }

    /// Lets nothing through on a way, and breaks what is open there.
    pub fn cut(&self, from: usize, to: usize) {
        self.ways[&(from, to)].set_cut(true);
    }

    /// Lets it through again.
    pub fn mend(&self, from: usize, to: usize) {
        self.ways[&(from, to)].set_cut(false);
    }

    /// A metric's value at a node that was given an address for them, by its line's
    /// beginning.
    pub async fn metric(&self, at: usize, line: &str) -> Option<f64> {
        let running = self.nodes[at].running.as_ref().expect("it is up");
        let address = running.metrics_address().expect("it was asked for");
        let client = reqwest::Client::builder().no_proxy().build().expect("a plain client");
        let answer = client.get(format!("http://{address}/metrics")).send().await.ok()?;
        let text = answer.text().await.ok()?;
        let found = text.lines().find_map(|it| it.strip_prefix(line))?;
        found.trim().parse().ok()
    }

    fn channel(&self, index: usize) -> Channel {
        EndpointConfig::new(self.nodes[index].client.to_string())
            .connect_lazy()
            .expect("a plain address")
    }

    pub fn publisher(&self, index: usize) -> PublishClient {
        services::publish::client(self.channel(index))
    }

    pub fn channels(&self, index: usize) -> ChannelClient {
        services::channel::client(self.channel(index))
    }

    pub fn delivery(&self, index: usize) -> DeliveryClient {
        services::delivery::client(self.channel(index))
    }

    pub fn node(&self, index: usize) -> NodeClient {
        services::node::client(self.channel(index))
    }

    pub async fn status(&self, index: usize) -> Result<v1::GetStatusResponse, Status> {
        let request = v1::GetStatusRequest { brief: false };
        Ok(self.node(index).get_status(request).await?.into_inner())
    }

    /// Waits until a node accepts publications in all its namespaces.
    pub async fn until_serving(&self, index: usize) {
        until("the node serves", async || {
            let status = self.status(index).await.map_err(|status| status.to_string())?;
            match status.state() {
                v1::ServingState::Serving => Ok(()),
                other => Err(format!("{other:?}")),
            }
        })
        .await;
    }

    /// Creates a channel of `demo` and waits until these nodes have it.
    pub async fn create_channel(&self, at: usize, channel: &str, everywhere: &[usize]) {
        let request = v1::CreateChannelRequest {
            namespace: "demo".to_owned(),
            channel: channel.to_owned(),
            ..Default::default()
        };
        self.channels(at).create_channel(request).await.expect("the channel is new");
        for index in everywhere {
            until("the channel is everywhere", async || {
                let request = v1::GetChannelRequest {
                    namespace: "demo".to_owned(),
                    channel: channel.to_owned(),
                };
                self.channels(*index)
                    .get_channel(request)
                    .await
                    .map_err(|status| status.to_string())
            })
            .await;
        }
    }

    /// The durable marks of one node, by log, and the digests of its namespaces.
    pub async fn verify(&self, index: usize) -> Result<v1::VerifyResponse, Status> {
        let request = v1::VerifyRequest::default();
        Ok(self.node(index).verify(request).await?.into_inner())
    }

    /// Waits until these nodes hold the same logs with the same hashes and the
    /// same state.
    pub async fn until_converged(&self, nodes: &[usize]) {
        until("the nodes hold the same", async || {
            let mut seen = Vec::new();
            for index in nodes {
                let mut held = self.verify(*index).await.map_err(|status| status.to_string())?;
                held.logs.sort_by_key(|log| format!("{log:?}"));
                held.namespaces.sort_by_key(|namespace| namespace.namespace);
                seen.push(held);
            }
            match seen.windows(2).all(|pair| pair[0] == pair[1]) {
                true => Ok(()),
                false => Err(format!("{seen:#?}")),
            }
        })
        .await;
    }

    /// Publishes one message without a session.
    pub async fn publish(
        &self,
        at: usize,
        channel: &str,
        payload: impl Into<Bytes>,
    ) -> Result<v1::PublishResponse, Status> {
        let request = v1::PublishRequest {
            namespace: "demo".to_owned(),
            publication: Some(publication(channel, payload)),
            ..Default::default()
        };
        Ok(self.publisher(at).publish(request).await?.into_inner())
    }

    /// Reads everything that is durable at a node now, in the order of history.
    pub async fn read_all(&self, at: usize, channels: &[&str]) -> Vec<String> {
        let request = v1::FollowRequest { until_now: true, ..follow(oldest(), channels) };
        let (read, _) = self.read(at, request).await;
        read
    }

    /// Reads until the stream is finished: payloads, and the cursor at the end.
    pub async fn read(&self, at: usize, request: v1::FollowRequest) -> (Vec<String>, Bytes) {
        let stream = self.delivery(at).follow(request).await.expect("the node serves");
        until_finished(stream.into_inner()).await
    }
}

/// Reads a stream until it is finished: payloads, and the cursor at the end.
pub async fn until_finished(
    mut stream: tonic::Streaming<v1::FollowResponse>,
) -> (Vec<String>, Bytes) {
    let mut payloads = Vec::new();
    while let Some(response) = stream.message().await.expect("the stream goes on") {
        match response.body {
            Some(v1::follow_response::Body::Batch(batch)) => payloads.extend(texts(&batch)),
            Some(v1::follow_response::Body::Finished(finished)) => {
                return (payloads, finished.cursor);
            }
            _ => {}
        }
    }
    panic!("the stream ended before it was finished");
}

/// Any free port of this machine.
pub fn loopback() -> SocketAddr {
    SocketAddr::from(([127, 0, 0, 1], 0))
}

/// Where a node is, as another one has it.
#[derive(Clone)]
struct Placed {
    region: String,
    client: SocketAddr,
    replication: SocketAddr,
}

fn topology_text(placed: &[Placed], namespaces: &[TestNamespace]) -> String {
    let regions = |nodes: &mut dyn Iterator<Item = usize>| {
        let regions: BTreeSet<String> =
            nodes.map(|index| format!("\"{}\"", placed[index].region)).collect();
        regions.into_iter().collect::<Vec<_>>().join(", ")
    };
    let mut text = format!("version = 1\nregions = [{}]\n", regions(&mut (0..placed.len())));
    for (index, Placed { region, client, replication }) in placed.iter().enumerate() {
        text.push_str(&format!(
            "[[nodes]]\nnumber = {}\nname = \"node-{index}\"\nregion = \"{region}\"\n\
             client_address = \"{client}\"\nreplication_address = \"{replication}\"\n",
            index + 1
        ));
    }
    for (index, namespace) in namespaces.iter().enumerate() {
        let number = index + 1;
        let placed = regions(&mut namespace.nodes.iter().copied());
        text.push_str(&format!(
            "[[groups]]\nnumber = {number}\nname = \"group-{number}\"\nregions = [{placed}]\n\
             [[namespaces]]\nnumber = {number}\nname = \"{}\"\ngroups = [\"group-{number}\"]\n{}\n",
            namespace.name, namespace.options
        ));
    }
    text
}

pub fn publication(channel: &str, payload: impl Into<Bytes>) -> v1::Publication {
    v1::Publication {
        channel: channel.to_owned(),
        payload: payload.into(),
        key: Bytes::new(),
        traceparent: String::new(),
    }
}

pub fn follow(start: v1::StartPosition, channels: &[&str]) -> v1::FollowRequest {
    v1::FollowRequest {
        namespace: "demo".to_owned(),
        start: Some(start),
        channels: channels.iter().map(|&channel| channel.to_owned()).collect(),
        gateway: "test".to_owned(),
        ..Default::default()
    }
}

pub fn start(position: v1::start_position::Position) -> v1::StartPosition {
    v1::StartPosition { position: Some(position) }
}

pub fn oldest() -> v1::StartPosition {
    start(v1::start_position::Position::Oldest(true))
}

pub fn now() -> v1::StartPosition {
    start(v1::start_position::Position::Now(true))
}

/// The messages of a batch, with their names.
pub fn messages(batch: &v1::FollowBatch) -> Vec<(v1::LogName, MessageNumber, Message)> {
    batch
        .runs
        .iter()
        .flat_map(|run| {
            let log = run.log.expect("a run has a log");
            run.sends.iter().map(move |send| {
                let message = Message::decode(send).expect("what is delivered can be read");
                (log, message.m_id, message)
            })
        })
        .collect()
}

/// The payloads of a batch as text.
pub fn texts(batch: &v1::FollowBatch) -> Vec<String> {
    messages(batch)
        .into_iter()
        .map(|(_, _, message)| String::from_utf8_lossy(&message.payload).into_owned())
        .collect()
}

/// Tries until it works, for as long as patience lasts; says what was seen last.
pub async fn until<T, E: std::fmt::Debug>(
    what: &str,
    mut attempt: impl AsyncFnMut() -> Result<T, E>,
) -> T {
    let begun = Instant::now();
    loop {
        match attempt().await {
            Ok(value) => return value,
            Err(seen) if begun.elapsed() > PATIENCE => panic!("{what}: not in time: {seen:?}"),
            Err(_) => tokio::time::sleep(Duration::from_millis(20)).await,
        }
    }
}

/// A call that gives up after this time.
pub fn within<T>(message: T, timeout: Duration) -> Request<T> {
    let mut request = Request::new(message);
    request.set_timeout(timeout);
    request
}
