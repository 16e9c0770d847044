//! Reading everything that is stored again, a little at a time, to find out whether
//! the disk still has what was synced before anybody needs it.
//!
//! Of each log it is checked that its messages follow one another and give the chain
//! hashes that are kept: every so many messages, and at the durable mark. The other
//! tables are only read, which has the engine check its blocks. What is read comes by
//! once and takes no cached block's place, but for the few blocks that say where the
//! messages of a log begin and which chain hashes they have; a block that is cached is
//! good and is not read from the disk until it has left the cache.

use std::fmt;
use std::ops::ControlFlow;
use std::sync::{Arc, RwLock};

use interlock_core::identity::{LogName, Mark, MessageNumber};
use interlock_core::limits::CHAIN_HASH_INTERVAL;

use crate::engine::{Engine, EngineError, ScanFrom, Table};
use crate::held_logs::{HeldLog, HeldLogs};
use crate::keys::chain_point;
use crate::keys::message_run::MESSAGE_OVERHEAD_BYTES;
use crate::reading::visit_messages_by;

/// Places that one step looks at, however little they have: a step over very many
/// empty logs ends too.
const PLACES_PER_STEP: usize = 256;

/// Where a scrub goes on; by default at the beginning of everything.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ScrubPosition(Place);

#[derive(Clone, Debug, PartialEq, Eq)]
enum Place {
    /// At the first log after this one.
    LogAfter(Option<LogName>),
    /// In a log.
    Log(LogName, LogProgress),
    /// In another table, behind a key.
    Table(Table, Vec<u8>),
}

impl Default for Place {
    fn default() -> Self {
        Self::LogAfter(None)
    }
}

/// How far a log was read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct LogProgress {
    /// The last message read, with the chain hash that reading gave.
    read: Mark,
    /// The last message whose chain hash is known from elsewhere.
    confirmed: MessageNumber,
}

/// What one step of a scrub read and found.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ScrubStep {
    /// Keys and values read, before compression.
    pub bytes: u64,
    /// What is wrong. The rest of that log or table is passed over.
    pub finding: Option<ScrubFinding>,
    /// Where the next step begins; `None` when everything was read.
    pub next: Option<ScrubPosition>,
}

/// Damage to stored data that a scrub came upon.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ScrubFinding {
    /// Where.
    pub place: ScrubbedPlace,
    /// What is wrong there.
    pub detail: String,
}

/// Where a scrub came upon damage.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ScrubbedPlace {
    /// A log.
    Log {
        /// The log.
        log: LogName,
        /// The first message that may be damaged: those before it are as they were
        /// written.
        first: MessageNumber,
    },
    /// A table that is kept beside the messages, by its name.
    Table(&'static str),
}

impl fmt::Display for ScrubFinding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.place {
            ScrubbedPlace::Log { log, first } => {
                write!(f, "log {log} from message {first} on: {}", self.detail)
            }
            ScrubbedPlace::Table(name) => write!(f, "table {name}: {}", self.detail),
        }
    }
}

/// See [`LogStorage::scrub`](crate::LogStorage::scrub).
///
/// `await_trim` waits until nobody is moving a floor: what is trimmed is gone a moment
/// before its log says so.
pub(crate) fn scrub<E: Engine>(
    engine: &E,
    held: &RwLock<HeldLogs>,
    await_trim: &dyn Fn(),
    from: &ScrubPosition,
    max_bytes: u64,
) -> ScrubStep {
    let mut step = ScrubStep { next: Some(from.clone()), ..ScrubStep::default() };
    for _ in 0..PLACES_PER_STEP {
        let Some(ScrubPosition(place)) = step.next.take() else { break };
        let left = max_bytes.saturating_sub(step.bytes).max(1);
        let looked = look(engine, held, await_trim, place, left);
        step.bytes += looked.bytes;
        step.finding = looked.finding;
        step.next = looked.next.map(ScrubPosition);
        if step.finding.is_some() || step.bytes >= max_bytes {
            break;
        }
    }
    step
}

/// What is seen at one place.
struct Looked {
    bytes: u64,
    finding: Option<ScrubFinding>,
    next: Option<Place>,
}

fn look<E: Engine>(
    engine: &E,
    held: &RwLock<HeldLogs>,
    await_trim: &dyn Fn(),
    place: Place,
    max_bytes: u64,
) -> Looked {
    let known =
        |log: &LogName| held.read().expect("no holder of this lock panics").get(log).cloned();
    match place {
        Place::LogAfter(before) => {
            let next =
                held.read().expect("no holder of this lock panics").next_log(before.as_ref());
            let next = match next.and_then(|log| known(&log)) {
                Some(held) => {
                    let log = held.shape.row.log;
                    let floor = held.shape.floor.point.mark;
                    Place::Log(log, LogProgress { read: floor, confirmed: floor.m_id })
                }
                None => Place::Table(Table::Meta, Vec::new()),
            };
            Looked { bytes: 0, finding: None, next: Some(next) }
        }
        Place::Log(log, progress) => match known(&log) {
            Some(log) => LogScrub::of(&log, progress).run(engine, held, await_trim, max_bytes),
            None => Looked { bytes: 0, finding: None, next: Some(Place::LogAfter(Some(log))) },
        },
        Place::Table(table, after) => look_at_table(engine, table, after, max_bytes),
    }
}

/// One stretch of one log.
struct LogScrub<'a> {
    held: &'a HeldLog,
    progress: LogProgress,
    bytes: u64,
    /// Marks that a chain hash should be kept for.
    to_confirm: Vec<Mark>,
}

impl<'a> LogScrub<'a> {
    fn of(held: &'a HeldLog, mut progress: LogProgress) -> Self {
        let floor = held.shape.floor.point.mark;
        if progress.read.m_id < floor.m_id {
            // It was trimmed meanwhile.
            progress = LogProgress { read: floor, confirmed: floor.m_id };
        }
        while let Some(end) = held.shape.holes.get(&progress.read.m_id.next()) {
            progress = LogProgress { read: end.point.mark, confirmed: end.point.mark.m_id };
        }
        Self { held, progress, bytes: 0, to_confirm: Vec::new() }
    }

    fn run<E: Engine>(
        mut self,
        engine: &E,
        logs: &RwLock<HeldLogs>,
        await_trim: &dyn Fn(),
        max_bytes: u64,
    ) -> Looked {
        let log = self.held.shape.row.log;
        let end = self.held.durable.point.mark;
        let read = self.read(engine, max_bytes);
        let wrong = match self.confirm(engine, end) {
            Some(wrong) => Some(wrong),
            None => read.err().map(|detail| (self.progress.read.m_id.next(), detail)),
        };
        let Some((first, detail)) = wrong else {
            let next = match self.progress.read.m_id >= end.m_id {
                true => Place::LogAfter(Some(log)),
                false => Place::Log(log, self.progress),
            };
            return Looked { bytes: self.bytes, finding: None, next: Some(next) };
        };
        await_trim();
        let now = logs.read().expect("no holder of this lock panics").get(&log).cloned();
        if now.is_none_or(|now| !Arc::ptr_eq(&now.shape, &self.held.shape)) {
            // It was trimmed under the reading: once more from its floor.
            let next = Some(Place::Log(log, self.progress));
            return Looked { bytes: self.bytes, finding: None, next };
        }
        let finding = ScrubFinding { place: ScrubbedPlace::Log { log, first }, detail };
        Looked { bytes: self.bytes, finding: Some(finding), next: Some(Place::LogAfter(Some(log))) }
    }

    /// Reads on to the durable mark, the next hole or the bound. An error says what
    /// is wrong with the message behind the last one read.
    fn read<E: Engine>(&mut self, engine: &E, max_bytes: u64) -> Result<(), String> {
        let shape = &self.held.shape;
        let from = self.progress.read.m_id.next();
        let hole = shape.next_hole(self.progress.read.m_id).map(MessageNumber::previous);
        let end = self.held.durable.point.mark.m_id;
        let through = hole.map_or(end, |before_hole| before_hole.min(end));
        if from > through {
            return Ok(());
        }
        let mut is_full = false;
        let visited =
            visit_messages_by(engine, E::scan_once, shape.number, from, through, |m_id, bytes| {
                if m_id != self.progress.read.m_id.next() {
                    return ControlFlow::Break(());
                }
                let hash = self.progress.read.hash.then(bytes);
                self.progress.read = Mark { m_id, hash };
                self.bytes += bytes.len() as u64 + MESSAGE_OVERHEAD_BYTES;
                is_full = self.bytes >= max_bytes;
                if m_id.get().is_multiple_of(CHAIN_HASH_INTERVAL) {
                    self.to_confirm.push(self.progress.read);
                }
                if is_full { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
            });
        visited.map_err(EngineError::into_detail)?;
        match is_full || self.progress.read.m_id == through {
            true => Ok(()),
            false => Err("the message is missing".to_owned()),
        }
    }

    /// Compares what was read with the chain hashes that are kept: the first message
    /// that may be wrong, and why.
    fn confirm<E: Engine>(&mut self, engine: &E, end: Mark) -> Option<(MessageNumber, String)> {
        for mark in std::mem::take(&mut self.to_confirm) {
            let key = chain_point::key(self.held.shape.number, mark.m_id);
            let first = self.progress.confirmed.next();
            let kept = match engine.get(Table::Sparse, &key) {
                Ok(kept) => kept.map(|value| chain_point::decode(&key, &value)).transpose(),
                Err(error) => return Some((first, error.into_detail())),
            };
            match kept {
                Ok(Some(kept)) if kept.mark != mark => return Some((first, differs(mark.m_id))),
                Ok(Some(_)) => self.progress.confirmed = mark.m_id,
                // An opening keeps it anew.
                Ok(None) => {}
                Err(malformed) => return Some((first, malformed.to_string())),
            }
        }
        let read = self.progress.read;
        let contradicts = read.m_id == end.m_id && read.hash != end.hash;
        contradicts.then(|| (self.progress.confirmed.next(), differs(end.m_id)))
    }
}

fn differs(m_id: MessageNumber) -> String {
    format!("the messages up to {m_id} do not give the chain hash that was stored with them")
}

fn look_at_table<E: Engine>(engine: &E, table: Table, after: Vec<u8>, max_bytes: u64) -> Looked {
    let mut lower = after;
    lower.push(0);
    let (mut bytes, mut last) = (0, None);
    let visit: crate::engine::Visit<'_> = &mut |key, value| {
        bytes += (key.len() + value.len()) as u64;
        if bytes < max_bytes {
            return ControlFlow::Continue(());
        }
        last = Some(key.to_vec());
        ControlFlow::Break(())
    };
    // Every key begins with a tag, none of which is 255.
    let scanned = engine.scan_once(table, ScanFrom::LowerBound, &lower, &[u8::MAX], visit);
    let finding = scanned.err().map(|error| ScrubFinding {
        place: ScrubbedPlace::Table(table.name()),
        detail: error.into_detail(),
    });
    let next = match last {
        Some(last) => Some(Place::Table(table, last)),
        None => match table {
            Table::Log | Table::Meta => Some(Place::Table(Table::Sparse, Vec::new())),
            Table::Sparse => Some(Place::Table(Table::Projections, Vec::new())),
            Table::Projections => None,
        },
    };
    Looked { bytes, finding, next }
}
