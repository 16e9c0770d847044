//! A queue into a plain thread: many push, one takes all that waits, woken once
//! per batch. Whoever pushes bounds what is in it.

use std::collections::VecDeque;
use std::sync::{Arc, Condvar, Mutex, MutexGuard};

/// See the module's page.
#[derive(Debug)]
pub struct WorkQueue<T> {
    state: Mutex<State<T>>,
    changed: Condvar,
}

#[derive(Debug)]
struct State<T> {
    waiting: VecDeque<T>,
    closed: bool,
    taker_sleeps: bool,
}

/// The queue takes nothing more: its thread is ending.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the node is ending")]
pub struct QueueClosed;

const LOCK: &str = "no holder of a work queue's lock panics";

impl<T> WorkQueue<T> {
    /// An empty queue.
    pub fn new() -> Self {
        let state = State { waiting: VecDeque::new(), closed: false, taker_sleeps: false };
        Self { state: Mutex::new(state), changed: Condvar::new() }
    }

    /// Adds one piece of work.
    pub fn push(&self, work: T) -> Result<(), QueueClosed> {
        let mut state = self.lock();
        if state.closed {
            return Err(QueueClosed);
        }
        state.waiting.push_back(work);
        if state.taker_sleeps {
            state.taker_sleeps = false;
            drop(state);
            self.changed.notify_one();
        }
        Ok(())
    }

    /// Waits for work and takes it from the front for as long as `more` says so,
    /// one piece at least. `false` when the queue is closed and empty.
    pub fn take(&self, taken: &mut Vec<T>, mut more: impl FnMut(&T) -> bool) -> bool {
        let mut state = self.lock();
        while state.waiting.is_empty() {
            if state.closed {
                return false;
            }
            state.taker_sleeps = true;
            state = self.changed.wait(state).expect(LOCK);
        }
        taken.extend(state.waiting.pop_front());
        while state.waiting.front().is_some_and(&mut more) {
            taken.extend(state.waiting.pop_front());
        }
        true
    }

    /// Lets nothing more in; what waits is still taken.
    pub fn close(&self) {
        self.lock().closed = true;
        self.changed.notify_all();
    }

    /// Lets nothing more in and drops what waits.
    pub fn abort(&self) {
        let dropped = {
            let mut state = self.lock();
            state.closed = true;
            std::mem::take(&mut state.waiting)
        };
        self.changed.notify_all();
        drop(dropped);
    }

    fn lock(&self) -> MutexGuard<'_, State<T>> {
        self.state.lock().expect(LOCK)
    }
}

/// Closes a queue at the end of the thread that fills it, also when that panics:
/// the thread behind it would wait for ever.
#[derive(Debug)]
pub struct CloseOnDrop<T>(pub Arc<WorkQueue<T>>);

impl<T> Drop for CloseOnDrop<T> {
    fn drop(&mut self) {
        self.0.close();
    }
}

/// Aborts a queue at the end of the thread that takes from it, also when that
/// panics: whoever waits for an answer learns that there is none.
#[derive(Debug)]
pub struct AbortOnDrop<T>(pub Arc<WorkQueue<T>>);

impl<T> Drop for AbortOnDrop<T> {
    fn drop(&mut self) {
        self.0.abort();
    }
}

impl<T> Default for WorkQueue<T> {
    fn default() -> Self {
        Self::new()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_waits_is_taken_in_order_up_to_the_bound() {
        let queue = WorkQueue::new();
        (1..=5).for_each(|work| queue.push(work).expect("it is open"));
        let mut taken = Vec::new();
        assert!(queue.take(&mut taken, |work| *work <= 3));
        assert_eq!(taken, [1, 2, 3]);
        queue.close();
        assert_eq!(queue.push(6), Err(QueueClosed));
        assert!(queue.take(&mut taken, |_| true));
        assert_eq!(taken, [1, 2, 3, 4, 5]);
        assert!(!queue.take(&mut taken, |_| true));
    }

    #[test]
    fn a_sleeping_taker_is_woken() {
        let queue = Arc::new(WorkQueue::new());
        let taker = std::thread::spawn({
            let queue = Arc::clone(&queue);
            move || {
                let mut taken = Vec::new();
                while queue.take(&mut taken, |_| true) {}
                taken
            }
        });
        (0..1000).for_each(|work| queue.push(work).expect("it is open"));
        queue.close();
        assert_eq!(taker.join().expect("it ends"), (0..1000).collect::<Vec<_>>());
    }
}
