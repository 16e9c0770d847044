//! The tasks of a node: counted, told to end together, and waited for, so that
//! nothing holds the database open after the node has ended.

use std::collections::VecDeque;
use std::future::Future;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use interlock_rpc::status::{Reason, refusal};
use thiserror::Error;
use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;
use tonic::Status;

use crate::failure::FailureWatch;

const LOCK: &str = "no holder of the task set's lock panics";

/// Spawns the node's tasks. Clones are handles to the same.
#[derive(Clone, Debug)]
pub struct TaskSet {
    tasks: Arc<Mutex<JoinSet<()>>>,
    ending: Arc<watch::Sender<bool>>,
    failure: FailureWatch,
}

/// The node ends: no task is started any more.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
#[error("this node is ending")]
pub struct NodeEnding;

impl From<NodeEnding> for Status {
    fn from(ending: NodeEnding) -> Self {
        refusal(Reason::Draining, ending.to_string()).into()
    }
}

impl TaskSet {
    /// No tasks. A panic of one is reported: a node that goes on without its
    /// links or its checkpoints is not what it says to be.
    pub fn new(failure: FailureWatch) -> Self {
        Self { tasks: Arc::default(), ending: Arc::new(watch::Sender::new(false)), failure }
    }

    /// Runs a task until it ends or the node does. After the end nothing is
    /// started any more.
    pub fn spawn(
        &self,
        name: &'static str,
        task: impl Future<Output = ()> + Send + 'static,
    ) -> Result<(), NodeEnding> {
        let mut tasks = self.tasks.lock().expect(LOCK);
        if *self.ending.borrow() {
            return Err(NodeEnding);
        }
        // What has ended is let go of, so that the set does not grow.
        while tasks.try_join_next().is_some() {}
        let failure = self.failure.clone();
        tasks.spawn(async move {
            let reports = failure.guard(name);
            task.await;
            drop(reports);
        });
        Ok(())
    }

    /// Becomes true when the node ends: links and loops finish what they are at.
    pub fn ending(&self) -> watch::Receiver<bool> {
        self.ending.subscribe()
    }

    /// Tells all tasks to end, and aborts those that have not within `grace`.
    pub async fn end(&self, grace: Duration) {
        self.ending.send_replace(true);
        let mut tasks = std::mem::take(&mut *self.tasks.lock().expect(LOCK));
        let all = async { while tasks.join_next().await.is_some() {} };
        if tokio::time::timeout(grace, all).await.is_err() {
            tasks.shutdown().await;
        }
    }
}

/// Puts the first waiting piece on a channel as soon as there is room; `false`
/// when nobody takes from it any more. Dropped before, it has done nothing.
pub async fn send_first<T>(channel: &mpsc::Sender<T>, waiting: &mut VecDeque<T>) -> bool {
    let Ok(room) = channel.reserve().await else { return false };
    if let Some(first) = waiting.pop_front() {
        room.send(first);
    }
    true
}

/// Waits until a flag is set; a sender that is gone counts as set.
pub async fn until_set(flag: &mut watch::Receiver<bool>) {
    // The value is not needed, and an error means that the node is gone.
    let _ = flag.wait_for(|set| *set).await;
}

#[cfg(test)]
mod tests {
    use interlock_rpc::status::reason_of;

    use super::*;
    use crate::failure::NodeFailure;

    #[tokio::test(flavor = "multi_thread")]
    async fn a_task_that_panics_is_reported_at_once() {
        let failure = FailureWatch::new();
        let tasks = TaskSet::new(failure.clone());
        tasks.spawn("a task that ends", async {}).expect("the node goes on");
        tasks
            .spawn("a task that panics", async {
                tokio::task::yield_now().await;
                panic!("an invariant is broken");
            })
            .expect("the node goes on");
        let reported = tokio::time::timeout(Duration::from_secs(20), failure.wait()).await;
        assert_eq!(reported, Ok(NodeFailure::Panicked("a task that panics")));
    }

    #[tokio::test]
    async fn after_the_end_nothing_is_started() {
        let failure = FailureWatch::new();
        let tasks = TaskSet::new(failure.clone());
        tasks.spawn("a task that waits", std::future::pending()).expect("the node goes on");
        tasks.end(Duration::ZERO).await;
        assert_eq!(failure.get(), None, "an aborted task has not panicked");
        let refused = tasks.spawn("a call", async {}).expect_err("the node has ended");
        assert_eq!(reason_of(&refused.into()), Some(Reason::Draining));
    }
}
