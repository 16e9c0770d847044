//! An open loop: when each message is meant to be sent, whatever became of those
//! before it. Latency counts from then on, so that a stall counts for all that it
//! held up (no coordinated omission).

use std::time::{Duration, Instant};

/// The moments of a fixed rate.
#[derive(Clone, Copy, Debug)]
pub struct Pace {
    begun: Instant,
    per_second: u64,
}

impl Pace {
    /// So many a second from a moment on.
    ///
    /// # Panics
    /// At none a second.
    pub const fn new(begun: Instant, per_second: u64) -> Self {
        assert!(per_second > 0, "a pace has a rate");
        Self { begun, per_second }
    }

    /// When the message of this number is meant to be sent; the first is 0.
    pub fn moment_of(&self, number: u64) -> Instant {
        let nanoseconds = u128::from(number) * 1_000_000_000 / u128::from(self.per_second);
        self.begun + Duration::from_nanos(u64::try_from(nanoseconds).unwrap_or(u64::MAX))
    }

    /// How many were meant to be sent by now.
    pub fn due(&self, now: Instant) -> u64 {
        let elapsed = now.saturating_duration_since(self.begun).as_nanos();
        let passed = elapsed * u128::from(self.per_second) / 1_000_000_000;
        u64::try_from(passed).unwrap_or(u64::MAX).saturating_add(1)
    }

    /// The `index`-th of `count` that share this rate evenly, shifted against one another.
    pub fn share(&self, index: u64, count: u64) -> Self {
        let per_second = (self.per_second / count.max(1)).max(1);
        let shift = Duration::from_secs_f64(index as f64 / self.per_second as f64);
        Self { begun: self.begun + shift, per_second }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_due_is_what_has_its_moment_behind_it() {
        let begun = Instant::now();
        let pace = Pace::new(begun, 3);
        for number in 0..1000 {
            let moment = pace.moment_of(number);
            assert!(pace.due(moment + Duration::from_nanos(1)) > number);
            assert!(pace.due(moment + Duration::from_nanos(1)) <= number + 1);
        }
        assert_eq!(pace.moment_of(3_000_000), begun + Duration::from_secs(1_000_000));
    }

    #[test]
    fn shares_add_up() {
        let begun = Instant::now();
        let pace = Pace::new(begun, 1000);
        let due: u64 =
            (0..4).map(|share| pace.share(share, 4).due(begun + Duration::from_secs(10))).sum();
        assert!((10_000..=10_004).contains(&due), "{due}");
    }
}
