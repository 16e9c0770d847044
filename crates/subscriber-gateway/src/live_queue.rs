//! The newest batches of a namespace, kept once for all its readers and bounded
//! in bytes: readers have a place in it, not a queue of their own.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Weak};

use interlock_core::limits::LIVE_QUEUE_BYTES;

use crate::fan_out::SharedBatch;

/// Which batch a reader takes next.
#[derive(Debug)]
pub(crate) struct Place(AtomicU64);

/// What there is at a place.
#[derive(Debug)]
pub(crate) enum Taken {
    /// The next batch; the place has moved on.
    Batch(Arc<SharedBatch>),
    /// Nothing yet.
    Nothing,
    /// The next batch is no longer kept.
    Behind,
}

/// See the module's page.
#[derive(Debug, Default)]
pub(crate) struct LiveQueue {
    batches: VecDeque<Arc<SharedBatch>>,
    /// The number of the first of them.
    first: u64,
    bytes: usize,
    readers: Vec<Weak<Place>>,
}

impl LiveQueue {
    /// What its batches take in memory.
    pub(crate) const fn bytes(&self) -> usize {
        self.bytes
    }

    /// A place behind the newest batch.
    pub(crate) fn join(&mut self) -> Arc<Place> {
        let place = Arc::new(Place(AtomicU64::new(self.first + self.batches.len() as u64)));
        self.readers.push(Arc::downgrade(&place));
        place
    }

    /// Takes a batch in, and lets go of the oldest that no longer fit: how many
    /// readers were still before one of those. The newest is always kept.
    pub(crate) fn push(&mut self, batch: Arc<SharedBatch>) -> usize {
        self.bytes += batch.bytes;
        self.batches.push_back(batch);
        let first_before = self.first;
        while self.bytes > LIVE_QUEUE_BYTES && self.batches.len() > 1 {
            if let Some(oldest) = self.batches.pop_front() {
                self.bytes -= oldest.bytes;
                self.first += 1;
            }
        }
        if self.first == first_before {
            return 0;
        }
        let mut let_go = 0;
        self.readers.retain(|reader| {
            let Some(place) = reader.upgrade() else { return false };
            let is_behind = place.0.load(Ordering::Relaxed) < self.first;
            let_go += usize::from(is_behind);
            !is_behind
        });
        let_go
    }

    /// What there is at a place.
    pub(crate) fn take(&self, place: &Place) -> Taken {
        let next = place.0.load(Ordering::Relaxed);
        let Some(index) = next.checked_sub(self.first) else { return Taken::Behind };
        match usize::try_from(index).ok().and_then(|index| self.batches.get(index)) {
            Some(batch) => {
                // Only its reader moves a place, and only under the queue's lock.
                place.0.store(next + 1, Ordering::Relaxed);
                Taken::Batch(Arc::clone(batch))
            }
            None => Taken::Nothing,
        }
    }
}
