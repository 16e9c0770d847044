//! The tasks of a node: counted, told to end together, and waited for, so that
//! nothing holds the database open after the node has ended.

use std::collections::VecDeque;
use std::future::Future;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;

const LOCK: &str = "no holder of the task set's lock panics";

/// Spawns the node's tasks. Clones are handles to the same.
#[derive(Clone, Debug)]
pub struct TaskSet {
    tasks: Arc<Mutex<JoinSet<()>>>,
    ending: Arc<watch::Sender<bool>>,
}

impl TaskSet {
    /// No tasks.
    pub fn new() -> Self {
        Self { tasks: Arc::default(), ending: Arc::new(watch::Sender::new(false)) }
    }

    /// Runs a task until it ends or the node does. After the end nothing is
    /// started any more.
    pub fn spawn(&self, task: impl Future<Output = ()> + Send + 'static) {
        let mut tasks = self.tasks.lock().expect(LOCK);
        if *self.ending.borrow() {
            return;
        }
        // What has ended is let go of, so that the set does not grow.
        while tasks.try_join_next().is_some() {}
        tasks.spawn(task);
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

impl Default for TaskSet {
    fn default() -> Self {
        Self::new()
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
