//! What the core refuses, as a gRPC status: with a reason for programs, the
//! field at fault, and what became of the publication or edit.

use std::time::Duration;

use interlock_core::admission::{ClosedReason, EditRefusal, PublishRefusal, SessionRefusal};
use interlock_core::identity::PublisherSequence;
use interlock_core::projection::publishers::ResumeRefusal;
use interlock_rpc::convert::InvalidField;
use interlock_rpc::convert::publish::InvalidPublications;
use interlock_rpc::status::{PublishOutcome, Reason, Refusal, refusal};
use interlock_storage::StorageError;
use tonic::Status;

/// When a retry may help where room is short: a trim or an operator has to act.
const ROOM_RETRY: Duration = Duration::from_secs(5);
/// When a retry may help while a member takes over its state.
const BACKFILL_RETRY: Duration = Duration::from_secs(1);

/// Why nothing is accepted at present.
fn closed(reason: ClosedReason) -> Refusal {
    let text = reason.to_string();
    match reason {
        ClosedReason::Draining => refusal(Reason::Draining, text),
        ClosedReason::Backfilling => refusal(Reason::Backfilling, text).retry_after(BACKFILL_RETRY),
        ClosedReason::LowSpace => refusal(Reason::DiskFull, text).retry_after(ROOM_RETRY),
        ClosedReason::DiskCap => refusal(Reason::Quota, text).retry_after(ROOM_RETRY),
    }
}

/// The reason for programs of a refused publication, for metrics too.
pub fn publish_reason(refused: &PublishRefusal) -> Reason {
    match refused {
        PublishRefusal::NotMember(_) => Reason::NotMember,
        PublishRefusal::Closed(ClosedReason::Draining) => Reason::Draining,
        PublishRefusal::Closed(ClosedReason::Backfilling) => Reason::Backfilling,
        PublishRefusal::Closed(ClosedReason::LowSpace) => Reason::DiskFull,
        PublishRefusal::Closed(ClosedReason::DiskCap) => Reason::Quota,
        PublishRefusal::TooLarge { .. } => Reason::TooLarge,
        PublishRefusal::UnknownChannel { .. } | PublishRefusal::ChannelDeleted { .. } => {
            Reason::UnknownChannel
        }
        PublishRefusal::SessionUnknown => Reason::SessionUnknown,
        PublishRefusal::OutOfSequence { .. } => Reason::OutOfSequence,
        PublishRefusal::ContentDiffers { .. } => Reason::SequenceContentDiffers,
        PublishRefusal::TooFast { .. } => Reason::RateLimited,
        PublishRefusal::NumbersUsedUp => Reason::Quota,
    }
}

/// A refused publication.
pub fn publish_status(refused: &PublishRefusal) -> Status {
    publish_refusal(refused).into()
}

/// A refused publication of a stream. Everything before `sequence` is stored, and
/// nothing from it on: the publisher can drop it and go on under its number. A
/// sequence that is not the next says nothing against the publication.
pub fn stream_status(refused: &PublishRefusal, sequence: u64) -> Status {
    match refused {
        PublishRefusal::OutOfSequence { .. } => publish_refusal(refused).into(),
        _ => publish_refusal(refused).with("sequence", sequence).into(),
    }
}

/// A frame of a stream that breaks a rule. Nothing of it is stored; the
/// publication at fault is named by its sequence too, as [`stream_status`] does,
/// so that the publisher can drop it and send the others again.
pub fn invalid_frame_status(invalid: InvalidPublications, first: PublisherSequence) -> Status {
    let mut answer = Refusal::from(invalid.field);
    if let Some(index) = invalid.index {
        answer = answer.with("sequence", first.get().saturating_add(index as u64));
    }
    answer.outcome(&PublishOutcome::not_stored()).into()
}

fn publish_refusal(refused: &PublishRefusal) -> Refusal {
    let mut answer = match refused {
        PublishRefusal::Closed(reason) => closed(*reason),
        _ => refusal(publish_reason(refused), refused.to_string()),
    };
    answer = match refused {
        PublishRefusal::TooLarge { field, bytes, limit } => {
            let field = format!("publication.{field}");
            let reason = format!("has {bytes} bytes, {limit} are possible");
            answer.field(InvalidField::new(field, reason))
        }
        PublishRefusal::OutOfSequence { expected } => answer.with("expected", expected),
        PublishRefusal::TooFast { retry_after_milliseconds, .. } => {
            answer.retry_after(Duration::from_millis(*retry_after_milliseconds))
        }
        _ => answer,
    };
    answer.outcome(&PublishOutcome::not_stored())
}

/// A refused session.
pub fn session_status(refused: &SessionRefusal) -> Status {
    let text = refused.to_string();
    match refused {
        SessionRefusal::NotMember(_) => refusal(Reason::NotMember, text),
        SessionRefusal::Closed(reason) => closed(*reason),
        SessionRefusal::TooMany(_) => refusal(Reason::Quota, text).retry_after(ROOM_RETRY),
        SessionRefusal::NotResumed(ResumeRefusal::Unknown) => refusal(Reason::SessionUnknown, text),
        SessionRefusal::NotResumed(ResumeRefusal::Forked) => refusal(Reason::SessionForked, text),
    }
    .into()
}

/// A refused edit of a channel.
pub fn edit_status(refused: &EditRefusal) -> Status {
    let text = refused.to_string();
    let answer = match refused {
        EditRefusal::NotMember(_) => refusal(Reason::NotMember, text),
        EditRefusal::Closed(reason) => closed(*reason),
        EditRefusal::OverLimit { field, limit } => {
            let field = InvalidField::new(*field, format!("is beyond its limit of {limit}"));
            refusal(Reason::TooLarge, text).field(field)
        }
        EditRefusal::NothingToSet => refusal(Reason::InvalidField, text),
        EditRefusal::AlreadyExists { epoch, .. } => {
            refusal(Reason::ChannelExists, text).with("epoch", epoch)
        }
        EditRefusal::NotFound { .. } | EditRefusal::Deleted { .. } => {
            refusal(Reason::UnknownChannel, text)
        }
        EditRefusal::StaleEpoch { epoch, .. } => {
            refusal(Reason::StaleEdit, text).with("epoch", epoch)
        }
        EditRefusal::StaleEtag { etag, .. } => refusal(Reason::StaleEdit, text).with("etag", etag),
        EditRefusal::QuotaReached { .. } | EditRefusal::NumbersUsedUp { .. } => {
            refusal(Reason::Quota, text)
        }
    };
    answer.outcome(&PublishOutcome::not_stored()).into()
}

/// An answer that will never come: the node failed or ended with it under way.
pub fn unknown_status(with_session: bool) -> Status {
    refusal(Reason::StorageFailed, "the node ended before the outcome was known")
        .outcome(&PublishOutcome::unknown(with_session))
        .into()
}

/// The node takes nothing any more, and has not taken this.
pub fn ending_status() -> Status {
    refusal(Reason::Draining, "this node is ending").outcome(&PublishOutcome::not_stored()).into()
}

/// A publish stream that the end of the node cuts: what was acknowledged is
/// stored, of the rest nothing is known. Only in a session may it be sent again.
pub fn cut_status(with_session: bool) -> Status {
    refusal(Reason::Draining, "this node is ending")
        .outcome(&PublishOutcome::unknown(with_session))
        .into()
}

/// A read that failed.
pub fn storage_status(error: &StorageError) -> Status {
    refusal(Reason::StorageFailed, error.to_string()).into()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Without a session a publication whose outcome is unknown is stored twice by
    /// whoever sends it again.
    #[test]
    fn an_unknown_outcome_is_safe_to_retry_in_a_session_only() {
        for with_session in [false, true] {
            for status in [cut_status(with_session), unknown_status(with_session)] {
                let outcome = PublishOutcome::of(&status, false);
                assert_eq!(outcome.safe_here, with_session, "{status}");
                assert!(!outcome.safe_elsewhere, "{status}");
            }
        }
    }
}
