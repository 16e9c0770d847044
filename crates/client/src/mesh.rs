//! Where a mesh listens, and the clients of its services.

use std::collections::BTreeMap;

use interlock_rpc::services::{channel, node, operation, publish, subscribe, topology};
use interlock_rpc::tls::TlsClientConfig;
use tonic::transport::Channel;

use crate::addresses::Addresses;
use crate::error::ClientError;

/// Where one region listens.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RegionAddresses {
    /// Its push-nodes, `http://host:port`.
    pub push_nodes: Vec<String>,
    /// Its gateways.
    pub gateways: Vec<String>,
}

/// A mesh as its clients see it. Cloning shares the connections.
#[derive(Clone, Debug)]
pub struct Mesh {
    control_plane: Option<Addresses>,
    regions: BTreeMap<String, Region>,
}

#[derive(Clone, Debug)]
struct Region {
    push_nodes: Addresses,
    gateways: Addresses,
}

impl Mesh {
    /// Prepares connections; none is made before it is used. To be called inside
    /// a Tokio runtime.
    pub fn new(
        control_plane: Option<&str>,
        regions: &BTreeMap<String, RegionAddresses>,
        tls: Option<&TlsClientConfig>,
    ) -> Result<Self, ClientError> {
        let control_plane =
            control_plane.map(|address| Addresses::new(&[address.to_owned()], tls)).transpose()?;
        let regions = regions
            .iter()
            .map(|(name, addresses)| {
                let region = Region {
                    push_nodes: Addresses::new(&addresses.push_nodes, tls)?,
                    gateways: Addresses::new(&addresses.gateways, tls)?,
                };
                Ok((name.clone(), region))
            })
            .collect::<Result<_, ClientError>>()?;
        Ok(Self { control_plane, regions })
    }

    /// The regions, by name.
    pub fn regions(&self) -> impl Iterator<Item = &str> {
        self.regions.keys().map(String::as_str)
    }

    /// A region's push-nodes.
    pub fn push_nodes(&self, region: &str) -> Result<Addresses, ClientError> {
        self.addresses(region, "push-node", |region| &region.push_nodes)
    }

    /// A region's gateways.
    pub fn gateways(&self, region: &str) -> Result<Addresses, ClientError> {
        self.addresses(region, "gateway", |region| &region.gateways)
    }

    /// Channels, at a region's push-node.
    pub fn channels(&self, region: &str) -> Result<channel::Client<Channel>, ClientError> {
        self.push_node(region).map(channel::client)
    }

    /// Single publications, at a region's push-node.
    pub fn publishing(&self, region: &str) -> Result<publish::Client<Channel>, ClientError> {
        self.push_node(region).map(publish::client)
    }

    /// Subscriptions and history, at a region's gateway.
    pub fn subscribing(&self, region: &str) -> Result<subscribe::Client<Channel>, ClientError> {
        let gateways = self.gateways(region)?;
        gateways.current().map(subscribe::client).ok_or_else(|| no_address("gateway", region))
    }

    /// A region's push-nodes as nodes, each with its address.
    pub fn nodes(&self, region: &str) -> Result<Vec<(String, node::Client<Channel>)>, ClientError> {
        let addresses = self.push_nodes(region)?;
        Ok(addresses
            .iter()
            .map(|(address, channel)| (address.to_owned(), node::client(channel.clone())))
            .collect())
    }

    /// The control-plane's topology.
    pub fn topology(&self) -> Result<topology::Client<Channel>, ClientError> {
        self.control_plane().map(topology::client)
    }

    /// The control-plane's door to the regions.
    pub fn operations(&self) -> Result<operation::Client<Channel>, ClientError> {
        self.control_plane().map(operation::client)
    }

    fn control_plane(&self) -> Result<Channel, ClientError> {
        self.control_plane
            .as_ref()
            .and_then(Addresses::current)
            .ok_or_else(|| ClientError::Address("no control-plane is known".to_owned()))
    }

    fn push_node(&self, region: &str) -> Result<Channel, ClientError> {
        self.push_nodes(region)?.current().ok_or_else(|| no_address("push-node", region))
    }

    fn addresses(
        &self,
        region: &str,
        what: &'static str,
        choose: impl Fn(&Region) -> &Addresses,
    ) -> Result<Addresses, ClientError> {
        let addresses = self.regions.get(region).map(choose).cloned();
        addresses.filter(|addresses| !addresses.is_empty()).ok_or_else(|| no_address(what, region))
    }
}

fn no_address(what: &'static str, region: &str) -> ClientError {
    ClientError::NoAddress { what, region: region.to_owned() }
}
