//! `control-plane health`: asks a running control-plane whether it serves, for
//! containers that have no other tool inside.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::time::Duration;

use anyhow::{Context as _, bail};
use interlock_rpc::channel::EndpointConfig;
use interlock_rpc::tls::TlsClientConfig;
use tonic_health::pb::HealthCheckRequest;
use tonic_health::pb::health_check_response::ServingStatus;
use tonic_health::pb::health_client::HealthClient;

/// Asks `grpc.health.v1` at `address`; an error says why it is not serving.
pub async fn check(
    address: SocketAddr,
    tls: Option<TlsClientConfig>,
    timeout: Duration,
) -> anyhow::Result<()> {
    let address = reachable(address);
    let asked = async {
        let channel = EndpointConfig::new(address.to_string()).tls(tls).connect().await?;
        let response = HealthClient::new(channel).check(HealthCheckRequest::default()).await?;
        anyhow::Ok(response.into_inner().status())
    };
    let status = tokio::time::timeout(timeout, asked)
        .await
        .with_context(|| format!("{address} did not answer within {timeout:?}"))?
        .with_context(|| format!("asking {address}"))?;
    if status != ServingStatus::Serving {
        bail!("{address} answers {}", status.as_str_name());
    }
    Ok(())
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
