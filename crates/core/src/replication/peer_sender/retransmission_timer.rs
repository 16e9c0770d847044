//! How long to wait for an acknowledgement (METHOD M8): the estimate of RFC 6298
//! for the whole stream, and the growing, scattered wait of each log.

use std::time::Duration;

use crate::replication::timing::{
    INITIAL_RETRANSMISSION_TIMEOUT, MAXIMUM_RETRANSMISSION_TIMEOUT, MINIMUM_RETRANSMISSION_TIMEOUT,
    TIMER_GRANULARITY,
};

/// The smoothed round trip of one stream, with its variation.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct RoundTrip {
    estimate: Option<Estimate>,
}

#[derive(Clone, Copy, Debug)]
struct Estimate {
    smoothed: Duration,
    variation: Duration,
}

impl RoundTrip {
    /// Takes a measurement. By Karn's rule the caller leaves out what was sent
    /// more than once.
    pub(super) fn sample(&mut self, measured: Duration) {
        // No path is that slow; an absurd clock must not overflow the products.
        let measured = measured.min(Duration::from_secs(3600));
        self.estimate = Some(match self.estimate {
            // RFC 6298, 2.2.
            None => Estimate { smoothed: measured, variation: measured / 2 },
            // RFC 6298, 2.3: beta = 1/4, alpha = 1/8, the variation first.
            Some(Estimate { smoothed, variation }) => Estimate {
                variation: variation * 3 / 4 + smoothed.abs_diff(measured) / 4,
                smoothed: smoothed * 7 / 8 + measured / 8,
            },
        });
    }

    /// The smoothed round trip, once one was measured.
    pub(super) fn smoothed(&self) -> Option<Duration> {
        self.estimate.map(|estimate| estimate.smoothed)
    }

    /// The retransmission timeout before any backoff.
    pub(super) fn timeout(&self) -> Duration {
        let timeout = match self.estimate {
            None => INITIAL_RETRANSMISSION_TIMEOUT,
            Some(Estimate { smoothed, variation }) => {
                smoothed + (variation * 4).max(TIMER_GRANULARITY)
            }
        };
        timeout.clamp(MINIMUM_RETRANSMISSION_TIMEOUT, MAXIMUM_RETRANSMISSION_TIMEOUT)
    }

    /// The timeout after so many in a row without an acknowledgement (RFC 6298,
    /// 5.5), bounded, and lengthened by up to a quarter so that streams which
    /// lost their peer together do not come back together.
    pub(super) fn timeout_after(&self, backoff: Backoff, jitter: &mut Jitter) -> Duration {
        let doubled = self.timeout().saturating_mul(1 << backoff.0.min(Backoff::LARGEST));
        let bounded = doubled.min(MAXIMUM_RETRANSMISSION_TIMEOUT);
        if backoff.0 == 0 {
            return bounded;
        }
        bounded + bounded / 4 * jitter.next_below(1024) / 1024
    }
}

/// How many timeouts in a row a log had.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Backoff(u32);

impl Backoff {
    /// Beyond it the timeout is at its bound whatever it started from.
    const LARGEST: u32 = 6;

    pub(super) fn raised(self) -> Self {
        Self((self.0 + 1).min(Self::LARGEST))
    }
}

/// A xorshift generator. Its seed comes from the driver, so that the same seed
/// gives the same run.
#[derive(Clone, Debug)]
pub(super) struct Jitter(u64);

impl Jitter {
    pub(super) fn new(seed: u64) -> Self {
        // Zero is the one state that xorshift never leaves.
        Self(if seed == 0 { 0x9e37_79b9_7f4a_7c15 } else { seed })
    }

    fn next_below(&mut self, bound: u32) -> u32 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        // The upper bits are the better ones; the shift leaves 32 of them.
        let upper = (self.0 >> 32) as u32;
        upper % bound
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const fn milliseconds(count: u64) -> Duration {
        Duration::from_millis(count)
    }

    #[test]
    fn starts_with_a_second() {
        assert_eq!(RoundTrip::default().timeout(), Duration::from_secs(1));
    }

    /// METHOD M8, RFC 6298 2.2 and 2.3 with numbers worked by hand.
    #[test]
    fn follows_the_formulas() {
        let mut round_trip = RoundTrip::default();
        round_trip.sample(milliseconds(400));
        // SRTT 400, RTTVAR 200, RTO 400 + 4 × 200.
        assert_eq!(round_trip.timeout(), milliseconds(1200));
        round_trip.sample(milliseconds(800));
        // RTTVAR 3/4 × 200 + 1/4 × 400 = 250, SRTT 7/8 × 400 + 1/8 × 800 = 450.
        assert_eq!(round_trip.smoothed(), Some(milliseconds(450)));
        assert_eq!(round_trip.timeout(), milliseconds(1450));
    }

    #[test]
    fn keeps_to_its_bounds() {
        let mut short = RoundTrip::default();
        (0..100).for_each(|_| short.sample(milliseconds(1)));
        assert_eq!(short.timeout(), MINIMUM_RETRANSMISSION_TIMEOUT);
        let mut long = RoundTrip::default();
        long.sample(Duration::MAX);
        assert_eq!(long.timeout(), MAXIMUM_RETRANSMISSION_TIMEOUT);
    }

    /// METHOD M8: each timeout in a row doubles the wait, up to the bound, with
    /// at most a quarter of jitter.
    #[test]
    fn backs_off_with_jitter() {
        let mut round_trip = RoundTrip::default();
        (0..100).for_each(|_| round_trip.sample(milliseconds(1)));
        let mut jitter = Jitter::new(7);
        let mut backoff = Backoff::default();
        for doubled in [200, 400, 800, 1600, 3200, 6400, 10_000, 10_000, 10_000] {
            let base = milliseconds(doubled);
            let timeout = round_trip.timeout_after(backoff, &mut jitter);
            assert!(timeout >= base, "{timeout:?} is less than {base:?}");
            assert!(timeout <= base + base / 4, "{timeout:?} is far more than {base:?}");
            backoff = backoff.raised();
        }
    }

    #[test]
    fn jitter_scatters_and_repeats_by_seed() {
        let draw = |seed| {
            let mut jitter = Jitter::new(seed);
            (0..16).map(|_| jitter.next_below(1024)).collect::<Vec<_>>()
        };
        assert_eq!(draw(1), draw(1));
        assert_ne!(draw(1), draw(2));
        assert!(draw(0).windows(2).any(|pair| pair[0] != pair[1]));
    }
}
