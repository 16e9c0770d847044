//! Taking the end off a log by an operator's word: of one that members hold with two
//! contents (docs/runbook/content-conflict.md). What goes on from the part that is taken off goes with it.

use std::collections::BTreeMap;
use std::sync::Arc;

use interlock_core::identity::{LogName, Mark, MessageNumber};

use crate::contract::{ProjectionKind, TakenOff};
use crate::engine::{Engine, EngineError, Table};
use crate::held_logs::{HeldLog, HeldLogs, LogShape};
use crate::keys::chain_point::ChainPoint;
use crate::keys::projection;
use crate::log_walk::delete_after;
use crate::removing::delete_log;

/// A log that loses its end: where it ends then, and nothing where the whole of it goes.
#[derive(Debug)]
struct Loser {
    shape: Arc<LogShape>,
    last: Mark,
    end: Option<ChainPoint>,
}

impl Loser {
    fn taken(&self, log: LogName) -> TakenOff {
        let first = self.shape.row.first_m_id();
        let first = self.end.map_or(first, |end| end.mark.m_id.next());
        TakenOff { log, first, last: self.last }
    }
}

/// What is taken off.
#[derive(Debug)]
pub(crate) struct Cut {
    losers: BTreeMap<LogName, Loser>,
}

impl Cut {
    /// What is taken when logs end so: behind a point, or as a whole.
    pub(crate) fn of(held: &HeldLogs, ends: BTreeMap<LogName, Option<ChainPoint>>) -> Self {
        let mut cut = Self { losers: BTreeMap::new() };
        for (log, end) in ends {
            if let Some(named) = held.get(&log) {
                cut.insert(log, named, end);
            }
        }
        while let Some((log, orphan)) = cut.next_orphan(held) {
            cut.insert(log, orphan, None);
        }
        cut
    }

    fn insert(&mut self, log: LogName, held: &HeldLog, end: Option<ChainPoint>) {
        let (shape, last) = (Arc::clone(&held.shape), held.appended.point.mark);
        self.losers.insert(log, Loser { shape, last, end });
    }

    /// A log that goes on from what is taken, and is not taken whole yet.
    fn next_orphan<'a>(&self, held: &'a HeldLogs) -> Option<(LogName, &'a HeldLog)> {
        let is_taken = |log: LogName, m_id: MessageNumber| {
            let loser = self.losers.get(&log);
            loser.is_some_and(|loser| loser.end.is_none_or(|end| end.mark.m_id < m_id))
        };
        let stays = |log: &LogName| self.losers.get(log).is_none_or(|loser| loser.end.is_some());
        let mut orphans = held.iter().filter(|(log, held)| {
            let mut parents = held.shape.row.parents.iter();
            stays(log)
                && parents.any(|parent| is_taken(log.path().log(parent.incarnation), parent.m_id))
        });
        orphans.next().map(|(log, held)| (*log, held))
    }

    pub(crate) fn is_nothing(&self) -> bool {
        self.losers.is_empty()
    }

    /// What is taken, each log before those that go on from it.
    pub(crate) fn taken(&self) -> Vec<TakenOff> {
        let mut taken: Vec<_> = self.losers.iter().map(|(log, it)| it.taken(*log)).collect();
        taken.sort_by_key(|taken| (self.losers[&taken.log].shape.row.first_m_id(), taken.log));
        taken
    }

    /// The durable marks of all logs as they are afterwards.
    pub(crate) fn marks_after(&self, held: &HeldLogs) -> Vec<(LogName, Mark)> {
        let marks = held.durable_marks().filter_map(|(log, durable)| {
            let Some(loser) = self.losers.get(&log) else { return Some((log, durable)) };
            let end = loser.end?.mark;
            Some((log, if durable.m_id < end.m_id { durable } else { end }))
        });
        marks.collect()
    }

    /// The directory goes on from where the logs end then, with the effects of what is
    /// taken off: they reach the members as a base.
    pub(crate) fn lower_directory<E: Engine>(&self, engine: &E) -> Result<E::Batch, EngineError> {
        let mut batch = E::Batch::default();
        let key = projection::position_key(ProjectionKind::Directory);
        let Some(value) = engine.get(Table::Projections, &key)? else { return Ok(batch) };
        let mut position = projection::decode_position(&value)?;
        position.positions.retain_mut(|(log, m_id)| {
            let Some(loser) = self.losers.get(log) else { return true };
            *m_id = loser.end.map_or(*m_id, |end| end.mark.m_id.min(*m_id));
            loser.end.is_some()
        });
        engine.put(&mut batch, Table::Projections, &key, &projection::encode_position(&position));
        Ok(batch)
    }

    /// The messages themselves.
    pub(crate) fn batch<E: Engine>(&self, engine: &E) -> Result<E::Batch, EngineError> {
        let mut batch = E::Batch::default();
        for Loser { shape, end, .. } in self.losers.values() {
            match end {
                Some(end) => delete_after(engine, &mut batch, shape, end)?,
                None => delete_log(engine, &mut batch, shape.number)?,
            }
        }
        Ok(batch)
    }
}
