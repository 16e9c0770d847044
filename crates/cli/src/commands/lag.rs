//! `interlock lag`: what peers have not acknowledged, by origin, and who takes a log
//! from another member than its origin.

use std::collections::{BTreeMap, BTreeSet};

use anyhow::Result;
use interlock_client::v1;
use serde_json::{Value, json};

use crate::commands::messages::incarnation;
use crate::commands::reports::{NodeReport, collect};
use crate::output::{bytes, duration, print, table};
use crate::target::Target;

/// What one peer has not acknowledged of one origin in one namespace, over all
/// openings of the origin's database.
#[derive(Debug, PartialEq, Eq)]
struct Queue {
    node: String,
    peer: String,
    namespace: String,
    origin: u32,
    acknowledged: u64,
    messages: u64,
    oldest_milliseconds: u64,
    last_heard_milliseconds: u64,
    logs: Vec<(u64, u64, u64)>,
}

impl Queue {
    fn value(&self) -> Value {
        let logs: Vec<Value> = self
            .logs
            .iter()
            .map(|(opening, acknowledged, messages)| {
                json!({
                    "incarnation": incarnation(*opening),
                    "acknowledged": acknowledged,
                    "queue_messages": messages,
                })
            })
            .collect();
        json!({
            "node": self.node,
            "peer": self.peer,
            "namespace": self.namespace,
            "origin": self.origin,
            "acknowledged": self.acknowledged,
            "queue_messages": self.messages,
            "oldest_milliseconds": self.oldest_milliseconds,
            "last_heard_milliseconds": self.last_heard_milliseconds,
            "logs": logs,
        })
    }
}

/// The queues of one node.
fn queues(report: &NodeReport) -> Vec<Queue> {
    let Some(status) = &report.status else { return Vec::new() };
    let namespaces: BTreeMap<u32, &str> = status
        .namespaces
        .iter()
        .map(|namespace| (namespace.number, namespace.name.as_str()))
        .collect();
    let mut all = Vec::new();
    for peer in &status.peers {
        let mut by_path: BTreeMap<(u32, u32), Vec<&v1::QueueStatus>> = BTreeMap::new();
        for queue in &peer.queues {
            let origin = queue.log.unwrap_or_default().origin;
            by_path.entry((queue.namespace, origin)).or_default().push(queue);
        }
        all.extend(by_path.into_iter().map(|((namespace, origin), logs)| {
            Queue {
                node: report.name().to_owned(),
                peer: peer.name.clone(),
                namespace: namespaces.get(&namespace).copied().unwrap_or_default().to_owned(),
                origin,
                // What comes after it along the path is not whole.
                acknowledged: logs.iter().map(|log| log.acknowledged).min().unwrap_or(0),
                messages: logs.iter().map(|log| log.queue_messages).sum(),
                oldest_milliseconds: peer.oldest_milliseconds,
                last_heard_milliseconds: peer.last_heard_milliseconds,
                logs: logs
                    .iter()
                    .map(|log| {
                        let opening = log.log.unwrap_or_default().incarnation;
                        (opening, log.acknowledged, log.queue_messages)
                    })
                    .collect(),
            }
        }));
    }
    all
}

/// A log that a node takes from another member than its origin: from a sibling of
/// its region, or around a broken link.
#[derive(Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Relay {
    node: String,
    namespace: String,
    origin: String,
    server: String,
}

impl Relay {
    fn value(&self) -> Value {
        json!({
            "node": self.node,
            "namespace": self.namespace,
            "origin": self.origin,
            "server": self.server,
        })
    }

    fn text(&self) -> String {
        let Self { node, namespace, origin, server } = self;
        format!("{node} takes {origin}'s log of {namespace} from {server}")
    }
}

/// The relays to one node. Only of tips: nothing comes any more in what an earlier
/// opening wrote, whoever serves it.
fn relays(report: &NodeReport) -> BTreeSet<Relay> {
    let namespaces = report.status.iter().flat_map(|status| &status.namespaces);
    let relays = namespaces.flat_map(|namespace| {
        let logs = namespace.logs.iter().filter(|log| log.tip);
        let relayed = logs.filter(|log| !log.server.is_empty() && log.server != log.origin_name);
        relayed.map(|log| Relay {
            node: report.name().to_owned(),
            namespace: namespace.name.clone(),
            origin: log.origin_name.clone(),
            server: log.server.clone(),
        })
    });
    relays.collect()
}

/// When a namespace's logs reach their cap at a node, at the present growth.
#[derive(Debug, PartialEq, Eq)]
struct Forecast {
    node: String,
    namespace: String,
    log_bytes: u64,
    cap_bytes: u64,
    seconds: u64,
}

impl Forecast {
    fn value(&self) -> Value {
        json!({
            "node": self.node,
            "namespace": self.namespace,
            "log_bytes": self.log_bytes,
            "disk_cap_bytes": self.cap_bytes,
            "cap_reached_in_seconds": self.seconds,
        })
    }

    fn text(&self) -> String {
        format!(
            "{} at {}: {} of {}, the cap is reached in {} at the present growth",
            self.namespace,
            self.node,
            bytes(self.log_bytes),
            bytes(self.cap_bytes),
            duration(self.seconds * 1000),
        )
    }
}

/// The namespaces of one node that grow towards their cap.
fn forecasts(report: &NodeReport) -> Vec<Forecast> {
    let namespaces = report.status.iter().flat_map(|status| &status.namespaces);
    namespaces
        .filter(|namespace| namespace.cap_reached_in_seconds > 0)
        .map(|namespace| Forecast {
            node: report.name().to_owned(),
            namespace: namespace.name.clone(),
            log_bytes: namespace.log_bytes,
            cap_bytes: namespace.disk_cap_bytes,
            seconds: namespace.cap_reached_in_seconds,
        })
        .collect()
}

pub(crate) async fn run(target: &Target) -> Result<()> {
    let reports = collect(target).await?.nodes;
    let mut queues: Vec<Queue> = reports.iter().flat_map(queues).collect();
    queues.sort_by_key(|queue| std::cmp::Reverse(queue.messages));
    let unreachable: Vec<&str> = reports
        .iter()
        .filter(|report| report.status.is_none())
        .map(|report| report.name())
        .collect();
    let rows: Vec<Value> = queues.iter().map(Queue::value).collect();
    let forecasts: Vec<Forecast> = reports.iter().flat_map(forecasts).collect();
    let caps: Vec<Value> = forecasts.iter().map(Forecast::value).collect();
    let relays: BTreeSet<Relay> = reports.iter().flat_map(relays).collect();
    let servers: Vec<Value> = relays.iter().map(Relay::value).collect();
    let value = json!({
        "queues": rows,
        "servers": servers,
        "unreachable": unreachable,
        "caps": caps,
    });
    print(target.format, &value, || {
        let mut text = match queues.as_slice() {
            [] => "no peer has anything left to acknowledge".to_owned(),
            queues => rows_of(queues),
        };
        for relay in &relays {
            text.push_str(&format!("\n{}", relay.text()));
        }
        for forecast in &forecasts {
            text.push_str(&format!("\n{}", forecast.text()));
        }
        for node in unreachable {
            text.push_str(&format!("\n{node} does not answer: its queues are not known here"));
        }
        text
    })
}

fn rows_of(queues: &[Queue]) -> String {
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
    for queue in queues {
        table.add_row([
            queue.node.clone(),
            queue.peer.clone(),
            queue.namespace.clone(),
            queue.origin.to_string(),
            queue.acknowledged.to_string(),
            queue.messages.to_string(),
            duration(queue.oldest_milliseconds),
            duration(queue.last_heard_milliseconds),
        ]);
    }
    table.to_string()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::commands::reports::samples::{node, status};

    #[test]
    fn who_takes_a_log_from_another_than_its_origin_is_told() {
        let log = |origin: &str, tip, server: &str| v1::LogStatus {
            origin_name: origin.into(),
            tip,
            server: server.into(),
            ..Default::default()
        };
        let mut report = node("europe-2");
        status(&mut report).namespaces[0].logs = vec![
            log("asia-1", false, "europe-3"),
            log("asia-1", true, "europe-1"),
            log("america-1", true, "america-1"),
            log("europe-2", true, ""),
        ];
        let told: Vec<String> = relays(&report).iter().map(Relay::text).collect();
        assert_eq!(told, ["europe-2 takes asia-1's log of demo from europe-1"]);
        let value = relays(&report).first().map(Relay::value);
        let wanted = json!({
            "node": "europe-2", "namespace": "demo", "origin": "asia-1", "server": "europe-1",
        });
        assert_eq!(value, Some(wanted));
        assert!(relays(&crate::commands::reports::samples::away("asia-1")).is_empty());
    }

    #[test]
    fn a_restart_of_the_origin_does_not_show() {
        let queue = |incarnation, acknowledged, queue_messages| v1::QueueStatus {
            namespace: 1,
            log: Some(v1::LogName { origin: 2, incarnation, namespace: 1, shard: 0 }),
            acknowledged,
            queue_messages,
        };
        let mut report = node("europe-1");
        status(&mut report).namespaces[0].number = 1;
        status(&mut report).peers = vec![v1::PeerStatus {
            name: "asia-1".into(),
            queues: vec![queue(11, 5, 3), queue(12, 8, 4)],
            ..Default::default()
        }];
        let queues = queues(&report);
        assert_eq!(queues.len(), 1, "{queues:?}");
        assert_eq!((queues[0].acknowledged, queues[0].messages), (5, 7));
        assert_eq!((queues[0].namespace.as_str(), queues[0].origin), ("demo", 2));
        assert_eq!(queues[0].value()["logs"][1]["incarnation"], "000000000000000c");
        assert!(!rows_of(&queues).contains("000000"));
    }
}
