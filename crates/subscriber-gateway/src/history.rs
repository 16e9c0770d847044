//! `ReadHistory`: what is stored of some channels, up to the moment of the call.

use std::time::Duration;

use interlock_core::clock::Moment;
use interlock_core::cursor::Cursor;
use interlock_core::delivery::{ChannelFilter, ReaderPosition, Step};
use interlock_core::identity::{LogName, MessageNumber};
use interlock_core::replication::rows::{Row, Rows};
use interlock_rpc::v1;
use tokio::sync::mpsc;
use tonic::Status;

use crate::catch_up::{CatchUp, Next, Until, from_cursor};
use crate::delivered::{subscriber_cursor, unknown_branch};
use crate::fan_out::{Item, LiveMessage};
use crate::hand_over::hand_over;
use crate::push_nodes::PushNodes;
use crate::upstream::row_conflict;

/// How many messages one read brings unless it asks for another number.
const DEFAULT_LIMIT: u32 = 1000;

type Responses = mpsc::Sender<Result<v1::ReadHistoryResponse, Status>>;

/// Reads until the limit or the end; every response's cursor goes on after it.
pub(crate) async fn read(
    push_nodes: PushNodes,
    gateway: String,
    request: v1::ReadHistoryRequest,
    filter: ChannelFilter,
    responses: Responses,
) {
    if let Err(status) = read_all(&push_nodes, &gateway, request, &filter, &responses).await {
        // A reader that is gone needs no answer.
        let _ = responses.send(Err(status)).await;
    }
}

async fn read_all(
    push_nodes: &PushNodes,
    gateway: &str,
    request: v1::ReadHistoryRequest,
    filter: &ChannelFilter,
    responses: &Responses,
) -> Result<(), Status> {
    if let Some(v1::start_position::Position::Cursor(bytes)) =
        request.start.as_ref().and_then(|start| start.position.as_ref())
    {
        subscriber_cursor(bytes)?;
    }
    let start = match request.start {
        Some(v1::StartPosition { position: Some(position) }) => position,
        _ => v1::start_position::Position::Oldest(true),
    };
    let start = v1::StartPosition { position: Some(start) };
    let (read, opened) = CatchUp::open(
        push_nodes,
        gateway,
        &request.namespace,
        filter,
        start,
        Until::Now,
        Vec::new(),
    )
    .await?;
    let mut rows = Rows::new();
    for row in opened.rows {
        rows.insert(row).map_err(row_conflict)?;
    }
    // What the push-node does not know by now, it is not asked for again.
    let now = Moment::START;
    let mut position = ReaderPosition::at(opened.cursor, filter, &rows, now, Duration::ZERO);
    let unknown = position.handle_timeout(now, &rows);
    let left = if request.limit == 0 { DEFAULT_LIMIT } else { request.limit };
    let mut history = History { position, rows, left };
    if !unknown.is_empty() {
        let gaps = unknown.into_iter().map(unknown_branch).collect();
        let first = v1::ReadHistoryResponse { gaps, ..history.response() };
        if responses.send(Ok(first)).await.is_err() {
            return Ok(());
        }
    }
    let mut read = Some(read);
    loop {
        let Some(open) = &mut read else {
            // It did not read for long, and now goes on where it stands.
            let start = history.position.own().map(from_cursor).unwrap_or_default();
            let (again, opened) = CatchUp::open(
                push_nodes,
                gateway,
                &request.namespace,
                filter,
                start,
                Until::Now,
                Vec::new(),
            )
            .await?;
            history.learn(opened.rows)?;
            read = Some(again);
            continue;
        };
        let (response, is_last) = match open.next().await? {
            Next::Finished => (history.response(), true),
            Next::Waiting => continue,
            Next::Items(rows, items) => {
                let response = history.take(rows, items)?;
                let is_last = response.more;
                (response, is_last)
            }
        };
        let handed = hand_over(responses, Ok(response), || read = None).await;
        if handed.is_err() || is_last {
            return Ok(());
        }
    }
}

/// Where one read stands.
struct History {
    position: ReaderPosition,
    rows: Rows,
    /// Messages until its limit.
    left: u32,
}

impl History {
    /// Nothing but the position.
    fn response(&self) -> v1::ReadHistoryResponse {
        let cursor = self.position.own().map(Cursor::encode).unwrap_or_default();
        v1::ReadHistoryResponse { cursor, ..Default::default() }
    }

    fn learn(&mut self, rows: Vec<Row>) -> Result<(), Status> {
        for row in rows {
            self.rows.insert(row).map_err(row_conflict)?;
        }
        Ok(())
    }

    /// What to answer of what has been read; `more` when the limit cut it off.
    fn take(
        &mut self,
        rows: Vec<Row>,
        items: Vec<Item>,
    ) -> Result<v1::ReadHistoryResponse, Status> {
        self.learn(rows)?;
        let (mut messages, mut gaps) = (Vec::new(), Vec::new());
        let mut more = false;
        for item in items {
            match item {
                Item::Run { log, through, messages: of_run, .. } => {
                    more = self.take_run(&log, of_run, &mut messages);
                    if more {
                        break;
                    }
                    self.position.pass(&log, through, &self.rows);
                }
                Item::Gap(log, gap) => {
                    self.position.pass(&log, MessageNumber::new(gap.through), &self.rows);
                    gaps.push(gap);
                }
                Item::Event { .. } => {}
            }
        }
        Ok(v1::ReadHistoryResponse { messages, gaps, more, ..self.response() })
    }

    /// True when the limit left something of the run behind.
    fn take_run(
        &mut self,
        log: &LogName,
        of_run: Vec<LiveMessage>,
        messages: &mut Vec<v1::DeliveredMessage>,
    ) -> bool {
        for LiveMessage { name, channel, delivered, .. } in of_run {
            if self.position.step(&name, &channel, &self.rows) != Step::Deliver {
                continue;
            }
            if self.left == 0 {
                return true;
            }
            self.left -= 1;
            messages.push(delivered);
            self.position.pass(log, name.m_id, &self.rows);
        }
        false
    }
}

#[cfg(test)]
mod tests {
    use interlock_core::identity::MessageName;

    use super::*;
    use crate::samples::{NAMESPACE, log, run};

    fn history(cursor: Cursor, left: u32) -> History {
        let mut rows = Rows::new();
        rows.insert(Row { log: log(1, 11), parents: Vec::new() }).expect("a consistent row");
        let filter = ChannelFilter::default();
        let position = ReaderPosition::at(cursor, &filter, &rows, Moment::START, Duration::ZERO);
        History { position, rows, left }
    }

    fn numbers(response: &v1::ReadHistoryResponse) -> Vec<u64> {
        response.messages.iter().map(|message| message.epoch).collect()
    }

    #[test]
    fn a_limit_in_the_middle_of_a_run_leaves_the_cursor_there() {
        let mut first = history(Cursor::new(NAMESPACE), 2);
        let response = first.take(Vec::new(), vec![run(log(1, 11), 1..=4)]).expect("taken");
        assert_eq!((numbers(&response), response.more), (vec![1, 2], true));
        let cursor = Cursor::decode(&response.cursor).expect("a cursor");
        let mut second = history(cursor, 2);
        let response = second.take(Vec::new(), vec![run(log(1, 11), 1..=4)]).expect("taken");
        assert_eq!((numbers(&response), response.more), (vec![3, 4], false));
    }

    #[test]
    fn a_branch_that_is_not_known_repeats_nothing() {
        let mut elsewhere = Rows::new();
        elsewhere.insert(Row { log: log(1, 12), parents: Vec::new() }).expect("a consistent row");
        let mut cursor = Cursor::new(NAMESPACE);
        cursor.advance(MessageName { log: log(1, 12), m_id: MessageNumber::new(3) }, &elsewhere);
        let mut history = history(cursor, 10);
        assert_eq!(history.position.handle_timeout(Moment::START, &history.rows).len(), 1);
        let response = history.take(Vec::new(), vec![run(log(1, 11), 1..=5)]).expect("taken");
        assert_eq!(numbers(&response), [4, 5]);
    }
}
