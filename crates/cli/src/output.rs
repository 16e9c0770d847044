//! Tables for people, JSON for scripts.

use std::io::{IsTerminal as _, Write as _};

use anyhow::Result;
use clap::ValueEnum;
use comfy_table::{ContentArrangement, Table, presets};
use serde_json::Value;

/// How a command answers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Format {
    /// For people.
    Table,
    /// For scripts.
    Json,
}

/// Prints `value` as JSON, or what `table` makes for people.
pub(crate) fn print(format: Format, value: &Value, table: impl FnOnce() -> String) -> Result<()> {
    let mut stdout = std::io::stdout().lock();
    match format {
        Format::Json => writeln!(stdout, "{value:#}")?,
        Format::Table => writeln!(stdout, "{}", table().trim_end())?,
    }
    Ok(())
}

/// A table with these columns.
pub(crate) fn table(columns: &[&str]) -> Table {
    let mut table = fields();
    table.set_header(columns.iter().map(|column| column.to_uppercase()));
    table
}

/// A table without a header, for one thing's fields.
pub(crate) fn fields() -> Table {
    let mut table = Table::new();
    table.load_style(presets::NOTHING).set_content_arrangement(
        if std::io::stdout().is_terminal() {
            ContentArrangement::Dynamic
        } else {
            ContentArrangement::Disabled
        },
    );
    table
}

/// Milliseconds as people say them.
pub(crate) fn duration(milliseconds: u64) -> String {
    match milliseconds {
        0..1_000 => format!("{milliseconds} ms"),
        1_000..60_000 => format!("{:.1} s", milliseconds as f64 / 1_000.0),
        60_000..3_600_000 => format!("{} min", milliseconds / 60_000),
        3_600_000..86_400_000 => format!("{:.1} h", milliseconds as f64 / 3_600_000.0),
        _ => format!("{:.1} d", milliseconds as f64 / 86_400_000.0),
    }
}

/// Bytes as people say them.
pub(crate) fn bytes(count: u64) -> String {
    const UNITS: [&str; 5] = ["B", "KiB", "MiB", "GiB", "TiB"];
    let mut value = count as f64;
    let mut unit = 0;
    while value >= 1024.0 && unit + 1 < UNITS.len() {
        value /= 1024.0;
        unit += 1;
    }
    if unit == 0 { format!("{count} B") } else { format!("{value:.1} {}", UNITS[unit]) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_and_times_are_short() {
        assert_eq!(bytes(1023), "1023 B");
        assert_eq!(bytes(1536), "1.5 KiB");
        assert_eq!(duration(999), "999 ms");
        assert_eq!(duration(61_000), "1 min");
    }
}
