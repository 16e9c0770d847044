//! `interlock namespace`

use anyhow::Result;
use interlock_client::v1;
use serde_json::{Value, json};

use crate::output::{bytes, duration, print, table};
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
        #[command(flatten)]
        retention: RetentionArguments,
    },
    /// Place a namespace on more groups, or change its cap and its retention.
    Update {
        /// Its name.
        name: String,
        /// Groups to add, separated by commas.
        #[arg(long, value_delimiter = ',')]
        add_groups: Vec<String>,
        /// Groups to take away, separated by commas: members in regions that no other
        /// group of it has hand over what they hold and leave.
        #[arg(long, value_delimiter = ',')]
        remove_groups: Vec<String>,
        /// Bytes of log that a member may hold.
        #[arg(long)]
        disk_cap_bytes: Option<u64>,
        #[command(flatten)]
        retention: RetentionArguments,
    },
    /// All namespaces.
    List,
    /// One namespace.
    Show {
        /// Its name.
        name: String,
    },
}

/// How long messages are kept.
#[derive(clap::Args)]
pub(crate) struct RetentionArguments {
    /// How long messages are kept, such as `90m`, `36h` or `7d`; `forever` keeps them.
    #[arg(long, value_name = "AGE", value_parser = age_seconds)]
    retention_age: Option<u64>,
    /// Bytes of log beyond which the oldest messages are trimmed; 0 is never.
    #[arg(long, value_name = "BYTES")]
    retention_bytes: Option<u64>,
    /// What gives way at the cap: `refuse` publications, or `release` the oldest
    /// messages, also those that a member has not got.
    #[arg(long, value_enum)]
    when_full: Option<WhenFullArgument>,
}

#[derive(Clone, Copy, clap::ValueEnum)]
enum WhenFullArgument {
    Refuse,
    Release,
}

impl RetentionArguments {
    /// What was said over what is; `None` when nothing was said.
    fn over(&self, before: v1::Retention) -> Option<v1::Retention> {
        let when_full = self.when_full.map(|when_full| match when_full {
            WhenFullArgument::Refuse => v1::WhenFull::Refuse,
            WhenFullArgument::Release => v1::WhenFull::Release,
        });
        let retention = v1::Retention {
            age_seconds: self.retention_age.unwrap_or(before.age_seconds),
            bytes: self.retention_bytes.unwrap_or(before.bytes),
            when_full: when_full.map_or(before.when_full, Into::into),
        };
        let is_said =
            self.retention_age.is_some() || self.retention_bytes.is_some() || when_full.is_some();
        is_said.then_some(retention)
    }
}

/// Reads an age such as `90m`, `36h`, `7d`.
fn age_seconds(text: &str) -> Result<u64, String> {
    if text == "forever" {
        return Ok(0);
    }
    let malformed = || format!("{text:?} is no age: a number and s, m, h or d, or `forever`");
    let unit = text.chars().last().ok_or_else(malformed)?;
    let seconds = match unit {
        's' => 1,
        'm' => 60,
        'h' => 3_600,
        'd' => 86_400,
        _ => return Err(malformed()),
    };
    let number: u64 = text[..text.len() - 1].parse().map_err(|_| malformed())?;
    match number.checked_mul(seconds) {
        Some(age) if age > 0 => Ok(age),
        _ => Err(malformed()),
    }
}

pub(crate) async fn run(target: &Target, command: Command) -> Result<()> {
    let mut client = target.mesh.topology()?;
    match command {
        Command::Create { name, groups, disk_cap_bytes, retention } => {
            let retention = retention.over(v1::Retention::default());
            let request = v1::CreateNamespaceRequest { name, groups, disk_cap_bytes, retention };
            let namespace =
                client.create_namespace(request).await?.into_inner().namespace.unwrap_or_default();
            show(target, &[namespace])
        }
        Command::Update { name, add_groups, remove_groups, disk_cap_bytes, retention } => {
            let all = namespaces(&mut client).await?;
            let before = all.into_iter().find(|namespace| namespace.name == name);
            let before = before.and_then(|namespace| namespace.retention).unwrap_or_default();
            let retention = retention.over(before);
            let request = v1::UpdateNamespaceRequest {
                name,
                add_groups,
                disk_cap_bytes,
                retention,
                remove_groups,
            };
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
                "retention_age_seconds": namespace.retention.unwrap_or_default().age_seconds,
                "retention_bytes": namespace.retention.unwrap_or_default().bytes,
                "when_full": when_full(namespace),
            })
        })
        .collect();
    print(target.format, &json!({ "namespaces": rows }), || {
        let mut table = table(&["namespace", "number", "groups", "cap", "keeps", "when full"]);
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
                keeps(namespace.retention.unwrap_or_default()),
                when_full(namespace).to_owned(),
            ]);
        }
        table.to_string()
    })
}

fn keeps(retention: v1::Retention) -> String {
    let age = (retention.age_seconds > 0).then(|| duration(retention.age_seconds * 1000));
    let size = (retention.bytes > 0).then(|| bytes(retention.bytes));
    let limits: Vec<String> = age.into_iter().chain(size).collect();
    if limits.is_empty() { "all".to_owned() } else { limits.join(", ") }
}

fn when_full(namespace: &v1::Namespace) -> &'static str {
    match namespace.retention.unwrap_or_default().when_full() {
        v1::WhenFull::Release => "release",
        v1::WhenFull::Unspecified | v1::WhenFull::Refuse => "refuse",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ages_are_read_as_people_write_them() {
        assert_eq!(age_seconds("90m"), Ok(5_400));
        assert_eq!(age_seconds("7d"), Ok(604_800));
        assert_eq!(age_seconds("forever"), Ok(0));
        for wrong in
            ["", "7", "d", "-1d", "1w", "0h", "99999999999999999999d", "18446744073709551615d"]
        {
            assert!(age_seconds(wrong).is_err(), "{wrong}");
        }
    }
}
