//! Reads the pages of the bases that one stream sends: what is left of messages that
//! are trimmed here, before the holes that they leave. A page at a time, so that a
//! large namespace delays neither acknowledgements nor what is new. Which base is due,
//! and what it stands for, is the core's [`BaseSending`].

use interlock_core::replication::base_sending::{BaseSending, PageSource};
use interlock_core::replication::frames::BaseEntries;
use interlock_storage::{ProjectionKind, StorageError};

use crate::context::NodeContext;
use crate::stored_messages::on_disk;

/// The next page, if a base is due.
pub async fn next_page(
    bases: &mut BaseSending,
    context: &NodeContext,
) -> Result<Option<BaseEntries>, StorageError> {
    if let Some(namespace) = bases.next_to_begin() {
        // A floor is told after what it stands for was stored and applied; a hole
        // that was taken from another may not have been gone over yet.
        context.durable.until_applied(namespace).await;
        let logs = context.durable.logs(|log| log.namespace == namespace);
        bases.begin(logs.into_iter().map(|log| (log.row.log, log.last_missing)).collect());
    }
    match bases.next_page() {
        None => Ok(None),
        Some(PageSource::Directory(namespace)) => {
            let directory = context.directories.namespace(namespace);
            Ok(directory.read(|directory| bases.directory_page(Some(directory))))
        }
        Some(PageSource::TrimPoints(scan, limit)) => {
            let stored = on_disk(&context.storage, move |storage| {
                let after = scan.after.as_deref();
                storage.scan_projection(ProjectionKind::ChannelIndex, &scan.prefix, after, limit)
            });
            bases.trim_points_page(&stored.await?).map_err(|error| StorageError::Read {
                what: "the channel index",
                detail: error.to_string(),
            })
        }
    }
}
