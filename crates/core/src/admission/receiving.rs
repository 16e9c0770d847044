//! What is taken of other members' frames: the provisional slave's side.
//!
//! A received message is applied exactly once because its place in the log is
//! the number it is taken by: what is at or below the appended mark is compared
//! and dropped, what follows it is appended, what lies further is refused
//! (METHOD M10). Nothing is ever refused by clock.

use bytes::Bytes;

use super::{Admission, AppendEntry, FrameOutcome};
use crate::clock::WallTime;
use crate::identity::{LogName, Mark, MessageName, MessageNumber, NodeNumber};
use crate::limits::MAX_MESSAGE_NUMBER;
use crate::message::{ChannelOperation, Message, MessageKind, OperationError};
use crate::replication::frames::{Frame, Nack, NackReason, Refused};
use crate::replication::log_table::{ChainHistory, HeldHash, MarkComparison, StopReason};
use crate::replication::rows::Row;

/// A message that may be appended: decoded and checked.
struct Checked {
    message: Message,
    bytes: Bytes,
}

impl Admission {
    /// Takes what is new of a frame (METHOD M10). Entries are decided here; the
    /// driver appends them before the next frame of a log that may name them as
    /// parents is served to anyone.
    pub fn receive(
        &mut self,
        now: WallTime,
        frame: &Frame,
        history: &dyn ChainHistory,
    ) -> FrameOutcome {
        if let Err(refused) = self.check_residency(&frame.log, frame.last_m_id()) {
            return FrameOutcome::Refused(refused);
        }
        match self.receive_member(now, frame, history) {
            Ok(outcome) => outcome,
            Err(nack) => FrameOutcome::Nack(nack),
        }
    }

    fn receive_member(
        &mut self,
        now: WallTime,
        frame: &Frame,
        history: &dyn ChainHistory,
    ) -> Result<FrameOutcome, Nack> {
        self.check_shape(frame)?;
        if self.is_own_log(&frame.log) {
            return Ok(self.compare_own(frame, history));
        }
        let (row, overlap) = if self.logs.get(&frame.log).is_some() {
            (None, self.check_overlap(frame, history)?)
        } else {
            (Some(self.check_first(frame, history)?), 0)
        };
        let new = &frame.sends[overlap..];
        if new.is_empty() {
            return Ok(FrameOutcome::AlreadyHeld { mark: self.appended_mark(&frame.log) });
        }
        self.append_received(now, &frame.log, row, new)
    }

    /// Refuses what the present topology places elsewhere (METHOD M15).
    pub(super) fn check_residency(
        &self,
        log: &LogName,
        through: MessageNumber,
    ) -> Result<(), Refused> {
        if self.is_member(log.namespace) {
            return Ok(());
        }
        Err(Refused { log: *log, through, version: self.topology.version })
    }

    /// What no honest sender sends.
    fn check_shape(&self, frame: &Frame) -> Result<(), Nack> {
        let detail = if frame.sends.is_empty() {
            "a frame without messages"
        } else if frame.first_m_id == MessageNumber::ZERO {
            "a frame that begins at 0"
        } else if frame.last_m_id().get() > MAX_MESSAGE_NUMBER {
            "numbers beyond the limit"
        } else if frame.log.origin == NodeNumber::new(0) {
            "an origin of number 0"
        } else {
            return Ok(());
        };
        Err(self.nack(&frame.log, NackReason::Invalid, detail.to_owned()))
    }

    /// Compares a frame of this very opening's log with what this process wrote.
    fn compare_own(&self, frame: &Frame, history: &dyn ChainHistory) -> FrameOutcome {
        let theirs = Mark { m_id: frame.last_m_id(), hash: frame.last_hash() };
        let ours = self.appended_mark(&frame.log);
        match self.logs.compare(&frame.log, theirs, history) {
            MarkComparison::Agrees => FrameOutcome::AlreadyHeld { mark: ours },
            MarkComparison::UnknownLog | MarkComparison::Ahead | MarkComparison::Differs(_) => {
                FrameOutcome::OwnLogAhead { theirs, ours }
            }
        }
    }

    /// For a log that is held: how many of the frame's messages are held
    /// already. That they are the same is shown by the chain hash after the last
    /// of them; the hash after it covers all before.
    fn check_overlap(&mut self, frame: &Frame, history: &dyn ChainHistory) -> Result<usize, Nack> {
        let held = self.logs.get(&frame.log).expect("the caller looked");
        let mark = held.appended;
        if frame.first_m_id > mark.m_id.next() {
            let detail = format!("the frame begins at {}", frame.first_m_id);
            return Err(self.nack(&frame.log, NackReason::OutOfOrder, detail));
        }
        if frame.first_m_id < held.first_m_id() {
            let detail = format!("the log begins at {}", held.first_m_id());
            return Err(self.nack(&frame.log, NackReason::Invalid, detail));
        }
        let overlap = mark.m_id.next().since(frame.first_m_id);
        let overlap = usize::try_from(overlap).unwrap_or(usize::MAX).min(frame.sends.len());
        let offered =
            frame.sends[..overlap].iter().fold(frame.previous_hash, |hash, send| hash.then(send));
        let through = MessageNumber::new(frame.first_m_id.previous().get() + overlap as u64);
        self.check_hash(&frame.log, &frame.log, Mark { m_id: through, hash: offered }, history)?;
        Ok(overlap)
    }

    /// For a log that is not held: its row, if the frame begins with its first
    /// message and what it goes on from is held with the same content.
    fn check_first(&mut self, frame: &Frame, history: &dyn ChainHistory) -> Result<Row, Nack> {
        let invalid = |admission: &Self, detail: String| {
            admission.nack(&frame.log, NackReason::Invalid, detail)
        };
        let first = Message::decode(&frame.sends[0])
            .map_err(|error| invalid(self, format!("message {}: {error}", frame.first_m_id)))?;
        if first.m_id != frame.first_m_id {
            let detail = format!("message {} where {} should be", first.m_id, frame.first_m_id);
            return Err(invalid(self, detail));
        }
        let row = Row { log: frame.log, parents: first.parents };
        if row.first_m_id() != frame.first_m_id {
            if row.parents.is_empty() {
                // A later message of a log whose first one has not come.
                let detail = format!("the log is not held, the frame begins at {}", first.m_id);
                return Err(self.nack(&frame.log, NackReason::OutOfOrder, detail));
            }
            let detail = format!("the parents make {} the first message", row.first_m_id());
            return Err(invalid(self, detail));
        }
        if row.parents.iter().any(|parent| parent.incarnation == frame.log.incarnation) {
            return Err(invalid(self, "the log is its own parent".to_owned()));
        }
        self.check_parents(&row, history)?;
        if frame.previous_hash != row.start_hash() {
            let detail = "the chain does not begin with the parents".to_owned();
            return Err(invalid(self, detail));
        }
        Ok(row)
    }

    /// Every parent's log must have reached its point with the same content.
    /// Where no hash is kept, having reached it is enough.
    pub(super) fn check_parents(
        &mut self,
        row: &Row,
        history: &dyn ChainHistory,
    ) -> Result<(), Nack> {
        let path = row.log.path();
        for parent in &row.parents {
            let log = path.log(parent.incarnation);
            let Some(held) = self.logs.get(&log).filter(|held| parent.m_id <= held.appended.m_id)
            else {
                let detail = format!("{log} is not held up to {}", parent.m_id);
                return Err(self.nack(&row.log, NackReason::ParentMissing, detail));
            };
            if parent.m_id < held.first_m_id() {
                let detail = format!("{log} begins after {}", parent.m_id);
                return Err(self.nack(&row.log, NackReason::Invalid, detail));
            }
            let mark = Mark { m_id: parent.m_id, hash: parent.hash };
            self.check_hash(&row.log, &log, mark, history)?;
        }
        Ok(())
    }

    /// Compares a chain hash that a frame of `frame_log` says of `log` with the
    /// one held.
    pub(super) fn check_hash(
        &mut self,
        frame_log: &LogName,
        log: &LogName,
        offered: Mark,
        history: &dyn ChainHistory,
    ) -> Result<(), Nack> {
        let HeldHash::Known(held) = self.logs.hash_at(log, offered.m_id, history) else {
            return Ok(());
        };
        if held == offered.hash {
            return Ok(());
        }
        let reason = StopReason { noticed_at: offered.m_id, held, offered: offered.hash };
        self.logs.note_stopped(log, reason);
        Err(self.nack(frame_log, NackReason::ContentDiffers, format!("{log}: {reason}")))
    }

    /// Appends the messages that keep the rules, up to the first that does not.
    fn append_received(
        &mut self,
        now: WallTime,
        log: &LogName,
        mut row: Option<Row>,
        sends: &[Bytes],
    ) -> Result<FrameOutcome, Nack> {
        let before = match &row {
            Some(row) => Mark { m_id: row.first_m_id().previous(), hash: row.start_hash() },
            None => self.appended_mark(log),
        };
        let mut checked = Vec::with_capacity(sends.len());
        let mut expected = before.m_id;
        let mut broken = None;
        for bytes in sends {
            expected = expected.next();
            match check_message(bytes, expected, row.as_ref()) {
                Ok(message) => checked.push(Checked { message, bytes: bytes.clone() }),
                Err(detail) => {
                    broken = Some(format!("message {expected}: {detail}"));
                    break;
                }
            }
        }
        if let (true, Some(detail)) = (checked.is_empty(), broken) {
            return Err(self.nack(log, NackReason::Invalid, detail));
        }
        if let Some(row) = &row {
            self.logs
                .open(row.clone())
                .map_err(|conflict| self.nack(log, NackReason::Invalid, conflict.to_string()))?;
        }
        let mut clock_far_off = false;
        let mut mark = before;
        let mut entries = Vec::with_capacity(checked.len());
        for Checked { message, bytes } in checked {
            clock_far_off |= self.observe(now, message.stamp);
            mark = Mark { m_id: message.m_id, hash: mark.hash.then(&bytes) };
            self.logs.note_appended(log, mark, message.stamp);
            let name = MessageName { log: *log, m_id: message.m_id };
            let own = log.origin == self.opening.node;
            let state = self.state_mut(log.namespace);
            state.directory.apply(&name, &message);
            if own {
                // An earlier opening's, come back from those who hold it.
                state.publishers.apply(&name, &message.head());
            }
            entries.push(AppendEntry {
                log: *log,
                row: row.take(),
                m_id: message.m_id,
                bytes,
                hash: mark.hash,
                stamp: message.stamp,
            });
        }
        Ok(FrameOutcome::Appended { entries, mark, clock_far_off })
    }

    pub(super) fn appended_mark(&self, log: &LogName) -> Mark {
        self.logs.get(log).map_or_else(Mark::default, |held| held.appended)
    }

    pub(super) fn nack(&self, log: &LogName, reason: NackReason, detail: String) -> Nack {
        let expected =
            self.logs.get(log).map_or(MessageNumber::new(1), |held| held.appended.m_id.next());
        Nack { log: *log, expected, reason, detail }
    }
}

/// Reads a message and checks what a received one must keep. Kinds and actions
/// of later builds are taken as they are. Which groups it names is no rule:
/// placement may have changed between there and here.
fn check_message(
    bytes: &Bytes,
    expected: MessageNumber,
    row: Option<&Row>,
) -> Result<Message, String> {
    let message = Message::decode(bytes).map_err(|error| error.to_string())?;
    if message.m_id != expected {
        return Err(format!("numbered {}", message.m_id));
    }
    let parents = match row {
        Some(row) if row.first_m_id() == expected => row.parents.as_slice(),
        _ => &[],
    };
    if message.parents != parents {
        return Err("parents belong to the first message of a log".to_owned());
    }
    let is_known = !matches!(message.kind, MessageKind::Unknown(_));
    if is_known && message.groups.is_empty() {
        return Err("it names no group".to_owned());
    }
    if message.kind == MessageKind::ChannelOperation {
        match ChannelOperation::decode(&message.payload) {
            Ok(_) | Err(OperationError::UnknownAction { .. }) => {}
            Err(error) => return Err(error.to_string()),
        }
    }
    Ok(message)
}
