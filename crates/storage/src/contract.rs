//! What a push-node asks of its disk.
//!
//! Three rules carry everything else. *Visible is not durable*: what `append`
//! wrote can be read at once, and survives a power cut only after a `sync` that
//! began later. *A log is contiguous*: its messages are numbered without holes
//! from its floor on, declared holes excepted, at every moment and after every
//! opening. *An outcome is never guessed*: after a write or a sync that failed
//! the handle refuses everything, because nobody knows what the disk has.

use std::collections::BTreeMap;
use std::fmt;

use bytes::Bytes;
use interlock_core::admission::AppendEntry;
use interlock_core::clock::WallTime;
use interlock_core::identity::{
    ChainHash, LogName, Mark, MemberOpening, MessageNumber, NamespaceNumber,
};
pub use interlock_core::projection::{ProjectionChanges, ProjectionKind, ProjectionPosition};
use interlock_core::replication::acknowledgements::MemberRecord;
use interlock_core::replication::frames::Hole;
use interlock_core::replication::rows::Row;
use thiserror::Error;

use crate::scrubbing::{ScrubPosition, ScrubStep};

/// Counts writes. A write is durable once a sync has returned its ticket or a
/// later one.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Ticket(u64);

impl Ticket {
    /// Before the first write of a handle.
    pub const ZERO: Self = Self(0);

    pub(crate) const fn next(self) -> Self {
        Self(self.0 + 1)
    }

    /// How many writes the handle had made.
    pub const fn get(self) -> u64 {
        self.0
    }
}

impl fmt::Display for Ticket {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.0)
    }
}

/// A message as read back.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StoredMessage {
    /// Its number.
    pub m_id: MessageNumber,
    /// The encoded `Send`, as its origin made it. Messages of one read share one
    /// buffer: whoever keeps a single one for long copies it.
    pub bytes: Bytes,
}

/// Messages that are appended in one write: all of them, or none.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct AppendBatch {
    /// The wall clock of this node as the batch was made.
    pub arrived_at: WallTime,
    /// Of the logs whose messages come from elsewhere: by when their last one had
    /// been accepted by its origin, on this node's clock. Others were accepted as
    /// they arrived.
    pub accepted_by: BTreeMap<LogName, WallTime>,
    /// In the order of admission; any number of logs.
    pub entries: Vec<AppendEntry>,
}

impl AppendBatch {
    /// Messages that were all accepted as they arrived.
    pub const fn new(arrived_at: WallTime, entries: Vec<AppendEntry>) -> Self {
        Self { arrived_at, accepted_by: BTreeMap::new(), entries }
    }
}

/// Space on the disk that the data folder is on.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Space {
    /// What can still be written.
    pub free_bytes: u64,
    /// What the data folder takes.
    pub used_bytes: u64,
}

/// Why a call on an open database failed.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum StorageError {
    /// A write or a sync failed: what it was to store may be on disk or not. The
    /// handle refuses everything from now on, and the process must end.
    #[error("{action} failed with an unknown outcome: {detail}")]
    UnknownOutcome {
        /// What was tried.
        action: &'static str,
        /// What the engine says.
        detail: String,
    },
    /// An earlier write or sync failed on this handle, or the disk was taken away
    /// under it.
    #[error("the storage has failed before; the process must end and open it again")]
    Failed,
    /// Something could not be read. Nothing was changed.
    #[error("cannot read {what}: {detail}")]
    Read {
        /// What was wanted.
        what: &'static str,
        /// What the engine says.
        detail: String,
    },
    /// The log has no row here.
    #[error("log {log} is not held here")]
    UnknownLog {
        /// The log.
        log: LogName,
    },
    /// An entry does not follow what its log has. Nothing was written.
    #[error("log {log} expects message {expected}, not {found}")]
    NotContiguous {
        /// The log.
        log: LogName,
        /// The number that follows.
        expected: MessageNumber,
        /// The number given.
        found: MessageNumber,
    },
    /// A position that was never synced was to be recorded as durable. Nothing
    /// was written.
    #[error("message {claimed} of log {log} is not durable: only {durable} is")]
    NotDurable {
        /// The log.
        log: LogName,
        /// The number given.
        claimed: MessageNumber,
        /// The last durable one.
        durable: MessageNumber,
    },
    /// A namespace was removed, and something of it is still there.
    #[error("{left} of namespace {namespace} is left after it was removed")]
    NotRemoved {
        /// The namespace.
        namespace: NamespaceNumber,
        /// What was found.
        left: String,
    },
    /// A mark to be recorded has another hash than the log. Nothing was written.
    #[error("the mark {m_id} given for log {log} has another chain hash than the log")]
    MarkDiffers {
        /// The log.
        log: LogName,
        /// The number given.
        m_id: MessageNumber,
    },
}

/// What a cut takes of a log.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TakenOff {
    /// The log.
    pub log: LogName,
    /// The first message that is taken.
    pub first: MessageNumber,
    /// The last one, with which the log ended.
    pub last: Mark,
}

/// The log, what is kept beside it, and the projections, on one disk.
///
/// One thread appends and one syncs, usually not the same; reads come from
/// anywhere. Calls block: they belong on plain threads.
pub trait LogStorage: Send + Sync {
    /// Appends all of a batch or nothing. Visible on return, not durable.
    fn append(&self, batch: &AppendBatch) -> Result<Ticket, StorageError>;

    /// Moves a log over messages that are no longer anywhere. Visible on return,
    /// not durable. `row` is there when the log is new here.
    fn cross_hole(
        &self,
        arrived_at: WallTime,
        row: Option<&Row>,
        hole: &Hole,
    ) -> Result<Ticket, StorageError>;

    /// Makes durable every write that returned before this call began, and tells
    /// the last of them. Writes may go on meanwhile.
    fn sync(&self) -> Result<Ticket, StorageError>;

    /// The messages held from `from` up to and with `through`, in order: at least
    /// one if there is any, then as many as `max_bytes` allows. The first one's
    /// number is above `from` where that is trimmed or in a hole; the result ends
    /// before the next hole.
    fn read(
        &self,
        log: &LogName,
        from: MessageNumber,
        through: MessageNumber,
        max_bytes: usize,
    ) -> Result<Vec<StoredMessage>, StorageError>;

    /// The chain hash after a message; `None` where the log does not reach, below
    /// its floor and inside a hole.
    fn chain_hash_at(
        &self,
        log: &LogName,
        m_id: MessageNumber,
    ) -> Result<Option<ChainHash>, StorageError>;

    /// The last message that surely arrived here before `at`. Approximate, never
    /// later: times are kept about every second or 256 messages, and a clock that
    /// was set back counts as standing still.
    fn arrived_before(&self, log: &LogName, at: WallTime) -> Result<MessageNumber, StorageError>;

    /// The last message that was surely accepted by its origin before `at`, on this
    /// node's clock: what may be trimmed by its age.
    fn accepted_before(&self, log: &LogName, at: WallTime) -> Result<MessageNumber, StorageError>;

    /// By when a message had surely been accepted by its origin; `None` when no
    /// time is kept at or after it.
    fn accepted_by(
        &self,
        log: &LogName,
        m_id: MessageNumber,
    ) -> Result<Option<WallTime>, StorageError>;

    /// What the messages of a log take that are still held, up to and with one, in
    /// the measure of [`log_bytes`](Self::log_bytes).
    fn bytes_through(&self, log: &LogName, m_id: MessageNumber) -> Result<u64, StorageError>;

    /// What a log no longer has from a message on: up to its floor, or to the end of
    /// a hole. `None` where the message is held, or not there yet.
    fn missing_from(
        &self,
        log: &LogName,
        from: MessageNumber,
    ) -> Result<Option<Hole>, StorageError>;

    /// Removes the messages of a log up to and with `through`, in one durable
    /// write with the new floor, which it returns. The caller has made sure that
    /// the bases are durable and that nobody needs them.
    fn trim(&self, log: &LogName, through: MessageNumber) -> Result<Mark, StorageError>;

    /// Records this opening, durably, before anything is accepted.
    fn record_opening(&self, opening: MemberOpening) -> Result<(), StorageError>;

    /// Records how far the logs are durable, inside the database and beside it,
    /// and what is known of others. At least once a second: the next opening
    /// walks from here. `marks` are what the caller has seen become durable: each
    /// is checked, and every log's durable mark is recorded. `members` replace the
    /// last ones.
    fn store_checkpoint(
        &self,
        marks: &[(LogName, Mark)],
        members: &[MemberRecord],
    ) -> Result<(), StorageError>;

    /// A document by its name.
    fn load_document(&self, name: &str) -> Result<Option<Bytes>, StorageError>;

    /// Stores a document durably.
    fn store_document(&self, name: &str, bytes: &[u8]) -> Result<(), StorageError>;

    /// Removes a document durably, if it is there.
    fn remove_document(&self, name: &str) -> Result<(), StorageError>;

    /// How far a projection has read; `None` if it has nothing yet.
    fn projection(&self, kind: ProjectionKind) -> Result<Option<ProjectionPosition>, StorageError>;

    /// A projection's entries with a prefix, by key, those after `after` only.
    fn scan_projection(
        &self,
        kind: ProjectionKind,
        prefix: &[u8],
        after: Option<&[u8]>,
        limit: usize,
    ) -> Result<Vec<(Bytes, Bytes)>, StorageError>;

    /// Applies changes to a projection together with its position. Durable some
    /// time later, in order, which is enough: what is lost is read again from the
    /// log. Only durable positions are taken.
    fn store_projection(
        &self,
        kind: ProjectionKind,
        position: &ProjectionPosition,
        changes: &ProjectionChanges,
    ) -> Result<(), StorageError>;

    /// Makes durable what [`store_projection`](Self::store_projection) has stored: a
    /// base, before the mark moves over what it stands for.
    fn sync_projections(&self) -> Result<(), StorageError>;

    /// Empties a projection, so that it is built anew.
    fn reset_projection(&self, kind: ProjectionKind) -> Result<(), StorageError>;

    /// Removes a namespace whole: its logs, their rows, and what the projections have
    /// of it. No file has any of its messages then, of what is kept beside them, or of
    /// the projections; of rows, floors and holes, which have names, numbers and hashes
    /// only, files may keep what was deleted until they are written anew. Takes as long
    /// as it takes to write all files anew that have messages of it. May be repeated
    /// after a crash in the middle. Only before anything was appended to it by this
    /// handle.
    fn remove_namespace(&self, namespace: NamespaceNumber) -> Result<(), StorageError>;

    /// What [`cut_ends`](Self::cut_ends) takes, parents before what goes on from them;
    /// nothing of logs that do not reach beyond what is kept.
    fn taken_by_cut(
        &self,
        keep: &[(LogName, MessageNumber)],
    ) -> Result<Vec<TakenOff>, StorageError>;

    /// Takes the messages of logs off that lie above the one to be kept of each, and all
    /// logs that go on from those. What the directory made of them stays. Durable on return; this handle
    /// refuses everything then: the database has to be opened again.
    fn cut_ends(&self, keep: &[(LogName, MessageNumber)]) -> Result<(), StorageError>;

    /// Reads what is stored and durable again, about as many bytes as given from a
    /// position on, and checks it. Never fails the handle: what is damaged or cannot be
    /// read is told as a finding, and the next step goes on behind it.
    fn scrub(&self, from: &ScrubPosition, max_bytes: u64) -> Result<ScrubStep, StorageError>;

    /// Space on the disk.
    fn space(&self) -> Result<Space, StorageError>;

    /// What the messages held of a namespace take, before compression.
    fn log_bytes(&self, namespace: NamespaceNumber) -> u64;
}
