//! How one subscriber reads: what of each piece is new to it, where it stands
//! after it, and whether it has to read something for itself. What the gateway's
//! `reader` does.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use interlock_core::clock::Moment;
use interlock_core::cursor::Cursor;
use interlock_core::delivery::{ChannelFilter, OriginNews, ReaderPosition, Step};
use interlock_core::identity::{LogName, MessageName, MessageNumber, NodeNumber};
use interlock_core::names::ChannelName;
use interlock_core::replication::rows::{Row, RowConflict, Rows};

use super::Item;
use super::gateway::{Position, SharedBatch};

/// How long an origin is held back for a branch that is not known here, before a
/// gap is told.
pub(crate) const UNKNOWN_BRANCH_PATIENCE: Duration = Duration::from_secs(5);
/// Between two looks for what the node did not have yet.
const READ_AGAIN: Duration = Duration::from_millis(700);

/// What a subscriber is told.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Told {
    /// A publication.
    Message(MessageName),
    /// Messages that may be missing, before what comes after them.
    Gap {
        /// The log; with an unknown branch all of its path up to `through`.
        log: LogName,
        /// The first.
        from: MessageNumber,
        /// The last.
        through: MessageNumber,
        /// The branch stayed unknown.
        is_unknown_branch: bool,
    },
    /// Where it stands.
    Cursor(Cursor),
    /// It keeps the cursor that it was told last.
    Kept,
}

/// Where a subscription stands, and what it asked for.
#[derive(Debug)]
pub(super) struct Reader {
    position: ReaderPosition,
    /// The newest shared position it has gone along with.
    shared: Position,
    /// The rows known to it: the shared ones, and what it learned alone.
    rows: Arc<Rows>,
    filter: ChannelFilter,
    /// When to read for itself what was left out of the shared order.
    read_again: Option<Moment>,
}

impl Reader {
    /// At the shared position, or at a cursor.
    pub(super) fn new(
        shared: Position,
        filter: ChannelFilter,
        start: Option<Cursor>,
        now: Moment,
    ) -> Self {
        let rows = Arc::clone(&shared.rows);
        let position = start.map_or_else(ReaderPosition::shared, |cursor| {
            ReaderPosition::at(cursor, &filter, &rows, now, UNKNOWN_BRANCH_PATIENCE)
        });
        Self { position, rows, shared, filter, read_again: None }
    }

    pub(super) const fn filter(&self) -> &ChannelFilter {
        &self.filter
    }

    pub(super) const fn is_shared(&self) -> bool {
        self.position.is_shared()
    }

    /// Where it stands, as it is told.
    pub(super) fn cursor(&self) -> Cursor {
        self.position.own().unwrap_or(&self.shared.cursor).clone()
    }

    /// The shared position that it goes along with.
    pub(super) fn shared(&self) -> &Cursor {
        &self.shared.cursor
    }

    /// Joins the order at a shared position: the gaps to tell first.
    pub(super) fn join(
        &mut self,
        shared: &Position,
        now: Moment,
    ) -> Result<Vec<Told>, RowConflict> {
        if self.shared.cursor != shared.cursor {
            self.position.leave(&self.shared.cursor);
        }
        self.move_to(shared)?;
        self.position.rows_changed(&self.rows);
        let unknown = self.position.handle_timeout(now, &self.rows);
        self.meet();
        let gap = |tip: MessageName| Told::Gap {
            log: tip.log,
            from: MessageNumber::new(1),
            through: tip.m_id,
            is_unknown_branch: true,
        };
        Ok(unknown.into_iter().map(|branch| gap(branch.tip)).collect())
    }

    /// Begins to read for itself: from where, and without which origins.
    pub(super) fn begin_alone(&mut self) -> Option<(Cursor, BTreeSet<NodeNumber>)> {
        let own = self.position.own()?.clone();
        self.read_again = None;
        Some((own, self.position.held_origins().collect()))
    }

    /// Has read what there is; not all that was asked for when the node does not
    /// have it.
    pub(super) fn end_alone(&mut self, is_complete: bool, now: Moment) {
        if !is_complete {
            self.lacks_something(now);
        }
        self.meet();
    }

    /// Takes rows that came with what it reads for itself.
    pub(super) fn learn(
        &mut self,
        rows: impl IntoIterator<Item = Row>,
        now: Moment,
    ) -> Result<(), RowConflict> {
        for row in rows {
            if !self.rows.contains(&row.log) {
                Arc::make_mut(&mut self.rows).insert(row)?;
            }
        }
        if self.position.rows_changed(&self.rows) {
            self.read_again = Some(now);
        }
        Ok(())
    }

    /// Goes along with the shared order.
    pub(super) fn follow(
        &mut self,
        batch: &SharedBatch,
        now: Moment,
    ) -> Result<Vec<Told>, RowConflict> {
        self.move_to(&batch.position)?;
        let told = self.take(&batch.items, now);
        self.meet();
        Ok(told)
    }

    /// What of these is new to it; it stands behind them then.
    pub(super) fn take(&mut self, items: &[Item], now: Moment) -> Vec<Told> {
        let mut told = Vec::new();
        for item in items {
            match item {
                Item::Run { log, from, through, messages } => {
                    if from.is_none_or(|from| self.goes_on_at(log, from, now)) {
                        let new =
                            messages.iter().filter(|(name, channel)| self.is_new(name, channel));
                        told.extend(new.map(|(name, _)| Told::Message(*name)));
                        self.position.pass(log, *through, &self.rows);
                    }
                }
                Item::Gap { log, from, through } => {
                    let last = MessageName { log: *log, m_id: *through };
                    if self.goes_on_at(log, *from, now)
                        && self.position.step_gap(&last, &self.rows) == Step::Deliver
                    {
                        let (log, from, through) = (*log, *from, *through);
                        told.push(Told::Gap { log, from, through, is_unknown_branch: false });
                        self.position.pass(&log, through, &self.rows);
                    }
                }
            }
        }
        told
    }

    fn is_new(&self, name: &MessageName, channel: &ChannelName) -> bool {
        self.filter.matches(channel.as_str())
            && self.position.step(name, channel, &self.rows) == Step::Deliver
    }

    /// Whether something that was left out can be read now.
    pub(super) fn must_read_again(
        &mut self,
        shared: &Rows,
        news: &[OriginNews],
        now: Moment,
    ) -> Result<bool, RowConflict> {
        self.learn(shared.iter().cloned(), now)?;
        let mut again = self.position.poll_timeout().is_some_and(|until| until <= now);
        for news in news {
            again |= self.position.heard(news);
        }
        Ok(again || self.read_again.is_some_and(|at| at <= now))
    }

    /// Whether a log's shared order goes on where the reader stands. If not, it
    /// reads again later what lies between.
    fn goes_on_at(&mut self, log: &LogName, from: MessageNumber, now: Moment) -> bool {
        let goes_on = self.position.follows_on(log, from, &self.rows);
        if !goes_on {
            self.lacks_something(now);
        }
        goes_on
    }

    fn lacks_something(&mut self, now: Moment) {
        self.read_again.get_or_insert(now + READ_AGAIN);
    }

    fn move_to(&mut self, shared: &Position) -> Result<(), RowConflict> {
        if self.position.is_shared() {
            self.rows = Arc::clone(&shared.rows);
        } else if !Arc::ptr_eq(&self.shared.rows, &shared.rows) {
            for row in shared.rows.iter() {
                if !self.rows.contains(&row.log) {
                    Arc::make_mut(&mut self.rows).insert(row.clone())?;
                }
            }
        }
        self.shared = shared.clone();
        Ok(())
    }

    fn meet(&mut self) {
        self.position.meet(&self.shared.cursor, &self.rows);
    }
}
