//! `ReadHistory`: what is stored of some channels, up to the moment of the call.

use interlock_core::cursor::Cursor;
use interlock_core::delivery::ChannelFilter;
use interlock_core::identity::{LogName, MessageName, MessageNumber};
use interlock_core::replication::rows::Rows;
use interlock_rpc::v1;
use tokio::sync::mpsc;
use tonic::Status;

use crate::catch_up::{CatchUp, Next, Until};
use crate::fan_out::{Item, LiveMessage};
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
        crate::delivered::subscriber_cursor(bytes)?;
    }
    let start = match request.start {
        Some(v1::StartPosition { position: Some(position) }) => position,
        _ => v1::start_position::Position::Oldest(true),
    };
    let start = v1::StartPosition { position: Some(start) };
    let (mut read, opened) = CatchUp::open(
        push_nodes,
        gateway,
        &request.namespace,
        filter,
        start,
        Until::Now,
        Vec::new(),
    )
    .await?;
    let mut left = match request.limit {
        0 => DEFAULT_LIMIT,
        limit => limit,
    };
    let mut rows = Rows::new();
    for row in opened.rows {
        rows.insert(row).map_err(row_conflict)?;
    }
    let mut cursor = opened.cursor;
    loop {
        match read.next().await? {
            Next::Finished => {
                let last =
                    v1::ReadHistoryResponse { cursor: cursor.encode(), ..Default::default() };
                let _ = responses.send(Ok(last)).await;
                return Ok(());
            }
            Next::Items(new_rows, items) => {
                for row in new_rows {
                    rows.insert(row).map_err(row_conflict)?;
                }
                let mut response = v1::ReadHistoryResponse::default();
                let cut = take(items, &mut left, &mut cursor, &rows, &mut response);
                response.cursor = cursor.encode();
                response.more = cut;
                if responses.send(Ok(response)).await.is_err() || cut {
                    return Ok(());
                }
            }
        }
    }
}

/// Moves messages into `response` until `left` is used up; true when something
/// was left behind.
fn take(
    items: Vec<Item>,
    left: &mut u32,
    cursor: &mut Cursor,
    rows: &Rows,
    response: &mut v1::ReadHistoryResponse,
) -> bool {
    for item in items {
        match item {
            Item::Run { log, through, messages } => {
                for LiveMessage { name, delivered, .. } in messages {
                    if *left == 0 {
                        return true;
                    }
                    *left -= 1;
                    response.messages.push(delivered);
                    pass(cursor, &log, name.m_id, rows);
                }
                pass(cursor, &log, through, rows);
            }
            Item::Gap(log, gap) => {
                pass(cursor, &log, MessageNumber::new(gap.through), rows);
                response.gaps.push(gap);
            }
            Item::Event(_) => {}
        }
    }
    false
}

fn pass(cursor: &mut Cursor, log: &LogName, through: MessageNumber, rows: &Rows) {
    let name = MessageName { log: *log, m_id: through };
    if through > MessageNumber::ZERO && !cursor.covers(&name, rows) {
        cursor.advance(name, rows);
    }
}
