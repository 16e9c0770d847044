//! Turns of contenders, and the medians over them.

use std::collections::BTreeMap;

use anyhow::{Context as _, Result};
use serde_json::Value;

/// What one turn came to: figures by name, as `interlock bench` and `nats-bench` print
/// them, latencies as `NAME p50` and `NAME p99` in microseconds.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Turn(BTreeMap<String, f64>);

impl Turn {
    /// Out of a report.
    pub fn of(report: &Value) -> Result<Self> {
        let figures = report["figures"].as_object().context("the report has no figures")?;
        let mut turn: BTreeMap<String, f64> = figures
            .iter()
            .filter_map(|(name, value)| Some((name.clone(), value.as_f64()?)))
            .collect();
        for (of, percentiles) in report["latency_microseconds"].as_object().into_iter().flatten() {
            for quantile in ["p50", "p99"] {
                if let Some(value) = percentiles[quantile].as_f64() {
                    turn.insert(format!("{of} {quantile}"), value);
                }
            }
        }
        Ok(Self(turn))
    }

    /// One of its figures.
    pub fn figure(&self, name: &str) -> Result<f64> {
        self.0.get(name).copied().with_context(|| format!("the report has no {name:?}"))
    }
}

impl std::fmt::Display for Turn {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        for (name, value) in &self.0 {
            let is_rate = name.ends_with("_per_second");
            let is_percentile = name.ends_with("p50") || name.ends_with("p99");
            if is_rate || is_percentile {
                write!(f, "{} {value:.0}  ", name.replace('_', " "))?;
            }
        }
        Ok(())
    }
}

/// All turns of one contender.
#[derive(Clone, Debug, Default)]
pub struct Turns(Vec<Turn>);

impl Turns {
    /// One more.
    pub fn push(&mut self, turn: Turn) {
        self.0.push(turn);
    }

    /// The median of a figure over the turns that have it.
    pub fn median(&self, figure: &str) -> Result<f64> {
        let mut values: Vec<f64> =
            self.0.iter().filter_map(|turn| turn.0.get(figure).copied()).collect();
        values.sort_unstable_by(f64::total_cmp);
        let middle = values.len().checked_sub(1).map(|last| last / 2);
        let middle = middle.with_context(|| format!("no turn has a figure {figure:?}"))?;
        Ok((values[middle] + values[values.len() / 2]) / 2.0)
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn medians_are_those_of_the_middle() {
        let mut turns = Turns::default();
        assert!(turns.median("rate").is_err());
        for rate in [5.0, 1.0, 9.0, 3.0] {
            let report = json!({
                "figures": {"rate": rate},
                "latency_microseconds": {"delivery": {"p50": rate * 2.0}},
            });
            turns.push(Turn::of(&report).expect("a report"));
        }
        assert_eq!(turns.median("rate").expect("measured"), 4.0);
        assert_eq!(turns.median("delivery p50").expect("measured"), 8.0);
    }
}
