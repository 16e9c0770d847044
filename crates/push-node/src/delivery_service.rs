//! `DeliveryService`: one stream per follower, each with a task of its own.

use std::collections::BTreeSet;
use std::sync::Arc;

use interlock_core::cursor::Cursor;
use interlock_core::identity::{NamespaceNumber, NodeNumber};
use interlock_rpc::convert::InvalidField;
use interlock_rpc::convert::delivery::{StartPosition, channel_filter, start_position};
use interlock_rpc::services::delivery::Service;
use interlock_rpc::status::{Reason, refusal};
use interlock_rpc::v1;
use interlock_rpc::v1::start_position::Position;
use tokio::sync::{Semaphore, mpsc};
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Response, Status};

use crate::context::NodeContext;
use crate::delivery_feed::{FeedRequest, FeedSources, Until, run_feed};
use crate::follow_start::MAX_LAST_MESSAGES;

/// Responses made ahead of a reader; each is at most about a batch.
const RESPONSES_AHEAD: usize = 4;

/// Serves gateways.
#[derive(Clone)]
pub struct DeliveryServer {
    context: Arc<NodeContext>,
    followers: Arc<Semaphore>,
}

impl DeliveryServer {
    /// Serves at most as many followers as the limits say.
    pub fn new(context: Arc<NodeContext>) -> Self {
        let followers = Arc::new(Semaphore::new(context.config.limits.max_followers));
        Self { context, followers }
    }
}

#[tonic::async_trait]
impl Service for DeliveryServer {
    type FollowStream = ReceiverStream<Result<v1::FollowResponse, Status>>;

    async fn follow(
        &self,
        request: Request<v1::FollowRequest>,
    ) -> Result<Response<Self::FollowStream>, Status> {
        let context = &self.context;
        context.check_serving()?;
        let request = request.into_inner();
        let gateway = request.gateway.clone();
        let namespace = context.member_namespace(&request.namespace)?;
        let request = feed_request(namespace.number, request)?;
        let permit = Arc::clone(&self.followers).try_acquire_owned().map_err(|_| {
            refusal(Reason::TooManyConnections, "this node has as many followers as it takes")
        })?;
        let sources = FeedSources {
            durable: Arc::clone(&context.durable),
            storage: Arc::clone(&context.storage),
            directory: context.directories.namespace(namespace.number),
            news: Arc::clone(&context.news),
            metrics: context.metrics.clone(),
            node: context.name().to_string(),
            draining: context.draining.subscribe(),
        };
        let (sender, receiver) = mpsc::channel(RESPONSES_AHEAD);
        let guard = context.gateways.enter(&gateway);
        context.tasks.spawn(async move {
            run_feed(sources, request, sender).await;
            drop((permit, guard));
        });
        Ok(Response::new(ReceiverStream::new(receiver)))
    }
}

fn feed_request(
    namespace: NamespaceNumber,
    request: v1::FollowRequest,
) -> Result<FeedRequest, Status> {
    let filter = channel_filter(&request.channels)?;
    let until = match (request.until_now, request.until_cursor.is_empty()) {
        (true, false) => {
            return Err(InvalidField::new("until_cursor", "goes not with until_now").into());
        }
        (true, true) => Until::Now,
        (false, true) => Until::Forever,
        (false, false) => Until::Cursor(cursor(namespace, &request.until_cursor, "until_cursor")?),
    };
    let excluded: BTreeSet<NodeNumber> =
        request.excluded_origins.iter().copied().map(NodeNumber::new).collect();
    Ok(FeedRequest {
        namespace,
        start: start(namespace, request.start)?,
        namespace_name: request.namespace,
        filter,
        excluded,
        until,
    })
}

fn start(
    namespace: NamespaceNumber,
    start: Option<v1::StartPosition>,
) -> Result<StartPosition, Status> {
    if let Some(Position::Cursor(bytes)) = start.as_ref().and_then(|start| start.position.as_ref())
    {
        return Ok(StartPosition::Cursor(cursor(namespace, bytes, "start.cursor")?));
    }
    let start = start_position(start)?;
    if let StartPosition::Last(count) = start
        && count > MAX_LAST_MESSAGES
    {
        let reason = format!("is above {MAX_LAST_MESSAGES}");
        return Err(InvalidField::new("start.last", reason).into());
    }
    Ok(start)
}

fn cursor(namespace: NamespaceNumber, bytes: &[u8], field: &str) -> Result<Cursor, Status> {
    let wrong = |reason: String| {
        let field = InvalidField::new(field, reason);
        Status::from(refusal(Reason::CursorInvalid, field.to_string()).field(field))
    };
    let cursor = Cursor::decode(bytes).map_err(|error| wrong(error.to_string()))?;
    if cursor.namespace() != namespace {
        return Err(wrong("is of another namespace".to_owned()));
    }
    Ok(cursor)
}
