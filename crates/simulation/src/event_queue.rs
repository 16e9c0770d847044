//! What is going to happen, in one total order: by time, then by the order in
//! which it was scheduled.

use std::collections::BTreeMap;

use interlock_core::clock::Moment;

/// The future of the world.
#[derive(Debug)]
pub struct EventQueue<E> {
    events: BTreeMap<(Moment, u64), E>,
    sequence: u64,
}

impl<E> EventQueue<E> {
    /// Nothing is going to happen.
    pub const fn new() -> Self {
        Self { events: BTreeMap::new(), sequence: 0 }
    }

    /// Schedules an event behind all that are scheduled for the same moment.
    pub fn push(&mut self, at: Moment, event: E) {
        self.sequence += 1;
        self.events.insert((at, self.sequence), event);
    }

    /// Takes what happens next.
    pub fn pop(&mut self) -> Option<(Moment, E)> {
        self.events.pop_first().map(|((at, _), event)| (at, event))
    }
}

impl<E> Default for EventQueue<E> {
    fn default() -> Self {
        Self::new()
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn orders_by_time_and_then_by_scheduling() {
        let at = |milliseconds| Moment::new(Duration::from_millis(milliseconds));
        let mut queue = EventQueue::new();
        queue.push(at(2), "late");
        queue.push(at(1), "first");
        queue.push(at(1), "second");
        let order: Vec<_> = std::iter::from_fn(|| queue.pop()).collect();
        assert_eq!(order, [(at(1), "first"), (at(1), "second"), (at(2), "late")]);
    }
}
