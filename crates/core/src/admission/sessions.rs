//! Opening and resuming publisher sessions.

use super::{Admission, ClosedReason, Standing};
use crate::clock::WallTime;
use crate::identity::{MessageName, NamespaceNumber, PublisherSequence, SessionId};
use crate::projection::publishers::{OpenRefusal, ResumeRefusal, Resumed};

/// What a publisher presents to go on with a session.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ResumeSession {
    /// The session.
    pub session: SessionId,
    /// The last publication that was acknowledged to it, if any was.
    pub last_acknowledged: Option<(PublisherSequence, MessageName)>,
}

/// A session to publish in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SessionOpened {
    /// The session.
    pub session: SessionId,
    /// The sequence that is expected next: what was in flight below it is stored.
    pub next_sequence: PublisherSequence,
    /// The last message stored in it, if any.
    pub last_stored: Option<MessageName>,
}

/// Why no session is opened.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SessionRefusal {
    /// Unknown namespace, or this node is no member of it. Another node may be.
    #[error("this node is no member of namespace {0}")]
    NotMember(NamespaceNumber),
    /// No new session at present; trying later, or elsewhere, can help.
    #[error("{0}")]
    Closed(ClosedReason),
    /// All sessions are in use; trying later, or elsewhere, can help.
    #[error(transparent)]
    TooMany(#[from] OpenRefusal),
    /// The session cannot go on here: the outcome of what was in flight is
    /// unknown. A new one can be opened.
    #[error(transparent)]
    NotResumed(#[from] ResumeRefusal),
}

impl SessionRefusal {
    /// Whether the same request may succeed later or at another node.
    pub const fn retry_can_help(&self) -> bool {
        !matches!(self, Self::NotResumed(_))
    }
}

impl Admission {
    /// Opens a session under the name `id_bits`, which the driver draws at
    /// random, or goes on with one. A session that has stored nothing is not
    /// remembered over a restart. Resuming is possible while nothing new is
    /// accepted, so that a publisher learns what became of its last ones.
    pub fn open_session(
        &mut self,
        now: WallTime,
        namespace: NamespaceNumber,
        id_bits: [u8; 16],
        resume: Option<ResumeSession>,
    ) -> Result<SessionOpened, SessionRefusal> {
        self.open_session_as(Standing::Member, now, namespace, id_bits, resume)
    }

    /// The same, as what this node has to be in the namespace.
    pub fn open_session_as(
        &mut self,
        standing: Standing,
        now: WallTime,
        namespace: NamespaceNumber,
        id_bits: [u8; 16],
        resume: Option<ResumeSession>,
    ) -> Result<SessionOpened, SessionRefusal> {
        let node_closed = self.node_closed;
        let Some(state) = self.state_as_mut(standing, namespace) else {
            return Err(SessionRefusal::NotMember(namespace));
        };
        if let Some(ResumeSession { session, last_acknowledged }) = resume {
            let Resumed { next_sequence, last_stored } =
                state.publishers.resume(session, last_acknowledged, now)?;
            return Ok(SessionOpened { session, next_sequence, last_stored });
        }
        let closed = node_closed.and(state.closed).first();
        if let Some(reason) = closed.filter(|reason| !reason.is_about_room()) {
            return Err(SessionRefusal::Closed(reason));
        }
        let session = SessionId::new(id_bits);
        state.publishers.open(session, now)?;
        let next_sequence = PublisherSequence::new(1);
        Ok(SessionOpened { session, next_sequence, last_stored: None })
    }
}
