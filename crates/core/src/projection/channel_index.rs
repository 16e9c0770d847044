//! Which parts of a log hold a channel, so that a channel's history is read
//! without reading everybody's.
//!
//! The index is by segments of 256 messages of a log, so that a trim drops whole
//! segments. Only the segments being written are in memory; the rest is read
//! from storage by the keys made here: [`segments_before`] for readers, newest
//! first, [`contents_through`] for trims. Channels are told apart by a hash: a
//! reader looks at the messages' own names, so a collision costs time only.
//!
//! Of what is trimmed, each channel keeps its newest message per log: its trim
//! point, below which its history is told as a gap.

use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;
use xxhash_rust::xxh3::xxh3_64;

use crate::identity::{LogName, MessageName, MessageNumber, NamespaceNumber};
use crate::message::{MessageHead, MessageKind};

use super::{
    LayoutVersion, LoadError, LogPositions, ProjectedLog, Projection, ProjectionChanges,
    ProjectionKind, ProjectionPosition,
};

mod contents_key;
mod segment_key;
mod trim_point_key;

use contents_key::{Contents, ContentsKey};
use segment_key::SegmentKey;
use trim_point_key::TrimPointKey;

/// Messages in one segment. Part of the layout.
pub const SEGMENT_MESSAGES: u64 = 256;

/// A channel's name, short.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ChannelHash(u64);

impl ChannelHash {
    /// The hash of a name.
    pub fn of(channel: &str) -> Self {
        Self(xxh3_64(channel.as_bytes()))
    }
}

/// The messages of a log numbered from 256 × this on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SegmentNumber(u64);

impl SegmentNumber {
    /// The segment of a message.
    pub const fn of(m_id: MessageNumber) -> Self {
        Self(m_id.get() / SEGMENT_MESSAGES)
    }

    /// The last message it has room for.
    pub const fn last(self) -> MessageNumber {
        MessageNumber::new(self.0 * SEGMENT_MESSAGES + (SEGMENT_MESSAGES - 1))
    }

    const fn at(self, offset: u8) -> MessageNumber {
        MessageNumber::new(self.0 * SEGMENT_MESSAGES + offset as u64)
    }

    /// The one after it; the last has none.
    const fn next(self) -> Self {
        Self(self.0.saturating_add(1))
    }
}

const fn offset_of(m_id: MessageNumber) -> u8 {
    (m_id.get() % SEGMENT_MESSAGES) as u8
}

/// What a segment has of one channel (or of several with one hash).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct IndexedSegment {
    /// How many publications.
    pub count: u16,
    /// The first of them.
    pub first: MessageNumber,
    /// The last of them.
    pub last: MessageNumber,
}

/// A part of the stored index to scan: keys that begin with `prefix`, after
/// `after`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct IndexScan {
    /// What the keys begin with.
    pub prefix: Bytes,
    /// The key after which to begin; from the first on without.
    pub after: Option<Bytes>,
}

/// Where the stored segments of a channel in a log are, newest first, that begin
/// before a message. Each pair is read by [`decode_segment`].
pub fn segments_before(channel: ChannelHash, log: &LogName, before: MessageNumber) -> IndexScan {
    let key = |segment| SegmentKey { channel, log: *log, segment };
    let newest = SegmentNumber::of(before.previous());
    IndexScan { prefix: SegmentKey::prefix(channel, log), after: Some(key(newest.next()).encode()) }
}

/// Reads a stored segment.
pub fn decode_segment(key: &[u8], value: &[u8]) -> Result<IndexedSegment, LoadError> {
    let segment = SegmentKey::decode(key)?.segment;
    let presence = Presence::decode(value).ok_or(LoadError::Value)?;
    Ok(presence.indexed(segment))
}

/// Where the contents of the stored segments of a log are, oldest first: what
/// [`ChannelIndex::trim`] is given, up to the segment of the new floor.
pub fn contents_through(log: &LogName) -> IndexScan {
    IndexScan { prefix: ContentsKey::prefix(log), after: None }
}

/// Whether the contents at a key are of interest to a trim up to `floor`.
pub fn is_within_floor(contents_key: &[u8], floor: MessageNumber) -> Result<bool, LoadError> {
    let segment = ContentsKey::decode(contents_key)?.segment;
    Ok(segment <= SegmentNumber::of(floor))
}

/// Where a channel's trim points are in a namespace, one a log. Each pair is read
/// by [`decode_trim_point`].
pub fn trim_points(channel: ChannelHash, namespace: NamespaceNumber) -> IndexScan {
    IndexScan { prefix: TrimPointKey::prefix(namespace, channel), after: None }
}

/// Reads a trim point: the newest message of the channel that its log no longer
/// has.
pub fn decode_trim_point(key: &[u8], value: &[u8]) -> Result<MessageName, LoadError> {
    let log = TrimPointKey::decode(key)?.log;
    let m_id = value.try_into().map_err(|_| LoadError::Value)?;
    Ok(MessageName { log, m_id: MessageNumber::new(u64::from_be_bytes(m_id)) })
}

/// What a segment has of a channel, by offsets: three bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Presence {
    /// One less than the count, which is never 0 and may be 256.
    more: u8,
    first: u8,
    last: u8,
}

impl Presence {
    const BYTES: usize = 3;

    const fn one(offset: u8) -> Self {
        Self { more: 0, first: offset, last: offset }
    }

    const fn encode(self) -> [u8; Self::BYTES] {
        [self.more, self.first, self.last]
    }

    fn decode(bytes: &[u8]) -> Option<Self> {
        match *bytes {
            [more, first, last] if first <= last => Some(Self { more, first, last }),
            _ => None,
        }
    }

    fn indexed(self, segment: SegmentNumber) -> IndexedSegment {
        IndexedSegment {
            count: u16::from(self.more) + 1,
            first: segment.at(self.first),
            last: segment.at(self.last),
        }
    }
}

/// A segment that is being written.
#[derive(Clone, Debug)]
struct OpenSegment {
    number: SegmentNumber,
    channels: BTreeMap<ChannelHash, Presence>,
    dirty: BTreeSet<ChannelHash>,
}

impl OpenSegment {
    const fn new(number: SegmentNumber) -> Self {
        Self { number, channels: BTreeMap::new(), dirty: BTreeSet::new() }
    }

    fn write_to(&mut self, log: &LogName, changes: &mut ProjectionChanges) {
        if self.dirty.is_empty() {
            return;
        }
        for channel in std::mem::take(&mut self.dirty) {
            if let Some(presence) = self.channels.get(&channel) {
                let key = SegmentKey { channel, log: *log, segment: self.number };
                let value = Bytes::copy_from_slice(&presence.encode());
                changes.puts.push((key.encode(), value));
            }
        }
        let key = ContentsKey { log: *log, segment: self.number };
        changes.puts.push((key.encode(), Contents::encode(&self.channels)));
    }
}

/// The projection of the channel index.
#[derive(Clone, Debug, Default)]
pub struct ChannelIndex {
    positions: LogPositions,
    open: BTreeMap<LogName, OpenSegment>,
    changes: ProjectionChanges,
}

impl ChannelIndex {
    /// The segment of a log that is being written, if it has the channel: newer
    /// than all that is stored, or as new.
    pub fn open_segment(&self, channel: ChannelHash, log: &LogName) -> Option<IndexedSegment> {
        let open = self.open.get(log)?;
        open.channels.get(&channel).map(|presence| presence.indexed(open.number))
    }

    /// Drops the segments of a log that lie at or below a new floor, and moves
    /// the trim points of their channels. `stored` is what is stored of
    /// [`contents_through`] the floor's segment. To be stored in one write with
    /// the trim, or before it.
    pub fn trim(
        &mut self,
        log: &LogName,
        floor: MessageNumber,
        stored: impl IntoIterator<Item = (Bytes, Bytes)>,
    ) -> Result<(), LoadError> {
        let mut trimmed: BTreeMap<ChannelHash, MessageNumber> = BTreeMap::new();
        let mut deletes = Vec::new();
        for (key, value) in stored {
            let key = ContentsKey::decode(&key)?;
            if key.log != *log || key.segment > SegmentNumber::of(floor) {
                continue;
            }
            let drops = key.segment.last() <= floor;
            for (channel, presence) in Contents::decode(&value).ok_or(LoadError::Value)? {
                let segment = presence.indexed(key.segment);
                if segment.first <= floor {
                    // Within the floor's own segment the newest trimmed one is
                    // not known exactly: it is not above this.
                    let newest = trimmed.entry(channel).or_default();
                    *newest = (*newest).max(segment.last.min(floor));
                }
                if drops {
                    let key = SegmentKey { channel, log: *log, segment: key.segment };
                    deletes.push(key.encode());
                }
            }
            if drops {
                deletes.push(key.encode());
            }
        }
        self.drop_pending(&deletes);
        self.changes.deletes.extend(deletes);
        if self.open.get(log).is_some_and(|open| open.number.last() <= floor) {
            self.open.remove(log);
        }
        for (channel, m_id) in trimmed {
            let key = TrimPointKey { channel, log: *log }.encode();
            self.changes.puts.push((key, Bytes::copy_from_slice(&m_id.get().to_be_bytes())));
        }
        Ok(())
    }

    /// Takes what is deleted out of what is still to be written.
    fn drop_pending(&mut self, deletes: &[Bytes]) {
        let deleted: BTreeSet<&Bytes> = deletes.iter().collect();
        self.changes.puts.retain(|(key, _)| !deleted.contains(key));
    }
}

impl Projection for ChannelIndex {
    const KIND: ProjectionKind = ProjectionKind::ChannelIndex;
    const LAYOUT: LayoutVersion = LayoutVersion::new(1);
    type Effects = ();

    /// Only the contents of the segments that were being written.
    fn prefixes_to_load(position: &ProjectionPosition) -> Vec<Bytes> {
        let key = |(log, m_id): &(LogName, MessageNumber)| {
            ContentsKey { log: *log, segment: SegmentNumber::of(*m_id) }.encode()
        };
        position.positions.iter().map(key).collect()
    }

    fn load(
        position: &ProjectionPosition,
        stored: impl IntoIterator<Item = (Bytes, Bytes)>,
        logs: &[ProjectedLog],
    ) -> Result<Self, LoadError> {
        let mut index =
            Self { positions: LogPositions::from_stored(position, logs), ..Self::default() };
        for (key, value) in stored {
            let ContentsKey { log, segment } = ContentsKey::decode(&key)?;
            let channels = Contents::decode(&value).ok_or(LoadError::Value)?;
            let open = OpenSegment { channels, ..OpenSegment::new(segment) };
            index.open.insert(log, open);
        }
        Ok(index)
    }

    fn prefixes_to_keep() -> Vec<Bytes> {
        vec![TrimPointKey::all()]
    }

    fn rebuild(
        kept: impl IntoIterator<Item = (Bytes, Bytes)>,
        logs: &[ProjectedLog],
    ) -> Result<Self, LoadError> {
        let mut index = Self { positions: LogPositions::from_floors(logs), ..Self::default() };
        for (key, value) in kept {
            let log = decode_trim_point(&key, &value)?.log;
            if logs.iter().any(|found| found.log == log) {
                index.changes.puts.push((key, value));
            }
        }
        Ok(index)
    }

    fn apply(&mut self, name: &MessageName, message: &MessageHead<'_>) {
        if !self.positions.advance(name) || message.kind != MessageKind::Publication {
            return;
        }
        let number = SegmentNumber::of(name.m_id);
        let open = self.open.entry(name.log).or_insert_with(|| OpenSegment::new(number));
        if open.number != number {
            open.write_to(&name.log, &mut self.changes);
            *open = OpenSegment::new(number);
        }
        let (channel, offset) = (ChannelHash::of(message.channel), offset_of(name.m_id));
        open.channels
            .entry(channel)
            .and_modify(|presence| {
                presence.more = presence.more.saturating_add(1);
                presence.last = offset;
            })
            .or_insert_with(|| Presence::one(offset));
        open.dirty.insert(channel);
    }

    fn skip(&mut self, log: &LogName, through: MessageNumber) {
        self.positions.skip(log, through);
    }

    fn position_of(&self, log: &LogName) -> MessageNumber {
        self.positions.of(log)
    }

    fn position(&self) -> ProjectionPosition {
        self.positions.stored(Self::LAYOUT)
    }

    fn take_changes(&mut self) -> ProjectionChanges {
        for (log, open) in &mut self.open {
            open.write_to(log, &mut self.changes);
        }
        std::mem::take(&mut self.changes)
    }
}

#[cfg(test)]
mod tests;
