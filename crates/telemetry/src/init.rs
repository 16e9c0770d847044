//! Starts and ends a process's telemetry.

use std::io::IsTerminal as _;
use std::str::FromStr;
use std::time::Duration;
use std::{env, fmt, io};

use opentelemetry::trace::TracerProvider as _;
use opentelemetry::{KeyValue, global};
use opentelemetry_otlp::tonic_types::transport::{Certificate, ClientTlsConfig, Identity};
use opentelemetry_otlp::{SpanExporter, WithTonicConfig as _};
use opentelemetry_sdk::Resource;
use opentelemetry_sdk::propagation::TraceContextPropagator;
use opentelemetry_sdk::resource::{EnvResourceDetector, TelemetryResourceDetector};
use opentelemetry_sdk::trace::SdkTracerProvider;
use opentelemetry_semantic_conventions::attribute;
use serde::{Deserialize, Serialize};
use tracing::Metadata;
use tracing_subscriber::filter::{EnvFilter, LevelFilter, filter_fn};
use tracing_subscriber::layer::SubscriberExt as _;
use tracing_subscriber::registry::LookupSpan;
use tracing_subscriber::util::SubscriberInitExt as _;
use tracing_subscriber::{Layer, fmt as log};

use crate::spans;

/// How long a process that ends waits for its last spans to leave.
const FLUSH_TIMEOUT: Duration = Duration::from_secs(5);

/// How log lines look.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum LogFormat {
    /// For people.
    #[default]
    Text,
    /// One JSON object a line, for collectors.
    Json,
}

impl fmt::Display for LogFormat {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Text => "text",
            Self::Json => "json",
        })
    }
}

impl FromStr for LogFormat {
    type Err = TelemetryError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        match text {
            "text" => Ok(Self::Text),
            "json" => Ok(Self::Json),
            other => Err(TelemetryError::LogFormat { given: other.to_owned() }),
        }
    }
}

/// What telemetry has to know about the process.
#[derive(Clone, Debug)]
pub struct TelemetryConfig {
    /// `push-node`, `control-plane`, …; `OTEL_SERVICE_NAME` outweighs it.
    pub service_name: String,
    /// The region, where the process belongs to one.
    pub region: Option<String>,
    /// The node's name, where it has one; traces show it as the instance.
    pub node: Option<String>,
    /// How log lines look.
    pub log_format: LogFormat,
    /// What is logged, in the syntax of `RUST_LOG`: `info,interlock_core=debug`.
    pub log_filter: String,
}

impl TelemetryConfig {
    /// Text logs from `info` on.
    pub fn new(service_name: impl Into<String>) -> Self {
        Self {
            service_name: service_name.into(),
            region: None,
            node: None,
            log_format: LogFormat::default(),
            log_filter: "info".to_owned(),
        }
    }
}

/// Why telemetry could not start. None of it is cured by a retry.
#[derive(Debug, thiserror::Error)]
pub enum TelemetryError {
    /// The log format is neither `text` nor `json`.
    #[error("log format {given:?} is neither \"text\" nor \"json\"")]
    LogFormat {
        /// What was given.
        given: String,
    },
    /// The log filter does not parse.
    #[error("log filter {filter:?}: {source}")]
    LogFilter {
        /// What was given.
        filter: String,
        /// Where it fails.
        source: tracing_subscriber::filter::ParseError,
    },
    /// The `OTEL_…` variables describe no exporter that can be built.
    #[error("OTLP exporter: {0}")]
    Exporter(#[from] opentelemetry_otlp::ExporterBuildError),
    /// A file that an `OTEL_EXPORTER_OTLP_…` variable names cannot be read.
    #[error("{variable}: {path:?}: {source}")]
    ExporterFile {
        /// The variable.
        variable: String,
        /// The file.
        path: String,
        /// What the system says.
        source: io::Error,
    },
    /// Somebody has installed a subscriber before.
    #[error("telemetry is already started in this process")]
    AlreadyStarted,
}

/// Ends telemetry with the process: keep it in `main` and call
/// [`shutdown`](Self::shutdown) last.
#[must_use = "dropping the guard stops the export of spans"]
#[derive(Debug)]
pub struct TelemetryGuard {
    provider: Option<SdkTracerProvider>,
}

impl TelemetryGuard {
    /// Sends the spans that are still buffered, for a few seconds at most.
    pub async fn shutdown(mut self) {
        let Some(provider) = self.provider.take() else { return };
        // The exporter's thread is waited for, and needs this runtime meanwhile.
        let ended = tokio::task::spawn_blocking(move || {
            spans::set_exporting(false);
            provider.shutdown_with_timeout(FLUSH_TIMEOUT)
        })
        .await;
        if let Ok(Err(error)) = ended {
            tracing::warn!(%error, "the last spans may be lost");
        }
    }

    /// Sends what is buffered now and goes on.
    pub async fn flush(&self) {
        let Some(provider) = self.provider.clone() else { return };
        let flushed = tokio::task::spawn_blocking(move || provider.force_flush()).await;
        if let Ok(Err(error)) = flushed {
            tracing::warn!(%error, "spans could not be flushed");
        }
    }
}

impl Drop for TelemetryGuard {
    fn drop(&mut self) {
        if let Some(provider) = self.provider.take() {
            spans::set_exporting(false);
            // On a way out that forgot `shutdown`, an error has nobody to go to.
            let _ = provider.shutdown_with_timeout(FLUSH_TIMEOUT);
        }
    }
}

/// Installs logs and, where `OTEL_EXPORTER_OTLP_ENDPOINT` (or
/// `…_TRACES_ENDPOINT`) is set, the export of spans. The other `OTEL_…`
/// variables keep their standard meaning. Call it once, inside a Tokio runtime,
/// which the exporter's connection lives in.
pub fn init(config: &TelemetryConfig) -> Result<TelemetryGuard, TelemetryError> {
    let filter = EnvFilter::try_new(&config.log_filter).map_err(|source| {
        TelemetryError::LogFilter { filter: config.log_filter.clone(), source }
    })?;
    let logs = match config.log_format {
        LogFormat::Text => log::layer()
            .with_writer(io::stderr)
            .with_ansi(io::stderr().is_terminal())
            .with_filter(filter)
            .boxed(),
        LogFormat::Json => log::layer()
            .json()
            .flatten_event(true)
            .with_current_span(true)
            .with_span_list(false)
            .with_writer(io::stderr)
            .with_filter(filter)
            .boxed(),
    };

    // Callers may propagate a context even where this process exports nothing.
    global::set_text_map_propagator(TraceContextPropagator::new());
    let provider = if export_wanted() { Some(tracer_provider(config)?) } else { None };

    tracing_subscriber::registry()
        .with(logs)
        .with(provider.as_ref().map(export_layer))
        .try_init()
        .map_err(|_| TelemetryError::AlreadyStarted)?;

    if let Some(provider) = &provider {
        global::set_tracer_provider(provider.clone());
        spans::set_exporting(true);
    }
    Ok(TelemetryGuard { provider })
}

fn export_wanted() -> bool {
    let is = |name, wanted| {
        variable(name).is_some_and(|value: String| value.eq_ignore_ascii_case(wanted))
    };
    endpoint().is_some() && !is("OTEL_SDK_DISABLED", "true") && !is("OTEL_TRACES_EXPORTER", "none")
}

/// By the specification an empty variable is one that is not set.
fn variable(name: &str) -> Option<String> {
    let value = env::var(name).ok()?;
    let value = value.trim();
    (!value.is_empty()).then(|| value.to_owned())
}

/// `OTEL_EXPORTER_OTLP_TRACES_{name}`, which outweighs `OTEL_EXPORTER_OTLP_{name}`.
fn otlp_variable(name: &str) -> Option<(String, String)> {
    ["OTEL_EXPORTER_OTLP_TRACES_", "OTEL_EXPORTER_OTLP_"].into_iter().find_map(|prefix| {
        let name = format!("{prefix}{name}");
        let value = variable(&name)?;
        Some((name, value))
    })
}

fn endpoint() -> Option<String> {
    otlp_variable("ENDPOINT").map(|(_, value)| value)
}

/// The content of the PEM file that a variable names.
fn otlp_file(name: &str) -> Result<Option<Vec<u8>>, TelemetryError> {
    let Some((variable, path)) = otlp_variable(name) else { return Ok(None) };
    match std::fs::read(&path) {
        Ok(content) => Ok(Some(content)),
        Err(source) => Err(TelemetryError::ExporterFile { variable, path, source }),
    }
}

/// What to trust, and to show, of a collector behind TLS: the system's roots
/// unless `…_CERTIFICATE` names a file. The exporter itself does not read these
/// variables.
fn exporter_tls() -> Result<ClientTlsConfig, TelemetryError> {
    let mut tls = match otlp_file("CERTIFICATE")? {
        Some(certificate) => {
            ClientTlsConfig::new().ca_certificate(Certificate::from_pem(certificate))
        }
        None => ClientTlsConfig::new().with_enabled_roots(),
    };
    if let (Some(certificate), Some(key)) =
        (otlp_file("CLIENT_CERTIFICATE")?, otlp_file("CLIENT_KEY")?)
    {
        tls = tls.identity(Identity::from_pem(certificate, key));
    }
    Ok(tls)
}

/// The sampler is the SDK's own reading of `OTEL_TRACES_SAMPLER`, by default
/// parent-based and always on.
fn tracer_provider(config: &TelemetryConfig) -> Result<SdkTracerProvider, TelemetryError> {
    let mut exporter = SpanExporter::builder().with_tonic();
    if endpoint().is_some_and(|endpoint| endpoint.starts_with("https://")) {
        exporter = exporter.with_tls_config(exporter_tls()?);
    }
    let exporter = exporter.build()?;
    Ok(SdkTracerProvider::builder()
        .with_batch_exporter(exporter)
        .with_resource(resource(config))
        .build())
}

/// What the configuration says first, so that the environment outweighs it.
fn resource(config: &TelemetryConfig) -> Resource {
    let mut attributes = vec![
        KeyValue::new(attribute::SERVICE_NAME, config.service_name.clone()),
        KeyValue::new(attribute::SERVICE_NAMESPACE, "interlock"),
        KeyValue::new(attribute::SERVICE_VERSION, env!("CARGO_PKG_VERSION")),
    ];
    if let Some(node) = &config.node {
        attributes.push(KeyValue::new(attribute::SERVICE_INSTANCE_ID, node.clone()));
    }
    if let Some(region) = &config.region {
        attributes.push(KeyValue::new("interlock.region", region.clone()));
    }
    let mut resource = Resource::builder_empty()
        .with_attributes(attributes)
        .with_detector(Box::new(TelemetryResourceDetector))
        .with_detector(Box::new(EnvResourceDetector::new()));
    if let Some(name) = variable("OTEL_SERVICE_NAME") {
        resource = resource.with_service_name(name);
    }
    resource.build()
}

fn export_layer<S>(provider: &SdkTracerProvider) -> impl Layer<S> + use<S>
where
    S: tracing::Subscriber + for<'span> LookupSpan<'span>,
{
    tracing_opentelemetry::layer()
        .with_tracer(provider.tracer("interlock"))
        // Source lines and thread names on each span cost more than they tell.
        .with_location(false)
        .with_threads(false)
        .with_tracked_inactivity(false)
        .with_filter(filter_fn(is_ours))
}

/// The exporter's own connection makes spans too; exporting those would never end.
fn is_ours(metadata: &Metadata<'_>) -> bool {
    metadata.target().starts_with("interlock") && *metadata.level() <= LevelFilter::INFO
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_wrong_log_format_is_named() {
        let error = "yaml".parse::<LogFormat>().expect_err("not a format");
        assert!(error.to_string().contains("yaml"), "{error}");
        for format in [LogFormat::Text, LogFormat::Json] {
            assert_eq!(format.to_string().parse::<LogFormat>().expect("its own name"), format);
        }
    }

    #[test]
    fn the_resource_names_service_region_and_node() {
        let config = TelemetryConfig {
            region: Some("north".into()),
            node: Some("north-0".into()),
            ..TelemetryConfig::new("push-node")
        };
        let resource = resource(&config);
        let value = |key: &'static str| {
            resource.get(&opentelemetry::Key::from_static_str(key)).map(|value| value.to_string())
        };
        assert_eq!(value("service.name").as_deref(), Some("push-node"));
        assert_eq!(value("service.instance.id").as_deref(), Some("north-0"));
        assert_eq!(value("interlock.region").as_deref(), Some("north"));
    }
}
