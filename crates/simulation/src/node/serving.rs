//! What our streams to peers ask for: the logs that this node serves.

use bytes::Bytes;
use interlock_core::identity::{ChainHash, LogName, Mark, MessageNumber, NodeNumber};
use interlock_core::limits::MAX_FRAME_BYTES;
use interlock_core::message::MessageHead;
use interlock_core::replication::frames::{Fact, Frame, Heartbeat, SenderFrame};
use interlock_core::replication::peer_sender::{SenderAction, SenderDisconnect};
use interlock_storage::{LogStorage, StorageError};

use crate::history::Record;
use crate::network::Cargo;
use crate::planted_bug::PlantedBug;
use crate::random::Random;

use super::Process;
use super::links::open_of;
use super::messages::Output;
use super::syncing::DurableLog;
use super::writing::Command;

impl Process {
    pub(super) fn act_as_sender(
        &mut self,
        peer: NodeNumber,
        action: SenderAction,
        random: &mut Random,
    ) -> Result<(), StorageError> {
        match action {
            SenderAction::Transmit(frame) => self.transmit_to(peer, frame),
            SenderAction::TransmitHeartbeat => {
                let (wall_clock, namespaces) = (self.wall, self.settled_digests(peer));
                self.transmit_to(
                    peer,
                    SenderFrame::Heartbeat(Heartbeat { wall_clock, namespaces }),
                );
            }
            SenderAction::ReadAndSend {
                log,
                from,
                previous_hash,
                through,
                max_bytes,
                max_messages,
                ..
            } => {
                let wish = Wish { log, from, previous_hash, through, max_bytes, max_messages };
                self.read_and_send(peer, &wish)?;
            }
            SenderAction::PeerWelcomed(welcome) => {
                if let Some(outbound) = self.outbound.get_mut(&peer) {
                    outbound.attempts = 0;
                }
                self.journal.introduced(welcome.member.opening, self.now);
                self.welcomes.insert(peer, welcome.member.opening);
                if self.hear_as_sender(peer, &welcome.marks) {
                    self.record_fact(&welcome.fact(), true);
                }
                let (machine, opening) = (self.machine, welcome.member.opening);
                self.outputs.push(Output::Record(Record::Welcomed { machine, by: opening }));
                self.compare_namespaces(peer, &welcome.namespaces);
                self.command(Command::Examine(peer, welcome.marks));
            }
            SenderAction::Refused(refused) if self.is(PlantedBug::RefusedCountedAsHeld) => {
                if let Some(opening) = self.welcomes.get(&peer).copied() {
                    let mark = Mark { m_id: refused.through, hash: ChainHash::EMPTY };
                    let marks = vec![(refused.log, mark)];
                    self.record_fact(&Fact { opening, marks }, false);
                }
            }
            SenderAction::PeerClock(_) | SenderAction::Refused(_) => {}
            SenderAction::Acknowledged(fact) => {
                if self.hear_as_sender(peer, &fact.marks) {
                    self.record_fact(&fact, false);
                }
                if self.is(PlantedBug::FramesRepeated) {
                    self.repeat_frames(peer, &fact)?;
                }
            }
            SenderAction::TopologyReceived(topology) => self.adopt(topology)?,
            SenderAction::LogStopped { log, expected, reason, detail } => {
                self.conflict(
                    log,
                    format!("node {peer} stops it at {expected}, {reason:?}: {detail}"),
                );
            }
            SenderAction::Disconnect { reason } => {
                if !matches!(reason, SenderDisconnect::NoWelcome | SenderDisconnect::Silent) {
                    self.incident(format!("the stream to node {peer} ends: {reason}"));
                }
                if let Some(stream) = open_of(&mut self.outbound, peer).map(|open| open.stream) {
                    self.end_stream(stream, true, random);
                }
            }
        }
        Ok(())
    }

    pub(super) fn transmit_to(&mut self, peer: NodeNumber, frame: SenderFrame) {
        if let Some(open) = open_of(&mut self.outbound, peer) {
            self.outputs.push(Output::Transmit(open.stream, Cargo::Sender(frame)));
        }
    }

    fn read_and_send(&mut self, peer: NodeNumber, wish: &Wish) -> Result<(), StorageError> {
        let frame = self.read_frame(wish)?;
        let missing = match &frame {
            Some(_) => None,
            None => self.storage.missing_from(&wish.log, wish.from)?,
        };
        if let Some(hole) = missing {
            self.send_hole(peer, hole);
            return Ok(());
        }
        let Some(open) = open_of(&mut self.outbound, peer) else { return Ok(()) };
        let Some((frame, through)) = frame else {
            open.sender.handle_nothing_sent(self.now, &wish.log);
            return Ok(());
        };
        let (first, window_bytes) = (frame.first_m_id, frame.window_bytes());
        self.outputs.push(Output::Transmit(open.stream, Cargo::Sender(SenderFrame::Frame(frame))));
        open.sender.handle_frame_sent(self.now, &wish.log, first, through, window_bytes);
        Ok(())
    }

    pub(super) fn read_frame(&self, wish: &Wish) -> Result<Option<(Frame, Mark)>, StorageError> {
        let Wish { log, from, through, .. } = *wish;
        let max_bytes = usize::try_from(wish.max_bytes).unwrap_or(usize::MAX).min(MAX_FRAME_BYTES);
        let read = self.storage.read(&log, from, through, max_bytes)?;
        if read.first().is_none_or(|first| first.m_id != from) {
            return Ok(None);
        }
        let is_first = |held: &&DurableLog| held.row.first_m_id() == from;
        let previous = match (wish.previous_hash, self.durable.get(&log).filter(is_first)) {
            (Some(hash), _) => Some(hash),
            (None, Some(held)) => Some(held.row.start_hash()),
            (None, None) => self.storage.chain_hash_at(&log, from.previous())?,
        };
        let Some(previous_hash) = previous else { return Ok(None) };
        let mut last = Mark { m_id: from.previous(), hash: previous_hash };
        let mut sends = Vec::new();
        for message in read.into_iter().take(wish.max_messages.min(self.config.frame_messages)) {
            last = Mark { m_id: message.m_id, hash: last.hash.then(&message.bytes) };
            sends.push(message.bytes);
        }
        let (age_milliseconds, last_age_milliseconds) = self.ages(&log, from, &sends, last.m_id)?;
        let frame = Frame {
            log,
            first_m_id: from,
            previous_hash,
            age_milliseconds,
            last_age_milliseconds,
            sends,
        };
        Ok(Some((frame, last)))
    }

    /// How old the first and the last message of a frame are: what this node accepted
    /// itself is as old as its stamp says, others' messages at least as old as the disk
    /// knows.
    fn ages(
        &self,
        log: &LogName,
        from: MessageNumber,
        sends: &[Bytes],
        last: MessageNumber,
    ) -> Result<(u64, u64), StorageError> {
        if log.origin == self.me.opening.node {
            let age = |send: Option<&Bytes>| {
                let head = send.and_then(|send| MessageHead::decode(send).ok());
                head.map_or(0, |head| self.wall.milliseconds_since(head.stamp.wall()))
            };
            return Ok((age(sends.first()), age(sends.last())));
        }
        let age = |m_id| {
            let by = self.storage.accepted_by(log, m_id)?;
            Ok(by.map_or(0, |by| self.wall.milliseconds_since(by)))
        };
        Ok((age(from)?, age(last)?))
    }

    /// The planted storm: what was acknowledged goes out once more.
    pub(super) fn repeat_frames(
        &mut self,
        peer: NodeNumber,
        fact: &Fact,
    ) -> Result<(), StorageError> {
        for (log, mark) in &fact.marks {
            let wish = Wish {
                log: *log,
                from: mark.m_id,
                previous_hash: None,
                through: mark.m_id,
                max_bytes: MAX_FRAME_BYTES as u64,
                max_messages: 1,
            };
            if let Some((frame, _)) =
                self.read_frame(&wish).ok().flatten().filter(|_| self.durable.contains_key(log))
            {
                self.transmit_to(peer, SenderFrame::Frame(frame));
            }
        }
        Ok(())
    }
}

/// What a frame should hold.
pub(super) struct Wish {
    pub(super) log: LogName,
    pub(super) from: MessageNumber,
    pub(super) previous_hash: Option<ChainHash>,
    pub(super) through: MessageNumber,
    pub(super) max_bytes: u64,
    pub(super) max_messages: usize,
}
