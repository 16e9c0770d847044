//! Subscribers and the gateways they call: they follow a namespace with a filter,
//! keep cursors from time to time, and go on elsewhere with the newest one, an
//! older one or none. Chance of their own decides about them, so that the rest of
//! a world is the same with and without them.

use std::collections::BTreeMap;
use std::time::Duration;

use interlock_core::cursor::Cursor;
use interlock_core::delivery::ChannelFilter;
use interlock_core::identity::{NamespaceNumber, NodeNumber};
use interlock_core::names::ChannelName;

use crate::delivery::{self, Gateway, Session, Start, Told};
use crate::event::Event;
use crate::history::{Asked, SessionNumber, SessionRecord};
use crate::network::Endpoint;
use crate::node::Process;
use crate::random::Random;
use crate::scenario::{EVERYWHERE, SOMEWHERE, Scenario};
use crate::world::{Phase, World};

/// Cursors that are kept to be resumed at the end.
const KEPT_CURSORS: usize = 5;
const FILTERS: [&[&str]; 4] = [&[], &["prices/*"], &["news", "live"], &["a/b/c", "config*"]];

/// Where somebody starts without a cursor.
#[derive(Clone, Copy, Debug)]
enum Wish {
    Last(usize),
    Milliseconds(u64),
}

/// A subscriber.
#[derive(Debug)]
pub(crate) struct Subscriber {
    pub(crate) number: u32,
    namespace: NamespaceNumber,
    filter: ChannelFilter,
    pub(crate) node: NodeNumber,
    pub(crate) session: Option<(Session, SessionNumber)>,
    /// Where it goes on; nowhere yet.
    cursor: Option<Cursor>,
    /// What it asks for in place of a cursor: the last so many, or what came in the
    /// last so many milliseconds.
    wish: Option<Wish>,
    older: Vec<Cursor>,
}

/// A cursor to be resumed at the end.
#[derive(Clone, Debug)]
pub(crate) struct KeptCursor {
    pub(crate) subscriber: u32,
    pub(crate) namespace: NamespaceNumber,
    pub(crate) filter: ChannelFilter,
    pub(crate) cursor: Cursor,
}

/// All of them.
#[derive(Debug)]
pub(crate) struct Subscriptions {
    random: Random,
    gateways: BTreeMap<(NodeNumber, NamespaceNumber), Gateway>,
    pub(crate) subscribers: Vec<Subscriber>,
    pub(crate) kept: Vec<KeptCursor>,
    kept_of: u64,
}

impl Subscriptions {
    /// A subscriber that has still to read what its gateway has, if there is one.
    pub(crate) fn one_behind(&self) -> Option<u32> {
        let is_behind = |subscriber: &&Subscriber| {
            let gateway = self.gateways.get(&(subscriber.node, subscriber.namespace));
            let session = subscriber.session.as_ref();
            gateway.zip(session).is_some_and(|(gateway, (session, _))| session.is_behind(gateway))
        };
        self.subscribers.iter().find(is_behind).map(|subscriber| subscriber.number)
    }

    pub(crate) fn draw(seed: u64, scenario: &Scenario) -> Self {
        let mut random = Random::new(seed ^ 0x5375_6273_6372_6962);
        let mut subscribers = Vec::new();
        let nodes: Vec<NodeNumber> = scenario.topology.nodes.iter().map(|it| it.number).collect();
        for namespace in [EVERYWHERE, SOMEWHERE] {
            for _ in 0..random.between(1, 3) {
                let members = scenario.topology.members(namespace);
                let node = random.choose(&members).map_or(nodes[0], |member| member.number);
                let patterns = *random.choose(&FILTERS).expect("there are filters");
                let filter = ChannelFilter::parse(patterns).expect("good patterns");
                let number = subscribers.len() as u32 + 1;
                let (session, cursor, wish, older) = (None, None, None, Vec::new());
                subscribers.push(Subscriber {
                    number,
                    namespace,
                    filter,
                    node,
                    session,
                    cursor,
                    wish,
                    older,
                });
            }
        }
        Self { random, gateways: BTreeMap::new(), subscribers, kept: Vec::new(), kept_of: 0 }
    }

    /// Keeps some of all cursors that are shown to it, each as likely as others.
    fn keep(&mut self, cursor: KeptCursor) {
        self.kept_of += 1;
        if self.kept.len() < KEPT_CURSORS {
            return self.kept.push(cursor);
        }
        let place = self.random.below(self.kept_of) as usize;
        if let Some(kept) = self.kept.get_mut(place) {
            *kept = cursor;
        }
    }
}

impl World {
    pub(crate) fn begin_subscriptions(&mut self) {
        let nodes: Vec<NodeNumber> =
            self.scenario.topology.nodes.iter().map(|node| node.number).collect();
        nodes.into_iter().for_each(|node| self.run_gateway_later(node));
    }

    fn run_gateway_later(&mut self, node: NodeNumber) {
        let random = &mut self.subscriptions.random;
        let after = random.duration(Duration::from_millis(20), Duration::from_millis(320));
        self.after(after, Event::GatewayRuns(node));
    }

    /// A region's gateway and its subscribers go on.
    pub(crate) fn run_gateway(&mut self, node: NodeNumber) {
        for namespace in [EVERYWHERE, SOMEWHERE] {
            if self.topology().is_member(node, namespace) {
                self.run_gateway_of(node, namespace);
            } else {
                self.move_subscribers(node, namespace);
            }
        }
        self.run_gateway_later(node);
    }

    /// Whoever reads where nobody is a member any more goes on elsewhere, at its cursor.
    fn move_subscribers(&mut self, node: NodeNumber, namespace: NamespaceNumber) {
        let topology = std::sync::Arc::clone(self.topology());
        let members = topology.members(namespace);
        let Subscriptions { random, gateways, subscribers, .. } = &mut self.subscriptions;
        gateways.remove(&(node, namespace));
        let here = subscribers.iter_mut().filter(|it| it.node == node && it.namespace == namespace);
        for subscriber in here {
            if let Some(member) = random.choose(&members) {
                subscriber.session = None;
                subscriber.node = member.number;
            }
        }
    }

    fn run_gateway_of(&mut self, node: NodeNumber, namespace: NamespaceNumber) {
        let is_fault_time = self.phase == Phase::Faults;
        let key = (node, namespace);
        let mut subscriptions = std::mem::replace(&mut self.subscriptions, nobody());
        let Subscriptions { random, gateways, subscribers, .. } = &mut subscriptions;
        let restarts = is_fault_time && random.chance(1);
        if restarts {
            gateways.remove(&key);
        }
        let gateway = gateways.entry(key).or_insert_with(|| Gateway::new(namespace, self.planted));
        let endpoint = self.node_followed(gateway, node, random);
        let is_followed = endpoint.is_some_and(|endpoint| self.follow(gateway, endpoint, random));
        if !is_followed {
            gateway.lose_upstream();
        }
        let mut kept = Vec::new();
        let here = subscribers.iter_mut().filter(|it| it.node == node && it.namespace == namespace);
        for subscriber in here {
            if restarts {
                subscriber.session = None;
            }
            self.serve(subscriber, gateway, endpoint.filter(|_| is_followed), random);
            if is_fault_time {
                kept.extend(self.do_as_it_likes(subscriber, random));
            }
        }
        kept.into_iter().for_each(|cursor| subscriptions.keep(cursor));
        self.subscriptions = subscriptions;
    }

    /// The process that a gateway follows: the same as before while it is there,
    /// else one of its node, else perhaps one nearby.
    fn node_followed(
        &self,
        gateway: &Gateway,
        node: NodeNumber,
        random: &mut Random,
    ) -> Option<Endpoint> {
        let serves = |endpoint: &Endpoint| {
            self.process_at(*endpoint)
                .is_some_and(|it| it.topology().is_member(endpoint.node(), gateway.namespace()))
        };
        if let Some(upstream) = gateway.upstream().filter(&serves) {
            return Some(upstream);
        }
        let region = &self.scenario.topology.node(node)?.region;
        let nearby = self.machines.values().filter(|machine| machine.node.region == *region);
        let there: Vec<Endpoint> =
            nearby.map(|machine| machine.endpoint()).filter(serves).collect();
        let own: Vec<Endpoint> = there.iter().copied().filter(|it| it.node() == node).collect();
        random.choose(&own).copied().or_else(|| {
            let is_patient = random.chance(80);
            random.choose(&there).copied().filter(|_| !is_patient)
        })
    }

    pub(crate) fn process_at(&self, endpoint: Endpoint) -> Option<&Process> {
        let machine = self.machines.get(&endpoint.machine)?;
        machine.process.as_ref().filter(|_| machine.process_number == endpoint.process)
    }

    /// Follows on; false when the process is no longer followed.
    fn follow(&mut self, gateway: &mut Gateway, endpoint: Endpoint, random: &mut Random) -> bool {
        let Some(machine) = self.machines.get(&endpoint.machine) else { return false };
        let Some(process) = &machine.process else { return false };
        let (now, local) = (self.now, machine.local(self.now));
        let most = random.between(1, 20) as usize;
        match gateway.follow(endpoint, process, now, local, most) {
            Ok(ended) => {
                self.history.ended.extend(ended);
                true
            }
            Err(error) => {
                self.gateway_failed(endpoint, &error.to_string());
                false
            }
        }
    }

    pub(crate) fn gateway_failed(&mut self, endpoint: Endpoint, why: &str) {
        self.note(format_args!("a gateway lets go of n{}: {why}", endpoint.machine));
        self.history.incident(Some(endpoint.node()), why.to_owned());
    }

    /// Lets a subscriber's session go on, or begins one.
    fn serve(
        &mut self,
        subscriber: &mut Subscriber,
        gateway: &Gateway,
        endpoint: Option<Endpoint>,
        random: &mut Random,
    ) {
        let now = self.now;
        if subscriber.session.is_none() {
            let asked = match (subscriber.wish, endpoint) {
                (None, _) => None,
                (Some(_), None) => return,
                (Some(wish), Some(endpoint)) => {
                    let asked = self.start_by_wish(subscriber, wish, endpoint);
                    subscriber.wish = None;
                    asked
                }
            };
            let (filter, start) = (subscriber.filter.clone(), subscriber.cursor.clone());
            let Some(session) = Session::begin(gateway, filter, start, now) else { return };
            let start = subscriber.cursor.clone().unwrap_or_else(|| session.cursor());
            let number = self.begin_session(subscriber, start, asked);
            subscriber.session = Some((session, number));
        }
        if random.chance(20) {
            return;
        }
        let Some((session, number)) = &mut subscriber.session else { return };
        let process = endpoint.and_then(|at| Some((at, self.process_at(at)?)));
        let most = random.between(1, 8) as usize;
        let told = session.step(gateway, process, now, most);
        self.history.ended.append(&mut session.ended);
        match told {
            Ok(told) => {
                if let Some(Told::Cursor(cursor)) = told.last() {
                    subscriber.cursor = Some(cursor.clone());
                }
                self.record_told(subscriber.number, *number, told);
            }
            Err(error) => {
                subscriber.session = None;
                if let Some(endpoint) = endpoint {
                    self.gateway_failed(endpoint, &error.to_string());
                }
            }
        }
    }

    /// Has the node say which cursor the wish comes to.
    fn start_by_wish(
        &mut self,
        subscriber: &mut Subscriber,
        wish: Wish,
        endpoint: Endpoint,
    ) -> Option<Asked> {
        let machine = self.machines.get(&endpoint.machine)?;
        let (process, wall) = (machine.process.as_ref()?, machine.wall(self.now));
        let (namespace, filter) = (subscriber.namespace, &subscriber.filter);
        let (start, asked) = match wish {
            Wish::Last(count) => {
                let asked = delivery::last_asked(process, namespace, count, filter).ok()?;
                (Start::Last(count), Asked::Last(asked))
            }
            Wish::Milliseconds(ago) => {
                let (at, records) = (wall.minus_milliseconds(ago), self.history.records.len());
                (Start::Since(at), Asked::Since { machine: endpoint.machine, at, records })
            }
        };
        match delivery::resolve(process, namespace, start, filter) {
            Ok(cursor) => {
                subscriber.cursor = Some(cursor);
                self.statistics.wished_starts += 1;
                Some(asked)
            }
            Err(error) => {
                self.gateway_failed(endpoint, &error.to_string());
                None
            }
        }
    }

    fn begin_session(
        &mut self,
        subscriber: &Subscriber,
        start: Cursor,
        asked: Option<Asked>,
    ) -> SessionNumber {
        let Subscriber { number, node, namespace, .. } = subscriber;
        self.note(format_args!("u{number} subscribes to {namespace} at n{node}"));
        self.statistics.subscriptions += 1;
        self.history.begin_session(SessionRecord {
            subscriber: subscriber.number,
            node: subscriber.node,
            namespace: subscriber.namespace,
            filter: subscriber.filter.clone(),
            asked,
            start,
            told: Vec::new(),
            is_complete: false,
            is_at_the_end: false,
        })
    }

    fn record_told(&mut self, subscriber: u32, session: SessionNumber, told: Vec<Told>) {
        for item in &told {
            match item {
                Told::Message(name) => {
                    self.statistics.delivered += 1;
                    self.note(format_args!("u{subscriber} gets {name}"));
                }
                Told::Gap { log, from, through, .. } => {
                    self.statistics.gaps += 1;
                    self.note(format_args!("u{subscriber} is told a gap: {log} {from}..{through}"));
                }
                Told::Cursor(_) | Told::Kept => {}
            }
        }
        self.history.session_mut(session).told.extend(told);
    }

    /// Keeps its cursor, goes away, or comes back elsewhere.
    fn do_as_it_likes(
        &mut self,
        subscriber: &mut Subscriber,
        random: &mut Random,
    ) -> Option<KeptCursor> {
        let (_, session) = subscriber.session.as_ref()?;
        let cursor = subscriber.cursor.clone()?;
        let mut kept = None;
        if random.chance(3) {
            self.history.session_mut(*session).told.push(Told::Kept);
            self.statistics.kept_cursors += 1;
            subscriber.older.push(cursor.clone());
            kept = Some(KeptCursor {
                subscriber: subscriber.number,
                namespace: subscriber.namespace,
                filter: subscriber.filter.clone(),
                cursor,
            });
        }
        if random.chance(3) {
            let members = self.topology().members(subscriber.namespace);
            let node = random.choose(&members)?.number;
            match random.below(16) {
                0..7 => {}
                7 | 8 => {
                    if let Some(older) = random.choose(&subscriber.older) {
                        subscriber.cursor = Some(older.clone());
                    }
                }
                9 => subscriber.cursor = Some(Cursor::new(subscriber.namespace)),
                10..12 => subscriber.wish = Some(Wish::Last(random.between(1, 12) as usize)),
                12..14 => {
                    subscriber.wish = Some(Wish::Milliseconds(random.between(50, 9_000)));
                }
                _ => self.let_channel_stand_apart(subscriber, random),
            }
            subscriber.session = None;
            subscriber.node = node;
        }
        kept
    }

    /// One channel is read on from elsewhere than the rest: from the beginning, or from
    /// where the reader stood before.
    fn let_channel_stand_apart(&mut self, subscriber: &mut Subscriber, random: &mut Random) {
        let names = ["news", "prices/EUR", "live", "config"];
        let channel = ChannelName::parse(names[random.index(names.len())]).expect("a good name");
        let oldest = Cursor::new(subscriber.namespace);
        let at = random.choose(&subscriber.older).cloned().filter(|_| random.chance(60));
        let Some(cursor) = &mut subscriber.cursor else { return };
        let Some(machine) = self.machines_of(subscriber.node).next() else { return };
        let Some(process) = &machine.process else { return };
        let (at, rows) = (at.unwrap_or(oldest), process.rows());
        // Sometimes the rest goes on from there, and the channel from here.
        let is_ahead = random.chance(30);
        let (rest, apart) = if is_ahead { (&at, &*cursor) } else { (&*cursor, &at) };
        let mut started = rest.clone();
        // Past the limits it stays as it is.
        if started.start_channel(&channel, apart, rows).is_ok() {
            self.statistics.channels_apart += u64::from(started.has_overrides());
            *cursor = started;
        }
    }
}

/// In place of all while they are looked at.
fn nobody() -> Subscriptions {
    Subscriptions {
        random: Random::new(0),
        gateways: BTreeMap::new(),
        subscribers: Vec::new(),
        kept: Vec::new(),
        kept_of: 0,
    }
}
