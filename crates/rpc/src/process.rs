//! What the processes of all services have in common: when they end, how they ask
//! another for its health, and how they say why they could not start.

use std::error::Error;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::PathBuf;
use std::time::Duration;

use clap::Args;
use tokio::signal::unix::{Signal, SignalKind, signal};

use crate::channel::EndpointConfig;
use crate::health::{HealthError, check};
use crate::tls::TlsClientConfig;

/// What asks a process to end: Ctrl-C, and what init systems send.
#[derive(Debug)]
pub struct StopSignals {
    interrupt: Signal,
    terminate: Signal,
}

impl StopSignals {
    /// Signals count from here on.
    pub fn new() -> std::io::Result<Self> {
        Ok(Self {
            interrupt: signal(SignalKind::interrupt())?,
            terminate: signal(SignalKind::terminate())?,
        })
    }

    /// Waits for the next one.
    pub async fn received(&mut self) {
        tokio::select! {
            _ = self.interrupt.recv() => {}
            _ = self.terminate.recv() => {}
        }
    }
}

/// The flags of `health`, the subcommand that containers ask with.
#[derive(Args, Clone, Debug)]
pub struct HealthArguments {
    /// Where it listens; where the configuration says, if absent.
    #[arg(long, value_name = "ADDRESS")]
    pub address: Option<String>,
    /// Who signed its certificate; without it the connection is in the clear.
    #[arg(long, value_name = "FILE")]
    pub ca: Option<PathBuf>,
    /// The certificate to show.
    #[arg(long, value_name = "FILE", requires = "ca")]
    pub certificate: Option<PathBuf>,
    /// Its private key.
    #[arg(long, value_name = "FILE", requires = "ca")]
    pub private_key: Option<PathBuf>,
    /// The name in the server's certificate.
    #[arg(long, requires = "ca")]
    pub domain: Option<String>,
    /// How long to wait.
    #[arg(long, default_value_t = 5, value_name = "SECONDS")]
    pub timeout_seconds: u64,
}

/// Why a service does not count as healthy.
#[derive(Debug, thiserror::Error)]
#[error("{address}: {cause}")]
pub struct Unhealthy {
    address: String,
    cause: UnhealthyCause,
}

#[derive(Debug, thiserror::Error)]
enum UnhealthyCause {
    #[error("no answer within {0} s")]
    NoAnswer(u64),
    #[error("{}", explained(.0))]
    Health(HealthError),
}

impl HealthArguments {
    /// Asks the service at the address, or else at `configured`.
    pub async fn ask(self, configured: SocketAddr) -> Result<(), Unhealthy> {
        let Self { address, ca, certificate, private_key, domain, timeout_seconds } = self;
        let address = address.unwrap_or_else(|| reachable(configured).to_string());
        let tls = ca.map(|ca| TlsClientConfig { ca, certificate, private_key, domain });
        let endpoint = EndpointConfig::new(address.clone()).tls(tls);
        let timeout = Duration::from_secs(timeout_seconds);
        let cause = match tokio::time::timeout(timeout, check(&endpoint)).await {
            Ok(Ok(())) => return Ok(()),
            Ok(Err(error)) => UnhealthyCause::Health(error),
            Err(_) => UnhealthyCause::NoAnswer(timeout_seconds),
        };
        Err(Unhealthy { address, cause })
    }
}

/// A server that listens at every address is asked at the loopback one.
fn reachable(address: SocketAddr) -> SocketAddr {
    let ip = match address.ip() {
        IpAddr::V4(ip) if ip.is_unspecified() => IpAddr::V4(Ipv4Addr::LOCALHOST),
        IpAddr::V6(ip) if ip.is_unspecified() => IpAddr::V6(Ipv6Addr::LOCALHOST),
        ip => ip,
    };
    SocketAddr::new(ip, address.port())
}

/// An error with its causes, each said once: many repeat the one below.
pub fn explained(error: &dyn Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        let said = error.to_string();
        if !text.contains(said.trim_end()) {
            text = format!("{text}: {said}");
        }
        cause = error.source();
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug, thiserror::Error)]
    #[error("{text}")]
    struct Layer {
        text: &'static str,
        source: Option<Box<Layer>>,
    }

    #[test]
    fn every_cause_is_said_once() {
        let refused = Layer { text: "connection refused", source: None };
        let transport =
            Layer { text: "transport error: connection refused", source: Some(refused.into()) };
        let asking = Layer { text: "asking 127.0.0.1:1", source: Some(transport.into()) };
        assert_eq!(explained(&asking), "asking 127.0.0.1:1: transport error: connection refused");
    }

    #[tokio::test]
    async fn a_port_where_nobody_listens_is_named() {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("a free port");
        let port = listener.local_addr().expect("bound").port();
        drop(listener);
        let arguments = HealthArguments {
            address: None,
            ca: None,
            certificate: None,
            private_key: None,
            domain: None,
            timeout_seconds: 5,
        };
        let everywhere = SocketAddr::from(([0, 0, 0, 0], port));
        let text = arguments.ask(everywhere).await.expect_err("nobody is there").to_string();
        assert!(text.starts_with(&format!("127.0.0.1:{port}: ")), "{text}");
    }
}
