//! `interlock topology`: the document of who holds what, and going on from it when the
//! control-plane has lost its own.

use std::cmp::Ordering;
use std::time::Duration;

use anyhow::{Result, bail};
use interlock_client::v1;
use interlock_core::features::{FEATURE_LEVEL, FIRST_FEATURE_LEVEL};
use serde_json::{Value, json};

use crate::commands::reports::{node_of_address, node_state_name, version_text};
use crate::output::{print, table};
use crate::target::Target;

/// How long a node may take to answer.
const PATIENCE: Duration = Duration::from_secs(5);

#[derive(clap::Subcommand)]
pub(crate) enum Command {
    /// The control-plane's document.
    Show,
    /// Have a control-plane that was restored from an old copy, or lost its data, go on
    /// from the newest document that the push-nodes have.
    Adopt {
        /// Take this push-node's document, where several have different ones.
        #[arg(long, value_name = "NODE")]
        from: Option<String>,
        /// Only say which document would be taken.
        #[arg(long)]
        dry_run: bool,
    },
}

pub(crate) async fn run(target: &Target, command: Command) -> Result<()> {
    match command {
        Command::Show => {
            let mut client = target.mesh.topology()?;
            let answer = client.get_topology(v1::GetTopologyRequest {}).await?.into_inner();
            show(target, &answer.topology.unwrap_or_default())
        }
        Command::Adopt { from, dry_run } => adopt(target, from.as_deref(), dry_run).await,
    }
}

/// A document, and the push-nodes that go by it.
#[derive(Debug, PartialEq)]
struct Held {
    topology: v1::Topology,
    nodes: Vec<String>,
}

async fn adopt(target: &Target, from: Option<&str>, dry_run: bool) -> Result<()> {
    let mut client = target.mesh.topology()?;
    let before = client.get_topology(v1::GetTopologyRequest {}).await?.into_inner().topology;
    let before = before.unwrap_or_default();
    let (held, silent) = documents(target).await?;
    if !silent.is_empty() {
        eprintln!("not asked, because they do not answer: {}", silent.join(", "));
    }
    let chosen = choose(held, from)?;
    let (text, whose) = (version_text(chosen.topology.version), chosen.nodes.join(", "));
    let news = News::of(&before, &chosen.topology);
    if news == News::Other && from.is_none() {
        bail!(
            "the control-plane has another document of version {text} than {whose}. Say with --from \
             that theirs is to be taken"
        );
    }
    let before_text = version_text(before.version);
    if dry_run {
        let value = json!({
            "version": text, "nodes": chosen.nodes, "control_plane": before_text, "adopted": false,
        });
        return print(target.format, &value, || match news {
            News::Nothing => format!("the control-plane has {before_text} already"),
            News::Other | News::Newer => format!(
                "{text} of {whose} would be taken in place of the control-plane's {before_text}; \
                 nothing was changed"
            ),
        });
    }
    let request = v1::AdoptTopologyRequest { topology: Some(chosen.topology) };
    let adopted = client.adopt_topology(request).await?.into_inner().topology.unwrap_or_default();
    let now = version_text(adopted.version);
    // Nothing else begins a generation.
    let is_adopted = order(&adopted).0 > order(&before).0;
    let value =
        json!({ "version": now, "from": text, "nodes": chosen.nodes, "adopted": is_adopted });
    print(target.format, &value, || match is_adopted {
        true => format!("the control-plane goes on with {now}, from {text} of {whose}"),
        false => format!("the control-plane has {now} already: nothing was changed"),
    })
}

/// What a push-node's document says to a control-plane.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum News {
    Nothing,
    /// It is another one of the same version.
    Other,
    Newer,
}

impl News {
    fn of(held: &v1::Topology, offered: &v1::Topology) -> Self {
        match order(offered).cmp(&order(held)) {
            Ordering::Greater => Self::Newer,
            Ordering::Equal if offered != held => Self::Other,
            Ordering::Equal | Ordering::Less => Self::Nothing,
        }
    }
}

/// By which documents are older and newer: the generation, then the number.
fn order(topology: &v1::Topology) -> (u64, u64) {
    let version = topology.version.unwrap_or_default();
    (version.generation, version.number)
}

/// The documents that the context's push-nodes go by, and those that do not answer.
async fn documents(target: &Target) -> Result<(Vec<Held>, Vec<String>)> {
    let (mut held, mut silent): (Vec<Held>, Vec<String>) = (Vec::new(), Vec::new());
    for region in target.mesh.regions() {
        for (address, mut client) in target.mesh.nodes(region)? {
            let asked = client.get_node_topology(v1::GetNodeTopologyRequest {});
            let answer = tokio::time::timeout(PATIENCE, asked).await;
            let Ok(Ok(answer)) = answer else {
                silent.push(address);
                continue;
            };
            let topology = answer.into_inner().topology.unwrap_or_default();
            let of_address = node_of_address(topology.nodes.iter(), &address);
            let name = of_address.map_or_else(|| address.clone(), |node| node.name.clone());
            match held.iter_mut().find(|it| it.topology == topology) {
                Some(same) => same.nodes.push(name),
                None => held.push(Held { topology, nodes: vec![name] }),
            }
        }
    }
    Ok((held, silent))
}

/// The newest document, unless a node is named or two differ.
fn choose(held: Vec<Held>, from: Option<&str>) -> Result<Held> {
    if let Some(name) = from {
        let named = held.into_iter().find(|held| held.nodes.iter().any(|it| it == name));
        return named.ok_or_else(|| {
            tonic::Status::unavailable(format!("no push-node {name:?} answers")).into()
        });
    }
    let Some(newest) = held.iter().map(|held| order(&held.topology)).max() else {
        return Err(tonic::Status::unavailable("no push-node of the context answers").into());
    };
    let mut of_version: Vec<Held> =
        held.into_iter().filter(|held| order(&held.topology) == newest).collect();
    match (of_version.pop(), of_version.is_empty()) {
        (Some(only), true) => Ok(only),
        (last, _) => {
            let all = of_version.iter().chain(&last);
            let who: Vec<String> = all.map(|held| held.nodes.join(", ")).collect();
            bail!(
                "these go by different documents of version {}.{}: {}. Say whose is right with --from",
                newest.0,
                newest.1,
                who.join(" | ")
            )
        }
    }
}

fn show(target: &Target, topology: &v1::Topology) -> Result<()> {
    let name_of = |number: &u32| {
        let node = topology.nodes.iter().find(|node| node.number == *number);
        node.map_or_else(|| number.to_string(), |node| node.name.clone())
    };
    let leaving = |namespace: &v1::Namespace| -> Vec<String> {
        namespace.leaving.iter().map(name_of).collect()
    };
    let nodes: Vec<Value> = topology
        .nodes
        .iter()
        .map(|node| {
            json!({
                "number": node.number,
                "name": node.name,
                "region": node.region,
                "state": node_state_name(node.state()),
                "fencing_token": node.fencing_token,
                "feature_level": node.feature_level.max(FIRST_FEATURE_LEVEL.get()),
            })
        })
        .collect();
    let namespaces: Vec<Value> = topology
        .namespaces
        .iter()
        .map(|it| {
            json!({ "number": it.number, "name": it.name, "groups": it.groups, "leaving": leaving(it) })
        })
        .collect();
    let groups: Vec<Value> = topology
        .groups
        .iter()
        .map(
            |group| json!({ "number": group.number, "name": group.name, "regions": group.regions }),
        )
        .collect();
    let value = json!({
        "version": version_text(topology.version),
        "regions": topology.regions.iter().map(|region| &region.name).collect::<Vec<_>>(),
        "groups": groups,
        "nodes": nodes,
        "namespaces": namespaces,
    });
    print(target.format, &value, || {
        let mut nodes =
            table(&["node", "number", "region", "state", "fencing token", "feature level"]);
        for node in &topology.nodes {
            nodes.add_row([
                node.name.clone(),
                node.number.to_string(),
                node.region.clone(),
                node_state_name(node.state()),
                node.fencing_token.to_string(),
                node.feature_level.max(FIRST_FEATURE_LEVEL.get()).to_string(),
            ]);
        }
        let mut namespaces = table(&["namespace", "number", "groups", "leaving"]);
        for it in &topology.namespaces {
            namespaces.add_row([
                it.name.clone(),
                it.number.to_string(),
                it.groups.join(", "),
                leaving(it).join(", "),
            ]);
        }
        let mut groups = table(&["group", "regions"]);
        for group in &topology.groups {
            groups.add_row([group.name.clone(), group.regions.join(", ")]);
        }
        let version = version_text(topology.version);
        let level = feature_level(topology);
        format!("topology {version}, {level}\n\n{nodes}\n\n{groups}\n\n{namespaces}")
    })
}

/// The level that the mesh works at, and who holds it there.
fn feature_level(topology: &v1::Topology) -> String {
    let present = || topology.nodes.iter().filter(|it| it.state() != v1::NodeState::Removed);
    let level_of = |node: &v1::Node| node.feature_level.max(FIRST_FEATURE_LEVEL.get());
    let level = present().map(level_of).min().unwrap_or(FEATURE_LEVEL.get());
    if level >= FEATURE_LEVEL.get() {
        return format!("feature level {level}");
    }
    let lowest = present().filter(|node| level_of(node) == level).map(|node| node.name.as_str());
    let lowest = lowest.collect::<Vec<_>>().join(", ");
    format!("feature level {level} of {FEATURE_LEVEL}: it rises when {lowest} run a newer build")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn held(generation: u64, number: u64, nodes: &[&str]) -> Held {
        let version = Some(v1::TopologyVersion { generation, number });
        let topology = v1::Topology { version, ..Default::default() };
        Held { topology, nodes: nodes.iter().map(|name| (*name).to_owned()).collect() }
    }

    #[test]
    fn the_newest_document_is_taken_unless_two_differ() {
        let chosen = choose(vec![held(1, 9, &["a"]), held(2, 3, &["b"])], None);
        assert_eq!(chosen.expect("one is newer").nodes, ["b"]);
        let mut other = held(2, 3, &["c"]);
        other.topology.regions.push(v1::Region { name: "west".to_owned() });
        let both = || vec![held(2, 3, &["b"]), other_copy(&other)];
        let error = choose(both(), None).expect_err("they differ").to_string();
        assert!(error.contains("2.3") && error.contains("--from"), "{error}");
        assert_eq!(choose(both(), Some("c")).expect("it is named").nodes, ["c"]);
        assert!(choose(both(), Some("z")).is_err());
        assert!(choose(Vec::new(), None).is_err());
    }

    #[test]
    fn another_document_of_the_same_version_is_news() {
        let old = held(1, 7, &["a"]).topology;
        let mut other = old.clone();
        other.regions.push(v1::Region { name: "west".to_owned() });
        assert_eq!(News::of(&old, &old), News::Nothing);
        assert_eq!(News::of(&old, &other), News::Other);
        assert_eq!(News::of(&old, &held(1, 8, &["a"]).topology), News::Newer);
        assert_eq!(News::of(&old, &held(1, 6, &["a"]).topology), News::Nothing);
    }

    fn other_copy(held: &Held) -> Held {
        Held { topology: held.topology.clone(), nodes: held.nodes.clone() }
    }
}
