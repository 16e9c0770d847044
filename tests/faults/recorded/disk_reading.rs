//! What a disk holds, read from a copy by the product's own opening: before a
//! node starts, and at the end.

use std::collections::BTreeMap;

use interlock_core::directory::Directory;
use interlock_core::identity::{LogName, Mark, MessageName, NamespaceNumber};
use interlock_core::message::Message;
use interlock_simulation::history::FinalLog;
use interlock_storage::{LogStorage as _, RocksOptions, RocksStorage};

use crate::disk::Copy;

/// Where on its disk a node has its data.
pub(crate) const DATA: &str = "node";
const READ_BYTES: usize = 4 << 20;

/// How far a disk holds each log, or why it cannot be opened.
pub(crate) fn marks(copy: &Copy) -> Result<Vec<(LogName, Mark)>, String> {
    opened(copy, |_, logs| Ok(logs.into_iter().map(|log| (log.row.log, log.mark)).collect()))
}

/// All that a disk holds.
pub(crate) fn logs(copy: &Copy) -> Result<BTreeMap<LogName, FinalLog>, String> {
    opened(copy, |storage, logs| {
        let mut read = BTreeMap::new();
        for log in logs {
            let (name, mark) = (log.row.log, log.mark);
            let mut messages = Vec::new();
            let mut from = log.row.first_m_id();
            while from <= mark.m_id {
                let part = storage.read(&name, from, mark.m_id, READ_BYTES);
                let part = part.map_err(|error| error.to_string())?;
                let Some(last) = part.last() else { break };
                from = last.m_id.next();
                messages.extend(part.into_iter().map(|message| (message.m_id, message.bytes)));
            }
            read.insert(name, FinalLog { row: log.row, mark, messages });
        }
        Ok(read)
    })
}

fn opened<T>(
    copy: &Copy,
    read: impl FnOnce(&RocksStorage, Vec<interlock_storage::RecoveredLog>) -> Result<T, String>,
) -> Result<T, String> {
    let folder = tempfile::tempdir().map_err(|error| error.to_string())?;
    copy.write_to(folder.path()).map_err(|error| error.to_string())?;
    let opened = RocksStorage::open(folder.path().join(DATA), RocksOptions::default());
    let (storage, recovery) = opened.map_err(|error| error.to_string())?;
    read(&storage, recovery.logs)
}

/// The directory that the logs of a namespace give: what admission would go by.
pub(crate) fn directory(
    logs: &BTreeMap<LogName, FinalLog>,
    namespace: NamespaceNumber,
) -> Directory {
    let mut directory = Directory::new();
    // The result does not depend on the order.
    for (log, held) in logs.iter().filter(|(log, _)| log.namespace == namespace) {
        for (m_id, bytes) in &held.messages {
            if let Ok(message) = Message::decode(bytes) {
                directory.apply(&MessageName { log: *log, m_id: *m_id }, &message);
            }
        }
    }
    directory
}
