//! Contexts: which meshes there are and where they listen.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};
use interlock_client::RegionAddresses;
use interlock_rpc::tls::TlsClientConfig;
use serde::{Deserialize, Serialize};

use crate::usage::{UsageError, usage};

/// The context file.
#[derive(Debug, Default, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct ContextFile {
    /// The context in use.
    pub current: String,
    /// All of them, by name.
    pub contexts: BTreeMap<String, MeshContext>,
}

/// One mesh.
#[derive(Clone, Debug, Default, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct MeshContext {
    /// Where the control-plane listens, `http://host:port`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub control_plane: Option<String>,
    /// The region that commands talk to unless told otherwise.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub default_region: Option<String>,
    /// Where each region listens.
    #[serde(default)]
    pub regions: BTreeMap<String, RegionContext>,
    /// What to trust, and to show.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tls: Option<TlsClientConfig>,
}

/// One region.
#[derive(Clone, Debug, Default, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct RegionContext {
    /// Its push-nodes, `http://host:port`.
    #[serde(default)]
    pub push_nodes: Vec<String>,
    /// Its gateways.
    #[serde(default)]
    pub gateways: Vec<String>,
}

impl ContextFile {
    /// Reads the file.
    pub fn read(path: &Path) -> Result<Self> {
        let text = std::fs::read_to_string(path).with_context(|| {
            UsageError::new(format!(
                "no context file can be read at {}; `interlock dev` and `cargo xtask demo` write one and say where, --context-file names it",
                path.display()
            ))
        })?;
        toml::from_str(&text).with_context(|| UsageError::new(path.display().to_string()))
    }

    /// The context of that name, or the current one.
    pub fn choose(mut self, name: Option<&str>) -> Result<MeshContext> {
        let name = name.unwrap_or(&self.current).to_owned();
        let known = self.contexts.keys().cloned().collect::<Vec<_>>().join(", ");
        self.contexts
            .remove(&name)
            .ok_or_else(|| usage(format!("no context {name:?}; the file has: {known}")))
    }
}

impl MeshContext {
    /// As the client takes it.
    pub fn regions(&self) -> BTreeMap<String, RegionAddresses> {
        self.regions
            .iter()
            .map(|(name, region)| {
                let addresses = RegionAddresses {
                    push_nodes: region.push_nodes.clone(),
                    gateways: region.gateways.clone(),
                };
                (name.clone(), addresses)
            })
            .collect()
    }
}

/// Where contexts are kept unless told otherwise.
pub fn default_path() -> PathBuf {
    let home = || std::env::var_os("HOME").map(|home| PathBuf::from(home).join(".config"));
    let folder = std::env::var_os("XDG_CONFIG_HOME").map(PathBuf::from).or_else(home);
    folder.unwrap_or_default().join("interlock/contexts.toml")
}
