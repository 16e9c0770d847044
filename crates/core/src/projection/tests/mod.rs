//! A storage to try projections with, and messages for them.

mod channel_index;
mod directory;
mod keys;
mod openings;
mod publishers;

use std::collections::BTreeMap;

use bytes::Bytes;
use proptest::prelude::*;

use crate::clock::HybridTime;
use crate::identity::{
    Epoch, Incarnation, LogName, MessageName, MessageNumber, NamespaceNumber, NodeNumber, PathName,
    PublisherSequence, RegisterVersion, SessionId, ShardNumber, TopologyVersion,
};
use crate::message::{Message, MessageKind, PublisherPosition};
use crate::names::ChannelName;

use super::channel_index::IndexScan;
use super::{LoadError, ProjectedLog, Projection, ProjectionChanges, ProjectionPosition};

pub(super) fn log(namespace: u32, shard: u16, origin: u32, incarnation: u64) -> LogName {
    let path = PathName {
        namespace: NamespaceNumber::new(namespace),
        shard: ShardNumber::new(shard),
        origin: NodeNumber::new(origin),
    };
    path.log(Incarnation::new(incarnation).expect("not zero"))
}

pub(super) fn any_log() -> impl Strategy<Value = LogName> {
    (any::<u32>(), any::<u16>(), any::<u32>(), 1..=u64::MAX).prop_map(
        |(namespace, shard, origin, incarnation)| log(namespace, shard, origin, incarnation),
    )
}

const fn at(log: LogName, m_id: u64) -> MessageName {
    MessageName { log, m_id: MessageNumber::new(m_id) }
}

/// A publication whose stamp is its number, until a test says otherwise.
fn publication(name: MessageName, channel: &str, payload: &'static [u8]) -> Message {
    Message {
        m_id: name.m_id,
        groups: Vec::new(),
        kind: MessageKind::Publication,
        stamp: HybridTime::new(name.m_id.get()),
        parents: Vec::new(),
        topology_version: TopologyVersion::default(),
        channel: ChannelName::parse(channel).expect("a channel's name").into(),
        epoch: Epoch::new(1),
        version: RegisterVersion::new(1),
        key: Bytes::new(),
        publisher: None,
        possibly_repeated: false,
        trace: None,
        payload: Bytes::from_static(payload),
    }
}

const fn position(session: u8, sequence: u64) -> PublisherPosition {
    PublisherPosition {
        session: SessionId::new([session; 16]),
        sequence: PublisherSequence::new(sequence),
    }
}

/// What the storage has of one projection.
#[derive(Clone, Debug, Default, PartialEq)]
struct Stored {
    position: Option<ProjectionPosition>,
    pairs: BTreeMap<Bytes, Bytes>,
}

impl Stored {
    fn store(&mut self, projection: &mut impl Projection) {
        let ProjectionChanges { puts, deletes } = projection.take_changes();
        for key in &deletes {
            assert!(puts.iter().all(|(put, _)| put != key), "put and deleted at once");
            self.pairs.remove(key);
        }
        self.pairs.extend(puts);
        self.position = Some(projection.position());
    }

    fn scan(&self, prefix: &Bytes, after: Option<&Bytes>) -> Vec<(Bytes, Bytes)> {
        let start = after.unwrap_or(prefix).clone();
        self.pairs
            .range(start..)
            .filter(|(key, _)| Some(*key) != after)
            .take_while(|(key, _)| key.starts_with(prefix))
            .map(|(key, value)| (key.clone(), value.clone()))
            .collect()
    }

    fn scan_index(&self, scan: &IndexScan) -> Vec<(Bytes, Bytes)> {
        self.scan(&scan.prefix, scan.after.as_ref())
    }

    fn load<P: Projection>(&self, logs: &[ProjectedLog]) -> Result<P, LoadError> {
        let position = self.position.clone().unwrap_or_default();
        let prefixes = P::prefixes_to_load(&position);
        P::load(&position, prefixes.iter().flat_map(|prefix| self.scan(prefix, None)), logs)
    }

    /// As a driver does it: reads what is to be kept, then deletes everything.
    fn rebuild<P: Projection>(&mut self, logs: &[ProjectedLog]) -> Result<P, LoadError> {
        let kept: Vec<_> =
            P::prefixes_to_keep().iter().flat_map(|prefix| self.scan(prefix, None)).collect();
        *self = Self::default();
        P::rebuild(kept, logs)
    }
}
