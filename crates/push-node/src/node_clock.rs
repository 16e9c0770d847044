//! The clocks of the process, read here and told to the core.

use std::time::{Instant, SystemTime, UNIX_EPOCH};

use interlock_core::clock::{Moment, WallTime};
use interlock_core::limits::MAX_CLOCK_LEAD_MILLISECONDS;

use crate::alarms::{AlarmKind, Alarms};

/// Monotonic time since the node's start, and wall time. Cheap to copy.
#[derive(Clone, Copy, Debug)]
pub struct NodeClock {
    started: Instant,
}

impl NodeClock {
    /// A clock that starts now.
    pub fn start() -> Self {
        Self { started: Instant::now() }
    }

    /// Monotonic time since the start.
    pub fn moment(&self) -> Moment {
        Moment::new(self.started.elapsed())
    }

    /// The instant of a moment, to sleep until.
    pub fn instant(&self, moment: Moment) -> tokio::time::Instant {
        tokio::time::Instant::from_std(self.started + moment.since_start())
    }

    /// Sleeps until a moment; for ever without one.
    pub async fn sleep_until(&self, moment: Option<Moment>) {
        match moment {
            Some(moment) => tokio::time::sleep_until(self.instant(moment)).await,
            None => std::future::pending().await,
        }
    }

    /// Milliseconds since the Unix epoch; 0 for a clock set before it.
    pub fn wall(&self) -> WallTime {
        let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        WallTime::new(u64::try_from(since.as_millis()).unwrap_or(u64::MAX))
    }

    /// Raises an alarm while a peer's clock and this node's are far apart.
    pub fn check_peer(&self, alarms: &Alarms, peer: &str, theirs: WallTime) {
        let ours = self.wall();
        let apart = ours.milliseconds_since(theirs).max(theirs.milliseconds_since(ours));
        let detail = format!("its clock and this node's are {} s apart", apart / 1000);
        let far = (apart > MAX_CLOCK_LEAD_MILLISECONDS).then_some(detail.as_str());
        alarms.set(ours, AlarmKind::ClockFarOff, peer, far);
    }
}
