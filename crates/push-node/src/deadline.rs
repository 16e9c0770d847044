//! How long a call may wait before it has to answer.

use std::time::Duration;

use interlock_core::limits::MAX_CALL_WAIT_MILLISECONDS;
use interlock_rpc::server::deadline_of;
use tokio::time::Instant;
use tonic::Request;

/// An answer that says what was reached has to leave before the caller, or the
/// server around the call, gives up and says nothing.
const ANSWER_MARGIN: Duration = Duration::from_millis(20);

const MAX_WAIT: Duration = Duration::from_millis(MAX_CALL_WAIT_MILLISECONDS);

/// When to answer at the latest: a little before the caller's deadline, or after
/// `default` where it named none.
pub fn answer_by<T>(request: &Request<T>, default: Duration) -> Instant {
    let now = Instant::now();
    let wait = deadline_of(request).map_or(default, |deadline| {
        let left = deadline.saturating_duration_since(now);
        left.saturating_sub(ANSWER_MARGIN.min(left / 4))
    });
    now + wait.min(MAX_WAIT)
}
