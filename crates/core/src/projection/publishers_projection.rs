//! The publisher sessions of this node, as stored: in chunks of answers, so that
//! each answer is written about once.
//!
//! Admission decides by the table [`Publishers`](super::Publishers), which is
//! taken from the same chunks at opening. This projection holds only what it
//! still has to write.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use bytes::Bytes;

use crate::clock::HybridTime;
use crate::identity::{
    LogName, MessageName, MessageNumber, NamespaceNumber, NodeNumber, PublisherSequence, SessionId,
};
use crate::limits::{MAX_IN_FLIGHT_PUBLICATIONS, MAX_STORED_SESSIONS_PER_NAMESPACE};
use crate::message::MessageHead;

use super::publishers::{Answer, PublicationDigest, SessionState, Taken};
use super::session_chunk::{CHUNK_ANSWERS, SessionChunk, SessionChunkKey};
use super::{
    LayoutVersion, LoadError, LogPositions, ProjectedLog, Projection, ProjectionChanges,
    ProjectionKind, ProjectionPosition,
};

/// The projection of the publisher sessions.
#[derive(Clone, Debug, Default)]
pub struct PublishersProjection {
    /// Whose logs count: sessions decide about what is published here.
    origin: Option<NodeNumber>,
    positions: LogPositions,
    sessions: BTreeMap<(NamespaceNumber, SessionId), StoredSession>,
    counts: BTreeMap<NamespaceNumber, usize>,
    dirty: BTreeSet<(NamespaceNumber, SessionId)>,
    changes: BTreeMap<SessionChunkKey, Option<Bytes>>,
}

/// A session's chunks, of which only the last is in memory.
#[derive(Clone, Debug)]
struct StoredSession {
    /// The answers of the last chunk.
    open: SessionState,
    /// The first sequences of all chunks, the last one's included.
    firsts: VecDeque<PublisherSequence>,
}

impl PublishersProjection {
    /// Names the node whose logs count, before anything is applied. Of others no
    /// position is kept, so that a log of theirs may go without a trace here.
    pub fn set_origin(&mut self, origin: NodeNumber) {
        self.origin = Some(origin);
        self.positions.retain(|log| log.origin == origin);
    }

    /// What the keys of a namespace's sessions begin with: what
    /// [`Publishers::load`](super::Publishers::load) is given.
    pub fn prefix(namespace: NamespaceNumber) -> Bytes {
        SessionChunkKey::prefix(namespace)
    }

    fn take(
        &mut self,
        namespace: NamespaceNumber,
        session: SessionId,
        sequence: PublisherSequence,
        answer: Answer,
        stamp: HybridTime,
    ) {
        let id = (namespace, session);
        if !self.sessions.contains_key(&id) {
            self.make_room(namespace);
            *self.counts.entry(namespace).or_default() += 1;
        }
        let stored = self.sessions.entry(id).or_insert_with(|| StoredSession {
            open: SessionState::new(),
            firsts: VecDeque::new(),
        });
        let key = |first| SessionChunkKey { namespace, session, first };
        if stored.open.answers.len() == CHUNK_ANSWERS {
            let first = stored.open.first();
            if self.dirty.remove(&id) {
                let value = stored.encode_open();
                self.changes.insert(key(first), Some(value));
            }
        }
        match stored.open.take(sequence, answer, stamp) {
            Taken::Ignored => return,
            Taken::Next if stored.open.answers.len() > CHUNK_ANSWERS => {
                let full = stored.open.answers.len() - 1;
                stored.open.answers.drain(..full);
                stored.firsts.push_back(sequence);
            }
            Taken::Next => {
                if stored.firsts.is_empty() {
                    stored.firsts.push_back(sequence);
                }
            }
            Taken::Replaced => {
                while let Some(last) = stored.firsts.pop_back_if(|first| *first >= sequence) {
                    self.changes.insert(key(last), None);
                }
                // What is before it in the last chunk stays there, and the chunk
                // goes on; else a new one overrides what is in earlier ones.
                if stored.open.first() == sequence {
                    stored.firsts.push_back(sequence);
                }
            }
        }
        self.dirty.insert(id);
        let oldest_needed = sequence.get().saturating_sub(MAX_IN_FLIGHT_PUBLICATIONS as u64);
        while stored.firsts.get(1).is_some_and(|second| second.get() <= oldest_needed) {
            if let Some(first) = stored.firsts.pop_front() {
                self.changes.insert(key(first), None);
            }
        }
    }

    /// Deletes the sessions that were used least recently, several at once.
    fn make_room(&mut self, namespace: NamespaceNumber) {
        const SHARE: usize = 16;
        if self
            .counts
            .get(&namespace)
            .is_none_or(|count| *count < MAX_STORED_SESSIONS_PER_NAMESPACE)
        {
            return;
        }
        let bounds = (namespace, SessionId::new([0; 16]))..=(namespace, SessionId::new([255; 16]));
        let mut by_age: Vec<_> = self
            .sessions
            .range(bounds)
            .map(|(id, stored)| (stored.open.last_stamp(), *id))
            .collect();
        by_age.sort_unstable();
        for (_, id) in by_age.into_iter().take(MAX_STORED_SESSIONS_PER_NAMESPACE / SHARE) {
            let Some(stored) = self.sessions.remove(&id) else { continue };
            self.dirty.remove(&id);
            *self.counts.entry(namespace).or_default() -= 1;
            for first in stored.firsts {
                self.changes.insert(SessionChunkKey { namespace, session: id.1, first }, None);
            }
        }
    }
}

impl StoredSession {
    fn encode_open(&self) -> Bytes {
        SessionChunk::encode(self.open.last_stamp(), self.open.answers.iter())
    }
}

impl Projection for PublishersProjection {
    const KIND: ProjectionKind = ProjectionKind::Publishers;
    const LAYOUT: LayoutVersion = LayoutVersion::new(1);
    type Effects = ();

    fn prefixes_to_load(_position: &ProjectionPosition) -> Vec<Bytes> {
        vec![SessionChunkKey::all()]
    }

    fn load(
        position: &ProjectionPosition,
        stored: impl IntoIterator<Item = (Bytes, Bytes)>,
        logs: &[ProjectedLog],
    ) -> Result<Self, LoadError> {
        let mut projection =
            Self { positions: LogPositions::from_stored(position, logs), ..Self::default() };
        for (key, value) in stored {
            let key = SessionChunkKey::decode(&key)?;
            let chunk = SessionChunk::decode(key.first, &value)?;
            let id = (key.namespace, key.session);
            if !projection.sessions.contains_key(&id) {
                *projection.counts.entry(key.namespace).or_default() += 1;
            }
            let stored = projection.sessions.entry(id).or_insert_with(|| StoredSession {
                open: SessionState::new(),
                firsts: VecDeque::new(),
            });
            stored.open = SessionState::new();
            stored.open.take_chunk(chunk);
            stored.firsts.push_back(key.first);
        }
        Ok(projection)
    }

    fn prefixes_to_keep() -> Vec<Bytes> {
        Vec::new()
    }

    /// Nothing is kept: an answer for a message that the log lost would be a lie,
    /// and a session whose messages are all trimmed is no longer known.
    fn rebuild(
        _kept: impl IntoIterator<Item = (Bytes, Bytes)>,
        logs: &[ProjectedLog],
    ) -> Result<Self, LoadError> {
        Ok(Self { positions: LogPositions::from_floors(logs), ..Self::default() })
    }

    fn apply(&mut self, name: &MessageName, message: &MessageHead<'_>) {
        if self.origin != Some(name.log.origin) || !self.positions.advance(name) {
            return;
        }
        let Ok(Some(position)) = message.publisher() else { return };
        let answer = Answer {
            incarnation: name.log.incarnation,
            m_id: name.m_id,
            digest: PublicationDigest::of(message.channel, message.key, message.payload),
        };
        let namespace = name.log.namespace;
        self.take(namespace, position.session, position.sequence, answer, message.stamp);
    }

    fn skip(&mut self, log: &LogName, through: MessageNumber) {
        if self.origin == Some(log.origin) {
            self.positions.skip(log, through);
        }
    }

    fn position_of(&self, log: &LogName) -> MessageNumber {
        self.positions.of(log)
    }

    fn position(&self) -> ProjectionPosition {
        self.positions.stored(Self::LAYOUT)
    }

    fn take_changes(&mut self) -> ProjectionChanges {
        for id in std::mem::take(&mut self.dirty) {
            if let Some(stored) = self.sessions.get(&id) {
                let key =
                    SessionChunkKey { namespace: id.0, session: id.1, first: stored.open.first() };
                self.changes.insert(key, Some(stored.encode_open()));
            }
        }
        let mut changes = ProjectionChanges::default();
        for (key, value) in std::mem::take(&mut self.changes) {
            match value {
                Some(value) => changes.puts.push((key.encode(), value)),
                None => changes.deletes.push(key.encode()),
            }
        }
        changes
    }
}
