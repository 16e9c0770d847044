//! Which peers are called: all nodes that share a namespace with this one, by
//! the topology gone by. Starts and ends their links as it changes.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};

use interlock_core::identity::NodeNumber;
use interlock_core::topology::Node;
use tokio::sync::watch;

use crate::context::NodeContext;
use crate::link_status::{LinkStatus, LinkView};
use crate::outbound_link::run_outbound_link;
use crate::tasks::until_set;

const LOCK: &str = "no holder of the link table's lock panics";

#[derive(Debug)]
struct RunningLink {
    node: Node,
    status: Arc<LinkStatus>,
    stop: watch::Sender<bool>,
}

/// The links that are there.
#[derive(Debug, Default)]
pub struct OutboundLinks {
    links: Mutex<BTreeMap<NodeNumber, RunningLink>>,
}

impl OutboundLinks {
    /// How each link stands.
    pub fn views(&self) -> Vec<(Node, LinkView)> {
        let links = self.links.lock().expect(LOCK);
        links.values().map(|link| (link.node.clone(), link.status.view())).collect()
    }

    /// Keeps the links in step with the topology until the node ends.
    pub async fn run(&self, context: Arc<NodeContext>) {
        let mut topology = context.topology.watch();
        let mut ending = context.tasks.ending();
        loop {
            let newest = topology.borrow_and_update().clone();
            let peers = newest.peers_of(context.me().node).into_iter().cloned().collect();
            self.adjust(&context, peers);
            tokio::select! {
                changed = topology.changed() => if changed.is_err() { break },
                () = until_set(&mut ending) => break,
            }
        }
        self.adjust(&context, Vec::new());
    }

    fn adjust(&self, context: &Arc<NodeContext>, peers: Vec<Node>) {
        let mut links = self.links.lock().expect(LOCK);
        links.retain(|_, link| {
            let stays = peers.iter().any(|peer| is_same_link(peer, &link.node));
            if !stays {
                link.stop.send_replace(true);
            }
            stays
        });
        for peer in peers {
            links.entry(peer.number).or_insert_with(|| {
                let status = Arc::new(LinkStatus::default());
                let (stop, stopped) = watch::channel(false);
                let link = run_outbound_link(
                    Arc::clone(context),
                    peer.clone(),
                    Arc::clone(&status),
                    stopped,
                );
                // A node that is ending calls nobody.
                let _ = context.tasks.spawn("a link to a peer", link);
                RunningLink { node: peer, status, stop }
            });
        }
    }
}

/// Whether a link to one goes on for the other: only what is called matters.
fn is_same_link(peer: &Node, linked: &Node) -> bool {
    peer.number == linked.number
        && peer.name == linked.name
        && peer.replication_address == linked.replication_address
}
