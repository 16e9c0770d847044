//! `interlock dev`: a whole mesh in this process.

use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};
use interlock_cli::dev_mesh::{DevMesh, DevMeshOptions};
use interlock_client::v1;
use interlock_telemetry::TelemetryConfig;
use serde_json::json;
use tokio::signal::unix::{SignalKind, signal};

use crate::output::{Format, print};

#[derive(clap::Args)]
pub(crate) struct Arguments {
    /// Where data is kept; a temporary folder that is forgotten unless given.
    #[arg(long)]
    data_dir: Option<PathBuf>,
    /// The regions, separated by commas.
    #[arg(long, default_value = "europe,america,asia", value_delimiter = ',')]
    regions: Vec<String>,
    /// The base address of the web server that channels with a source are fetched
    /// from.
    #[arg(long)]
    web_origin: Option<String>,
    /// What is logged, in the syntax of RUST_LOG.
    #[arg(long, default_value = "warn")]
    log_filter: String,
}

pub(crate) async fn run(arguments: Arguments, format: Format) -> Result<()> {
    // From here on they end the mesh in order instead of the process.
    let mut interrupt = signal(SignalKind::interrupt())?;
    let mut terminate = signal(SignalKind::terminate())?;
    let telemetry = interlock_telemetry::init(&TelemetryConfig {
        log_filter: arguments.log_filter,
        ..TelemetryConfig::new("interlock-dev")
    })?;
    let forgotten = match &arguments.data_dir {
        Some(_) => None,
        None => Some(tempfile::tempdir().context("making a temporary folder")?),
    };
    let folder = arguments
        .data_dir
        .or_else(|| forgotten.as_ref().map(|folder| folder.path().to_owned()))
        .context("no folder")?;
    std::fs::create_dir_all(&folder).with_context(|| folder.display().to_string())?;
    let context = folder.join("context.toml");
    let options = DevMeshOptions {
        folder,
        regions: arguments.regions.clone(),
        web_origin: arguments.web_origin,
    };
    let mesh = DevMesh::start(options).await?;
    mesh.write_context(&context)?;
    make_namespace(&mesh, &arguments.regions).await?;

    announce(&mesh, &context, format)?;
    tokio::select! {
        _ = interrupt.recv() => {}
        _ = terminate.recv() => {}
    }
    mesh.shutdown().await;
    telemetry.shutdown().await;
    Ok(())
}

/// Says where everything listens and what to try.
fn announce(mesh: &DevMesh, context: &Path, format: Format) -> Result<()> {
    let addresses = mesh.context();
    let value = json!({
        "context_file": context,
        "control_plane": addresses.control_plane,
        "regions": addresses.regions,
        "metrics": mesh.metrics_addresses(),
        "namespace": "demo",
    });
    print(format, &value, || {
        let context = context.display();
        format!(
            "a mesh of {} regions runs in this process; namespace demo is placed on all of them\n\
             context: {context}\n\n\
             try, in another terminal:\n  \
             export INTERLOCK_CONTEXT_FILE={context}\n  \
             interlock channel create demo/hello\n  \
             interlock subscribe demo/hello --from oldest\n  \
             interlock publish demo/hello 'good morning'\n\n\
             Ctrl-C stops it.",
            addresses.regions.len()
        )
    })
}

/// The namespace `demo` on a group of all regions, unless it is there.
async fn make_namespace(mesh: &DevMesh, regions: &[String]) -> Result<()> {
    let mut topology = mesh.client()?.topology()?;
    let group = v1::ApplyGroupRequest {
        name: "all".to_owned(),
        regions: regions.to_vec(),
        ..Default::default()
    };
    let present = topology.apply_group(group).await?.into_inner().topology.unwrap_or_default();
    if present.namespaces.iter().all(|namespace| namespace.name != "demo") {
        let namespace = v1::CreateNamespaceRequest {
            name: "demo".to_owned(),
            groups: vec!["all".to_owned()],
            disk_cap_bytes: 0,
            retention: None,
        };
        topology.create_namespace(namespace).await?;
    }
    Ok(())
}
