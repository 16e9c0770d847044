//! A reader of its own: reads what lies between a subscriber's position and the
//! shared one from the push-node, which has it on disk.

use std::time::Duration;

use bytes::Bytes;
use interlock_core::cursor::Cursor;
use interlock_core::delivery::ChannelFilter;
use interlock_core::replication::rows::Row;
use interlock_rpc::{services, v1};
use tonic::{Status, Streaming};

use crate::delivered::{Opened, Run, channel_event, log_of_gap, opened, run_of};
use crate::fan_out::Item;
use crate::push_nodes::{PushNode, PushNodes};
use crate::stream_slots::StreamSlot;

/// How long a push-node may take to resolve a start; `last n` of a seldom channel
/// is looked for in all of its logs.
const OPENING_PATIENCE: Duration = Duration::from_secs(30);

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
    _slot: StreamSlot,
}

impl CatchUp {
    /// Opens a read; the start, resolved, comes with it. Refused when the gateway
    /// has as many reads as it takes.
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
        let slot = node.reads.slot().await?;
        let mut client = services::delivery::client(slot.channel.clone());
        let first = async {
            let mut stream = client.follow(request).await?.into_inner();
            let first = stream.message().await?.and_then(|response| response.body);
            let Some(v1::follow_response::Body::Opened(body)) = first else {
                return Err(Status::unavailable("the push-node did not open the read"));
            };
            Ok((stream, opened(body)?))
        };
        let first = tokio::time::timeout(OPENING_PATIENCE, first).await.unwrap_or_else(|_| {
            Err(Status::unavailable("the push-node did not open the read in time"))
        });
        match first {
            Ok((stream, opened)) => {
                Ok((Self { push_nodes: push_nodes.clone(), node, stream, _slot: slot }, opened))
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
                    return Ok(Next::Items(Vec::new(), vec![channel_event(event)?]));
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

#[cfg(test)]
mod tests {
    use interlock_rpc::status::{Reason, reason_of};

    use super::*;
    use crate::fake_push_node::{FakePushNode, STREAMS};

    /// Readers that stay for ever fill no connection that others need, and who
    /// comes after them is told so.
    #[tokio::test]
    async fn reads_that_never_end_are_bounded_and_in_nobodys_way() {
        let mut fake = FakePushNode::start().await;
        let nodes = fake.nodes.clone();
        let open = async || {
            let (filter, start) = (ChannelFilter::default(), v1::StartPosition::default());
            let until = Until::Now;
            CatchUp::open(&nodes, "gateway", "demo", &filter, start, until, Vec::new()).await
        };
        let mut reads = Vec::new();
        for _ in 0..2 * STREAMS {
            reads.push(open().await.expect("there is room").0);
        }
        let Err(refused) = open().await else { panic!("there is no room") };
        assert_eq!(reason_of(&refused), Some(Reason::TooManyConnections), "{refused}");
        let upstream = nodes.current().expect("a node").upstream;
        let mut shared = services::delivery::client(upstream);
        let shared = shared.follow(v1::FollowRequest::default()).await;
        shared.expect("what is shared goes through");
        // Whoever goes makes room, at the push-node too.
        let first = fake.reads.recv().await.expect("the first read");
        reads.clear();
        first.ended().await;
        open().await.expect("there is room again");
    }
}
