//! The plain threads of the hot path: log writer, log syncer, projector.

use std::io;
use std::sync::Arc;
use std::thread::JoinHandle;

use interlock_core::admission::Admission;
use interlock_core::identity::{NamespaceNumber, NodeNumber};
use interlock_core::projection::PublishersProjection;
use tokio::sync::{broadcast, mpsc};

use crate::alarms::Alarms;
use crate::channel_segments::ChannelSegments;
use crate::directories::Directories;
use crate::durable_state::DurableState;
use crate::failure::FailureWatch;
use crate::log_syncer::LogSyncer;
use crate::log_writer::{LogWriterParts, NewlyDurable, spawn_log_writer};
use crate::metrics::NodeMetrics;
use crate::node_clock::NodeClock;
use crate::projector::{ChannelNews, Projector, ProjectorWork};
use crate::stored_messages::Storage;
use crate::topology_state::TopologyState;
use crate::work_queue::WorkQueue;
use crate::writer_commands::LogWriter;

/// What the three threads are made of.
pub struct ThreadParts<'a> {
    /// The disk.
    pub storage: &'a Storage,
    /// What decides.
    pub admission: Admission,
    /// The way to the log writer.
    pub writer: &'a LogWriter,
    /// What is durable.
    pub durable: &'a Arc<DurableState>,
    /// The way to the projector.
    pub projector_queue: &'a Arc<WorkQueue<ProjectorWork>>,
    /// What readers see.
    pub directories: &'a Directories,
    /// What readers of one channel see.
    pub channel_segments: &'a ChannelSegments,
    /// What the projector keeps of publishers.
    pub publishers: PublishersProjection,
    /// Names, for spans and metrics.
    pub topology: &'a Arc<TopologyState>,
    /// Who watches channels.
    pub channel_news: broadcast::Sender<ChannelNews>,
    /// Where completed backfills are told.
    pub backfilled: mpsc::UnboundedSender<NamespaceNumber>,
    /// The clocks.
    pub clock: NodeClock,
    /// What is wrong.
    pub alarms: &'a Arc<Alarms>,
    /// What is counted.
    pub metrics: &'a NodeMetrics,
    /// Where a failure is reported.
    pub failure: &'a FailureWatch,
    /// This node's number.
    pub me: NodeNumber,
}

/// The threads of the hot path; each ends when the one before it has.
#[derive(Debug)]
pub struct Threads {
    handles: Vec<JoinHandle<()>>,
}

impl Threads {
    /// Starts all of them.
    pub fn start(parts: ThreadParts<'_>) -> io::Result<Self> {
        let syncer_queue = Arc::new(WorkQueue::new());
        let newly_durable = Arc::new(NewlyDurable::default());
        let projector = Projector {
            queue: Arc::clone(parts.projector_queue),
            storage: parts.storage.clone(),
            directories: parts.directories.clone(),
            channel_segments: parts.channel_segments.clone(),
            publishers: parts.publishers,
            durable: Arc::clone(parts.durable),
            me: parts.me,
            topology: Arc::clone(parts.topology),
            news: parts.channel_news,
            writer: parts.writer.clone(),
            metrics: parts.metrics.clone(),
            alarms: Arc::clone(parts.alarms),
            clock: parts.clock,
            failure: parts.failure.clone(),
        };
        let syncer = LogSyncer {
            queue: Arc::clone(&syncer_queue),
            storage: parts.storage.clone(),
            durable: Arc::clone(parts.durable),
            newly_durable: Arc::clone(&newly_durable),
            writer: parts.writer.clone(),
            projector: Arc::clone(parts.projector_queue),
            metrics: parts.metrics.clone(),
            failure: parts.failure.clone(),
        };
        let writer = LogWriterParts {
            writer: parts.writer.clone(),
            admission: parts.admission,
            storage: parts.storage.clone(),
            syncer: syncer_queue,
            newly_durable,
            projector: Arc::clone(parts.projector_queue),
            backfilled: parts.backfilled,
            clock: parts.clock,
            alarms: Arc::clone(parts.alarms),
            metrics: parts.metrics.clone(),
            failure: parts.failure.clone(),
        };
        let handles = vec![spawn_log_writer(writer)?, syncer.spawn()?, projector.spawn()?];
        Ok(Self { handles })
    }

    /// Waits for all of them. A panic of theirs was reported already.
    pub async fn join(self) {
        let joined = tokio::task::spawn_blocking(move || {
            for handle in self.handles {
                drop(handle.join());
            }
        });
        drop(joined.await);
    }
}

#[cfg(test)]
mod tests;
