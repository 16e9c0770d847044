//! How requests of clients reach their nodes, late or never, and how answers come
//! back.

use std::time::Duration;

use interlock_core::clock::Moment;
use interlock_core::identity::NodeNumber;

use crate::clients::{Client, ClientOutput, Surroundings};
use crate::event::Event;
use crate::history::ClientNumber;
use crate::network::Endpoint;
use crate::node::Input;
use crate::requests::{Reply, Request, RequestName};
use crate::world::{Phase, World};

/// A client, and what is under way between it and its node.
pub(crate) struct ClientState {
    pub(crate) client: Client,
    pub(crate) wakes_at: Option<Moment>,
    pub(crate) last_request: Moment,
    pub(crate) last_reply: Moment,
    /// The process that its connection leads to.
    pub(crate) connection: Option<Endpoint>,
}

impl World {
    pub(crate) fn wake_client(&mut self, client: ClientNumber, delay: Duration) {
        let at = self.now + delay;
        let state = self.clients.get_mut(&client).expect("clients stay");
        if state.wakes_at.is_none_or(|before| at < before) {
            state.wakes_at = Some(at);
            self.queue.push(at, Event::ClientWakes(client, at));
        }
    }

    pub(crate) fn with_client(
        &mut self,
        number: ClientNumber,
        act: impl FnOnce(&mut Client, &mut Surroundings<'_>),
    ) {
        let state = self.clients.get_mut(&number).expect("clients stay");
        let mut around = Surroundings {
            random: &mut self.random,
            planted: self.planted,
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

    /// A request goes to the process that its client is connected to, and to any
    /// of the node's once that is gone.
    pub(crate) fn request_arrives(&mut self, node: NodeNumber, request: Request) {
        let has_choice = self.machines_of(node).nth(1).is_some();
        let changes = has_choice && self.random.chance(15);
        let connection = self.clients[&request.name.client].connection;
        let connection = connection.filter(|endpoint| endpoint.node() == node);
        let kept = connection.filter(|endpoint| !changes && self.is_running(*endpoint));
        let connection = kept.or_else(|| self.any_process_of(node));
        let state = self.clients.get_mut(&request.name.client).expect("clients stay");
        state.connection = connection;
        if let Some(connection) = connection {
            self.dispatch(connection, Input::Requested(request));
        }
    }

    pub(crate) fn reply(&mut self, reply: Reply) {
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
}
