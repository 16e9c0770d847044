//! Repairing a log that members hold with two contents (docs/runbook/content-conflict.md): on the members whose content gives way, the log
//! loses its end, and what goes on from that goes with it; then the content of the
//! others comes as any message does.
//!
//! What is to be cut is noted on the disk and done at the next opening, before anyone
//! reads a log. First the messages that nobody else has are copied
//! ([`crate::bringing_back`] publishes them again), so that a crash at any step finds
//! the note, or the copies, or both.

use std::collections::BTreeSet;
use std::sync::Arc;

use interlock_core::identity::{ChainHash, LogName, Mark, MessageNumber};
use interlock_core::limits::MAX_VERIFIED_LOGS;
use interlock_rpc::convert::{IntoCore as _, IntoWire as _, InvalidField};
use interlock_rpc::v1;
use interlock_storage::{LogStorage, Recovery, StorageError, TakenOff};
use prost::Message as _;
use thiserror::Error;

use crate::bringing_back;
use crate::context::NodeContext;
use crate::fencing::is_fenced;
use crate::open_node::Reopening;
use crate::opening::{OpeningError, rebuild_projections};

/// The note of what the next opening cuts.
const DOCUMENT: &str = "repair";
/// The note of the last repair that was carried out.
const DONE: &str = "repaired";

/// What names one repair, so that it is not done twice.
pub type RepairId = [u8; 16];

/// What a node is asked to cut.
#[derive(Clone, Debug)]
pub struct Repair {
    id: RepairId,
    keep: Vec<(LogName, Mark)>,
    bring_back: BTreeSet<LogName>,
}

impl Repair {
    /// Reads a request.
    pub fn of(request: v1::RepairRequest) -> Result<Self, InvalidField> {
        let v1::RepairRequest { repair_id, keep, bring_back, dry_run: _ } = request;
        let id = RepairId::try_from(&repair_id[..])
            .map_err(|_| InvalidField::new("repair_id", "has to be 16 bytes"))?;
        for (field, count) in [("keep", keep.len()), ("bring_back", bring_back.len())] {
            if count > MAX_VERIFIED_LOGS {
                let text = format!("has {count} entries, more than {MAX_VERIFIED_LOGS}");
                return Err(InvalidField::new(field, text));
            }
        }
        let keep = keep.into_iter().enumerate().map(|(index, mark)| {
            kept(mark).map_err(|error| error.within(&format!("keep[{index}]")))
        });
        let logs = bring_back.into_iter().enumerate().map(|(index, log)| {
            log.into_core().map_err(|error| error.within(&format!("bring_back[{index}]")))
        });
        Ok(Self {
            id,
            keep: keep.collect::<Result<_, _>>()?,
            bring_back: logs.collect::<Result<_, _>>()?,
        })
    }

    fn request(&self) -> v1::RepairRequest {
        v1::RepairRequest {
            repair_id: bytes::Bytes::copy_from_slice(&self.id),
            keep: self.keep.iter().map(|kept| kept.into_wire()).collect(),
            bring_back: self.bring_back.iter().map(|log| log.into_wire()).collect(),
            dry_run: false,
        }
    }

    fn cuts(&self) -> Vec<(LogName, MessageNumber)> {
        self.keep.iter().map(|(log, keep)| (*log, keep.m_id)).collect()
    }
}

/// Why nothing is repaired.
#[derive(Debug, Error)]
pub enum RepairError {
    /// What others go on from is not cut.
    #[error("{0} is this node's own log: its content stays, and the others repair theirs")]
    Own(LogName),
    /// What is taken off could not go on from here.
    #[error(
        "this node leaves the namespace of {0}: put the namespace back, or repair at another member"
    )]
    Leaving(LogName),
    /// It would be repaired in vain.
    #[error("another process goes by this node's name: repair there")]
    Fenced,
    /// Where the cut would be, the log has other content, or its hash is not kept.
    #[error(
        "what is to be kept of {log} up to {m_id} is not what this node has: it is trimmed, or the \
         first message that differs lies before it"
    )]
    NotHeld {
        /// The log.
        log: LogName,
        /// The last message to be kept.
        m_id: MessageNumber,
    },
    /// One repair after the other.
    #[error(
        "an earlier repair is about to be carried out: try again when the node has opened anew"
    )]
    Noted,
    /// One repair after the other.
    #[error("an earlier repair is not done yet; {left} messages are to be published again")]
    UnderWay {
        /// How many.
        left: u64,
    },
    /// The disk refuses.
    #[error(transparent)]
    Storage(#[from] StorageError),
}

/// A log and the last message to be kept of it; with number 0 there is no hash.
fn kept(mark: v1::LogMark) -> Result<(LogName, Mark), InvalidField> {
    if mark.m_id == 0 && mark.hash.is_empty() {
        let log = mark.log.ok_or_else(|| InvalidField::missing("log"))?.into_core()?;
        return Ok((log, Mark { m_id: MessageNumber::ZERO, hash: ChainHash::default() }));
    }
    mark.into_core()
}

/// Answers an operator: what a repair takes off here. Unless only that is asked for, it
/// is noted, and the database is opened anew to do it.
pub async fn repair(
    context: &NodeContext,
    repair: Repair,
    dry_run: bool,
) -> Result<Vec<TakenOff>, RepairError> {
    let topology = context.topology.current();
    let me = context.me().node;
    if is_fenced(context) {
        return Err(RepairError::Fenced);
    }
    for (log, _) in &repair.keep {
        if log.origin == me {
            return Err(RepairError::Own(*log));
        }
        if topology.is_leaving(me, log.namespace) {
            return Err(RepairError::Leaving(*log));
        }
    }
    let (storage, reopen) = (context.storage.clone(), context.reopen.clone());
    let turn = Arc::clone(&context.repairing).lock_owned().await;
    // What is noted is done, also if nobody waits for the answer any more.
    let noting = tokio::task::spawn_blocking(move || {
        let _turn = turn;
        let (taken, is_noted) = look_and_note(storage.as_ref(), &repair, dry_run)?;
        if is_noted {
            for taken in &taken {
                tracing::warn!(log = %taken.log, first = %taken.first, last = %taken.last.m_id,
                    "a repair takes the end off a log");
            }
            reopen.send_replace(Some(Reopening::AtOnce));
        }
        Ok(taken)
    });
    match noting.await {
        Ok(taken) => taken,
        Err(stopped) if stopped.is_panic() => std::panic::resume_unwind(stopped.into_panic()),
        // The runtime ends.
        Err(_) => Err(StorageError::Failed.into()),
    }
}

/// What the repair takes off, and whether that is noted to be done.
fn look_and_note(
    storage: &dyn LogStorage,
    repair: &Repair,
    dry_run: bool,
) -> Result<(Vec<TakenOff>, bool), RepairError> {
    for (log, keep) in &repair.keep {
        if !is_held(storage, log, *keep)? {
            return Err(RepairError::NotHeld { log: *log, m_id: keep.m_id });
        }
    }
    // Asked for again: what was cut then has come back as what all have by now.
    if let Some(done) = Note::load(storage, DONE)?.filter(|done| done.repair.id == repair.id) {
        return Ok((done.taken, false));
    }
    let taken = storage.taken_by_cut(&repair.cuts())?;
    if dry_run || taken.is_empty() {
        return Ok((taken, false));
    }
    let left = bringing_back::messages_left(storage)?;
    if left > 0 {
        return Err(RepairError::UnderWay { left });
    }
    if let Some(note) = Note::load(storage, DOCUMENT)? {
        // Whoever was answered first relies on it.
        return match note.repair.id == repair.id {
            true => Ok((note.taken, true)),
            false => Err(RepairError::Noted),
        };
    }
    let note = Note { repair: repair.clone(), taken };
    storage.store_document(DOCUMENT, &note.encode())?;
    Ok((note.taken, true))
}

fn is_held(storage: &dyn LogStorage, log: &LogName, mark: Mark) -> Result<bool, StorageError> {
    let nothing = mark.m_id == MessageNumber::ZERO;
    Ok(nothing || storage.chain_hash_at(log, mark.m_id)? == Some(mark.hash))
}

/// What is to be done, and what the operator was told that it takes.
struct Note {
    repair: Repair,
    taken: Vec<TakenOff>,
}

/// A note as it is kept.
#[derive(Clone, PartialEq, prost::Message)]
struct StoredNote {
    #[prost(message, optional, tag = "1")]
    request: Option<v1::RepairRequest>,
    #[prost(message, repeated, tag = "2")]
    taken: Vec<v1::TakenOff>,
}

impl Note {
    fn encode(&self) -> Vec<u8> {
        let request = Some(self.repair.request());
        let taken = self.taken.iter().map(taken_into_wire).collect();
        StoredNote { request, taken }.encode_to_vec()
    }

    fn load(storage: &dyn LogStorage, document: &str) -> Result<Option<Self>, StorageError> {
        let Some(note) = storage.load_document(document)? else { return Ok(None) };
        let unreadable =
            |detail: String| StorageError::Read { what: "the note of a repair", detail };
        let note = StoredNote::decode(note).map_err(|error| unreadable(error.to_string()))?;
        let read = || -> Result<Self, InvalidField> {
            let request = note.request.ok_or_else(|| InvalidField::missing("request"))?;
            let taken = note.taken.into_iter().map(|taken| {
                let last = taken.last.ok_or_else(|| InvalidField::missing("last"))?;
                let (log, last) = last.into_core()?;
                Ok(TakenOff { log, first: MessageNumber::new(taken.first), last })
            });
            Ok(Self { repair: Repair::of(request)?, taken: taken.collect::<Result<_, _>>()? })
        };
        read().map(Some).map_err(|error| unreadable(error.to_string()))
    }

    /// Whether what is to be taken is still what the operator was told.
    fn still_holds(&self, storage: &dyn LogStorage) -> Result<bool, StorageError> {
        let last = self.taken.iter().map(|taken| (&taken.log, taken.last));
        let keep = self.repair.keep.iter().map(|(log, keep)| (log, *keep));
        for (log, mark) in keep.chain(last) {
            if !is_held(storage, log, mark)? {
                return Ok(false);
            }
        }
        Ok(true)
    }
}

/// Does what was noted, before anything is done with what the opening found. Whether
/// the database has to be opened once more. A note that can no longer be carried out is
/// let go of: the next comparison of the members shows what is left.
pub fn carry_out(storage: &dyn LogStorage, recovery: &Recovery) -> Result<bool, OpeningError> {
    match prepare(storage, recovery) {
        Ok(None) => Ok(false),
        Ok(Some(cuts)) => {
            tracing::info!(logs = cuts.len(), "cutting the logs that are repaired");
            storage.cut_ends(&cuts)?;
            Ok(true)
        }
        Err(OpeningError::Storage(StorageError::Read { what, detail })) => {
            tracing::error!(what, detail, "a repair cannot be carried out, and is let go of");
            // First: without the note nobody would know that nothing was taken off.
            bringing_back::forget(storage)?;
            storage.remove_document(DOCUMENT)?;
            Ok(false)
        }
        Err(error) => Err(error),
    }
}

/// Makes sure that nothing of what is cut is needed any more: what to cut then.
fn prepare(
    storage: &dyn LogStorage,
    recovery: &Recovery,
) -> Result<Option<Vec<(LogName, MessageNumber)>>, OpeningError> {
    let Some(note) = Note::load(storage, DOCUMENT)? else { return Ok(None) };
    let Note { repair, taken: told } = &note;
    let taken = storage.taken_by_cut(&repair.cuts())?;
    if taken.is_empty() || !note.still_holds(storage)? {
        match taken.is_empty() {
            true => storage.store_document(DONE, &note.encode())?,
            false => {
                tracing::warn!(
                    "the logs have changed since a repair was asked for: nothing is cut"
                );
            }
        }
        storage.remove_document(DOCUMENT)?;
        return Ok(None);
    }
    // The effects on the channels come back as a base: they have to be there first.
    if let Some(me) = recovery.opened_as {
        rebuild_projections(storage, recovery, me)?.store(storage)?;
        storage.sync_projections()?;
    }
    let was_told = |log: &LogName| told.iter().any(|told| told.log == *log);
    let comes_back = |log: &LogName| repair.bring_back.contains(log) || !was_told(log);
    let brought_back: Vec<TakenOff> =
        taken.into_iter().filter(|taken| comes_back(&taken.log)).collect();
    bringing_back::copy(storage, repair.id, &brought_back)?;
    Ok(Some(repair.cuts()))
}

/// What is taken, as it is told.
pub fn taken_into_wire(taken: &TakenOff) -> v1::TakenOff {
    let last = (taken.log, taken.last).into_wire();
    v1::TakenOff { first: taken.first.get(), last: Some(last) }
}
