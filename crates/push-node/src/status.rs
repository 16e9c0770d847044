//! What a node says of itself: by `GetStatus`, and in the gauges that Prometheus
//! reads.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::Ordering;
use std::sync::{Arc, Weak};

use interlock_core::admission::Admission;
use interlock_core::identity::{LogName, MessageNumber, NamespaceNumber, NodeNumber};
use interlock_core::limits::{MAX_STATUS_ALARMS, MAX_STATUS_LOGS, MAX_STATUS_QUEUES};
use interlock_core::topology::{Node, Topology};
use interlock_rpc::convert::IntoWire as _;
use interlock_rpc::v1;
use interlock_telemetry::metrics::Registry;

use crate::context::NodeContext;
use crate::divergence;
use crate::durable_state::DurableLog;
use crate::link_status::{LinkState, LinkView};
use crate::origin_news::millis;
use crate::peer_lag::lag_of;
use crate::scrub_progress;
use crate::space_watch::cap_of;
use crate::work_queue::QueueClosed;

/// All that `GetStatus` tells; without logs and queues where it should be brief.
pub async fn node_status(
    context: &NodeContext,
    brief: bool,
) -> Result<v1::GetStatusResponse, QueueClosed> {
    let topology = context.topology.current();
    let space = context.space.state().space;
    let mut alarms: Vec<v1::Alarm> = context
        .alarms
        .list()
        .into_iter()
        .map(|alarm| v1::Alarm {
            name: alarm.kind.name().to_owned(),
            detail: format!("{}: {}", alarm.subject, alarm.detail),
            since: alarm.since.get(),
        })
        .collect();
    let mut namespaces = namespaces(context, &topology, brief).await?;
    let mut peers = Vec::new();
    for (peer, view) in context.links.views() {
        peers.push(peer_status(context, &peer, view, brief).await);
    }
    let left_out = bound(&mut namespaces, &mut peers, &mut alarms);
    Ok(v1::GetStatusResponse {
        member: Some(context.member().into_wire()),
        state: serving_state(context, &topology).into(),
        topology_version: Some(topology.version.into_wire()),
        control_plane_connected: context.control_plane_connected.load(Ordering::Relaxed),
        namespaces,
        peers,
        alarms,
        left_out,
        disk_free_bytes: space.free_bytes,
        disk_used_bytes: space.used_bytes,
        uptime_milliseconds: millis(context.clock.moment().since_start()),
        version: env!("CARGO_PKG_VERSION").to_owned(),
        publications_total: context.publications.load(Ordering::Relaxed),
        gateways_connected: context.gateways.get(),
        scrub: Some(scrub_progress::status(context)),
        bringing_back_messages: context.bringing_back.messages(),
    })
}

/// Leaves out what would make a status too large to be sent, and says what.
fn bound(
    namespaces: &mut [v1::NamespaceStatus],
    peers: &mut [v1::PeerStatus],
    alarms: &mut Vec<v1::Alarm>,
) -> String {
    let mut logs = LeftOut::beyond(MAX_STATUS_LOGS);
    for namespace in namespaces {
        // Tips say how far an origin is, whatever came before.
        namespace.logs.sort_by_key(|log| !log.tip);
        logs.shorten(&mut namespace.logs);
    }
    let mut queues = LeftOut::beyond(MAX_STATUS_QUEUES);
    for peer in peers {
        // The longest say most.
        peer.queues.sort_by_key(|queue| std::cmp::Reverse(queue.queue_messages));
        queues.shorten(&mut peer.queues);
    }
    let mut raised = LeftOut::beyond(MAX_STATUS_ALARMS);
    raised.shorten(alarms);
    [(logs, "logs"), (queues, "queues"), (raised, "alarms")]
        .into_iter()
        .filter(|(left_out, _)| left_out.count > 0)
        .map(|(left_out, what)| format!("{} more {what}", left_out.count))
        .collect::<Vec<_>>()
        .join(", ")
}

/// How many of some kind an answer still has room for, and how many it had not.
struct LeftOut {
    room: usize,
    count: usize,
}

impl LeftOut {
    const fn beyond(room: usize) -> Self {
        Self { room, count: 0 }
    }

    fn shorten<T>(&mut self, list: &mut Vec<T>) {
        self.count += list.len().saturating_sub(self.room);
        list.truncate(self.room);
        self.room -= list.len();
    }
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
pub fn held_namespaces(context: &NodeContext, topology: &Topology) -> BTreeSet<NamespaceNumber> {
    let held = context.durable.logs(|_| true).into_iter().map(|log| log.row.log.namespace);
    held.chain(topology.namespaces_of(context.me().node)).collect()
}

/// The digests of what is held of namespaces durably.
pub async fn tips_digests(
    context: &NodeContext,
    numbers: Vec<NamespaceNumber>,
) -> Result<Vec<(NamespaceNumber, [u8; 16])>, QueueClosed> {
    let digest = move |admission: &Admission| {
        numbers.into_iter().map(|number| (number, admission.logs().tips_digest(number))).collect()
    };
    context.writer.look(digest).await
}

/// The digest of a namespace's channels.
pub fn state_digest(context: &NodeContext, number: NamespaceNumber) -> [u8; 16] {
    context.directories.namespace(number).read(|directory| directory.digest())
}

async fn namespaces(
    context: &NodeContext,
    topology: &Topology,
    brief: bool,
) -> Result<Vec<v1::NamespaceStatus>, QueueClosed> {
    let numbers: Vec<NamespaceNumber> = held_namespaces(context, topology).into_iter().collect();
    let tips = tips_digests(context, numbers.clone()).await?;
    let appended = match brief {
        true => None,
        false => Some(context.writer.look(move |admission| appended(admission, &numbers)).await?),
    };
    Ok(tips
        .into_iter()
        .map(|(number, tips)| namespace_status(context, topology, number, &tips, appended.as_ref()))
        .collect())
}

/// How far the logs of these namespaces are appended, which is not durable yet.
fn appended(admission: &Admission, numbers: &[NamespaceNumber]) -> Appended {
    let logs = admission.logs().iter();
    let wanted = logs.filter(|(log, _)| numbers.contains(&log.namespace));
    wanted.map(|(log, held)| (*log, held.appended.m_id)).collect()
}

type Appended = BTreeMap<LogName, MessageNumber>;

fn namespace_status(
    context: &NodeContext,
    topology: &Topology,
    number: NamespaceNumber,
    tips: &[u8; 16],
    appended: Option<&Appended>,
) -> v1::NamespaceStatus {
    let logs = context.durable.logs(|log| log.namespace == number);
    let ends_in_tip = tips_of(&logs);
    let messages = logs
        .iter()
        .map(|log| log.durable.m_id.since(log.last_missing.max(log.row.first_m_id().previous())))
        .sum();
    let (channels, undeliverable) = context
        .directories
        .namespace(number)
        .read(|directory| (directory.live_channels() as u64, directory.passed_over_publications()));
    let groups = topology.namespace(number).map_or_else(Vec::new, |namespace| {
        namespace.groups.iter().map(ToString::to_string).collect()
    });
    let departure = context.departures.of(number).unwrap_or_default();
    let cap = topology.namespace(number).map_or(0, |namespace| cap_of(context, namespace));
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
        logs: appended.map_or_else(Vec::new, |appended| {
            let is_tip = |log: &DurableLog| ends_in_tip.contains(&log.row.log);
            let status = |log: &DurableLog| {
                let server = context.hub.server_of(&log.row.log);
                log_status(topology, log, appended, is_tip(log), server)
            };
            logs.iter().map(status).collect()
        }),
        undeliverable_messages: undeliverable,
        disk_cap_bytes: cap,
        cap_reached_in_seconds: context.space.seconds_to_cap(number, cap).unwrap_or(0),
        leaving: topology.is_leaving(context.me().node, number),
        leaving_messages: departure.messages,
        leaving_waits_for: departure.waits_for.into_iter().collect(),
    }
}

/// The logs from whose end no other goes on: one an origin, unless it has forked.
fn tips_of(logs: &[DurableLog]) -> BTreeSet<LogName> {
    let mut continued: BTreeMap<LogName, MessageNumber> = BTreeMap::new();
    for child in logs {
        for parent in &child.row.parents {
            let through = continued.entry(child.row.log.path().log(parent.incarnation));
            let through = through.or_insert(parent.m_id);
            *through = (*through).max(parent.m_id);
        }
    }
    let is_tip = |log: &&DurableLog| {
        continued.get(&log.row.log).is_none_or(|through| *through < log.durable.m_id)
    };
    logs.iter().filter(is_tip).map(|log| log.row.log).collect()
}

fn log_status(
    topology: &Topology,
    log: &DurableLog,
    appended: &Appended,
    tip: bool,
    server: Option<NodeNumber>,
) -> v1::LogStatus {
    let name = log.row.log;
    let name_of = |number: NodeNumber| {
        topology.node(number).map_or_else(|| number.to_string(), |node| node.name.to_string())
    };
    // What was appended since this node looked may be durable by now.
    let appended = appended.get(&name).copied().unwrap_or_default().max(log.durable.m_id);
    v1::LogStatus {
        log: Some(name.into_wire()),
        appended: appended.get(),
        durable: log.durable.m_id.get(),
        durable_hash: bytes::Bytes::copy_from_slice(&log.durable.hash.to_bytes()),
        floor: log.last_missing.get(),
        origin_name: name_of(name.origin),
        tip,
        server: server.map(name_of).unwrap_or_default(),
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

    divergence::register_gauges(registry, context);
    scrub_progress::register_gauges(registry, context);

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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_status_is_bounded_and_says_what_it_leaves_out() {
        let queue = |queue_messages| v1::QueueStatus { queue_messages, ..Default::default() };
        let peer = |queues| v1::PeerStatus { queues, ..Default::default() };
        let namespace = |logs| v1::NamespaceStatus {
            logs: vec![v1::LogStatus::default(); logs],
            ..Default::default()
        };
        let mut namespaces = [namespace(MAX_STATUS_LOGS - 1), namespace(3)];
        let mut peers =
            [peer(vec![queue(1); MAX_STATUS_QUEUES - 1]), peer(vec![queue(1), queue(9)])];
        let mut alarms = vec![v1::Alarm::default(); 2];
        let left_out = bound(&mut namespaces, &mut peers, &mut alarms);
        assert_eq!(left_out, "2 more logs, 1 more queues");
        assert_eq!((namespaces[0].logs.len(), namespaces[1].logs.len()), (MAX_STATUS_LOGS - 1, 1));
        assert_eq!(peers[1].queues, [queue(9)], "the longest say most");
        assert_eq!(alarms.len(), 2);
        assert_eq!(bound(&mut [], &mut [], &mut alarms), "");
    }

    #[test]
    fn a_log_says_what_is_appended_and_what_of_it_is_durable() {
        use interlock_core::identity::{ChainHash, Incarnation, Mark, PathName, ShardNumber};
        use interlock_core::replication::rows::Row;

        let log = PathName {
            namespace: NamespaceNumber::new(1),
            shard: ShardNumber::new(0),
            origin: NodeNumber::new(1),
        }
        .log(Incarnation::new(1).expect("not zero"));
        let held = DurableLog {
            row: Row { log, parents: Vec::new() },
            durable: Mark { m_id: MessageNumber::new(4), hash: ChainHash::EMPTY },
            applied: MessageNumber::new(4),
            last_missing: MessageNumber::ZERO,
            trimmed: MessageNumber::ZERO,
        };
        let at = |m_id| {
            let appended = BTreeMap::from([(log, MessageNumber::new(m_id))]);
            let status = log_status(&Topology::default(), &held, &appended, true, None);
            (status.appended, status.durable)
        };
        assert_eq!(at(7), (7, 4));
        assert_eq!(at(3), (4, 4));
    }

    #[test]
    fn only_the_end_of_a_branch_is_a_tip() {
        use interlock_core::identity::{
            ChainHash, Incarnation, Mark, ParentPoint, PathName, ShardNumber,
        };
        use interlock_core::replication::rows::Row;

        let path = PathName {
            namespace: NamespaceNumber::new(1),
            shard: ShardNumber::new(0),
            origin: NodeNumber::new(1),
        };
        let opening = |number| Incarnation::new(number).expect("not zero");
        let held = |incarnation, parent: Option<(u64, u64)>, durable| {
            let parents = parent.map(|(parent, m_id)| ParentPoint {
                incarnation: opening(parent),
                m_id: MessageNumber::new(m_id),
                hash: ChainHash::EMPTY,
            });
            DurableLog {
                row: Row {
                    log: path.log(opening(incarnation)),
                    parents: parents.into_iter().collect(),
                },
                durable: Mark { m_id: MessageNumber::new(durable), hash: ChainHash::EMPTY },
                applied: MessageNumber::new(durable),
                last_missing: MessageNumber::ZERO,
                trimmed: MessageNumber::ZERO,
            }
        };
        let tips = |logs: &[DurableLog]| -> Vec<u64> {
            tips_of(logs).into_iter().map(|log| log.incarnation.get()).collect()
        };
        let (first, restart) = (held(11, None, 4), held(12, Some((11, 4)), 9));
        assert_eq!(tips(&[first.clone(), restart.clone()]), [12], "a restart has one tip");
        let fork = held(13, Some((11, 2)), 7);
        assert_eq!(tips(&[first.clone(), restart, fork.clone()]), [12, 13]);
        assert_eq!(tips(&[first, fork]), [11, 13], "the older branch goes on beyond the fork");
    }
}
