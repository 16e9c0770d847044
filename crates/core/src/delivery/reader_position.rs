//! Where one reader stands: at the shared position, or at one of its own while
//! it is behind, ahead, or held back at a branch that is not known here.

use std::collections::BTreeMap;
use std::time::Duration;

use crate::clock::Moment;
use crate::cursor::Cursor;
use crate::identity::{Incarnation, LogName, MessageName, MessageNumber, NodeNumber};
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

/// An unknown branch that was told as a gap.
#[derive(Clone, Copy, Debug)]
struct ToldBranch {
    tip: MessageName,
    told_at: Moment,
    /// What the origin called itself after the gap was told: a wiped origin
    /// starts at 1 again, and what it says then is not inside the gap.
    present: Option<Incarnation>,
}

/// One reader's position.
#[derive(Clone, Debug)]
pub struct ReaderPosition {
    /// `None` stands for the shared position.
    own: Option<Cursor>,
    /// Origins held back, with the moment when waiting ends.
    held: BTreeMap<NodeNumber, Moment>,
    told: Vec<ToldBranch>,
}

impl ReaderPosition {
    /// At the shared position.
    pub const fn shared() -> Self {
        Self { own: None, held: BTreeMap::new(), told: Vec::new() }
    }

    /// At a cursor. Origins whose branches are not known here are held back for
    /// at most `patience`.
    pub fn at(cursor: Cursor, rows: &Rows, now: Moment, patience: Duration) -> Self {
        let mut position = Self { own: None, held: BTreeMap::new(), told: Vec::new() };
        for tip in cursor.tips() {
            if !rows.ancestry_is_known(&tip) {
                position.held.insert(tip.log.origin, now + patience);
            }
        }
        position.own = Some(cursor);
        position
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
    pub fn step(&self, name: &MessageName, rows: &Rows) -> Step {
        let Some(own) = &self.own else { return Step::Deliver };
        if self.held.contains_key(&name.log.origin) {
            return Step::HeldBack;
        }
        let inside_gap = self.told.iter().any(|told| told.swallows(name, rows));
        if inside_gap || own.covers(name, rows) { Step::Skip } else { Step::Deliver }
    }

    /// Moves over a log's messages up to `through`, whether they were delivered
    /// or filtered out. A held origin's stay to be read again.
    pub fn pass(&mut self, log: &LogName, through: MessageNumber, rows: &Rows) {
        let Some(own) = &mut self.own else { return };
        if through == MessageNumber::ZERO || self.held.contains_key(&log.origin) {
            return;
        }
        let name = MessageName { log: *log, m_id: through };
        if !own.covers(&name, rows) {
            own.advance(name, rows);
        }
    }

    /// Looks again at what was unknown. True when an origin is no longer held
    /// back, so that the reader has to read what it passed of it.
    pub fn rows_changed(&mut self, rows: &Rows) -> bool {
        let Some(own) = &self.own else { return false };
        self.told.retain(|told| !rows.ancestry_is_known(&told.tip));
        if self.held.is_empty() {
            return false;
        }
        let held_before = self.held.len();
        let unknown: Vec<NodeNumber> = own
            .tips()
            .filter(|tip| !rows.ancestry_is_known(tip))
            .map(|tip| tip.log.origin)
            .collect();
        self.held.retain(|origin, _| unknown.contains(origin));
        self.held.len() < held_before
    }

    /// Ends waiting that has lasted long enough: the gaps to tell. What the
    /// origins have besides must be read then.
    pub fn handle_timeout(&mut self, now: Moment, rows: &Rows) -> Vec<UnknownBranch> {
        let Some(own) = &self.own else { return Vec::new() };
        let over: Vec<NodeNumber> = self
            .held
            .iter()
            .filter(|(_, until)| **until <= now)
            .map(|(origin, _)| *origin)
            .collect();
        let mut gaps = Vec::new();
        for tip in own.tips() {
            if over.contains(&tip.log.origin) && !rows.ancestry_is_known(&tip) {
                self.told.push(ToldBranch { tip, told_at: now, present: None });
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
        for told in &mut self.told {
            let is_news = told.tip.log.origin == news.origin
                && told.told_at < news.heard_at
                && told.present != Some(news.incarnation);
            if is_news {
                told.present = Some(news.incarnation);
                changed = true;
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
}

impl ToldBranch {
    fn swallows(&self, name: &MessageName, rows: &Rows) -> bool {
        if name.log.path() != self.tip.log.path() || name.m_id > self.tip.m_id {
            return false;
        }
        let Some(present) = self.present else { return true };
        let is_present = name.log.incarnation == present;
        let descends = rows
            .covered_through(name, &name.log.path().log(present))
            .is_some_and(|covered| covered > MessageNumber::ZERO);
        !(is_present || descends)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::identity::{ChainHash, NamespaceNumber, ParentPoint, PathName, ShardNumber};
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

    #[test]
    fn a_reader_ahead_skips_what_it_has_and_then_joins() {
        let rows = rows(vec![row(log(1, 11), None)]);
        let ahead = cursor(&[name(log(1, 11), 5)], &rows);
        let mut reader = ReaderPosition::at(ahead, &rows, Moment::START, PATIENCE);
        let mut shared = cursor(&[name(log(1, 11), 3)], &rows);
        assert!(!reader.meet(&shared, &rows));
        assert_eq!(reader.step(&name(log(1, 11), 5), &rows), Step::Skip);
        assert_eq!(reader.step(&name(log(1, 11), 6), &rows), Step::Deliver);
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
        let mut reader = ReaderPosition::at(resumed, &known, Moment::START, PATIENCE);
        assert_eq!(reader.held_origins().collect::<Vec<_>>(), [NodeNumber::new(1)]);
        assert_eq!(reader.step(&name(log(1, 11), 2), &known), Step::HeldBack);
        assert_eq!(reader.step(&name(log(2, 21), 1), &known), Step::Deliver);

        known.insert(row(log(1, 12), Some((11, 5)))).expect("a consistent row");
        assert!(reader.rows_changed(&known));
        assert_eq!(reader.step(&name(log(1, 11), 2), &known), Step::Skip);
        assert_eq!(reader.step(&name(log(1, 12), 7), &known), Step::Skip);
        assert_eq!(reader.step(&name(log(1, 12), 8), &known), Step::Deliver);
    }

    #[test]
    fn a_branch_that_stays_unknown_is_told_as_a_gap_and_a_wiped_origin_is_heard() {
        let known = rows(vec![row(log(1, 11), None), row(log(1, 13), None)]);
        let elsewhere = rows(vec![row(log(1, 12), None)]);
        let resumed = cursor(&[name(log(1, 12), 7)], &elsewhere);
        let mut reader = ReaderPosition::at(resumed, &known, Moment::START, PATIENCE);
        assert!(reader.handle_timeout(Moment::START, &known).is_empty());
        let late = reader.poll_timeout().expect("something is held");
        let gaps = reader.handle_timeout(late, &known);
        assert_eq!(gaps, [UnknownBranch { tip: name(log(1, 12), 7) }]);

        // Everything numbered up to the tip counts as inside the gap …
        assert_eq!(reader.step(&name(log(1, 11), 7), &known), Step::Skip);
        assert_eq!(reader.step(&name(log(1, 11), 8), &known), Step::Deliver);
        assert_eq!(reader.step(&name(log(1, 13), 1), &known), Step::Skip);
        // … except what the origin says of itself afterwards.
        let news = |heard_at| OriginNews {
            origin: NodeNumber::new(1),
            incarnation: incarnation(13),
            heard_at,
        };
        assert!(!reader.heard(&news(Moment::START)), "heard before the gap was told");
        assert!(reader.heard(&news(late + Duration::from_secs(1))));
        assert_eq!(reader.step(&name(log(1, 13), 1), &known), Step::Deliver);
        assert_eq!(reader.step(&name(log(1, 11), 7), &known), Step::Skip);
    }
}
