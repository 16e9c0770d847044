//! `interlock node`

use anyhow::Result;
use interlock_client::v1;
use serde_json::{Value, json};
use tonic::Status;

use crate::commands::messages::incarnation;
use crate::commands::reports::{ControlPlaneReport, MeshReport, NodeReport, collect, node_value};
use crate::output::{duration, print, table};
use crate::target::Target;

#[derive(clap::Subcommand)]
pub(crate) enum Command {
    /// All registered push-nodes.
    List,
    /// One push-node: its namespaces, logs and queues.
    Show {
        /// Its name.
        name: String,
    },
}

pub(crate) async fn run(target: &Target, command: Command) -> Result<()> {
    match command {
        Command::List => list(target).await,
        Command::Show { name } => show(target, &name).await,
    }
}

async fn list(target: &Target) -> Result<()> {
    let response = target.mesh.topology()?.list_nodes(v1::ListNodesRequest {}).await?.into_inner();
    let rows: Vec<Value> = response
        .nodes
        .iter()
        .map(|record| {
            let node = record.node.clone().unwrap_or_default();
            json!({
                "number": node.number,
                "name": node.name,
                "region": node.region,
                "state": node.state().as_str_name().trim_start_matches("NODE_STATE_").to_lowercase(),
                "liveness": liveness(record),
                "last_seen_milliseconds": record.last_seen_milliseconds,
                "replication_address": node.replication_address,
                "client_address": node.client_address,
                "namespaces": record.namespaces,
                "incarnation": incarnation(record.incarnation),
            })
        })
        .collect();
    print(target.format, &json!({ "nodes": rows }), || {
        let mut table =
            table(&["node", "region", "liveness", "last seen", "clients call", "namespaces"]);
        for record in &response.nodes {
            let node = record.node.clone().unwrap_or_default();
            table.add_row([
                node.name,
                node.region,
                liveness(record),
                duration(record.last_seen_milliseconds),
                node.client_address,
                record.namespaces.join(", "),
            ]);
        }
        table.to_string()
    })
}

fn liveness(record: &v1::NodeRecord) -> String {
    record.liveness().as_str_name().trim_start_matches("LIVENESS_").to_lowercase()
}

async fn show(target: &Target, name: &str) -> Result<()> {
    let report = collect(target).await?;
    let node = find(&report, name)?;
    print(target.format, &node_value(node), || detail(node))
}

/// The node of that name, if it answers; else why there is nothing to show.
fn find<'a>(report: &'a MeshReport, name: &str) -> Result<&'a NodeReport, Status> {
    if let Some(node) = report.nodes.iter().find(|node| node.name() == name) {
        return match node.status {
            Some(_) => Ok(node),
            None => Err(Status::unavailable(node.headline())),
        };
    }
    if let ControlPlaneReport::Answers { nodes, .. } = &report.control_plane
        && let Some(node) =
            nodes.iter().filter_map(|it| it.node.as_ref()).find(|it| it.name == name)
    {
        return Err(Status::unavailable(format!(
            "{name} in {} is registered at {} and not in this context",
            node.region, node.client_address
        )));
    }
    let away: Vec<&str> =
        report.nodes.iter().filter(|node| node.status.is_none()).map(NodeReport::name).collect();
    // One that does not answer may be it, where nobody says what it is called.
    match (&report.control_plane, away.as_slice()) {
        (ControlPlaneReport::Answers { .. }, _) | (_, []) => {
            Err(Status::not_found(format!("there is no push-node {name:?}")))
        }
        (_, away) => Err(Status::unavailable(format!(
            "no push-node that answers is called {name:?}, and these do not answer: {}",
            away.join(", ")
        ))),
    }
}

fn detail(report: &NodeReport) -> String {
    let Some(status) = &report.status else { return report.headline() };
    let mut namespaces =
        table(&["namespace", "ready", "channels", "messages", "bytes", "state digest"]);
    let mut logs = table(&["namespace", "origin", "incarnation", "durable", "appended", "tip"]);
    for namespace in &status.namespaces {
        namespaces.add_row([
            namespace.name.clone(),
            namespace.ready.to_string(),
            namespace.channels.to_string(),
            namespace.messages.to_string(),
            crate::output::bytes(namespace.log_bytes),
            namespace.state_digest.chars().take(16).collect(),
        ]);
        for log in &namespace.logs {
            logs.add_row([
                namespace.name.clone(),
                log.origin_name.clone(),
                incarnation(log.log.unwrap_or_default().incarnation),
                log.durable.to_string(),
                log.appended.to_string(),
                if log.tip { "yes".to_owned() } else { String::new() },
            ]);
        }
    }
    let mut text = report.headline();
    for alarm in &status.alarms {
        text.push_str(&format!("\nALARM: {} ({})", alarm.name, alarm.detail));
    }
    if !status.left_out.is_empty() {
        text.push_str(&format!("\nnot shown: {}", status.left_out));
    }
    format!("{text}\n\n{namespaces}\n\n{logs}")
}

#[cfg(test)]
mod tests {
    use tonic::Code;

    use super::*;
    use crate::commands::reports::samples::{away, node};

    #[test]
    fn a_node_that_is_away_is_not_one_that_does_not_exist() {
        let nodes = vec![node("europe-1"), away("asia-1")];
        let registered =
            v1::Node { name: "mars-1".into(), region: "mars".into(), ..Default::default() };
        let control_plane = ControlPlaneReport::Answers {
            topology_version: "1.1".into(),
            nodes: vec![v1::NodeRecord { node: Some(registered), ..Default::default() }],
        };
        let mut report = MeshReport { nodes, control_plane };
        assert_eq!(find(&report, "europe-1").expect("it answers").name(), "europe-1");
        let code = |report: &MeshReport, name: &str| find(report, name).err().map(|it| it.code());
        assert_eq!(code(&report, "asia-1"), Some(Code::Unavailable));
        assert_eq!(code(&report, "mars-1"), Some(Code::Unavailable));
        assert_eq!(code(&report, "venus-1"), Some(Code::NotFound));
        report.control_plane = ControlPlaneReport::NoAnswer("away".into());
        assert_eq!(code(&report, "venus-1"), Some(Code::Unavailable), "asia-1 may be it");
        report.nodes.remove(1);
        assert_eq!(code(&report, "venus-1"), Some(Code::NotFound));
    }
}
