//! Which of the marks that others name of this very opening's logs are worth a
//! comparison with what was written here.
//!
//! A process resumed from a copy of its memory repeats numbers, and only those
//! who hold more or other bytes can tell. Every mark they name is looked at:
//! beyond what is durable here nobody can have anything, and the chain hash of a
//! mark covers all before it. Comparing a hash reads the disk, and marks come
//! with each acknowledgement; so hashes are compared at the first mark of a log
//! and then once a second.

use std::collections::BTreeMap;

use crate::clock::Moment;
use crate::identity::{LogName, Mark, MemberOpening, MessageNumber};
use crate::replication::timing::OWN_LOG_COMPARISON_INTERVAL;

/// What to do about marks that somebody named.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct NamedMarks {
    /// To be compared with what is held.
    pub to_examine: Vec<(LogName, Mark)>,
    /// One of them is beyond what is durable here: nothing that was named with it
    /// may be counted.
    pub is_beyond: bool,
}

/// Watches the marks that come by one stream. See the module's documentation.
#[derive(Clone, Debug)]
pub struct OwnLogWatch {
    me: MemberOpening,
    compared_at: BTreeMap<LogName, Moment>,
}

impl OwnLogWatch {
    /// Nothing was named yet.
    pub const fn new(me: MemberOpening) -> Self {
        Self { me, compared_at: BTreeMap::new() }
    }

    /// Takes marks as named; `durable` tells how far a log is durable here.
    pub fn named<'a>(
        &mut self,
        now: Moment,
        marks: impl IntoIterator<Item = &'a (LogName, Mark)>,
        durable: impl Fn(&LogName) -> MessageNumber,
    ) -> NamedMarks {
        let mut named = NamedMarks::default();
        for (log, mark) in marks {
            if log.origin != self.me.node || log.incarnation != self.me.incarnation {
                continue;
            }
            let is_beyond = mark.m_id > durable(log);
            let compared_at = self.compared_at.get(log);
            let is_due =
                compared_at.is_none_or(|before| now.since(*before) >= OWN_LOG_COMPARISON_INTERVAL);
            if is_beyond || is_due {
                self.compared_at.insert(*log, now);
                named.to_examine.push((*log, *mark));
            }
            named.is_beyond |= is_beyond;
        }
        named
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::identity::{
        ChainHash, Incarnation, NamespaceNumber, NodeNumber, PathName, ShardNumber,
    };

    fn incarnation(bits: u64) -> Incarnation {
        Incarnation::new(bits).expect("not zero")
    }

    fn mark(origin: u32, bits: u64, m_id: u64) -> (LogName, Mark) {
        let path = PathName {
            namespace: NamespaceNumber::new(1),
            shard: ShardNumber::new(0),
            origin: NodeNumber::new(origin),
        };
        let mark = Mark { m_id: MessageNumber::new(m_id), hash: ChainHash::EMPTY };
        (path.log(incarnation(bits)), mark)
    }

    #[test]
    fn the_first_mark_is_compared_and_then_one_a_second() {
        let me = MemberOpening {
            node: NodeNumber::new(4),
            incarnation: incarnation(7),
            opened_from: None,
        };
        let mut watch = OwnLogWatch::new(me);
        let durable = |_: &LogName| MessageNumber::new(50);
        let mut named = |milliseconds, marks: &[(LogName, Mark)]| {
            watch.named(Moment::new(Duration::from_millis(milliseconds)), marks, durable)
        };
        let others = [mark(4, 6, 99), mark(5, 7, 99)];
        assert_eq!(named(0, &others), NamedMarks::default(), "logs of others, or of before");

        let first = named(10, &[mark(4, 7, 3), mark(5, 7, 9)]);
        let expected = NamedMarks { to_examine: vec![mark(4, 7, 3)], is_beyond: false };
        assert_eq!(first, expected);
        assert_eq!(named(500, &[mark(4, 7, 20)]), NamedMarks::default());
        let later = named(1010, &[mark(4, 7, 40)]);
        assert_eq!(later.to_examine, [mark(4, 7, 40)]);
        // A member that had more is heard of at last.
        let beyond = named(1020, &[mark(4, 7, 50), mark(4, 7, 51)]);
        let expected = NamedMarks { to_examine: vec![mark(4, 7, 51)], is_beyond: true };
        assert_eq!(beyond, expected);
    }
}
