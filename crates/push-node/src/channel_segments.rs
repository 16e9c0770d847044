//! The channel index as far as it is durable: where in a log a channel is, so
//! that a reader of one channel need not read everybody's messages.

use std::sync::{Arc, RwLock};

use interlock_core::identity::{LogName, MessageNumber};
use interlock_core::names::ChannelName;
use interlock_core::projection::ChannelIndex;
use interlock_core::projection::channel_index::{
    ChannelHash, IndexedSegment, decode_segment, join_segments, segments_before,
};
use interlock_storage::{ProjectionKind, StorageError};

use crate::stored_messages::{Storage, on_disk};

const LOCK: &str = "no holder of the channel index's lock panics";
/// Stored segments read at a time.
const SEGMENTS_AT_A_TIME: usize = 64;

/// All channels' segments. Clones are handles to the same; the projector alone
/// changes them.
#[derive(Clone, Debug)]
pub struct ChannelSegments {
    index: Arc<RwLock<ChannelIndex>>,
}

impl ChannelSegments {
    /// What the opening rebuilt.
    pub fn new(index: ChannelIndex) -> Self {
        Self { index: Arc::new(RwLock::new(index)) }
    }

    /// Changes the index; the projector only.
    pub fn write<T>(&self, change: impl FnOnce(&mut ChannelIndex) -> T) -> T {
        change(&mut self.index.write().expect(LOCK))
    }

    /// The newest segments of a log that have a channel and begin before a
    /// message, newest first; none when there are no more. A segment may name
    /// messages of a channel whose hash is the same.
    pub async fn before(
        &self,
        storage: &Storage,
        channel: &ChannelName,
        log: LogName,
        before: MessageNumber,
    ) -> Result<Vec<IndexedSegment>, StorageError> {
        let hash = ChannelHash::of(channel.as_str());
        // Memory first: what it lets go of meanwhile is found on the disk then.
        let recent = self.index.read().expect(LOCK).recent_segments(hash, &log);
        let scan = segments_before(hash, &log, before);
        let stored = on_disk(storage, move |storage| {
            let after = scan.after.as_deref();
            let kind = ProjectionKind::ChannelIndex;
            storage.scan_projection(kind, &scan.prefix, after, SEGMENTS_AT_A_TIME)
        });
        let mut segments = Vec::with_capacity(SEGMENTS_AT_A_TIME);
        for (key, value) in stored.await? {
            let segment = decode_segment(&key, &value).map_err(|error| StorageError::Read {
                what: "the channel index",
                detail: error.to_string(),
            })?;
            segments.push(segment);
        }
        Ok(join_segments(recent, segments, before))
    }
}
