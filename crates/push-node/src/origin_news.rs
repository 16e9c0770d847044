//! When each origin was last heard, and under which incarnation it last
//! introduced itself: what followers are told of how stale an origin is.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use interlock_core::clock::Moment;
use interlock_core::identity::{Incarnation, MemberOpening, NamespaceNumber, NodeNumber};
use interlock_rpc::v1;

use crate::node_clock::NodeClock;
use crate::topology_state::TopologyState;

const LOCK: &str = "no holder of the origin news' lock panics";

#[derive(Clone, Copy, Debug, Default)]
struct News {
    heard_at: Option<Moment>,
    introduced: Option<(Incarnation, Moment)>,
}

/// See the module's page.
#[derive(Debug)]
pub struct OriginNewsBoard {
    me: MemberOpening,
    clock: NodeClock,
    topology: Arc<TopologyState>,
    news: Mutex<BTreeMap<NodeNumber, News>>,
}

impl OriginNewsBoard {
    /// Nobody was heard yet.
    pub fn new(me: MemberOpening, clock: NodeClock, topology: Arc<TopologyState>) -> Self {
        Self { me, clock, topology, news: Mutex::default() }
    }

    /// A node was heard, on a stream of its own.
    pub fn heard(&self, node: NodeNumber) {
        let now = self.clock.moment();
        self.news.lock().expect(LOCK).entry(node).or_default().heard_at = Some(now);
    }

    /// A node introduced itself, first-hand.
    pub fn introduced(&self, opening: MemberOpening) {
        let now = self.clock.moment();
        let mut news = self.news.lock().expect(LOCK);
        let news = news.entry(opening.node).or_default();
        news.heard_at = Some(now);
        news.introduced = Some((opening.incarnation, now));
    }

    /// How long ago a node was heard; `None` if it never was.
    pub fn last_heard(&self, node: NodeNumber) -> Option<Duration> {
        if node == self.me.node {
            return Some(Duration::ZERO);
        }
        let heard_at = self.news.lock().expect(LOCK).get(&node)?.heard_at?;
        Some(self.clock.moment().since(heard_at))
    }

    /// What followers of a namespace are told of its members.
    pub fn freshness(&self, namespace: NamespaceNumber) -> Vec<v1::OriginFreshness> {
        let now = self.clock.moment();
        let topology = self.topology.current();
        let news = self.news.lock().expect(LOCK);
        let since = |then: Moment| millis(now.since(then));
        topology
            .members(namespace)
            .into_iter()
            .map(|member| {
                let news = if member.number == self.me.node {
                    let introduced = Some((self.me.incarnation, Moment::START));
                    News { heard_at: Some(now), introduced }
                } else {
                    news.get(&member.number).copied().unwrap_or_default()
                };
                v1::OriginFreshness {
                    origin: member.number.get(),
                    name: member.name.to_string(),
                    // One that was never heard has been silent since the start.
                    last_heard_milliseconds: since(news.heard_at.unwrap_or(Moment::START)),
                    incarnation: news.introduced.map_or(0, |(incarnation, _)| incarnation.get()),
                    introduced_milliseconds: news.introduced.map_or(0, |(_, then)| since(then)),
                }
            })
            .collect()
    }
}

/// Whole milliseconds, for the wire.
pub fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}
