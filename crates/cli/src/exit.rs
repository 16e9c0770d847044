//! Exit codes that scripts can use, and errors that say what to do.

use std::fmt;
use std::process::ExitCode;

use interlock_cli::usage::UsageError;
use interlock_client::ClientError;
use interlock_rpc::status::{Reason, invalid_fields, reason_of};
use tonic::{Code, Status};

/// Something failed.
const FAILED: u8 = 1;
/// What was asked for makes no sense.
const USAGE: u8 = 2;
/// It is not there.
const NOT_FOUND: u8 = 3;
/// It was refused, or is not as assumed.
const REFUSED: u8 = 4;
/// It cannot be reached, or did not answer in time.
const UNAVAILABLE: u8 = 5;
/// It differs from what it was compared with.
const DIFFERS: u8 = 6;

/// Something is not as a file says, and was only to be looked at.
#[derive(Debug)]
pub(crate) struct Differs(pub(crate) String);

impl fmt::Display for Differs {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for Differs {}

/// Says what went wrong, and what to do, on stderr.
pub(crate) fn report(error: &anyhow::Error) -> ExitCode {
    // A pipe that its reader closed is no failure worth words.
    if let Some(io) = error.downcast_ref::<std::io::Error>()
        && io.kind() == std::io::ErrorKind::BrokenPipe
    {
        return ExitCode::SUCCESS;
    }
    let status = status_of(error);
    let mut text: Vec<String> = error.chain().map(words).collect();
    if let Some(status) = status {
        text.extend(
            invalid_fields(status).iter().map(|field| format!("{}: {}", field.field, field.reason)),
        );
    }
    text.dedup();
    eprintln!("interlock: {}", text.join(": "));
    if let Some(hint) = status.and_then(hint) {
        eprintln!("  {hint}");
    }
    ExitCode::from(code(error, status))
}

/// tonic's own words repeat the metadata; ours say it once.
fn words(cause: &(dyn std::error::Error + 'static)) -> String {
    match cause.downcast_ref::<Status>() {
        Some(status) => status.message().to_owned(),
        None => cause.to_string(),
    }
}

fn status_of(error: &anyhow::Error) -> Option<&Status> {
    error.chain().find_map(|cause| {
        cause
            .downcast_ref::<Status>()
            .or_else(|| cause.downcast_ref::<ClientError>().and_then(ClientError::status))
    })
}

fn code(error: &anyhow::Error, status: Option<&Status>) -> u8 {
    let is_usage = |cause: &(dyn std::error::Error + 'static)| {
        let region = cause.downcast_ref::<ClientError>();
        cause.is::<UsageError>() || matches!(region, Some(ClientError::NoAddress { .. }))
    };
    // What only gives context is found from the top, the rest along the chain.
    if error.is::<UsageError>() || error.chain().any(is_usage) {
        return USAGE;
    }
    if error.is::<Differs>() {
        return DIFFERS;
    }
    let is_unknown = |cause: &(dyn std::error::Error + 'static)| {
        matches!(cause.downcast_ref::<ClientError>(), Some(ClientError::OutcomeUnknown(_)))
    };
    if error.chain().any(is_unknown) {
        return UNAVAILABLE;
    }
    let Some(status) = status else { return FAILED };
    if reason_of(status) == Some(Reason::StorageFailed) {
        // What was under way is unknown too.
        return UNAVAILABLE;
    }
    match status.code() {
        Code::InvalidArgument => USAGE,
        Code::NotFound => NOT_FOUND,
        Code::AlreadyExists
        | Code::FailedPrecondition
        | Code::OutOfRange
        | Code::PermissionDenied
        | Code::ResourceExhausted => REFUSED,
        Code::Unavailable | Code::DeadlineExceeded => UNAVAILABLE,
        _ => FAILED,
    }
}

/// What to do about it.
fn hint(status: &Status) -> Option<&'static str> {
    let Some(reason) = reason_of(status) else {
        let unreachable = status.code() == Code::Unavailable;
        return unreachable.then_some(
            "nothing answers there: `interlock status` shows what runs, and the context file says where it is looked for",
        );
    };
    Some(match reason {
        Reason::UnknownNamespace => {
            "`interlock namespace list` shows those there are; a region outside a namespace's groups does not have it"
        }
        Reason::NotMember => {
            "this region is in none of the namespace's groups: `--region` chooses another"
        }
        Reason::UnknownChannel => {
            "`interlock channel list NAMESPACE` shows those there are; `interlock channel create` makes one"
        }
        Reason::UnknownRegion => "`interlock node list` shows the regions there are",
        Reason::UnknownGroup => {
            "`interlock group list` shows those there are; `interlock group apply` makes one"
        }
        Reason::ChannelExists => "`interlock channel update` changes it",
        Reason::StaleEdit => {
            "it was changed since: look at it with `interlock channel show` and edit again"
        }
        Reason::DiskFull => "free space on the node's disk, or publish at another region",
        Reason::Quota => {
            "the namespace is at its cap: `interlock namespace update --disk-cap-bytes` raises it"
        }
        Reason::Backfilling => {
            "the node still takes over the namespace's state: try again in a moment, or at another region"
        }
        Reason::Draining => "the process stops: try again at another node",
        Reason::SourceFailed => {
            "the old content stays; see the region's web server and the channel's source"
        }
        Reason::DurabilityTimeout => {
            "it is stored and goes on to the others by itself; `interlock lag` shows who is behind"
        }
        Reason::Trimmed => "start with `--from oldest` to take what there is",
        Reason::CursorInvalid => "a cursor goes with the namespace that it was taken in",
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use interlock_rpc::status::refusal;

    use super::*;

    #[test]
    fn the_callers_mistakes_have_a_code_of_their_own() {
        let code = |error: anyhow::Error| code(&error, status_of(&error));
        assert_eq!(code(interlock_cli::usage::usage("no such thing")), USAGE);
        let named = anyhow::Error::from(std::io::Error::other("unreadable"));
        assert_eq!(code(named.context(interlock_cli::usage::UsageError::new("file"))), USAGE);
        let nowhere = ClientError::NoAddress { what: "gateway", region: "mars".to_owned() };
        assert_eq!(code(nowhere.into()), USAGE);
        assert_eq!(code(Differs("two channels".to_owned()).into()), DIFFERS);
        assert_eq!(code(anyhow::anyhow!("anything else")), FAILED);
    }

    #[test]
    fn what_the_client_says_of_a_status_is_not_lost() {
        let status = || Box::new(refusal(Reason::SessionForked, "another copy").into_status());
        let error = ClientError::OutcomeUnknown(status());
        let unknown = anyhow::Error::from(ClientError::OutcomeUnknown(status()));
        assert_eq!(code(&unknown, status_of(&unknown)), UNAVAILABLE);
        let said = words(&error);
        assert!(said.contains("outcome") && said.contains("another copy"), "{said}");
        let error = ClientError::GaveUp { seconds: 60, last: status() };
        assert!(words(&error).contains("60 s"));
        // A bare status says its message, without tonic's words around it.
        assert_eq!(words(&*status()), "another copy");
    }
}
