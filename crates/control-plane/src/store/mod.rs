//! Where the control-plane keeps what it must not forget: the contract, and
//! what it promises.
//!
//! A store holds a few small documents, each with a revision. A document is
//! replaced whole, by compare-and-set on its revision, so that two control-planes
//! over one shared store can never both win an edit. What a document means is not
//! the store's business: it keeps bytes.
//!
//! Every implementation passes the same suite, `conformance`.

pub(crate) mod document;
pub mod file;
pub mod memory;

#[cfg(test)]
mod conformance;

use std::fmt;
use std::future::Future;
use std::path::PathBuf;
use std::pin::Pin;

use bytes::Bytes;
use thiserror::Error;

/// A call to a store under way.
pub type StoreFuture<'a, T> = Pin<Box<dyn Future<Output = T> + Send + 'a>>;

/// The documents a control-plane keeps. A new kind of document gets a new name;
/// names are never reused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum DocumentName {
    /// Regions, groups, nodes with their fencing tokens, and namespaces.
    Topology,
    /// The last operations that were delivered to regions.
    Operations,
}

impl DocumentName {
    /// All documents.
    pub const ALL: [Self; 2] = [Self::Topology, Self::Operations];

    /// The name as stored.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Topology => "topology",
            Self::Operations => "operations",
        }
    }
}

impl fmt::Display for DocumentName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// How often a document was committed; rises with each commit.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Revision(u64);

impl Revision {
    /// The revision of a document that was never committed.
    pub const ABSENT: Self = Self(0);

    /// Wraps a revision as stored.
    pub const fn new(raw: u64) -> Self {
        Self(raw)
    }

    /// The raw number, for encodings.
    pub const fn get(self) -> u64 {
        self.0
    }

    /// The revision after this one.
    pub const fn next(self) -> Self {
        Self(self.0 + 1)
    }
}

impl fmt::Display for Revision {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.0)
    }
}

/// A document as it was last committed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StoredDocument {
    /// Names this content in the next commit.
    pub revision: Revision,
    /// The bytes, as committed.
    pub content: Bytes,
}

/// The contract of a control-plane's store.
///
/// - `load` answers what was last committed, also after a restart; `None` before
///   the first commit.
/// - `commit` replaces a document when the store still holds revision `expected`
///   (`Revision::ABSENT` for the first commit) and is durable when it answers.
///   Of several commits with one `expected`, one succeeds.
/// - [`CommitError::Conflict`] and [`CommitError::Failed`] mean that nothing has
///   changed. After [`CommitError::OutcomeUnknown`] the document is the old one
///   or the new one, whole in either case; the caller must not go on from either
///   and has to start again from what it loads.
/// - Documents do not influence one another.
pub trait ControlPlaneStore: Send + Sync + 'static {
    /// The document as it was last committed.
    fn load(
        &self,
        document: DocumentName,
    ) -> StoreFuture<'_, Result<Option<StoredDocument>, LoadError>>;

    /// Replaces the document, if it is still the one that the caller knows.
    fn commit(
        &self,
        document: DocumentName,
        expected: Revision,
        content: Bytes,
    ) -> StoreFuture<'_, Result<Revision, CommitError>>;
}

/// Why a document could not be loaded. Trying again does not help, except for
/// `Io` where the cause is gone.
#[derive(Debug, Error)]
pub enum LoadError {
    /// The bytes on disk are not what was written.
    #[error(
        "the control-plane's {document} document {path} is damaged: {reason}. Nothing was changed. \
         Put a good copy in its place and start again{}",
        previous_copy(previous)
    )]
    Corrupted {
        /// Which document.
        document: DocumentName,
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        reason: String,
        /// The copy from before the last commit, where that one is whole.
        previous: Option<(PathBuf, Revision)>,
    },
    /// There is a copy from before, and the document itself is gone.
    #[error(
        "the control-plane's {document} document {path} is missing, although {previous} is there. \
         Put the document back; or, if its last edit may be lost, copy {previous} to {path}"
    )]
    Missing {
        /// Which document.
        document: DocumentName,
        /// The file that should be there.
        path: PathBuf,
        /// The copy from before the last commit.
        previous: PathBuf,
    },
    /// It could not be read.
    #[error("reading the control-plane's {document} document {path}: {source}")]
    Io {
        /// Which document.
        document: DocumentName,
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
}

/// The last words of [`LoadError::Corrupted`].
fn previous_copy(previous: &Option<(PathBuf, Revision)>) -> String {
    match previous {
        Some((path, revision)) => format!(
            "; {} holds revision {revision}, from before the last edit, which would be lost with it",
            path.display()
        ),
        None => "; there is no whole copy of an earlier revision beside it".to_owned(),
    }
}

/// Why a document was not committed.
#[derive(Debug, Error)]
pub enum CommitError {
    /// Someone else has committed since `expected` was loaded. Load, and edit
    /// again.
    #[error("the document is at revision {held} by now")]
    Conflict {
        /// The revision that the store holds.
        held: Revision,
    },
    /// Nothing was changed; trying again may help.
    #[error("the document could not be written, and is as it was: {reason}")]
    Failed {
        /// What the system said.
        reason: String,
    },
    /// It may be written or not. Never try again: start from what is loaded.
    #[error("whether the document was written is not known: {reason}")]
    OutcomeUnknown {
        /// What the system said.
        reason: String,
    },
}
