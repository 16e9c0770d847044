//! `interlock namespace`

use anyhow::Result;
use interlock_client::v1;
use serde_json::{Value, json};

use crate::output::{bytes, print, table};
use crate::target::Target;

#[derive(clap::Subcommand)]
pub(crate) enum Command {
    /// Make a namespace and place it on groups.
    Create {
        /// Its name.
        name: String,
        /// The groups whose regions hold it, separated by commas.
        #[arg(long, required = true, value_delimiter = ',')]
        groups: Vec<String>,
        /// Bytes of log that a member may hold before publications are refused;
        /// the node's default unless given.
        #[arg(long, default_value_t = 0)]
        disk_cap_bytes: u64,
    },
    /// Place a namespace on more groups, or change its cap.
    Update {
        /// Its name.
        name: String,
        /// Groups to add, separated by commas.
        #[arg(long, value_delimiter = ',')]
        add_groups: Vec<String>,
        /// Bytes of log that a member may hold.
        #[arg(long)]
        disk_cap_bytes: Option<u64>,
    },
    /// All namespaces.
    List,
    /// One namespace.
    Show {
        /// Its name.
        name: String,
    },
}

pub(crate) async fn run(target: &Target, command: Command) -> Result<()> {
    let mut client = target.mesh.topology()?;
    match command {
        Command::Create { name, groups, disk_cap_bytes } => {
            let request = v1::CreateNamespaceRequest { name, groups, disk_cap_bytes };
            let namespace =
                client.create_namespace(request).await?.into_inner().namespace.unwrap_or_default();
            show(target, &[namespace])
        }
        Command::Update { name, add_groups, disk_cap_bytes } => {
            let request = v1::UpdateNamespaceRequest { name, add_groups, disk_cap_bytes };
            let namespace =
                client.update_namespace(request).await?.into_inner().namespace.unwrap_or_default();
            show(target, &[namespace])
        }
        Command::List => show(target, &namespaces(&mut client).await?),
        Command::Show { name } => {
            let all = namespaces(&mut client).await?;
            match all.into_iter().find(|namespace| namespace.name == name) {
                Some(namespace) => show(target, &[namespace]),
                None => Err(tonic::Status::not_found(format!("no namespace {name:?}")).into()),
            }
        }
    }
}

async fn namespaces(
    client: &mut interlock_rpc::services::topology::Client<tonic::transport::Channel>,
) -> Result<Vec<v1::Namespace>> {
    let topology = client.get_topology(v1::GetTopologyRequest {}).await?.into_inner().topology;
    Ok(topology.unwrap_or_default().namespaces)
}

fn show(target: &Target, namespaces: &[v1::Namespace]) -> Result<()> {
    let rows: Vec<Value> = namespaces
        .iter()
        .map(|namespace| {
            json!({
                "number": namespace.number,
                "name": namespace.name,
                "groups": namespace.groups,
                "disk_cap_bytes": namespace.disk_cap_bytes,
            })
        })
        .collect();
    print(target.format, &json!({ "namespaces": rows }), || {
        let mut table = table(&["namespace", "number", "groups", "cap"]);
        for namespace in namespaces {
            let cap = match namespace.disk_cap_bytes {
                0 => "default".to_owned(),
                cap => bytes(cap),
            };
            table.add_row([
                namespace.name.clone(),
                namespace.number.to_string(),
                namespace.groups.join(", "),
                cap,
            ]);
        }
        table.to_string()
    })
}
