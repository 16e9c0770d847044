//! How an outbound link stands, for status and metrics.

use std::sync::Mutex;

use interlock_core::replication::peer_sender::SenderStatus;

const LOCK: &str = "no holder of a link's status lock panics";

/// What a link is at.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum LinkState {
    /// It is being called.
    #[default]
    Connecting,
    /// It was called and has not introduced itself.
    Probing,
    /// The stream is established.
    Replicating,
    /// It could not be reached; another attempt follows.
    Unreachable,
    /// It speaks another protocol, or is somebody else.
    Refused,
}

/// A snapshot of a link.
#[derive(Clone, Debug, Default)]
pub struct LinkView {
    /// What it is at.
    pub state: LinkState,
    /// Why, for people.
    pub detail: String,
    /// The sender's own account, while there is a stream.
    pub sender: Option<SenderStatus>,
    /// Frames sent again on streams that are over.
    pub retransmissions_before: u64,
}

impl LinkView {
    /// Frames sent again, on all streams.
    pub fn retransmissions(&self) -> u64 {
        let now = self.sender.as_ref().map_or(0, |sender| sender.retransmissions);
        self.retransmissions_before + now
    }
}

/// A link's status, written by the link alone.
#[derive(Debug, Default)]
pub struct LinkStatus {
    view: Mutex<LinkView>,
}

impl LinkStatus {
    /// The link is at this now.
    pub fn set(&self, state: LinkState, detail: &str) {
        let mut view = self.view.lock().expect(LOCK);
        view.state = state;
        detail.clone_into(&mut view.detail);
        if state != LinkState::Replicating
            && let Some(ended) = view.sender.take()
        {
            view.retransmissions_before += ended.retransmissions;
        }
    }

    /// The sender's present account.
    pub fn report(&self, sender: SenderStatus) {
        self.view.lock().expect(LOCK).sender = Some(sender);
    }

    /// A snapshot.
    pub fn view(&self) -> LinkView {
        self.view.lock().expect(LOCK).clone()
    }
}
