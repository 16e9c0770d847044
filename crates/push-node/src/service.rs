//! The node put together: opens the storage, mints this opening, rebuilds what
//! the log means, starts threads, links and servers; and ends them in the
//! opposite order.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, AtomicU64};
use std::sync::{Arc, Weak};

use interlock_core::admission::{Admission, RecoveredState};
use interlock_core::identity::{FencingToken, Incarnation, MemberOpening, NodeNumber};
use interlock_core::topology::Topology;
use interlock_rpc::channel::Backoff;
use interlock_rpc::server::{FinishedCall, GrpcServer, Listener, ServeError, ServerConfig};
use interlock_rpc::services;
use interlock_rpc::topology_file;
use interlock_storage::{OpenError, Recovery, RocksOptions, RocksStorage, StorageError};
use interlock_telemetry::Readiness;
use interlock_telemetry::metrics::{Registry, RpcMetrics};
use thiserror::Error;
use tokio::sync::{mpsc, oneshot, watch};

use crate::alarms::Alarms;
use crate::channel_service::ChannelServer;
use crate::checkpoint::store_checkpoints;
use crate::config::{Config, ConfigError};
use crate::context::{GatewayCount, Identity, NodeContext, ReleaseGuard};
use crate::control_plane_link::{
    ControlPlaneLink, Registration, RegistrationError, RegistrationRequest, control_plane_client,
    register,
};
use crate::delivery_service::DeliveryServer;
use crate::directories::Directories;
use crate::durable_state::{DurableLog, DurableState};
use crate::failure::FailureWatch;
use crate::inbound_link::ReplicationServer;
use crate::metrics::NodeMetrics;
use crate::node_clock::NodeClock;
use crate::node_service::NodeServer;
use crate::opening::{OpeningError, rebuild_projections};
use crate::origin_news::OriginNewsBoard;
use crate::outbound_links::OutboundLinks;
use crate::peer_lag::{LagBoard, watch_lag};
use crate::projector::channel_news;
use crate::publish_service::PublishServer;
use crate::readiness::{OpenedRecorder, ReadinessBoard, ReadinessInputs, watch_readiness};
use crate::replication_hub::ReplicationHub;
use crate::running::{Addresses, Running};
use crate::source_fetcher::{FetchError, SourceFetcher, SourceFetcherConfig};
use crate::space_watch::{SpaceBoard, watch_space};
use crate::status::register_gauges;
use crate::stored_messages::Storage;
use crate::tasks::TaskSet;
use crate::threads::{ThreadParts, Threads};
use crate::topology_state::{TopologyDocumentError, TopologyState, load_topology, store_topology};
use crate::work_queue::WorkQueue;
use crate::writer_commands::LogWriter;

/// A push-node: [`start`](Self::start) it.
#[derive(Debug)]
pub struct PushNode;

/// Why a push-node does not start.
#[derive(Debug, Error)]
pub enum StartError {
    /// The configuration contradicts itself.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// An address cannot be listened at.
    #[error("listening at {address}: {source}")]
    Listen {
        /// The address.
        address: SocketAddr,
        /// What the system says.
        source: std::io::Error,
    },
    /// The database cannot be opened.
    #[error(transparent)]
    Open(#[from] OpenError),
    /// The database fails.
    #[error(transparent)]
    Storage(#[from] StorageError),
    /// What the log means cannot be rebuilt.
    #[error(transparent)]
    Projections(#[from] OpeningError),
    /// The stored topology cannot be used.
    #[error(transparent)]
    TopologyDocument(#[from] TopologyDocumentError),
    /// The topology file cannot be used.
    #[error(transparent)]
    TopologyFile(#[from] topology_file::TopologyFileError),
    /// The topology does not have this node, or has it elsewhere.
    #[error("the topology has no node {node} in region {region}")]
    NotInTopology {
        /// The node's name.
        node: String,
        /// Its region.
        region: String,
    },
    /// The control-plane refuses this node.
    #[error(transparent)]
    Registration(#[from] RegistrationError),
    /// The web origin cannot be used.
    #[error(transparent)]
    Source(#[from] FetchError),
    /// A server cannot begin.
    #[error(transparent)]
    Serve(#[from] ServeError),
    /// A thread cannot be started.
    #[error("starting a thread: {0}")]
    Thread(std::io::Error),
    /// A thread has panicked while the node was starting.
    #[error("opening the database has panicked")]
    Panicked,
}

impl PushNode {
    /// Starts a push-node.
    pub async fn start(config: Config) -> Result<Running, StartError> {
        Self::bind(config).await?.start().await
    }

    /// Binds the listeners first, so that their addresses can be told to others
    /// before the node starts.
    pub async fn bind(config: Config) -> Result<Bound, StartError> {
        config.validate()?;
        let client = listen(config.client_listen).await?;
        let replication = listen(config.replication_listen).await?;
        Ok(Bound { config, client, replication })
    }
}

async fn listen(address: SocketAddr) -> Result<Listener, StartError> {
    let at = |source| StartError::Listen { address, source };
    Listener::bind(address).await.map_err(at)
}

/// A push-node whose listeners are bound and that does not serve yet.
#[derive(Debug)]
pub struct Bound {
    config: Config,
    client: Listener,
    replication: Listener,
}

impl Bound {
    /// Where clients will be served.
    pub fn client_address(&self) -> Result<SocketAddr, StartError> {
        let at = |source| StartError::Listen { address: self.config.client_listen, source };
        self.client.local_addr().map_err(at)
    }

    /// Where peers will be served.
    pub fn replication_address(&self) -> Result<SocketAddr, StartError> {
        let at = |source| StartError::Listen { address: self.config.replication_listen, source };
        self.replication.local_addr().map_err(at)
    }

    /// Opens the database and serves.
    pub async fn start(self) -> Result<Running, StartError> {
        let addresses =
            Addresses { client: self.client_address()?, replication: self.replication_address()? };
        let Self { config, client, replication } = self;
        let opened = Opened::open(config, addresses).await?;
        let node = opened.assemble().await?;
        node.serve(client, replication).await
    }
}

/// A database that is open, and who the node is.
struct Opened {
    config: Config,
    addresses: Addresses,
    storage: Storage,
    recovery: Recovery,
    topology: Topology,
    opening: MemberOpening,
    registration: Option<Registration>,
    request: RegistrationRequest,
}

impl Opened {
    /// Opens the database, finds out who the node is, and makes this opening
    /// durable, before anything is accepted.
    async fn open(config: Config, addresses: Addresses) -> Result<Self, StartError> {
        let path = config.data_dir.clone();
        let (storage, recovery) =
            blocking(move || RocksStorage::open(path, RocksOptions::default())).await??;
        let storage: Storage = Arc::new(storage);
        for cut in &recovery.cut {
            tracing::info!(log = %cut.log, kept = ?cut.kept, found = %cut.found, reason = %cut.reason,
                "messages that were never synced were taken off");
        }
        let stored = load_topology(storage.as_ref())?;
        let incarnation = random_incarnation();
        let request = RegistrationRequest {
            name: config.node.clone(),
            region: config.region.clone(),
            replication_address: advertised(&config.replication_advertise, addresses.replication),
            client_address: advertised(&config.client_advertise, addresses.client),
            incarnation,
            topology_version: stored.as_ref().map(|it| it.version).unwrap_or_default(),
        };
        let (topology, registration) = find_topology(&config, stored, &request).await?;
        let number = number_of(&config, &topology)?;
        let opening =
            MemberOpening { node: number, incarnation, opened_from: recovery.opened_from };
        let (storage, topology) = blocking(move || {
            store_topology(storage.as_ref(), &topology)?;
            storage.record_opening(opening)?;
            Ok::<_, StorageError>((storage, topology))
        })
        .await??;
        tracing::info!(
            node = %config.node,
            %number,
            incarnation = %opening.incarnation,
            opened_from = ?opening.opened_from,
            logs = recovery.logs.len(),
            topology = %topology.version,
            "the database is open"
        );
        Ok(Self { config, addresses, storage, recovery, topology, opening, registration, request })
    }

    /// Rebuilds what the log means, starts the threads, and makes the context.
    async fn assemble(self) -> Result<Assembled, StartError> {
        let Self { config, storage, recovery, topology, opening, .. } = self;
        let reading = Arc::clone(&storage);
        let (mut projected, recovery) = blocking(move || {
            rebuild_projections(reading.as_ref(), &recovery, opening.node)
                .map(|projected| (projected, recovery))
        })
        .await??;
        projected.directories.set_opening(opening.incarnation);

        let clock = NodeClock::start();
        let registry = Registry::new();
        let metrics = NodeMetrics::register(&registry);
        let alarms = Arc::new(Alarms::default());
        let failure = FailureWatch::new();
        let topology = Arc::new(TopologyState::new(topology));
        let durable = Arc::new(DurableState::new(
            recovery.logs.iter().map(durable_log),
            config.limits.tail_cache_bytes,
        ));
        let hub = Arc::new(ReplicationHub::new(
            opening,
            config.region_name()?,
            clock,
            &recovery.facts,
            durable.marks().into_iter().map(|(log, mark)| (log, mark.m_id)),
        ));
        let mut recovered = RecoveredState {
            directories: projected.directories_by_namespace(),
            publishers: projected.sessions,
            ..RecoveredState::new()
        };
        for log in &recovery.logs {
            recovered
                .insert_log(log.row.clone(), log.mark, log.floor, log.last_stamp)
                .expect("the opening walk left consistent rows");
        }
        let admission = Admission::new(opening, recovered, topology.current());

        let writer = LogWriter::new(config.limits.writer_queue_bytes);
        let projector_queue = Arc::new(WorkQueue::new());
        let channel_news = channel_news();
        let directories = Directories::new(projected.directories);
        let (backfilled_sender, backfilled) = mpsc::unbounded_channel();
        let threads = Threads::start(ThreadParts {
            storage: &storage,
            admission,
            writer: &writer,
            durable: &durable,
            projector_queue: &projector_queue,
            directories: &directories,
            publishers: projected.publishers,
            topology: &topology,
            channel_news: channel_news.clone(),
            backfilled: backfilled_sender,
            clock,
            alarms: &alarms,
            metrics: &metrics,
            failure: &failure,
            me: opening.node,
        })
        .map_err(StartError::Thread)?;

        let sources = SourceFetcher::new(&SourceFetcherConfig {
            web_origin: config.web_origin.clone(),
            allow_private_addresses: config.allow_private_sources,
            redirects: config.source_redirects,
            certificate_authorities: config.source_ca.clone(),
            timeout: config.source_timeout(),
        })?;
        let (released_sender, released) = oneshot::channel();
        let token = self.registration.as_ref().map_or(FencingToken::new(0), |it| it.token);
        let identity = Identity {
            opening,
            name: config.node_name()?,
            region: config.region_name()?,
            fencing_token: AtomicU64::new(token.get()),
        };
        let context = Arc::new(NodeContext {
            identity,
            clock,
            writer,
            news: Arc::new(OriginNewsBoard::new(opening, clock, Arc::clone(&topology))),
            durable,
            directories,
            topology,
            hub,
            links: OutboundLinks::default(),
            lag: LagBoard::default(),
            readiness: ReadinessBoard::default(),
            space: SpaceBoard::default(),
            sources,
            channel_news,
            projector: projector_queue,
            gateways: GatewayCount::default(),
            alarms,
            metrics,
            failure,
            tasks: TaskSet::new(),
            draining: watch::Sender::new(false),
            control_plane_connected: AtomicBool::new(self.registration.is_some()),
            publications: AtomicU64::new(0),
            config,
            storage,
            _released: ReleaseGuard(Some(released_sender)),
        });
        register_gauges(&registry, &context);
        Ok(Assembled {
            context,
            addresses: self.addresses,
            registry,
            threads,
            released,
            backfilled,
            registration: self.registration,
            request: self.request,
        })
    }
}

/// A node whose threads run and that nobody can call yet.
struct Assembled {
    context: Arc<NodeContext>,
    addresses: Addresses,
    registry: Registry,
    threads: Threads,
    released: oneshot::Receiver<()>,
    backfilled: mpsc::UnboundedReceiver<interlock_core::identity::NamespaceNumber>,
    registration: Option<Registration>,
    request: RegistrationRequest,
}

impl Assembled {
    /// Starts tasks, links and servers.
    async fn serve(self, client: Listener, replication: Listener) -> Result<Running, StartError> {
        let Self { context, addresses, registry, threads, released, backfilled, .. } = self;
        start_tasks(&context, backfilled, self.registration, self.request)?;

        let tls = context.config.tls.clone();
        let calls = RpcMetrics::register(&registry);
        let observe = move |call: &FinishedCall<'_>| {
            calls.observe(call.method, call.code_name(), call.duration, call.trace_id.clone());
        };
        let client_server = GrpcServer::new(ServerConfig::bulk().tls(tls.clone()))
            .observe(observe.clone())
            .add_service(services::publish::server(PublishServer::new(Arc::clone(&context))))
            .add_service(services::channel::server(ChannelServer::new(Arc::clone(&context))))
            .add_service(services::delivery::server(DeliveryServer::new(Arc::clone(&context))))
            .add_service(services::node::server(NodeServer::new(Arc::clone(&context))))
            .serve(client)
            .await?;
        let replication_server = GrpcServer::new(ServerConfig::bulk().tls(tls))
            .observe(observe)
            .add_service(services::replication::server(ReplicationServer::new(Arc::clone(
                &context,
            ))))
            .serve(replication)
            .await?;
        let readiness = Readiness::starting();
        let metrics_server = match context.config.metrics_listen {
            Some(address) => {
                let at = |source| StartError::Listen { address, source };
                let served = interlock_telemetry::serve(address, registry, readiness.clone());
                Some(served.await.map_err(at)?)
            }
            None => None,
        };
        readiness.set_ready();
        tracing::info!(
            client = %addresses.client,
            replication = %addresses.replication,
            "push-node serves"
        );
        Ok(Running {
            context,
            addresses,
            client_server,
            replication_server,
            metrics_server,
            readiness,
            threads,
            released,
        })
    }
}

fn start_tasks(
    context: &Arc<NodeContext>,
    backfilled: mpsc::UnboundedReceiver<interlock_core::identity::NamespaceNumber>,
    registration: Option<Registration>,
    request: RegistrationRequest,
) -> Result<(), StartError> {
    let tasks = &context.tasks;
    let (recorded_sender, recorded) = mpsc::unbounded_channel();
    let recorder = match &context.config.control_plane {
        Some(address) => {
            let (opened_sender, opened) = mpsc::unbounded_channel();
            let client = control_plane_client(&context.config, address)
                .map_err(RegistrationError::Address)?;
            let link = ControlPlaneLink {
                context: Arc::clone(context),
                client,
                request,
                registration,
                opened,
                recorded: recorded_sender,
                unrecorded: Default::default(),
            };
            tasks.spawn(link.run());
            OpenedRecorder::ControlPlane(opened_sender)
        }
        None => OpenedRecorder::OnDiskOnly,
    };
    let may_found = context.config.control_plane.is_some() || context.config.bootstrap;
    let inputs = ReadinessInputs { backfilled, recorded, recorder, may_found };
    tasks.spawn(watch_readiness(Arc::clone(context), inputs));
    tasks.spawn(watch_space(Arc::clone(context)));
    tasks.spawn(watch_lag(Arc::clone(context)));
    tasks.spawn(store_checkpoints(Arc::clone(context)));
    tasks.spawn(run_hub(Arc::downgrade(context), tasks.ending()));
    tasks.spawn({
        let context = Arc::clone(context);
        async move { context.links.run(Arc::clone(&context)).await }
    });
    Ok(())
}

async fn run_hub(context: Weak<NodeContext>, mut ending: watch::Receiver<bool>) {
    let Some((hub, durable)) =
        context.upgrade().map(|context| (Arc::clone(&context.hub), Arc::clone(&context.durable)))
    else {
        return;
    };
    tokio::select! {
        () = hub.run(&durable) => {}
        () = crate::tasks::until_set(&mut ending) => {}
    }
}

async fn blocking<T: Send + 'static>(
    call: impl FnOnce() -> T + Send + 'static,
) -> Result<T, StartError> {
    tokio::task::spawn_blocking(call).await.map_err(|_| StartError::Panicked)
}

fn durable_log(log: &interlock_storage::RecoveredLog) -> DurableLog {
    DurableLog {
        row: log.row.clone(),
        durable: log.mark,
        applied: log.mark.m_id,
        floor: log.floor.m_id,
    }
}

fn random_incarnation() -> Incarnation {
    loop {
        if let Some(incarnation) = Incarnation::new(rand::random()) {
            return incarnation;
        }
    }
}

fn advertised(configured: &Option<String>, listening: SocketAddr) -> String {
    configured.clone().unwrap_or_else(|| listening.to_string())
}

/// The topology to start with: the newest of the stored one and the file's, or
/// the control-plane's where neither has this node.
async fn find_topology(
    config: &Config,
    stored: Option<Topology>,
    request: &RegistrationRequest,
) -> Result<(Topology, Option<Registration>), StartError> {
    if let Some(path) = &config.topology_file {
        let file = topology_file::load(path)?;
        return Ok(match stored {
            Some(stored) if stored.version > file.version => (stored, None),
            _ => (file, None),
        });
    }
    let name = config.node_name()?;
    if let Some(stored) = stored
        && stored.node_by_name(&name).is_some()
    {
        // The control-plane is not needed: the link registers when it can.
        return Ok((stored, None));
    }
    let address = config.control_plane.as_deref().ok_or(ConfigError::TopologySource)?;
    let mut client = control_plane_client(config, address).map_err(RegistrationError::Address)?;
    let mut backoff = Backoff::reconnect(rand::random());
    loop {
        match register(&mut client, request).await {
            Ok(registration) => return Ok((registration.topology.clone(), Some(registration))),
            Err(error) if error.may_pass() => {
                let delay = backoff.next_delay();
                tracing::info!(%error, ?delay, "waiting for the control-plane, which numbers this node");
                tokio::time::sleep(delay).await;
            }
            Err(error) => return Err(error.into()),
        }
    }
}

fn number_of(config: &Config, topology: &Topology) -> Result<NodeNumber, StartError> {
    let (name, region) = (config.node_name()?, config.region_name()?);
    topology
        .node_by_name(&name)
        .filter(|node| node.region == region)
        .map(|node| node.number)
        .ok_or_else(|| StartError::NotInTopology {
            node: name.to_string(),
            region: region.to_string(),
        })
}
