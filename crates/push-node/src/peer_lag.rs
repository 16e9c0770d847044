//! How far each member is behind, as people are shown it: messages that it has
//! not *acknowledged*, and the age of the oldest of them.

use std::collections::BTreeMap;
use std::sync::{Arc, RwLock};
use std::time::Duration;

use interlock_core::clock::WallTime;
use interlock_core::identity::{LogName, MessageNumber, NodeNumber};
use interlock_core::message::MessageHead;
use interlock_core::replication::acknowledgements::QueuedLog;

use crate::context::NodeContext;
use crate::stored_messages::read_stored;
use crate::tasks::until_set;

const LOCK: &str = "no holder of the lag board's lock panics";
const INTERVAL: Duration = Duration::from_secs(1);

/// The age is looked up for so many logs of one peer at most, those with the
/// longest queues: each may cost a read of the disk.
const MAX_LOGS_LOOKED_UP: usize = 32;

/// One member's queue (METHOD M6).
#[derive(Clone, Debug, Default)]
pub struct PeerLag {
    /// By log, those that are not empty.
    pub queues: Vec<QueuedLog>,
    /// Messages in all of them.
    pub messages: u64,
    /// The age of the oldest of them; none if the queue is empty.
    pub oldest_milliseconds: u64,
}

/// The lag of all members, as of the last second: for metrics.
#[derive(Debug, Default)]
pub struct LagBoard {
    peers: RwLock<BTreeMap<NodeNumber, (String, PeerLag)>>,
}

impl LagBoard {
    /// By member's name.
    pub fn snapshot(&self) -> Vec<(String, PeerLag)> {
        self.peers.read().expect(LOCK).values().cloned().collect()
    }
}

/// Keeps the board fresh until the node ends.
pub async fn watch_lag(context: Arc<NodeContext>) {
    let mut ending = context.tasks.ending();
    loop {
        let mut peers = BTreeMap::new();
        let topology = context.topology.current();
        for peer in topology.peers_of(context.me().node) {
            let lag = lag_of(&context, peer.number).await;
            peers.insert(peer.number, (peer.name.to_string(), lag));
        }
        *context.lag.peers.write().expect(LOCK) = peers;
        tokio::select! {
            () = tokio::time::sleep(INTERVAL) => {}
            () = until_set(&mut ending) => return,
        }
    }
}

/// One member's queue now.
pub async fn lag_of(context: &NodeContext, peer: NodeNumber) -> PeerLag {
    let topology = context.topology.current();
    let held = context.durable.logs(|log| topology.is_member(peer, log.namespace));
    let held = held
        .into_iter()
        .map(|log| (log.row.log, log.row.first_m_id().previous(), log.durable.m_id));
    let queues = context.hub.queue(peer, held);
    let messages = queues.iter().map(QueuedLog::messages).sum();
    let now = context.clock.wall();
    let mut longest = queues.clone();
    longest.sort_by_key(|queue| std::cmp::Reverse(queue.messages()));
    let mut oldest = 0;
    for queue in longest.iter().take(MAX_LOGS_LOOKED_UP) {
        let accepted = accepted_at(context, queue.log, queue.acknowledged.next()).await;
        let age = accepted.map_or(0, |accepted| now.milliseconds_since(accepted));
        oldest = oldest.max(age);
    }
    PeerLag { queues, messages, oldest_milliseconds: oldest }
}

/// When a message was accepted, by its stamp.
async fn accepted_at(context: &NodeContext, log: LogName, m_id: MessageNumber) -> Option<WallTime> {
    let bytes = match context.durable.read_tail(&log, m_id, 1, 1) {
        Some(read) => read.sends.into_iter().next(),
        None => {
            let read = read_stored(&context.storage, log, m_id, m_id, 1).await.ok()?;
            read.into_iter().next().map(|message| message.bytes)
        }
    };
    let stamp = MessageHead::decode(&bytes?).ok()?.stamp;
    Some(stamp.wall())
}
