//! What readers ask for: where to start, and which channels.

use interlock_core::clock::WallTime;
use interlock_core::cursor::Cursor;
use interlock_core::delivery::ChannelFilter;
use interlock_core::identity::NamespaceNumber;

use super::{IntoCore, IntoWire, InvalidField};
use crate::v1;
use crate::v1::start_position::Position;

/// Where a reader starts.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum StartPosition {
    /// After all that is durable now.
    #[default]
    Now,
    /// Before everything that is kept.
    Oldest,
    /// Before the last so many messages of the channels asked for.
    Last(u32),
    /// Before what arrived from this time on; approximate, never later.
    Time(WallTime),
    /// At a cursor.
    Cursor(Cursor),
}

impl IntoCore for v1::StartPosition {
    type Core = StartPosition;

    fn into_core(self) -> Result<StartPosition, InvalidField> {
        match self.position {
            None => Ok(StartPosition::Now),
            Some(Position::Now(true)) => Ok(StartPosition::Now),
            Some(Position::Now(false)) => Err(InvalidField::new("now", "must be true where set")),
            Some(Position::Oldest(true)) => Ok(StartPosition::Oldest),
            Some(Position::Oldest(false)) => {
                Err(InvalidField::new("oldest", "must be true where set"))
            }
            Some(Position::Last(count)) => Ok(StartPosition::Last(count)),
            Some(Position::TimeUnixMilliseconds(time)) => {
                Ok(StartPosition::Time(WallTime::new(time)))
            }
            Some(Position::Cursor(bytes)) => cursor(&bytes, "cursor").map(StartPosition::Cursor),
        }
    }
}

impl IntoWire for &StartPosition {
    type Wire = v1::StartPosition;

    fn into_wire(self) -> v1::StartPosition {
        let position = match self {
            StartPosition::Now => Position::Now(true),
            StartPosition::Oldest => Position::Oldest(true),
            StartPosition::Last(count) => Position::Last(*count),
            StartPosition::Time(time) => Position::TimeUnixMilliseconds(time.get()),
            StartPosition::Cursor(cursor) => Position::Cursor(cursor.encode()),
        };
        v1::StartPosition { position: Some(position) }
    }
}

impl StartPosition {
    /// Refuses a cursor of another namespace.
    pub fn check_namespace(&self, namespace: NamespaceNumber) -> Result<(), InvalidField> {
        match self {
            Self::Cursor(cursor) if cursor.namespace() != namespace => {
                Err(InvalidField::new("start.cursor", "is a position in another namespace"))
            }
            _ => Ok(()),
        }
    }
}

/// The start of a request; `now` where it names none.
pub fn start_position(start: Option<v1::StartPosition>) -> Result<StartPosition, InvalidField> {
    start.map_or(Ok(StartPosition::Now), |start| super::field(start, "start"))
}

/// A cursor's bytes.
pub fn cursor(bytes: &[u8], field: &str) -> Result<Cursor, InvalidField> {
    Cursor::decode(bytes).map_err(|error| InvalidField::new(field, error))
}

/// Channel names and prefixes that end in `*`; none means all.
pub fn channel_filter(channels: &[String]) -> Result<ChannelFilter, InvalidField> {
    ChannelFilter::parse(channels).map_err(|error| InvalidField::new("channels", error))
}
