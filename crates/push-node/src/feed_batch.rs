//! What a feed is about to send: runs of messages and events, in order.

use bytes::Bytes;
use interlock_core::identity::{LogName, MessageName, MessageNumber};
use interlock_rpc::v1;

/// A batch leaves at this size.
const BATCH_BYTES: usize = 256 << 10;
/// A batch leaves at so many messages.
const BATCH_MESSAGES: usize = 1024;
/// A batch leaves after so many messages that were passed over, so that the
/// reader's position moves through what it did not ask for.
const BATCH_PASSED: usize = 16_384;
/// What is about to be sent, in order.
#[derive(Debug, Default)]
pub struct FeedBatch {
    /// In order.
    pub parts: Vec<Part>,
    bytes: usize,
    messages: usize,
    passed: usize,
}

/// One part of it.
#[derive(Debug)]
pub enum Part {
    /// Messages shown and passed over.
    Runs(Vec<Run>),
    /// A channel was created, changed or deleted.
    Event(v1::ChannelEvent),
}

/// Messages of one log that follow one another.
#[derive(Debug)]
pub struct Run {
    /// The log.
    pub log: LogName,
    /// The last message shown or passed over.
    pub through: MessageNumber,
    /// The messages to show.
    pub sends: Vec<Bytes>,
}

impl FeedBatch {
    /// Shows a message.
    pub fn show(&mut self, name: &MessageName, bytes: &Bytes) {
        self.bytes += bytes.len();
        self.messages += 1;
        self.run(name).sends.push(bytes.clone());
    }

    /// Moves the position over a message that is not shown.
    pub fn pass(&mut self, name: &MessageName) {
        self.passed += 1;
        self.run(name);
    }

    /// Tells an event, if there is one, after what came before.
    pub fn event(&mut self, event: Option<v1::ChannelEvent>) {
        self.messages += usize::from(event.is_some());
        self.parts.extend(event.map(Part::Event));
    }

    /// Whether it is time to send it.
    pub fn is_full(&self) -> bool {
        self.bytes >= BATCH_BYTES || self.messages >= BATCH_MESSAGES || self.passed >= BATCH_PASSED
    }

    /// The run that a message belongs to, moved up to it.
    fn run(&mut self, name: &MessageName) -> &mut Run {
        if !matches!(self.parts.last(), Some(Part::Runs(_))) {
            self.parts.push(Part::Runs(Vec::new()));
        }
        let Some(Part::Runs(runs)) = self.parts.last_mut() else {
            unreachable!("the last part holds runs")
        };
        if runs.last().is_none_or(|run| run.log != name.log) {
            runs.push(Run { log: name.log, through: name.m_id, sends: Vec::new() });
        }
        let run = runs.last_mut().expect("a run was just there");
        run.through = name.m_id;
        run
    }
}

#[cfg(test)]
mod tests {
    use interlock_core::identity::{
        Incarnation, NamespaceNumber, NodeNumber, PathName, ShardNumber,
    };

    use super::*;

    fn name(origin: u32, m_id: u64) -> MessageName {
        let path = PathName {
            namespace: NamespaceNumber::new(1),
            shard: ShardNumber::new(0),
            origin: NodeNumber::new(origin),
        };
        let log = path.log(Incarnation::new(1).expect("not zero"));
        MessageName { log, m_id: MessageNumber::new(m_id) }
    }

    #[test]
    fn runs_keep_the_order_and_events_their_place() {
        let mut batch = FeedBatch::default();
        batch.show(&name(1, 1), &Bytes::from_static(b"a"));
        batch.pass(&name(1, 2));
        batch.show(&name(2, 1), &Bytes::from_static(b"b"));
        batch.show(&name(1, 3), &Bytes::from_static(b"c"));
        batch.event(Some(v1::ChannelEvent::default()));
        batch.pass(&name(1, 4));
        let shape: Vec<String> = batch
            .parts
            .iter()
            .map(|part| match part {
                Part::Event(_) => "event".to_owned(),
                Part::Runs(runs) => runs
                    .iter()
                    .map(|run| format!("{}:{}/{}", run.log.origin, run.through, run.sends.len()))
                    .collect::<Vec<_>>()
                    .join(" "),
            })
            .collect();
        assert_eq!(shape, ["1:2/1 2:1/1 1:3/1", "event", "1:4/0"]);
    }
}
