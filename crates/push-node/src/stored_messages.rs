//! Reads of the log by those who are late: on the threads for blocking work, so
//! that nobody who keeps up waits for the disk.

use std::ops::Deref;
use std::sync::Arc;

use interlock_core::identity::{LogName, MessageNumber};
use interlock_storage::{LogStorage, StorageError, StoredMessage};
use tokio::sync::oneshot;

/// The node's storage. Clones are handles to the same; when the last one is gone, the
/// database is closed, and who waits for that is told.
#[derive(Clone)]
pub struct Storage {
    disk: Arc<dyn LogStorage>,
    // Behind the disk: a handle lets go of it before it lets go of this.
    _closed: Arc<ClosedGuard>,
}

impl Storage {
    /// Shares an open storage. The receiver is told when it is closed.
    pub fn share(disk: impl LogStorage + 'static) -> (Self, oneshot::Receiver<()>) {
        let (sender, closed) = oneshot::channel();
        let guard = ClosedGuard(Some(sender));
        (Self { disk: Arc::new(disk), _closed: Arc::new(guard) }, closed)
    }
}

impl Deref for Storage {
    type Target = dyn LogStorage;

    fn deref(&self) -> &Self::Target {
        self.disk.as_ref()
    }
}

impl AsRef<dyn LogStorage> for Storage {
    fn as_ref(&self) -> &(dyn LogStorage + 'static) {
        self.disk.as_ref()
    }
}

/// Tells, when it is dropped, that the disk before it is closed.
struct ClosedGuard(Option<oneshot::Sender<()>>);

impl Drop for ClosedGuard {
    fn drop(&mut self) {
        if let Some(sender) = self.0.take() {
            // Whoever waited may have given up.
            let _ = sender.send(());
        }
    }
}

/// Runs a blocking call of the storage beside the runtime's own threads.
pub async fn on_disk<T, F>(storage: &Storage, call: F) -> Result<T, StorageError>
where
    T: Send + 'static,
    F: FnOnce(&dyn LogStorage) -> Result<T, StorageError> + Send + 'static,
{
    let storage = storage.clone();
    match tokio::task::spawn_blocking(move || call(storage.as_ref())).await {
        Ok(result) => result,
        Err(stopped) if stopped.is_panic() => std::panic::resume_unwind(stopped.into_panic()),
        // The runtime ends.
        Err(_) => Err(StorageError::Failed),
    }
}

/// Messages of a log from the disk, see [`LogStorage::read`].
pub async fn read_stored(
    storage: &Storage,
    log: LogName,
    from: MessageNumber,
    through: MessageNumber,
    max_bytes: usize,
) -> Result<Vec<StoredMessage>, StorageError> {
    on_disk(storage, move |storage| storage.read(&log, from, through, max_bytes)).await
}
