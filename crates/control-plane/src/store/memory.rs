//! A store that forgets with its process, for tests and for meshes of one process.

use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard, PoisonError};

use bytes::Bytes;

use super::{
    CommitError, ControlPlaneStore, DocumentName, LoadError, Revision, StoreFuture, StoredDocument,
};

/// Documents in memory. Share it (`Arc`) to open it "again".
#[derive(Debug, Default)]
pub struct MemoryStore {
    documents: Mutex<BTreeMap<DocumentName, StoredDocument>>,
}

impl MemoryStore {
    /// An empty store.
    pub fn new() -> Self {
        Self::default()
    }

    fn documents(&self) -> MutexGuard<'_, BTreeMap<DocumentName, StoredDocument>> {
        // Nothing between lock and unlock leaves the map half changed.
        self.documents.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl ControlPlaneStore for MemoryStore {
    fn load(
        &self,
        document: DocumentName,
    ) -> StoreFuture<'_, Result<Option<StoredDocument>, LoadError>> {
        let stored = self.documents().get(&document).cloned();
        Box::pin(async move { Ok(stored) })
    }

    fn commit(
        &self,
        document: DocumentName,
        expected: Revision,
        content: Bytes,
    ) -> StoreFuture<'_, Result<Revision, CommitError>> {
        Box::pin(async move {
            let mut documents = self.documents();
            let held =
                documents.get(&document).map_or(Revision::ABSENT, |document| document.revision);
            if held != expected {
                return Err(CommitError::Conflict { held });
            }
            let revision = held.next();
            documents.insert(document, StoredDocument { revision, content });
            Ok(revision)
        })
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::store::conformance;

    #[tokio::test]
    async fn keeps_the_contract() {
        conformance::check(|| {
            let store: Arc<dyn ControlPlaneStore> = Arc::new(MemoryStore::new());
            Box::new(move || Arc::clone(&store))
        })
        .await;
    }
}
