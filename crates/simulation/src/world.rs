//! The world: machines, a network between them, clients, and what happens next.
//!
//! One queue holds all that is going to happen, in a total order; one source of
//! chance decides what is left open. So a seed is a run, and a run is a trace.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use interlock_core::clock::Moment;
use interlock_core::identity::{FencingToken, NamespaceNumber, NodeNumber, TopologyVersion};
use interlock_core::replication::frames::{ReceiverFrame, SenderFrame};
use interlock_core::topology::{Topology, edit};

use crate::clients::{Client, ClientOutput, Surroundings};
use crate::event::{Event, FaultEnd};
use crate::event_queue::EventQueue;
use crate::faults::FaultKind;
use crate::history::{ClientNumber, FinalState, History, Record};
use crate::machine::{Machine, StartError, Starter};
use crate::network::{Arrival, Cargo, Delivery, Direction, Endpoint, Network, ProcessNumber};
use crate::node::{Input, Output, ProcessConfig};
use crate::planted_bug::PlantedBug;
use crate::random::Random;
use crate::requests::{Reply, Request, RequestName};
use crate::scenario::{Restrictions, Scenario, Span};
use crate::statistics::Statistics;
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

pub(crate) struct ClientState {
    client: Client,
    wakes_at: Option<Moment>,
    last_request: Moment,
    last_reply: Moment,
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
    pub(crate) machines: BTreeMap<NodeNumber, Machine>,
    pub(crate) clients: BTreeMap<ClientNumber, ClientState>,
    pub(crate) topologies: BTreeMap<TopologyVersion, Arc<Topology>>,
    pub(crate) history: History,
    pub(crate) statistics: Statistics,
    pub(crate) phase: Phase,
    /// Frames and complaints before it had to be quiet.
    pub(crate) quiet_from: (u64, u64),
    pub(crate) final_state: FinalState,
    trace: Trace,
    processes: u64,
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
        let scenario = Scenario::draw(&mut random, restrictions);
        let topology = Arc::new(scenario.topology.clone());
        let machines =
            topology.nodes.iter().map(|node| (node.number, Machine::new(node.clone()))).collect();
        let client_state = |(kind, place): &(crate::clients::ClientKind, crate::clients::Place)| {
            let client = Client::new(*kind, place.clone());
            let (last_request, last_reply) = (Moment::START, Moment::START);
            (place.client, ClientState { client, wakes_at: None, last_request, last_reply })
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
            trace: Trace::new(listener),
            processes: 0,
            scenario,
        };
        world.history.records.push(Record::TopologyEdited(topology));
        world.begin();
        world
    }

    fn begin(&mut self) {
        let nodes: Vec<NodeNumber> = self.machines.keys().copied().collect();
        for node in nodes {
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

    pub(crate) fn machine(&mut self, node: NodeNumber) -> &mut Machine {
        self.machines.get_mut(&node).expect("every node has a machine")
    }

    fn happen(&mut self, event: Event) {
        if self.is_void(&event) {
            return;
        }
        if !matches!(event, Event::Deliver(_)) {
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
            Event::ConnectFailed(node, process, peer) => {
                self.dispatch(Endpoint { node, process }, Input::ConnectFailed(peer));
            }
            Event::Deliver(delivery) => self.deliver(delivery),
            Event::WriterRuns(node, process) => {
                self.dispatch(Endpoint { node, process }, Input::WriterRuns);
            }
            Event::SyncEnds(node, process) => {
                self.dispatch(Endpoint { node, process }, Input::SyncEnds);
            }
            Event::Timer(node, _) => {
                let machine = self.machine(node);
                machine.timer_at = None;
                let endpoint = machine.endpoint();
                self.dispatch(endpoint, Input::Timer);
            }
            Event::RequestArrives(node, request) | Event::StrayArrives(node, request) => {
                let endpoint = self.machine(node).endpoint();
                self.dispatch(endpoint, Input::Requested(*request));
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
            Event::RecordOpened(node, namespaces) => self.record_opened(node, &namespaces),
            Event::TopologyTold(node, topology) => {
                let endpoint = self.machine(node).endpoint();
                self.dispatch(endpoint, Input::Topology(topology));
            }
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
        let is_present = |node: &NodeNumber, process: &ProcessNumber| {
            let machine = &self.machines[node];
            machine.process.is_some() && machine.process_number == *process
        };
        match event {
            Event::Timer(node, at) => self.machines[node].timer_at != Some(*at),
            Event::ClientWakes(client, at) => self.clients[client].wakes_at != Some(*at),
            Event::WriterRuns(node, process)
            | Event::SyncEnds(node, process)
            | Event::ConnectFailed(node, process, _) => !is_present(node, process),
            Event::Start(node) => self.machines[node].process.is_some(),
            Event::Fault(_)
            | Event::StrayArrives(..)
            | Event::FlapsAgain(..)
            | Event::FaultEnds(_)
            | Event::DiskCopied(_) => self.phase != Phase::Faults,
            _ => false,
        }
    }

    // Processes.

    fn start(&mut self, node: NodeNumber) {
        self.processes += 1;
        let config = ProcessConfig {
            frame_messages: self.scenario.weather.frame_messages,
            early_sync_percent: self.scenario.weather.early_sync_percent,
            planted: self.planted,
        };
        let dies_percent = if self.phase == Phase::Faults { 6 } else { 0 };
        let starter = Starter {
            random: &mut self.random,
            now: self.now,
            process: ProcessNumber::new(self.processes),
            topologies: &self.topologies,
            config,
            dies_percent,
        };
        let machine = self.machines.get_mut(&node).expect("every node has a machine");
        match machine.start(starter) {
            Ok(recovery) => {
                let process = machine.process.as_mut().expect("it has just started");
                let incarnation = process.admission().opening().incarnation;
                let outputs = process.first_outputs();
                let logs = recovery.logs.iter().map(|log| (log.row.log, log.mark)).collect();
                let process = machine.process_number;
                self.history.records.push(Record::Opened { node, process, incarnation, logs });
                self.note(format_args!("n{node} is {process} @{incarnation}"));
                self.statistics.openings += 1;
                self.statistics.cut_logs += recovery.cut.len() as u64;
                self.carry_out(node, outputs);
                self.schedule_timer(node);
            }
            Err(StartError::Storage(_) | StartError::Opening(_)) if machine.disk_may_fail => {
                machine.disk_may_fail = false;
                machine.crash(&mut self.random);
                self.after(Duration::from_millis(100), Event::Start(node));
            }
            Err(StartError::Died) => {
                self.statistics.deaths_while_opening += 1;
                let after = self.random.duration(Duration::from_millis(10), Duration::from_secs(1));
                self.after(after, Event::Start(node));
            }
            Err(StartError::Storage(error)) => {
                self.history.incident(Some(node), format!("the disk cannot be opened: {error}"));
            }
            Err(StartError::Opening(error)) => {
                self.history.incident(Some(node), format!("the opening failed: {error}"));
            }
        }
    }

    /// Gives a process an input, if it is still that process, and carries out
    /// what comes of it.
    pub(crate) fn dispatch(&mut self, to: Endpoint, input: Input) {
        let now = self.now;
        let machine = self.machines.get_mut(&to.node).expect("every node has a machine");
        if machine.process_number != to.process {
            return;
        }
        let (local, wall) = (machine.local(now), machine.wall(now));
        let Some(process) = &mut machine.process else { return };
        match process.handle(local, wall, &mut self.random, input) {
            Ok(outputs) => {
                self.carry_out(to.node, outputs);
                self.schedule_timer(to.node);
                self.spring_ambush(to.node);
            }
            Err(error) => {
                if !std::mem::take(&mut machine.disk_may_fail) {
                    self.history.incident(Some(to.node), format!("the storage failed: {error}"));
                }
                self.crash(to.node, None);
                let after = self.random.duration(Duration::from_millis(50), Duration::from_secs(2));
                self.after(after, Event::Start(to.node));
            }
        }
    }

    fn schedule_timer(&mut self, node: NodeNumber) {
        let now = self.now;
        let machine = self.machine(node);
        let Some(process) = &machine.process else { return };
        let at = (machine.started_at + process.timer().since_start()).max(now);
        if machine.timer_at != Some(at) {
            machine.timer_at = Some(at);
            self.queue.push(at, Event::Timer(node, at));
        }
    }

    fn carry_out(&mut self, node: NodeNumber, outputs: Vec<Output>) {
        let me = self.machine(node).endpoint();
        for output in outputs {
            match output {
                Output::Connect(peer) => self.connect(me, peer),
                Output::Transmit(stream, cargo) => self.transmit(me, stream, cargo),
                Output::Close(stream) => {
                    self.transmit(me, stream, Cargo::End);
                    self.network.close(stream, me);
                }
                Output::Reply(reply) => self.reply(reply),
                Output::WakeWriter => {
                    let delay = self.within(self.scenario.weather.wake_delay);
                    self.after(delay, Event::WriterRuns(node, me.process));
                }
                Output::SyncBegan => {
                    let factor = self.machine(node).sync_factor;
                    let delay = self.within(self.scenario.weather.sync_time) * factor;
                    self.after(delay, Event::SyncEnds(node, me.process));
                }
                Output::RecordOpened(namespaces) => {
                    if self.machine(node).hears_control_plane {
                        let delay =
                            self.within((Duration::from_millis(1), Duration::from_millis(50)));
                        self.after(delay, Event::RecordOpened(node, namespaces));
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
                Output::Incident(what) => {
                    self.note(format_args!("n{node} INCIDENT {what}"));
                    self.history.incident(Some(node), what);
                }
            }
        }
    }

    // The network.

    fn delay(&mut self, from: NodeNumber, to: NodeNumber) -> Duration {
        let is_near = self.machines[&from].node.region == self.machines[&to].node.region;
        let weather = &self.scenario.weather;
        let span = if is_near { weather.near_delay } else { weather.far_delay };
        let extra = self.extra_delays.get(&(from, to)).copied().unwrap_or_default();
        self.within(span) + extra
    }

    fn connect(&mut self, me: Endpoint, peer: NodeNumber) {
        let there = self.delay(me.node, peer);
        let back = self.delay(peer, me.node);
        let is_open = self.network.is_open(me.node, peer) && self.network.is_open(peer, me.node);
        let callee = self.machine(peer);
        let callee = callee.process.is_some().then(|| callee.endpoint());
        if let Some(callee) = callee.filter(|_| is_open) {
            let stream = self.network.open(me, callee);
            self.after(there, Event::Accepted(stream));
            self.after(there + back, Event::Opened(stream, me, peer));
            return;
        }
        let patience = Duration::from_secs(1);
        let delay = if is_open { there + back } else { self.within((patience, 3 * patience)) };
        self.after(delay, Event::ConnectFailed(me.node, me.process, peer));
    }

    pub(crate) fn transmit(
        &mut self,
        me: Endpoint,
        stream: crate::network::StreamNumber,
        cargo: Cargo,
    ) {
        let Some((caller, callee)) = self.network.ends(stream) else { return };
        let (direction, to) = if caller == me {
            (Direction::ToCallee, callee.node)
        } else {
            (Direction::ToCaller, caller.node)
        };
        match &cargo {
            Cargo::Sender(SenderFrame::Frame(frame)) => {
                self.statistics.frames += 1;
                self.statistics.messages_sent += frame.sends.len() as u64;
            }
            Cargo::Receiver(ReceiverFrame::Nack(_)) => self.statistics.nacks += 1,
            _ => {}
        }
        let delay = self.delay(me.node, to);
        let delivery = Delivery { stream, direction };
        if let Some(at) = self.network.send(self.now, delivery, cargo, delay) {
            self.queue.push(at, Event::Deliver(delivery));
        }
    }

    fn deliver(&mut self, delivery: Delivery) {
        match self.network.deliver(delivery) {
            Arrival::For(to, cargo) => {
                self.note(format_args!("n{} <- {} {cargo}", to.node, delivery.stream));
                if matches!(cargo, Cargo::End) {
                    self.network.close(delivery.stream, to);
                }
                self.dispatch(to, Input::Arrived(delivery.stream, cargo));
            }
            Arrival::Reset => {
                let Some((caller, callee)) = self.network.ends(delivery.stream) else { return };
                let gone = match delivery.direction {
                    Direction::ToCallee => callee,
                    Direction::ToCaller => caller,
                };
                // A machine without power answers nothing.
                if self.machines[&gone.node].process.is_some() {
                    self.transmit(gone, delivery.stream, Cargo::End);
                }
            }
            Arrival::Nothing => {}
        }
    }

    // Clients.

    pub(crate) fn wake_client(&mut self, client: ClientNumber, delay: Duration) {
        let at = self.now + delay;
        let state = self.clients.get_mut(&client).expect("clients stay");
        if state.wakes_at.is_none_or(|before| at < before) {
            state.wakes_at = Some(at);
            self.queue.push(at, Event::ClientWakes(client, at));
        }
    }

    fn with_client(
        &mut self,
        number: ClientNumber,
        act: impl FnOnce(&mut Client, &mut Surroundings<'_>),
    ) {
        let state = self.clients.get_mut(&number).expect("clients stay");
        let mut around = Surroundings {
            random: &mut self.random,
            history: &mut self.history,
            may_begin: self.phase == Phase::Faults,
            outputs: Vec::new(),
        };
        act(&mut state.client, &mut around);
        let outputs = around.outputs;
        let node = state.client.place().node;
        for output in outputs {
            match output {
                ClientOutput::Send(request, timeout) => {
                    self.after(timeout, Event::RequestTimesOut(request.name));
                    self.send_request(node, request, timeout);
                }
                ClientOutput::WakeAfter(delay) => self.wake_client(number, delay),
            }
        }
    }

    fn send_request(&mut self, node: NodeNumber, request: Request, timeout: Duration) {
        let weather = self.scenario.weather;
        let is_rough = self.phase == Phase::Faults;
        let mut delay = self.within(weather.client_delay);
        if is_rough && self.random.chance(weather.lost_request_percent) {
            self.statistics.lost_requests += 1;
            return;
        }
        if is_rough && self.random.chance(weather.stray_request_percent) {
            // It comes when its client has long gone on without it.
            self.statistics.stray_requests += 1;
            delay += self.within((timeout, 2 * timeout));
            return self.after(delay, Event::StrayArrives(node, Box::new(request)));
        }
        let at = self.now + delay;
        let state = self.clients.get_mut(&request.name.client).expect("clients stay");
        state.last_request = state.last_request.max(at);
        let at = state.last_request;
        self.queue.push(at, Event::RequestArrives(node, Box::new(request)));
    }

    fn reply(&mut self, reply: Reply) {
        let weather = self.scenario.weather;
        if self.phase == Phase::Faults && self.random.chance(weather.lost_reply_percent) {
            self.statistics.lost_replies += 1;
            return;
        }
        let at = self.now + self.within(weather.client_delay);
        let RequestName { client, .. } = reply.to;
        let state = self.clients.get_mut(&client).expect("clients stay");
        state.last_reply = state.last_reply.max(at);
        let at = state.last_reply;
        self.queue.push(at, Event::ReplyArrives(Box::new(reply)));
    }

    /// The clients that still wait for something.
    pub(crate) fn busy_clients(&self) -> Vec<ClientNumber> {
        self.clients
            .iter()
            .filter(|(_, state)| !state.client.is_idle())
            .map(|(number, _)| *number)
            .collect()
    }

    // The control-plane.

    fn record_opened(&mut self, node: NodeNumber, namespaces: &[NamespaceNumber]) {
        let token = FencingToken::new(1);
        match edit::record_opened(self.topology(), node, token, namespaces) {
            Ok(topology) => self.edit_topology(topology),
            Err(error) => {
                self.history.incident(Some(node), format!("cannot record an opening: {error}"));
            }
        }
    }

    /// A newer document, which nodes hear of sooner or later. The same again is
    /// told to whoever asked.
    pub(crate) fn edit_topology(&mut self, topology: Topology) {
        let topology = Arc::new(topology);
        if topology.version > self.topology().version {
            self.history.records.push(Record::TopologyEdited(Arc::clone(&topology)));
            self.topologies.insert(topology.version, topology);
        }
        self.tell_topology();
    }

    pub(crate) fn tell_topology(&mut self) {
        let topology = Arc::clone(self.topology());
        let nodes: Vec<NodeNumber> = self.machines.keys().copied().collect();
        for node in nodes {
            if self.machine(node).hears_control_plane {
                let late = self.random.chance(20);
                let longest = Duration::from_millis(if late { 4_000 } else { 50 });
                let delay = self.within((Duration::from_millis(1), longest));
                self.after(delay, Event::TopologyTold(node, Arc::clone(&topology)));
            }
        }
    }

    pub(crate) fn end_fault(&mut self, end: FaultEnd) {
        match end {
            FaultEnd::Unblocked(directions) => {
                for (from, to) in directions {
                    let due = self.network.unblock(from, to);
                    self.deliver_late(due);
                }
            }
            FaultEnd::Undelayed(one, other) => {
                self.extra_delays.remove(&(one, other));
                self.extra_delays.remove(&(other, one));
            }
            FaultEnd::SyncRestored(node) => self.machine(node).sync_factor = 1,
            FaultEnd::ControlPlaneBack(node) => {
                self.machine(node).hears_control_plane = true;
                let topology = Arc::clone(self.topology());
                self.after(Duration::from_millis(5), Event::TopologyTold(node, topology));
            }
        }
    }

    pub(crate) fn deliver_late(&mut self, due: Vec<Delivery>) {
        for delivery in due {
            // The other end's retransmissions find the way open after a while.
            let delay = self.within((Duration::from_millis(5), Duration::from_millis(200)));
            self.after(delay, Event::Deliver(delivery));
        }
    }
}
