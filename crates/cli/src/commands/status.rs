//! `interlock status`: the mesh on one screen, worst first.

use std::fmt::Write as _;
use std::io::{IsTerminal as _, Write as _};
use std::time::Duration;

use anyhow::Result;
use interlock_client::v1;
use serde_json::{Value, json};

use crate::output::{duration, print, table};
use crate::target::Target;

/// How long a node may take to say how it is.
const PATIENCE: Duration = Duration::from_secs(3);

#[derive(clap::Args)]
pub(crate) struct Arguments {
    /// Show it again every so many seconds.
    #[arg(long, num_args = 0..=1, default_missing_value = "1")]
    watch: Option<f64>,
}

/// What one push-node said of itself.
pub(crate) struct NodeReport {
    pub(crate) address: String,
    pub(crate) region: String,
    /// `None` if it did not answer: why.
    pub(crate) status: Option<v1::GetStatusResponse>,
    pub(crate) failure: String,
}

impl NodeReport {
    pub(crate) fn name(&self) -> &str {
        self.member().map_or(self.address.as_str(), |member| member.name.as_str())
    }

    fn member(&self) -> Option<&v1::MemberIdentity> {
        self.status.as_ref().and_then(|status| status.member.as_ref())
    }

    pub(crate) fn headline(&self) -> String {
        let Some(status) = &self.status else {
            return format!(
                "{} in {} does not answer: {}",
                self.address, self.region, self.failure
            );
        };
        format!(
            "{} in {}, {}, up {}, {} free on disk",
            self.name(),
            self.region,
            state_name(status),
            duration(status.uptime_milliseconds),
            crate::output::bytes(status.disk_free_bytes)
        )
    }

    /// The larger, the earlier in the list.
    fn badness(&self) -> u64 {
        let Some(status) = &self.status else { return u64::MAX };
        let queue: u64 = status.peers.iter().map(|peer| peer.queue_messages).sum();
        status.alarms.len() as u64 * 1_000_000_000 + queue.min(999_999_999)
    }
}

pub(crate) async fn run(target: &Target, arguments: &Arguments) -> Result<()> {
    let Some(seconds) = arguments.watch else { return show(target).await };
    let mut tick = tokio::time::interval(Duration::from_secs_f64(seconds.max(0.1)));
    loop {
        tick.tick().await;
        if std::io::stdout().is_terminal() {
            // Home, then clear what is below: no flicker.
            print!("\x1b[H\x1b[J");
            std::io::stdout().flush()?;
        }
        show(target).await?;
    }
}

async fn show(target: &Target) -> Result<()> {
    let mut reports = collect(target, false).await?;
    reports.sort_by_key(|report| std::cmp::Reverse(report.badness()));
    let control_plane = control_plane(target).await;
    let nodes: Vec<Value> = reports.iter().map(node_value).collect();
    let value = json!({ "nodes": nodes, "control_plane": control_plane });
    print(target.format, &value, || screen(&reports, &control_plane))
}

/// Asks every push-node of the context at the same time.
pub(crate) async fn collect(target: &Target, brief: bool) -> Result<Vec<NodeReport>> {
    let mut asking = Vec::new();
    for region in target.mesh.regions() {
        for (address, mut client) in target.mesh.nodes(region)? {
            let region = region.to_owned();
            asking.push(async move {
                let answer = tokio::time::timeout(
                    PATIENCE,
                    client.get_status(v1::GetStatusRequest { brief }),
                )
                .await;
                let (status, failure) = match answer {
                    Ok(Ok(response)) => (Some(response.into_inner()), String::new()),
                    Ok(Err(status)) => (None, status.message().to_owned()),
                    Err(_) => (None, format!("no answer in {} s", PATIENCE.as_secs())),
                };
                NodeReport { address, region, status, failure }
            });
        }
    }
    Ok(futures_util::future::join_all(asking).await)
}

async fn control_plane(target: &Target) -> Value {
    let Ok(mut client) = target.mesh.topology() else { return json!({ "reachable": false }) };
    match tokio::time::timeout(PATIENCE, client.get_topology(v1::GetTopologyRequest {})).await {
        Ok(Ok(response)) => {
            let version = response
                .into_inner()
                .topology
                .and_then(|topology| topology.version)
                .unwrap_or_default();
            json!({ "reachable": true, "topology_version": version_text(Some(version)) })
        }
        _ => json!({ "reachable": false }),
    }
}

fn version_text(version: Option<v1::TopologyVersion>) -> String {
    let version = version.unwrap_or_default();
    format!("{}.{}", version.generation, version.number)
}

fn state_name(status: &v1::GetStatusResponse) -> String {
    status.state().as_str_name().trim_start_matches("SERVING_STATE_").to_lowercase()
}

fn peer_state(peer: &v1::PeerStatus) -> String {
    peer.state().as_str_name().trim_start_matches("PEER_STATE_").to_lowercase()
}

/// A node as JSON.
pub(crate) fn node_value(report: &NodeReport) -> Value {
    let Some(status) = &report.status else {
        return json!({
            "name": report.name(),
            "region": report.region,
            "address": report.address,
            "reachable": false,
            "failure": report.failure,
        });
    };
    let member = status.member.clone().unwrap_or_default();
    let namespaces: Vec<Value> = status.namespaces.iter().map(namespace_value).collect();
    let peers: Vec<Value> = status
        .peers
        .iter()
        .map(|peer| {
            json!({
                "name": peer.name,
                "region": peer.region,
                "state": peer_state(peer),
                "detail": peer.detail,
                "queue_messages": peer.queue_messages,
                "oldest_milliseconds": peer.oldest_milliseconds,
                "last_heard_milliseconds": peer.last_heard_milliseconds,
                "retransmissions": peer.retransmissions,
                "round_trip_microseconds": peer.round_trip_microseconds,
            })
        })
        .collect();
    let alarms: Vec<Value> = status
        .alarms
        .iter()
        .map(|alarm| json!({ "name": alarm.name, "detail": alarm.detail, "since": alarm.since }))
        .collect();
    json!({
        "name": member.name,
        "region": report.region,
        "address": report.address,
        "number": member.node,
        "reachable": true,
        "state": state_name(status),
        "incarnation": format!("{:016x}", member.incarnation),
        "topology_version": version_text(status.topology_version),
        "control_plane_connected": status.control_plane_connected,
        "namespaces": namespaces,
        "peers": peers,
        "alarms": alarms,
        "disk_free_bytes": status.disk_free_bytes,
        "disk_used_bytes": status.disk_used_bytes,
        "uptime_milliseconds": status.uptime_milliseconds,
        "version": status.version,
    })
}

fn namespace_value(namespace: &v1::NamespaceStatus) -> Value {
    let logs: Vec<Value> = namespace
        .logs
        .iter()
        .map(|log| {
            let name = log.log.unwrap_or_default();
            json!({
                "origin": name.origin,
                "origin_name": log.origin_name,
                "incarnation": format!("{:016x}", name.incarnation),
                "appended": log.appended,
                "durable": log.durable,
                "durable_hash": log.durable_hash.iter().map(|byte| format!("{byte:02x}")).collect::<String>(),
                "floor": log.floor,
            })
        })
        .collect();
    json!({
        "number": namespace.number,
        "name": namespace.name,
        "groups": namespace.groups,
        "member": namespace.member,
        "ready": namespace.ready,
        "channels": namespace.channels,
        "messages": namespace.messages,
        "log_bytes": namespace.log_bytes,
        "tips_digest": namespace.tips_digest,
        "state_digest": namespace.state_digest,
        "undeliverable_messages": namespace.undeliverable_messages,
        "logs": logs,
    })
}

fn screen(reports: &[NodeReport], control_plane: &Value) -> String {
    let mut text = String::new();
    let reachable = control_plane["reachable"] == true;
    let _ = writeln!(
        text,
        "control-plane {}",
        if reachable {
            format!(
                "answers, topology {}",
                control_plane["topology_version"].as_str().unwrap_or_default()
            )
        } else {
            "does not answer; the regions go on without it".to_owned()
        }
    );
    let mut nodes =
        table(&["node", "region", "state", "namespace", "channels", "marks by origin", "messages"]);
    let mut peers = table(&["from", "to", "state", "queue", "oldest", "last heard", "sent again"]);
    for report in reports {
        let Some(status) = &report.status else {
            nodes.add_row([
                report.name(),
                &report.region,
                "no answer",
                "",
                "",
                &report.failure,
                "",
            ]);
            continue;
        };
        add_namespaces(&mut nodes, report, status);
        for peer in &status.peers {
            peers.add_row([
                report.name().to_owned(),
                peer.name.clone(),
                peer_state(peer),
                peer.queue_messages.to_string(),
                if peer.queue_messages == 0 {
                    String::new()
                } else {
                    duration(peer.oldest_milliseconds)
                },
                duration(peer.last_heard_milliseconds),
                peer.retransmissions.to_string(),
            ]);
        }
    }
    let _ = writeln!(text, "\n{nodes}\n\n{peers}");
    for report in reports {
        for alarm in report.status.iter().flat_map(|status| &status.alarms) {
            let _ =
                writeln!(text, "\nALARM at {}: {} ({})", report.name(), alarm.name, alarm.detail);
        }
    }
    let _ = writeln!(text, "\n{}", next_command(reports));
    text
}

fn add_namespaces(
    nodes: &mut comfy_table::Table,
    report: &NodeReport,
    status: &v1::GetStatusResponse,
) {
    if status.namespaces.is_empty() {
        nodes.add_row([report.name(), &report.region, &state_name(status), "", "", "", ""]);
    }
    for namespace in status.namespaces.iter().filter(|namespace| namespace.member) {
        let marks = namespace
            .logs
            .iter()
            .map(|log| format!("{}:{}", log.origin_name, log.durable))
            .collect::<Vec<_>>()
            .join(" ");
        let ready = if namespace.ready { state_name(status) } else { "backfilling".to_owned() };
        nodes.add_row([
            report.name().to_owned(),
            report.region.clone(),
            ready,
            namespace.name.clone(),
            namespace.channels.to_string(),
            marks,
            namespace.messages.to_string(),
        ]);
    }
}

/// What to look at next.
fn next_command(reports: &[NodeReport]) -> String {
    if let Some(away) = reports.iter().find(|report| report.status.is_none()) {
        return format!("{} does not answer: start it, or see its log", away.address);
    }
    let worst = reports
        .iter()
        .flat_map(|report| report.status.iter().flat_map(|status| &status.peers))
        .max_by_key(|peer| peer.queue_messages);
    match worst {
        Some(peer) if peer.queue_messages > 0 => {
            format!(
                "{} is {} messages behind: `interlock lag` shows of which origins",
                peer.name, peer.queue_messages
            )
        }
        _ => "all regions hold the same; `interlock node show NAME` has the details".to_owned(),
    }
}
