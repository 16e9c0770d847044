//! `interlock channel`

use std::collections::BTreeMap;
use std::io::Write as _;

use anyhow::Result;
use interlock_client::v1;
use serde_json::{Value, json};

use crate::commands::messages::{DurabilityArgument, reference};
use crate::commands::{apply, operations};
use crate::output::{bytes, fields, print, table};
use crate::target::{ChannelPath, Target};
use interlock_cli::usage::usage;

#[derive(clap::Subcommand)]
pub(crate) enum Command {
    /// Make a channel, at every node of its namespace's groups.
    Create(Edit),
    /// Change what is given; the rest stays.
    Update(Edit),
    /// Delete a channel, everywhere.
    Delete {
        /// namespace/channel
        channel: ChannelPath,
        /// Have the control-plane deliver it to the region.
        #[arg(long)]
        via_control_plane: bool,
        #[command(flatten)]
        durability: DurabilityArgument,
    },
    /// The channels of a namespace.
    List {
        /// The namespace.
        namespace: String,
        /// Only names that begin so.
        #[arg(long, default_value = "")]
        prefix: String,
        /// Deleted ones too.
        #[arg(long)]
        deleted: bool,
    },
    /// One channel.
    Show {
        /// namespace/channel
        channel: ChannelPath,
        /// Also what lost to concurrent operations.
        #[arg(long)]
        history: bool,
    },
    /// Fetch the content from the region's web server again.
    Refresh {
        /// namespace/channel
        channel: ChannelPath,
        #[command(flatten)]
        durability: DurabilityArgument,
    },
    /// Write the content to stdout.
    Content {
        /// namespace/channel
        channel: ChannelPath,
    },
    /// Make a mesh match a file; prints the difference first.
    Apply(apply::Arguments),
}

/// What can be said of a channel.
#[derive(clap::Args)]
pub(crate) struct Edit {
    /// namespace/channel
    channel: ChannelPath,
    /// What it is for.
    #[arg(long)]
    description: Option<String>,
    /// `key=value`; replaces all labels on update. Can be repeated.
    #[arg(long = "label", value_parser = label)]
    labels: Vec<(String, String)>,
    /// A path under the region's web origin, whose content all members serve.
    #[arg(long)]
    source: Option<String>,
    /// The largest payload; the node's default unless given.
    #[arg(long)]
    max_payload_bytes: Option<u32>,
    /// The most publications per second; unlimited unless given.
    #[arg(long)]
    max_publications_per_second: Option<u32>,
    /// On update: only if the definition is still this one.
    #[arg(long)]
    etag: Option<String>,
    /// Have the control-plane deliver it to the region.
    #[arg(long)]
    via_control_plane: bool,
    #[command(flatten)]
    durability: DurabilityArgument,
}

fn label(text: &str) -> Result<(String, String), String> {
    text.split_once('=')
        .map(|(key, value)| (key.to_owned(), value.to_owned()))
        .ok_or_else(|| format!("{text:?} is not of the form key=value"))
}

pub(crate) async fn run(target: &Target, command: Command) -> Result<()> {
    match command {
        Command::Create(edit) => create(target, edit).await,
        Command::Update(edit) => update(target, edit).await,
        Command::Delete { channel, via_control_plane, durability } => {
            delete(target, channel, via_control_plane, &durability).await
        }
        Command::List { namespace, prefix, deleted } => {
            let channels = list(target, &namespace, &prefix, deleted).await?;
            let rows: Vec<Value> = channels.iter().map(value).collect();
            print(target.format, &json!({ "channels": rows }), || many(&channels))
        }
        Command::Show { channel, history } => show(target, channel, history).await,
        Command::Refresh { channel, durability } => refresh(target, channel, &durability).await,
        Command::Content { channel } => content(target, channel).await,
        Command::Apply(arguments) => apply::run(target, arguments).await,
    }
}

async fn create(target: &Target, edit: Edit) -> Result<()> {
    if edit.etag.is_some() {
        return Err(usage("--etag goes with update"));
    }
    let request = v1::CreateChannelRequest {
        namespace: edit.channel.namespace,
        channel: edit.channel.channel,
        description: edit.description.unwrap_or_default(),
        labels: edit.labels.into_iter().collect(),
        source: edit.source.unwrap_or_default(),
        max_payload_bytes: edit.max_payload_bytes.unwrap_or(0),
        max_publications_per_second: edit.max_publications_per_second.unwrap_or(0),
        durability: Some(edit.durability.to_wire()),
    };
    if edit.via_control_plane {
        return operations::execute(
            target,
            v1::execute_channel_operation_request::Operation::Create(request),
        )
        .await;
    }
    let response =
        target.mesh.channels(&target.region)?.create_channel(request).await?.into_inner();
    done(target, response.channel, response.message, &response.durable_at)
}

async fn update(target: &Target, edit: Edit) -> Result<()> {
    let request = v1::UpdateChannelRequest {
        namespace: edit.channel.namespace,
        channel: edit.channel.channel,
        epoch: 0,
        etag: edit.etag.unwrap_or_default(),
        description: edit.description,
        set_labels: !edit.labels.is_empty(),
        labels: edit.labels.into_iter().collect(),
        source: edit.source,
        max_payload_bytes: edit.max_payload_bytes,
        max_publications_per_second: edit.max_publications_per_second,
        durability: Some(edit.durability.to_wire()),
    };
    if edit.via_control_plane {
        return operations::execute(
            target,
            v1::execute_channel_operation_request::Operation::Update(request),
        )
        .await;
    }
    let response =
        target.mesh.channels(&target.region)?.update_channel(request).await?.into_inner();
    done(target, response.channel, response.message, &response.durable_at)
}

async fn delete(
    target: &Target,
    channel: ChannelPath,
    via_control_plane: bool,
    durability: &DurabilityArgument,
) -> Result<()> {
    let name = channel.to_string();
    let request = v1::DeleteChannelRequest {
        namespace: channel.namespace,
        channel: channel.channel,
        durability: Some(durability.to_wire()),
        ..Default::default()
    };
    if via_control_plane {
        return operations::execute(
            target,
            v1::execute_channel_operation_request::Operation::Delete(request),
        )
        .await;
    }
    let response =
        target.mesh.channels(&target.region)?.delete_channel(request).await?.into_inner();
    let value = json!({
        "epoch": response.epoch,
        "message": response.message.as_ref().map(reference),
        "durable_at": response.durable_at,
    });
    print(target.format, &value, || {
        format!("deleted {name}, durable at {}", response.durable_at.join(", "))
    })
}

fn done(
    target: &Target,
    channel: Option<v1::Channel>,
    message: Option<v1::MessageReference>,
    durable_at: &[String],
) -> Result<()> {
    let channel = channel.unwrap_or_default();
    let json = json!({
        "channel": value(&channel),
        "message": message.as_ref().map(reference),
        "durable_at": durable_at,
    });
    print(target.format, &json, || {
        format!("{}\ndurable at {}", one(&channel), durable_at.join(", "))
    })
}

/// All pages.
pub(crate) async fn list(
    target: &Target,
    namespace: &str,
    prefix: &str,
    show_deleted: bool,
) -> Result<Vec<v1::Channel>> {
    let mut client = target.mesh.channels(&target.region)?;
    let mut channels = Vec::new();
    let mut page_token = String::new();
    loop {
        let request = v1::ListChannelsRequest {
            namespace: namespace.to_owned(),
            prefix: prefix.to_owned(),
            page_size: 1000,
            page_token,
            show_deleted,
        };
        let response = client.list_channels(request).await?.into_inner();
        channels.extend(response.channels);
        if response.next_page_token.is_empty() {
            return Ok(channels);
        }
        page_token = response.next_page_token;
    }
}

async fn show(target: &Target, channel: ChannelPath, history: bool) -> Result<()> {
    let request = v1::GetChannelRequest { namespace: channel.namespace, channel: channel.channel };
    let response = target.mesh.channels(&target.region)?.get_channel(request).await?.into_inner();
    let channel = response.channel.unwrap_or_default();
    let lost: Vec<Value> = response
        .lost_operations
        .iter()
        .map(|lost| {
            json!({
                "message": lost.message.as_ref().map(reference),
                "what": lost.what,
                "epoch": lost.epoch,
                "version": lost.version,
            })
        })
        .collect();
    let value = if history {
        json!({ "channel": value(&channel), "lost_operations": lost })
    } else {
        json!({ "channel": value(&channel) })
    };
    print(target.format, &value, || {
        let mut text = one(&channel);
        if history {
            let mut rows =
                table(&["lost to a concurrent operation", "epoch", "version", "origin", "m_id"]);
            for lost in &response.lost_operations {
                let name = lost.message.unwrap_or_default();
                rows.add_row([
                    lost.what.clone(),
                    lost.epoch.to_string(),
                    lost.version.to_string(),
                    name.origin.to_string(),
                    name.m_id.to_string(),
                ]);
            }
            text = format!("{text}\n\n{rows}");
        }
        text
    })
}

async fn refresh(
    target: &Target,
    channel: ChannelPath,
    durability: &DurabilityArgument,
) -> Result<()> {
    let request = v1::RefreshChannelContentRequest {
        namespace: channel.namespace,
        channel: channel.channel,
        durability: Some(durability.to_wire()),
    };
    let response =
        target.mesh.channels(&target.region)?.refresh_channel_content(request).await?.into_inner();
    let channel = response.channel.unwrap_or_default();
    let json = json!({
        "changed": response.changed,
        "channel": value(&channel),
        "message": response.message.as_ref().map(reference),
        "durable_at": response.durable_at,
    });
    print(target.format, &json, || {
        let what = if response.changed { "new content" } else { "not changed at the web server" };
        format!("{what}\n{}", one(&channel))
    })
}

async fn content(target: &Target, channel: ChannelPath) -> Result<()> {
    let request =
        v1::GetChannelContentRequest { namespace: channel.namespace, channel: channel.channel };
    let response =
        target.mesh.channels(&target.region)?.get_channel_content(request).await?.into_inner();
    std::io::stdout().lock().write_all(&response.content)?;
    Ok(())
}

/// A channel as JSON.
pub(crate) fn value(channel: &v1::Channel) -> Value {
    let content = channel.content.as_ref().map(|content| {
        json!({
            "size_bytes": content.size_bytes,
            "digest": content.digest,
            "etag": content.etag,
            "media_type": content.media_type,
            "fetched_at": content.fetched_at,
        })
    });
    json!({
        "namespace": channel.namespace,
        "name": channel.name,
        "epoch": channel.epoch,
        "etag": channel.etag,
        "description": channel.description,
        "labels": channel.labels,
        "source": channel.source,
        "content": content,
        "max_payload_bytes": channel.max_payload_bytes,
        "max_publications_per_second": channel.max_publications_per_second,
        "provisional": channel.provisional,
        "deleted": channel.deleted,
    })
}

fn labels(labels: &BTreeMap<String, String>) -> String {
    labels.iter().map(|(key, value)| format!("{key}={value}")).collect::<Vec<_>>().join(" ")
}

fn state(channel: &v1::Channel) -> &'static str {
    match (channel.deleted, channel.provisional) {
        (true, _) => "deleted",
        (false, true) => "provisional",
        (false, false) => "live",
    }
}

fn one(channel: &v1::Channel) -> String {
    let mut rows = fields();
    let mut row = |key: &str, value: String| {
        if !value.is_empty() {
            rows.add_row([key.to_owned(), value]);
        }
    };
    row("channel", format!("{}/{}", channel.namespace, channel.name));
    row("state", state(channel).to_owned());
    row("epoch", channel.epoch.to_string());
    row("description", channel.description.clone());
    row("labels", labels(&channel.labels));
    row("source", channel.source.clone());
    if let Some(content) = &channel.content {
        row("content", format!("{}, {}", bytes(content.size_bytes), content.media_type));
        row("digest", content.digest.clone());
    }
    row("etag", channel.etag.clone());
    rows.to_string()
}

fn many(channels: &[v1::Channel]) -> String {
    let mut rows = table(&["channel", "state", "epoch", "description", "labels", "source"]);
    for channel in channels {
        rows.add_row([
            channel.name.clone(),
            state(channel).to_owned(),
            channel.epoch.to_string(),
            channel.description.clone(),
            labels(&channel.labels),
            channel.source.clone(),
        ]);
    }
    rows.to_string()
}
