//! Time as the core knows it: told by the driver, never read.
//!
//! Wall time orders what people see and breaks ties; monotonic time runs timers;
//! the hybrid clock stamps messages. Causes are ordered by versions and numbers,
//! never by a clock.

use std::fmt;
use std::ops::Add;
use std::time::Duration;

use crate::limits::MAX_CLOCK_LEAD_MILLISECONDS;

/// Milliseconds since the Unix epoch, as the driver's wall clock says.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct WallTime(u64);

impl WallTime {
    /// From milliseconds since the Unix epoch.
    pub const fn new(milliseconds: u64) -> Self {
        Self(milliseconds)
    }

    /// Milliseconds since the Unix epoch.
    pub const fn get(self) -> u64 {
        self.0
    }

    /// Milliseconds from `earlier` to this; none when `earlier` is later.
    pub const fn milliseconds_since(self, earlier: Self) -> u64 {
        self.0.saturating_sub(earlier.0)
    }

    /// So many milliseconds before this.
    pub const fn minus_milliseconds(self, milliseconds: u64) -> Self {
        Self(self.0.saturating_sub(milliseconds))
    }

    /// So many milliseconds after this.
    pub const fn plus_milliseconds(self, milliseconds: u64) -> Self {
        Self(self.0.saturating_add(milliseconds))
    }
}

impl fmt::Display for WallTime {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} ms", self.0)
    }
}

/// A point of the driver's monotonic clock, counted from the driver's start.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Moment(Duration);

impl Moment {
    /// The driver's start.
    pub const START: Self = Self(Duration::ZERO);

    /// So long after the driver's start.
    pub const fn new(since_start: Duration) -> Self {
        Self(since_start)
    }

    /// How long after the driver's start.
    pub const fn since_start(self) -> Duration {
        self.0
    }

    /// How long after `earlier`; nothing when `earlier` is later.
    pub const fn since(self, earlier: Self) -> Duration {
        self.0.saturating_sub(earlier.0)
    }
}

impl Add<Duration> for Moment {
    type Output = Self;

    fn add(self, duration: Duration) -> Self {
        Self(self.0.saturating_add(duration))
    }
}

const COUNTER_BITS: u32 = 16;
const MAX_MILLISECONDS: u64 = (1 << 48) - 1;

/// A stamp of the hybrid clock: milliseconds since the Unix epoch in the upper
/// 48 bits, a counter in the lower 16.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct HybridTime(u64);

impl HybridTime {
    /// Before every stamp.
    pub const ZERO: Self = Self(0);

    /// From the raw bits.
    pub const fn new(bits: u64) -> Self {
        Self(bits)
    }

    /// The raw bits.
    pub const fn get(self) -> u64 {
        self.0
    }

    /// The first stamp of a millisecond. Times after the year 10889 count as its
    /// end.
    pub const fn at(wall: WallTime) -> Self {
        let milliseconds = if wall.0 > MAX_MILLISECONDS { MAX_MILLISECONDS } else { wall.0 };
        Self(milliseconds << COUNTER_BITS)
    }

    /// The wall time in it.
    pub const fn wall(self) -> WallTime {
        WallTime(self.0 >> COUNTER_BITS)
    }

    /// The next stamp. The counter overflows into the milliseconds, which is
    /// what keeps the order when one millisecond has more than 65,536 messages.
    const fn successor(self) -> Self {
        Self(self.0.saturating_add(1))
    }
}

impl fmt::Display for HybridTime {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}+{}", self.0 >> COUNTER_BITS, self.0 & 0xffff)
    }
}

/// What an observed stamp says about the clocks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ClockObservation {
    /// The remote stamp is more than a minute ahead of the local wall clock: one
    /// of the two nodes' clocks is wrong, which is worth an alarm.
    pub far_off: bool,
}

/// Stamps what this node accepts. Stamps rise strictly; they follow the wall
/// clock and whatever was seen of others, at most a minute ahead.
#[derive(Clone, Debug)]
pub struct HybridClock {
    last: HybridTime,
}

impl HybridClock {
    /// A clock that goes on above the last stamp that this node stored.
    pub const fn new(resume_above: HybridTime) -> Self {
        Self { last: resume_above }
    }

    /// The last stamp given or taken over.
    pub const fn last(&self) -> HybridTime {
        self.last
    }

    /// A new stamp: strictly above the last one and above `above` (the message's
    /// predecessor or its row's parents), however far ahead that is.
    pub fn stamp(&mut self, now: WallTime, above: HybridTime) -> HybridTime {
        let floor = self.last.max(above).successor();
        self.last = HybridTime::at(now).max(floor);
        self.last
    }

    /// Takes note of a received stamp. The clock follows it, but never more than
    /// a minute ahead of the local wall clock, so that one wrong clock cannot
    /// drag the mesh along. Nothing is ever refused for its stamp.
    pub fn observe(&mut self, remote: HybridTime, now: WallTime) -> ClockObservation {
        let limit = now.plus_milliseconds(MAX_CLOCK_LEAD_MILLISECONDS);
        self.last = self.last.max(remote.min(HybridTime::at(limit)));
        ClockObservation { far_off: remote.wall() > limit }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stamps_follow_the_wall_clock_and_rise_when_it_does_not() {
        let mut clock = HybridClock::new(HybridTime::ZERO);
        let first = clock.stamp(WallTime::new(1_000), HybridTime::ZERO);
        assert_eq!(first, HybridTime::at(WallTime::new(1_000)));
        let second = clock.stamp(WallTime::new(400), HybridTime::ZERO);
        assert!(second > first);
        assert_eq!(second.wall(), WallTime::new(1_000));
        let third = clock.stamp(WallTime::new(2_000), HybridTime::ZERO);
        assert_eq!(third, HybridTime::at(WallTime::new(2_000)));
    }

    #[test]
    fn a_stamp_is_above_its_predecessor_whatever_the_limit() {
        let mut clock = HybridClock::new(HybridTime::ZERO);
        let parent = HybridTime::at(WallTime::new(10_000_000));
        assert!(clock.stamp(WallTime::new(5), parent) > parent);
    }

    #[test]
    fn observing_moves_at_most_a_minute_ahead() {
        let now = WallTime::new(1_000_000);
        let mut clock = HybridClock::new(HybridTime::ZERO);
        let near = HybridTime::at(now.plus_milliseconds(59_000));
        assert!(!clock.observe(near, now).far_off);
        assert_eq!(clock.last(), near);

        let far = HybridTime::at(now.plus_milliseconds(3_600_000));
        assert!(clock.observe(far, now).far_off);
        assert_eq!(clock.last().wall(), now.plus_milliseconds(60_000));

        // What is older moves nothing.
        assert!(!clock.observe(HybridTime::ZERO, now).far_off);
        assert_eq!(clock.last().wall(), now.plus_milliseconds(60_000));
    }

    #[test]
    fn a_clock_resumes_above_what_was_stored() {
        let stored = HybridTime::at(WallTime::new(9_000));
        let mut clock = HybridClock::new(stored);
        assert!(clock.stamp(WallTime::new(1), HybridTime::ZERO) > stored);
    }

    #[test]
    fn the_counter_overflows_into_the_milliseconds() {
        let mut clock = HybridClock::new(HybridTime::new((7 << 16) | 0xffff));
        assert_eq!(clock.stamp(WallTime::new(7), HybridTime::ZERO), HybridTime::new(8 << 16));
    }

    #[test]
    fn extreme_times_do_not_overflow() {
        let mut clock = HybridClock::new(HybridTime::ZERO);
        clock.observe(HybridTime::new(u64::MAX), WallTime::new(u64::MAX));
        clock.stamp(WallTime::new(u64::MAX), HybridTime::new(u64::MAX));
        assert_eq!(Moment::START.since(Moment::START + Duration::MAX), Duration::ZERO);
        assert_eq!(Moment::START + Duration::MAX + Duration::MAX, Moment::new(Duration::MAX));
    }
}
