//! What can happen in a world, each in a line of the trace.

use std::fmt;
use std::sync::Arc;

use interlock_core::clock::Moment;
use interlock_core::identity::{FencingToken, NamespaceNumber, NodeNumber, TopologyVersion};
use interlock_core::topology::Topology;

use crate::faults::FaultKind;
use crate::history::ClientNumber;
use crate::machine::MachineName;
use crate::network::{Delivery, Endpoint, StreamNumber};
use crate::requests::{Reply, Request, RequestName};

/// One event.
#[derive(Debug)]
pub enum Event {
    /// A node's process starts, if it is not there.
    Start(MachineName),
    /// A stream reaches its callee.
    Accepted(StreamNumber),
    /// A stream is open at its caller.
    Opened(StreamNumber, Endpoint, NodeNumber),
    /// A peer could not be reached.
    ConnectFailed(Endpoint, NodeNumber),
    /// Something arrives on a stream.
    Deliver(Delivery),
    /// The writer's thread runs.
    WriterRuns(Endpoint),
    /// A sync is done.
    SyncEnds(Endpoint),
    /// A process has waited long enough.
    Timer(MachineName, Moment),
    /// A request reaches a node.
    RequestArrives(NodeNumber, Box<Request>),
    /// A request reaches a node when its client has given it up.
    StrayArrives(NodeNumber, Box<Request>),
    /// An answer reaches a client.
    ReplyArrives(Box<Reply>),
    /// A client has waited long enough for an answer.
    RequestTimesOut(RequestName),
    /// A client does what it likes.
    ClientWakes(ClientNumber, Moment),
    /// A founder tells the control-plane what it has opened.
    RecordOpened(MachineName, FencingToken, Vec<NamespaceNumber>),
    /// A node tells the control-plane what the members have all of, by which document.
    RecordLeft(MachineName, FencingToken, Vec<NamespaceNumber>, TopologyVersion),
    /// The control-plane tells a node the newest topology.
    TopologyTold(MachineName, Arc<Topology>),
    /// A process that was started without the control-plane registers.
    Registers(Endpoint),
    /// Somebody looks whether a process that another took the name of has
    /// driven out what it has.
    SupersededLooked(Endpoint),
    /// A gateway and its subscribers go on.
    GatewayRuns(NodeNumber),
    /// A machine is resumed from its snapshot, if its process is still the one.
    SnapshotResumed(Endpoint),
    /// Somebody copies a node's disk.
    DiskCopied(MachineName),
    /// Something goes wrong.
    Fault(FaultKind),
    /// Two nodes are cut off from each other once more, and then some times.
    FlapsAgain(NodeNumber, NodeNumber, u32),
    /// Something is right again.
    FaultEnds(FaultEnd),
    /// Everything is right again.
    Heal,
    /// Somebody looks whether all is well.
    Look,
    /// It has to be quiet from now on.
    QuietBegins,
    /// It has been quiet for a while.
    QuietEnds,
    /// Slow subscribers may have read what is there.
    ReadersLooked,
    /// Nobody is left alone any more for having stalled once.
    CarriersLooked,
}

/// What is right again.
#[derive(Clone, Debug)]
pub enum FaultEnd {
    /// Directions are open again.
    Unblocked(Vec<(NodeNumber, NodeNumber)>),
    /// Frames between two nodes take as long as they should.
    Undelayed(NodeNumber, NodeNumber),
    /// A node's syncs take as long as they should.
    SyncRestored(MachineName),
    /// A node hears from the control-plane.
    ControlPlaneBack(MachineName),
    /// A namespace is placed everywhere again.
    NamespaceGrown(NamespaceNumber),
}

impl fmt::Display for Event {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Start(node) => write!(f, "n{node} starts"),
            Self::Accepted(stream) => write!(f, "{stream} accepted"),
            Self::Opened(stream, ..) => write!(f, "{stream} opened"),
            Self::ConnectFailed(Endpoint { machine, process }, peer) => {
                write!(f, "n{machine} {process} does not reach n{peer}")
            }
            Self::Deliver(delivery) => write!(f, "{} {:?}", delivery.stream, delivery.direction),
            Self::WriterRuns(Endpoint { machine, process }) => {
                write!(f, "n{machine} {process} writes")
            }
            Self::SyncEnds(Endpoint { machine, process }) => {
                write!(f, "n{machine} {process} has synced")
            }
            Self::Timer(node, _) => write!(f, "n{node} timer"),
            Self::RequestArrives(node, request) => write!(f, "n{node} <- {request}"),
            Self::StrayArrives(node, request) => write!(f, "n{node} <- late {request}"),
            Self::ReplyArrives(reply) => write!(f, "-> {reply}"),
            Self::RequestTimesOut(name) => write!(f, "{name} times out"),
            Self::ClientWakes(client, _) => write!(f, "{client} wakes"),
            Self::RecordOpened(node, _, namespaces) => {
                write!(f, "n{node} has opened {namespaces:?}")
            }
            Self::RecordLeft(node, _, namespaces, by) => {
                write!(f, "n{node} has left {namespaces:?} by {by}")
            }
            Self::Registers(Endpoint { machine, process }) => {
                write!(f, "n{machine} {process} registers")
            }
            Self::SupersededLooked(Endpoint { machine, process }) => {
                write!(f, "n{machine} {process} is to go")
            }
            Self::TopologyTold(node, topology) => {
                write!(f, "n{node} is told topology {}", topology.version)
            }
            Self::GatewayRuns(node) => write!(f, "gateway of n{node}"),
            Self::SnapshotResumed(Endpoint { machine, process }) => {
                write!(f, "n{machine} {process} is resumed from its snapshot")
            }
            Self::DiskCopied(node) => write!(f, "n{node}'s disk is copied"),
            Self::Fault(kind) => write!(f, "FAULT {kind}"),
            Self::FlapsAgain(one, other, times) => {
                write!(f, "FAULT n{one} and n{other} flap, {times} times more")
            }
            Self::FaultEnds(end) => write!(f, "FAULT ends: {end:?}"),
            Self::Heal => f.write_str("HEAL"),
            Self::Look => f.write_str("look"),
            Self::QuietBegins => f.write_str("QUIET begins"),
            Self::QuietEnds => f.write_str("QUIET ends"),
            Self::ReadersLooked => f.write_str("a look at readers"),
            Self::CarriersLooked => f.write_str("CARRIERS are looked at"),
        }
    }
}
