//! `interlock channel apply`: makes the channels of namespaces match a file.

use std::collections::BTreeMap;
use std::fmt;
use std::io::{IsTerminal as _, Write as _};
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, bail};
use interlock_client::v1;
use serde::Deserialize;
use serde_json::{Value, json};

use crate::commands::channels::list;
use crate::exit::Differs;
use crate::output::{Format, print};
use crate::target::Target;
use interlock_cli::usage::{UsageError, usage};

#[derive(clap::Args)]
pub(crate) struct Arguments {
    /// The file, YAML, with a document for each namespace; `-` for stdin.
    #[arg(short, long)]
    file: PathBuf,
    /// Do it without asking.
    #[arg(short, long)]
    yes: bool,
    /// Only print the difference; exits 6 if there is one.
    #[arg(long, conflicts_with = "yes")]
    dry_run: bool,
    /// Delete channels that the file does not name.
    #[arg(long)]
    prune: bool,
}

/// What the file says.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Wanted {
    namespace: String,
    channels: Vec<WantedChannel>,
}

#[derive(Clone, Debug, Deserialize, PartialEq, Eq)]
#[serde(deny_unknown_fields)]
struct WantedChannel {
    name: String,
    #[serde(default)]
    description: String,
    #[serde(default)]
    labels: BTreeMap<String, String>,
    #[serde(default)]
    source: String,
    #[serde(default)]
    max_payload_bytes: u32,
    #[serde(default)]
    max_publications_per_second: u32,
}

/// One step from what is to what is wanted.
#[derive(Clone, Debug, PartialEq)]
enum Change {
    Create(WantedChannel),
    Update { wanted: WantedChannel, etag: String, epoch: u64, fields: Vec<String> },
    Delete { name: String, etag: String, epoch: u64 },
}

impl Change {
    /// As JSON.
    fn value(&self, namespace: &str) -> Value {
        let (op, name, fields) = match self {
            Self::Create(wanted) => ("create", &wanted.name, [].as_slice()),
            Self::Update { wanted, fields, .. } => ("update", &wanted.name, fields.as_slice()),
            Self::Delete { name, .. } => ("delete", name, [].as_slice()),
        };
        json!({ "op": op, "namespace": namespace, "name": name, "fields": fields })
    }
}

impl fmt::Display for Change {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Create(wanted) => write!(f, "+ {}", wanted.name),
            Self::Update { wanted, fields, .. } => {
                write!(f, "~ {} ({})", wanted.name, fields.join(", "))
            }
            Self::Delete { name, .. } => write!(f, "- {name}"),
        }
    }
}

/// What is to change in one namespace.
struct Plan {
    namespace: String,
    changes: Vec<Change>,
}

pub(crate) async fn run(target: &Target, arguments: Arguments) -> Result<()> {
    let mut plans = Vec::new();
    for wanted in read(&arguments.file)? {
        let present = list(target, &wanted.namespace, "", false).await?;
        let changes = difference(&wanted.channels, &present, arguments.prune);
        plans.push(Plan { namespace: wanted.namespace, changes });
    }
    // Before anything changes, whatever becomes of it.
    print(target.format, &value(&plans), || text(&plans))?;
    let count: usize = plans.iter().map(|plan| plan.changes.len()).sum();
    if count == 0 {
        return Ok(());
    }
    if arguments.dry_run {
        return Err(Differs(format!("{count} channels differ from the file")).into());
    }
    if !arguments.yes && !confirmed(count)? {
        bail!("nothing was changed");
    }
    for Plan { namespace, changes } in &plans {
        for change in changes {
            apply(target, namespace, change)
                .await
                .with_context(|| format!("{change} in {namespace}"))?;
        }
    }
    if target.format == Format::Table {
        let channels = if count == 1 { "channel" } else { "channels" };
        println!("{count} {channels} changed");
    }
    Ok(())
}

fn value(plans: &[Plan]) -> Value {
    let changes: Vec<Value> = plans
        .iter()
        .flat_map(|plan| plan.changes.iter().map(|change| change.value(&plan.namespace)))
        .collect();
    json!({ "changes": changes })
}

fn text(plans: &[Plan]) -> String {
    let mut lines = Vec::new();
    for Plan { namespace, changes } in plans {
        match changes.as_slice() {
            [] => lines.push(format!("{namespace} matches the file")),
            changes => {
                lines.push(format!("{namespace}:"));
                lines.extend(changes.iter().map(ToString::to_string));
            }
        }
    }
    lines.join("\n")
}

fn read(path: &Path) -> Result<Vec<Wanted>> {
    let named = || UsageError::new(path.display().to_string());
    let text = if path.as_os_str() == "-" {
        std::io::read_to_string(std::io::stdin())?
    } else {
        std::fs::read_to_string(path).with_context(named)?
    };
    parse(&text).with_context(named)
}

/// One namespace a document, each once, with each channel once.
fn parse(text: &str) -> Result<Vec<Wanted>> {
    let mut all: Vec<Wanted> = Vec::new();
    for document in serde_yaml_ng::Deserializer::from_str(text) {
        let wanted = Wanted::deserialize(document)?;
        let mut names: Vec<&str> =
            wanted.channels.iter().map(|channel| channel.name.as_str()).collect();
        names.sort_unstable();
        if let Some(twice) = names.windows(2).find(|pair| pair[0] == pair[1]) {
            bail!("channel {:?} of {} is named twice", twice[0], wanted.namespace);
        }
        if all.iter().any(|other| other.namespace == wanted.namespace) {
            bail!("namespace {:?} has two documents", wanted.namespace);
        }
        all.push(wanted);
    }
    Ok(all)
}

fn difference(wanted: &[WantedChannel], present: &[v1::Channel], prune: bool) -> Vec<Change> {
    let mut by_name: BTreeMap<&str, &v1::Channel> =
        present.iter().map(|channel| (channel.name.as_str(), channel)).collect();
    let mut changes = Vec::new();
    for wanted in wanted {
        match by_name.remove(wanted.name.as_str()) {
            None => changes.push(Change::Create(wanted.clone())),
            Some(channel) => {
                let fields = differing_fields(wanted, channel);
                if !fields.is_empty() {
                    changes.push(Change::Update {
                        wanted: wanted.clone(),
                        etag: channel.etag.clone(),
                        epoch: channel.epoch,
                        fields,
                    });
                }
            }
        }
    }
    if prune {
        changes.extend(by_name.into_values().map(|channel| Change::Delete {
            name: channel.name.clone(),
            etag: channel.etag.clone(),
            epoch: channel.epoch,
        }));
    }
    changes
}

fn differing_fields(wanted: &WantedChannel, channel: &v1::Channel) -> Vec<String> {
    let differs = [
        ("definition", channel.provisional),
        ("description", wanted.description != channel.description),
        ("labels", wanted.labels != channel.labels),
        ("source", wanted.source != channel.source),
        ("max_payload_bytes", wanted.max_payload_bytes != channel.max_payload_bytes),
        (
            "max_publications_per_second",
            wanted.max_publications_per_second != channel.max_publications_per_second,
        ),
    ];
    differs.into_iter().filter(|(_, differs)| *differs).map(|(field, _)| field.to_owned()).collect()
}

fn confirmed(changes: usize) -> Result<bool> {
    if !std::io::stdin().is_terminal() {
        return Err(usage(format!(
            "there is no terminal to ask at: give --yes to change {changes} channels"
        )));
    }
    eprint!("change {changes} channels? [y/N] ");
    std::io::stderr().flush()?;
    let mut answer = String::new();
    std::io::stdin().read_line(&mut answer)?;
    Ok(matches!(answer.trim(), "y" | "Y" | "yes"))
}

async fn apply(target: &Target, namespace: &str, change: &Change) -> Result<()> {
    let mut client = target.mesh.channels(&target.region)?;
    match change.clone() {
        Change::Create(wanted) => {
            let request = v1::CreateChannelRequest {
                namespace: namespace.to_owned(),
                channel: wanted.name,
                description: wanted.description,
                labels: wanted.labels,
                source: wanted.source,
                max_payload_bytes: wanted.max_payload_bytes,
                max_publications_per_second: wanted.max_publications_per_second,
                durability: None,
            };
            client.create_channel(request).await?;
        }
        Change::Update { wanted, etag, epoch, fields } => {
            let changed =
                |field: &str| fields.iter().any(|name| name == field || name == "definition");
            let request = v1::UpdateChannelRequest {
                namespace: namespace.to_owned(),
                channel: wanted.name,
                epoch,
                etag,
                description: changed("description").then_some(wanted.description),
                set_labels: changed("labels"),
                labels: wanted.labels,
                source: changed("source").then_some(wanted.source),
                max_payload_bytes: changed("max_payload_bytes").then_some(wanted.max_payload_bytes),
                max_publications_per_second: changed("max_publications_per_second")
                    .then_some(wanted.max_publications_per_second),
                durability: None,
            };
            client.update_channel(request).await?;
        }
        Change::Delete { name, etag, epoch } => {
            let request = v1::DeleteChannelRequest {
                namespace: namespace.to_owned(),
                channel: name,
                epoch,
                etag,
                durability: None,
            };
            client.delete_channel(request).await?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn wanted(name: &str, description: &str) -> WantedChannel {
        WantedChannel {
            name: name.into(),
            description: description.into(),
            labels: BTreeMap::new(),
            source: String::new(),
            max_payload_bytes: 0,
            max_publications_per_second: 0,
        }
    }

    fn present(name: &str, description: &str) -> v1::Channel {
        v1::Channel {
            name: name.into(),
            description: description.into(),
            etag: "e".into(),
            epoch: 3,
            ..Default::default()
        }
    }

    #[test]
    fn the_difference_names_what_is_new_changed_and_gone() {
        let wanted = [wanted("new", ""), wanted("changed", "now"), wanted("same", "x")];
        let present = [present("changed", "before"), present("same", "x"), present("gone", "")];
        let lines = |prune| -> Vec<String> {
            difference(&wanted, &present, prune).iter().map(ToString::to_string).collect()
        };
        assert_eq!(lines(false), ["+ new", "~ changed (description)"]);
        assert_eq!(lines(true), ["+ new", "~ changed (description)", "- gone"]);
    }

    #[test]
    fn an_unknown_key_in_the_file_is_named() {
        let text = "namespace: demo\nchannels:\n  - name: a\n    lables: {}\n";
        let error = parse(text).expect_err("a typing error");
        assert!(error.to_string().contains("lables"), "{error}");
    }

    #[test]
    fn a_document_is_a_namespace() {
        let one = "namespace: a\nchannels: [{name: x}]\n";
        let other = "namespace: b\nchannels: [{name: x}]\n";
        let all = parse(&format!("{one}---\n{other}")).expect("two of them");
        let names: Vec<&str> = all.iter().map(|wanted| wanted.namespace.as_str()).collect();
        assert_eq!(names, ["a", "b"]);
        for (text, named) in [
            (format!("{one}---\n{one}"), "namespace \"a\" has two documents"),
            ("namespace: a\nchannels: [{name: x}, {name: x}]\n".to_owned(), "\"x\" of a"),
        ] {
            let error = parse(&text).expect_err(named).to_string();
            assert!(error.contains(named), "{error}");
        }
    }

    #[test]
    fn changes_are_the_same_in_words_and_as_json() {
        let wanted = [wanted("new", ""), wanted("changed", "now")];
        let changes =
            difference(&wanted, &[present("changed", "before"), present("gone", "")], true);
        let plans = [
            Plan { namespace: "demo".into(), changes },
            Plan { namespace: "other".into(), changes: Vec::new() },
        ];
        assert_eq!(
            text(&plans),
            "demo:\n+ new\n~ changed (description)\n- gone\nother matches the file"
        );
        let value = value(&plans);
        let expected = json!([
            { "op": "create", "namespace": "demo", "name": "new", "fields": [] },
            { "op": "update", "namespace": "demo", "name": "changed", "fields": ["description"] },
            { "op": "delete", "namespace": "demo", "name": "gone", "fields": [] },
        ]);
        assert_eq!(value["changes"], expected);
    }
}
