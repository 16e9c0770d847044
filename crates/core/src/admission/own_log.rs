//! The log of this very opening: where each message that is accepted here gets
//! its number, its stamp and its place in the chain.

use super::{Admission, AppendEntry};
use crate::clock::{HybridTime, WallTime};
use crate::identity::{
    LogName, Mark, MessageName, NamespaceNumber, ParentPoint, PathName, ShardNumber,
};
use crate::limits::{MAX_MESSAGE_NUMBER, MAX_PARENTS};
use crate::message::Message;
use crate::replication::rows::Row;

/// The place of the next message of this opening's log, before it is taken.
pub(super) struct NextPlace {
    pub(super) name: MessageName,
    /// With the log's first message.
    row: Option<Row>,
    /// The chain hash before it.
    previous: Mark,
    /// What its stamp must be above.
    above: HybridTime,
}

impl Admission {
    /// The log that this opening writes in a namespace, whether or not it has a
    /// message yet.
    pub fn own_log(&self, namespace: NamespaceNumber) -> LogName {
        self.own_path(namespace).log(self.opening.incarnation)
    }

    fn own_path(&self, namespace: NamespaceNumber) -> PathName {
        PathName { namespace, shard: ShardNumber::new(0), origin: self.opening.node }
    }

    /// Whether a log is the one of this very opening.
    pub(super) fn is_own_log(&self, log: &LogName) -> bool {
        log.origin == self.opening.node && log.incarnation == self.opening.incarnation
    }

    /// The name, row and chain place that the next message of this opening gets;
    /// `None` when the numbers are used up. Changes nothing.
    ///
    /// The log begins with its first message, and its parents are fixed then: the
    /// tips of its own path that the node holds appended at that moment. A branch
    /// that comes later becomes a parent at the next opening.
    pub(super) fn next_place(&self, namespace: NamespaceNumber) -> Option<NextPlace> {
        let log = self.own_log(namespace);
        let place = match self.logs.get(&log) {
            Some(held) => NextPlace {
                name: MessageName { log, m_id: held.appended.m_id.next() },
                row: None,
                previous: held.appended,
                above: held.last_stamp,
            },
            None => self.first_place(log),
        };
        (place.name.m_id.get() <= MAX_MESSAGE_NUMBER).then_some(place)
    }

    #[cold]
    fn first_place(&self, log: LogName) -> NextPlace {
        let path = log.path();
        let row = Row { log, parents: closable(self.logs.tips_of_path(&path)) };
        let above = self
            .logs
            .path(&path)
            .map(|(_, held)| held.last_stamp)
            .max()
            .unwrap_or(HybridTime::ZERO);
        let m_id = row.first_m_id();
        let previous = Mark { m_id: m_id.previous(), hash: row.start_hash() };
        NextPlace { name: MessageName { log, m_id }, row: Some(row), previous, above }
    }

    /// Gives a message its stamp, number and parents, encodes it once and enters
    /// it as appended. From here on it exists.
    pub(super) fn append_own(
        &mut self,
        now: WallTime,
        place: NextPlace,
        message: &mut Message,
    ) -> AppendEntry {
        let NextPlace { name, row, previous, above } = place;
        message.m_id = name.m_id;
        message.stamp = self.stamp(now, above);
        message.parents.clear();
        if let Some(row) = &row {
            message.parents.extend_from_slice(&row.parents);
            self.logs.open(row.clone()).expect("parents are tips that are held, and few");
        }
        let bytes = message.encode_into(&mut self.encoding);
        let hash = previous.hash.then(&bytes);
        let mark = Mark { m_id: name.m_id, hash };
        self.logs.note_appended(&name.log, mark, message.stamp);
        AppendEntry { log: name.log, row, m_id: name.m_id, bytes, hash, stamp: message.stamp }
    }
}

/// As many branches as one log can close: the furthest. The others stay tips,
/// for the opening after this one.
fn closable(mut tips: Vec<ParentPoint>) -> Vec<ParentPoint> {
    if tips.len() > MAX_PARENTS {
        tips.sort_unstable_by_key(|tip| std::cmp::Reverse((tip.m_id, tip.incarnation)));
        tips.truncate(MAX_PARENTS);
        tips.sort_unstable_by_key(|tip| tip.incarnation);
    }
    tips
}
