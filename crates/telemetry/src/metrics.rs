//! What Prometheus reads. Names get the prefix `interlock_`, counters the suffix
//! `_total`; units are base units and part of the name (`commit_duration_seconds`).
//! No label may have as many values as there are subscribers or messages.
//!
//! Handles are cheap to clone and to update; a family's `with` takes a lock, so
//! a hot path keeps the handle it got.

use std::borrow::Cow;
use std::fmt;
use std::hash::{Hash, Hasher};
use std::sync::atomic::AtomicU64;
use std::sync::{Arc, Mutex};

use prometheus_client::collector::Collector;
use prometheus_client::encoding::{
    DescriptorEncoder, EncodeLabel, EncodeLabelSet, EncodeMetric, LabelSetEncoder, text,
};
use prometheus_client::metrics::exemplar::HistogramWithExemplars;
use prometheus_client::metrics::family::{Family, MetricConstructor};
use prometheus_client::metrics::gauge::ConstGauge;
use prometheus_client::metrics::{MetricType, counter, gauge};
use prometheus_client::registry;

/// The media type of [`Registry::encode`].
pub const OPENMETRICS_CONTENT_TYPE: &str =
    "application/openmetrics-text; version=1.0.0; charset=utf-8";

/// Seconds for what takes from a tenth of a millisecond (a synced write) to ten
/// seconds (a patient deadline).
pub const DURATION_BUCKETS: [f64; 16] = [
    0.000_1, 0.000_25, 0.000_5, 0.001, 0.002_5, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5,
    5.0, 10.0,
];

/// Counts from one to a full frame, for the sizes of batches.
pub const BATCH_BUCKETS: [f64; 13] =
    [1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 64.0, 128.0, 256.0, 512.0, 1024.0, 2048.0, 4096.0];

/// All metrics of a process. Clones are handles to the same.
#[derive(Clone, Debug)]
pub struct Registry {
    inner: Arc<Mutex<registry::Registry>>,
}

impl Registry {
    /// An empty registry with the prefix `interlock`.
    pub fn new() -> Self {
        Self { inner: Arc::new(Mutex::new(registry::Registry::with_prefix("interlock"))) }
    }

    /// A counter; `name` comes without `_total`.
    pub fn counter(&self, name: &str, help: &str) -> Counter {
        let metric = counter::Counter::default();
        self.register(name, help, metric.clone());
        Counter(metric)
    }

    /// A gauge.
    pub fn gauge(&self, name: &str, help: &str) -> Gauge {
        let metric = gauge::Gauge::default();
        self.register(name, help, metric.clone());
        Gauge(metric)
    }

    /// A histogram with these upper bounds.
    pub fn histogram(&self, name: &str, help: &str, buckets: &'static [f64]) -> Histogram {
        let metric = Buckets(buckets).new_metric();
        self.register(name, help, metric.clone());
        Histogram(metric)
    }

    /// Counters by labels; `name` comes without `_total`.
    pub fn counters<const N: usize>(
        &self,
        name: &str,
        help: &str,
        labels: [&'static str; N],
    ) -> Counters<N> {
        let family = Family::default();
        self.register(name, help, family.clone());
        Counters { family, labels }
    }

    /// Gauges by labels.
    pub fn gauges<const N: usize>(
        &self,
        name: &str,
        help: &str,
        labels: [&'static str; N],
    ) -> Gauges<N> {
        let family = Family::default();
        self.register(name, help, family.clone());
        Gauges { family, labels }
    }

    /// Histograms by labels.
    pub fn histograms<const N: usize>(
        &self,
        name: &str,
        help: &str,
        labels: [&'static str; N],
        buckets: &'static [f64],
    ) -> Histograms<N> {
        let family = Family::new_with_constructor(Buckets(buckets));
        self.register(name, help, family.clone());
        Histograms { family, labels }
    }

    /// Gauges whose values, and label values, are asked for at each scrape.
    pub fn observed_gauges<const N: usize>(
        &self,
        name: &'static str,
        help: &'static str,
        labels: [&'static str; N],
        observe: impl Fn() -> Vec<([String; N], f64)> + Send + Sync + 'static,
    ) {
        self.lock().register_collector(Box::new(Observed { name, help, labels, observe }));
    }

    /// One gauge whose value is asked for at each scrape.
    pub fn observed_gauge(
        &self,
        name: &'static str,
        help: &'static str,
        observe: impl Fn() -> f64 + Send + Sync + 'static,
    ) {
        self.observed_gauges(name, help, [], move || vec![([], observe())]);
    }

    /// The OpenMetrics text, with exemplars.
    pub fn encode(&self) -> String {
        let mut text = String::new();
        text::encode(&mut text, &self.lock()).expect("a String takes all that is written");
        text
    }

    fn register(&self, name: &str, help: &str, metric: impl registry::Metric) {
        self.lock().register(name, help.trim_end_matches('.'), metric);
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, registry::Registry> {
        // Nothing that holds this lock leaves the registry half written.
        self.inner.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }
}

impl Default for Registry {
    fn default() -> Self {
        Self::new()
    }
}

/// What only rises.
#[derive(Clone, Debug)]
pub struct Counter(counter::Counter);

impl Counter {
    /// One more.
    pub fn increment(&self) {
        self.0.inc();
    }

    /// `count` more.
    pub fn add(&self, count: u64) {
        self.0.inc_by(count);
    }

    /// The count so far.
    pub fn get(&self) -> u64 {
        self.0.get()
    }
}

type FloatGauge = gauge::Gauge<f64, AtomicU64>;

/// What rises and falls.
#[derive(Clone, Debug)]
pub struct Gauge(FloatGauge);

impl Gauge {
    /// Sets the value.
    pub fn set(&self, value: f64) {
        self.0.set(value);
    }

    /// Adds to the value; a negative amount takes away.
    pub fn add(&self, amount: f64) {
        self.0.inc_by(amount);
    }

    /// The value.
    pub fn get(&self) -> f64 {
        self.0.get()
    }
}

/// How values are distributed.
#[derive(Clone, Debug)]
pub struct Histogram(HistogramWithExemplars<TraceLabel>);

impl Histogram {
    /// Counts a value.
    pub fn observe(&self, value: f64) {
        self.0.observe(value, None, None);
    }

    /// Counts a value, with the trace (32 hexadecimal digits) that shows an
    /// example of it.
    pub fn observe_traced(&self, value: f64, trace_id: Option<String>) {
        let label = trace_id.map(|trace_id| TraceLabel { trace_id });
        let time = label.is_some().then(std::time::SystemTime::now);
        self.0.observe(value, label, time);
    }

    /// Counts a duration in seconds.
    pub fn observe_duration(&self, duration: std::time::Duration) {
        self.observe(duration.as_secs_f64());
    }
}

/// Counters by labels.
#[derive(Clone, Debug)]
pub struct Counters<const N: usize> {
    family: Family<Labels<N>, counter::Counter>,
    labels: [&'static str; N],
}

impl<const N: usize> Counters<N> {
    /// The counter of these label values, in the order of the labels.
    pub fn with<V: Into<Cow<'static, str>>>(&self, values: [V; N]) -> Counter {
        Counter(self.family.get_or_create_owned(&Labels::new(self.labels, values)))
    }

    /// Forgets the counter of these label values.
    pub fn remove<V: Into<Cow<'static, str>>>(&self, values: [V; N]) {
        self.family.remove(&Labels::new(self.labels, values));
    }
}

/// Gauges by labels.
#[derive(Clone, Debug)]
pub struct Gauges<const N: usize> {
    family: Family<Labels<N>, FloatGauge>,
    labels: [&'static str; N],
}

impl<const N: usize> Gauges<N> {
    /// The gauge of these label values, in the order of the labels.
    pub fn with<V: Into<Cow<'static, str>>>(&self, values: [V; N]) -> Gauge {
        Gauge(self.family.get_or_create_owned(&Labels::new(self.labels, values)))
    }

    /// Forgets the gauge of these label values.
    pub fn remove<V: Into<Cow<'static, str>>>(&self, values: [V; N]) {
        self.family.remove(&Labels::new(self.labels, values));
    }
}

/// Histograms by labels.
#[derive(Clone, Debug)]
pub struct Histograms<const N: usize> {
    family: Family<Labels<N>, HistogramWithExemplars<TraceLabel>, Buckets>,
    labels: [&'static str; N],
}

impl<const N: usize> Histograms<N> {
    /// The histogram of these label values, in the order of the labels.
    pub fn with<V: Into<Cow<'static, str>>>(&self, values: [V; N]) -> Histogram {
        Histogram(self.family.get_or_create_owned(&Labels::new(self.labels, values)))
    }
}

/// Counts and durations of a server's calls.
#[derive(Clone, Debug)]
pub struct RpcMetrics {
    requests: Counters<2>,
    durations: Histograms<1>,
}

impl RpcMetrics {
    /// `rpc_requests_total{method, code}` and `rpc_duration_seconds{method}`.
    pub fn register(registry: &Registry) -> Self {
        Self {
            requests: registry.counters(
                "rpc_requests",
                "Calls that ended, by method and gRPC status code",
                ["method", "code"],
            ),
            durations: registry.histograms(
                "rpc_duration_seconds",
                "How long calls took, streams from their first to their last message",
                ["method"],
                &DURATION_BUCKETS,
            ),
        }
    }

    /// Counts a call that has ended.
    pub fn observe(
        &self,
        method: &str,
        code: &'static str,
        duration: std::time::Duration,
        trace_id: Option<String>,
    ) {
        self.requests.with([Cow::Owned(method.to_owned()), Cow::Borrowed(code)]).increment();
        self.durations.with([method.to_owned()]).observe_traced(duration.as_secs_f64(), trace_id);
    }
}

/// Label names and the values of one member of a family. The names are the
/// family's, so only the values tell members apart.
#[derive(Clone, Debug)]
struct Labels<const N: usize> {
    names: [&'static str; N],
    values: [Cow<'static, str>; N],
}

impl<const N: usize> Labels<N> {
    fn new<V: Into<Cow<'static, str>>>(names: [&'static str; N], values: [V; N]) -> Self {
        Self { names, values: values.map(Into::into) }
    }
}

impl<const N: usize> PartialEq for Labels<N> {
    fn eq(&self, other: &Self) -> bool {
        self.values == other.values
    }
}

impl<const N: usize> Eq for Labels<N> {}

impl<const N: usize> Hash for Labels<N> {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.values.hash(state);
    }
}

impl<const N: usize> EncodeLabelSet for Labels<N> {
    fn encode(&self, encoder: &mut LabelSetEncoder<'_>) -> fmt::Result {
        for (name, value) in self.names.iter().zip(&self.values) {
            (*name, value.as_ref()).encode(encoder.encode_label())?;
        }
        Ok(())
    }
}

/// The label of an exemplar.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct TraceLabel {
    trace_id: String,
}

impl EncodeLabelSet for TraceLabel {
    fn encode(&self, encoder: &mut LabelSetEncoder<'_>) -> fmt::Result {
        ("trace_id", self.trace_id.as_str()).encode(encoder.encode_label())
    }
}

#[derive(Clone, Debug)]
struct Buckets(&'static [f64]);

impl MetricConstructor<HistogramWithExemplars<TraceLabel>> for Buckets {
    fn new_metric(&self) -> HistogramWithExemplars<TraceLabel> {
        HistogramWithExemplars::new(self.0.iter().copied())
    }
}

struct Observed<const N: usize, F> {
    name: &'static str,
    help: &'static str,
    labels: [&'static str; N],
    observe: F,
}

impl<const N: usize, F> fmt::Debug for Observed<N, F> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Observed").field("name", &self.name).finish_non_exhaustive()
    }
}

impl<const N: usize, F> Collector for Observed<N, F>
where
    F: Fn() -> Vec<([String; N], f64)> + Send + Sync + 'static,
{
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> fmt::Result {
        let mut metric =
            encoder.encode_descriptor(self.name, self.help, None, MetricType::Gauge)?;
        let mut values = (self.observe)().into_iter();
        if N == 0 {
            return values
                .next()
                .map_or(Ok(()), |(_, value)| ConstGauge::new(value).encode(metric));
        }
        values.try_for_each(|(values, value)| {
            let labels = Labels::new(self.labels, values);
            ConstGauge::new(value).encode(metric.encode_family(&labels)?)
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_carry_the_prefix_and_the_suffix() {
        let registry = Registry::new();
        registry.counter("publications", "Publications accepted.").add(3);
        registry.gauge("disk_free_bytes", "Free bytes").set(5.0);
        let queues = registry.gauges("queue_messages", "Unacknowledged", ["peer"]);
        queues.with(["south-0"]).set(7.0);
        queues.with(["west-0"]).set(1.0);
        queues.remove(["west-0"]);

        let text = registry.encode();
        assert!(text.contains("interlock_publications_total 3\n"), "{text}");
        assert!(text.contains("# HELP interlock_publications Publications accepted.\n"), "{text}");
        assert!(text.contains("interlock_disk_free_bytes 5.0\n"), "{text}");
        assert!(text.contains("interlock_queue_messages{peer=\"south-0\"} 7.0\n"), "{text}");
        assert!(!text.contains("west-0"), "{text}");
        assert!(text.ends_with("# EOF\n"), "{text}");
    }

    #[test]
    fn observed_gauges_are_asked_at_each_scrape() {
        let registry = Registry::new();
        let value = Arc::new(AtomicU64::new(1));
        let observed = Arc::clone(&value);
        registry.observed_gauges("lag_messages", "Lag", ["peer", "namespace"], move || {
            let lag = observed.load(std::sync::atomic::Ordering::Relaxed);
            vec![(["south-0".to_owned(), "news".to_owned()], lag as f64)]
        });
        registry.observed_gauge("alarms", "Alarms", || 2.0);
        let line = |lag: &str| {
            format!("interlock_lag_messages{{peer=\"south-0\",namespace=\"news\"}} {lag}\n")
        };
        assert!(registry.encode().contains(&line("1.0")), "{}", registry.encode());
        value.store(9, std::sync::atomic::Ordering::Relaxed);
        let text = registry.encode();
        assert!(text.contains(&line("9.0")), "{text}");
        assert!(text.contains("interlock_alarms 2.0\n"), "{text}");
    }

    #[test]
    fn a_traced_observation_is_an_exemplar() {
        let registry = Registry::new();
        let metrics = RpcMetrics::register(&registry);
        let trace = "0af7651916cd43dd8448eb211c80319c";
        metrics.observe(
            "interlock.v1.PublishService/Publish",
            "OK",
            std::time::Duration::from_millis(2),
            Some(trace.to_owned()),
        );
        let text = registry.encode();
        assert!(text.contains(&format!("# {{trace_id=\"{trace}\"}} 0.002")), "{text}");
        assert!(
            text.contains(
                "interlock_rpc_requests_total{method=\"interlock.v1.PublishService/Publish\",\
                 code=\"OK\"} 1\n"
            ),
            "{text}"
        );
    }
}
