//! What an opening finds on a disk, what it takes off, and why it refuses.

use std::fmt;
use std::path::PathBuf;

use interlock_core::clock::HybridTime;
use interlock_core::identity::{ChainHash, Incarnation, LogName, Mark, MessageNumber, NodeNumber};
use interlock_core::projection::ProjectionKind;
use interlock_core::replication::acknowledgements::MemberRecord;
use interlock_core::replication::rows::Row;
use thiserror::Error;

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
    /// The last message that is not held below the mark: the floor, or the end of the
    /// last hole above it.
    pub last_missing: MessageNumber,
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
         what it alone held stays in the folder that was moved; or have `interlock node recover` \
         open what is left of it",
        list(findings)
    )]
    Damaged {
        /// The data folder.
        folder: String,
        /// What was found, at least one.
        findings: Vec<DamageFinding>,
    },
    /// There is nothing to look at. Nothing was touched.
    #[error("there is no database in {folder}: name the `data_dir` of a push-node")]
    NoDatabase {
        /// The folder, which need not be there.
        folder: String,
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
