//! What makes the process end by itself.

use tokio::sync::watch;

/// Where parts report that the process must not go on. Clones are handles to the
/// same.
#[derive(Clone, Debug)]
pub(crate) struct Failure {
    reason: watch::Sender<Option<String>>,
}

impl Failure {
    pub(crate) fn new() -> Self {
        Self { reason: watch::Sender::new(None) }
    }

    /// The process must end; the first reason stays.
    pub(crate) fn report(&self, reason: String) {
        tracing::error!(%reason, "the control-plane stops");
        self.reason.send_if_modified(|held| {
            let first = held.is_none();
            if first {
                *held = Some(reason);
            }
            first
        });
    }

    /// Waits for a reason to end.
    pub(crate) async fn reported(&self) -> String {
        let mut reason = self.reason.subscribe();
        loop {
            if let Some(reason) = reason.borrow_and_update().clone() {
                return reason;
            }
            // This handle keeps the sender, so a change is the only way on.
            let _ = reason.changed().await;
        }
    }
}
