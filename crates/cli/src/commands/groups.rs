//! `interlock group`

use anyhow::Result;
use interlock_client::v1;
use serde_json::json;

use crate::output::{print, table};
use crate::target::Target;

#[derive(clap::Subcommand)]
pub(crate) enum Command {
    /// Make a group, or give it these regions.
    Apply {
        /// Its name.
        name: String,
        /// Its regions, separated by commas.
        #[arg(long, required = true, value_delimiter = ',')]
        regions: Vec<String>,
        /// Members in regions that the group loses hand over what they hold and leave.
        #[arg(long)]
        leave: bool,
    },
    /// All groups.
    List,
}

pub(crate) async fn run(target: &Target, command: Command) -> Result<()> {
    let mut client = target.mesh.topology()?;
    let topology = match command {
        Command::Apply { name, regions, leave } => {
            let request = v1::ApplyGroupRequest { name, regions, leave };
            client.apply_group(request).await?.into_inner().topology
        }
        Command::List => {
            client.get_topology(v1::GetTopologyRequest {}).await?.into_inner().topology
        }
    };
    let groups = topology.unwrap_or_default().groups;
    let rows: Vec<_> = groups
        .iter()
        .map(
            |group| json!({ "number": group.number, "name": group.name, "regions": group.regions }),
        )
        .collect();
    print(target.format, &json!({ "groups": rows }), || {
        let mut table = table(&["group", "regions"]);
        for group in &groups {
            table.add_row([group.name.clone(), group.regions.join(", ")]);
        }
        table.to_string()
    })
}
