//! How long things took, as percentiles.

use std::time::Duration;

use hdrhistogram::Histogram;
use serde_json::{Value, json};

/// Three digits of each latency, from a nanosecond up to an hour.
const DIGITS: u8 = 3;
const MOST: Duration = Duration::from_secs(3600);

/// Latencies of one kind. What took longer than an hour counts as an hour.
#[derive(Clone, Debug)]
pub struct Latencies {
    histogram: Histogram<u64>,
}

impl Default for Latencies {
    fn default() -> Self {
        Self::new()
    }
}

impl Latencies {
    /// None yet.
    pub fn new() -> Self {
        let most = u64::try_from(MOST.as_nanos()).expect("an hour fits");
        let histogram = Histogram::new_with_bounds(1, most, DIGITS).expect("bounds that fit");
        Self { histogram }
    }

    /// One more.
    pub fn record(&mut self, latency: Duration) {
        self.record_many(latency, 1);
    }

    /// So many that took the same.
    pub fn record_many(&mut self, latency: Duration, count: u64) {
        let nanoseconds = u64::try_from(latency.min(MOST).as_nanos()).expect("an hour fits");
        self.histogram.saturating_record_n(nanoseconds.max(1), count);
    }

    /// Takes in others of the same kind.
    pub fn merge(&mut self, other: &Self) {
        self.histogram.add(&other.histogram).expect("all have the same bounds");
    }

    /// How many there are.
    pub fn count(&self) -> u64 {
        self.histogram.len()
    }

    /// What this share of them took at the most, from 0 to 1.
    pub fn quantile(&self, share: f64) -> Duration {
        Duration::from_nanos(self.histogram.value_at_quantile(share))
    }

    /// What the slowest took.
    pub fn max(&self) -> Duration {
        Duration::from_nanos(self.histogram.max())
    }

    /// For scripts: microseconds.
    pub fn to_json(&self) -> Value {
        let microseconds = |latency: Duration| latency.as_nanos() as f64 / 1000.0;
        json!({
            "count": self.count(),
            "mean": self.histogram.mean() / 1000.0,
            "p50": microseconds(self.quantile(0.5)),
            "p90": microseconds(self.quantile(0.9)),
            "p99": microseconds(self.quantile(0.99)),
            "p99.9": microseconds(self.quantile(0.999)),
            "max": microseconds(self.max()),
        })
    }
}

impl std::fmt::Display for Latencies {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let milliseconds = |latency: Duration| latency.as_secs_f64() * 1000.0;
        write!(
            f,
            "p50 {:.2} ms, p90 {:.2} ms, p99 {:.2} ms, p99.9 {:.2} ms, max {:.2} ms",
            milliseconds(self.quantile(0.5)),
            milliseconds(self.quantile(0.9)),
            milliseconds(self.quantile(0.99)),
            milliseconds(self.quantile(0.999)),
            milliseconds(self.max()),
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percentiles_are_within_a_thousandth() {
        let mut first = Latencies::new();
        (1..=500).for_each(|it| first.record(Duration::from_micros(it)));
        let mut second = Latencies::new();
        second.record_many(Duration::from_secs(7200), 500);
        first.merge(&second);
        assert_eq!(first.count(), 1000);
        let quarter = first.quantile(0.25).as_secs_f64() * 1e6;
        assert!((249.0..=251.0).contains(&quarter), "{quarter}");
        assert!(first.max() >= Duration::from_secs(3590), "an hour at the most: {:?}", first.max());
    }
}
