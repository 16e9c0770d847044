//! Messages to try the directory with.

mod convergence;
mod entries;
mod losses;
mod queries;

use bytes::Bytes;

use crate::clock::{HybridTime, WallTime};
use crate::identity::{
    Epoch, Incarnation, MessageName, MessageNumber, NamespaceNumber, NodeNumber, PathName,
    RegisterVersion, ShardNumber, TopologyVersion,
};
use crate::message::{
    ChannelAction, ChannelLimits, ChannelOperation, Message, MessageKind, Presentation, Source,
};
use crate::names::ChannelName;

/// A message and its name.
type Named = (MessageName, Message);

fn channel(name: &str) -> ChannelName {
    ChannelName::parse(name).expect("a channel's name")
}

fn incarnation(bits: u64) -> Incarnation {
    Incarnation::new(bits).expect("not zero")
}

fn name(origin: u32, m_id: u64) -> MessageName {
    let path = PathName {
        namespace: NamespaceNumber::new(1),
        shard: ShardNumber::new(0),
        origin: NodeNumber::new(origin),
    };
    let log = path.log(incarnation(u64::from(origin) + 100));
    MessageName { log, m_id: MessageNumber::new(m_id) }
}

/// What a test says of a message: which, in which epoch, at which version, when.
#[derive(Clone, Copy, Debug)]
struct Said {
    origin: u32,
    m_id: u64,
    epoch: u64,
    version: u64,
    stamp: u64,
}

const fn said(origin: u32, m_id: u64, epoch: u64, version: u64, stamp: u64) -> Said {
    Said { origin, m_id, epoch, version, stamp }
}

impl Said {
    fn message(self, on: &str, kind: MessageKind, payload: Bytes) -> Named {
        let name = name(self.origin, self.m_id);
        let message = Message {
            m_id: name.m_id,
            groups: Vec::new(),
            kind,
            stamp: HybridTime::new(self.stamp),
            parents: Vec::new(),
            topology_version: TopologyVersion::default(),
            channel: channel(on).into(),
            epoch: Epoch::new(self.epoch),
            version: RegisterVersion::new(self.version),
            key: Bytes::new(),
            publisher: None,
            possibly_repeated: false,
            trace: None,
            payload,
        };
        (name, message)
    }

    fn publication(self, on: &str) -> Named {
        self.message(on, MessageKind::Publication, Bytes::from_static(b"payload"))
    }

    fn operation(self, on: &str, operation: &ChannelOperation) -> Named {
        self.message(on, MessageKind::ChannelOperation, operation.encode())
    }

    fn create(self, on: &str, description: &str) -> Named {
        let operation = ChannelOperation {
            presentation: Some(presentation(description)),
            ..ChannelOperation::new(ChannelAction::Create)
        };
        self.operation(on, &operation)
    }

    fn describe(self, on: &str, description: &str) -> Named {
        let operation = ChannelOperation {
            presentation: Some(presentation(description)),
            ..ChannelOperation::new(ChannelAction::Update)
        };
        self.operation(on, &operation)
    }

    fn limit(self, on: &str, bytes: u32) -> Named {
        let operation = ChannelOperation {
            limits: Some(limits(bytes)),
            ..ChannelOperation::new(ChannelAction::Update)
        };
        self.operation(on, &operation)
    }

    fn delete(self, on: &str) -> Named {
        self.operation(on, &ChannelOperation::new(ChannelAction::Delete))
    }
}

fn presentation(description: &str) -> Presentation {
    let labels = [("team".to_owned(), description.to_owned())].into();
    Presentation { description: description.to_owned(), labels }
}

const fn limits(bytes: u32) -> ChannelLimits {
    ChannelLimits { max_payload_bytes: bytes, max_publications_per_second: 0 }
}

fn source(content: &'static [u8]) -> Source {
    Source {
        path: "prices.json".to_owned(),
        content: Bytes::from_static(content),
        digest: Some([5; 32]),
        etag: "\"1\"".to_owned(),
        media_type: "application/json".to_owned(),
        fetched_at: WallTime::new(77),
    }
}

fn apply_all<'a>(
    directory: &mut super::Directory,
    messages: impl IntoIterator<Item = &'a Named>,
) -> Vec<super::DirectoryChange> {
    messages.into_iter().flat_map(|(name, message)| directory.apply(name, message)).collect()
}
