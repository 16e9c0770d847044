//! What this node says of itself to a peer, and when it says it again.

use std::time::Duration;

use interlock_core::clock::Moment;
use interlock_core::identity::{NamespaceNumber, NodeNumber};
use interlock_core::replication::frames::{Hello, NamespaceDigest, PROTOCOL_VERSION};

use crate::context::NodeContext;
use crate::work_queue::QueueClosed;

/// Namespaces become ready one after the other, each with a write to the disk: the
/// peer is told of all together once there was none for so long.
const QUIET: Duration = Duration::from_millis(200);
/// And at the latest after this.
const LONGEST: Duration = Duration::from_secs(2);

/// The namespaces that both hold and that this node is ready in.
pub fn shared_and_ready(context: &NodeContext, peer: NodeNumber) -> Vec<NamespaceNumber> {
    let topology = context.topology.current();
    topology
        .namespaces_of(context.me().node)
        .into_iter()
        .filter(|namespace| topology.is_member(peer, *namespace))
        .filter(|namespace| context.readiness.is_ready(*namespace))
        .collect()
}

/// What this node has of the namespaces that both hold. Of those that it is not
/// ready for it says nothing, so that nobody takes its state for whole.
pub async fn digests(
    context: &NodeContext,
    peer: NodeNumber,
) -> Result<Vec<NamespaceDigest>, QueueClosed> {
    let shared = shared_and_ready(context, peer);
    let tips = context
        .writer
        .look(move |admission| {
            let digest = |namespace| (namespace, admission.logs().tips_digest(namespace));
            shared.into_iter().map(digest).collect::<Vec<_>>()
        })
        .await?;
    Ok(tips
        .into_iter()
        .map(|(namespace, tips)| NamespaceDigest {
            namespace,
            tips,
            state: context.directories.namespace(namespace).read(|directory| directory.digest()),
        })
        .collect())
}

/// Says who this node is, and what it has.
pub async fn greeting(context: &NodeContext, peer: NodeNumber) -> Result<Hello, QueueClosed> {
    let namespaces = digests(context, peer).await?;
    Ok(Hello {
        protocol_version: PROTOCOL_VERSION,
        member: context.member(),
        topology_version: context.topology.current().version,
        namespaces,
        feature_level: context.config.feature_level(),
        wall_clock: context.clock.wall(),
    })
}

/// When the peer is greeted again, because a greeting is the first frame of a
/// stream and there is only one.
#[derive(Clone, Copy, Debug, Default)]
pub struct GreetAgain {
    /// The first and the last change that the peer does not know of.
    changed: Option<(Moment, Moment)>,
}

impl GreetAgain {
    /// What this node is ready for may have changed.
    pub fn changed(&mut self, now: Moment) {
        let first = self.changed.map_or(now, |(first, _)| first);
        self.changed = Some((first, now));
    }

    /// When to greet again if nothing changes before.
    pub fn due_at(&self) -> Option<Moment> {
        self.changed.map(|(first, last)| (last + QUIET).min(first + LONGEST))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_becomes_ready_together_is_told_together_and_not_for_ever_later() {
        let at = |milliseconds| Moment::new(Duration::from_millis(milliseconds));
        let mut again = GreetAgain::default();
        assert_eq!(again.due_at(), None);
        again.changed(at(1000));
        assert_eq!(again.due_at(), Some(at(1200)));
        again.changed(at(1150));
        assert_eq!(again.due_at(), Some(at(1350)));
        for later in (1300..3000).step_by(150) {
            again.changed(at(later));
        }
        assert_eq!(again.due_at(), Some(at(3000)));
    }
}
