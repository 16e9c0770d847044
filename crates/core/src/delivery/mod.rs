//! Who gets which message: channel filters, and where a reader stands against
//! the one position that all who keep up share.
//!
//! A gateway delivers a namespace in one order. Readers of equal coverage stand
//! at the shared position, whatever they filter; whoever is behind, ahead or
//! held back has a position of its own until the two meet (one position
//! for all who keep up).

mod matching;
mod reader_position;

pub use matching::{ChannelFilter, FilterError, Pattern};
pub use reader_position::{OriginNews, ReaderPosition, Step, UnknownBranch};
