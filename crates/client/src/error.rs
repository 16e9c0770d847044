//! What can go wrong for a client, and whether trying again can help.

use interlock_rpc::channel::ChannelError;
use interlock_rpc::status::{Reason, reason_of};
use tonic::{Code, Status};

/// Why a call did not do what it was for.
#[derive(Clone, Debug, thiserror::Error)]
pub enum ClientError {
    /// No address is known for this.
    #[error("no {what} of region {region:?} is known")]
    NoAddress {
        /// `push-node` or `gateway`.
        what: &'static str,
        /// The region.
        region: String,
    },
    /// An address is none.
    #[error("{0}")]
    Address(String),
    /// The service refused, or could not be reached.
    #[error("{}", describe(.0))]
    Status(Box<Status>),
    /// Trying again for as long as allowed did not help.
    #[error("gave up after {seconds} s: {}", describe(.last))]
    GaveUp {
        /// How long.
        seconds: u64,
        /// What was wrong last.
        last: Box<Status>,
    },
    /// The node no longer knows what this session published last: what was in
    /// flight may be stored or not. Publishing it again may store it twice.
    #[error("the outcome of what was in flight is unknown: {}", describe(.0))]
    OutcomeUnknown(Box<Status>),
    /// The publisher has ended.
    #[error("the publisher has ended")]
    Ended,
}

impl From<Status> for ClientError {
    fn from(status: Status) -> Self {
        Self::Status(Box::new(status))
    }
}

impl From<ChannelError> for ClientError {
    fn from(error: ChannelError) -> Self {
        Self::Address(error.to_string())
    }
}

impl ClientError {
    /// The status behind it, if there is one.
    pub fn status(&self) -> Option<&Status> {
        match self {
            Self::Status(status)
            | Self::OutcomeUnknown(status)
            | Self::GaveUp { last: status, .. } => Some(status),
            _ => None,
        }
    }
}

fn describe(status: &Status) -> String {
    match reason_of(status) {
        Some(reason) => format!("{} ({})", status.message(), reason.as_str()),
        None if status.code() == Code::Unavailable => {
            format!("not reachable: {}", status.message())
        }
        None => format!("{:?}: {}", status.code(), status.message()),
    }
}

/// Whether the same call may succeed a little later, here or at another node.
pub fn is_transient(status: &Status) -> bool {
    match reason_of(status) {
        Some(Reason::StorageFailed) => true,
        Some(reason) => reason.is_transient(),
        // Connections that break in the middle come as any of these.
        None => matches!(
            status.code(),
            Code::Unavailable | Code::Unknown | Code::Cancelled | Code::Internal | Code::Aborted
        ),
    }
}
