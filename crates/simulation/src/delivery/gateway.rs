//! One namespace at one gateway: the order in which it is delivered, the position
//! that all who keep up share, and the upstream that feeds it. What the gateway's
//! `upstream` and `fan_out` do.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;

use interlock_core::clock::Moment;
use interlock_core::cursor::Cursor;
use interlock_core::delivery::{ChannelFilter, OriginNews};
use interlock_core::identity::{MessageName, NamespaceNumber, NodeNumber};
use interlock_core::replication::rows::{Row, RowConflict, Rows};
use interlock_storage::StorageError;

use crate::network::Endpoint;
use crate::node::Process;
use crate::planted_bug::PlantedBug;

use super::feed::{Feed, FeedNews, Until};
use super::{Batch, Item};

/// How many batches are kept for readers: few, so that some are let go of.
const KEPT_BATCHES: usize = 6;

/// The shared position, with what is needed to compare others with it.
#[derive(Clone, Debug)]
pub(super) struct Position {
    pub(super) cursor: Arc<Cursor>,
    pub(super) rows: Arc<Rows>,
}

/// A piece of the one order, and the position after it.
#[derive(Debug)]
pub(super) struct SharedBatch {
    pub(super) items: Vec<Item>,
    pub(super) position: Position,
}

/// What there is at a reader's place.
pub(super) enum Taken {
    Batch(Arc<SharedBatch>),
    Nothing,
    Behind,
}

/// Why a gateway or a reader lets go of its node.
#[derive(Debug, thiserror::Error)]
pub enum FollowError {
    /// The node's disk is gone.
    #[error(transparent)]
    Storage(#[from] StorageError),
    /// The node's rows differ from those known here.
    #[error("the node's rows differ from those known at the gateway: {0}")]
    Rows(#[from] RowConflict),
}

/// See the module's page.
#[derive(Debug)]
pub struct Gateway {
    namespace: NamespaceNumber,
    position: Option<Position>,
    batches: VecDeque<Arc<SharedBatch>>,
    /// The number of the first of them.
    first: u64,
    news: BTreeMap<NodeNumber, OriginNews>,
    upstream: Option<(Endpoint, Feed)>,
    /// A bug to commit.
    planted: Option<PlantedBug>,
}

impl Gateway {
    /// A gateway that follows nothing yet.
    pub const fn new(namespace: NamespaceNumber, planted: Option<PlantedBug>) -> Self {
        Self {
            namespace,
            position: None,
            batches: VecDeque::new(),
            first: 0,
            news: BTreeMap::new(),
            upstream: None,
            planted,
        }
    }

    /// The process that it follows at.
    pub fn upstream(&self) -> Option<Endpoint> {
        self.upstream.as_ref().map(|(endpoint, _)| *endpoint)
    }

    /// The process that it followed at is gone.
    pub fn lose_upstream(&mut self) {
        self.upstream = None;
    }

    /// The namespace.
    pub const fn namespace(&self) -> NamespaceNumber {
        self.namespace
    }

    /// Follows on at a process, the same as before or another, by at most so many
    /// messages: publications that were passed over because their epoch ended.
    pub fn follow(
        &mut self,
        endpoint: Endpoint,
        process: &Process,
        now: Moment,
        local: Moment,
        most: usize,
    ) -> Result<Vec<MessageName>, FollowError> {
        let mut feed = match self.upstream.take() {
            Some((upstream, feed)) if upstream == endpoint => feed,
            _ => {
                let start = self.position.as_ref().map(|position| (*position.cursor).clone());
                let (filter, excluded) = (ChannelFilter::default(), BTreeSet::new());
                let (feed, cursor, rows) =
                    Feed::open(process, self.namespace, start, filter, Until::Forever, excluded)?;
                self.open(cursor, rows)?;
                feed
            }
        };
        match feed.go_on(process, most)? {
            FeedNews::Batch(Batch { rows, items }) => {
                rows.into_iter().try_for_each(|row| self.learn(row))?;
                self.publish(items);
            }
            FeedNews::CaughtUp | FeedNews::Finished => {
                for (origin, incarnation, ago) in process.origin_news(self.namespace, local) {
                    let heard_at = Moment::new(now.since_start().saturating_sub(ago));
                    self.news.insert(origin, OriginNews { origin, incarnation, heard_at });
                }
            }
        }
        let ended = std::mem::take(&mut feed.ended);
        self.upstream = Some((endpoint, feed));
        Ok(ended)
    }

    /// Opens, or goes on after the upstream was lost: rows merge, the position
    /// stays where it was.
    fn open(&mut self, cursor: Cursor, rows: Vec<Row>) -> Result<(), RowConflict> {
        let (cursor, mut known) = match self.position.take() {
            Some(Position { cursor, rows }) => (cursor, rows),
            None => (Arc::new(cursor), Arc::default()),
        };
        let mut conflict = None;
        for row in rows {
            conflict = Arc::make_mut(&mut known).insert(row).err().or(conflict);
        }
        self.position = Some(Position { cursor, rows: known });
        conflict.map_or(Ok(()), Err)
    }

    fn learn(&mut self, row: Row) -> Result<(), RowConflict> {
        let Some(position) = &mut self.position else { return Ok(()) };
        if position.rows.contains(&row.log) {
            return Ok(());
        }
        Arc::make_mut(&mut position.rows).insert(row).map(|_| ())
    }

    /// Moves the shared position over `items` and keeps them for all readers.
    fn publish(&mut self, items: Vec<Item>) {
        let Some(position) = &mut self.position else { return };
        let rows = Arc::clone(&position.rows);
        let cursor = Arc::make_mut(&mut position.cursor);
        let items: Vec<Item> = items
            .into_iter()
            .filter_map(|item| go_over(item, cursor, &rows, self.planted))
            .collect();
        if items.is_empty() {
            return;
        }
        let position = position.clone();
        self.batches.push_back(Arc::new(SharedBatch { items, position }));
        if self.batches.len() > KEPT_BATCHES {
            self.batches.pop_front();
            self.first += 1;
        }
    }

    pub(super) fn has_planted(&self, bug: PlantedBug) -> bool {
        self.planted == Some(bug)
    }

    pub(super) fn position(&self) -> Option<&Position> {
        self.position.as_ref()
    }

    /// The place of a reader that joins now.
    pub(super) fn end(&self) -> u64 {
        self.first + self.batches.len() as u64
    }

    pub(super) fn take(&self, place: &mut u64) -> Taken {
        let Some(index) = place.checked_sub(self.first) else { return Taken::Behind };
        match self.batches.get(index as usize) {
            Some(batch) => {
                *place += 1;
                Taken::Batch(Arc::clone(batch))
            }
            None => Taken::Nothing,
        }
    }

    pub(super) fn news(&self) -> Vec<OriginNews> {
        self.news.values().copied().collect()
    }
}

/// Moves the position over an item, and leaves out what it covers already: a node
/// that does not know a row of it, having lost its disk, says again what came
/// before.
fn go_over(
    item: Item,
    cursor: &mut Cursor,
    rows: &Rows,
    planted: Option<PlantedBug>,
) -> Option<Item> {
    let (log, through) = match &item {
        Item::Run { log, through, .. } | Item::Gap { log, through, .. } => (*log, *through),
    };
    let covered = cursor.position_of(&log, rows);
    if planted == Some(PlantedBug::SaidAgainShownAgain) {
        cursor.advance(MessageName { log, m_id: through }, rows);
        return Some(item);
    }
    if through <= covered {
        return None;
    }
    cursor.advance(MessageName { log, m_id: through }, rows);
    Some(match item {
        Item::Run { mut messages, .. } => {
            messages.retain(|(name, _)| name.m_id > covered);
            let first = rows.first_m_id(&log).unwrap_or_default();
            Item::Run { log, from: Some(covered.next().max(first)), through, messages }
        }
        gap => gap,
    })
}
