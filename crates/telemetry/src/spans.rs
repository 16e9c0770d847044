//! Spans of messages by the semantic conventions for messaging: `publish
//! {channel}` where a message enters, `process {channel}` where one is received.
//!
//! A span a message is too much for an untraced hot path: ask [`exporting`]
//! first, and make spans only for messages whose trace is sampled.

use std::fmt::Display;
use std::sync::atomic::{AtomicBool, Ordering};

use tracing::{Span, field};

/// The value of `messaging.system`.
pub const MESSAGING_SYSTEM: &str = "interlock";

static EXPORTING: AtomicBool = AtomicBool::new(false);

/// Whether this process exports spans.
pub fn exporting() -> bool {
    EXPORTING.load(Ordering::Relaxed)
}

pub(crate) fn set_exporting(exporting: bool) {
    EXPORTING.store(exporting, Ordering::Relaxed);
}

/// `publish {channel}`, a PRODUCER: from admission to durability at the origin.
pub fn publish(namespace: &str, channel: &str) -> Span {
    tracing::info_span!(
        target: "interlock_telemetry::messages",
        "publish",
        otel.name = format!("publish {channel}"),
        otel.kind = "producer",
        otel.status_code = field::Empty,
        otel.status_description = field::Empty,
        messaging.system = MESSAGING_SYSTEM,
        messaging.operation.name = "publish",
        messaging.operation.type = "send",
        messaging.destination.name = channel,
        messaging.message.id = field::Empty,
        interlock.namespace = namespace,
    )
}

/// `process {channel}`, a CONSUMER: what another member or a gateway does with
/// a message, in the trace that the message carries. `None` where this process
/// exports no spans.
pub fn process(namespace: &str, channel: &str, message: impl Display) -> Option<Span> {
    exporting().then(|| process_span(namespace, channel, message))
}

fn process_span(namespace: &str, channel: &str, message: impl Display) -> Span {
    tracing::info_span!(
        target: "interlock_telemetry::messages",
        "process",
        otel.name = format!("process {channel}"),
        otel.kind = "consumer",
        otel.status_code = field::Empty,
        otel.status_description = field::Empty,
        messaging.system = MESSAGING_SYSTEM,
        messaging.operation.name = "process",
        messaging.operation.type = "process",
        messaging.destination.name = channel,
        messaging.message.id = %message,
        interlock.namespace = namespace,
        interlock.origin = field::Empty,
        interlock.relayed_by = field::Empty,
    )
}

/// Tells a span of [`publish`] the name its message got.
pub fn record_message_id(span: &Span, message: impl Display) {
    span.record("messaging.message.id", field::display(message));
}

/// Tells a span of [`process`] which member sent the message, where that was not its
/// origin.
pub fn record_relay(span: &Span, member: &str) {
    span.record("interlock.relayed_by", member);
}

/// Marks a span as failed.
pub fn record_failure(span: &Span, reason: impl Display) {
    span.record("otel.status_code", "ERROR");
    span.record("otel.status_description", field::display(reason));
}
