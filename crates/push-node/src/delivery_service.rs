//! `DeliveryService`: one stream per follower, each with a task of its own.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex};

use interlock_core::cursor::Cursor;
use interlock_core::identity::{NamespaceNumber, NodeNumber};
use interlock_core::limits::{
    MAX_EXCLUDED_ORIGINS, MAX_GATEWAY_NAME_BYTES, MAX_LAST_MESSAGES, MAX_START_SEARCHES,
};
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

/// Responses made ahead of a reader; each is at most about a batch.
const RESPONSES_AHEAD: usize = 4;

/// Serves gateways.
#[derive(Clone)]
pub struct DeliveryServer {
    context: Arc<NodeContext>,
    followers: Arc<Semaphore>,
    searches: Arc<Semaphore>,
}

impl DeliveryServer {
    /// Serves at most as many followers as the limits say.
    pub fn new(context: Arc<NodeContext>) -> Self {
        let followers = Arc::new(Semaphore::new(context.config.limits.max_followers));
        Self { context, followers, searches: Arc::new(Semaphore::new(MAX_START_SEARCHES)) }
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
            storage: context.storage.clone(),
            directory: context.directories.namespace(namespace.number),
            channel_segments: context.channel_segments.clone(),
            news: Arc::clone(&context.news),
            metrics: context.metrics.clone(),
            node: context.name().to_string(),
            draining: context.draining.subscribe(),
            searches: Arc::clone(&self.searches),
        };
        let (sender, receiver) = mpsc::channel(RESPONSES_AHEAD);
        let guard = context.gateways.enter(&gateway);
        context.tasks.spawn("a follower's feed", async move {
            run_feed(sources, request, sender).await;
            drop((permit, guard));
        })?;
        Ok(Response::new(ReceiverStream::new(receiver)))
    }
}

fn feed_request(
    namespace: NamespaceNumber,
    request: v1::FollowRequest,
) -> Result<FeedRequest, Status> {
    if request.gateway.len() > MAX_GATEWAY_NAME_BYTES {
        let reason = format!("is longer than {MAX_GATEWAY_NAME_BYTES} bytes");
        return Err(InvalidField::new("gateway", reason).into());
    }
    if request.excluded_origins.len() > MAX_EXCLUDED_ORIGINS {
        let reason = format!("has more than {MAX_EXCLUDED_ORIGINS} entries");
        return Err(InvalidField::new("excluded_origins", reason).into());
    }
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

/// The gateways that follow, by how many streams each has.
#[derive(Clone, Debug, Default)]
pub struct GatewayCount {
    streams: Arc<Mutex<BTreeMap<String, usize>>>,
}

const LOCK: &str = "no holder of the gateway count's lock panics";

impl GatewayCount {
    /// A gateway has one stream more, until the guard is dropped.
    pub fn enter(&self, gateway: &str) -> GatewayGuard {
        let gateway = gateway.to_owned();
        *self.streams.lock().expect(LOCK).entry(gateway.clone()).or_default() += 1;
        GatewayGuard { count: self.clone(), gateway }
    }

    /// How many gateways follow.
    pub fn get(&self) -> u64 {
        self.streams.lock().expect(LOCK).len() as u64
    }
}

/// One stream of a gateway.
#[derive(Debug)]
pub struct GatewayGuard {
    count: GatewayCount,
    gateway: String,
}

impl Drop for GatewayGuard {
    fn drop(&mut self) {
        let mut streams = self.count.streams.lock().expect(LOCK);
        if let Some(left) = streams.get_mut(&self.gateway) {
            *left -= 1;
            if *left == 0 {
                streams.remove(&self.gateway);
            }
        }
    }
}
