//! The node put together: opens the storage, mints this opening, rebuilds what
//! the log means, starts threads, links and servers; and ends them in the
//! opposite order.

use std::net::SocketAddr;
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicU64};
use std::sync::{Arc, Weak};

use interlock_core::admission::{Admission, RecoveredState};
use interlock_core::identity::{FencingToken, Incarnation, MemberOpening};
use interlock_core::topology::Topology;
use interlock_rpc::server::{FinishedCall, GrpcServer, Listener, ServerConfig};
use interlock_rpc::services;
use interlock_storage::{Recovery, RocksOptions, RocksStorage, StorageError};
use interlock_telemetry::Readiness;
use interlock_telemetry::metrics::{Registry, RpcMetrics};
use tokio::sync::{mpsc, oneshot, watch};

use crate::alarms::Alarms;
use crate::bringing_back::{BringingBackBoard, bring_back};
use crate::channel_segments::ChannelSegments;
use crate::channel_service::ChannelServer;
use crate::checkpoint::store_checkpoints;
use crate::config::Config;
use crate::context::{Identity, NodeContext};
use crate::control_plane_link::{
    ControlPlaneLink, Registration, RegistrationError, RegistrationRequest, control_plane_client,
};
use crate::delivery_service::{DeliveryServer, GatewayCount};
use crate::departures::{
    DepartureBoard, Departures, Left, check_still_in_mesh, remove_what_was_left, watch_departures,
};
use crate::directories::Directories;
use crate::divergence::{DivergenceBoard, keep_digests};
use crate::drain::turn_callers_away;
use crate::durable_state::{DurableLog, DurableState};
use crate::failure::FailureWatch;
use crate::inbound_link::ReplicationServer;
use crate::metrics::NodeMetrics;
use crate::node_clock::NodeClock;
use crate::node_service::NodeServer;
use crate::open_node::{Addresses, OpenNode};
use crate::opening::rebuild_projections;
use crate::origin_news::OriginNewsBoard;
use crate::outbound_links::OutboundLinks;
use crate::peer_lag::{LagBoard, watch_lag};
use crate::projector::channel_news;
use crate::publish_service::PublishServer;
use crate::readiness::{OpenedRecorder, ReadinessBoard, ReadinessInputs, watch_readiness};
use crate::repairing;
use crate::replication_hub::ReplicationHub;
use crate::retention::trim_by_retention;
use crate::running::Running;
use crate::scrub_progress::ScrubBoard;
use crate::scrubber::scrub_stored_data;
use crate::source_fetcher::{SourceFetcher, SourceFetcherConfig};
use crate::space_watch::{SpaceBoard, watch_space};
use crate::start_error::StartError;
use crate::starting_topology::{find_topology, number_of, registration_request};
use crate::status::register_gauges;
use crate::stored_messages::Storage;
use crate::tasks::TaskSet;
use crate::threads::{ThreadParts, Threads};
use crate::topology_state::{TopologyState, load_topology, store_topology};
use crate::work_queue::WorkQueue;
use crate::writer_commands::LogWriter;

/// A push-node: [`start`](Self::start) it.
#[derive(Debug)]
pub struct PushNode;

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

/// Opens the database and serves, without anyone who would open it anew.
pub(crate) async fn start_node(config: Config) -> Result<OpenNode, StartError> {
    PushNode::bind(config).await?.open().await
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
        let config = self.config.clone();
        Ok(Running::supervise(self.open().await?, config))
    }

    /// The same, without anyone who would open the database anew.
    pub(crate) async fn open(self) -> Result<OpenNode, StartError> {
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
    closed: oneshot::Receiver<()>,
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
        let (storage, recovery) = blocking(move || open_repaired(&path)).await??;
        let (storage, closed) = Storage::share(storage);
        for cut in &recovery.cut {
            tracing::info!(log = %cut.log, kept = ?cut.kept, found = %cut.found, reason = %cut.reason,
                "messages that were never synced were taken off");
        }
        let stored = load_topology(storage.as_ref())?;
        let incarnation = random_incarnation();
        let known = stored.as_ref().map(|it| it.version).unwrap_or_default();
        let request = registration_request(&config, &addresses, incarnation, known);
        let opened_as = recovery.opened_as;
        let (topology, registration) = find_topology(&config, stored, opened_as, &request).await?;
        let number = number_of(&config, &topology, opened_as)?;
        let (recovery, topology) = {
            let storage = storage.clone();
            blocking(move || {
                remove_what_was_left(storage.as_ref(), &topology, number, recovery)
                    .map(|recovery| (recovery, topology))
            })
            .await??
        };
        check_still_in_mesh(&config, &topology, number, &recovery)?;
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
        Ok(Self {
            config,
            addresses,
            storage,
            closed,
            recovery,
            topology,
            opening,
            registration,
            request,
        })
    }

    /// Rebuilds what the log means, starts the threads, and makes the context.
    async fn assemble(self) -> Result<Assembled, StartError> {
        let Self { config, storage, recovery, topology, opening, .. } = self;
        let reading = storage.clone();
        let (mut projected, recovery) = blocking(move || {
            rebuild_projections(reading.as_ref(), &recovery, opening.node)
                .map(|projected| (projected, recovery))
        })
        .await??;
        projected.directories.set_opening(opening.incarnation);

        let bringing_back = BringingBackBoard::of(storage.as_ref())?;
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
            &recovery.members,
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
        let channel_segments = ChannelSegments::new(projected.channel_index);
        // Each namespace is told once.
        let (backfilled_sender, backfilled) = mpsc::unbounded_channel();
        let threads = Threads::start(ThreadParts {
            storage: &storage,
            admission,
            writer: &writer,
            durable: &durable,
            projector_queue: &projector_queue,
            directories: &directories,
            channel_segments: &channel_segments,
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
            channel_segments,
            topology,
            hub,
            links: OutboundLinks::default(),
            lag: LagBoard::default(),
            readiness: ReadinessBoard::default(),
            divergence: DivergenceBoard::default(),
            space: SpaceBoard::default(),
            scrub: ScrubBoard::default(),
            sources,
            channel_news,
            projector: projector_queue,
            gateways: GatewayCount::default(),
            alarms,
            metrics,
            tasks: TaskSet::new(failure.clone()),
            failure,
            draining: watch::Sender::new(false),
            reopen: watch::Sender::new(None),
            repairing: Arc::default(),
            bringing_back,
            departures: DepartureBoard::default(),
            control_plane_connected: AtomicBool::new(self.registration.is_some()),
            publications: AtomicU64::new(0),
            config,
            storage,
        });
        register_gauges(&registry, &context);
        Ok(Assembled {
            context,
            addresses: self.addresses,
            registry,
            threads,
            closed: self.closed,
            backfilled,
            registration: self.registration,
            request: self.request,
        })
    }
}

/// Opens the database, and once more where a repair has cut its logs.
fn open_repaired(path: &Path) -> Result<(RocksStorage, Recovery), StartError> {
    loop {
        let (storage, recovery) = RocksStorage::open(path, RocksOptions::default())?;
        if !repairing::carry_out(&storage, &recovery)? {
            return Ok((storage, recovery));
        }
    }
}

/// A node whose threads run and that nobody can call yet.
struct Assembled {
    context: Arc<NodeContext>,
    addresses: Addresses,
    registry: Registry,
    threads: Threads,
    closed: oneshot::Receiver<()>,
    backfilled: mpsc::UnboundedReceiver<interlock_core::identity::NamespaceNumber>,
    registration: Option<Registration>,
    request: RegistrationRequest,
}

impl Assembled {
    /// Starts tasks, links and servers.
    async fn serve(self, client: Listener, replication: Listener) -> Result<OpenNode, StartError> {
        let Self { context, addresses, registry, threads, closed, backfilled, .. } = self;
        start_tasks(&context, backfilled, self.registration, self.request)?;

        let tls = context.config.tls.clone();
        let calls = RpcMetrics::register(&registry);
        let observe = move |call: &FinishedCall<'_>| {
            calls.observe(call.method, call.code_name(), call.duration, call.trace_id.clone());
        };
        let client_server = GrpcServer::new(ServerConfig::default().tls(tls.clone()))
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
        let turning_away = turn_callers_away(
            context.draining.subscribe(),
            client_server.health().clone(),
            readiness.clone(),
        );
        context.tasks.spawn("turning callers away", turning_away)?;
        tracing::info!(
            client = %addresses.client,
            replication = %addresses.replication,
            "push-node serves"
        );
        Ok(OpenNode {
            context,
            addresses,
            client_server,
            replication_server,
            metrics_server,
            readiness,
            threads,
            closed,
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
    // Each namespace that this node founds is told once.
    let (recorded_sender, recorded) = mpsc::unbounded_channel();
    let (left_sender, left) = watch::channel(Left::default());
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
                left,
                recorded: recorded_sender,
                unrecorded: Default::default(),
            };
            tasks.spawn("the control-plane's link", link.run())?;
            OpenedRecorder::ControlPlane(opened_sender)
        }
        None => OpenedRecorder::OnDiskOnly,
    };
    let may_found = context.config.control_plane.is_some() || context.config.bootstrap;
    let inputs = ReadinessInputs { backfilled, recorded, recorder, may_found };
    tasks.spawn("the readiness", watch_readiness(Arc::clone(context), inputs))?;
    let departures = Departures::new(Arc::clone(context), left_sender);
    tasks.spawn("the watch of departures", watch_departures(departures))?;
    tasks.spawn("the watch of the disk's space", watch_space(Arc::clone(context)))?;
    tasks.spawn("trimming", trim_by_retention(Arc::clone(context)))?;
    tasks.spawn("the watch of the peers' lag", watch_lag(Arc::clone(context)))?;
    tasks.spawn("the checkpoints", store_checkpoints(Arc::clone(context)))?;
    tasks.spawn("what is brought back", bring_back(Arc::clone(context)))?;
    tasks.spawn("the digests", keep_digests(Arc::clone(context)))?;
    tasks.spawn("the scrubbing", scrub_stored_data(Arc::clone(context)))?;
    tasks.spawn("the replication hub", run_hub(Arc::downgrade(context), tasks.ending()))?;
    tasks.spawn("the table of links", {
        let context = Arc::clone(context);
        async move { context.links.run(Arc::clone(&context)).await }
    })?;
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
        last_missing: log.last_missing,
        trimmed: log.floor.m_id,
    }
}

fn random_incarnation() -> Incarnation {
    loop {
        if let Some(incarnation) = Incarnation::new(rand::random()) {
            return incarnation;
        }
    }
}
