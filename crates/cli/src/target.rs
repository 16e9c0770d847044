//! The mesh and the region that a command talks to, and how it answers.

use std::path::PathBuf;

use anyhow::{Context as _, Result};
use interlock_client::Mesh;

use crate::output::Format;
use interlock_cli::contexts::{ContextFile, default_path};
use interlock_cli::usage::{UsageError, usage};

/// What a command talks to.
pub(crate) struct Target {
    /// Connections.
    pub(crate) mesh: Mesh,
    /// The region.
    pub(crate) region: String,
    /// Table or JSON.
    pub(crate) format: Format,
}

impl Target {
    /// Reads the context and prepares connections.
    pub(crate) fn load(
        file: Option<PathBuf>,
        context: Option<&str>,
        region: Option<String>,
        format: Format,
    ) -> Result<Self> {
        let path = file.unwrap_or_else(default_path);
        let context = ContextFile::read(&path)?.choose(context)?;
        let region = region
            .or_else(|| context.default_region.clone())
            .or_else(|| context.regions.keys().next().cloned())
            .ok_or_else(|| usage("the context has no region"))?;
        if !context.regions.contains_key(&region) {
            let known = context.regions.keys().cloned().collect::<Vec<_>>().join(", ");
            return Err(usage(format!("the context has no region {region:?}; it has: {known}")));
        }
        let mesh =
            Mesh::new(context.control_plane.as_deref(), &context.regions(), context.tls.as_ref())
                .with_context(|| UsageError::new(path.display().to_string()))?;
        Ok(Self { mesh, region, format })
    }
}

/// `namespace/channel`, taken apart at the first slash.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct ChannelPath {
    pub(crate) namespace: String,
    pub(crate) channel: String,
}

impl std::str::FromStr for ChannelPath {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text.split_once('/') {
            Some((namespace, channel)) if !namespace.is_empty() && !channel.is_empty() => {
                Ok(Self { namespace: namespace.to_owned(), channel: channel.to_owned() })
            }
            _ => Err(format!("{text:?} is not of the form namespace/channel")),
        }
    }
}

impl std::fmt::Display for ChannelPath {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}/{}", self.namespace, self.channel)
    }
}
