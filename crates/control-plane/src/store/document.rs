//! One document of a store, decoded, with its edits.
//!
//! An edit is a function from one value to the next. It runs on the newest value,
//! is committed, and only then seen by anyone; where another control-plane has
//! committed in between, it runs again on what that one left.

use std::sync::Arc;

use bytes::Bytes;
use thiserror::Error;
use tokio::sync::{Mutex, watch};

use super::{CommitError, ControlPlaneStore, DocumentName, LoadError, Revision};

/// How often an edit is tried against other control-planes' edits.
const MAX_ATTEMPTS: usize = 16;

/// What a document holds.
pub(crate) trait DocumentContent: Send + Sync + Sized + 'static {
    /// Where it is kept.
    const NAME: DocumentName;
    /// The most it may take, encoded.
    const MAX_BYTES: usize;

    /// The value before the first commit.
    fn initial() -> Self;
    /// As kept.
    fn encode(&self) -> Bytes;
    /// From what is kept.
    fn decode(bytes: &Bytes) -> Result<Self, String>;
}

/// A document and its edits.
pub(crate) struct Document<T> {
    store: Arc<dyn ControlPlaneStore>,
    /// What the store holds, as far as is known here. Held through a commit: one
    /// edit at a time.
    revision: Mutex<Revision>,
    /// The newest committed value.
    value: watch::Sender<Arc<T>>,
}

/// Why a document could not be opened.
#[derive(Debug, Error)]
pub enum OpenDocumentError {
    /// The store cannot load it.
    #[error(transparent)]
    Load(#[from] LoadError),
    /// Its bytes are whole, and mean nothing to this build.
    #[error("the control-plane's {document} document cannot be read by this build: {reason}")]
    Decode {
        /// Which document.
        document: DocumentName,
        /// What is wrong.
        reason: String,
    },
}

/// Why an edit did not take place.
#[derive(Debug, Error)]
pub(crate) enum EditDocumentError<E> {
    /// The edit itself said no; nothing has changed.
    #[error(transparent)]
    Refused(E),
    /// The document would be larger than it may be; nothing has changed.
    #[error("the {document} document would take {bytes} bytes; {limit} are allowed")]
    TooLarge { document: DocumentName, bytes: usize, limit: usize },
    /// Other control-planes were faster each time, or the disk said no; nothing
    /// has changed, and trying again may help.
    #[error("{0}")]
    NotWritten(String),
    /// It may have taken place. This process must not go on.
    #[error("{0}")]
    OutcomeUnknown(String),
}

impl<T: DocumentContent> Document<T> {
    /// Loads the document.
    pub(crate) async fn open(store: Arc<dyn ControlPlaneStore>) -> Result<Self, OpenDocumentError> {
        let (revision, value) = load(&*store).await?;
        Ok(Self {
            store,
            revision: Mutex::new(revision),
            value: watch::Sender::new(Arc::new(value)),
        })
    }

    /// The newest committed value.
    pub(crate) fn current(&self) -> Arc<T> {
        self.value.borrow().clone()
    }

    /// Sees each newer value; of several in a row only the newest.
    pub(crate) fn subscribe(&self) -> watch::Receiver<Arc<T>> {
        self.value.subscribe()
    }

    /// Loads what another control-plane may have committed.
    pub(crate) async fn reload(&self) -> Result<Arc<T>, OpenDocumentError> {
        let mut revision = self.revision.lock().await;
        self.reload_locked(&mut revision).await?;
        Ok(self.current())
    }

    /// Edits the document: `edit` answers the next value, or `None` if nothing is
    /// to change. Answers the value that is committed then.
    ///
    /// To be run to its end: a caller that may be cancelled spawns it, since an
    /// edit that is committed and not published would be overtaken by the next.
    pub(crate) async fn edit<E>(
        &self,
        edit: impl Fn(&T) -> Result<Option<T>, E>,
    ) -> Result<Arc<T>, EditDocumentError<E>> {
        let mut revision = self.revision.lock().await;
        for _ in 0..MAX_ATTEMPTS {
            let before = self.current();
            let Some(next) = edit(&before).map_err(EditDocumentError::Refused)? else {
                return Ok(before);
            };
            let content = next.encode();
            if content.len() > T::MAX_BYTES {
                return Err(EditDocumentError::TooLarge {
                    document: T::NAME,
                    bytes: content.len(),
                    limit: T::MAX_BYTES,
                });
            }
            match self.store.commit(T::NAME, *revision, content).await {
                Ok(committed) => {
                    *revision = committed;
                    let next = Arc::new(next);
                    self.value.send_replace(Arc::clone(&next));
                    return Ok(next);
                }
                Err(CommitError::Conflict { .. }) => self
                    .reload_locked(&mut revision)
                    .await
                    .map_err(|error| EditDocumentError::NotWritten(error.to_string()))?,
                Err(error @ CommitError::Failed { .. }) => {
                    return Err(EditDocumentError::NotWritten(error.to_string()));
                }
                Err(error @ CommitError::OutcomeUnknown { .. }) => {
                    return Err(EditDocumentError::OutcomeUnknown(error.to_string()));
                }
            }
        }
        Err(EditDocumentError::NotWritten(format!(
            "other control-planes edited the {} document at the same time",
            T::NAME
        )))
    }

    async fn reload_locked(&self, revision: &mut Revision) -> Result<(), OpenDocumentError> {
        let (held, value) = load::<T>(&*self.store).await?;
        if held > *revision {
            *revision = held;
            self.value.send_replace(Arc::new(value));
        }
        Ok(())
    }
}

async fn load<T: DocumentContent>(
    store: &dyn ControlPlaneStore,
) -> Result<(Revision, T), OpenDocumentError> {
    match store.load(T::NAME).await? {
        Some(stored) => T::decode(&stored.content)
            .map(|value| (stored.revision, value))
            .map_err(|reason| OpenDocumentError::Decode { document: T::NAME, reason }),
        None => Ok((Revision::ABSENT, T::initial())),
    }
}

#[cfg(test)]
mod tests {
    use std::convert::Infallible;

    use super::*;
    use crate::store::memory::MemoryStore;
    use crate::store::{StoreFuture, StoredDocument};

    #[derive(Debug, PartialEq)]
    struct Count(u64);

    impl DocumentContent for Count {
        const NAME: DocumentName = DocumentName::Operations;
        const MAX_BYTES: usize = 8;

        fn initial() -> Self {
            Self(0)
        }

        fn encode(&self) -> Bytes {
            // One byte too many from 1,000 on.
            let length = if self.0 < 1_000 { 8 } else { 9 };
            Bytes::from([&self.0.to_le_bytes()[..], &[0]].concat()).slice(..length)
        }

        fn decode(bytes: &Bytes) -> Result<Self, String> {
            let bytes = bytes[..].try_into().map_err(|_| "not eight bytes".to_owned())?;
            Ok(Self(u64::from_le_bytes(bytes)))
        }
    }

    async fn count_up(document: &Document<Count>) -> Result<Arc<Count>, String> {
        document
            .edit(|count| Ok::<_, Infallible>(Some(Count(count.0 + 1))))
            .await
            .map_err(|error| error.to_string())
    }

    /// Two control-planes over one store lose none of each other's edits.
    #[tokio::test(flavor = "multi_thread", worker_threads = 4)]
    async fn edits_of_several_control_planes_all_count() {
        let store: Arc<dyn ControlPlaneStore> = Arc::new(MemoryStore::new());
        let mut writers = Vec::new();
        for _ in 0..3 {
            let document: Document<Count> =
                Document::open(Arc::clone(&store)).await.expect("opens");
            writers.push(tokio::spawn(async move {
                let mut done = 0;
                for _ in 0..100 {
                    // Being overtaken too often is an answer too, and changes nothing.
                    done += u64::from(count_up(&document).await.is_ok());
                }
                done
            }));
        }
        let mut done = 0;
        for writer in writers {
            done += writer.await.expect("a writer does not panic");
        }
        let document: Document<Count> = Document::open(store).await.expect("opens");
        assert_eq!(*document.current(), Count(done));
        assert!(done > 0);
    }

    #[tokio::test]
    async fn refused_and_oversized_edits_change_nothing() {
        let store: Arc<dyn ControlPlaneStore> = Arc::new(MemoryStore::new());
        let document: Document<Count> = Document::open(store).await.expect("opens");
        count_up(&document).await.expect("counts");
        let error = document.edit(|_| Err("no")).await.expect_err("refused");
        assert!(matches!(error, EditDocumentError::Refused("no")));
        let error = document
            .edit(|_| Ok::<_, Infallible>(Some(Count(1_000))))
            .await
            .expect_err("nine bytes");
        assert!(matches!(error, EditDocumentError::TooLarge { bytes: 9, limit: 8, .. }));
        document.edit(|_| Ok::<_, Infallible>(None)).await.expect("nothing to do");
        assert_eq!(*document.current(), Count(1));
    }

    /// A store whose commits fail as they are told to.
    struct Failing(CommitError);

    impl ControlPlaneStore for Failing {
        fn load(
            &self,
            _: DocumentName,
        ) -> StoreFuture<'_, Result<Option<StoredDocument>, LoadError>> {
            Box::pin(async { Ok(None) })
        }

        fn commit(
            &self,
            _: DocumentName,
            _: Revision,
            _: Bytes,
        ) -> StoreFuture<'_, Result<Revision, CommitError>> {
            let error = match &self.0 {
                CommitError::Conflict { held } => CommitError::Conflict { held: *held },
                CommitError::Failed { reason } => CommitError::Failed { reason: reason.clone() },
                CommitError::OutcomeUnknown { reason } => {
                    CommitError::OutcomeUnknown { reason: reason.clone() }
                }
            };
            Box::pin(async { Err(error) })
        }
    }

    #[tokio::test]
    async fn what_was_not_committed_is_not_seen() {
        let reason = || "disk".to_owned();
        for error in [
            CommitError::Conflict { held: Revision::new(1) },
            CommitError::Failed { reason: reason() },
            CommitError::OutcomeUnknown { reason: reason() },
        ] {
            let unknown = matches!(error, CommitError::OutcomeUnknown { .. });
            let document: Document<Count> =
                Document::open(Arc::new(Failing(error))).await.expect("opens");
            let watch = document.subscribe();
            let error = document
                .edit(|count| Ok::<_, Infallible>(Some(Count(count.0 + 1))))
                .await
                .expect_err("the store fails");
            assert_eq!(matches!(error, EditDocumentError::OutcomeUnknown(_)), unknown, "{error}");
            assert_eq!(*document.current(), Count(0));
            assert!(!watch.has_changed().expect("the document is open"));
        }
    }
}
