//! `interlock region`

use anyhow::Result;
use interlock_client::v1;
use serde_json::json;

use crate::output::{print, table};
use crate::target::Target;

#[derive(clap::Subcommand)]
pub(crate) enum Command {
    /// All regions, with their nodes and groups.
    List,
    /// Make a region before its first node registers.
    Create {
        /// Its name.
        name: String,
    },
    /// Give up a region. Its nodes are removed first, with `interlock node remove`.
    Remove {
        /// Its name.
        name: String,
    },
}

pub(crate) async fn run(target: &Target, command: Command) -> Result<()> {
    let mut client = target.mesh.topology()?;
    match command {
        Command::List => {}
        Command::Create { name } => {
            client.apply_region(v1::ApplyRegionRequest { name }).await?;
        }
        Command::Remove { name } => {
            client.remove_region(v1::RemoveRegionRequest { name }).await?;
        }
    }
    let topology = client.get_topology(v1::GetTopologyRequest {}).await?.into_inner().topology;
    let topology = topology.unwrap_or_default();
    let removed = v1::NodeState::Removed;
    let nodes = |region: &str| -> Vec<String> {
        let there = topology.nodes.iter().filter(|it| it.region == region && it.state() != removed);
        there.map(|node| node.name.clone()).collect()
    };
    let groups = |region: &str| -> Vec<String> {
        let of_region =
            topology.groups.iter().filter(|it| it.regions.iter().any(|it| it == region));
        of_region.map(|group| group.name.clone()).collect()
    };
    let names: Vec<&str> = topology.regions.iter().map(|region| region.name.as_str()).collect();
    let rows: Vec<_> = names
        .iter()
        .map(|name| json!({ "name": name, "nodes": nodes(name), "groups": groups(name) }))
        .collect();
    print(target.format, &json!({ "regions": rows }), || {
        let mut table = table(&["region", "nodes", "groups"]);
        for name in &names {
            table.add_row([(*name).to_owned(), nodes(name).join(", "), groups(name).join(", ")]);
        }
        table.to_string()
    })
}
