//! What a node has to know before it starts: the topology, and who it is in it.

use std::net::SocketAddr;

use interlock_core::identity::{Incarnation, NodeNumber, TopologyVersion};
use interlock_core::topology::Topology;
use interlock_rpc::channel::Backoff;
use interlock_rpc::topology_file;

use crate::config::{Config, ConfigError};
use crate::control_plane_link::{
    Registration, RegistrationError, RegistrationRequest, control_plane_client, register,
};
use crate::open_node::Addresses;
use crate::start_error::StartError;

/// How this node registers.
pub(crate) fn registration_request(
    config: &Config,
    addresses: &Addresses,
    incarnation: Incarnation,
    topology_version: TopologyVersion,
) -> RegistrationRequest {
    RegistrationRequest {
        name: config.node.clone(),
        region: config.region.clone(),
        replication_address: advertised(&config.replication_advertise, addresses.replication),
        client_address: advertised(&config.client_advertise, addresses.client),
        incarnation,
        topology_version,
        feature_level: config.feature_level(),
    }
}

fn advertised(configured: &Option<String>, listening: SocketAddr) -> String {
    configured.clone().unwrap_or_else(|| listening.to_string())
}

/// The topology to start with: the newest of the stored one and the file's, or
/// the control-plane's where neither has this node.
pub async fn find_topology(
    config: &Config,
    stored: Option<Topology>,
    opened_as: Option<NodeNumber>,
    request: &RegistrationRequest,
) -> Result<(Topology, Option<Registration>), StartError> {
    if let Some(path) = &config.topology_file {
        let file = topology_file::load(path)?;
        return Ok(match stored {
            Some(stored) if stored.version > file.version => (stored, None),
            _ => (file, None),
        });
    }
    let name = config.node_name()?;
    if let Some(stored) = stored {
        if stored.node_by_name(&name).is_some() {
            // The control-plane is not needed: the link registers when it can.
            return Ok((stored, None));
        }
        // Before the control-plane numbers a node that must not start.
        if let Some(owner) = opened_as.and_then(|number| stored.node(number)) {
            return Err(other_node(config, &stored, owner.number));
        }
    }
    let address = config.control_plane.as_deref().ok_or(ConfigError::TopologySource)?;
    let mut client = control_plane_client(config, address).map_err(RegistrationError::Address)?;
    let mut backoff = Backoff::reconnect(rand::random());
    loop {
        match register(&mut client, request).await {
            Ok(registration) => return Ok((registration.topology.clone(), Some(registration))),
            Err(error) if error.may_pass() => {
                let delay = backoff.next_delay();
                tracing::info!(%error, ?delay, "waiting for the control-plane, which numbers this node");
                tokio::time::sleep(delay).await;
            }
            Err(error) => return Err(error.into()),
        }
    }
}

/// The number of this node's name, which its database has to be of too.
pub fn number_of(
    config: &Config,
    topology: &Topology,
    opened_as: Option<NodeNumber>,
) -> Result<NodeNumber, StartError> {
    let (name, region) = (config.node_name()?, config.region_name()?);
    let number = topology
        .node_by_name(&name)
        .filter(|node| node.region == region)
        .map(|node| node.number)
        .ok_or_else(|| StartError::NotInTopology {
            node: name.to_string(),
            region: region.to_string(),
        })?;
    match opened_as.filter(|owner| *owner != number) {
        Some(owner) => Err(other_node(config, topology, owner)),
        None => Ok(number),
    }
}

/// A swapped volume, or a node that was given another name: going on would have
/// one node speak of what another one has acknowledged.
fn other_node(config: &Config, topology: &Topology, owner: NodeNumber) -> StartError {
    let owner = topology.node(owner).map_or_else(
        || format!("number {owner}"),
        |node| format!("{} (number {owner})", node.name),
    );
    let folder = config.data_dir.display().to_string();
    StartError::OtherNode { folder, owner, node: config.node.clone() }
}
