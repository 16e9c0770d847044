//! Connections to other services: lazy, kept alive, with windows fit for their
//! work. A lazy channel connects at the next call; how long to wait between
//! calls that fail is the caller's [`Backoff`].

use std::time::Duration;

use interlock_core::limits::{BULK_WINDOW_BYTES, CALL_WINDOW_BYTES};
use tonic::transport::{Channel, Endpoint};

use crate::tls::{TlsClientConfig, TlsError};

/// As long as one region's links may need, and short enough to try another node.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// Between pings on a connection that is silent.
const KEEPALIVE_INTERVAL: Duration = Duration::from_secs(20);
/// After which an unanswered ping ends the connection.
const KEEPALIVE_TIMEOUT: Duration = Duration::from_secs(10);

/// How to reach a service.
#[derive(Clone, Debug)]
pub struct EndpointConfig {
    /// `host:port`, or a URI with `http://` or `https://`.
    pub address: String,
    /// Trust and identity; without it the connection is in the clear.
    pub tls: Option<TlsClientConfig>,
    /// How long a connection may take to come about.
    pub connect_timeout: Duration,
    /// Between pings on a silent connection.
    pub keepalive_interval: Duration,
    /// How long a ping may go unanswered.
    pub keepalive_timeout: Duration,
    /// Unread bytes that one stream may have.
    pub stream_window_bytes: u32,
    /// Unread bytes that all streams together may have.
    pub connection_window_bytes: u32,
    /// Who calls, as `interlock-push-node/0.1.0`.
    pub user_agent: String,
}

/// Why there can be no channel; connecting itself comes later.
#[derive(Debug, thiserror::Error)]
pub enum ChannelError {
    /// The address is no URI, or the user agent no header.
    #[error("address {address:?}: {source}")]
    Address {
        /// What was given.
        address: String,
        /// What is wrong with it.
        source: tonic::transport::Error,
    },
    /// TLS cannot be set up.
    #[error(transparent)]
    Tls(#[from] TlsError),
}

impl EndpointConfig {
    /// For single calls and small streams.
    pub fn new(address: impl Into<String>) -> Self {
        Self {
            address: address.into(),
            tls: None,
            connect_timeout: CONNECT_TIMEOUT,
            keepalive_interval: KEEPALIVE_INTERVAL,
            keepalive_timeout: KEEPALIVE_TIMEOUT,
            stream_window_bytes: CALL_WINDOW_BYTES,
            connection_window_bytes: 2 * CALL_WINDOW_BYTES,
            user_agent: concat!("interlock/", env!("CARGO_PKG_VERSION")).to_owned(),
        }
    }

    /// For replication, delivery and pipelined publishing: windows that keep a
    /// long link full.
    pub fn bulk(address: impl Into<String>) -> Self {
        Self {
            stream_window_bytes: BULK_WINDOW_BYTES,
            connection_window_bytes: 2 * BULK_WINDOW_BYTES,
            ..Self::new(address)
        }
    }

    /// With this trust and identity.
    pub fn tls(mut self, tls: Option<TlsClientConfig>) -> Self {
        self.tls = tls;
        self
    }

    /// Said by `who`, as in `push-node`.
    pub fn user(mut self, who: &str) -> Self {
        self.user_agent = format!("interlock-{who}/{}", env!("CARGO_PKG_VERSION"));
        self
    }

    /// A channel that connects when it is first used, and again after a loss.
    /// To be called inside a Tokio runtime.
    pub fn connect_lazy(&self) -> Result<Channel, ChannelError> {
        Ok(self.endpoint()?.connect_lazy())
    }

    /// A channel that is connected already, for callers that want to know now.
    pub async fn connect(&self) -> Result<Channel, ConnectError> {
        Ok(self.endpoint()?.connect().await?)
    }

    fn endpoint(&self) -> Result<Endpoint, ChannelError> {
        let wrong = |source| ChannelError::Address { address: self.address.clone(), source };
        let mut endpoint = Endpoint::from_shared(self.uri())
            .map_err(wrong)?
            .user_agent(self.user_agent.clone())
            .map_err(wrong)?
            .connect_timeout(self.connect_timeout)
            .tcp_nodelay(true)
            .http2_keep_alive_interval(self.keepalive_interval)
            .keep_alive_timeout(self.keepalive_timeout)
            .keep_alive_while_idle(true)
            .initial_stream_window_size(self.stream_window_bytes)
            .initial_connection_window_size(self.connection_window_bytes);
        if let Some(tls) = &self.tls {
            endpoint = endpoint.tls_config(tls.load()?).map_err(TlsError::Invalid)?;
        }
        Ok(endpoint)
    }

    fn uri(&self) -> String {
        match (self.address.contains("://"), self.tls.is_some()) {
            (true, _) => self.address.clone(),
            (false, false) => format!("http://{}", self.address),
            (false, true) => format!("https://{}", self.address),
        }
    }
}

/// Why an eager connection did not come about.
#[derive(Debug, thiserror::Error)]
pub enum ConnectError {
    /// The configuration is wrong: a retry does not help.
    #[error(transparent)]
    Channel(#[from] ChannelError),
    /// Nobody answers: a retry may help.
    #[error("cannot connect: {0}")]
    Connect(#[from] tonic::transport::Error),
}

/// How long to wait before the next attempt: doubling from `least` to `most`,
/// each time a random part of at least half of it, so that many callers who
/// lost the same peer do not come back at once.
#[derive(Clone, Debug)]
pub struct Backoff {
    least: Duration,
    most: Duration,
    attempt: u32,
    random: u64,
}

impl Backoff {
    /// Random from `seed`, which should differ between callers.
    pub const fn new(least: Duration, most: Duration, seed: u64) -> Self {
        Self { least, most, attempt: 0, random: seed }
    }

    /// For connections between nodes: from 100 ms to 10 s.
    pub const fn reconnect(seed: u64) -> Self {
        Self::new(Duration::from_millis(100), Duration::from_secs(10), seed)
    }

    /// After a success the next failure waits little again.
    pub const fn reset(&mut self) {
        self.attempt = 0;
    }

    /// How long to wait now.
    pub fn next_delay(&mut self) -> Duration {
        let full = self.least.saturating_mul(1 << self.attempt.min(20)).min(self.most);
        self.attempt = self.attempt.saturating_add(1);
        // SplitMix64: plain, and good enough to spread callers.
        self.random = self.random.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut bits = self.random;
        bits = (bits ^ (bits >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        bits = (bits ^ (bits >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        bits ^= bits >> 31;
        full.mul_f64(0.5 + 0.5 * ((bits >> 11) as f64 / (1_u64 << 53) as f64))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn backoff_doubles_up_to_its_bound_and_starts_again() {
        let (least, most) = (Duration::from_millis(100), Duration::from_secs(1));
        let mut backoff = Backoff::new(least, most, 7);
        for attempt in 0..40 {
            let full = least.saturating_mul(1 << attempt.min(20)).min(most);
            let delay = backoff.next_delay();
            assert!(delay >= full / 2 && delay <= full, "{attempt}: {delay:?} of {full:?}");
        }
        backoff.reset();
        assert!(backoff.next_delay() <= least);
        let mut other = Backoff::new(least, most, 8);
        assert_ne!(Backoff::new(least, most, 7).next_delay(), other.next_delay());
    }

    #[test]
    fn the_scheme_follows_tls() {
        let plain = EndpointConfig::new("north-0:7000");
        assert_eq!(plain.uri(), "http://north-0:7000");
        let tls = TlsClientConfig {
            ca: "ca.pem".into(),
            certificate: None,
            private_key: None,
            domain: None,
        };
        assert_eq!(plain.clone().tls(Some(tls)).uri(), "https://north-0:7000");
        assert_eq!(EndpointConfig::new("http://north-0:7000").uri(), "http://north-0:7000");
    }

    #[tokio::test]
    async fn an_address_that_is_none_is_named() {
        let error = EndpointConfig::new("no host").connect_lazy().expect_err("not a URI");
        assert!(error.to_string().contains("no host"), "{error}");
    }
}
