//! `interlock lag`: what peers have not acknowledged, by log.

use anyhow::Result;
use serde_json::{Value, json};

use crate::commands::status::collect;
use crate::output::{duration, print, table};
use crate::target::Target;

#[derive(clap::Args)]
pub(crate) struct Arguments {
    /// Logs without a queue too.
    #[arg(long)]
    all: bool,
}

pub(crate) async fn run(target: &Target, arguments: &Arguments) -> Result<()> {
    let reports = collect(target, false).await?;
    let mut rows = Vec::new();
    for report in &reports {
        let Some(status) = &report.status else { continue };
        let namespace = |number: u32| {
            status
                .namespaces
                .iter()
                .find(|namespace| namespace.number == number)
                .map_or(String::new(), |found| found.name.clone())
        };
        for peer in &status.peers {
            for queue in
                peer.queues.iter().filter(|queue| arguments.all || queue.queue_messages > 0)
            {
                let log = queue.log.unwrap_or_default();
                rows.push(json!({
                    "node": report.name(),
                    "peer": peer.name,
                    "namespace": namespace(queue.namespace),
                    "origin": log.origin,
                    "incarnation": format!("{:016x}", log.incarnation),
                    "acknowledged": queue.acknowledged,
                    "queue_messages": queue.queue_messages,
                    "oldest_milliseconds": peer.oldest_milliseconds,
                    "last_heard_milliseconds": peer.last_heard_milliseconds,
                }));
            }
        }
    }
    rows.sort_by_key(|row| std::cmp::Reverse(row["queue_messages"].as_u64()));
    let unreachable: Vec<&str> = reports
        .iter()
        .filter(|report| report.status.is_none())
        .map(|report| report.name())
        .collect();
    let value = json!({ "queues": rows, "unreachable": unreachable });
    print(target.format, &value, || {
        let mut text = if rows.is_empty() {
            "no peer has anything left to acknowledge".to_owned()
        } else {
            let mut table = table(&[
                "node",
                "peer",
                "namespace",
                "origin",
                "acknowledged",
                "queue",
                "oldest",
                "last heard",
            ]);
            for row in &rows {
                let number = |key: &str| row[key].as_u64().unwrap_or(0);
                table.add_row([
                    text_of(&row["node"]),
                    text_of(&row["peer"]),
                    text_of(&row["namespace"]),
                    number("origin").to_string(),
                    number("acknowledged").to_string(),
                    number("queue_messages").to_string(),
                    duration(number("oldest_milliseconds")),
                    duration(number("last_heard_milliseconds")),
                ]);
            }
            table.to_string()
        };
        for node in unreachable {
            text.push_str(&format!("\n{node} does not answer: its queues are not known here"));
        }
        text
    })
}

fn text_of(value: &Value) -> String {
    value.as_str().unwrap_or_default().to_owned()
}
