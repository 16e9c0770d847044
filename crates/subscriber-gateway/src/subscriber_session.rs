//! One subscription: from its start to the shared position and along with it.
//!
//! A session joins the shared position's queue first and then reads what lies
//! between its own position and where the shared one stood then, so that nothing
//! falls between the two. A session that is too slow for the queue goes back to
//! reading alone, from exactly where it stands.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use interlock_core::delivery::ChannelFilter;
use interlock_rpc::channel::Backoff;
use interlock_rpc::status::{Reason, refusal};
use interlock_rpc::v1;
use tokio::sync::{mpsc, watch};
use tokio::time::MissedTickBehavior;
use tonic::Status;

use crate::catch_up::{CatchUp, Next, Until, from_cursor};
use crate::delivered::{Opened, subscriber_cursor, unknown_branch};
use crate::fan_out::{Attachment, FanOut, Position, SharedBatch, Timer};
use crate::metrics::GatewayMetrics;
use crate::push_nodes::{PushNodes, is_final};
use crate::reader::{Reader, delivery};
use crate::upstream::row_conflict;

/// How often a quiet subscriber is told where it stands.
const POSITION_INTERVAL: Duration = Duration::from_secs(5);
/// How often a reader with a position of its own looks for rows and news.
const RECHECK_INTERVAL: Duration = Duration::from_millis(500);

/// Where responses go.
pub(crate) type Responses = mpsc::Sender<Result<v1::SubscribeResponse, Status>>;

/// Everything one subscription needs.
pub(crate) struct SubscriberSession {
    pub(crate) gateway: String,
    pub(crate) fan_out: Arc<FanOut>,
    pub(crate) push_nodes: PushNodes,
    pub(crate) metrics: GatewayMetrics,
    pub(crate) timer: Timer,
    pub(crate) filter: ChannelFilter,
    pub(crate) decline_gaps: bool,
    /// End after so many messages.
    pub(crate) limit: Option<u64>,
    pub(crate) responses: Responses,
    pub(crate) draining: watch::Receiver<bool>,
    pub(crate) seed: u64,
}

/// Why a session ends.
enum End {
    /// The subscriber went away, or has got as many messages as it asked for.
    Done,
    /// With this status.
    Failed(Status),
}

impl From<Status> for End {
    fn from(status: Status) -> Self {
        Self::Failed(status)
    }
}

/// What the subscriber was told so far.
#[derive(Default)]
struct Told {
    cursor: Bytes,
    caught_up: bool,
}

impl SubscriberSession {
    /// Runs until the subscriber goes away, the gateway drains, or reading fails
    /// for good.
    pub(crate) async fn run(mut self, start: v1::StartPosition) {
        self.metrics.subscriptions.add(1.0);
        let mut draining = self.draining.clone();
        let responses = self.responses.clone();
        let end = tokio::select! {
            end = self.read(start) => end,
            _ = draining.wait_for(|draining| *draining) => End::Failed(moved()),
            () = responses.closed() => End::Done,
        };
        if let End::Failed(status) = end {
            // Behind what it has not read yet; one that is gone needs no answer.
            let _ = responses.send(Err(status)).await;
        }
        self.metrics.subscriptions.add(-1.0);
    }

    async fn read(&mut self, start: v1::StartPosition) -> End {
        match self.read_on(start).await {
            Ok(never) => match never {},
            Err(end) => end,
        }
    }

    async fn read_on(&mut self, start: v1::StartPosition) -> Result<Infallible, End> {
        let mut joined = self.fan_out.attach().await?;
        let mut reader = self.begin(start, &joined.position).await?;
        let mut told = Told::default();
        self.tell(&reader, &mut told, Vec::new()).await?;
        let mut backoff = Backoff::reconnect(self.seed);
        loop {
            match self.join(&mut reader, &mut told, joined, &mut backoff).await {
                Ok(()) => {}
                Err(End::Failed(status)) if !is_final(&status) => {
                    tokio::time::sleep(backoff.next_delay()).await;
                }
                Err(end) => return Err(end),
            }
            joined = self.fan_out.attach().await?;
        }
    }

    /// Where the subscription starts.
    async fn begin(&self, start: v1::StartPosition, shared: &Position) -> Result<Reader, Status> {
        let mut reader = Reader::new(shared.clone(), self.filter.clone(), self.limit, self.seed);
        let now = self.timer.now();
        match start.position {
            None | Some(v1::start_position::Position::Now(_)) => {}
            Some(v1::start_position::Position::Cursor(bytes)) => {
                let cursor = subscriber_cursor(&bytes)?;
                if cursor.namespace() != shared.cursor.namespace() {
                    let why = "the cursor is of another namespace";
                    return Err(refusal(Reason::CursorInvalid, why).into_status());
                }
                reader.start_at(cursor, Vec::new(), now).map_err(row_conflict)?;
            }
            Some(_) => {
                // The push-node knows what it holds: it names the cursor that
                // this start means.
                let (_, opened) = self.open(&reader, start, Vec::new()).await?;
                reader.start_at(opened.cursor, opened.rows, now).map_err(row_conflict)?;
            }
        }
        Ok(reader)
    }

    async fn open(
        &self,
        reader: &Reader,
        start: v1::StartPosition,
        excluded: Vec<u32>,
    ) -> Result<(CatchUp, Opened), Status> {
        CatchUp::open(
            &self.push_nodes,
            &self.gateway,
            self.fan_out.namespace(),
            reader.filter(),
            start,
            Until::Cursor(reader.shared().clone()),
            excluded,
        )
        .await
    }

    /// Catches up with where the shared position stood, then goes along with it
    /// until the queue ends or something has to be read again.
    async fn join(
        &self,
        reader: &mut Reader,
        told: &mut Told,
        mut joined: Attachment,
        backoff: &mut Backoff,
    ) -> Result<(), End> {
        let unknown = reader.join(&joined.position, self.timer.now()).map_err(row_conflict)?;
        let gaps = unknown
            .into_iter()
            .map(|branch| delivery(v1::delivery::Event::Gap(unknown_branch(branch))))
            .collect();
        self.tell_news(reader, told, gaps).await?;
        self.catch_up(reader, told).await?;
        backoff.reset();
        if !told.caught_up {
            told.caught_up = true;
            let origins = self.fan_out.freshness();
            let event = v1::DeliveredCaughtUp { origins };
            self.tell(reader, told, vec![delivery(v1::delivery::Event::CaughtUp(event))]).await?;
        }
        self.go_along(reader, told, &mut joined.batches).await
    }

    /// Reads from the push-node, up to the shared position, what the reader does
    /// not have. What the push-node does not have either is left for later.
    async fn catch_up(&self, reader: &mut Reader, told: &mut Told) -> Result<(), End> {
        let Some((start, held)) = reader.begin_alone() else { return Ok(()) };
        let excluded = held.into_iter().map(|origin| origin.get()).collect();
        let (mut read, opened) = self.open(reader, from_cursor(&start), excluded).await?;
        reader.learn(opened.rows, self.timer.now()).map_err(row_conflict)?;
        let complete = loop {
            match read.next().await? {
                Next::Items(rows, items) => {
                    let now = self.timer.now();
                    reader.learn(rows, now).map_err(row_conflict)?;
                    let deliveries = reader.take(&items, now);
                    self.tell_news(reader, told, deliveries).await?;
                }
                Next::Waiting => break false,
                Next::Finished => break true,
            }
        };
        reader.end_alone(&start, complete, self.timer.now());
        Ok(())
    }

    /// Goes along with the shared position. `Ok` when it has to join again.
    async fn go_along(
        &self,
        reader: &mut Reader,
        told: &mut Told,
        batches: &mut mpsc::Receiver<Arc<SharedBatch>>,
    ) -> Result<(), End> {
        let mut position_told = tokio::time::interval(POSITION_INTERVAL);
        let mut recheck = tokio::time::interval(RECHECK_INTERVAL);
        position_told.set_missed_tick_behavior(MissedTickBehavior::Delay);
        recheck.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                batch = batches.recv() => {
                    let Some(batch) = batch else { return Ok(()) };
                    let deliveries =
                        reader.follow(&batch, self.timer.now()).map_err(row_conflict)?;
                    self.tell_news(reader, told, deliveries).await?;
                }
                _ = position_told.tick() => {
                    if reader.cursor() != told.cursor {
                        self.tell(reader, told, Vec::new()).await?;
                    }
                }
                _ = recheck.tick(), if !reader.is_shared() => {
                    if self.must_read_again(reader)? {
                        return Ok(());
                    }
                }
            }
        }
    }

    /// Whether something that was left out can be read now.
    fn must_read_again(&self, reader: &mut Reader) -> Result<bool, Status> {
        let Some(position) = self.fan_out.position() else { return Ok(false) };
        let news = self.fan_out.news();
        reader.must_read_again(&position.rows, &news, self.timer.now()).map_err(row_conflict)
    }

    /// Tells what is new, if anything is.
    async fn tell_news(
        &self,
        reader: &Reader,
        told: &mut Told,
        deliveries: Vec<v1::Delivery>,
    ) -> Result<(), End> {
        if deliveries.is_empty() {
            return Ok(());
        }
        self.tell(reader, told, deliveries).await?;
        if reader.is_done() { Err(End::Done) } else { Ok(()) }
    }

    async fn tell(
        &self,
        reader: &Reader,
        told: &mut Told,
        deliveries: Vec<v1::Delivery>,
    ) -> Result<(), End> {
        let gaps = deliveries.iter().filter(|delivery| is_gap(delivery)).count() as u64;
        self.metrics.gaps.add(gaps);
        if gaps > 0 && self.decline_gaps {
            let why = "messages after the cursor may be missing here, and gaps were declined";
            return Err(refusal(Reason::Trimmed, why).into_status().into());
        }
        let cursor = reader.cursor();
        told.cursor = cursor.clone();
        self.metrics.delivered.add(deliveries.len() as u64);
        let response = v1::SubscribeResponse { deliveries, cursor };
        self.responses.send(Ok(response)).await.map_err(|_| End::Done)
    }
}

fn is_gap(delivery: &v1::Delivery) -> bool {
    matches!(delivery.event, Some(v1::delivery::Event::Gap(_)))
}

fn moved() -> Status {
    let why = "this gateway stops: subscribe elsewhere with the newest cursor";
    refusal(Reason::Draining, why).retry_after(Duration::from_millis(100)).into_status()
}
