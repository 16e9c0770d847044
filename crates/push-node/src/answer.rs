//! What the log writer has decided and may not say yet: answers wait for the
//! sync that covers all they rest on.

use interlock_core::admission::{EditRefusal, SessionOpened, SessionRefusal};
use tokio::sync::{mpsc, oneshot};

use crate::writer_commands::{EditAnswer, PublishAnswer, SubmissionAnswer};

/// An answer with the one who waits for it. Dropped instead of released, it
/// tells that the outcome is unknown.
pub enum Answer {
    /// To a frame of publications.
    Publish(oneshot::Sender<PublishAnswer>, PublishAnswer),
    /// To the opening of a session.
    Session(
        oneshot::Sender<Result<SessionOpened, SessionRefusal>>,
        Result<SessionOpened, SessionRefusal>,
    ),
    /// To an edit of a channel.
    Edit(oneshot::Sender<Result<EditAnswer, EditRefusal>>, Box<Result<EditAnswer, EditRefusal>>),
    /// To an inbound link.
    Submission(mpsc::UnboundedSender<SubmissionAnswer>, SubmissionAnswer),
}

impl Answer {
    /// Says it. Whoever waited may have gone.
    pub fn release(self) {
        match self {
            Self::Publish(sender, answer) => drop(sender.send(answer)),
            Self::Session(sender, answer) => drop(sender.send(answer)),
            Self::Edit(sender, answer) => drop(sender.send(*answer)),
            Self::Submission(sender, answer) => drop(sender.send(answer)),
        }
    }
}
