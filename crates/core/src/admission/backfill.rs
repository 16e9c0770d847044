//! Taking over what a ready member has: what a member whose database knows
//! nothing of a namespace waits for before it accepts anything there.

use std::collections::BTreeMap;

use crate::identity::{LogName, Mark, MessageNumber, NodeNumber};
use crate::replication::frames::LogOffer;
use crate::replication::log_table::LogTable;
use crate::replication::rows::Row;

/// What a member has to hold before it is ready: all that one ready member
/// offered at the first contact, whichever of them that is first true of.
///
/// Whoever is ready and connected says what it has at the beginning of its
/// stream, once. So what each of them says is kept: should one be gone before it
/// has said all, another need not say it again.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Backfill {
    offers: BTreeMap<NodeNumber, WholeState>,
}

/// The state of one ready member.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct WholeState {
    targets: BTreeMap<LogName, Mark>,
    /// It has offered all it has.
    offered: bool,
    /// It has trimmed something, so its base is needed too.
    trimmed: bool,
    /// Its base has been merged and stored.
    based: bool,
}

/// How far a backfill is, for people.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct BackfillProgress {
    /// The ready member that it follows; none has been met yet if absent.
    pub source: Option<NodeNumber>,
    /// Logs to hold.
    pub logs: usize,
    /// Logs that are not yet held up to what was offered.
    pub logs_open: usize,
    /// Messages that are missing.
    pub messages_open: u64,
}

impl Backfill {
    /// A backfill that has met nobody yet.
    pub fn new() -> Self {
        Self::default()
    }

    /// The member whose state is nearest to being taken over: of those that have
    /// said all they have, the first. None has if absent.
    pub fn source(&self) -> Option<NodeNumber> {
        self.offers.iter().find(|(_, state)| state.offered).map(|(member, _)| *member)
    }

    /// A ready member offers logs of the namespace. What it offers after it has
    /// said that this is all comes to a member that may be ready by then, and is
    /// no longer waited for.
    pub fn handle_offer(&mut self, from: NodeNumber, offers: &[LogOffer]) {
        let state = self.offers.entry(from).or_default();
        if state.offered {
            return;
        }
        for offer in offers {
            let target = state.targets.entry(offer.log).or_default();
            *target = (*target).max(offer.tip);
            // A log that begins after its floor has lost nothing.
            state.trimmed |= offer.floor >= first_m_id(offer);
        }
    }

    /// A ready member has said all: what it has offered is all it has.
    pub fn handle_offered_all(&mut self, from: NodeNumber) {
        self.offers.entry(from).or_default().offered = true;
    }

    /// The base of what a member has trimmed has been merged and stored.
    pub fn handle_base(&mut self, from: NodeNumber) {
        if let Some(state) = self.offers.get_mut(&from) {
            state.based = true;
        }
    }

    /// A member is gone. If it had not yet said all it has, nothing is known of
    /// it; else what it offered still counts, whoever serves it.
    pub fn handle_lost(&mut self, member: NodeNumber) {
        if self.offers.get(&member).is_some_and(|state| !state.offered) {
            self.offers.remove(&member);
        }
    }

    /// Forgets what all have said: they are to say it again.
    pub fn begin_again(&mut self) {
        *self = Self::new();
    }

    /// Whether all that some ready member offered is held durably.
    pub fn is_complete(&self, logs: &LogTable) -> bool {
        self.offers.values().any(|state| state.is_taken_over(logs))
    }

    /// How far it is.
    pub fn progress(&self, logs: &LogTable) -> BackfillProgress {
        let source = self.source();
        let state = source.and_then(|source| self.offers.get(&source));
        let targets = state.into_iter().flat_map(|state| &state.targets);
        let missing: Vec<u64> = targets.map(|(log, target)| open(logs, log, *target)).collect();
        BackfillProgress {
            source,
            logs: missing.len(),
            logs_open: missing.iter().filter(|messages| **messages != 0).count(),
            messages_open: missing.iter().sum(),
        }
    }
}

impl WholeState {
    fn is_taken_over(&self, logs: &LogTable) -> bool {
        self.offered
            && (self.based || !self.trimmed)
            && self.targets.iter().all(|(log, target)| open(logs, log, *target) == 0)
    }
}

fn first_m_id(offer: &LogOffer) -> MessageNumber {
    Row { log: offer.log, parents: offer.parents.clone() }.first_m_id()
}

/// How many messages of a target are not held durably.
fn open(logs: &LogTable, log: &LogName, target: Mark) -> u64 {
    let durable = logs.get(log).map_or(MessageNumber::ZERO, |held| held.durable.m_id);
    target.m_id.since(durable)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock::HybridTime;
    use crate::identity::{ChainHash, Incarnation, NamespaceNumber, PathName, ShardNumber};

    const NAMESPACE: NamespaceNumber = NamespaceNumber::new(4);
    const FIRST: NodeNumber = NodeNumber::new(2);
    const SECOND: NodeNumber = NodeNumber::new(3);

    fn row(origin: u32) -> Row {
        let path = PathName {
            namespace: NAMESPACE,
            shard: ShardNumber::new(0),
            origin: NodeNumber::new(origin),
        };
        let incarnation = Incarnation::new(u64::from(origin)).expect("not zero");
        Row { log: path.log(incarnation), parents: Vec::new() }
    }

    fn mark(m_id: u64) -> Mark {
        Mark { m_id: MessageNumber::new(m_id), hash: ChainHash::EMPTY.then(&m_id.to_be_bytes()) }
    }

    fn offer(origin: u32, tip: u64, floor: u64) -> LogOffer {
        let Row { log, parents } = row(origin);
        LogOffer { log, parents, tip: mark(tip), floor: MessageNumber::new(floor) }
    }

    fn hold(logs: &mut LogTable, origin: u32, through: u64) {
        let row = row(origin);
        let log = row.log;
        logs.open(row).expect("no conflict");
        let held = logs.get(&log).expect("opened").appended.m_id.get();
        for m_id in held + 1..=through {
            logs.note_appended(&log, mark(m_id), HybridTime::ZERO);
        }
    }

    /// A member that holds the log of origin 1 so far.
    fn holding(m_id: u64) -> LogTable {
        let mut logs = LogTable::new();
        logs.insert_recovered(row(1), mark(m_id), Mark::default(), HybridTime::ZERO)
            .expect("the first row");
        logs
    }

    #[test]
    fn a_backfill_ends_when_all_that_was_offered_is_durable() {
        let (source, other) = (NodeNumber::new(1), NodeNumber::new(2));
        let mut logs = LogTable::new();
        let mut backfill = Backfill::new();
        assert!(!backfill.is_complete(&logs), "nobody was met");
        backfill.handle_offer(source, &[offer(1, 3, 0)]);
        backfill.handle_offer(other, &[offer(5, 9, 0)]);
        backfill.handle_offered_all(other);
        backfill.handle_offer(source, &[offer(2, 2, 0), offer(1, 4, 0)]);
        hold(&mut logs, 1, 4);
        hold(&mut logs, 2, 2);
        logs.note_durable(&row(1).log, mark(4));
        logs.note_durable(&row(2).log, mark(2));
        assert!(!backfill.is_complete(&logs), "the source has not said that this is all");

        let mut logs = LogTable::new();
        backfill.handle_offered_all(source);
        backfill.handle_offer(source, &[offer(1, 99, 0)]);
        backfill.handle_lost(source);
        let progress = backfill.progress(&logs);
        assert_eq!((progress.source, progress.logs), (Some(source), 2));
        assert_eq!((progress.logs_open, progress.messages_open), (2, 6));
        hold(&mut logs, 1, 4);
        hold(&mut logs, 2, 2);
        logs.note_durable(&row(1).log, mark(4));
        assert!(!backfill.is_complete(&logs), "visible is not durable");
        logs.note_durable(&row(2).log, mark(2));
        assert!(backfill.is_complete(&logs));
    }

    #[test]
    fn a_source_that_is_lost_before_it_said_all_is_replaced() {
        let (source, other) = (NodeNumber::new(1), NodeNumber::new(2));
        let logs = LogTable::new();
        let mut backfill = Backfill::new();
        backfill.handle_offer(source, &[offer(1, 3, 0)]);
        backfill.handle_lost(other);
        assert_ne!(backfill, Backfill::new(), "another's loss takes nothing away");
        assert_eq!(backfill.source(), None, "it has not said all it has");
        backfill.handle_lost(source);
        assert_eq!(backfill, Backfill::new());
        // A ready member that has nothing is a whole state too.
        backfill.handle_offered_all(other);
        assert!(backfill.is_complete(&logs));
    }

    #[test]
    fn what_the_source_has_trimmed_comes_as_its_base() {
        let source = NodeNumber::new(1);
        let mut logs = LogTable::new();
        let mut backfill = Backfill::new();
        backfill.handle_offer(source, &[offer(1, 3, 2)]);
        backfill.handle_offered_all(source);
        hold(&mut logs, 1, 3);
        logs.note_durable(&row(1).log, mark(3));
        assert!(!backfill.is_complete(&logs));
        backfill.handle_base(NodeNumber::new(9));
        assert!(!backfill.is_complete(&logs));
        backfill.handle_base(source);
        assert!(backfill.is_complete(&logs));
        backfill.begin_again();
        assert_eq!(backfill, Backfill::new());
    }

    #[test]
    fn is_complete_with_all_that_one_member_said() {
        let mut backfill = Backfill::new();
        backfill.handle_offer(FIRST, &[offer(1, 5, 0)]);
        assert!(!backfill.is_complete(&holding(5)), "there may be more");
        backfill.handle_offered_all(FIRST);
        assert!(!backfill.is_complete(&LogTable::new()));
        assert!(!backfill.is_complete(&holding(4)));
        assert!(backfill.is_complete(&holding(5)));
        // What comes later is no longer waited for.
        backfill.handle_offer(FIRST, &[offer(1, 9, 0)]);
        assert!(backfill.is_complete(&holding(5)));
        assert_eq!(backfill.progress(&holding(2)).messages_open, 3);
    }

    /// Found by the simulation: the member that was followed broke off before it
    /// had said all, and the other one, whose offers had come meanwhile, said
    /// that this was all. Nothing was waited for, and the member was ready with
    /// nothing.
    #[test]
    fn what_a_second_member_offered_is_not_forgotten_with_the_first() {
        let mut backfill = Backfill::new();
        backfill.handle_offer(FIRST, &[offer(1, 5, 0)]);
        backfill.handle_offer(SECOND, &[offer(1, 4, 0)]);
        backfill.handle_lost(FIRST);
        backfill.handle_offered_all(SECOND);
        assert!(!backfill.is_complete(&LogTable::new()));
        assert_eq!(backfill.source(), Some(SECOND));
        assert!(backfill.is_complete(&holding(4)));
    }

    #[test]
    fn a_member_that_has_said_all_may_go() {
        let mut backfill = Backfill::new();
        backfill.handle_offer(FIRST, &[offer(1, 5, 0)]);
        backfill.handle_offered_all(FIRST);
        backfill.handle_lost(FIRST);
        assert!(!backfill.is_complete(&holding(4)));
        assert!(backfill.is_complete(&holding(5)));
    }
}
