//! `interlock cursor`

use anyhow::Result;
use interlock_core::cursor::Cursor;
use serde_json::json;

use crate::output::{Format, print, table};
use interlock_cli::usage::usage;

#[derive(clap::Subcommand)]
pub(crate) enum Command {
    /// What a cursor stands for.
    Show {
        /// The cursor as text.
        cursor: String,
    },
}

pub(crate) fn run(command: &Command, format: Format) -> Result<()> {
    let Command::Show { cursor: text } = command;
    let cursor = Cursor::from_text(text)
        .map_err(|error| usage(format!("the cursor cannot be read: {error}")))?;
    let tips: Vec<_> = cursor
        .tips()
        .map(|tip| {
            json!({
                "origin": tip.log.origin.get(),
                "incarnation": tip.log.incarnation.to_string(),
                "m_id": tip.m_id.get(),
            })
        })
        .collect();
    let value = json!({ "namespace": cursor.namespace().get(), "tips": tips, "bytes": cursor.encode().len() });
    print(format, &value, || {
        let mut rows = table(&["origin", "incarnation", "m_id"]);
        for tip in cursor.tips() {
            rows.add_row([
                tip.log.origin.to_string(),
                tip.log.incarnation.to_string(),
                tip.m_id.to_string(),
            ]);
        }
        format!("namespace {}\n{rows}", cursor.namespace())
    })
}
