//! Reads of the log by those who are late: on the threads for blocking work, so
//! that nobody who keeps up waits for the disk.

use std::sync::Arc;

use interlock_core::identity::{LogName, MessageNumber};
use interlock_storage::{LogStorage, StorageError, StoredMessage};

/// The node's storage, shared.
pub type Storage = Arc<dyn LogStorage>;

/// Runs a blocking call of the storage beside the runtime's own threads.
pub async fn on_disk<T, F>(storage: &Storage, call: F) -> Result<T, StorageError>
where
    T: Send + 'static,
    F: FnOnce(&dyn LogStorage) -> Result<T, StorageError> + Send + 'static,
{
    let storage = Arc::clone(storage);
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
