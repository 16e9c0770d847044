//! What can go wrong for a client, and whether trying again can help.

use std::error::Error;
use std::fmt;

use interlock_rpc::channel::ChannelError;
use interlock_rpc::status::{PublishOutcome, Reason, Stored, reason_of};
use tonic::{Code, Status, TimeoutExpired};

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
    /// A batch was not stored as a whole.
    #[error("{0}")]
    Batch(Box<FailedBatch>),
    /// The publisher has ended.
    #[error("the publisher has ended")]
    Ended,
}

/// What became of a batch that failed.
#[derive(Clone, Debug)]
pub struct FailedBatch {
    /// How many publications it had.
    pub publications: u64,
    /// How many of them, from the first on, were acknowledged.
    pub stored: u64,
    /// Which of them was refused, counted from 0, if it was one: neither it nor
    /// what follows it is stored.
    pub refused: Option<u64>,
    /// What is known of those that were not acknowledged, and whether publishing
    /// them again may store one of them twice.
    pub outcome: PublishOutcome,
    /// What went wrong.
    pub cause: ClientError,
}

impl fmt::Display for FailedBatch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { publications, stored, refused, outcome, cause } = self;
        write!(f, "{cause}; {stored} of {publications} publications are stored")?;
        if let Some(refused) = refused {
            write!(f, ", number {} was refused", refused + 1)?;
        }
        let PublishOutcome { safe_here, safe_elsewhere, .. } = outcome;
        f.write_str(match (outcome.stored, safe_here, safe_elsewhere) {
            (Stored::No, ..) | (_, true, true) => "; the others can be published again",
            (_, true, false) => "; only this node knows if the others are published again",
            (_, false, _) => "; publishing the others again may store some of them twice",
        })
    }
}

impl From<Status> for ClientError {
    fn from(status: Status) -> Self {
        let status = if is_expired(&status) {
            Status::deadline_exceeded("no answer came before the deadline")
        } else {
            status
        };
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
            Self::Batch(batch) => batch.cause.status(),
            Self::NoAddress { .. } | Self::Address(_) | Self::Ended => None,
        }
    }

    /// What became of the batch, if one failed.
    pub fn batch(&self) -> Option<&FailedBatch> {
        match self {
            Self::Batch(batch) => Some(batch),
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

/// Whether a deadline of ours has passed. tonic says CANCELLED of that, as of a
/// connection that breaks.
fn is_expired(status: &Status) -> bool {
    let mut cause = status.source();
    while let Some(error) = cause {
        if error.is::<TimeoutExpired>() {
            return true;
        }
        cause = error.source();
    }
    false
}

/// Whether the same call may succeed a little later, here or at another node.
pub fn is_transient(status: &Status) -> bool {
    if is_expired(status) {
        // Whoever set the deadline does not want to wait any longer.
        return false;
    }
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

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use interlock_rpc::{services, v1};
    use tonic::Request;

    use super::*;
    use crate::addresses::Addresses;

    /// A node that takes the connection and never says a word.
    #[tokio::test]
    async fn an_expired_deadline_is_one_and_no_break_to_try_again_after() {
        let silent = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let address = format!("http://{}", silent.local_addr().expect("it is bound"));
        let addresses = Addresses::new(&[address], None).expect("an address");
        let mut client = services::channel::client(addresses.current().expect("one"));
        let mut request = Request::new(v1::GetChannelRequest::default());
        request.set_timeout(Duration::from_millis(20));
        let status = client.get_channel(request).await.expect_err("nobody answers");
        assert!(!is_transient(&status), "{status:?}");
        let error = ClientError::from(status);
        assert_eq!(error.status().map(Status::code), Some(Code::DeadlineExceeded), "{error}");
        // A call that the other side cancelled may be tried again.
        assert!(is_transient(&Status::cancelled("the connection was reset")));
    }

    #[test]
    fn a_failed_batch_says_what_was_reached() {
        let failed = |refused, outcome| {
            let cause = ClientError::from(Status::not_found("no such channel"));
            let batch = FailedBatch { publications: 7, stored: 3, refused, outcome, cause };
            ClientError::Batch(Box::new(batch))
        };
        let refused = failed(Some(3), PublishOutcome::not_stored());
        let said = refused.to_string();
        assert!(said.contains("no such channel") && said.contains("3 of 7"), "{said}");
        assert!(said.contains("number 4 was refused"), "{said}");
        assert!(said.contains("can be published again"), "{said}");
        assert_eq!(refused.status().map(Status::code), Some(Code::NotFound));
        assert_eq!(refused.batch().map(|batch| batch.stored), Some(3));
        let said = failed(None, PublishOutcome::unknown(false)).to_string();
        assert!(said.contains("may store some of them twice"), "{said}");
    }
}
