//! Where one reader stands: at the shared position, or at one of its own while
//! it is behind, ahead, or held back at a branch that is not known here.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use crate::clock::Moment;
use crate::cursor::Cursor;
use crate::delivery::ChannelFilter;
use crate::identity::{Incarnation, LogName, MessageName, MessageNumber, NodeNumber, PathName};
use crate::names::ChannelName;
use crate::replication::rows::Rows;

/// What a reader does with a message that comes along.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step {
    /// New to it.
    Deliver,
    /// Covered by its cursor, or inside a gap that it was told.
    Skip,
    /// Its origin is held back; the reader reads it again once that is resolved.
    HeldBack,
}

/// A branch that stayed unknown: the gap to tell, with everything of its origin
/// numbered up to the tip.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct UnknownBranch {
    /// The tip that the reader's cursor names.
    pub tip: MessageName,
}

/// What an origin was heard to say of itself, first-hand.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct OriginNews {
    /// The origin.
    pub origin: NodeNumber,
    /// The incarnation it named.
    pub incarnation: Incarnation,
    /// When.
    pub heard_at: Moment,
}

/// The unknown branches of one path that were told as a gap. All of them are told
/// at once.
#[derive(Clone, Debug)]
struct ToldGap {
    tips: BTreeSet<MessageName>,
    told_at: Moment,
    /// What the origin called itself after the gap was told, at each opening since:
    /// a wiped origin starts at 1 again, and what it says then is not inside the
    /// gap, also where it was opened again before a slow reader came to read it.
    heard: BTreeSet<Incarnation>,
}

/// One reader's position.
#[derive(Clone, Debug)]
pub struct ReaderPosition {
    /// `None` stands for the shared position.
    own: Option<Cursor>,
    /// Of the channels that stand apart in it, those that the reader asks for.
    apart: Vec<ChannelName>,
    /// Origins held back, with the moment when waiting ends.
    held: BTreeMap<NodeNumber, Moment>,
    told: BTreeMap<PathName, ToldGap>,
}

impl ReaderPosition {
    /// At the shared position.
    pub const fn shared() -> Self {
        Self { own: None, apart: Vec::new(), held: BTreeMap::new(), told: BTreeMap::new() }
    }

    /// At a cursor, with the channels that are asked for. Origins whose branches are not
    /// known here are held back for at most `patience`.
    pub fn at(
        cursor: Cursor,
        filter: &ChannelFilter,
        rows: &Rows,
        now: Moment,
        patience: Duration,
    ) -> Self {
        let unknown = cursor.unknown_tips(rows);
        let held = unknown.iter().map(|tip| (tip.log.origin, now + patience)).collect();
        let apart = cursor.overridden_channels().filter(|it| filter.matches(it.as_str()));
        let apart = apart.cloned().collect();
        Self { own: Some(cursor), apart, held, told: BTreeMap::new() }
    }

    /// Whether this is the shared position.
    pub const fn is_shared(&self) -> bool {
        self.own.is_none()
    }

    /// The reader's own cursor; `None` at the shared position.
    pub const fn own(&self) -> Option<&Cursor> {
        self.own.as_ref()
    }

    /// The origins held back now.
    pub fn held_origins(&self) -> impl Iterator<Item = NodeNumber> + '_ {
        self.held.keys().copied()
    }

    /// What to do with a message.
    pub fn step(&self, name: &MessageName, channel: &ChannelName, rows: &Rows) -> Step {
        self.step_unless(name, rows, |own| own.channel_covers(channel, name, rows))
    }

    /// What to do with a gap that ends at `through`. It is news as long as any channel
    /// is before it.
    pub fn step_gap(&self, through: &MessageName, rows: &Rows) -> Step {
        self.step_unless(through, rows, |own| self.every_channel_covers(own, through, rows))
    }

    /// Whether a log's messages from this number on come right after what the
    /// reader has, of every channel. Where they do not, going over them would cover what it was
    /// never shown: it has to read what lies between first. What is held back is
    /// read again anyway.
    pub fn follows_on(&self, log: &LogName, from: MessageNumber, rows: &Rows) -> bool {
        let Some(own) = &self.own else { return true };
        if self.held.contains_key(&log.origin) {
            return true;
        }
        let has = |name: &MessageName| {
            self.is_inside_gap(name, rows) || self.every_channel_covers(own, name, rows)
        };
        match rows.get(log) {
            Some(row) if from <= row.first_m_id() => row.parent_names().all(|parent| has(&parent)),
            _ => {
                let before = from.previous();
                before == MessageNumber::ZERO || has(&MessageName { log: *log, m_id: before })
            }
        }
    }

    /// Moves over a log's messages up to `through`, whether they were delivered
    /// or filtered out. What is held back or inside a gap stays to be read again:
    /// it may turn out to be neither.
    pub fn pass(&mut self, log: &LogName, through: MessageNumber, rows: &Rows) {
        let name = MessageName { log: *log, m_id: through };
        if self.held.contains_key(&log.origin) || self.is_inside_gap(&name, rows) {
            return;
        }
        let Some(own) = &mut self.own else { return };
        own.pass(name, rows);
    }

    /// Looks again at what was unknown. True when an origin is no longer held
    /// back or a gap is none any more, so that the reader has to read what it
    /// left out.
    pub fn rows_changed(&mut self, rows: &Rows) -> bool {
        let Some(own) = &self.own else { return false };
        let count = |told: &BTreeMap<PathName, ToldGap>| -> usize {
            told.values().map(|gap| gap.tips.len()).sum()
        };
        let (held, told) = (self.held.len(), count(&self.told));
        let unknown: BTreeSet<MessageName> = own.unknown_tips(rows).into_iter().collect();
        let origins: BTreeSet<NodeNumber> = unknown.iter().map(|tip| tip.log.origin).collect();
        self.told.retain(|_, gap| {
            gap.tips.retain(|tip| unknown.contains(tip));
            !gap.tips.is_empty()
        });
        self.held.retain(|origin, _| origins.contains(origin));
        self.held.len() < held || count(&self.told) < told
    }

    /// Ends waiting that has lasted long enough: the gaps to tell. What the
    /// origins have besides must be read then.
    pub fn handle_timeout(&mut self, now: Moment, rows: &Rows) -> Vec<UnknownBranch> {
        let Some(own) = &self.own else { return Vec::new() };
        let over: BTreeSet<NodeNumber> = self
            .held
            .iter()
            .filter(|(_, until)| **until <= now)
            .map(|(origin, _)| *origin)
            .collect();
        let mut gaps = Vec::new();
        for tip in own.unknown_tips(rows) {
            if over.contains(&tip.log.origin) {
                let gap = self.told.entry(tip.log.path()).or_insert_with(|| ToldGap {
                    tips: BTreeSet::new(),
                    told_at: now,
                    heard: BTreeSet::new(),
                });
                gap.tips.insert(tip);
                gaps.push(UnknownBranch { tip });
            }
        }
        self.held.retain(|origin, _| !over.contains(origin));
        gaps
    }

    /// When [`Self::handle_timeout`] is to be called next.
    pub fn poll_timeout(&self) -> Option<Moment> {
        self.held.values().min().copied()
    }

    /// An origin named its incarnation first-hand. True when that takes messages
    /// out of a gap that was told, so that they have to be read.
    pub fn heard(&mut self, news: &OriginNews) -> bool {
        let mut changed = false;
        for (path, gap) in &mut self.told {
            if path.origin == news.origin && gap.told_at < news.heard_at {
                changed |= gap.heard.insert(news.incarnation);
            }
        }
        changed
    }

    /// Joins the shared position when both cover the same, unknown tips included,
    /// and nothing is held back or left to be told. True when it has.
    pub fn meet(&mut self, shared: &Cursor, rows: &Rows) -> bool {
        let Some(own) = &self.own else { return false };
        let meets = self.held.is_empty() && self.told.is_empty() && own.same_coverage(shared, rows);
        if meets {
            self.own = None;
        }
        meets
    }

    /// Leaves the shared position at `shared`, to go on alone from there.
    pub fn leave(&mut self, shared: &Cursor) {
        if self.own.is_none() {
            self.own = Some(shared.clone());
        }
    }

    fn step_unless(
        &self,
        name: &MessageName,
        rows: &Rows,
        is_covered: impl FnOnce(&Cursor) -> bool,
    ) -> Step {
        match &self.own {
            None => Step::Deliver,
            Some(_) if self.held.contains_key(&name.log.origin) => Step::HeldBack,
            Some(own) if self.is_inside_gap(name, rows) || is_covered(own) => Step::Skip,
            Some(_) => Step::Deliver,
        }
    }

    fn every_channel_covers(&self, own: &Cursor, name: &MessageName, rows: &Rows) -> bool {
        own.covers_for_all(&self.apart, name, rows)
    }

    fn is_inside_gap(&self, name: &MessageName, rows: &Rows) -> bool {
        self.told.get(&name.log.path()).is_some_and(|gap| gap.swallows(name, rows))
    }
}

impl ToldGap {
    fn swallows(&self, name: &MessageName, rows: &Rows) -> bool {
        if self.tips.iter().all(|tip| name.m_id > tip.m_id) {
            return false;
        }
        let path = name.log.path();
        !self.heard.iter().any(|heard| {
            name.log.incarnation == *heard
                || rows
                    .covered_through(name, &path.log(*heard))
                    .is_some_and(|covered| covered > MessageNumber::ZERO)
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::identity::{ChainHash, NamespaceNumber, ParentPoint, ShardNumber};
    use crate::replication::rows::Row;

    const PATIENCE: Duration = Duration::from_secs(5);

    fn incarnation(bits: u64) -> Incarnation {
        Incarnation::new(bits).expect("not zero")
    }

    fn log(origin: u32, bits: u64) -> LogName {
        PathName {
            namespace: NamespaceNumber::new(1),
            shard: ShardNumber::new(0),
            origin: NodeNumber::new(origin),
        }
        .log(incarnation(bits))
    }

    fn name(log: LogName, m_id: u64) -> MessageName {
        MessageName { log, m_id: MessageNumber::new(m_id) }
    }

    fn row(log: LogName, parent: Option<(u64, u64)>) -> Row {
        let parents = parent
            .map(|(bits, m_id)| ParentPoint {
                incarnation: incarnation(bits),
                m_id: MessageNumber::new(m_id),
                hash: ChainHash::EMPTY,
            })
            .into_iter()
            .collect();
        Row { log, parents }
    }

    fn rows(list: Vec<Row>) -> Rows {
        let mut rows = Rows::new();
        for row in list {
            rows.insert(row).expect("a consistent row");
        }
        rows
    }

    fn cursor(names: &[MessageName], rows: &Rows) -> Cursor {
        let mut cursor = Cursor::new(NamespaceNumber::new(1));
        for name in names {
            cursor.advance(*name, rows);
        }
        cursor
    }

    fn step(reader: &ReaderPosition, log: LogName, m_id: u64, rows: &Rows) -> Step {
        reader.step(&name(log, m_id), &ChannelName::parse("news").expect("a name"), rows)
    }

    #[test]
    fn a_reader_ahead_skips_what_it_has_and_then_joins() {
        let rows = rows(vec![row(log(1, 11), None)]);
        let ahead = cursor(&[name(log(1, 11), 5)], &rows);
        let mut reader =
            ReaderPosition::at(ahead, &ChannelFilter::default(), &rows, Moment::START, PATIENCE);
        let mut shared = cursor(&[name(log(1, 11), 3)], &rows);
        assert!(!reader.meet(&shared, &rows));
        assert_eq!(step(&reader, log(1, 11), 5, &rows), Step::Skip);
        assert_eq!(step(&reader, log(1, 11), 6, &rows), Step::Deliver);
        shared.advance(name(log(1, 11), 6), &rows);
        reader.pass(&log(1, 11), MessageNumber::new(6), &rows);
        assert!(reader.meet(&shared, &rows));
        assert!(reader.is_shared());
    }

    #[test]
    fn an_unknown_branch_holds_back_its_origin_alone_until_its_row_comes() {
        let mut known = rows(vec![row(log(1, 11), None), row(log(2, 21), None)]);
        // The cursor's tip is in an opening of origin 1 that is not known here.
        let elsewhere = rows(vec![row(log(1, 11), None), row(log(1, 12), Some((11, 5)))]);
        let resumed = cursor(&[name(log(1, 12), 7)], &elsewhere);
        let mut reader =
            ReaderPosition::at(resumed, &ChannelFilter::default(), &known, Moment::START, PATIENCE);
        assert_eq!(reader.held_origins().collect::<Vec<_>>(), [NodeNumber::new(1)]);
        assert_eq!(step(&reader, log(1, 11), 2, &known), Step::HeldBack);
        assert_eq!(step(&reader, log(2, 21), 1, &known), Step::Deliver);

        known.insert(row(log(1, 12), Some((11, 5)))).expect("a consistent row");
        assert!(reader.rows_changed(&known));
        assert_eq!(step(&reader, log(1, 11), 2, &known), Step::Skip);
        assert_eq!(step(&reader, log(1, 12), 7, &known), Step::Skip);
        assert_eq!(step(&reader, log(1, 12), 8, &known), Step::Deliver);
    }

    #[test]
    fn a_branch_that_stays_unknown_is_told_as_a_gap_and_a_wiped_origin_is_heard() {
        let known = rows(vec![row(log(1, 11), None), row(log(1, 13), None)]);
        let elsewhere = rows(vec![row(log(1, 12), None)]);
        let resumed = cursor(&[name(log(1, 12), 7)], &elsewhere);
        let mut reader =
            ReaderPosition::at(resumed, &ChannelFilter::default(), &known, Moment::START, PATIENCE);
        assert!(reader.handle_timeout(Moment::START, &known).is_empty());
        let late = reader.poll_timeout().expect("something is held");
        let gaps = reader.handle_timeout(late, &known);
        assert_eq!(gaps, [UnknownBranch { tip: name(log(1, 12), 7) }]);

        // Everything numbered up to the tip counts as inside the gap …
        assert_eq!(step(&reader, log(1, 11), 7, &known), Step::Skip);
        assert_eq!(step(&reader, log(1, 11), 8, &known), Step::Deliver);
        assert_eq!(step(&reader, log(1, 13), 1, &known), Step::Skip);
        // … except what the origin says of itself afterwards.
        let news = |heard_at| OriginNews {
            origin: NodeNumber::new(1),
            incarnation: incarnation(13),
            heard_at,
        };
        assert!(!reader.heard(&news(Moment::START)), "heard before the gap was told");
        assert!(reader.heard(&news(late + Duration::from_secs(1))));
        assert_eq!(step(&reader, log(1, 13), 1, &known), Step::Deliver);
        assert_eq!(step(&reader, log(1, 11), 7, &known), Step::Skip);
    }

    /// The wiped origin is opened again, twice, before the reader reads what it said
    /// in between.
    #[test]
    fn every_opening_that_was_heard_since_is_outside_the_gap() {
        let openings = [(13, None), (14, Some((13, 3))), (15, None), (11, None)];
        let known = rows(openings.map(|(bits, parent)| row(log(1, bits), parent)).to_vec());
        let elsewhere = rows(vec![row(log(1, 12), None)]);
        let resumed = cursor(&[name(log(1, 12), 70)], &elsewhere);
        let mut reader = ReaderPosition::at(
            resumed,
            &ChannelFilter::default(),
            &known,
            Moment::START,
            Duration::ZERO,
        );
        assert_eq!(reader.handle_timeout(Moment::START, &known).len(), 1);
        for (second, bits) in [(1, 13), (2, 14), (3, 15)] {
            let heard_at = Moment::START + Duration::from_secs(second);
            let origin = NodeNumber::new(1);
            let news = OriginNews { origin, incarnation: incarnation(bits), heard_at };
            assert!(reader.heard(&news));
            assert!(!reader.heard(&news), "it is known already");
        }
        for (bits, m_id) in [(13, 1), (14, 4), (15, 1)] {
            assert_eq!(step(&reader, log(1, bits), m_id, &known), Step::Deliver, "{bits}");
        }
        assert_eq!(step(&reader, log(1, 11), 1, &known), Step::Skip);
    }

    #[test]
    fn what_is_not_shown_inside_a_gap_is_not_covered_either() {
        let mut known = rows(vec![row(log(1, 11), None), row(log(1, 13), None)]);
        let elsewhere = rows(vec![row(log(1, 12), None)]);
        let resumed = cursor(&[name(log(1, 12), 7)], &elsewhere);
        let mut reader = ReaderPosition::at(
            resumed,
            &ChannelFilter::default(),
            &known,
            Moment::START,
            Duration::ZERO,
        );
        assert_eq!(reader.handle_timeout(Moment::START, &known).len(), 1);
        reader.pass(&log(1, 13), MessageNumber::new(5), &known);
        let own = reader.own().expect("a position of its own");
        assert!(!own.covers(&name(log(1, 13), 5), &known), "it was not shown");
        // The wiped origin turns out to be speaking: what it said can be read.
        let heard_at = Moment::START + Duration::from_secs(1);
        let incarnation = incarnation(13);
        assert!(reader.heard(&OriginNews { origin: NodeNumber::new(1), incarnation, heard_at }));
        assert_eq!(step(&reader, log(1, 13), 1, &known), Step::Deliver);
        // Behind the gap its other branch goes on, and the gap is passed with it.
        assert!(reader.follows_on(&log(1, 11), MessageNumber::new(8), &known));
        reader.pass(&log(1, 11), MessageNumber::new(8), &known);
        assert_eq!(step(&reader, log(1, 11), 8, &known), Step::Skip);

        // The row comes after all: what the gap had swallowed has to be read.
        known.insert(row(log(1, 12), None)).expect("a consistent row");
        assert!(reader.rows_changed(&known));
    }

    #[test]
    fn nothing_is_passed_over_what_the_reader_does_not_have() {
        let known = rows(vec![row(log(1, 11), None), row(log(1, 12), Some((11, 90)))]);
        let at = cursor(&[name(log(1, 11), 50)], &known);
        let mut reader =
            ReaderPosition::at(at, &ChannelFilter::default(), &known, Moment::START, PATIENCE);
        let number = MessageNumber::new;
        assert!(reader.follows_on(&log(1, 11), number(51), &known));
        assert!(reader.follows_on(&log(1, 11), number(40), &known));
        assert!(!reader.follows_on(&log(1, 11), number(61), &known));
        assert!(!reader.follows_on(&log(1, 12), number(91), &known), "its parent is missing");
        reader.pass(&log(1, 11), number(90), &known);
        assert!(reader.follows_on(&log(1, 12), number(91), &known));
        // What the parent said after the child began holds the child back in nothing.
        assert!(!reader.follows_on(&log(1, 11), number(101), &known));
    }

    #[test]
    fn a_channel_that_stands_apart_is_told_what_it_lacks_and_comes_along() {
        let known = rows(vec![row(log(1, 11), None)]);
        let mut at = cursor(&[name(log(1, 11), 10)], &known);
        let news = ChannelName::parse("news").expect("a name");
        at.start_channel(&news, &cursor(&[name(log(1, 11), 5)], &known), &known).expect("room");
        let mut reader =
            ReaderPosition::at(at, &ChannelFilter::default(), &known, Moment::START, PATIENCE);
        assert_eq!(step(&reader, log(1, 11), 6, &known), Step::Deliver);
        let other = ChannelName::parse("other").expect("a name");
        assert_eq!(reader.step(&name(log(1, 11), 6), &other, &known), Step::Skip);
        reader.pass(&log(1, 11), MessageNumber::new(10), &known);
        assert!(reader.meet(&cursor(&[name(log(1, 11), 10)], &known), &known));
    }

    /// A channel that stands apart is behind where the rest is: what the rest passes, it
    /// was not shown.
    #[test]
    fn a_channel_that_stands_apart_has_its_own_place() {
        let first = log(1, 1);
        let rows = rows(vec![row(first, None)]);
        let news = ChannelName::parse("news").expect("a good name");
        let mut at = cursor(&[name(first, 9)], &rows);
        at.start_channel(&news, &cursor(&[name(first, 4)], &rows), &rows).expect("few");
        let filter = |patterns: &[&str]| ChannelFilter::parse(patterns).expect("good patterns");
        let reader = |patterns: &[&str]| {
            ReaderPosition::at(at.clone(), &filter(patterns), &rows, Moment::START, PATIENCE)
        };

        let asks_for_it = reader(&[]);
        assert!(!asks_for_it.follows_on(&first, MessageNumber::new(10), &rows));
        assert!(asks_for_it.follows_on(&first, MessageNumber::new(5), &rows));
        assert_eq!(asks_for_it.step_gap(&name(first, 7), &rows), Step::Deliver);
        assert_eq!(asks_for_it.step_gap(&name(first, 4), &rows), Step::Skip);

        let does_not = reader(&["live"]);
        assert!(does_not.follows_on(&first, MessageNumber::new(10), &rows));
        assert_eq!(does_not.step_gap(&name(first, 7), &rows), Step::Skip);
    }
}
