//! What happens around every call: a server span with the caller's as parent,
//! the deadline, and a word to the observer when it has ended, however it ends.

use std::collections::BTreeSet;
use std::convert::Infallible;
use std::pin::Pin;
use std::sync::{Arc, LazyLock};
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderMap, HeaderValue};
use http_body::{Frame, SizeHint};
use prost::Message as _;
use prost_types::FileDescriptorSet;
use tokio::time::{Instant, Sleep};
use tonic::body::Body;
use tonic::{Code, Request, Status};
use tower::{Layer, Service};
use tracing::{Span, field};
use tracing_opentelemetry::OpenTelemetrySpanExt as _;

use crate::status::code_name;
use crate::trace;

const GRPC_TIMEOUT: &str = "grpc-timeout";
const GRPC_STATUS: &str = "grpc-status";

/// A deadline further away is none; it keeps additions to clocks from overflow.
const LONGEST_TIMEOUT: Duration = Duration::from_secs(366 * 24 * 3600);

/// What callers of unknown methods are counted under, so that they cannot make
/// up label values.
const UNKNOWN_METHOD: &str = "unknown";

/// A call that has ended.
#[derive(Clone, Debug)]
pub struct FinishedCall<'a> {
    /// `interlock.v1.PublishService/Publish`, or `unknown`.
    pub method: &'a str,
    /// How it ended.
    pub code: Code,
    /// From its headers to its trailers.
    pub duration: Duration,
    /// The trace it is in, 32 hexadecimal digits, if that is sampled.
    pub trace_id: Option<String>,
}

impl FinishedCall<'_> {
    /// `OK`, `NOT_FOUND`, …
    pub fn code_name(&self) -> &'static str {
        code_name(self.code)
    }
}

/// Hears of calls; every closure that takes a [`FinishedCall`] is one.
pub trait CallObserver: Send + Sync + 'static {
    /// A call has ended.
    fn call_finished(&self, call: &FinishedCall<'_>);
}

impl<F: Fn(&FinishedCall<'_>) + Send + Sync + 'static> CallObserver for F {
    fn call_finished(&self, call: &FinishedCall<'_>) {
        self(call);
    }
}

/// When the caller stops waiting, if it said so. A handler that has something to
/// tell by then should answer a little earlier.
pub fn deadline_of<T>(request: &Request<T>) -> Option<Instant> {
    request.extensions().get::<Deadline>().map(|deadline| deadline.0)
}

#[derive(Clone, Copy, Debug)]
struct Deadline(Instant);

#[derive(Clone)]
pub(super) struct ObserveLayer {
    observer: Option<Arc<dyn CallObserver>>,
}

impl ObserveLayer {
    pub(super) fn new(observer: Option<Arc<dyn CallObserver>>) -> Self {
        Self { observer }
    }
}

impl<S> Layer<S> for ObserveLayer {
    type Service = Observe<S>;

    fn layer(&self, inner: S) -> Observe<S> {
        Observe { inner, observer: self.observer.clone() }
    }
}

#[derive(Clone)]
pub(super) struct Observe<S> {
    inner: S,
    observer: Option<Arc<dyn CallObserver>>,
}

impl<S> Service<http::Request<Body>> for Observe<S>
where
    S: Service<http::Request<Body>, Response = http::Response<Body>, Error = Infallible>,
    S::Future: Send + 'static,
{
    type Response = http::Response<Body>;
    type Error = Infallible;
    type Future = Pin<Box<dyn Future<Output = Result<Self::Response, Infallible>> + Send>>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, mut request: http::Request<Body>) -> Self::Future {
        let started = Instant::now();
        let method = known_method(request.uri().path());
        let span = call_span(method, request.headers());
        let deadline = request
            .headers()
            .get(GRPC_TIMEOUT)
            .and_then(parse_timeout)
            .map(|timeout| started + timeout.min(LONGEST_TIMEOUT));
        if let Some(deadline) = deadline {
            request.extensions_mut().insert(Deadline(deadline));
        }
        let call = Call { method, started, deadline, span, observer: self.observer.clone() };
        let inner = call.span.in_scope(|| self.inner.call(request));
        Box::pin(respond(inner, call))
    }
}

async fn respond<F>(inner: F, mut call: Call) -> Result<http::Response<Body>, Infallible>
where
    F: Future<Output = Result<http::Response<Body>, Infallible>>,
{
    let mut sleep = call.deadline.map(|deadline| Box::pin(tokio::time::sleep_until(deadline)));
    let mut inner = std::pin::pin!(inner);
    let response = std::future::poll_fn(|cx| {
        let entered = call.span.enter();
        if let Poll::Ready(Ok(response)) = inner.as_mut().poll(cx) {
            return Poll::Ready(Some(response));
        }
        drop(entered);
        match &mut sleep {
            Some(sleep) => sleep.as_mut().poll(cx).map(|()| None),
            None => Poll::Pending,
        }
    })
    .await;
    let Some(response) = response else {
        call.finish(Code::DeadlineExceeded);
        return Ok(deadline_exceeded().into_http());
    };
    if let Some(code) = code_in(response.headers()) {
        // The answer is all headers: an error, or a method that does not exist.
        call.finish(code);
        return Ok(response);
    }
    Ok(response.map(|inner| Body::new(ObservedBody { inner, call, sleep, ended: false })))
}

fn deadline_exceeded() -> Status {
    Status::deadline_exceeded("the deadline has passed")
}

/// All that is known of a call under way. Dropping it unfinished is an end too:
/// the caller has gone.
struct Call {
    method: &'static str,
    started: Instant,
    deadline: Option<Instant>,
    span: Span,
    observer: Option<Arc<dyn CallObserver>>,
}

impl Call {
    fn finish(&mut self, code: Code) {
        self.span.record("rpc.response.status_code", code_name(code));
        // By the semantic conventions only these are a server's fault.
        if matches!(
            code,
            Code::Unknown
                | Code::DeadlineExceeded
                | Code::Unimplemented
                | Code::Internal
                | Code::Unavailable
                | Code::DataLoss
        ) {
            self.span.record("otel.status_code", "ERROR");
        }
        if let Some(observer) = self.observer.take() {
            let trace_id = trace::of_span(&self.span)
                .map(|context| u128::from_be_bytes(context.trace_id))
                .map(|trace_id| format!("{trace_id:032x}"));
            observer.call_finished(&FinishedCall {
                method: self.method,
                code,
                duration: self.started.elapsed(),
                trace_id,
            });
        }
        self.span = Span::none();
    }
}

impl Drop for Call {
    fn drop(&mut self) {
        if self.observer.is_some() || !self.span.is_none() {
            self.finish(Code::Cancelled);
        }
    }
}

struct ObservedBody {
    inner: Body,
    call: Call,
    sleep: Option<Pin<Box<Sleep>>>,
    ended: bool,
}

impl ObservedBody {
    fn end(&mut self, code: Code) {
        self.ended = true;
        self.sleep = None;
        self.call.finish(code);
    }
}

impl http_body::Body for ObservedBody {
    type Data = Bytes;
    type Error = Status;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
        let this = self.get_mut();
        if this.ended {
            return Poll::Ready(None);
        }
        let span = this.call.span.clone();
        let polled = span.in_scope(|| Pin::new(&mut this.inner).poll_frame(cx));
        match &polled {
            Poll::Ready(Some(Ok(frame))) => {
                if let Some(trailers) = frame.trailers_ref() {
                    this.end(code_in(trailers).unwrap_or(Code::Unknown));
                }
            }
            Poll::Ready(Some(Err(status))) => this.end(status.code()),
            Poll::Ready(None) => this.end(Code::Unknown),
            Poll::Pending => {
                let is_late =
                    this.sleep.as_mut().is_some_and(|sleep| sleep.as_mut().poll(cx).is_ready());
                if is_late {
                    this.end(Code::DeadlineExceeded);
                    // Ends what the handler streams, and frees what it holds.
                    this.inner = Body::empty();
                    let mut trailers = HeaderMap::new();
                    return Poll::Ready(match deadline_exceeded().add_header(&mut trailers) {
                        Ok(()) => Some(Ok(Frame::trailers(trailers))),
                        Err(status) => Some(Err(status)),
                    });
                }
            }
        }
        polled
    }

    fn is_end_stream(&self) -> bool {
        self.ended
    }

    fn size_hint(&self) -> SizeHint {
        self.inner.size_hint()
    }
}

fn code_in(headers: &HeaderMap) -> Option<Code> {
    headers.get(GRPC_STATUS).map(|code| Code::from_bytes(code.as_bytes()))
}

/// Health checks and reflection are counted but make no spans: a probe every few
/// seconds would bury what people look for.
fn call_span(method: &'static str, headers: &HeaderMap) -> Span {
    if method == UNKNOWN_METHOD || method.starts_with("grpc.") {
        return Span::none();
    }
    let span = tracing::info_span!(
        target: "interlock_rpc::server",
        "rpc",
        otel.name = method,
        otel.kind = "server",
        otel.status_code = field::Empty,
        rpc.system.name = "grpc",
        rpc.method = method,
        rpc.response.status_code = field::Empty,
    );
    if let Some(parent) = trace::extract(headers) {
        // Without an exporting layer there is nothing to be the parent of.
        let _ = span.set_parent(parent);
    }
    span
}

fn known_method(path: &str) -> &'static str {
    static METHODS: LazyLock<BTreeSet<String>> = LazyLock::new(|| {
        [
            crate::FILE_DESCRIPTOR_SET,
            tonic_health::pb::FILE_DESCRIPTOR_SET,
            tonic_reflection::pb::v1::FILE_DESCRIPTOR_SET,
        ]
        .into_iter()
        .flat_map(methods_of)
        .collect()
    });
    path.strip_prefix('/').and_then(|path| METHODS.get(path)).map_or(UNKNOWN_METHOD, String::as_str)
}

fn methods_of(descriptors: &[u8]) -> Vec<String> {
    let descriptors =
        FileDescriptorSet::decode(descriptors).expect("the build wrote these descriptors");
    let mut methods = Vec::new();
    for file in descriptors.file {
        for service in &file.service {
            for method in &service.method {
                methods.push(format!("{}.{}/{}", file.package(), service.name(), method.name()));
            }
        }
    }
    methods
}

/// At most eight digits and a unit, as gRPC writes it.
fn parse_timeout(header: &HeaderValue) -> Option<Duration> {
    let (unit, digits) = header.as_bytes().split_last()?;
    if digits.is_empty() || digits.len() > 8 || !digits.iter().all(u8::is_ascii_digit) {
        return None;
    }
    let count = digits.iter().fold(0, |sum, digit| sum * 10 + u64::from(digit - b'0'));
    match unit {
        b'H' => Some(Duration::from_secs(count * 3600)),
        b'M' => Some(Duration::from_secs(count * 60)),
        b'S' => Some(Duration::from_secs(count)),
        b'm' => Some(Duration::from_millis(count)),
        b'u' => Some(Duration::from_micros(count)),
        b'n' => Some(Duration::from_nanos(count)),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn timeouts_are_read_as_grpc_writes_them() {
        let parse = |text: &'static str| parse_timeout(&HeaderValue::from_static(text));
        assert_eq!(parse("1H"), Some(Duration::from_secs(3600)));
        assert_eq!(parse("250m"), Some(Duration::from_millis(250)));
        assert_eq!(parse("99999999n"), Some(Duration::from_nanos(99_999_999)));
        for wrong in ["", "1", "S", "123456789S", "-1S", "1s", "1.5S"] {
            assert_eq!(parse(wrong), None, "{wrong}");
        }
    }

    #[test]
    fn methods_that_nobody_declared_share_one_name() {
        assert_eq!(
            known_method("/interlock.v1.PublishService/Publish"),
            "interlock.v1.PublishService/Publish"
        );
        assert_eq!(known_method("/grpc.health.v1.Health/Check"), "grpc.health.v1.Health/Check");
        assert_eq!(known_method("/interlock.v1.PublishService/Invented"), UNKNOWN_METHOD);
        assert_eq!(known_method("/"), UNKNOWN_METHOD);
    }
}
