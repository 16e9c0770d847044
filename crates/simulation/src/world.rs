//! The world: machines, a network between them, clients, and what happens next.
//!
//! One queue holds all that is going to happen, in a total order; one source of
//! chance decides what is left open. So a seed is a run, and a run is a trace.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use interlock_core::clock::Moment;
use interlock_core::identity::{FencingToken, MemberOpening, NodeNumber, TopologyVersion};
use interlock_core::topology::Topology;

use crate::client_traffic::ClientState;
use crate::clients::Client;
use crate::event::Event;
use crate::event_queue::EventQueue;
use crate::faults::FaultKind;
use crate::history::{ClientNumber, FinalState, History, Record};
use crate::machine::{Machine, MachineName, StartError, Starter};
use crate::network::{Cargo, Endpoint, Network, ProcessNumber};
use crate::node::{Input, Output, Process, ProcessConfig};
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
    processes: u64,
    /// Openings that were resumed from a snapshot, with what they held then.
    pub(crate) resumed: Vec<ResumedOpening>,
    /// Machines that second processes were started on.
    pub(crate) second_processes: u32,
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
        let mut scenario = Scenario::draw(&mut random, restrictions);
        if restrictions.moving_publishers.unwrap_or_else(|| Random::new(!seed).chance(50)) {
            scenario.let_publishers_move();
        }
        scenario.perhaps_resume_snapshots(&mut Random::new(seed.rotate_left(32)), restrictions);
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

    // Processes.

    fn start(&mut self, name: MachineName) {
        let token = self.register(name);
        self.start_as(name, token, None);
    }

    /// Starts a process, or goes on with one from a snapshot.
    pub(crate) fn start_as(
        &mut self,
        name: MachineName,
        token: FencingToken,
        resumed: Option<MemberOpening>,
    ) {
        self.processes += 1;
        let config = ProcessConfig {
            frame_messages: self.scenario.weather.frame_messages,
            early_sync_percent: self.scenario.weather.early_sync_percent,
            planted: self.planted,
        };
        let may_die = self.phase == Phase::Faults && resumed.is_none();
        let dies_percent = if may_die { 6 } else { 0 };
        let starter = Starter {
            random: &mut self.random,
            now: self.now,
            process: ProcessNumber::new(self.processes),
            token,
            topologies: &self.topologies,
            config,
            dies_percent,
            resumed,
        };
        let machine = self.machines.get_mut(&name).expect("the machine is there");
        match machine.start(starter) {
            Ok(recovery) => {
                let process = machine.process.as_mut().expect("it has just started");
                let incarnation = process.admission().opening().incarnation;
                let outputs = process.first_outputs();
                let logs = recovery.logs.iter().map(|log| (log.row.log, log.mark)).collect();
                let process = machine.process_number;
                self.history.records.push(Record::Opened {
                    machine: name,
                    process,
                    incarnation,
                    token,
                    logs,
                });
                self.note(format_args!("n{name} is {process} @{incarnation}, token {token}"));
                self.statistics.openings += 1;
                self.statistics.cut_logs += recovery.cut.len() as u64;
                self.carry_out(name, outputs);
                self.schedule_timer(name);
            }
            Err(StartError::Storage(_) | StartError::Opening(_)) if machine.disk_may_fail => {
                machine.disk_may_fail = false;
                machine.crash(&mut self.random);
                self.after(Duration::from_millis(100), Event::Start(name));
            }
            Err(StartError::Died) => {
                self.statistics.deaths_while_opening += 1;
                let after = self.random.duration(Duration::from_millis(10), Duration::from_secs(1));
                self.after(after, Event::Start(name));
            }
            Err(StartError::Storage(error)) => {
                self.history
                    .incident(Some(name.node), format!("the disk cannot be opened: {error}"));
            }
            Err(StartError::Opening(error)) => {
                self.history.incident(Some(name.node), format!("the opening failed: {error}"));
            }
        }
    }

    /// Gives a process an input, if it is still that process, and carries out
    /// what comes of it.
    pub(crate) fn dispatch(&mut self, to: Endpoint, input: Input) {
        let now = self.now;
        let Some(machine) = self.machines.get_mut(&to.machine) else { return };
        if machine.process_number != to.process {
            return;
        }
        let (local, wall) = (machine.local(now), machine.wall(now));
        let Some(process) = &mut machine.process else { return };
        match process.handle(local, wall, &mut self.random, input) {
            Ok(outputs) => {
                self.carry_out(to.machine, outputs);
                self.schedule_timer(to.machine);
                self.notice_superseded(to);
                self.spring_ambush(to.machine);
            }
            Err(error) => {
                // What was written before may be on the disk.
                for output in process.first_outputs() {
                    if let Output::Record(record @ Record::Appended { .. }) = output {
                        self.history.records.push(record);
                    }
                }
                if !std::mem::take(&mut machine.disk_may_fail) {
                    self.history.incident(Some(to.node()), format!("the storage failed: {error}"));
                }
                self.crash(to.machine, None);
                let after = self.random.duration(Duration::from_millis(50), Duration::from_secs(2));
                self.after(after, Event::Start(to.machine));
            }
        }
    }

    fn schedule_timer(&mut self, node: MachineName) {
        let now = self.now;
        let machine = self.machine(node);
        let Some(process) = &machine.process else { return };
        let at = (machine.started_at + process.timer().since_start()).max(now);
        if machine.timer_at != Some(at) {
            machine.timer_at = Some(at);
            self.queue.push(at, Event::Timer(node, at));
        }
    }

    fn carry_out(&mut self, node: MachineName, outputs: Vec<Output>) {
        let me = self.machine(node).endpoint();
        for output in outputs {
            match output {
                Output::Connect(peer) => self.connect(me, peer),
                Output::Transmit(stream, cargo) => self.transmit(me, stream, cargo),
                Output::Close(stream) => {
                    self.transmit(me, stream, Cargo::End);
                    self.network.close(stream, me);
                }
                Output::TakeOver(stream) => {
                    self.transmit(me, stream, Cargo::TakenOver);
                    self.network.close(stream, me);
                }
                Output::Reply(reply) => self.reply(reply),
                Output::WakeWriter => {
                    let delay = self.within(self.scenario.weather.wake_delay);
                    self.after(delay, Event::WriterRuns(me));
                }
                Output::SyncBegan => {
                    let factor = self.machine(node).sync_factor;
                    let delay = self.within(self.scenario.weather.sync_time) * factor;
                    self.after(delay, Event::SyncEnds(me));
                }
                Output::RecordOpened(namespaces) => {
                    if self.machine(node).hears_control_plane {
                        let delay =
                            self.within((Duration::from_millis(1), Duration::from_millis(50)));
                        let token = self.machines[&node].process.as_ref().map(Process::token);
                        let token = token.unwrap_or_default();
                        self.after(delay, Event::RecordOpened(node, token, namespaces));
                    }
                }
                Output::Record(record) => {
                    match &record {
                        Record::Durable { log, mark, .. } => {
                            self.machine(node).durable.insert(*log, *mark);
                        }
                        Record::Ready { namespace, .. } => {
                            self.note(format_args!("n{node} is ready in {namespace}"));
                        }
                        _ => {}
                    }
                    self.history.records.push(record);
                }
                Output::Conflict(log, what) => self.conflict_seen(node, log, &what),
                Output::EndAsResumed(log) => self.end_resumed(node, log),
                Output::Incident(what) => {
                    self.note(format_args!("n{node} INCIDENT {what}"));
                    self.history.incident(Some(node.node), what);
                }
            }
        }
    }
}
