//! What reaches a process, and what it does to the world.

use std::sync::Arc;

use interlock_core::identity::{
    FencingToken, LogName, NamespaceNumber, NodeNumber, TopologyVersion,
};
use interlock_core::topology::Topology;

use crate::history::Record;
use crate::network::{Cargo, StreamNumber};
use crate::requests::{Reply, Request};

/// What reaches a process.
#[derive(Debug)]
pub enum Input {
    /// A stream to a peer is open: we are the caller.
    Opened(StreamNumber, NodeNumber),
    /// A peer cannot be reached.
    ConnectFailed(NodeNumber),
    /// A stream of a peer is open: we are the callee.
    Accepted(StreamNumber),
    /// Something came on a stream.
    Arrived(StreamNumber, Cargo),
    /// A client asks.
    Requested(Request),
    /// The writer's thread runs.
    WriterRuns,
    /// The sync that was begun is done.
    SyncEnds,
    /// The control-plane tells the newest topology.
    Topology(Arc<Topology>),
    /// The control-plane has given this process a token.
    Registered(FencingToken),
    /// The moment of [`Process::timer`] has come.
    Timer,
}

/// What a process does to the world.
#[derive(Debug)]
pub enum Output {
    /// Open a stream to a peer.
    Connect(NodeNumber),
    /// Put something on a stream.
    Transmit(StreamNumber, Cargo),
    /// Close this end of a stream.
    Close(StreamNumber),
    /// The same, because a newer stream of the caller's name is there.
    TakeOver(StreamNumber),
    /// Answer a client.
    Reply(Reply),
    /// Let the writer's thread run.
    WakeWriter,
    /// A sync has begun, and ends a while later.
    SyncBegan,
    /// Have the topology record that these namespaces are opened.
    RecordOpened(Vec<NamespaceNumber>),
    /// Have the topology record that these namespaces are left, by the document that
    /// lists them as being left.
    RecordLeft(Vec<NamespaceNumber>, TopologyVersion),
    /// The database is to be opened anew, or the node is no part of the mesh any more.
    Reopens,
    /// For the history.
    Record(Record),
    /// Two contents under one name were seen.
    Conflict(LogName, String),
    /// The process has found out that it was resumed from a snapshot of its
    /// memory: an alarm, and its end.
    EndAsResumed(LogName),
    /// What must not happen.
    Incident(String),
}
