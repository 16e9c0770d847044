//! `interlock node`

use anyhow::Result;
use interlock_client::v1;
use serde_json::{Value, json};

use crate::commands::status::{NodeReport, collect, node_value};
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
                "incarnation": format!("{:016x}", record.incarnation),
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
    let reports = collect(target, false).await?;
    let Some(report) = reports.iter().find(|report| report.name() == name) else {
        return Err(tonic::Status::not_found(format!(
            "no push-node {name:?} of this context answers"
        ))
        .into());
    };
    print(target.format, &node_value(report), || detail(report))
}

fn detail(report: &NodeReport) -> String {
    let Some(status) = &report.status else { return format!("{} does not answer", report.name()) };
    let mut namespaces =
        table(&["namespace", "ready", "channels", "messages", "bytes", "state digest"]);
    let mut logs = table(&["namespace", "origin", "incarnation", "durable", "appended"]);
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
            let name = log.log.unwrap_or_default();
            logs.add_row([
                namespace.name.clone(),
                log.origin_name.clone(),
                format!("{:016x}", name.incarnation),
                log.durable.to_string(),
                log.appended.to_string(),
            ]);
        }
    }
    format!("{}\n\n{namespaces}\n\n{logs}", report.headline())
}
