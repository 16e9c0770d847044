//! A whole mesh in one process: a control-plane, and per region one push-node
//! and one gateway, on loopback with free ports. The same services as in
//! production; only the processes are missing.

use std::collections::BTreeMap;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};
use interlock_client::Mesh;
use interlock_control_plane::ControlPlane;
use interlock_push_node::PushNode;
use interlock_subscriber_gateway::Gateway;

use crate::contexts::{ContextFile, MeshContext, RegionContext};

/// What a mesh in one process is made of.
#[derive(Clone, Debug)]
pub struct DevMeshOptions {
    /// Where everything is kept.
    pub folder: PathBuf,
    /// The regions.
    pub regions: Vec<String>,
    /// The regions' web servers, for channels with a source (METHOD M5).
    pub web_origin: Option<String>,
}

/// A running mesh. A part that is taken away can be started again; addresses stay
/// the same.
pub struct DevMesh {
    options: DevMeshOptions,
    control_plane: Option<interlock_control_plane::Running>,
    control_plane_address: SocketAddr,
    regions: BTreeMap<String, DevRegion>,
}

struct DevRegion {
    node: Option<interlock_push_node::Running>,
    gateway: Option<interlock_subscriber_gateway::Running>,
    client_address: SocketAddr,
    replication_address: SocketAddr,
    gateway_address: SocketAddr,
}

impl DevMesh {
    /// Starts all parts.
    pub async fn start(options: DevMeshOptions) -> Result<Self> {
        let any = any_port();
        let control_plane = start_control_plane(&options, any).await?;
        let control_plane_address = control_plane.listen_address();
        let mut mesh = Self {
            options,
            control_plane: Some(control_plane),
            control_plane_address,
            regions: BTreeMap::new(),
        };
        for region in mesh.options.regions.clone() {
            let node = mesh.new_node(&region, any, any).await?;
            let client_address = node.client_address();
            let gateway = mesh.new_gateway(&region, client_address, any).await?;
            let part = DevRegion {
                client_address,
                replication_address: node.replication_address(),
                gateway_address: gateway.listen(),
                node: Some(node),
                gateway: Some(gateway),
            };
            mesh.regions.insert(region, part);
        }
        Ok(mesh)
    }

    /// The name of a region's push-node.
    pub fn node_name(region: &str) -> String {
        format!("{region}-1")
    }

    /// Connections to it.
    pub fn client(&self) -> Result<Mesh> {
        let context = self.context();
        Ok(Mesh::new(context.control_plane.as_deref(), &context.regions(), None)?)
    }

    /// Where it listens, for a context file.
    pub fn context(&self) -> MeshContext {
        let regions = self
            .regions
            .iter()
            .map(|(name, region)| {
                let context = RegionContext {
                    push_nodes: vec![format!("http://{}", region.client_address)],
                    gateways: vec![format!("http://{}", region.gateway_address)],
                };
                (name.clone(), context)
            })
            .collect();
        MeshContext {
            control_plane: Some(self.control_plane_url()),
            default_region: self.options.regions.first().cloned(),
            regions,
            tls: None,
        }
    }

    /// Writes a context file that has this mesh as its current one.
    pub fn write_context(&self, path: &Path) -> Result<()> {
        let contexts = BTreeMap::from([("dev".to_owned(), self.context())]);
        let file = ContextFile { current: "dev".to_owned(), contexts };
        std::fs::write(path, toml::to_string_pretty(&file)?)
            .with_context(|| path.display().to_string())
    }

    /// Where a region's push-node keeps its data.
    pub fn node_folder(&self, region: &str) -> PathBuf {
        self.options.folder.join(Self::node_name(region))
    }

    /// Where Prometheus reads each part that runs, by the part's name.
    pub fn metrics_addresses(&self) -> BTreeMap<String, SocketAddr> {
        let control_plane = self.control_plane.as_ref().and_then(|part| part.metrics_address());
        let mut addresses: BTreeMap<String, SocketAddr> = control_plane
            .map(|address| ("control-plane".to_owned(), address))
            .into_iter()
            .collect();
        for (name, region) in &self.regions {
            if let Some(address) = region.node.as_ref().and_then(|node| node.metrics_address()) {
                addresses.insert(Self::node_name(name), address);
            }
            if let Some(gateway) = &region.gateway {
                addresses.insert(format!("{name}-gateway"), gateway.metrics());
            }
        }
        addresses
    }

    /// Takes a region's push-node away as a crash does: nothing is flushed or
    /// told to anyone.
    pub async fn abort_node(&mut self, region: &str) -> Result<()> {
        let node = self.region(region)?.node.take().context("the node does not run")?;
        node.abort().await;
        Ok(())
    }

    /// Starts a region's push-node again, at its old addresses.
    pub async fn start_node(&mut self, region: &str) -> Result<()> {
        let part = self.region(region)?;
        let (client, replication) = (part.client_address, part.replication_address);
        let node = self.new_node(region, client, replication).await?;
        self.region(region)?.node = Some(node);
        Ok(())
    }

    /// Takes the control-plane away.
    pub async fn stop_control_plane(&mut self) {
        if let Some(control_plane) = self.control_plane.take() {
            control_plane.shutdown().await;
        }
    }

    /// Starts the control-plane again, at its old address.
    pub async fn start_control_plane(&mut self) -> Result<()> {
        self.control_plane =
            Some(start_control_plane(&self.options, self.control_plane_address).await?);
        Ok(())
    }

    /// Takes a region's gateway away.
    pub async fn stop_gateway(&mut self, region: &str) -> Result<()> {
        if let Some(gateway) = self.region(region)?.gateway.take() {
            gateway.shutdown().await;
        }
        Ok(())
    }

    /// Starts a region's gateway again, at its old address.
    pub async fn start_gateway(&mut self, region: &str) -> Result<()> {
        let part = self.region(region)?;
        let (client, listen) = (part.client_address, part.gateway_address);
        let gateway = self.new_gateway(region, client, listen).await?;
        self.region(region)?.gateway = Some(gateway);
        Ok(())
    }

    /// Stops all, gateways first.
    pub async fn shutdown(mut self) {
        for region in self.regions.values_mut() {
            if let Some(gateway) = region.gateway.take() {
                gateway.shutdown().await;
            }
        }
        for region in self.regions.values_mut() {
            if let Some(node) = region.node.take() {
                node.shutdown().await;
            }
        }
        self.stop_control_plane().await;
    }

    fn region(&mut self, region: &str) -> Result<&mut DevRegion> {
        self.regions.get_mut(region).with_context(|| format!("no region {region:?}"))
    }

    fn control_plane_url(&self) -> String {
        format!("http://{}", self.control_plane_address)
    }

    async fn new_node(
        &self,
        region: &str,
        client: SocketAddr,
        replication: SocketAddr,
    ) -> Result<interlock_push_node::Running> {
        let name = Self::node_name(region);
        let config = interlock_push_node::Config {
            data_dir: self.options.folder.join(&name),
            node: name.clone(),
            region: region.to_owned(),
            client_listen: client,
            replication_listen: replication,
            metrics_listen: Some(any_port()),
            control_plane: Some(self.control_plane_url()),
            web_origin: self.options.web_origin.clone(),
            allow_private_sources: self.options.web_origin.is_some(),
            ..Default::default()
        };
        PushNode::start(config).await.with_context(|| format!("starting push-node {name}"))
    }

    async fn new_gateway(
        &self,
        region: &str,
        push_node: SocketAddr,
        listen: SocketAddr,
    ) -> Result<interlock_subscriber_gateway::Running> {
        let config = interlock_subscriber_gateway::Config {
            listen,
            push_nodes: vec![format!("http://{push_node}")],
            ..interlock_subscriber_gateway::Config::new(&format!("{region}-gateway"), region)
        };
        Gateway::start(config).await.with_context(|| format!("starting the gateway of {region}"))
    }
}

async fn start_control_plane(
    options: &DevMeshOptions,
    listen: SocketAddr,
) -> Result<interlock_control_plane::Running> {
    let config = interlock_control_plane::Config {
        listen,
        metrics_listen: Some(any_port()),
        data_dir: options.folder.join("control-plane"),
        ..Default::default()
    };
    ControlPlane::start(config).await.context("starting the control-plane")
}

fn any_port() -> SocketAddr {
    SocketAddr::from((Ipv4Addr::LOCALHOST, 0))
}
