//! `interlock node`

use std::path::{Path, PathBuf};

use anyhow::Result;
use interlock_client::v1;
use serde_json::{Value, json};
use tonic::Status;

use crate::commands::messages::incarnation;
use crate::commands::node_removal;
use crate::commands::reports::{
    ControlPlaneReport, MeshReport, NodeReport, collect, node_state_name, node_value,
};
use crate::output::{Format, duration, print, table};
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
    /// Have a push-node accept nothing more and give others what they lack, before it
    /// is stopped. A restart ends it.
    Drain {
        /// Its name.
        name: String,
        /// How long its queues may take to become empty; the node's default unless given.
        #[arg(long, value_name = "SECONDS", default_value_t = 0)]
        deadline: u64,
    },
    /// Take a push-node out of the mesh for good: it hands over what it holds first.
    Remove(node_removal::Arguments),
    /// Open what is left of a damaged data folder and cut off what is lost, on the
    /// machine that has it, while its push-node is stopped.
    Recover {
        /// The push-node's data folder.
        data_dir: PathBuf,
        /// Cut off what is lost; without, it is only listed.
        #[arg(long)]
        accept_loss: bool,
    },
}

pub(crate) async fn run(target: &Target, command: Command) -> Result<()> {
    match command {
        Command::List => list(target).await,
        Command::Show { name } => show(target, &name).await,
        Command::Drain { name, deadline } => drain(target, &name, deadline).await,
        Command::Remove(arguments) => node_removal::run(target, &arguments).await,
        Command::Recover { .. } => unreachable!("it asks no mesh: `main` has carried it out"),
    }
}

/// `node recover`: the only one that asks a folder and not the mesh.
pub(crate) fn recover(data_dir: &Path, accept_loss: bool, format: Format) -> Result<()> {
    let recovered = match accept_loss {
        true => interlock_push_node::recover(data_dir)?,
        false => interlock_push_node::examine(data_dir)?,
    };
    let cut: Vec<Value> = recovered
        .cut
        .iter()
        .map(|cut| json!({ "log": cut.log, "kept_through": cut.kept, "known_through": cut.found, "reason": cut.reason }))
        .collect();
    let value = json!({ "data_dir": data_dir, "damage": recovered.damage, "cut": cut, "changed": accept_loss });
    print(format, &value, || {
        let mut lines = recovered.damage.clone();
        for cut in &recovered.cut {
            let kept = cut.kept.map_or("nothing".to_owned(), |kept| format!("up to {kept}"));
            lines.push(format!(
                "{}: kept {kept} of {} known messages: {}",
                cut.log, cut.found, cut.reason
            ));
        }
        if lines.is_empty() {
            lines.push("nothing is damaged, and nothing is lost".to_owned());
        } else if accept_loss {
            lines.push(
                "the folder can be opened: start its push-node, which takes back from the other \
                 members what they hold"
                    .to_owned(),
            );
        } else {
            lines.push("nothing was changed; --accept-loss opens what is left".to_owned());
        }
        lines.join("\n")
    })
}

async fn drain(target: &Target, name: &str, deadline: u64) -> Result<()> {
    let report = collect(target).await?;
    let address = find(&report, name)?.address.clone();
    let region = find(&report, name)?.region.clone();
    let mut nodes = target.mesh.nodes(&region)?.into_iter();
    let (_, mut client) = nodes
        .find(|(known, _)| *known == address)
        .ok_or_else(|| Status::unavailable(format!("{name} is not in this context")))?;
    let request = v1::DrainRequest { deadline_milliseconds: deadline * 1_000 };
    let left = client.drain(request).await?.into_inner().queue_messages;
    let value = json!({ "node": name, "state": "draining", "queue_messages": left });
    print(target.format, &value, || match left {
        0 => format!("{name} accepts nothing more, and all members hold what it has: stop it"),
        left => format!(
            "{name} accepts nothing more; {left} messages are not acknowledged by all members: \
             `interlock lag` says by whom"
        ),
    })
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
                "state": node_state_name(node.state()),
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
        let mut table = table(&[
            "node",
            "region",
            "state",
            "liveness",
            "last seen",
            "clients call",
            "namespaces",
        ]);
        for record in &response.nodes {
            let node = record.node.clone().unwrap_or_default();
            table.add_row([
                node.name.clone(),
                node.region.clone(),
                node_state_name(node.state()),
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
    if let Some(record) = report.control_plane.record_of(name) {
        let node = record.node.clone().unwrap_or_default();
        return Err(Status::unavailable(format!(
            "{name} in {} is registered at {} and not in this context",
            node.region, node.client_address
        )));
    }
    Err(unknown(report, name))
}

/// Why nothing is known of a node that neither the context nor the control-plane has.
pub(crate) fn unknown(report: &MeshReport, name: &str) -> Status {
    let away: Vec<&str> =
        report.nodes.iter().filter(|node| node.status.is_none()).map(NodeReport::name).collect();
    // One that does not answer may be it, where nobody says what it is called.
    match (&report.control_plane, away.as_slice()) {
        (ControlPlaneReport::Answers { .. }, _) | (_, []) => {
            Status::not_found(format!("there is no push-node {name:?}"))
        }
        (_, away) => Status::unavailable(format!(
            "no push-node that answers is called {name:?}, and these do not answer: {}",
            away.join(", ")
        )),
    }
}

fn detail(report: &NodeReport) -> String {
    let Some(status) = &report.status else { return report.headline() };
    let mut namespaces =
        table(&["namespace", "ready", "channels", "messages", "bytes", "state digest"]);
    let mut logs =
        table(&["namespace", "origin", "incarnation", "durable", "appended", "tip", "taken from"]);
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
                log.server.clone(),
            ]);
        }
    }
    let mut text = report.headline();
    for alarm in &status.alarms {
        text.push_str(&format!("\nALARM: {} ({})", alarm.name, alarm.detail));
    }
    for namespace in status.namespaces.iter().filter(|namespace| namespace.leaving) {
        text.push_str(&format!("\n{}", leaving_text(namespace)));
    }
    if status.bringing_back_messages > 0 {
        text.push_str(&format!(
            "\n{} messages that a repair took off are still to be published again",
            status.bringing_back_messages
        ));
    }
    if let Some(scrub) = &status.scrub {
        text.push_str(&format!("\n{}", scrub_text(scrub)));
    }
    if !status.left_out.is_empty() {
        text.push_str(&format!("\nnot shown: {}", status.left_out));
    }
    format!("{text}\n\n{namespaces}\n\n{logs}")
}

/// What a namespace that the node leaves still waits for.
fn leaving_text(namespace: &v1::NamespaceStatus) -> String {
    let (name, messages) = (&namespace.name, namespace.leaving_messages);
    match namespace.leaving_waits_for.as_slice() {
        [] => format!("leaves {name}, and waits for no member"),
        members => {
            format!("leaves {name}: {messages} messages are still to get to {}", members.join(", "))
        }
    }
}

/// How far the node has got in reading again what it stores.
fn scrub_text(scrub: &v1::ScrubStatus) -> String {
    if scrub.bytes_per_second == 0 {
        return "stored data is not read again to find damage".to_owned();
    }
    let found = match scrub.findings {
        0 => "without damage".to_owned(),
        findings => format!("with damage in {findings} places"),
    };
    let under_way = match scrub.read_bytes {
        0 => String::new(),
        read => format!(
            "; now {} of about {}",
            crate::output::bytes(read),
            crate::output::bytes(scrub.expected_bytes.max(read))
        ),
    };
    let passes = match scrub.passes {
        0 => "has not been read again yet".to_owned(),
        passes => format!(
            "was read again {passes} times, last in {}",
            crate::output::duration(scrub.last_took_milliseconds)
        ),
    };
    format!("stored data {passes}, {found}{under_way}")
}

#[cfg(test)]
mod tests {
    use tonic::Code;

    use super::*;
    use crate::commands::reports::samples::{away, node, status};

    #[test]
    fn what_a_node_still_has_to_do_is_shown() {
        let mut report = node("a");
        let plain = detail(&report);
        assert!(!plain.contains("leaves") && !plain.contains("published again"), "{plain}");
        status(&mut report).bringing_back_messages = 7;
        let namespace = &mut status(&mut report).namespaces[0];
        namespace.leaving = true;
        let told = detail(&report);
        assert!(told.contains("leaves demo, and waits for no member"), "{told}");
        assert!(told.contains("7 messages that a repair took off"), "{told}");
        let namespace = &mut status(&mut report).namespaces[0];
        namespace.leaving_messages = 12;
        namespace.leaving_waits_for = vec!["b".into(), "c".into()];
        let told = detail(&report);
        assert!(told.contains("leaves demo: 12 messages are still to get to b, c"), "{told}");
    }

    #[test]
    fn the_scrubbing_is_told_in_a_line() {
        let text = |scrub: v1::ScrubStatus| scrub_text(&scrub);
        let off = v1::ScrubStatus::default();
        assert_eq!(text(off), "stored data is not read again to find damage");
        let first =
            v1::ScrubStatus { bytes_per_second: 9, read_bytes: 1024, expected_bytes: 4096, ..off };
        let told = text(first);
        assert!(told.contains("not been read again yet, without damage; now"), "{told}");
        let later = v1::ScrubStatus { passes: 3, findings: 2, read_bytes: 0, ..first };
        let told = text(later);
        assert!(told.contains("3 times") && told.ends_with("with damage in 2 places"), "{told}");
    }

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
