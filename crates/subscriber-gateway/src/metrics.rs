//! What Prometheus reads of a gateway.

use interlock_telemetry::metrics::{Counter, Gauge, Registry, RpcMetrics};

/// The gateway's metrics. Cloning shares them.
#[derive(Clone, Debug)]
pub struct GatewayMetrics {
    /// Streams that subscribers have open.
    pub subscriptions: Gauge,
    /// Messages received from push-nodes, one copy each.
    pub upstream_messages: Counter,
    /// Streams from push-nodes that broke.
    pub upstream_failures: Counter,
    /// Messages handed to subscribers.
    pub delivered: Counter,
    /// Times a subscriber fell behind the shared position and read on alone.
    pub fell_behind: Counter,
    /// Gaps told to subscribers.
    pub gaps: Counter,
    /// What is kept in memory for readers who keep up, of all namespaces.
    pub queued_bytes: Gauge,
    /// Streams from push-nodes for subscribers that read alone.
    pub private_reads: Gauge,
    /// Streams of clients that are handed on to push-nodes.
    pub forwarded_streams: Gauge,
    /// Calls by method and code.
    pub rpc: RpcMetrics,
}

impl GatewayMetrics {
    /// Registers all.
    pub fn register(registry: &Registry) -> Self {
        Self {
            subscriptions: registry.gauge("gateway_subscriptions", "Open subscriptions"),
            upstream_messages: registry.counter(
                "gateway_upstream_messages",
                "Messages received from push-nodes, one copy each",
            ),
            upstream_failures: registry
                .counter("gateway_upstream_failures", "Streams from push-nodes that broke"),
            delivered: registry
                .counter("gateway_delivered_messages", "Messages handed to subscribers"),
            fell_behind: registry.counter(
                "gateway_subscribers_fell_behind",
                "Times a subscriber fell behind the shared position and read on alone",
            ),
            gaps: registry.counter("gateway_gaps_told", "Gaps told to subscribers"),
            queued_bytes: registry.gauge(
                "gateway_queued_bytes",
                "What is kept in memory for subscribers who keep up",
            ),
            private_reads: registry.gauge(
                "gateway_private_reads",
                "Streams from push-nodes for subscribers that read alone",
            ),
            forwarded_streams: registry.gauge(
                "gateway_forwarded_streams",
                "Streams of clients that are handed on to push-nodes",
            ),
            rpc: RpcMetrics::register(registry),
        }
    }
}
