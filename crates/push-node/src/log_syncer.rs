//! Makes appended batches durable: one plain thread that syncs, while the log
//! writer goes on appending.
//!
//! After each sync, in this order and here only: the durable marks move, then
//! links, feeds and waiters are woken and answers are released. Persist, then
//! send.

use std::sync::Arc;
use std::thread::{self, JoinHandle};
use std::time::Instant;

use interlock_core::identity::{LogName, Mark, MessageName};
use interlock_storage::{StorageError, Ticket};

use crate::durable_state::DurableState;
use crate::failure::{FailureWatch, NodeFailure};
use crate::log_writer::{AppendedBatch, NewlyDurable};
use crate::metrics::NodeMetrics;
use crate::projector::ProjectorWork;
use crate::stored_messages::Storage;
use crate::tail_cache::{Accepted, Segment, segments_of};
use crate::work_queue::{AbortOnDrop, CloseOnDrop, WorkQueue};
use crate::writer_commands::{LogWriter, WriterCommand};

/// What the syncer is made of.
pub struct LogSyncer {
    /// Where batches come from.
    pub queue: Arc<WorkQueue<AppendedBatch>>,
    /// What to sync.
    pub storage: Storage,
    /// What moves when it is synced.
    pub durable: Arc<DurableState>,
    /// Where the writer learns of it.
    pub newly_durable: Arc<NewlyDurable>,
    /// The writer, to be woken if it waits for marks.
    pub writer: LogWriter,
    /// What comes after.
    pub projector: Arc<WorkQueue<ProjectorWork>>,
    /// What is counted.
    pub metrics: NodeMetrics,
    /// Where a failed sync is reported.
    pub failure: FailureWatch,
}

impl LogSyncer {
    /// Starts the thread. It runs until its queue is closed, and then closes the
    /// projector's.
    pub fn spawn(self) -> std::io::Result<JoinHandle<()>> {
        thread::Builder::new().name("log-syncer".to_owned()).spawn(move || {
            let _closes = CloseOnDrop(Arc::clone(&self.projector));
            let _aborts_writer = AbortOnDrop(self.writer.queue());
            let _aborts = AbortOnDrop(Arc::clone(&self.queue));
            let _reports = self.failure.guard("the log syncer");
            if let Err(error) = self.run() {
                self.failure.report(NodeFailure::Storage(error.to_string()));
            }
        })
    }

    fn run(&self) -> Result<(), StorageError> {
        let mut synced = Ticket::ZERO;
        let mut batches: Vec<AppendedBatch> = Vec::new();
        while self.queue.take(&mut batches, |_| true) {
            let appended = batches.last().map_or(Ticket::ZERO, |batch| batch.ticket);
            if appended > synced {
                let started = Instant::now();
                synced = self.storage.sync()?;
                self.metrics.sync_seconds.observe_duration(started.elapsed());
                self.metrics.sync_batches.observe(batches.len() as f64);
            }
            self.make_visible(std::mem::take(&mut batches));
        }
        Ok(())
    }

    /// What these batches hold is durable: says so.
    fn make_visible(&self, batches: Vec<AppendedBatch>) {
        let mut answers = Vec::new();
        let mut permits = Vec::new();
        let mut segments: Vec<Arc<Segment>> = Vec::new();
        let mut marks: Vec<(LogName, Mark)> = Vec::new();
        for batch in batches {
            for (row, log, mark) in batch.holes {
                self.durable.cross_hole(row, &log, mark);
                // What is before the hole is applied before it. The projector ends
                // after this thread.
                let before = std::mem::take(&mut segments);
                self.count(&before);
                marks.extend(before.iter().map(|segment| (segment.log, segment.last)));
                let permits = std::mem::take(&mut permits);
                let _ = self.projector.push(ProjectorWork::Durable { segments: before, permits });
                let name = MessageName { log, m_id: mark.m_id };
                let _ = self.projector.push(ProjectorWork::Hole(name));
                marks.push((log, mark));
            }
            let made = segments_of(
                &batch.entries,
                |log| batch.accepted.get(log).copied().unwrap_or(Accepted::at(batch.arrived_at)),
                |log| self.durable.mark_of(log).unwrap_or_default(),
            );
            self.durable.advance(&made);
            segments.extend(made);
            answers.extend(batch.answers);
            permits.extend(batch.permits);
        }

        marks.extend(segments.iter().map(|segment| (segment.log, segment.last)));
        if !marks.is_empty() {
            self.durable.wake_durable();
        }
        for answer in answers {
            answer.release();
        }

        self.count(&segments);
        if self.newly_durable.add(marks) {
            // A writer that is ending waits for nothing.
            let _ = self.writer.tell(WriterCommand::Wake);
        }
        let _ = self.projector.push(ProjectorWork::Durable { segments, permits });
    }

    fn count(&self, segments: &[Arc<Segment>]) {
        let (mut bytes, mut messages) = (0, 0);
        for segment in segments {
            messages += segment.sends.len() as u64;
            bytes += segment.sends.iter().map(|send| send.len() as u64).sum::<u64>();
        }
        self.metrics.durable_bytes.add(bytes);
        self.metrics.durable_messages.add(messages);
    }
}
