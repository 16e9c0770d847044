//! How streams are opened, and how what processes send on them arrives.

use std::time::Duration;

use interlock_core::identity::NodeNumber;
use interlock_core::names::RegionName;
use interlock_core::replication::frames::{ReceiverFrame, SenderFrame};

use crate::event::Event;
use crate::machine::Machine;
use crate::network::{Arrival, Cargo, Delivery, Direction, Endpoint, StreamNumber};
use crate::node::Input;
use crate::world::World;

impl World {
    fn delay(&mut self, from: NodeNumber, to: NodeNumber) -> Duration {
        let is_near = self.region(from) == self.region(to);
        let weather = &self.scenario.weather;
        let span = if is_near { weather.near_delay } else { weather.far_delay };
        let extra = self.extra_delays.get(&(from, to)).copied().unwrap_or_default();
        self.within(span) + extra
    }

    fn region(&self, node: NodeNumber) -> &RegionName {
        &self.scenario.topology.node(node).expect("nodes stay").region
    }

    /// A running process of a node: any, where a second one was started.
    pub(crate) fn any_process_of(&mut self, node: NodeNumber) -> Option<Endpoint> {
        let running = self.machines_of(node).filter(|machine| machine.process.is_some());
        let running: Vec<Endpoint> = running.map(Machine::endpoint).collect();
        match running.as_slice() {
            [] => None,
            [only] => Some(*only),
            several => Some(several[self.random.index(several.len())]),
        }
    }

    pub(crate) fn connect(&mut self, me: Endpoint, peer: NodeNumber) {
        let there = self.delay(me.node(), peer);
        let back = self.delay(peer, me.node());
        let is_open =
            self.network.is_open(me.node(), peer) && self.network.is_open(peer, me.node());
        let callee = self.any_process_of(peer);
        if let Some(callee) = callee.filter(|_| is_open) {
            let stream = self.network.open(me, callee);
            self.after(there, Event::Accepted(stream));
            self.after(there + back, Event::Opened(stream, me, peer));
            return;
        }
        let patience = Duration::from_secs(1);
        let delay = if is_open { there + back } else { self.within((patience, 3 * patience)) };
        self.after(delay, Event::ConnectFailed(me, peer));
    }

    pub(crate) fn transmit(&mut self, me: Endpoint, stream: StreamNumber, cargo: Cargo) {
        let Some((caller, callee)) = self.network.ends(stream) else { return };
        let (direction, to) = if caller == me {
            (Direction::ToCallee, callee.node())
        } else {
            (Direction::ToCaller, caller.node())
        };
        match &cargo {
            Cargo::Sender(SenderFrame::Frame(frame)) => {
                self.statistics.frames += 1;
                self.statistics.messages_sent += frame.sends.len() as u64;
            }
            Cargo::Receiver(ReceiverFrame::Nack(_)) => self.statistics.nacks += 1,
            _ => {}
        }
        let delay = self.delay(me.node(), to);
        let delivery = Delivery { stream, direction };
        if let Some(at) = self.network.send(self.now, delivery, cargo, delay) {
            self.queue.push(at, Event::Deliver(delivery));
        }
    }

    pub(crate) fn deliver(&mut self, delivery: Delivery) {
        match self.network.deliver(delivery) {
            Arrival::For(to, cargo) => {
                self.note(format_args!("n{} <- {} {cargo}", to.machine, delivery.stream));
                if cargo.is_last() {
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
                if self.machines.get(&gone.machine).is_some_and(|it| it.process.is_some()) {
                    self.transmit(gone, delivery.stream, Cargo::End);
                }
            }
            Arrival::Nothing => {}
        }
    }
}
