//! Spans for what happens to a message after its publication: they join the
//! trace that the message carries, also after a restart and in other regions.

use bytes::Bytes;
use interlock_core::identity::MessageName;
use interlock_core::message::{Message, MessageKind};
use interlock_rpc::trace;
use interlock_telemetry::spans;

/// Makes a `process {channel}` span for a received message that is sampled:
/// it is durable at this member now. `relayed_by` is who sent it, if not its origin.
pub fn trace_received(
    namespace: &str,
    name: &MessageName,
    bytes: &Bytes,
    relayed_by: Option<&str>,
) {
    trace_message(namespace, name, bytes, "received", relayed_by);
}

/// Makes a span for a sampled message that is handed to a follower.
pub fn trace_delivery(namespace: &str, name: &MessageName, bytes: &Bytes) {
    trace_message(namespace, name, bytes, "delivered", None);
}

fn trace_message(
    namespace: &str,
    name: &MessageName,
    bytes: &Bytes,
    step: &'static str,
    relayed_by: Option<&str>,
) {
    // Without an exporter, as mostly, nothing is decoded.
    if !spans::exporting() {
        return;
    }
    let Ok(message) = Message::decode(bytes) else { return };
    if message.kind == MessageKind::Publication {
        trace::tell_step(message.trace.as_ref(), step, || {
            let span = spans::process(namespace, message.channel.as_str(), name)?;
            if let Some(relay) = relayed_by {
                spans::record_relay(&span, relay);
            }
            Some(span)
        });
    }
}
