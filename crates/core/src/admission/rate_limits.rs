//! How many publications a second a channel takes at this node: a bucket per
//! channel that has such a limit, full at first, which holds what one second
//! gives and fills as time goes by.

use std::collections::BTreeMap;

use crate::clock::WallTime;
use crate::names::ChannelName;

/// What one publication takes, in the unit that one millisecond of a limit of one
/// a second gives back: so that everything stays in whole numbers.
const PUBLICATION_UNITS: u64 = 1000;
/// A bucket is full again after this time, and says nothing any more.
const FULL_AFTER_MILLISECONDS: u64 = 1000;
/// Fewer buckets than this are not worth clearing up.
const FEW_BUCKETS: usize = 1024;

/// What is left of one channel's rate.
#[derive(Clone, Copy, Debug)]
struct Bucket {
    units: u64,
    filled_at: WallTime,
}

/// The buckets of a namespace's channels.
#[derive(Debug, Default)]
pub(super) struct RateLimits {
    buckets: BTreeMap<ChannelName, Bucket>,
    /// Buckets at which those that are full again are dropped.
    clear_up_at: usize,
}

impl RateLimits {
    /// Takes one publication from the bucket of a channel that takes `per_second`
    /// of them, or tells after how many milliseconds there is room for one.
    pub(super) fn take(
        &mut self,
        now: WallTime,
        channel: &ChannelName,
        per_second: u32,
    ) -> Result<(), u64> {
        let per_second = u64::from(per_second.max(1));
        let capacity = per_second * PUBLICATION_UNITS;
        let Some(bucket) = self.buckets.get_mut(channel) else {
            self.clear_up(now);
            let bucket = Bucket { units: capacity - PUBLICATION_UNITS, filled_at: now };
            self.buckets.insert(channel.clone(), bucket);
            return Ok(());
        };
        // A clock that was set back fills nothing, and counts from where it is.
        let elapsed = now.milliseconds_since(bucket.filled_at).min(FULL_AFTER_MILLISECONDS);
        bucket.units = (bucket.units + elapsed * per_second).min(capacity);
        bucket.filled_at = now;
        if bucket.units < PUBLICATION_UNITS {
            return Err((PUBLICATION_UNITS - bucket.units).div_ceil(per_second));
        }
        bucket.units -= PUBLICATION_UNITS;
        Ok(())
    }

    fn clear_up(&mut self, now: WallTime) {
        if self.buckets.len() < self.clear_up_at.max(FEW_BUCKETS) {
            return;
        }
        self.buckets
            .retain(|_, bucket| now.milliseconds_since(bucket.filled_at) < FULL_AFTER_MILLISECONDS);
        self.clear_up_at = 2 * self.buckets.len();
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn channel(name: &str) -> ChannelName {
        ChannelName::parse(name).expect("well-formed")
    }

    #[test]
    fn a_second_of_the_rate_at_once_and_then_the_rate() {
        let (mut limits, news) = (RateLimits::default(), channel("news"));
        let at = |milliseconds: u64| WallTime::new(10_000 + milliseconds);
        for _ in 0..4 {
            assert_eq!(limits.take(at(0), &news, 4), Ok(()));
        }
        assert_eq!(limits.take(at(0), &news, 4), Err(250));
        assert_eq!(limits.take(at(0), &channel("other"), 4), Ok(()), "each has its own");
        assert_eq!(limits.take(at(249), &news, 4), Err(1));
        assert_eq!(limits.take(at(250), &news, 4), Ok(()));
        assert_eq!(limits.take(at(250), &news, 4), Err(250));
        for _ in 0..4 {
            assert_eq!(limits.take(at(60_000), &news, 4), Ok(()), "it holds a second's");
        }
        assert_eq!(limits.take(at(60_000), &news, 4), Err(250));
    }

    #[test]
    fn a_clock_set_back_shuts_nobody_out() {
        let (mut limits, news) = (RateLimits::default(), channel("news"));
        let later = WallTime::new(3_600_000);
        assert_eq!(limits.take(later, &news, 1), Ok(()));
        let back = WallTime::new(1000);
        assert_eq!(limits.take(back, &news, 1), Err(1000));
        assert_eq!(limits.take(WallTime::new(2000), &news, 1), Ok(()));
    }

    #[test]
    fn a_lowered_limit_holds_at_once() {
        let (mut limits, news) = (RateLimits::default(), channel("news"));
        let now = WallTime::new(1000);
        assert_eq!(limits.take(now, &news, u32::MAX), Ok(()));
        assert_eq!(limits.take(now, &news, 1), Ok(()));
        assert_eq!(limits.take(now, &news, 1), Err(1000));
    }

    #[test]
    fn channels_that_rest_take_no_room() {
        let mut limits = RateLimits::default();
        for number in 0..10 * FEW_BUCKETS as u64 {
            let now = WallTime::new(1000 * number);
            limits.take(now, &channel(&format!("channel-{number}")), 1).expect("a full bucket");
        }
        assert!(limits.buckets.len() <= FEW_BUCKETS, "{}", limits.buckets.len());
    }

    proptest! {
        /// In no stretch of time more than its length and one second give.
        #[test]
        fn never_more_than_the_rate(
            per_second in 1_u32..50,
            steps in prop::collection::vec(0_u64..400, 1..200),
        ) {
            let (mut limits, news) = (RateLimits::default(), channel("news"));
            let (mut now, mut taken) = (0, Vec::new());
            for step in steps {
                now += step;
                match limits.take(WallTime::new(now), &news, per_second) {
                    Ok(()) => taken.push(now),
                    Err(wait) => {
                        prop_assert!(limits.take(WallTime::new(now + wait - 1), &news, per_second).is_err());
                        now += wait - 1;
                    }
                }
            }
            for (first, from) in taken.iter().enumerate() {
                for (last, to) in taken.iter().enumerate().skip(first) {
                    let most = u64::from(per_second) * (to - from + 1000);
                    prop_assert!((last - first + 1) as u64 * 1000 <= most);
                }
            }
        }
    }
}
