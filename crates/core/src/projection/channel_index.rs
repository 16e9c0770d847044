//! Which parts of a log hold a channel, so that a channel's history is read
//! without reading everybody's.
//!
//! The index is by segments of 256 messages of a log, so that a trim drops whole
//! segments. Only the segments not yet stored are in memory; the rest is read
//! from storage by the keys made here: [`segments_before`] for readers, newest
//! first, [`contents_through`] for trims. Channels are told apart by a hash: a
//! reader looks at the messages' own names, so a collision costs time only.
//!
//! Of what is trimmed, each channel keeps its newest message per log: its trim
//! point, below which its history is told as a gap.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use bytes::Bytes;
use xxhash_rust::xxh3::xxh3_64;

use crate::identity::{LogName, MessageName, MessageNumber, NamespaceNumber};
use crate::message::{MessageHead, MessageKind};
use crate::replication::frames::TrimPoint;

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

/// The tags of the index's keys.
pub(super) const KEY_TAGS: [u8; 3] = [segment_key::TAG, contents_key::TAG, trim_point_key::TAG];

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

    /// Wraps the raw hash.
    pub const fn new(raw: u64) -> Self {
        Self(raw)
    }

    /// The raw hash.
    pub const fn get(self) -> u64 {
        self.0
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
        self.at((SEGMENT_MESSAGES - 1) as u8)
    }

    /// Saturating: a damaged key may name a segment that no message can be in.
    const fn at(self, offset: u8) -> MessageNumber {
        let first = self.0.saturating_mul(SEGMENT_MESSAGES);
        MessageNumber::new(first.saturating_add(offset as u64))
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

/// The segments that begin before a message, newest first, of those that were in
/// memory and those that were stored at that time or later.
pub fn join_segments(
    recent: Vec<IndexedSegment>,
    stored: impl IntoIterator<Item = IndexedSegment>,
    before: MessageNumber,
) -> Vec<IndexedSegment> {
    // What is in memory is complete; of the segment being written, a part is
    // stored too.
    let oldest_recent = recent.last().map(|segment| SegmentNumber::of(segment.first));
    let is_older = |segment: &IndexedSegment| {
        oldest_recent.is_none_or(|oldest| SegmentNumber::of(segment.first) < oldest)
    };
    let mut segments = recent;
    segments.extend(stored.into_iter().filter(is_older));
    segments.retain(|segment| segment.first < before);
    segments
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

/// Where all trim points of a namespace are: what travels with its base. Each pair
/// is read by [`decode_any_trim_point`].
pub fn all_trim_points(namespace: NamespaceNumber) -> IndexScan {
    IndexScan { prefix: TrimPointKey::of_namespace(namespace), after: None }
}

/// Where a trim point is stored: its key, whole.
pub fn trim_point_key(point: &TrimPoint) -> Bytes {
    TrimPointKey { channel: point.channel, log: point.log }.encode()
}

/// Reads a trim point with its channel.
pub fn decode_any_trim_point(key: &[u8], value: &[u8]) -> Result<TrimPoint, LoadError> {
    let TrimPointKey { channel, log } = TrimPointKey::decode(key)?;
    let m_id = decode_trim_point(key, value)?.m_id;
    Ok(TrimPoint { log, channel, m_id })
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

    /// This and what comes later in the segment.
    const fn and_later(self, later: Self) -> Self {
        let more = self.more.saturating_add(later.more).saturating_add(1);
        Self { more, first: self.first, last: later.last }
    }

    fn indexed(self, segment: SegmentNumber) -> IndexedSegment {
        IndexedSegment {
            count: u16::from(self.more) + 1,
            first: segment.at(self.first),
            last: segment.at(self.last),
        }
    }
}

/// A segment that is in memory: being written, or not known to be stored yet.
#[derive(Clone, Debug)]
struct RecentSegment {
    number: SegmentNumber,
    /// What was stored of it before this process began.
    loaded: Contents,
    /// What came since. A list, for this is done for every publication; it is
    /// put in order once, when it is written.
    publications: Vec<(ChannelHash, u8)>,
    /// Whether all of it was handed out to be stored.
    is_handed_out: bool,
}

impl RecentSegment {
    const fn new(number: SegmentNumber, loaded: Contents) -> Self {
        Self { number, loaded, publications: Vec::new(), is_handed_out: true }
    }

    fn take(&mut self, channel: ChannelHash, offset: u8) {
        self.publications.push((channel, offset));
        self.is_handed_out = false;
    }

    fn presences(&self) -> impl Iterator<Item = (ChannelHash, Presence)> + '_ {
        let came = self.publications.iter();
        let came = came.map(|(channel, offset)| (*channel, Presence::one(*offset)));
        self.loaded.iter().chain(came)
    }

    fn contents(&self) -> Contents {
        Contents::collect(self.presences())
    }

    fn indexed(&self, channel: ChannelHash) -> Option<IndexedSegment> {
        let of_channel = self.presences().filter(|(other, _)| *other == channel);
        let presence = of_channel.map(|(_, presence)| presence).reduce(Presence::and_later)?;
        Some(presence.indexed(self.number))
    }

    fn write_to(&mut self, log: &LogName, changes: &mut ProjectionChanges) {
        if self.is_handed_out {
            return;
        }
        self.is_handed_out = true;
        let contents = self.contents();
        let key = ContentsKey { log: *log, segment: self.number };
        let value = contents.encode();
        let channels = contents.iter().map(|(channel, _)| channel);
        let keys = SegmentKey::encode_all(log, self.number, channels);
        changes.puts.reserve(keys.len() + 1);
        for (place, segment_key) in keys.into_iter().enumerate() {
            changes.puts.push((segment_key, Contents::presence_in(&value, place)));
        }
        changes.puts.push((key.encode(), value));
    }
}

/// The projection of the channel index.
#[derive(Clone, Debug, Default)]
pub struct ChannelIndex {
    positions: LogPositions,
    /// Of each log the segments that may not be stored yet, oldest first; the
    /// last is being written.
    recent: BTreeMap<LogName, VecDeque<RecentSegment>>,
    /// What trims and rebuilding left to be written.
    trim_points: BTreeMap<TrimPointKey, MessageNumber>,
    deletes: Vec<Bytes>,
}

impl ChannelIndex {
    /// The segments in memory of a log that have a channel, newest first. To be
    /// taken before the stored ones are read, and put together with them by
    /// [`join_segments`].
    pub fn recent_segments(&self, channel: ChannelHash, log: &LogName) -> Vec<IndexedSegment> {
        let recent = self.recent.get(log).into_iter().flatten().rev();
        recent.filter_map(|recent| recent.indexed(channel)).collect()
    }

    /// Drops the segments of a log that lie at or below a new floor, and moves
    /// the trim points of their channels: these are told. `stored` is what is stored of
    /// [`contents_through`], up to the floor's segment ([`is_within_floor`]). To
    /// be stored in one write with the trim, or before it.
    ///
    /// What is stored of the same trim points may be newer: a base said so of what is
    /// still held here. So each is given to
    /// [`merge_trim_point`](Self::merge_trim_point) with that before anything is stored.
    pub fn trim(
        &mut self,
        log: &LogName,
        floor: MessageNumber,
        stored: impl IntoIterator<Item = (Bytes, Bytes)>,
    ) -> Result<Vec<TrimPoint>, LoadError> {
        let mut segments: BTreeMap<SegmentNumber, Contents> = BTreeMap::new();
        for (key, value) in stored {
            let key = ContentsKey::decode(&key)?;
            if key.log == *log {
                let contents = Contents::decode(&value).ok_or(LoadError::Value)?;
                segments.insert(key.segment, contents);
            }
        }
        let recent = self.recent.get(log).into_iter().flatten();
        segments.extend(recent.map(|recent| (recent.number, recent.contents())));
        let mut moved = BTreeSet::new();
        for (number, contents) in segments {
            if number <= SegmentNumber::of(floor) {
                moved.extend(self.trim_segment(log, floor, number, &contents));
            }
        }
        if let Some(recent) = self.recent.get_mut(log) {
            recent.retain(|recent| recent.number.last() > floor);
        }
        let point = |key: TrimPointKey| {
            let m_id = self.trim_points.get(&key).copied().unwrap_or_default();
            TrimPoint { log: key.log, channel: key.channel, m_id }
        };
        Ok(moved.into_iter().map(point).collect())
    }

    /// Merges a trim point that was received with a base: a log's newest message of
    /// the channel that may be missing. `held` is what is stored of the same.
    pub fn merge_trim_point(&mut self, point: &TrimPoint, held: Option<MessageNumber>) {
        let key = TrimPointKey { channel: point.channel, log: point.log };
        let newest = held.unwrap_or_default().max(point.m_id);
        let merged = self.trim_points.entry(key).or_default();
        *merged = newest.max(*merged);
    }

    fn trim_segment(
        &mut self,
        log: &LogName,
        floor: MessageNumber,
        number: SegmentNumber,
        contents: &Contents,
    ) -> Vec<TrimPointKey> {
        let mut moved = Vec::new();
        let is_dropped = number.last() <= floor;
        for (channel, presence) in contents.iter() {
            let segment = presence.indexed(number);
            if segment.first <= floor {
                // Within the floor's own segment the newest trimmed one is not
                // known exactly: it is not above this.
                let newest = segment.last.min(floor);
                let key = TrimPointKey { channel, log: *log };
                moved.push(key);
                let point = self.trim_points.entry(key);
                point.and_modify(|point| *point = newest.max(*point)).or_insert(newest);
            }
            if is_dropped {
                self.deletes.push(SegmentKey { channel, log: *log, segment: number }.encode());
            }
        }
        if is_dropped {
            self.deletes.push(ContentsKey { log: *log, segment: number }.encode());
        }
        moved
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
            let loaded = Contents::decode(&value).ok_or(LoadError::Value)?;
            let open = RecentSegment::new(segment, loaded);
            index.recent.entry(log).or_default().push_back(open);
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
            let m_id = decode_trim_point(&key, &value)?.m_id;
            let key = TrimPointKey::decode(&key)?;
            if logs.iter().any(|found| found.log == key.log) {
                index.trim_points.insert(key, m_id);
            }
        }
        Ok(index)
    }

    fn apply(&mut self, name: &MessageName, message: &MessageHead<'_>) {
        if !self.positions.advance(name) || message.kind != MessageKind::Publication {
            return;
        }
        let number = SegmentNumber::of(name.m_id);
        let (channel, offset) = (ChannelHash::of(message.channel), offset_of(name.m_id));
        let recent = self.recent.entry(name.log).or_default();
        match recent.back_mut().filter(|open| open.number == number) {
            Some(open) => open.take(channel, offset),
            None => {
                let mut open = RecentSegment::new(number, Contents::default());
                open.take(channel, offset);
                recent.push_back(open);
            }
        }
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

    /// Segments stay in memory until the changes after theirs are taken, for by
    /// then theirs are stored.
    fn take_changes(&mut self) -> ProjectionChanges {
        let mut changes = ProjectionChanges {
            deletes: std::mem::take(&mut self.deletes),
            ..ProjectionChanges::default()
        };
        for (log, recent) in &mut self.recent {
            let open = recent.back().map(|open| open.number);
            recent.retain(|recent| !recent.is_handed_out || Some(recent.number) == open);
            recent.iter_mut().for_each(|recent| recent.write_to(log, &mut changes));
        }
        for (key, m_id) in std::mem::take(&mut self.trim_points) {
            let value = Bytes::copy_from_slice(&m_id.get().to_be_bytes());
            changes.puts.push((key.encode(), value));
        }
        changes
    }
}
