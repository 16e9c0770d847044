//! One subscription: from its start to the shared position and along with it.
//!
//! A session joins the shared position's queue first and then reads what lies
//! between its own position and where the shared one stood then, so that nothing
//! falls between the two. A session that is too slow for the queue goes back to
//! reading alone, from exactly where it stands. One whose subscriber reads nothing
//! at all keeps no more than a few responses, and no stream from the push-node.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use interlock_core::delivery::ChannelFilter;
use interlock_core::limits::STALE_ORIGIN_MILLISECONDS;
use interlock_rpc::channel::Backoff;
use interlock_rpc::status::{Reason, reason_of, refusal};
use interlock_rpc::v1;
use tokio::sync::{mpsc, watch};
use tokio::time::MissedTickBehavior;
use tonic::Status;

use crate::catch_up::{CatchUp, Next, Until, from_cursor};
use crate::delivered::{Opened, subscriber_cursor, unknown_branch};
use crate::fan_out::{Attachment, FanOut, Position, Timer};
use crate::hand_over::{Gone, hand_over};
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
    /// How fresh the origins were when it was told to have caught up.
    freshness: Option<Vec<v1::OriginFreshness>>,
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
        let (mut reader, mut opened) = self.begin(start, &joined.position).await?;
        let mut told = Told::default();
        self.tell(&reader, &mut told, Vec::new(), || opened = None).await?;
        let mut backoff = Backoff::reconnect(self.seed);
        loop {
            match self.join(&mut reader, &mut told, joined, opened.take(), &mut backoff).await {
                Ok(()) => {}
                Err(End::Failed(status)) if may_go_on(&status) => {
                    tokio::time::sleep(backoff.next_delay()).await;
                }
                Err(end) => return Err(end),
            }
            joined = self.fan_out.attach_again()?;
        }
    }

    /// Where the subscription starts. Where the push-node had to be asked, what it
    /// has from there on comes with the answer.
    async fn begin(
        &self,
        start: v1::StartPosition,
        shared: &Position,
    ) -> Result<(Reader, Option<CatchUp>), Status> {
        let mut reader = Reader::new(shared.clone(), self.filter.clone(), self.limit, self.seed);
        let mut read = None;
        match start.position {
            None | Some(v1::start_position::Position::Now(_)) => {}
            Some(v1::start_position::Position::Cursor(bytes)) => {
                let cursor = subscriber_cursor(&bytes)?;
                if cursor.namespace() != shared.cursor.namespace() {
                    let why = "the cursor is of another namespace";
                    return Err(refusal(Reason::CursorInvalid, why).into_status());
                }
                reader.start_at(cursor, Vec::new(), self.timer.now()).map_err(row_conflict)?;
            }
            Some(_) => {
                // The push-node knows what it holds: it names the cursor that
                // this start means.
                let (from_there, opened) = self.open(&reader, start, Vec::new()).await?;
                let Opened { cursor, rows, .. } = opened;
                reader.start_at(cursor, rows, self.timer.now()).map_err(row_conflict)?;
                read = Some(from_there);
            }
        }
        Ok((reader, read))
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
    /// until it is let go of or something has to be read again. `opened` reads from
    /// where the reader stands up to there, if that was opened already.
    async fn join(
        &self,
        reader: &mut Reader,
        told: &mut Told,
        mut joined: Attachment,
        opened: Option<CatchUp>,
        backoff: &mut Backoff,
    ) -> Result<(), End> {
        let unknown = reader.join(&joined.position, self.timer.now()).map_err(row_conflict)?;
        let gaps = unknown
            .into_iter()
            .map(|branch| delivery(v1::delivery::Event::Gap(unknown_branch(branch))))
            .collect();
        self.tell_news(reader, told, gaps, || {}).await?;
        if !self.catch_up(reader, told, opened).await? {
            return Ok(());
        }
        backoff.reset();
        self.go_along(reader, told, &mut joined).await
    }

    /// Reads from the push-node, up to the shared position, what the reader does
    /// not have. What the push-node does not have either is left for later. False
    /// when the subscriber did not read for so long that the read was ended.
    async fn catch_up(
        &self,
        reader: &mut Reader,
        told: &mut Told,
        opened: Option<CatchUp>,
    ) -> Result<bool, End> {
        let Some((start, held)) = reader.begin_alone() else { return Ok(true) };
        let mut read = opened;
        if read.is_none() || !held.is_empty() {
            let excluded = held.into_iter().map(|origin| origin.get()).collect();
            let (again, opened) = self.open(reader, from_cursor(&start), excluded).await?;
            reader.learn(opened.rows, self.timer.now()).map_err(row_conflict)?;
            read = Some(again);
        }
        let complete = loop {
            let Some(open) = &mut read else { return Ok(false) };
            match open.next().await? {
                Next::Items(rows, items) => {
                    let now = self.timer.now();
                    reader.learn(rows, now).map_err(row_conflict)?;
                    let deliveries = reader.take(&items, now);
                    drop(items);
                    self.tell_news(reader, told, deliveries, || read = None).await?;
                }
                Next::Waiting => break false,
                Next::Finished => break true,
            }
        };
        reader.end_alone(&start, complete, self.timer.now());
        Ok(true)
    }

    /// Goes along with the shared position. `Ok` when it has to join again.
    async fn go_along(
        &self,
        reader: &mut Reader,
        told: &mut Told,
        joined: &mut Attachment,
    ) -> Result<(), End> {
        let mut position_told = tokio::time::interval(POSITION_INTERVAL);
        let mut recheck = tokio::time::interval(RECHECK_INTERVAL);
        position_told.set_missed_tick_behavior(MissedTickBehavior::Delay);
        recheck.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                batch = self.fan_out.next(joined) => {
                    let Some(batch) = batch else { return Ok(()) };
                    let deliveries =
                        reader.follow(&batch, self.timer.now()).map_err(row_conflict)?;
                    drop(batch);
                    self.tell_news(reader, told, deliveries, || {}).await?;
                }
                () = self.fan_out.until_current(), if told.freshness.is_none() => {
                    self.tell_caught_up(reader, told).await?;
                }
                _ = position_told.tick() => {
                    let now = self.fan_out.freshness(self.timer.now());
                    if told.freshness.as_ref().is_some_and(|told| has_changed(told, &now)) {
                        self.tell_caught_up(reader, told).await?;
                    } else if reader.cursor() != told.cursor {
                        self.tell(reader, told, Vec::new(), || {}).await?;
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

    /// Tells that it has all that the gateway has, and how fresh that is.
    async fn tell_caught_up(&self, reader: &Reader, told: &mut Told) -> Result<(), End> {
        let origins = self.fan_out.freshness(self.timer.now());
        told.freshness = Some(origins.clone());
        let event = v1::DeliveredCaughtUp { origins };
        let caught_up = delivery(v1::delivery::Event::CaughtUp(event));
        self.tell(reader, told, vec![caught_up], || {}).await
    }

    /// Tells what is new, if anything is.
    async fn tell_news(
        &self,
        reader: &Reader,
        told: &mut Told,
        deliveries: Vec<v1::Delivery>,
        stalled: impl FnOnce(),
    ) -> Result<(), End> {
        if deliveries.is_empty() {
            return Ok(());
        }
        self.tell(reader, told, deliveries, stalled).await?;
        if reader.is_done() { Err(End::Done) } else { Ok(()) }
    }

    async fn tell(
        &self,
        reader: &Reader,
        told: &mut Told,
        deliveries: Vec<v1::Delivery>,
        stalled: impl FnOnce(),
    ) -> Result<(), End> {
        let gaps = deliveries.iter().filter(|delivery| is_gap(delivery)).count() as u64;
        self.metrics.gaps.add(gaps);
        if gaps > 0 && self.decline_gaps {
            let why = "messages after the cursor may be missing here, and gaps were declined";
            return Err(refusal(Reason::Trimmed, why).into_status().into());
        }
        let cursor = reader.cursor();
        told.cursor = cursor.clone();
        let messages = deliveries.iter().filter(|delivery| is_message(delivery)).count() as u64;
        self.metrics.delivered.add(messages);
        let response = v1::SubscribeResponse { deliveries, cursor };
        hand_over(&self.responses, Ok(response), stalled).await.map_err(|Gone| End::Done)
    }
}

/// Whether a session tries again by itself. Where there is no room for it, its
/// subscriber is told: another gateway may have some.
fn may_go_on(status: &Status) -> bool {
    !is_final(status) && reason_of(status) != Some(Reason::TooManyConnections)
}

/// Whether what was told of origins says too little of now: an origin went quiet,
/// or speaks again.
fn has_changed(told: &[v1::OriginFreshness], now: &[v1::OriginFreshness]) -> bool {
    now.iter().any(|now| {
        let told = told.iter().find(|told| told.origin == now.origin);
        let told = told.map_or(0, |told| told.last_heard_milliseconds);
        let least = told.min(now.last_heard_milliseconds);
        let most = told.max(now.last_heard_milliseconds);
        most >= STALE_ORIGIN_MILLISECONDS && most / 2 >= least
    })
}

fn is_message(delivery: &v1::Delivery) -> bool {
    matches!(delivery.event, Some(v1::delivery::Event::Message(_)))
}

fn is_gap(delivery: &v1::Delivery) -> bool {
    matches!(delivery.event, Some(v1::delivery::Event::Gap(_)))
}

fn moved() -> Status {
    let why = "this gateway stops: subscribe elsewhere with the newest cursor";
    refusal(Reason::Draining, why).retry_after(Duration::from_millis(100)).into_status()
}

#[cfg(test)]
mod tests {
    use interlock_core::clock::Moment;
    use interlock_core::cursor::Cursor;
    use interlock_core::identity::{MessageName, MessageNumber};
    use interlock_core::replication::rows::{Row, Rows};
    use interlock_rpc::convert::IntoWire as _;
    use interlock_rpc::v1::follow_response::Body;

    use super::*;
    use crate::fake_push_node::FakePushNode;
    use crate::samples::{NAMESPACE, fan_out, log};

    /// A namespace whose shared position is behind the third message.
    fn three_messages() -> FanOut {
        let row = Row { log: log(1, 11), parents: Vec::new() };
        let mut rows = Rows::new();
        rows.insert(row.clone()).expect("a consistent row");
        let mut cursor = Cursor::new(NAMESPACE);
        cursor.advance(MessageName { log: log(1, 11), m_id: MessageNumber::new(3) }, &rows);
        let fan_out = fan_out("demo");
        fan_out.open(NAMESPACE, cursor, vec![row]).expect("a consistent row");
        fan_out
    }

    struct Subscription {
        responses: mpsc::Receiver<Result<v1::SubscribeResponse, Status>>,
        fan_out: Arc<FanOut>,
        _draining: watch::Sender<bool>,
    }

    impl Subscription {
        fn start(fake: &FakePushNode, start: v1::start_position::Position) -> Self {
            let (sender, responses) = mpsc::channel(16);
            let (draining, is_draining) = watch::channel(false);
            let fan_out = Arc::new(three_messages());
            let session = SubscriberSession {
                gateway: "gateway".to_owned(),
                fan_out: Arc::clone(&fan_out),
                push_nodes: fake.nodes.clone(),
                metrics: fake.metrics.clone(),
                timer: Timer::start(),
                filter: ChannelFilter::default(),
                decline_gaps: false,
                limit: None,
                responses: sender,
                draining: is_draining,
                seed: 7,
            };
            let start = v1::StartPosition { position: Some(start) };
            tokio::spawn(session.run(start));
            Self { responses, fan_out, _draining: draining }
        }

        async fn until_caught_up(&mut self) -> v1::SubscribeResponse {
            loop {
                let response = self.responses.recv().await.expect("it goes on").expect("no error");
                let caught_up = |delivery: &v1::Delivery| {
                    matches!(delivery.event, Some(v1::delivery::Event::CaughtUp(_)))
                };
                if response.deliveries.iter().any(caught_up) {
                    return response;
                }
            }
        }
    }

    /// A start that the push-node has to resolve is read once: the read that
    /// resolved it brings what there is.
    #[tokio::test]
    async fn a_start_is_read_once() {
        let mut fake = FakePushNode::start().await;
        let start = v1::start_position::Position::Oldest(true);
        let mut subscription = Subscription::start(&fake, start);
        let read = fake.reads.recv().await.expect("a read");
        assert!(!read.request.until_cursor.is_empty());
        let sends = Vec::new();
        let log = Some(log(1, 11).into_wire());
        let run = v1::FollowRun { log, row: None, through: 3, sends };
        read.say(Body::Batch(v1::FollowBatch { runs: vec![run] })).await;
        read.say(Body::Finished(v1::FollowFinished::default())).await;
        subscription.fan_out.hear(Vec::new(), Vec::new(), Moment::START);
        let caught_up = subscription.until_caught_up().await;
        let position = subscription.fan_out.position().expect("open");
        assert_eq!(caught_up.cursor, position.encoded, "it stands at the shared position");
        assert!(fake.reads.try_recv().is_err(), "and needed no second read");
        // What is no message is not counted as one.
        assert_eq!(fake.metrics.delivered.get(), 0);
    }

    #[tokio::test]
    async fn nobody_is_told_to_have_caught_up_while_nothing_is_followed() {
        let fake = FakePushNode::start().await;
        let start = v1::start_position::Position::Now(true);
        let mut subscription = Subscription::start(&fake, start);
        subscription.responses.recv().await.expect("it goes on").expect("the position");
        // The position is told once more with each batch, and nothing else is.
        subscription.fan_out.publish(vec![crate::samples::run(log(1, 11), 4..=4)]);
        let response = subscription.responses.recv().await.expect("it goes on").expect("a message");
        let [v1::Delivery { event: Some(v1::delivery::Event::Message(_)) }] =
            response.deliveries.as_slice()
        else {
            panic!("one message, not {response:?}")
        };
        subscription.fan_out.hear(Vec::new(), Vec::new(), Moment::START);
        subscription.until_caught_up().await;
        assert_eq!(fake.metrics.delivered.get(), 1);
    }

    #[test]
    fn an_origin_that_goes_quiet_or_comes_back_is_told() {
        let heard = |milliseconds| {
            vec![v1::OriginFreshness {
                origin: 1,
                last_heard_milliseconds: milliseconds,
                ..Default::default()
            }]
        };
        assert!(!has_changed(&heard(200), &heard(9_000)));
        assert!(has_changed(&heard(200), &heard(11_000)));
        assert!(!has_changed(&heard(11_000), &heard(21_000)));
        assert!(has_changed(&heard(11_000), &heard(22_000)));
        assert!(has_changed(&heard(22_000), &heard(100)));
        assert!(has_changed(&[], &heard(3_600_000)));
    }
}
