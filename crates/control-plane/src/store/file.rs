//! The embedded store: one small file for each document.
//!
//! A commit writes the new document beside the old one, syncs it, keeps the old
//! one as the previous copy, renames the new one into place and syncs the folder:
//! at every moment a whole document stands under the document's name. What is
//! read back is checked; a damaged document is refused, never repaired by
//! guessing, because an older copy would give out numbers a second time.

use std::collections::BTreeMap;
use std::fs::{self, File, TryLockError};
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use bytes::Bytes;
use thiserror::Error;
use xxhash_rust::xxh3::Xxh3;

use super::{
    CommitError, ControlPlaneStore, DocumentName, LoadError, Revision, StoreFuture, StoredDocument,
};

/// Documents in a folder that belongs to this process alone.
#[derive(Debug)]
pub struct FileStore {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    directory: PathBuf,
    /// Held for as long as the store is open; the system releases it when the
    /// process ends, however it ends.
    _lock: File,
    commits: Mutex<Commits>,
}

/// What a commit is decided by. One commit at a time.
#[derive(Debug, Default)]
struct Commits {
    held: BTreeMap<DocumentName, StoredDocument>,
    /// Why the outcome of a commit was unknown, after which this handle writes
    /// no more.
    stopped: Option<String>,
}

/// Why a folder could not be opened as a store.
#[derive(Debug, Error)]
pub enum OpenError {
    /// Another process has it open.
    #[error(
        "the data folder {0} is in use by another control-plane: stop that one, or give this one a data_dir of its own"
    )]
    InUse(PathBuf),
    /// The folder could not be made, read or locked.
    #[error("opening the data folder {path}: {source}")]
    Io {
        /// The folder.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// A document in it cannot be used.
    #[error(transparent)]
    Document(#[from] LoadError),
}

impl FileStore {
    /// Opens a folder, which is made if need be, and checks what is there.
    pub fn open(directory: impl Into<PathBuf>) -> Result<Self, OpenError> {
        let directory = directory.into();
        let failed = |source| OpenError::Io { path: directory.clone(), source };

        create_durably(&directory).map_err(failed)?;
        let lock = File::create(directory.join("lock")).map_err(failed)?;
        match lock.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => return Err(OpenError::InUse(directory)),
            Err(TryLockError::Error(source)) => return Err(failed(source)),
        }

        let mut commits = Commits::default();
        for document in DocumentName::ALL {
            let file = DocumentFile { directory: &directory, document };
            // What a crash left behind was never committed.
            file.remove_temporary().map_err(failed)?;
            if let Some(held) = file.read()? {
                commits.held.insert(document, held);
            }
        }
        let inner = Inner { directory, _lock: lock, commits: Mutex::new(commits) };
        Ok(Self { inner: Arc::new(inner) })
    }
}

impl ControlPlaneStore for FileStore {
    fn load(
        &self,
        document: DocumentName,
    ) -> StoreFuture<'_, Result<Option<StoredDocument>, LoadError>> {
        let inner = Arc::clone(&self.inner);
        Box::pin(async move {
            let path = inner.file(document).path();
            tokio::task::spawn_blocking(move || inner.file(document).read()).await.unwrap_or_else(
                |error| Err(LoadError::Io { document, path, source: io::Error::other(error) }),
            )
        })
    }

    fn commit(
        &self,
        document: DocumentName,
        expected: Revision,
        content: Bytes,
    ) -> StoreFuture<'_, Result<Revision, CommitError>> {
        let inner = Arc::clone(&self.inner);
        Box::pin(async move {
            tokio::task::spawn_blocking(move || inner.commit(document, expected, content))
                .await
                .unwrap_or_else(|error| {
                    Err(CommitError::OutcomeUnknown { reason: error.to_string() })
                })
        })
    }
}

impl Inner {
    fn file(&self, document: DocumentName) -> DocumentFile<'_> {
        DocumentFile { directory: &self.directory, document }
    }

    fn commit(
        &self,
        document: DocumentName,
        expected: Revision,
        content: Bytes,
    ) -> Result<Revision, CommitError> {
        // A panic in here leaves the files as a crash would: whole.
        let mut commits = self.commits.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(reason) = &commits.stopped {
            return Err(CommitError::OutcomeUnknown { reason: reason.clone() });
        }
        let held = commits.held.get(&document);
        let held_revision = held.map_or(Revision::ABSENT, |document| document.revision);
        if held_revision != expected {
            return Err(CommitError::Conflict { held: held_revision });
        }

        let revision = expected.next();
        let file = self.file(document);
        file.write_temporary(&encode(revision, &content))
            .and_then(|()| held.map_or(Ok(()), |held| file.keep_previous(held)))
            .map_err(|error| CommitError::Failed { reason: error.to_string() })?;
        // From here on a failure does not say which of the two a restart will find.
        if let Err(error) = file.replace().and_then(|()| file.sync_directory()) {
            let reason = format!("{}: {error}", file.path().display());
            commits.stopped = Some(reason.clone());
            return Err(CommitError::OutcomeUnknown { reason });
        }
        commits.held.insert(document, StoredDocument { revision, content });
        Ok(revision)
    }
}

/// One document's files, and the steps of a commit in their order.
struct DocumentFile<'a> {
    directory: &'a Path,
    document: DocumentName,
}

impl DocumentFile<'_> {
    fn path(&self) -> PathBuf {
        self.directory.join(format!("{}.document", self.document))
    }

    fn temporary_path(&self) -> PathBuf {
        self.directory.join(format!("{}.temporary", self.document))
    }

    fn previous_path(&self) -> PathBuf {
        self.directory.join(format!("{}.previous", self.document))
    }

    fn remove_temporary(&self) -> io::Result<()> {
        match fs::remove_file(self.temporary_path()) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
            _ => Ok(()),
        }
    }

    fn read(&self) -> Result<Option<StoredDocument>, LoadError> {
        let path = self.path();
        match fs::read(&path) {
            Ok(bytes) => decode(&bytes).map(Some).map_err(|reason| LoadError::Corrupted {
                document: self.document,
                path,
                reason,
                previous: self.read_previous(),
            }),
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                let previous = self.previous_path();
                if previous.exists() {
                    return Err(LoadError::Missing { document: self.document, path, previous });
                }
                Ok(None)
            }
            Err(source) => Err(LoadError::Io { document: self.document, path, source }),
        }
    }

    /// Where the previous copy is and what it holds, if it is whole.
    fn read_previous(&self) -> Option<(PathBuf, Revision)> {
        let path = self.previous_path();
        let document = decode(&fs::read(&path).ok()?).ok()?;
        Some((path, document.revision))
    }

    /// Step 1: the new document, durable under a name that nobody reads.
    fn write_temporary(&self, bytes: &[u8]) -> io::Result<()> {
        write_and_sync(&self.temporary_path(), bytes)
    }

    /// Step 2: the old document once more, as the previous copy. It goes through
    /// a name of its own, so that a crash leaves the copy before it whole.
    fn keep_previous(&self, held: &StoredDocument) -> io::Result<()> {
        let copy = self.directory.join(format!("{}.previous.temporary", self.document));
        write_and_sync(&copy, &encode(held.revision, &held.content))?;
        fs::rename(copy, self.previous_path())
    }

    /// Step 3: the new document takes the name.
    fn replace(&self) -> io::Result<()> {
        fs::rename(self.temporary_path(), self.path())
    }

    /// Step 4: the names are durable too.
    fn sync_directory(&self) -> io::Result<()> {
        File::open(self.directory)?.sync_all()
    }
}

/// Makes a folder and what is missing above it, each durable under its name: the
/// documents in it are no more durable than the folder is.
fn create_durably(directory: &Path) -> io::Result<()> {
    if directory.is_dir() {
        return Ok(());
    }
    let parent = match directory.parent() {
        Some(parent) if parent != Path::new("") => parent,
        _ => Path::new("."),
    };
    create_durably(parent)?;
    match fs::create_dir(directory) {
        Err(error) if error.kind() != io::ErrorKind::AlreadyExists => return Err(error),
        _ => {}
    }
    File::open(parent)?.sync_all()
}

fn write_and_sync(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let mut file = File::create(path)?;
    file.write_all(bytes)?;
    file.sync_all()
}

// The layout of a document's file, integers big-endian:
//   4  "ILCP"
//   1  layout version, 1
//   3  zero
//   8  revision
//   8  length of the content
//  16  xxh3-128 of everything before it and of the content
//   …  the content

const MAGIC: &[u8; 4] = b"ILCP";
const LAYOUT_VERSION: u8 = 1;
const HEADER_BYTES: usize = 24;
const CHECKSUM_BYTES: usize = 16;

fn encode(revision: Revision, content: &[u8]) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(HEADER_BYTES + CHECKSUM_BYTES + content.len());
    bytes.extend_from_slice(MAGIC);
    bytes.extend_from_slice(&[LAYOUT_VERSION, 0, 0, 0]);
    bytes.extend_from_slice(&revision.get().to_be_bytes());
    bytes.extend_from_slice(&(content.len() as u64).to_be_bytes());
    let checksum = checksum(&bytes, content);
    bytes.extend_from_slice(&checksum);
    bytes.extend_from_slice(content);
    bytes
}

fn decode(bytes: &[u8]) -> Result<StoredDocument, String> {
    let Some((header, rest)) = bytes.split_first_chunk::<HEADER_BYTES>() else {
        return Err(format!("it has {} bytes, fewer than its header", bytes.len()));
    };
    let Some((stored_checksum, content)) = rest.split_first_chunk::<CHECKSUM_BYTES>() else {
        return Err(format!("it has {} bytes, fewer than its header", bytes.len()));
    };
    if &header[..4] != MAGIC {
        return Err("it does not begin like a control-plane's document".to_owned());
    }
    if header[4] != LAYOUT_VERSION {
        return Err(format!(
            "its layout is version {}, and this build reads version {LAYOUT_VERSION}",
            header[4]
        ));
    }
    let number = |from: usize| {
        let bytes = header[from..from + 8].try_into().expect("the header has 24 bytes");
        u64::from_be_bytes(bytes)
    };
    let length = number(16);
    if length != content.len() as u64 {
        return Err(format!("it should hold {length} bytes of content and has {}", content.len()));
    }
    if &checksum(header, content) != stored_checksum {
        return Err("its checksum does not fit its bytes".to_owned());
    }
    Ok(StoredDocument {
        revision: Revision::new(number(8)),
        content: Bytes::copy_from_slice(content),
    })
}

fn checksum(header: &[u8], content: &[u8]) -> [u8; CHECKSUM_BYTES] {
    let mut hasher = Xxh3::new();
    hasher.update(header);
    hasher.update(content);
    hasher.digest128().to_be_bytes()
}

#[cfg(test)]
mod tests {
    use tempfile::TempDir;

    use super::*;
    use crate::store::conformance;

    const DOCUMENT: DocumentName = DocumentName::Topology;

    fn folder() -> TempDir {
        TempDir::new().expect("a temporary folder can be made")
    }

    fn open(folder: &TempDir) -> FileStore {
        FileStore::open(folder.path()).expect("the folder opens")
    }

    async fn commit(store: &FileStore, expected: Revision, content: &'static str) -> Revision {
        store.commit(DOCUMENT, expected, Bytes::from(content)).await.expect("the commit succeeds")
    }

    async fn content(store: &FileStore) -> Bytes {
        store.load(DOCUMENT).await.expect("it loads").expect("was committed").content
    }

    #[tokio::test]
    async fn keeps_the_contract() {
        conformance::check(|| {
            let folder = folder();
            Box::new(move || Arc::new(open(&folder)))
        })
        .await;
    }

    #[test]
    fn golden_bytes() {
        let bytes = encode(Revision::new(0x0102), b"content");
        let header: Vec<u8> =
            [&b"ILCP"[..], &[1, 0, 0, 0], &[0, 0, 0, 0, 0, 0, 1, 2], &[0, 0, 0, 0, 0, 0, 0, 7]]
                .concat();
        assert_eq!(&bytes[..HEADER_BYTES], header);
        let checksum = &bytes[HEADER_BYTES..HEADER_BYTES + CHECKSUM_BYTES];
        let text: String = checksum.iter().map(|byte| format!("{byte:02x}")).collect();
        assert_eq!(text, "ac090045884caf756168806c7287ded9");
        assert_eq!(&bytes[HEADER_BYTES + CHECKSUM_BYTES..], b"content");
    }

    /// A kill at each step of a commit: before the rename the old document is
    /// found, after it the new one, and never anything else.
    #[tokio::test]
    async fn a_kill_at_any_step_leaves_a_whole_document() {
        type Step = fn(&DocumentFile<'_>, &StoredDocument) -> io::Result<()>;
        let steps: [(Step, &str); 4] = [
            (|file, _| file.write_temporary(&encode(Revision::new(3), b"new")), "old"),
            (|file, held| file.keep_previous(held), "old"),
            (|file, _| file.replace(), "new"),
            (|file, _| file.sync_directory(), "new"),
        ];
        for last_step in 0..steps.len() {
            let folder = folder();
            let store = open(&folder);
            let first = commit(&store, Revision::ABSENT, "older").await;
            commit(&store, first, "old").await;
            let held = store.load(DOCUMENT).await.expect("it loads").expect("was committed");
            for (step, _) in &steps[..=last_step] {
                step(&store.inner.file(DOCUMENT), &held).expect("the step succeeds");
            }
            drop(store);

            let store = open(&folder);
            let expected = steps[last_step].1;
            assert_eq!(content(&store).await, expected, "after step {last_step}");
            // And it goes on from there.
            let revision =
                store.load(DOCUMENT).await.expect("it loads").expect("is there").revision;
            commit(&store, revision, "newest").await;
            assert_eq!(content(&store).await, "newest");
        }
    }

    /// A cut anywhere in the file that is being written is a crash like any other.
    #[tokio::test]
    async fn a_torn_temporary_file_is_ignored() {
        let folder = folder();
        let store = open(&folder);
        commit(&store, Revision::ABSENT, "old").await;
        let whole = encode(Revision::new(2), b"new");
        drop(store);
        for length in 0..whole.len() {
            fs::write(folder.path().join("topology.temporary"), &whole[..length])
                .expect("the file can be written");
            assert_eq!(content(&open(&folder)).await, "old");
            assert!(!folder.path().join("topology.temporary").exists());
        }
    }

    #[tokio::test]
    async fn a_damaged_document_is_refused() {
        let folder = folder();
        let store = open(&folder);
        let first = commit(&store, Revision::ABSENT, "first").await;
        commit(&store, first, "second").await;
        drop(store);

        let path = folder.path().join("topology.document");
        let whole = fs::read(&path).expect("it is there");
        let damaged = (0..whole.len())
            .map(|index| {
                let mut bytes = whole.clone();
                bytes[index] ^= 0x10;
                bytes
            })
            .chain((0..whole.len()).map(|length| whole[..length].to_vec()))
            .chain([[&whole[..], b"x"].concat()]);
        for bytes in damaged {
            fs::write(&path, &bytes).expect("the file can be written");
            let error = FileStore::open(folder.path()).expect_err("damage is refused");
            let OpenError::Document(LoadError::Corrupted { previous, .. }) = &error else {
                panic!("expected a damaged document, got {error}");
            };
            assert_eq!(
                previous.as_ref().map(|(_, revision)| *revision),
                Some(first),
                "the previous copy is offered"
            );
            let text = error.to_string();
            assert!(text.contains("topology.document") && text.contains("topology.previous"));
            assert_eq!(fs::read(&path).expect("it is there"), bytes, "nothing was touched");
        }

        fs::copy(folder.path().join("topology.previous"), &path).expect("the copy can be taken");
        assert_eq!(content(&open(&folder)).await, "first");
    }

    #[tokio::test]
    async fn a_document_that_vanished_is_not_an_empty_store() {
        let folder = folder();
        let store = open(&folder);
        let first = commit(&store, Revision::ABSENT, "first").await;
        commit(&store, first, "second").await;
        drop(store);
        fs::remove_file(folder.path().join("topology.document")).expect("it is there");
        let error = FileStore::open(folder.path()).expect_err("it was there before");
        assert!(matches!(error, OpenError::Document(LoadError::Missing { .. })), "{error}");
    }

    #[tokio::test]
    async fn the_folder_is_made_with_what_is_above_it() {
        let folder = folder();
        let path = folder.path().join("a/b/c");
        let store = FileStore::open(&path).expect("is made");
        commit(&store, Revision::ABSENT, "first").await;
        drop(store);
        assert_eq!(content(&FileStore::open(&path).expect("opens")).await, "first");

        fs::write(folder.path().join("file"), b"").expect("is written");
        let error = FileStore::open(folder.path().join("file/below")).expect_err("not a folder");
        assert!(matches!(error, OpenError::Io { .. }), "{error}");
    }

    #[tokio::test]
    async fn one_process_has_the_folder() {
        let folder = folder();
        let store = open(&folder);
        let error = FileStore::open(folder.path()).expect_err("it is open already");
        assert!(matches!(error, OpenError::InUse(_)), "{error}");
        drop(store);
        open(&folder);
    }

    #[tokio::test]
    async fn a_commit_that_cannot_be_written_changes_nothing() {
        let folder = folder();
        let store = open(&folder);
        let first = commit(&store, Revision::ABSENT, "first").await;
        let obstacle = folder.path().join("topology.temporary");
        fs::create_dir(&obstacle).expect("the folder can be made");
        let error = store
            .commit(DOCUMENT, first, Bytes::from_static(b"second"))
            .await
            .expect_err("a folder is in the way");
        assert!(matches!(error, CommitError::Failed { .. }), "{error}");
        assert_eq!(content(&store).await, "first");
        fs::remove_dir(&obstacle).expect("the folder can be removed");
        commit(&store, first, "second").await;
    }

    /// After an unknown outcome the handle writes no more.
    #[tokio::test]
    async fn an_unknown_outcome_ends_the_handle() {
        let folder = folder();
        let store = open(&folder);
        let path = folder.path().join("topology.document");
        let first = commit(&store, Revision::ABSENT, "first").await;
        // A folder under the document's name makes the rename fail.
        fs::remove_file(&path).expect("it is there");
        fs::create_dir(&path).expect("the folder can be made");
        for _ in 0..2 {
            let error = store
                .commit(DOCUMENT, first, Bytes::from_static(b"second"))
                .await
                .expect_err("the rename fails");
            assert!(matches!(error, CommitError::OutcomeUnknown { .. }), "{error}");
            // What stood in the way is gone, and still nothing is written.
            let _ = fs::remove_dir(&path);
        }
        assert!(!path.exists());
    }
}
