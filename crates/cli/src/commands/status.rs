//! `interlock status`: the mesh on one screen, worst first.

use std::fmt::Write as _;
use std::io::IsTerminal as _;
use std::time::Duration;

use anyhow::Result;
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use interlock_client::v1;
use serde_json::{Value, json};

use crate::commands::reports::{
    ControlPlaneReport, MeshReport, NodeReport, collect, node_value, peer_state, state_name,
    tips_by_origin,
};
use crate::commands::verdict::verdict;
use crate::output::{Format, duration, print, table};
use crate::target::Target;

#[derive(clap::Args)]
pub(crate) struct Arguments {
    /// Show it again every so many seconds.
    #[arg(long, num_args = 0..=1, default_missing_value = "1", value_parser = seconds)]
    watch: Option<Duration>,
}

/// The least between two looks: a mesh is not to be kept busy by being watched.
const LEAST_WATCH: Duration = Duration::from_millis(100);

fn seconds(text: &str) -> Result<Duration, String> {
    let seconds: f64 = text.parse().map_err(|error| format!("{text:?}: {error}"))?;
    let watch = Duration::try_from_secs_f64(seconds).map_err(|error| error.to_string())?;
    Ok(watch.max(LEAST_WATCH))
}

pub(crate) async fn run(target: &Target, arguments: &Arguments) -> Result<()> {
    let Some(watch) = arguments.watch else { return show(target).await };
    let mut tick = tokio::time::interval(watch);
    if target.format == Format::Json || !std::io::stdout().is_terminal() {
        loop {
            tick.tick().await;
            show(target).await?;
        }
    }
    // Drawn in its place, below whatever stands on the terminal.
    let drawn = ProgressBar::with_draw_target(None, ProgressDrawTarget::stdout())
        .with_style(ProgressStyle::with_template("{msg}")?);
    loop {
        tick.tick().await;
        drawn.set_message(screen(&look(target).await?));
        drawn.tick();
    }
}

async fn look(target: &Target) -> Result<MeshReport> {
    let mut report = collect(target).await?;
    report.nodes.sort_by_key(|node| std::cmp::Reverse(node.badness()));
    Ok(report)
}

async fn show(target: &Target) -> Result<()> {
    let report = look(target).await?;
    let nodes: Vec<Value> = report.nodes.iter().map(node_value).collect();
    let value = json!({
        "nodes": nodes,
        "control_plane": report.control_plane.value(),
        "verdict": verdict(&report),
    });
    print(target.format, &value, || screen(&report))
}

fn screen(report: &MeshReport) -> String {
    let mut text = match &report.control_plane {
        ControlPlaneReport::NotInContext => "the context names no control-plane".to_owned(),
        ControlPlaneReport::NoAnswer(_) => {
            "control-plane does not answer; the regions go on without it".to_owned()
        }
        ControlPlaneReport::Answers { topology_version, .. } => {
            format!("control-plane answers, topology {topology_version}")
        }
    };
    for node in &report.nodes {
        for alarm in node.status.iter().flat_map(|status| &status.alarms) {
            let _ = write!(text, "\nALARM at {}: {} ({})", node.name(), alarm.name, alarm.detail);
        }
    }
    let mut nodes =
        table(&["node", "region", "state", "namespace", "channels", "marks by origin", "messages"]);
    let mut peers = table(&["from", "to", "state", "queue", "oldest", "last heard", "sent again"]);
    for node in &report.nodes {
        match &node.status {
            None => {
                nodes.add_row([node.name(), &node.region, "no answer", "", "", &node.failure, ""]);
            }
            Some(status) => {
                add_namespaces(&mut nodes, node, status);
                add_peers(&mut peers, node, status);
            }
        }
    }
    let _ = write!(text, "\n\n{nodes}\n\n{peers}\n\n{}", verdict(report));
    text
}

fn add_peers(peers: &mut comfy_table::Table, node: &NodeReport, status: &v1::GetStatusResponse) {
    for peer in &status.peers {
        let oldest = match peer.queue_messages {
            0 => String::new(),
            _ => duration(peer.oldest_milliseconds),
        };
        peers.add_row([
            node.name().to_owned(),
            peer.name.clone(),
            peer_state(peer),
            peer.queue_messages.to_string(),
            oldest,
            duration(peer.last_heard_milliseconds),
            peer.retransmissions.to_string(),
        ]);
    }
}

fn add_namespaces(
    nodes: &mut comfy_table::Table,
    node: &NodeReport,
    status: &v1::GetStatusResponse,
) {
    if node.memberships().next().is_none() {
        nodes.add_row([node.name(), &node.region, &state_name(status), "", "", "", ""]);
    }
    for namespace in node.memberships() {
        let ready = if namespace.ready { state_name(status) } else { "backfilling".to_owned() };
        nodes.add_row([
            node.name().to_owned(),
            node.region.clone(),
            ready,
            namespace.name.clone(),
            namespace.channels.to_string(),
            marks(namespace),
            namespace.messages.to_string(),
        ]);
    }
}

/// `europe-1:6 asia-1:4`; with a comma between the tips of a fork.
fn marks(namespace: &v1::NamespaceStatus) -> String {
    let text = |(origin, tips): (&str, Vec<u64>)| {
        let tips: Vec<String> = tips.iter().map(u64::to_string).collect();
        format!("{origin}:{}", tips.join(","))
    };
    tips_by_origin(namespace).into_iter().map(text).collect::<Vec<_>>().join(" ")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::commands::reports::samples::{away, node, status};

    #[test]
    fn the_screen_has_alarms_names_and_marks() {
        let mut alarmed = node("europe-1");
        let log = |durable, tip| v1::LogStatus {
            origin_name: "asia-1".into(),
            durable,
            tip,
            ..Default::default()
        };
        status(&mut alarmed).namespaces[0].logs = vec![log(4, false), log(9, true)];
        status(&mut alarmed).alarms =
            vec![v1::Alarm { name: "CLOCK".into(), detail: "an hour off".into(), since: 0 }];
        let control_plane = ControlPlaneReport::NoAnswer("connection refused".into());
        let text = screen(&MeshReport { nodes: vec![away("asia-1"), alarmed], control_plane });
        assert!(text.starts_with("control-plane does not answer"), "{text}");
        let alarm = text.find("ALARM at europe-1: CLOCK (an hour off)").expect("the alarm");
        assert!(alarm < text.find("NODE").expect("the table"), "{text}");
        assert!(text.contains("asia-1:9") && !text.contains("asia-1:4"), "{text}");
        assert!(text.contains("no answer"), "{text}");
    }

    #[test]
    fn watching_has_a_bound() {
        assert_eq!(seconds("2.5"), Ok(Duration::from_millis(2500)));
        assert_eq!(seconds("0"), Ok(LEAST_WATCH));
        for wrong in ["-1", "NaN", "inf", "x", "1e300"] {
            assert!(seconds(wrong).is_err(), "{wrong}");
        }
    }
}
