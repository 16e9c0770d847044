//! Several addresses of one kind of service: one in use, the next when it cannot
//! be reached.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use interlock_rpc::channel::{ChannelError, EndpointConfig};
use interlock_rpc::tls::TlsClientConfig;
use tonic::transport::Channel;

/// The largest window there is: a subscription that its reader leaves alone must
/// not use up what other calls over the same connection need.
const CONNECTION_WINDOW_BYTES: u32 = (1 << 31) - 1;

/// Addresses with their connections, which are made when first used. Cloning
/// shares them.
#[derive(Clone, Debug)]
pub struct Addresses {
    channels: Arc<Vec<(String, Channel)>>,
    current: Arc<AtomicUsize>,
}

impl Addresses {
    /// Prepares connections to all. To be called inside a Tokio runtime.
    pub fn new(addresses: &[String], tls: Option<&TlsClientConfig>) -> Result<Self, ChannelError> {
        let channels = addresses
            .iter()
            .map(|address| {
                let endpoint = EndpointConfig {
                    connection_window_bytes: CONNECTION_WINDOW_BYTES,
                    ..EndpointConfig::bulk(address.clone()).tls(tls.cloned()).user("client")
                };
                Ok((address.clone(), endpoint.connect_lazy()?))
            })
            .collect::<Result<Vec<_>, ChannelError>>()?;
        Ok(Self { channels: Arc::new(channels), current: Arc::default() })
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.channels.is_empty()
    }

    /// All of them.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &Channel)> {
        self.channels.iter().map(|(address, channel)| (address.as_str(), channel))
    }

    /// The connection in use.
    pub fn current(&self) -> Option<Channel> {
        let index = self.current.load(Ordering::Relaxed) % self.channels.len().max(1);
        self.channels.get(index).map(|(_, channel)| channel.clone())
    }

    /// Uses the next address from now on.
    pub fn next(&self) {
        self.current.fetch_add(1, Ordering::Relaxed);
    }
}
