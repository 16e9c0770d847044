//! A node that is about to go: callers are turned away, and the others get what
//! this node has.

use std::time::Duration;

use interlock_rpc::server::Health;
use interlock_telemetry::Readiness;
use tokio::sync::watch;
use tokio::time::Instant;

use crate::context::NodeContext;
use crate::link_status::LinkState;
use crate::peer_lag::lag_of;
use crate::tasks::until_set;

/// How often the queues are looked at when no acknowledgement comes.
const LOOK_INTERVAL: Duration = Duration::from_millis(200);

/// Has health and readiness say so once the node drains, whoever began it: the
/// end of the process, an operator, or a higher token under its name.
pub async fn turn_callers_away(
    mut draining: watch::Receiver<bool>,
    health: Health,
    readiness: Readiness,
) {
    until_set(&mut draining).await;
    readiness.set_not_ready("draining");
    health.set_serving(false).await;
}

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
