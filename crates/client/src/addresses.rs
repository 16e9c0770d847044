//! Several addresses of one kind of service: one in use, the next when it cannot
//! be reached.

use std::sync::Arc;

use interlock_rpc::channel::{ChannelError, EndpointConfig};
use interlock_rpc::tls::TlsClientConfig;
use tonic::transport::Channel;

/// The largest window there is: a subscription that its reader leaves alone must
/// not use up what other calls over the same connection need.
const CONNECTION_WINDOW_BYTES: u32 = (1 << 31) - 1;

/// Addresses with their connections, which are made when first used. Clones share
/// the connections; which address is in use is for each of them to know: one that
/// leaves a node takes nobody along, whose session may be there.
#[derive(Clone, Debug)]
pub struct Addresses {
    channels: Arc<Vec<(String, Channel)>>,
    tls: Option<TlsClientConfig>,
    current: usize,
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
        Ok(Self { channels: Arc::new(channels), tls: tls.cloned(), current: 0 })
    }

    /// The same addresses with connections of their own: one connection is one
    /// task here and one there, and carries no more than these can do.
    pub fn separate(&self) -> Result<Self, ChannelError> {
        let addresses: Vec<String> = self.iter().map(|(address, _)| address.to_owned()).collect();
        Self::new(&addresses, self.tls.as_ref())
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
        self.channels.get(self.current).map(|(_, channel)| channel.clone())
    }

    /// The address in use.
    pub fn current_address(&self) -> Option<&str> {
        self.channels.get(self.current).map(|(address, _)| address.as_str())
    }

    /// Leaves the address in use for the next one.
    pub fn leave_current(&mut self) {
        self.current = (self.current + 1) % self.channels.len().max(1);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn one_that_leaves_an_address_takes_nobody_along() {
        let listed = ["http://a:1", "http://b:1"].map(str::to_owned);
        let shared = Addresses::new(&listed, None).expect("addresses");
        let (mut first, mut second) = (shared.clone(), shared.clone());
        first.leave_current();
        assert_eq!(first.current_address(), Some("http://b:1"));
        assert_eq!(second.current_address(), Some("http://a:1"));
        // Two that lose the same node both leave it, and neither comes back to it.
        second.leave_current();
        assert_eq!(second.current_address(), Some("http://b:1"));
        first.leave_current();
        assert_eq!(first.current_address(), Some("http://a:1"));
        let mut none = Addresses::new(&[], None).expect("no addresses");
        none.leave_current();
        assert!(none.current().is_none());
    }
}
