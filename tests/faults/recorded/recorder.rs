//! What happens in a run, as the checkers of the simulation read it: every
//! operation with its outcome, and what was seen of each disk.

use std::sync::{Arc, Mutex, MutexGuard};

use bytes::Bytes;
use interlock_core::identity::{MessageName, NamespaceNumber, NodeNumber};
use interlock_core::names::ChannelName;
use interlock_rpc::convert::IntoCore as _;
use interlock_rpc::v1;
use interlock_simulation::history::{
    Attempt, ClientNumber, History, Operation, OperationNumber, Outcome, Record,
};
use interlock_simulation::machine::MachineName;

/// How many operations there were, by what became of them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Counts {
    pub(crate) begun: u64,
    pub(crate) acknowledged: u64,
    pub(crate) refused: u64,
}

/// Where all of a run write what they saw. Clones are handles to the same.
#[derive(Clone, Default)]
pub(crate) struct Recorder(Arc<Mutex<Recorded>>);

/// What was recorded.
#[derive(Default)]
pub(crate) struct Recorded {
    pub(crate) history: History,
    pub(crate) counts: Counts,
    /// What publishers were told to be held by so many others.
    held: Vec<(NodeNumber, MessageName, usize)>,
}

/// One client, where it is.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Place {
    pub(crate) client: u32,
    pub(crate) node: NodeNumber,
    pub(crate) namespace: NamespaceNumber,
}

impl Recorder {
    fn recorded(&self) -> MutexGuard<'_, Recorded> {
        self.0.lock().expect("nobody panics with it")
    }

    /// A client begins to publish.
    pub(crate) fn begin_publication(
        &self,
        place: Place,
        channel: &ChannelName,
        payload: &Bytes,
    ) -> OperationNumber {
        let (channel, payload) = (channel.clone(), payload.clone());
        let (position, possibly_repeated) = (None, false);
        self.begin(place, Attempt::Publish { channel, payload, position, possibly_repeated })
    }

    /// A client begins something.
    pub(crate) fn begin(&self, place: Place, attempt: Attempt) -> OperationNumber {
        let mut recorded = self.recorded();
        recorded.counts.begun += 1;
        recorded.history.begin(Operation {
            client: ClientNumber::new(place.client),
            node: place.node,
            namespace: place.namespace,
            attempt,
            outcome: Outcome::Unknown,
        })
    }

    /// It was acknowledged, as held by so many other nodes.
    pub(crate) fn acknowledged(
        &self,
        number: OperationNumber,
        name: Option<v1::MessageReference>,
        peers: usize,
    ) {
        let name = name.map(|name| name.into_core().expect("a node knows its names"));
        let mut recorded = self.recorded();
        recorded.counts.acknowledged += 1;
        if let Some(name) = name
            && peers > 0
        {
            let node = recorded.history.operation(number).node;
            recorded.held.push((node, name, peers));
        }
        recorded.history.end(number, Outcome::Ok { name });
    }

    /// It was refused: nothing is stored.
    pub(crate) fn refused(&self, number: OperationNumber) {
        let mut recorded = self.recorded();
        recorded.counts.refused += 1;
        recorded.history.end(number, Outcome::Fail);
    }

    /// Something was seen.
    pub(crate) fn see(&self, record: Record) {
        self.recorded().history.records.push(record);
    }

    /// Something was seen that must not be.
    pub(crate) fn incident(&self, node: Option<NodeNumber>, what: String) {
        println!("  {what}");
        self.recorded().history.incident(node, what);
    }

    pub(crate) fn counts(&self) -> Counts {
        self.recorded().counts
    }

    /// Ends the recording. What others were said to hold comes last: by then all
    /// that any disk ever held has been seen.
    pub(crate) fn finish(&self) -> History {
        let Recorded { mut history, held, .. } = std::mem::take(&mut *self.recorded());
        history.records.extend(held.into_iter().map(|(node, name, peers)| Record::HeldByPeers {
            machine: MachineName::first_of(node),
            name,
            peers,
        }));
        history
    }
}

impl std::ops::Sub for Counts {
    type Output = Self;

    fn sub(self, before: Self) -> Self {
        Self {
            begun: self.begun - before.begun,
            acknowledged: self.acknowledged - before.acknowledged,
            refused: self.refused - before.refused,
        }
    }
}

impl std::ops::AddAssign for Counts {
    fn add_assign(&mut self, more: Self) {
        self.begun += more.begun;
        self.acknowledged += more.acknowledged;
        self.refused += more.refused;
    }
}
