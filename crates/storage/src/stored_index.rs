//! What a trim has to read of the stored channel index.

use bytes::Bytes;
use interlock_core::identity::{LogName, MessageNumber};
use interlock_core::projection::LoadError;
use interlock_core::projection::channel_index::{
    contents_through, decode_trim_point, is_within_floor, trim_point_key,
};
use interlock_core::replication::frames::TrimPoint;

use crate::contract::{LogStorage, ProjectionKind, StorageError};

/// Entries read at a time.
const SCAN_ENTRIES: usize = 1024;

/// What the stored index has of a log up to the segment of a new floor.
pub fn stored_contents(
    storage: &dyn LogStorage,
    log: &LogName,
    floor: MessageNumber,
) -> Result<Vec<(Bytes, Bytes)>, StorageError> {
    read_contents(storage, log, floor, SCAN_ENTRIES)
}

fn read_contents(
    storage: &dyn LogStorage,
    log: &LogName,
    floor: MessageNumber,
    at_a_time: usize,
) -> Result<Vec<(Bytes, Bytes)>, StorageError> {
    let scan = contents_through(log);
    let mut contents: Vec<(Bytes, Bytes)> = Vec::new();
    loop {
        let after = contents.last().map(|(key, _)| key.clone());
        let page = storage.scan_projection(
            ProjectionKind::ChannelIndex,
            &scan.prefix,
            after.as_deref(),
            at_a_time,
        )?;
        let read = page.len();
        for (key, value) in page {
            if !is_within_floor(&key, floor).map_err(unreadable_index)? {
                return Ok(contents);
            }
            contents.push((key, value));
        }
        if read < at_a_time {
            return Ok(contents);
        }
    }
}

/// The number that a trim point's place has in the stored index, if it has one.
pub fn stored_trim_point(
    storage: &dyn LogStorage,
    point: &TrimPoint,
) -> Result<Option<MessageNumber>, StorageError> {
    let key = trim_point_key(point);
    let found = storage.scan_projection(ProjectionKind::ChannelIndex, &key, None, 1)?;
    let stored = found.first().map(|(key, value)| decode_trim_point(key, value));
    Ok(stored.transpose().map_err(unreadable_index)?.map(|name| name.m_id))
}

/// An index whose entries make no sense.
pub fn unreadable_index(error: LoadError) -> StorageError {
    StorageError::Read { what: "the channel index", detail: error.to_string() }
}

#[cfg(test)]
mod tests {
    use interlock_core::message::MessageHead;
    use interlock_core::projection::channel_index::SEGMENT_MESSAGES;
    use interlock_core::projection::{ChannelIndex, Projection as _};

    use interlock_core::identity::MessageName;

    use super::*;
    use crate::contract::AppendBatch;
    use crate::test_logs::{TestLog, log_name};
    use crate::{MemoryDisk, MemoryStorage};

    /// What a trim reads ends with the floor's segment, however it is read, and what
    /// another log has is not read.
    #[test]
    fn the_contents_up_to_a_floor_are_read_page_by_page() {
        let disk = MemoryDisk::new();
        let (storage, _) = MemoryStorage::open(&disk).expect("it opens");
        let mut index = ChannelIndex::default();
        let logs = [log_name(1, 1, 7), log_name(1, 2, 7)];
        for log in logs {
            let entries = TestLog::new(log).push_many(4 * SEGMENT_MESSAGES as usize, 1);
            for entry in &entries {
                let head = MessageHead::decode(&entry.bytes).expect("a message");
                index.apply(&MessageName { log, m_id: entry.m_id }, &head);
            }
            let batch = AppendBatch::new(interlock_core::clock::WallTime::new(1), entries);
            storage.append(&batch).expect("appended");
        }
        storage.sync().expect("synced");
        let (position, changes) = (index.position(), index.take_changes());
        storage.store_projection(ChannelIndex::KIND, &position, &changes).expect("stored");

        // The second segment has the floor in it; the last one is not complete.
        let floor = MessageNumber::new(SEGMENT_MESSAGES + 1);
        let whole = stored_contents(&storage, &logs[0], floor).expect("readable");
        assert_eq!(whole.len(), 2, "one channel in each of two segments");
        for at_a_time in [1, 2, 3] {
            let paged = read_contents(&storage, &logs[0], floor, at_a_time).expect("readable");
            assert_eq!(paged, whole, "{at_a_time} at a time");
        }
        let all = stored_contents(&storage, &logs[1], MessageNumber::new(u64::MAX));
        assert!(all.expect("readable").len() >= 3);
    }
}
