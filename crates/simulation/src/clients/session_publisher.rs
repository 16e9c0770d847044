//! Publishes in sessions, several requests ahead, and retries exactly: after an
//! outcome that it does not know it resumes its session, at the same node or at
//! another, and sends again what that does not have. Where the session cannot go
//! on, what was in flight is published again in another one, and says that it may
//! be a repeat.

use std::collections::VecDeque;
use std::time::Duration;

use interlock_core::admission::{
    NewPublication, PublishRefusal, ResumeSession, SessionOpened, SessionRefusal,
};
use interlock_core::identity::{MessageName, PublisherSequence, SessionId};
use interlock_core::message::PublisherPosition;

use crate::history::{OperationNumber, Outcome};
use crate::planted_bug::PlantedBug;
use crate::requests::{ReplyBody, RequestBody, RequestNumber, StoredPublication};

use super::{ClientOutput, Desk, Outstanding, Surroundings};

/// Requests under way at once.
const REQUESTS_AHEAD: usize = 3;
const RETRY_DELAY: Duration = Duration::from_millis(200);

/// A publisher with a session, or on the way to one.
#[derive(Debug, Default)]
pub(super) struct SessionPublisher {
    session: Option<Session>,
    step: Step,
    /// Requests of publications without an answer, with their sequences.
    outstanding: Outstanding<Vec<u64>>,
    /// To be published again in another session: nobody knows whether it was
    /// stored.
    again: VecDeque<NewPublication>,
}

#[derive(Debug, Default)]
enum Step {
    /// To open a session, or to resume the one there is.
    #[default]
    ToOpen,
    /// Waiting for a session.
    Opening(RequestNumber),
    /// Publishing.
    Publishing,
    /// Waiting for the outstanding answers; then the session is resumed.
    Draining,
    /// The same after a refusal; then what is left takes the refused sequence.
    Refused,
}

#[derive(Debug)]
struct Session {
    id: SessionId,
    /// The sequence of the next new publication.
    next: u64,
    in_flight: VecDeque<InFlight>,
    last_acknowledged: Option<(PublisherSequence, MessageName)>,
    /// Some request had no answer: it may still be under way.
    has_strays: bool,
}

#[derive(Debug)]
struct InFlight {
    sequence: u64,
    operation: OperationNumber,
    publication: NewPublication,
}

impl SessionPublisher {
    pub(super) fn is_idle(&self) -> bool {
        self.outstanding.is_empty()
            && self.again.is_empty()
            && !matches!(self.step, Step::Opening(_) | Step::Draining | Step::Refused)
            && self.session.as_ref().is_none_or(|session| session.in_flight.is_empty())
    }

    pub(super) fn wake(&mut self, desk: &mut Desk, around: &mut Surroundings<'_>) {
        match self.step {
            Step::ToOpen => {
                let is_needed = !self.is_idle() || desk.may_begin(around);
                if is_needed {
                    self.open(desk, around);
                }
            }
            Step::Publishing => {
                self.publish(desk, around);
                if desk.may_begin(around) || !self.again.is_empty() {
                    desk.wake_later(around);
                }
            }
            Step::Opening(_) | Step::Draining | Step::Refused => {}
        }
    }

    fn open(&mut self, desk: &mut Desk, around: &mut Surroundings<'_>) {
        let resume = self.session.as_ref().map(|session| ResumeSession {
            session: session.id,
            last_acknowledged: session.last_acknowledged,
        });
        let namespace = desk.place.namespace;
        let number = desk.send(RequestBody::OpenSession { namespace, resume }, around);
        self.step = Step::Opening(number);
    }

    /// Publishes something new, if there is room.
    fn publish(&mut self, desk: &mut Desk, around: &mut Surroundings<'_>) {
        if self.outstanding.len() >= REQUESTS_AHEAD {
            return;
        }
        let session = self.session.as_mut().expect("publishing is in a session");
        let mut publications = Vec::new();
        for _ in 0..around.random.between(1, 3) {
            let mut publication = match self.again.pop_front() {
                Some(publication) => publication,
                None if desk.may_begin(around) => desk.new_publication(around),
                None => break,
            };
            let sequence = session.next;
            session.next += 1;
            let position = PublisherPosition {
                session: session.id,
                sequence: PublisherSequence::new(sequence),
            };
            publication.publisher = Some(position);
            let operation = desk.record_publication(&publication, around.history);
            publications.push(publication.clone());
            session.in_flight.push_back(InFlight { sequence, operation, publication });
        }
        self.send(publications, desk, around);
    }

    fn send(
        &mut self,
        publications: Vec<NewPublication>,
        desk: &mut Desk,
        around: &mut Surroundings<'_>,
    ) {
        if publications.is_empty() {
            return;
        }
        let positions = publications.iter().filter_map(|publication| publication.publisher);
        let sequences = positions.map(|position| position.sequence.get()).collect();
        let level = desk.level(around.random);
        let number = desk.send(RequestBody::Publish { publications, level }, around);
        self.outstanding.insert(number, sequences);
    }

    /// Sends everything again that is in flight.
    fn send_again(&mut self, desk: &mut Desk, around: &mut Surroundings<'_>) {
        let in_flight = self.session.iter().flat_map(|session| &session.in_flight);
        let publications: Vec<NewPublication> =
            in_flight.map(|in_flight| in_flight.publication.clone()).collect();
        for part in publications.chunks(4) {
            self.send(part.to_vec(), desk, around);
        }
    }

    pub(super) fn answered(
        &mut self,
        desk: &mut Desk,
        number: RequestNumber,
        body: ReplyBody,
        around: &mut Surroundings<'_>,
    ) {
        match body {
            ReplyBody::Session(answer) => {
                if matches!(self.step, Step::Opening(open) if open == number) {
                    self.session_answered(desk, answer, around);
                }
            }
            ReplyBody::Published { stored, refusal, .. } => {
                if let Some(sequences) = self.outstanding.remove(&number) {
                    self.acknowledge(&sequences, &stored, around);
                    if let (Some(refused), Some(refusal)) = (sequences.get(stored.len()), refusal) {
                        self.refused(desk, *refused, &refusal, around);
                    }
                }
            }
            ReplyBody::TooFewMembers => {
                // Nothing was looked at: the same again, at another level.
                if self.outstanding.remove(&number).is_some() {
                    self.begin_draining();
                }
            }
            ReplyBody::Edited(_) => {}
        }
        self.go_on(desk, around);
    }

    fn session_answered(
        &mut self,
        desk: &mut Desk,
        answer: Result<SessionOpened, SessionRefusal>,
        around: &mut Surroundings<'_>,
    ) {
        match answer {
            Ok(opened) => {
                self.step = Step::Publishing;
                match &self.session {
                    Some(session) if session.id == opened.session => {
                        self.resumed(desk, &opened, around);
                    }
                    _ => {
                        self.session = Some(Session {
                            id: opened.session,
                            next: 1,
                            in_flight: VecDeque::new(),
                            last_acknowledged: None,
                            has_strays: false,
                        });
                    }
                }
                around.outputs.push(ClientOutput::WakeAfter(Duration::ZERO));
            }
            Err(SessionRefusal::NotResumed(_)) => self.abandon(desk, around),
            Err(_) => {
                self.step = Step::ToOpen;
                desk.perhaps_go_elsewhere();
                around.outputs.push(ClientOutput::WakeAfter(2 * RETRY_DELAY));
            }
        }
    }

    fn resumed(&mut self, desk: &mut Desk, opened: &SessionOpened, around: &mut Surroundings<'_>) {
        let session = self.session.as_mut().expect("the caller looked");
        let next = opened.next_sequence.get();
        if next > session.next {
            let node = Some(desk.place.node);
            let what = format!(
                "session {:?} expects {next} where {} was never sent",
                session.id, session.next
            );
            return around.history.incident(node, what);
        }
        let oldest = session.in_flight.front().map_or(session.next, |oldest| oldest.sequence);
        if next < oldest {
            // Something acknowledged is not there: the origin was restored.
            return self.abandon(desk, around);
        }
        // What is below is stored; its name is in the answer to a repeat.
        if around.random.chance(50) {
            while let Some(stored) = session.in_flight.pop_front_if(|it| it.sequence < next) {
                let is_last = stored.sequence + 1 == next;
                let name = opened.last_stored.filter(|_| is_last);
                around.history.end(stored.operation, Outcome::Ok { name });
            }
            if let Some(name) = opened.last_stored {
                session.last_acknowledged = Some((PublisherSequence::new(next - 1), name));
            }
        }
        self.send_again(desk, around);
    }

    fn acknowledge(
        &mut self,
        sequences: &[u64],
        stored: &[StoredPublication],
        around: &mut Surroundings<'_>,
    ) {
        let Some(session) = &mut self.session else { return };
        for (sequence, stored) in sequences.iter().zip(stored) {
            let place = session.in_flight.iter().position(|it| it.sequence == *sequence);
            let Some(in_flight) = place.and_then(|place| session.in_flight.remove(place)) else {
                continue;
            };
            around.history.end(in_flight.operation, Outcome::Ok { name: stored.name });
            if let Some(name) = stored.name {
                let sequence = PublisherSequence::new(*sequence);
                if session.last_acknowledged.is_none_or(|(last, _)| last < sequence) {
                    session.last_acknowledged = Some((sequence, name));
                }
            }
        }
    }

    fn refused(
        &mut self,
        desk: &mut Desk,
        sequence: u64,
        refusal: &PublishRefusal,
        around: &mut Surroundings<'_>,
    ) {
        match refusal {
            PublishRefusal::SessionUnknown | PublishRefusal::ContentDiffers { .. } => {
                self.abandon(desk, around);
            }
            PublishRefusal::OutOfSequence { .. } => self.begin_draining(),
            _ if matches!(self.step, Step::Refused) => {}
            _ => {
                let Some(session) = &mut self.session else { return };
                let place = session.in_flight.iter().position(|it| it.sequence == sequence);
                let Some(in_flight) = place.and_then(|place| session.in_flight.remove(place))
                else {
                    return;
                };
                // Where an earlier request may still be under way, the refusal
                // is not the last word.
                let outcome = if session.has_strays { Outcome::Unknown } else { Outcome::Fail };
                around.history.end(in_flight.operation, outcome);
                self.step = Step::Refused;
            }
        }
    }

    fn begin_draining(&mut self) {
        if matches!(self.step, Step::Publishing) {
            self.step = Step::Draining;
        }
    }

    pub(super) fn timed_out(
        &mut self,
        desk: &mut Desk,
        number: RequestNumber,
        around: &mut Surroundings<'_>,
    ) {
        if matches!(self.step, Step::Opening(open) if open == number) {
            self.step = Step::ToOpen;
            desk.perhaps_go_elsewhere();
            around.outputs.push(ClientOutput::WakeAfter(RETRY_DELAY));
        }
        if self.outstanding.remove(&number).is_some() {
            if let Some(session) = &mut self.session {
                session.has_strays = true;
            }
            self.begin_draining();
            // Nothing else is expected of this connection.
            self.outstanding.clear();
            around.outputs.push(ClientOutput::WakeAfter(RETRY_DELAY));
            match self.step {
                Step::Draining if around.random.chance(50) => {
                    // The session may well be there still: the same again, now.
                    self.step = Step::Publishing;
                    self.send_again(desk, around);
                }
                Step::Draining => {
                    self.step = Step::ToOpen;
                    desk.perhaps_go_elsewhere();
                }
                Step::Refused => self.abandon(desk, around),
                _ => {}
            }
        }
    }

    /// After the last outstanding answer: resumes, or renumbers.
    fn go_on(&mut self, desk: &mut Desk, around: &mut Surroundings<'_>) {
        if !self.outstanding.is_empty() {
            return;
        }
        match self.step {
            Step::Draining => {
                self.step = Step::ToOpen;
                around.outputs.push(ClientOutput::WakeAfter(Duration::ZERO));
            }
            Step::Refused if self.session.as_ref().is_some_and(|session| session.has_strays) => {
                self.abandon(desk, around);
            }
            Step::Refused => {
                self.renumber(around);
                self.step = Step::Publishing;
                self.send_again(desk, around);
                desk.wake_later(around);
            }
            _ => {}
        }
    }

    /// What is left in flight takes the refused sequence and those after it.
    fn renumber(&mut self, around: &mut Surroundings<'_>) {
        let Some(session) = &mut self.session else { return };
        let gone = session.next - session.in_flight.len() as u64;
        // Everything below the refused one is acknowledged by now.
        for (sequence, in_flight) in (gone - 1..).zip(&mut session.in_flight) {
            in_flight.sequence = sequence;
            let position = PublisherPosition {
                session: session.id,
                sequence: PublisherSequence::new(sequence),
            };
            in_flight.publication.publisher = Some(position);
            around.history.renumber(in_flight.operation, (position.session, position.sequence));
        }
        session.next -= 1;
    }

    /// Gives the session up: nobody knows what became of what is in flight.
    fn abandon(&mut self, desk: &mut Desk, around: &mut Surroundings<'_>) {
        self.outstanding.clear();
        self.step = Step::ToOpen;
        desk.perhaps_go_elsewhere();
        let possibly_repeated = around.planted != Some(PlantedBug::RepeatsUndeclared);
        if let Some(session) = self.session.take() {
            for in_flight in session.in_flight {
                if around.random.chance(60) {
                    let again = NewPublication {
                        possibly_repeated,
                        publisher: None,
                        ..in_flight.publication
                    };
                    self.again.push_back(again);
                }
            }
        }
        around.outputs.push(ClientOutput::WakeAfter(RETRY_DELAY));
    }
}
