//! What a measurement came to: for people, for scripts, and as a line of a table.

use std::fmt::Write as _;

use serde_json::{Map, Value, json};

use crate::{Latencies, Machine};

/// What a figure counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unit {
    /// Messages.
    Messages,
    /// Messages or deliveries a second.
    PerSecond,
    /// Bytes.
    Bytes,
    /// Bytes a second.
    BytesPerSecond,
    /// Seconds.
    Seconds,
    /// A number of times.
    Times,
}

/// One number.
#[derive(Clone, Debug, PartialEq)]
pub struct Figure {
    /// As scripts name it.
    pub name: &'static str,
    /// How much.
    pub value: f64,
    /// Of what.
    pub unit: Unit,
}

/// A run: what was done, on what, and what came of it.
#[derive(Clone, Debug)]
pub struct Report {
    work: &'static str,
    versions: Vec<(&'static str, String)>,
    settings: Vec<(&'static str, Value)>,
    figures: Vec<Figure>,
    latencies: Vec<(&'static str, Latencies)>,
    machine: Machine,
}

impl Report {
    /// Of a work, on this machine.
    pub fn new(work: &'static str) -> Self {
        Self {
            work,
            versions: Vec::new(),
            settings: Vec::new(),
            figures: Vec::new(),
            latencies: Vec::new(),
            machine: Machine::here(),
        }
    }

    /// By a version of a program.
    pub fn version(mut self, of: &'static str, version: impl Into<String>) -> Self {
        self.versions.push((of, version.into()));
        self
    }

    /// With a setting.
    pub fn setting(mut self, name: &'static str, value: impl Into<Value>) -> Self {
        self.settings.push((name, value.into()));
        self
    }

    /// What came of it.
    pub fn figure(mut self, name: &'static str, value: f64, unit: Unit) -> Self {
        self.figures.push(Figure { name, value, unit });
        self
    }

    /// How long what it did took; nothing is said of what never happened.
    pub fn latencies(mut self, of: &'static str, latencies: Latencies) -> Self {
        if latencies.count() > 0 {
            self.latencies.push((of, latencies));
        }
        self
    }

    /// For scripts: rates by second, latencies in microseconds.
    pub fn to_json(&self) -> Value {
        let object = |pairs: Vec<(&str, Value)>| {
            let pairs = pairs.into_iter().map(|(name, value)| (name.to_owned(), value));
            Value::Object(pairs.collect::<Map<_, _>>())
        };
        let versions = self.versions.iter().map(|(of, it)| (*of, json!(it))).collect();
        let figures = self.figures.iter().map(|it| (it.name, json!(it.value))).collect();
        let latencies = self.latencies.iter().map(|(of, it)| (*of, it.to_json())).collect();
        json!({
            "work": self.work,
            "versions": object(versions),
            "settings": object(self.settings.clone()),
            "figures": object(figures),
            "latency_microseconds": object(latencies),
            "machine": self.machine.to_json(),
        })
    }

    /// A header and one line, for a table of many runs.
    pub fn to_csv(&self) -> (String, String) {
        let mut cells: Vec<(String, String)> = vec![("work".to_owned(), self.work.to_owned())];
        cells.extend(self.versions.iter().map(|(of, it)| (format!("version {of}"), it.clone())));
        cells.extend(self.settings.iter().map(|(name, it)| ((*name).to_owned(), plain(it))));
        cells.extend(self.figures.iter().map(|it| (it.name.to_owned(), it.value.to_string())));
        for (of, latencies) in &self.latencies {
            let Value::Object(percentiles) = latencies.to_json() else { continue };
            let named = |(name, it): (String, Value)| (format!("{of} {name} us"), it.to_string());
            cells.extend(percentiles.into_iter().map(named));
        }
        cells.push(("machine".to_owned(), self.machine.to_string()));
        let line = |column: fn(&(String, String)) -> &String| {
            cells.iter().map(|cell| quoted(column(cell))).collect::<Vec<_>>().join(",")
        };
        (line(|cell| &cell.0), line(|cell| &cell.1))
    }

    /// For people.
    pub fn to_text(&self) -> String {
        let mut text = String::new();
        let _ = writeln!(text, "{}", self.work);
        let mut table = comfy_table::Table::new();
        table.load_style(comfy_table::presets::NOTHING);
        for Figure { name, value, unit } in &self.figures {
            table.add_row([name.replace('_', " "), said(*value, *unit)]);
        }
        for (of, latencies) in &self.latencies {
            table.add_row([of.replace('_', " "), latencies.to_string()]);
        }
        let list = |pairs: Vec<String>| pairs.join(", ");
        let settings = self
            .settings
            .iter()
            .map(|(name, it)| format!("{} {}", name.replace('_', " "), plain(it)));
        table.add_row(["settings".to_owned(), list(settings.collect())]);
        let versions = self.versions.iter().map(|(of, it)| format!("{of} {it}"));
        table.add_row(["versions".to_owned(), list(versions.collect())]);
        table.add_row(["machine".to_owned(), self.machine.to_string()]);
        let lines: Vec<String> =
            table.to_string().lines().map(|line| line.trim_end().to_owned()).collect();
        text.push_str(&lines.join("\n"));
        text
    }
}

/// A setting without the quotes of a text.
fn plain(value: &Value) -> String {
    value.as_str().map_or_else(|| value.to_string(), str::to_owned)
}

/// As RFC 4180 has it.
fn quoted(cell: &str) -> String {
    if cell.contains([',', '"', '\n']) {
        format!("\"{}\"", cell.replace('"', "\"\""))
    } else {
        cell.to_owned()
    }
}

fn said(value: f64, unit: Unit) -> String {
    const MEBIBYTE: f64 = (1_u64 << 20) as f64;
    match unit {
        Unit::Messages => grouped(value),
        Unit::PerSecond => format!("{}/s", grouped(value)),
        Unit::Bytes => format!("{:.1} MiB", value / MEBIBYTE),
        Unit::BytesPerSecond => format!("{:.1} MiB/s", value / MEBIBYTE),
        Unit::Seconds => format!("{value:.2} s"),
        Unit::Times => format!("{value:.2}"),
    }
}

/// A whole number in groups of three digits.
fn grouped(value: f64) -> String {
    let digits = format!("{value:.0}");
    let mut text = String::new();
    for (index, digit) in digits.chars().enumerate() {
        if index > 0 && (digits.len() - index).is_multiple_of(3) && !text.ends_with('-') {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn report() -> Report {
        let mut latencies = Latencies::new();
        latencies.record(Duration::from_millis(2));
        Report::new("publish")
            .version("interlock", "0.1.0")
            .setting("size", 128)
            .setting("durability", "local, \"at once\"")
            .figure("messages_per_second", 1_234_567.4, Unit::PerSecond)
            .latencies("acknowledgement", latencies)
            .latencies("nothing", Latencies::new())
    }

    #[test]
    fn scripts_get_all_of_it() {
        let value = report().to_json();
        assert_eq!(value["figures"]["messages_per_second"], 1_234_567.4);
        assert_eq!(value["settings"]["size"], 128);
        assert_eq!(value["latency_microseconds"]["acknowledgement"]["count"], 1);
        assert!(value["latency_microseconds"].get("nothing").is_none());
        assert!(value["machine"]["cores"].as_u64() > Some(0));
    }

    #[test]
    fn a_line_has_a_cell_for_each_name_of_the_header() {
        let (header, line) = report().to_csv();
        assert!(line.contains("\"local, \"\"at once\"\"\""), "{line}");
        assert!(header.starts_with("work,version interlock,size,durability,"), "{header}");
    }

    #[test]
    fn people_read_groups_of_digits() {
        assert_eq!(grouped(1_234_567.4), "1,234,567");
        assert_eq!(grouped(999.0), "999");
        assert_eq!(grouped(-1000.0), "-1,000");
        let text = report().to_text();
        assert!(text.contains("1,234,567/s") && text.contains("p99"), "{text}");
    }
}
