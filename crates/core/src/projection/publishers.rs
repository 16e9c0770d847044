//! What publishers said before: the sessions of one namespace at their origin.
//!
//! A session's sequences are without gaps, and the table keeps the answer to each
//! of the last ones, so that a repeat gets the first answer and is not stored a
//! second time. Admission holds a table of everything appended; what is stored
//! of it is [`PublishersProjection`](super::publishers_projection), and both
//! follow from the origin's own logs alone.

use std::collections::{BTreeMap, VecDeque};

use bytes::Bytes;
use thiserror::Error;

use crate::clock::{HybridTime, WallTime};
use crate::identity::{
    Incarnation, MessageName, MessageNumber, PathName, PublisherSequence, SessionId, hash_of,
};
use crate::limits::{
    MAX_IN_FLIGHT_PUBLICATIONS, MAX_SESSION_ANSWERS_PER_NAMESPACE, MAX_SESSIONS_PER_NAMESPACE,
    SESSION_IDLE_MILLISECONDS,
};
use crate::message::{MessageHead, PublisherPosition};

use super::session_chunk::{ChunkError, SessionChunk, SessionChunkKey};

/// What was published, short: channel, key and payload.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PublicationDigest([u8; 16]);

impl PublicationDigest {
    /// The digest of a publication's content.
    pub fn of(channel: &str, key: &[u8], payload: &[u8]) -> Self {
        // Lengths first, so that no two contents have the same bytes.
        let mut lengths = [0; 8];
        lengths[..4].copy_from_slice(&(channel.len() as u32).to_be_bytes());
        lengths[4..].copy_from_slice(&(key.len() as u32).to_be_bytes());
        Self(hash_of(&[&lengths, channel.as_bytes(), key, payload]).to_be_bytes())
    }

    pub(super) const fn from_bytes(bytes: [u8; 16]) -> Self {
        Self(bytes)
    }

    pub(super) const fn to_bytes(self) -> [u8; 16] {
        self.0
    }
}

/// The first answer to a sequence, and what it was given for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Answer {
    pub(super) incarnation: Incarnation,
    pub(super) m_id: MessageNumber,
    pub(super) digest: PublicationDigest,
}

/// What to do with a publication of a session.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PublisherDecision {
    /// It is the one expected: store it.
    Next,
    /// It was stored before, under this name.
    Repeat(MessageName),
    /// It was stored before; under which name is no longer in the table.
    RepeatForgotten,
    /// Something before it is missing.
    OutOfSequence {
        /// What is expected.
        expected: PublisherSequence,
    },
    /// Its sequence was stored before, with other content.
    ContentDiffers,
    /// There is no such session here.
    Unknown,
}

/// Why no session is opened.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum OpenRefusal {
    /// All sessions of the namespace are in use. Later, or elsewhere, it may work.
    #[error("the namespace has {sessions} publisher sessions here and none is idle")]
    TooManySessions {
        /// How many there are.
        sessions: usize,
    },
}

/// A session that goes on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Resumed {
    /// What is expected next.
    pub next_sequence: PublisherSequence,
    /// The last one stored, if any was and the table has it.
    pub last_stored: Option<MessageName>,
}

/// Why a session does not go on. Either way the outcome of what was in flight is
/// unknown here; a new session helps.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum ResumeRefusal {
    /// There is no such session here, and nothing of it was acknowledged.
    #[error("no such session here")]
    Unknown,
    /// The last acknowledged message is not the one this table has there: it was
    /// accepted elsewhere, or by a branch that this node does not have, or the
    /// session was evicted.
    #[error("this node does not hold the session's last acknowledged message")]
    Forked,
}

/// What a stored publication did to its session.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Taken {
    /// Nothing: it was known, or belongs to a branch the session left.
    Ignored,
    /// It came next.
    Next,
    /// The answers from its sequence on, or all, gave way to it.
    Replaced,
}

/// One session: what comes next, and the last answers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct SessionState {
    next: PublisherSequence,
    /// Of the last answer.
    last_stamp: HybridTime,
    last_incarnation: Option<Incarnation>,
    pub(super) answers: VecDeque<Answer>,
}

impl SessionState {
    pub(super) const fn new() -> Self {
        Self {
            next: PublisherSequence::new(1),
            last_stamp: HybridTime::ZERO,
            last_incarnation: None,
            answers: VecDeque::new(),
        }
    }

    pub(super) const fn next(&self) -> PublisherSequence {
        self.next
    }

    pub(super) const fn last_stamp(&self) -> HybridTime {
        self.last_stamp
    }

    /// The sequence of the oldest answer held.
    pub(super) fn first(&self) -> PublisherSequence {
        PublisherSequence::new(self.next.get() - self.answers.len() as u64)
    }

    fn answer(&self, sequence: PublisherSequence) -> Option<&Answer> {
        let index = sequence.get().checked_sub(self.first().get())?;
        self.answers.get(usize::try_from(index).ok()?)
    }

    /// Takes a stored publication, whatever log it is of. Logs of several
    /// openings may hold one session; where an origin forked, the branch whose
    /// publications are later is the one the publisher went on with.
    pub(super) fn take(
        &mut self,
        sequence: PublisherSequence,
        answer: Answer,
        stamp: HybridTime,
    ) -> Taken {
        let same_branch = self.last_incarnation.is_none_or(|last| last == answer.incarnation);
        let later = stamp > self.last_stamp;
        if sequence == self.next && (same_branch || later) {
            self.push(answer, stamp);
            return Taken::Next;
        }
        let was_taken = same_branch && sequence < self.next;
        if was_taken || !later {
            return Taken::Ignored;
        }
        // What lies between is gone (trimmed), or belongs to a branch that the
        // publisher does not know.
        let kept = sequence.get().checked_sub(self.first().get()).filter(|_| sequence < self.next);
        self.answers.truncate(kept.map_or(0, |kept| kept as usize));
        self.next = sequence;
        self.push(answer, stamp);
        Taken::Replaced
    }

    pub(super) fn push(&mut self, answer: Answer, stamp: HybridTime) {
        self.answers.push_back(answer);
        self.next = PublisherSequence::new(self.next.get().saturating_add(1));
        self.last_stamp = stamp;
        self.last_incarnation = Some(answer.incarnation);
    }

    /// Takes back a stored chunk: chunks come in the order of their first
    /// sequences, and a later one replaces what an earlier one has from there on.
    pub(super) fn take_chunk(&mut self, chunk: SessionChunk) {
        let kept = chunk.first.get().checked_sub(self.first().get());
        let kept = kept.filter(|_| chunk.first <= self.next);
        self.answers.truncate(kept.map_or(0, |kept| kept as usize));
        self.next = chunk.first;
        for answer in chunk.answers {
            self.push(answer, chunk.last_stamp);
        }
    }
}

/// A session and when it was last used.
#[derive(Clone, Debug)]
struct Session {
    state: SessionState,
    last_used: WallTime,
}

impl Session {
    const fn unused() -> Self {
        Self { state: SessionState::new(), last_used: WallTime::new(0) }
    }

    fn is_idle(&self, now: WallTime) -> bool {
        now.milliseconds_since(self.last_used) >= SESSION_IDLE_MILLISECONDS
    }
}

/// The publisher sessions of one namespace, at their origin.
#[derive(Clone, Debug, Default)]
pub struct Publishers {
    /// The path of all names in the table; known from the first on.
    path: Option<PathName>,
    sessions: BTreeMap<SessionId, Session>,
    /// Answers of all sessions together.
    answers: usize,
}

impl Publishers {
    /// No sessions.
    pub fn new() -> Self {
        Self::default()
    }

    /// Takes the sessions of a namespace back from storage. What the own logs
    /// have beyond the stored position is to be applied after.
    pub fn load(
        path: PathName,
        stored: impl IntoIterator<Item = (Bytes, Bytes)>,
    ) -> Result<Self, ChunkError> {
        let mut publishers = Self { path: Some(path), ..Self::default() };
        for (key, value) in stored {
            let key = SessionChunkKey::decode(&key)?;
            if key.namespace != path.namespace {
                continue;
            }
            let chunk = SessionChunk::decode(key.first, &value)?;
            let session = publishers.sessions.entry(key.session).or_insert_with(Session::unused);
            session.last_used = session.last_used.max(chunk.last_stamp.wall());
            publishers.answers -= session.state.answers.len();
            session.state.take_chunk(chunk);
            trim(&mut session.state);
            publishers.answers += session.state.answers.len();
        }
        Ok(publishers)
    }

    /// Opens a new session. Where the namespace has too many, the ones that are
    /// idle for longest give way.
    pub fn open(&mut self, session: SessionId, now: WallTime) -> Result<(), OpenRefusal> {
        if self.is_full() {
            self.evict(|session| session.is_idle(now));
            if self.is_full() {
                return Err(OpenRefusal::TooManySessions { sessions: self.sessions.len() });
            }
        }
        let new = Session { state: SessionState::new(), last_used: now };
        if let Some(replaced) = self.sessions.insert(session, new) {
            self.answers -= replaced.state.answers.len();
        }
        Ok(())
    }

    fn is_full(&self) -> bool {
        self.sessions.len() >= MAX_SESSIONS_PER_NAMESPACE
            || self.answers >= MAX_SESSION_ANSWERS_PER_NAMESPACE
    }

    /// Evicts the least recently used of those that may go: several at once, so
    /// that a full table is not searched at each opening.
    fn evict(&mut self, may_go: impl Fn(&Session) -> bool) {
        const SHARE: usize = 64;
        let mut by_age: Vec<_> = self
            .sessions
            .iter()
            .filter(|(_, session)| may_go(session))
            .map(|(id, session)| (session.last_used, *id))
            .collect();
        by_age.sort_unstable();
        let (most_sessions, most_answers) = (
            MAX_SESSIONS_PER_NAMESPACE - MAX_SESSIONS_PER_NAMESPACE / SHARE,
            MAX_SESSION_ANSWERS_PER_NAMESPACE - MAX_SESSION_ANSWERS_PER_NAMESPACE / SHARE,
        );
        for (_, id) in by_age {
            if self.sessions.len() < most_sessions && self.answers < most_answers {
                break;
            }
            if let Some(evicted) = self.sessions.remove(&id) {
                self.answers -= evicted.state.answers.len();
            }
        }
    }

    /// Goes on with a session. `last_acknowledged` is what the publisher knows to
    /// be stored; without it, nothing was ever acknowledged to it.
    pub fn resume(
        &mut self,
        session: SessionId,
        last_acknowledged: Option<(PublisherSequence, MessageName)>,
        now: WallTime,
    ) -> Result<Resumed, ResumeRefusal> {
        let path = self.path;
        let Some(known) = self.sessions.get_mut(&session) else {
            return Err(match last_acknowledged {
                None => ResumeRefusal::Unknown,
                Some(_) => ResumeRefusal::Forked,
            });
        };
        if let Some((sequence, name)) = last_acknowledged {
            let held = known.state.answer(sequence).zip(path);
            if held.is_none_or(|(answer, path)| name_of(path, answer) != name) {
                return Err(ResumeRefusal::Forked);
            }
        }
        known.last_used = known.last_used.max(now);
        let last = known.state.answers.back().zip(path);
        Ok(Resumed {
            next_sequence: known.state.next(),
            last_stored: last.map(|(answer, path)| name_of(path, answer)),
        })
    }

    /// What to do with a publication.
    pub fn decide(
        &self,
        position: &PublisherPosition,
        digest: PublicationDigest,
    ) -> PublisherDecision {
        let Some(session) = self.sessions.get(&position.session) else {
            return PublisherDecision::Unknown;
        };
        let (state, sequence) = (&session.state, position.sequence);
        if sequence == state.next() {
            return PublisherDecision::Next;
        }
        if sequence > state.next() || sequence.get() == 0 {
            return PublisherDecision::OutOfSequence { expected: state.next() };
        }
        match (state.answer(sequence), self.path) {
            (Some(answer), _) if answer.digest != digest => PublisherDecision::ContentDiffers,
            (Some(answer), Some(path)) => PublisherDecision::Repeat(name_of(path, answer)),
            _ => PublisherDecision::RepeatForgotten,
        }
    }

    /// Remembers what was stored after the decision `Next`.
    ///
    /// # Panics
    /// If the decision was another: the answers would no longer be in order.
    pub fn record(
        &mut self,
        position: &PublisherPosition,
        name: &MessageName,
        digest: PublicationDigest,
        stamp: HybridTime,
        now: WallTime,
    ) {
        let answer = Answer { incarnation: name.log.incarnation, m_id: name.m_id, digest };
        self.path = Some(name.log.path());
        let session = self.sessions.get_mut(&position.session);
        let session = session.filter(|session| session.state.next() == position.sequence);
        let session = session.expect("only what comes next in a known session is recorded");
        session.last_used = session.last_used.max(now);
        session.state.push(answer, stamp);
        self.answers += 1;
        self.answers -= trim(&mut session.state);
    }

    /// Takes in a message of one of the origin's own logs: at opening, what is
    /// beyond the stored position, parents' logs first. Messages of others have
    /// no place here.
    pub fn apply(&mut self, name: &MessageName, message: &MessageHead<'_>) {
        let Ok(Some(position)) = message.publisher() else { return };
        let digest = PublicationDigest::of(message.channel, message.key, message.payload);
        let answer = Answer { incarnation: name.log.incarnation, m_id: name.m_id, digest };
        self.path = Some(name.log.path());
        // The logs may hold many times the sessions that are kept. What was evicted
        // before an opening is not to come back with it.
        let is_new = !self.sessions.contains_key(&position.session);
        if is_new && self.is_full() || self.answers >= MAX_SESSION_ANSWERS_PER_NAMESPACE {
            self.evict(|_| true);
        }
        let session = self.sessions.entry(position.session).or_insert_with(Session::unused);
        session.last_used = session.last_used.max(message.stamp.wall());
        self.answers -= session.state.answers.len();
        session.state.take(position.sequence, answer, message.stamp);
        trim(&mut session.state);
        self.answers += session.state.answers.len();
    }

    /// How many sessions there are.
    pub fn len(&self) -> usize {
        self.sessions.len()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.sessions.is_empty()
    }
}

/// Drops the answers that need not be kept; how many.
fn trim(state: &mut SessionState) -> usize {
    let excess = state.answers.len().saturating_sub(MAX_IN_FLIGHT_PUBLICATIONS);
    state.answers.drain(..excess);
    excess
}

const fn name_of(path: PathName, answer: &Answer) -> MessageName {
    MessageName { log: path.log(answer.incarnation), m_id: answer.m_id }
}
