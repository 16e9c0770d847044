//! Frames in a line, for the trace: short, and different wherever the frames
//! differ in anything that matters.

use std::fmt;

use interlock_core::identity::{LogName, Mark};
use interlock_core::replication::frames::{Fact, ReceiverFrame, SenderFrame};

/// A frame of a caller.
#[derive(Debug)]
pub struct SenderFrameLine<'a>(pub &'a SenderFrame);

/// A frame of a callee.
#[derive(Debug)]
pub struct ReceiverFrameLine<'a>(pub &'a ReceiverFrame);

/// A mark.
#[derive(Clone, Copy, Debug)]
pub struct MarkLine(pub Mark);

/// Marks of several logs.
#[derive(Clone, Copy, Debug)]
pub struct MarksLine<'a>(pub &'a [(LogName, Mark)]);

struct FactLine<'a>(&'a Fact);

impl fmt::Display for MarkLine {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // Eight digits tell any two hashes of a run apart.
        write!(f, "{}#{:08x}", self.0.m_id, u128::from_be_bytes(self.0.hash.to_bytes()) >> 96)
    }
}

impl fmt::Display for MarksLine<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|(log, mark)| write!(f, " {log}:{}", MarkLine(*mark)))
    }
}

impl fmt::Display for FactLine<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let opening = self.0.opening;
        write!(f, "of {}@{}", opening.node, opening.incarnation)?;
        if let Some(from) = opening.opened_from {
            write!(f, "<{from}")?;
        }
        write!(f, "{}", MarksLine(&self.0.marks))
    }
}

impl fmt::Display for SenderFrameLine<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            SenderFrame::Hello(hello) => {
                let opening = hello.member.opening;
                write!(f, "hello {}@{}", opening.node, opening.incarnation)?;
                write!(f, " topology {}", hello.topology_version)?;
                hello.namespaces.iter().try_for_each(|digest| {
                    let tips = u128::from_be_bytes(digest.tips) >> 96;
                    let state = u128::from_be_bytes(digest.state) >> 96;
                    write!(f, " {}:{tips:08x}/{state:08x}", digest.namespace)
                })
            }
            SenderFrame::Offer(offer) => {
                f.write_str("offer")?;
                offer
                    .logs
                    .iter()
                    .try_for_each(|log| write!(f, " {}:{}", log.log, MarkLine(log.tip)))
            }
            SenderFrame::Frame(frame) => {
                let last = Mark { m_id: frame.last_m_id(), hash: frame.last_hash() };
                write!(f, "frame {} {}..{}", frame.log, frame.first_m_id, MarkLine(last))?;
                write!(f, " age {} ms", frame.age_milliseconds)
            }
            SenderFrame::Topology(topology) => write!(f, "topology {}", topology.version),
            SenderFrame::Heartbeat(heartbeat) => write!(f, "heartbeat at {}", heartbeat.wall_clock),
            SenderFrame::RelayedAck(fact) => write!(f, "relayed {}", FactLine(fact)),
            other @ (SenderFrame::Hole(_)
            | SenderFrame::BaseEntries(_)
            | SenderFrame::Refused(_)) => write!(f, "{other:?}"),
        }
    }
}

impl fmt::Display for ReceiverFrameLine<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            ReceiverFrame::Welcome(welcome) => {
                write!(f, "welcome {}", FactLine(&welcome.fact()))?;
                write!(f, " topology {}", welcome.topology_version)
            }
            ReceiverFrame::Want(want) => write!(f, "want {} from {}", want.log, want.from),
            ReceiverFrame::Unwant(unwant) => write!(f, "unwant {}", unwant.log),
            ReceiverFrame::Ack(fact) => write!(f, "ack {}", FactLine(fact)),
            ReceiverFrame::Nack(nack) => {
                write!(f, "nack {} {:?} expects {}", nack.log, nack.reason, nack.expected)?;
                write!(f, ": {}", nack.detail)
            }
            ReceiverFrame::Refused(refused) => {
                write!(f, "refused {} through {}", refused.log, refused.through)?;
                write!(f, " by {}", refused.version)
            }
            ReceiverFrame::Heartbeat(heartbeat) => {
                write!(f, "heartbeat at {}", heartbeat.wall_clock)
            }
            ReceiverFrame::Topology(topology) => write!(f, "topology {}", topology.version),
        }
    }
}
