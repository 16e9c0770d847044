//! W3C trace context: between headers, the current span, and what a message
//! carries.
//!
//! A message keeps the context of the call that published it, so that what
//! happens to it after a restart, or in another region, joins the same trace.

use std::fmt::Write as _;
use std::str::FromStr as _;

use interlock_core::message::TraceContext;
use opentelemetry::trace::{
    SpanContext, SpanId, TraceContextExt as _, TraceFlags, TraceId, TraceState,
};
use tonic::Request;
use tonic::metadata::{MetadataMap, MetadataValue};
use tracing::Span;
use tracing_opentelemetry::OpenTelemetrySpanExt as _;

const TRACEPARENT: &str = "traceparent";
const TRACESTATE: &str = "tracestate";

/// The context of the current span, if its trace is sampled. `None` also where
/// this process exports no spans.
pub fn current() -> Option<TraceContext> {
    of_span(&Span::current())
}

/// The context of a span, if its trace is sampled.
pub fn of_span(span: &Span) -> Option<TraceContext> {
    sampled(span.context().span().span_context())
}

/// The context that a message should keep for this call: the current span's, or
/// the caller's where this process makes no spans. Only if it is sampled.
pub fn of_request<T>(request: &Request<T>) -> Option<TraceContext> {
    current().or_else(|| {
        let header = request.metadata().get(TRACEPARENT)?.to_str().ok()?;
        parse_traceparent(header).filter(is_sampled)
    })
}

/// Whether a context's trace is sampled.
pub fn is_sampled(context: &TraceContext) -> bool {
    context.flags & TraceFlags::SAMPLED.to_u8() != 0
}

/// Reads a `traceparent` of version 00, or the part of a later one that has the
/// same meaning. `None` for what the specification calls invalid.
pub fn parse_traceparent(text: &str) -> Option<TraceContext> {
    let mut parts = text.trim().split('-');
    let version: [u8; 1] = from_hex(parts.next()?)?;
    let trace_id: [u8; 16] = from_hex(parts.next()?)?;
    let span_id: [u8; 8] = from_hex(parts.next()?)?;
    let [flags] = from_hex(parts.next()?)?;
    let ends_as_it_should = match version[0] {
        0 => parts.next().is_none(),
        0xff => false,
        _ => true,
    };
    let is_valid = ends_as_it_should && trace_id != [0; 16] && span_id != [0; 8];
    is_valid.then_some(TraceContext { trace_id, span_id, flags })
}

/// Writes a `traceparent` of version 00.
pub fn format_traceparent(context: &TraceContext) -> String {
    let mut text = String::with_capacity(55);
    text.push_str("00-");
    push_hex(&mut text, &context.trace_id);
    text.push('-');
    push_hex(&mut text, &context.span_id);
    text.push('-');
    push_hex(&mut text, &[context.flags]);
    text
}

/// Makes the context a message carries the parent of `span`. Call it right after
/// the span is made: one that has begun keeps the parent it has.
pub fn set_parent(span: &Span, context: &TraceContext) {
    // Without an exporting layer there is nothing to be the parent of.
    let _ = span.set_parent(remote(span_context(context)));
}

/// Tells one step of a message's way in the trace that the message carries, where
/// that is sampled: `span` is made only then.
pub fn tell_step(
    carried: Option<&TraceContext>,
    step: &'static str,
    span: impl FnOnce() -> Option<Span>,
) {
    let Some(context) = carried.filter(|context| is_sampled(context)) else { return };
    let Some(span) = span() else { return };
    set_parent(&span, context);
    span.in_scope(|| tracing::debug!(target: "interlock_telemetry::messages", step, "message"));
}

/// Puts the current span's context into the headers of a call.
pub fn inject<T>(request: &mut Request<T>) {
    inject_into(request.metadata_mut());
}

/// The same for headers alone.
pub fn inject_into(metadata: &mut MetadataMap) {
    let context = Span::current().context();
    let span = context.span();
    let span = span.span_context();
    if !span.is_valid() {
        return;
    }
    let header = format_traceparent(&trace_context(span));
    if let Ok(value) = MetadataValue::try_from(header) {
        metadata.insert(TRACEPARENT, value);
    }
    let state = span.trace_state().header();
    if !state.is_empty()
        && let Ok(value) = MetadataValue::try_from(state)
    {
        metadata.insert(TRACESTATE, value);
    }
}

/// The caller's span, as the headers tell it.
pub(crate) fn extract(headers: &http::HeaderMap) -> Option<opentelemetry::Context> {
    let context = parse_traceparent(headers.get(TRACEPARENT)?.to_str().ok()?)?;
    let state = headers
        .get(TRACESTATE)
        .and_then(|value| TraceState::from_str(value.to_str().ok()?).ok())
        .unwrap_or_default();
    Some(remote(span_context_with(&context, state)))
}

/// What a span of another process looks like to the SDK.
pub fn span_context(context: &TraceContext) -> SpanContext {
    span_context_with(context, TraceState::NONE)
}

fn span_context_with(context: &TraceContext, state: TraceState) -> SpanContext {
    SpanContext::new(
        TraceId::from_bytes(context.trace_id),
        SpanId::from_bytes(context.span_id),
        TraceFlags::new(context.flags),
        true,
        state,
    )
}

fn remote(span: SpanContext) -> opentelemetry::Context {
    opentelemetry::Context::new().with_remote_span_context(span)
}

fn trace_context(span: &SpanContext) -> TraceContext {
    TraceContext {
        trace_id: span.trace_id().to_bytes(),
        span_id: span.span_id().to_bytes(),
        flags: span.trace_flags().to_u8(),
    }
}

fn sampled(span: &SpanContext) -> Option<TraceContext> {
    (span.is_valid() && span.is_sampled()).then(|| trace_context(span))
}

/// Lower-case digits only, as the specification demands.
fn from_hex<const N: usize>(text: &str) -> Option<[u8; N]> {
    let digits = text.as_bytes();
    if digits.len() != 2 * N {
        return None;
    }
    let digit = |byte: u8| match byte {
        b'0'..=b'9' => Some(byte - b'0'),
        b'a'..=b'f' => Some(byte - b'a' + 10),
        _ => None,
    };
    let mut bytes = [0; N];
    for (byte, pair) in bytes.iter_mut().zip(digits.chunks_exact(2)) {
        *byte = digit(pair[0])? << 4 | digit(pair[1])?;
    }
    Some(bytes)
}

fn push_hex(text: &mut String, bytes: &[u8]) {
    for byte in bytes {
        write!(text, "{byte:02x}").expect("a String takes all that is written");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const EXAMPLE: &str = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";

    #[test]
    fn traceparent_round_trips() {
        let context = parse_traceparent(EXAMPLE).expect("the specification's own example");
        assert!(is_sampled(&context));
        assert_eq!(format_traceparent(&context), EXAMPLE);
        assert_eq!(trace_context(&span_context(&context)), context);
    }

    #[test]
    fn what_the_specification_calls_invalid_is_no_context() {
        for wrong in [
            "",
            "00",
            "00-00000000000000000000000000000000-b7ad6b7169203331-01",
            "00-0af7651916cd43dd8448eb211c80319c-0000000000000000-01",
            "00-0AF7651916CD43DD8448EB211C80319C-b7ad6b7169203331-01",
            "ff-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01",
            "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01-more",
            "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-1",
            "00-0af7651916cd43dd8448eb211c80319é-b7ad6b7169203331-01",
        ] {
            assert_eq!(parse_traceparent(wrong), None, "{wrong}");
        }
        let later = "01-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01-more";
        assert!(parse_traceparent(later).is_some());
    }

    #[test]
    fn a_step_is_told_of_sampled_messages_only() {
        let told = |context: Option<TraceContext>| {
            let mut asked = false;
            tell_step(context.as_ref(), "delivered", || {
                asked = true;
                None
            });
            asked
        };
        let sampled = parse_traceparent(EXAMPLE).expect("the specification's own example");
        assert!(told(Some(sampled)));
        assert!(!told(Some(TraceContext { flags: 0, ..sampled })));
        assert!(!told(None));
    }

    #[test]
    fn without_an_exporter_the_callers_context_is_kept() {
        let mut request = Request::new(());
        request.metadata_mut().insert(TRACEPARENT, EXAMPLE.parse().expect("ASCII"));
        assert_eq!(of_request(&request), parse_traceparent(EXAMPLE));
        let unsampled = EXAMPLE.replace("-01", "-00");
        request.metadata_mut().insert(TRACEPARENT, unsampled.parse().expect("ASCII"));
        assert_eq!(of_request(&request), None);
        assert_eq!(current(), None);
    }
}
