//! What is worst in a mesh, and what to look at next.

use std::collections::BTreeMap;

use crate::commands::reports::{ControlPlaneReport, MeshReport, NodeReport, peer_state};

/// One sentence: the worst that there is. That all regions hold the same is said
/// only where their digests say so.
pub(crate) fn verdict(report: &MeshReport) -> String {
    let nodes = &report.nodes;
    None.or_else(|| unreachable(nodes))
        .or_else(|| alarmed(nodes))
        .or_else(|| unready(nodes))
        .or_else(|| without_control_plane(&report.control_plane))
        .or_else(|| behind(nodes))
        .or_else(|| cut_off(nodes))
        .or_else(|| different(nodes))
        .unwrap_or_else(|| {
            "all regions hold the same; `interlock node show NAME` has the details".to_owned()
        })
}

fn unreachable(nodes: &[NodeReport]) -> Option<String> {
    let away = nodes.iter().find(|node| node.status.is_none())?;
    Some(format!("{} does not answer at {}: start it, or see its log", away.name(), away.address))
}

fn alarmed(nodes: &[NodeReport]) -> Option<String> {
    let alarms = |node: &NodeReport| node.status.as_ref().map_or(0, |status| status.alarms.len());
    let count: usize = nodes.iter().map(alarms).sum();
    let worst = nodes.iter().max_by_key(|node| alarms(node)).filter(|_| count > 0)?;
    Some(format!(
        "{count} alarms, see above: `interlock node show {}` has the details",
        worst.name()
    ))
}

fn unready(nodes: &[NodeReport]) -> Option<String> {
    nodes.iter().find_map(|node| {
        let namespace = node.memberships().find(|namespace| !namespace.ready)?;
        Some(format!(
            "{} still takes over {}: until then it accepts nothing there",
            node.name(),
            namespace.name
        ))
    })
}

fn without_control_plane(control_plane: &ControlPlaneReport) -> Option<String> {
    match control_plane {
        ControlPlaneReport::NoAnswer(failure) => Some(format!(
            "the control-plane does not answer ({failure}): the regions go on, and placement cannot be changed"
        )),
        ControlPlaneReport::NotInContext | ControlPlaneReport::Answers { .. } => None,
    }
}

fn behind(nodes: &[NodeReport]) -> Option<String> {
    let peers = nodes.iter().flat_map(|node| node.status.iter().flat_map(|status| &status.peers));
    let worst = peers.max_by_key(|peer| peer.queue_messages)?;
    (worst.queue_messages > 0).then(|| {
        format!(
            "{} is {} messages behind: `interlock lag` shows of which origins",
            worst.name, worst.queue_messages
        )
    })
}

/// A link that does not stand has no queue only for now.
fn cut_off(nodes: &[NodeReport]) -> Option<String> {
    nodes.iter().find_map(|node| {
        let peer = node.status.iter().flat_map(|status| &status.peers).find(|peer| {
            matches!(peer_state(peer).as_str(), "unreachable" | "refused" | "connecting")
        })?;
        let state = peer_state(peer);
        Some(format!("{} has no stream to {} ({state}): {}", node.name(), peer.name, peer.detail))
    })
}

fn different(nodes: &[NodeReport]) -> Option<String> {
    let mut seen: BTreeMap<&str, (&str, [&str; 2])> = BTreeMap::new();
    for node in nodes {
        for namespace in node.memberships() {
            let digests = [namespace.tips_digest.as_str(), namespace.state_digest.as_str()];
            let (first, expected) = seen.entry(&namespace.name).or_insert((node.name(), digests));
            if *expected != digests {
                return Some(format!(
                    "{} and {} do not hold the same of {}: messages are under way, or look again",
                    first,
                    node.name(),
                    namespace.name
                ));
            }
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use interlock_client::v1;

    use super::*;
    use crate::commands::reports::samples::{away, node, status};

    fn healthy() -> MeshReport {
        let control_plane =
            ControlPlaneReport::Answers { topology_version: "1.1".into(), nodes: Vec::new() };
        MeshReport { nodes: vec![node("europe-1"), node("asia-1")], control_plane }
    }

    /// Each is worse than those before it, and none lets "the same" be said.
    #[test]
    fn the_worst_is_said_and_nothing_else() {
        let mut report = healthy();
        assert!(verdict(&report).starts_with("all regions hold the same"));

        status(&mut report.nodes[1]).namespaces[0].state_digest = "33".into();
        assert!(verdict(&report).contains("do not hold the same of demo"));
        report = healthy();
        status(&mut report.nodes[1]).namespaces[0].tips_digest = "33".into();
        assert!(verdict(&report).contains("europe-1 and asia-1 do not hold the same of demo"));

        let mut peer = v1::PeerStatus {
            name: "america-1".into(),
            state: v1::PeerState::Unreachable.into(),
            ..Default::default()
        };
        status(&mut report.nodes[0]).peers = vec![peer.clone()];
        assert!(verdict(&report).contains("no stream to america-1 (unreachable)"));

        peer.queue_messages = 7;
        status(&mut report.nodes[0]).peers = vec![peer];
        assert!(verdict(&report).contains("america-1 is 7 messages behind"));

        report.control_plane = ControlPlaneReport::NoAnswer("connection refused".into());
        assert!(verdict(&report).contains("the control-plane does not answer"));

        status(&mut report.nodes[0]).namespaces[0].ready = false;
        assert!(verdict(&report).contains("europe-1 still takes over demo"));

        status(&mut report.nodes[1]).alarms = vec![v1::Alarm::default()];
        assert!(verdict(&report).contains("1 alarms") && verdict(&report).contains("asia-1"));

        report.nodes.push(away("america-1"));
        assert!(verdict(&report).contains("america-1 does not answer"));
    }

    /// What no member of a namespace holds is not compared.
    #[test]
    fn only_members_are_compared() {
        let mut report = healthy();
        let namespace = &mut status(&mut report.nodes[1]).namespaces[0];
        namespace.member = false;
        namespace.tips_digest = "33".into();
        assert!(verdict(&report).starts_with("all regions hold the same"));
        report.control_plane = ControlPlaneReport::NotInContext;
        assert!(verdict(&report).starts_with("all regions hold the same"));
    }
}
