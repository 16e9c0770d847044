//! Learns the region's push-nodes from the control-plane, and goes on with the
//! last it knew when the control-plane is away.

use interlock_rpc::channel::{Backoff, ChannelError, EndpointConfig};
use interlock_rpc::tls::TlsClientConfig;
use interlock_rpc::{services, v1};
use tonic::Status;
use tracing::{info, warn};

use crate::push_nodes::PushNodes;

/// Watches the topology for one region's nodes.
pub(crate) struct RegionWatch {
    region: Region,
    push_nodes: PushNodes,
    client: services::topology::Client<tonic::transport::Channel>,
    seed: u64,
}

impl RegionWatch {
    pub(crate) fn new(
        control_plane: &str,
        region: &str,
        push_nodes: PushNodes,
        tls: Option<TlsClientConfig>,
        seed: u64,
    ) -> Result<Self, ChannelError> {
        let channel = EndpointConfig::new(control_plane)
            .tls(tls)
            .user("subscriber-gateway")
            .connect_lazy()?;
        let client = services::topology::client(channel);
        Ok(Self { region: Region::new(region), push_nodes, client, seed })
    }

    /// Runs until the task is ended.
    pub(crate) async fn run(mut self) {
        let mut backoff = Backoff::reconnect(self.seed);
        loop {
            if let Err(status) = self.watch(&mut backoff).await {
                warn!(%status, "the control-plane cannot be watched; going on with the push-nodes known");
            }
            tokio::time::sleep(backoff.next_delay()).await;
        }
    }

    async fn watch(&mut self, backoff: &mut Backoff) -> Result<(), Status> {
        let request = v1::WatchTopologyRequest { known: None };
        let mut stream = self.client.watch_topology(request).await?.into_inner();
        while let Some(response) = stream.message().await? {
            backoff.reset();
            let Some(topology) = response.topology else { continue };
            let Some(addresses) = self.region.take(&topology) else { continue };
            info!(region = self.region.name, push_nodes = ?addresses, "the region's push-nodes");
            self.push_nodes
                .replace(&addresses)
                .map_err(|error| Status::internal(error.to_string()))?;
        }
        Ok(())
    }
}

/// What is known of the region.
struct Region {
    name: String,
    /// The highest version seen, of all documents.
    highest: Option<(u64, u64)>,
}

impl Region {
    fn new(name: &str) -> Self {
        Self { name: name.to_owned(), highest: None }
    }

    /// The region's nodes by a document; `None` when it changes nothing. A
    /// control-plane that was restored from an old copy, or another one, may send
    /// what is past; and one that names no node of the region cannot mean that
    /// the gateway is to drop those that work.
    fn take(&mut self, topology: &v1::Topology) -> Option<Vec<String>> {
        let version = topology.version.unwrap_or_default();
        let version = (version.generation, version.number);
        if self.highest.is_some_and(|highest| version <= highest) {
            return None;
        }
        self.highest = Some(version);
        let addresses: Vec<String> = topology
            .nodes
            .iter()
            .filter(|node| node.region == self.name && node.state() == v1::NodeState::Active)
            .map(|node| node.client_address.clone())
            .collect();
        if addresses.is_empty() {
            warn!(
                region = self.name,
                "the topology has no push-node of the region; keeping those known"
            );
            return None;
        }
        Some(addresses)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn topology(generation: u64, number: u64, nodes: &[(&str, &str)]) -> v1::Topology {
        let nodes = nodes
            .iter()
            .map(|(region, address)| v1::Node {
                region: (*region).to_owned(),
                client_address: (*address).to_owned(),
                state: v1::NodeState::Active.into(),
                ..Default::default()
            })
            .collect();
        let version = Some(v1::TopologyVersion { generation, number });
        v1::Topology { version, nodes, ..Default::default() }
    }

    #[test]
    fn an_older_document_and_one_without_the_region_change_nothing() {
        let mut region = Region::new("europe");
        let nodes: &[_] = &[("europe", "e:1"), ("asia", "a:1")];
        assert_eq!(region.take(&topology(1, 7, nodes)), Some(vec!["e:1".to_owned()]));
        assert_eq!(region.take(&topology(1, 6, &[("europe", "old:1")])), None);
        assert_eq!(region.take(&topology(1, 7, &[("europe", "other:1")])), None);
        assert_eq!(region.take(&topology(1, 8, &[])), None);
        assert_eq!(region.take(&topology(1, 9, &[("asia", "a:1")])), None);
        assert_eq!(region.take(&topology(1, 8, nodes)), None, "9 was seen");
        let next = topology(2, 1, &[("europe", "e:2")]);
        assert_eq!(region.take(&next), Some(vec!["e:2".to_owned()]));
    }
}
