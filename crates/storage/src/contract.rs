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
use std::path::PathBuf;

use bytes::Bytes;
use interlock_core::admission::AppendEntry;
use interlock_core::clock::{HybridTime, WallTime};
use interlock_core::identity::{
    ChainHash, Incarnation, LogName, Mark, MemberOpening, MessageNumber, NamespaceNumber,
    NodeNumber,
};
pub use interlock_core::projection::{ProjectionChanges, ProjectionKind, ProjectionPosition};
use interlock_core::replication::acknowledgements::MemberRecord;
use interlock_core::replication::frames::Hole;
use interlock_core::replication::rows::Row;
use thiserror::Error;

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

/// A log as the opening found it. All of it is durable.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RecoveredLog {
    /// Its name and parents.
    pub row: Row,
    /// How far it is held.
    pub mark: Mark,
    /// The stamp of its last message.
    pub last_stamp: HybridTime,
    /// The last trimmed message; the point before the first if none is.
    pub floor: Mark,
}

/// Why an opening shortened a log.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CutReason {
    /// A number is missing below the highest that was found.
    MissingMessage,
    /// The row is there, and none of its messages.
    NoMessages,
    /// A parent's log does not reach the point where this log goes on.
    ParentNotHeld,
    /// The messages do not give the chain hash that is kept for them.
    HashDiffers,
    /// The disk cannot be read there. Only where loss is accepted.
    Unreadable,
    /// Synced messages are missing at the end. Only where loss is accepted.
    SyncedDataLost,
}

impl fmt::Display for CutReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::MissingMessage => "a message is missing",
            Self::NoMessages => "it has no messages",
            Self::ParentNotHeld => "a parent is not held up to its point",
            Self::HashDiffers => "the chain hash differs",
            Self::Unreadable => "it cannot be read",
            Self::SyncedDataLost => "synced messages are lost",
        })
    }
}

/// What an opening took off a log: messages that were never synced, unless loss
/// was accepted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CutLog {
    /// The log.
    pub log: LogName,
    /// Its last message that is kept; `None` when the whole log is gone.
    pub kept: Option<MessageNumber>,
    /// The highest number that was seen of it, on disk or in the durable marks.
    pub found: MessageNumber,
    /// Why.
    pub reason: CutReason,
}

/// What an opening found.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Recovery {
    /// The last opening recorded in this database; `None` if it was empty.
    pub opened_from: Option<Incarnation>,
    /// The node that it was recorded for; another one must not go on with this
    /// database.
    pub opened_as: Option<NodeNumber>,
    /// Every log that is held, by name.
    pub logs: Vec<RecoveredLog>,
    /// What was last known of other members.
    pub members: Vec<MemberRecord>,
    /// What was taken off.
    pub cut: Vec<CutLog>,
    /// The highest stamp of all logs: the clock goes on above it.
    pub last_stamp: HybridTime,
    /// Projections that know more than the log holds: reset and rebuild them.
    pub projections_ahead: Vec<ProjectionKind>,
}

/// Space on the disk that the data folder is on.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Space {
    /// What can still be written.
    pub free_bytes: u64,
    /// What the data folder takes.
    pub used_bytes: u64,
}

/// How to open.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct OpenOptions {
    /// Opens what is left where synced data is damaged, and says what was lost. Only
    /// ever by an operator's word.
    pub accept_loss: bool,
}

/// One finding of damage to synced data.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum DamageFinding {
    /// A log ends before its durable mark.
    LogTooShort {
        /// The log.
        log: LogName,
        /// What the durable marks say.
        durable: MessageNumber,
        /// What can be read.
        held: Option<MessageNumber>,
        /// Why the log ends there.
        reason: CutReason,
    },
    /// A log has another content than was synced.
    LogDiffers {
        /// The log.
        log: LogName,
        /// Where the contents were compared.
        m_id: MessageNumber,
        /// The chain hash that was synced.
        synced: ChainHash,
        /// The chain hash of what can be read.
        found: ChainHash,
    },
    /// The engine, or a checksum, refuses a file.
    Unreadable {
        /// The file or the table.
        file: String,
        /// What it says.
        detail: String,
    },
}

impl fmt::Display for DamageFinding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::LogTooShort { log, durable, held: Some(held), reason } => write!(
                f,
                "log {log} was durable up to message {durable} and can be read up to {held}: {reason}"
            ),
            Self::LogTooShort { log, durable, held: None, reason } => {
                write!(f, "log {log} was durable up to message {durable} and is not held: {reason}")
            }
            Self::LogDiffers { log, m_id, synced, found } => write!(
                f,
                "log {log} at message {m_id} has the chain hash {found} where {synced} was synced"
            ),
            Self::Unreadable { file, detail } => write!(f, "{file}: {detail}"),
        }
    }
}

/// Why a database could not be opened.
#[derive(Debug, Error)]
pub enum OpenError {
    /// Another handle has it open. Trying again helps once that one is gone.
    #[error("{folder} is in use by another process: one process at a time may open it")]
    Locked {
        /// The data folder.
        folder: String,
    },
    /// Data that was synced, and so may have been acknowledged, is missing or
    /// changed. Nothing was touched.
    #[error(
        "synced data in {folder} is damaged: {}. Nothing was changed. Move the folder aside and \
         start again with an empty one: the node takes back what the other members hold, and \
         what it alone held stays in the folder that was moved",
        list(findings)
    )]
    Damaged {
        /// The data folder.
        folder: String,
        /// What was found, at least one.
        findings: Vec<DamageFinding>,
    },
    /// A newer build wrote it. Nothing was touched.
    #[error("{folder} has layout {found}; this build reads up to {supported}")]
    NewerLayout {
        /// The data folder.
        folder: String,
        /// The layout found.
        found: u32,
        /// The highest layout known here.
        supported: u32,
    },
    /// The operating system refuses.
    #[error("cannot {action} {}: {source}", path.display())]
    File {
        /// What was tried.
        action: &'static str,
        /// On which file.
        path: PathBuf,
        /// What the system says.
        source: std::io::Error,
    },
    /// The engine refuses for another reason than damage.
    #[error("cannot open the database in {folder}: {detail}")]
    Engine {
        /// The data folder.
        folder: String,
        /// What it says.
        detail: String,
    },
}

fn list(findings: &[DamageFinding]) -> String {
    const SHOWN: usize = 3;
    let mut text =
        findings.iter().take(SHOWN).map(ToString::to_string).collect::<Vec<_>>().join("; ");
    if findings.len() > SHOWN {
        text.push_str(&format!("; and {} more", findings.len() - SHOWN));
    }
    text
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
    /// A mark to be recorded has another hash than the log. Nothing was written.
    #[error("the mark {m_id} given for log {log} has another chain hash than the log")]
    MarkDiffers {
        /// The log.
        log: LogName,
        /// The number given.
        m_id: MessageNumber,
    },
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

    /// Space on the disk.
    fn space(&self) -> Result<Space, StorageError>;

    /// What the messages held of a namespace take, before compression.
    fn log_bytes(&self, namespace: NamespaceNumber) -> u64;
}
