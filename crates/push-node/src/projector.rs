//! A plain thread that applies durable messages to the projections, off the hot
//! path: followers and reads see what it has seen. What it computes is stored
//! now and then together with its position; a crash costs reading a little of
//! the log again.

use std::sync::Arc;
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use interlock_core::admission::Telling;
use interlock_core::directory::{DirectoryChange, DirectoryEntry, LostOperation};
use interlock_core::identity::{LogName, MessageName, MessageNumber, NamespaceNumber, NodeNumber};
use interlock_core::message::{MessageHead, MessageKind};
use interlock_core::names::ChannelName;
use interlock_core::projection::{Projection, PublishersProjection, trimmable_through};
use interlock_core::replication::frames::{BaseEntries, TrimPoint};
use interlock_storage::stored_index::{stored_contents, stored_trim_point, unreadable_index};
use interlock_storage::{ProjectionKind, StorageError};
use tokio::sync::{OwnedSemaphorePermit, broadcast, mpsc};

use crate::alarms::{AlarmKind, Alarms};
use crate::channel_segments::ChannelSegments;
use crate::delivery_trace::trace_received;
use crate::directories::Directories;
use crate::durable_state::DurableState;
use crate::failure::{FailureWatch, NodeFailure};
use crate::metrics::NodeMetrics;
use crate::node_clock::NodeClock;
use crate::stored_messages::Storage;
use crate::tail_cache::Segment;
use crate::topology_state::TopologyState;
use crate::work_queue::{AbortOnDrop, WorkQueue};
use crate::writer_commands::{BaseAnswer, LogWriter, WriterCommand};

/// Projections are stored at most this often.
const STORE_INTERVAL: Duration = Duration::from_millis(500);
/// And at the latest after so many messages, so that an opening reads little.
pub const STORE_MESSAGES: u64 = 100_000;
/// Channel changes that a slow watcher may be behind; past it, it reads anew.
const CHANGES_AHEAD: usize = 4096;

/// What watchers of channels are told.
#[derive(Clone, Debug)]
pub enum ChannelNews {
    /// The definition has changed: read it.
    Changed(NamespaceNumber, ChannelName),
    /// An operation lost to a concurrent one.
    Lost(NamespaceNumber, ChannelName, LostOperation),
}

/// Work for the projector.
#[derive(Debug)]
pub enum ProjectorWork {
    /// Messages that became durable, in order.
    Durable {
        /// The messages.
        segments: Vec<Arc<Segment>>,
        /// Room in the writer's queue, given back when they are applied.
        permits: Vec<OwnedSemaphorePermit>,
    },
    /// Base entries that admission has merged. After the last the base is stored
    /// durably, and that is told.
    Base {
        /// Whose base it is.
        from: Telling,
        /// The entries.
        base: BaseEntries,
        /// Who waits for the whole of it.
        answer: mpsc::UnboundedSender<BaseAnswer>,
    },
    /// Trim logs up to these messages, as far as the projections allow it.
    Trim(Vec<(LogName, MessageNumber)>),
    /// The mark moved over a hole.
    Hole(MessageName),
    /// Nothing new: store what there is if it is time.
    Tick,
}

/// What the projector works on.
pub struct Projector {
    /// Where its work comes from.
    pub queue: Arc<WorkQueue<ProjectorWork>>,
    /// Where it is stored.
    pub storage: Storage,
    /// What others read.
    pub directories: Directories,
    /// What readers of one channel read.
    pub channel_segments: ChannelSegments,
    /// What nobody else reads.
    pub publishers: PublishersProjection,
    /// What is told to have been applied.
    pub durable: Arc<DurableState>,
    /// This node.
    pub me: NodeNumber,
    /// Names of namespaces, for spans and metrics.
    pub topology: Arc<TopologyState>,
    /// Who watches channels.
    pub news: broadcast::Sender<ChannelNews>,
    /// What is counted.
    pub metrics: NodeMetrics,
    /// Raised for kinds that this build does not know.
    pub alarms: Arc<Alarms>,
    /// The writer, which learns of floors and of bases that are stored.
    pub writer: LogWriter,
    /// For alarms.
    pub clock: NodeClock,
    /// Where a failed store is reported.
    pub failure: FailureWatch,
}

/// A channel for news of channels.
pub fn channel_news() -> broadcast::Sender<ChannelNews> {
    broadcast::Sender::new(CHANGES_AHEAD)
}

impl Projector {
    /// Runs until its queue is closed, and stores everything at the end.
    pub fn spawn(self) -> std::io::Result<JoinHandle<()>> {
        thread::Builder::new().name("projector".to_owned()).spawn(move || {
            let _aborts = AbortOnDrop(Arc::clone(&self.queue));
            let _reports = self.failure.guard("the projector");
            self.run();
        })
    }

    fn run(mut self) {
        let mut work = Vec::new();
        let mut stored_at = Instant::now();
        let mut unstored: u64 = 0;
        while self.queue.take(&mut work, |_| true) {
            for work in work.drain(..) {
                match self.apply(work) {
                    Ok(applied) => unstored += applied,
                    Err(error) => {
                        self.failure.report(NodeFailure::Storage(error.to_string()));
                        return;
                    }
                }
            }
            let due = stored_at.elapsed() >= STORE_INTERVAL || unstored >= STORE_MESSAGES;
            if unstored > 0 && due {
                if !self.store_or_report() {
                    return;
                }
                stored_at = Instant::now();
                unstored = 0;
            }
        }
        if unstored > 0 && self.failure.get().is_none() {
            self.store_or_report();
        }
    }

    /// Applies one piece of work; how many messages it was.
    fn apply(&mut self, work: ProjectorWork) -> Result<u64, StorageError> {
        Ok(match work {
            ProjectorWork::Durable { segments, permits } => {
                let count = segments.iter().map(|segment| self.apply_segment(segment)).sum();
                self.durable.note_applied(&segments);
                drop(permits);
                count
            }
            ProjectorWork::Base { from, base, answer } => self.merge_base(from, base, &answer)?,
            ProjectorWork::Trim(logs) => self.trim(&logs)?,
            ProjectorWork::Hole(through) => {
                self.directories.write(|projection| projection.skip(&through.log, through.m_id));
                self.publishers.skip(&through.log, through.m_id);
                self.channel_segments.write(|index| index.skip(&through.log, through.m_id));
                self.durable.note_hole_applied(&through.log, through.m_id);
                1
            }
            ProjectorWork::Tick => 0,
        })
    }

    /// Merges a part of a base and stores it durably; the last one is answered.
    fn merge_base(
        &mut self,
        from: Telling,
        base: BaseEntries,
        answer: &mpsc::UnboundedSender<BaseAnswer>,
    ) -> Result<u64, StorageError> {
        let BaseEntries { namespace, directory, trim_points, last } = base;
        let count = (directory.len() + trim_points.len()) as u64;
        let changes = self.directories.write(|projection| {
            // Admission has read them all.
            let entries = directory.iter().filter_map(|bytes| DirectoryEntry::decode(bytes).ok());
            entries.flat_map(|entry| projection.merge_entry(namespace, entry)).collect::<Vec<_>>()
        });
        for point in &trim_points {
            self.merge_trim_point(point)?;
        }
        // What is shown as deleted stays so: a page is durable before it is told.
        self.store()?;
        self.storage.sync_projections()?;
        self.tell(namespace, changes);
        if last {
            // A writer that is ending takes over nothing more.
            let _ = self.writer.tell(WriterCommand::BaseStored(from, namespace));
            // A link that has ended asks for it again on its next stream.
            let _ = answer.send(BaseAnswer::Stored(namespace));
        }
        Ok(count)
    }

    fn merge_trim_point(&self, point: &TrimPoint) -> Result<(), StorageError> {
        let held = stored_trim_point(self.storage.as_ref(), point)?;
        self.channel_segments.write(|index| index.merge_trim_point(point, held));
        Ok(())
    }

    /// Trims logs, each only as far as all projections have come and as nothing is
    /// beyond this build. First what the index keeps of the trimmed messages is
    /// stored, then messages and floor go in one durable write. A log that cannot be read
    /// is an alarm until a trim of it succeeds.
    fn trim(&mut self, logs: &[(LogName, MessageNumber)]) -> Result<u64, StorageError> {
        for (log, wished) in logs {
            let subject = format!("trimming {log}");
            match self.trim_log(log, *wished) {
                Ok(()) => self.alarms.clear(AlarmKind::DamagedData, &subject),
                // What cannot be read stays; the node would only end again at the next look
                // if it ended for that.
                Err(StorageError::Read { what, detail }) => {
                    let detail = format!("a trim cannot read {what}: {detail}");
                    let now = self.clock.wall();
                    self.alarms.raise(now, AlarmKind::DamagedData, &subject, &detail);
                }
                Err(error) => return Err(error),
            }
        }
        Ok(0)
    }

    fn trim_log(&mut self, log: &LogName, wished: MessageNumber) -> Result<(), StorageError> {
        let through = self.trimmable_through(log, wished);
        if self.durable.log(log).is_none_or(|held| through <= held.trimmed) {
            return Ok(());
        }
        let contents = stored_contents(self.storage.as_ref(), log, through)?;
        let trimmed = self.channel_segments.write(|index| index.trim(log, through, contents));
        for point in trimmed.map_err(unreadable_index)? {
            // A base may have said more of what is still held here.
            self.merge_trim_point(&point)?;
        }
        self.store()?;
        let floor = self.storage.trim(log, through)?;
        self.durable.note_trimmed(log, floor.m_id);
        self.metrics.trims.increment();
        // A writer that is ending decides nothing more.
        let _ = self.writer.tell(WriterCommand::Trimmed(*log, floor));
        Ok(())
    }

    fn trimmable_through(&self, log: &LogName, wished: MessageNumber) -> MessageNumber {
        self.directories.read(|directories| {
            self.channel_segments.write(|index| {
                trimmable_through(self.me, log, wished, directories, &self.publishers, index)
            })
        })
    }

    fn apply_segment(&mut self, segment: &Segment) -> u64 {
        let namespace = segment.log.namespace;
        let own = segment.log.origin == self.me;
        let mut unknown = 0_u64;
        let heads: Vec<(MessageName, MessageHead<'_>)> = named_heads(segment);
        let (changes, passed_over) = self.directories.write(|projection| {
            let before = passed_over(projection.directory(namespace));
            let mut changes = Vec::new();
            for (name, head) in &heads {
                unknown += u64::from(matches!(head.kind, MessageKind::Unknown(_)));
                changes.append(&mut projection.apply(name, head));
            }
            (changes, passed_over(projection.directory(namespace)) - before)
        });
        self.channel_segments.write(|index| {
            for (name, head) in &heads {
                index.apply(name, head);
            }
        });
        if own {
            for (name, head) in &heads {
                self.publishers.apply(name, head);
            }
        } else {
            self.trace_received(segment);
        }
        if unknown > 0 {
            let subject = segment.log.to_string();
            let detail = format!("{unknown} messages of kinds that this build does not know");
            self.alarms.raise(self.clock.wall(), AlarmKind::UnknownKind, &subject, &detail);
        }
        if passed_over > 0 {
            self.metrics.undeliverable.with([self.namespace_name(namespace)]).add(passed_over);
        }
        self.tell(namespace, changes);
        segment.sends.len() as u64
    }

    fn trace_received(&self, segment: &Segment) {
        if !interlock_telemetry::spans::exporting() {
            return;
        }
        let namespace = self.namespace_name(segment.log.namespace);
        let relay = segment.accepted.server.filter(|server| *server != segment.log.origin);
        let topology = self.topology.current();
        let relayed_by = relay.map(|number| {
            topology.node(number).map_or(number.to_string(), |it| it.name.to_string())
        });
        let mut m_id = segment.first;
        for bytes in &segment.sends {
            let name = MessageName { log: segment.log, m_id };
            trace_received(&namespace, &name, bytes, relayed_by.as_deref());
            m_id = m_id.next();
        }
    }

    fn tell(&self, namespace: NamespaceNumber, changes: Vec<DirectoryChange>) {
        for change in changes {
            let channel = change.channel().clone();
            // Without watchers nobody is there to be told.
            let _ = self.news.send(match change {
                DirectoryChange::Lost { operation, .. } => {
                    ChannelNews::Lost(namespace, channel, operation)
                }
                _ => ChannelNews::Changed(namespace, channel),
            });
        }
    }

    fn namespace_name(&self, namespace: NamespaceNumber) -> String {
        let topology = self.topology.current();
        topology
            .namespace(namespace)
            .map_or_else(|| namespace.to_string(), |namespace| namespace.name.to_string())
    }

    fn store_or_report(&mut self) -> bool {
        let stored = self.store();
        if let Err(error) = &stored {
            self.failure.report(NodeFailure::Storage(error.to_string()));
        }
        stored.is_ok()
    }

    fn store(&mut self) -> Result<(), StorageError> {
        let (position, changes) =
            self.directories.write(|projection| (projection.position(), projection.take_changes()));
        self.storage.store_projection(ProjectionKind::Directory, &position, &changes)?;
        let (position, changes) = (self.publishers.position(), self.publishers.take_changes());
        self.storage.store_projection(ProjectionKind::Publishers, &position, &changes)?;
        let (position, changes) =
            self.channel_segments.write(|index| (index.position(), index.take_changes()));
        self.storage.store_projection(ProjectionKind::ChannelIndex, &position, &changes)
    }
}

fn passed_over(directory: Option<&interlock_core::directory::Directory>) -> u64 {
    directory.map_or(0, |directory| directory.passed_over_publications())
}

fn named_heads(segment: &Segment) -> Vec<(MessageName, MessageHead<'_>)> {
    let mut m_id: MessageNumber = segment.first;
    let mut heads = Vec::with_capacity(segment.sends.len());
    for bytes in &segment.sends {
        let name = MessageName { log: segment.log, m_id };
        m_id = m_id.next();
        // Admission has read every message that is stored.
        let head = MessageHead::decode(bytes).expect("only messages that can be read are stored");
        heads.push((name, head));
    }
    heads
}
