//! How far a log may be trimmed as the projections see it: not beyond what they have
//! applied, because what they have not seen would be gone, and not over anything that
//! this build does not know, because a later one may.

use crate::identity::{LogName, MessageNumber, NodeNumber};

use super::{ChannelIndex, DirectoryProjection, Projection, PublishersProjection};

/// How far a log may be trimmed of what is wished, at the node `me`.
pub fn trimmable_through(
    me: NodeNumber,
    log: &LogName,
    wished: MessageNumber,
    directories: &DirectoryProjection,
    publishers: &PublishersProjection,
    index: &ChannelIndex,
) -> MessageNumber {
    let mut through = wished.min(directories.position_of(log)).min(index.position_of(log));
    // Sessions are projected of the node's own messages only.
    if log.origin == me {
        through = through.min(publishers.position_of(log));
    }
    match directories.unprojected().find(|(name, ..)| *name == log) {
        Some((_, first, _)) => through.min(first.previous()),
        None => through,
    }
}
