//! The channel index, against a list of all messages.

use crate::projection::ChannelIndex;
use crate::projection::channel_index::{
    ChannelHash, IndexedSegment, SEGMENT_MESSAGES, contents_through, decode_segment,
    decode_trim_point, is_within_floor, join_segments, segments_before, trim_point_key,
    trim_points,
};
use crate::replication::frames::TrimPoint;

use super::*;

const CHANNELS: [&str; 3] = ["a", "b", "c"];

/// A node's index with its storage, and beside it everything published.
struct Node {
    storage: Stored,
    index: ChannelIndex,
    published: Vec<(u64, &'static str)>,
    floor: u64,
}

fn one() -> LogName {
    log(1, 0, 1, 1)
}

impl Node {
    fn new() -> Self {
        let index = ChannelIndex::default();
        Self { storage: Stored::default(), index, published: Vec::new(), floor: 0 }
    }

    fn publish(&mut self, m_id: u64, channel: &'static str) {
        self.published.push((m_id, channel));
        let name = at(one(), m_id);
        self.index.apply(&name, &publication(name, channel, b"").head());
    }

    fn store(&mut self) {
        self.storage.store(&mut self.index);
    }

    fn found(&self) -> ProjectedLog {
        let held = self.published.last().map_or(0, |(m_id, _)| *m_id);
        ProjectedLog {
            log: one(),
            floor: MessageNumber::new(self.floor),
            last_missing: MessageNumber::new(self.floor),
            held: MessageNumber::new(held),
        }
    }

    fn trim(&mut self, floor: u64) {
        self.floor = self.floor.max(floor);
        let floor = MessageNumber::new(self.floor);
        let stored: Vec<_> = self
            .storage
            .scan_index(&contents_through(&one()))
            .into_iter()
            .filter(|(key, _)| is_within_floor(key, floor).expect("an index key"))
            .collect();
        let moved = self.index.trim(&one(), floor, stored).expect("stored by this layout");
        for point in moved {
            self.merge(&point);
        }
    }

    /// As a driver does it.
    fn merge(&mut self, point: &TrimPoint) {
        let held = self.storage.pairs.get(&trim_point_key(point)).map(|value| {
            decode_trim_point(&trim_point_key(point), value).expect("an index pair").m_id
        });
        self.index.merge_trim_point(point, held);
    }

    /// The segments of a channel that begin before a message, newest first.
    fn segments(&self, channel: &str, before: u64) -> Vec<IndexedSegment> {
        let before = MessageNumber::new(before);
        let hash = ChannelHash::of(channel);
        let recent = self.index.recent_segments(hash, &one());
        let stored = self.storage.scan_index(&segments_before(hash, &one(), before));
        let stored =
            stored.iter().map(|(key, value)| decode_segment(key, value).expect("an index pair"));
        join_segments(recent, stored, before)
    }

    fn trim_point(&self, channel: &str) -> u64 {
        let scan = trim_points(ChannelHash::of(channel), one().namespace);
        let found = self.storage.scan_index(&scan);
        let points: Vec<_> = found
            .iter()
            .map(|(key, value)| decode_trim_point(key, value).expect("an index pair"))
            .collect();
        assert!(points.iter().all(|point| point.log == one()));
        points.first().map_or(0, |point| point.m_id.get())
    }

    /// What the segments of a channel must be, by the list.
    fn expected(&self, channel: &str, before: u64) -> Vec<IndexedSegment> {
        let segment_of = |m_id: u64| m_id / SEGMENT_MESSAGES;
        let newest = segment_of(before - 1);
        let mut segments: BTreeMap<u64, Vec<u64>> = BTreeMap::new();
        for (m_id, name) in &self.published {
            let is_dropped =
                segment_of(*m_id) * SEGMENT_MESSAGES + SEGMENT_MESSAGES - 1 <= self.floor;
            if *name == channel && segment_of(*m_id) <= newest && !is_dropped {
                segments.entry(segment_of(*m_id)).or_default().push(*m_id);
            }
        }
        segments
            .values()
            .rev()
            .map(|m_ids| IndexedSegment {
                count: m_ids.len() as u16,
                first: MessageNumber::new(m_ids[0]),
                last: MessageNumber::new(m_ids[m_ids.len() - 1]),
            })
            .collect()
    }
}

#[derive(Clone, Debug)]
enum Step {
    Publish(usize, u64),
    Other(u64),
    Store,
    Restart,
    Rebuild,
    Trim(prop::sample::Index),
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let step = prop_oneof![
        4 => (0..CHANNELS.len(), 1..200_u64).prop_map(|(channel, count)| Step::Publish(channel, count)),
        1 => (1..300_u64).prop_map(Step::Other),
        2 => Just(Step::Store),
        1 => Just(Step::Restart),
        1 => Just(Step::Rebuild),
        1 => any::<prop::sample::Index>().prop_map(Step::Trim),
    ];
    prop::collection::vec(step, 0..25)
}

proptest! {
    #[test]
    fn the_index_finds_what_was_published(
        steps in steps(),
        before in any::<prop::sample::Index>(),
    ) {
        let mut node = Node::new();
        let mut m_id = 0;
        for step in steps {
            match step {
                Step::Publish(channel, count) => {
                    for _ in 0..count {
                        m_id += 1;
                        node.publish(m_id, CHANNELS[channel]);
                    }
                }
                Step::Other(count) => {
                    for _ in 0..count {
                        m_id += 1;
                        let name = at(one(), m_id);
                        let message = Message {
                            kind: MessageKind::ChannelOperation,
                            ..publication(name, "a", b"")
                        };
                        node.index.apply(&name, &message.head());
                    }
                }
                Step::Store => node.store(),
                Step::Restart => {
                    // What was not stored is applied again from the log.
                    let logs = [node.found()];
                    node.index = node.storage.load(&logs).expect("stored by this layout");
                    replay(&mut node, m_id);
                }
                Step::Rebuild => {
                    node.store();
                    let logs = [node.found()];
                    node.index = node.storage.rebuild(&logs).expect("stored by this layout");
                    // The trimmed part of the floor's segment is not indexed anew.
                    let floor = node.floor;
                    node.published.retain(|(m_id, _)| *m_id > floor);
                    replay(&mut node, m_id);
                }
                Step::Trim(floor) => {
                    node.trim(floor.index(m_id as usize + 1) as u64);
                    node.store();
                }
            }
        }
        let all: Vec<_> = CHANNELS.iter().map(|channel| node.segments(channel, m_id + 1)).collect();
        node.store();
        let before = before.index(m_id as usize + 1) as u64 + 1;
        for (channel, newest) in CHANNELS.iter().zip(all) {
            prop_assert_eq!(node.segments(channel, m_id + 1), newest.clone());
            prop_assert_eq!(newest, node.expected(channel, m_id + 1));
            let expected: Vec<_> = node
                .expected(channel, m_id + 1)
                .into_iter()
                .filter(|segment| segment.first.get() < before)
                .collect();
            prop_assert_eq!(node.segments(channel, before), expected);
        }
    }

    /// A channel may show less history, not more: the trim point is at or above
    /// the newest trimmed message, within its segment, and not above the floor.
    #[test]
    fn trim_points_are_the_newest_trimmed_messages(
        channels in prop::collection::vec(0..CHANNELS.len(), 1..1_500),
        floors in prop::collection::vec(any::<(prop::sample::Index, bool)>(), 1..4),
    ) {
        let mut node = Node::new();
        for (m_id, channel) in (1..).zip(&channels) {
            node.publish(m_id, CHANNELS[*channel]);
        }
        for (floor, stores_before) in floors {
            if stores_before {
                node.store();
            }
            node.trim(floor.index(channels.len() + 1) as u64);
            node.store();
            for channel in CHANNELS {
                let trimmed = node.published.iter().rev().find(|(m_id, name)| {
                    *name == channel && *m_id <= node.floor
                });
                let point = node.trim_point(channel);
                match trimmed {
                    None => prop_assert_eq!(point, 0),
                    Some((newest, _)) => {
                        prop_assert!(point >= *newest && point <= node.floor);
                        prop_assert_eq!(point / SEGMENT_MESSAGES, newest / SEGMENT_MESSAGES);
                    }
                }
            }
        }
    }
}

/// Applies the log again; what the index has is passed over.
fn replay(node: &mut Node, held: u64) {
    let published: BTreeMap<_, _> = node.published.iter().copied().collect();
    for m_id in node.floor + 1..=held {
        let name = at(one(), m_id);
        let message = match published.get(&m_id) {
            Some(channel) => publication(name, channel, b""),
            None => Message { kind: MessageKind::ChannelOperation, ..publication(name, "a", b"") },
        };
        node.index.apply(&name, &message.head());
    }
}

#[test]
fn a_full_segment_of_one_channel_counts_all() {
    let mut node = Node::new();
    (1..SEGMENT_MESSAGES * 2).for_each(|m_id| node.publish(m_id, "a"));
    node.store();
    let counts: Vec<_> =
        node.segments("a", u64::MAX / 2).iter().map(|segment| segment.count).collect();
    assert_eq!(counts, [256, 255]);
}

/// Found by the fuzz target for stored entries.
#[test]
fn a_damaged_key_beyond_all_messages_is_read_without_a_panic() {
    let scan = segments_before(ChannelHash::of("a"), &one(), MessageNumber::new(9));
    let mut key = scan.after.expect("a key to begin after").to_vec();
    let segment = key.len() - 8;
    // The segment's number stands there with its bits inverted.
    key[segment..].fill(0);
    let read = decode_segment(&key, &[0, 0, 255]).expect("a key of this layout");
    assert_eq!(read.last, MessageNumber::new(u64::MAX));
}

#[test]
fn logs_and_namespaces_are_apart() {
    let mut storage = Stored::default();
    let mut index = ChannelIndex::default();
    let logs = [log(1, 0, 1, 1), log(1, 0, 1, 2), log(1, 0, 2, 1), log(2, 0, 1, 1)];
    for one in logs {
        index.apply(&at(one, 1), &publication(at(one, 1), "a", b"").head());
    }
    storage.store(&mut index);
    for one in logs {
        let scan = segments_before(ChannelHash::of("a"), &one, MessageNumber::new(9));
        assert_eq!(storage.scan_index(&scan).len(), 1);
        index
            .trim(&one, MessageNumber::new(1), storage.scan_index(&contents_through(&one)))
            .expect("stored by this layout");
    }
    storage.store(&mut index);
    let points = |namespace| {
        storage
            .scan_index(&trim_points(ChannelHash::of("a"), NamespaceNumber::new(namespace)))
            .len()
    };
    assert_eq!((points(1), points(2), points(3)), (3, 1, 0));
}

/// A base told of messages that are still held here: trimming some of them takes nothing
/// back of what it said.
#[test]
fn a_trim_does_not_move_a_trim_point_back() {
    let mut node = Node::new();
    for m_id in 1..=20 {
        node.publish(m_id, CHANNELS[0]);
    }
    let channel = ChannelHash::of(CHANNELS[0]);
    node.merge(&TrimPoint { log: one(), channel, m_id: MessageNumber::new(11) });
    node.store();
    node.trim(2);
    node.store();
    assert_eq!(node.trim_point(CHANNELS[0]), 11);
    node.trim(15);
    node.store();
    assert_eq!(node.trim_point(CHANNELS[0]), 15);
}
