//! Stores how far the logs are durable, here and at the others, each second: the
//! next opening walks from there, and knows by it whether synced data is missing.

use std::sync::Arc;
use std::time::Duration;

use interlock_storage::StorageError;

use crate::context::NodeContext;
use crate::failure::NodeFailure;
use crate::projector::ProjectorWork;
use crate::stored_messages::on_disk;
use crate::tasks::until_set;

const INTERVAL: Duration = Duration::from_secs(1);

/// Stores checkpoints until the node ends.
pub async fn store_checkpoints(context: Arc<NodeContext>) {
    let mut ending = context.tasks.ending();
    let mut changes = context.durable.watch_durable();
    let mut seen_members = Vec::new();
    loop {
        let members = context.hub.members_for_checkpoint();
        let moved = changes.has_changed().unwrap_or(false) || members != seen_members;
        if moved {
            changes.mark_unchanged();
            if let Err(error) = store_checkpoint(&context).await {
                return context.failure.report(NodeFailure::Storage(error.to_string()));
            }
            seen_members = members;
            // A queue that is closed has stored all at its end.
            let _ = context.projector.push(ProjectorWork::Tick);
        }
        tokio::select! {
            () = tokio::time::sleep(INTERVAL) => {}
            () = until_set(&mut ending) => return,
        }
    }
}

/// Stores one checkpoint.
pub async fn store_checkpoint(context: &NodeContext) -> Result<(), StorageError> {
    let marks = context.durable.marks();
    let members = context.hub.members_for_checkpoint();
    on_disk(&context.storage, move |storage| storage.store_checkpoint(&marks, &members)).await
}
