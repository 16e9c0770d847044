//! Who holds what: the acknowledged facts of all members (METHOD M6, M9). A
//! peer's durable queue is what lies between its mark here and our tip.
//!
//! Facts belong to (member, incarnation). An opening stays counted until it is
//! known to be over: a fact says which one it was opened from and retires that
//! one, and a welcome, which is first-hand, retires all others of its sender that
//! were known here before it was asked for. It does not say anything about those
//! that were heard of since: it may have been under way for long.
//! What is retired stays retired, so that a late acknowledgement from before a
//! restore cannot let anyone trim what the member no longer has. Only a welcome
//! takes it back, of an opening that was retired before it was asked for: it
//! lives, so there are two processes of one name, and what counts is the one that
//! answers. Whoever counts, counts the lowest mark among the openings that are
//! not retired.
//!
//! While the stream is there on which a member welcomed us, the opening that did
//! is counted alone. Others can still pass on facts of an opening before it that
//! nobody here had heard of, and so could not retire: it would keep the member's
//! queue from ever becoming empty. Should it be a later one, our stream is about
//! to end, and until it does we know as much as if nobody had told us.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use crate::identity::{Incarnation, LogName, Mark, MemberOpening, MessageNumber, NodeNumber};
use crate::limits::{MAX_OPENINGS_PER_MEMBER, MAX_RETIRED_OPENINGS_PER_MEMBER};
use crate::replication::frames::Fact;

/// What recording a fact did.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Recorded {
    /// What is counted for the member may have changed: these marks of the fact
    /// are news.
    News(Vec<(LogName, Mark)>),
    /// Known already.
    Known,
    /// The opening is over: dropped.
    Retired,
    /// More openings than are kept: dropped, and the member counts as holding
    /// nothing.
    TooManyOpenings,
}

/// One log in a peer's queue.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct QueuedLog {
    /// The log.
    pub log: LogName,
    /// The last message the peer holds, or the one before the log's first.
    pub acknowledged: MessageNumber,
    /// The last message we hold.
    pub tip: MessageNumber,
}

impl QueuedLog {
    /// How many messages the peer has still to get.
    pub const fn messages(&self) -> u64 {
        self.tip.since(self.acknowledged)
    }
}

/// All that is known of one member, as a checkpoint stores it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MemberRecord {
    /// The member.
    pub node: NodeNumber,
    /// What its openings hold that are not known to be over.
    pub facts: Vec<Fact>,
    /// Its openings that are, in the order in which that was learned.
    pub retired: Vec<Incarnation>,
    /// It has more openings than are kept: it counts as holding nothing.
    pub too_many_openings: bool,
}

#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Opening {
    opened_from: Option<Incarnation>,
    marks: BTreeMap<LogName, Mark>,
}

#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct MemberFacts {
    openings: BTreeMap<Incarnation, Opening>,
    retired: BTreeSet<Incarnation>,
    /// In the order of retirement, so that the oldest is forgotten first.
    retirements: VecDeque<Incarnation>,
    /// The openings known when the present stream began.
    known_before: BTreeSet<Incarnation>,
    /// The openings retired since then: a welcome of one of them may be older
    /// than what retired it.
    retired_since: BTreeSet<Incarnation>,
    /// The opening that welcomed us on the stream that is there.
    connected: Option<Incarnation>,
    too_many_openings: bool,
}

impl MemberFacts {
    fn retire(&mut self, incarnation: Incarnation) {
        self.openings.remove(&incarnation);
        if self.retired.insert(incarnation) {
            self.retirements.push_back(incarnation);
            self.retired_since.insert(incarnation);
        }
        while self.retirements.len() > MAX_RETIRED_OPENINGS_PER_MEMBER {
            if let Some(oldest) = self.retirements.pop_front() {
                self.retired.remove(&oldest);
                self.retired_since.remove(&oldest);
            }
        }
    }

    /// A retired opening that has answered us lives.
    fn take_back(&mut self, incarnation: Incarnation) {
        if self.retired.remove(&incarnation) {
            self.retirements.retain(|retired| *retired != incarnation);
        }
    }

    fn facts(&self, node: NodeNumber) -> impl Iterator<Item = Fact> + '_ {
        self.openings.iter().map(move |(incarnation, opening)| Fact {
            opening: MemberOpening {
                node,
                incarnation: *incarnation,
                opened_from: opening.opened_from,
            },
            marks: opening.marks.iter().map(|(log, mark)| (*log, *mark)).collect(),
        })
    }

    fn mark_of(&self, log: &LogName) -> Option<Mark> {
        if let Some(connected) = self.connected.and_then(|opening| self.openings.get(&opening)) {
            return connected.marks.get(log).copied();
        }
        if self.too_many_openings {
            return None;
        }
        let mut lowest: Option<Mark> = None;
        for opening in self.openings.values() {
            let mark = *opening.marks.get(log)?;
            if lowest.is_none_or(|held| mark.m_id < held.m_id) {
                lowest = Some(mark);
            }
        }
        lowest
    }
}

/// The facts of all members. See the module's documentation.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Acknowledgements {
    members: BTreeMap<NodeNumber, MemberFacts>,
}

impl Acknowledgements {
    /// Nobody holds anything.
    pub fn new() -> Self {
        Self::default()
    }

    /// Takes a fact. `first_hand` only for what a `Welcome` states, on the stream
    /// whose beginning and end are told with
    /// [`handle_connecting`](Self::handle_connecting) and
    /// [`handle_disconnected`](Self::handle_disconnected): an acknowledgement on
    /// an older stream may come after the welcome of a newer one.
    pub fn record(&mut self, fact: &Fact, first_hand: bool) -> Recorded {
        let MemberOpening { node, incarnation, opened_from } = fact.opening;
        let member = self.members.entry(node).or_default();
        if first_hand && !member.retired_since.contains(&incarnation) {
            member.take_back(incarnation);
        }
        if member.retired.contains(&incarnation) {
            return Recorded::Retired;
        }
        let mut is_news = false;
        if first_hand {
            let mut others = std::mem::take(&mut member.known_before);
            others.retain(|other| *other != incarnation && member.openings.contains_key(other));
            is_news |= !others.is_empty() || member.too_many_openings;
            others.into_iter().for_each(|other| member.retire(other));
            member.connected = Some(incarnation);
            member.too_many_openings = false;
        }
        if let Some(former) = opened_from.filter(|former| *former != incarnation)
            && !member.retired.contains(&former)
        {
            is_news |= member.openings.contains_key(&former);
            member.retire(former);
        }
        if member.openings.len() >= MAX_OPENINGS_PER_MEMBER
            && !member.openings.contains_key(&incarnation)
        {
            member.too_many_openings = true;
            return Recorded::TooManyOpenings;
        }
        let opening = member.openings.entry(incarnation).or_insert_with(|| {
            is_news = true;
            Opening { opened_from, marks: BTreeMap::new() }
        });
        let mut news = Vec::new();
        for (log, mark) in &fact.marks {
            let held = opening.marks.get(log);
            if held.is_none_or(|held| held.m_id < mark.m_id) {
                opening.marks.insert(*log, *mark);
                news.push((*log, *mark));
            }
        }
        if is_news || !news.is_empty() { Recorded::News(news) } else { Recorded::Known }
    }

    /// A stream to a member begins. Told before its greeting is sent: what the
    /// answer to that is from was alive after every opening that is known now.
    pub fn handle_connecting(&mut self, node: NodeNumber) {
        let member = self.members.entry(node).or_default();
        member.connected = None;
        member.known_before = member.openings.keys().copied().collect();
        member.retired_since.clear();
    }

    /// The stream is over on which a member welcomed us. From now on any other
    /// opening that we are told of may be a later one.
    pub fn handle_disconnected(&mut self, node: NodeNumber) {
        if let Some(member) = self.members.get_mut(&node) {
            member.connected = None;
        }
    }

    /// How far a member surely holds a log durably: the mark of the opening that
    /// we are connected to, else the lowest among those that are not retired.
    /// `None` when one of them has told none.
    pub fn mark_of(&self, node: NodeNumber, log: &LogName) -> Option<Mark> {
        self.members.get(&node)?.mark_of(log)
    }

    /// The members that surely hold a message durably.
    pub fn holders(&self, log: &LogName, m_id: MessageNumber) -> BTreeSet<NodeNumber> {
        let holds =
            |member: &MemberFacts| member.mark_of(log).is_some_and(|held| held.m_id >= m_id);
        self.members.iter().filter(|(_, member)| holds(member)).map(|(node, _)| *node).collect()
    }

    /// How far all of these members surely hold a log: what may be trimmed.
    pub fn held_by_all(
        &self,
        log: &LogName,
        members: impl IntoIterator<Item = NodeNumber>,
    ) -> Option<MessageNumber> {
        let marks = members
            .into_iter()
            .map(|node| self.mark_of(node, log).map_or(MessageNumber::ZERO, |mark| mark.m_id));
        marks.min()
    }

    /// A member's queue (METHOD M6): of the logs held here, given as log, the
    /// number before its first message, and durable tip, those that the member
    /// has not acknowledged to the end.
    pub fn queue(
        &self,
        node: NodeNumber,
        held: impl IntoIterator<Item = (LogName, MessageNumber, MessageNumber)>,
    ) -> Vec<QueuedLog> {
        held.into_iter()
            .filter_map(|(log, start, tip)| {
                let mark = self.mark_of(node, &log).map_or(start, |mark| mark.m_id.max(start));
                (mark < tip).then_some(QueuedLog { log, acknowledged: mark, tip })
            })
            .collect()
    }

    /// A member was removed for good.
    pub fn forget(&mut self, node: NodeNumber) {
        self.members.remove(&node);
    }

    /// All facts as they were told, for a peer that has just connected.
    pub fn facts(&self) -> Vec<Fact> {
        self.members.iter().flat_map(|(node, member)| member.facts(*node)).collect()
    }

    /// What a checkpoint stores.
    pub fn to_checkpoint(&self) -> Vec<MemberRecord> {
        let record = |(node, member): (&NodeNumber, &MemberFacts)| MemberRecord {
            node: *node,
            facts: member.facts(*node).collect(),
            retired: member.retirements.iter().copied().collect(),
            too_many_openings: member.too_many_openings,
        };
        let records = self.members.iter().map(record);
        records
            .filter(|member| {
                !member.facts.is_empty() || !member.retired.is_empty() || member.too_many_openings
            })
            .collect()
    }

    /// From what a checkpoint stored.
    pub fn from_checkpoint(records: &[MemberRecord]) -> Self {
        let mut restored = Self::new();
        for record in records {
            let member = restored.members.entry(record.node).or_default();
            record.retired.iter().for_each(|retired| member.retire(*retired));
            member.too_many_openings = record.too_many_openings;
            for fact in &record.facts {
                restored.record(fact, false);
            }
        }
        restored
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::identity::{ChainHash, NamespaceNumber, PathName, ShardNumber};

    const MEMBER: NodeNumber = NodeNumber::new(2);

    fn incarnation(bits: u64) -> Incarnation {
        Incarnation::new(bits).expect("not zero")
    }

    fn log(origin: u32) -> LogName {
        PathName {
            namespace: NamespaceNumber::new(1),
            shard: ShardNumber::new(0),
            origin: NodeNumber::new(origin),
        }
        .log(incarnation(1))
    }

    fn fact(opening: u64, from: u64, marks: &[(LogName, u64)]) -> Fact {
        Fact {
            opening: MemberOpening {
                node: MEMBER,
                incarnation: incarnation(opening),
                opened_from: Incarnation::new(from),
            },
            marks: marks.iter().map(|(log, m_id)| (*log, mark(*m_id))).collect(),
        }
    }

    fn mark(m_id: u64) -> Mark {
        Mark { m_id: MessageNumber::new(m_id), hash: ChainHash::EMPTY }
    }

    /// A new stream to the member, and its answer to the greeting.
    fn welcome(facts: &mut Acknowledgements, fact: &Fact) -> Recorded {
        facts.handle_connecting(fact.opening.node);
        facts.record(fact, true)
    }

    fn held(facts: &Acknowledgements) -> Option<u64> {
        facts.mark_of(MEMBER, &log(1)).map(|mark| mark.m_id.get())
    }

    /// METHOD M9: a mark only rises within one opening.
    #[test]
    fn facts_are_cumulative() {
        let mut facts = Acknowledgements::new();
        facts.record(&fact(10, 0, &[(log(1), 5)]), false);
        assert_eq!(facts.record(&fact(10, 0, &[(log(1), 3)]), false), Recorded::Known);
        assert_eq!(held(&facts), Some(5));
        facts.record(&fact(10, 0, &[(log(1), 8), (log(3), 1)]), false);
        assert_eq!(held(&facts), Some(8));
    }

    /// The counterexample to facts without incarnations: the disk is restored from an old copy,
    /// and an acknowledgement from before comes late.
    #[test]
    fn a_late_acknowledgement_from_before_a_restore_is_dropped() {
        let mut facts = Acknowledgements::new();
        facts.record(&fact(10, 0, &[(log(1), 100)]), false);
        // The copy was of incarnation 9; its opening is welcomed first-hand.
        welcome(&mut facts, &fact(11, 9, &[(log(1), 40)]));
        assert_eq!(held(&facts), Some(40));
        assert_eq!(facts.record(&fact(10, 0, &[(log(1), 120)]), false), Recorded::Retired);
        assert_eq!(facts.record(&fact(9, 0, &[(log(1), 90)]), false), Recorded::Retired);
        assert_eq!(held(&facts), Some(40));
        assert_eq!(facts.holders(&log(1), MessageNumber::new(41)), BTreeSet::new());
    }

    #[test]
    fn the_lowest_opening_that_is_not_retired_counts() {
        let mut facts = Acknowledgements::new();
        facts.record(&fact(10, 0, &[(log(1), 100)]), false);
        // Told by another: opened from 9, so nothing says that 10 is over.
        facts.record(&fact(11, 9, &[(log(1), 40)]), false);
        assert_eq!(held(&facts), Some(40));
        facts.record(&fact(11, 9, &[(log(1), 150)]), false);
        assert_eq!(held(&facts), Some(100));
        // One that tells nothing of the log may hold nothing of it.
        facts.record(&fact(12, 0, &[]), false);
        assert_eq!(held(&facts), None);
    }

    /// Found by the simulation: a member's disk was wiped while we were away, we
    /// were welcomed by its new opening, and only then somebody who had not met
    /// that one yet passed on facts of the old one. Nothing would ever have
    /// retired it here.
    #[test]
    fn an_opening_heard_of_after_the_welcome_does_not_hold_the_queue_up() {
        let mut facts = Acknowledgements::new();
        welcome(&mut facts, &fact(11, 0, &[(log(1), 40)]));
        facts.record(&fact(10, 0, &[(log(1), 7)]), false);
        assert_eq!(held(&facts), Some(40));
        facts.record(&fact(11, 0, &[(log(1), 41)]), false);
        let tips = [(log(1), MessageNumber::ZERO, MessageNumber::new(41))];
        assert_eq!(facts.queue(MEMBER, tips), []);
        // Without the stream it may be a later one, of a disk that was restored.
        facts.handle_disconnected(MEMBER);
        assert_eq!(held(&facts), Some(7));
        welcome(&mut facts, &fact(11, 0, &[(log(1), 41)]));
        assert_eq!(held(&facts), Some(41));
        assert_eq!(facts.record(&fact(10, 0, &[(log(1), 99)]), false), Recorded::Retired);
    }

    /// Found by the simulation: a welcome was held up in the network until the
    /// member had lost its disk and come back, and others had told us of that.
    #[test]
    fn a_late_welcome_does_not_retire_what_was_heard_of_since() {
        let mut facts = Acknowledgements::new();
        facts.handle_connecting(MEMBER);
        facts.record(&fact(11, 0, &[(log(1), 3)]), false);
        facts.record(&fact(10, 9, &[(log(1), 100)]), true);
        facts.handle_disconnected(MEMBER);
        assert_eq!(held(&facts), Some(3));
        welcome(&mut facts, &fact(11, 0, &[(log(1), 5)]));
        assert_eq!(held(&facts), Some(5));
        assert_eq!(facts.record(&fact(10, 9, &[(log(1), 120)]), false), Recorded::Retired);
    }

    /// The other order of events: what we were told of is the later opening.
    #[test]
    fn a_later_opening_is_counted_as_soon_as_the_stream_to_the_former_ends() {
        let mut facts = Acknowledgements::new();
        welcome(&mut facts, &fact(10, 0, &[(log(1), 100)]));
        facts.record(&fact(11, 9, &[(log(1), 40)]), false);
        facts.handle_disconnected(MEMBER);
        assert_eq!(held(&facts), Some(40));
        welcome(&mut facts, &fact(11, 9, &[(log(1), 40)]));
        assert_eq!(facts.record(&fact(10, 0, &[(log(1), 120)]), false), Recorded::Retired);
        assert_eq!(held(&facts), Some(40));
    }

    #[test]
    fn an_ordinary_restart_retires_what_it_was_opened_from() {
        let mut facts = Acknowledgements::new();
        facts.record(&fact(10, 0, &[(log(1), 100)]), false);
        facts.record(&fact(11, 10, &[(log(1), 90)]), false);
        assert_eq!(held(&facts), Some(90));
        facts.record(&fact(11, 10, &[(log(1), 130)]), false);
        assert_eq!(held(&facts), Some(130));
    }

    /// The retirement is known even when the opening itself was never heard of.
    #[test]
    fn an_opening_is_retired_before_its_first_fact() {
        let mut facts = Acknowledgements::new();
        facts.record(&fact(11, 10, &[(log(1), 90)]), false);
        assert_eq!(facts.record(&fact(10, 0, &[(log(1), 95)]), false), Recorded::Retired);
        assert_eq!(held(&facts), Some(90));
    }

    /// It was under way while we were told that its sender is over.
    #[test]
    fn a_late_welcome_of_a_retired_opening_changes_nothing() {
        let mut facts = Acknowledgements::new();
        facts.handle_connecting(MEMBER);
        facts.record(&fact(11, 10, &[(log(1), 90)]), false);
        assert_eq!(facts.record(&fact(10, 0, &[(log(1), 95)]), true), Recorded::Retired);
        assert_eq!(held(&facts), Some(90));
    }

    /// Two processes of one name: whoever answers is counted, also when the other
    /// had retired it.
    #[test]
    fn a_retired_opening_that_answers_takes_the_others_place() {
        let mut facts = Acknowledgements::new();
        welcome(&mut facts, &fact(10, 0, &[(log(1), 50)]));
        welcome(&mut facts, &fact(11, 10, &[(log(1), 90)]));
        assert_eq!(held(&facts), Some(90));
        let taken = welcome(&mut facts, &fact(10, 0, &[(log(1), 55)]));
        assert_eq!(taken, Recorded::News(vec![(log(1), mark(55))]));
        assert_eq!(held(&facts), Some(55));
        assert_eq!(facts.record(&fact(11, 10, &[(log(1), 99)]), false), Recorded::Retired);
        facts.handle_disconnected(MEMBER);
        assert_eq!(held(&facts), Some(55));
        // Passed on by others, a retired one's marks still count nothing.
        welcome(&mut facts, &fact(11, 10, &[(log(1), 91)]));
        assert_eq!(facts.record(&fact(10, 0, &[(log(1), 56)]), false), Recorded::Retired);
        assert_eq!(held(&facts), Some(91));
    }

    #[test]
    fn hostile_ancestry_leaves_an_opening() {
        let mut facts = Acknowledgements::new();
        facts.record(&fact(10, 10, &[(log(1), 1)]), false);
        facts.record(&fact(10, 11, &[(log(1), 2)]), false);
        facts.record(&fact(11, 10, &[(log(1), 3)]), false);
        assert_eq!(held(&facts), Some(2));
    }

    #[test]
    fn too_many_openings_count_as_nothing_until_a_welcome() {
        let mut facts = Acknowledgements::new();
        for opening in 1..=MAX_OPENINGS_PER_MEMBER as u64 {
            facts.record(&fact(opening, 0, &[(log(1), 7)]), false);
        }
        assert_eq!(held(&facts), Some(7));
        let one_more = MAX_OPENINGS_PER_MEMBER as u64 + 1;
        let recorded = facts.record(&fact(one_more, 0, &[(log(1), 9)]), false);
        assert_eq!(recorded, Recorded::TooManyOpenings);
        assert_eq!(held(&facts), None);
        let restored = Acknowledgements::from_checkpoint(&facts.to_checkpoint());
        assert_eq!(held(&restored), None, "a restart does not make it more");
        welcome(&mut facts, &fact(one_more, 0, &[(log(1), 9)]));
        assert_eq!(held(&facts), Some(9));
    }

    /// METHOD M6, M12: the queue is a position, and survives in the checkpoint,
    /// retirements included.
    #[test]
    fn a_checkpoint_restores_marks_and_retirements() {
        let mut facts = Acknowledgements::new();
        facts.record(&fact(8, 7, &[(log(1), 10)]), false);
        facts.record(&fact(10, 0, &[(log(1), 100), (log(3), 4)]), false);
        welcome(&mut facts, &fact(12, 9, &[(log(1), 40)]));
        facts.record(&fact(13, 0, &[(log(1), 30)]), false);
        let mut restored = Acknowledgements::from_checkpoint(&facts.to_checkpoint());
        assert_eq!(restored.to_checkpoint(), facts.to_checkpoint());
        for late in [7, 8, 9, 10] {
            let recorded = restored.record(&fact(late, 0, &[(log(1), 999)]), false);
            assert_eq!(recorded, Recorded::Retired, "opening {late}");
        }
        let number = MessageNumber::new;
        let tips = [(log(1), number(0), number(50)), (log(3), number(2), number(2))];
        assert_eq!(
            restored.queue(MEMBER, tips),
            [QueuedLog { log: log(1), acknowledged: number(30), tip: number(50) }]
        );
        assert_eq!(restored.queue(MEMBER, tips)[0].messages(), 20);
    }

    #[test]
    fn what_all_hold_is_the_least_of_all() {
        let mut facts = Acknowledgements::new();
        facts.record(&fact(10, 0, &[(log(1), 100)]), false);
        let mut other = fact(20, 0, &[(log(1), 60)]);
        other.opening.node = NodeNumber::new(3);
        facts.record(&other, false);
        let members = [MEMBER, NodeNumber::new(3)];
        assert_eq!(facts.held_by_all(&log(1), members), Some(MessageNumber::new(60)));
        let with_silent = [MEMBER, NodeNumber::new(3), NodeNumber::new(4)];
        assert_eq!(facts.held_by_all(&log(1), with_silent), Some(MessageNumber::ZERO));
        assert_eq!(facts.holders(&log(1), MessageNumber::new(61)), BTreeSet::from([MEMBER]));
    }
}
