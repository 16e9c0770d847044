//! Why a namespace, or the whole node, accepts nothing at present.

use std::fmt;

/// One reason for accepting nothing. The driver sets and clears them; several
/// may hold at once, and the first by this order is told.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum ClosedReason {
    /// The node is draining: another node of the region takes over.
    Draining,
    /// The member does not hold the namespace's state yet.
    Backfilling,
    /// The node has too little free space left.
    LowSpace,
    /// The namespace's logs have reached their cap on this node's disk.
    DiskCap,
}

impl ClosedReason {
    const ALL: [Self; 4] = [Self::Draining, Self::Backfilling, Self::LowSpace, Self::DiskCap];

    const fn bit(self) -> u8 {
        1 << self as u8
    }

    /// Whether it is about room on the disk, so that it ends with a trim, and
    /// does not keep anyone from deleting.
    pub const fn is_about_room(self) -> bool {
        matches!(self, Self::LowSpace | Self::DiskCap)
    }
}

impl fmt::Display for ClosedReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Draining => "the node is draining",
            Self::Backfilling => "the namespace's state is still being fetched",
            Self::LowSpace => "the node has too little free space",
            Self::DiskCap => "the namespace has reached its disk cap",
        })
    }
}

/// All reasons that hold.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ClosedReasons(u8);

impl ClosedReasons {
    /// Sets or clears one reason.
    pub fn set(&mut self, reason: ClosedReason, holds: bool) {
        if holds {
            self.0 |= reason.bit();
        } else {
            self.0 &= !reason.bit();
        }
    }

    /// The reasons of both.
    #[must_use]
    pub const fn and(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }

    /// What a publication, or an edit that adds something, is refused for.
    pub fn first(self) -> Option<ClosedReason> {
        ClosedReason::ALL.into_iter().find(|reason| self.0 & reason.bit() != 0)
    }

    /// What a deletion is refused for: want of room is no reason against it.
    pub fn first_against_deleting(self) -> Option<ClosedReason> {
        self.first().filter(|reason| !reason.is_about_room())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_reason_is_told_and_want_of_room_is_none_against_deleting() {
        let mut reasons = ClosedReasons::default();
        assert_eq!(reasons.first(), None);
        reasons.set(ClosedReason::DiskCap, true);
        assert_eq!(reasons.first(), Some(ClosedReason::DiskCap));
        assert_eq!(reasons.first_against_deleting(), None);
        reasons.set(ClosedReason::Backfilling, true);
        assert_eq!(reasons.first(), Some(ClosedReason::Backfilling));
        assert_eq!(reasons.first_against_deleting(), Some(ClosedReason::Backfilling));
        reasons.set(ClosedReason::Backfilling, false);
        reasons.set(ClosedReason::DiskCap, false);
        assert_eq!(reasons, ClosedReasons::default());

        for reason in ClosedReason::ALL {
            let mut one = ClosedReasons::default();
            one.set(reason, true);
            assert_eq!(ClosedReasons::default().and(one).first(), Some(reason));
        }
    }
}
