//! The way from here to a push-node of a region.
//!
//! A call goes to one node. It goes to the next only if the one before certainly
//! has not acted on it: no connection came about, or the node said that it takes
//! no work. Whatever else goes wrong may have had its effect, and trying again is
//! for the caller to decide.

use std::collections::BTreeMap;
use std::error::Error as _;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use interlock_core::names::{NodeName, RegionName};
use interlock_core::topology::Node;
use interlock_rpc::channel::{ChannelError, EndpointConfig};
use interlock_rpc::services::channel::{Client, client};
use interlock_rpc::status::{PublishOutcome, Reason, Stored, metadata_of, reason_of, refusal};
use interlock_rpc::tls::TlsClientConfig;
use interlock_rpc::trace;
use tokio::time::Instant;
use tonic::transport::Channel;
use tonic::{Code, ConnectError, Request, Status};

use crate::refusals::unknown_region;
use crate::registry::Registry;

/// How long a call may take whose caller set no deadline.
const DEFAULT_DEADLINE: Duration = Duration::from_secs(30);

/// Forwards to push-nodes, over connections that are kept.
pub(crate) struct Forwarder {
    registry: Arc<Registry>,
    tls: Option<TlsClientConfig>,
    /// By address: a node that moves gets another one.
    channels: Mutex<BTreeMap<String, Channel>>,
}

/// Who answered, or was asked last, and what.
#[derive(Debug)]
pub(crate) struct Forwarded<T> {
    pub(crate) node: NodeName,
    pub(crate) answer: Result<T, CallError>,
}

/// How a forwarded call failed.
#[derive(Debug)]
pub(crate) enum CallError {
    /// Nobody acted on it: no node was reached, or each takes no work.
    NotSent(Status),
    /// A node's own answer.
    Answered(Status),
    /// A node was reached and what it answered was lost.
    Lost(Status),
}

/// Nobody can be asked.
#[derive(Debug)]
pub(crate) enum NobodyToAsk {
    UnknownRegion(RegionName),
    NoNode(RegionName),
}

impl From<NobodyToAsk> for Status {
    fn from(error: NobodyToAsk) -> Self {
        match error {
            NobodyToAsk::UnknownRegion(region) => unknown_region(&region).into(),
            NobodyToAsk::NoNode(region) => refusal(
                Reason::NoNodeReachable,
                format!("no active push-node is registered in region {region}"),
            )
            .with("region", region)
            .outcome(&PublishOutcome::not_stored())
            .into(),
        }
    }
}

impl Forwarder {
    pub(crate) fn new(registry: Arc<Registry>, tls: Option<TlsClientConfig>) -> Self {
        Self { registry, tls, channels: Mutex::default() }
    }

    /// Whether there is such a region.
    pub(crate) fn knows(&self, region: &RegionName) -> bool {
        self.registry.topology().regions.contains(region)
    }

    /// Calls one push-node of the region, those with a lease first.
    pub(crate) async fn forward<T, F>(
        &self,
        region: &RegionName,
        call: impl Fn(Client<Channel>) -> F,
    ) -> Result<Forwarded<T>, NobodyToAsk>
    where
        F: Future<Output = Result<T, Status>> + Send,
    {
        let nodes = self
            .registry
            .candidates(region)
            .ok_or_else(|| NobodyToAsk::UnknownRegion(region.clone()))?;
        let mut last = None;
        for node in nodes {
            let answer = match self.channel(&node) {
                Ok(channel) => call(client(channel)).await.map_err(CallError::of),
                Err(error) => Err(CallError::NotSent(Status::unavailable(error.to_string()))),
            };
            let go_on = matches!(answer, Err(CallError::NotSent(_)));
            if let (true, Err(error)) = (go_on, &answer) {
                tracing::warn!(node = %node.name, error = %error.status().message(), "not reached");
            }
            last = Some(Forwarded { node: node.name, answer });
            if !go_on {
                break;
            }
        }
        last.ok_or_else(|| NobodyToAsk::NoNode(region.clone()))
    }

    fn channel(&self, node: &Node) -> Result<Channel, ChannelError> {
        // Whoever panicked while holding it left a map of whole entries.
        let mut channels = self.channels.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(channel) = channels.get(&node.client_address) {
            return Ok(channel.clone());
        }
        let channel = EndpointConfig::new(node.client_address.clone())
            .tls(self.tls.clone())
            .user("control-plane")
            .connect_lazy()?;
        // Connections to where no node is any more are closed.
        let topology = self.registry.topology();
        channels
            .retain(|address, _| topology.nodes.iter().any(|node| node.client_address == *address));
        channels.insert(node.client_address.clone(), channel.clone());
        Ok(channel)
    }
}

impl CallError {
    fn of(status: Status) -> Self {
        if was_never_sent(&status) {
            return Self::NotSent(status);
        }
        let status = without_headers(status);
        let takes_no_work = matches!(
            reason_of(&status),
            Some(Reason::Starting | Reason::Draining | Reason::Backfilling)
        );
        // A node that drains may still tell of an edit that it has stored.
        let not_stored = metadata_of(&status, "stored").is_none_or(|stored| stored == "no");
        match status.code() {
            _ if takes_no_work && not_stored => Self::NotSent(status),
            _ if reason_of(&status).is_some() => Self::Answered(status),
            Code::Unavailable
            | Code::Unknown
            | Code::Internal
            | Code::Cancelled
            | Code::DeadlineExceeded
            | Code::Aborted => Self::Lost(status),
            _ => Self::Answered(status),
        }
    }

    /// What the node, or the way to it, said.
    pub(crate) fn status(&self) -> &Status {
        match self {
            Self::NotSent(status) | Self::Answered(status) | Self::Lost(status) => status,
        }
    }

    /// Whether the call has had its effect.
    pub(crate) fn stored(&self) -> Stored {
        match self {
            Self::NotSent(_) => Stored::No,
            Self::Answered(status) => PublishOutcome::of(status, false).stored,
            Self::Lost(_) => Stored::Unknown,
        }
    }

    /// What the caller is told, who does not know the node.
    pub(crate) fn into_status(self, node: &NodeName) -> Status {
        match self {
            Self::NotSent(status) if reason_of(&status).is_some() => status,
            Self::NotSent(status) => refusal(
                Reason::NoNodeReachable,
                format!(
                    "no push-node was reached, the last tried was {node}: {}",
                    status.message()
                ),
            )
            .with("node", node)
            .outcome(&PublishOutcome::not_stored())
            .into(),
            Self::Answered(status) => status,
            Self::Lost(status) => Status::new(
                status.code(),
                format!("the answer of push-node {node} was lost: {}", status.message()),
            ),
        }
    }
}

/// No connection came about, so nobody has seen the call.
fn was_never_sent(status: &Status) -> bool {
    let mut source = status.source();
    while let Some(error) = source {
        if error.is::<ConnectError>() {
            return true;
        }
        source = error.source();
    }
    false
}

/// The status alone: the headers it came with belong to the other connection.
fn without_headers(status: Status) -> Status {
    Status::with_details(
        status.code(),
        status.message().to_owned(),
        bytes::Bytes::copy_from_slice(status.details()),
    )
}

/// When a call that is forwarded must have ended: early enough for the caller to
/// hear of it.
pub(crate) fn deadline_for<T>(request: &Request<T>) -> Instant {
    let now = Instant::now();
    match interlock_rpc::server::deadline_of(request) {
        Some(deadline) => {
            let left = deadline.saturating_duration_since(now);
            now + left - (left / 10).min(Duration::from_millis(200))
        }
        None => now + DEFAULT_DEADLINE,
    }
}

/// The request as it goes on, with the trace it belongs to. Without a deadline
/// it goes on for as long as its caller listens.
pub(crate) fn outgoing<T>(message: T, deadline: Option<Instant>) -> Request<T> {
    let mut request = Request::new(message);
    if let Some(deadline) = deadline {
        request.set_timeout(deadline.saturating_duration_since(Instant::now()));
    }
    trace::inject(&mut request);
    request
}

#[cfg(test)]
mod tests {
    use super::*;

    fn told(reason: Reason, outcome: Option<PublishOutcome>) -> Status {
        let refusal = refusal(reason, "no");
        match outcome {
            Some(outcome) => refusal.outcome(&outcome).into(),
            None => refusal.into(),
        }
    }

    /// A call goes to another node only if nobody can have acted on it.
    #[test]
    fn only_what_nobody_acted_on_is_sent_again() {
        for reason in [Reason::Starting, Reason::Draining, Reason::Backfilling] {
            let error = CallError::of(told(reason, None));
            assert!(matches!(error, CallError::NotSent(_)), "{error:?}");
            assert_eq!(error.stored(), Stored::No);
        }
        let not_stored = CallError::of(told(Reason::Draining, Some(PublishOutcome::not_stored())));
        assert!(matches!(not_stored, CallError::NotSent(_)));

        for outcome in
            [PublishOutcome::stored(vec!["eu-1".into()], false), PublishOutcome::unknown(false)]
        {
            let error = CallError::of(told(Reason::Draining, Some(outcome.clone())));
            assert!(matches!(error, CallError::Answered(_)), "{error:?}");
            assert_eq!(error.stored(), outcome.stored);
        }
        for status in [
            Status::unavailable("broken pipe"),
            Status::unknown("h2"),
            Status::internal("h2"),
            Status::cancelled("reset"),
            Status::deadline_exceeded("late"),
        ] {
            let error = CallError::of(status);
            assert!(matches!(error, CallError::Lost(_)), "{error:?}");
            assert_eq!(error.stored(), Stored::Unknown);
        }
    }

    #[test]
    fn a_nodes_own_answer_is_handed_on() {
        for reason in [Reason::UnknownChannel, Reason::ChannelExists, Reason::StaleEdit] {
            let error = CallError::of(told(reason, Some(PublishOutcome::not_stored())));
            assert!(matches!(error, CallError::Answered(_)), "{error:?}");
            assert_eq!(error.stored(), Stored::No);
            let node = NodeName::parse("eu-1").expect("a good name");
            assert_eq!(reason_of(&error.into_status(&node)), Some(reason));
        }
        let late = CallError::of(told(
            Reason::DurabilityTimeout,
            Some(PublishOutcome::stored(vec!["eu-1".into()], false)),
        ));
        assert_eq!(late.stored(), Stored::Yes);
    }

    #[tokio::test]
    async fn a_port_where_nobody_listens_was_never_sent_anything() {
        let free = std::net::TcpListener::bind("127.0.0.1:0").expect("a free port");
        let address = free.local_addr().expect("is bound").to_string();
        drop(free);
        let channel = EndpointConfig::new(address).connect_lazy().expect("an address");
        let status = client(channel)
            .get_channel(interlock_rpc::v1::GetChannelRequest::default())
            .await
            .expect_err("nobody listens");
        assert!(matches!(CallError::of(status), CallError::NotSent(_)));
    }
}
