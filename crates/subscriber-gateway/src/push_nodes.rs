//! The push-nodes of this gateway's region, and which of them it uses now.
//!
//! A gateway stays with one node as long as it answers, because publisher
//! sessions belong to a node; it turns to the next when a call cannot reach it.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use arc_swap::ArcSwap;
use interlock_rpc::channel::{ChannelError, EndpointConfig};
use interlock_rpc::status::{Reason, refusal};
use interlock_rpc::tls::TlsClientConfig;
use tonic::transport::Channel;
use tonic::{Code, Status};

/// One push-node of the region.
#[derive(Clone, Debug)]
pub struct PushNode {
    /// Where it listens.
    pub address: String,
    /// The connection, made when it is first used.
    pub channel: Channel,
}

/// All push-nodes of the region. Cloning shares them.
#[derive(Clone, Debug)]
pub struct PushNodes {
    nodes: Arc<ArcSwap<Vec<PushNode>>>,
    current: Arc<AtomicUsize>,
    tls: Option<TlsClientConfig>,
}

impl PushNodes {
    /// None yet.
    pub fn new(tls: Option<TlsClientConfig>) -> Self {
        Self { nodes: Arc::new(ArcSwap::default()), current: Arc::default(), tls }
    }

    /// Uses these from now on; connections to nodes that stay are kept.
    pub fn replace(&self, addresses: &[String]) -> Result<(), ChannelError> {
        let present = self.nodes.load();
        let nodes = addresses
            .iter()
            .map(|address| match present.iter().find(|node| node.address == *address) {
                Some(node) => Ok(node.clone()),
                None => EndpointConfig::bulk(address.clone())
                    .tls(self.tls.clone())
                    .user("subscriber-gateway")
                    .connect_lazy()
                    .map(|channel| PushNode { address: address.clone(), channel }),
            })
            .collect::<Result<Vec<_>, _>>()?;
        self.nodes.store(Arc::new(nodes));
        Ok(())
    }

    /// The node in use.
    pub fn current(&self) -> Result<PushNode, Status> {
        let nodes = self.nodes.load();
        let index = self.current.load(Ordering::Relaxed) % nodes.len().max(1);
        nodes.get(index).cloned().ok_or_else(|| {
            refusal(Reason::NoNodeReachable, "no push-node of this gateway's region is known")
                .into_status()
        })
    }

    /// Turns to the next node if `status` says that `node` could not be reached
    /// or no longer serves.
    pub fn failed(&self, node: &PushNode, status: &Status) {
        if status.code() != Code::Unavailable {
            return;
        }
        let nodes = self.nodes.load();
        let index = self.current.load(Ordering::Relaxed);
        // Only the first of many calls that fail together moves on.
        if nodes.get(index % nodes.len().max(1)).is_some_and(|used| used.address == node.address) {
            let _ = self.current.compare_exchange(
                index,
                index.wrapping_add(1),
                Ordering::Relaxed,
                Ordering::Relaxed,
            );
        }
    }
}
