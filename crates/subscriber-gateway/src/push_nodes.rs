//! The push-nodes of this gateway's region, and which of them it uses now.
//!
//! A gateway stays with one node as long as it answers, because publisher
//! sessions belong to a node; it turns to the next when a call cannot reach it.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use interlock_core::limits::{
    FORWARDED_STREAM_CONNECTIONS, MAX_FORWARDED_STREAMS_PER_CONNECTION,
    MAX_PRIVATE_READS_PER_CONNECTION, PRIVATE_READ_CONNECTIONS, PRIVATE_READ_PATIENCE_MILLISECONDS,
    PRIVATE_READ_WINDOW_BYTES,
};
use interlock_rpc::channel::{ChannelError, EndpointConfig};
use interlock_rpc::status::{Reason, reason_of, refusal};
use interlock_rpc::tls::TlsClientConfig;
use tonic::transport::Channel;
use tonic::{Code, Status};

use crate::metrics::GatewayMetrics;
use crate::stream_slots::{SlotLimits, StreamSlots};

/// Room for what single subscribers read alone. A read mostly ends soon, so a
/// new one waits a little.
const PRIVATE_READS: SlotLimits = SlotLimits {
    connections: PRIVATE_READ_CONNECTIONS,
    streams_per_connection: MAX_PRIVATE_READS_PER_CONNECTION,
    patience: Duration::from_millis(PRIVATE_READ_PATIENCE_MILLISECONDS),
};
/// Room for streams that are handed on: they stay as long as their clients.
const FORWARDED_STREAMS: SlotLimits = SlotLimits {
    connections: FORWARDED_STREAM_CONNECTIONS,
    streams_per_connection: MAX_FORWARDED_STREAMS_PER_CONNECTION,
    patience: Duration::ZERO,
};
/// The largest window there is: streams that wait for their slow subscribers
/// must not use up what the others of their connection need.
const CONNECTION_WINDOW_BYTES: u32 = (1 << 31) - 1;

/// One push-node of the region. Its connections are made when first used. What
/// clients can keep open has connections of its own, so that it is never in the
/// way of what all subscribers share.
#[derive(Clone, Debug)]
pub struct PushNode {
    /// Where it listens.
    pub address: String,
    /// For calls that are answered at once.
    pub calls: Channel,
    /// For what all subscribers share.
    pub upstream: Channel,
    /// For what single subscribers read alone.
    pub(crate) reads: StreamSlots,
    /// For streams that are handed on.
    pub(crate) streams: StreamSlots,
}

impl PushNode {
    fn connect(address: &str, settings: &Settings) -> Result<Self, ChannelError> {
        let Settings { tls, metrics, reads, streams } = settings;
        let endpoint = EndpointConfig {
            connection_window_bytes: CONNECTION_WINDOW_BYTES,
            ..EndpointConfig::bulk(address).tls(tls.clone()).user("subscriber-gateway")
        };
        let of_reads =
            EndpointConfig { stream_window_bytes: PRIVATE_READ_WINDOW_BYTES, ..endpoint.clone() };
        Ok(Self {
            address: address.to_owned(),
            calls: endpoint.connect_lazy()?,
            upstream: endpoint.connect_lazy()?,
            reads: StreamSlots::new(
                "subscribers that read alone",
                &of_reads,
                *reads,
                &metrics.private_reads,
            )?,
            streams: StreamSlots::new(
                "streams handed on",
                &endpoint,
                *streams,
                &metrics.forwarded_streams,
            )?,
        })
    }
}

/// All push-nodes of the region. Cloning shares them.
#[derive(Clone, Debug)]
pub struct PushNodes {
    known: Arc<Mutex<Known>>,
    settings: Arc<Settings>,
}

/// How their connections are made.
#[derive(Debug)]
struct Settings {
    tls: Option<TlsClientConfig>,
    metrics: GatewayMetrics,
    reads: SlotLimits,
    streams: SlotLimits,
}

#[derive(Debug, Default)]
struct Known {
    nodes: Vec<PushNode>,
    /// Which of them is in use.
    current: usize,
}

impl PushNodes {
    /// None yet.
    pub fn new(tls: Option<TlsClientConfig>, metrics: GatewayMetrics) -> Self {
        Self::with_limits(tls, metrics, PRIVATE_READS, FORWARDED_STREAMS)
    }

    pub(crate) fn with_limits(
        tls: Option<TlsClientConfig>,
        metrics: GatewayMetrics,
        reads: SlotLimits,
        streams: SlotLimits,
    ) -> Self {
        Self {
            known: Arc::default(),
            settings: Arc::new(Settings { tls, metrics, reads, streams }),
        }
    }

    /// Uses these from now on; connections to nodes that stay are kept, and the
    /// one in use stays in use.
    pub fn replace(&self, addresses: &[String]) -> Result<(), ChannelError> {
        let mut known = self.lock();
        let nodes = addresses
            .iter()
            .map(|address| match known.nodes.iter().find(|node| node.address == *address) {
                Some(node) => Ok(node.clone()),
                None => PushNode::connect(address, &self.settings),
            })
            .collect::<Result<Vec<_>, _>>()?;
        let used = known.nodes.get(known.current).map(|node| &node.address);
        let current = nodes.iter().position(|node| Some(&node.address) == used).unwrap_or(0);
        *known = Known { nodes, current };
        Ok(())
    }

    /// The node in use.
    pub fn current(&self) -> Result<PushNode, Status> {
        let known = self.lock();
        known.nodes.get(known.current).cloned().ok_or_else(|| {
            refusal(Reason::NoNodeReachable, "no push-node of this gateway's region is known")
                .into_status()
        })
    }

    /// Turns to the next node if `status` says that `node` could not be reached
    /// or no longer serves.
    pub fn failed(&self, node: &PushNode, status: &Status) {
        if status.code() != Code::Unavailable {
            return;
        }
        let mut known = self.lock();
        // Only the first of many calls that fail together moves on.
        if known.nodes.get(known.current).is_some_and(|used| used.address == node.address) {
            known.current = (known.current + 1) % known.nodes.len();
        }
    }

    fn lock(&self) -> MutexGuard<'_, Known> {
        // Nothing between lock and unlock can leave it half changed.
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Whether asking a push-node of the region again cannot help.
pub(crate) fn is_final(status: &Status) -> bool {
    match reason_of(status) {
        // A node whose disk failed exits, and another or its successor answers.
        Some(Reason::StorageFailed) => false,
        Some(reason) => !reason.is_transient(),
        // Connections that break in the middle come as any of the others.
        None => matches!(
            status.code(),
            Code::NotFound
                | Code::InvalidArgument
                | Code::FailedPrecondition
                | Code::OutOfRange
                | Code::PermissionDenied
                | Code::Unauthenticated
                | Code::Unimplemented
                | Code::DataLoss
        ),
    }
}

#[cfg(test)]
mod tests {
    use interlock_telemetry::metrics::Registry;

    use super::*;

    fn addresses(names: &[&str]) -> Vec<String> {
        names.iter().map(|name| format!("http://{name}:1")).collect()
    }

    fn used(nodes: &PushNodes) -> String {
        nodes.current().expect("a node").address
    }

    #[tokio::test]
    async fn the_node_in_use_stays_in_use_when_others_come_and_go() {
        let nodes = PushNodes::new(None, GatewayMetrics::register(&Registry::new()));
        assert_eq!(nodes.current().expect_err("none").code(), Code::Unavailable);
        nodes.replace(&addresses(&["a", "b"])).expect("addresses");
        let first = nodes.current().expect("a node");
        nodes.failed(&first, &Status::not_found("not its fault"));
        assert_eq!(used(&nodes), first.address);
        nodes.failed(&first, &Status::unavailable("gone"));
        nodes.failed(&first, &Status::unavailable("gone, said by another call"));
        assert_eq!(used(&nodes), "http://b:1");
        nodes.replace(&addresses(&["a", "c", "b"])).expect("addresses");
        assert_eq!(used(&nodes), "http://b:1");
        nodes.replace(&addresses(&["c"])).expect("addresses");
        assert_eq!(used(&nodes), "http://c:1");
    }

    #[test]
    fn a_broken_connection_is_no_answer_and_a_refusal_is_one() {
        assert!(!is_final(&Status::unknown("h2 protocol error: broken pipe")));
        assert!(!is_final(&Status::unavailable("connection refused")));
        assert!(!is_final(&refusal(Reason::TooManyConnections, "full").into_status()));
        assert!(!is_final(&refusal(Reason::Backfilling, "not yet").into_status()));
        assert!(is_final(&refusal(Reason::NotMember, "elsewhere").into_status()));
        assert!(is_final(&refusal(Reason::Trimmed, "declined").into_status()));
    }
}
