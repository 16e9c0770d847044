//! What the log means: directory, channel index, publisher sessions.
//!
//! The log is the truth; a projection is what follows from it, kept so that it
//! need not be read again. Each kind of projection has its own position per log
//! and the version of its layout, stored together with its effect, so that what
//! is applied is applied exactly once (METHOD M10). The driver, for each kind:
//!
//! 1. at opening asks [`opening_of`] whether what is stored can be used, and
//!    makes the projection with [`Projection::load`] or [`Projection::rebuild`];
//! 2. applies the messages of each log after its position, in their order, as
//!    they become durable; tells it of holes with [`Projection::skip`], also of those
//!    that lie between what is stored and the end of a log at an opening;
//! 3. now and then stores [`Projection::take_changes`] together with
//!    [`Projection::position`], in one write.
//!
//! Only durable messages are applied. So what is stored can be ahead of a log
//! only where the log lost what was durable; then it is built again from the
//! log, and from what trimming left.

use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;
use thiserror::Error;

use crate::directory::EntryError;
use crate::identity::{LogName, MessageName, MessageNumber, NamespaceNumber};
use crate::message::MessageHead;
use crate::replication::rows::Row;

pub mod channel_index;
mod directory_key;
pub mod directory_projection;
mod key_parts;
pub mod publishers;
pub mod publishers_projection;
mod session_chunk;
#[cfg(test)]
mod tests;
mod trimming;
mod unprojected_key;

pub use channel_index::ChannelIndex;
pub use directory_projection::DirectoryProjection;
pub use key_parts::KeyError;
pub use publishers::Publishers;
pub use publishers_projection::PublishersProjection;
pub use session_chunk::ChunkError;
pub use trimming::trimmable_through;

/// The kinds of projections, each with keys of its own.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum ProjectionKind {
    /// The channels and their definitions.
    Directory,
    /// The sessions of publishers.
    Publishers,
    /// Which parts of a log hold a channel.
    ChannelIndex,
}

impl ProjectionKind {
    /// All kinds.
    pub const ALL: [Self; 3] = [Self::Directory, Self::Publishers, Self::ChannelIndex];

    /// The kind's tag in stored keys, never reused.
    pub const fn tag(self) -> u8 {
        match self {
            Self::Directory => 1,
            Self::Publishers => 2,
            Self::ChannelIndex => 3,
        }
    }
}

/// The tags that keys of any projection begin with.
fn key_tags() -> BTreeSet<u8> {
    let of_index = channel_index::KEY_TAGS.into_iter();
    of_index.chain([directory_key::TAG, unprojected_key::TAG, session_chunk::TAG]).collect()
}

/// From where to where the keys of a namespace lie, in whichever projection: each
/// begins with its tag and the namespace.
pub fn namespace_key_ranges(namespace: NamespaceNumber) -> Vec<(Bytes, Bytes)> {
    let bound = |tag: u8, number: u64| {
        let [_, _, _, prefix @ ..] = ((u64::from(tag) << 32) + number).to_be_bytes();
        Bytes::copy_from_slice(&prefix)
    };
    let number = u64::from(namespace.get());
    // After the last namespace of a tag comes the next tag.
    let tags = key_tags().into_iter();
    tags.map(|tag| (bound(tag, number), bound(tag, number + 1))).collect()
}

/// What a projection's keys and values look like. Raised when they change in a
/// way that the build before cannot read; what is stored is then built again.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct LayoutVersion(u32);

impl LayoutVersion {
    /// Wraps the raw number.
    pub const fn new(raw: u32) -> Self {
        Self(raw)
    }

    /// The raw number.
    pub const fn get(self) -> u32 {
        self.0
    }
}

/// How far a projection has come: stored with its effect.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ProjectionPosition {
    /// The layout of what is stored.
    pub layout: LayoutVersion,
    /// The last message applied of each log, by log name.
    pub positions: Vec<(LogName, MessageNumber)>,
}

impl ProjectionPosition {
    /// The last message applied of a log.
    pub fn of(&self, log: &LogName) -> MessageNumber {
        let found = self.positions.iter().find(|(name, _)| name == log);
        found.map_or(MessageNumber::ZERO, |(_, position)| *position)
    }
}

/// What is to be written so that what is stored is what the projection holds.
/// Deletes and puts never name the same key.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ProjectionChanges {
    /// Keys with their new values.
    pub puts: Vec<(Bytes, Bytes)>,
    /// Keys that are no longer there.
    pub deletes: Vec<Bytes>,
}

impl ProjectionChanges {
    /// Whether there is nothing to write.
    pub const fn is_empty(&self) -> bool {
        self.puts.is_empty() && self.deletes.is_empty()
    }
}

/// A log as the opening walk found it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ProjectedLog {
    /// The log.
    pub log: LogName,
    /// The last message that was trimmed; 0 if none was. From behind it on what the log
    /// still has is applied.
    pub floor: MessageNumber,
    /// The last message below the mark that is not held: trimmed, or in a hole; 0 if
    /// nothing is missing.
    pub last_missing: MessageNumber,
    /// The last message that is held.
    pub held: MessageNumber,
}

impl ProjectedLog {
    /// From what the walk says of a log. The point before the first message is no loss.
    pub fn new(
        row: &Row,
        floor: MessageNumber,
        last_missing: MessageNumber,
        held: MessageNumber,
    ) -> Self {
        let first = row.first_m_id();
        let lost = |m_id| if m_id < first { MessageNumber::ZERO } else { m_id };
        Self { log: row.log, floor: lost(floor), last_missing: lost(last_missing), held }
    }
}

/// Whether what is stored of a projection can be used.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ProjectionOpening {
    /// Load it, and apply what the logs have beyond its position.
    Load,
    /// Nothing was ever stored: begin with an empty one.
    New,
    /// Its layout is another: build it again.
    OtherLayout {
        /// The layout stored.
        stored: LayoutVersion,
    },
    /// It is ahead of a log, which lost messages, or is gone: build it again.
    AheadOfLog {
        /// The log.
        log: LogName,
        /// The last message applied.
        applied: MessageNumber,
        /// The last message that the log holds.
        held: MessageNumber,
    },
}

/// Decides whether what is stored can be used, given all logs that were found.
pub fn opening_of(
    stored: Option<&ProjectionPosition>,
    layout: LayoutVersion,
    logs: &[ProjectedLog],
) -> ProjectionOpening {
    let Some(stored) = stored else { return ProjectionOpening::New };
    if stored.layout != layout {
        return ProjectionOpening::OtherLayout { stored: stored.layout };
    }
    let held: BTreeMap<_, _> = logs.iter().map(|log| (log.log, log.held)).collect();
    for &(log, applied) in &stored.positions {
        let held = held.get(&log).copied().unwrap_or(MessageNumber::ZERO);
        if applied > held {
            return ProjectionOpening::AheadOfLog { log, applied, held };
        }
    }
    ProjectionOpening::Load
}

/// Why stored pairs cannot be taken back: they were not written by this layout,
/// or are damaged. Building the projection again helps.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum LoadError {
    /// A key.
    #[error(transparent)]
    Key(#[from] KeyError),
    /// A channel's definition.
    #[error(transparent)]
    Entry(#[from] EntryError),
    /// A part of a publisher's session.
    #[error(transparent)]
    Chunk(#[from] ChunkError),
    /// A value of another length than its kind has.
    #[error("a stored value has a wrong length")]
    Value,
}

/// What every kind of projection does. See the module's page.
pub trait Projection: Sized {
    /// Its kind.
    const KIND: ProjectionKind;
    /// Its present layout.
    const LAYOUT: LayoutVersion;
    /// What applying a message tells.
    type Effects;

    /// What the keys begin with that [`load`](Self::load) needs: not all that is
    /// stored has to be in memory.
    fn prefixes_to_load(position: &ProjectionPosition) -> Vec<Bytes>;

    /// Takes up what is stored.
    fn load(
        position: &ProjectionPosition,
        stored: impl IntoIterator<Item = (Bytes, Bytes)>,
        logs: &[ProjectedLog],
    ) -> Result<Self, LoadError>;

    /// What the keys begin with that [`rebuild`](Self::rebuild) keeps.
    fn prefixes_to_keep() -> Vec<Bytes>;

    /// Begins anew, with what cannot be had from the logs again because they were
    /// trimmed. All that is stored is to be deleted before the first changes are
    /// stored; what is kept is among these. Positions begin at the floors.
    fn rebuild(
        kept: impl IntoIterator<Item = (Bytes, Bytes)>,
        logs: &[ProjectedLog],
    ) -> Result<Self, LoadError>;

    /// Applies the next durable message of a log. What was applied before changes
    /// nothing.
    ///
    /// # Panics
    /// If messages between it and the position were left out.
    fn apply(&mut self, name: &MessageName, message: &MessageHead<'_>) -> Self::Effects;

    /// Moves over messages that are no longer anywhere.
    fn skip(&mut self, log: &LogName, through: MessageNumber);

    /// The last message applied of a log.
    fn position_of(&self, log: &LogName) -> MessageNumber;

    /// All positions, to be stored with the changes.
    fn position(&self) -> ProjectionPosition;

    /// What changed since the last call.
    fn take_changes(&mut self) -> ProjectionChanges;
}

/// How far each log was applied.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct LogPositions {
    positions: BTreeMap<LogName, MessageNumber>,
}

impl LogPositions {
    /// From a stored position; a log that was trimmed further goes on from its
    /// floor, for what was trimmed had been applied or came as a base.
    fn from_stored(position: &ProjectionPosition, logs: &[ProjectedLog]) -> Self {
        let mut positions = Self { positions: position.positions.iter().copied().collect() };
        logs.iter().for_each(|log| positions.skip(&log.log, log.floor));
        positions
    }

    /// From the floors of what is held.
    fn from_floors(logs: &[ProjectedLog]) -> Self {
        Self::from_stored(&ProjectionPosition::default(), logs)
    }

    fn of(&self, log: &LogName) -> MessageNumber {
        self.positions.get(log).copied().unwrap_or(MessageNumber::ZERO)
    }

    /// Moves to a message; `false` if it was applied before.
    fn advance(&mut self, name: &MessageName) -> bool {
        let Some(position) = self.positions.get_mut(&name.log) else {
            // A log's first message has any number: its parents' are below.
            self.positions.insert(name.log, name.m_id);
            return true;
        };
        if name.m_id <= *position {
            return false;
        }
        assert!(
            *position == MessageNumber::ZERO || name.m_id == position.next(),
            "a projection at {position} of {} cannot apply {}: messages were left out",
            name.log,
            name.m_id
        );
        *position = name.m_id;
        true
    }

    fn skip(&mut self, log: &LogName, through: MessageNumber) {
        if through > MessageNumber::ZERO {
            let position = self.positions.entry(*log).or_default();
            *position = through.max(*position);
        }
    }

    fn retain(&mut self, counts: impl Fn(&LogName) -> bool) {
        self.positions.retain(|log, _| counts(log));
    }

    fn stored(&self, layout: LayoutVersion) -> ProjectionPosition {
        let positions = self.positions.iter().map(|(log, position)| (*log, *position)).collect();
        ProjectionPosition { layout, positions }
    }
}
