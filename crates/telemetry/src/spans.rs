//! Spans of messages by the semantic conventions for messaging: `publish
//! {channel}` where a message enters, `process {channel}` where one is received.
//!
//! A span a message is too much for an untraced hot path: ask [`exporting`]
//! first, and make spans only for messages whose trace is sampled.

use std::fmt::Display;
use std::sync::atomic::{AtomicBool, Ordering};

use opentelemetry_semantic_conventions::attribute;
use tracing::{Span, field};
use tracing_opentelemetry::OpenTelemetrySpanExt as _;

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
/// a message. Make its parent or link the context that the message carries.
pub fn process(namespace: &str, channel: &str, message: impl Display) -> Span {
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
    )
}

/// Work on many messages at once, such as one batch of the log: an INTERNAL
/// span that links to the messages' own.
pub fn batch(operation: &'static str, messages: usize) -> Span {
    let span = tracing::info_span!(
        target: "interlock_telemetry::messages",
        "batch",
        otel.name = operation,
        otel.status_code = field::Empty,
        otel.status_description = field::Empty,
        messaging.system = MESSAGING_SYSTEM,
        messaging.operation.name = operation,
    );
    let count = i64::try_from(messages).unwrap_or(i64::MAX);
    span.set_attribute(attribute::MESSAGING_BATCH_MESSAGE_COUNT, count);
    span
}

/// Tells a span of [`publish`] the name its message got.
pub fn record_message_id(span: &Span, message: impl Display) {
    span.record("messaging.message.id", field::display(message));
}

/// Marks a span as failed.
pub fn record_failure(span: &Span, reason: impl Display) {
    span.record("otel.status_code", "ERROR");
    span.record("otel.status_description", field::display(reason));
}
