//! Facts on their way to an outbound link: per opening the newest mark of each
//! log. So no more wait for a link that is slow to take them than there are logs.

use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard};

use interlock_core::identity::{Incarnation, LogName, Mark, MemberOpening, NodeNumber};
use interlock_core::replication::frames::Fact;
use tokio::sync::Notify;

use super::RelayedFact;

const LOCK: &str = "no holder of a fact mailbox's lock panics";

/// See the module's page. One takes from it.
#[derive(Debug, Default)]
pub struct FactMailbox {
    state: Mutex<State>,
    changed: Notify,
}

#[derive(Debug, Default)]
struct State {
    pending: BTreeMap<(NodeNumber, Incarnation), (MemberOpening, BTreeMap<LogName, Mark>)>,
    awaited: bool,
    closed: bool,
}

impl FactMailbox {
    /// Adds a fact to what waits.
    pub fn put(&self, fact: Fact, awaited: bool) {
        let Fact { opening, marks } = fact;
        let mut state = self.lock();
        state.awaited |= awaited;
        let key = (opening.node, opening.incarnation);
        let (_, pending) = state.pending.entry(key).or_insert_with(|| (opening, BTreeMap::new()));
        for (log, mark) in marks {
            let newest = pending.entry(log).or_insert(mark);
            if newest.m_id < mark.m_id {
                *newest = mark;
            }
        }
        drop(state);
        self.changed.notify_one();
    }

    /// Nothing more comes.
    pub fn close(&self) {
        self.lock().closed = true;
        self.changed.notify_one();
    }

    /// Waits for the next fact; `None` once it is closed. Dropped before, it has
    /// taken nothing.
    pub async fn next(&self) -> Option<RelayedFact> {
        loop {
            {
                let mut state = self.lock();
                if state.closed {
                    return None;
                }
                if let Some((_, (opening, marks))) = state.pending.pop_first() {
                    let awaited = state.awaited;
                    state.awaited &= !state.pending.is_empty();
                    let fact = Fact { opening, marks: marks.into_iter().collect() };
                    return Some(RelayedFact { fact, awaited });
                }
            }
            self.changed.notified().await;
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().expect(LOCK)
    }
}

#[cfg(test)]
mod tests {
    use std::pin::pin;

    use futures_util::poll;
    use interlock_core::identity::{
        ChainHash, MessageNumber, NamespaceNumber, PathName, ShardNumber,
    };

    use super::*;

    fn opening(node: u32) -> MemberOpening {
        let incarnation = Incarnation::new(u64::from(node)).expect("not zero");
        MemberOpening { node: NodeNumber::new(node), incarnation, opened_from: None }
    }

    fn mark(namespace: u32, m_id: u64) -> (LogName, Mark) {
        let path = PathName {
            namespace: NamespaceNumber::new(namespace),
            shard: ShardNumber::new(0),
            origin: NodeNumber::new(1),
        };
        let log = path.log(Incarnation::new(1).expect("not zero"));
        (log, Mark { m_id: MessageNumber::new(m_id), hash: ChainHash::EMPTY })
    }

    #[tokio::test]
    async fn of_each_log_the_newest_mark_waits_and_no_other() {
        let mailbox = FactMailbox::default();
        for m_id in [1, 5, 3] {
            mailbox.put(Fact { opening: opening(2), marks: vec![mark(1, m_id)] }, m_id == 5);
        }
        mailbox.put(Fact { opening: opening(2), marks: vec![mark(2, 7)] }, false);
        mailbox.put(Fact { opening: opening(3), marks: vec![mark(1, 4)] }, false);
        let first = mailbox.next().await.expect("it is open");
        assert_eq!(first.fact.marks, [mark(1, 5), mark(2, 7)]);
        assert!(first.awaited);
        assert_eq!(mailbox.next().await.expect("it is open").fact.opening, opening(3));
        let mut next = pin!(mailbox.next());
        assert!(poll!(&mut next).is_pending());
        mailbox.put(Fact { opening: opening(3), marks: vec![mark(1, 6)] }, false);
        assert!(!next.await.expect("it is open").awaited);
        mailbox.close();
        assert!(mailbox.next().await.is_none());
    }
}
