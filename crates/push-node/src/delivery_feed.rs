//! One follower of one namespace: first what it has missed, read from the disk
//! in the order of history, then what becomes durable here, in that order
//! (METHOD M13).
//!
//! A follower that does not keep up costs nobody anything: this task waits for
//! it, and when what it wants has left memory it reads the disk by its position.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use interlock_core::cursor::Cursor;
use interlock_core::delivery::ChannelFilter;
use interlock_core::directory::Directory;
use interlock_core::identity::{LogName, MessageName, MessageNumber, NamespaceNumber, NodeNumber};
use interlock_core::message::{ChannelAction, ChannelOperation, MessageHead, MessageKind};
use interlock_core::names::ChannelName;
use interlock_core::replication::rows::Rows;
use interlock_rpc::convert::IntoWire as _;
use interlock_rpc::convert::delivery::StartPosition;
use interlock_rpc::v1;
use interlock_rpc::v1::follow_response::Body;
use tokio::sync::{Semaphore, mpsc, watch};
use tokio::time::MissedTickBehavior;
use tonic::Status;

use crate::catch_up_reader::{CatchUpReader, Found, LogRange};
use crate::channel_segments::ChannelSegments;
use crate::delivery_trace::trace_delivery;
use crate::directories::NamespaceDirectory;
use crate::durable_state::{DurableState, JournalSnapshot};
use crate::feed_batch::{FeedBatch, Part, Run};
use crate::follow_start::StartSearch;
use crate::metrics::NodeMetrics;
use crate::origin_news::OriginNewsBoard;
use crate::refusals::storage_status;
use crate::stored_messages::Storage;
use crate::tail_cache::{JournalPosition, JournalRead, Segment};
use crate::tasks::until_set;

/// What is taken from memory at a time.
const JOURNAL_READ_BYTES: usize = 1 << 20;
/// How often a reader is told that nothing else is there.
const HEARTBEAT_INTERVAL: Duration = Duration::from_secs(1);

/// What a follower asks for.
#[derive(Debug)]
pub struct FeedRequest {
    /// The namespace.
    pub namespace: NamespaceNumber,
    /// Its name, for traces.
    pub namespace_name: String,
    /// Where to start.
    pub start: StartPosition,
    /// The channels.
    pub filter: ChannelFilter,
    /// Origins to leave out.
    pub excluded: BTreeSet<NodeNumber>,
    /// Where to stop.
    pub until: Until,
}

/// Where a follower stops.
#[derive(Clone, Debug)]
pub enum Until {
    /// Never.
    Forever,
    /// At what is durable when it starts.
    Now,
    /// When this coverage is reached.
    Cursor(Cursor),
}

/// What a feed reads from.
#[derive(Clone)]
pub struct FeedSources {
    /// Durable marks and the newest messages.
    pub durable: Arc<DurableState>,
    /// The disk.
    pub storage: Storage,
    /// The namespace's channels.
    pub directory: NamespaceDirectory,
    /// Where in the logs they are.
    pub channel_segments: ChannelSegments,
    /// Who was heard when.
    pub news: Arc<OriginNewsBoard>,
    /// What is counted.
    pub metrics: NodeMetrics,
    /// The node's name.
    pub node: String,
    /// Set when the node drains.
    pub draining: watch::Receiver<bool>,
    /// Room for starts that are looked for on the disk.
    pub searches: Arc<Semaphore>,
}

/// Why a feed ended early.
enum FeedEnd {
    /// The reader is gone.
    ReaderGone,
    /// The node drains.
    Draining,
    /// The reader is told this.
    Failed(Status),
}

type Out = mpsc::Sender<Result<v1::FollowResponse, Status>>;

/// Runs a feed until its end.
pub async fn run_feed(sources: FeedSources, request: FeedRequest, out: Out) {
    let end = match Feed::open(sources, request, out.clone()).await {
        Ok(mut feed) => feed.run().await,
        Err(end) => Err(end),
    };
    // Where the reader is gone, nobody is there to be told.
    let _ = match end {
        Ok(()) | Err(FeedEnd::ReaderGone) => Ok(()),
        Err(FeedEnd::Draining) => {
            out.send(Ok(response(Body::Draining(v1::FollowDraining {})))).await
        }
        Err(FeedEnd::Failed(status)) => out.send(Err(status)).await,
    };
}

struct Feed {
    sources: FeedSources,
    request: FeedRequest,
    out: Out,
    /// What the reader has been shown, or does not want.
    cursor: Cursor,
    /// Where it started: channels that stand apart are compared with it.
    start: Cursor,
    rows: Arc<Rows>,
    /// How far each log has been gone through.
    passed: BTreeMap<LogName, MessageNumber>,
    told_rows: BTreeSet<LogName>,
    batch: FeedBatch,
    /// Of `Until::Now`: how far each log goes.
    limits: Option<BTreeMap<LogName, MessageNumber>>,
}

impl Feed {
    async fn open(sources: FeedSources, request: FeedRequest, out: Out) -> Result<Self, FeedEnd> {
        let mut draining = sources.draining.clone();
        // A search may read whole logs: nobody waits for one that is not wanted.
        let (snapshot, start) = tokio::select! {
            found = find_start(&sources, &request) => found?,
            () = until_set(&mut draining) => return Err(FeedEnd::Draining),
            () = out.closed() => return Err(FeedEnd::ReaderGone),
        };
        let limits = matches!(request.until, Until::Now).then(|| snapshot.marks.clone());
        let mut feed = Self {
            cursor: start.clone(),
            start,
            rows: snapshot.rows.clone(),
            passed: BTreeMap::new(),
            told_rows: BTreeSet::new(),
            batch: FeedBatch::default(),
            limits,
            sources,
            request,
            out,
        };
        feed.tell_opened().await?;
        Ok(feed)
    }

    async fn tell_opened(&mut self) -> Result<(), FeedEnd> {
        let rows: Vec<_> = self
            .rows
            .iter()
            .filter(|row| row.log.namespace == self.request.namespace)
            .cloned()
            .collect();
        self.told_rows.extend(rows.iter().map(|row| row.log));
        let opened = v1::FollowOpened {
            namespace: self.request.namespace.get(),
            cursor: self.start.encode(),
            rows: rows.into_iter().map(|row| row.into_wire()).collect(),
            node: self.sources.node.clone(),
        };
        self.send(Body::Opened(opened)).await
    }

    async fn run(&mut self) -> Result<(), FeedEnd> {
        loop {
            let snapshot = self.sources.durable.snapshot(self.request.namespace);
            let position = self.catch_up(snapshot).await?;
            if self.is_finished() {
                return self.finish().await;
            }
            if self.follow(position).await? {
                return self.finish().await;
            }
        }
    }

    /// Reads from the disk what lies between the reader and a snapshot, and
    /// returns where following goes on.
    async fn catch_up(&mut self, snapshot: JournalSnapshot) -> Result<JournalPosition, FeedEnd> {
        self.rows = snapshot.rows;
        let mut ranges = Vec::with_capacity(snapshot.marks.len());
        for (log, mark) in &snapshot.marks {
            if !self.request.excluded.contains(&log.origin) {
                let from = self.next_of(log);
                let through = self.limit_of(log).map_or(*mark, |limit| limit.min(*mark));
                ranges.push(LogRange { log: *log, from, through });
            }
        }
        let storage = self.sources.storage.clone();
        let mut reader = CatchUpReader::new(storage, ranges, &self.rows);
        loop {
            let found =
                reader.next().await.map_err(|error| FeedEnd::Failed(storage_status(&error)))?;
            match found {
                Some(Found::Message(name, bytes)) => {
                    self.passed.insert(name.log, name.m_id);
                    let directory = self.sources.directory.clone();
                    directory.read(|directory| self.take(directory, &name, &bytes));
                    self.flush_if_full().await?;
                }
                Some(Found::Missing(range)) => self.tell_missing(range).await?,
                None => break,
            }
            if *self.sources.draining.borrow() {
                self.flush().await?;
                return Err(FeedEnd::Draining);
            }
        }
        self.flush().await?;
        Ok(snapshot.position)
    }

    /// Follows what becomes durable. `false` when the reader has fallen so far
    /// behind that it has to read the disk again, `true` when it is finished.
    async fn follow(&mut self, mut position: JournalPosition) -> Result<bool, FeedEnd> {
        let mut changes = self.sources.durable.watch_applied();
        let mut draining = self.sources.draining.clone();
        let mut heartbeat = tokio::time::interval(HEARTBEAT_INTERVAL);
        heartbeat.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            changes.mark_unchanged();
            let namespace = self.request.namespace;
            match self.sources.durable.read_journal(namespace, position, JOURNAL_READ_BYTES) {
                JournalRead::Behind => return Ok(false),
                JournalRead::Segments { segments, next } => {
                    for segment in &segments {
                        match segment.is_hole() {
                            true => self.take_hole(segment).await?,
                            false => self.take_segment(segment),
                        }
                        self.flush_if_full().await?;
                    }
                    position = next;
                    self.flush().await?;
                    if self.is_finished() {
                        return Ok(true);
                    }
                    continue;
                }
                JournalRead::End => {}
            }
            tokio::select! {
                changed = changes.changed() => {
                    if changed.is_err() {
                        return Err(FeedEnd::Draining);
                    }
                }
                _ = heartbeat.tick() => self.tell_heartbeat().await?,
                () = until_set(&mut draining) => return Err(FeedEnd::Draining),
                () = self.out.closed() => return Err(FeedEnd::ReaderGone),
            }
        }
    }

    /// What of a segment the reader has not gone through and is to go through.
    fn part_of(&mut self, segment: &Segment) -> Option<(MessageNumber, MessageNumber)> {
        if self.request.excluded.contains(&segment.log.origin) {
            return None;
        }
        if !self.rows.contains(&segment.log) {
            self.rows = self.sources.durable.rows();
        }
        let next = self.next_of(&segment.log);
        let limit = self.limit_of(&segment.log).unwrap_or(segment.last.m_id);
        let (first, last) = (next.max(segment.first), limit.min(segment.last.m_id));
        (first <= last).then_some((first, last))
    }

    /// Tells what this node lacks too, at its place: what comes behind it would cover
    /// it otherwise.
    async fn take_hole(&mut self, hole: &Segment) -> Result<(), FeedEnd> {
        let Some((from, through)) = self.part_of(hole) else { return Ok(()) };
        let log = hole.log;
        self.flush().await?;
        if self.told_rows.insert(log) {
            let row = self.rows.get(&log).map(|row| row.clone().into_wire());
            let run =
                v1::FollowRun { log: Some(log.into_wire()), row, through: 0, sends: Vec::new() };
            self.send(Body::Batch(v1::FollowBatch { runs: vec![run] })).await?;
        }
        self.tell_missing(LogRange { log, from, through }).await
    }

    fn take_segment(&mut self, segment: &Segment) {
        let Some((first, last)) = self.part_of(segment) else { return };
        self.passed.insert(segment.log, last);
        let count = last.next().since(first) as usize;
        let directory = self.sources.directory.clone();
        directory.read(|directory| {
            let mut m_id = first;
            for bytes in segment.sends_from(first).iter().take(count) {
                self.take(directory, &MessageName { log: segment.log, m_id }, bytes);
                m_id = m_id.next();
            }
        });
    }

    /// The next message of a log to look at.
    fn next_of(&mut self, log: &LogName) -> MessageNumber {
        let passed = match self.passed.get(log) {
            Some(passed) => *passed,
            None => {
                let passed = self.start_of(log);
                self.passed.insert(*log, passed);
                passed
            }
        };
        let first = self.rows.first_m_id(log).unwrap_or(MessageNumber::new(1));
        passed.next().max(first)
    }

    /// How far the start covers a log, for the channel that is the furthest back.
    fn start_of(&self, log: &LogName) -> MessageNumber {
        let apart = self.apart();
        let apart = apart.map(|channel| self.start.channel_position_of(channel, log, &self.rows));
        apart.chain([self.start.position_of(log, &self.rows)]).min().unwrap_or_default()
    }

    /// The channels asked for that stand apart at the start.
    fn apart(&self) -> impl Iterator<Item = &ChannelName> {
        let apart = self.start.overridden_channels();
        apart.filter(|channel| self.request.filter.matches(channel.as_str()))
    }

    fn limit_of(&self, log: &LogName) -> Option<MessageNumber> {
        match &self.request.until {
            Until::Forever => None,
            Until::Now => {
                let limits = self.limits.as_ref();
                Some(limits.and_then(|limits| limits.get(log)).copied().unwrap_or_default())
            }
            // A tip whose branch is not known here may go on from any message of its
            // path: nothing of that path is beyond it, and nothing is left out. Rows
            // come with their logs, and then it is known.
            Until::Cursor(until) => until
                .tips_of_path(&log.path())
                .all(|tip| self.rows.ancestry_is_known(&tip))
                .then(|| until.position_of(log, &self.rows)),
        }
    }

    /// Goes over one message: shows it if the reader asked for it.
    fn take(&mut self, directory: &Directory, name: &MessageName, bytes: &Bytes) {
        let head = MessageHead::decode(bytes);
        let shown = head.as_ref().is_ok_and(|head| self.is_asked_for(name, head));
        match head {
            Ok(head) if shown && is_delivered(directory, &head) => {
                trace_delivery(&self.request.namespace_name, name, bytes);
                self.batch.show(name, bytes);
            }
            Ok(head) if shown && head.kind == MessageKind::ChannelOperation => {
                // The event comes first: a reader that breaks off between the two
                // is told again.
                self.batch.event(event_of(directory, name, &head, bytes));
                self.batch.pass(name);
            }
            _ => self.batch.pass(name),
        }
    }

    fn is_asked_for(&self, name: &MessageName, head: &MessageHead<'_>) -> bool {
        if !self.request.filter.matches(head.channel) {
            return false;
        }
        if !self.start.has_overrides() {
            return true;
        }
        // Channels that stand apart were read from the furthest back of them all.
        ChannelName::parse(head.channel)
            .is_ok_and(|channel| !self.start.channel_covers(&channel, name, &self.rows))
    }

    fn is_finished(&self) -> bool {
        match &self.request.until {
            Until::Forever => false,
            Until::Now => true,
            Until::Cursor(until) => until
                .tips()
                .filter(|tip| !self.request.excluded.contains(&tip.log.origin))
                .all(|tip| self.cursor.covers_for_all(self.apart(), &tip, &self.rows)),
        }
    }

    async fn finish(&mut self) -> Result<(), FeedEnd> {
        let cursor = self.cursor.encode();
        self.send(Body::Finished(v1::FollowFinished { cursor })).await
    }

    async fn tell_missing(&mut self, range: LogRange) -> Result<(), FeedEnd> {
        self.flush().await?;
        let gap = v1::DeliveryGap {
            reason: v1::GapReason::Trimmed.into(),
            log: Some(range.log.into_wire()),
            from: range.from.get(),
            through: range.through.get(),
        };
        self.send(Body::Gap(gap)).await?;
        self.passed.insert(range.log, range.through);
        self.batch.pass(&MessageName { log: range.log, m_id: range.through });
        Ok(())
    }

    async fn tell_heartbeat(&mut self) -> Result<(), FeedEnd> {
        let origins = self.sources.news.freshness(self.request.namespace);
        self.send(Body::Heartbeat(v1::FollowHeartbeat { origins, caught_up: true })).await
    }

    async fn flush_if_full(&mut self) -> Result<(), FeedEnd> {
        if self.batch.is_full() { self.flush().await } else { Ok(()) }
    }

    async fn flush(&mut self) -> Result<(), FeedEnd> {
        for part in std::mem::take(&mut self.batch).parts {
            match part {
                Part::Runs(runs) => {
                    let batch = self.wire_batch(runs);
                    self.send(Body::Batch(batch)).await?;
                }
                Part::Event(event) => self.send(Body::ChannelEvent(event)).await?,
            }
        }
        Ok(())
    }

    fn wire_batch(&mut self, runs: Vec<Run>) -> v1::FollowBatch {
        let mut wire = Vec::with_capacity(runs.len());
        let mut shown = 0;
        for run in runs {
            let row = if self.told_rows.insert(run.log) { self.rows.get(&run.log) } else { None };
            let name = MessageName { log: run.log, m_id: run.through };
            self.cursor.pass(name, &self.rows);
            shown += run.sends.len();
            wire.push(v1::FollowRun {
                log: Some(run.log.into_wire()),
                row: row.map(|row| row.clone().into_wire()),
                through: run.through.get(),
                sends: run.sends,
            });
        }
        self.sources.metrics.delivered.add(shown as u64);
        v1::FollowBatch { runs: wire }
    }

    async fn send(&mut self, body: Body) -> Result<(), FeedEnd> {
        self.out.send(Ok(response(body))).await.map_err(|_| FeedEnd::ReaderGone)
    }
}

/// What is durable now, and where in it the follower starts.
async fn find_start(
    sources: &FeedSources,
    request: &FeedRequest,
) -> Result<(JournalSnapshot, Cursor), FeedEnd> {
    let reads_much = matches!(request.start, StartPosition::Last(_) | StartPosition::Time(_));
    let _room = match reads_much {
        // The semaphore is never closed.
        true => sources.searches.acquire().await.ok(),
        false => None,
    };
    sources.durable.until_applied(request.namespace).await;
    let snapshot = sources.durable.snapshot(request.namespace);
    let search = StartSearch {
        storage: &sources.storage,
        snapshot: &snapshot,
        filter: &request.filter,
        directory: &sources.directory,
        segments: &sources.channel_segments,
    };
    let start = search.resolve(request.namespace, &request.start).await;
    let start = start.map_err(|error| FeedEnd::Failed(storage_status(&error)))?;
    Ok((snapshot, start))
}

fn response(body: Body) -> v1::FollowResponse {
    v1::FollowResponse { body: Some(body) }
}

/// Whether a message is a publication that is delivered: to an epoch that has
/// not ended (METHOD M13).
fn is_delivered(directory: &Directory, head: &MessageHead<'_>) -> bool {
    head.kind == MessageKind::Publication && directory.deliverable(head.channel, head.epoch)
}

/// What to tell of a channel operation: only what still holds, so that a reader
/// of history is not told of the past of a name.
fn event_of(
    directory: &Directory,
    name: &MessageName,
    head: &MessageHead<'_>,
    bytes: &Bytes,
) -> Option<v1::ChannelEvent> {
    let operation = ChannelOperation::decode(&bytes.slice_ref(head.payload)).ok()?;
    let kind = match operation.action {
        ChannelAction::Create => v1::ChannelEventKind::Created,
        ChannelAction::Update => v1::ChannelEventKind::Updated,
        ChannelAction::Delete => v1::ChannelEventKind::Deleted,
    };
    let is_past = directory.get(head.channel).is_some_and(|held| {
        let ended = held.is_deleted() && operation.action != ChannelAction::Delete;
        held.epoch() > head.epoch || (held.epoch() == head.epoch && ended)
    });
    (!is_past).then(|| v1::ChannelEvent {
        channel: head.channel.to_owned(),
        epoch: head.epoch.get(),
        kind: kind.into(),
        message: Some(name.into_wire()),
    })
}

#[cfg(test)]
mod tests;
