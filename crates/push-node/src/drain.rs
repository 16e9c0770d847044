//! Waiting until the others hold what this node has, before it goes.

use std::time::Duration;

use tokio::time::Instant;

use crate::context::NodeContext;
use crate::link_status::LinkState;
use crate::peer_lag::lag_of;

/// How often the queues are looked at when no acknowledgement comes.
const LOOK_INTERVAL: Duration = Duration::from_millis(200);

/// Waits until the queues of all members that are reached are empty, or the
/// deadline comes. Says how many messages are left, also of those not reached.
pub async fn until_drained(context: &NodeContext, deadline: Instant) -> u64 {
    let mut facts = context.hub.await_facts();
    loop {
        let (mut reached, mut all) = (0, 0);
        for (peer, view) in context.links.views() {
            let messages = lag_of(context, peer.number).await.messages;
            all += messages;
            if view.state == LinkState::Replicating {
                reached += messages;
            }
        }
        if reached == 0 || Instant::now() >= deadline {
            return all;
        }
        let next_look = (Instant::now() + LOOK_INTERVAL).min(deadline);
        tokio::select! {
            () = facts.changed() => {}
            () = tokio::time::sleep_until(next_look) => {}
        }
    }
}
