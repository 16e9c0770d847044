//! What clients ask of a push-node, and what it answers.

use std::fmt;

use interlock_core::admission::{
    ChannelChange, ChannelEdit, EditRefusal, NewPublication, PublishRefusal, ResumeSession,
    SessionOpened, SessionRefusal,
};
use interlock_core::directory::Definition;
use interlock_core::identity::{MessageName, NamespaceNumber};

use crate::history::ClientNumber;

/// Names one request of a client; never reused by that client.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct RequestNumber(u64);

impl RequestNumber {
    /// Wraps the raw number.
    pub const fn new(raw: u64) -> Self {
        Self(raw)
    }
}

/// Who asked, and for what.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct RequestName {
    /// The client.
    pub client: ClientNumber,
    /// Its request.
    pub number: RequestNumber,
}

impl fmt::Display for RequestName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", self.client, self.number.0)
    }
}

/// Where a publication has to be durable before it is acknowledged.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Level {
    /// At the origin.
    Local,
    /// At so many other members too.
    Peers(usize),
    /// At all members.
    All,
}

/// What is asked for.
#[derive(Clone, Debug)]
pub enum RequestBody {
    /// A session to publish in, or to go on with one.
    OpenSession {
        /// The namespace.
        namespace: NamespaceNumber,
        /// The session to go on with.
        resume: Option<ResumeSession>,
    },
    /// To publish, in order, until one is refused.
    Publish {
        /// The publications.
        publications: Vec<NewPublication>,
        /// The level of acknowledgement.
        level: Level,
    },
    /// To edit a channel.
    Edit(Box<ChannelEdit>),
}

/// A request on its way.
#[derive(Clone, Debug)]
pub struct Request {
    /// Its name.
    pub name: RequestName,
    /// What is asked for.
    pub body: RequestBody,
}

/// A publication that is stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct StoredPublication {
    /// Its name; none if the session's table no longer has it.
    pub name: Option<MessageName>,
    /// Whether it had been stored before.
    pub repeat: bool,
}

/// The answer to a request.
#[derive(Clone, Debug)]
pub enum ReplyBody {
    /// To the opening of a session.
    Session(Result<SessionOpened, SessionRefusal>),
    /// To publications.
    Published {
        /// Those that are stored, in order.
        stored: Vec<StoredPublication>,
        /// Why the rest is not.
        refusal: Option<PublishRefusal>,
        /// Whether the level was reached by the deadline.
        reached: bool,
    },
    /// To an edit.
    Edited(Result<(MessageName, Box<Definition>), EditRefusal>),
    /// The level cannot be reached; nothing is stored.
    TooFewMembers,
}

/// An answer on its way.
#[derive(Clone, Debug)]
pub struct Reply {
    /// The request that it answers.
    pub to: RequestName,
    /// The answer.
    pub body: ReplyBody,
}

impl fmt::Display for Request {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} ", self.name)?;
        match &self.body {
            RequestBody::OpenSession { namespace, resume: None } => {
                write!(f, "opens a session in {namespace}")
            }
            RequestBody::OpenSession { namespace, resume: Some(resume) } => {
                write!(f, "resumes {:?} in {namespace}", resume.session)?;
                match &resume.last_acknowledged {
                    Some((sequence, name)) => write!(f, " after {sequence} = {name}"),
                    None => Ok(()),
                }
            }
            RequestBody::Publish { publications, level } => {
                write!(f, "publishes {level:?}")?;
                publications.iter().try_for_each(|publication| {
                    write!(f, " {}/{}", publication.namespace, publication.channel)?;
                    if let Some(position) = publication.publisher {
                        write!(f, ":{}", position.sequence)?;
                    }
                    write!(f, "={}", publication.payload.escape_ascii())
                })
            }
            RequestBody::Edit(edit) => {
                let what = match &edit.change {
                    ChannelChange::Create(_) => "creates",
                    ChannelChange::Update { .. } => "updates",
                    ChannelChange::Delete { .. } => "deletes",
                };
                write!(f, "{what} {}/{}", edit.namespace, edit.channel)
            }
        }
    }
}

impl fmt::Display for Reply {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} ", self.to)?;
        match &self.body {
            ReplyBody::Session(Ok(opened)) => {
                write!(f, "session {:?}, next {}", opened.session, opened.next_sequence)
            }
            ReplyBody::Session(Err(refusal)) => write!(f, "no session: {refusal}"),
            ReplyBody::Published { stored, refusal, reached } => {
                f.write_str("stored")?;
                for publication in stored {
                    match publication.name {
                        Some(name) => write!(f, " {name}")?,
                        None => f.write_str(" before")?,
                    }
                    if publication.repeat {
                        f.write_str(" (repeat)")?;
                    }
                }
                if !reached {
                    f.write_str(", deadline")?;
                }
                refusal.as_ref().map_or(Ok(()), |refusal| write!(f, ", then: {refusal}"))
            }
            ReplyBody::Edited(Ok((name, definition))) => {
                write!(f, "edited {name}, epoch {}", definition.epoch())
            }
            ReplyBody::Edited(Err(refusal)) => write!(f, "not edited: {refusal}"),
            ReplyBody::TooFewMembers => f.write_str("too few members"),
        }
    }
}
