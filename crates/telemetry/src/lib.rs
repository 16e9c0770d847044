//! Interlock's logs, traces and metrics.
//!
//! [`init`] is the first thing a `main` does: logs go to stderr, spans to an
//! OTLP collector where the standard `OTEL_…` variables name one. [`metrics`]
//! holds what Prometheus reads, [`spans`] the names and attributes that the
//! semantic conventions prescribe.
//!
//! Nothing here knows what Interlock stores or sends: the services hand in
//! names and numbers.

mod init;
pub mod metrics;
mod serve;
pub mod spans;

pub use init::{LogFormat, TelemetryConfig, TelemetryError, TelemetryGuard, init};
pub use serve::{MetricsServer, Readiness, serve};
