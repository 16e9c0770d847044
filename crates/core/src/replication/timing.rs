//! The times that replication runs by, each with its reason. Both ends of a
//! stream use the same build's values; nothing on disk or wire depends on them.

use std::time::Duration;

/// "Nothing else" is said this often. A second is what people notice, and costs
/// nothing.
pub const HEARTBEAT_INTERVAL: Duration = Duration::from_secs(1);

/// A peer that has said nothing for five heartbeats is gone: long enough for a
/// pause by a slow disk or a lost packet's retries, short enough that a broken
/// path is replaced by another within seconds.
pub const SILENCE_LIMIT: Duration = Duration::from_secs(5);

/// How long a new stream may take until both have introduced themselves: a
/// handshake over a bad path, and the callee reading its marks.
pub const GREETING_LIMIT: Duration = Duration::from_secs(10);

/// Before the first round trip is measured (RFC 6298, 2.1).
pub const INITIAL_RETRANSMISSION_TIMEOUT: Duration = Duration::from_secs(1);

/// The least retransmission timeout. RFC 6298 says a second and allows less;
/// what is timed here includes the receiver's sync and its batching of
/// acknowledgements, which stalls of an ordinary disk stretch to 100 ms. A resend
/// too early costs a frame of bandwidth and changes nothing.
pub const MINIMUM_RETRANSMISSION_TIMEOUT: Duration = Duration::from_millis(200);

/// The longest wait between two retransmissions (METHOD M11): a peer that works
/// again hears from us within ten seconds, and one that does not costs a frame
/// in ten seconds.
pub const MAXIMUM_RETRANSMISSION_TIMEOUT: Duration = Duration::from_secs(10);

/// The clock granularity of RFC 6298's G: what drivers' timers keep.
pub const TIMER_GRANULARITY: Duration = Duration::from_millis(1);

/// Moves of known logs are announced at most this often. A log that is served on
/// the stream is seen to move by its frames; the announcement is for those who
/// may want it from us later, and they wait two seconds before they change.
pub const OFFER_INTERVAL: Duration = Duration::from_millis(100);

/// Facts are passed on at most this often unless someone waits for them.
pub const FACT_INTERVAL: Duration = Duration::from_millis(100);

/// Acknowledgements while messages keep coming: an idle stream is acknowledged
/// at once, a busy one as often as its publishers could notice.
pub const ACKNOWLEDGEMENT_INTERVAL: Duration = Duration::from_millis(5);

/// The same complaint about a log is repeated at most this often: about a round
/// trip between regions, in which the frames already under way arrive.
pub const NACK_INTERVAL: Duration = Duration::from_millis(100);

/// A member's mark in a log of our own has its hash compared this often: each
/// covers all before it, and a comparison may read the disk.
pub const OWN_LOG_COMPARISON_INTERVAL: Duration = Duration::from_secs(1);

/// A server of a log that makes no progress for this long, while another has
/// more, is replaced.
pub const STALLED_SERVER_LIMIT: Duration = Duration::from_secs(2);

/// A server that was replaced is not chosen again for this log for so long,
/// unless nobody else is left: without it the preference for origins would
/// bring the stalled one back at once.
pub const STALLED_SERVER_PENALTY: Duration = Duration::from_secs(30);
