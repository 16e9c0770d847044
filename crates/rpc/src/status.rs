//! What a refusal says: a gRPC code, and in `google.rpc.ErrorInfo` a reason that
//! programs can tell apart, with the domain `interlock`.
//!
//! A refused publication also says what has been reached, and whether it may be
//! published again here or elsewhere without being stored twice.

use std::collections::BTreeMap;
use std::fmt;
use std::time::Duration;

use tonic::{Code, Status};
use tonic_types::{ErrorDetails, StatusExt as _};

use crate::convert::InvalidField;

/// The domain of every `ErrorInfo` of ours.
pub const DOMAIN: &str = "interlock";

/// Declares the reasons with their text on the wire and their gRPC code.
macro_rules! reasons {
    ($($(#[$meta:meta])* $name:ident => $text:literal, $code:ident;)+) => {
        /// Why a call was refused. The text never changes its meaning.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
        #[non_exhaustive]
        pub enum Reason {
            $($(#[$meta])* $name,)+
        }

        impl Reason {
            /// All reasons.
            pub const ALL: &[Self] = &[$(Self::$name,)+];

            /// The text on the wire.
            pub const fn as_str(self) -> &'static str {
                match self { $(Self::$name => $text,)+ }
            }

            /// The gRPC code it travels with.
            pub const fn code(self) -> Code {
                match self { $(Self::$name => Code::$code,)+ }
            }

            /// From the text on the wire; `None` for what a newer build says.
            pub fn parse(text: &str) -> Option<Self> {
                match text { $($text => Some(Self::$name),)+ _ => None }
            }
        }
    };
}

reasons! {
    /// A field breaks a rule; the field is named.
    InvalidField => "INVALID_FIELD", InvalidArgument;
    /// A sequence of the session was used before, with other content.
    SequenceContentDiffers => "SEQUENCE_CONTENT_DIFFERS", InvalidArgument;
    /// A payload, key or definition is larger than allowed.
    TooLarge => "TOO_LARGE", InvalidArgument;
    /// A cursor that does not decode, or is of another namespace.
    CursorInvalid => "CURSOR_INVALID", InvalidArgument;

    /// No namespace of that name.
    UnknownNamespace => "UNKNOWN_NAMESPACE", NotFound;
    /// No channel of that name is known here (admission only).
    UnknownChannel => "UNKNOWN_CHANNEL", NotFound;
    /// The channel has no content.
    NoContent => "NO_CONTENT", NotFound;
    /// No region of that name.
    UnknownRegion => "UNKNOWN_REGION", NotFound;
    /// No group of that name.
    UnknownGroup => "UNKNOWN_GROUP", NotFound;
    /// No node of that name or number.
    UnknownNode => "UNKNOWN_NODE", NotFound;

    /// A live channel has that name.
    ChannelExists => "CHANNEL_EXISTS", AlreadyExists;
    /// A namespace has that name.
    NamespaceExists => "NAMESPACE_EXISTS", AlreadyExists;
    /// The sequence was stored before, and its name is no longer known.
    AlreadyStored => "ALREADY_STORED", AlreadyExists;

    /// The edit was made from another version or epoch than the present one.
    StaleEdit => "STALE_EDIT", FailedPrecondition;
    /// A sequence came that is not the session's next.
    OutOfSequence => "OUT_OF_SEQUENCE", FailedPrecondition;
    /// The session was evicted, or never was.
    SessionUnknown => "SESSION_UNKNOWN", FailedPrecondition;
    /// This node does not hold what the session was last acknowledged: what was
    /// in flight has an unknown outcome.
    SessionForked => "SESSION_FORKED", FailedPrecondition;
    /// This node is no member of the namespace.
    NotMember => "NOT_MEMBER", FailedPrecondition;
    /// More members were asked for than there are.
    TooFewMembers => "TOO_FEW_MEMBERS", FailedPrecondition;
    /// The channel has no source to refresh from.
    NoSource => "NO_SOURCE", FailedPrecondition;
    /// The source could not be fetched.
    SourceFailed => "SOURCE_FAILED", FailedPrecondition;
    /// Another process holds the node's name with a higher token.
    Fenced => "FENCED", FailedPrecondition;
    /// The node was removed from the topology.
    NodeRemoved => "NODE_REMOVED", FailedPrecondition;
    /// The topology would break a rule with this edit.
    TopologyInvalid => "TOPOLOGY_INVALID", FailedPrecondition;
    /// The control-plane's topology is older than one that a node holds, or may be,
    /// because nodes were not heard since its start: data that was lost or restored
    /// from an old copy must not lead to numbers given out twice.
    TopologyBehind => "TOPOLOGY_BEHIND", FailedPrecondition;
    /// A log cannot be cut where a repair says, or not here.
    NotRepairable => "NOT_REPAIRABLE", FailedPrecondition;
    /// Not all nodes' builds understand it yet.
    FeatureLevel => "FEATURE_LEVEL", FailedPrecondition;
    /// The caller and this build have no protocol version in common.
    ProtocolMismatch => "PROTOCOL_MISMATCH", FailedPrecondition;

    /// The start lies before what is kept, and gaps were declined.
    Trimmed => "TRIMMED", OutOfRange;

    /// Too little space on this node's disk.
    DiskFull => "DISK_FULL", ResourceExhausted;
    /// The namespace is at its cap, or a session, channel or rate quota is used up.
    Quota => "QUOTA", ResourceExhausted;
    /// The channel's rate is used up.
    RateLimited => "RATE_LIMITED", ResourceExhausted;
    /// More publications are unacknowledged than the session may have.
    TooManyInFlight => "TOO_MANY_IN_FLIGHT", ResourceExhausted;
    /// The cursor would name more single channels than it can.
    TooManyOverrides => "TOO_MANY_OVERRIDES", ResourceExhausted;
    /// The subscriber reads too slowly to be kept; its cursor resumes.
    SlowSubscriber => "SLOW_SUBSCRIBER", ResourceExhausted;
    /// The node has as many connections or streams as it takes.
    TooManyConnections => "TOO_MANY_CONNECTIONS", ResourceExhausted;

    /// The process has not finished starting.
    Starting => "STARTING", Unavailable;
    /// The member still takes over the namespace's state.
    Backfilling => "BACKFILLING", Unavailable;
    /// What an earlier repair took off is not published again yet.
    RepairUnderWay => "REPAIR_UNDER_WAY", Unavailable;
    /// The process ends: go elsewhere.
    Draining => "DRAINING", Unavailable;
    /// The control-plane's store could not be written; nothing has changed.
    StoreUnavailable => "STORE_UNAVAILABLE", Unavailable;
    /// No node that could answer is reachable from here.
    NoNodeReachable => "NO_NODE_REACHABLE", Unavailable;

    /// Stored, and not yet durable everywhere asked for when the deadline came.
    DurabilityTimeout => "DURABILITY_TIMEOUT", DeadlineExceeded;

    /// The disk failed: the outcome of what was under way is unknown, and the
    /// process exits.
    StorageFailed => "STORAGE_FAILED", Internal;
    /// Two members hold different content under one name: the log stands still.
    ContentConflict => "CONTENT_CONFLICT", DataLoss;
    /// The caller may not do this.
    NotAllowed => "NOT_ALLOWED", PermissionDenied;
    /// A newer build's word or a feature that this build lacks.
    Unsupported => "UNSUPPORTED", Unimplemented;
}

impl Reason {
    /// Whether the same call may succeed later at the same place, without
    /// anything else being done.
    pub const fn is_transient(self) -> bool {
        matches!(self.code(), Code::Unavailable | Code::ResourceExhausted | Code::DeadlineExceeded)
    }
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// A refusal in the making: `refusal(Reason::DiskFull, "…").retry_after(…).into()`.
#[derive(Clone, Debug)]
#[must_use = "a refusal does nothing until it is turned into a status"]
pub struct Refusal {
    reason: Reason,
    message: String,
    metadata: BTreeMap<&'static str, String>,
    fields: Vec<InvalidField>,
    retry_after: Option<Duration>,
}

/// Begins a refusal. The message is for people, the reason for programs.
pub fn refusal(reason: Reason, message: impl Into<String>) -> Refusal {
    Refusal {
        reason,
        message: message.into(),
        metadata: BTreeMap::new(),
        fields: Vec::new(),
        retry_after: None,
    }
}

impl Refusal {
    /// Adds a fact for programs.
    pub fn with(mut self, key: &'static str, value: impl fmt::Display) -> Self {
        self.metadata.insert(key, value.to_string());
        self
    }

    /// Names a field that is at fault.
    pub fn field(mut self, field: InvalidField) -> Self {
        self.fields.push(field);
        self
    }

    /// Tells when a retry may help.
    pub fn retry_after(mut self, delay: Duration) -> Self {
        self.retry_after = Some(delay);
        self
    }

    /// Tells what became of a publication or an edit.
    pub fn outcome(mut self, outcome: &PublishOutcome) -> Self {
        self.metadata.insert(OUTCOME_STORED, outcome.stored.as_str().to_owned());
        if !outcome.durable_at.is_empty() {
            self.metadata.insert(OUTCOME_DURABLE_AT, outcome.durable_at.join(","));
        }
        self.metadata.insert(OUTCOME_RETRY_HERE, safety(outcome.safe_here).to_owned());
        self.metadata.insert(OUTCOME_RETRY_ELSEWHERE, safety(outcome.safe_elsewhere).to_owned());
        self
    }

    /// The status to answer with.
    pub fn into_status(self) -> Status {
        let metadata = self.metadata.into_iter().map(|(key, value)| (key.to_owned(), value));
        let mut details = ErrorDetails::with_error_info(
            self.reason.as_str(),
            DOMAIN,
            metadata.collect::<std::collections::HashMap<_, _>>(),
        );
        for violation in self.fields {
            details.add_bad_request_violation(violation.field, violation.reason);
        }
        if let Some(delay) = self.retry_after {
            details.set_retry_info(Some(delay));
        }
        Status::with_error_details(self.reason.code(), self.message, details)
    }
}

impl From<Refusal> for Status {
    fn from(refusal: Refusal) -> Self {
        refusal.into_status()
    }
}

impl From<InvalidField> for Refusal {
    fn from(field: InvalidField) -> Self {
        refusal(Reason::InvalidField, field.to_string()).field(field)
    }
}

impl From<InvalidField> for Status {
    fn from(field: InvalidField) -> Self {
        Refusal::from(field).into_status()
    }
}

/// The reason in a status; `None` where it is not ours or of a newer build.
pub fn reason_of(status: &Status) -> Option<Reason> {
    let info = status.get_details_error_info()?;
    if info.domain == DOMAIN { Reason::parse(&info.reason) } else { None }
}

/// When a retry may help, where the status says so.
pub fn retry_after(status: &Status) -> Option<Duration> {
    status.get_details_retry_info()?.retry_delay
}

/// One of the facts that came with a refusal of ours.
pub fn metadata_of(status: &Status, key: &str) -> Option<String> {
    let mut info = status.get_details_error_info()?;
    if info.domain == DOMAIN { info.metadata.remove(key) } else { None }
}

/// The fields that a status says are at fault.
pub fn invalid_fields(status: &Status) -> Vec<InvalidField> {
    let Some(request) = status.get_details_bad_request() else { return Vec::new() };
    request
        .field_violations
        .into_iter()
        .map(|violation| InvalidField { field: violation.field, reason: violation.description })
        .collect()
}

/// `OK`, `NOT_FOUND`, …: a code as specifications and dashboards write it.
pub const fn code_name(code: Code) -> &'static str {
    match code {
        Code::Ok => "OK",
        Code::Cancelled => "CANCELLED",
        Code::Unknown => "UNKNOWN",
        Code::InvalidArgument => "INVALID_ARGUMENT",
        Code::DeadlineExceeded => "DEADLINE_EXCEEDED",
        Code::NotFound => "NOT_FOUND",
        Code::AlreadyExists => "ALREADY_EXISTS",
        Code::PermissionDenied => "PERMISSION_DENIED",
        Code::ResourceExhausted => "RESOURCE_EXHAUSTED",
        Code::FailedPrecondition => "FAILED_PRECONDITION",
        Code::Aborted => "ABORTED",
        Code::OutOfRange => "OUT_OF_RANGE",
        Code::Unimplemented => "UNIMPLEMENTED",
        Code::Internal => "INTERNAL",
        Code::Unavailable => "UNAVAILABLE",
        Code::DataLoss => "DATA_LOSS",
        Code::Unauthenticated => "UNAUTHENTICATED",
    }
}

/// Whether a publication or an edit is in the log of the node that was asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stored {
    /// It is not, and will not be.
    No,
    /// It is.
    Yes,
    /// Nobody knows: the answer was lost, or the disk failed.
    Unknown,
}

impl Stored {
    const fn as_str(self) -> &'static str {
        match self {
            Self::No => "no",
            Self::Yes => "yes",
            Self::Unknown => "unknown",
        }
    }

    fn parse(text: &str) -> Option<Self> {
        [Self::No, Self::Yes, Self::Unknown].into_iter().find(|stored| stored.as_str() == text)
    }
}

const OUTCOME_STORED: &str = "stored";
const OUTCOME_DURABLE_AT: &str = "durable_at";
const OUTCOME_RETRY_HERE: &str = "retry_here";
const OUTCOME_RETRY_ELSEWHERE: &str = "retry_elsewhere";
const SAFE: &str = "safe";
const MAY_REPEAT: &str = "may_repeat";

const fn safety(safe: bool) -> &'static str {
    if safe { SAFE } else { MAY_REPEAT }
}

/// What a failed publication or edit has reached, and whether trying again may
/// store it twice.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PublishOutcome {
    /// Whether it is stored where it was sent.
    pub stored: Stored,
    /// The nodes where it is durable, as far as is known.
    pub durable_at: Vec<String>,
    /// Trying again at the same node stores it at most once.
    pub safe_here: bool,
    /// Trying again at any node stores it at most once.
    pub safe_elsewhere: bool,
}

impl PublishOutcome {
    /// It was refused before it was stored.
    pub fn not_stored() -> Self {
        Self { stored: Stored::No, durable_at: Vec::new(), safe_here: true, safe_elsewhere: true }
    }

    /// It is stored, and something asked for beyond that was not reached. With a
    /// session the same node recognises the repeat; no other does.
    pub fn stored(durable_at: Vec<String>, with_session: bool) -> Self {
        Self { stored: Stored::Yes, durable_at, safe_here: with_session, safe_elsewhere: false }
    }

    /// Nobody knows whether it is stored.
    pub fn unknown(with_session: bool) -> Self {
        Self {
            stored: Stored::Unknown,
            durable_at: Vec::new(),
            safe_here: with_session,
            safe_elsewhere: false,
        }
    }

    /// What a status tells. One that tells nothing (a broken connection, a
    /// proxy's answer) leaves the outcome unknown, except where the code itself
    /// says that the call was refused for what it asked.
    pub fn of(status: &Status, with_session: bool) -> Self {
        let info = status.get_details_error_info().filter(|info| info.domain == DOMAIN);
        let told = info.as_ref().and_then(|info| Stored::parse(info.metadata.get(OUTCOME_STORED)?));
        let Some((info, stored)) = info.zip(told) else {
            return match status.code() {
                Code::InvalidArgument
                | Code::NotFound
                | Code::FailedPrecondition
                | Code::PermissionDenied
                | Code::Unauthenticated
                | Code::Unimplemented => Self::not_stored(),
                _ => Self::unknown(with_session),
            };
        };
        let is_safe = |key| info.metadata.get(key).is_some_and(|value| value == SAFE);
        Self {
            stored,
            durable_at: info
                .metadata
                .get(OUTCOME_DURABLE_AT)
                .map(|nodes| nodes.split(',').map(str::to_owned).collect())
                .unwrap_or_default(),
            safe_here: is_safe(OUTCOME_RETRY_HERE),
            safe_elsewhere: is_safe(OUTCOME_RETRY_ELSEWHERE),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    /// A status as it arrives: through the bytes of its details.
    fn sent(status: &Status) -> Status {
        Status::with_details(
            status.code(),
            status.message().to_owned(),
            bytes::Bytes::copy_from_slice(status.details()),
        )
    }

    #[test]
    fn every_reason_survives_the_wire_with_its_code() {
        let mut texts = BTreeSet::new();
        for &reason in Reason::ALL {
            assert!(texts.insert(reason.as_str()), "{reason} twice");
            assert_ne!(reason.code(), Code::Ok);
            let status = sent(&refusal(reason, "no").with("namespace", "news").into_status());
            assert_eq!(reason_of(&status), Some(reason));
            assert_eq!(status.code(), reason.code());
            assert_eq!(metadata_of(&status, "namespace").as_deref(), Some("news"));
        }
    }

    #[test]
    fn foreign_domains_and_newer_reasons_are_not_ours() {
        let details = |reason: &str, domain: &str| {
            Status::with_error_details(
                Code::Unavailable,
                "",
                ErrorDetails::with_error_info(reason, domain, [("stored".into(), "no".into())]),
            )
        };
        assert_eq!(reason_of(&details("DRAINING", "elsewhere.example")), None);
        assert_eq!(reason_of(&details("SOMETHING_NEW", DOMAIN)), None);
        assert_eq!(reason_of(&Status::unavailable("broken pipe")), None);
        let foreign = PublishOutcome::of(&details("DRAINING", "elsewhere.example"), false);
        assert_eq!(foreign, PublishOutcome::unknown(false));
    }

    #[test]
    fn a_field_and_a_delay_survive_the_wire() {
        let field = InvalidField::new("publication.channel", "is empty");
        let status = sent(&Status::from(field.clone()));
        assert_eq!(status.code(), Code::InvalidArgument);
        assert_eq!(invalid_fields(&status), [field]);
        assert!(status.message().contains("publication.channel"), "{}", status.message());

        let delay = Duration::from_millis(1500);
        let status = sent(&refusal(Reason::DiskFull, "full").retry_after(delay).into_status());
        assert_eq!(retry_after(&status), Some(delay));
    }

    #[test]
    fn the_outcome_of_a_publication_survives_the_wire() {
        for outcome in [
            PublishOutcome::not_stored(),
            PublishOutcome::stored(vec!["north-0".into(), "south-0".into()], true),
            PublishOutcome::stored(vec!["north-0".into()], false),
            PublishOutcome::unknown(true),
        ] {
            let status = refusal(Reason::DurabilityTimeout, "late").outcome(&outcome);
            assert_eq!(PublishOutcome::of(&sent(&status.into_status()), false), outcome);
        }
    }

    #[test]
    fn silence_about_the_outcome_is_not_a_promise() {
        let broken = PublishOutcome::of(&Status::unavailable("broken pipe"), true);
        assert_eq!(broken, PublishOutcome::unknown(true));
        let refused = PublishOutcome::of(&Status::not_found("no such channel"), false);
        assert_eq!(refused, PublishOutcome::not_stored());
    }
}
