//! A state of a small world: its nodes, what is under way between them, its
//! subscriber, and what was durable so far.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use interlock_core::admission::{
    AppendEntry, ChannelChange, ChannelDraft, ChannelEdit, NewPublication,
};
use interlock_core::clock::Moment;
use interlock_core::delivery::ChannelFilter;
use interlock_core::identity::{LogName, MessageName, MessageNumber, NodeNumber};
use interlock_core::names::ChannelName;
use interlock_core::replication::frames::{Fact, Frame};
use interlock_core::replication::rows::Rows;
use interlock_core::topology::Topology;
use xxhash_rust::xxh3::xxh3_128;

use crate::delivery::UNKNOWN_BRANCH_PATIENCE;
use crate::planted_bug::PlantedBug;
use crate::scenario::{EVERYWHERE, small_topology};

use super::node::{Node, WALL};
use super::step::Step;
use super::subscriber::Subscriber;
use super::trimming::Remains;
use super::worlds::SmallWorld;

const CHANNELS: [&str; 2] = ["news", "prices"];

/// Something under way, and to whom.
#[derive(Clone, Debug)]
pub(super) enum UnderWay {
    Frame(Frame),
    Remains(Box<Remains>),
    Fact(Fact),
}

/// How often each thing has happened.
#[derive(Clone, Copy, Debug, Default)]
struct Spent {
    messages: u8,
    acknowledgements: u8,
    kills: u8,
    power_cuts: u8,
    restores: u8,
    wipes: u8,
    trims: u8,
    moves: u8,
}

pub(super) struct World {
    small: &'static SmallWorld,
    pub(super) planted: Option<PlantedBug>,
    topology: Arc<Topology>,
    pub(super) now: Moment,
    pub(super) nodes: Vec<Node>,
    under_way: Vec<(usize, UnderWay)>,
    pub(super) subscriber: Option<Subscriber>,
    /// What is durable somewhere, with its channel.
    pub(super) required: BTreeMap<MessageName, String>,
    /// How far each node ever held each log.
    ever_held: BTreeMap<(NodeNumber, LogName), MessageNumber>,
    /// Channels of all publications that ever were.
    published: BTreeMap<MessageName, String>,
    pub(super) rows: Rows,
    spent: Spent,
    pub(super) broken: Option<String>,
}

impl World {
    /// The first state: all nodes hold the two channels and nothing else.
    pub(super) fn new(small: &'static SmallWorld, planted: Option<PlantedBug>) -> Self {
        let topology = Arc::new(small_topology(u64::from(small.nodes)));
        let nodes = (1..=small.nodes).map(|number| Node::new(number.into(), &topology, planted));
        let mut world = Self {
            small,
            planted,
            now: Moment::START,
            nodes: nodes.collect(),
            under_way: Vec::new(),
            subscriber: None,
            required: BTreeMap::new(),
            ever_held: BTreeMap::new(),
            published: BTreeMap::new(),
            rows: Rows::new(),
            spent: Spent::default(),
            broken: None,
            topology,
        };
        for channel in CHANNELS {
            let edit = ChannelEdit {
                namespace: EVERYWHERE,
                channel: ChannelName::parse(channel).expect("a good name"),
                change: ChannelChange::Create(ChannelDraft::default()),
                trace: None,
            };
            let edited = world.nodes[0].admission.edit_channel(WALL, edit).expect("a new channel");
            world.nodes[0].append(vec![edited.entry.clone()]);
            world.know(&[edited.entry], None);
        }
        world.replicate();
        if small.moves.is_some() {
            let filter = ChannelFilter::default();
            world.subscriber = Some(Subscriber::new(EVERYWHERE, filter, &world.nodes[0]));
        }
        world
    }

    /// The state that a path leads to.
    pub(super) fn walk(
        small: &'static SmallWorld,
        planted: Option<PlantedBug>,
        path: &[Step],
    ) -> Self {
        let mut world = Self::new(small, planted);
        path.iter().for_each(|step| world.take(*step));
        world
    }

    /// All that can happen next.
    pub(super) fn steps(&self) -> Vec<Step> {
        let (small, spent) = (self.small, &self.spent);
        let mut steps = Vec::new();
        let has_room = self.under_way.len() < small.under_way;
        for (index, node) in self.nodes.iter().enumerate() {
            let at = index as u8;
            if spent.messages < small.messages && at < small.publishing {
                steps.push(Step::Publish { node: at, channel: spent.messages % 2 });
            }
            if !node.unsynced.is_empty() {
                steps.push(Step::Sync(at));
            }
            for (other, peer) in self.nodes.iter().enumerate().filter(|(other, _)| *other != index)
            {
                let to = other as u8;
                let lacks = |log: &LogName, m_id: MessageNumber| {
                    let held = peer.admission.logs().get(log).map(|held| held.appended.m_id);
                    held.unwrap_or_default() < m_id
                };
                let offered = node.durable().enumerate().filter(|_| has_room);
                let wanted = offered.filter(|(_, (log, mark))| lacks(log, mark.m_id));
                steps.extend(wanted.map(|(log, _)| Step::Send { from: at, to, log: log as u8 }));
                if has_room && spent.acknowledgements < small.acknowledgements {
                    steps.push(Step::Acknowledge { from: at, to });
                }
                let heard = peer.heard.get(&node.number).map(|(incarnation, _)| *incarnation);
                let is_told = small.acknowledgements > 0 || small.moves.is_some();
                if is_told && heard != Some(node.opening().incarnation) {
                    steps.push(Step::Greet { from: at, to });
                }
            }
            if spent.kills < small.kills {
                steps.push(Step::Kill(at));
            }
            if spent.power_cuts < small.power_cuts {
                let count = node.unsynced.len() as u8;
                let runs =
                    (0..count).flat_map(|from| (1..=count - from).map(move |lost| (from, lost)));
                steps.extend(runs.map(|(from, lost)| Step::PowerCut { node: at, from, lost }));
                steps.push(Step::PowerCut { node: at, from: count, lost: 0 });
            }
            if spent.restores < small.restores {
                steps.push(if node.copy.is_none() { Step::Copy(at) } else { Step::Restore(at) });
            }
            if spent.trims < small.trims && node.trimmable(&self.others(index)).is_some() {
                steps.push(Step::Trim(at));
            }
            if spent.wipes < small.wipes {
                steps.push(Step::Wipe(at));
            }
        }
        steps.extend((0..self.under_way.len()).map(|place| Step::Deliver(place as u8)));
        if let Some(subscriber) = &self.subscriber {
            steps.push(Step::Read);
            if subscriber.is_held_back() {
                steps.push(Step::LosePatience);
            }
            if small.moves.is_some_and(|moves| spent.moves < moves) {
                let others = (0..self.nodes.len()).filter(|other| *other != subscriber.at);
                steps.extend(others.map(|other| Step::Move(other as u8)));
            }
        }
        steps
    }

    /// Lets a step happen.
    pub(super) fn take(&mut self, step: Step) {
        match step {
            Step::Publish { node, channel } => self.publish(node.into(), channel.into()),
            Step::Sync(node) => self.sync(node.into()),
            Step::Send { from, to, log } => {
                let sender = &self.nodes[usize::from(from)];
                let log = sender.durable().nth(log.into()).map(|(log, _)| log);
                let cargo = log.and_then(|log| {
                    let held = self.nodes[usize::from(to)].admission.logs().get(&log);
                    what_lacks(sender, log, held.map(|held| held.appended.m_id).unwrap_or_default())
                });
                self.under_way.extend(cargo.map(|cargo| (to.into(), cargo)));
            }
            Step::Acknowledge { from, to } => {
                self.spent.acknowledgements += 1;
                let fact = self.nodes[usize::from(from)].fact();
                self.under_way.push((to.into(), UnderWay::Fact(fact)));
            }
            Step::Deliver(place) => {
                let (to, cargo) = self.under_way.remove(place.into());
                self.deliver(to, &cargo);
            }
            Step::Greet { from, to } => {
                let (fact, now) = (self.nodes[usize::from(from)].fact(), self.now);
                self.nodes[usize::from(to)].take_fact(&fact, true, now);
            }
            Step::Kill(node) => {
                self.spent.kills += 1;
                self.nodes[usize::from(node)].crash(None);
                self.open_again(node.into());
            }
            Step::PowerCut { node, from, lost } => {
                self.spent.power_cuts += 1;
                self.nodes[usize::from(node)].crash(Some((from.into(), lost.into())));
                self.open_again(node.into());
            }
            Step::Copy(node) => {
                let node = &mut self.nodes[usize::from(node)];
                node.copy = Some(node.disk.copy());
            }
            Step::Restore(node) => {
                self.spent.restores += 1;
                let at = &mut self.nodes[usize::from(node)];
                if let Some(copy) = at.copy.take() {
                    at.disk.restore(&copy);
                }
                self.replaced(node.into());
            }
            Step::Wipe(node) => {
                self.spent.wipes += 1;
                self.nodes[usize::from(node)].disk.wipe();
                self.replaced(node.into());
            }
            Step::Trim(node) => self.trim(node.into()),
            Step::Read => self.read(),
            Step::LosePatience => self.lose_patience(),
            Step::Move(to) => {
                self.spent.moves += 1;
                let to = usize::from(to);
                let (now, planted) = (self.now, self.planted);
                let resumed = |it: &Subscriber| it.resumed_at(to, &self.nodes[to], now, planted);
                self.subscriber = self.subscriber.as_ref().map(resumed);
            }
        }
        self.look_at_facts();
    }

    fn publish(&mut self, node: usize, channel: usize) {
        self.spent.messages += 1;
        let publication = NewPublication {
            namespace: EVERYWHERE,
            channel: ChannelName::parse(CHANNELS[channel]).expect("a good name"),
            key: Bytes::new(),
            payload: Bytes::copy_from_slice(&[self.spent.messages]),
            publisher: None,
            possibly_repeated: false,
            trace: None,
        };
        // A wiped node refuses until it knows the channel again.
        if let Some(entry) = self.nodes[node].publish(publication) {
            self.know(&[entry], Some(CHANNELS[channel]));
        }
    }

    fn know(&mut self, entries: &[AppendEntry], channel: Option<&str>) {
        for entry in entries {
            if let Some(row) = &entry.row
                && let Err(conflict) = self.rows.insert(row.clone())
            {
                self.broken.get_or_insert(conflict.to_string());
            }
            let channel = channel.unwrap_or_default().to_owned();
            if self.published.insert(entry.name(), channel).is_some() {
                self.broken.get_or_insert(format!("{} is given out twice", entry.name()));
            }
        }
    }

    fn sync(&mut self, node: usize) {
        self.nodes[node].sync();
        self.require_durable(node);
    }

    fn require_durable(&mut self, node: usize) {
        let node = &self.nodes[node];
        for (log, mark) in node.durable() {
            let ever = self.ever_held.entry((node.number, log)).or_default();
            *ever = mark.m_id.max(*ever);
        }
        for (name, channel) in &self.published {
            if node.holds(name) && !self.required.contains_key(name) {
                self.required.insert(*name, channel.clone());
            }
        }
    }

    fn deliver(&mut self, to: usize, cargo: &UnderWay) {
        match cargo {
            UnderWay::Frame(frame) => {
                if let Err(what) = self.nodes[to].receive(frame) {
                    self.broken.get_or_insert(what);
                }
            }
            UnderWay::Remains(remains) => {
                if let Err(what) = self.nodes[to].take_remains(remains) {
                    self.broken.get_or_insert(what);
                }
                self.require_durable(to);
            }
            UnderWay::Fact(fact) => self.nodes[to].take_fact(fact, false, self.now),
        }
    }

    fn others(&self, node: usize) -> Vec<NodeNumber> {
        let others = self.nodes.iter().enumerate().filter(|(index, _)| *index != node);
        others.map(|(_, other)| other.number).collect()
    }

    /// A node lets go of messages. Every other one has held them, and whoever is there
    /// under the opening that it is known by holds them still.
    fn trim(&mut self, node: usize) {
        self.spent.trims += 1;
        let others = self.others(node);
        let Some((log, through)) = self.nodes[node].trimmable(&others) else { return };
        let me = &self.nodes[node];
        for peer in self.nodes.iter().filter(|peer| peer.number != me.number) {
            let heard = me.heard.get(&peer.number).map(|(incarnation, _)| *incarnation);
            let is_known = heard == Some(peer.opening().incarnation);
            let ever = self.ever_held.get(&(peer.number, log)).copied().unwrap_or_default();
            if ever < through || is_known && peer.durable_through(&log) < through {
                let what = format!("n{} trims {log} to {through}", me.number);
                self.broken.get_or_insert(format!("{what}, which n{} lacks", peer.number));
            }
        }
        self.nodes[node].trim(log, through);
    }

    /// A process is gone; what its disk held durably, it holds still.
    fn open_again(&mut self, node: usize) {
        let held: BTreeSet<MessageName> =
            self.required.keys().filter(|name| self.nodes[node].holds(name)).copied().collect();
        if let Err(what) = self.nodes[node].open_again(&self.topology, self.now) {
            self.broken.get_or_insert(format!("the disk does not open: {what}"));
            return;
        }
        if let Some(lost) = held.iter().find(|name| !self.nodes[node].holds(name)) {
            self.broken.get_or_insert(format!("{lost} was durable and is gone"));
        }
        // What a kill leaves is durable once it is served.
        self.require_durable(node);
    }

    /// A disk is another one: what no other has is lost with it.
    fn replaced(&mut self, node: usize) {
        if let Err(what) = self.nodes[node].open_again(&self.topology, self.now) {
            self.broken.get_or_insert(format!("the disk does not open: {what}"));
        }
        let nodes = &self.nodes;
        self.required.retain(|name, _| nodes.iter().any(|node| node.holds(name)));
        self.require_durable(node);
    }

    pub(super) fn read(&mut self) {
        let Some(subscriber) = &mut self.subscriber else { return };
        let read = subscriber.read(&self.nodes[subscriber.at], &self.rows, self.planted);
        if let Err(what) = read {
            self.broken.get_or_insert(format!("at n{}: {what}", subscriber.at + 1));
        }
    }

    pub(super) fn lose_patience(&mut self) {
        self.now = self.now + UNKNOWN_BRANCH_PATIENCE;
        if let Some(subscriber) = &mut self.subscriber {
            subscriber.lose_patience(&self.nodes[subscriber.at], self.now);
        }
        // What is heard from now on is heard after the gap was told.
        self.now = self.now + Duration::from_secs(1);
    }

    /// All is sent until nobody lacks anything; what was under way is lost.
    pub(super) fn replicate(&mut self) {
        self.under_way.clear();
        for _ in 0..64 {
            (0..self.nodes.len()).for_each(|node| self.sync(node));
            let mut frames = Vec::new();
            for node in &self.nodes {
                for (to, peer) in self.nodes.iter().enumerate() {
                    for (log, mark) in node.durable().filter(|_| peer.number != node.number) {
                        let held = peer.admission.logs().get(&log).map(|held| held.appended.m_id);
                        if held.unwrap_or_default() < mark.m_id {
                            let cargo = what_lacks(node, log, held.unwrap_or_default());
                            frames.extend(cargo.map(|cargo| (to, cargo)));
                        }
                    }
                }
            }
            if frames.is_empty() {
                return;
            }
            frames.iter().for_each(|(to, frame)| self.deliver(*to, frame));
        }
        self.broken.get_or_insert("somebody always lacks something".to_owned());
    }

    /// Whoever was heard first-hand under the opening that it has is believed to
    /// hold no more than it does.
    fn look_at_facts(&mut self) {
        for node in &self.nodes {
            for peer in self.nodes.iter().filter(|peer| peer.number != node.number) {
                let heard = node.heard.get(&peer.number).map(|(incarnation, _)| *incarnation);
                if heard != Some(peer.opening().incarnation) {
                    continue;
                }
                for (log, _) in node.admission.logs().iter() {
                    let next = peer.durable_through(log).next();
                    if node.facts.holders(log, next).contains(&peer.number) {
                        let what = format!("n{} believes that n{} holds", node.number, peer.number);
                        self.broken.get_or_insert(format!("{what} {log} up to {next}"));
                    }
                }
            }
        }
    }

    /// What tells this state from others.
    pub(super) fn digest(&self) -> u128 {
        let mut text = format!("{:?} {:?} {:?} ", self.spent, self.now, self.broken);
        for node in &self.nodes {
            let _ = write!(text, "{:?} ", node.opening());
            for (log, held) in node.admission.logs().iter() {
                let (row, appended, durable) = (&held.row, held.appended, held.durable);
                let _ = write!(text, "{log} {:?} {appended:?} {durable:?} ", row.parents);
            }
            let entries = node.unsynced.iter().map(|batch| {
                batch.iter().map(|entry| entry.name().to_string()).collect::<Vec<_>>()
            });
            let _ = write!(text, "{:?} ", entries.collect::<Vec<_>>());
            let _ = write!(text, "{:?} {:?} {:?} ", node.heard, node.facts.facts(), node.floors);
            if let Some(copy) = &node.copy {
                let _ = write!(text, "copy {:?} ", copy_of(copy));
            }
        }
        let mut under_way: Vec<String> =
            self.under_way.iter().map(|cargo| format!("{cargo:?}")).collect();
        under_way.sort_unstable();
        let _ = write!(text, "{under_way:?} {:?} ", self.required.keys());
        if let Some(subscriber) = &self.subscriber {
            text.push_str(&subscriber.signature());
        }
        xxh3_128(text.as_bytes())
    }
}

/// What a peer that holds a log up to a number gets next: messages, or what is left of
/// them.
fn what_lacks(sender: &Node, log: LogName, after: MessageNumber) -> Option<UnderWay> {
    let frame = sender.frame(log, after).map(UnderWay::Frame);
    frame.or_else(|| Some(UnderWay::Remains(Box::new(sender.remains(log, after)?))))
}

/// What a copy holds.
fn copy_of(disk: &interlock_storage::MemoryDisk) -> Vec<(String, String)> {
    let opened = interlock_storage::MemoryStorage::open(&disk.copy());
    opened.map_or_else(
        |_| Vec::new(),
        |(_, recovery)| {
            let marks = recovery.logs.iter();
            marks.map(|log| (log.row.log.to_string(), format!("{:?}", log.mark))).collect()
        },
    )
}
