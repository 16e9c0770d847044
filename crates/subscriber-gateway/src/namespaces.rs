//! The namespaces that this gateway follows: one upstream each, from the first
//! subscriber until a while after the last.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::task::JoinHandle;

use crate::fan_out::FanOut;
use crate::upstream::Upstream;

/// How often namespaces without subscriptions are looked for; one that had none
/// twice in a row is no longer followed.
pub(crate) const IDLE_CHECK_INTERVAL: Duration = Duration::from_secs(30);

/// All namespaces followed. Cloning shares them.
#[derive(Clone)]
pub(crate) struct Namespaces {
    upstream: Upstream,
    followed: Arc<Mutex<BTreeMap<String, Followed>>>,
}

struct Followed {
    fan_out: Arc<FanOut>,
    task: JoinHandle<()>,
    idle: bool,
}

impl Namespaces {
    pub(crate) fn new(upstream: Upstream) -> Self {
        Self { upstream, followed: Arc::default() }
    }

    /// The namespace's order, followed from now on if it was not.
    pub(crate) fn follow(&self, namespace: &str) -> Arc<FanOut> {
        let mut followed = self.followed.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(present) = followed.get_mut(namespace) {
            // One that could not be followed is tried again.
            if !present.task.is_finished() {
                present.idle = false;
                return Arc::clone(&present.fan_out);
            }
        }
        let fan_out = Arc::new(FanOut::new(namespace, &self.upstream.metrics.queued_bytes));
        let task = tokio::spawn(self.upstream.clone().run(Arc::clone(&fan_out)));
        let entry = Followed { fan_out: Arc::clone(&fan_out), task, idle: false };
        followed.insert(namespace.to_owned(), entry);
        fan_out
    }

    /// Ends what nobody has been subscribed to for a while. A subscription counts
    /// also while it reads alone, far behind: it comes back to the same order.
    pub(crate) fn end_idle(&self) {
        let mut followed = self.followed.lock().unwrap_or_else(PoisonError::into_inner);
        followed.retain(|_, entry| {
            // Besides subscriptions, this table and the upstream hold it.
            let idle = Arc::strong_count(&entry.fan_out) <= 2;
            let over = idle && entry.idle || entry.task.is_finished();
            entry.idle = idle;
            if over {
                entry.task.abort();
            }
            !over
        });
    }

    /// Ends all.
    pub(crate) fn end_all(&self) {
        let mut followed = self.followed.lock().unwrap_or_else(PoisonError::into_inner);
        for entry in std::mem::take(&mut *followed).into_values() {
            entry.task.abort();
        }
    }
}
