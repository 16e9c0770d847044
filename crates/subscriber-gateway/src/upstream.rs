//! Follows one namespace at a push-node of the region: one copy of each message
//! for the whole gateway (METHOD M14). When the push-node is lost it goes on at
//! the next, from the shared position.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use interlock_core::clock::Moment;
use interlock_core::delivery::OriginNews;
use interlock_core::identity::{Incarnation, NodeNumber};
use interlock_rpc::channel::Backoff;
use interlock_rpc::{services, v1};
use tonic::Status;
use tracing::{debug, info, warn};

use crate::delivered::{Opened, channel_event, log_of_gap, opened, run_of, trace_delivery};
use crate::fan_out::{FanOut, Item, Timer};
use crate::metrics::GatewayMetrics;
use crate::push_nodes::{PushNodes, is_final};

/// What a namespace's upstream needs.
#[derive(Clone)]
pub(crate) struct Upstream {
    pub(crate) gateway: String,
    pub(crate) push_nodes: PushNodes,
    pub(crate) metrics: GatewayMetrics,
    pub(crate) timer: Timer,
    pub(crate) seed: u64,
}

impl Upstream {
    /// Runs until the namespace turns out not to be here, or the task is ended.
    pub(crate) async fn run(self, fan_out: Arc<FanOut>) {
        let mut backoff = Backoff::reconnect(self.seed);
        loop {
            let status = self.follow(&fan_out, &mut backoff).await;
            if is_final(&status) {
                info!(namespace = fan_out.namespace(), %status, "the namespace is not served here");
                fan_out.close(status);
                return;
            }
            debug!(namespace = fan_out.namespace(), %status, "following again");
            fan_out.delayed(&status);
            self.metrics.upstream_failures.increment();
            tokio::time::sleep(backoff.next_delay()).await;
        }
    }

    /// Follows at one push-node: why that is over.
    async fn follow(&self, fan_out: &FanOut, backoff: &mut Backoff) -> Status {
        let node = match self.push_nodes.current() {
            Ok(node) => node,
            Err(status) => return status,
        };
        let client = services::delivery::client(node.upstream.clone());
        let Err(status) = self.follow_at(fan_out, backoff, client).await;
        self.push_nodes.failed(&node, &status);
        status
    }

    async fn follow_at(
        &self,
        fan_out: &FanOut,
        backoff: &mut Backoff,
        mut client: services::delivery::Client<tonic::transport::Channel>,
    ) -> Result<Infallible, Status> {
        let start = match fan_out.position() {
            Some(position) => v1::start_position::Position::Cursor(position.encoded),
            None => v1::start_position::Position::Now(true),
        };
        let request = v1::FollowRequest {
            namespace: fan_out.namespace().to_owned(),
            start: Some(v1::StartPosition { position: Some(start) }),
            gateway: self.gateway.clone(),
            ..Default::default()
        };
        let mut stream = client.follow(request).await?.into_inner();
        while let Some(response) = stream.message().await? {
            match response.body {
                Some(v1::follow_response::Body::Opened(body)) => {
                    let Opened { namespace, cursor, rows } = opened(body)?;
                    fan_out.open(namespace, cursor, rows).map_err(row_conflict)?;
                    backoff.reset();
                }
                Some(v1::follow_response::Body::Batch(batch)) => self.take(fan_out, batch)?,
                Some(v1::follow_response::Body::ChannelEvent(event)) => {
                    fan_out.publish(vec![channel_event(event)?]);
                }
                Some(v1::follow_response::Body::Gap(gap)) => {
                    let log = log_of_gap(&gap)?;
                    fan_out.publish(vec![Item::Gap(log, gap)]);
                }
                Some(v1::follow_response::Body::Heartbeat(heartbeat)) => {
                    self.hear(fan_out, heartbeat)
                }
                Some(v1::follow_response::Body::Draining(_)) => {
                    return Err(Status::unavailable("the push-node drains"));
                }
                Some(v1::follow_response::Body::Finished(_)) | None => {}
            }
        }
        Err(Status::unavailable("the push-node ended the stream"))
    }

    fn take(&self, fan_out: &FanOut, batch: v1::FollowBatch) -> Result<(), Status> {
        let mut items = Vec::with_capacity(batch.runs.len());
        let mut messages = 0;
        for run in batch.runs {
            let run = run_of(run)?;
            if let Some(row) = run.row {
                fan_out.learn(row).map_err(row_conflict)?;
            }
            messages += run.messages.len();
            for message in &run.messages {
                trace_delivery(fan_out.namespace(), message);
            }
            items.push(Item::Run {
                log: run.log,
                from: None,
                through: run.through,
                messages: run.messages,
            });
        }
        self.metrics.upstream_messages.add(messages as u64);
        let slow = fan_out.publish(items);
        if slow > 0 {
            warn!(
                namespace = fan_out.namespace(),
                slow, "subscribers fell behind and read on alone"
            );
            self.metrics.fell_behind.add(slow as u64);
        }
        Ok(())
    }

    fn hear(&self, fan_out: &FanOut, heartbeat: v1::FollowHeartbeat) {
        let now = self.timer.now();
        let news = heartbeat
            .origins
            .iter()
            .filter_map(|origin| {
                let incarnation = Incarnation::new(origin.incarnation)?;
                let ago = Duration::from_millis(origin.introduced_milliseconds);
                let heard_at = Moment::new(now.since_start().saturating_sub(ago));
                Some(OriginNews { origin: NodeNumber::new(origin.origin), incarnation, heard_at })
            })
            .collect();
        fan_out.hear(heartbeat.origins, news, now);
    }
}

pub(crate) fn row_conflict(conflict: interlock_core::replication::rows::RowConflict) -> Status {
    Status::data_loss(format!("the push-node's rows differ from those known here: {conflict}"))
}
