//! How one subscriber reads: what of each piece is new to it, where it stands
//! after it, and whether it has to read something for itself.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use interlock_core::clock::Moment;
use interlock_core::cursor::Cursor;
use interlock_core::delivery::{ChannelFilter, OriginNews, ReaderPosition, Step, UnknownBranch};
use interlock_core::identity::{LogName, MessageName, MessageNumber, NodeNumber};
use interlock_core::names::ChannelName;
use interlock_core::replication::rows::{Row, RowConflict, Rows};
use interlock_rpc::channel::Backoff;
use interlock_rpc::v1;

use crate::fan_out::{Item, LiveMessage, Position, SharedBatch};

/// How long an origin is held back for a branch that is not known here, before a
/// gap is told. A row travels with the first frame of its log.
const UNKNOWN_BRANCH_PATIENCE: Duration = Duration::from_secs(5);
/// Between two looks for what the push-node did not have yet, at first …
const READ_AGAIN_LEAST: Duration = Duration::from_millis(500);
/// … and when nothing comes of it.
const READ_AGAIN_MOST: Duration = Duration::from_secs(8);

/// Where a subscription stands, and what it asked for.
pub(crate) struct Reader {
    position: ReaderPosition,
    /// The newest shared position it has gone along with.
    shared: Position,
    /// The rows known to it: the shared ones, and what it learned alone.
    rows: Arc<Rows>,
    filter: ChannelFilter,
    /// Messages until its limit.
    left: Option<u64>,
    /// When to read for itself what was left out of the shared order.
    read_again: Option<Moment>,
    patience: Backoff,
}

impl Reader {
    /// At the shared position.
    pub(crate) fn new(
        shared: Position,
        filter: ChannelFilter,
        limit: Option<u64>,
        seed: u64,
    ) -> Self {
        Self {
            position: ReaderPosition::shared(),
            rows: Arc::clone(&shared.rows),
            shared,
            filter,
            left: limit,
            read_again: None,
            patience: Backoff::new(READ_AGAIN_LEAST, READ_AGAIN_MOST, seed),
        }
    }

    /// Starts at a cursor, with the rows that came with it.
    pub(crate) fn start_at(
        &mut self,
        cursor: Cursor,
        rows: Vec<Row>,
        now: Moment,
    ) -> Result<(), RowConflict> {
        self.learn(rows, now)?;
        self.position =
            ReaderPosition::at(cursor, &self.filter, &self.rows, now, UNKNOWN_BRANCH_PATIENCE);
        Ok(())
    }

    /// The filter.
    pub(crate) const fn filter(&self) -> &ChannelFilter {
        &self.filter
    }

    /// Whether it stands at the shared position.
    pub(crate) const fn is_shared(&self) -> bool {
        self.position.is_shared()
    }

    /// Whether it has got as many messages as it asked for.
    pub(crate) fn is_done(&self) -> bool {
        self.left == Some(0)
    }

    /// Where it stands, as it is told.
    pub(crate) fn cursor(&self) -> Bytes {
        self.position.own().map_or_else(|| self.shared.encoded.clone(), Cursor::encode)
    }

    /// The shared position that it goes along with, as a push-node takes it.
    pub(crate) fn shared(&self) -> &Bytes {
        &self.shared.encoded
    }

    /// Joins the order at a shared position: the branches that have stayed
    /// unknown for too long, to be told.
    pub(crate) fn join(
        &mut self,
        shared: &Position,
        now: Moment,
    ) -> Result<Vec<UnknownBranch>, RowConflict> {
        // It left the queue, if ever, at the position it went along with last.
        if self.shared.encoded != shared.encoded {
            self.position.leave(&self.shared.cursor);
        }
        self.move_to(shared)?;
        self.position.rows_changed(&self.rows);
        let unknown = self.position.handle_timeout(now, &self.rows);
        self.meet();
        Ok(unknown)
    }

    /// Begins to read for itself: from where, and without which origins.
    pub(crate) fn begin_alone(&mut self) -> Option<(Cursor, Vec<NodeNumber>)> {
        let own = self.position.own()?.clone();
        self.read_again = None;
        Some((own, self.position.held_origins().collect()))
    }

    /// Has read what there is, from `start` on; not all that was asked for when
    /// the push-node does not have it (`complete`).
    pub(crate) fn end_alone(&mut self, start: &Cursor, complete: bool, now: Moment) {
        if complete || self.position.own() != Some(start) {
            self.patience.reset();
        }
        if !complete {
            self.lacks_something(now);
        }
        self.meet();
    }

    /// Takes rows that came with what it reads for itself.
    pub(crate) fn learn(
        &mut self,
        rows: impl IntoIterator<Item = Row>,
        now: Moment,
    ) -> Result<(), RowConflict> {
        for row in rows {
            if !self.rows.contains(&row.log) {
                Arc::make_mut(&mut self.rows).insert(row)?;
            }
        }
        if self.position.rows_changed(&self.rows) {
            self.read_again = Some(now);
        }
        Ok(())
    }

    /// Goes along with the shared order.
    pub(crate) fn follow(
        &mut self,
        batch: &SharedBatch,
        now: Moment,
    ) -> Result<Vec<v1::Delivery>, RowConflict> {
        if self.left.is_some() {
            // A limit may end in the middle of a batch, where the shared position
            // never stands.
            self.position.leave(&self.shared.cursor);
        }
        self.move_to(&batch.position)?;
        let deliveries = self.take(&batch.items, now);
        if !self.is_done() {
            self.meet();
        }
        Ok(deliveries)
    }

    /// What of these is new to it; it stands behind them then, unless its limit
    /// was reached before.
    pub(crate) fn take(&mut self, items: &[Item], now: Moment) -> Vec<v1::Delivery> {
        let mut deliveries = Vec::new();
        for item in items {
            match item {
                Item::Run { log, from, through, messages } => {
                    if from.is_none_or(|from| self.goes_on_at(log, from, now)) {
                        self.take_run(messages, &mut deliveries);
                        if self.is_done() {
                            break;
                        }
                        self.position.pass(log, *through, &self.rows);
                    }
                }
                Item::Event { name, from, channel, event } => {
                    if self.filter.matches(channel.as_str())
                        && name.is_none_or(|name| self.is_next(&name, *from, channel, now))
                    {
                        let event = v1::DeliveredChannelEvent { event: Some(event.clone()) };
                        deliveries.push(delivery(v1::delivery::Event::ChannelEvent(event)));
                    }
                }
                Item::Gap(log, gap) => {
                    let through = MessageName { log: *log, m_id: MessageNumber::new(gap.through) };
                    if self.goes_on_at(log, MessageNumber::new(gap.from), now)
                        && self.position.step_gap(&through, &self.rows) == Step::Deliver
                    {
                        deliveries.push(delivery(v1::delivery::Event::Gap(*gap)));
                        self.position.pass(log, through.m_id, &self.rows);
                    }
                }
            }
        }
        deliveries
    }

    /// Whether something that was left out can be read now.
    pub(crate) fn must_read_again(
        &mut self,
        shared: &Rows,
        news: &[OriginNews],
        now: Moment,
    ) -> Result<bool, RowConflict> {
        self.learn(shared.iter().cloned(), now)?;
        let mut again = self.position.poll_timeout().is_some_and(|until| until <= now);
        for news in news {
            again |= self.position.heard(news);
        }
        Ok(again || self.read_again.is_some_and(|at| at <= now))
    }

    fn take_run(&mut self, messages: &[LiveMessage], deliveries: &mut Vec<v1::Delivery>) {
        for LiveMessage { name, channel, delivered, .. } in messages {
            let wanted = self.filter.matches(channel.as_str())
                && self.position.step(name, channel, &self.rows) == Step::Deliver;
            if !wanted {
                continue;
            }
            deliveries.push(delivery(v1::delivery::Event::Message(delivered.clone())));
            if let Some(left) = &mut self.left {
                *left -= 1;
                if *left == 0 {
                    self.position.pass(&name.log, name.m_id, &self.rows);
                    return;
                }
            }
        }
    }

    /// Whether a log's shared order goes on where the reader stands. If not, it
    /// reads again later what lies between.
    fn goes_on_at(&mut self, log: &LogName, from: MessageNumber, now: Moment) -> bool {
        let goes_on = self.position.follows_on(log, from, &self.rows);
        if !goes_on {
            self.lacks_something(now);
        }
        goes_on
    }

    /// Whether the message of an event is new to the reader, who has all that
    /// comes before it in its log. If not, it is told with those, or was told.
    fn is_next(
        &mut self,
        name: &MessageName,
        from: Option<MessageNumber>,
        channel: &ChannelName,
        now: Moment,
    ) -> bool {
        self.position.step(name, channel, &self.rows) == Step::Deliver
            && from.is_none_or(|from| self.goes_on_at(&name.log, from, now))
    }

    fn lacks_something(&mut self, now: Moment) {
        if self.read_again.is_none() {
            self.read_again = Some(now + self.patience.next_delay());
        }
    }

    fn move_to(&mut self, shared: &Position) -> Result<(), RowConflict> {
        if self.position.is_shared() {
            self.rows = Arc::clone(&shared.rows);
        } else if !Arc::ptr_eq(&self.shared.rows, &shared.rows) {
            for row in shared.rows.iter() {
                if !self.rows.contains(&row.log) {
                    Arc::make_mut(&mut self.rows).insert(row.clone())?;
                }
            }
        }
        self.shared = shared.clone();
        Ok(())
    }

    fn meet(&mut self) {
        self.position.meet(&self.shared.cursor, &self.rows);
    }
}

/// An event on its way to a subscriber.
pub(crate) fn delivery(event: v1::delivery::Event) -> v1::Delivery {
    v1::Delivery { event: Some(event) }
}

#[cfg(test)]
mod tests {
    use interlock_core::identity::{ChainHash, Incarnation, ParentPoint};

    use super::*;
    use crate::fan_out::{Attachment, FanOut};
    use crate::live_queue::Taken;
    use crate::samples::{NAMESPACE, fan_out, log, run};

    fn row(log: LogName, parent: Option<(u64, u64)>) -> Row {
        let parents = parent
            .map(|(incarnation, m_id)| ParentPoint {
                incarnation: Incarnation::new(incarnation).expect("not zero"),
                m_id: MessageNumber::new(m_id),
                hash: ChainHash::EMPTY,
            })
            .into_iter()
            .collect();
        Row { log, parents }
    }

    fn rows() -> Vec<Row> {
        vec![row(log(1, 11), None), row(log(2, 21), None)]
    }

    fn known(list: Vec<Row>) -> Rows {
        let mut rows = Rows::new();
        for row in list {
            rows.insert(row).expect("a consistent row");
        }
        rows
    }

    fn cursor(tips: &[(LogName, u64)]) -> Cursor {
        let mut cursor = Cursor::new(NAMESPACE);
        for (log, m_id) in tips {
            let name = MessageName { log: *log, m_id: MessageNumber::new(*m_id) };
            cursor.advance(name, &known(rows()));
        }
        cursor
    }

    fn numbers(deliveries: &[v1::Delivery]) -> Vec<u64> {
        deliveries
            .iter()
            .filter_map(|delivery| match &delivery.event {
                Some(v1::delivery::Event::Message(message)) => Some(message.epoch),
                _ => None,
            })
            .collect()
    }

    /// A namespace whose shared position is `at`, and a reader who starts at
    /// `from`.
    async fn joined(
        at: &[(LogName, u64)],
        from: &[(LogName, u64)],
        limit: Option<u64>,
    ) -> (FanOut, Attachment, Reader) {
        let fan_out = fan_out("demo");
        fan_out.open(NAMESPACE, cursor(at), rows()).expect("consistent rows");
        let attachment = fan_out.attach().await.expect("open");
        let mut reader =
            Reader::new(attachment.position.clone(), ChannelFilter::default(), limit, 7);
        reader.start_at(cursor(from), Vec::new(), Moment::START).expect("consistent rows");
        let unknown = reader.join(&attachment.position, Moment::START).expect("consistent rows");
        assert!(unknown.is_empty());
        (fan_out, attachment, reader)
    }

    fn follow(fan_out: &FanOut, attachment: &Attachment, reader: &mut Reader) -> Vec<u64> {
        let Some(Taken::Batch(batch)) = fan_out.try_next(attachment) else { panic!("a batch") };
        numbers(&reader.follow(&batch, Moment::START).expect("consistent rows"))
    }

    #[tokio::test]
    async fn a_limit_inside_a_batch_leaves_the_cursor_at_the_last_message() {
        let (fan_out, attachment, mut reader) =
            joined(&[(log(1, 11), 3)], &[(log(1, 11), 3)], Some(2)).await;
        fan_out.publish(vec![run(log(1, 11), 4..=7), run(log(2, 21), 1..=1)]);
        assert_eq!(follow(&fan_out, &attachment, &mut reader), [4, 5]);
        assert!(reader.is_done());
        let told = Cursor::decode(&reader.cursor()).expect("a cursor");
        assert_eq!(told, cursor(&[(log(1, 11), 5)]));
    }

    #[tokio::test]
    async fn a_reader_ahead_is_told_nothing_twice_and_joins() {
        let (fan_out, attachment, mut reader) =
            joined(&[(log(1, 11), 3)], &[(log(1, 11), 5)], None).await;
        fan_out.publish(vec![run(log(1, 11), 4..=6)]);
        assert_eq!(follow(&fan_out, &attachment, &mut reader), [6]);
        assert!(reader.is_shared());
    }

    /// The push-node has lost, or has not yet, what the shared position covers:
    /// everything else goes on, and nothing is covered that was not shown.
    #[tokio::test]
    async fn what_the_push_node_does_not_have_holds_up_its_log_alone() {
        let (fan_out, attachment, mut reader) =
            joined(&[(log(1, 11), 100)], &[(log(1, 11), 50)], None).await;
        let (start, excluded) = reader.begin_alone().expect("a position of its own");
        assert!(excluded.is_empty());
        reader.take(&[run(log(1, 11), 51..=60)], Moment::START);
        reader.end_alone(&start, false, Moment::START);

        fan_out.publish(vec![run(log(1, 11), 101..=102), run(log(2, 21), 1..=2)]);
        assert_eq!(follow(&fan_out, &attachment, &mut reader), [1, 2]);
        let told = Cursor::decode(&reader.cursor()).expect("a cursor");
        assert_eq!(told, cursor(&[(log(1, 11), 60), (log(2, 21), 2)]));
        assert!(!reader.is_shared());

        let soon = Moment::START + READ_AGAIN_LEAST;
        let rows = known(rows());
        assert!(reader.must_read_again(&rows, &[], soon).expect("consistent rows"));
        // It has them now: the reader catches up and joins.
        let (start, _) = reader.begin_alone().expect("a position of its own");
        let read = reader.take(&[run(log(1, 11), 61..=102)], soon);
        assert_eq!(numbers(&read), (61..=102).collect::<Vec<_>>());
        reader.end_alone(&start, true, soon);
        assert!(reader.is_shared());
    }

    /// The origin comes back without the end of what it had said, and goes on
    /// under a new opening: nobody waits for what is lost.
    #[tokio::test]
    async fn a_lost_end_of_a_log_does_not_hold_up_the_next_opening() {
        let (fan_out, attachment, mut reader) =
            joined(&[(log(1, 11), 100)], &[(log(1, 11), 50)], None).await;
        let (start, _) = reader.begin_alone().expect("a position of its own");
        reader.take(&[run(log(1, 11), 51..=90)], Moment::START);
        reader.end_alone(&start, false, Moment::START);
        fan_out.learn(row(log(1, 12), Some((11, 90)))).expect("a consistent row");
        fan_out.publish(vec![run(log(1, 12), 91..=92)]);
        assert_eq!(follow(&fan_out, &attachment, &mut reader), [91, 92]);
    }

    #[tokio::test]
    async fn a_row_that_comes_with_a_read_ends_holding_back() {
        let fan_out = fan_out("demo");
        fan_out.open(NAMESPACE, cursor(&[]), rows()).expect("consistent rows");
        let attachment = fan_out.attach().await.expect("open");
        let mut reader =
            Reader::new(attachment.position.clone(), ChannelFilter::default(), None, 7);
        let from = cursor(&[(log(1, 12), 95)]);
        reader.start_at(from, Vec::new(), Moment::START).expect("consistent rows");
        let (_, excluded) = reader.begin_alone().expect("a position of its own");
        assert_eq!(excluded, [NodeNumber::new(1)]);
        reader.learn([row(log(1, 12), Some((11, 90)))], Moment::START).expect("a row");
        let rows = known(rows());
        assert!(reader.must_read_again(&rows, &[], Moment::START).expect("consistent rows"));
        let read = [run(log(1, 11), 1..=90), run(log(1, 12), 91..=96)];
        assert_eq!(numbers(&reader.take(&read, Moment::START)), [96]);
    }

    fn deletion(log: LogName, m_id: u64) -> Item {
        let name = MessageName { log, m_id: MessageNumber::new(m_id) };
        let event = v1::ChannelEvent { channel: "news".to_owned(), ..Default::default() };
        let channel = ChannelName::parse("news").expect("a name");
        Item::Event { name: Some(name), from: None, channel, event }
    }

    fn told_events(deliveries: &[v1::Delivery]) -> usize {
        let is_event = |delivery: &&v1::Delivery| {
            matches!(delivery.event, Some(v1::delivery::Event::ChannelEvent(_)))
        };
        deliveries.iter().filter(is_event).count()
    }

    /// A reader who is behind is told of a deletion behind the messages that come
    /// before it, and once.
    #[tokio::test]
    async fn a_channel_event_keeps_its_place_among_the_messages() {
        let (fan_out, attachment, mut reader) =
            joined(&[(log(1, 11), 100)], &[(log(1, 11), 50)], None).await;
        let (start, _) = reader.begin_alone().expect("a position of its own");
        reader.end_alone(&start, false, Moment::START);
        fan_out.publish(vec![deletion(log(1, 11), 101)]);
        fan_out.publish(vec![run(log(1, 11), 102..=102)]);
        for _ in 0..2 {
            let Some(Taken::Batch(batch)) = fan_out.try_next(&attachment) else { panic!("two") };
            let told = reader.follow(&batch, Moment::START).expect("consistent rows");
            assert!(told.is_empty(), "not before what comes before it: {told:?}");
        }
        // It reads alone, and is told in order.
        reader.begin_alone().expect("a position of its own");
        let read =
            [run(log(1, 11), 51..=100), deletion(log(1, 11), 101), run(log(1, 11), 102..=102)];
        let told = reader.take(&read, Moment::START);
        assert_eq!((told.len(), told_events(&told)), (52, 1));
        assert_eq!(told_events(&told[50..51]), 1, "behind the messages before it");
        assert_eq!(told_events(&reader.take(&read, Moment::START)), 0, "and once");
    }

    #[tokio::test]
    async fn an_event_of_a_held_back_origin_waits_with_its_messages() {
        let fan_out = fan_out("demo");
        fan_out.open(NAMESPACE, cursor(&[]), rows()).expect("consistent rows");
        let attachment = fan_out.attach().await.expect("open");
        let mut reader =
            Reader::new(attachment.position.clone(), ChannelFilter::default(), None, 7);
        let from = cursor(&[(log(1, 12), 95)]);
        reader.start_at(from, Vec::new(), Moment::START).expect("consistent rows");
        let told = reader.take(&[deletion(log(1, 11), 3)], Moment::START);
        assert!(told.is_empty(), "{told:?}");
        let told = reader.take(&[deletion(log(2, 21), 1)], Moment::START);
        assert_eq!(told_events(&told), 1, "the others are told");
    }
}
