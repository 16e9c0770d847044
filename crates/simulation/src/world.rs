//! The world: machines, a network between them, clients, and what happens next.
//!
//! One queue holds all that is going to happen, in a total order; one source of
//! chance decides what is left open. So a seed is a run, and a run is a trace.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use interlock_core::clock::Moment;
use interlock_core::identity::{NodeNumber, TopologyVersion};
use interlock_core::topology::Topology;

use crate::client_traffic::ClientState;
use crate::clients::Client;
use crate::event::Event;
use crate::event_queue::EventQueue;
use crate::faults::FaultKind;
use crate::history::{ClientNumber, FinalState, History, Record};
use crate::machine::{Machine, MachineName};
use crate::network::{Endpoint, Network};
use crate::node::Input;
use crate::planted_bug::PlantedBug;
use crate::random::Random;
use crate::requests::Reply;
use crate::scenario::{Restrictions, Scenario, Span};
use crate::snapshots::ResumedOpening;
use crate::statistics::Statistics;
use crate::subscriptions::Subscriptions;
use crate::trace::{Listener, Trace};

/// More events than any honest run has: a storm, or a clock that stands still.
const MAX_EVENTS: u64 = 3_000_000;

/// How far a run has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Phase {
    /// Things go wrong.
    Faults,
    /// Nothing goes wrong any more, and all has to come right.
    Healing,
    /// All is well, and has to stay so.
    Quiet,
    /// The end.
    Over,
}

/// See the module's page.
pub struct World {
    pub(crate) scenario: Scenario,
    pub(crate) planted: Option<PlantedBug>,
    pub(crate) random: Random,
    pub(crate) now: Moment,
    pub(crate) queue: EventQueue<Event>,
    pub(crate) network: Network,
    /// What is added to the delay between two nodes.
    pub(crate) extra_delays: BTreeMap<(NodeNumber, NodeNumber), Duration>,
    pub(crate) machines: BTreeMap<MachineName, Machine>,
    pub(crate) clients: BTreeMap<ClientNumber, ClientState>,
    pub(crate) topologies: BTreeMap<TopologyVersion, Arc<Topology>>,
    pub(crate) history: History,
    pub(crate) statistics: Statistics,
    pub(crate) phase: Phase,
    /// Frames and complaints before it had to be quiet.
    pub(crate) quiet_from: (u64, u64),
    pub(crate) final_state: FinalState,
    pub(crate) subscriptions: Subscriptions,
    trace: Trace,
    pub(crate) processes: u64,
    /// Openings that were resumed from a snapshot, with what they held then.
    pub(crate) resumed: Vec<ResumedOpening>,
    /// Machines that second processes were started on.
    pub(crate) second_processes: u32,
    /// Nodes that were removed without having left.
    pub(crate) removed_by_force: BTreeSet<NodeNumber>,
}

/// What a run leaves behind.
pub(crate) struct Remains {
    pub(crate) history: History,
    pub(crate) final_state: FinalState,
    pub(crate) statistics: Statistics,
    pub(crate) trace: Trace,
}

impl World {
    /// A world before anything has happened.
    pub fn new(
        seed: u64,
        restrictions: &Restrictions,
        planted: Option<PlantedBug>,
        listener: Option<Listener>,
    ) -> Self {
        let mut random = Random::new(seed);
        let mut restrictions = restrictions.clone();
        restrictions.large.get_or_insert(Random::new(seed.rotate_left(48)).chance(20));
        let restrictions = &restrictions;
        let mut scenario = Scenario::draw(&mut random, restrictions);
        if restrictions.moving_publishers.unwrap_or_else(|| Random::new(!seed).chance(50)) {
            scenario.let_publishers_move();
        }
        scenario.perhaps_resume_snapshots(&mut Random::new(seed.rotate_left(32)), restrictions);
        scenario.perhaps_let_members_leave(&mut Random::new(seed.rotate_left(24)), restrictions);
        if restrictions.trimming.unwrap_or_else(|| Random::new(seed.rotate_left(16)).chance(60)) {
            scenario.let_logs_be_trimmed(&mut Random::new(!seed.rotate_left(16)));
        }
        let topology = Arc::new(scenario.topology.clone());
        let machines = topology.nodes.iter().map(|node| Machine::new(0, node.clone()));
        let machines = machines.map(|machine| (machine.name, machine)).collect();
        let client_state = |(kind, place): &(crate::clients::ClientKind, crate::clients::Place)| {
            let client = Client::new(*kind, place.clone());
            let (last_request, last_reply) = (Moment::START, Moment::START);
            (
                place.client,
                ClientState { client, wakes_at: None, last_request, last_reply, connection: None },
            )
        };
        let clients = scenario.clients.iter().map(client_state).collect();
        let mut world = Self {
            planted,
            random,
            now: Moment::START,
            queue: EventQueue::new(),
            network: Network::new(),
            extra_delays: BTreeMap::new(),
            machines,
            clients,
            topologies: [(topology.version, Arc::clone(&topology))].into(),
            history: History::new(),
            statistics: Statistics::default(),
            phase: Phase::Faults,
            quiet_from: (0, 0),
            final_state: FinalState::default(),
            subscriptions: Subscriptions::draw(seed, &scenario),
            trace: Trace::new(listener),
            processes: 0,
            resumed: Vec::new(),
            second_processes: 0,
            removed_by_force: BTreeSet::new(),
            scenario,
        };
        world.history.records.push(Record::TopologyEdited(topology));
        world.begin();
        world
    }

    fn begin(&mut self) {
        for node in self.machine_names() {
            let after = self.random.duration(Duration::ZERO, Duration::from_millis(500));
            self.after(after, Event::Start(node));
            let after = self.random.duration(Duration::from_secs(2), Duration::from_secs(8));
            self.after(after, Event::DiskCopied(node));
        }
        let clients: Vec<ClientNumber> = self.clients.keys().copied().collect();
        for client in clients {
            let after = self.random.duration(Duration::ZERO, Duration::from_secs(2));
            self.wake_client(client, after);
        }
        let faults: Vec<FaultKind> = self.scenario.faults.keys().copied().collect();
        faults.into_iter().for_each(|kind| self.schedule_fault(kind));
        self.begin_subscriptions();
        self.queue.push(self.scenario.heal_at(), Event::Heal);
    }

    /// Runs to the end.
    pub(crate) fn run(mut self) -> Remains {
        while self.phase != Phase::Over {
            let Some((at, event)) = self.queue.pop() else { break };
            self.now = at;
            self.happen(event);
            if self.trace.lines() > MAX_EVENTS {
                self.history.incident(None, format!("more than {MAX_EVENTS} events"));
                break;
            }
        }
        self.statistics.events = self.trace.lines();
        self.statistics.virtual_time = self.now.since_start();
        let Self { history, final_state, statistics, trace, .. } = self;
        Remains { history, final_state, statistics, trace }
    }

    /// The newest topology.
    pub(crate) fn topology(&self) -> &Arc<Topology> {
        self.topologies.values().next_back().expect("there is a first topology")
    }

    pub(crate) fn note(&mut self, what: impl std::fmt::Display) {
        self.trace.note(self.now, what);
    }

    pub(crate) fn after(&mut self, delay: Duration, event: Event) {
        self.queue.push(self.now + delay, event);
    }

    pub(crate) fn within(&mut self, (low, high): Span) -> Duration {
        self.random.duration(low, high)
    }

    /// A machine that is there.
    pub(crate) fn machine(&mut self, name: MachineName) -> &mut Machine {
        self.machines.get_mut(&name).expect("the machine is there")
    }

    /// Whether a process is there, and no later one in its place.
    pub(crate) fn is_running(&self, endpoint: Endpoint) -> bool {
        self.machines.get(&endpoint.machine).is_some_and(|machine| {
            machine.process.is_some() && machine.process_number == endpoint.process
        })
    }

    pub(crate) fn machine_names(&self) -> Vec<MachineName> {
        self.machines.keys().copied().collect()
    }

    /// The machines that a node has: more than one, where a second process was
    /// started under its name.
    pub(crate) fn machines_of(&self, node: NodeNumber) -> impl Iterator<Item = &Machine> {
        let (first, last) = (MachineName::first_of(node), MachineName { node, number: u32::MAX });
        self.machines.range(first..=last).map(|(_, machine)| machine)
    }

    fn happen(&mut self, event: Event) {
        if self.is_void(&event) {
            return;
        }
        if !matches!(event, Event::Deliver(_) | Event::GatewayRuns(_)) {
            self.note(&event);
        }
        match event {
            Event::Start(node) => self.start(node),
            Event::Accepted(stream) => {
                if let Some((_, callee)) = self.network.ends(stream) {
                    self.dispatch(callee, Input::Accepted(stream));
                }
            }
            Event::Opened(stream, caller, peer) => {
                let is_open = self.network.is_open_at(stream, caller);
                let input =
                    if is_open { Input::Opened(stream, peer) } else { Input::ConnectFailed(peer) };
                self.dispatch(caller, input);
            }
            Event::ConnectFailed(me, peer) => self.dispatch(me, Input::ConnectFailed(peer)),
            Event::Deliver(delivery) => self.deliver(delivery),
            Event::WriterRuns(me) => self.dispatch(me, Input::WriterRuns),
            Event::SyncEnds(me) => self.dispatch(me, Input::SyncEnds),
            Event::Timer(node, _) => {
                let machine = self.machine(node);
                machine.timer_at = None;
                let endpoint = machine.endpoint();
                self.dispatch(endpoint, Input::Timer);
            }
            Event::RequestArrives(node, request) | Event::StrayArrives(node, request) => {
                self.request_arrives(node, *request);
            }
            Event::ReplyArrives(reply) => {
                let Reply { to, body } = *reply;
                self.with_client(to.client, |client, around| {
                    client.answered(to.number, body, around);
                });
            }
            Event::RequestTimesOut(name) => self.with_client(name.client, |client, around| {
                client.timed_out(name.number, around);
            }),
            Event::ClientWakes(client, _) => {
                if let Some(state) = self.clients.get_mut(&client) {
                    state.wakes_at = None;
                }
                self.with_client(client, Client::wake);
            }
            Event::RecordOpened(machine, token, namespaces) => {
                self.record_opened(machine.node, token, &namespaces);
            }
            Event::RecordLeft(machine, token, namespaces, by) => {
                self.record_left(machine.node, token, &namespaces, by);
            }
            Event::Registers(endpoint) => self.register_late(endpoint),
            Event::SnapshotResumed(endpoint) => self.resume_snapshot(endpoint),
            Event::SupersededLooked(endpoint) => self.look_at_superseded(endpoint),
            Event::TopologyTold(node, topology) => {
                let endpoint = self.machine(node).endpoint();
                self.dispatch(endpoint, Input::Topology(topology));
            }
            Event::GatewayRuns(node) => self.run_gateway(node),
            Event::DiskCopied(node) => {
                self.machine(node).save_copy();
                let after = self.random.duration(Duration::from_secs(2), Duration::from_secs(8));
                self.after(after, Event::DiskCopied(node));
            }
            Event::Fault(kind) => self.fault(kind),
            Event::FlapsAgain(one, other, times) => self.flap_again(one, other, times),
            Event::FaultEnds(end) => self.end_fault(end),
            Event::Heal => self.heal(),
            Event::Look => self.look(),
            Event::QuietBegins => self.begin_quiet(),
            Event::QuietEnds => self.end_quiet(),
            Event::ReadersLooked => self.end_when_all_have_read(),
            Event::CarriersLooked => {
                self.look_at_carriers();
                self.finish();
            }
        }
    }

    /// Events that were overtaken by others.
    fn is_void(&self, event: &Event) -> bool {
        let is_gone = |name: &MachineName| !self.machines.contains_key(name);
        match event {
            Event::Timer(name, at) => {
                self.machines.get(name).is_none_or(|machine| machine.timer_at != Some(*at))
            }
            Event::ClientWakes(client, at) => self.clients[client].wakes_at != Some(*at),
            Event::WriterRuns(endpoint)
            | Event::SyncEnds(endpoint)
            | Event::ConnectFailed(endpoint, _)
            | Event::Registers(endpoint)
            | Event::SupersededLooked(endpoint) => !self.is_running(*endpoint),
            Event::SnapshotResumed(endpoint) => {
                self.phase != Phase::Faults || !self.is_running(*endpoint)
            }
            Event::Start(name) => {
                self.machines.get(name).is_none_or(|machine| machine.process.is_some())
            }
            Event::TopologyTold(name, _) => is_gone(name),
            Event::DiskCopied(name) => is_gone(name) || self.phase != Phase::Faults,
            Event::Fault(_)
            | Event::StrayArrives(..)
            | Event::FlapsAgain(..)
            | Event::FaultEnds(_) => self.phase != Phase::Faults,
            _ => false,
        }
    }
}
