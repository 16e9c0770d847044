//! `interlock node remove`: a node hands over what it holds and leaves the mesh, or is
//! removed at once with a list of what may be lost by that.

use std::collections::{BTreeMap, BTreeSet};
use std::io::IsTerminal as _;
use std::time::Duration;

use anyhow::{Result, bail};
use indicatif::ProgressBar;
use interlock_client::v1;
use serde_json::{Value, json};

use crate::commands::messages::{LogKey, incarnation, log_key};
use crate::commands::nodes::unknown;
use crate::commands::reports::{
    ControlPlaneReport, MeshReport, NodeReport, collect, node_state_name,
};
use crate::output::{duration, print};
use crate::target::Target;

/// Between two looks at a node that leaves.
const LOOK: Duration = Duration::from_millis(500);

#[derive(clap::Args)]
pub(crate) struct Arguments {
    /// Its name.
    name: String,
    /// At once, also when it does not answer: what it alone holds is lost.
    #[arg(long)]
    force: bool,
    /// Only list what removing it by force may lose.
    #[arg(long)]
    dry_run: bool,
    /// Do not wait until it has handed over everything.
    #[arg(long, conflicts_with_all = ["force", "dry_run"])]
    no_wait: bool,
}

pub(crate) async fn run(target: &Target, arguments: &Arguments) -> Result<()> {
    if arguments.force || arguments.dry_run {
        return by_force(target, arguments).await;
    }
    let mut client = target.mesh.topology()?;
    let request = v1::RemoveNodeRequest { name: arguments.name.clone(), force: false };
    let node = client.remove_node(request).await?.into_inner().node.unwrap_or_default();
    let state = match arguments.no_wait {
        true => node.state(),
        false => until_removed(target, node).await?,
    };
    let state = node_state_name(state);
    let value = json!({ "node": arguments.name, "state": state });
    print(target.format, &value, || format!("{} is {state}", arguments.name))
}

/// Waits until the node has left, and says what for on a terminal.
async fn until_removed(target: &Target, node: v1::Node) -> Result<v1::NodeState> {
    let bar = match std::io::stderr().is_terminal() {
        true => ProgressBar::new_spinner(),
        false => ProgressBar::hidden(),
    };
    loop {
        let report = collect(target).await?;
        let ControlPlaneReport::Answers { nodes, .. } = &report.control_plane else {
            bail!("the control-plane does not answer any more; the node goes on leaving");
        };
        let of_name = |record: &&v1::NodeRecord| {
            record.node.as_ref().is_some_and(|it| it.number == node.number)
        };
        let state = nodes.iter().find(of_name).and_then(|record| record.node.as_ref());
        let state = state.map_or(v1::NodeState::Removed, v1::Node::state);
        if state != v1::NodeState::Leaving {
            bar.finish_and_clear();
            return Ok(state);
        }
        bar.set_message(waits_for(&report, &node.name));
        bar.tick();
        tokio::time::sleep(LOOK).await;
    }
}

/// What a leaving node waits for, in a line.
fn waits_for(report: &MeshReport, name: &str) -> String {
    let Some(status) =
        report.nodes.iter().find(|node| node.name() == name).and_then(|node| node.status.as_ref())
    else {
        return format!("{name} does not answer: start it, or remove it with --force");
    };
    let leaving: Vec<String> = status
        .namespaces
        .iter()
        .filter(|namespace| namespace.leaving && !namespace.leaving_waits_for.is_empty())
        .map(|namespace| {
            let (name, messages) = (&namespace.name, namespace.leaving_messages);
            format!("{name}: {messages} messages for {}", namespace.leaving_waits_for.join(", "))
        })
        .collect();
    match leaving.is_empty() {
        true => format!("{name} has handed over everything"),
        false => format!("{name} hands over {}", leaving.join("; ")),
    }
}

/// Messages that the mesh may lose with a node: of a log, or where the node does not
/// answer of all that it accepted in a namespace.
#[derive(Debug, PartialEq, Eq)]
struct PossibleLoss {
    namespace: String,
    origin: String,
    /// Which log of the origin.
    incarnation: Option<u64>,
    /// How far others hold it; `None` where they hold nothing of it.
    held_elsewhere: Option<u64>,
    /// How far the node holds it; unknown where it does not answer.
    held_there: Option<u64>,
}

impl PossibleLoss {
    /// How many messages; unknown where the log is nowhere else, which need not begin
    /// with message 1.
    fn lost(&self) -> Option<u64> {
        Some(self.held_there?.saturating_sub(self.held_elsewhere?))
    }

    fn value(&self) -> Value {
        json!({
            "namespace": self.namespace,
            "origin": self.origin,
            "incarnation": self.incarnation.map(incarnation),
            "held_elsewhere_through": self.held_elsewhere,
            "held_there_through": self.held_there,
            "messages_lost": self.lost(),
        })
    }

    fn text(&self, node: &str, last_heard: Option<u64>) -> String {
        let Self { namespace, origin, held_elsewhere, held_there, .. } = self;
        let Some(there) = held_there else {
            let known = match held_elsewhere {
                Some(known) => format!(
                    "others have what {node} accepted up to {known}; what it accepted later is lost"
                ),
                None => {
                    format!("nobody else has anything that {node} accepted; what it did is lost")
                }
            };
            let heard = match last_heard {
                Some(ago) => format!("it was last heard {} ago", duration(ago)),
                None => "nobody has heard it since they started".to_owned(),
            };
            return format!("{namespace}: {known}, and {heard}");
        };
        let opening = incarnation(self.incarnation.unwrap_or_default());
        match held_elsewhere {
            Some(known) => format!(
                "{namespace}, origin {origin} (opening {opening}): {} messages after {known} are \
                 nowhere else",
                there.saturating_sub(*known)
            ),
            None => format!(
                "{namespace}, origin {origin} (opening {opening}): this log, which ends with message \
                 {there}, is nowhere else"
            ),
        }
    }
}

/// The logs that a node says it holds, each with its namespace.
fn logs(node: &NodeReport) -> impl Iterator<Item = (&str, &v1::LogStatus)> {
    let namespaces = node.status.iter().flat_map(|status| &status.namespaces);
    namespaces.flat_map(|it| it.logs.iter().map(move |log| (it.name.as_str(), log)))
}

/// The logs of a node that answers, as far as others do not hold them.
fn lacking_elsewhere(node: &NodeReport, others: &[&NodeReport]) -> Vec<PossibleLoss> {
    let key = |log: &v1::LogStatus| log_key(log.log.unwrap_or_default());
    let mut elsewhere: BTreeMap<LogKey, u64> = BTreeMap::new();
    for (_, log) in others.iter().flat_map(|node| logs(node)) {
        let held = elsewhere.entry(key(log)).or_default();
        *held = log.durable.max(*held);
    }
    let is_lacking = |log: &v1::LogStatus| {
        let is_held = elsewhere.get(&key(log)).is_some_and(|held| *held >= log.durable);
        !is_held && log.durable > log.floor
    };
    let path = |log: &v1::LogStatus| {
        let (namespace, shard, origin, _) = key(log);
        (namespace, shard, origin)
    };
    // Whoever holds a tip holds all that leads to it, also what its answer leaves out.
    let ends = logs(node).filter(|(_, log)| log.tip && is_lacking(log));
    let in_doubt: BTreeSet<_> = ends.map(|(_, log)| path(log)).collect();
    logs(node)
        .filter(|(_, log)| is_lacking(log) && in_doubt.contains(&path(log)))
        .map(|(namespace, log)| PossibleLoss {
            namespace: namespace.to_owned(),
            origin: log.origin_name.clone(),
            incarnation: log.log.map(|log| log.incarnation),
            held_elsewhere: elsewhere.get(&key(log)).copied(),
            held_there: Some(log.durable),
        })
        .collect()
}

/// What a node that does not answer accepted itself: nobody knows how far that went.
fn accepted_by(name: &str, report: &MeshReport, others: &[&NodeReport]) -> Vec<PossibleLoss> {
    let mut known: BTreeMap<&str, Option<u64>> = BTreeMap::new();
    if let Some(record) = report.control_plane.record_of(name) {
        known.extend(record.namespaces.iter().map(|namespace| (namespace.as_str(), None)));
    }
    let own = others.iter().flat_map(|node| logs(node)).filter(|(_, log)| log.origin_name == name);
    for (namespace, log) in own {
        let held = known.entry(namespace).or_default();
        *held = (*held).max(Some(log.durable));
    }
    let loss = |(namespace, held_elsewhere): (&str, Option<u64>)| PossibleLoss {
        namespace: namespace.to_owned(),
        origin: name.to_owned(),
        incarnation: None,
        held_elsewhere,
        held_there: None,
    };
    known.into_iter().map(loss).collect()
}

/// What is known of what the mesh loses with a node.
struct Losses<'a> {
    name: &'a str,
    possible: Vec<PossibleLoss>,
    /// Whether the node itself said what it holds.
    answers: bool,
    /// What a repair took off it, and it has not published again.
    bringing_back: u64,
    /// Whose answers have no room for all logs, and how many are left out.
    left_out: Vec<String>,
    /// Other nodes that do not answer.
    silent: Vec<&'a str>,
    last_heard: Option<u64>,
}

impl<'a> Losses<'a> {
    fn of(report: &'a MeshReport, name: &'a str) -> Self {
        let (own, others): (Vec<&NodeReport>, Vec<&NodeReport>) =
            report.nodes.iter().partition(|node| node.name() == name);
        let own = own.into_iter().find(|node| node.status.is_some());
        let status = own.and_then(|node| node.status.as_ref());
        let left_out = report.nodes.iter().filter_map(|node| {
            let left_out = &node.status.as_ref()?.left_out;
            let logs = left_out.split(", ").find(|part| part.ends_with(" more logs"))?;
            Some(format!("{logs} of {}", node.name()))
        });
        let silent = others.iter().filter(|node| node.status.is_none());
        Self {
            name,
            possible: match own {
                Some(node) => lacking_elsewhere(node, &others),
                None => accepted_by(name, report, &others),
            },
            answers: own.is_some(),
            bringing_back: status.map_or(0, |status| status.bringing_back_messages),
            left_out: left_out.collect(),
            silent: silent.map(|node| node.name()).collect(),
            last_heard: last_heard(report, name),
        }
    }

    fn value(&self, state: Option<&str>) -> Value {
        json!({
            "node": self.name,
            "state": state,
            "answers": self.answers,
            "last_heard_milliseconds": self.last_heard,
            "did_not_answer": self.silent,
            "not_compared": self.left_out,
            "bringing_back_messages": self.bringing_back,
            "possible_losses": self.possible.iter().map(PossibleLoss::value).collect::<Vec<_>>(),
        })
    }

    fn lines(&self) -> Vec<String> {
        let name = self.name;
        let losses = self.possible.iter().map(|loss| loss.text(name, self.last_heard));
        let mut lines: Vec<String> = losses.collect();
        if self.bringing_back > 0 {
            lines.push(format!(
                "{} messages that a repair took off {name} are not published again yet, and are \
                 nowhere else",
                self.bringing_back
            ));
        }
        if lines.is_empty() {
            lines.push(match (self.answers, self.left_out.is_empty()) {
                (true, true) => format!("others hold all that {name} holds"),
                (true, false) => format!("others hold all of {name} that was compared"),
                (false, _) => format!(
                    "nothing is known of what {name} accepted: it says nothing, and nobody else has \
                     any of it"
                ),
            });
        }
        if !self.left_out.is_empty() {
            lines.push(format!(
                "not compared, because an answer has no room for them: {}",
                self.left_out.join(", ")
            ));
        }
        if !self.silent.is_empty() {
            lines
                .push(format!("not asked, because they do not answer: {}", self.silent.join(", ")));
        }
        lines
    }
}

/// How long ago any other node has heard it; `None` if none has.
fn last_heard(report: &MeshReport, name: &str) -> Option<u64> {
    let peers = report.nodes.iter().filter_map(|node| node.status.as_ref());
    let of_name = peers.flat_map(|status| &status.peers).filter(|peer| peer.name == name);
    of_name.map(|peer| peer.last_heard_milliseconds).filter(|ago| *ago > 0).min()
}

async fn by_force(target: &Target, arguments: &Arguments) -> Result<()> {
    let name = &arguments.name;
    let report = collect(target).await?;
    let is_in_context = report.nodes.iter().any(|node| node.name() == name);
    if !is_in_context && report.control_plane.record_of(name).is_none() {
        return Err(unknown(&report, name).into());
    }
    let losses = Losses::of(&report, name);
    let mut state = None;
    if arguments.force && !arguments.dry_run {
        let mut client = target.mesh.topology()?;
        let request = v1::RemoveNodeRequest { name: name.clone(), force: true };
        let node = client.remove_node(request).await?.into_inner().node.unwrap_or_default();
        state = Some(node_state_name(node.state()));
    }
    print(target.format, &losses.value(state.as_deref()), || {
        let mut lines = losses.lines();
        lines.push(match &state {
            Some(state) => format!("{name} is {state}; its folder is left as it is"),
            None => "nothing was changed".to_owned(),
        });
        lines.join("\n")
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::commands::reports::samples::{away, holding, node, status};

    fn report(nodes: Vec<NodeReport>) -> MeshReport {
        MeshReport { nodes, control_plane: ControlPlaneReport::NotInContext }
    }

    /// Of each log that is not held elsewhere: the origin, the opening, how far it is.
    fn told(report: &MeshReport, name: &str) -> Vec<(String, u64, Option<u64>)> {
        let losses = Losses::of(report, name).possible.into_iter();
        losses
            .map(|it| (it.origin, it.incarnation.unwrap_or_default(), it.held_elsewhere))
            .collect()
    }

    #[test]
    fn what_only_the_node_has_would_be_lost() {
        let nodes = vec![
            holding("a", &[("a", 1, 50, true), ("b", 1, 7, true)]),
            holding("b", &[("a", 1, 44, true), ("b", 1, 9, true)]),
            holding("c", &[("a", 1, 41, true), ("b", 1, 8, true)]),
        ];
        let report = report(nodes);
        assert_eq!(told(&report, "a"), [("a".to_owned(), 1, Some(44))], "of b others have more");
        let losses = Losses::of(&report, "a");
        assert_eq!(losses.possible[0].lost(), Some(6));
        assert!(losses.lines()[0].contains("6 messages after 44"), "{:?}", losses.lines());
        assert_eq!(Losses::of(&report, "c").lines(), ["others hold all that c holds"]);
    }

    /// The higher numbers of one branch say nothing of another one.
    #[test]
    fn a_branch_that_only_the_node_has_is_not_hidden_by_another() {
        let nodes = vec![
            holding("a", &[("c", 1, 30, false), ("c", 2, 50, true), ("c", 3, 60, true)]),
            holding("b", &[("c", 1, 30, false), ("c", 3, 60, true)]),
        ];
        let report = report(nodes);
        assert_eq!(told(&report, "a"), [("c".to_owned(), 2, None)]);
        let losses = Losses::of(&report, "a");
        assert_eq!(losses.possible[0].lost(), None, "it need not begin with 1");
        assert!(losses.lines()[0].contains("ends with message 50"), "{:?}", losses.lines());
    }

    /// Whoever holds the tip holds what leads to it, whether it says so or not; and what
    /// was trimmed is not lost.
    #[test]
    fn logs_that_an_answer_leaves_out_are_said() {
        let mut nodes = vec![
            holding("a", &[("c", 1, 30, false), ("c", 2, 50, true), ("b", 1, 5, true)]),
            holding("b", &[("c", 2, 50, true)]),
        ];
        status(&mut nodes[0]).namespaces[0].logs[2].floor = 5;
        let mut report = report(nodes);
        assert!(told(&report, "a").is_empty());
        status(&mut report.nodes[1]).left_out = "3 more logs, 2 more queues".to_owned();
        let lines = Losses::of(&report, "a").lines();
        assert_eq!(lines[0], "others hold all of a that was compared");
        assert!(lines[1].ends_with("3 more logs of b"), "{lines:?}");
    }

    #[test]
    fn what_is_to_be_published_again_is_nowhere_else() {
        let mut nodes = vec![node("a"), node("b")];
        status(&mut nodes[0]).bringing_back_messages = 7;
        let lines = Losses::of(&report(nodes), "a").lines();
        assert!(lines[0].starts_with("7 messages that a repair took off a"), "{lines:?}");
    }

    #[test]
    fn of_a_node_that_is_away_only_its_own_path_is_in_doubt() {
        let nodes = vec![away("a"), holding("b", &[("a", 1, 44, true), ("b", 1, 9, true)])];
        let mut report = report(nodes);
        let losses = Losses::of(&report, "a");
        assert_eq!(losses.possible.len(), 1);
        let loss = &losses.possible[0];
        assert_eq!((loss.held_elsewhere, loss.lost()), (Some(44), None));
        assert!(loss.text("a", Some(5_000)).contains("last heard 5.0 s ago"));

        report.nodes[1] = node("b");
        let lines = Losses::of(&report, "a").lines();
        assert!(lines[0].starts_with("nothing is known of what a accepted"), "{lines:?}");
        let record = v1::NodeRecord {
            node: Some(v1::Node { name: "a".into(), ..Default::default() }),
            namespaces: vec!["demo".into()],
            ..Default::default()
        };
        report.control_plane =
            ControlPlaneReport::Answers { topology_version: "1.1".into(), nodes: vec![record] };
        let lines = Losses::of(&report, "a").lines();
        assert!(lines[0].starts_with("demo: nobody else has anything that a"), "{lines:?}");
    }
}
