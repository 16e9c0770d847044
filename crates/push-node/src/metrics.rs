//! What this node counts, for Prometheus.

use interlock_telemetry::metrics::{
    BATCH_BUCKETS, Counter, Counters, DURATION_BUCKETS, Histogram, Registry,
};

/// The node's own metrics; the gauges that are asked for at each scrape are in
/// `status.rs`.
#[derive(Clone, Debug)]
pub struct NodeMetrics {
    /// Publications accepted, durable, by namespace.
    pub publications: Counters<1>,
    /// Publications refused, by reason.
    pub refusals: Counters<1>,
    /// Channel operations accepted, by action.
    pub channel_operations: Counters<1>,
    /// Messages in one append.
    pub append_batch_messages: Histogram,
    /// How long one append took.
    pub append_seconds: Histogram,
    /// How long one sync took.
    pub sync_seconds: Histogram,
    /// Appends that one sync covered.
    pub sync_batches: Histogram,
    /// Encoded messages that became durable here.
    pub durable_bytes: Counter,
    /// Messages that became durable here, own and received.
    pub durable_messages: Counter,
    /// Replication frames sent, by peer.
    pub frames_sent: Counters<1>,
    /// Replication frames received, by peer.
    pub frames_received: Counters<1>,
    /// Messages received from peers, by peer.
    pub messages_received: Counters<1>,
    /// Frames sent again, by peer.
    pub retransmissions: Counters<1>,
    /// Times that a peer was seen with the same messages and other channels.
    pub divergences: Counters<1>,
    /// Logs trimmed from the front.
    pub trims: Counter,
    /// Messages that belong to a deleted or past epoch, by namespace.
    pub undeliverable: Counters<1>,
    /// Messages delivered to followers.
    pub delivered: Counter,
    /// Bytes that were read again to find damage.
    pub scrub_read_bytes: Counter,
    /// Times that all stored data was read again.
    pub scrub_passes: Counter,
    /// Damage found by that, each time anew.
    pub scrub_findings: Counter,
    /// Sources fetched, by outcome.
    pub source_fetches: Counters<1>,
}

impl NodeMetrics {
    /// Registers the node's metrics.
    pub fn register(registry: &Registry) -> Self {
        Self {
            publications: registry.counters(
                "publications",
                "Publications accepted and durable at this node",
                ["namespace"],
            ),
            refusals: registry.counters(
                "publications_refused",
                "Publications refused by this node",
                ["reason"],
            ),
            channel_operations: registry.counters(
                "channel_operations",
                "Channel operations accepted and durable at this node",
                ["action"],
            ),
            append_batch_messages: registry.histogram(
                "append_batch_messages",
                "Messages in one append to the log",
                &BATCH_BUCKETS,
            ),
            append_seconds: registry.histogram(
                "append_duration_seconds",
                "How long one append to the log took",
                &DURATION_BUCKETS,
            ),
            sync_seconds: registry.histogram(
                "sync_duration_seconds",
                "How long one sync of the log took",
                &DURATION_BUCKETS,
            ),
            sync_batches: registry.histogram(
                "sync_batches",
                "Appends that one sync made durable",
                &BATCH_BUCKETS,
            ),
            durable_bytes: registry
                .counter("durable_bytes", "Bytes of messages that became durable at this node"),
            durable_messages: registry
                .counter("durable_messages", "Messages that became durable at this node"),
            frames_sent: registry.counters("frames_sent", "Frames sent to a peer", ["peer"]),
            frames_received: registry.counters(
                "frames_received",
                "Frames received from a peer",
                ["peer"],
            ),
            messages_received: registry.counters(
                "messages_received",
                "Messages received from a peer",
                ["peer"],
            ),
            retransmissions: registry.counters(
                "retransmissions",
                "Frames sent to a peer again",
                ["peer"],
            ),
            divergences: registry.counters(
                "directory_divergences",
                "Times that a peer was seen with equal logs and another directory",
                ["namespace"],
            ),
            trims: registry.counter("log_trims", "Times that a log was trimmed from the front"),
            undeliverable: registry.counters(
                "undeliverable_messages",
                "Messages of a deleted or past epoch that became durable at this node",
                ["namespace"],
            ),
            delivered: registry
                .counter("delivered_messages", "Messages handed to followers of this node"),
            scrub_read_bytes: registry.counter(
                "scrub_read_bytes",
                "Bytes of stored data that were read again to find damage, before compression",
            ),
            scrub_passes: registry
                .counter("scrub_passes", "Times that all stored data was read again"),
            scrub_findings: registry.counter(
                "scrub_findings",
                "Damage that was found by reading stored data again, counted in each pass",
            ),
            source_fetches: registry.counters(
                "source_fetches",
                "Fetches of channel content from the web origin",
                ["outcome"],
            ),
        }
    }
}
