//! A reader of its own: reads what lies between a subscriber's position and the
//! shared one from the push-node, which has it on disk.

use bytes::Bytes;
use interlock_core::cursor::Cursor;
use interlock_core::delivery::ChannelFilter;
use interlock_core::replication::rows::Row;
use interlock_rpc::{services, v1};
use tonic::{Status, Streaming};

use crate::delivered::{Opened, Run, log_of_gap, opened, run_of};
use crate::fan_out::Item;
use crate::push_nodes::{PushNode, PushNodes};

/// Where reading ends.
pub(crate) enum Until {
    /// At this coverage: the shared position when the reader joined.
    Cursor(Bytes),
    /// At what is durable at the push-node now.
    Now,
}

/// What comes next of a read.
pub(crate) enum Next {
    /// Rows that may be new, and what to deliver.
    Items(Vec<Row>, Vec<Item>),
    /// The push-node has shown all it has, and that is not all that was asked for.
    Waiting,
    /// All has been read.
    Finished,
}

/// A read in progress.
pub(crate) struct CatchUp {
    push_nodes: PushNodes,
    node: PushNode,
    stream: Streaming<v1::FollowResponse>,
}

impl CatchUp {
    /// Opens a read; the start, resolved, comes with it.
    pub(crate) async fn open(
        push_nodes: &PushNodes,
        gateway: &str,
        namespace: &str,
        filter: &ChannelFilter,
        start: v1::StartPosition,
        until: Until,
        excluded_origins: Vec<u32>,
    ) -> Result<(Self, Opened), Status> {
        let node = push_nodes.current()?;
        let (until_cursor, until_now) = match until {
            Until::Cursor(cursor) => (cursor, false),
            Until::Now => (Bytes::new(), true),
        };
        let request = v1::FollowRequest {
            namespace: namespace.to_owned(),
            start: Some(start),
            channels: filter.to_patterns(),
            until_cursor,
            until_now,
            gateway: gateway.to_owned(),
            excluded_origins,
        };
        let mut client = services::delivery::client(node.reads.clone());
        let first = async {
            let mut stream = client.follow(request).await?.into_inner();
            let first = stream.message().await?.and_then(|response| response.body);
            let Some(v1::follow_response::Body::Opened(body)) = first else {
                return Err(Status::unavailable("the push-node did not open the read"));
            };
            Ok((stream, opened(body)?))
        };
        match first.await {
            Ok((stream, opened)) => {
                Ok((Self { push_nodes: push_nodes.clone(), node, stream }, opened))
            }
            Err(status) => {
                push_nodes.failed(&node, &status);
                Err(status)
            }
        }
    }

    /// What comes next.
    pub(crate) async fn next(&mut self) -> Result<Next, Status> {
        loop {
            let response = match self.stream.message().await {
                Ok(Some(response)) => response,
                Ok(None) => return Err(Status::unavailable("the push-node ended the read")),
                Err(status) => {
                    self.push_nodes.failed(&self.node, &status);
                    return Err(status);
                }
            };
            match response.body {
                Some(v1::follow_response::Body::Batch(batch)) => return items(batch),
                Some(v1::follow_response::Body::Gap(gap)) => {
                    let log = log_of_gap(&gap)?;
                    return Ok(Next::Items(Vec::new(), vec![Item::Gap(log, gap)]));
                }
                Some(v1::follow_response::Body::ChannelEvent(event)) => {
                    return Ok(Next::Items(Vec::new(), vec![Item::Event(event)]));
                }
                Some(v1::follow_response::Body::Finished(_)) => return Ok(Next::Finished),
                Some(v1::follow_response::Body::Draining(_)) => {
                    let status = Status::unavailable("the push-node drains");
                    self.push_nodes.failed(&self.node, &status);
                    return Err(status);
                }
                Some(v1::follow_response::Body::Heartbeat(_)) => return Ok(Next::Waiting),
                Some(v1::follow_response::Body::Opened(_)) | None => {}
            }
        }
    }
}

fn items(batch: v1::FollowBatch) -> Result<Next, Status> {
    let mut rows = Vec::new();
    let mut items = Vec::with_capacity(batch.runs.len());
    for run in batch.runs {
        let Run { log, row, through, messages } = run_of(run)?;
        rows.extend(row);
        items.push(Item::Run { log, from: None, through, messages });
    }
    Ok(Next::Items(rows, items))
}

/// Going on from a cursor.
pub(crate) fn from_cursor(cursor: &Cursor) -> v1::StartPosition {
    v1::StartPosition { position: Some(v1::start_position::Position::Cursor(cursor.encode())) }
}
