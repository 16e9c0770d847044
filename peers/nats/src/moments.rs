//! When messages are to be sent: at a rate, or as fast as they are acknowledged.

use std::num::NonZeroU64;
use std::time::{Duration, Instant};

use interlock_bench::Pace;
use tokio::sync::mpsc;

/// The moments of one publisher.
pub(crate) enum Moments {
    /// Whenever it asks, until the end.
    Now {
        /// The end.
        until: Instant,
    },
    /// Whenever they come.
    Paced(mpsc::UnboundedReceiver<Instant>),
}

impl Moments {
    /// Those of the `index`-th of `count` publishers that share a rate, if there is one.
    pub(crate) fn new(
        rate: Option<NonZeroU64>,
        begun: Instant,
        time: Duration,
        index: usize,
        count: usize,
    ) -> Self {
        match rate {
            None => Self::Now { until: begun + time },
            Some(rate) => {
                let pace = Pace::new(begun, rate.get()).share(index as u64, count as u64);
                Self::Paced(paced(pace, time))
            }
        }
    }

    /// Adds those that have come, at the most so many, and waits for the first. None are
    /// added once all are over.
    pub(crate) async fn next(&mut self, most: usize, due: &mut Vec<Instant>) -> usize {
        match self {
            Self::Paced(moments) => moments.recv_many(due, most).await,
            Self::Now { until } => {
                let now = Instant::now();
                if now >= *until {
                    return 0;
                }
                due.extend(std::iter::repeat_n(now, most));
                most
            }
        }
    }
}

/// The moments of a pace as they come, from a thread of its own: the runtime's timer
/// knows milliseconds only.
fn paced(pace: Pace, time: Duration) -> mpsc::UnboundedReceiver<Instant> {
    let (sender, receiver) = mpsc::unbounded_channel();
    std::thread::spawn(move || {
        let end = pace.moment_of(0) + time;
        for number in 0.. {
            let moment = pace.moment_of(number);
            if moment >= end {
                return;
            }
            std::thread::sleep(moment.saturating_duration_since(Instant::now()));
            if sender.send(moment).is_err() {
                return;
            }
        }
    });
    receiver
}
