//! Reads frames for peers: from memory for those who keep up, from the disk for
//! those who are late.

use bytes::Bytes;
use interlock_core::identity::{ChainHash, LogName, Mark, MessageNumber};
use interlock_core::limits::MAX_FRAME_BYTES;
use interlock_core::message::MessageHead;
use interlock_core::replication::frames::{Frame, Hole};
use interlock_storage::StorageError;

use crate::context::NodeContext;
use crate::stored_messages::{on_disk, read_stored};
use crate::tail_cache::MESSAGE_WINDOW_BYTES;

/// What a frame should hold.
#[derive(Clone, Copy, Debug)]
pub struct Wish {
    /// The log.
    pub log: LogName,
    /// The first message.
    pub from: MessageNumber,
    /// The chain hash before it, where it is known.
    pub previous_hash: Option<ChainHash>,
    /// The last message that was offered.
    pub through: MessageNumber,
    /// What it may take of the window.
    pub max_bytes: u64,
    /// Messages in it.
    pub max_messages: usize,
}

/// What came of a wish.
#[derive(Debug)]
pub enum FrameRead {
    /// A frame, with the mark at its end.
    Frame(Frame, Mark),
    /// The messages are no longer here: the range that is missing.
    Missing(Hole),
    /// The first message cannot be had now.
    Nothing,
}

/// Reads a frame.
pub async fn read_frame(context: &NodeContext, wish: &Wish) -> Result<FrameRead, StorageError> {
    match read_memory(context, wish) {
        Some((frame, through)) => Ok(FrameRead::Frame(frame, through)),
        None => read_disk(context, wish).await,
    }
}

fn read_memory(context: &NodeContext, wish: &Wish) -> Option<(Frame, Mark)> {
    let Wish { log, from, max_bytes, max_messages, .. } = *wish;
    let max_bytes = usize::try_from(max_bytes).unwrap_or(usize::MAX).min(MAX_FRAME_BYTES);
    let read = context.durable.read_tail(&log, from, max_bytes, max_messages)?;
    let now = context.clock.wall();
    let frame = Frame {
        log,
        first_m_id: from,
        previous_hash: read.previous,
        age_milliseconds: now.milliseconds_since(read.accepted.first_at),
        last_age_milliseconds: now.milliseconds_since(read.accepted.by),
        sends: read.sends,
    };
    Some((frame, read.last))
}

async fn read_disk(context: &NodeContext, wish: &Wish) -> Result<FrameRead, StorageError> {
    let Wish { log, from, through, previous_hash, max_bytes, max_messages } = *wish;
    let max_bytes = usize::try_from(max_bytes).unwrap_or(usize::MAX).min(MAX_FRAME_BYTES);
    let storage = &context.storage;
    let read = read_stored(storage, log, from, through, max_bytes).await?;
    if read.first().is_none_or(|first| first.m_id != from) {
        let missing = on_disk(storage, move |storage| storage.missing_from(&log, from)).await?;
        return Ok(match missing {
            Some(hole) => FrameRead::Missing(hole),
            None => {
                tracing::warn!(%log, %from, "the log cannot be served from there");
                FrameRead::Nothing
            }
        });
    }
    let previous_hash = match previous_hash {
        Some(hash) => hash,
        None => match hash_before(context, log, from).await? {
            Some(hash) => hash,
            None => return Ok(FrameRead::Nothing),
        },
    };
    let mut window = 2 * MESSAGE_WINDOW_BYTES;
    let mut sends = Vec::with_capacity(read.len().min(max_messages));
    let mut last = Mark { m_id: from.previous(), hash: previous_hash };
    for message in read.into_iter().take(max_messages) {
        window += message.bytes.len() + MESSAGE_WINDOW_BYTES;
        if window > max_bytes && !sends.is_empty() {
            break;
        }
        last = Mark { m_id: message.m_id, hash: last.hash.then(&message.bytes) };
        sends.push(message.bytes);
    }
    let (age_milliseconds, last_age_milliseconds) = ages(context, log, from, &sends, last).await?;
    let frame = Frame {
        log,
        first_m_id: from,
        previous_hash,
        age_milliseconds,
        last_age_milliseconds,
        sends,
    };
    Ok(FrameRead::Frame(frame, last))
}

/// How old the first and the last message of a frame are. What this node accepted
/// itself is as old as its stamp says. Of others' messages the disk knows by when
/// they had been accepted: they are at least so old, and nobody forgets them too
/// early.
async fn ages(
    context: &NodeContext,
    log: LogName,
    from: MessageNumber,
    sends: &[Bytes],
    last: Mark,
) -> Result<(u64, u64), StorageError> {
    let now = context.clock.wall();
    if log.origin == context.me().node {
        let age = |send: Option<&Bytes>| {
            let head = send.and_then(|send| MessageHead::decode(send).ok());
            head.map_or(0, |head| now.milliseconds_since(head.stamp.wall()))
        };
        return Ok((age(sends.first()), age(sends.last())));
    }
    on_disk(&context.storage, move |storage| {
        let age = |m_id| {
            let by = storage.accepted_by(&log, m_id)?;
            Ok(by.map_or(0, |by| now.milliseconds_since(by)))
        };
        Ok((age(from)?, age(last.m_id)?))
    })
    .await
}

async fn hash_before(
    context: &NodeContext,
    log: LogName,
    from: MessageNumber,
) -> Result<Option<ChainHash>, StorageError> {
    let rows = context.durable.rows();
    if rows.first_m_id(&log) == Some(from) {
        return Ok(rows.start_hash(&log));
    }
    let before = from.previous();
    let hash = on_disk(&context.storage, move |storage| storage.chain_hash_at(&log, before));
    hash.await
}
