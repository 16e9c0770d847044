//! What a node says of itself: by `GetStatus`, and in the gauges that Prometheus
//! reads.

use std::collections::BTreeSet;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Weak};

use interlock_core::admission::Admission;
use interlock_core::identity::NamespaceNumber;
use interlock_core::topology::{Node, Topology};
use interlock_rpc::convert::IntoWire as _;
use interlock_rpc::v1;
use interlock_telemetry::metrics::Registry;

use crate::context::NodeContext;
use crate::durable_state::DurableLog;
use crate::link_status::{LinkState, LinkView};
use crate::origin_news::millis;
use crate::peer_lag::lag_of;
use crate::work_queue::QueueClosed;

/// All that `GetStatus` tells; without logs and queues where it should be brief.
pub async fn node_status(
    context: &NodeContext,
    brief: bool,
) -> Result<v1::GetStatusResponse, QueueClosed> {
    let topology = context.topology.current();
    let space = context.space.state().space;
    let mut peers = Vec::new();
    for (peer, view) in context.links.views() {
        peers.push(peer_status(context, &peer, view, brief).await);
    }
    Ok(v1::GetStatusResponse {
        member: Some(context.member().into_wire()),
        state: serving_state(context, &topology).into(),
        topology_version: Some(topology.version.into_wire()),
        control_plane_connected: context.control_plane_connected.load(Ordering::Relaxed),
        namespaces: namespaces(context, &topology, brief).await?,
        peers,
        alarms: context
            .alarms
            .list()
            .into_iter()
            .map(|alarm| v1::Alarm {
                name: alarm.kind.name().to_owned(),
                detail: format!("{}: {}", alarm.subject, alarm.detail),
                since: alarm.since.get(),
            })
            .collect(),
        disk_free_bytes: space.free_bytes,
        disk_used_bytes: space.used_bytes,
        uptime_milliseconds: millis(context.clock.moment().since_start()),
        version: env!("CARGO_PKG_VERSION").to_owned(),
        publications_total: context.publications.load(Ordering::Relaxed),
        gateways_connected: context.gateways.get(),
    })
}

/// Digests and marks of one namespace's durable state, or of all.
pub async fn verify(
    context: &NodeContext,
    namespace: Option<NamespaceNumber>,
) -> Result<v1::VerifyResponse, QueueClosed> {
    let wanted = |number: NamespaceNumber| namespace.is_none_or(|wanted| wanted == number);
    let numbers: Vec<NamespaceNumber> = held_namespaces(context, &context.topology.current())
        .into_iter()
        .filter(|number| wanted(*number))
        .collect();
    let tips = tips_digests(context, numbers).await?;
    Ok(v1::VerifyResponse {
        logs: context
            .durable
            .logs(|log| wanted(log.namespace))
            .into_iter()
            .map(|log| (log.row.log, log.durable).into_wire())
            .collect(),
        namespaces: tips
            .into_iter()
            .map(|(number, tips)| v1::NamespaceDigest {
                namespace: number.get(),
                tips: bytes::Bytes::copy_from_slice(&tips),
                state: bytes::Bytes::copy_from_slice(&state_digest(context, number)),
            })
            .collect(),
    })
}

/// How the node stands, in one word.
pub fn serving_state(context: &NodeContext, topology: &Topology) -> v1::ServingState {
    if *context.draining.borrow() {
        return v1::ServingState::Draining;
    }
    let backfilling = topology
        .namespaces_of(context.me().node)
        .into_iter()
        .any(|namespace| !context.readiness.is_ready(namespace));
    if backfilling { v1::ServingState::Backfilling } else { v1::ServingState::Serving }
}

/// The namespaces that this node is a member of, or still holds logs of.
fn held_namespaces(context: &NodeContext, topology: &Topology) -> BTreeSet<NamespaceNumber> {
    let held = context.durable.logs(|_| true).into_iter().map(|log| log.row.log.namespace);
    held.chain(topology.namespaces_of(context.me().node)).collect()
}

async fn tips_digests(
    context: &NodeContext,
    numbers: Vec<NamespaceNumber>,
) -> Result<Vec<(NamespaceNumber, [u8; 16])>, QueueClosed> {
    let digest = move |admission: &Admission| {
        numbers.into_iter().map(|number| (number, admission.logs().tips_digest(number))).collect()
    };
    context.writer.look(digest).await
}

fn state_digest(context: &NodeContext, number: NamespaceNumber) -> [u8; 16] {
    context.directories.namespace(number).read(|directory| directory.digest())
}

async fn namespaces(
    context: &NodeContext,
    topology: &Topology,
    brief: bool,
) -> Result<Vec<v1::NamespaceStatus>, QueueClosed> {
    let numbers: Vec<NamespaceNumber> = held_namespaces(context, topology).into_iter().collect();
    let tips = tips_digests(context, numbers).await?;
    Ok(tips
        .into_iter()
        .map(|(number, tips)| namespace_status(context, topology, number, &tips, brief))
        .collect())
}

fn namespace_status(
    context: &NodeContext,
    topology: &Topology,
    number: NamespaceNumber,
    tips: &[u8; 16],
    brief: bool,
) -> v1::NamespaceStatus {
    let logs = context.durable.logs(|log| log.namespace == number);
    let messages = logs
        .iter()
        .map(|log| log.durable.m_id.since(log.floor.max(log.row.first_m_id().previous())))
        .sum();
    let (channels, undeliverable) = context
        .directories
        .namespace(number)
        .read(|directory| (directory.live_channels() as u64, directory.passed_over_publications()));
    let groups = topology.namespace(number).map_or_else(Vec::new, |namespace| {
        namespace.groups.iter().map(ToString::to_string).collect()
    });
    v1::NamespaceStatus {
        number: number.get(),
        name: context.namespace_name(number),
        groups,
        member: topology.is_member(context.me().node, number),
        ready: context.readiness.is_ready(number),
        channels,
        messages,
        log_bytes: context.storage.log_bytes(number),
        tips_digest: hexadecimal(tips),
        state_digest: hexadecimal(&state_digest(context, number)),
        logs: match brief {
            true => Vec::new(),
            false => logs.iter().map(|log| log_status(topology, log)).collect(),
        },
        undeliverable_messages: undeliverable,
    }
}

fn log_status(topology: &Topology, log: &DurableLog) -> v1::LogStatus {
    let name = log.row.log;
    v1::LogStatus {
        log: Some(name.into_wire()),
        // What is appended and not durable is nobody's business yet.
        appended: log.durable.m_id.get(),
        durable: log.durable.m_id.get(),
        durable_hash: bytes::Bytes::copy_from_slice(&log.durable.hash.to_bytes()),
        floor: log.floor.get(),
        origin_name: topology
            .node(name.origin)
            .map_or_else(|| name.origin.to_string(), |node| node.name.to_string()),
    }
}

async fn peer_status(
    context: &NodeContext,
    peer: &Node,
    view: LinkView,
    brief: bool,
) -> v1::PeerStatus {
    let lag = lag_of(context, peer.number).await;
    let round_trip = view.sender.as_ref().and_then(|sender| sender.round_trip);
    let queues = match brief {
        true => Vec::new(),
        false => lag
            .queues
            .iter()
            .map(|queue| v1::QueueStatus {
                namespace: queue.log.namespace.get(),
                log: Some(queue.log.into_wire()),
                acknowledged: queue.acknowledged.get(),
                queue_messages: queue.messages(),
            })
            .collect(),
    };
    v1::PeerStatus {
        node: peer.number.get(),
        name: peer.name.to_string(),
        region: peer.region.to_string(),
        state: peer_state(view.state).into(),
        retransmissions: view.retransmissions(),
        detail: view.detail,
        queue_messages: lag.messages,
        oldest_milliseconds: lag.oldest_milliseconds,
        // One that was never heard has been silent since the start.
        last_heard_milliseconds: millis(
            context
                .news
                .last_heard(peer.number)
                .unwrap_or_else(|| context.clock.moment().since_start()),
        ),
        queues,
        round_trip_microseconds: round_trip
            .map_or(0, |time| u64::try_from(time.as_micros()).unwrap_or(u64::MAX)),
    }
}

fn peer_state(state: LinkState) -> v1::PeerState {
    match state {
        LinkState::Connecting => v1::PeerState::Connecting,
        LinkState::Probing => v1::PeerState::Probing,
        LinkState::Replicating => v1::PeerState::Replicating,
        LinkState::Unreachable => v1::PeerState::Unreachable,
        LinkState::Refused => v1::PeerState::Refused,
    }
}

fn hexadecimal(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// Registers the gauges that are asked for at each scrape. They hold the node by
/// a weak hand only, so that a scrape does not keep it alive.
pub fn register_gauges(registry: &Registry, context: &Arc<NodeContext>) {
    let gauge = |name, help, observe: fn(&NodeContext) -> f64| {
        let context = Arc::downgrade(context);
        registry.observed_gauge(name, help, move || observed(&context, observe).unwrap_or(0.0));
    };
    gauge("disk_free_bytes", "Free space on the node's disk", |context| {
        context.space.state().space.free_bytes as f64
    });
    gauge("disk_used_bytes", "What the node's database takes", |context| {
        context.space.state().space.used_bytes as f64
    });
    gauge("gateways_connected", "Gateways that follow this node", |context| {
        context.gateways.get() as f64
    });
    gauge("serving", "1 while the node accepts publications", |context| {
        let topology = context.topology.current();
        f64::from(u8::from(serving_state(context, &topology) == v1::ServingState::Serving))
    });

    let weak = Arc::downgrade(context);
    registry.observed_gauges(
        "peer_queue_messages",
        "Messages that a peer has not acknowledged",
        ["peer"],
        move || by_peer(&weak, |lag| lag.messages as f64),
    );
    let weak = Arc::downgrade(context);
    registry.observed_gauges(
        "peer_lag_seconds",
        "Age of the oldest message that a peer has not acknowledged",
        ["peer"],
        move || by_peer(&weak, |lag| lag.oldest_milliseconds as f64 / 1000.0),
    );
    let weak = Arc::downgrade(context);
    registry.observed_gauges("alarms", "Alarms that are up", ["alarm"], move || {
        observed(&weak, |context| {
            let mut counts = std::collections::BTreeMap::<&str, f64>::new();
            for alarm in context.alarms.list() {
                *counts.entry(alarm.kind.name()).or_default() += 1.0;
            }
            counts.into_iter().map(|(name, count)| ([name.to_owned()], count)).collect()
        })
        .unwrap_or_default()
    });
    let weak = Arc::downgrade(context);
    registry.observed_gauges(
        "log_bytes",
        "What a namespace's logs take",
        ["namespace"],
        move || {
            observed(&weak, |context| {
                let topology = context.topology.current();
                held_namespaces(context, &topology)
                    .into_iter()
                    .map(|number| {
                        ([context.namespace_name(number)], context.storage.log_bytes(number) as f64)
                    })
                    .collect()
            })
            .unwrap_or_default()
        },
    );
}

fn observed<T>(context: &Weak<NodeContext>, observe: impl FnOnce(&NodeContext) -> T) -> Option<T> {
    context.upgrade().map(|context| observe(&context))
}

fn by_peer(
    context: &Weak<NodeContext>,
    value: impl Fn(&crate::peer_lag::PeerLag) -> f64,
) -> Vec<([String; 1], f64)> {
    observed(context, |context| {
        let lags = context.lag.snapshot();
        lags.into_iter().map(|(peer, lag)| ([peer], value(&lag))).collect()
    })
    .unwrap_or_default()
}
