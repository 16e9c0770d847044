//! What the parts of a mesh say of themselves, as `status`, `lag` and `node show`
//! tell it.

use std::collections::BTreeMap;
use std::time::Duration;

use anyhow::Result;
use interlock_client::v1;
use interlock_core::identity::ChainHash;
use serde_json::{Value, json};
use tonic::{Response, Status};

use crate::commands::messages::incarnation;
use crate::output::duration;
use crate::target::Target;

/// How long a part may take to say how it is.
const PATIENCE: Duration = Duration::from_secs(3);

/// What all parts said.
pub(crate) struct MeshReport {
    pub(crate) nodes: Vec<NodeReport>,
    pub(crate) control_plane: ControlPlaneReport,
}

/// What the control-plane said.
pub(crate) enum ControlPlaneReport {
    /// The context names none.
    NotInContext,
    /// Why it did not answer.
    NoAnswer(String),
    /// The topology's version, and the nodes that it knows.
    Answers { topology_version: String, nodes: Vec<v1::NodeRecord> },
}

/// What one push-node said of itself.
pub(crate) struct NodeReport {
    pub(crate) address: String,
    pub(crate) region: String,
    /// `None` if it did not answer: why.
    pub(crate) status: Option<v1::GetStatusResponse>,
    pub(crate) failure: String,
    /// Its name as the control-plane knows it.
    registered_name: Option<String>,
}

impl NodeReport {
    /// Its name, or else its address.
    pub(crate) fn name(&self) -> &str {
        let member = self.status.as_ref().and_then(|status| status.member.as_ref());
        let own = member.map(|member| member.name.as_str());
        own.or(self.registered_name.as_deref()).unwrap_or(&self.address)
    }

    /// What it is and how it is, in a line.
    pub(crate) fn headline(&self) -> String {
        let Some(status) = &self.status else {
            return format!(
                "{} in {} does not answer at {}: {}",
                self.name(),
                self.region,
                self.address,
                self.failure
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

    /// The namespaces that it is a member of.
    pub(crate) fn memberships(&self) -> impl Iterator<Item = &v1::NamespaceStatus> {
        let namespaces = self.status.iter().flat_map(|status| &status.namespaces);
        namespaces.filter(|namespace| namespace.member)
    }

    /// The larger, the earlier in a list.
    pub(crate) fn badness(&self) -> (usize, usize, u64) {
        let Some(status) = &self.status else { return (usize::MAX, 0, 0) };
        let unready = self.memberships().filter(|namespace| !namespace.ready).count();
        let queue = status.peers.iter().map(|peer| peer.queue_messages).sum();
        (status.alarms.len(), unready, queue)
    }
}

/// Asks every push-node of the context and the control-plane at the same time.
pub(crate) async fn collect(target: &Target) -> Result<MeshReport> {
    let mut asking = Vec::new();
    for region in target.mesh.regions() {
        for (address, mut client) in target.mesh.nodes(region)? {
            let region = region.to_owned();
            asking.push(async move {
                let request = v1::GetStatusRequest { brief: false };
                let (status, failure) = match in_time(client.get_status(request)).await {
                    Ok(status) => (Some(status), String::new()),
                    Err(failure) => (None, failure),
                };
                NodeReport { address, region, status, failure, registered_name: None }
            });
        }
    }
    let (mut nodes, control_plane) =
        tokio::join!(futures_util::future::join_all(asking), control_plane(target));
    if let ControlPlaneReport::Answers { nodes: records, .. } = &control_plane {
        for report in &mut nodes {
            report.registered_name = registered_name(report, records);
        }
    }
    Ok(MeshReport { nodes, control_plane })
}

async fn control_plane(target: &Target) -> ControlPlaneReport {
    let Ok(mut client) = target.mesh.topology() else { return ControlPlaneReport::NotInContext };
    let mut listing = client.clone();
    let answers = tokio::try_join!(
        in_time(client.get_topology(v1::GetTopologyRequest {})),
        in_time(listing.list_nodes(v1::ListNodesRequest {}))
    );
    match answers {
        Ok((topology, listed)) => ControlPlaneReport::Answers {
            topology_version: version_text(topology.topology.unwrap_or_default().version),
            nodes: listed.nodes,
        },
        Err(failure) => ControlPlaneReport::NoAnswer(failure),
    }
}

/// An answer, or why there is none.
async fn in_time<T>(call: impl Future<Output = Result<Response<T>, Status>>) -> Result<T, String> {
    match tokio::time::timeout(PATIENCE, call).await {
        Ok(Ok(response)) => Ok(response.into_inner()),
        Ok(Err(status)) => Err(status.message().to_owned()),
        Err(_) => Err(format!("no answer in {} s", PATIENCE.as_secs())),
    }
}

/// The node that registered this address, or else the only one of its region.
fn registered_name(report: &NodeReport, records: &[v1::NodeRecord]) -> Option<String> {
    let nodes = || records.iter().filter_map(|record| record.node.as_ref());
    let mut of_region = nodes().filter(|node| node.region == report.region);
    node_of_address(nodes(), &report.address)
        .or_else(|| of_region.next().filter(|_| of_region.next().is_none()))
        .map(|node| node.name.clone())
}

/// The node that registered an address, which a context names with its scheme.
pub(crate) fn node_of_address<'a>(
    mut nodes: impl Iterator<Item = &'a v1::Node>,
    address: &str,
) -> Option<&'a v1::Node> {
    let without_scheme = address.split_once("://").map_or(address, |(_, it)| it);
    nodes.find(|node| node.client_address == without_scheme)
}

/// `1.7`: the generation and the number.
pub(crate) fn version_text(version: Option<v1::TopologyVersion>) -> String {
    let version = version.unwrap_or_default();
    format!("{}.{}", version.generation, version.number)
}

/// `active`, `leaving`, `removed`.
pub(crate) fn node_state_name(state: v1::NodeState) -> String {
    state.as_str_name().trim_start_matches("NODE_STATE_").to_lowercase()
}

/// `serving`, `draining`, …
pub(crate) fn state_name(status: &v1::GetStatusResponse) -> String {
    status.state().as_str_name().trim_start_matches("SERVING_STATE_").to_lowercase()
}

/// `replicating`, `unreachable`, …
pub(crate) fn peer_state(peer: &v1::PeerStatus) -> String {
    peer.state().as_str_name().trim_start_matches("PEER_STATE_").to_lowercase()
}

/// How far a namespace's logs go, by origin: the tips. A restart of the origin
/// does not show; only a fork has several.
pub(crate) fn tips_by_origin(namespace: &v1::NamespaceStatus) -> BTreeMap<&str, Vec<u64>> {
    let mut tips: BTreeMap<&str, Vec<u64>> = BTreeMap::new();
    for log in namespace.logs.iter().filter(|log| log.tip) {
        tips.entry(&log.origin_name).or_default().push(log.durable);
    }
    tips.values_mut().for_each(|of_origin| of_origin.sort_unstable());
    tips
}

impl ControlPlaneReport {
    /// What it knows of a node.
    pub(crate) fn record_of(&self, name: &str) -> Option<&v1::NodeRecord> {
        let Self::Answers { nodes, .. } = self else { return None };
        nodes.iter().find(|record| record.node.as_ref().is_some_and(|node| node.name == name))
    }

    /// As JSON.
    pub(crate) fn value(&self) -> Value {
        match self {
            Self::NotInContext => json!({ "in_context": false, "reachable": false }),
            Self::NoAnswer(failure) => {
                json!({ "in_context": true, "reachable": false, "failure": failure })
            }
            Self::Answers { topology_version, .. } => {
                json!({ "in_context": true, "reachable": true, "topology_version": topology_version })
            }
        }
    }
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
        "incarnation": incarnation(member.incarnation),
        "topology_version": version_text(status.topology_version),
        "control_plane_connected": status.control_plane_connected,
        "namespaces": namespaces,
        "peers": peers,
        "alarms": alarms,
        "scrub": status.scrub.as_ref().map(scrub_value),
        "bringing_back_messages": status.bringing_back_messages,
        "left_out": status.left_out,
        "disk_free_bytes": status.disk_free_bytes,
        "disk_used_bytes": status.disk_used_bytes,
        "uptime_milliseconds": status.uptime_milliseconds,
        "version": status.version,
    })
}

fn scrub_value(scrub: &v1::ScrubStatus) -> Value {
    json!({
        "bytes_per_second": scrub.bytes_per_second,
        "passes": scrub.passes,
        "read_bytes": scrub.read_bytes,
        "expected_bytes": scrub.expected_bytes,
        "last_finished": scrub.last_finished,
        "last_took_milliseconds": scrub.last_took_milliseconds,
        "findings": scrub.findings,
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
                "incarnation": incarnation(name.incarnation),
                "appended": log.appended,
                "durable": log.durable,
                "durable_hash": chain_hash(&log.durable_hash),
                "floor": log.floor,
                "tip": log.tip,
                "server": log.server,
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
        "disk_cap_bytes": namespace.disk_cap_bytes,
        "cap_reached_in_seconds": namespace.cap_reached_in_seconds,
        "leaving": namespace.leaving,
        "leaving_messages": namespace.leaving_messages,
        "leaving_waits_for": namespace.leaving_waits_for,
        "logs": logs,
    })
}

fn chain_hash(bytes: &[u8]) -> String {
    bytes.try_into().map(|bytes| ChainHash::from_bytes(bytes).to_string()).unwrap_or_default()
}

/// Reports for tests.
#[cfg(test)]
pub(crate) mod samples {
    use super::*;

    /// A node that serves `demo` without a queue, as equal to all others.
    pub(crate) fn node(name: &str) -> NodeReport {
        let namespace = v1::NamespaceStatus {
            name: "demo".into(),
            member: true,
            ready: true,
            tips_digest: "11".into(),
            state_digest: "22".into(),
            ..Default::default()
        };
        let status = v1::GetStatusResponse {
            member: Some(v1::MemberIdentity { name: name.into(), ..Default::default() }),
            state: v1::ServingState::Serving.into(),
            namespaces: vec![namespace],
            ..Default::default()
        };
        let address = format!("http://{name}:1");
        let status = Some(status);
        NodeReport {
            address,
            region: name.into(),
            status,
            failure: String::new(),
            registered_name: None,
        }
    }

    /// The same, away.
    pub(crate) fn away(name: &str) -> NodeReport {
        let failure = "connection refused".to_owned();
        let registered_name = Some(name.to_owned());
        NodeReport { status: None, failure, registered_name, ..node(name) }
    }

    /// A node that holds logs of the namespace `demo`: origin, opening, durable mark,
    /// and whether it ends in a tip.
    pub(crate) fn holding(name: &str, logs: &[(&str, u64, u64, bool)]) -> NodeReport {
        let mut report = node(name);
        let held = &mut status(&mut report).namespaces[0].logs;
        held.extend(logs.iter().map(|(origin, incarnation, durable, tip)| v1::LogStatus {
            // The names of origins are single letters.
            log: Some(v1::LogName {
                namespace: 1,
                origin: origin.bytes().map(u32::from).sum(),
                incarnation: *incarnation,
                ..Default::default()
            }),
            origin_name: (*origin).into(),
            durable: *durable,
            tip: *tip,
            ..Default::default()
        }));
        report
    }

    /// The part of a report that a test changes.
    pub(crate) fn status(report: &mut NodeReport) -> &mut v1::GetStatusResponse {
        report.status.as_mut().expect("it answers")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn log(origin: &str, durable: u64, tip: bool) -> v1::LogStatus {
        v1::LogStatus { origin_name: origin.into(), durable, tip, ..Default::default() }
    }

    #[test]
    fn a_restart_is_invisible_and_a_fork_is_not() {
        let logs = vec![
            log("asia-1", 4, false),
            log("asia-1", 9, true),
            log("europe-1", 8, true),
            log("europe-1", 6, true),
        ];
        let namespace = v1::NamespaceStatus { logs, ..Default::default() };
        let tips: Vec<_> = tips_by_origin(&namespace).into_iter().collect();
        assert_eq!(tips, [("asia-1", vec![9]), ("europe-1", vec![6, 8])]);
    }

    #[test]
    fn what_a_node_still_has_to_do_is_told_to_scripts() {
        let mut report = samples::node("a");
        let status = samples::status(&mut report);
        status.bringing_back_messages = 7;
        status.namespaces[0].leaving = true;
        status.namespaces[0].leaving_messages = 12;
        status.namespaces[0].leaving_waits_for = vec!["b".into()];
        let value = node_value(&report);
        assert_eq!(value["bringing_back_messages"], 7);
        let namespace = &value["namespaces"][0];
        assert_eq!(
            (&namespace["leaving"], &namespace["leaving_messages"]),
            (&json!(true), &json!(12))
        );
        assert_eq!(namespace["leaving_waits_for"], json!(["b"]));
    }

    #[test]
    fn who_does_not_answer_has_the_name_that_it_registered() {
        let record = |name: &str, region: &str, address: &str| v1::NodeRecord {
            node: Some(v1::Node {
                name: name.into(),
                region: region.into(),
                client_address: address.into(),
                ..Default::default()
            }),
            ..Default::default()
        };
        let records = [
            record("asia-1", "asia", "10.0.0.1:1"),
            record("asia-2", "asia", "10.0.0.2:1"),
            record("europe-1", "europe", "10.0.0.3:1"),
        ];
        let report = |region: &str, address: &str| NodeReport {
            region: region.to_owned(),
            address: address.to_owned(),
            registered_name: None,
            ..samples::away("x")
        };
        let name = |region, address| registered_name(&report(region, address), &records);
        assert_eq!(name("asia", "http://10.0.0.2:1").as_deref(), Some("asia-2"));
        assert_eq!(name("europe", "http://europe.example:1").as_deref(), Some("europe-1"));
        assert_eq!(name("asia", "http://asia.example:1"), None, "it may be either");
    }
}
