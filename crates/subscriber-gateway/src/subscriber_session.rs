//! One subscription: from its start to the shared position and along with it.
//!
//! A session joins the shared position's queue first and then reads what lies
//! between its own position and where the shared one stood then, so that nothing
//! falls between the two. A session that is too slow for the queue goes back to
//! reading alone, from exactly where it stands.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use interlock_core::cursor::Cursor;
use interlock_core::delivery::{ChannelFilter, ReaderPosition, Step, UnknownBranch};
use interlock_core::identity::MessageNumber;
use interlock_core::replication::rows::Rows;
use interlock_rpc::channel::Backoff;
use interlock_rpc::convert::IntoWire as _;
use interlock_rpc::status::{Reason, refusal};
use interlock_rpc::v1;
use tokio::sync::{mpsc, watch};
use tonic::{Code, Status};

use crate::catch_up::{CatchUp, Next, Until, from_cursor};
use crate::fan_out::{Attachment, FanOut, Item, LiveMessage, Position, SharedBatch, Timer};
use crate::metrics::GatewayMetrics;
use crate::push_nodes::PushNodes;
use crate::upstream::row_conflict;

/// How long an origin is held back for a branch that is not known here, before a
/// gap is told. A row travels with the first frame of its log.
const UNKNOWN_BRANCH_PATIENCE: Duration = Duration::from_secs(5);
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

/// Where a session stands: its position, and the last that was told.
struct Reader {
    position: ReaderPosition,
    /// The newest shared position it has gone along with.
    shared: Position,
    told: Bytes,
    caught_up: bool,
    /// Messages until its limit.
    left: Option<u64>,
}

impl SubscriberSession {
    /// Runs until the subscriber goes away, the gateway drains, or reading fails
    /// for good.
    pub(crate) async fn run(mut self, start: v1::StartPosition) {
        self.metrics.subscriptions.add(1.0);
        let mut draining = self.draining.clone();
        let responses = self.responses.clone();
        let outcome = tokio::select! {
            outcome = self.read(start) => outcome,
            _ = draining.wait_for(|draining| *draining) => Err(self.moved()),
            () = responses.closed() => Err(End::Done),
        };
        if let Err(End::Failed(status)) = outcome {
            // A subscriber that is gone needs no answer.
            let _ = responses.try_send(Err(status));
        }
        self.metrics.subscriptions.add(-1.0);
    }

    async fn read(&mut self, start: v1::StartPosition) -> Result<(), End> {
        let attachment = self.fan_out.attach().await?;
        let mut reader = self.begin(start, &attachment.position).await?;
        self.tell(&mut reader, Vec::new()).await?;
        let mut backoff = Backoff::reconnect(self.seed);
        let mut attachment = Some(attachment);
        loop {
            let joined = match attachment.take() {
                Some(joined) => joined,
                None => self.fan_out.attach().await?,
            };
            match self.join(&mut reader, joined, &mut backoff).await {
                Ok(()) => {}
                Err(End::Failed(status)) if status.code() == Code::Unavailable => {
                    tokio::time::sleep(backoff.next_delay()).await;
                }
                Err(end) => return Err(end),
            }
        }
    }

    /// Where the subscription starts.
    async fn begin(&self, start: v1::StartPosition, shared: &Position) -> Result<Reader, Status> {
        let position = match start.position {
            None | Some(v1::start_position::Position::Now(_)) => ReaderPosition::shared(),
            Some(v1::start_position::Position::Cursor(bytes)) => {
                let cursor = crate::delivered::subscriber_cursor(&bytes)?;
                if cursor.namespace() != shared.cursor.namespace() {
                    return Err(refusal(
                        Reason::CursorInvalid,
                        "the cursor is of another namespace",
                    )
                    .into_status());
                }
                self.own(cursor, &shared.rows)
            }
            Some(_) => {
                // The push-node knows what it holds: it names the cursor that
                // this start means.
                let (_, opened) = self.open(start, &shared.encoded, Vec::new()).await?;
                self.own(opened.cursor, &shared.rows)
            }
        };
        Ok(Reader {
            position,
            shared: shared.clone(),
            told: Bytes::new(),
            caught_up: false,
            left: self.limit,
        })
    }

    fn own(&self, cursor: Cursor, rows: &Rows) -> ReaderPosition {
        ReaderPosition::at(cursor, rows, self.timer.now(), UNKNOWN_BRANCH_PATIENCE)
    }

    async fn open(
        &self,
        start: v1::StartPosition,
        until: &Bytes,
        excluded: Vec<u32>,
    ) -> Result<(CatchUp, crate::delivered::Opened), Status> {
        CatchUp::open(
            &self.push_nodes,
            &self.gateway,
            self.fan_out.namespace(),
            &self.filter,
            start,
            Until::Cursor(until.clone()),
            excluded,
        )
        .await
    }

    /// Catches up with where the shared position stood, then goes along with it
    /// until the queue ends or something has to be read again.
    async fn join(
        &self,
        reader: &mut Reader,
        mut joined: Attachment,
        backoff: &mut Backoff,
    ) -> Result<(), End> {
        if reader.position.is_shared() {
            // It left the queue, if ever, at the position it went along with last.
            if reader.shared.encoded != joined.position.encoded {
                reader.position.leave(&reader.shared.cursor);
            }
        }
        reader.shared = joined.position.clone();
        let gaps = reader.position.handle_timeout(self.timer.now(), &reader.shared.rows);
        self.tell_unknown(reader, gaps).await?;
        reader.position.rows_changed(&reader.shared.rows);
        reader.position.meet(&reader.shared.cursor, &reader.shared.rows);
        if !reader.position.is_shared() {
            self.catch_up(reader).await?;
            backoff.reset();
        }
        if !reader.caught_up {
            reader.caught_up = true;
            let origins = self.fan_out.freshness();
            let event = v1::DeliveredCaughtUp { origins };
            self.tell(reader, vec![delivery(v1::delivery::Event::CaughtUp(event))]).await?;
        }
        self.go_along(reader, &mut joined.batches).await
    }

    /// Reads from the push-node up to `reader.shared`.
    async fn catch_up(&self, reader: &mut Reader) -> Result<(), End> {
        let Some(own) = reader.position.own() else { return Ok(()) };
        let excluded = reader.position.held_origins().map(|origin| origin.get()).collect();
        let (mut read, opened) =
            self.open(from_cursor(own), &reader.shared.encoded, excluded).await?;
        let mut rows = (*reader.shared.rows).clone();
        for row in opened.rows {
            rows.insert(row).map_err(row_conflict)?;
        }
        reader.shared.rows = Arc::new(rows);
        loop {
            match read.next().await? {
                Next::Items(rows, items) => {
                    for row in rows {
                        Arc::make_mut(&mut reader.shared.rows).insert(row).map_err(row_conflict)?;
                    }
                    self.deliver(reader, &items).await?;
                }
                Next::Finished => break,
            }
        }
        reader.position.meet(&reader.shared.cursor, &reader.shared.rows);
        Ok(())
    }

    /// Goes along with the shared position. `Ok` when it has to join again.
    async fn go_along(
        &self,
        reader: &mut Reader,
        batches: &mut mpsc::Receiver<Arc<SharedBatch>>,
    ) -> Result<(), End> {
        let mut position_told = tokio::time::interval(POSITION_INTERVAL);
        let mut recheck = tokio::time::interval(RECHECK_INTERVAL);
        loop {
            tokio::select! {
                batch = batches.recv() => {
                    let Some(batch) = batch else { return Ok(()) };
                    self.take(reader, &batch).await?;
                }
                _ = position_told.tick() => {
                    if self.stands_at(reader) != reader.told {
                        self.tell(reader, Vec::new()).await?;
                    }
                }
                _ = recheck.tick(), if !reader.position.is_shared() => {
                    if self.must_read_again(reader) {
                        return Ok(());
                    }
                }
            }
        }
    }

    async fn take(&self, reader: &mut Reader, batch: &SharedBatch) -> Result<(), End> {
        if reader.left.is_some() {
            // A limit may end in the middle of a batch, where the shared position
            // never stands.
            reader.position.leave(&reader.shared.cursor);
        }
        // Rows that only catching up brought stay known to this reader.
        if reader.position.is_shared() || reader.shared.rows.len() <= batch.position.rows.len() {
            reader.shared = batch.position.clone();
        } else {
            for row in batch.position.rows.iter() {
                if !reader.shared.rows.contains(&row.log) {
                    Arc::make_mut(&mut reader.shared.rows)
                        .insert(row.clone())
                        .map_err(row_conflict)?;
                }
            }
            reader.shared.cursor = Arc::clone(&batch.position.cursor);
            reader.shared.encoded = batch.position.encoded.clone();
        }
        self.deliver(reader, &batch.items).await?;
        reader.position.meet(&reader.shared.cursor, &reader.shared.rows);
        Ok(())
    }

    /// Whether something that was held back or inside a gap can be read now.
    fn must_read_again(&self, reader: &mut Reader) -> bool {
        let Some(position) = self.fan_out.position() else { return false };
        let mut again = reader.position.rows_changed(&position.rows);
        for news in self.fan_out.news() {
            again |= reader.position.heard(&news);
        }
        again || reader.position.poll_timeout().is_some_and(|until| until <= self.timer.now())
    }

    /// Delivers what the reader does not have, and moves it over the rest.
    async fn deliver(&self, reader: &mut Reader, items: &[Item]) -> Result<(), End> {
        let mut deliveries = Vec::new();
        for item in items {
            match item {
                Item::Run { log, through, messages } => {
                    for message in messages {
                        let Some(delivery) = self.message(reader, message) else { continue };
                        deliveries.push(delivery);
                        if let Some(left) = &mut reader.left {
                            *left -= 1;
                            if *left == 0 {
                                reader.position.pass(log, message.name.m_id, &reader.shared.rows);
                                self.tell(reader, deliveries).await?;
                                return Err(End::Done);
                            }
                        }
                    }
                    reader.position.pass(log, *through, &reader.shared.rows);
                }
                Item::Event(event) => {
                    if self.filter.matches(&event.channel) {
                        let event = v1::DeliveredChannelEvent { event: Some(event.clone()) };
                        deliveries.push(delivery(v1::delivery::Event::ChannelEvent(event)));
                    }
                }
                Item::Gap(log, gap) => {
                    deliveries.push(self.gap(gap.clone())?);
                    reader.position.pass(log, MessageNumber::new(gap.through), &reader.shared.rows);
                }
            }
        }
        if deliveries.is_empty() { Ok(()) } else { self.tell(reader, deliveries).await }
    }

    fn message(&self, reader: &Reader, message: &LiveMessage) -> Option<v1::Delivery> {
        let wanted = self.filter.matches(message.channel.as_str())
            && reader.position.step(&message.name, &reader.shared.rows) == Step::Deliver;
        wanted.then(|| delivery(v1::delivery::Event::Message(message.delivered.clone())))
    }

    async fn tell_unknown(
        &self,
        reader: &mut Reader,
        branches: Vec<UnknownBranch>,
    ) -> Result<(), End> {
        let mut deliveries = Vec::new();
        for UnknownBranch { tip } in branches {
            deliveries.push(self.gap(v1::DeliveryGap {
                reason: v1::GapReason::UnknownBranch.into(),
                log: Some(tip.log.into_wire()),
                from: 1,
                through: tip.m_id.get(),
            })?);
        }
        if deliveries.is_empty() { Ok(()) } else { self.tell(reader, deliveries).await }
    }

    fn gap(&self, gap: v1::DeliveryGap) -> Result<v1::Delivery, Status> {
        self.metrics.gaps.increment();
        if self.decline_gaps {
            let why = "messages after the cursor may be missing here, and gaps were declined";
            return Err(refusal(Reason::Trimmed, why).into_status());
        }
        Ok(delivery(v1::delivery::Event::Gap(gap)))
    }

    fn stands_at(&self, reader: &Reader) -> Bytes {
        reader.position.own().map_or_else(|| reader.shared.encoded.clone(), Cursor::encode)
    }

    async fn tell(&self, reader: &mut Reader, deliveries: Vec<v1::Delivery>) -> Result<(), End> {
        let cursor = self.stands_at(reader);
        reader.told = cursor.clone();
        self.metrics.delivered.add(deliveries.len() as u64);
        let response = v1::SubscribeResponse { deliveries, cursor };
        self.responses.send(Ok(response)).await.map_err(|_| End::Done)
    }

    fn moved(&self) -> End {
        End::Failed(
            refusal(
                Reason::Draining,
                "this gateway stops: subscribe elsewhere with the newest cursor",
            )
            .retry_after(Duration::from_millis(100))
            .into_status(),
        )
    }
}

fn delivery(event: v1::delivery::Event) -> v1::Delivery {
    v1::Delivery { event: Some(event) }
}
