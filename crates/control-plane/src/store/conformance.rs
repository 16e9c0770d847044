//! What every store must do: one suite that each implementation runs.

use std::sync::Arc;

use bytes::Bytes;

use super::{CommitError, ControlPlaneStore, DocumentName, Revision, StoredDocument};

/// Opens the same store again, as a restarted process would. The caller has
/// dropped the handle it had.
pub(super) type Reopen = Box<dyn FnMut() -> Arc<dyn ControlPlaneStore>>;

/// Runs the suite; `fresh` makes an empty store and answers how to open it.
pub(super) async fn check(mut fresh: impl FnMut() -> Reopen) {
    begins_empty(fresh()()).await;
    commits_are_loaded(fresh()()).await;
    stale_commits_conflict_and_change_nothing(fresh()()).await;
    documents_are_independent(fresh()()).await;
    one_of_many_wins(fresh()()).await;
    commits_survive_reopening(fresh()).await;
}

async fn loaded(store: &dyn ControlPlaneStore, document: DocumentName) -> Option<StoredDocument> {
    store.load(document).await.expect("a whole document loads")
}

async fn begins_empty(store: Arc<dyn ControlPlaneStore>) {
    for document in DocumentName::ALL {
        assert_eq!(loaded(&*store, document).await, None, "{document}");
    }
}

async fn commits_are_loaded(store: Arc<dyn ControlPlaneStore>) {
    let mut revision = Revision::ABSENT;
    // Empty and large content too, and the same content twice.
    for content in
        [&b"first"[..], b"", b"second", b"second", &vec![0xA5; 1 << 20], b"shorter again"]
    {
        let content = Bytes::copy_from_slice(content);
        let next = store
            .commit(DocumentName::Topology, revision, content.clone())
            .await
            .expect("the expected revision is held");
        assert!(next > revision, "a revision rises with each commit");
        let stored = loaded(&*store, DocumentName::Topology).await.expect("was committed");
        assert_eq!(stored, StoredDocument { revision: next, content });
        revision = next;
    }
}

async fn stale_commits_conflict_and_change_nothing(store: Arc<dyn ControlPlaneStore>) {
    let document = DocumentName::Topology;
    let first = store
        .commit(document, Revision::ABSENT, Bytes::from_static(b"first"))
        .await
        .expect("nothing is held yet");
    let second = store
        .commit(document, first, Bytes::from_static(b"second"))
        .await
        .expect("the expected revision is held");

    let from_the_future = Revision::new(second.get() + 1);
    for expected in [Revision::ABSENT, first, from_the_future] {
        match store.commit(document, expected, Bytes::from_static(b"stale")).await {
            Err(CommitError::Conflict { held }) => assert_eq!(held, second),
            other => panic!("expected a conflict for {expected}, got {other:?}"),
        }
        let stored = loaded(&*store, document).await.expect("was committed");
        assert_eq!(&stored.content[..], b"second");
        assert_eq!(stored.revision, second);
    }

    match store.commit(DocumentName::Operations, first, Bytes::from_static(b"x")).await {
        Err(CommitError::Conflict { held }) => assert_eq!(held, Revision::ABSENT),
        other => panic!("expected a conflict on an absent document, got {other:?}"),
    }
}

async fn documents_are_independent(store: Arc<dyn ControlPlaneStore>) {
    store
        .commit(DocumentName::Topology, Revision::ABSENT, Bytes::from_static(b"topology"))
        .await
        .expect("nothing is held yet");
    assert_eq!(loaded(&*store, DocumentName::Operations).await, None);
    store
        .commit(DocumentName::Operations, Revision::ABSENT, Bytes::from_static(b"operations"))
        .await
        .expect("nothing is held yet");
    let stored = loaded(&*store, DocumentName::Topology).await.expect("was committed");
    assert_eq!(&stored.content[..], b"topology");
}

async fn one_of_many_wins(store: Arc<dyn ControlPlaneStore>) {
    const WRITERS: usize = 16;
    let writers: Vec<_> = (0..WRITERS)
        .map(|writer| {
            let store = Arc::clone(&store);
            tokio::spawn(async move {
                let content = Bytes::from(format!("writer {writer}"));
                let outcome =
                    store.commit(DocumentName::Topology, Revision::ABSENT, content.clone()).await;
                (content, outcome)
            })
        })
        .collect();
    let mut winners = Vec::new();
    for writer in writers {
        let (content, outcome) = writer.await.expect("a writer does not panic");
        match outcome {
            Ok(revision) => winners.push(StoredDocument { revision, content }),
            Err(CommitError::Conflict { .. }) => {}
            Err(error) => panic!("only a conflict is expected: {error}"),
        }
    }
    assert_eq!(winners.len(), 1, "exactly one of {WRITERS} commits with one revision succeeds");
    assert_eq!(loaded(&*store, DocumentName::Topology).await.as_ref(), winners.first());
}

async fn commits_survive_reopening(mut open: Reopen) {
    let mut revision = Revision::ABSENT;
    for round in 0..4 {
        let store = open();
        let content = Bytes::from(format!("round {round}"));
        revision = store
            .commit(DocumentName::Topology, revision, content.clone())
            .await
            .expect("revisions go on over restarts");
        drop(store);

        let store = open();
        let stored = loaded(&*store, DocumentName::Topology).await.expect("was committed");
        assert_eq!(stored, StoredDocument { revision, content });
        assert_eq!(loaded(&*store, DocumentName::Operations).await, None);
    }
}
