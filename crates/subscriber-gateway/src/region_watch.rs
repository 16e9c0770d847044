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
    region: String,
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
        Ok(Self { region: region.to_owned(), push_nodes, client, seed })
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
            let addresses: Vec<String> = topology
                .nodes
                .iter()
                .filter(|node| node.region == self.region && node.state() == v1::NodeState::Active)
                .map(|node| node.client_address.clone())
                .collect();
            info!(region = self.region, push_nodes = ?addresses, "the region's push-nodes");
            self.push_nodes
                .replace(&addresses)
                .map_err(|error| Status::internal(error.to_string()))?;
        }
        Ok(())
    }
}
