//! The network between push-nodes: replication streams whose frames arrive in
//! order or, after a break, not at all; directions that are blocked for a while.
//!
//! A stream behaves as one of TCP does. What a blocked direction holds up comes
//! when it opens again, unless the stream has ended by then. An end that is gone
//! without a word is noticed by silence, or when something sent to it is
//! answered with a reset.

use std::collections::{BTreeMap, VecDeque};
use std::fmt;

use interlock_core::clock::Moment;
use interlock_core::identity::NodeNumber;
use interlock_core::replication::frames::{ReceiverFrame, SenderFrame};

use crate::display::{ReceiverFrameLine, SenderFrameLine};
use crate::machine::MachineName;

/// Names one stream; never reused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct StreamNumber(u64);

impl StreamNumber {
    pub(crate) const fn get(self) -> u64 {
        self.0
    }
}

impl fmt::Display for StreamNumber {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "s{}", self.0)
    }
}

/// Names one run of a node's process; never reused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct ProcessNumber(u64);

impl ProcessNumber {
    /// Wraps the raw number.
    pub const fn new(raw: u64) -> Self {
        Self(raw)
    }

    /// The raw number.
    pub const fn get(self) -> u64 {
        self.0
    }
}

impl fmt::Display for ProcessNumber {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "p{}", self.0)
    }
}

/// One end of a stream.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Endpoint {
    /// The machine.
    pub machine: MachineName,
    /// The run of its process that opened this end.
    pub process: ProcessNumber,
}

impl Endpoint {
    /// The node that it belongs to.
    pub const fn node(&self) -> NodeNumber {
        self.machine.node
    }
}

/// The two directions of a stream.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Direction {
    /// From the caller, who serves logs.
    ToCallee,
    /// From the callee, who takes them.
    ToCaller,
}

impl Direction {
    const BOTH: [Self; 2] = [Self::ToCallee, Self::ToCaller];

    const fn index(self) -> usize {
        self as usize
    }
}

/// What is under way on a stream.
#[derive(Clone, Debug)]
pub enum Cargo {
    /// A frame of the caller.
    Sender(SenderFrame),
    /// A frame of the callee.
    Receiver(ReceiverFrame),
    /// The other end has closed, or the network broke the stream.
    End,
    /// The callee has closed: a newer stream of the caller's name is there.
    TakenOver,
}

impl Cargo {
    /// Whether nothing follows it.
    pub const fn is_last(&self) -> bool {
        matches!(self, Self::End | Self::TakenOver)
    }
}

impl fmt::Display for Cargo {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Sender(frame) => write!(f, "{}", SenderFrameLine(frame)),
            Self::Receiver(frame) => write!(f, "{}", ReceiverFrameLine(frame)),
            Self::End => f.write_str("end"),
            Self::TakenOver => f.write_str("taken over"),
        }
    }
}

/// A delivery to be scheduled.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Delivery {
    /// The stream.
    pub stream: StreamNumber,
    /// The direction.
    pub direction: Direction,
}

#[derive(Debug, Default)]
struct Lane {
    queue: VecDeque<Cargo>,
    /// Nothing overtakes what was sent before.
    last_arrival: Moment,
    /// Deliveries that came while the direction was blocked.
    held_up: u32,
}

#[derive(Debug)]
struct Stream {
    ends: [Endpoint; 2],
    closed: [bool; 2],
    lanes: [Lane; 2],
}

impl Stream {
    /// Who sends in a direction, and who receives.
    const fn nodes(&self, direction: Direction) -> (NodeNumber, NodeNumber) {
        let [caller, callee] = &self.ends;
        match direction {
            Direction::ToCallee => (caller.node(), callee.node()),
            Direction::ToCaller => (callee.node(), caller.node()),
        }
    }

    const fn receiver(&self, direction: Direction) -> usize {
        match direction {
            Direction::ToCallee => 1,
            Direction::ToCaller => 0,
        }
    }
}

/// What a delivery brings.
#[derive(Debug)]
pub enum Arrival {
    /// Cargo for an end that is open.
    For(Endpoint, Cargo),
    /// The end is closed: the sender is reset.
    Reset,
    /// Nothing: it is held up, or was lost.
    Nothing,
}

/// All streams, and what is blocked. See the module's page.
#[derive(Debug, Default)]
pub struct Network {
    streams: BTreeMap<StreamNumber, Stream>,
    next_stream: u64,
    /// How many faults block a direction between two nodes.
    blocked: BTreeMap<(NodeNumber, NodeNumber), u32>,
}

impl Network {
    /// No streams, nothing blocked.
    pub fn new() -> Self {
        Self::default()
    }

    /// Whether what one node sends reaches the other.
    pub fn is_open(&self, from: NodeNumber, to: NodeNumber) -> bool {
        !self.blocked.contains_key(&(from, to))
    }

    /// Blocks a direction, once more if it is blocked already.
    pub fn block(&mut self, from: NodeNumber, to: NodeNumber) {
        *self.blocked.entry((from, to)).or_default() += 1;
    }

    /// Takes one block away. What was held up is to be delivered.
    pub fn unblock(&mut self, from: NodeNumber, to: NodeNumber) -> Vec<Delivery> {
        if let Some(count) = self.blocked.get_mut(&(from, to)) {
            *count -= 1;
            if *count > 0 {
                return Vec::new();
            }
            self.blocked.remove(&(from, to));
        }
        let mut due = Vec::new();
        for (stream, state) in &mut self.streams {
            for direction in Direction::BOTH {
                if state.nodes(direction) == (from, to) {
                    let held_up = std::mem::take(&mut state.lanes[direction.index()].held_up);
                    let delivery = Delivery { stream: *stream, direction };
                    due.extend(std::iter::repeat_n(delivery, held_up as usize));
                }
            }
        }
        due
    }

    /// Takes all blocks away.
    pub fn unblock_all(&mut self) -> Vec<Delivery> {
        let blocked: Vec<_> = std::mem::take(&mut self.blocked).into_keys().collect();
        blocked.into_iter().flat_map(|(from, to)| self.unblock(from, to)).collect()
    }

    /// A new stream between two running processes.
    pub fn open(&mut self, caller: Endpoint, callee: Endpoint) -> StreamNumber {
        self.next_stream += 1;
        let number = StreamNumber(self.next_stream);
        let stream =
            Stream { ends: [caller, callee], closed: [false; 2], lanes: Default::default() };
        self.streams.insert(number, stream);
        number
    }

    /// The caller and the callee of a stream.
    pub fn ends(&self, stream: StreamNumber) -> Option<(Endpoint, Endpoint)> {
        self.streams.get(&stream).map(|stream| (stream.ends[0], stream.ends[1]))
    }

    /// Whether a stream is there and this end of it has not been closed.
    pub fn is_open_at(&self, stream: StreamNumber, end: Endpoint) -> bool {
        self.streams.get(&stream).is_some_and(|stream| {
            stream.ends.iter().zip(stream.closed).any(|(other, closed)| *other == end && !closed)
        })
    }

    /// Puts cargo on a stream that takes `delay`; when it is to be delivered.
    pub fn send(
        &mut self,
        now: Moment,
        Delivery { stream, direction }: Delivery,
        cargo: Cargo,
        delay: std::time::Duration,
    ) -> Option<Moment> {
        let lane = &mut self.streams.get_mut(&stream)?.lanes[direction.index()];
        lane.last_arrival = lane.last_arrival.max(now + delay);
        lane.queue.push_back(cargo);
        Some(lane.last_arrival)
    }

    /// A delivery is due.
    pub fn deliver(&mut self, Delivery { stream, direction }: Delivery) -> Arrival {
        let Some(state) = self.streams.get_mut(&stream) else { return Arrival::Nothing };
        let (from, to) = state.nodes(direction);
        let is_blocked = self.blocked.contains_key(&(from, to));
        let receiver = state.receiver(direction);
        let lane = &mut state.lanes[direction.index()];
        if is_blocked {
            lane.held_up += u32::from(!lane.queue.is_empty());
            return Arrival::Nothing;
        }
        let Some(cargo) = lane.queue.pop_front() else { return Arrival::Nothing };
        let is_end = cargo.is_last();
        if state.closed[receiver] {
            return if is_end || state.closed[1 - receiver] {
                self.streams.remove(&stream);
                Arrival::Nothing
            } else {
                Arrival::Reset
            };
        }
        Arrival::For(state.ends[receiver], cargo)
    }

    /// An end is closed: nothing reaches it any more. The other end is told by
    /// sending it [`Cargo::End`], or finds out.
    pub fn close(&mut self, stream: StreamNumber, end: Endpoint) {
        let Some(state) = self.streams.get_mut(&stream) else { return };
        for (index, other) in state.ends.iter().enumerate() {
            if *other == end {
                state.closed[index] = true;
            }
        }
        if state.closed == [true; 2] {
            self.streams.remove(&stream);
        }
    }

    /// Loses all that is under way on a stream.
    pub fn lose_cargo(&mut self, stream: StreamNumber) {
        if let Some(state) = self.streams.get_mut(&stream) {
            state.lanes.iter_mut().for_each(|lane| lane.queue.clear());
        }
    }

    /// The open streams that have an end at a process, with the direction away
    /// from it.
    pub fn streams_of(&self, end: Endpoint) -> Vec<Delivery> {
        let away = |(stream, state): (&StreamNumber, &Stream)| {
            let direction = match state.ends.iter().position(|other| *other == end)? {
                0 => Direction::ToCallee,
                _ => Direction::ToCaller,
            };
            Some(Delivery { stream: *stream, direction })
        };
        self.streams.iter().filter_map(away).collect()
    }

    /// The streams between two nodes, either one calling.
    pub fn streams_between(&self, one: NodeNumber, other: NodeNumber) -> Vec<StreamNumber> {
        let between = |state: &Stream| {
            let nodes = [state.ends[0].node(), state.ends[1].node()];
            nodes == [one, other] || nodes == [other, one]
        };
        self.streams.iter().filter(|(_, state)| between(state)).map(|(name, _)| *name).collect()
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    const DELAY: Duration = Duration::from_millis(5);

    fn end(node: u32) -> Endpoint {
        let machine = MachineName::first_of(NodeNumber::new(node));
        Endpoint { machine, process: ProcessNumber::new(u64::from(node)) }
    }

    fn pair() -> (Network, Delivery) {
        let mut network = Network::new();
        let stream = network.open(end(1), end(2));
        (network, Delivery { stream, direction: Direction::ToCallee })
    }

    #[test]
    fn what_a_blocked_direction_holds_up_comes_later() {
        let (mut network, delivery) = pair();
        let (one, two) = (NodeNumber::new(1), NodeNumber::new(2));
        assert!(network.send(Moment::START, delivery, Cargo::End, DELAY).is_some());
        network.block(one, two);
        network.block(one, two);
        assert!(network.is_open(two, one) && !network.is_open(one, two));
        assert!(matches!(network.deliver(delivery), Arrival::Nothing));
        assert_eq!(network.unblock(one, two), []);
        assert_eq!(network.unblock(one, two), [delivery]);
        assert!(matches!(network.deliver(delivery), Arrival::For(to, Cargo::End) if to == end(2)));
    }

    #[test]
    fn nothing_overtakes_and_a_break_loses_what_is_under_way() {
        let (mut network, delivery) = pair();
        let late = network.send(Moment::START, delivery, Cargo::End, 4 * DELAY);
        assert_eq!(network.send(Moment::START, delivery, Cargo::End, DELAY), late);
        network.lose_cargo(delivery.stream);
        assert!(matches!(network.deliver(delivery), Arrival::Nothing));
    }

    #[test]
    fn a_closed_end_resets_the_other() {
        let (mut network, delivery) = pair();
        network.close(delivery.stream, end(2));
        let frame = SenderFrame::Heartbeat(interlock_core::replication::frames::Heartbeat::at(
            interlock_core::clock::WallTime::new(0),
        ));
        network.send(Moment::START, delivery, Cargo::Sender(frame), DELAY);
        assert!(matches!(network.deliver(delivery), Arrival::Reset));
        network.close(delivery.stream, end(1));
        assert_eq!(network.ends(delivery.stream), None);
    }
}
