//! Ready-made members, logs and messages for the tests of this module.

use bytes::Bytes;

use crate::clock::{Moment, WallTime};
use crate::identity::{
    ChainHash, FeatureLevel, FencingToken, Incarnation, LogName, Mark, MemberOpening,
    MessageNumber, NamespaceNumber, NodeNumber, ParentPoint, PathName, ShardNumber,
    TopologyVersion,
};
use crate::limits::WINDOW_BYTES;
use crate::names::{NodeName, RegionName};
use crate::replication::frames::{Frame, Hello, LogOffer, Member, PROTOCOL_VERSION, Welcome};

/// The node that serves, and the node that receives.
pub(super) const SENDER: NodeNumber = NodeNumber::new(1);
pub(super) const RECEIVER: NodeNumber = NodeNumber::new(2);

pub(super) fn at(milliseconds: u64) -> Moment {
    Moment::new(std::time::Duration::from_millis(milliseconds))
}

pub(super) fn number(m_id: u64) -> MessageNumber {
    MessageNumber::new(m_id)
}

pub(super) fn incarnation(bits: u64) -> Incarnation {
    Incarnation::new(bits).expect("not zero")
}

pub(super) fn log_of(origin: u32, opening: u64) -> LogName {
    PathName {
        namespace: NamespaceNumber::new(1),
        shard: ShardNumber::new(0),
        origin: NodeNumber::new(origin),
    }
    .log(incarnation(opening))
}

pub(super) fn opening(node: NodeNumber, bits: u64) -> MemberOpening {
    MemberOpening { node, incarnation: incarnation(bits), opened_from: None }
}

fn member(opening: MemberOpening) -> Member {
    Member {
        opening,
        name: NodeName::parse("node").expect("a good name"),
        region: RegionName::parse("region").expect("a good name"),
        fencing_token: FencingToken::new(0),
    }
}

pub(super) fn hello(opening: MemberOpening) -> Hello {
    Hello {
        protocol_version: PROTOCOL_VERSION,
        member: member(opening),
        topology_version: TopologyVersion::default(),
        namespaces: Vec::new(),
        feature_level: FeatureLevel::new(1),
        wall_clock: WallTime::new(0),
    }
}

pub(super) fn welcome(opening: MemberOpening, marks: Vec<(LogName, Mark)>) -> Welcome {
    Welcome {
        protocol_version: PROTOCOL_VERSION,
        member: member(opening),
        topology_version: TopologyVersion::default(),
        marks,
        namespaces: Vec::new(),
        window_bytes: WINDOW_BYTES,
        feature_level: FeatureLevel::new(1),
        wall_clock: WallTime::new(0),
    }
}

/// A log as its server holds it: all messages, all durable.
#[derive(Clone, Debug)]
pub(super) struct ServedLog {
    pub(super) name: LogName,
    pub(super) parents: Vec<ParentPoint>,
    pub(super) start: Mark,
    pub(super) sends: Vec<Bytes>,
    pub(super) hashes: Vec<ChainHash>,
}

impl ServedLog {
    pub(super) fn new(name: LogName, parents: Vec<ParentPoint>) -> Self {
        let start = Mark {
            m_id: parents.iter().map(|parent| parent.m_id).max().unwrap_or_default(),
            hash: ChainHash::of_parents(&parents),
        };
        Self { name, parents, start, sends: Vec::new(), hashes: Vec::new() }
    }

    /// A log with so many messages of so many bytes.
    pub(super) fn with(name: LogName, messages: usize, bytes: usize) -> Self {
        let mut log = Self::new(name, Vec::new());
        (0..messages).for_each(|_| log.publish(bytes));
        log
    }

    /// Appends a message of about so many bytes, like no other.
    pub(super) fn publish(&mut self, bytes: usize) {
        let mut send = format!("{} {}", self.name, self.tip().m_id.next()).into_bytes();
        send.resize(send.len().max(bytes), b'.');
        self.hashes.push(self.tip().hash.then(&send));
        self.sends.push(Bytes::from(send));
    }

    pub(super) fn tip(&self) -> Mark {
        self.mark_at(number(self.start.m_id.get() + self.sends.len() as u64))
            .expect("the tip is held")
    }

    /// The mark at a number that is held, or right before the first.
    pub(super) fn mark_at(&self, m_id: MessageNumber) -> Option<Mark> {
        if m_id == self.start.m_id {
            return Some(self.start);
        }
        let index = usize::try_from(m_id.get().checked_sub(self.start.m_id.get() + 1)?).ok()?;
        self.hashes.get(index).map(|hash| Mark { m_id, hash: *hash })
    }

    pub(super) fn send_at(&self, m_id: MessageNumber) -> Option<&Bytes> {
        let index = usize::try_from(m_id.get().checked_sub(self.start.m_id.get() + 1)?).ok()?;
        self.sends.get(index)
    }

    pub(super) fn offer(&self) -> LogOffer {
        LogOffer {
            log: self.name,
            parents: self.parents.clone(),
            tip: self.tip(),
            floor: MessageNumber::ZERO,
        }
    }

    /// This log as the parent of a later one.
    pub(super) fn parent_point(&self) -> ParentPoint {
        let Mark { m_id, hash } = self.tip();
        ParentPoint { incarnation: self.name.incarnation, m_id, hash }
    }

    /// Reads a frame as a driver does: at least one message, then as many as fit.
    pub(super) fn read(
        &self,
        from: MessageNumber,
        through: MessageNumber,
        max_bytes: u64,
        max_messages: usize,
    ) -> Option<Frame> {
        let mut frame = Frame {
            log: self.name,
            first_m_id: from,
            previous_hash: self.mark_at(from.previous())?.hash,
            age_milliseconds: 0,
            last_age_milliseconds: 0,
            sends: Vec::new(),
        };
        let mut m_id = from;
        while m_id <= through
            && frame.sends.len() < max_messages
            && let Some(send) = self.send_at(m_id)
        {
            frame.sends.push(send.clone());
            if frame.sends.len() > 1 && frame.window_bytes() > max_bytes {
                frame.sends.pop();
                break;
            }
            m_id = m_id.next();
        }
        (!frame.sends.is_empty()).then_some(frame)
    }
}
