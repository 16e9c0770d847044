//! The subscriber of a small world, who reads alone at a node and goes to others
//! with its cursor.

use std::time::Duration;

use interlock_core::clock::Moment;
use interlock_core::cursor::Cursor;
use interlock_core::delivery::{ChannelFilter, OriginNews, ReaderPosition, Step};
use interlock_core::identity::{MessageName, MessageNumber, NamespaceNumber};
use interlock_core::message::{MessageHead, MessageKind};
use interlock_core::names::ChannelName;
use interlock_core::replication::rows::Rows;

use crate::delivery::{History, LogRange, UNKNOWN_BRANCH_PATIENCE, in_order_of_history};
use crate::planted_bug::PlantedBug;

use super::node::Node;

pub(super) struct Subscriber {
    pub(super) at: usize,
    filter: ChannelFilter,
    position: ReaderPosition,
    /// What came, in order.
    pub(super) came: Vec<MessageName>,
    /// The tips of unknown branches that it was told as gaps.
    pub(super) gaps: Vec<MessageName>,
}

impl Subscriber {
    /// Before everything, of all channels or of one.
    pub(super) fn new(namespace: NamespaceNumber, filter: ChannelFilter, node: &Node) -> Self {
        let rows = node.admission.logs().rows();
        let position = ReaderPosition::at(
            Cursor::new(namespace),
            &filter,
            rows,
            Moment::START,
            Duration::ZERO,
        );
        Self { at: 0, filter, position, came: Vec::new(), gaps: Vec::new() }
    }

    pub(super) fn filter(&self) -> &ChannelFilter {
        &self.filter
    }

    pub(super) fn cursor(&self) -> &Cursor {
        self.position.own().expect("it reads alone")
    }

    pub(super) fn is_held_back(&self) -> bool {
        self.position.held_origins().next().is_some()
    }

    /// Another one with the same cursor, at a node.
    pub(super) fn resumed_at(
        &self,
        at: usize,
        node: &Node,
        now: Moment,
        planted: Option<PlantedBug>,
    ) -> Self {
        let rows = node.admission.logs().rows();
        let mut cursor = self.cursor().clone();
        if planted == Some(PlantedBug::UnknownTipsForgotten) {
            let tips: Vec<MessageName> =
                cursor.tips().filter(|tip| rows.ancestry_is_known(tip)).collect();
            cursor = Cursor::new(cursor.namespace());
            tips.into_iter().for_each(|tip| cursor.advance(tip, rows));
        }
        let position = ReaderPosition::at(cursor, &self.filter, rows, now, UNKNOWN_BRANCH_PATIENCE);
        let (came, gaps) = (self.came.clone(), self.gaps.clone());
        Self { at, filter: self.filter.clone(), position, came, gaps }
    }

    pub(super) fn lose_patience(&mut self, node: &Node, now: Moment) {
        let told = self.position.handle_timeout(now, node.admission.logs().rows());
        self.gaps.extend(told.into_iter().map(|branch| branch.tip));
    }

    /// Reads all that the node holds durably and that is new: what is wrong with
    /// that, by the rows of all logs that ever were.
    pub(super) fn read(
        &mut self,
        node: &Node,
        all_rows: &Rows,
        planted: Option<PlantedBug>,
    ) -> Result<(), String> {
        let rows = node.admission.logs().rows();
        for (origin, (incarnation, heard_at)) in &node.heard {
            let (origin, incarnation, heard_at) = (*origin, *incarnation, *heard_at);
            self.position.heard(&OriginNews { origin, incarnation, heard_at });
        }
        self.position.rows_changed(rows);
        let held: Vec<_> = self.position.held_origins().collect();
        let drops_forks = planted == Some(PlantedBug::ForkTailDropped);
        let mut ranges = Vec::new();
        for (log, mark) in node.durable().filter(|(log, _)| !held.contains(&log.origin)) {
            let highest = self.cursor().tips_of_path(&log.path()).map(|tip| tip.m_id).max();
            let has = match highest.filter(|_| drops_forks) {
                Some(highest) => highest,
                None => self.cursor().position_of(&log, rows),
            };
            let first = rows.first_m_id(&log).unwrap_or(MessageNumber::new(1));
            ranges.push(LogRange { log, from: has.next().max(first), through: mark.m_id });
        }
        let in_disorder = planted == Some(PlantedBug::ParentsReadLast);
        let order = in_order_of_history(&node.storage, &ranges, rows, in_disorder);
        for found in order.map_err(|error| error.to_string())? {
            let (name, bytes) = match found {
                History::Message(found) => found,
                History::Missing(LogRange { log, through, .. }) => {
                    let last = MessageName { log, m_id: through };
                    if self.position.step_gap(&last, rows) == Step::Deliver {
                        self.gaps.push(last);
                    }
                    self.position.pass(&log, through, rows);
                    continue;
                }
            };
            let Ok(head) = MessageHead::decode(&bytes) else { continue };
            let channel = ChannelName::parse(head.channel).map_err(|error| error.to_string())?;
            let is_wanted =
                head.kind == MessageKind::Publication && self.filter.matches(head.channel);
            if is_wanted && self.position.step(&name, &channel, rows) == Step::Deliver {
                if self.cursor().covers(&name, all_rows) || self.came.contains(&name) {
                    return Err(format!("{name} comes again, or behind what follows it"));
                }
                self.came.push(name);
            }
            self.position.pass(&name.log, name.m_id, rows);
        }
        Ok(())
    }

    /// Whether a message may be missing, as it was told.
    pub(super) fn is_in_gap(&self, name: &MessageName) -> bool {
        self.gaps.iter().any(|tip| tip.log.path() == name.log.path() && name.m_id <= tip.m_id)
    }

    /// What identifies its state.
    pub(super) fn signature(&self) -> String {
        format!("{} {:?} {:?} {:?}", self.at, self.position, self.came, self.gaps)
    }
}
