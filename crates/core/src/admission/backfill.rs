//! Taking over what a ready member has: what a member whose database knows
//! nothing of a namespace waits for before it accepts anything there.

use std::collections::BTreeMap;

use crate::identity::{LogName, Mark, MessageNumber, NodeNumber};
use crate::replication::frames::LogOffer;
use crate::replication::log_table::LogTable;
use crate::replication::rows::Row;

/// A stream on which a ready member says what it has. Later streams of a member have
/// higher numbers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Telling {
    /// The member.
    pub member: NodeNumber,
    /// Its stream.
    pub stream: u64,
}

/// What a member has to hold before it is ready: all that one ready member
/// offered at the first contact, whichever of them that is first true of.
///
/// Whoever is ready and connected says what it has at the beginning of its
/// stream, once. So what each of them says is kept: should one be gone before it
/// has said all, another need not say it again. One that comes back may have lost
/// what it had said before, with its disk: what it says then takes the place of that.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Backfill {
    members: BTreeMap<NodeNumber, Said>,
}

/// What one ready member has said.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Said {
    /// On its newest stream.
    newest: WholeState,
    /// On the last stream before on which it said all, while it has not on the newest.
    before: Option<WholeState>,
}

/// The state of one ready member.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct WholeState {
    /// The stream on which it was said.
    stream: u64,
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
        self.members.iter().find(|(_, said)| said.whole().is_some()).map(|(member, _)| *member)
    }

    /// A ready member offers logs of the namespace. What it offers after it has
    /// said that this is all comes to a member that may be ready by then, and is
    /// no longer waited for.
    pub fn handle_offer(&mut self, from: Telling, offers: &[LogOffer]) {
        let Some(state) = self.newest(from).filter(|state| !state.offered) else { return };
        for offer in offers {
            let target = state.targets.entry(offer.log).or_default();
            *target = (*target).max(offer.tip);
            // A log that begins after its floor has lost nothing.
            state.trimmed |= offer.floor >= first_m_id(offer);
        }
    }

    /// A ready member has said all: what it has offered is all it has.
    pub fn handle_offered_all(&mut self, from: Telling) {
        let Some(state) = self.newest(from) else { return };
        state.offered = true;
        self.members.entry(from.member).or_default().before = None;
    }

    /// The base of what a member has trimmed has been merged and stored.
    pub fn handle_base(&mut self, from: Telling) {
        let Some(said) = self.members.get_mut(&from.member) else { return };
        let states = std::iter::once(&mut said.newest).chain(&mut said.before);
        states.filter(|state| state.stream == from.stream).for_each(|state| state.based = true);
    }

    /// Forgets what all have said: they are to say it again.
    pub fn begin_again(&mut self) {
        *self = Self::new();
    }

    /// What a member says on its newest stream, if this is it.
    fn newest(&mut self, from: Telling) -> Option<&mut WholeState> {
        let said = self.members.entry(from.member).or_default();
        if said.newest.stream < from.stream {
            let next = WholeState { stream: from.stream, ..WholeState::default() };
            let last = std::mem::replace(&mut said.newest, next);
            // What was not said to its end says nothing.
            said.before = Some(last).filter(|last| last.offered).or(said.before.take());
        }
        (said.newest.stream == from.stream).then_some(&mut said.newest)
    }

    /// Whether all that some ready member offered is held durably.
    pub fn is_complete(&self, logs: &LogTable) -> bool {
        self.members.values().filter_map(Said::whole).any(|state| state.is_taken_over(logs))
    }

    /// How far it is.
    pub fn progress(&self, logs: &LogTable) -> BackfillProgress {
        let source = self.source();
        let state = source.and_then(|source| self.members.get(&source)?.whole());
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

impl Said {
    /// All that it has, as it said last.
    fn whole(&self) -> Option<&WholeState> {
        if self.newest.offered { Some(&self.newest) } else { self.before.as_ref() }
    }
}

impl WholeState {
    fn is_taken_over(&self, logs: &LogTable) -> bool {
        (self.based || !self.trimmed)
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
    const FIRST: Telling = Telling { member: NodeNumber::new(2), stream: 1 };
    const SECOND: Telling = Telling { member: NodeNumber::new(3), stream: 2 };

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
        let (source, other) = (FIRST, SECOND);
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
        let progress = backfill.progress(&logs);
        assert_eq!((progress.source, progress.logs), (Some(source.member), 2));
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
        let (source, other) = (FIRST, SECOND);
        let logs = LogTable::new();
        let mut backfill = Backfill::new();
        backfill.handle_offer(source, &[offer(1, 3, 0)]);
        assert_eq!(backfill.source(), None, "it has not said all it has");
        // A ready member that has nothing is a whole state too.
        backfill.handle_offered_all(other);
        assert!(backfill.is_complete(&logs));
    }

    #[test]
    fn what_the_source_has_trimmed_comes_as_its_base() {
        let source = FIRST;
        let mut logs = LogTable::new();
        let mut backfill = Backfill::new();
        backfill.handle_offer(source, &[offer(1, 3, 2)]);
        backfill.handle_offered_all(source);
        hold(&mut logs, 1, 3);
        logs.note_durable(&row(1).log, mark(3));
        assert!(!backfill.is_complete(&logs));
        backfill.handle_base(SECOND);
        backfill.handle_base(Telling { stream: 0, ..source });
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
        backfill.handle_offered_all(SECOND);
        assert!(!backfill.is_complete(&LogTable::new()));
        assert_eq!(backfill.source(), Some(SECOND.member));
        assert!(backfill.is_complete(&holding(4)));
    }

    #[test]
    fn a_member_that_has_said_all_may_go() {
        let mut backfill = Backfill::new();
        backfill.handle_offer(FIRST, &[offer(1, 5, 0)]);
        backfill.handle_offered_all(FIRST);
        // It is back, and has not said all again.
        backfill.handle_offer(Telling { stream: 7, ..FIRST }, &[offer(1, 1, 0)]);
        assert!(!backfill.is_complete(&holding(4)));
        assert!(backfill.is_complete(&holding(5)));
    }

    /// Found by the simulation: the only other member came back with an older disk, and
    /// what it had said before was nowhere any more. It was waited for for ever.
    #[test]
    fn what_a_member_says_when_it_is_back_takes_the_place_of_what_it_said_before() {
        let mut backfill = Backfill::new();
        backfill.handle_offer(FIRST, &[offer(1, 5, 0)]);
        backfill.handle_offered_all(FIRST);
        let back = Telling { stream: 7, ..FIRST };
        backfill.handle_offer(back, &[offer(1, 3, 2)]);
        backfill.handle_offered_all(back);
        // Late words of the stream before.
        backfill.handle_offer(FIRST, &[offer(1, 5, 0)]);
        backfill.handle_offered_all(FIRST);
        backfill.handle_base(FIRST);
        assert!(!backfill.is_complete(&holding(5)), "its base is another now");
        backfill.handle_base(back);
        assert!(backfill.is_complete(&holding(3)));
    }

    /// A stream that broke off says nothing, and takes nothing away.
    #[test]
    fn what_was_not_said_to_its_end_counts_for_nothing() {
        let mut backfill = Backfill::new();
        let again = |stream| Telling { stream, ..FIRST };
        backfill.handle_offer(again(1), &[offer(1, 5, 0)]);
        backfill.handle_offer(again(2), &[offer(1, 4, 0)]);
        backfill.handle_offered_all(again(2));
        backfill.handle_offer(again(3), &[offer(1, 6, 0)]);
        assert!(backfill.is_complete(&holding(4)));
        backfill.handle_offer(again(4), &[]);
        assert!(backfill.is_complete(&holding(4)));
        backfill.handle_offered_all(again(4));
        assert!(backfill.is_complete(&LogTable::new()), "it has nothing any more");
    }
}
